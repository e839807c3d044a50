//! The wires: how a request is written and an answer read, one file each. Pure; the network is in [`crate::http`].

pub(crate) mod anthropic;
pub(crate) mod chat;
pub(crate) mod fault;
pub(crate) mod responses;
mod shared;
mod sink;

pub(crate) use sink::Sink;

use crate::{error::ModelError, request::ModelRequest};
use fault::Fault;
use http::{HeaderMap, HeaderName};
use serde_json::Value;

/// How to talk to one kind of provider.
pub(crate) trait Wire: Send + Sync {
    /// What is appended to the path of the base URL.
    fn path(&self, base_path: &str) -> &'static str;

    /// The header that carries the key, and what stands before the key in it.
    fn key_header(&self) -> (HeaderName, &'static str);

    /// Headers that every request has.
    fn headers(&self) -> HeaderMap {
        HeaderMap::new()
    }

    /// The body of a request.
    fn body(&self, request: &ModelRequest) -> Value;

    /// The body of the same request without what models need back of their reasoning, which the provider refuses.
    fn body_without_state(&self, request: &ModelRequest) -> Value {
        self.body(&request.without_state())
    }

    /// A reader for one answer.
    fn parser(&self) -> Box<dyn Parser>;

    /// Whether the next body will leave out what the provider has just refused of this one. Remembered for the provider's life;
    /// never true of a body that has left out all that can be.
    fn adapts_to(&self, _refusal: &Fault, _sent: &Value) -> bool {
        false
    }
}

/// Reads the events of one answer.
pub(crate) trait Parser: Send {
    /// Takes the next event; what it means goes to the sink.
    fn event(&mut self, name: &str, data: &str, sink: &mut Sink) -> Result<(), ModelError>;
}

#[cfg(test)]
mod tests;
