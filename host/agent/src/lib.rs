//! The loop: a pure turn machine, the driver that gives it effects, and the calls it makes.
//!
//! [`machine`] decides, [`host`] is what the layers above use. Everything that happens in a turn is in the journal before it
//! counts; nothing about a turn lives only in memory.
#![forbid(unsafe_code)]

pub mod budgets;
mod callable;
pub mod callbacks;
pub mod caller;
pub mod catalog;
mod chains;
pub mod changes;
pub mod client_tools;
mod compaction;
mod context;
mod control;
mod drain;
mod driver;
mod excerpt;
pub mod fork;
pub mod history;
mod hooks;
pub mod host;
pub mod hub;
mod inner_calls;
pub mod install;
pub mod jobs;
pub mod limits;
pub mod machine;
pub mod models;
mod narrowings;
mod outside;
mod ports;
mod recorder;
pub mod recording;
mod redact;
mod reins;
pub mod replay;
mod retry;
pub mod schema;
mod secrets;
mod signed;
pub mod skills;
mod standing;
mod submit;
mod telemetry;
mod tokens;
pub mod tools;
mod toolset;
pub mod transcript;
pub mod view;
mod worked;

/// What [`host::Host::guard`] gives.
pub use fumehood_egress::LeakGuard;
pub use ports::StoreLedger;
