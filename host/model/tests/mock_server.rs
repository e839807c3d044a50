//! Every wire against a mock of the providers that others wrote: npm's `@copilotkit/aimock`, pinned.
//!
//! Needs node 20 and npm. The package is fetched once, into cargo's folder for test files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use fumehood_core::{
    call::Output,
    content::Content,
    message::{AssistantPart, GivenArguments, Message},
    tool::ToolDefinition,
    turn::StepStop,
};
use fumehood_model::{Assembler, ModelConfig, ModelError, ModelErrorKind, ModelRequest, Provider, Step, build};
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command as StdCommand, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

const PACKAGE: &str = "@copilotkit/aimock";
const VERSION: &str = "1.43.0";
const INSTALL_TIME: Duration = Duration::from_secs(180);
const START_TIME: Duration = Duration::from_secs(60);
const NEEDED: &str = "these tests need node 20 or newer and npm; install them (Debian: `apt-get install nodejs npm`)";

/// The folder with the package in it; fetched on first use, by one process at a time.
fn package() -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("aimock-{VERSION}"));
    std::fs::create_dir_all(&cache).unwrap();
    let lock = File::create(cache.join("lock")).unwrap();
    lock.lock().unwrap();
    let package = cache.join("node_modules").join(PACKAGE);
    let complete = cache.join("complete");
    if !complete.exists() {
        install(&cache);
        File::create(complete).unwrap();
    }
    package
}

fn install(cache: &Path) {
    let mut npm = StdCommand::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--ignore-scripts",
            "--loglevel=error",
            "--prefix",
        ])
        .arg(cache)
        .arg(format!("{PACKAGE}@{VERSION}"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("npm does not run ({error}); {NEEDED}"));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = npm.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > INSTALL_TIME {
            npm.kill().unwrap();
            npm.wait().unwrap();
            panic!("npm did not fetch {PACKAGE} within {INSTALL_TIME:?}; is the npm registry reachable?");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(
        status.success(),
        "npm could not fetch {PACKAGE}@{VERSION} ({status}); is the npm registry reachable? {NEEDED}"
    );
}

/// A running mock server; ends when dropped.
struct MockServer {
    url: String,
    _process: Child,
}

impl MockServer {
    async fn start() -> Self {
        let package = tokio::task::spawn_blocking(package).await.unwrap();
        let mut process = Command::new("node")
            .arg(package.join("dist/cli.js"))
            .args(["--port", "0", "--strict", "--chunk-size", "10", "--fixtures"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mock_server.json"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("node does not run ({error}); {NEEDED}"));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some((_, url)) = line.split_once("listening on ") {
                    return url.trim().to_owned();
                }
            }
            panic!("the mock server ended before it listened; {NEEDED}");
        };
        let url = timeout(START_TIME, listening)
            .await
            .expect("the mock server listens in time");
        // Its log has to be read on, or it stops when the pipe is full.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { url, _process: process }
    }

    fn provider(&self, config: &Value) -> Arc<dyn Provider> {
        let mut config = config.clone();
        config["base_url"] = format!("{}/v1", self.url).into();
        config["api_key_env"] = "KEY".into();
        let config: ModelConfig = serde_json::from_value(config).unwrap();
        build(&config, &|_| Some("mock-key".to_owned().into())).unwrap()
    }
}

fn wires() -> [Value; 5] {
    [
        json!({"provider": "openai", "model": "gpt-5"}),
        json!({"provider": "openai", "wire": "chat", "model": "gpt-5"}),
        json!({"provider": "anthropic", "model": "claude-sonnet-4-5"}),
        json!({"provider": "gemini", "model": "gemini-2.5-pro"}),
        json!({"provider": "ollama", "model": "llama3.2"}),
    ]
}

fn request(input: &str) -> ModelRequest {
    let tools: Vec<ToolDefinition> = serde_json::from_value(json!([
        {"name": "files_list", "description": "Lists files.", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}},
        {"name": "clock_now", "description": "Tells the time.", "input_schema": {"type": "object"}},
    ]))
    .unwrap();
    ModelRequest {
        system: "Be brief.".into(),
        messages: Arc::new(vec![Message::User {
            content: vec![Content::text(input)],
        }]),
        tools: tools.into(),
        ..ModelRequest::default()
    }
}

/// The answer, or the error and the text that came before it.
async fn ask(provider: &dyn Provider, request: &ModelRequest) -> Result<Step, (ModelError, String)> {
    let reading = async {
        let mut stream = provider.stream(request).await.map_err(|error| (error, String::new()))?;
        let mut assembler = Assembler::default();
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    if let Some(step) = assembler.push(event) {
                        return Ok(step);
                    }
                }
                Err(error) => return Err((error, text(&assembler.into_parts()))),
            }
        }
        panic!("a stream ended without an end");
    };
    timeout(START_TIME, reading).await.expect("an answer ends")
}

fn text(parts: &[AssistantPart]) -> String {
    parts
        .iter()
        .filter_map(|part| match part {
            AssistantPart::Text { text } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

fn calls(step: &Step) -> Vec<(&str, &GivenArguments)> {
    step.parts
        .iter()
        .filter_map(|part| match part {
            AssistantPart::ToolCall(call) => Some((call.tool.as_str(), &call.arguments)),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn every_wire_streams_text_and_reasoning() {
    let server = MockServer::start().await;
    for config in wires() {
        let step = ask(&*server.provider(&config), &request("plain")).await.unwrap();
        assert_eq!(text(&step.parts), "Hello! How can I help you today?", "{config}");
        assert_eq!(step.stop, StepStop::Stop, "{config}");
        assert!(step.usage.is_some(), "{config}");
        let reasoning = step.parts.iter().find_map(|part| match part {
            AssistantPart::Reasoning { text, .. } => Some(text.as_str()),
            _ => None,
        });
        assert_eq!(reasoning, Some("Be kind."), "{config}");
    }
}

#[tokio::test]
async fn every_wire_carries_parallel_calls_and_their_results_back() {
    let server = MockServer::start().await;
    for config in wires() {
        let provider = server.provider(&config);
        let mut request = request("tools");
        let step = ask(&*provider, &request).await.unwrap();
        let path = GivenArguments::parse(r#"{"path":"a folder with a name longer than one piece"}"#);
        assert_eq!(
            calls(&step),
            [("files_list", &path), ("clock_now", &GivenArguments::parse("{}"))],
            "{config}"
        );
        assert_eq!(step.stop, StepStop::ToolCalls, "{config}");
        assert_eq!(text(&step.parts), "I look.", "{config}");

        let results: Vec<_> = step
            .parts
            .iter()
            .filter_map(|part| match part {
                AssistantPart::ToolCall(call) => Some(Message::Tool {
                    call: call.id,
                    tool: call.tool.clone(),
                    result: Ok(Output {
                        content: vec![Content::text("twelve o'clock")],
                        ..Output::default()
                    }),
                }),
                _ => None,
            })
            .collect();
        Arc::make_mut(&mut request.messages).push(Message::Assistant { parts: step.parts });
        Arc::make_mut(&mut request.messages).extend(results);
        let step = ask(&*provider, &request).await.unwrap();
        assert_eq!(text(&step.parts), "It is twelve.", "{config}");
    }
}

#[tokio::test]
async fn every_wire_of_openai_keeps_arguments_that_are_not_json() {
    let server = MockServer::start().await;
    // On Anthropic's wire the mock server itself puts an empty object in their place.
    for config in wires().into_iter().filter(|config| config["provider"] != "anthropic") {
        let step = ask(&*server.provider(&config), &request("malformed")).await.unwrap();
        let expected = GivenArguments::MalformedArguments("{\"path\":".into());
        assert_eq!(calls(&step), [("files_list", &expected)], "{config}");
    }
}

#[tokio::test]
async fn every_wire_reads_a_rate_limit_with_its_hint() {
    let server = MockServer::start().await;
    for config in wires() {
        let (error, _) = ask(&*server.provider(&config), &request("limit")).await.unwrap_err();
        let expected = ModelErrorKind::RateLimited {
            retry_after: Some(Duration::from_secs(7)),
        };
        assert_eq!(error.kind(), &expected, "{config}");
    }
}

#[tokio::test]
async fn every_wire_tells_an_answer_that_reached_its_limit() {
    let server = MockServer::start().await;
    for config in wires() {
        let step = ask(&*server.provider(&config), &request("length")).await.unwrap();
        assert_eq!(
            (step.stop, text(&step.parts).as_str()),
            (StepStop::Length, "Half"),
            "{config}"
        );
    }
}

#[tokio::test]
async fn every_wire_tells_a_cut_stream_from_a_whole_one() {
    let server = MockServer::start().await;
    for config in wires() {
        let (error, text) = ask(&*server.provider(&config), &request("cut")).await.unwrap_err();
        assert_eq!(error.kind(), &ModelErrorKind::Incomplete, "{config}");
        assert!(
            "This is a longer answer that is cut off in its middle.".starts_with(&text),
            "{config}: {text}"
        );
    }
}
