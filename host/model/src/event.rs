//! What a provider is, and what it streams.

use crate::{config::ProviderKind, error::ModelError, request::ModelRequest};
use async_trait::async_trait;
use fumehood_core::turn::{StepStop, Usage};
use futures::stream::BoxStream;
use serde_json::Value;

/// A model behind its provider's wire.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Sends the request and returns the answer as it comes.
    ///
    /// Resolves when the provider has accepted the request (its response headers are there), so that a refusal
    /// with its retry hint is this method's error. Cancel-safe: dropping the future or the stream closes the
    /// connection; the provider may still count the tokens.
    ///
    /// # Errors
    /// When the provider can't be reached, refuses, or does not answer within the first-byte timeout.
    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError>;

    /// Which model this is.
    fn describe(&self) -> ModelInfo;
}

/// The events of one answer; see the crate's promises on order and end.
pub type ModelStream = BoxStream<'static, Result<ModelEvent, ModelError>>;

/// One event of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelEvent {
    /// More visible text; never empty.
    TextDelta(String),
    /// More reasoning that may be shown; never empty.
    ReasoningDelta(String),
    /// One block of reasoning is whole. May come without any delta, and after tool calls: it then stands for a
    /// reasoning part with empty text, which must be kept for its state.
    ReasoningDone {
        /// What the provider needs back unchanged in later requests. Opaque; may be large.
        provider_state: Option<Value>,
    },
    /// The model asks for a tool.
    ToolCallStart {
        /// Counted from 0 within the answer; the order of the calls.
        index: usize,
        /// The name the model used; unchecked.
        name: String,
    },
    /// More of a call's arguments; never empty.
    ToolCallArguments {
        /// Which call.
        index: usize,
        /// A piece of JSON text, cut anywhere.
        delta: String,
    },
    /// A call's arguments are whole. Their text may still not be JSON.
    ToolCallEnd {
        /// Which call.
        index: usize,
    },
    /// What the provider counted so far. A later one replaces an earlier one.
    Usage(Usage),
    /// The answer is whole. Always last, exactly once.
    Done {
        /// Why the model stopped.
        stop: StepStop,
    },
}

/// Which model a provider is; safe to show and log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// The provider.
    pub provider: ProviderKind,
    /// The model's name at the provider.
    pub model: String,
    /// How many tokens it takes, if that is known.
    pub context_window: Option<u64>,
}
