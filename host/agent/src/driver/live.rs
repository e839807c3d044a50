//! What a model says, shown while it says it: the first piece at once, then as much as came, about twenty times a second.
//!
//! Text and reasoning are shown in the order in which they came. What was not shown when the answer breaks off is not shown any more:
//! the recorded event has it, or it counts for nothing.

use crate::recorder::Recorder;
use bytes::Bytes;
use fumehood_core::event::EventBody;
use fumehood_egress::{LeakGuard, Redactor};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The time from one piece to the next, while there is more.
const PACE: Duration = Duration::from_millis(50);
/// As many bytes are a piece, whatever the time.
const LARGEST: usize = 16 << 10;

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Reasoning,
}

/// One attempt at a step's answer, shown while it is said. A value that lies over several pieces is found as well, so a piece that
/// could be its beginning waits for the next one.
pub(super) struct LiveText<'a> {
    recorder: &'a Recorder,
    text: Redactor,
    reasoning: Redactor,
    pieces: Pieces,
}

impl<'a> LiveText<'a> {
    pub(super) fn new(recorder: &'a Recorder, step: u64, guard: &LeakGuard) -> Self {
        Self {
            recorder,
            text: guard.redactor(),
            reasoning: guard.redactor(),
            pieces: Pieces::new(step),
        }
    }

    pub(super) fn text(&mut self, delta: &str) {
        let passed = self.text.push(Bytes::copy_from_slice(delta.as_bytes()));
        self.add(Kind::Text, &passed);
    }

    pub(super) fn reasoning(&mut self, delta: &str) {
        let passed = self.reasoning.push(Bytes::copy_from_slice(delta.as_bytes()));
        self.add(Kind::Reasoning, &passed);
    }

    /// Shows the rest.
    pub(super) fn end(mut self) {
        let rest = self.reasoning.finish();
        self.add(Kind::Reasoning, &rest);
        let rest = self.text.finish();
        self.add(Kind::Text, &rest);
        self.flush();
    }

    /// Waits until what was held back is due; without end where nothing is. Cancel-safe.
    pub(super) async fn due(&self) {
        match self.pieces.due() {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Shows what was held back.
    pub(super) fn flush(&mut self) {
        if let Some(piece) = self.pieces.take(Instant::now()) {
            self.recorder.show(piece);
        }
    }

    fn add(&mut self, kind: Kind, passed: &[u8]) {
        let said = String::from_utf8_lossy(passed);
        for piece in self.pieces.add(kind, &said, Instant::now()) {
            self.recorder.show(piece);
        }
    }
}

/// What is said, cut into pieces.
struct Pieces {
    step: u64,
    /// Held back: never empty.
    held: Option<(Kind, String)>,
    /// When the last piece was shown.
    shown: Option<Instant>,
    /// How many there were of each kind.
    texts: u64,
    reasonings: u64,
}

impl Pieces {
    const fn new(step: u64) -> Self {
        Self {
            step,
            held: None,
            shown: None,
            texts: 0,
            reasonings: 0,
        }
    }

    /// The pieces to show now that this was said, in order.
    fn add(&mut self, kind: Kind, said: &str, now: Instant) -> Vec<EventBody> {
        let mut pieces = Vec::new();
        if said.is_empty() {
            return pieces;
        }
        if self.held.as_ref().is_some_and(|(other, _)| *other != kind) {
            pieces.extend(self.take(now));
        }
        let (_, held) = self.held.get_or_insert_with(|| (kind, String::new()));
        held.push_str(said);
        let is_large = held.len() >= LARGEST;
        let is_due = self.shown.is_none_or(|shown| shown + PACE <= now);
        if is_large || is_due {
            pieces.extend(self.take(now));
        }
        pieces
    }

    /// When what is held back is to be shown. The first piece is not held back.
    fn due(&self) -> Option<Instant> {
        self.held.as_ref()?;
        Some(self.shown? + PACE)
    }

    fn take(&mut self, now: Instant) -> Option<EventBody> {
        let (kind, delta) = self.held.take()?;
        self.shown = Some(now);
        let step = self.step;
        let count = match kind {
            Kind::Text => &mut self.texts,
            Kind::Reasoning => &mut self.reasonings,
        };
        let index = *count;
        *count += 1;
        Some(match kind {
            Kind::Text => EventBody::TextDelta { step, index, delta },
            Kind::Reasoning => EventBody::ReasoningDelta { step, index, delta },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[EventBody]) -> Vec<(&str, u64, &str)> {
        let mut shown = Vec::new();
        for piece in pieces {
            shown.push(match piece {
                EventBody::TextDelta { index, delta, .. } => ("text", *index, delta.as_str()),
                EventBody::ReasoningDelta { index, delta, .. } => ("reasoning", *index, delta.as_str()),
                other => panic!("not a piece: {other:?}"),
            });
        }
        shown
    }

    #[test]
    fn the_first_piece_is_shown_at_once_and_the_next_ones_together() {
        let (mut pieces, now) = (Pieces::new(1), Instant::now());
        assert_eq!(shown(&pieces.add(Kind::Text, "a", now)), [("text", 0, "a")]);
        for delta in ["b", "c"] {
            assert_eq!(pieces.add(Kind::Text, delta, now), []);
        }
        assert_eq!(pieces.due(), Some(now + PACE));
        assert_eq!(shown(&pieces.add(Kind::Text, "d", now + PACE)), [("text", 1, "bcd")]);
        assert_eq!(pieces.due(), None);
        let later = now + PACE * 3;
        assert_eq!(shown(&pieces.add(Kind::Text, "e", later)), [("text", 2, "e")]);
    }

    #[test]
    fn text_and_reasoning_keep_their_order_and_are_counted_apart() {
        let (mut pieces, now) = (Pieces::new(1), Instant::now());
        let mut all = pieces.add(Kind::Reasoning, "a", now);
        for (kind, delta) in [(Kind::Reasoning, "b"), (Kind::Text, "c"), (Kind::Reasoning, "d")] {
            all.extend(pieces.add(kind, delta, now));
        }
        all.extend(pieces.take(now));
        let kinds = [
            ("reasoning", 0, "a"),
            ("reasoning", 1, "b"),
            ("text", 0, "c"),
            ("reasoning", 2, "d"),
        ];
        assert_eq!(shown(&all), kinds);
    }

    #[test]
    fn much_text_is_not_held_back() {
        let (mut pieces, now) = (Pieces::new(1), Instant::now());
        pieces.add(Kind::Text, "a", now);
        let much = "b".repeat(LARGEST);
        assert_eq!(shown(&pieces.add(Kind::Text, &much, now)), [("text", 1, much.as_str())]);
    }

    #[test]
    fn nothing_is_no_piece() {
        let mut pieces = Pieces::new(1);
        assert_eq!(pieces.add(Kind::Text, "", Instant::now()), []);
        assert_eq!(pieces.due(), None);
    }
}
