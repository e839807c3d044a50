//! Whole turns through the providers' own wires, asked of a mock that others wrote, over a line that fails: what a client
//! sees of each fault, and that the session goes on after it. Skipped where the mock is not installed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_mock_provider::{Fault, Line, MockProvider};
use fumehood_tests::{Host, Place, find, frames};
use futures::{Stream, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Notify;

/// The agents, each with the model of one provider, and what that is called there.
const AGENTS: [(&str, &str); 2] = [("openai", "gpt-5"), ("anthropic", "claude-sonnet-4-5")];

/// What the mock answers to every turn that is to show that a session goes on.
const GOES_ON: &str = "go on";

/// A host whose models are the mock's, at the other end of the line.
struct Stand {
    _mock: MockProvider,
    line: Line,
    _place: Place,
    host: Host,
}

impl Stand {
    async fn new(fixtures: impl IntoIterator<Item = Value>) -> Option<Self> {
        Self::with("", fixtures).await
    }

    /// `more` is added to the configuration of both models.
    async fn with(more: &str, fixtures: impl IntoIterator<Item = Value>) -> Option<Self> {
        // First: an input without an answer is part of the next input on some wires.
        let mut all = vec![answers(GOES_ON, &json!({"content": "Gone on."}))];
        all.extend(fixtures);
        let mock = MockProvider::start(&json!({"fixtures": all})).await?;
        let line = Line::to(mock.url()).await;
        let mut config = String::new();
        for ((agent, model), wire) in AGENTS.into_iter().zip(["wire = \"chat\"", ""]) {
            config += &format!(
                "[model.{agent}]\nprovider = \"{agent}\"\nmodel = \"{model}\"\n{wire}\nbase_url = \"{}/v1\"\n\
                 api_key_env = \"MOCK_KEY\"\n{more}\n[agent.{agent}]\nmodel = \"{agent}\"\n",
                line.url()
            );
        }
        let place = Place::new(&config);
        let host = place.serve_with(&[("MOCK_KEY", "mock-key")]).await;
        Some(Self {
            _mock: mock,
            line,
            _place: place,
            host,
        })
    }

    async fn session(&self, agent: &str) -> String {
        self.host.session(json!({"agent": agent})).await
    }

    /// Works a turn in a session of its own: the turn and the session's events.
    async fn turn(&self, agent: &str, input: &str) -> (String, Value, Vec<Value>) {
        let session = self.session(agent).await;
        let turn = self.host.turn(&session, input).await;
        let events = self.host.events(&session).await;
        (session, turn, events)
    }

    /// Begins a turn whose events are read as they come.
    async fn begin(&self, session: &str, input: &str) -> impl Stream<Item = (Option<u64>, String, Value)> + Unpin {
        let request = self
            .host
            .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
            .header("accept", "text/event-stream");
        frames(request.json(&json!({"input": input})).send().await.unwrap()).await
    }

    /// The history is one that the provider takes: the next turn is worked to its end without another request.
    async fn goes_on(&self, session: &str, why: &str) {
        let _ = self.line.asked();
        let turn = self.host.turn(session, GOES_ON).await;
        assert_eq!(said(&turn), "Gone on.", "{why}: {turn}");
        assert_eq!(self.line.asked().len(), 1, "{why}");
    }
}

/// The next event of a type.
async fn until(events: &mut (impl Stream<Item = (Option<u64>, String, Value)> + Unpin), wanted: &str) -> Value {
    loop {
        let (_, kind, event) = events.next().await.expect("the turn has ended");
        if kind == wanted {
            return event;
        }
    }
}

/// A fixture of the mock: what it answers to an input that contains this.
fn answers(input: &str, response: &Value) -> Value {
    json!({"match": {"userMessage": input}, "response": response, "chunkSize": 1000})
}

/// What it answers to such an input one time after the other, to each model.
fn answers_in_turn(input: &str, responses: &[Value]) -> Vec<Value> {
    let of_model = |(_, model): (&str, &str)| {
        let numbered = responses.iter().enumerate();
        numbered
            .map(|(nth, response)| {
                let matched = json!({"userMessage": input, "model": model, "sequenceIndex": nth});
                json!({"match": matched, "response": response, "chunkSize": 1000})
            })
            .collect::<Vec<_>>()
    };
    AGENTS.into_iter().flat_map(of_model).collect()
}

fn said(turn: &Value) -> &str {
    turn["output"][0]["text"].as_str().unwrap_or_default()
}

fn all<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let of_kind = events.iter().filter(|event| event["type"] == kind);
    of_kind.map(|event| &event["data"]).collect()
}

/// What a turn of which nothing is left open looks like in the journal.
fn assert_one_end(events: &[Value], kind: &str, why: &str) {
    let ends = ["turn.completed", "turn.failed", "turn.cancelled"];
    let found: Vec<_> = events
        .iter()
        .filter_map(|event| event["type"].as_str())
        .filter(|kind| ends.contains(kind))
        .collect();
    assert_eq!(found, [kind], "{why}: {events:#?}");
}

#[tokio::test]
async fn a_turn_with_parallel_calls_is_worked_to_its_end_at_each_provider() {
    let calls = json!([
        {"name": "files_list", "arguments": {"path": "."}},
        {"name": "clock_now", "arguments": {}},
    ]);
    let mut asks = answers("look", &json!({"content": "I look.", "toolCalls": calls}));
    asks["match"]["hasToolResult"] = false.into();
    let mut ends = answers("look", &json!({"content": "That is all."}));
    ends["match"]["hasToolResult"] = true.into();
    let Some(stand) = Stand::new([asks, ends]).await else {
        return;
    };
    for (agent, _) in AGENTS {
        let session = stand.session(agent).await;
        stand.host.put_file(&session, "notes.txt", "hello").await;
        let turn = stand.host.turn(&session, "look around").await;
        assert_eq!(
            (said(&turn), &turn["status"]),
            ("That is all.", &json!("completed")),
            "{agent}"
        );
        assert!(turn["usage"]["input_tokens"].is_u64(), "{agent}: {turn}");
        let events = stand.host.events(&session).await;
        assert_one_end(&events, "turn.completed", agent);
        let requested: Vec<_> = all(&events, "tool.requested")
            .iter()
            .map(|asked| asked["call"]["id"].clone())
            .collect();
        for call in &requested {
            let done = find(&events, "tool.completed", |done| done["call"] == *call).unwrap();
            assert_eq!(done["status"], "ok", "{agent}: {done}");
        }
        assert_eq!(requested.len(), 2, "{agent}");
        let asked = stand.line.asked();
        assert_eq!(asked.len(), 2, "{agent}");
        assert!(asked[1].to_string().contains("notes.txt"), "{agent}: {}", asked[1]);
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn a_rate_limit_is_waited_out_for_as_long_as_the_provider_says() {
    let limited =
        json!({"error": {"message": "slow down", "type": "rate_limit_error"}, "status": 429, "retryAfter": 1});
    let fixtures = answers_in_turn("limited", &[limited, json!({"content": "Here."})]);
    let Some(stand) = Stand::new(fixtures).await else {
        return;
    };
    for (agent, _) in AGENTS {
        let (session, turn, events) = stand.turn(agent, "limited").await;
        assert_eq!(said(&turn), "Here.", "{agent}: {turn}");
        let [retry] = all(&events, "retry.scheduled")[..] else {
            panic!("{agent}: {events:#?}")
        };
        assert_eq!(retry["error"]["code"], "model_rate_limited", "{agent}");
        assert_eq!(retry["retry_after_hint_ms"], 1000, "{agent}");
        assert_eq!(retry["delay_ms"], 1000, "{agent}");
        assert_eq!(retry["rate_limit_floor_applied"], Value::Null, "{agent}");
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn after_a_rate_limit_without_a_hint_the_wait_is_long_and_can_be_cancelled() {
    let Some(stand) = Stand::new([]).await else { return };
    for (agent, _) in AGENTS {
        let session = stand.session(agent).await;
        stand.line.then([Fault::Refused {
            status: 429,
            retry_after: None,
        }]);
        let mut events = stand.begin(&session, GOES_ON).await;
        let retry = until(&mut events, "retry.scheduled").await;
        assert_eq!(retry["data"]["delay_ms"], 30_000, "{agent}");
        assert_eq!(retry["data"]["rate_limit_floor_applied"], true, "{agent}");
        let turn = retry["turn"].as_str().unwrap();
        stand.host.post(&format!("/v1/turns/{turn}/cancel"), json!({})).await;
        assert_eq!(
            events.collect::<Vec<_>>().await.last().unwrap().1,
            "turn.cancelled",
            "{agent}"
        );
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn a_provider_that_is_down_or_overloaded_is_asked_again_until_it_answers() {
    let down = json!({"error": {"message": "internal", "type": "api_error"}, "status": 500});
    let overloaded = json!({"error": {"message": "overloaded", "type": "overloaded_error"}, "status": 529});
    let fixtures = answers_in_turn("down", &[down, overloaded, json!({"content": "Up again."})]);
    let Some(stand) = Stand::new(fixtures).await else {
        return;
    };
    for (agent, _) in AGENTS {
        let (session, turn, events) = stand.turn(agent, "down").await;
        assert_eq!(said(&turn), "Up again.", "{agent}: {turn}");
        let retries = all(&events, "retry.scheduled");
        let told: Vec<_> = retries
            .iter()
            .map(|retry| {
                (
                    retry["attempt"].as_u64().unwrap(),
                    retry["error"]["code"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(told, [(1, "model_unavailable"), (2, "model_unavailable")], "{agent}");
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn a_provider_that_stays_down_fails_the_turn_when_the_retries_are_used_up() {
    let Some(stand) = Stand::with("max_retries = 1", []).await else {
        return;
    };
    for (agent, _) in AGENTS {
        let down = Fault::Refused {
            status: 503,
            retry_after: None,
        };
        stand.line.then([down.clone(), down]);
        let (session, turn, events) = stand.turn(agent, GOES_ON).await;
        assert_eq!(turn["error"]["code"], "model_unavailable", "{agent}: {turn}");
        assert_eq!(all(&events, "retry.scheduled").len(), 1, "{agent}");
        assert_one_end(&events, "turn.failed", agent);
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn a_refused_key_is_not_tried_again_and_not_shown() {
    let Some(stand) = Stand::new([]).await else { return };
    for (agent, _) in AGENTS {
        stand.line.then([Fault::Refused {
            status: 401,
            retry_after: None,
        }]);
        let (session, turn, events) = stand.turn(agent, GOES_ON).await;
        assert_eq!(turn["error"]["code"], "model_auth", "{agent}: {turn}");
        assert!(all(&events, "retry.scheduled").is_empty(), "{agent}");
        assert!(!json!([turn, events]).to_string().contains("mock-key"), "{agent}");
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_before_any_text_is_asked_for_again_and_nobody_notices() {
    let Some(stand) = Stand::new([answers("say it", &json!({"content": "Said."}))]).await else {
        return;
    };
    for (agent, _) in AGENTS {
        // After the head alone, and within the first event, before its text.
        stand.line.then([Fault::CutAfter(""), Fault::CutAfter("data: {")]);
        let (session, turn, events) = stand.turn(agent, "say it").await;
        assert_eq!(said(&turn), "Said.", "{agent}: {turn}");
        assert_eq!(all(&events, "retry.scheduled").len(), 2, "{agent}");
        let texts = all(&events, "text.completed");
        assert_eq!((texts.len(), &texts[0]["text"]), (1, &json!("Said.")), "{agent}");
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_after_visible_text_ends_the_turn_with_that_text() {
    let Some(stand) = Stand::new([answers("say it", &json!({"content": "Half of it."}))]).await else {
        return;
    };
    for (agent, _) in AGENTS {
        stand.line.then([Fault::CutAfterEvent("Half of it.")]);
        let (session, turn, events) = stand.turn(agent, "say it").await;
        assert_eq!(turn["error"]["code"], "model_unavailable", "{agent}: {turn}");
        assert_eq!(all(&events, "text.completed")[0]["text"], "Half of it.", "{agent}");
        assert!(
            all(&events, "retry.scheduled").is_empty(),
            "{agent}: it would be read twice"
        );
        assert_one_end(&events, "turn.failed", agent);
        stand.goes_on(&session, agent).await;
    }
}

/// One call as it should be, and one whose arguments end in the middle.
fn a_good_and_a_bad_call() -> Value {
    json!({"content": "I look.", "toolCalls": [
        {"name": "clock_now", "arguments": {}},
        {"name": "files_read", "arguments": {"path": "notes"}},
    ]})
}

/// Arguments as both wires write them, and what is left of them.
const TORN: Fault = Fault::Replaced(r#"{\"path\":\"notes\"}"#, r#"{\"path\":\"no"#);

#[tokio::test]
async fn malformed_arguments_are_a_result_and_the_call_beside_them_runs() {
    let mut asks = answers("look", &a_good_and_a_bad_call());
    asks["match"]["hasToolResult"] = false.into();
    let mut ends = answers("look", &json!({"content": "I see."}));
    ends["match"]["hasToolResult"] = true.into();
    let Some(stand) = Stand::new([asks, ends]).await else {
        return;
    };
    for (agent, _) in AGENTS {
        stand.line.then([TORN]);
        let (session, turn, events) = stand.turn(agent, "look").await;
        assert_eq!(said(&turn), "I see.", "{agent}: {turn}");
        let ended = |tool: &str| {
            let asked = find(&events, "tool.requested", |asked| asked["call"]["tool"] == tool).unwrap();
            find(&events, "tool.completed", |done| done["call"] == asked["call"]["id"]).unwrap()
        };
        assert_eq!(ended("clock_now")["status"], "ok", "{agent}");
        assert_eq!(ended("files_read")["error"]["code"], "invalid_arguments", "{agent}");
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_within_the_arguments_of_a_call_is_asked_for_again_and_the_call_runs_once() {
    let call = json!({"toolCalls": [{"name": "files_write", "arguments": {"path": "notes", "content": "whole"}}]});
    let mut asks = answers("write", &call);
    asks["match"]["hasToolResult"] = false.into();
    let mut ends = answers("write", &json!({"content": "Written."}));
    ends["match"]["hasToolResult"] = true.into();
    let Some(stand) = Stand::new([asks, ends]).await else {
        return;
    };
    for (agent, _) in AGENTS {
        stand.line.then([Fault::CutAfter(r#"\"content\":\"who"#)]);
        let (session, turn, events) = stand.turn(agent, "write").await;
        assert_eq!(said(&turn), "Written.", "{agent}: {turn}");
        assert_eq!(all(&events, "retry.scheduled").len(), 1, "{agent}");
        assert_eq!(all(&events, "tool.requested").len(), 1, "{agent}");
        assert_eq!(all(&events, "tool.started").len(), 1, "{agent}");
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn a_conversation_that_the_provider_refuses_as_too_long_is_summed_up_and_asked_about_again() {
    let refusals = [
        json!({"message": "This model's maximum context length is 4 tokens.", "type": "invalid_request_error", "code": "context_length_exceeded"}),
        json!({"message": "prompt is too long: 5 tokens > 4 maximum", "type": "invalid_request_error"}),
    ];
    let mut fixtures = vec![json!({"match": {"systemMessage": "sum up"}, "response": {"content": "They talked."}})];
    for ((_, model), error) in AGENTS.into_iter().zip(refusals) {
        let refused = json!({"userMessage": "too much", "model": model, "sequenceIndex": 0});
        fixtures.push(json!({"match": refused, "response": {"error": error, "status": 400}}));
    }
    fixtures.push(answers("too much", &json!({"content": "Here you are."})));
    fixtures.push(answers("a word", &json!({"content": "word ".repeat(2000)})));
    let Some(stand) = Stand::new(fixtures).await else {
        return;
    };
    for (agent, _) in AGENTS {
        let session = stand.session(agent).await;
        for _ in 0..3 {
            stand.host.turn(&session, "a word").await;
        }
        let turn = stand.host.turn(&session, "is that too much").await;
        assert_eq!(said(&turn), "Here you are.", "{agent}: {turn}");
        let events = stand.host.events(&session).await;
        assert_eq!(all(&events, "compaction.completed").len(), 1, "{agent}");
        assert!(all(&events, "retry.scheduled").is_empty(), "{agent}");
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn calls_of_an_answer_that_reached_its_limit_are_dropped_and_the_model_is_told_which() {
    let mut response = a_good_and_a_bad_call();
    response["finishReason"] = "length".into();
    let fixtures = [
        answers("look", &response),
        answers("cut off", &json!({"content": "Then in smaller pieces."})),
    ];
    let Some(stand) = Stand::new(fixtures).await else {
        return;
    };
    for (agent, _) in AGENTS {
        stand.line.then([TORN]);
        let (session, turn, events) = stand.turn(agent, "look").await;
        assert_eq!(said(&turn), "Then in smaller pieces.", "{agent}: {turn}");
        assert!(find(&events, "tool.started", |_| true).is_none(), "{agent}");
        let step = all(&events, "step.completed")[0];
        assert_eq!(step["dropped_calls"], json!(["clock_now", "files_read"]), "{agent}");
        assert_eq!(all(&events, "text.completed")[0]["text"], "I look.", "{agent}");
        let asked = stand.line.asked();
        let told = asked[1].to_string();
        assert!(
            told.contains("clock_now, files_read") && told.contains("I look."),
            "{agent}: {told}"
        );
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn a_slow_first_token_is_waited_for() {
    let Some(stand) = Stand::new([answers("think", &json!({"content": "Thought."}))]).await else {
        return;
    };
    for (agent, _) in AGENTS {
        let released = Arc::new(Notify::new());
        stand.line.then([Fault::Held(Arc::clone(&released))]);
        let session = stand.session(agent).await;
        let mut events = stand.begin(&session, "think").await;
        let begun = until(&mut events, "step.started").await;
        let turn = begun["turn"].as_str().unwrap().to_owned();
        // Meanwhile the host answers others, and the turn is shown as it is.
        assert_eq!(
            stand.host.get(&format!("/v1/turns/{turn}")).await["status"],
            "running",
            "{agent}"
        );
        released.notify_one();
        assert_eq!(
            events.collect::<Vec<_>>().await.last().unwrap().1,
            "turn.completed",
            "{agent}"
        );
        assert_eq!(stand.line.asked().len(), 1, "{agent}");
        let recorded = stand.host.events(&session).await;
        assert!(all(&recorded, "retry.scheduled").is_empty(), "{agent}");
    }
}

#[tokio::test]
async fn a_provider_that_does_not_begin_in_its_time_is_asked_again() {
    let fixtures = [answers("think", &json!({"content": "Thought."}))];
    let Some(stand) = Stand::with("first_byte_timeout = \"1s\"", fixtures).await else {
        return;
    };
    for (agent, _) in AGENTS {
        stand.line.then([Fault::Silent]);
        let (session, turn, events) = stand.turn(agent, "think").await;
        assert_eq!(said(&turn), "Thought.", "{agent}: {turn}");
        let [retry] = all(&events, "retry.scheduled")[..] else {
            panic!("{agent}: {events:#?}")
        };
        assert_eq!(retry["error"]["code"], "model_unavailable", "{agent}");
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn a_provider_that_falls_silent_within_its_text_is_given_up_and_the_text_is_kept() {
    let fixtures = [answers("say it", &json!({"content": "Half of it."}))];
    let Some(stand) = Stand::with("idle_timeout = \"1s\"", fixtures).await else {
        return;
    };
    for (agent, _) in AGENTS {
        stand.line.then([Fault::StalledAfterEvent("Half of it.")]);
        let (session, turn, events) = stand.turn(agent, "say it").await;
        assert_eq!(turn["error"]["code"], "model_unavailable", "{agent}: {turn}");
        assert_eq!(all(&events, "text.completed")[0]["text"], "Half of it.", "{agent}");
        assert!(all(&events, "retry.scheduled").is_empty(), "{agent}");
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_not_the_protocol_ends_the_turn_and_neither_host_nor_session() {
    let Some(stand) = Stand::new([answers("say it", &json!({"content": "Said."}))]).await else {
        return;
    };
    for (agent, _) in AGENTS {
        for fault in [Fault::Page, Fault::Replaced("data: {", "data: <")] {
            let why = format!("{agent}, {fault:?}");
            stand.line.then([fault]);
            let (session, turn, events) = stand.turn(agent, "say it").await;
            assert_eq!(turn["error"]["code"], "model_protocol", "{why}: {turn}");
            assert!(all(&events, "retry.scheduled").is_empty(), "{why}");
            assert_one_end(&events, "turn.failed", &why);
            stand.goes_on(&session, &why).await;
        }
    }
}
