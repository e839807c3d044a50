//! Counting a conversation with its model's own tokenizer, on a thread where nobody waits.

use crate::tokens::Counter;
use fumehood_core::{message::Message, tool::ToolDefinition};
use std::sync::Arc;

/// What is to be counted.
pub(crate) struct Counting {
    /// The model's name at its provider.
    pub(crate) model: String,
    /// Instructions and tools, unless they were counted before.
    pub(crate) fixed: Option<(String, Arc<[ToolDefinition]>)>,
    pub(crate) messages: Arc<Vec<Message>>,
    /// The first of them that was not counted before.
    pub(crate) from: usize,
}

/// What was counted.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Instructions and tools, where they were to be counted.
    pub(super) fixed: Option<u64>,
    /// Which message the first of [`Self::messages`] is.
    pub(super) from: usize,
    pub(super) messages: Vec<u64>,
}

impl Counting {
    /// Counts; `None` if nobody knows how the model does. Cancel-safe: what was begun is finished and forgotten.
    pub(crate) async fn count(self) -> Option<Counted> {
        // THREAT[T-loop-context]: a tokenizer takes its time with what a stranger wrote.
        let counting = tokio::task::spawn_blocking(move || {
            let counter = Counter::of(&self.model)?;
            Some(Counted {
                fixed: self
                    .fixed
                    .map(|(system, tools)| counter.text(&system) + counter.tools(&tools)),
                from: self.from,
                messages: self
                    .messages
                    .iter()
                    .skip(self.from)
                    .map(|message| counter.message(message))
                    .collect(),
            })
        });
        counting
            .await
            .inspect_err(|error| tracing::error!(%error, "counting a conversation broke; it is estimated"))
            .ok()
            .flatten()
    }
}
