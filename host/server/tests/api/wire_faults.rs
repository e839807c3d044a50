//! Faults as providers send them over HTTP, and what becomes of the turn.

use crate::house::{Frame, House, Plan};
use fumehood_core::name::ModelName;
use fumehood_model::{ModelConfig, Provider, build};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A provider that gives each connection the next of these replies and closes it; and what it was asked.
async fn server(replies: Vec<String>) -> (Arc<dyn Provider>, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = json!({
        "provider": "openai", "wire": "chat", "model": "m",
        "base_url": format!("http://{}/v1", listener.local_addr().unwrap()),
    });
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        for reply in replies {
            let (mut connection, _) = listener.accept().await.unwrap();
            let body = read_request(&mut connection).await;
            seen.lock().unwrap().push(body);
            connection.write_all(reply.as_bytes()).await.unwrap();
            connection.shutdown().await.unwrap();
        }
    });
    let config: ModelConfig = serde_json::from_value(config).unwrap();
    (build(&config, &|_| None).unwrap(), asked)
}

async fn read_request(connection: &mut TcpStream) -> Value {
    let mut request = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = connection.read(&mut piece).await.unwrap();
        request.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        if body.len() >= length.trim().parse().unwrap() {
            return serde_json::from_str(body).unwrap();
        }
    }
}

fn refusal(status: &str, header: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{header}content-length: 0\r\nconnection: close\r\n\r\n")
}

fn stream(body: &str, missing: usize) -> String {
    let length = body.len() + missing;
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

const HALF: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Half\"}}]}\n\n";
const WHOLE: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Whole.\"},\"finish_reason\":\"stop\"}]}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n";

async fn turn(provider: Arc<dyn Provider>) -> Vec<Frame> {
    let house = House::built(Plan {
        models: [(ModelName::main(), provider.into())].into(),
        ..Plan::default()
    })
    .await;
    let path = house.session().await;
    let request = house.post(&format!("{path}/turns")).json(&json!({"input": "hi"}));
    request.stream().await.rest().await
}

fn data<'a>(frames: &'a [Frame], kind: &str) -> Vec<&'a Value> {
    let of_kind = frames.iter().filter(|frame| frame.event == kind);
    of_kind.map(|frame| &frame.data["data"]).collect()
}

#[tokio::test]
async fn a_provider_that_is_limited_then_breaks_off_is_asked_until_it_answers() {
    let replies = vec![
        refusal("429 Too Many Requests", "retry-after-ms: 10\r\n"),
        stream("", 100),
        stream(WHOLE, 0),
    ];
    let (provider, asked) = server(replies).await;
    let frames = turn(provider).await;
    let retries = data(&frames, "retry.scheduled");
    let told: Vec<_> = retries
        .iter()
        .map(|retry| {
            (
                retry["error"]["code"].as_str().unwrap(),
                retry["retry_after_hint_ms"].as_u64(),
            )
        })
        .collect();
    assert_eq!(told, [("model_rate_limited", Some(10)), ("model_unavailable", None)]);
    assert_eq!(data(&frames, "text.completed")[0]["text"], "Whole.");
    assert_eq!(
        data(&frames, "turn.completed")[0]["usage"],
        json!({"input_tokens": 9, "output_tokens": 1})
    );
    assert_eq!(asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_stream_that_breaks_off_within_its_text_ends_the_turn_with_that_text() {
    let (provider, asked) = server(vec![stream(HALF, 100), stream(WHOLE, 0)]).await;
    let frames = turn(provider).await;
    assert_eq!(data(&frames, "text.completed")[0]["text"], "Half");
    assert_eq!(data(&frames, "turn.failed")[0]["error"]["code"], "model_unavailable");
    assert_eq!(asked.lock().unwrap().len(), 1, "it was not asked again");
}

#[tokio::test]
async fn a_page_in_the_place_of_an_answer_is_no_answer_and_is_not_asked_for_again() {
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\nconnection: close\r\n\r\n<ht>";
    let (provider, asked) = server(vec![page.to_owned(), stream(WHOLE, 0)]).await;
    let frames = turn(provider).await;
    assert_eq!(data(&frames, "turn.failed")[0]["error"]["code"], "model_protocol");
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_tool_that_the_model_invented_does_not_spoil_the_session() {
    let invented = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":\
        {\"name\":\"multi_tool_use.parallel\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n";
    let (provider, asked) = server(vec![stream(invented, 0), stream(WHOLE, 0), stream(WHOLE, 0)]).await;
    let house = House::built(Plan {
        models: [(ModelName::main(), provider.into())].into(),
        ..Plan::default()
    })
    .await;
    let path = house.session().await;
    for _ in 0..2 {
        let turn = house.post(&format!("{path}/turns")).json(&json!({"input": "hi"}));
        assert_eq!(turn.answer().await.json()["status"], "completed");
    }
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 3);
    for body in &asked[1..] {
        let messages = body["messages"].as_array().unwrap();
        let names: Vec<_> = messages
            .iter()
            .filter_map(|message| message.pointer("/tool_calls/0/function/name")?.as_str())
            .collect();
        assert_eq!(names, ["multi_tool_use_parallel"]);
    }
    let journal = house.get(&format!("{path}/events")).with("accept", "application/json");
    assert!(
        journal.answer().await.text().contains("multi_tool_use.parallel"),
        "the journal has it as it came"
    );
}
