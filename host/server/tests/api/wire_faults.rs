//! Faults as providers send them over HTTP, and what becomes of the turn.

use crate::house::{Frame, House, Plan};
use fumehood_core::name::ModelName;
use fumehood_model::{ModelConfig, Provider, build};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A provider that gives each connection the next of these replies and closes it; and how many it gave.
async fn server(replies: Vec<String>) -> (Arc<dyn Provider>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = json!({
        "provider": "openai", "wire": "chat", "model": "m",
        "base_url": format!("http://{}/v1", listener.local_addr().unwrap()),
    });
    let given = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&given);
    tokio::spawn(async move {
        for reply in replies {
            let (mut connection, _) = listener.accept().await.unwrap();
            read_request(&mut connection).await;
            count.fetch_add(1, SeqCst);
            connection.write_all(reply.as_bytes()).await.unwrap();
            connection.shutdown().await.unwrap();
        }
    });
    let config: ModelConfig = serde_json::from_value(config).unwrap();
    (build(&config, &|_| None).unwrap(), given)
}

async fn read_request(connection: &mut TcpStream) {
    let mut request = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = connection.read(&mut piece).await.unwrap();
        request.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        if body.len() >= length.trim().parse().unwrap() {
            return;
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
    let (provider, given) = server(replies).await;
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
    assert_eq!(given.load(SeqCst), 3);
}

#[tokio::test]
async fn a_stream_that_breaks_off_within_its_text_ends_the_turn_with_that_text() {
    let (provider, given) = server(vec![stream(HALF, 100), stream(WHOLE, 0)]).await;
    let frames = turn(provider).await;
    assert_eq!(data(&frames, "text.completed")[0]["text"], "Half");
    assert_eq!(data(&frames, "turn.failed")[0]["error"]["code"], "model_unavailable");
    assert_eq!(given.load(SeqCst), 1, "it was not asked again");
}

#[tokio::test]
async fn a_page_in_the_place_of_an_answer_is_no_answer_and_is_not_asked_for_again() {
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\nconnection: close\r\n\r\n<ht>";
    let (provider, given) = server(vec![page.to_owned(), stream(WHOLE, 0)]).await;
    let frames = turn(provider).await;
    assert_eq!(data(&frames, "turn.failed")[0]["error"]["code"], "model_protocol");
    assert_eq!(given.load(SeqCst), 1);
}
