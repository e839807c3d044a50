//! A message that is larger than half of what the model takes: its beginning and its end are shown, and a word on what lies between.

use fumehood_core::{content::Content, message::Message};
use std::sync::Arc;

/// A piece of text that is shorter is left as it is.
const SMALL: usize = 512;

/// The messages as the model is shown them. Shared, not copied, where none is too large.
pub(crate) fn shortened(messages: Arc<Vec<Message>>, weights: &[u64], largest: u64) -> Arc<Vec<Message>> {
    if weights.iter().all(|weight| *weight <= largest) {
        return messages;
    }
    let mut shown = messages.to_vec();
    for (message, weight) in shown.iter_mut().zip(weights) {
        if *weight > largest {
            shorten(message, largest, *weight);
        }
    }
    Arc::new(shown)
}

/// Each text of the message is cut to the part of it that fits.
fn shorten(message: &mut Message, largest: u64, weight: u64) {
    let fits = |bytes: usize| {
        let part = bytes as u128 * u128::from(largest) / u128::from(weight.max(1));
        usize::try_from(part).unwrap_or(usize::MAX)
    };
    match message {
        Message::User { content } => contents(content, fits),
        Message::Tool { result: Ok(output), .. } => {
            if output.content.is_empty()
                && let Some(structured) = output.structured.take()
            {
                output.content.push(Content::Json { json: structured });
            }
            contents(&mut output.content, fits);
        }
        Message::Tool { result: Err(error), .. } => {
            error.message = head_and_tail(&error.message, fits(error.message.len()));
        }
        // What the model said itself is no larger than its answers may be; what the host says is short.
        Message::Note { .. } | Message::Summary { .. } | Message::Assistant { .. } => {}
    }
}

fn contents(content: &mut [Content], fits: impl Fn(usize) -> usize) {
    for piece in content {
        let text = match piece {
            Content::Text { text } => std::mem::take(text),
            Content::Json { json } => json.to_string(),
            Content::Image { .. } | Content::Audio { .. } | Content::File { .. } => continue,
        };
        let most = fits(text.len()).max(SMALL);
        if text.len() > most {
            *piece = Content::text(head_and_tail(&text, most));
        } else if let Content::Text { text: own } = piece {
            *own = text;
        }
    }
}

/// The beginning and the end of a text that is longer than so many bytes, with a mark between them.
pub(super) fn head_and_tail(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let head = &text[..text.floor_char_boundary(most * 2 / 3)];
    let tail = &text[text.ceil_char_boundary(text.len() - most / 3)..];
    let left_out = text.len() - head.len() - tail.len();
    format!("{head}\n[… {left_out} bytes are left out here: all of it is more than fits …]\n{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Message {
        Message::User {
            content: vec![Content::text(text)],
        }
    }

    #[test]
    fn what_fits_is_shared_as_it_is() {
        let messages = Arc::new(vec![user("a"), user("b")]);
        assert!(Arc::ptr_eq(&shortened(Arc::clone(&messages), &[5, 5], 5), &messages));
    }

    #[test]
    fn of_a_message_that_is_too_large_the_beginning_and_the_end_are_shown() {
        let large = format!("begin{}end", "ü".repeat(10_000));
        let shown = shortened(Arc::new(vec![user("a"), user(&large)]), &[1, 10_000], 2_000);
        assert_eq!(shown[0], user("a"));
        let Message::User { content } = &shown[1] else {
            panic!("{:?}", shown[1])
        };
        let Content::Text { text } = &content[0] else {
            panic!("{content:?}")
        };
        assert!(text.starts_with("begin") && text.ends_with("end"), "{text}");
        assert!(
            text.contains("bytes are left out here") && text.len() < 5_000,
            "{}",
            text.len()
        );
    }

    #[test]
    fn a_picture_beside_it_stays() {
        let image = Content::Image {
            media_type: "image/png".into(),
            data: vec![1],
        };
        let message = Message::User {
            content: vec![Content::text("x".repeat(90_000)), image.clone()],
        };
        let shown = shortened(Arc::new(vec![message]), &[30_000], 10_000);
        let Message::User { content } = &shown[0] else {
            panic!("{:?}", shown[0])
        };
        assert_eq!(content[1], image);
    }
}
