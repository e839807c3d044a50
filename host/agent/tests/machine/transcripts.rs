//! What a model is shown of a session.

use super::*;
use fumehood_agent::transcript::Transcript;
use fumehood_core::{message::Message, turn::NoteKind};
use std::sync::Arc;

fn shown(events: &[EventBody]) -> Vec<Message> {
    let mut transcript = Transcript::default();
    events.iter().for_each(|event| transcript.apply(event));
    transcript.messages().to_vec()
}

fn user(text: &str) -> Message {
    Message::User {
        content: vec![Content::text(text)],
    }
}

#[test]
fn results_stand_behind_their_answer_in_the_order_of_the_requests() {
    let (a, b) = (call(), call());
    let mut transcript = Transcript::default();
    for event in [
        queued(),
        step(1),
        says("x"),
        asks(&a),
        asks(&b),
        answered(StepStop::ToolCalls, None),
        settles(&b),
        settles(&a),
        step(2),
    ] {
        transcript.apply(&event);
    }
    let messages = transcript.messages();
    let calls: Vec<_> = messages
        .iter()
        .filter_map(|m| {
            if let Message::Tool { call, .. } = m {
                Some(*call)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(calls, [a.id, b.id]);
    assert!(matches!(&messages[1], Message::Assistant { parts } if parts.len() == 3));
}

#[test]
fn an_answer_that_broke_off_is_not_shown_to_the_model_again() {
    let mut transcript = Transcript::default();
    for event in [queued(), step(1), says("half an ans")] {
        transcript.apply(&event);
    }
    assert_eq!(
        *transcript.messages(),
        [Message::User {
            content: vec![Content::text("hi")]
        }]
    );
}

#[test]
fn what_the_host_tells_stands_before_the_step_it_was_told_for() {
    let note = Note {
        kind: NoteKind::Truncated,
        text: "less at once".into(),
    };
    let messages = shown(&[
        queued(),
        step(1),
        says("x"),
        cut_off(&["add"]),
        step_with(2, vec![note]),
    ]);
    assert_eq!(
        messages[2],
        Message::Note {
            text: "less at once".into()
        }
    );
}

#[test]
fn what_a_client_adds_is_shown_as_its_input() {
    let steered = EventBody::TurnSteered {
        input: vec![Content::text("in French")],
    };
    let messages = shown(&[queued(), step(1), says("x"), answered(StepStop::Stop, None), steered]);
    assert_eq!(messages[2], user("in French"));
}

#[test]
fn a_summary_stands_between_the_first_input_and_what_is_kept() {
    let mut events = Vec::new();
    for _ in 0..4 {
        events.extend([queued(), step(1), says("x"), answered(StepStop::Stop, None)]);
    }
    events.push(EventBody::CompactionCompleted {
        summary: "they greeted".into(),
        kept: 2,
        tokens_before: 10,
        tokens_after: 5,
        usage: None,
        cost: None,
    });
    let messages = shown(&events);
    assert_eq!(messages.len(), 4);
    assert_eq!(
        messages[..2],
        [
            user("hi"),
            Message::Summary {
                text: "they greeted".into()
            }
        ]
    );
    assert_eq!(messages[2], user("hi"));
}

#[test]
fn a_long_list_of_messages_is_shared_not_copied() {
    let mut transcript = Transcript::default();
    for event in [queued(), step(1), says("x"), answered(StepStop::Stop, None), step(2)] {
        transcript.apply(&event);
    }
    assert!(Arc::ptr_eq(&transcript.messages(), &transcript.messages()));
}
