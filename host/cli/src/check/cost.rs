//! What a component costs: to keep, and to start.

use super::{Facts, Finding, Lint};
use fumehood_policy::{
    limits::{Limits, LimitsRequest},
    quantity::Span,
};
use fumehood_sandbox::{CONTRACT_VERSION, newer_contract};
use std::time::Duration;

/// The part of what the host takes that a component should not be larger than.
const PART: u64 = 4;
/// More of the processor than a start should take.
const SLOW: Duration = Duration::from_millis(100);
/// Names that are worth removing.
const NAMES: u64 = 1024;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(contract(facts));
    if facts.size > facts.largest / PART {
        findings.push(Finding::new(
            Lint::SizeLarge,
            format!(
                "it has {}, where a host takes {}: adding it takes long, and its compiled code stays in memory",
                size(facts.size),
                size(facts.largest)
            ),
            "build it for size, and leave out what it does not use",
        ));
    }
    findings.extend(sections(facts));
    findings.extend(start(facts));
    findings
}

fn contract(facts: &Facts) -> Option<Finding> {
    let names = facts.anatomy.imports.iter().chain(&facts.anatomy.exports);
    let newer = newer_contract(names.map(String::as_str))?;
    Some(Finding::new(
        Lint::ContractNewer,
        format!("it was built against fumehood:tool {newer}, and this host has {CONTRACT_VERSION}"),
        "it runs, and what the newer one says more about has no effect here; try it on the oldest host that it is for",
    ))
}

fn sections(facts: &Facts) -> Vec<Finding> {
    let total = |wanted: fn(&str) -> bool| -> u64 {
        let sections = facts.anatomy.sections.iter();
        sections.filter(|(name, _)| wanted(name)).map(|(_, bytes)| bytes).sum()
    };
    let debug = total(|name| name.starts_with(".debug_") || matches!(name, "external_debug_info" | "sourceMappingURL"));
    let names = total(|name| matches!(name, "name" | "component-name"));
    let strip = "build it with `fumehood tool build`, which takes it out";
    let mut findings = Vec::new();
    if debug > 0 {
        findings.push(Finding::new(
            Lint::DebugSections,
            format!("it carries {} of debug information, which no host uses", size(debug)),
            strip,
        ));
    }
    if names > NAMES {
        findings.push(Finding::new(
            Lint::NameSections,
            format!(
                "it carries {} of names of functions, which only traces of traps use",
                size(names)
            ),
            strip,
        ));
    }
    findings
}

fn start(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let cost = &facts.start;
    if cost.cpu > SLOW {
        let took = Span::from_millis(u64::try_from(cost.cpu.as_millis()).unwrap_or(u64::MAX));
        findings.push(Finding::new(
            Lint::StartSlow,
            format!("starting it takes {took} of the processor, and each call starts it"),
            "do at build time what is always the same (a language's snapshot does that), or when it is needed first",
        ));
    }
    let unasked = LimitsRequest::default();
    let call = Limits::effective(&facts.defaults, &facts.manifest.limits, &unasked, &facts.ceilings).memory;
    let memory = size(cost.memory);
    if cost.memory > call.bytes() {
        let finding = Finding::new(
            Lint::MemoryTooSmall,
            format!("starting it takes {memory} of memory, and its calls get {call}: each of them fails"),
            "ask for more in `[limits] memory`, as far as the host's ceiling goes, or make it smaller",
        );
        findings.push(finding.at(&["limits", "memory"], None));
    } else if cost.memory > call.bytes() / 2 {
        let finding = Finding::new(
            Lint::StartMemory,
            format!("starting it takes {memory} of memory, more than half of the {call} that its calls get"),
            "ask for more in `[limits] memory`, or make it smaller",
        );
        findings.push(finding.at(&["limits", "memory"], None));
    }
    findings
}

/// A size for people, rounded up.
pub(crate) fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..MIB => format!("{} KiB", bytes.div_ceil(1024)),
        _ => {
            let tenths = bytes.saturating_mul(10).div_ceil(MIB);
            format!("{}.{} MiB", tenths / 10, tenths % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn a_size_is_rounded_up() {
        for (bytes, shown) in [
            (1023, "1023 B"),
            (1025, "2 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) + 1, "1.1 MiB"),
            ((2 << 20) - 1, "2.0 MiB"),
            (68 << 20, "68.0 MiB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }
}
