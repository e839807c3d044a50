//! Which failures are the fault of usage or configuration: their exit code is 2, and what failed was not even begun.

use anyhow::Error;
use std::fmt;

/// An error of usage or configuration, in the words of its causes.
#[derive(Debug)]
struct Fault(Error);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Fault {}

/// Marks an error.
pub(crate) trait OrFault<T> {
    /// The error as one of usage or configuration.
    fn or_fault(self) -> anyhow::Result<T>;
}

impl<T, E: Into<Error>> OrFault<T> for Result<T, E> {
    fn or_fault(self) -> anyhow::Result<T> {
        self.map_err(|error| Fault(error.into()).into())
    }
}

/// Whether an error is one of usage or configuration.
pub(crate) fn is_fault(error: &Error) -> bool {
    error.chain().any(|cause| cause.is::<Fault>())
}
