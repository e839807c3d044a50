//! What a model is asked.

use fumehood_core::{
    message::{AssistantPart, Message},
    tool::ToolDefinition,
};
use std::sync::Arc;

/// One model call: instructions, transcript, and the tools on offer.
///
/// The transcript must be well-formed: every requested call of an assistant message has its result before the next
/// assistant message. What a wire cannot carry (audio on most, workspace files) is shown to the model as a short text in its
/// place.
#[derive(Debug, Clone, Default)]
pub struct ModelRequest {
    /// The instructions. Keep them stable between steps: providers cache by prefix.
    pub system: String,
    /// The transcript, oldest first.
    pub messages: Arc<Vec<Message>>,
    /// The tools on offer. Empty means that the model can ask for none.
    pub tools: Arc<[ToolDefinition]>,
    /// Whether the model may use them.
    pub tool_choice: ToolChoice,
    /// Whether it may ask for several at once.
    pub parallel_tool_calls: ParallelToolCalls,
    /// The most tokens of answer, reasoning included. The smaller of this and the configured one is sent.
    pub max_output_tokens: Option<u32>,
    /// Sampling temperature. Absent leaves the provider's default; some models refuse any.
    pub temperature: Option<f64>,
    /// The same for all steps of a session, so that a provider can route them to a warm cache. No secret.
    pub cache_key: Option<String>,
}

impl ModelRequest {
    /// The same without the opaque state of past reasoning.
    pub(crate) fn without_state(&self) -> Self {
        let mut request = self.clone();
        for message in Arc::make_mut(&mut request.messages) {
            let Message::Assistant { parts } = message else {
                continue;
            };
            for part in parts {
                if let AssistantPart::Reasoning { provider_state, .. } = part {
                    *provider_state = None;
                }
            }
        }
        request
    }
}

/// Whether the model may ask for tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// As it sees fit.
    #[default]
    Auto,
    /// It sees them but may not ask. Unlike an empty list this keeps the provider's prompt cache.
    None,
}

/// Whether the model may ask for several tools in one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ParallelToolCalls {
    /// As many as it likes.
    #[default]
    Allowed,
    /// One per answer, where the provider has such a switch.
    OneAtATime,
}
