//! Saying what is going on before the result is there. Needs no grant, and never fails.

#[cfg(target_family = "wasm")]
use crate::bindings::fumehood::tool::progress as host;

/// Says how far the call is, in one line for people. `fraction` lies between 0 and 1 if given.
pub fn report(message: impl AsRef<str>, fraction: Option<f32>) {
    #[cfg(target_family = "wasm")]
    host::report(message.as_ref(), fraction);
    #[cfg(not(target_family = "wasm"))]
    let _ = (message.as_ref(), fraction);
}

/// Sends a piece of partial output on a channel, named `[a-z0-9_]{1,32}`.
///
/// Counts against the call's output limit; passing the limit ends the call.
pub fn emit(channel: impl AsRef<str>, chunk: impl AsRef<str>) {
    #[cfg(target_family = "wasm")]
    host::emit(channel.as_ref(), chunk.as_ref());
    #[cfg(not(target_family = "wasm"))]
    let _ = (channel.as_ref(), chunk.as_ref());
}
