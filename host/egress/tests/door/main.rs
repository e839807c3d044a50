//! The door against real sockets on loopback: what it lets through, what it refuses, and what it records.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod addresses;
mod bodies;
mod connections;
mod given;
mod hostile;
mod ledger;
mod requests;
mod secrets;
mod support;
mod tls;
