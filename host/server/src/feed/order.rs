//! What a stream has shown, and so what may follow on it.
//!
//! Recorded events have their `seq`. Pieces of a text that is being said have an `index` in their step: a piece is shown if the one
//! before it was, or if it is the first, which begins the text anew.

use fumehood_core::{
    event::{Event, EventBody},
    id::TurnId,
};

/// What was shown, and so what follows on it.
#[derive(Debug)]
pub(super) struct Order {
    /// The last `seq` shown.
    after: u64,
    /// The last step whose output was shown completed. Deltas of it that are heard later tell nothing new.
    settled: Option<(TurnId, u64)>,
    /// The step whose deltas were heard last.
    said: Option<Said>,
    beginning: Beginning,
    pace: Pace,
}

/// The pieces of one step.
#[derive(Debug)]
struct Said {
    turn: TurnId,
    step: u64,
    text: Pieces,
    reasoning: Pieces,
}

/// How far a text that is being said was shown.
#[derive(Debug, Clone, Copy)]
enum Pieces {
    /// Whole, up to the piece with this index.
    Until(u64),
    /// Not whole: what comes of it is not shown, unless it begins anew.
    Cut,
}

/// Whether a step whose deltas come can have begun unheard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    Heard,
    /// Its first deltas may be among those that were too many to hear.
    Unsure,
}

/// How the client keeps up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// It reads what was before it came.
    Arriving,
    /// It is shown what happens.
    Live,
    /// It fell behind, was told so, and has not caught up since.
    Behind,
}

/// What becomes of an event that is heard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admit {
    Show,
    /// Was shown before, or is a piece of what is not shown.
    Skip,
    /// Something before it was not heard.
    Gap,
    /// The client came after the text had begun.
    Late(TurnId),
}

impl Order {
    pub(super) const fn new(after: u64) -> Self {
        Self {
            after,
            settled: None,
            said: None,
            beginning: Beginning::Heard,
            pace: Pace::Arriving,
        }
    }

    /// The last `seq` shown.
    pub(super) const fn after(&self) -> u64 {
        self.after
    }

    pub(super) fn admit(&mut self, event: &Event) -> Admit {
        let admit = self.compare(event);
        if admit == Admit::Show {
            self.pace = Pace::Live;
        }
        admit
    }

    fn compare(&mut self, event: &Event) -> Admit {
        if matches!(event.body, EventBody::StepStarted { .. }) {
            self.beginning = Beginning::Heard;
        }
        match (event.seq, &event.body, event.turn) {
            (Some(seq), ..) if seq <= self.after => Admit::Skip,
            (Some(seq), ..) if seq > self.after + 1 => Admit::Gap,
            (Some(_), ..) => {
                self.show_recorded(event);
                Admit::Show
            }
            (None, EventBody::TextDelta { step, index, .. }, Some(turn)) => {
                self.admit_piece(turn, *step, *index, |said| &mut said.text)
            }
            (None, EventBody::ReasoningDelta { step, index, .. }, Some(turn)) => {
                self.admit_piece(turn, *step, *index, |said| &mut said.reasoning)
            }
            (None, ..) => Admit::Show,
        }
    }

    fn admit_piece(&mut self, turn: TurnId, step: u64, index: u64, of: fn(&mut Said) -> &mut Pieces) -> Admit {
        if matches!(self.settled, Some((settled, last)) if settled == turn && step <= last) {
            return Admit::Skip;
        }
        let known = self.said.take().filter(|said| (said.turn, said.step) == (turn, step));
        let said = self.said.insert(known.unwrap_or_else(|| {
            let pieces = match self.beginning {
                Beginning::Heard => Pieces::Until(0),
                Beginning::Unsure => Pieces::Cut,
            };
            Said {
                turn,
                step,
                text: pieces,
                reasoning: pieces,
            }
        }));
        let pieces = of(said);
        match *pieces {
            Pieces::Until(next) if next == index => {}
            _ if index == 0 => {}
            Pieces::Cut => return Admit::Skip,
            Pieces::Until(_) => {
                said.cut();
                return Admit::Late(turn);
            }
        }
        *pieces = Pieces::Until(index + 1);
        Admit::Show
    }

    /// Too much happened to hear it all: `true` if the client has to be told so. One that has not caught up with the past missed nothing
    /// that it was shown a part of.
    pub(super) fn lagged(&mut self) -> bool {
        if self.pace == Pace::Arriving {
            return false;
        }
        self.beginning = Beginning::Unsure;
        if let Some(said) = &mut self.said {
            said.cut();
        }
        std::mem::replace(&mut self.pace, Pace::Behind) == Pace::Live
    }

    pub(super) fn show_recorded(&mut self, event: &Event) {
        self.after = event.seq.unwrap_or(self.after);
        if let (Some(turn), EventBody::TextCompleted { step, .. } | EventBody::StepCompleted { step, .. }) =
            (event.turn, &event.body)
        {
            self.settled = Some((turn, *step));
        }
    }
}

impl Said {
    const fn cut(&mut self) {
        (self.text, self.reasoning) = (Pieces::Cut, Pieces::Cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::{
        event::Source,
        id::{EventId, SessionId},
        name::OrgName,
        now,
    };

    fn event(seq: Option<u64>, turn: TurnId, body: EventBody) -> Event {
        Event {
            id: EventId::new(),
            seq,
            time: now(),
            org: OrgName::default_org(),
            session: SessionId::new(),
            turn: Some(turn),
            source: Source::Model,
            body,
        }
    }

    fn begun(seq: u64, turn: TurnId, step: u64) -> Event {
        let body = EventBody::StepStarted {
            step,
            notes: Vec::new(),
            worked_ms: None,
        };
        event(Some(seq), turn, body)
    }

    fn step(seq: u64) -> Event {
        begun(seq, TurnId::new(), 1)
    }

    fn text(turn: TurnId, step: u64, index: u64) -> Event {
        let delta = "a".into();
        event(None, turn, EventBody::TextDelta { step, index, delta })
    }

    fn reasoning(turn: TurnId, step: u64, index: u64) -> Event {
        let delta = "a".into();
        event(None, turn, EventBody::ReasoningDelta { step, index, delta })
    }

    #[test]
    fn what_was_shown_is_not_shown_again_and_a_gap_is_noticed() {
        let mut order = Order::new(3);
        assert_eq!(order.admit(&step(3)), Admit::Skip);
        assert_eq!(order.admit(&step(5)), Admit::Gap);
        assert_eq!(order.admit(&step(4)), Admit::Show);
        assert_eq!(order.admit(&step(5)), Admit::Show);
        assert_eq!(order.admit(&step(4)), Admit::Skip);
    }

    #[test]
    fn a_delta_after_its_completed_text_is_not_shown() {
        let turn = TurnId::new();
        let mut order = Order::new(0);
        assert_eq!(order.admit(&text(turn, 1, 0)), Admit::Show);
        let body = EventBody::TextCompleted {
            step: 1,
            text: "aa".into(),
        };
        order.show_recorded(&event(Some(1), turn, body));
        assert_eq!(order.admit(&text(turn, 1, 1)), Admit::Skip);
        assert_eq!(order.admit(&text(turn, 2, 0)), Admit::Show);
        assert_eq!(order.admit(&text(TurnId::new(), 1, 0)), Admit::Show);
    }

    #[test]
    fn whoever_comes_in_the_middle_of_a_text_is_told_once_and_shown_none_of_it() {
        let turn = TurnId::new();
        let mut order = Order::new(0);
        assert_eq!(order.admit(&reasoning(turn, 1, 7)), Admit::Late(turn));
        assert_eq!(order.admit(&reasoning(turn, 1, 8)), Admit::Skip);
        assert_eq!(order.admit(&text(turn, 1, 0)), Admit::Show, "the text began later");
        assert_eq!(order.admit(&text(turn, 1, 1)), Admit::Show);
    }

    #[test]
    fn a_text_that_begins_anew_is_shown_from_its_beginning() {
        let turn = TurnId::new();
        let mut order = Order::new(0);
        for index in [0, 1, 0, 1] {
            assert_eq!(order.admit(&reasoning(turn, 1, index)), Admit::Show, "{index}");
        }
        assert!(order.lagged());
        assert_eq!(order.admit(&reasoning(turn, 1, 2)), Admit::Skip);
        assert_eq!(order.admit(&reasoning(turn, 1, 0)), Admit::Show);
    }

    #[test]
    fn after_a_lag_an_open_text_is_not_shown_even_where_it_seems_to_go_on() {
        let turn = TurnId::new();
        let mut order = Order::new(0);
        assert_eq!(order.admit(&text(turn, 1, 0)), Admit::Show);
        assert!(order.lagged());
        assert_eq!(order.admit(&text(turn, 1, 1)), Admit::Skip);
    }

    #[test]
    fn a_step_that_began_while_nobody_heard_is_not_shown_and_one_that_is_heard_to_begin_is() {
        let turn = TurnId::new();
        let mut order = Order::new(0);
        assert_eq!(order.admit(&step(1)), Admit::Show);
        assert!(order.lagged());
        order.show_recorded(&begun(2, turn, 1));
        assert_eq!(order.admit(&text(turn, 1, 4)), Admit::Skip, "and nobody is told again");
        order.show_recorded(&begun(3, turn, 2));
        assert_eq!(order.admit(&begun(3, turn, 2)), Admit::Skip, "read, then heard");
        assert_eq!(order.admit(&text(turn, 2, 0)), Admit::Show);
    }

    #[test]
    fn a_client_that_stays_behind_is_told_once_until_it_has_caught_up() {
        let mut order = Order::new(0);
        assert_eq!(order.admit(&step(1)), Admit::Show);
        assert!(order.lagged());
        assert!(!order.lagged());
        assert_eq!(order.admit(&step(2)), Admit::Show);
        assert!(order.lagged());
    }

    #[test]
    fn a_client_that_reads_the_past_is_not_told_that_it_is_behind_but_of_a_text_whose_beginning_it_missed() {
        let turn = TurnId::new();
        let mut order = Order::new(0);
        assert!(!order.lagged());
        order.show_recorded(&begun(1, turn, 1));
        assert_eq!(order.admit(&text(turn, 1, 3)), Admit::Late(turn));
    }
}
