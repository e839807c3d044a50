//! Who may be reached: [`NetworkRule`]s, lists of them per [`Layer`], and the decision on one [`Target`].
//!
//! A decision is made on a strictly parsed request, never on text; what was checked is what is sent.
//! Addresses are checked apart, in [`crate::address`], because only the resolver knows them.

mod host;
mod policy;
mod relate;
mod rule;
mod target;

pub use host::{Host, HostName, HostPattern, ParseHostError};
pub use policy::{Denial, Layer, NetworkList, NetworkPolicy, Verdict};
pub use rule::{Methods, NetworkRule, ParseRuleError, PathPrefix, PortPattern, least_rule};
pub use target::{Method, Scheme, Target, TargetError};
