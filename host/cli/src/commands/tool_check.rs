//! `fumehood tool check [FILE|DIR]`: what a component is, what it asks for, what it costs, and what could be better. Needs no host.

use crate::{
    args::{Deny, ToolCheck},
    boot,
    check::{self, Facts, Finding, Level, Row},
    commands::tool::{section, show},
    compiled_code::CompiledCode,
    component_file::{ComponentFile, ManifestFile},
    config::Loaded,
    fault::is_fault,
    out::{Out, Style, list, printable, text},
};
use serde_json::{Value, json};
use std::path::Path;

/// The finding of a component that no host would add. No lint: nothing allows it.
const REFUSED: &str = "refused";

/// Checks, and says whether it passed.
pub(crate) async fn check(out: Out, loaded: &Loaded, args: &ToolCheck) -> anyhow::Result<bool> {
    let target = check::target(&args.target)?;
    let path = target.component.clone();
    let file = ComponentFile::read(&path);
    let sandbox = boot::looking(&loaded.config, CompiledCode::of_user())?;
    let host = loaded.config.host_policy();
    let largest = loaded.config.call_limits().install.component_size.bytes();
    let looked_at = async {
        let file = file?;
        file.beside.tell();
        let facts = check::facts(&sandbox, &file, target, &host, largest).await?;
        anyhow::Ok((file, facts))
    };
    let (file, facts) = match looked_at.await {
        Ok(looked_at) => looked_at,
        // A machine reads what is refused where it reads what is found.
        Err(error) if out.json && !is_fault(&error) => {
            out.value(&refused(&path, &error));
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let (found, allowed): (Vec<Finding>, Vec<Finding>) = check::findings(&facts)
        .into_iter()
        .partition(|finding| !args.allow.contains(&finding.lint));

    let fails = |finding: &&Finding| match finding.lint.level() {
        Level::Error => true,
        Level::Warning => args.deny.is_some(),
        Level::Note => args.deny == Some(Deny::Notes),
    };
    let failing = found.iter().filter(fails).count();
    let count = |level: Level| found.iter().filter(|finding| finding.lint.level() == level).count();
    let mut value = about(&facts);
    value["path"] = json!(path);
    value["findings"] = found
        .iter()
        .map(|finding| machine(finding, file.beside.manifest.as_ref()))
        .collect();
    value["counts"] = json!({
        "error": count(Level::Error), "warning": count(Level::Warning), "note": count(Level::Note), "allowed": allowed.len(),
    });
    value["passed"] = json!(failing == 0);
    out.either(&value, |value| {
        show(out, value);
        imports(out, &check::table(&facts));
        costs(out, &facts);
        for finding in list(value, "findings") {
            told_of(out, finding);
        }
        conclude(out, value);
    });
    Ok(failing == 0)
}

/// A component of which nothing is known but why.
fn refused(path: &Path, error: &anyhow::Error) -> Value {
    json!({
        "path": path,
        "findings": [{
            "id": REFUSED, "level": Level::Error, "what": format!("{error:#}"),
            "do": "mend what it says; the rest is looked at then",
        }],
        "counts": {"error": 1, "warning": 0, "note": 0, "allowed": 0},
        "passed": false,
    })
}

/// The component, apart from what is found.
fn about(facts: &Facts) -> Value {
    let manifest = &facts.manifest;
    json!({
        "name": manifest.name, "version": manifest.version, "description": manifest.description,
        "digest": facts.digest, "kind": facts.kind, "tools": facts.tools, "left_out": facts.left_out,
        "requests": manifest.describe(), "manifest": manifest,
        "imports": check::table(facts),
        "exports": facts.anatomy.exports,
        "size": facts.size,
        "start": {
            "instance_us": micros(facts.start.instance), "cpu_us": micros(facts.start.cpu), "memory": facts.start.memory,
        },
    })
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn machine(finding: &Finding, manifest: Option<&ManifestFile>) -> Value {
    let lint = finding.lint;
    let mut value = json!({"id": lint, "level": lint.level(), "what": finding.what, "do": finding.remedy});
    if let Some(beside) = manifest.filter(|_| !finding.place.is_empty()) {
        value["file"] = json!(beside.file);
        let place = fumehood_policy::lint::Finding {
            place: finding.place.clone(),
            message: String::new(),
        };
        value["line"] = json!(place.line_in(&beside.text));
    }
    value
}

fn imports(out: Out, rows: &[Row]) {
    out.line(format_args!("\n{}", out.style(Style::Bold, "imports and requests")));
    let rows = rows
        .iter()
        .map(|row| {
            let imports = match row.imports.as_slice() {
                [] => "-".to_owned(),
                [one] => printable(one),
                [first, rest @ ..] => format!("{} and {} more", printable(first), rest.len()),
            };
            let asks_for = row.asks_for.as_deref().unwrap_or(match row.capability {
                Some(_) => "-",
                None => "needs no grant",
            });
            vec![
                row.capability.unwrap_or("anything else").to_owned(),
                imports,
                printable(asks_for),
            ]
        })
        .collect();
    out.table(&["for", "imports", "asks for"], rows, "imports nothing");
}

fn costs(out: Out, facts: &Facts) {
    let start = &facts.start;
    let line = format!(
        "{}; an instance is made in {:.2} ms, starting takes {:.2} ms of the processor and {} of memory",
        check::size(facts.size),
        start.instance.as_secs_f64() * 1000.0,
        start.cpu.as_secs_f64() * 1000.0,
        check::size(start.memory),
    );
    section(out, "costs", std::iter::once(line));
}

fn told_of(out: Out, finding: &Value) {
    let level = text(finding, "level");
    let style = match level {
        "error" => Style::Bad,
        "warning" => Style::Bold,
        _ => Style::Dim,
    };
    let head = out.style(style, format_args!("{level}[{}]", text(finding, "id")));
    let place = match finding.get("line").and_then(Value::as_u64) {
        Some(line) => format!("{}: line {line}: ", text(finding, "file")),
        None => String::new(),
    };
    out.line(format_args!("\n{head} {place}{}", printable(text(finding, "what"))));
    out.line(format_args!("  {}", printable(text(finding, "do"))));
}

fn conclude(out: Out, value: &Value) {
    let of = |key: &str| {
        value
            .pointer(&format!("/counts/{key}"))
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    let counted = |key: &str, word: &str| match of(key) {
        0 => None,
        1 => Some(format!("1 {word}")),
        several => Some(format!("{several} {word}s")),
    };
    let mut parts: Vec<String> = [("error", "error"), ("warning", "warning"), ("note", "note")]
        .into_iter()
        .filter_map(|(key, word)| counted(key, word))
        .collect();
    if of("allowed") > 0 {
        parts.push(format!("{} allowed", of("allowed")));
    }
    if parts.is_empty() {
        parts.push("nothing to say".to_owned());
    }
    let style = if value.get("passed") == Some(&Value::Bool(true)) {
        Style::Good
    } else {
        Style::Bad
    };
    let verdict = match of("error") {
        0 => "this host can run it",
        _ => "this host takes it, and it does not work as it is",
    };
    let line = format!("{verdict}: {}", parts.join(", "));
    out.line(format_args!("\n{}", out.style(style, line)));
}
