//! Schedules: making and changing them, and firing one because somebody asks.
//!
//! What fires when nobody asks is in [`clock`], what is done then in [`deed`].

mod clock;
mod deed;

use super::{Host, HostError, made_before};
use crate::{redact, schema::Schema, submit};
use fumehood_core::{
    Time,
    content::Content,
    digest::Digest,
    id::{ScheduleId, SessionId},
    name::{AgentName, OrgName},
    now,
    turn::Budget,
};
use fumehood_policy::{
    authority::SessionNarrowing,
    files::FileAccess,
    network::NetworkList,
    quantity::Span,
    schedule::{Misfire, When, Written},
    tool_pattern::ToolPattern,
};
use fumehood_store::schedules::{
    Cause, Fired, Firing, NewSchedule, Overlap, Place, Plan, Schedule, ScheduleRun, State, Task,
};
use serde_json::{Map, Value};
use tokio::sync::Notify;

/// The longest title.
const LONGEST_TITLE: usize = 200;
/// The largest plan, as it is kept: an org has many, and they are read together.
const LARGEST_PLAN: usize = 256 << 10;
/// How often a schedule that somebody else changes is looked at again.
const ATTEMPTS: usize = 16;

/// What schedules may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleLimits {
    /// Schedules of an org.
    pub per_org: u64,
    /// The least time between two times of one.
    pub least_interval: Span,
}

impl Default for ScheduleLimits {
    fn default() -> Self {
        Self {
            per_org: 100,
            least_interval: Span::from_secs(60),
        }
    }
}

/// What the host knows of its schedules.
pub(super) struct Schedules {
    limits: ScheduleLimits,
    /// One was made or changed.
    changed: Notify,
}

impl Schedules {
    pub(super) fn new(limits: ScheduleLimits) -> Self {
        Self {
            limits,
            changed: Notify::new(),
        }
    }
}

/// A schedule to be made.
#[derive(Debug, Clone)]
pub struct ScheduleRequest {
    /// For people.
    pub title: Option<String>,
    /// When.
    pub when: Written,
    /// What becomes of times that were missed.
    pub misfire: Misfire,
    /// What becomes of a time at which the turn before is at work.
    pub overlap: Overlap,
    /// It ends when it has fired as often.
    pub max_runs: Option<u64>,
    /// Where its turns go.
    pub place: PlaceRequest,
    /// What its turns are.
    pub task: Task,
    /// Whether it waits to be resumed.
    pub paused: bool,
    /// The client's `Idempotency-Key` and the digest of the request it came with.
    pub idempotency: Option<(String, Digest)>,
}

/// Where the turns of a schedule are to go.
#[derive(Debug, Clone)]
pub enum PlaceRequest {
    /// Into this session.
    Session(SessionId),
    /// Each into a session of its own.
    Fresh {
        /// The agent; the host's default one when absent.
        agent: Option<AgentName>,
        /// The client's own data.
        metadata: Map<String, Value>,
        /// How it narrows what tools may do.
        narrowing: SessionNarrowing,
    },
}

/// What to change of a schedule; `None` leaves a part as it is, and `Some(None)` removes it.
#[derive(Debug, Clone, Default)]
pub struct ScheduleChange {
    /// For people.
    pub title: Option<Option<String>>,
    /// When.
    pub when: Option<Written>,
    /// What becomes of times that were missed.
    pub misfire: Option<Misfire>,
    /// What becomes of a time at which the turn before is at work.
    pub overlap: Option<Overlap>,
    /// It ends when it has fired as often.
    pub max_runs: Option<Option<u64>>,
    /// The agent of sessions that it makes.
    pub agent: Option<AgentName>,
    /// The data of sessions that it makes.
    pub metadata: Option<Map<String, Value>>,
    /// Whom calls in sessions that it makes may reach, at most.
    pub network: Option<Option<NetworkList>>,
    /// How far calls in sessions that it makes may go with files, at most.
    pub files: Option<Option<FileAccess>>,
    /// Tools whose calls may run in the background in sessions that it makes, at most.
    pub background: Option<Option<Vec<ToolPattern>>>,
    /// The input.
    pub input: Option<Vec<Content>>,
    /// Instructions.
    pub system: Option<Option<String>>,
    /// What each turn may use.
    pub budget: Option<Budget>,
    /// What answers must follow.
    pub output_schema: Option<Option<Value>>,
}

impl Host {
    /// Makes a schedule, or gives the one that the same request made before.
    ///
    /// # Errors
    /// [`HostError::Invalid`] for what never comes, comes too often or can't be done, [`HostError::NotFound`] for its session,
    /// [`HostError::KeyReused`], and the store's `TooMany`.
    pub async fn create_schedule(&self, org: &OrgName, request: ScheduleRequest) -> Result<Schedule, HostError> {
        let ScheduleRequest {
            title,
            when,
            misfire,
            overlap,
            max_runs,
            place,
            task,
            paused,
            idempotency,
        } = request;
        // First: what it asked for may be over.
        if let Some((key, request)) = &idempotency
            && let Some(earlier) = self
                .store()
                .repeated_schedule(org, key, request)
                .await
                .map_err(made_before)?
        {
            return Ok(earlier);
        }
        let time = now();
        let place = match place {
            PlaceRequest::Session(session) => Place::Session(session),
            PlaceRequest::Fresh {
                agent,
                metadata,
                narrowing,
            } => Place::Fresh {
                agent,
                metadata: Value::Object(metadata),
                narrowing,
            },
        };
        let mut plan = Plan {
            title,
            when: self.times(when, time)?,
            misfire,
            overlap,
            max_runs,
            place,
            task,
        };
        self.check_plan(org, &mut plan).await?;
        let state = match paused {
            true => State::Paused,
            false => State::until(plan.when.next(time)),
        };
        let new = NewSchedule {
            id: ScheduleId::new(),
            org: org.clone(),
            plan,
            state,
            idempotency,
        };
        let most = self.inner.schedules.limits.per_org;
        let made = self.store().create_schedule(&new, most).await.map_err(made_before)?;
        self.inner.schedules.changed.notify_one();
        Ok(made)
    }

    /// One schedule.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn schedule(&self, org: &OrgName, id: ScheduleId) -> Result<Schedule, HostError> {
        let schedule = self.store().schedule(org, id).await?;
        schedule.ok_or(HostError::NotFound("schedule"))
    }

    /// Changes a schedule, from its next time on.
    ///
    /// # Errors
    /// Those of [`Host::create_schedule`].
    pub async fn change_schedule(
        &self,
        org: &OrgName,
        id: ScheduleId,
        change: ScheduleChange,
    ) -> Result<Schedule, HostError> {
        let time = now();
        let when = change.when.clone().map(|when| self.times(when, time)).transpose()?;
        let plans_anew = when.is_some() || change.max_runs.is_some();
        for _ in 0..ATTEMPTS {
            let mut schedule = self.schedule(org, id).await?;
            apply(&mut schedule.plan, &change)?;
            schedule.plan.when = when.clone().unwrap_or(schedule.plan.when);
            self.check_plan(org, &mut schedule.plan).await?;
            if plans_anew && schedule.state != State::Paused {
                schedule.state = planned(&schedule, time);
            }
            if let Some(changed) = self.keep_changed(&schedule).await? {
                return Ok(changed);
            }
        }
        Err(HostError::Changed)
    }

    /// Pauses a schedule. Times that come meanwhile are not made up for.
    ///
    /// # Errors
    /// [`HostError::NotFound`], [`HostError::Invalid`] if it has ended.
    pub async fn pause_schedule(&self, org: &OrgName, id: ScheduleId) -> Result<Schedule, HostError> {
        self.replace_schedule(org, id, |schedule| {
            refuse_ended(schedule)?;
            schedule.state = State::Paused;
            Ok(())
        })
        .await
    }

    /// Lets a paused schedule fire again, from its next time on.
    ///
    /// # Errors
    /// [`HostError::NotFound`], [`HostError::Invalid`] if it has ended.
    pub async fn resume_schedule(&self, org: &OrgName, id: ScheduleId) -> Result<Schedule, HostError> {
        self.replace_schedule(org, id, |schedule| {
            refuse_ended(schedule)?;
            if schedule.state == State::Paused {
                schedule.state = planned(schedule, now());
            }
            Ok(())
        })
        .await
    }

    /// Deletes a schedule with its history. What its turns did stays, and one that runs goes on.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn delete_schedule(&self, org: &OrgName, id: ScheduleId) -> Result<(), HostError> {
        match self.store().delete_schedule(org, id).await? {
            true => Ok(()),
            false => Err(HostError::NotFound("schedule")),
        }
    }

    /// Fires a schedule now, besides its own times, also while it is paused or when it has ended.
    ///
    /// # Errors
    /// [`HostError::NotFound`], [`HostError::ShuttingDown`].
    pub async fn run_schedule(&self, org: &OrgName, id: ScheduleId) -> Result<ScheduleRun, HostError> {
        if self.is_draining() {
            return Err(HostError::ShuttingDown);
        }
        let (host, org) = (self.clone(), org.clone());
        self.to_the_end(async move {
            for _ in 0..ATTEMPTS {
                let schedule = host.schedule(&org, id).await?;
                let firing = Asked { schedule, at: now() };
                if let Some(run) = host.fire_asked(firing).await? {
                    return Ok(run);
                }
            }
            Err(HostError::Changed)
        })
        .await
    }

    async fn fire_asked(&self, Asked { schedule, at }: Asked) -> Result<Option<ScheduleRun>, HostError> {
        let firing = Firing {
            cause: Cause::Asked,
            fire: None,
            makes_up: false,
            passed: None,
            state: schedule.state,
            schedule,
        };
        Ok(match self.fire_at(firing, Some(at)).await? {
            Fired::Turn { run, .. } | Fired::Nothing(Some(run)) => Some(run),
            Fired::Nothing(None) | Fired::Stale => None,
        })
    }

    /// Changes a schedule as it is, however often somebody else does meanwhile.
    async fn replace_schedule(
        &self,
        org: &OrgName,
        id: ScheduleId,
        change: fn(&mut Schedule) -> Result<(), HostError>,
    ) -> Result<Schedule, HostError> {
        for _ in 0..ATTEMPTS {
            let mut schedule = self.schedule(org, id).await?;
            change(&mut schedule)?;
            if let Some(changed) = self.keep_changed(&schedule).await? {
                return Ok(changed);
            }
        }
        Err(HostError::Changed)
    }

    /// `None` if somebody else has changed it meanwhile.
    async fn keep_changed(&self, schedule: &Schedule) -> Result<Option<Schedule>, HostError> {
        let changed = self.store().change_schedule(schedule).await?;
        if changed.is_some() {
            self.inner.schedules.changed.notify_one();
        }
        Ok(changed)
    }

    /// What is meant by it, if it comes, and not too often.
    // THREAT[T-sched-flood]
    fn times(&self, when: Written, time: Time) -> Result<When, HostError> {
        let checked = when.at(time).and_then(|when| {
            when.check(time, self.inner.schedules.limits.least_interval)?;
            Ok(when)
        });
        checked.map_err(|error| HostError::Invalid(format!("`when` can't be used: {error}")))
    }

    /// Refuses what could not be done, and takes out of it what must not be kept.
    async fn check_plan(&self, org: &OrgName, plan: &mut Plan) -> Result<(), HostError> {
        if plan.max_runs == Some(0) {
            return Err(HostError::Invalid(
                "`max_runs` is at least 1; pause a schedule that is not to fire".into(),
            ));
        }
        if plan.title.as_ref().is_some_and(|title| title.len() > LONGEST_TITLE) {
            return Err(HostError::Invalid(format!("a title is at most {LONGEST_TITLE} bytes")));
        }
        let session = plan.place.session();
        match &mut plan.place {
            Place::Session(session) => {
                self.session(org, *session).await?;
            }
            Place::Fresh { agent, .. } => {
                let agent = agent.as_ref().unwrap_or(&self.inner.default_agent);
                self.chain(org, agent).await?;
            }
        }
        // THREAT[T-sec-exfiltration]: a schedule is shown as it is kept.
        let guard = self.guard(org, session).await?;
        plan.title = plan.title.as_ref().map(|title| guard.redact_str(title).into_owned());
        if let Place::Fresh { metadata, .. } = &mut plan.place {
            redact::json(&guard, metadata);
        }
        submit::refuse_empty(&plan.task.input)?;
        deed::redact_task(&guard, &mut plan.task);
        if let Some(schema) = &plan.task.output_schema {
            Schema::compile(schema)
                .map_err(|error| HostError::Invalid(format!("`output_schema` can't be used: {error}")))?;
        }
        let size = serde_json::to_string(plan).map_err(|_| HostError::Fault)?.len();
        if size > LARGEST_PLAN {
            return Err(HostError::Invalid(format!(
                "a schedule is at most {LARGEST_PLAN} bytes with its input, instructions, schema and metadata, and this one has {size}; shorten \
                 the longest of them, and let the agent's instructions say what all its schedules have in common"
            )));
        }
        Ok(())
    }
}

/// A schedule that somebody asks to fire, and when.
struct Asked {
    schedule: Schedule,
    at: Time,
}

/// Active until its next time, if it may fire again.
fn planned(schedule: &Schedule, time: Time) -> State {
    match schedule.plan.max_runs {
        Some(most) if schedule.runs >= most => State::Ended,
        _ => State::until(schedule.plan.when.next(time)),
    }
}

fn refuse_ended(schedule: &Schedule) -> Result<(), HostError> {
    match schedule.state {
        State::Ended => Err(HostError::Invalid(
            "the schedule has ended; change its `when` or `max_runs` to let it fire again".into(),
        )),
        State::Active(_) | State::Paused => Ok(()),
    }
}

fn apply(plan: &mut Plan, change: &ScheduleChange) -> Result<(), HostError> {
    let change = change.clone();
    plan.title = change.title.unwrap_or(plan.title.take());
    plan.misfire = change.misfire.unwrap_or(plan.misfire);
    plan.overlap = change.overlap.unwrap_or(plan.overlap);
    plan.max_runs = change.max_runs.unwrap_or(plan.max_runs);
    let narrows = change.network.is_some() || change.files.is_some() || change.background.is_some();
    let of_sessions = change.agent.is_some() || change.metadata.is_some() || narrows;
    match &mut plan.place {
        Place::Session(_) if of_sessions => {
            return Err(HostError::Invalid(
                "`agent`, `metadata`, `network`, `files` and `background` are of sessions that a schedule makes; change its session instead".into(),
            ));
        }
        Place::Session(_) => {}
        Place::Fresh {
            agent,
            metadata,
            narrowing,
        } => {
            *agent = change.agent.or(agent.take());
            if let Some(changed) = change.metadata {
                *metadata = Value::Object(changed);
            }
            narrowing.network = change.network.unwrap_or(narrowing.network.take());
            narrowing.files = change.files.unwrap_or(narrowing.files);
            narrowing.background = change.background.unwrap_or(narrowing.background.take());
        }
    }
    let task = &mut plan.task;
    task.input = change.input.unwrap_or(std::mem::take(&mut task.input));
    task.system = change.system.unwrap_or(task.system.take());
    task.budget = change.budget.unwrap_or(task.budget);
    task.output_schema = change.output_schema.unwrap_or(task.output_schema.take());
    Ok(())
}
