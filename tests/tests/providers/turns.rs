//! Whole turns with calls, approvals, schemas and pictures, as each provider's wire carries them.

use crate::stand::{AGENTS, GOES_ON, Settings, Stand, all, answers, answers_in_turn, assert_one_end, said, until};
use fumehood_mock_provider::Fault;
use fumehood_tests::{find, frames};
use reqwest::Method;
use serde_json::{Value, json};

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
async fn a_turn_that_is_cancelled_while_a_provider_streams_keeps_what_was_shown() {
    let Some(stand) = Stand::new([answers("say it", &json!({"content": "Half of it."}))]).await else {
        return;
    };
    for (agent, _) in AGENTS {
        stand.line.then([Fault::StalledAfterEvent("Half of it.")]);
        let session = stand.session(agent).await;
        let mut events = stand.begin(&session, "say it").await;
        let shown = until(&mut events, "text.delta").await;
        let turn = shown["turn"].as_str().unwrap();
        stand.host.post(&format!("/v1/turns/{turn}/cancel"), json!({})).await;
        until(&mut events, "turn.cancelled").await;
        let recorded = stand.host.events(&session).await;
        assert_one_end(&recorded, "turn.cancelled", agent);
        assert_eq!(all(&recorded, "text.completed")[0]["text"], "Half of it.", "{agent}");
        stand.goes_on(&session, agent).await;
        let next = stand.host.turn(&session, GOES_ON).await;
        assert_eq!(next["status"], "completed", "{agent}");
        let asked = stand.line.asked();
        assert!(
            asked[0].to_string().contains("Half of it."),
            "{agent}: the model knows what it said"
        );
    }
}

#[tokio::test]
async fn an_answer_that_does_not_follow_its_schema_is_repaired_by_each_provider() {
    // Each answer is to what the host said of the one before.
    let fixtures = [
        answers("add up", &json!({"content": "The total is 3."})),
        answers("it is not JSON", &json!({"content": "{\"total\": \"three\"}"})),
        answers("/total", &json!({"content": "{\"total\": 3}"})),
    ];
    let Some(stand) = Stand::new(fixtures).await else {
        return;
    };
    let schema = json!({"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]});
    for (agent, _) in AGENTS {
        let session = stand.session(agent).await;
        let path = format!("/v1/sessions/{session}/turns");
        let turn = stand
            .host
            .post(&path, json!({"input": "add up", "output_schema": schema}))
            .await;
        assert_eq!(
            turn["output"],
            json!([{"type": "json", "json": {"total": 3}}]),
            "{agent}: {turn}"
        );
        let events = stand.host.events(&session).await;
        assert!(!all(&events, "output.rejected").is_empty(), "{agent}");
        assert_eq!(all(&events, "output.validated").len(), 1, "{agent}");
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn calls_that_are_approved_edited_and_rejected_have_results_that_each_provider_takes() {
    let write = |path: &str| json!({"name": "files_write", "arguments": {"path": path, "content": "text"}});
    let calls = json!({"toolCalls": [write("first"), write("second"), write("third")]});
    let mut asks = answers("write", &calls);
    asks["match"]["hasToolResult"] = false.into();
    let mut ends = answers("write", &json!({"content": "As you wish."}));
    ends["match"]["hasToolResult"] = true.into();
    let settings = Settings {
        of_agents: "approval = [{ tool = \"files_write\", decide = \"ask\" }]",
        ..Settings::default()
    };
    let Some(stand) = Stand::with(settings, [asks, ends]).await else {
        return;
    };
    for (agent, _) in AGENTS {
        let (session, waiting, _) = stand.turn(agent, "write").await;
        assert_eq!(waiting["status"], "awaiting_approval", "{agent}: {waiting}");
        let call = |nth: usize| waiting["approvals"][nth]["call_id"].clone();
        let decisions = json!({"decisions": [
            {"call_id": call(0), "decision": "approve"},
            {"call_id": call(1), "decision": "approve", "arguments": {"path": "elsewhere", "content": "text"}},
            {"call_id": call(2), "decision": "reject", "feedback": "not that one"},
        ]});
        let turn = waiting["id"].as_str().unwrap();
        stand.host.post(&format!("/v1/turns/{turn}/approvals"), decisions).await;
        let request = stand
            .host
            .request(Method::GET, &format!("/v1/sessions/{session}/events?turn={turn}"))
            .header("accept", "text/event-stream");
        let mut events = frames(request.send().await.unwrap()).await;
        until(&mut events, "turn.completed").await;
        let asked = stand.line.asked();
        let shown = asked.last().unwrap()["messages"].to_string();
        let places: Vec<_> = ["first", "elsewhere", "not that one"]
            .iter()
            .map(|told| {
                shown
                    .rfind(told)
                    .unwrap_or_else(|| panic!("{agent}: {told} is missing in {shown}"))
            })
            .collect();
        assert!(
            places.is_sorted(),
            "{agent}: results stand in the order of the requests: {shown}"
        );
        stand.goes_on(&session, agent).await;
    }
}

#[tokio::test]
async fn a_picture_for_a_model_that_takes_none_is_described_and_the_session_goes_on() {
    let refused =
        json!({"error": {"message": "m does not support image input", "type": "invalid_request_error"}, "status": 400});
    let fixtures = answers_in_turn("what is this", &[refused, json!({"content": "I can not see it."})]);
    let Some(stand) = Stand::new(fixtures).await else {
        return;
    };
    for (agent, _) in AGENTS {
        let session = stand.session(agent).await;
        let input = json!([
            {"type": "text", "text": "what is this"},
            {"type": "image", "media_type": "image/png", "data": "AQID"},
        ]);
        let path = format!("/v1/sessions/{session}/turns");
        let turn = stand.host.post(&path, json!({"input": input})).await;
        assert_eq!(said(&turn), "I can not see it.", "{agent}: {turn}");
        stand.goes_on(&session, agent).await;
        let messages = stand.host.get(&format!("/v1/sessions/{session}/messages")).await;
        assert_eq!(
            messages["items"][0]["content"], input,
            "{agent}: a client sees what was sent"
        );
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
