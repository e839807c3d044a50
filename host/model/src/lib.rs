//! Model providers behind one streaming chat-with-tools interface.
//!
//! A [`Provider`] turns a [`ModelRequest`] into a stream of [`ModelEvent`]s. Whatever the wire, the stream keeps
//! these promises:
//!
//! * [`ModelEvent::Done`] comes exactly once and last. A stream that ends without the provider's own terminal
//!   marker yields [`ModelErrorKind::Incomplete`], never success; after an error nothing follows.
//! * Every [`ModelEvent::ToolCallStart`] has an index of its own, counted from 0, and exactly one
//!   [`ModelEvent::ToolCallEnd`] before `Done`.
//! * Nothing grows without bound: lines, events, answers and error bodies have caps, and every wait has a timeout.
//! * Dropping the stream closes the connection. No task outlives it.
//! * A provider's error text never reaches a public message; it is kept apart, capped and without the key, for the log.
//!
//! What it does not do: retry (the caller owns the schedule, [`ModelError::is_retryable`] and
//! [`ModelError::retry_after`] say what is known), repair transcripts, count money, or run tools.
//!
//! # Building one
//!
//! ```
//! use fumehood_model::{ModelConfig, build};
//!
//! let config: ModelConfig = serde_json::from_str(r#"{"provider": "scripted"}"#)?;
//! let provider = build(&config, &|name| std::env::var(name).ok().map(Into::into))?;
//! assert_eq!(provider.describe().model, "scripted");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The network
//!
//! Providers are chosen by the operator, not by a tenant, so they are reached directly and not through the egress
//! door. Redirects are never followed: a key is sent to the configured host or nowhere. The proxy variables of the
//! environment are honoured, as operators expect, except for a loopback base URL. Plain `http://` is taken only for
//! hosts that are not public names (see [`ModelConfig::base_url`]).
#![forbid(unsafe_code)]

mod assemble;
mod config;
mod error;
mod event;
mod fallback;
mod http;
mod media;
mod request;
pub mod scripted;
mod sse;
mod windows;
mod wire;

pub use assemble::{Assembler, Step};
pub use config::{
    DEFAULT_RETRIES, MOST_RETRIES, ModelConfig, ModelConfigError, OpenAiWire, ProviderKind, ReasoningEffort,
    SecretLookup, build,
};
pub use error::{ModelError, ModelErrorKind};
pub use event::{ModelEvent, ModelInfo, ModelStream, Provider};
pub use fallback::{FallbackError, resolve_fallbacks};
pub use request::{ModelRequest, ParallelToolCalls, ToolChoice};
