//! What a call is explained with.

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
        host_calls: None,
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
    let explained =
        |manifest: &str, grant: &str| super::tests::explained(manifest, grant, &result, std::slice::from_ref(&denied));
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
            host_calls: None,
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

#[test]
fn equal_rows_that_follow_one_another_are_one_and_say_how_often() {
    let rows = [
        "denied a\n  no",
        "denied a\n  no",
        "denied b",
        "denied a\n  no",
        "x",
        "x",
    ];
    let folded = folded(rows.into_iter().map(str::to_owned));
    assert_eq!(folded, ["denied a × 2\n  no", "denied b", "denied a\n  no", "x × 2"]);
}
