//! What one call used, of what limits; what it asked of the outside and what decided; and what its author would write to have what it
//! was refused.

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
    network::NetworkRule,
    quantity::{ByteSize, Span},
};
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

/// As a rule would name it: method and address, without the port that the scheme has anyway.
fn url(entry: &LedgerEntry) -> String {
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
    format!("{} {}://{host}{port}{}", entry.method, entry.scheme, entry.path)
}

/// The lines that would let through what was refused, and in which file.
fn changes(made: &Made<'_>) -> Vec<Value> {
    let mut changes = Vec::new();
    let rules: Vec<NetworkRule> = made
        .ledger
        .iter()
        .filter(|entry| matches!(entry.outcome, EgressOutcome::Denied { .. }))
        .filter_map(|entry| url(entry).parse().ok())
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
    lines(
        out,
        "requests",
        list(explanation, "requests").iter().map(|one| told(out, one)),
    );
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
    let words = |value: &Value| printable(value.as_str().unwrap_or_default());
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
            printable(text(one, "why"))
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

fn heading(out: Out, title: &str) {
    out.line(format_args!("\n{}", out.style(Style::Bold, title)));
}

fn lines(out: Out, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        heading(out, title);
    }
    for line in lines {
        out.line(format_args!("  {line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::call::CallErrorCode;

    fn entry(outcome: &str) -> LedgerEntry {
        let mut entry = json!({
            "id": fumehood_core::id::LedgerId::new(), "time": fumehood_core::now(), "org": "default",
            "call": fumehood_core::id::CallId::new(), "tool": "forecast", "component": "it", "method": "GET", "scheme": "https",
            "host": "api.example.com", "port": 8443, "path": "/v1/x", "query_bytes": 0, "rule": "grant", "secrets": [],
            "bytes_sent": 0, "bytes_received": 20_000, "duration_ms": 3,
        });
        let outcome: Value = serde_json::from_str(outcome).unwrap();
        entry
            .as_object_mut()
            .unwrap()
            .extend(outcome.as_object().unwrap().clone());
        serde_json::from_value(entry).unwrap()
    }

    fn explained(manifest: &str, grant: &str, result: &CallResult, ledger: &[LedgerEntry]) -> Value {
        explained_within(&Limits::default_ceilings(), manifest, grant, result, ledger)
    }

    fn explained_within(
        ceilings: &Limits,
        manifest: &str,
        grant: &str,
        result: &CallResult,
        ledger: &[LedgerEntry],
    ) -> Value {
        let manifest = Manifest::parse_toml(&format!("name = \"it\"\nversion = \"1\"\n{manifest}")).unwrap();
        let grant = Grant::parse_toml(grant).unwrap();
        let limits = Limits::effective(&Limits::default(), &manifest.limits, &grant.limits, ceilings);
        explanation(&Made {
            manifest: &manifest,
            given: Given {
                grant: &grant,
                workspace: false,
            },
            result,
            metering: &Metering::default(),
            limits: Some(&limits),
            ceilings,
            denials: &[],
            events: &[],
            ledger,
            times: Times {
                load: Duration::from_millis(3),
                kept: true,
                instance: None,
            },
        })
    }

    #[test]
    fn a_refused_request_tells_the_lines_that_would_let_it_through_in_each_file_that_lacks_them() {
        let denied = entry(r#"{"outcome": "denied", "reason": "no rule"}"#);
        let asked = "[network]\nallow = [\"https://api.example.com:8443/v1\"]\n";
        let result = Ok(fumehood_core::call::Output::default());
        let explained = |manifest: &str, grant: &str| {
            super::tests::explained(manifest, grant, &result, std::slice::from_ref(&denied))
        };
        let wanted = "\"GET https://api.example.com:8443/v1/x\"";
        let change = explained("", "")["change"].clone();
        assert_eq!(change[0]["file"], "tool.toml");
        assert_eq!(change[0]["lines"], json!(["[network]", format!("allow = [{wanted}]")]));
        assert_eq!(change[1]["file"], "the grant");
        let change = explained(asked, "[network]\nallow = [\"https://other.example\"]\n")["change"].clone();
        assert_eq!(change.as_array().unwrap().len(), 1, "it is asked for: {change}");
        let lines = json!(["[network]", format!("allow = [\"https://other.example\", {wanted}]")]);
        assert_eq!(change[0]["lines"], lines, "what is there stays");
        assert_eq!(explained(asked, asked)["change"], json!([]), "another layer refused it");
    }

    #[test]
    fn a_limit_that_ended_a_call_is_named_with_twice_as_much() {
        let ended = |error: CallError| explained("", "", &Err(error), &[])["change"].clone();
        let memory = ended(CallError::trapped(TrapKind::Memory, "out"));
        assert_eq!(
            memory,
            json!([{"file": "tool.toml", "lines": ["[limits]", "memory = \"128MiB\""]}])
        );
        let calls = ended(CallError::trapped(TrapKind::HostCalls, "out"));
        assert_eq!(calls[0]["lines"][1], "host_calls = 2000000");
        assert_eq!(ended(CallError::new(CallErrorCode::Failed, "no")), json!([]));
    }

    #[test]
    fn a_limit_is_raised_where_it_is_too_low_and_never_lowered_where_it_is_not() {
        let cpu = |ceilings: &Limits, manifest: &str, grant: &str| {
            let limits = |text: &str| match text {
                "" => String::new(),
                text => format!("[limits]\ncpu = \"{text}\"\n"),
            };
            let (manifest, grant) = (limits(manifest), limits(grant));
            let ended = Err(CallError::trapped(TrapKind::Cpu, "out"));
            let explained = explained_within(ceilings, &manifest, &grant, &ended, &[]);
            let changes = list(&explained, "change").iter();
            changes
                .map(|change| format!("{}: {}", text(change, "file"), change["lines"][1].as_str().unwrap()))
                .collect::<Vec<_>>()
        };
        let ceilings = Limits::default_ceilings();
        assert_eq!(cpu(&ceilings, "10s", "1s"), ["the grant: cpu = \"2s\""]);
        assert_eq!(cpu(&ceilings, "", "1s"), ["the grant: cpu = \"2s\""]);
        assert_eq!(cpu(&ceilings, "1s", "10s"), ["tool.toml: cpu = \"2s\""]);
        let both = ["tool.toml: cpu = \"6s\"", "the grant: cpu = \"6s\""];
        assert_eq!(cpu(&ceilings, "4s", "3s"), both);
        // No more than there can be; and where there is none left, it is the operator's to raise.
        assert_eq!(cpu(&ceilings, "40s", ""), ["tool.toml: cpu = \"1m\""]);
        assert_eq!(cpu(&ceilings, "5m", "5m"), ["fumehood.toml: cpu = \"2m\""]);
    }

    #[test]
    fn a_secret_that_a_request_went_without_is_named_with_its_host() {
        let result = Ok(fumehood_core::call::Output::default());
        let credential = "[[credential]]\nsecret = \"KEY\"\nhosts = [\"api.example.com\"]\ninject = { header = \"x-key\", format = \"{}\" }\n";
        let missing = |grant: &str, outcome: &str, with: &[&str]| {
            let mut entry = entry(outcome);
            entry.secrets = with.iter().map(|name| name.parse().unwrap()).collect();
            explained(credential, grant, &result, &[entry])["secrets_missing"].clone()
        };
        let granted = "[[credential]]\nsecret = \"KEY\"\n";
        let went = r#"{"outcome": "completed", "status": 401}"#;
        assert_eq!(
            missing(granted, went, &[]),
            json!([{"secret": "KEY", "host": "api.example.com"}])
        );
        assert_eq!(missing(granted, went, &["KEY"]), json!([]));
        assert_eq!(missing("", went, &[]), json!([]), "it is not granted");
        let denied = r#"{"outcome": "denied", "reason": "no rule"}"#;
        assert_eq!(missing(granted, denied, &[]), json!([]), "nothing went");
    }

    #[test]
    fn a_directory_that_is_given_in_vain_is_told_with_what_would_let_it_in() {
        let in_vain = |manifest: &str, grant: &str| {
            let manifest = Manifest::parse_toml(&format!("name = \"it\"\nversion = \"1\"\n{manifest}")).unwrap();
            let grant = Grant::parse_toml(grant).unwrap();
            let explained = explanation(&Made {
                given: Given {
                    grant: &grant,
                    workspace: true,
                },
                manifest: &manifest,
                result: &Ok(fumehood_core::call::Output::default()),
                metering: &Metering::default(),
                limits: None,
                ceilings: &Limits::default_ceilings(),
                denials: &[],
                events: &[],
                ledger: &[],
                times: Times {
                    load: Duration::ZERO,
                    kept: true,
                    instance: None,
                },
            });
            let files = list(&explained, "change")
                .iter()
                .map(|change| text(change, "file").to_owned());
            (list(&explained, "refused").len(), files.collect::<Vec<_>>())
        };
        let read = "[files]\nworkspace = \"read\"\n";
        let in_both = vec!["tool.toml".to_owned(), "the grant".to_owned()];
        assert_eq!(in_vain("", ""), (1, in_both));
        assert_eq!(in_vain(read, ""), (1, vec!["the grant".to_owned()]));
        assert_eq!(in_vain(read, read), (0, Vec::new()));
    }

    #[test]
    fn each_request_is_told_with_what_decided_and_what_came_of_it() {
        let result = Ok(fumehood_core::call::Output::default());
        let ledger = [
            entry(r#"{"outcome": "completed", "status": 404}"#),
            entry(r#"{"outcome": "failed", "reason": "broken"}"#),
        ];
        let explained = explained("", "", &result, &ledger);
        let requests = list(&explained, "requests");
        assert_eq!(
            (&requests[0]["status"], &requests[0]["rule"]),
            (&json!(404), &json!("grant"))
        );
        assert_eq!(
            (&requests[1]["decision"], &requests[1]["failed"]),
            (&json!("allowed"), &json!("broken"))
        );
        assert_eq!(
            explained["used"][2],
            json!({"limit": "memory", "used": "0B", "of": "64MiB"})
        );
    }
}
