//! What a conversation is after going back, and back again.

use super::*;
use fumehood_agent::transcript::Transcript;
use fumehood_core::{
    message::Message,
    rewind::{PassedOver, Rewind},
};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Did {
    Turn,
    /// Back to a place of the journal, as a share of what there is.
    Back(prop::sample::Index),
}

fn did() -> impl Strategy<Value = Did> {
    prop_oneof![3 => Just(Did::Turn), 2 => any::<prop::sample::Index>().prop_map(Did::Back)]
}

fn input(number: usize) -> EventBody {
    EventBody::TurnQueued {
        input: vec![Content::text(number.to_string())],
        system: None,
        budget: Budget::default(),
        output_schema: None,
        tools: Vec::new(),
        record: false,
    }
}

/// What the users said in a conversation.
fn said(events: &[EventBody], rewinds: &[Rewind]) -> Vec<String> {
    let passed = PassedOver::by(rewinds.to_vec());
    let mut transcript = Transcript::default();
    for (event, seq) in events.iter().zip(1..) {
        if !passed.covers(seq) {
            transcript.apply(None, event);
        }
    }
    let user = |message: &Message| match message {
        Message::User { content } => match &content[..] {
            [Content::Text { text }] => Some(text.clone()),
            _ => None,
        },
        _ => None,
    };
    transcript.messages().iter().filter_map(user).collect()
}

proptest! {
    /// The model keeps a list of turns for each place of the journal; going back takes the list of that place.
    #[test]
    fn going_back_takes_what_the_conversation_was_at_that_place(story in prop::collection::vec(did(), 0..40)) {
        let (mut events, mut rewinds) = (Vec::new(), Vec::new());
        let mut model: Vec<Vec<String>> = vec![Vec::new()];
        for did in story {
            let mut now = model.last().cloned().unwrap_or_default();
            match did {
                Did::Turn => {
                    let number = events.len();
                    events.push(input(number));
                    model.push(now.clone());
                    events.push(started(Budget::default()));
                    now.push(number.to_string());
                    model.push(now.clone());
                    events.extend([step(1), says("x"), answered(StepStop::Stop, None)]);
                    model.extend([now.clone(), now.clone(), now]);
                }
                Did::Back(place) => {
                    let after = place.index(events.len() + 1);
                    let seq = events.len() as u64 + 1;
                    rewinds.push(Rewind { after: after as u64, seq });
                    events.push(EventBody::SessionRewound {
                        after: after as u64,
                        turns: Vec::new(),
                        files: fumehood_core::rewind::FilesRewound::Kept,
                        outside: Vec::new(),
                        outside_more: 0,
                    });
                    model.push(model[after].clone());
                }
            }
            prop_assert_eq!(&said(&events, &rewinds), model.last().unwrap());
        }
    }
}

#[test]
fn a_fork_begins_with_the_messages_that_were_copied() {
    let messages = vec![
        Message::User {
            content: vec![Content::text("hi")],
        },
        Message::Summary { text: "so far".into() },
    ];
    let mut transcript = Transcript::default();
    for piece in messages.chunks(1) {
        let copied = EventBody::SessionCopied {
            messages: piece.to_vec(),
        };
        transcript.apply(None, &copied);
    }
    begun().iter().for_each(|event| transcript.apply(None, event));
    assert_eq!(transcript.messages()[..2], messages);
    assert_eq!(transcript.messages().len(), 3);
}
