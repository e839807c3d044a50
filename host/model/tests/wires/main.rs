//! Each wire against prepared answers: what providers send, and everything that can go wrong on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod adapting;
mod anthropic;
mod chat;
mod responses;
mod server;
mod transport;

use fumehood_core::{
    content::Content,
    message::{AssistantPart, Message},
    tool::ToolDefinition,
    turn::{StepStop, Usage},
};
use fumehood_model::{
    Assembler, ModelConfig, ModelError, ModelErrorKind, ModelEvent, ModelRequest, Provider, Step, build,
};
use futures::StreamExt as _;
use serde_json::{Value, json};
use server::{PATIENCE, Reply, Server, events};
use std::sync::Arc;

/// A provider of a configuration towards a server. The key is `test-key`.
fn provider(mut config: Value, server: &Server) -> Arc<dyn Provider> {
    config["base_url"] = format!("{}/v1", server.url).into();
    config["api_key_env"] = "TEST_KEY".into();
    let config: ModelConfig = serde_json::from_value(config).unwrap();
    build(&config, &|name| {
        (name == "TEST_KEY").then(|| "test-key".to_owned().into())
    })
    .unwrap()
}

fn question() -> ModelRequest {
    ModelRequest {
        messages: Arc::new(vec![Message::User {
            content: vec![Content::text("hi")],
        }]),
        ..ModelRequest::default()
    }
}

fn tool() -> ToolDefinition {
    let definition = json!({"name": "a", "description": "A tool.", "input_schema": {"type": "object"}});
    serde_json::from_value(definition).unwrap()
}

/// All events of one answer, and the error that ended it if one did.
async fn ask(provider: &dyn Provider) -> (Vec<ModelEvent>, Option<ModelError>) {
    let reading = async {
        let mut stream = match provider.stream(&question()).await {
            Ok(stream) => stream,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let mut events = Vec::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => events.push(event),
                Err(error) => {
                    assert!(stream.next().await.is_none(), "something came after an error");
                    return (events, Some(error));
                }
            }
        }
        (events, None)
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer ends")
}

/// The whole answer to a reply; checks the promises on order.
async fn answer(config: &Value, reply: Reply) -> Step {
    let server = Server::start([reply]).await;
    let (events, error) = ask(&*provider(config.clone(), &server)).await;
    assert!(
        error.is_none(),
        "{error:?} {:?}",
        error.as_ref().and_then(ModelError::detail)
    );
    let dones = events
        .iter()
        .filter(|event| matches!(event, ModelEvent::Done { .. }))
        .count();
    assert!(
        dones == 1 && matches!(events.last(), Some(ModelEvent::Done { .. })),
        "{events:?}"
    );
    let mut assembler = Assembler::default();
    events.into_iter().find_map(|event| assembler.push(event)).unwrap()
}

/// What was shown before the error that a reply ends in, and the error.
async fn failure(config: &Value, reply: Reply) -> (Vec<ModelEvent>, ModelError) {
    let server = Server::start([reply]).await;
    let (events, error) = ask(&*provider(config.clone(), &server)).await;
    assert!(
        !events.iter().any(|event| matches!(event, ModelEvent::Done { .. })),
        "{events:?}"
    );
    (events, error.expect("an error"))
}

fn text(text: &str) -> AssistantPart {
    AssistantPart::Text { text: text.into() }
}

/// The calls of an answer: names, and arguments as text.
fn calls(step: &Step) -> Vec<(String, String)> {
    step.parts
        .iter()
        .filter_map(|part| match part {
            AssistantPart::ToolCall(call) => Some((call.tool.clone(), serde_json::to_string(&call.arguments).unwrap())),
            _ => None,
        })
        .collect()
}

fn usage(input: u64, output: u64) -> Usage {
    Usage {
        input_tokens: Some(input),
        output_tokens: Some(output),
        ..Usage::default()
    }
}

fn call(tool: &str, arguments: &Value) -> (String, String) {
    (tool.to_owned(), json!({ "arguments": arguments }).to_string())
}
