//! Which failures have an exit code of their own: those of usage or configuration (2), where what failed was not even begun, and
//! what is refused because a budget is used up (3).

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

/// An error of usage, in these words.
pub(crate) fn of_usage(words: String) -> Error {
    Fault(Error::msg(words)).into()
}

/// Whether an error is one of usage or configuration.
pub(crate) fn is_fault(error: &Error) -> bool {
    error.chain().any(|cause| cause.is::<Fault>())
}

/// The host refused what would spend where nothing is left to spend; in its words.
#[derive(Debug)]
struct BudgetUsedUp(String);

impl fmt::Display for BudgetUsedUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BudgetUsedUp {}

/// The error of a request that the host refused because a budget is used up.
pub(crate) fn budget_used_up(refusal: String) -> Error {
    BudgetUsedUp(refusal).into()
}

/// Whether an error is such a one.
pub(crate) fn is_budget_used_up(error: &Error) -> bool {
    error.chain().any(|cause| cause.is::<BudgetUsedUp>())
}
