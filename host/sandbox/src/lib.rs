//! Runs one call of one WebAssembly component under limits. The only crate that knows wasmtime.
//!
//! What it promises: a component is loaded by digest and compiled once; every call runs in a fresh
//! store and instance, with its own limits; linking an interface gives no authority; whatever the
//! guest does, the call ends in a [`CallReport`]; dropping a call's future stops the guest at once;
//! no guest blocks an executor thread, and calls of one [`ShareKey`] do not crowd out those of another.
//!
//! What it does not: it decides no policy (it is handed an effective
//! [`Authority`](fumehood_policy::authority::Authority)), opens no connection, keeps no data and
//! checks no arguments against schemas. The outside is reached through the traits of [`ports`],
//! which others implement.
#![deny(unsafe_code)]

mod ambient;
mod aot;
mod bindings;
mod call;
mod compile;
mod component;
mod configuration;
mod definitions;
mod engine;
mod error;
mod files;
mod hook;
mod http;
mod inspect;
mod keyvalue;
mod linker;
mod load;
mod logging;
mod meter;
mod output;
mod plain;
pub mod ports;
mod recall;
mod sandbox;
mod sealed;
mod share;
mod slots;
mod start;
mod state;
mod stdio;
mod telemetry;
mod ticker;
mod tool;
mod trap;
mod witness;
mod world;

pub use aot::{CacheKey, prune_compiled};
pub use call::{Call, CallReport, Denial};
pub use compile::{Compiler, CompilerChild, compile_for_parent};
pub use component::{Component, ComponentKind};
pub use engine::within_engine;
pub use error::{LoadError, SandboxError};
pub use hook::{Occasion, Question};
pub use inspect::{Anatomy, anatomy};
pub use load::Installing;
pub use plain::{LeftOut, SIGNATURE_ONLY};
pub use recall::{Recall, Recaller, recall};
pub use sandbox::{CALLS_AT_ONCE, Sandbox, SandboxConfig};
pub use share::ShareKey;
pub use start::Start;
pub use witness::{HostCall, HostCalls, Interface, Outcome, Witness};
pub use world::{CONTRACT_VERSION, newer_contract};
