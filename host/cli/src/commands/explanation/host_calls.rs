//! What a call asked of its host, row by row, for people.

use super::{heading, lines, reason};
use crate::out::{Out, Style, count, list, printable, text};
use serde_json::Value;

/// Nothing, where that was not taken down.
pub(super) fn show(out: Out, host_calls: &Value) {
    let rows = list(host_calls, "rows");
    lines(out, "host calls", rows.iter().map(|row| told(out, row)));
    let number = |key: &str| host_calls.get(key).and_then(Value::as_u64).unwrap_or_default();
    match number("left_out") {
        0 => {}
        left_out => out.line(format_args!("  … and {left_out} more, which are left out")),
    }
    let counts = [
        ("clock_readings", "reading"),
        ("waits", "wait"),
        ("random_bytes", "random byte"),
    ];
    let counted = counts.into_iter().filter(|(key, _)| number(key) > 0);
    let counted: Vec<String> = counted.map(|(key, thing)| count(number(key), thing)).collect();
    if !counted.is_empty() {
        heading(out, "clocks and chance");
        out.line(format_args!("  {}", counted.join(", ")));
    }
}

fn told(out: Out, row: &Value) -> String {
    let words = printable(reason(text(row, "words")));
    let asked = format!("{:<10} {}", text(row, "interface"), printable(text(row, "asked")));
    let times = match row.get("times").and_then(Value::as_u64) {
        Some(times) if times > 1 => format!(" × {times}"),
        _ => String::new(),
    };
    match text(row, "outcome") {
        "done" => {
            let rule = row.get("rule").and_then(Value::as_str);
            let rule = rule.map_or_else(String::new, |rule| format!("; by {}", printable(rule)));
            format!("{asked}{times}: {words}{rule}")
        }
        "denied" => format!("{asked}{times}: {}\n    {words}", out.style(Style::Bad, "denied")),
        "failed" => format!("{asked}{times}: {}\n    {words}", out.style(Style::Bad, "failed")),
        _ => format!("{asked}{times}: not answered before the call ended"),
    }
}
