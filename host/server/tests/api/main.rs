//! The HTTP surface, request by request, in front of a real host with its real store.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that can't go on fails its test"
)]

mod agents;
mod answers;
mod approvals;
mod archive;
mod budgets;
mod clocks;
mod compaction;
mod deadlines;
mod described;
mod draining;
mod events;
mod files;
mod health;
mod history;
mod hooks;
mod house;
mod jobs;
mod keys;
mod metrics;
mod models;
mod recovery;
mod refusals;
mod results;
mod retention;
mod revoked;
mod schedules;
mod serving;
mod sessions;
mod sockets;
mod steering;
mod tool_changes;
mod tools;
mod trouble;
mod turns;
mod unwritable;
mod values;
mod webhooks;
mod wire_faults;
mod written_together;
