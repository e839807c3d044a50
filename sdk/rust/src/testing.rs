//! Trying tools natively, as the host would call them.
//!
//! This is for `cargo test`: it covers a tool's schema, arguments and logic, not its grants.

use crate::{
    Call, Failure, Output, Tool,
    hook::{Occasion, Point},
};
use serde_json::Value;

/// Calls a tool with arguments given as a JSON object.
///
/// # Errors
/// What the tool fails with.
#[allow(clippy::needless_pass_by_value)] // `call::<T>(json!({…}))` reads better than with a `&`.
pub fn call<T: Tool>(arguments: Value) -> Result<Output, Failure> {
    T::call(&a_call(), &arguments.to_string())
}

/// A call as a tool might get it: a made-up id, a minute of time, no locale.
#[must_use]
pub fn a_call() -> Call {
    Call::example()
}

/// An occasion as a hook might get it: made-up ids, five seconds of time, asked as a guard.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // As for `call`.
pub fn occasion(point: Point, about: Value) -> Occasion {
    Occasion::example(point, &about)
}

/// The JSON Schema of a tool's arguments.
///
/// # Panics
/// When the schema is not JSON, which would be a defect of this crate.
#[must_use]
#[allow(clippy::expect_used)]
pub fn input_schema<T: Tool>() -> Value {
    serde_json::from_str(&T::definition().input_schema).expect("an input schema is JSON")
}
