//! What a model is shown of a session.

use super::*;
use fumehood_agent::transcript::Transcript;
use fumehood_core::{message::Message, turn::NoteKind};
use std::sync::Arc;

fn shown(events: &[EventBody]) -> Vec<Message> {
    let mut transcript = Transcript::default();
    events.iter().for_each(|event| transcript.apply(None, event));
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
        started(Budget::default()),
        step(1),
        says("x"),
        asks(&a),
        asks(&b),
        answered(StepStop::ToolCalls, None),
        settles(&b),
        settles(&a),
        step(2),
    ] {
        transcript.apply(None, &event);
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
    for event in [queued(), started(Budget::default()), step(1), says("half an ans")] {
        transcript.apply(None, &event);
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
        job: None,
    };
    let messages = shown(&[
        queued(),
        started(Budget::default()),
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
    let messages = shown(&[
        queued(),
        started(Budget::default()),
        step(1),
        says("x"),
        answered(StepStop::Stop, None),
        steered,
    ]);
    assert_eq!(messages[2], user("in French"));
}

#[test]
fn a_summary_stands_between_the_first_input_and_what_is_kept() {
    let mut events = Vec::new();
    for _ in 0..4 {
        events.extend(begun());
        events.extend([step(1), says("x"), answered(StepStop::Stop, None)]);
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
    assert_eq!(messages[0], user("hi"));
    let Message::Summary { text } = &messages[1] else {
        panic!("{:?}", messages[1])
    };
    assert!(
        text.starts_with("[Context compacted]") && text.ends_with("they greeted"),
        "{text}"
    );
    assert_eq!(messages[2], user("hi"));
}

#[test]
fn a_long_list_of_messages_is_shared_not_copied() {
    let mut transcript = Transcript::default();
    for event in [
        queued(),
        started(Budget::default()),
        step(1),
        says("x"),
        answered(StepStop::Stop, None),
        step(2),
    ] {
        transcript.apply(None, &event);
    }
    assert!(Arc::ptr_eq(&transcript.messages(), &transcript.messages()));
}

#[test]
fn the_input_of_a_turn_that_waits_is_shown_when_it_begins() {
    let (first, second) = (Some(TurnId::new()), Some(TurnId::new()));
    let mut transcript = Transcript::default();
    let of = |transcript: &mut Transcript, turn, events: &[EventBody]| {
        events.iter().for_each(|event| transcript.apply(turn, event));
    };
    of(&mut transcript, first, &begun());
    let a = call();
    of(
        &mut transcript,
        first,
        &[step(1), asks(&a), answered(StepStop::ToolCalls, None)],
    );
    of(&mut transcript, second, &[queued()]);
    of(
        &mut transcript,
        first,
        &[settles(&a), step(2), says("x"), answered(StepStop::Stop, None)],
    );
    assert_eq!(transcript.messages().len(), 4, "{:?}", transcript.messages());
    of(&mut transcript, second, &[started(Budget::default())]);
    assert_eq!(transcript.messages().last(), Some(&user("hi")));

    let third = Some(TurnId::new());
    of(&mut transcript, third, &[queued(), cancelled()]);
    assert_eq!(transcript.messages().len(), 5, "one that never began leaves nothing");
}

#[test]
fn the_end_of_a_turn_that_never_began_leaves_the_step_of_another_open() {
    let (first, second) = (Some(TurnId::new()), Some(TurnId::new()));
    let a = call();
    let mut transcript = Transcript::default();
    for event in [begun(), vec![step(1), asks(&a), answered(StepStop::ToolCalls, None)]].concat() {
        transcript.apply(first, &event);
    }
    for event in [queued(), cancelled()] {
        transcript.apply(second, &event);
    }
    transcript.apply(first, &settles(&a));
    let messages = transcript.messages();
    assert!(
        matches!(&messages[..], [_, _, Message::Tool { result: Ok(_), .. }]),
        "{messages:?}"
    );
}

#[test]
fn of_an_answer_that_was_cut_off_with_its_turn_the_text_is_kept() {
    let reasoning = EventBody::ReasoningCompleted {
        step: 1,
        text: "hm".into(),
        provider_state: None,
    };
    let events = [begun(), vec![step(1), reasoning, says("half an ans"), cancelled()]].concat();
    let part = fumehood_core::message::AssistantPart::Text {
        text: "half an ans".into(),
    };
    assert_eq!(shown(&events)[1..], [Message::Assistant { parts: vec![part] }]);
}

#[test]
fn the_input_that_is_worked_on_stays_beside_its_summary() {
    let mut events = begun();
    events.extend([step(1), says("x"), answered(StepStop::Stop, None)]);
    events.extend([queued_as("now this"), started(Budget::default())]);
    let a = call();
    events.extend([step(1), asks(&a), answered(StepStop::ToolCalls, None), settles(&a)]);
    events.push(EventBody::CompactionCompleted {
        summary: "they greeted".into(),
        kept: 0,
        tokens_before: 10,
        tokens_after: 5,
        usage: None,
        cost: None,
    });
    let messages = shown(&events);
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert_eq!((&messages[0], &messages[2]), (&user("hi"), &user("now this")));
}
