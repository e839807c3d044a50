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
    digest::Digest,
    event::EventBody,
    id::{EventId, SessionId, TurnId},
    name::OrgName,
    now,
    rewind::{FilesRewound, OutsideEffect, PassedOver},
};
use fumehood_store::{
    record::{NewRewind, Rewound, Turn},
    workspace::Ready,
};

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
    /// How many paths of the workspace changed.
    pub changed: usize,
    /// Files that changed last while none of the turns ran, and whose bytes are lost; the first of them.
    pub lost: Vec<String>,
    /// How many more of them there are.
    pub lost_more: usize,
    /// What the turns did outside of the session; the first of it.
    pub outside: Vec<OutsideEffect>,
    /// How much more of it there was.
    pub outside_more: u64,
}

/// What is ready to be decided.
pub(crate) struct GoingBack {
    pub(crate) rewind: NewRewind,
    /// The files, where they are to be put back; as long as it is there, no client changes them.
    pub(crate) ready: Option<Ready>,
}

/// How the first of some turns found the session's files.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Before {
    /// None of them began.
    NothingRan,
    /// In a state that was kept.
    Kept(Digest),
    /// In one that was not.
    NotKept,
}

impl Before {
    pub(crate) fn look_at(&mut self, event: &EventBody) {
        if let (Self::NothingRan, EventBody::TurnStarted { files, .. }) = (&*self, event) {
            *self = files.map_or(Self::NotKept, Self::Kept);
        }
    }
}

/// The turns of a session that count.
pub(crate) struct Past {
    /// Oldest first.
    pub(crate) turns: Vec<Turn>,
    pub(crate) passed: PassedOver,
    all: Vec<Turn>,
}

impl Past {
    pub(crate) fn open(&self) -> Option<&Turn> {
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
        let (host, org) = (self.clone(), org.clone());
        self.to_the_end(async move { host.undo_now(&org, session, back, files).await })
            .await
    }

    async fn undo_now(
        &self,
        org: &OrgName,
        session: SessionId,
        back: BackTo,
        files: FilesToo,
    ) -> Result<Undone, HostError> {
        let _in_order = self.in_order(session).await;
        self.session_in_use(org, session).await?;
        self.refuse_while_summed_up(session)?;
        // THREAT[T-sec-exfiltration]: a guest may have named a file after a value.
        let guard = self.guard(org, Some(session)).await?;
        let GoingBack { rewind, ready } = self.going_back(org, session, (back, files), None).await?;
        let event = match self.store().rewind(org, session, &rewind).await {
            Ok(Some(Rewound::Done(event))) => event,
            refused => {
                self.not_back(ready).await;
                return Err(match refused? {
                    Some(Rewound::Busy(turn)) => HostError::Busy(turn),
                    Some(_) => HostError::Changed,
                    None => HostError::NotFound("session"),
                });
            }
        };
        let seq = event.seq.unwrap_or_default();
        self.publish(vec![event]);
        let mut undone = Undone {
            turns: rewind.turns,
            seq,
            files: rewind.files,
            changed: 0,
            lost: Vec::new(),
            lost_more: 0,
            outside: rewind.outside,
            outside_more: rewind.outside_more,
        };
        if let Some(ready) = ready {
            undone.changed = ready.changed;
            undone.lost = ready
                .lost
                .iter()
                .map(|path| guard.redact_str(path).into_owned())
                .collect();
            undone.lost_more = ready.lost_more;
            self.put_back(session, ready).await;
        }
        Ok(undone)
    }

    /// The turns are undone in any case; files that can't be put back are when the session's next turn begins.
    pub(crate) async fn put_back(&self, session: SessionId, ready: Ready) {
        if let Err(error) = self.workspaces().put_back(ready).await {
            tracing::error!(%error, %session, "the files of a session that went back can't be put back yet");
        }
    }

    /// Makes ready what going back takes, while no turn is open but one that gives way. The caller holds the session's order, and ends
    /// it with the decision.
    pub(crate) async fn going_back(
        &self,
        org: &OrgName,
        session: SessionId,
        (back, files): (BackTo, FilesToo),
        gives_way: Option<TurnId>,
    ) -> Result<GoingBack, HostError> {
        let past = self.past(org, session).await?;
        if let Some(open) = past.open()
            && Some(open.id) != gives_way
        {
            return Err(HostError::Busy(open.id));
        }
        let undone = match back {
            BackTo::Turns(count) => past.last(count)?,
            BackTo::Before(turn) => past.since(turn)?,
        };
        let after = undone.first().map_or(0, |turn| turn.first_seq.saturating_sub(1));
        let tools = self.catalog().tools(org).await?;
        let mut looked = Looked::new(&tools);
        let mut before = Before::NothingRan;
        let range = (after, u64::MAX);
        recorder::for_each_page_between(&**self.store(), org, session, range, &past.passed, |events| {
            for event in events {
                looked.at(&event.body);
                before.look_at(&event.body);
            }
        })
        .await?;
        let id = EventId::new();
        let ready = match (files, before) {
            (FilesToo::PutBack, Before::Kept(state)) => {
                let during = undone.iter().map(|turn| (turn.created, turn.ended.unwrap_or_else(now)));
                Some(
                    self.workspaces()
                        .make_ready(session, id, state, during.collect())
                        .await?,
                )
            }
            _ => None,
        };
        let files = match (files, before) {
            (FilesToo::Stay, _) => FilesRewound::Kept,
            (_, Before::NothingRan) => FilesRewound::Unchanged,
            _ => ready.as_ref().map_or(FilesRewound::Unavailable, |ready| ready.files),
        };
        let (outside, outside_more) = looked.found();
        let rewind = NewRewind {
            id,
            after,
            turns: undone.iter().map(|turn| turn.id).collect(),
            files,
            outside,
            outside_more,
        };
        Ok(GoingBack { rewind, ready })
    }

    /// Ends what was made ready and is not decided.
    pub(crate) async fn not_back(&self, ready: Option<Ready>) {
        let Some(ready) = ready else { return };
        if let Err(error) = self.workspaces().discard(ready).await {
            tracing::error!(%error, "what was made ready to go back is left; the next start sweeps it");
        }
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
