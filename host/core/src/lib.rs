//! The words every other crate speaks: ids, names, content, messages, events, calls and their errors.
//!
//! Nothing here does I/O, waits, or decides policy. A type that appears on the wire
//! (HTTP, journal, event stream) is defined here once, with its JSON form.
#![forbid(unsafe_code)]

pub mod approval;
pub mod awaited;
pub mod call;
pub mod content;
pub mod digest;
pub mod event;
pub mod hook;
pub mod id;
pub mod ledger;
pub mod message;
pub mod metric;
pub mod money;
pub mod name;
pub mod price;
pub mod rewind;
pub mod spending;
pub mod tool;
pub mod turn;

/// A point in time, UTC. On the wire: RFC 3339.
pub type Time = chrono::DateTime<chrono::Utc>;

/// The current time.
#[must_use]
pub fn now() -> Time {
    chrono::Utc::now()
}
