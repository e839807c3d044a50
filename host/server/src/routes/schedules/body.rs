//! Schedules and their runs, as requests bring them and answers show them.

use crate::{
    idempotency::digest,
    problem::{Answer, Problem, ProblemCode},
    routes::{
        sessions::{present, present_entries},
        turns::{BudgetBody, text_or_content, text_or_content_schema},
    },
    schema,
};
use fumehood_agent::host::{PlaceRequest, ScheduleChange, ScheduleRequest};
use fumehood_core::{
    Time,
    content::Content,
    id::{ScheduleId, SessionId, TurnId},
    name::AgentName,
    turn::{Budget, TurnStatus},
};
use fumehood_policy::{
    authority::SessionNarrowing,
    bounded::some_entries,
    files::FileAccess,
    network::NetworkList,
    schedule::{Misfire, Written},
    tool_pattern::ToolPattern,
};
use fumehood_store::schedules::{self, Cause, Overlap, Place, RunOutcome, ScheduleRun, SkipReason, State, Task};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A turn that comes by itself.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Schedule {
    #[schema(value_type = String, example = "sch_018f3c5b7d2a7c3e9f00112233445566")]
    id: ScheduleId,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    status: ScheduleStatus,
    /// When it fires next; absent while it is paused, and when it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    next: Option<Time>,
    /// How often it has fired at one of its times.
    runs: u64,
    #[schema(value_type = schema::When)]
    when: Written,
    #[schema(value_type = schema::Misfire)]
    misfire: Misfire,
    #[schema(value_type = schema::IfBusy)]
    if_busy: Overlap,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_runs: Option<u64>,
    /// The session that its turns go into; absent: each into one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    session: Option<SessionId>,
    /// The agent of sessions that it makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    agent: Option<AgentName>,
    /// The data of sessions that it makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Map<String, Value>>)]
    metadata: Option<Value>,
    /// Whom calls in sessions that it makes may reach, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::NetworkList>)]
    network: Option<NetworkList>,
    /// How far calls in sessions that it makes may go with files, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Access>)]
    files: Option<FileAccess>,
    /// Tools whose calls may run in the background in sessions that it makes, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    background: Option<Vec<ToolPattern>>,
    #[schema(value_type = Vec<schema::Content>)]
    input: Vec<Content>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    /// As far as it has one; `time_ms` in milliseconds.
    #[serde(skip_serializing_if = "is_empty")]
    #[schema(value_type = Map<String, Value>)]
    budget: Budget,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_schema: Option<Value>,
    #[schema(value_type = String, format = DateTime)]
    created: Time,
    /// When it last changed or fired.
    #[schema(value_type = String, format = DateTime)]
    updated: Time,
}

fn is_empty(budget: &Budget) -> bool {
    *budget == Budget::default()
}

/// Whether a schedule fires.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ScheduleStatus {
    /// It does, at `next`.
    Active,
    /// Somebody has paused it.
    Paused,
    /// No time is left, or it has fired as often as `max_runs` says.
    Ended,
}

impl From<schedules::Schedule> for Schedule {
    fn from(schedule: schedules::Schedule) -> Self {
        let plan = schedule.plan;
        let session = plan.place.session();
        let (agent, metadata, narrowing) = match plan.place {
            Place::Session(_) => (None, None, SessionNarrowing::default()),
            Place::Fresh {
                agent,
                metadata,
                narrowing,
            } => (agent, Some(metadata), narrowing),
        };
        Self {
            id: schedule.id,
            title: plan.title,
            status: match schedule.state {
                State::Active(_) => ScheduleStatus::Active,
                State::Paused => ScheduleStatus::Paused,
                State::Ended => ScheduleStatus::Ended,
            },
            next: schedule.state.next(),
            runs: schedule.runs,
            when: plan.when.into(),
            misfire: plan.misfire,
            if_busy: plan.overlap,
            max_runs: plan.max_runs,
            session,
            agent,
            metadata,
            network: narrowing.network,
            files: narrowing.files,
            background: narrowing.background,
            input: plan.task.input,
            system: plan.task.system,
            budget: plan.task.budget,
            output_schema: plan.task.output_schema,
            created: schedule.created,
            updated: schedule.updated,
        }
    }
}

/// A schedule to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateSchedule {
    /// For people; sessions that it makes have it, too.
    title: Option<String>,
    #[schema(value_type = schema::When)]
    when: Written,
    /// What becomes of times that were missed, because no host was there.
    #[serde(default)]
    #[schema(value_type = schema::Misfire, default = "once")]
    misfire: Misfire,
    /// What becomes of a time at which the session, or its turn before in a session of its own, is at work.
    #[serde(default)]
    #[schema(value_type = schema::IfBusy, default = "queue")]
    if_busy: Overlap,
    /// It ends when it has fired as often at its times.
    #[schema(minimum = 1)]
    max_runs: Option<u64>,
    /// The session that its turns go into. Without, each goes into a session of its own.
    #[schema(value_type = Option<String>)]
    session: Option<SessionId>,
    /// The agent of sessions that it makes; the host's default one when absent.
    #[schema(value_type = Option<String>)]
    agent: Option<AgentName>,
    /// The data of sessions that it makes.
    metadata: Option<Map<String, Value>>,
    /// Whom calls in sessions that it makes may reach, at most.
    #[schema(value_type = Option<schema::NetworkList>)]
    network: Option<NetworkList>,
    /// How far calls in sessions that it makes may go with files, at most.
    #[schema(value_type = Option<schema::Access>)]
    files: Option<FileAccess>,
    /// Tools whose calls may run in the background in sessions that it makes, at most.
    #[serde(default, deserialize_with = "some_entries")]
    #[schema(value_type = Option<Vec<String>>, max_items = 256)]
    background: Option<Vec<ToolPattern>>,
    /// A text, or a list of content: the input of each turn.
    #[serde(deserialize_with = "text_or_content")]
    #[schema(schema_with = text_or_content_schema)]
    input: Vec<Content>,
    /// Instructions for its turns only, after the agent's.
    system: Option<String>,
    /// What each turn may use; it only narrows what the agent may.
    budget: Option<BudgetBody>,
    /// A JSON Schema (2020-12) that the answers must follow.
    output_schema: Option<Value>,
    /// It waits to be resumed.
    #[serde(default)]
    paused: bool,
}

impl CreateSchedule {
    /// With the key under which it may be repeated, if the client has one for it.
    pub(super) fn into_request(self, key: Option<String>) -> Answer<ScheduleRequest> {
        let idempotency = match key {
            None => None,
            Some(key) => Some((key, digest(&self.meaning())?)),
        };
        let narrows = self.network.is_some() || self.files.is_some() || self.background.is_some();
        let place = match self.session {
            Some(_) if self.agent.is_some() || self.metadata.is_some() || narrows => {
                return Err(Problem::new(
                    ProblemCode::InvalidRequest,
                    "`agent`, `metadata`, `network`, `files` and `background` are of sessions that a schedule makes; leave them out, or \
                     leave out `session`",
                ));
            }
            Some(session) => PlaceRequest::Session(session),
            None => PlaceRequest::Fresh {
                agent: self.agent,
                metadata: self.metadata.unwrap_or_default(),
                narrowing: SessionNarrowing {
                    network: self.network,
                    files: self.files,
                    background: self.background,
                },
            },
        };
        Ok(ScheduleRequest {
            title: self.title,
            when: self.when,
            misfire: self.misfire,
            overlap: self.if_busy,
            max_runs: self.max_runs,
            place,
            task: Task {
                input: self.input,
                system: self.system,
                budget: self.budget.unwrap_or_default().into(),
                output_schema: self.output_schema,
            },
            paused: self.paused,
            idempotency,
        })
    }

    fn meaning(&self) -> impl Serialize {
        let narrowing = (&self.network, &self.files, &self.background);
        let of_sessions = (&self.session, &self.agent, &self.metadata, narrowing);
        let task = (
            &self.input,
            &self.system,
            Budget::from(self.budget.unwrap_or_default()),
            &self.output_schema,
        );
        let when = (&self.when, self.misfire, self.if_busy, self.max_runs, self.paused);
        (&self.title, when, of_sessions, task)
    }
}

/// What to change; what is absent stays. `null` removes what may be absent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeSchedule {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    title: Option<Option<String>>,
    #[schema(value_type = Option<schema::When>)]
    when: Option<Written>,
    #[schema(value_type = Option<schema::Misfire>)]
    misfire: Option<Misfire>,
    #[schema(value_type = Option<schema::IfBusy>)]
    if_busy: Option<Overlap>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    max_runs: Option<Option<u64>>,
    #[schema(value_type = Option<String>)]
    agent: Option<AgentName>,
    metadata: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<schema::NetworkList>)]
    network: Option<Option<NetworkList>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<schema::Access>)]
    files: Option<Option<FileAccess>>,
    #[serde(default, deserialize_with = "present_entries")]
    #[schema(value_type = Option<Vec<String>>, max_items = 256)]
    background: Option<Option<Vec<ToolPattern>>>,
    #[serde(default, deserialize_with = "some_input")]
    #[schema(schema_with = text_or_content_schema)]
    input: Option<Vec<Content>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    system: Option<Option<String>>,
    budget: Option<BudgetBody>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Value>)]
    output_schema: Option<Option<Value>>,
}

fn some_input<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Content>>, D::Error> {
    text_or_content(deserializer).map(Some)
}

impl ChangeSchedule {
    pub(super) fn into_change(self) -> ScheduleChange {
        ScheduleChange {
            title: self.title,
            when: self.when,
            misfire: self.misfire,
            overlap: self.if_busy,
            max_runs: self.max_runs,
            agent: self.agent,
            metadata: self.metadata,
            network: self.network,
            files: self.files,
            background: self.background,
            input: self.input,
            system: self.system,
            budget: self.budget.map(Budget::from),
            output_schema: self.output_schema,
        }
    }
}

/// A time of a schedule and what came of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Run {
    /// The time it was for.
    #[schema(value_type = String, format = DateTime)]
    fire_at: Time,
    /// `due`: its time had come. `asked`: somebody asked for it.
    #[schema(value_type = String)]
    cause: Cause,
    outcome: Outcome,
    /// Set when it was `skipped`: `busy`, `previous_waits`, `queue_full`, `rate_limited`, `budget_exhausted`, `too_many_sessions` or `archived`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    reason: Option<SkipReason>,
    /// Why nothing was begun, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Set when it was `missed`: this time and how many more after it, up to a thousand.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    session: Option<SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    turn: Option<TurnId>,
    /// Where the turn is; absent if it was deleted since.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    turn_status: Option<TurnStatus>,
    /// When that was decided.
    #[schema(value_type = String, format = DateTime)]
    recorded: Time,
}

/// What came of a time.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// A turn was begun.
    Fired,
    /// Nothing was begun, for `reason`.
    Skipped,
    /// No host was there, and the schedule does not make up for it.
    Missed,
    /// It could not be begun.
    Failed,
}

impl From<ScheduleRun> for Run {
    fn from(run: ScheduleRun) -> Self {
        let mut shown = Self {
            fire_at: run.fire_at,
            cause: run.cause,
            outcome: Outcome::Fired,
            reason: None,
            message: None,
            missed: None,
            session: None,
            turn: None,
            turn_status: None,
            recorded: run.recorded,
        };
        match run.outcome {
            RunOutcome::Fired { session, turn, status } => {
                (shown.session, shown.turn) = (Some(session), Some(turn));
                shown.turn_status = status;
            }
            RunOutcome::Skipped { reason, message } => {
                shown.outcome = Outcome::Skipped;
                (shown.reason, shown.message) = (Some(reason), message);
            }
            RunOutcome::Missed { count } => {
                shown.outcome = Outcome::Missed;
                shown.missed = Some(count);
            }
            RunOutcome::Failed { message } => {
                shown.outcome = Outcome::Failed;
                shown.message = Some(message);
            }
        }
        shown
    }
}
