//! A turn that was recorded is worked again from what is kept of it: with nothing outside, and to the same end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Host, Place, find, guest, world::World};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, SqliteConnection, sqlite::SqliteConnectOptions};
use std::process::Output;

const LOOPBACK: &str = "[network]\nprivate_networks = [\"127.0.0.1/32\"]\n";
const KEY: &str = "sign-8f1b2c3d4e5f6071";

/// The agent of the scripted model, with more of its section.
fn agent(more: &str) -> String {
    format!("{LOOPBACK}[agent.assistant]\nmodel = \"main\"\n{more}\n")
}

/// Everything that a tool can ask for, side by side.
fn everything(world: &World) -> String {
    format!(
        r#"
turns:
  - match: "/^everything$/"
    steps:
      - text: "Here."
        tool_calls:
          - {{ tool: http_get, arguments: {{ url: "{echo}", headers: {{ x-note: "a" }} }} }}
          - {{ tool: http_get, arguments: {{ url: "{big}", method: "POST", body: "sent" }} }}
          - {{ tool: http_get, arguments: {{ url: "http://127.0.0.2/refused" }} }}
          - {{ tool: random, arguments: {{}} }}
          - {{ tool: call_info, arguments: {{}} }}
          - {{ tool: clock_now, arguments: {{}} }}
          - {{ tool: many_host_calls, arguments: {{ n: 50 }} }}
          - {{ tool: env, arguments: {{}} }}
          - {{ tool: kv_set, arguments: {{ key: "k", value: "v" }} }}
          - {{ tool: kv_list, arguments: {{}} }}
          - {{ tool: secret_available, arguments: {{ name: "HOSTILE_KEY" }} }}
          - {{ tool: secret_sign, arguments: {{ name: "HOSTILE_KEY", message: "m" }} }}
          - {{ tool: peer_call, arguments: {{ tool: "echo", arguments: {{ text: "hi" }} }} }}
          - {{ tool: fail, arguments: {{ kind: "unavailable" }} }}
          - {{ tool: fail, arguments: {{ kind: "is_error" }} }}
          - {{ tool: panic, arguments: {{ message: "as asked" }} }}
          - {{ tool: write_file, arguments: {{ path: "/workspace/new", kib: 3 }} }}
          - {{ tool: nobody, arguments: {{}} }}
      - tool_calls:
          - {{ tool: read_file, arguments: {{ path: "/workspace/mine.txt" }} }}
      - text: "Done."
  - match: "/^sleep$/"
    steps:
      - tool_calls: [ {{ tool: sleep, arguments: {{ ms: 1 }} }}, {{ tool: random, arguments: {{}} }} ]
      - text: "Slept."
  - match: "/^fetch$/"
    steps:
      - tool_calls: [ {{ tool: http_fetch, arguments: {{ url: "{hello}" }} }} ]
      - text: "Fetched."
  - match: "/^read$/"
    steps:
      - tool_calls: [ {{ tool: read_file, arguments: {{ path: "/workspace/mine.txt" }} }}, {{ tool: random, arguments: {{}} }} ]
      - text: "Read."
  - match: "/^write$/"
    steps:
      - tool_calls: [ {{ tool: write_file, arguments: {{ path: "/workspace/large", kib: 200 }} }} ]
      - text: "Written."
  - match: "/^let another write$/"
    steps:
      - tool_calls:
          - {{ tool: peer_call, arguments: {{ tool: "write_file", arguments: {{ path: "/workspace/by-another", kib: 1 }} }} }}
      - text: "Let."
  - match: "/^wait$/"
    steps:
      - tool_calls: [ {{ tool: sleep, arguments: {{ ms: 50000 }} }}, {{ tool: nobody, arguments: {{}} }} ]
      - text: "Waited."
  - match: "/^ask$/"
    steps:
      - tool_calls: [ {{ tool: files_write, arguments: {{ path: "a", content: "b" }} }} ]
      - text: "Asked."
otherwise:
  steps:
    - text: "Heard."
"#,
        echo = world.url("/echo"),
        big = world.url("/post"),
        hello = world.url("/hello"),
    )
}

async fn id_of_turn(host: &Host, session: &str, body: Value) -> String {
    let turn = host.post(&format!("/v1/sessions/{session}/turns"), body).await;
    assert_eq!(turn["status"], "completed", "{turn}");
    turn["id"].as_str().unwrap().to_owned()
}

/// A place with a turn of this input that has ended, and nothing outside any more.
async fn worked(config: &str, input: Value) -> (Place, String, Vec<Value>) {
    worked_on(config, "as it was", input).await
}

/// The same with this in the session's file.
async fn worked_on(config: &str, mine: &'static str, input: Value) -> (Place, String, Vec<Value>) {
    let world = World::start().await;
    let place = Place::scripted(&everything(&world), config);
    let host = place.serve_with(&[("FUMEHOOD_GUEST_TZ", "Europe/Zurich")]).await;
    host.add_guest("hostile", None).await;
    let grant = json!({"network": {"allow": [world.url("")]}});
    host.put("/v1/tools/http/grant", grant).await;
    let session = host.session(json!({"secrets": {"HOSTILE_KEY": KEY}})).await;
    host.put_file(&session, "mine.txt", mine).await;
    let turn = id_of_turn(&host, &session, input).await;
    let events = host.events(&session).await;
    // What comes after is nothing to the replay.
    host.put_file(&session, "mine.txt", "as it is now").await;
    host.put_file(&session, "new", "another").await;
    host.stop().await;
    (place, turn, events)
}

fn recorded(input: &str) -> Value {
    json!({"input": input, "record": true})
}

async fn replay(place: &Place, turn: &str, more: &[&str]) -> (Option<i32>, Value) {
    let output = place.run(&[&["--json", "replay", turn], more].concat()).await;
    let said = said(&output);
    (
        output.status.code(),
        serde_json::from_slice(&output.stdout).expect(&said),
    )
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn verdicts(replayed: &Value) -> Vec<(&str, &str)> {
    let calls = replayed["calls"].as_array().unwrap();
    calls
        .iter()
        .map(|call| (call["tool"].as_str().unwrap(), call["verdict"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn a_recorded_turn_is_replayed_with_nothing_outside_to_the_same_end() {
    let (place, turn, events) = worked(&agent("record = true"), json!({"input": "everything"})).await;
    let kept = events.iter().filter(|event| event["type"] == "tool.recorded");
    assert_eq!(kept.filter(|event| event["data"]["recording"].is_string()).count(), 18);

    for _ in 0..2 {
        let (code, replayed) = replay(&place, &turn, &[]).await;
        let differs: Vec<_> = replayed["calls"].as_array().unwrap().iter().collect();
        assert_eq!((code, &replayed["identical"]), (Some(0), &json!(true)), "{differs:#?}");
        assert!(replayed["decisions"]["compared"].as_u64().unwrap() >= 20, "{replayed}");
        let verdicts = verdicts(&replayed);
        assert_eq!(verdicts.len(), 19);
        for (tool, verdict) in verdicts {
            let expected = if tool == "nobody" { "skipped" } else { "identical" };
            assert_eq!(verdict, expected, "{tool}: {replayed:#}");
        }
    }
    let text = said(&place.run(&["replay", &turn]).await);
    assert!(
        text.contains("random: identical") && text.contains("18 identical, 1 skipped"),
        "{text}"
    );
}

#[tokio::test]
async fn a_turn_that_was_not_recorded_says_so_and_one_can_be_asked_for() {
    let (place, turn, events) = worked(&agent(""), json!({"input": "sleep"})).await;
    assert!(
        find(&events, "tool.recorded", |_| true).is_none(),
        "nobody asked for it"
    );
    let (code, replayed) = replay(&place, &turn, &[]).await;
    assert_eq!(
        verdicts(&replayed),
        [("sleep", "not_recorded"), ("random", "not_recorded")]
    );
    assert_eq!(code, Some(0), "nothing differs");
    assert!(replayed["decisions"]["compared"].as_u64().unwrap() > 4, "{replayed}");
    let text = said(&place.run(&["replay", &turn]).await);
    assert!(text.contains("`record = true`"), "{text}");

    let (place, turn, _) = worked(&agent(""), recorded("sleep")).await;
    let (_, replayed) = replay(&place, &turn, &[]).await;
    assert_eq!(verdicts(&replayed), [("sleep", "identical"), ("random", "identical")]);
}

#[tokio::test]
async fn what_an_operator_forbids_is_not_recorded_and_what_is_too_large_neither() {
    let none = format!("[recordings]\nbytes = \"0B\"\n{}", agent("record = true"));
    let (place, turn, events) = worked(&none, recorded("sleep")).await;
    assert!(find(&events, "tool.recorded", |_| true).is_none());
    let (_, replayed) = replay(&place, &turn, &[]).await;
    assert_eq!(replayed["calls"][0]["verdict"], "not_recorded");

    let small = format!("[recordings]\nbytes = \"100B\"\n{}", agent("record = true"));
    let (place, turn, events) = worked(&small, json!({"input": "sleep"})).await;
    let told = find(&events, "tool.recorded", |_| true).unwrap();
    let why = told["missing"].as_str().unwrap_or_else(|| panic!("{told}"));
    assert!(why.contains("100 bytes") && why.contains("[recordings]"), "{why}");
    let (_, replayed) = replay(&place, &turn, &[]).await;
    assert_eq!(replayed["calls"][0]["why"], why, "{replayed}");
}

/// The same component with other words in it, of the same length.
fn changed(place: &Place, name: &str, wasm: Vec<u8>, (from, to): (&str, &str)) -> String {
    assert_eq!(from.len(), to.len());
    let mut wasm = wasm;
    let places: Vec<_> = (0..=wasm.len() - from.len())
        .filter(|at| wasm[*at..].starts_with(from.as_bytes()))
        .collect();
    assert!(!places.is_empty(), "{from} is not in {name}");
    for at in places {
        wasm[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    let file = place.path().join(name);
    std::fs::write(&file, wasm).unwrap();
    file.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn another_version_of_a_component_shows_what_it_would_have_done() {
    let (place, turn, _) = worked(&agent("record = true"), json!({"input": "sleep"})).await;
    let same = changed(&place, "hostile.wasm", guest("hostile"), ("slept", "slept"));
    let (code, replayed) = replay(&place, &turn, &["--with-component", &same]).await;
    assert_eq!((code, &replayed["identical"]), (Some(0), &json!(true)), "{replayed:#}");

    let other = changed(&place, "hostile.wasm", guest("hostile"), ("slept ", "dozed "));
    let (code, replayed) = replay(&place, &turn, &["--with-component", &other]).await;
    assert_eq!((code, &replayed["identical"]), (Some(1), &json!(false)));
    let call = &replayed["calls"][0];
    assert_eq!(call["verdict"], "differs", "{replayed:#}");
    assert_eq!(
        (&call["at"], &call["recorded"], &call["replayed"]),
        (
            &json!("the result/output/content/0/text"),
            &json!("\"slept 1 ms\""),
            &json!("\"dozed 1 ms\"")
        )
    );
    assert_eq!(
        replayed["calls"][1]["verdict"], "identical",
        "the rest is looked at as well"
    );
    let text = said(&place.run(&["replay", &turn, "--with-component", &other]).await);
    let lines = "  recorded: \"slept 1 ms\"\n  replayed: \"dozed 1 ms\"\n";
    assert!(
        text.contains(lines) && text.contains("1 identical, 1 differs"),
        "{text}"
    );
}

#[tokio::test]
async fn a_request_that_was_not_made_is_shown_beside_the_one_that_was() {
    let (place, turn, _) = worked(&agent(""), recorded("fetch")).await;
    let (_, replayed) = replay(&place, &turn, &[]).await;
    assert_eq!(verdicts(&replayed), [("http_fetch", "identical")], "{replayed:#}");

    let wasm = guest("http");
    let other = changed(&place, "http.wasm", wasm, ("fumehood-http/0.1", "fumehood-http/0.2"));
    let (code, replayed) = replay(&place, &turn, &["--with-component", &other]).await;
    let call = &replayed["calls"][0];
    assert_eq!(
        (code, &call["at"]),
        (Some(1), &json!("request 1 to the host")),
        "{replayed:#}"
    );
    let side = |side: &str| call[side].as_str().unwrap().to_owned();
    assert!(side("recorded").contains("user-agent: fumehood-http/0.1"), "{call}");
    assert!(side("replayed").contains("user-agent: fumehood-http/0.2"), "{call}");
}

/// Why nothing is kept of a call of this tool.
fn missing<'e>(events: &'e [Value], tool: &str) -> &'e str {
    let asked = find(events, "tool.requested", |data| data["call"]["tool"] == tool).unwrap();
    let told = find(events, "tool.recorded", |data| data["call"] == asked["call"]["id"]).unwrap();
    told["missing"].as_str().unwrap_or_else(|| panic!("{told}"))
}

async fn database(place: &Place) -> SqliteConnection {
    let database = SqliteConnectOptions::new().filename(place.data().join("fumehood.db"));
    database.connect().await.unwrap()
}

#[tokio::test]
async fn a_result_with_the_value_of_a_secret_in_it_is_not_kept_though_a_tool_read_it_from_a_file() {
    let (place, turn, events) = worked_on(&agent("record = true"), KEY, json!({"input": "read"})).await;
    assert_eq!(missing(&events, "read_file"), "it would hold the value of a secret");
    let kept: Vec<Vec<u8>> = sqlx::query_scalar("SELECT content FROM recordings")
        .fetch_all(&mut database(&place).await)
        .await
        .unwrap();
    let has_value = |content: &Vec<u8>| content.windows(KEY.len()).any(|bytes| bytes == KEY.as_bytes());
    assert!(kept.len() == 1 && !kept.iter().any(has_value), "of the other call");
    let (code, replayed) = replay(&place, &turn, &[]).await;
    assert_eq!(
        (code, verdicts(&replayed)),
        (Some(0), vec![("read_file", "not_recorded"), ("random", "identical")])
    );
    assert_eq!(replayed["calls"][0]["why"], "it would hold the value of a secret");
}

#[tokio::test]
async fn a_call_whose_files_are_not_kept_as_it_left_them_is_not_recorded() {
    let little = format!("[files]\nsnapshots = \"64KiB\"\n{}", agent("record = true"));
    let (place, turn, events) = worked(&little, json!({"input": "write"})).await;
    let why = missing(&events, "write_file");
    assert!(why.contains("left the session's files in"), "{why}");
    let (_, replayed) = replay(&place, &turn, &[]).await;
    assert_eq!(verdicts(&replayed), [("write_file", "not_recorded")]);
    assert_eq!(replayed["calls"][0]["why"], why);
}

#[tokio::test]
async fn a_call_whose_files_are_not_kept_any_more_as_it_left_them_can_not_be_compared() {
    let (place, turn, _) = worked(&agent("record = true"), json!({"input": "write"})).await;
    let content: Vec<u8> = sqlx::query_scalar("SELECT content FROM recordings")
        .fetch_one(&mut database(&place).await)
        .await
        .unwrap();
    let recording: Value = serde_json::from_slice(&content).unwrap();
    let (before, after) = (&recording["files"]["before"], &recording["files"]["after"]);
    assert_ne!(before, after);
    let (_, replayed) = replay(&place, &turn, &[]).await;
    assert_eq!(verdicts(&replayed), [("write_file", "identical")], "{replayed:#}");
    forget_state(&place, after.as_str().unwrap());
    let (code, replayed) = replay(&place, &turn, &[]).await;
    assert_eq!(
        (code, verdicts(&replayed)),
        (Some(0), vec![("write_file", "not_recorded")])
    );
    let why = replayed["calls"][0]["why"].as_str().unwrap();
    assert!(why.contains("left in is not kept any more"), "{why}");
}

/// As where there was no room for it.
fn forget_state(place: &Place, state: &str) {
    let name = state.strip_prefix("sha256:").unwrap();
    let mut directories = vec![place.data().join("snapshots")];
    let mut removed = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            } else if entry.file_name().to_string_lossy().contains(name) {
                std::fs::remove_file(entry.path()).unwrap();
                removed += 1;
            }
        }
    }
    assert_eq!(removed, 1, "{state}");
}

#[tokio::test]
async fn what_a_tool_that_was_called_did_to_files_is_not_held_against_the_one_that_called_it() {
    let (place, turn, _) = worked(&agent("record = true"), json!({"input": "let another write"})).await;
    let (code, replayed) = replay(&place, &turn, &[]).await;
    assert_eq!(
        (code, verdicts(&replayed)),
        (Some(0), vec![("peer_call", "identical")]),
        "{replayed:#}"
    );
}

#[tokio::test]
async fn calls_that_were_refused_or_did_not_come_to_run_are_not_recorded_and_nothing_differs() {
    let rule = "record = true\n[[agent.assistant.approval]]\ntool = \"random\"\ndecide = \"deny\"";
    let (place, turn, events) = worked(&agent(rule), json!({"input": "sleep"})).await;
    let refused = find(&events, "tool.requested", |data| data["call"]["tool"] == "random").unwrap();
    let recorded = |data: &Value| data["call"] == refused["call"]["id"];
    assert!(find(&events, "tool.recorded", recorded).is_none(), "it never ran");
    let (code, replayed) = replay(&place, &turn, &[]).await;
    assert_eq!(
        (code, verdicts(&replayed)),
        (Some(0), vec![("sleep", "identical"), ("random", "skipped")]),
        "{replayed:#}"
    );
}

#[tokio::test]
async fn a_turn_that_was_cancelled_is_replayed_as_far_as_it_came() {
    let world = World::start().await;
    let place = Place::scripted(&everything(&world), &agent("record = true"));
    let host = place.serve().await;
    host.add_guest("hostile", None).await;
    let session = host.session(json!({})).await;
    let begin = host
        .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .header("prefer", "respond-async")
        .json(&json!({"input": "wait"}));
    let begun = fumehood_tests::expect_json(begin.send().await.unwrap()).await;
    let turn = begun["id"].as_str().unwrap().to_owned();
    let runs = async {
        while find(&host.events(&session).await, "tool.started", |data| {
            data["tool"] == "sleep"
        })
        .is_none()
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(fumehood_tests::PATIENCE, runs).await.unwrap();
    let ended = host.post(&format!("/v1/turns/{turn}/cancel"), json!({})).await;
    assert_eq!(ended["status"], "cancelled", "{ended}");
    host.stop().await;
    let (code, replayed) = replay(&place, &turn, &[]).await;
    assert_eq!(
        (code, verdicts(&replayed)),
        (Some(0), vec![("sleep", "not_recorded"), ("nobody", "skipped")]),
        "{replayed:#}"
    );
    assert!(replayed["decisions"]["compared"].as_u64().unwrap() >= 4, "{replayed}");
}

#[tokio::test]
async fn a_recording_that_was_changed_is_noticed() {
    let (place, turn, _) = worked(&agent("record = true"), json!({"input": "sleep"})).await;
    let mut database = database(&place).await;
    sqlx::query("UPDATE recordings SET content = CAST(replace(CAST(content AS TEXT), 'slept', 'woken') AS BLOB)")
        .execute(&mut database)
        .await
        .unwrap();
    sqlx::Connection::close(database).await.unwrap();
    let (code, replayed) = replay(&place, &turn, &[]).await;
    let call = &replayed["calls"][0];
    assert_eq!(
        (code, &call["at"]),
        (Some(1), &json!("the recording itself")),
        "{replayed:#}"
    );
    assert_eq!(replayed["calls"][1]["verdict"], "identical");
    let doctor = place.run(&["doctor", "--store"]).await;
    assert!(!doctor.status.success());
    assert!(said(&doctor).contains("the recording of call_"), "{}", said(&doctor));
}

#[tokio::test]
async fn what_can_not_be_replayed_is_refused_with_the_reason() {
    let world = World::start().await;
    let rule = "record = true\n[[agent.assistant.approval]]\ntool = \"files_write\"\ndecide = \"ask\"";
    let place = Place::scripted(&everything(&world), &agent(rule));
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let turn = host.turn(&session, "ask").await;
    let waits = turn["id"].as_str().unwrap();
    let refused = |output: Output, code: i32, words: &str| {
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(words), "{text}");
    };
    refused(place.run(&["replay", waits]).await, 1, "while no host serves");
    let other = host.session(json!({})).await;
    let heard = id_of_turn(&host, &other, json!({"input": "hello"})).await;
    let steers = json!({"input": "and", "mode": "steer", "record": true});
    let path = format!("/v1/sessions/{session}/turns");
    fumehood_tests::refused(host.request(Method::POST, &path).json(&steers), 422, "invalid_request").await;
    host.stop().await;

    refused(
        place.run(&["replay", waits]).await,
        1,
        "has not ended (awaiting_approval)",
    );
    let nobody = "trn_018f3c5b7d2a7c3e9f00112233445566";
    refused(place.run(&["replay", nobody]).await, 1, "there is no turn");
    refused(place.run(&["replay", "nonsense"]).await, 2, "nonsense");
    let (code, replayed) = replay(&place, &heard, &[]).await;
    assert_eq!(
        (code, &replayed["identical"]),
        (Some(0), &json!(true)),
        "a turn without calls"
    );

    let text = place.path().join("text.wasm");
    std::fs::write(&text, "no component").unwrap();
    let with = |file: &str| {
        let args = ["replay", &heard, "--with-component", file].map(str::to_owned);
        let args: Vec<String> = args.into();
        args
    };
    for (file, words) in [
        (text.to_str().unwrap(), "can't be used"),
        ("nothing.wasm", "cannot read nothing.wasm"),
    ] {
        let args = with(file);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused(place.run(&args).await, 2, words);
    }
    let uncalled = place.path().join("clock.wasm");
    std::fs::write(&uncalled, guest("clock")).unwrap();
    let args = with(uncalled.to_str().unwrap());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    refused(place.run(&args).await, 2, "no call of the turn");
}
