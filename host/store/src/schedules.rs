//! Schedules and their runs, as the rest of the host sees them.

use crate::record::{NewTurn, Session, Turn};
use fumehood_core::{
    Time,
    content::Content,
    digest::Digest,
    event::{Event, NewEvent},
    id::{ScheduleId, SessionId, TurnId},
    name::{AgentName, OrgName},
    turn::{Budget, TurnStatus},
};
use fumehood_policy::{
    authority::SessionNarrowing,
    schedule::{Misfire, Passed, When},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Runs of a schedule that are remembered.
pub const RUNS_KEPT: u32 = 1000;

/// What recurs, and what is done then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// When.
    pub when: When,
    /// What becomes of times that were missed.
    pub misfire: Misfire,
    /// What becomes of a time at which the turn before is at work.
    pub overlap: Overlap,
    /// It ends when it has fired as often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_runs: Option<u64>,
    /// Where its turns go.
    pub place: Place,
    /// What its turns are.
    pub task: Task,
}

/// What becomes of a time at which the session, or the turn before in a session of its own, is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The turn waits for its turn, if the one before does not wait itself. In a session of its own it waits for nobody.
    #[default]
    Queue,
    /// It is skipped.
    Skip,
}

/// Where the turns of a schedule go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Into this session.
    Session(SessionId),
    /// Each into a session of its own, made like this.
    Fresh {
        /// The agent; the host's default one when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<AgentName>,
        /// The client's own data.
        metadata: Value,
        /// How it narrows what tools may do.
        narrowing: SessionNarrowing,
    },
}

impl Place {
    /// The session that all turns go into, if there is one.
    #[must_use]
    pub const fn session(&self) -> Option<SessionId> {
        match self {
            Self::Session(session) => Some(*session),
            Self::Fresh { .. } => None,
        }
    }
}

/// What the turns of a schedule are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The input.
    pub input: Vec<Content>,
    /// Instructions for these turns only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What each may use.
    #[serde(default)]
    pub budget: Budget,
    /// What the answer must follow: a JSON Schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
}

/// Whether a schedule fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It fires next at this time.
    Active(Time),
    /// Somebody has paused it.
    Paused,
    /// Nothing is left to come.
    Ended,
}

impl State {
    /// Active until the next time, or ended if there is none.
    #[must_use]
    pub fn until(next: Option<Time>) -> Self {
        next.map_or(Self::Ended, Self::Active)
    }

    /// The next time, if there is one.
    #[must_use]
    pub const fn next(self) -> Option<Time> {
        match self {
            Self::Active(next) => Some(next),
            Self::Paused | Self::Ended => None,
        }
    }
}

/// A schedule to be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSchedule {
    /// Its id, made by the caller.
    pub id: ScheduleId,
    /// Its org.
    pub org: OrgName,
    /// What recurs.
    pub plan: Plan,
    /// Whether it fires.
    pub state: State,
    /// The client's `Idempotency-Key` and the digest of the request it came with.
    pub idempotency: Option<(String, Digest)>,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Its id.
    pub id: ScheduleId,
    /// Its org.
    pub org: OrgName,
    /// What recurs.
    pub plan: Plan,
    /// Whether it fires.
    pub state: State,
    /// How often it has fired when it was due.
    pub runs: u64,
    /// Counts its changes.
    pub revision: u64,
    /// When it was made.
    pub created: Time,
    /// When it last changed or fired.
    pub updated: Time,
}

/// A schedule at its next time; one that can't be read keeps none of the others.
#[derive(Debug)]
pub struct PlannedAt {
    /// The time.
    pub at: Time,
    /// Which.
    pub id: ScheduleId,
    /// The schedule.
    pub schedule: crate::api::Result<Schedule>,
}

/// Why a schedule is fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its time has come.
    Due,
    /// Somebody asked for it.
    Asked,
}

/// Why nothing was begun at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// The session, or the turn before, was at work.
    Busy,
    /// The turn before still waited.
    PreviousWaits,
    /// In the session waited as many turns as may.
    QueueFull,
    /// The org had begun as many turns as it may.
    RateLimited,
    /// The org or the session had nothing left to spend.
    BudgetExhausted,
    /// The org had as many sessions as it may.
    TooManySessions,
    /// The session was archived.
    Archived,
}

/// What came of a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunOutcome {
    /// A turn was begun.
    Fired {
        /// In which session.
        session: SessionId,
        /// Which.
        turn: TurnId,
        /// Where it is; absent if it was deleted since.
        status: Option<TurnStatus>,
    },
    /// Nothing was begun.
    Skipped {
        /// Why.
        reason: SkipReason,
        /// More of it.
        message: Option<String>,
    },
    /// The host was not there, and the policy passes over it.
    Missed {
        /// It and how many more after it; up to a thousand.
        count: u64,
    },
    /// It could not be begun.
    Failed {
        /// Why.
        message: String,
    },
}

/// A time of a schedule and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRun {
    /// The time it was for.
    pub fire_at: Time,
    /// Why it was fired.
    pub cause: Cause,
    /// What came of it.
    pub outcome: RunOutcome,
    /// When that was decided.
    pub recorded: Time,
}

/// What is to be done at a time.
#[derive(Debug, Clone, PartialEq)]
pub enum Deed {
    /// A turn in the schedule's session.
    Turn(SessionId, NewTurn),
    /// A session of its own, and a turn in it.
    Session {
        /// The session.
        session: Box<Session>,
        /// Its first events.
        created: Vec<NewEvent>,
        /// The turn.
        turn: NewTurn,
        /// How many sessions the org may have with it.
        most: u64,
    },
    /// Nothing.
    Skip {
        /// Why.
        reason: SkipReason,
        /// More of it.
        message: Option<String>,
    },
    /// Nothing, since it can't be.
    Fail {
        /// Why.
        message: String,
    },
}

/// A schedule that fires.
#[derive(Debug, Clone, PartialEq)]
pub struct Firing {
    /// The schedule, as it was seen.
    pub schedule: Schedule,
    /// Why.
    pub cause: Cause,
    /// The time it fires for and what is done then; absent where all times are passed over.
    pub fire: Option<(Time, Deed)>,
    /// Whether what is done makes up for a time that was missed.
    pub makes_up: bool,
    /// The times that are passed over.
    pub passed: Option<Passed>,
    /// What becomes of it.
    pub state: State,
}

/// What became of a firing.
#[derive(Debug, Clone, PartialEq)]
pub enum Fired {
    /// A turn is queued.
    Turn {
        /// The turn.
        turn: Turn,
        /// What is in the journal for it, and for the session that was made for it.
        events: Vec<Event>,
        /// What is remembered of it.
        run: ScheduleRun,
    },
    /// Nothing was begun.
    Nothing(Option<ScheduleRun>),
    /// The schedule is not as it was seen: nothing was done.
    Stale,
}

/// What became of a schedule that was to be planned for an earlier time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aimed {
    /// It is.
    Done,
    /// That time was decided about: nothing was done.
    Decided,
    /// The schedule is not as it was seen: nothing was done.
    Stale,
}
