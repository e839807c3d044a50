//! What one call asks of its host and what it is answered, taken down in order for who explains the call.
//!
//! Taken down is what crosses into the host with a meaning: key-values, files by their paths, requests, secrets, other tools, progress,
//! settings, log messages.
//! Counted only: readings of clocks, waits, random bytes. Neither: reads and writes of what is open, polls, and handles that are dropped.
//! A call that nobody explains has no witness, and pays for that with one look at whether it has.
//!
//! What the guest says in it is searched for secrets before it is kept, and cut; the rows are bounded, and what is left out is counted.

use serde::Serialize;
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// How many rows are kept. Equal calls that follow one another are one.
const MOST_ROWS: usize = 500;
/// The most bytes of a text.
const LONGEST_TEXT: usize = 500;

/// What a call asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interface {
    /// `wasi:http`.
    Http,
    /// `wasi:keyvalue`.
    KeyValues,
    /// `wasi:filesystem`.
    Files,
    /// `fumehood:tool/secrets`.
    Secrets,
    /// `fumehood:tool/peers`.
    Peers,
    /// `fumehood:tool/jobs`.
    Jobs,
    /// `fumehood:tool/progress`.
    Progress,
    /// `wasi:config`.
    Settings,
    /// `wasi:logging`.
    Logging,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "words")]
pub enum Outcome {
    /// It was done, and that is what came of it.
    Done(String),
    /// A rule or a limit said no, in these words.
    Denied(String),
    /// It was tried, and did not go.
    Failed(String),
    /// The call ended first.
    Unanswered,
}

/// One call of the host, or several equal ones that followed one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostCall {
    /// Of what.
    pub interface: Interface,
    /// What was asked.
    pub asked: String,
    /// What allows it, where that is a setting of the component; a request's rule is in the ledger.
    pub rule: Option<String>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How often, in a row.
    pub times: u64,
}

/// All that a call asked of its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostCalls {
    /// In the order in which they were made.
    pub rows: Vec<HostCall>,
    /// Calls that came when there were as many rows as are kept.
    pub left_out: u64,
    /// Readings of the wall clock and of the monotonic one.
    pub clock_readings: u64,
    /// Waits for a time.
    pub waits: u64,
    /// Random bytes that were drawn.
    pub random_bytes: u64,
}

/// Takes down what one call asks.
pub struct Witness {
    redact: Box<dyn Fn(&str) -> String + Send + Sync>,
    state: Mutex<State>,
    clock_readings: AtomicU64,
    waits: AtomicU64,
    random_bytes: AtomicU64,
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    rows: Vec<HostCall>,
    left_out: u64,
}

impl State {
    /// The last row becomes one with the one before it, if they are equal.
    fn fold(&mut self) {
        if let [.., before, last] = &mut self.rows[..]
            && last.outcome != Outcome::Unanswered
            && (before.interface, &before.asked, &before.rule, &before.outcome)
                == (last.interface, &last.asked, &last.rule, &last.outcome)
        {
            before.times += last.times;
            self.rows.pop();
        }
    }
}

impl Witness {
    /// One that has seen nothing. `redact` takes out of a text what nobody may read.
    pub fn new(redact: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self {
            redact: Box::new(redact),
            state: Mutex::default(),
            clock_readings: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            random_bytes: AtomicU64::new(0),
        }
    }

    /// What it has seen, moved out.
    #[must_use]
    pub fn take(&self) -> HostCalls {
        let State { rows, left_out } = std::mem::take(&mut *self.state());
        let mut folded = State::default();
        // What was asked while something else was open may follow its equal now.
        for row in rows {
            folded.rows.push(row);
            folded.fold();
        }
        HostCalls {
            rows: folded.rows,
            left_out,
            clock_readings: self.clock_readings.load(Ordering::Relaxed),
            waits: self.waits.load(Ordering::Relaxed),
            random_bytes: self.random_bytes.load(Ordering::Relaxed),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Redacted before it is cut: a part of a secret would not be found any more.
    fn text(&self, text: &str) -> String {
        let mut text = (self.redact)(text);
        if text.len() > LONGEST_TEXT {
            text.truncate(text.floor_char_boundary(LONGEST_TEXT - '…'.len_utf8()));
            text.push('…');
        }
        text
    }

    fn asked(&self, interface: Interface, asked: &str, rule: Option<String>) -> Option<usize> {
        let row = HostCall {
            interface,
            asked: self.text(asked),
            rule,
            outcome: Outcome::Unanswered,
            times: 1,
        };
        let mut state = self.state();
        // One more than are kept: it may turn out to be equal to the last.
        if state.rows.len() > MOST_ROWS {
            state.left_out += 1;
            return None;
        }
        state.rows.push(row);
        Some(state.rows.len() - 1)
    }

    fn answered(&self, row: usize, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Done(words) => Outcome::Done(self.text(&words)),
            Outcome::Denied(words) => Outcome::Denied(self.text(&words)),
            Outcome::Failed(words) => Outcome::Failed(self.text(&words)),
            Outcome::Unanswered => Outcome::Unanswered,
        };
        let mut state = self.state();
        let is_last = row + 1 == state.rows.len();
        if let Some(row) = state.rows.get_mut(row) {
            row.outcome = outcome;
        }
        // Only the last can go without another's place becoming a wrong one.
        if is_last {
            state.fold();
        }
        if state.rows.len() > MOST_ROWS && is_last {
            state.rows.pop();
            state.left_out += 1;
        }
    }

    /// A clock was read.
    pub(crate) fn read_clock(&self) {
        self.clock_readings.fetch_add(1, Ordering::Relaxed);
    }

    /// The call waits for a time.
    pub(crate) fn waits(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    /// The call drew random bytes.
    pub(crate) fn drew(&self, bytes: usize) {
        self.random_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Something that was asked, until it is answered. Dropped before, it stays unanswered.
pub(crate) struct Question(Option<(Arc<Witness>, usize)>);

impl Question {
    /// What is asked, and what allows it; put in words only if somebody wants to know.
    pub(crate) fn new(
        witness: Option<&Arc<Witness>>,
        interface: Interface,
        words: impl FnOnce() -> (String, Option<String>),
    ) -> Self {
        Self(witness.and_then(|witness| {
            let (asked, rule) = words();
            let row = witness.asked(interface, &asked, rule)?;
            Some((Arc::clone(witness), row))
        }))
    }

    /// One that nobody wants to know of.
    pub(crate) const fn unheard() -> Self {
        Self(None)
    }

    /// Its answer.
    pub(crate) fn answer(self, outcome: impl FnOnce() -> Outcome) {
        if let Self(Some((witness, row))) = self {
            witness.answered(row, outcome());
        }
    }
}

/// A size in words.
pub(crate) fn bytes(bytes: usize) -> String {
    match bytes {
        1 => "1 byte".to_owned(),
        bytes => format!("{bytes} bytes"),
    }
}

/// An answer in words.
pub(crate) const fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(witness: &Arc<Witness>, asked: &str) -> Question {
        let words = || (asked.to_owned(), None);
        Question::new(Some(witness), Interface::KeyValues, words)
    }

    fn done(question: Question) {
        question.answer(|| Outcome::Done("done".to_owned()));
    }

    fn rows(witness: &Witness) -> Vec<(String, Outcome, u64)> {
        let rows = witness.take().rows.into_iter();
        rows.map(|row| (row.asked, row.outcome, row.times)).collect()
    }

    fn witness() -> Arc<Witness> {
        Arc::new(Witness::new(str::to_owned))
    }

    #[test]
    fn equal_calls_that_follow_one_another_are_one_row_and_others_keep_their_order() {
        let witness = witness();
        for asked in ["get a", "get a", "get b", "get a"] {
            done(ask(&witness, asked));
        }
        ask(&witness, "get a").answer(|| Outcome::Denied("no".to_owned()));
        let done = |asked: &str, times| (asked.to_owned(), Outcome::Done("done".to_owned()), times);
        let denied = ("get a".to_owned(), Outcome::Denied("no".to_owned()), 1);
        let expected = [done("get a", 2), done("get b", 1), done("get a", 1), denied];
        assert_eq!(rows(&witness), expected);
    }

    #[test]
    fn what_is_open_at_the_same_time_is_answered_each_in_its_place() {
        let witness = witness();
        let (first, second, third) = (ask(&witness, "get a"), ask(&witness, "get a"), ask(&witness, "get b"));
        done(second);
        done(first);
        drop(third);
        let expected = [
            ("get a".to_owned(), Outcome::Done("done".to_owned()), 2),
            ("get b".to_owned(), Outcome::Unanswered, 1),
        ];
        assert_eq!(rows(&witness), expected);
    }

    #[test]
    fn rows_are_bounded_and_what_is_left_out_is_counted() {
        let witness = witness();
        for round in 0..MOST_ROWS {
            done(ask(&witness, &format!("get {round}")));
        }
        let last = format!("get {}", MOST_ROWS - 1);
        done(ask(&witness, &last));
        for round in 0..7 {
            done(ask(&witness, &format!("set {round}")));
        }
        let seen = witness.take();
        assert_eq!((seen.rows.len(), seen.left_out), (MOST_ROWS, 7));
        assert_eq!(seen.rows[MOST_ROWS - 1].times, 2, "an equal one needs no room");
    }

    #[test]
    fn a_text_is_searched_for_secrets_before_it_is_cut() {
        let value = "x".repeat(LONGEST_TEXT) + "tail";
        let hidden = value.clone();
        let witness = Arc::new(Witness::new(move |text| text.replace(&hidden, "[secret]")));
        done(ask(&witness, &value));
        done(ask(&witness, &"é".repeat(LONGEST_TEXT)));
        let rows = rows(&witness);
        assert_eq!(rows[0].0, "[secret]");
        assert!(rows[1].0.len() <= LONGEST_TEXT && rows[1].0.ends_with('…'), "{rows:?}");
    }
}
