//! A secret's value is nowhere outside: not in a reply, an event, a log, a file of the host, whatever is done with it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_tests::{Host, Place, find, world::World};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;

const TOKEN: &str = "tok/8D7f+2a91C3e45b60";
const KEY: &str = "sign-8f1b2c3d4e5f6071";
const NOTE: &str = "note?9a8b7c6d5e4f3021";

/// Every form in which a value could be somewhere. Of base64 only what doesn't depend on what stands beside it.
fn forms(value: &str) -> Vec<String> {
    let hex: String = value.bytes().map(|b| format!("{b:02x}")).collect();
    let mut forms = vec![
        value.to_owned(),
        hex.to_uppercase(),
        value.chars().rev().collect(),
        value.replace('/', "\\/"),
        value.replace('/', "%2F").replace('+', "%2B").replace('?', "%3F"),
        value.bytes().map(|b| format!("\\u{b:04x}")).collect(),
    ];
    forms.push(hex);
    for offset in 0..3 {
        let text = STANDARD.encode(format!("{}{value}", "x".repeat(offset)));
        let core = &text[(offset * 8).div_ceil(6)..(offset + value.len()) * 8 / 6];
        forms.push(core.to_owned());
        forms.push(core.replace('+', "-").replace('/', "_"));
    }
    forms
}

fn assert_clean(what: &str, text: &[u8], values: &[&str]) {
    let text = String::from_utf8_lossy(text);
    for form in values.iter().flat_map(|value| forms(value)) {
        if let Some((before, after)) = text.split_once(&form) {
            let around = (before.lines().last(), after.lines().next());
            panic!("{what} holds {form}: {around:?}");
        }
    }
}

fn assert_clean_dir(dir: &Path, values: &[&str]) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            assert_clean_dir(&path, values);
        } else if path.is_file() {
            assert_clean(&path.display().to_string(), &std::fs::read(&path).unwrap(), values);
        }
    }
}

async fn reply(host: &Host, method: Method, path: &str, body: Option<Value>) -> Vec<u8> {
    let mut request = host.request(method, path).header("accept", "application/json");
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    let mut bytes = format!("{:?}", response.headers()).into_bytes();
    bytes.extend(response.bytes().await.unwrap());
    bytes
}

/// A model that says the values, asks for calls that hold them, and cannot be stopped from it.
fn script(world: &World) -> String {
    let hex: String = TOKEN.bytes().map(|b| format!("{b:02x}")).collect();
    format!(
        r#"
turns:
  - match: "everything"
    steps:
      - text: "I will use {TOKEN} and {hex}."
        tool_calls:
          - {{ tool: echo, arguments: {{ text: "plain {TOKEN} hex {hex}" }} }}
          - {{ tool: http_get, arguments: {{ url: "{echo}" }} }}
          - {{ tool: http_get, arguments: {{ url: "{echo}?q={TOKEN}" }} }}
          - {{ tool: http_get, arguments: {{ url: "{echo}", method: "POST", body: "{KEY}" }} }}
          - {{ tool: fail, arguments: {{ kind: "failed", message: "because of {TOKEN}" }} }}
          - {{ tool: fail, arguments: {{ how: "{TOKEN}", kind: 7, message: "x" }} }}
          - {{ tool: panic, arguments: {{ message: "panicked over {TOKEN}" }} }}
          - {{ tool: secret_sign, arguments: {{ name: "HOSTILE_KEY", message: "m" }} }}
          - {{ tool: secret_sign, arguments: {{ name: "HOSTILE_TOKEN", message: "m" }} }}
          - {{ tool: peer_call, arguments: {{ tool: "echo", arguments: {{ text: "{TOKEN}" }} }} }}
          - {{ tool: "{TOKEN}", arguments: {{}} }}
          - {{ tool: echo, malformed_arguments: "{{\"text\": \"{TOKEN}\"" }}
      - text: "Done with {TOKEN}."
otherwise:
  steps:
    - text: "You said: {{{{input}}}}"
"#,
        echo = world.url("/echo"),
    )
}

#[tokio::test]
async fn no_route_shows_a_value_and_no_file_or_log_of_the_host_holds_one() {
    let world = World::start().await;
    let place = Place::scripted(
        &script(&world),
        "[network]\nprivate_networks = [\"127.0.0.1/32\"]\n[agent.assistant]\nmodel = \"main\"\nrecord = true\n",
    );
    let host = place
        .serve_with(&[("FUMEHOOD_LOG", "trace,cranelift=warn,regalloc2=warn")])
        .await;
    host.add_guest("hostile", None).await;
    let set = reply(
        &host,
        Method::PUT,
        "/v1/secrets/HOSTILE_TOKEN",
        Some(json!({"value": TOKEN})),
    )
    .await;
    assert_clean("the reply to a new secret", &set, &[TOKEN]);
    let session = host.session(json!({"secrets": {"HOSTILE_KEY": KEY}})).await;

    let turn = host.turn(&session, &format!("everything, by {TOKEN} and {KEY}")).await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let said = host.turn(&session, &format!("{TOKEN} or {KEY}")).await;
    assert_eq!(
        said["output"][0]["text"], "You said: [secret:HOSTILE_TOKEN] or [secret:HOSTILE_KEY]",
        "{said}"
    );
    for (tool, arguments) in [
        ("echo", json!({"text": TOKEN})),
        ("echo", json!({TOKEN: KEY})),
        (
            "http_get",
            json!({"url": world.url("/echo"), "headers": {"x-note": TOKEN}}),
        ),
        ("http_get", json!({"url": world.url(&format!("/{KEY}"))})),
        ("secret_available", json!({"name": "HOSTILE_KEY"})),
    ] {
        let result = host.call(tool, Some(&session), arguments).await;
        assert_clean(tool, result.to_string().as_bytes(), &[TOKEN, KEY]);
    }

    let events = host.events(&session).await;
    let completed = |tool: &str, status: &str| {
        find(&events, "tool.completed", |data| {
            data["tool"] == tool && data["status"] == status
        })
        .unwrap_or_else(|| panic!("no {tool} with {status}: {events:#?}"))
    };
    assert!(
        completed("echo", "ok")
            .to_string()
            .contains("plain [secret:HOSTILE_TOKEN] hex [secret:")
    );
    assert!(
        completed("http_get", "ok")
            .to_string()
            .contains("Bearer [secret:HOSTILE_TOKEN]")
    );
    assert!(
        find(&events, "tool.completed", |data| data["tool"] == "fail"
            && data["error"]["message"] == "because of [secret:HOSTILE_TOKEN]")
        .is_some(),
        "{events:#?}"
    );
    completed("secret_sign", "ok");
    completed("secret_sign", "denied");
    assert!(find(&events, "secret.used", |data| data["used_for"] == "sign").is_some());
    assert!(
        world.arrived().iter().any(|arrived| arrived
            .headers
            .get("authorization")
            .is_some_and(|value| value == &format!("Bearer {TOKEN}"))),
        "the value was used"
    );

    let turn_id = turn["id"].as_str().unwrap();
    for path in [
        "/v1/secrets".to_owned(),
        "/v1/sessions".to_owned(),
        "/v1/tools".to_owned(),
        "/v1/tools/hostile".to_owned(),
        format!("/v1/turns/{turn_id}"),
        format!("/v1/sessions/{session}"),
        format!("/v1/sessions/{session}/secrets"),
        format!("/v1/sessions/{session}/events?after=0&limit=1000"),
        format!("/v1/sessions/{session}/messages"),
        format!("/v1/sessions/{session}/ledger"),
        format!("/v1/sessions/{session}/files"),
        format!("/v1/sessions/{session}/kv"),
    ] {
        assert_clean(&path, &reply(&host, Method::GET, &path, None).await, &[TOKEN, KEY]);
    }
    let log = host.stop().await;
    assert!(log.len() > 10_000, "the log was to say everything");
    assert_clean("the log", log.as_bytes(), &[TOKEN, KEY]);
    assert_clean_dir(&place.data(), &[TOKEN, KEY]);
}

#[tokio::test]
async fn what_a_client_kept_itself_leaves_without_the_value_and_keeps_its_tag() {
    let place = Place::new("");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let text = format!("before {NOTE} after\nsecond line\n");
    host.put_file(&session, "a.txt", text.clone()).await;
    let files = format!("/v1/sessions/{session}/files");
    let kv = format!("/v1/sessions/{session}/kv/a");
    let put = host.request(Method::PUT, &kv).body(text).send().await.unwrap();
    assert!(put.status().is_success());
    let read = async |path: &str| {
        let response = host.request(Method::GET, path).send().await.unwrap();
        let tag = response
            .headers()
            .get("etag")
            .map(|tag| tag.to_str().unwrap().to_owned());
        (tag, response.text().await.unwrap())
    };
    let before = read(&format!("{files}/a.txt")).await;
    assert!(before.1.contains(NOTE), "it is no secret yet");

    reply(&host, Method::PUT, "/v1/secrets/NOTE", Some(json!({"value": NOTE}))).await;
    let after = read(&format!("{files}/a.txt")).await;
    assert_eq!(after.1, "before [secret:NOTE] after\nsecond line\n");
    assert_eq!(after.0, before.0, "the tag names what is stored");
    assert_eq!(read(&kv).await.1, "before [secret:NOTE] after\nsecond line\n");
    let found = host
        .get(&format!("{files}?grep=line%7Cbefore&context=1"))
        .await
        .to_string();
    assert!(found.contains("[secret:NOTE]"), "{found}");
    assert_clean("a search", found.as_bytes(), &[NOTE]);
    let changed = host
        .request(Method::PUT, &format!("{files}/a.txt"))
        .header("if-match", after.0.unwrap())
        .body("new")
        .send()
        .await
        .unwrap();
    assert!(changed.status().is_success(), "{}", changed.status());

    reply(&host, Method::DELETE, "/v1/secrets/NOTE", None).await;
    assert!(read(&kv).await.1.contains(NOTE), "what is no secret any more is shown");
    host.stop().await;
}

#[tokio::test]
async fn a_value_in_a_name_or_over_lines_or_beyond_a_cut_does_not_leave() {
    const WORD: &str = "in-a-name-0123456789";
    let place = Place::new("");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let value = "two-lines-of-it\nand-the-second-one";
    let long = format!("{}{WORD} after\n{value} end\n", "x".repeat(1015));
    host.put_file(&session, "long.txt", long).await;
    host.put_file(&session, &format!("by-{WORD}.txt"), "found here".to_owned())
        .await;
    let kv = format!("/v1/sessions/{session}/kv");
    let put = host
        .request(Method::PUT, &format!("{kv}/k-{WORD}"))
        .body("v")
        .send()
        .await
        .unwrap();
    assert!(put.status().is_success());
    reply(&host, Method::PUT, "/v1/secrets/WORD", Some(json!({"value": WORD}))).await;
    reply(&host, Method::PUT, "/v1/secrets/LINES", Some(json!({"value": value}))).await;
    let made = json!({"title": format!("about {WORD}"), "metadata": {"note": WORD, "more": [value]}});
    let made = host.session(made).await;
    let patch = json!({"title": format!("still {WORD}"), "metadata": {"again": WORD}});
    let files = format!("/v1/sessions/{session}/files");
    let mut all = reply(&host, Method::PATCH, &format!("/v1/sessions/{made}"), Some(patch)).await;
    for path in [
        files.clone(),
        format!("{files}?grep=x&context=5"),
        format!("{files}?grep=end&context=5"),
        format!("{files}?grep=found"),
        kv,
        format!("/v1/sessions/{made}"),
        format!("/v1/sessions/{made}/events"),
        "/v1/sessions".to_owned(),
    ] {
        all.extend(reply(&host, Method::GET, &path, None).await);
    }
    let all = String::from_utf8(all).unwrap();
    for part in [WORD, &WORD[..8], "two-lines", "second-one"] {
        assert!(!all.contains(part), "{part} in {all}");
    }
    assert!(
        all.contains("by-[secret:WORD].txt") && all.contains("k-[secret:WORD]"),
        "{all}"
    );
    assert!(all.contains("[secret:LINES]"), "{all}");
    host.stop().await;
}

#[tokio::test]
async fn a_secret_of_the_wrong_type_is_refused_without_being_repeated() {
    let place = Place::new("");
    let host = place.serve().await;
    for (method, path, body) in [
        (Method::PUT, "/v1/secrets/NOTE", json!({"value": 48_151_623_421_u64})),
        (Method::PUT, "/v1/secrets/NOTE", json!({"value": -48_151_623_421_i64})),
        (Method::PUT, "/v1/secrets/NOTE", json!({"value": 48_151.623_421})),
        (Method::PUT, "/v1/secrets/NOTE", json!({"value": ["48151623421"]})),
        (Method::PUT, "/v1/secrets/NOTE", json!("48151623421")),
        (Method::PUT, "/v1/secrets/NOTE", json!(48_151_623_421_u64)),
        (
            Method::POST,
            "/v1/sessions",
            json!({"secrets": {"NOTE": 48_151_623_421_u64}}),
        ),
        (Method::POST, "/v1/sessions", json!({"secrets": "48151623421"})),
        (Method::POST, "/v1/sessions", json!({"secrets": 48_151_623_421_u64})),
    ] {
        let shown = String::from_utf8(reply(&host, method, path, Some(body.clone())).await).unwrap();
        assert!(!shown.contains("48151"), "{body}: {shown}");
        assert!(
            shown.contains("\"status\":422") || shown.contains("\"status\":400"),
            "{body}: {shown}"
        );
    }
    host.stop().await;
}

#[tokio::test]
async fn a_session_s_secret_is_known_in_that_session_and_shadows_the_org_s() {
    let place = Place::new("");
    let host = place.serve().await;
    host.add_guest("hostile", None).await;
    let own = host.session(json!({})).await;
    let other = host.session(json!({})).await;
    let echo = async |session: &str| {
        let result = host
            .call("echo", Some(session), json!({"text": format!("{TOKEN} {NOTE}")}))
            .await;
        result["output"]["content"][0]["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(echo(&own).await, format!("{TOKEN} {NOTE}"));
    reply(&host, Method::PUT, "/v1/secrets/A", Some(json!({"value": TOKEN}))).await;
    assert_eq!(echo(&own).await, format!("[secret:A] {NOTE}"));
    let path = format!("/v1/sessions/{own}/secrets/A");
    reply(&host, Method::PUT, &path, Some(json!({"value": NOTE}))).await;
    assert_eq!(
        echo(&own).await,
        "[secret:A] [secret:A]",
        "the org's is in effect no more, and still a secret"
    );
    assert_eq!(echo(&other).await, format!("[secret:A] {NOTE}"));
    reply(&host, Method::DELETE, &path, None).await;
    assert_eq!(echo(&own).await, format!("[secret:A] {NOTE}"));
    host.stop().await;
}

#[tokio::test]
async fn the_master_key_is_changed_while_nobody_serves_and_the_secrets_stay() {
    let place = Place::new("");
    let host = place.serve().await;
    reply(&host, Method::PUT, "/v1/secrets/A", Some(json!({"value": TOKEN}))).await;
    let refused = place.run(&["secret", "rotate"]).await;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("Stop the host"), "{words}");
    host.stop().await;

    let would = place.json(&["secret", "rotate", "--dry-run"]).await;
    assert_eq!(
        (&would["rewrapped"], &would["key"]),
        (&json!(1), &Value::Null),
        "{would}"
    );
    let key = std::fs::read(place.data().join("master.key")).unwrap();
    let rotated = place.json(&["secret", "rotate"]).await;
    assert_eq!(rotated["rewrapped"], 1, "{rotated}");
    assert_ne!(std::fs::read(place.data().join("master.key")).unwrap(), key);
    assert_eq!(std::fs::read(rotated["retired"].as_str().unwrap()).unwrap(), key);
    let doctor = place.json(&["doctor"]).await.to_string();
    assert!(
        doctor.contains(&format!(
            "1 secret under the master key {}",
            rotated["key"].as_str().unwrap()
        )),
        "{doctor}"
    );

    let host = place.serve().await;
    let session = host.session(json!({})).await;
    host.put_file(&session, "a.txt", TOKEN).await;
    let path = format!("/v1/sessions/{session}/files/a.txt");
    let read = reply(&host, Method::GET, &path, None).await;
    assert!(String::from_utf8_lossy(&read).contains("[secret:A]"), "the value opens");
    host.stop().await;
}

#[tokio::test]
async fn the_master_key_is_changed_in_the_environment_while_hosts_know_both() {
    const OLD: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const NEW: &str = "HxwdHh8AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRo=";
    let (now, before) = ("FUMEHOOD_MASTER_KEY", "FUMEHOOD_MASTER_KEY_PREVIOUS");
    let place = Place::empty("");
    let host = place.serve_with(&[(now, OLD)]).await;
    host.put("/v1/secrets/TOKEN", json!({"value": "tok-271828182845"}))
        .await;
    host.stop().await;
    // A host that already has both keys serves what either sealed.
    let both = [(now, NEW), (before, OLD)];
    let host = place.serve_with(&both).await;
    assert!(host.get("/v1/secrets").await.to_string().contains("TOKEN"));
    host.stop().await;
    let rotated = place
        .command(&["--json", "secret", "rotate"])
        .envs(both)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&rotated.stdout).into_owned();
    assert!(
        rotated.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&rotated.stderr)
    );
    assert!(
        text.contains("\"rewrapped\":1") || text.contains("\"rewrapped\": 1"),
        "{text}"
    );
    let host = place.serve_with(&[(now, NEW)]).await;
    assert!(host.get("/v1/secrets").await.to_string().contains("TOKEN"));
    host.stop().await;
    let old = place.command(&["secret", "list"]).env(now, OLD).output().await.unwrap();
    assert!(!old.status.success(), "the old key opens nothing any more");
}
