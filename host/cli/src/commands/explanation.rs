//! What one call used, of what limits; what it asked of its host and of the outside and what decided; and what its author would write to
//! have what it was refused.

mod host_calls;

use crate::out::{Out, Style, list, printable, text};
use fumehood_core::{
    call::{CallError, CallResult, DeadlineOwner, Metering, TrapKind},
    event::EventBody,
    ledger::{EgressOutcome, LedgerEntry},
};
use fumehood_policy::{
    grant::Grant,
    limits::{Limits, LimitsRequest},
    manifest::Manifest,
    network::{NetworkRule, Target, least_rule},
    quantity::{ByteSize, Span},
};
use fumehood_sandbox::HostCalls;
use serde_json::{Value, json};
use std::time::Duration;

/// What is known of a call that was made.
pub(crate) struct Made<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) given: Given<'a>,
    pub(crate) result: &'a CallResult,
    pub(crate) metering: &'a Metering,
    /// Of a call that came to run.
    pub(crate) limits: Option<&'a Limits>,
    /// What no call of this host passes.
    pub(crate) ceilings: &'a Limits,
    pub(crate) denials: &'a [String],
    /// Of a call that came to run.
    pub(crate) host_calls: Option<&'a HostCalls>,
    pub(crate) events: &'a [EventBody],
    pub(crate) ledger: &'a [LedgerEntry],
    pub(crate) times: Times,
}

/// What the call was given.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) grant: &'a Grant,
    /// Whether somebody named a directory for its `/workspace`.
    pub(crate) workspace: bool,
}

/// Where the time before the call went.
pub(crate) struct Times {
    /// To have the component's code: compiled, or read.
    pub(crate) load: Duration,
    /// Whether it was read.
    pub(crate) kept: bool,
    /// To make the call's instance.
    pub(crate) instance: Option<Duration>,
}

/// As JSON, under the names that `--json` prints.
pub(crate) fn explanation(made: &Made<'_>) -> Value {
    let secrets = made.events.iter().filter_map(|event| match event {
        EventBody::SecretUsed { secret, used_for, .. } => Some(json!({"secret": secret, "used_for": used_for})),
        _ => None,
    });
    let reached = made.events.iter().filter_map(|event| match event {
        EventBody::LimitReached { limit, message, .. } => Some(json!({"limit": limit, "message": message})),
        _ => None,
    });
    json!({
        "time": {
            "load_ms": millis(made.times.load),
            "code": if made.times.kept { "kept" } else { "compiled" },
            "instance_ms": made.times.instance.map(millis),
            "call_ms": made.metering.duration_ms,
        },
        "used": made.limits.map(|limits| used(made, limits)).unwrap_or_default(),
        "host_calls": made.host_calls,
        "requests": made.ledger.iter().map(request).collect::<Vec<_>>(),
        "secrets": secrets.collect::<Vec<_>>(),
        "secrets_missing": missing_secrets(made),
        "limits_reached": reached.collect::<Vec<_>>(),
        "refused": refused(made),
        "change": changes(made),
    })
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// What of each limit was used.
fn used(made: &Made<'_>, limits: &Limits) -> Vec<Value> {
    let metering = made.metering;
    let one = |limit: &str, used: String, of: String| json!({"limit": limit, "used": used, "of": of});
    vec![
        one("time", format!("{}ms", metering.duration_ms), limits.time.to_string()),
        one("cpu", format!("{}ms", metering.cpu_ms), limits.cpu.to_string()),
        one("memory", size(metering.memory_peak), limits.memory.to_string()),
        one("output", size(output_len(made.result)), limits.output.to_string()),
        one(
            "host_calls",
            metering.host_calls.to_string(),
            limits.host_calls.to_string(),
        ),
        one(
            "http_requests",
            metering.http_requests.to_string(),
            limits.http_requests.to_string(),
        ),
    ]
}

/// What was denied, and what was given in vain.
fn refused(made: &Made<'_>) -> Vec<String> {
    let mut refused = made.denials.to_vec();
    if made.given.workspace && lacks_workspace(made).next().is_some() {
        refused.push("there is no /workspace for it: it does not ask for one, or is not granted one".to_owned());
    }
    refused
}

/// The files that keep `/workspace` from being there.
fn lacks_workspace<'a>(made: &Made<'a>) -> impl Iterator<Item = &'static str> + use<'a> {
    let layers = [
        ("tool.toml", &made.manifest.files),
        ("the grant", &made.given.grant.files),
    ];
    let lacking = layers.into_iter().filter(|(_, files)| !files.access.can_read());
    lacking.map(|(file, _)| file)
}

/// The secrets that belong to a request which was made without them, since they have no value.
fn missing_secrets(made: &Made<'_>) -> Vec<Value> {
    let granted = made.manifest.credentials.iter().filter_map(|requested| {
        let grants = &made.given.grant.credentials;
        grants.iter().find_map(|grant| grant.narrow(requested))
    });
    let mut missing = Vec::new();
    for credential in granted {
        let belongs = |entry: &&LedgerEntry| {
            let denied = matches!(entry.outcome, EgressOutcome::Denied { .. });
            !denied && entry.host.parse().is_ok_and(|host| credential.applies_to(&host))
        };
        if let Some(entry) = made.ledger.iter().find(belongs)
            && !entry.secrets.contains(&credential.secret)
        {
            missing.push(json!({"secret": credential.secret, "host": entry.host}));
        }
    }
    missing
}

fn output_len(result: &CallResult) -> u64 {
    let Ok(output) = result else { return 0 };
    let content: usize = output
        .content
        .iter()
        .map(fumehood_core::content::Content::byte_len)
        .sum();
    let structured = output.structured.as_ref().map_or(0, |value| value.to_string().len());
    (content + structured) as u64
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes}B"),
        _ => format!("{}KiB", bytes.div_ceil(1024)),
    }
}

fn request(entry: &LedgerEntry) -> Value {
    let mut value = json!({"request": url(entry), "rule": entry.rule, "secrets": entry.secrets});
    let (decision, more) = match &entry.outcome {
        EgressOutcome::Denied { reason } => ("denied", json!({"why": reason})),
        EgressOutcome::Failed { reason } => ("allowed", json!({"failed": reason})),
        EgressOutcome::Completed { status } => (
            "allowed",
            json!({"status": status, "bytes_sent": entry.bytes_sent, "bytes_received": entry.bytes_received,
                   "duration_ms": entry.duration_ms}),
        ),
        EgressOutcome::Started => (
            "allowed",
            json!({"failed": "it was not answered before the call ended"}),
        ),
    };
    value["decision"] = json!(decision);
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

/// As a rule would name it: method and address.
fn url(entry: &LedgerEntry) -> String {
    format!("{} {}", entry.method, address(entry))
}

/// Without the port that the scheme has anyway.
fn address(entry: &LedgerEntry) -> String {
    let usual = matches!((&*entry.scheme, entry.port), ("https", 443) | ("http", 80));
    let port = if usual {
        String::new()
    } else {
        format!(":{}", entry.port)
    };
    let host = if entry.host.contains(':') {
        format!("[{}]", entry.host)
    } else {
        entry.host.clone()
    };
    format!("{}://{host}{port}{}", entry.scheme, entry.path)
}

/// The rule that would have let a request through.
fn wanted(entry: &LedgerEntry) -> Option<NetworkRule> {
    let target = Target::parse(&entry.method, &address(entry)).ok()?;
    least_rule(&target).parse().ok()
}

/// The lines that would let through what was refused, and in which file.
fn changes(made: &Made<'_>) -> Vec<Value> {
    let mut changes = Vec::new();
    let rules: Vec<NetworkRule> = made
        .ledger
        .iter()
        .filter(|entry| matches!(entry.outcome, EgressOutcome::Denied { .. }))
        .filter_map(wanted)
        .collect();
    for (file, allow) in [
        ("tool.toml", &made.manifest.network.allow),
        ("the grant", &made.given.grant.network.allow),
    ] {
        let mut lacking: Vec<String> = rules
            .iter()
            .filter(|wanted| !allow.iter().flatten().any(|rule| rule.covers(wanted)))
            .map(|rule| format!("{:?}", rule.to_string()))
            .collect();
        lacking.dedup();
        if !lacking.is_empty() {
            let there = allow.iter().flatten().map(|rule| format!("{:?}", rule.to_string()));
            let all: Vec<String> = there.chain(lacking).collect();
            changes.push(json!({"file": file, "lines": ["[network]", format!("allow = [{}]", all.join(", "))]}));
        }
    }
    if made.given.workspace {
        let lines = json!(["[files]", "workspace = \"read\""]);
        changes.extend(lacks_workspace(made).map(|file| json!({"file": file, "lines": lines})));
    }
    if let (Err(error), Some(limits)) = (made.result, made.limits) {
        changes.extend(raised(made, error, limits));
    }
    changes
}

/// Where the limit that ended a call is to be raised: in each file that keeps it from being twice what it was.
fn raised(made: &Made<'_>, error: &CallError, limits: &Limits) -> Vec<Value> {
    let Some((key, reached, twice)) = more(error, limits) else {
        return Vec::new();
    };
    let only = |value: &str| {
        let mut request = LimitsRequest::default();
        // What a limit prints can be read again.
        let _ = request.set(key, value);
        request
    };
    let sets = |layer: &LimitsRequest| layer.entries().iter().any(|(set, _)| *set == key);
    let (mut wanted, mut ceiling) = (twice, None);
    if let Some(above) = only(&wanted).above_ceilings(made.ceilings).first() {
        if only(&above.ceiling).above(&only(&reached)).is_empty() {
            ceiling = Some(change("fumehood.toml", "[limits.ceiling]", key, &wanted));
        } else {
            wanted.clone_from(&above.ceiling);
        }
    }
    let (manifest, grant) = (&made.manifest.limits, &made.given.grant.limits);
    let keeps_it_lower = |layer: &LimitsRequest| !only(&wanted).above(layer).is_empty();
    let mut changes = Vec::new();
    if keeps_it_lower(manifest) || !(sets(manifest) || sets(grant)) {
        changes.push(change("tool.toml", "[limits]", key, &wanted));
    }
    if keeps_it_lower(grant) {
        changes.push(change("the grant", "[limits]", key, &wanted));
    }
    changes.extend(ceiling);
    changes
}

fn change(file: &str, table: &str, key: &str, value: &str) -> Value {
    let value = match value.parse::<u64>() {
        Ok(number) => number.to_string(),
        Err(_) => format!("{value:?}"),
    };
    json!({"file": file, "lines": [table, format!("{key} = {value}")]})
}

/// The limit that ended a call, what it was, and twice as much.
fn more(error: &CallError, limits: &Limits) -> Option<(&'static str, String, String)> {
    let size = |key, size: ByteSize| {
        (
            key,
            size.to_string(),
            ByteSize(size.bytes().saturating_mul(2)).to_string(),
        )
    };
    let span = |key, span: Span| {
        let twice = Span::from_millis(span.as_millis().saturating_mul(2));
        (key, span.to_string(), twice.to_string())
    };
    Some(match (error.trap, error.deadline) {
        (Some(TrapKind::Memory), _) => size("memory", limits.memory),
        (Some(TrapKind::Cpu), _) => span("cpu", limits.cpu),
        (Some(TrapKind::Output), _) => size("stdout", limits.stdout),
        (Some(TrapKind::HostCalls), _) => {
            let calls = limits.host_calls;
            ("host_calls", calls.to_string(), calls.saturating_mul(2).to_string())
        }
        (_, Some(DeadlineOwner::TimeLimit | DeadlineOwner::HostDefault | DeadlineOwner::HostCeiling)) => {
            span("time", limits.time)
        }
        _ if error.code == fumehood_core::call::CallErrorCode::OutputTooLarge => size("output", limits.output),
        _ => return None,
    })
}

/// For people.
pub(crate) fn show(out: Out, explanation: &Value) {
    let time = explanation.get("time").unwrap_or(&Value::Null);
    let number = |key: &str| time.get(key).and_then(Value::as_f64).unwrap_or_default();
    let code = match text(time, "code") {
        "kept" => "the compiled code was kept",
        _ => "it was compiled",
    };
    heading(out, "time");
    out.line(format_args!("  load {:.1} ms: {code}", number("load_ms")));
    if time.get("instance_ms").is_some_and(|instance| !instance.is_null()) {
        out.line(format_args!("  instance {:.2} ms", number("instance_ms")));
    }
    out.line(format_args!("  call {:.0} ms", number("call_ms")));
    heading(out, "used");
    for one in list(explanation, "used") {
        out.line(format_args!(
            "  {:<13} {} of {}",
            text(one, "limit"),
            text(one, "used"),
            text(one, "of")
        ));
    }
    host_calls::show(out, explanation.get("host_calls").unwrap_or(&Value::Null));
    let requests = list(explanation, "requests").iter().map(|one| told(out, one));
    lines(out, "requests", folded(requests).into_iter());
    let secret = |one: &Value| format!("{} for {}", text(one, "secret"), printable(text(one, "used_for")));
    lines(out, "secrets used", list(explanation, "secrets").iter().map(secret));
    let missing = |one: &Value| {
        let (secret, host) = (text(one, "secret"), printable(text(one, "host")));
        format!("{secret} was not sent to {host}: it has no value; --secret {secret}=VALUE gives it one")
    };
    lines(
        out,
        "secrets missing",
        list(explanation, "secrets_missing").iter().map(missing),
    );
    let words = |value: &Value| printable(reason(value.as_str().unwrap_or_default()));
    lines(out, "refused", list(explanation, "refused").iter().map(words));
    let limit = |one: &Value| printable(text(one, "message"));
    lines(
        out,
        "limits of the org",
        list(explanation, "limits_reached").iter().map(limit),
    );
    for change in list(explanation, "change") {
        heading(out, &format!("to have it, in {}", text(change, "file")));
        for line in list(change, "lines") {
            out.line(format_args!("  {}", words(line)));
        }
    }
}

fn told(out: Out, one: &Value) -> String {
    let request = printable(text(one, "request"));
    if text(one, "decision") == "denied" {
        return format!(
            "{} {request}\n    {}",
            out.style(Style::Bad, "denied "),
            printable(reason(text(one, "why")))
        );
    }
    let ended = match one.get("status").and_then(Value::as_u64) {
        Some(status) => {
            let received = one.get("bytes_received").and_then(Value::as_u64).unwrap_or_default();
            format!("status {status}, {}", size(received))
        }
        None => printable(text(one, "failed")),
    };
    let secrets: Vec<&str> = list(one, "secrets").iter().filter_map(Value::as_str).collect();
    let with = if secrets.is_empty() {
        String::new()
    } else {
        format!(", with {}", secrets.join(", "))
    };
    let rule = printable(text(one, "rule"));
    format!(
        "{} {request}\n    {ended}; by {rule}{with}",
        out.style(Style::Good, "allowed")
    )
}

/// Equal ones that follow one another as one, with how often behind its first line.
fn folded(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut folded: Vec<(String, u64)> = Vec::new();
    for text in texts {
        match folded.last_mut() {
            Some((last, times)) if *last == text => *times += 1,
            _ => folded.push((text, 1)),
        }
    }
    let told = |(text, times): (String, u64)| match (times, text.split_once('\n')) {
        (1, _) => text,
        (times, Some((first, rest))) => format!("{first} × {times}\n{rest}"),
        (times, None) => format!("{text} × {times}"),
    };
    folded.into_iter().map(told).collect()
}

/// What was refused and why, where it is said already that it was.
pub(super) fn reason(words: &str) -> &str {
    words.strip_prefix("denied: ").unwrap_or(words)
}

pub(super) fn heading(out: Out, title: &str) {
    out.line(format_args!("\n{}", out.style(Style::Bold, title)));
}

pub(super) fn lines(out: Out, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        heading(out, title);
    }
    for line in lines {
        out.line(format_args!("  {line}"));
    }
}

#[cfg(test)]
mod tests;
