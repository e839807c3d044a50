use super::*;
use crate::assemble::{Assembler, Step};
use fumehood_core::{
    call::{CallError, CallErrorCode, CallResult, Output},
    content::Content,
    id::CallId,
    message::{AssistantPart, GivenArguments, Message},
    turn::Usage,
};
use futures::FutureExt as _;
use serde_json::json;
use std::sync::Arc;

fn user(text: &str) -> Message {
    Message::User {
        content: vec![Content::text(text)],
    }
}

fn says(text: &str) -> Message {
    Message::Assistant {
        parts: vec![AssistantPart::Text { text: text.into() }],
    }
}

fn returned(result: CallResult) -> Message {
    Message::Tool {
        call: CallId::new(),
        tool: "t".into(),
        result,
    }
}

fn structured(value: Value) -> CallResult {
    Ok(Output {
        structured: Some(value),
        ..Output::default()
    })
}

fn request(messages: &[Message]) -> ModelRequest {
    ModelRequest {
        messages: Arc::new(messages.to_vec()),
        ..ModelRequest::default()
    }
}

async fn play_on(model: &Scripted, messages: &[Message]) -> Result<Step, ModelError> {
    let mut stream = model.stream(&request(messages)).await?;
    let mut assembler = Assembler::default();
    while let Some(event) = stream.next().await {
        if let Some(step) = assembler.push(event?) {
            return Ok(step);
        }
    }
    panic!("a stream ended without an end")
}

async fn text_of(model: &Scripted, messages: &[Message]) -> String {
    let step = play_on(model, messages).await.unwrap();
    step.parts
        .into_iter()
        .map(|part| match part {
            AssistantPart::Text { text } => text,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn script(yaml: &str) -> Scripted {
    Scripted::from_yaml(yaml).unwrap()
}

async fn complaint(model: &Scripted, messages: &[Message]) -> String {
    match play_on(model, messages).await.unwrap_err().kind() {
        ModelErrorKind::Script(what) => what.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_a_script_the_model_says_so_and_echoes() {
    let answer = text_of(&Scripted::built_in(), &[user("ping")]).await;
    assert!(
        answer.starts_with("No model is configured") && answer.ends_with("You said: ping"),
        "{answer}"
    );
}

#[tokio::test]
async fn without_a_script_the_model_calls_the_clock_and_has_something_to_say_at_every_step() {
    let model = Scripted::built_in();
    let mut transcript = vec![user("What time is it?")];
    let asked = play_on(&model, &transcript).await.unwrap();
    assert_eq!(asked.stop, StepStop::ToolCalls);
    transcript.extend([says("No model"), returned(structured(json!("noon")))]);
    for _ in 0..3 {
        let answer = text_of(&model, &transcript).await;
        assert!(answer.starts_with("clock_now: "), "{answer}");
        transcript.push(says(&answer));
    }
    let mut transcript = vec![user("ping")];
    for _ in 0..3 {
        let answer = text_of(&model, &transcript).await;
        assert!(answer.ends_with("You said: ping"), "{answer}");
        transcript.push(says(&answer));
    }
}

#[tokio::test]
async fn the_last_step_comes_again_where_the_script_says_so() {
    let model = script("otherwise: {repeat_last: true, steps: [{text: one}, {error: {code: timeout}}, {text: two}]}");
    let mut transcript = vec![user("go")];
    assert_eq!(text_of(&model, &transcript).await, "one");
    transcript.push(says("one"));
    assert!(play_on(&model, &transcript).await.is_err());
    for _ in 0..3 {
        assert_eq!(text_of(&model, &transcript).await, "two");
        transcript.push(says("two"));
    }
}

#[tokio::test]
async fn the_transcript_decides_which_step_is_next_so_a_restart_changes_nothing() {
    let yaml = "turns: [{steps: [{tool_calls: [{tool: a}]}, {text: two}]}, {steps: [{text: three}]}]";
    let mut transcript = vec![user("go")];
    assert_eq!(
        play_on(&script(yaml), &transcript).await.unwrap().stop,
        StepStop::ToolCalls
    );
    transcript.extend([says(""), returned(structured(json!(1)))]);
    assert_eq!(text_of(&script(yaml), &transcript).await, "two");
    assert_eq!(text_of(&script(yaml), &transcript).await, "two");
    transcript.extend([says("two"), user("again")]);
    assert_eq!(text_of(&script(yaml), &transcript).await, "three");
}

#[tokio::test]
async fn a_fitting_match_may_be_used_again_and_a_turn_without_one_only_once() {
    let model = script(
        "turns: [{match: Sales, steps: [{text: sales}]}, {match: '/^\\d+$/', steps: [{text: number}]}, {steps: [{text: once}]}]
otherwise: {steps: [{text: else}]}",
    );
    let mut transcript = Vec::new();
    for (input, expected) in [
        ("my SALES", "sales"),
        ("x", "once"),
        ("42", "number"),
        ("sales!", "sales"),
        ("y", "else"),
    ] {
        transcript.push(user(input));
        assert_eq!(text_of(&model, &transcript).await, expected, "{input}");
        transcript.push(says(expected));
    }
}

#[tokio::test]
async fn several_user_messages_in_a_row_are_one_input() {
    let model = script("otherwise: {steps: [{text: '{{input}}'}]}");
    assert_eq!(text_of(&model, &[user("a"), user("b")]).await, "a\nb");
}

#[tokio::test]
async fn everything_of_a_step_is_streamed() {
    let model = script(
        "turns: [{steps: [{reasoning: hm, text: 'A longer text that comes in more than one piece.', stop: length,
          usage: {input_tokens: 3, output_tokens: 2},
          tool_calls: [{tool: a, arguments: {x: [1, 'two']}}, {tool: b, malformed_arguments: '{\"x\":'}]}]}]",
    );
    let step = play_on(&model, &[user("go")]).await.unwrap();
    assert_eq!(
        step.parts[0],
        AssistantPart::Reasoning {
            text: "hm".into(),
            provider_state: None
        }
    );
    assert_eq!(
        step.parts[1],
        AssistantPart::Text {
            text: "A longer text that comes in more than one piece.".into()
        }
    );
    let arguments: Vec<_> = step.parts[2..]
        .iter()
        .map(|part| match part {
            AssistantPart::ToolCall(call) => call.arguments.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        arguments,
        [
            GivenArguments::parse(r#"{"x":[1,"two"]}"#),
            GivenArguments::MalformedArguments("{\"x\":".into())
        ]
    );
    assert_eq!(step.stop, StepStop::Length);
    assert_eq!(
        step.usage,
        Some(Usage {
            input_tokens: Some(3),
            output_tokens: Some(2),
            ..Usage::default()
        })
    );
}

#[tokio::test]
async fn usage_that_the_script_does_not_give_is_absent() {
    let step = play_on(&script("otherwise: {steps: [{text: a}]}"), &[user("go")])
        .await
        .unwrap();
    assert_eq!(step.usage, None);
}

#[tokio::test]
async fn placeholders_take_what_the_tools_returned() {
    let model = script(
        "otherwise: {steps: [{text: a}, {text: b}, {
           text: '{{ input }}: {{result.0.structured.total}}, {{result.1.text}}, {{result.2.error}} ({{result.2.message}}), {{step.0.result.0.json.rows.1}}, {{result.0.status}}, {{secret:KEY}} {{',
           tool_calls: [{tool: a, arguments: {typed: '{{result.0.structured}}', deep: ['n={{result.0.structured.total}}'], header: 'Bearer {{secret:KEY}}'}}]}]}",
    );
    let transcript = [
        user("sum"),
        says("a"),
        returned(Ok(Output {
            content: vec![Content::text(r#"{"rows":["x","y"]}"#)],
            ..Output::default()
        })),
        says("b"),
        returned(structured(json!({"total": 42}))),
        returned(Ok(Output {
            content: vec![Content::text("file text")],
            ..Output::default()
        })),
        returned(Err(CallError::new(CallErrorCode::Denied, "not that host"))),
    ];
    let step = play_on(&model, &transcript).await.unwrap();
    let AssistantPart::Text { text } = &step.parts[0] else {
        panic!("{step:?}")
    };
    assert_eq!(
        text,
        "sum: 42, file text, denied (not that host), y, ok, {{secret:KEY}} {{"
    );
    let AssistantPart::ToolCall(call) = &step.parts[1] else {
        panic!("{step:?}")
    };
    let expected = json!({"typed": {"total": 42}, "deep": ["n=42"], "header": "Bearer {{secret:KEY}}"});
    assert_eq!(Value::Object(call.arguments.as_object()), expected);
}

#[tokio::test]
async fn a_placeholder_that_leads_nowhere_fails_the_step_and_shows_what_there_is() {
    let model = script("otherwise: {steps: [{text: a}, {text: '{{result.0.structured.sum}}'}]}");
    let transcript = [user("go"), says("a"), returned(structured(json!({"total": 1})))];
    let what = complaint(&model, &transcript).await;
    assert!(
        what.contains("{{result.0.structured.sum}}") && what.contains("total"),
        "{what}"
    );
    let model = script("otherwise: {steps: [{text: '{{result.3.text}}'}]}");
    assert!(complaint(&model, &[user("go")]).await.contains("there are 0 results"));
}

#[tokio::test]
async fn expectations_that_hold_let_the_step_go_ahead() {
    let model = script(
        "otherwise: {steps: [{text: a}, {text: fine, expect: [{results: 2}, {not_offered: files_list},
           {result: 0, status: ok, contains: '42', lacks: secret, path: structured.total, equals: 42},
           {result: 1, status: denied, path: error, equals: denied}]}]}",
    );
    let denied = Err(CallError::new(CallErrorCode::Denied, "no"));
    let transcript = [
        user("go"),
        says("a"),
        returned(structured(json!({"total": 42}))),
        returned(denied),
    ];
    assert_eq!(text_of(&model, &transcript).await, "fine");
}

#[tokio::test]
async fn expectations_that_do_not_hold_fail_the_step_and_say_why() {
    for (expectation, part) in [
        ("{results: 2}", "expected 2 results, there are 1"),
        ("{result: 3, status: ok}", "expected a result 3"),
        ("{result: 0, status: denied}", "its status is \"denied\""),
        ("{result: 0, contains: nothing}", "it contains \"nothing\""),
        ("{result: 0, lacks: total}", "does not contain \"total\""),
        (
            "{result: 0, path: structured.total, equals: 2}",
            "`structured.total` equals 2",
        ),
        ("{offered: files_list}", "`files_list` is offered, it is not"),
    ] {
        let model = script(&format!(
            "otherwise: {{steps: [{{text: a}}, {{text: b, expect: [{expectation}]}}]}}"
        ));
        let transcript = [user("go"), says("a"), returned(structured(json!({"total": 1})))];
        let what = complaint(&model, &transcript).await;
        assert!(what.contains(part), "{expectation}: {what}");
    }
}

#[tokio::test]
async fn faults_come_as_often_as_they_should_and_then_the_step_goes_ahead() {
    let model = script(
        "otherwise: {steps: [{error: {code: rate_limited, retry_after_ms: 50, times: 2}}, {error: {code: overloaded}}, {text: at last}]}",
    );
    let transcript = [user("go")];
    for _ in 0..2 {
        let error = play_on(&model, &transcript).await.unwrap_err();
        assert_eq!(
            error.kind(),
            &ModelErrorKind::RateLimited {
                retry_after: Some(Duration::from_millis(50))
            }
        );
    }
    let error = play_on(&model, &transcript).await.unwrap_err();
    assert_eq!(error.kind(), &ModelErrorKind::Overloaded { retry_after: None });
    assert_eq!(text_of(&model, &transcript).await, "at last");
    assert_eq!(text_of(&model, &transcript).await, "at last");
}

#[tokio::test]
async fn a_fault_counts_for_each_session_apart() {
    let model = script("otherwise: {steps: [{error: {code: unavailable}}, {text: ok}]}");
    for session in ["ses_1", "ses_2"] {
        let request = ModelRequest {
            cache_key: Some(session.into()),
            ..request(&[user("go")])
        };
        assert!(model.stream(&request).await.is_err());
        assert!(model.stream(&request).await.is_ok());
    }
}

#[tokio::test]
async fn a_fault_after_the_last_step_comes_always() {
    let model = script("otherwise: {steps: [{error: {code: auth}}]}");
    for _ in 0..3 {
        assert_eq!(
            play_on(&model, &[user("go")]).await.unwrap_err().kind(),
            &ModelErrorKind::Auth
        );
    }
}

#[tokio::test]
async fn an_answer_may_break_off() {
    let model = script("otherwise: {steps: [{error: {code: incomplete, after_text: Half an}}, {text: whole}]}");
    let events: Vec<_> = model.stream(&request(&[user("go")])).await.unwrap().collect().await;
    assert!(
        matches!(&events[0], Ok(ModelEvent::TextDelta(text)) if text.starts_with("Half")),
        "{events:?}"
    );
    assert_eq!(
        events.last().unwrap().as_ref().unwrap_err().kind(),
        &ModelErrorKind::Incomplete
    );
    assert_eq!(text_of(&model, &[user("go")]).await, "whole");
}

#[tokio::test]
async fn delays_are_waited_for() {
    let at_once = |delays: &str| {
        let model = script(&format!("otherwise: {{steps: [{{text: a, {delays}}}]}}"));
        async move {
            let mut stream = model.stream(&request(&[user("go")])).await.unwrap();
            stream.next().await
        }
        .now_or_never()
        .is_some()
    };
    assert!(at_once("delay_ms: 0"));
    assert!(!at_once("delay_ms: 600000"));
    assert!(!at_once("pace_ms: 600000"));
}

#[tokio::test]
async fn a_place_that_the_script_does_not_have_is_named() {
    let model = script("turns: [{match: x, steps: [{text: a}]}]");
    assert!(
        complaint(&model, &[user("y")])
            .await
            .contains("no turn of it is for this input")
    );
    assert!(
        complaint(&model, &[user("x"), says("a")])
            .await
            .contains("has 1 steps, and step 2 is asked for")
    );
}

#[test]
fn a_script_that_is_wrong_is_refused_whole() {
    for (yaml, part) in [
        ("", "neither"),
        ("turns: []", "neither"),
        ("turns: [{steps: []}]", "at least one step"),
        ("turns: [{steps: [{}]}]", "needs one of"),
        ("turns: [{steps: [{text: a}], extra: 1}]", "unknown field"),
        ("turns: [{steps: [{txt: a}]}]", "unknown field"),
        (
            "turns: [{match: '/(/', steps: [{text: a}]}]",
            "not a regular expression",
        ),
        ("turns: [{steps: [{tool_calls: [{tool: a, arguments: [1]}]}]}]", "turns"),
        (
            "turns: [{steps: [{tool_calls: [{tool: a, arguments: {}, malformed_arguments: x}]}]}]",
            "not both",
        ),
        ("turns: [{steps: [{error: {code: auth}, text: a}]}]", "stands alone"),
        (
            "turns: [{steps: [{error: {code: auth, retry_after_ms: 1}}]}]",
            "goes with",
        ),
        ("turns: [{steps: [{error: {code: auth, times: 0}}]}]", "at least 1"),
        ("turns: [{steps: [{error: {code: gremlins}}]}]", "unknown variant"),
        (
            "otherwise: {repeat_last: true, steps: [{text: a}, {error: {code: auth}}]}",
            "nothing to repeat",
        ),
        ("turns: [{steps: [{text: a, delay_ms: 600001}]}]", "ten minutes"),
        ("turns: [{steps: [{text: a, expect: [{result: 0}]}]}]", "needs one of"),
        (
            "turns: [{steps: [{text: a, expect: [{status: ok}]}]}]",
            "exactly one of",
        ),
        (
            "turns: [{steps: [{text: a, expect: [{result: 0, path: text}]}]}]",
            "go together",
        ),
        (
            "turns: [{steps: [{text: a, expect: [{results: 1, contains: x}]}]}]",
            "go with `result`",
        ),
    ] {
        let error = Scripted::from_yaml(yaml).unwrap_err().to_string();
        assert!(error.contains(part), "{yaml}: {error}");
    }
}

#[test]
fn a_file_that_is_missing_or_too_large_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script.yaml");
    assert!(
        Scripted::from_file(&path)
            .unwrap_err()
            .to_string()
            .contains("script.yaml")
    );
    std::fs::write(&path, " ".repeat((1 << 20) + 1)).unwrap();
    assert!(
        Scripted::from_file(&path)
            .unwrap_err()
            .to_string()
            .contains("larger than 1 MiB")
    );
}

#[test]
fn the_example_of_the_documentation_is_a_script() {
    let source = include_str!("mod.rs");
    let example = source.split("```").nth(1).unwrap().strip_prefix("yaml").unwrap();
    let yaml: String = example
        .lines()
        .map(|line| line.strip_prefix("//! ").unwrap_or(""))
        .map(|line| format!("{line}\n"))
        .collect();
    Scripted::from_yaml(&yaml).unwrap();
}

#[test]
fn pieces_put_together_are_the_text_and_none_is_long() {
    for text in [
        "",
        "a",
        "word word word word word word word",
        "oneverylongwordwithoutanyspaceatallinit",
        "€€€€€€€€€€€€€€€€ €€",
        "  ",
    ] {
        assert_eq!(pieces(text).collect::<String>(), text);
        assert!(
            pieces(text).all(|piece| !piece.is_empty() && piece.len() <= 27),
            "{text}"
        );
    }
}
