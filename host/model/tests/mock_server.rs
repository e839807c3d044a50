//! Every wire against a mock of the providers that others wrote. Where it is not installed these tests are skipped:
//! `cargo xtask setup` installs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use fumehood_core::{
    call::Output,
    content::Content,
    message::{AssistantPart, GivenArguments, Message},
    tool::ToolDefinition,
    turn::StepStop,
};
use fumehood_mock_provider::MockProvider;
use fumehood_model::{Assembler, ModelConfig, ModelError, ModelErrorKind, ModelRequest, Provider, Step, build};
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The mock with the answers that these tests ask for, where it is installed.
async fn mock() -> Option<MockProvider> {
    MockProvider::start(&serde_json::from_str(include_str!("mock_server.json")).unwrap()).await
}

fn provider(server: &MockProvider, config: &Value) -> Arc<dyn Provider> {
    let mut config = config.clone();
    config["base_url"] = format!("{}/v1", server.url()).into();
    config["api_key_env"] = "KEY".into();
    let config: ModelConfig = serde_json::from_value(config).unwrap();
    build(&config, &|_| Some("mock-key".to_owned().into())).unwrap()
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
    timeout(PATIENCE, reading).await.expect("an answer ends")
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
    let Some(server) = mock().await else { return };
    for config in wires() {
        let step = ask(&*provider(&server, &config), &request("plain")).await.unwrap();
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
    let Some(server) = mock().await else { return };
    for config in wires() {
        let wire = provider(&server, &config);
        let mut request = request("tools");
        let step = ask(&*wire, &request).await.unwrap();
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
        let step = ask(&*wire, &request).await.unwrap();
        assert_eq!(text(&step.parts), "It is twelve.", "{config}");
    }
}

#[tokio::test]
async fn every_wire_of_openai_keeps_arguments_that_are_not_json() {
    let Some(server) = mock().await else { return };
    // On Anthropic's wire the mock server itself puts an empty object in their place.
    for config in wires().into_iter().filter(|config| config["provider"] != "anthropic") {
        let step = ask(&*provider(&server, &config), &request("malformed")).await.unwrap();
        let expected = GivenArguments::MalformedArguments("{\"path\":".into());
        assert_eq!(calls(&step), [("files_list", &expected)], "{config}");
    }
}

#[tokio::test]
async fn every_wire_reads_a_rate_limit_with_its_hint() {
    let Some(server) = mock().await else { return };
    for config in wires() {
        let (error, _) = ask(&*provider(&server, &config), &request("limit")).await.unwrap_err();
        let expected = ModelErrorKind::RateLimited {
            retry_after: Some(Duration::from_secs(7)),
        };
        assert_eq!(error.kind(), &expected, "{config}");
    }
}

#[tokio::test]
async fn every_wire_tells_an_answer_that_reached_its_limit() {
    let Some(server) = mock().await else { return };
    for config in wires() {
        let step = ask(&*provider(&server, &config), &request("length")).await.unwrap();
        assert_eq!(
            (step.stop, text(&step.parts).as_str()),
            (StepStop::Length, "Half"),
            "{config}"
        );
    }
}

#[tokio::test]
async fn every_wire_tells_a_cut_stream_from_a_whole_one() {
    let Some(server) = mock().await else { return };
    for config in wires() {
        let (error, text) = ask(&*provider(&server, &config), &request("cut")).await.unwrap_err();
        assert_eq!(error.kind(), &ModelErrorKind::Incomplete, "{config}");
        assert!(
            "This is a longer answer that is cut off in its middle.".starts_with(&text),
            "{config}: {text}"
        );
    }
}
