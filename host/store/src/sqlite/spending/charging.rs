//! What events say was spent is charged in their transaction: to the day, to the session, and of its time to the turn.

use super::{Batch, MOST, Statement, kept, release};
use crate::spending::Holder;
use fumehood_core::{
    event::{Event, EventBody},
    id::{SessionId, TurnId},
    money::Money,
    name::ModelName,
    spending::Day,
    turn::Usage,
};
use std::fmt;

/// What an event says that a model call took.
struct Asked<'a> {
    /// The model, where the event names another than the turn's own.
    model: Option<&'a ModelName>,
    usage: Option<Usage>,
    cost: Option<Money>,
}

impl<'a> Asked<'a> {
    const fn of(body: &'a EventBody) -> Option<Self> {
        let (model, usage, cost) = match body {
            EventBody::StepCompleted { model, usage, cost, .. } | EventBody::StepFailed { model, usage, cost, .. } => {
                (model.as_ref(), *usage, *cost)
            }
            EventBody::RetryScheduled {
                failed_model,
                usage,
                cost,
                ..
            } => (failed_model.as_ref(), *usage, *cost),
            EventBody::CompactionCompleted { usage, cost, .. } | EventBody::CompactionFailed { usage, cost, .. } => {
                if usage.is_none() {
                    // No model was asked.
                    return None;
                }
                (None, *usage, *cost)
            }
            _ => return None,
        };
        Some(Self { model, usage, cost })
    }
}

/// Steps and calls of tools that an event tells.
const fn steps(body: &EventBody) -> u64 {
    matches!(body, EventBody::StepCompleted { .. } | EventBody::StepFailed { .. }) as u64
}

const fn tool_calls(body: &EventBody) -> u64 {
    matches!(body, EventBody::ToolRequested { .. }) as u64
}

/// What the events of one append charge their session with: what goes to one row is written once.
#[derive(Default)]
pub(in crate::sqlite) struct Charges(Vec<Charge>);

/// What goes to one row of a day.
struct Charge {
    session: SessionId,
    turn: Option<TurnId>,
    day: Day,
    model: Option<ModelName>,
    model_calls: u64,
    unmeasured: u64,
    usage: Usage,
    cost: Option<Money>,
    steps: u64,
    tool_calls: u64,
    /// How long the turn had been worked by then.
    worked_ms: u64,
}

impl Charges {
    /// Takes in what an event tells.
    pub(in crate::sqlite) fn add(&mut self, event: &Event) {
        let asked = Asked::of(&event.body);
        let (tool_calls, worked_ms) = (tool_calls(&event.body), event.body.worked_ms());
        if asked.is_none() && tool_calls == 0 && worked_ms.is_none() {
            return;
        }
        let charge = self.row(event, asked.as_ref());
        charge.steps += steps(&event.body);
        charge.tool_calls += tool_calls;
        charge.worked_ms = charge.worked_ms.max(worked_ms.unwrap_or(0));
        if let Some(asked) = asked {
            charge.model_calls += 1;
            charge.unmeasured += u64::from(!asked.usage.is_some_and(Usage::is_whole));
            charge.usage = charge.usage.plus(asked.usage.unwrap_or_default());
            if let Some(cost) = asked.cost {
                charge.cost = Some(charge.cost.unwrap_or_default().plus(cost));
            }
        }
    }

    /// Which row an event goes to: what names no model goes with what does.
    fn row(&mut self, event: &Event, asked: Option<&Asked<'_>>) -> &mut Charge {
        let fits = |charge: &Charge| {
            charge.turn == event.turn
                && asked.is_none_or(|asked| charge.model_calls == 0 || charge.model.as_ref() == asked.model)
        };
        let place = self.0.iter().rposition(fits).unwrap_or_else(|| {
            self.0.push(Charge {
                session: event.session,
                turn: event.turn,
                day: Day::of(event.time),
                model: None,
                model_calls: 0,
                unmeasured: 0,
                usage: Usage::default(),
                cost: None,
                steps: 0,
                tool_calls: 0,
                worked_ms: 0,
            });
            self.0.len() - 1
        });
        let charge = &mut self.0[place];
        if let Some(asked) = asked {
            charge.model = asked.model.cloned();
        }
        charge
    }

    /// Charges all of it, behind what is in the batch.
    pub(in crate::sqlite) fn write(self, batch: &mut Batch) {
        for charge in &self.0 {
            charge.write(batch);
        }
    }
}

/// Who worked it is the turn's to tell; a session that sums itself up has its agent to tell. Where a turn only ended, and nothing was
/// worked that is not counted yet, there is no row to make.
const CHARGE_DAY: Statement = Statement::new(
    "INSERT INTO usage_days (org, day, agent, model, calls, unmeasured, steps, tool_calls, worked_ms, \
         input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, cost) \
     SELECT s.org, ?, ifnull(t.agent, s.agent), ifnull(?, ifnull(t.model, '')), ?, ?, ?, ?, max(0, ? - ifnull(t.worked_ms, 0)), \
             ?, ?, ?, ?, ?, ? \
         FROM sessions s LEFT JOIN turns t ON t.session = s.id AND t.id = ? \
         WHERE s.id = ? AND (? OR ? > ifnull(t.worked_ms, 0)) \
     ON CONFLICT (org, day, agent, model) DO UPDATE SET \
         calls = calls + excluded.calls, unmeasured = unmeasured + excluded.unmeasured, \
         steps = steps + excluded.steps, tool_calls = tool_calls + excluded.tool_calls, \
         worked_ms = min(worked_ms + excluded.worked_ms, ?), \
         input_tokens = min(coalesce(input_tokens + excluded.input_tokens, input_tokens, excluded.input_tokens), ?), \
         output_tokens = min(coalesce(output_tokens + excluded.output_tokens, output_tokens, excluded.output_tokens), ?), \
         cached_input_tokens = min(coalesce(cached_input_tokens + excluded.cached_input_tokens, \
             cached_input_tokens, excluded.cached_input_tokens), ?), \
         cache_write_tokens = min(coalesce(cache_write_tokens + excluded.cache_write_tokens, \
             cache_write_tokens, excluded.cache_write_tokens), ?), \
         reasoning_tokens = min(coalesce(reasoning_tokens + excluded.reasoning_tokens, \
             reasoning_tokens, excluded.reasoning_tokens), ?), \
         cost = min(coalesce(cost + excluded.cost, cost, excluded.cost), ?)",
);
/// The sums of a day that grow no further than [`MOST`].
const SUMS: usize = 7;

const CHARGE_SESSION: Statement = Statement::new(
    "UPDATE sessions SET spent_tokens = min(spent_tokens + ?, ?), spent_cost = min(spent_cost + ?, ?), \
         spent_steps = spent_steps + ?, spent_tool_calls = spent_tool_calls + ?, \
         spent_ms = min(spent_ms + max(0, ? - ifnull((SELECT worked_ms FROM turns WHERE session = ? AND id = ?), 0)), ?) \
     WHERE id = ?",
);

const CHARGE_TURN: Statement =
    Statement::new("UPDATE turns SET worked_ms = max(worked_ms, ?) WHERE session = ? AND id = ?");

impl Charge {
    fn write(&self, batch: &mut Batch) {
        let turn = self.turn.map(TurnId::uuid);
        let turn = turn.as_ref().map(|turn| &turn.as_bytes()[..]);
        let session = self.session.uuid();
        let session = &session.as_bytes()[..];
        let worked_ms = kept(self.worked_ms);
        self.write_day(batch, session, turn);
        batch.add(CHARGE_SESSION);
        batch
            .bind(kept(self.usage.total()))
            .bind(kept(MOST))
            .bind(self.cost.map_or(0, |cost| kept(cost.millionths())))
            .bind(kept(MOST))
            .bind(kept(self.steps))
            .bind(kept(self.tool_calls))
            .bind(worked_ms)
            .bind(session)
            .bind(turn)
            .bind(kept(MOST))
            .bind(session);
        if worked_ms > 0 {
            batch.add(CHARGE_TURN);
            batch.bind(worked_ms).bind(session).bind(turn);
        }
    }

    fn write_day(&self, batch: &mut Batch, session: &[u8], turn: Option<&[u8]>) {
        let count = |tokens: Option<u64>| tokens.map(kept);
        let Usage {
            input_tokens,
            output_tokens,
            cached_input_tokens,
            cache_write_tokens,
            reasoning_tokens,
        } = self.usage;
        batch.add(CHARGE_DAY);
        batch
            .bind(self.day.number())
            .bind(self.model.as_ref().map(ModelName::as_str))
            .bind(kept(self.model_calls))
            .bind(kept(self.unmeasured))
            .bind(kept(self.steps))
            .bind(kept(self.tool_calls))
            .bind(kept(self.worked_ms))
            .bind(count(input_tokens))
            .bind(count(output_tokens))
            .bind(count(cached_input_tokens))
            .bind(count(cache_write_tokens))
            .bind(count(reasoning_tokens))
            .bind(self.cost.map(|cost| kept(cost.millionths())))
            .bind(turn)
            .bind(session)
            .bind(self.model_calls + self.tool_calls > 0)
            .bind(kept(self.worked_ms));
        for _ in 0..SUMS {
            batch.bind(kept(MOST));
        }
    }
}

const BEGUN: Statement = Statement::new("UPDATE turns SET agent = ?, model = ? WHERE id = ?");

/// Notes who works a turn, and lets go of what was held for what an event tells the end of, in the transaction of the event.
pub(in crate::sqlite) fn project(batch: &mut Batch, event: &Event) {
    if let (EventBody::TurnStarted { agent, model, .. }, Some(turn)) = (&event.body, event.turn) {
        batch.add(BEGUN);
        batch
            .bind(agent.as_str())
            .bind(model.as_str())
            .bind(&turn.uuid().as_bytes()[..]);
    }
    let session = event.session;
    let done = match (event.turn, &event.body) {
        (Some(turn), body) if body.is_terminal() || Asked::of(body).is_some() => Some(Holder::Turn { session, turn }),
        (None, EventBody::CompactionCompleted { .. } | EventBody::CompactionFailed { .. }) => {
            Some(Holder::Session(session))
        }
        _ => None,
    };
    if let Some(holder) = done {
        release(batch, holder);
    }
}

/// What a session was charged with, as it is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Charged {
    #[sqlx(rename = "spent_tokens")]
    pub(in crate::sqlite) tokens: i64,
    #[sqlx(rename = "spent_cost")]
    pub(in crate::sqlite) cost: i64,
    #[sqlx(rename = "spent_tool_calls")]
    pub(in crate::sqlite) tool_calls: i64,
    #[sqlx(rename = "spent_steps")]
    pub(in crate::sqlite) steps: i64,
    #[sqlx(rename = "spent_ms")]
    pub(in crate::sqlite) time_ms: i64,
}

impl Charged {
    /// Adds what an event charges, where its turn's time was counted up to `counted`. Gives up to where it is counted then.
    pub(in crate::sqlite) fn add(&mut self, body: &EventBody, counted: i64) -> i64 {
        if let Some(asked) = Asked::of(body) {
            self.tokens = sum(self.tokens, kept(asked.usage.unwrap_or_default().total()));
            self.cost = sum(self.cost, asked.cost.map_or(0, |cost| kept(cost.millionths())));
        }
        self.steps += kept(steps(body));
        self.tool_calls += kept(tool_calls(body));
        let worked = body.worked_ms().map_or(0, kept).max(counted);
        self.time_ms = sum(self.time_ms, worked - counted);
        worked
    }
}

impl fmt::Display for Charged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tokens, {} millionths, {} tool calls, {} steps and {} ms",
            self.tokens, self.cost, self.tool_calls, self.steps, self.time_ms
        )
    }
}

/// The sum of what is charged already and more of it, as it is kept.
fn sum(charged: i64, more: i64) -> i64 {
    charged.saturating_add(more).min(kept(MOST))
}
