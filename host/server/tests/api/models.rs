//! Model calls that fail: tried again, asked of another model, or the turn's end; and what they cost.

use crate::house::{Frame, House, Plan, kinds, scripted};
use async_trait::async_trait;
use fumehood_agent::models::{Model, Models};
use fumehood_core::{money::Money, name::ModelName, price::Price, turn::StepStop};
use fumehood_model::{
    ModelError, ModelEvent, ModelInfo, ModelRequest, ModelStream, Provider, ProviderKind, scripted::Scripted,
};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

fn name(name: &str) -> ModelName {
    ModelName::new(name).unwrap()
}

/// A house whose `main` plays a script, with another model to fall back to.
async fn house(main: Model, other: &str) -> House {
    let main = Model {
        fallbacks: vec![name("other")],
        ..main
    };
    let models = Models::from([(name("main"), main), (name("other"), scripted(other))]);
    House::built(Plan {
        models,
        ..Plan::default()
    })
    .await
}

async fn turn(house: &House, body: &Value) -> Vec<Frame> {
    let path = house.session().await;
    let stream = house.post(&format!("{path}/turns")).json(body).stream().await;
    stream.rest().await
}

async fn hello(house: &House) -> Vec<Frame> {
    turn(house, &json!({"input": "hi"})).await
}

fn data<'a>(frames: &'a [Frame], kind: &str) -> Vec<&'a Value> {
    let of_kind = frames.iter().filter(|frame| frame.event == kind);
    of_kind.map(|frame| &frame.data["data"]).collect()
}

fn quiet() -> &'static str {
    "otherwise: { steps: [ { text: from the other, usage: { input_tokens: 10, output_tokens: 2 } } ] }"
}

#[tokio::test]
async fn a_failed_call_is_tried_again_after_the_wait_that_its_event_tells() {
    let script = "otherwise: { steps: [ \
        { error: { code: overloaded, retry_after_ms: 20 } }, { error: { code: incomplete } }, { text: Here. } ] }";
    let house = house(scripted(script), quiet()).await;
    let frames = hello(&house).await;
    let retries = data(&frames, "retry.scheduled");
    assert_eq!(retries.len(), 2, "{:?}", kinds(&frames));
    let [hinted, broken] = retries[..] else {
        panic!("{retries:?}")
    };
    assert_eq!((&hinted["attempt"], &hinted["max_attempts"]), (&json!(1), &json!(7)));
    assert_eq!(hinted["retry_after_hint_ms"], 20);
    // The hint is less than what the formula gives.
    assert_eq!(hinted["delay_ms"], hinted["computed_delay_ms"]);
    assert!(
        (450..=550).contains(&hinted["computed_delay_ms"].as_u64().unwrap()),
        "{hinted}"
    );
    assert!(
        (900..=1100).contains(&broken["computed_delay_ms"].as_u64().unwrap()),
        "{broken}"
    );
    for absent in ["model", "budget_capped", "rate_limit_floor_applied", "usage", "cost"] {
        assert_eq!(broken[absent], Value::Null, "{absent}");
    }
    assert_eq!(data(&frames, "step.completed")[0]["model"], Value::Null);
    assert_eq!(frames.last().unwrap().event, "turn.completed");
}

#[tokio::test]
async fn another_model_is_asked_when_the_retries_are_used_up() {
    let main = Model {
        max_retries: 1,
        ..scripted("otherwise: { steps: [ { error: { code: unavailable } } ] }")
    };
    let house = house(main, quiet()).await;
    let frames = hello(&house).await;
    let retries = data(&frames, "retry.scheduled");
    let told: Vec<_> = retries
        .iter()
        .map(|retry| (retry["attempt"].as_u64().unwrap(), retry["model"].as_str()))
        .collect();
    assert_eq!(told, [(1, None), (2, Some("other"))]);
    assert_eq!(retries[1]["delay_ms"], 0);
    assert_eq!(data(&frames, "step.completed")[0]["model"], "other");
    assert_eq!(data(&frames, "text.completed")[0]["text"], "from the other");
}

#[tokio::test]
async fn after_visible_text_nobody_is_asked_again_and_the_text_is_kept() {
    let script = "otherwise: { steps: [ { error: { code: incomplete, after_text: Half an } } ] }";
    let house = house(scripted(script), quiet()).await;
    let frames = hello(&house).await;
    assert!(data(&frames, "retry.scheduled").is_empty());
    assert_eq!(data(&frames, "text.completed")[0]["text"], "Half an");
    let failed = data(&frames, "turn.failed");
    assert_eq!(failed[0]["error"]["code"], "model_unavailable");
}

#[tokio::test]
async fn what_no_wait_would_mend_is_not_asked_of_another_model() {
    let house = house(scripted("otherwise: { steps: [ { error: { code: auth } } ] }"), quiet()).await;
    let frames = hello(&house).await;
    assert!(data(&frames, "retry.scheduled").is_empty());
    assert_eq!(data(&frames, "turn.failed")[0]["error"]["code"], "model_auth");
}

#[tokio::test]
async fn when_the_last_model_fails_its_name_is_told() {
    let main = Model {
        max_retries: 0,
        ..scripted("otherwise: { steps: [ { error: { code: overloaded } } ] }")
    };
    let house = house(main, "otherwise: { steps: [ { error: { code: auth } } ] }").await;
    let frames = hello(&house).await;
    let error = &data(&frames, "turn.failed")[0]["error"];
    assert_eq!(error["code"], "model_auth");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("`other`") && message.contains("in place of `main`"),
        "{message}"
    );
}

#[tokio::test]
async fn a_fallback_that_takes_less_than_the_conversation_has_is_passed_over() {
    let script = "turns: [ { steps: [ \
        { tool_calls: [ { tool: nothing, arguments: {} } ], usage: { input_tokens: 90000, output_tokens: 10 } }, \
        { error: { code: unavailable } } ] } ]";
    let after = |window| async move {
        let main = Model {
            max_retries: 0,
            fallbacks: vec![name("other")],
            ..scripted(script)
        };
        let info = ModelInfo {
            provider: ProviderKind::Scripted,
            model: "other".into(),
            context_window: Some(window),
        };
        let other = Scripted::from_yaml("otherwise: { steps: [ { text: a }, { text: b } ] }").unwrap();
        let other = Arc::new(other.named(info)) as Arc<dyn Provider>;
        let house = House::built(Plan {
            models: Models::from([(name("main"), main), (name("other"), other.into())]),
            ..Plan::default()
        })
        .await;
        hello(&house).await.last().unwrap().event.clone()
    };
    assert_eq!(after(90_000).await, "turn.failed");
    assert_eq!(after(100_000).await, "turn.completed");
}

#[tokio::test]
async fn a_fallback_that_takes_less_than_the_first_input_has_is_passed_over() {
    let main = Model {
        max_retries: 0,
        fallbacks: vec![name("other")],
        ..scripted("otherwise: { steps: [ { error: { code: unavailable } } ] }")
    };
    let info = ModelInfo {
        provider: ProviderKind::Scripted,
        model: "other".into(),
        context_window: Some(2_000),
    };
    let other = Arc::new(Scripted::from_yaml(quiet()).unwrap().named(info)) as Arc<dyn Provider>;
    let house = House::built(Plan {
        models: Models::from([(name("main"), main), (name("other"), other.into())]),
        ..Plan::default()
    })
    .await;
    let frames = turn(&house, &json!({"input": "word ".repeat(4_000)})).await;
    assert!(data(&frames, "retry.scheduled").is_empty(), "{:?}", kinds(&frames));
    let failed = data(&frames, "turn.failed");
    assert_eq!(failed[0]["error"]["code"], "model_unavailable");
}

#[tokio::test]
async fn what_is_too_long_for_a_fallback_is_not_summed_up_and_the_own_models_error_is_told() {
    let main = Model {
        max_retries: 0,
        ..scripted("otherwise: { steps: [ { error: { code: unavailable } } ] }")
    };
    let house = house(main, "otherwise: { steps: [ { error: { code: context_too_long } } ] }").await;
    let frames = hello(&house).await;
    assert_eq!(data(&frames, "retry.scheduled").len(), 1, "{:?}", kinds(&frames));
    assert!(data(&frames, "compaction.started").is_empty(), "{:?}", kinds(&frames));
    let failed = data(&frames, "turn.failed");
    assert_eq!(failed[0]["error"]["code"], "model_unavailable");
}

#[tokio::test]
async fn an_empty_answer_is_tried_again() {
    let script = "otherwise: { steps: [ { text: \"\", usage: { input_tokens: 5, output_tokens: 0 } } ] }";
    let main = Model {
        max_retries: 0,
        ..scripted(script)
    };
    let house = house(main, quiet()).await;
    let frames = hello(&house).await;
    let retries = data(&frames, "retry.scheduled");
    assert_eq!(retries[0]["model"], "other");
    assert_eq!(retries[0]["usage"], json!({"input_tokens": 5, "output_tokens": 0}));
    assert_eq!(retries[0]["error"]["code"], "empty_answer");
    let ended = data(&frames, "turn.completed")[0];
    assert_eq!(ended["usage"]["input_tokens"], 15, "what was in vain counts");
}

#[tokio::test]
async fn a_model_that_has_nothing_to_say_fails_the_turn_with_that_reason() {
    let nothing = "otherwise: { steps: [ { text: \"\" } ] }";
    let main = Model {
        max_retries: 0,
        ..scripted(nothing)
    };
    let models = Models::from([(name("main"), main)]);
    let house = House::built(Plan {
        models,
        ..Plan::default()
    })
    .await;
    let frames = hello(&house).await;
    let error = &data(&frames, "turn.failed")[0]["error"];
    assert_eq!(error["code"], "empty_answer");
    assert!(
        error["message"].as_str().unwrap().contains("neither text nor a call"),
        "{error}"
    );
}

#[tokio::test]
async fn a_hint_beyond_the_time_budget_fails_at_once_and_says_so() {
    let script = "otherwise: { steps: [ { error: { code: rate_limited, retry_after_ms: 90000 } } ] }";
    let models = Models::from([(name("main"), scripted(script))]);
    let house = House::built(Plan {
        models,
        ..Plan::default()
    })
    .await;
    let frames = turn(&house, &json!({"input": "hi", "budget": {"time": "60s"}})).await;
    assert!(data(&frames, "retry.scheduled").is_empty());
    let error = &data(&frames, "turn.failed")[0]["error"];
    assert_eq!(error["code"], "model_rate_limited");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("asks to wait 90 s") && message.contains("time budget"),
        "{message}"
    );
}

#[tokio::test]
async fn a_wait_is_interrupted_by_a_cancel() {
    let script = "otherwise: { steps: [ { error: { code: rate_limited } } ] }";
    let models = Models::from([(name("main"), scripted(script))]);
    let house = House::built(Plan {
        models,
        ..Plan::default()
    })
    .await;
    let path = house.session().await;
    let request = house.post(&format!("{path}/turns")).json(&json!({"input": "hi"}));
    let mut stream = request.stream().await;
    let before = stream.until("retry.scheduled").await;
    let retry = &before.last().unwrap().data;
    assert_eq!(
        (&retry["data"]["delay_ms"], &retry["data"]["rate_limit_floor_applied"]),
        (&json!(30_000), &json!(true))
    );
    let turn = retry["turn"].as_str().unwrap();
    let cancelled = house.post(&format!("/v1/turns/{turn}/cancel")).answer().await.json();
    assert_eq!(cancelled["status"], "cancelled");
}

#[tokio::test]
async fn steps_and_turns_tell_what_they_cost_where_it_is_known() {
    let price = Price {
        input: Money::from_millionths(2_000_000),
        output: Money::from_millionths(10_000_000),
        cached_input: None,
        cache_write: None,
        reasoning: None,
    };
    let script = "turns: [ { steps: [ \
        { tool_calls: [ { tool: nothing, arguments: {} } ], usage: { input_tokens: 1000, output_tokens: 100 } }, \
        { text: Done., usage: { input_tokens: 2000 } } ] } ]";
    let main = Model {
        price: Some(price),
        ..scripted(script)
    };
    let house = House::built(Plan {
        models: Models::from([(name("main"), main)]),
        ..Plan::default()
    })
    .await;
    let frames = hello(&house).await;
    let steps = data(&frames, "step.completed");
    assert_eq!(
        (&steps[0]["cost"], &steps[0]["unmeasured"]),
        (&json!(0.003), &Value::Null)
    );
    assert_eq!(
        (&steps[1]["cost"], &steps[1]["unmeasured"]),
        (&Value::Null, &json!(true))
    );
    assert_eq!(data(&frames, "turn.completed")[0]["cost"], 0.003);
    let turn = frames.last().unwrap().data["turn"].as_str().unwrap();
    let shown = house.get(&format!("/v1/turns/{turn}")).answer().await.json();
    assert_eq!(shown["cost"], 0.003);
}

#[tokio::test]
async fn a_budget_of_money_ends_the_turn_gracefully() {
    let price = Price {
        input: Money::from_millionths(1_000_000),
        output: Money::from_millionths(1_000_000),
        cached_input: None,
        cache_write: None,
        reasoning: None,
    };
    let step = "{ text: So far., tool_calls: [ { tool: nothing, arguments: {} } ], \
        usage: { input_tokens: 900, output_tokens: 100 } }";
    let main = Model {
        price: Some(price),
        ..scripted(&format!("turns: [ {{ steps: [ {step}, {step} ] }} ]"))
    };
    let house = House::built(Plan {
        models: Models::from([(name("main"), main)]),
        ..Plan::default()
    })
    .await;
    let frames = turn(&house, &json!({"input": "hi", "budget": {"cost": 0.001}})).await;
    let exhausted = data(&frames, "budget.exhausted");
    assert_eq!(
        (&exhausted[0]["scope"], &exhausted[0]["budget"], &exhausted[0]["used"]),
        (&json!("turn"), &json!("cost"), &json!(1000))
    );
    let ended = data(&frames, "turn.completed")[0];
    assert_eq!(ended["stop_reason"], "cost_limit");
    assert_eq!(ended["output"], json!([{"type": "text", "text": "So far."}]));
}

/// Notes where the conversation lies that it is shown, and asks for a tool that is not there, twice.
#[derive(Default)]
struct Places(Mutex<Vec<usize>>);

#[async_trait]
impl Provider for Places {
    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let mut places = self.0.lock().unwrap();
        places.push(Arc::as_ptr(&request.messages).addr());
        let stop = if places.len() < 3 {
            StepStop::ToolCalls
        } else {
            StepStop::Stop
        };
        let mut events = vec![ModelEvent::TextDelta("Let me see.".into())];
        if stop == StepStop::ToolCalls {
            let (index, name) = (0, "nowhere".into());
            events.push(ModelEvent::ToolCallStart { index, name });
            events.push(ModelEvent::ToolCallEnd { index });
        }
        events.push(ModelEvent::Done { stop });
        Ok(stream::iter(events.into_iter().map(Ok)).boxed())
    }

    fn describe(&self) -> ModelInfo {
        ModelInfo {
            provider: ProviderKind::Scripted,
            model: "places".into(),
            context_window: None,
        }
    }
}

#[tokio::test]
async fn a_conversation_is_not_copied_from_one_step_to_the_next() {
    let places = Arc::new(Places::default());
    let main: Model = (Arc::clone(&places) as Arc<dyn Provider>).into();
    let house = house(main, "turns: []\notherwise:\n  steps: [ { text: no } ]\n").await;
    hello(&house).await;
    let places = places.0.lock().unwrap().clone();
    assert_eq!(places.len(), 3);
    assert!(places.iter().all(|place| *place == places[0]), "{places:x?}");
}
