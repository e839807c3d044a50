//! What the provider or the line to it does wrong, and what becomes of the turn.

use crate::stand::{AGENTS, GOES_ON, Settings, Stand, all, answers, answers_in_turn, assert_one_end, said, until};
use fumehood_mock_provider::Fault;
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Notify;

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
    let Some(stand) = Stand::with(Settings::models("max_retries = 1"), []).await else {
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
    let Some(stand) = Stand::with(Settings::models("first_byte_timeout = \"3s\""), fixtures).await else {
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
    let Some(stand) = Stand::with(Settings::models("idle_timeout = \"3s\""), fixtures).await else {
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
