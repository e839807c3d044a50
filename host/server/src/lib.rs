//! HTTP: sessions, turns, events, files, secrets and tools of an org, for whoever holds one of its keys.
//!
//! A handler takes a request apart, asks the host and shapes the answer; it decides nothing. What is refused is refused with a
//! problem document whose code is in [`ProblemCode::CATALOGUE`]. The description of the API is made of the handlers: [`openapi`].
#![forbid(unsafe_code)]

mod app;
mod auth;
mod body;
mod config;
mod connections;
mod feed;
mod idempotency;
mod input;
mod observe;
mod openapi;
mod problem;
mod refusal;
mod routes;
mod schema;
mod serve;
mod signatures;
mod socket;
mod sse;
mod telemetry;
mod ws;

pub use auth::KeyCache;
pub use config::ServerConfig;
pub use openapi::{openapi, router};
pub use problem::{ProblemCode, ProblemKind};
pub use serve::serve;
pub use signatures::{ComponentSignature, SignatureCheck, SignedBytes};
pub use telemetry::{AdoptTrace, Metrics, MetricsAccess, MetricsError, MetricsPage};
