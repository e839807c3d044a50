//! `fumehood tool call FILE`: a component is called without a host, and what happened is explained.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Place, root, said};
use serde_json::{Value, json};

#[tokio::test]
async fn a_call_is_explained_with_what_decided_and_what_to_change_and_its_code_is_kept() {
    let place = Place::empty("");
    let http = root().join("target/guests/http.wasm");
    let call = [
        "tool",
        "call",
        http.to_str().unwrap(),
        "http_fetch",
        r#"{"url": "https://api.example.com/v1"}"#,
    ];
    let explained = async |more: &[&str]| {
        let output = place
            .run(&[&["--json"], &call[..], &["--explain"], more].concat())
            .await;
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
        value["explanation"].clone()
    };
    let first = explained(&[]).await;
    assert_eq!(first["time"]["code"], "compiled");
    assert_eq!(first["requests"][0]["decision"], "denied", "{first}");
    assert_eq!(first["requests"][0]["request"], "GET https://api.example.com/v1");
    let lines = json!(["[network]", r#"allow = ["GET https://api.example.com/v1"]"#]);
    assert_eq!(
        first["change"],
        json!([{"file": "the grant", "lines": lines}]),
        "{first}"
    );
    assert!(!first["refused"].as_array().unwrap().is_empty());
    let request = &first["host_calls"]["rows"][0];
    assert_eq!(
        (&request["interface"], &request["asked"], &request["outcome"]),
        (
            &json!("http"),
            &json!("GET https://api.example.com/v1"),
            &json!("denied")
        ),
        "{first}"
    );
    let limits: Vec<&str> = first["used"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["limit"].as_str())
        .collect();
    assert_eq!(
        limits,
        ["time", "cpu", "memory", "output", "host_calls", "http_requests"]
    );

    let starved = explained(&["--limit", "memory=1MiB"]).await;
    assert_eq!(starved["time"]["code"], "kept", "{starved}");
    let text = place.run(&[&call[..], &["--explain"]].concat()).await;
    for part in [
        "host calls\n  http       GET https://api.example.com/v1: denied",
        "denied  GET https://api.example.com/v1",
        "to have it, in the grant",
        "the compiled code was kept",
    ] {
        assert!(said(&text).contains(part), "{part}: {}", said(&text));
    }
    // What another version of this program compiled is of no use to this one.
    let compiled = place.path().join("cache/fumehood/compiled");
    for entry in std::fs::read_dir(&compiled).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "aot") {
            continue;
        }
        if let Some((digest, _)) = path.to_str().unwrap().rsplit_once('-') {
            let _ = std::fs::rename(&path, format!("{digest}-0123456789abcdef.aot"));
        }
    }
    assert_eq!(explained(&[]).await["time"]["code"], "compiled");
    // Where others could have put something, nothing is kept.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(place.path().join("cache/fumehood/compiled"), open).unwrap();
    assert_eq!(explained(&[]).await["time"]["code"], "compiled");
}

// T-box-cache-tamper
#[tokio::test]
async fn calls_of_files_begin_from_a_kept_empty_database_and_never_from_one_that_was_changed() {
    let place = Place::empty("");
    let echo = root().join("target/guests/echo.wasm");
    let call = ["tool", "call", echo.to_str().unwrap(), "echo", r#"{"text": "hello"}"#];
    let called = async || {
        let output = place.run(&call).await;
        assert!(output.status.success(), "{}", said(&output));
        let kept = std::fs::read_dir(place.path().join("cache/fumehood/compiled")).unwrap();
        let databases: Vec<_> = kept
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "db"))
            .collect();
        let [database] = &databases[..] else {
            panic!("{databases:?}");
        };
        database.clone()
    };
    let database = called().await;
    let written = std::fs::metadata(&database).unwrap().modified().unwrap();
    called().await;
    assert_eq!(
        std::fs::metadata(&database).unwrap().modified().unwrap(),
        written,
        "what is kept is no call's own"
    );
    let changed = vec![0; 8192];
    std::fs::write(&database, &changed).unwrap();
    called().await;
    assert_ne!(std::fs::read(&database).unwrap(), changed);
}

#[tokio::test]
async fn each_call_of_the_host_is_told_in_order_with_what_allowed_it_and_equal_ones_once() {
    let place = Place::empty("");
    let hostile = root().join("target/guests/hostile.wasm");
    let explained = async |tool: &str, arguments: &str, more: &[&str]| {
        let call = ["tool", "call", hostile.to_str().unwrap(), tool, arguments, "--explain"];
        said(&place.run(&[&call[..], more].concat()).await)
    };
    let set = r#"{"key": "last", "value": "Tuesday"}"#;
    let text = explained("kv_set", set, &["--yes"]).await;
    let rows = "host calls\n  key-values open the bucket \"default\": done; by [kv] access = \"read-write\"\n  \
                key-values set \"last\" to 7 bytes: done; by [kv] access = \"read-write\"\n";
    assert!(text.contains(rows), "{text}");
    let text = explained("kv_set", set, &[]).await;
    assert!(
        text.contains("key-values open the bucket \"default\": denied\n    "),
        "{text}"
    );
    let many = r#"{"url": "https://a.example/x", "n": 3}"#;
    let text = explained("http_get_many", many, &[]).await;
    assert!(
        text.contains("http       GET https://a.example/x × 3: denied\n    GET https://a.example/x is not allowed"),
        "{text}"
    );
    let text = explained("progress_flood", r#"{"n": 2000}"#, &[]).await;
    assert!(text.contains("more, which are left out"), "{text}");
    // A value of a secret is taken out of what a call asked, as it is of what it returns.
    let secret = ["--yes", "--secret", "KEY=tok-8D7f2a91C3e45b60"];
    let hidden = r#"{"key": "tok-8D7f2a91C3e45b60", "value": "x"}"#;
    let text = explained("kv_set", hidden, &secret).await;
    assert!(!text.contains("tok-8D7f2a91C3e45b60"), "{text}");
}
