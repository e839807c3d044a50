//! Whole turns through the providers' own wires, asked of a mock that others wrote, over a line that fails: what a client
//! sees of each fault, and that the session goes on after it. Skipped where the mock is not installed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod faults;
mod stand;
mod turns;
