//! What `fumehood tool check` finds: whether a component is one that a model can use well, an operator can grant with open eyes,
//! and a host can run cheaply.
//!
//! [`facts()`] reads and measures; [`findings()`] decides, from the facts alone. What a host refuses to load is no finding: that is
//! an error of its own, in the words that installing it would have.

mod capabilities;
mod cost;
mod definitions;
mod facts;
mod lint;
mod requests;
mod schemas;
mod target;
#[cfg(test)]
mod tests;

pub(crate) use capabilities::{Row, table};
pub(crate) use cost::size;
pub(crate) use facts::{Carried, Facts, facts};
pub(crate) use lint::{Finding, Level, Lint};
pub(crate) use target::{Target, target};

/// All that is to be said, errors first.
pub(crate) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = definitions::findings(facts);
    findings.extend(schemas::findings(facts));
    findings.extend(requests::findings(facts));
    findings.extend(capabilities::findings(facts));
    findings.extend(cost::findings(facts));
    findings.sort_by_key(|finding| finding.lint.level());
    findings
}
