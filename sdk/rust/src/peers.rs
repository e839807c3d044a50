//! Calling other tools of the same session.

#[cfg(target_family = "wasm")]
use crate::bindings::fumehood::tool::peers as host;
use crate::{Failure, Output};
use serde::Serialize;

/// Runs another tool and waits for its result. `arguments` must be an object in JSON.
///
/// The tool runs with its own grant, never with the caller's, and its time counts against the caller's
/// deadline. Needs `[tools] call` in the manifest and in the grant.
///
/// # Errors
/// [`Failure::Denied`] when it is not granted or needs an approval, [`Failure::NotFound`] when there is no
/// such tool, otherwise what the tool failed with.
pub fn call<T: Serialize + ?Sized>(tool: impl AsRef<str>, arguments: &T) -> Result<Output, Failure> {
    let arguments = serde_json::to_string(arguments)?;
    #[cfg(target_family = "wasm")]
    return host::call(tool.as_ref(), &arguments)
        .map(Output::from_wit)
        .map_err(Failure::from_wit);
    #[cfg(not(target_family = "wasm"))]
    {
        let _ = (arguments, Output::from_wit);
        Err(Failure::denied(format!(
            "the tool `{}` cannot be called outside a host",
            tool.as_ref()
        )))
    }
}
