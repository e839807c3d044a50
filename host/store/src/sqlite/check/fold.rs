//! Folds every journal and compares what follows from it with what is kept.

use super::{
    Found, Mend, Problem,
    mend::{AwaitedRow, JobRow, TurnRow},
};
use crate::{
    api::{EVENTS_BYTES, Result},
    sqlite::{
        decode, failed, jobs,
        journal::{last_of_page, projected, waits_until},
        spending::Charged,
    },
};
use fumehood_core::{
    event::EventBody,
    id::{CallId, CallbackId, JobId, SessionId, TurnId},
    tool::Effect,
    turn::{TurnStatus, WaitingFor},
};
use sqlx::{FromRow as _, Row as _, sqlite::SqliteConnection};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Events that are read together.
const PAGE: i64 = 500;
/// Problems of one session that are told.
const MOST_TOLD: usize = 20;

/// What is kept of a session and follows from its journal.
#[derive(Debug)]
struct SessionRow {
    session: SessionId,
    last_seq: i64,
    charged: Charged,
}

/// An event as the fold reads it: its place, its time, its turn and what it says.
type EventRow = (i64, i64, Option<Vec<u8>>, String);

/// What follows from a journal, as far as it was read.
#[derive(Debug, Default)]
struct Folded {
    last: i64,
    turns: BTreeMap<Uuid, Turn>,
    /// The two turns that had an event last, each with the place of it: the newer first.
    latest: [Option<(Uuid, i64)>; 2],
    rewinds: Vec<(i64, i64)>,
    /// By the call.
    awaited: BTreeMap<Uuid, AwaitedRow>,
    jobs: BTreeMap<Uuid, JobRow>,
    /// As often as the journal tells that they began.
    began: BTreeMap<Uuid, u32>,
    charged: Charged,
}

#[derive(Debug)]
struct Turn {
    row: TurnRow,
    ends: u32,
}

/// Every session's journal against what is kept of it, but of those that are being deleted.
pub(super) async fn journals(connection: &mut SqliteConnection) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut after = Vec::new();
    loop {
        let next = sqlx::query(
            "SELECT id, last_seq, spent_tokens, spent_cost, spent_tool_calls, spent_steps, spent_ms FROM sessions \
             WHERE id > ?1 AND deleting IS NULL ORDER BY id LIMIT 1",
        )
        .bind(&after)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
        let Some(row) = next else {
            return Ok(found);
        };
        let id: Vec<u8> = row.try_get("id").map_err(failed)?;
        let kept = SessionRow {
            session: SessionId::from_uuid(decode::uuid(&id, "a session's id")?),
            last_seq: row.try_get("last_seq").map_err(failed)?,
            charged: Charged::from_row(&row).map_err(failed)?,
        };
        let mut of_session = session(connection, &kept).await?;
        of_session.truncate(MOST_TOLD);
        found.append(&mut of_session);
        after = id;
    }
}

async fn session(connection: &mut SqliteConnection, kept: &SessionRow) -> Result<Vec<Found>> {
    let folded = match fold(connection, kept).await? {
        Ok(folded) => folded,
        // From a journal that is not whole nothing follows.
        Err(detail) => {
            return Ok(vec![Found::beyond_repair(Problem::Journal {
                session: kept.session,
                detail,
            })]);
        }
    };
    let mut found = Vec::new();
    compare_session(kept, &folded, &mut found);
    compare_turns(
        kept.session,
        turns(connection, kept.session).await?,
        &folded,
        &mut found,
    );
    compare_rewinds(
        kept.session,
        &rewinds(connection, kept.session).await?,
        &folded,
        &mut found,
    );
    compare_awaited(
        kept.session,
        &awaited(connection, kept.session).await?,
        &folded,
        &mut found,
    );
    compare_jobs(
        kept.session,
        &kept_jobs(connection, kept.session).await?,
        &folded,
        &mut found,
    );
    Ok(found)
}

/// What follows from the journal, or why nothing does.
async fn fold(connection: &mut SqliteConnection, kept: &SessionRow) -> Result<std::result::Result<Folded, String>> {
    let mut folded = Folded::default();
    loop {
        let events: Vec<EventRow> = sqlx::query_as(concat!(
            "SELECT seq, time, turn, body FROM events WHERE session = ?1 AND seq > ?2 AND seq <= ",
            last_of_page!(),
            " ORDER BY seq"
        ))
        .bind(&kept.session.uuid().as_bytes()[..])
        .bind(folded.last)
        .bind(PAGE)
        .bind(i64::from(EVENTS_BYTES))
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
        if events.is_empty() {
            break;
        }
        for (seq, time, turn, body) in events {
            if seq != folded.last + 1 {
                return Ok(Err(format!("after event {} comes event {seq}", folded.last)));
            }
            let turn = turn.map(|turn| decode::uuid(&turn, "an event's turn")).transpose()?;
            match serde_json::from_str(&body) {
                Ok(body) => folded.apply(seq, time, turn, &body),
                Err(_) => return Ok(Err(format!("event {seq} is not of a form this version knows"))),
            }
        }
    }
    if folded.last < kept.last_seq {
        let (last, kept) = (folded.last, kept.last_seq);
        return Ok(Err(format!(
            "it should have the events 1 to {kept}; it ends with event {last}"
        )));
    }
    Ok(Ok(folded))
}

impl Folded {
    fn apply(&mut self, seq: i64, time: i64, turn: Option<Uuid>, body: &EventBody) {
        self.last = seq;
        if let EventBody::SessionRewound { after, .. } = body {
            self.rewinds.push((seq, i64::try_from(*after).unwrap_or(i64::MAX)));
        }
        self.apply_to_jobs((seq, time), turn, body);
        if let Some(turn) = turn {
            self.apply_to_awaited(turn, body);
            self.apply_to(turn, seq, time, body);
            let mut counted = 0;
            let worked = self
                .turns
                .get_mut(&turn)
                .map_or(&mut counted, |turn| &mut turn.row.worked_ms);
            *worked = self.charged.add(body, *worked);
            self.latest = match self.latest {
                [Some((newest, _)), other] if newest == turn => [Some((turn, seq)), other],
                [newest, _] => [Some((turn, seq)), newest],
            };
        } else {
            self.charged.add(body, 0);
        }
    }

    fn apply_to_jobs(&mut self, (seq, time): (i64, i64), turn: Option<Uuid>, body: &EventBody) {
        match (body, turn) {
            (
                EventBody::JobQueued {
                    job,
                    call,
                    tool,
                    effect,
                    ..
                },
                Some(turn),
            ) => {
                let row = JobRow {
                    turn: TurnId::from_uuid(turn),
                    call: *call,
                    tool: tool.to_string(),
                    repeats: *effect != Effect::AtMostOnce,
                    queued_seq: seq,
                    created: time,
                    started: None,
                    ended: None,
                    told: None,
                };
                self.jobs.insert(job.uuid(), row);
            }
            (EventBody::JobStarted { job, attempt, .. }, _) => {
                self.began.insert(job.uuid(), *attempt);
                if let Some(row) = self.jobs.get_mut(&job.uuid()) {
                    row.started.get_or_insert(time);
                }
            }
            (EventBody::JobCompleted { job, status, .. }, _) => {
                if let (Some(row), Ok(status)) = (self.jobs.get_mut(&job.uuid()), jobs::status_text(*status)) {
                    row.ended = Some((status, seq, time));
                }
            }
            (EventBody::StepStarted { notes, .. }, _) => {
                for job in notes.iter().filter_map(|note| note.job) {
                    if let Some(row) = self.jobs.get_mut(&job.uuid()) {
                        row.told.get_or_insert(seq);
                    }
                }
            }
            (EventBody::SessionRewound { after, .. }, _) => {
                let after = i64::try_from(*after).unwrap_or(i64::MAX);
                for row in self.jobs.values_mut() {
                    if row.queued_seq > after {
                        row.told = Some(seq);
                    } else if row.told.is_some_and(|told| told > after) {
                        row.told = None;
                    }
                }
            }
            (EventBody::ToolCommitted { call, .. }, None) => {
                let of_call = self.jobs.values_mut().filter(|row| row.call == *call);
                of_call.for_each(|row| row.repeats = false);
            }
            _ => {}
        }
    }

    fn apply_to_awaited(&mut self, turn: Uuid, body: &EventBody) {
        let turn = TurnId::from_uuid(turn);
        let row = |expires: fumehood_core::Time, callback| AwaitedRow {
            turn,
            expires: expires.timestamp_nanos_opt().unwrap_or(i64::MAX),
            callback,
            is_open: true,
        };
        match body {
            EventBody::ResultsRequested { calls } => {
                let rows = calls.iter().map(|call| (call.call_id.uuid(), row(call.expires, None)));
                self.awaited.extend(rows);
            }
            EventBody::ToolDetached {
                call,
                callback,
                token,
                expires,
                ..
            } => {
                let row = row(*expires, Some((*callback, *token)));
                self.awaited.insert(call.uuid(), row);
            }
            EventBody::ToolCompleted { call, .. } => match self.awaited.get_mut(&call.uuid()) {
                Some(row) if row.callback.is_some() => row.is_open = false,
                Some(_) => {
                    self.awaited.remove(&call.uuid());
                }
                None => {}
            },
            _ => {}
        }
    }

    /// Until when a turn waits for results, if it waits for any.
    fn soonest(&self, turn: Uuid) -> Option<i64> {
        let of_turn = |row: &&AwaitedRow| row.turn.uuid() == turn && row.is_open;
        self.awaited.values().filter(of_turn).map(|row| row.expires).min()
    }

    fn apply_to(&mut self, id: Uuid, seq: i64, time: i64, body: &EventBody) {
        let Some(status) = projected(body) else {
            let until = waits_until(body, decode::from_nanos(time));
            let soonest = match body {
                EventBody::ToolCompleted { .. } => self.soonest(id),
                _ => None,
            };
            if let Some(turn) = self.turns.get_mut(&id) {
                if let Some(until) = until {
                    turn.row.waits_until = until.timestamp_nanos_opt();
                }
                if soonest.is_some() && turn.row.status == TurnStatus::AwaitingResults {
                    turn.row.waits_until = soonest;
                }
            }
            return;
        };
        let soonest = match body {
            EventBody::TurnPaused {
                waiting_for: WaitingFor::Results,
                ..
            } => self.soonest(id),
            _ => None,
        };
        let others = self.latest.iter().flatten().filter(|(turn, _)| *turn != id);
        let newest_of_others = others.map(|(_, seq)| *seq).max().unwrap_or(0);
        let turn = self.turns.entry(id).or_insert_with(|| Turn {
            row: TurnRow {
                turn: TurnId::from_uuid(id),
                status,
                first_seq: seq,
                ended: None,
                waits_until: None,
                agent: String::new(),
                model: String::new(),
                worked_ms: 0,
            },
            ends: 0,
        });
        let row = &mut turn.row;
        if row.status == TurnStatus::Queued && newest_of_others > row.first_seq {
            match body {
                EventBody::TurnStarted { .. } => row.first_seq = seq,
                _ if status.is_terminal() => row.first_seq = 0,
                _ => {}
            }
        }
        if let EventBody::TurnStarted { agent, model, .. } = body {
            agent.as_str().clone_into(&mut row.agent);
            model.as_str().clone_into(&mut row.model);
        }
        row.status = status;
        row.ended = status.is_terminal().then_some(time);
        if !matches!(status, TurnStatus::AwaitingApproval | TurnStatus::AwaitingResults) {
            row.waits_until = None;
        }
        if soonest.is_some() {
            row.waits_until = soonest;
        }
        turn.ends += u32::from(status.is_terminal());
    }
}

fn compare_session(kept: &SessionRow, folded: &Folded, found: &mut Vec<Found>) {
    if (kept.last_seq, kept.charged) == (folded.last, folded.charged) {
        return;
    }
    let detail = format!(
        "its row says that its last event is {} and that it spent {}; by its journal it is {} and {}",
        kept.last_seq, kept.charged, folded.last, folded.charged,
    );
    found.push(Found {
        problem: Problem::Session {
            session: kept.session,
            detail,
        },
        mend: Some(Mend::Session {
            session: kept.session,
            last_seq: folded.last,
            charged: folded.charged,
        }),
    });
}

fn compare_turns(session: SessionId, rows: Vec<TurnRow>, folded: &Folded, found: &mut Vec<Found>) {
    for kept in rows {
        let turn = kept.turn;
        let beyond_repair = |detail: String| Found::beyond_repair(Problem::Turn { turn, detail });
        let Some(told) = folded.turns.get(&turn.uuid()) else {
            found.push(beyond_repair("the journal says nothing of it".into()));
            continue;
        };
        if told.ends > 1 {
            found.push(beyond_repair(format!("the journal tells {} ends of it", told.ends)));
        } else if told.row != kept {
            let detail = format!("its row has {kept}; by the journal it is {}", told.row);
            found.push(Found {
                problem: Problem::Turn { turn, detail },
                mend: Some(Mend::Turn {
                    session,
                    row: told.row.clone(),
                }),
            });
        }
    }
}

fn compare_rewinds(session: SessionId, kept: &[(i64, i64)], folded: &Folded, found: &mut Vec<Found>) {
    if kept == folded.rewinds {
        return;
    }
    found.push(Found {
        problem: Problem::Session {
            session,
            detail: format!(
                "it went back {} times by its journal; {} of them are kept as they should be",
                folded.rewinds.len(),
                kept.iter().filter(|rewind| folded.rewinds.contains(rewind)).count(),
            ),
        },
        mend: Some(Mend::Rewinds {
            session,
            rewinds: folded.rewinds.clone(),
        }),
    });
}

fn compare_awaited(session: SessionId, kept: &BTreeMap<Uuid, AwaitedRow>, folded: &Folded, found: &mut Vec<Found>) {
    let told = &folded.awaited;
    if kept == told {
        return;
    }
    let wrong = kept.iter().filter(|(call, row)| told.get(call) != Some(row)).count();
    let missing = told.keys().filter(|call| !kept.contains_key(call)).count();
    found.push(Found {
        problem: Problem::Session {
            session,
            detail: format!(
                "of the calls that wait, or waited, for somebody outside {wrong} are not kept as the journal tells, and {missing} are \
                 not kept at all"
            ),
        },
        mend: Some(Mend::Awaited {
            session,
            rows: told.iter().map(|(call, row)| (CallId::from_uuid(*call), row.clone())).collect(),
        }),
    });
}

fn compare_jobs(session: SessionId, kept: &BTreeMap<Uuid, JobRow>, folded: &Folded, found: &mut Vec<Found>) {
    let told = &folded.jobs;
    if kept == told {
        return;
    }
    let wrong = kept.iter().filter(|(job, row)| told.get(job) != Some(row)).count();
    let missing = told.keys().filter(|job| !kept.contains_key(job)).count();
    let row = |(job, row): (&Uuid, &JobRow)| {
        let began = folded.began.get(job).copied().unwrap_or_default();
        (JobId::from_uuid(*job), row.clone(), began)
    };
    found.push(Found {
        problem: Problem::Session {
            session,
            detail: format!("of the jobs {wrong} are not kept as the journal tells, and {missing} are not kept at all"),
        },
        mend: Some(Mend::Jobs {
            session,
            rows: told.iter().map(row).collect(),
        }),
    });
}

async fn kept_jobs(connection: &mut SqliteConnection, session: SessionId) -> Result<BTreeMap<Uuid, JobRow>> {
    type Row = (
        Vec<u8>,
        Vec<u8>,
        Vec<u8>,
        String,
        bool,
        i64,
        i64,
        Option<i64>,
        Option<String>,
        Option<i64>,
        Option<i64>,
        Option<i64>,
    );
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, turn, call, tool, repeats, queued_seq, created, started, status, ended_seq, ended, told_seq FROM jobs WHERE session = ?1",
    )
    .bind(&session.uuid().as_bytes()[..])
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    rows.into_iter()
        .map(
            |(id, turn, call, tool, repeats, queued_seq, created, started, status, ended_seq, ended, told)| {
                let row = JobRow {
                    turn: TurnId::from_uuid(decode::uuid(&turn, "a job's turn")?),
                    call: CallId::from_uuid(decode::uuid(&call, "a job's call")?),
                    tool,
                    repeats,
                    queued_seq,
                    created,
                    started,
                    ended: match (status, ended_seq, ended) {
                        (Some(status), Some(seq), Some(at)) => Some((status, seq, at)),
                        _ => None,
                    },
                    told,
                };
                Ok((decode::uuid(&id, "a job's id")?, row))
            },
        )
        .collect()
}

async fn awaited(connection: &mut SqliteConnection, session: SessionId) -> Result<BTreeMap<Uuid, AwaitedRow>> {
    type Row = (Vec<u8>, Vec<u8>, i64, Option<Vec<u8>>, Option<Vec<u8>>, String);
    let rows: Vec<Row> =
        sqlx::query_as("SELECT call, turn, expires, callback, token, state FROM awaited_calls WHERE session = ?1")
            .bind(&session.uuid().as_bytes()[..])
            .fetch_all(connection)
            .await
            .map_err(failed)?;
    rows.into_iter()
        .map(|(call, turn, expires, callback, token, state)| {
            let callback = match (callback, token) {
                (Some(callback), Some(token)) => Some((
                    CallbackId::from_uuid(decode::uuid(&callback, "a callback's id")?),
                    decode::digest(&token, "the digest of a callback's token")?,
                )),
                _ => None,
            };
            let row = AwaitedRow {
                turn: TurnId::from_uuid(decode::uuid(&turn, "a call's turn")?),
                expires,
                callback,
                is_open: state != "settled",
            };
            Ok((decode::uuid(&call, "a call's id")?, row))
        })
        .collect()
}

async fn turns(connection: &mut SqliteConnection, session: SessionId) -> Result<Vec<TurnRow>> {
    type Row = (Vec<u8>, String, i64, Option<i64>, Option<i64>, String, String, i64);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, status, first_seq, ended, waits_until, agent, model, worked_ms FROM turns WHERE session = ?1 ORDER BY id",
    )
    .bind(&session.uuid().as_bytes()[..])
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    rows.into_iter()
        .map(|(id, status, first_seq, ended, waits_until, agent, model, worked_ms)| {
            Ok(TurnRow {
                turn: TurnId::from_uuid(decode::uuid(&id, "a turn's id")?),
                status: decode::status(&status)?,
                first_seq,
                ended,
                waits_until,
                agent,
                model,
                worked_ms,
            })
        })
        .collect()
}

async fn rewinds(connection: &mut SqliteConnection, session: SessionId) -> Result<Vec<(i64, i64)>> {
    sqlx::query_as("SELECT seq, after_seq FROM rewinds WHERE session = ?1 ORDER BY seq")
        .bind(&session.uuid().as_bytes()[..])
        .fetch_all(connection)
        .await
        .map_err(failed)
}
