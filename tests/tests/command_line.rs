//! The commands, as an operator types them: on a host of their own, and while another serves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{PATIENCE, Place, root, signal};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

fn hostile() -> String {
    root().join("target/guests/hostile.wasm").to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_component_is_checked_added_granted_called_and_removed() {
    let place = Place::new("");
    let file = hostile();
    let checked = place.json(&["tool", "check", &file]).await;
    assert_eq!(checked["name"], "hostile");
    assert!(!checked["requests"].as_array().unwrap().is_empty());

    let added = place.json(&["tool", "add", &file]).await;
    assert!(added.get("grant").is_none(), "nothing is granted unasked: {added}");
    let waiting = place.run(&["tool", "call", "hostile", "echo", r#"{"text":"x"}"#]).await;
    assert_eq!(waiting.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&waiting.stderr).contains("waits for a grant"));

    let granted = place.json(&["tool", "grant", "hostile", "--yes"]).await;
    assert_eq!(granted["not_granted"], json!([]));
    let called = place
        .json(&["tool", "call", "hostile", "echo", r#"{"text":"x"}"#])
        .await;
    assert_eq!(called["status"], "ok");

    std::fs::write(place.path().join("less.toml"), "[files]\nworkspace = \"read\"\n").unwrap();
    let narrowed = place.json(&["tool", "grant", "hostile", "--grant", "less.toml"]).await;
    assert_eq!(narrowed["grant"]["files"]["workspace"], "read");
    place.json(&["tool", "remove", "hostile"]).await;
    let gone = place.run(&["tool", "show", "hostile"]).await;
    assert!(!gone.status.success());
}

#[tokio::test]
async fn a_file_is_called_under_a_grant_a_limit_and_a_directory_without_being_installed() {
    let place = Place::new("");
    let file = hostile();
    std::fs::create_dir(place.path().join("files")).unwrap();
    std::fs::write(place.path().join("files/a.txt"), "of the author").unwrap();
    std::fs::write(place.path().join("grant.toml"), "[files]\nworkspace = \"read\"\n").unwrap();
    let read = ["tool", "call", &file, "read_file", r#"{"path":"/workspace/a.txt"}"#];
    let granted = place
        .json(&[&read[..], &["--grant", "grant.toml", "--workspace", "files"]].concat())
        .await;
    assert!(granted.to_string().contains("of the author"), "{granted}");
    let denied = place.run(&[&read[..], &["--workspace", "files"]].concat()).await;
    assert_eq!(denied.status.code(), Some(1), "without a grant there are no files");
    let stopped = place
        .run(&["--json", "tool", "call", &file, "spin", "{}", "--limit", "cpu=50ms"])
        .await;
    assert!(String::from_utf8_lossy(&stopped.stdout).contains(r#""trap":"cpu""#));
    let listed = place.json(&["tool", "list"]).await;
    assert!(!listed.to_string().contains("hostile"));
}

#[tokio::test]
async fn what_a_component_prints_is_shown_beside_its_result_also_when_it_breaks() {
    let place = Place::new("");
    let call = ["tool", "call", &hostile(), "panic", r#"{"message":"no such harbour"}"#];
    let said = String::from_utf8(place.run(&call).await.stderr).unwrap();
    let (_, printed) = said
        .split_once("it wrote to stderr:")
        .unwrap_or_else(|| panic!("{said}"));
    assert!(printed.contains("no such harbour"), "{said}");
    let told = place.run(&[&["--json"], &call[..]].concat()).await;
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let printed = &told["printed"][0];
    assert_eq!(printed["channel"], "stderr");
    assert!(printed["text"].as_str().unwrap().contains("no such harbour"), "{told}");
}

#[tokio::test]
async fn a_call_of_a_file_that_was_granted_nothing_says_how_it_is_granted_something() {
    let place = Place::new("");
    let file = hostile();
    let call = ["tool", "call", &file, "http_get", r#"{"url": "https://a.example/x"}"#];
    let stderr = async |more: &[&str]| {
        let output = place.run(&[&call[..], more].concat()).await;
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let nothing = stderr(&[]).await;
    assert!(nothing.contains("nothing was granted to it: --yes"), "{nothing}");
    // Who has granted something, or asks for an explanation, is told by that.
    std::fs::write(place.path().join("grant.toml"), "[network]\nallow = []\n").unwrap();
    for more in [&["--grant", "grant.toml"][..], &["--explain"]] {
        let said = stderr(more).await;
        assert!(!said.contains("nothing was granted to it"), "{said}");
    }
}

#[tokio::test]
async fn a_call_that_can_not_be_meant_so_is_an_error_of_usage() {
    let place = Place::new("");
    std::fs::write(place.path().join("clock.wasm"), "").unwrap();
    let file = hostile();
    let clock = ["tool", "call", "clock", "clock_now"];
    let echo = ["tool", "call", &file, "echo"];
    let with = |call: &[&str; 4], more: &[&str]| call.iter().chain(more).map(|&one| one.to_owned()).collect::<Vec<_>>();
    for (arguments, words) in [
        (with(&clock, &["--limit", "cpu=1ms"]), "--limit is for a .wasm file"),
        (with(&clock, &["--explain"]), "for the file beside it, write clock.wasm"),
        (with(&clock, &["--yes"]), "--yes is for a .wasm file"),
        (with(&clock, &["{"]), "the arguments are not JSON"),
        (with(&["tool", "call", ".", "tide"], &[]), ". is a folder"),
        (
            with(&["tool", "call", "No Name", "tide"], &[]),
            "neither a .wasm file nor the name",
        ),
        (with(&echo, &["{"]), "not a JSON object"),
        (with(&echo, &["{}", "--limit", "cpuu=3"]), "cpuu"),
        (with(&echo, &["{}", "--secret", "X"]), "--secret takes NAME=VALUE"),
        (
            with(&["tool", "call", &file, "forecasts"], &[]),
            "has no tool `forecasts`; it has ",
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let refused = place.run(&arguments).await;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    assert!(!place.path().join(".fumehood").exists(), "no host was started for them");
}

#[tokio::test]
async fn commands_talk_to_the_host_that_serves() {
    let place = Place::new("listen = \"127.0.0.1:1\"\n");
    let host = place.serve().await;
    let session = host.session(json!({"title": "seen"})).await;
    let mut command = place.command(&["--json", "session", "list"]);
    let output = command.env("FUMEHOOD_URL", &host.base).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(&session),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let unreachable = place.run(&["session", "list"]).await;
    assert!(String::from_utf8_lossy(&unreachable.stderr).contains("FUMEHOOD_URL"));
    host.stop().await;
}

#[tokio::test]
async fn a_secret_goes_in_by_standard_input_and_never_comes_out() {
    let place = Place::new("");
    let mut command = place.command(&["secret", "set", "GITHUB_TOKEN"]);
    let mut process = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    process
        .stdin
        .take()
        .unwrap()
        .write_all(b"tok-31415926535\n")
        .await
        .unwrap();
    assert!(process.wait().await.unwrap().success());
    let listed = place.json(&["secret", "list"]).await.to_string();
    assert!(listed.contains("GITHUB_TOKEN") && !listed.contains("tok-"), "{listed}");
    place.json(&["secret", "delete", "GITHUB_TOKEN"]).await;
    assert_eq!(place.json(&["secret", "list"]).await["items"], json!([]));
}

#[tokio::test]
async fn run_prints_the_answer_and_tells_by_its_exit_how_the_turn_ended() {
    let script = "turns:\n  - match: \"again\"\n    steps:\n      - tool_calls: [ { tool: clock_now, arguments: {} } ]\n      - text: \"late\"\n  - match: \"fail\"\n    steps:\n      - error: { code: auth }\notherwise:\n  steps:\n    - text: \"You said: {{input}}\"\n";
    let place = Place::scripted(script, "[agent.assistant.budget]\nsteps = 1\n");
    let said = place.run(&["run", "hello"]).await;
    assert_eq!(
        (said.status.code(), &*said.stdout),
        (Some(0), b"You said: hello\n".as_slice())
    );
    assert_eq!(place.run(&["run", "fail"]).await.status.code(), Some(1));
    assert_eq!(place.run(&["run", "again"]).await.status.code(), Some(3));
}

#[tokio::test]
async fn a_budget_that_is_used_up_gives_run_its_own_exit_code_whosever_it_is() {
    let script = "otherwise:\n  steps:\n    - text: \"So far.\"\n      tool_calls: [ { tool: clock_now, arguments: {} } ]\n      usage: { input_tokens: 5, output_tokens: 5 }\n    - text: \"late\"\n";
    let place = Place::scripted(script, "[org.default.budget]\nper = \"day\"\ntokens = 10\n");
    let graceful = place.run(&["run", "hello"]).await;
    assert_eq!(
        (graceful.status.code(), &*graceful.stdout),
        (Some(3), b"So far.\n".as_slice())
    );
    let refused = place.run(&["run", "hello"]).await;
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{message}");
    assert!(
        message.contains("10 tokens") && message.contains("budget_exhausted"),
        "{message}"
    );
}

/// What came out of a command, apart.
fn said(output: &std::process::Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn a_first_run_without_a_model_shows_a_tool_at_work() {
    let place = Place::new("");
    let output = place.run(&["run", "What time is it?"]).await;
    let (answer, progress) = said(&output);
    assert_eq!(output.status.code(), Some(0), "{progress}");
    assert!(
        answer.starts_with("No model is configured") && answer.contains("\nclock_now: "),
        "{answer}"
    );
    assert!(progress.contains("✓ clock_now({}) "), "{progress}");
}

#[tokio::test]
async fn run_tells_on_standard_error_what_the_calls_did_and_what_was_used() {
    const SCRIPT: &str = r#"
turns:
  - match: "go"
    steps:
      - text: "Looking."
        tool_calls:
          - { tool: clock_now, arguments: {} }
          - { tool: files_read, arguments: { path: "gone.txt" } }
          - { tool: no_such_tool, arguments: { "a": "b" } }
        usage: { input_tokens: 1000, output_tokens: 20 }
      - error: { code: unavailable, retry_after_ms: 1 }
      - text: "Done."
        usage: { input_tokens: 1100, output_tokens: 5 }
"#;
    let place = Place::scripted(SCRIPT, "[agent.assistant.budget]\nsteps = 2\n");
    let output = place.run(&["run", "go"]).await;
    let (answer, progress) = said(&output);
    assert_eq!(answer, "Looking.\nDone.\n", "{progress}");
    for begin in [
        "· clock_now({})\n",
        "✓ clock_now({}) ",
        "✗ files_read({\"path\":\"gone.txt\"}) error, ",
        "  `gone.txt` cannot be opened",
        "✗ no_such_tool({\"a\":\"b\"}) error, ",
        "; retry 1 of ",
        "· 2 of 2 steps, 3 of 100 calls, 2,125 tokens (2,100 in, 25 out), ",
    ] {
        assert!(progress.contains(begin), "{begin}: {progress}");
    }
}

#[tokio::test]
async fn run_obeys_no_control_sequence_of_a_model_or_a_tool() {
    const SCRIPT: &str = r#"
otherwise:
  steps:
    - text: "\u001b]0;title\u0007\u001b[2J"
      tool_calls:
        - { tool: files_write, arguments: { path: "a.txt", content: "\u001b[1A\u202eabc" } }
        - { tool: "x\u001b[2K", arguments: {} }
        - { tool: files_read, malformed_arguments: "\u001b[1A\r" }
    - text: "Done."
"#;
    let place = Place::scripted(SCRIPT, "");
    let output = place.run(&["run", "go"]).await;
    let (answer, progress) = said(&output);
    assert!(answer.contains(r"\u{1b}[2J") && answer.ends_with("Done.\n"), "{answer}");
    assert!(progress.contains(r"x\u{1b}[2K"), "{progress}");
    for text in [answer, progress] {
        let hostile = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!text.contains(hostile), "{text:?}");
    }
}

#[tokio::test]
async fn a_run_whose_progress_nobody_reads_answers_all_the_same() {
    let place = Place::new("");
    let mut command = place.command(&["run", "What time is it?"]);
    let mut process = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(process.stderr.take());
    let output = tokio::time::timeout(PATIENCE, process.wait_with_output())
        .await
        .unwrap();
    let output = output.unwrap();
    let (answer, _) = said(&output);
    assert_eq!(output.status.code(), Some(0), "{answer}");
    assert!(answer.contains("\nclock_now: "), "{answer}");
}

#[tokio::test]
async fn run_gives_the_events_as_lines_for_machines() {
    let place = Place::new("");
    let output = place.run(&["--json", "run", "What time is it?"]).await;
    let (events, _) = said(&output);
    let types: Vec<_> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone())
        .collect();
    for kind in ["turn.queued", "text.delta", "tool.completed"] {
        assert!(types.iter().any(|found| found == kind), "{types:?}");
    }
    assert_eq!(types.last().unwrap(), "turn.completed");
}

const WAITS: &str = "otherwise:\n  steps:\n    - tool_calls: [ { tool: clock_sleep, arguments: { ms: 60000 } } ]\n";

/// A `run` whose call has begun, and the rest of what it says.
struct Run {
    process: tokio::process::Child,
    said: tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStderr>>,
}

impl Run {
    async fn begin(mut command: tokio::process::Command) -> Self {
        let mut process = command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let said = tokio::io::BufReader::new(process.stderr.take().unwrap()).lines();
        let mut run = Self { process, said };
        run.until("· clock_sleep(").await;
        run
    }

    async fn until(&mut self, begin: &str) {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.said.next_line())
                .await
                .unwrap()
                .unwrap();
            if line.expect("it ended without saying it").starts_with(begin) {
                return;
            }
        }
    }

    async fn interrupt(&self) {
        signal(self.process.id().unwrap(), "-INT").await;
    }

    async fn ends(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        ended.expect("it did not end").unwrap().code()
    }
}

#[tokio::test]
async fn an_interrupt_cancels_the_turn_and_says_so() {
    let place = Place::scripted(WAITS, "");
    let mut run = Run::begin(place.command(&["run", "go"])).await;
    run.interrupt().await;
    run.until("· cancelling the turn; Ctrl-C again").await;
    run.until("✗ clock_sleep({\"ms\":60000}) cancelled").await;
    run.until("✗ cancelled").await;
    run.until("· 1 of ").await;
    assert_eq!(run.ends().await, Some(1));
}

#[tokio::test]
async fn a_second_interrupt_leaves_also_where_the_host_does_not_answer() {
    let place = Place::scripted(WAITS, "");
    let host = place.serve().await;
    let mut command = place.command(&["run", "go"]);
    command.env("FUMEHOOD_URL", &host.base);
    let mut run = Run::begin(command).await;
    signal(host.pid(), "-STOP").await;
    run.interrupt().await;
    run.until("· cancelling the turn; Ctrl-C again").await;
    run.interrupt().await;
    run.until("left; `fumehood turn show`").await;
    assert_eq!(run.ends().await, Some(1));
    host.kill().await;
}

#[tokio::test]
async fn an_interrupt_before_the_host_answers_leaves_and_says_that_the_turn_may_go_on() {
    let place = Place::new("");
    let serves = place.serve().await;
    // In its place one that makes a session and says nothing to its turn.
    let (asked, mut heard) = tokio::sync::mpsc::channel(1);
    let silent = move || {
        let asked = asked.clone();
        async move {
            asked.send(()).await.unwrap();
            std::future::pending::<()>().await;
        }
    };
    let session = json!({"id": "ses_018f3c5b7d2a7c3e9f00112233445566"});
    let router = axum::Router::new()
        .route(
            "/healthz",
            axum::routing::get(|| async { axum::Json(json!({"status": "ok"})) }),
        )
        .route("/v1/sessions", axum::routing::post(|| async { axum::Json(session) }))
        .route("/v1/sessions/{session}/turns", axum::routing::post(silent));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let mut command = place.command(&["run", "go"]);
    command.env("FUMEHOOD_URL", url).stderr(std::process::Stdio::piped());
    let run = command.spawn().unwrap();
    let came = tokio::time::timeout(PATIENCE, heard.recv()).await;
    came.expect("it asks for no turn");
    signal(run.id().unwrap(), "-INT").await;
    let ended = tokio::time::timeout(PATIENCE, run.wait_with_output()).await;
    let ended = ended.expect("it did not end").unwrap();
    let (_, words) = said(&ended);
    assert_eq!(ended.status.code(), Some(1), "{words}");
    assert!(words.contains("interrupted before the host answered"), "{words}");
    serving.abort();
    serves.stop().await;
}
