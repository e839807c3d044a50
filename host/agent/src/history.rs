//! Going back in a session: the last turns are undone, or those from one on.
//!
//! What is undone stays in the journal and is passed over; the files are put back as the first undone turn found them; what
//! was done outside of the session is named, because it can't be undone. A session goes back only while no turn is open, and no
//! turn begins meanwhile.

use crate::{
    host::{Host, HostError},
    outside::Looked,
    recorder,
};
use fumehood_core::{
    id::{EventId, SessionId, TurnId},
    name::OrgName,
    rewind::{FilesRewound, OutsideEffect, PassedOver},
};
use fumehood_store::record::{NewRewind, Rewound, Turn};
use tracing::Instrument as _;

/// How far to go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackTo {
    /// Over this many turns.
    Turns(u64),
    /// To before this one.
    Before(TurnId),
}

/// What is to become of the session's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FilesToo {
    /// They are put back.
    #[default]
    PutBack,
    /// They stay as they are.
    Stay,
}

/// What was undone, and what was not.
#[derive(Debug, Clone, PartialEq)]
pub struct Undone {
    /// The turns, oldest first.
    pub turns: Vec<TurnId>,
    /// The place of the `session.rewound` in the journal.
    pub seq: u64,
    /// What became of the files.
    pub files: FilesRewound,
    /// What the turns did outside of the session; the first of it.
    pub outside: Vec<OutsideEffect>,
    /// How much more of it there was.
    pub outside_more: u64,
}

/// The turns of a session that count.
pub(crate) struct Past {
    /// Oldest first.
    pub(crate) turns: Vec<Turn>,
    pub(crate) passed: PassedOver,
    all: Vec<Turn>,
}

impl Past {
    fn open(&self) -> Option<&Turn> {
        self.turns.iter().find(|turn| !turn.status.is_terminal())
    }

    /// The turns from this one on.
    pub(crate) fn since(&self, turn: TurnId) -> Result<&[Turn], HostError> {
        if let Some(from) = self.turns.iter().position(|known| known.id == turn) {
            return Ok(&self.turns[from..]);
        }
        Err(if self.all.iter().any(|known| known.id == turn) {
            HostError::Invalid(format!("the turn {turn} is undone; name one that is not"))
        } else {
            HostError::NotFound("turn")
        })
    }

    fn last(&self, count: u64) -> Result<&[Turn], HostError> {
        let there = self.turns.len();
        let from = usize::try_from(count).ok().and_then(|count| there.checked_sub(count));
        match from {
            Some(from) if from < there => Ok(&self.turns[from..]),
            _ => Err(HostError::Invalid(format!(
                "there are {there} turns to undo; `turns` is 1 to that many"
            ))),
        }
    }
}

impl Host {
    /// Undoes the last turns, or those from one on.
    ///
    /// Dropped before its end, either nothing was undone or all is.
    ///
    /// # Errors
    /// [`HostError::NotFound`] when there is no such session or turn; [`HostError::Busy`] while a turn is open;
    /// [`HostError::Invalid`] when there are fewer turns, or the turn is undone already.
    pub async fn undo(
        &self,
        org: &OrgName,
        session: SessionId,
        back: BackTo,
        files: FilesToo,
    ) -> Result<Undone, HostError> {
        if self.is_closing() {
            return Err(HostError::ShuttingDown);
        }
        let (host, org) = (self.clone(), org.clone());
        // A task of the host's: what is decided is done, also when who asked for it has gone meanwhile.
        let undo = async move { host.undo_now(&org, session, back, files).await };
        let undone = self.tasks().spawn(undo.in_current_span()).await;
        undone.unwrap_or_else(|error| {
            tracing::error!(%error, "going back broke");
            Err(HostError::Fault)
        })
    }

    async fn undo_now(
        &self,
        org: &OrgName,
        session: SessionId,
        back: BackTo,
        files: FilesToo,
    ) -> Result<Undone, HostError> {
        let _in_order = self.in_order(session).await?;
        self.refuse_while_summed_up(session)?;
        let rewind = self.going_back(org, session, back, files).await?;
        let event = match self.store().rewind(org, session, &rewind).await? {
            Some(Rewound::Done(event)) => event,
            Some(Rewound::Busy(turn)) => return Err(HostError::Busy(turn)),
            Some(Rewound::Stale) => return Err(HostError::Changed),
            None => return Err(HostError::NotFound("session")),
        };
        let seq = event.seq.unwrap_or_default();
        self.publish(vec![event]);
        Ok(Undone {
            turns: rewind.turns,
            seq,
            files: rewind.files,
            outside: rewind.outside,
            outside_more: rewind.outside_more,
        })
    }

    /// What going back would be. The caller holds the session's order.
    pub(crate) async fn going_back(
        &self,
        org: &OrgName,
        session: SessionId,
        back: BackTo,
        files: FilesToo,
    ) -> Result<NewRewind, HostError> {
        let past = self.past(org, session).await?;
        if let Some(open) = past.open() {
            return Err(HostError::Busy(open.id));
        }
        let undone = match back {
            BackTo::Turns(count) => past.last(count)?,
            BackTo::Before(turn) => past.since(turn)?,
        };
        let after = undone.first().map_or(0, |turn| turn.first_seq.saturating_sub(1));
        let tools = self.catalog().tools(org).await?;
        let mut looked = Looked::new(&tools);
        recorder::for_each_page_between(
            &**self.store(),
            org,
            session,
            (after, u64::MAX),
            &past.passed,
            |events| {
                events.iter().for_each(|event| looked.at(&event.body));
            },
        )
        .await?;
        let (outside, outside_more) = looked.found();
        Ok(NewRewind {
            id: EventId::new(),
            after,
            turns: undone.iter().map(|turn| turn.id).collect(),
            files: match files {
                FilesToo::PutBack => FilesRewound::Unavailable,
                FilesToo::Stay => FilesRewound::Kept,
            },
            outside,
            outside_more,
        })
    }

    /// The turns of a session that are not undone.
    pub(crate) async fn past(&self, org: &OrgName, session: SessionId) -> Result<Past, HostError> {
        self.session(org, session).await?;
        let passed = PassedOver::by(self.store().rewinds(org, session).await?);
        let all = self.store().turns(org, session).await?;
        // One that ended while it waited for another has no part in the conversation.
        let counts = |turn: &&Turn| turn.first_seq > 0 && !passed.covers(turn.first_seq);
        let turns = all.iter().filter(counts).cloned();
        Ok(Past {
            turns: turns.collect(),
            passed,
            all,
        })
    }
}
