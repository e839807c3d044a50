//! Going back in a session: what of a journal is passed over, and what can't be taken back.
//!
//! The journal keeps everything. A `session.rewound` says that the events between a place and itself are passed over by whoever
//! asks what the conversation is; one that lies in what a later one passes over says nothing any more.

use crate::id::{CallId, SessionId};
use serde::{Deserialize, Serialize};

/// A recorded `session.rewound`: the events with `after < seq < self.seq` are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewind {
    /// The last place that still counts.
    pub after: u64,
    /// Its own place.
    pub seq: u64,
}

/// The parts of a session's journal that are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassedOver {
    /// Apart from each other, in the order of the journal.
    ranges: Vec<Rewind>,
}

impl PassedOver {
    /// What these pass over together: all that a session has.
    #[must_use]
    pub fn by(mut rewinds: Vec<Rewind>) -> Self {
        rewinds.sort_unstable_by_key(|rewind| rewind.seq);
        let mut ranges: Vec<Rewind> = Vec::new();
        // From the last, which always counts.
        for rewind in rewinds.into_iter().rev() {
            if ranges.last().is_none_or(|later| rewind.seq <= later.after) {
                ranges.push(rewind);
            }
        }
        ranges.reverse();
        Self { ranges }
    }

    /// Whether the event at this place is passed over.
    #[must_use]
    pub fn covers(&self, seq: u64) -> bool {
        let next = self.ranges.partition_point(|range| range.seq <= seq);
        self.ranges.get(next).is_some_and(|range| range.after < seq)
    }
}

/// What became of a session's files when it went back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilesRewound {
    /// They are as they were.
    Restored,
    /// They were as they were: nothing had changed.
    Unchanged,
    /// They were left as they are, because the client asked for it.
    Kept,
    /// They were left as they are, because what they were is not kept, or can't be put back.
    Unavailable,
}

/// Something that a turn did outside of the session, and that going back does not take back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OutsideEffect {
    /// A request that may have changed something: any but `GET` and `HEAD`.
    Request {
        /// The call it left for.
        call: CallId,
        /// The HTTP method.
        method: String,
        /// The host.
        host: String,
        /// The path, without query.
        path: String,
    },
    /// A call that ran, of a tool that does not say that running it again is harmless.
    Call {
        /// The call.
        call: CallId,
        /// The tool.
        tool: String,
    },
}

/// Where a session comes from that was not begun empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkedFrom {
    /// The session.
    pub session: SessionId,
    /// The last place in its journal that was looked at.
    pub seq: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(rewinds: &[(u64, u64)]) -> Vec<u64> {
        let rewinds = rewinds.iter().map(|&(after, seq)| Rewind { after, seq }).collect();
        let passed = PassedOver::by(rewinds);
        (1..=20).filter(|seq| passed.covers(*seq)).collect()
    }

    #[test]
    fn what_lies_between_the_place_and_the_event_is_passed_over() {
        assert_eq!(passed(&[(3, 6)]), [4, 5]);
        assert!(passed(&[]).is_empty());
    }

    #[test]
    fn several_pass_over_what_each_does() {
        assert_eq!(passed(&[(9, 12), (1, 4)]), [2, 3, 10, 11]);
        assert_eq!(passed(&[(3, 6), (1, 9)]), [2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn one_that_is_passed_over_itself_says_nothing_any_more() {
        assert_eq!(passed(&[(1, 6), (5, 9)]), [6, 7, 8]);
    }
}
