//! A schedule fires: its run, its next time, a session of its own and its turn, in one transaction.

use super::{is_decided, one, plan_text, reason_text, replace};
use crate::{
    api::{Result, StoreError},
    record::{Accepted, IfBusy, Turn},
    schedules::{Cause, Deed, Fired, Firing, Overlap, RUNS_KEPT, RunOutcome, Schedule, ScheduleRun, SkipReason, State},
    sqlite::{decode, failed, journal, sessions, turns},
};
use fumehood_core::{
    Time,
    event::{Event, Source},
    id::{ScheduleId, SessionId},
    now,
    turn::TurnStatus,
};
use sqlx::sqlite::SqliteConnection;

/// A firing with its stored texts.
pub(super) struct Prepared {
    schedule: Schedule,
    plan: String,
    cause: Cause,
    fire: Option<(Time, PreparedDeed)>,
    makes_up: bool,
    passed: Option<fumehood_policy::schedule::Passed>,
}

enum PreparedDeed {
    Turn(Box<turns::Candidate>),
    Session {
        session: Box<sessions::Prepared>,
        created: journal::Prepared,
        turn: Box<turns::Candidate>,
        most: u64,
    },
    Record(RunOutcome),
}

/// What was begun.
struct Begun {
    outcome: RunOutcome,
    turn: Option<Turn>,
    events: Vec<Event>,
}

impl Begun {
    const fn nothing(outcome: RunOutcome) -> Self {
        Self {
            outcome,
            turn: None,
            events: Vec::new(),
        }
    }

    const fn skipped(reason: SkipReason) -> Self {
        Self::nothing(RunOutcome::Skipped { reason, message: None })
    }
}

impl Prepared {
    pub(super) fn new(firing: Firing) -> Result<Self> {
        let Firing {
            mut schedule,
            cause,
            fire,
            makes_up,
            passed,
            state,
        } = firing;
        schedule.state = state;
        let source = |due| Source::Schedule {
            schedule: schedule.id,
            due,
        };
        let fire = match fire {
            None => None,
            Some((due, deed)) => Some((
                due,
                match deed {
                    Deed::Turn(session, turn) => {
                        let turn = turns::Candidate::new(&schedule.org, session, &turn, source(due))?;
                        PreparedDeed::Turn(Box::new(turn))
                    }
                    Deed::Session {
                        session,
                        created,
                        turn,
                        most,
                    } => PreparedDeed::Session {
                        turn: Box::new(turns::Candidate::new(&schedule.org, session.id, &turn, source(due))?),
                        created: journal::Prepared::new(&created)?,
                        session: Box::new(sessions::Prepared::new(*session)?),
                        most,
                    },
                    Deed::Skip { reason, message } => PreparedDeed::Record(RunOutcome::Skipped { reason, message }),
                    Deed::Fail { message } => PreparedDeed::Record(RunOutcome::Failed { message }),
                },
            )),
        };
        Ok(Self {
            plan: plan_text(&schedule)?,
            schedule,
            cause,
            fire,
            makes_up,
            passed,
        })
    }

    /// Decides and writes all of it, inside a transaction.
    pub(super) async fn fire(mut self, connection: &mut SqliteConnection) -> Result<Fired> {
        // THREAT[T-sched-twice]: of several who saw the same schedule, the first counts.
        let id = self.schedule.id;
        let kept = one(connection, &self.schedule.org, id).await?;
        if kept.is_none_or(|kept| kept.revision != self.schedule.revision) {
            return Ok(Fired::Stale);
        }
        if let Some(passed) = self.passed {
            let count = passed.count;
            record(connection, id, passed.first, self.cause, &RunOutcome::Missed { count }).await?;
        }
        let fire = self.fire.take();
        let mut fired = Fired::Nothing(None);
        if let Some((due, deed)) = fire
            && !is_decided(connection, id, due).await?
        {
            let begun = self.begin(connection, deed).await?;
            let run = record(connection, id, due, self.cause, &begun.outcome).await?;
            fired = match begun.turn {
                Some(turn) => Fired::Turn {
                    turn,
                    events: begun.events,
                    run,
                },
                None => Fired::Nothing(Some(run)),
            };
        }
        if matches!(fired, Fired::Turn { .. }) && self.cause == Cause::Due {
            self.schedule.runs += 1;
            if self
                .schedule
                .plan
                .max_runs
                .is_some_and(|most| self.schedule.runs >= most)
            {
                self.schedule.state = State::Ended;
            }
        }
        if !replace(connection, &self.schedule, &self.plan).await? {
            return Err(StoreError::Gone { what: "schedule" });
        }
        forget(connection, id).await?;
        Ok(fired)
    }

    async fn begin(&self, connection: &mut SqliteConnection, deed: PreparedDeed) -> Result<Begun> {
        let (session, candidate, mut events) = match deed {
            PreparedDeed::Record(outcome) => return Ok(Begun::nothing(outcome)),
            PreparedDeed::Turn(candidate) => {
                if candidate.if_busy() == IfBusy::Queue
                    && !self.makes_up
                    && before(connection, self.schedule.id).await? == Some(TurnStatus::Queued)
                {
                    return Ok(Begun::skipped(SkipReason::PreviousWaits));
                }
                (candidate.session(), candidate, Vec::new())
            }
            PreparedDeed::Session {
                session,
                created,
                turn: candidate,
                most,
            } => {
                if self.schedule.plan.overlap == Overlap::Skip
                    && before(connection, self.schedule.id)
                        .await?
                        .is_some_and(|status| !status.is_terminal())
                {
                    return Ok(Begun::skipped(SkipReason::Busy));
                }
                if sessions::has_as_many(connection, &self.schedule.org, most).await? {
                    return Ok(Begun::nothing(RunOutcome::Skipped {
                        reason: SkipReason::TooManySessions,
                        message: Some(format!("the org has {most} sessions, as many as it may: delete one")),
                    }));
                }
                sessions::insert(connection, &session).await?;
                let created = journal::append(connection, &self.schedule.org, candidate.session(), created).await?;
                (candidate.session(), candidate, created)
            }
        };
        let accepted = match candidate.accept(connection).await {
            // Refused before anything was written.
            Err(StoreError::Archived) => return Ok(Begun::skipped(SkipReason::Archived)),
            accepted => accepted?,
        };
        match accepted.ok_or(StoreError::Gone { what: "session" })? {
            Accepted::New(turn, queued) => {
                events.extend(queued);
                Ok(Begun {
                    outcome: fired(session, &turn),
                    turn: Some(turn),
                    events,
                })
            }
            Accepted::QueueFull => Ok(Begun::skipped(SkipReason::QueueFull)),
            Accepted::Busy(_) => Ok(Begun::skipped(SkipReason::Busy)),
            Accepted::Repeated(_) | Accepted::KeyReused | Accepted::Stale => Err(StoreError::Invalid {
                reason: "a scheduled turn repeats and replaces none".into(),
            }),
        }
    }
}

const fn fired(session: SessionId, turn: &Turn) -> RunOutcome {
    RunOutcome::Fired {
        session,
        turn: turn.id,
        status: Some(turn.status),
    }
}

/// Where the turn is that was begun last, if it is still there.
async fn before(connection: &mut SqliteConnection, id: ScheduleId) -> Result<Option<TurnStatus>> {
    let status: Option<String> = sqlx::query_scalar(
        "SELECT t.status FROM schedule_runs r JOIN turns t ON t.id = r.turn \
         WHERE r.schedule = ?1 AND r.outcome = 'fired' ORDER BY r.fire_at DESC LIMIT 1",
    )
    .bind(&id.uuid().as_bytes()[..])
    .fetch_optional(connection)
    .await
    .map_err(failed)?;
    status.as_deref().map(decode::status).transpose()
}

/// Remembers what came of a time, unless that was decided before.
async fn record(
    connection: &mut SqliteConnection,
    id: ScheduleId,
    fire_at: Time,
    cause: Cause,
    outcome: &RunOutcome,
) -> Result<ScheduleRun> {
    let recorded = now();
    let (text, reason, message, count, begun) = match outcome {
        RunOutcome::Fired { session, turn, .. } => ("fired", None, None, 1, Some((session.uuid(), turn.uuid()))),
        RunOutcome::Skipped { reason, message } => ("skipped", Some(reason_text(*reason)), message.as_deref(), 1, None),
        RunOutcome::Missed { count } => ("missed", None, None, decode::from_count(*count)?, None),
        RunOutcome::Failed { message } => ("failed", None, Some(message.as_str()), 1, None),
    };
    sqlx::query(
        "INSERT INTO schedule_runs (schedule, fire_at, cause, outcome, reason, message, count, session, turn, recorded) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
    )
    .bind(&id.uuid().as_bytes()[..])
    .bind(decode::to_nanos(fire_at)?)
    .bind(match cause {
        Cause::Due => "due",
        Cause::Asked => "asked",
    })
    .bind(text)
    .bind(reason)
    .bind(message)
    .bind(count)
    .bind(begun.as_ref().map(|(session, _)| &session.as_bytes()[..]))
    .bind(begun.as_ref().map(|(_, turn)| &turn.as_bytes()[..]))
    .bind(decode::to_nanos(recorded)?)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(ScheduleRun {
        fire_at,
        cause,
        outcome: outcome.clone(),
        recorded,
    })
}

/// Forgets the runs that came before the last ones.
async fn forget(connection: &mut SqliteConnection, id: ScheduleId) -> Result<()> {
    sqlx::query(
        "DELETE FROM schedule_runs WHERE schedule = ?1 AND fire_at < \
         (SELECT fire_at FROM schedule_runs WHERE schedule = ?1 ORDER BY fire_at DESC LIMIT 1 OFFSET ?2)",
    )
    .bind(&id.uuid().as_bytes()[..])
    .bind(i64::from(RUNS_KEPT) - 1)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}
