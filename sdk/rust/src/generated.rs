//! What `cargo run -p fumehood-bindgen` writes from `wit/`, in the style of its generator.
#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    rust_2018_idioms,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::panic,
    rustdoc::all
)]

pub mod bindings;
pub mod hook_bindings;
