//! What a component may do, in words: what it asks, what it has, and which layer cut what.

use crate::{
    commands::tool::section,
    out::{Out, Style, list, printable, text},
};
use serde_json::Value;

/// Prints an explanation. Limits that are as everybody's are left out: they explain nothing.
pub(crate) fn show(out: Out, explanation: &Value) {
    let withheld = list(explanation, "tools").iter().filter_map(|tool| {
        let by = joined(list(tool, "cut_by"));
        (!by.is_empty()).then(|| format!("{}  the `tools` list of {by} does not name it", text(tool, "tool")))
    });
    section(out, "not offered to the model", withheld);
    let told: Vec<&Value> = list(explanation, "capabilities")
        .iter()
        .filter(|one| text(one, "capability") != "limit" || one.get("asked").is_some() || !list(one, "cuts").is_empty())
        .collect();
    if told.is_empty() {
        return;
    }
    out.line(format_args!("\n{}", out.style(Style::Bold, "may do")));
    for one in told {
        capability(out, one);
    }
}

fn capability(out: Out, one: &Value) {
    let style = match text(one, "extent") {
        "all" => Style::Good,
        "part" => Style::Name,
        _ => Style::Bad,
    };
    let extent = match text(one, "extent") {
        "none" => "no",
        other => other,
    };
    let kind = text(one, "capability").replace('_', " ");
    let asked = one.get("asked").and_then(Value::as_str).unwrap_or("(not asked)");
    let extent = out.style(style, format_args!("{extent:<4}"));
    out.line(format_args!("  {extent}  {kind}: {}", printable(asked)));
    if text(one, "extent") == "part" {
        out.line(format_args!("        has {}", joined(list(one, "has"))));
    }
    if one.get("more").is_some() {
        out.line("        and more than can be listed: the lists overlap in too many ways");
    }
    for except in list(one, "except") {
        out.line(format_args!(
            "        except what {} denies: {}",
            text(except, "layer"),
            printable(text(except, "rule"))
        ));
    }
    for cut in list(one, "cuts") {
        let left = joined(list(cut, "left"));
        let (layer, rule) = (text(cut, "layer"), text(cut, "rule"));
        let what = match (rule.is_empty(), left.is_empty()) {
            (false, _) => format!("denied by {layer}: {}", printable(rule)),
            (true, true) => format!("cut by {layer}: none of it"),
            (true, false) => format!("cut by {layer}: it leaves {left}"),
        };
        out.line(format_args!("        {what}"));
        out.line(format_args!(
            "          {}",
            out.style(Style::Dim, printable(text(cut, "change")))
        ));
    }
}

/// Prints how a version differs from the one before.
pub(crate) fn update(out: Out, update: &Value) {
    let lines = |key: &str, mark: &str| {
        let lines = list(update, key).iter().filter_map(Value::as_str);
        lines
            .map(|line| format!("{mark} {}", printable(line)))
            .collect::<Vec<_>>()
    };
    let changed = [lines("added", "+"), lines("removed", "-")].concat();
    if changed.is_empty() {
        out.line("\nIt asks for the same as the version before.");
    }
    section(out, "asks differently from the version before", changed.into_iter());
}

/// Prints what becomes of a version about which nothing was decided.
pub(crate) fn decided_by_the_version_before(out: Out, component: &Value) {
    if component.get("grant").is_some() {
        out.line("\nIt asks for no more, and keeps what the version before was granted.");
    } else if component.pointer("/update/added/0").is_some() {
        let words = "It asks for more: the grant of the version before does not hold, and its tools are withheld.";
        out.line(format_args!("\n{}", out.style(Style::Bad, words)));
    }
}

fn joined(items: &[Value]) -> String {
    let items = items.iter().filter_map(Value::as_str).map(printable);
    items.collect::<Vec<_>>().join(", ")
}
