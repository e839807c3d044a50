//! What is spent and held. What model calls took is charged with the events that tell it, in one transaction.

use super::{
    BoxFuture, SqliteStore,
    batch::{Batch, Statement},
    cursor,
    cursor::List,
    decode, failed, insert_failed, sessions,
};
use crate::{
    api::{Result, Spending, StoreError},
    faults::Point,
    record::{Page, PageRequest},
    spending::{Account, Cap, Days, Holder, Notice, Part, Reservation, Reserved, Standing, UsageOfDay},
};
use async_trait::async_trait;
use fumehood_core::{
    event::{Event, EventBody},
    id::{SessionId, TurnId},
    money::Money,
    name::{ModelName, OrgName},
    now,
    spending::Day,
    turn::Usage,
};
use sqlx::{Row as _, sqlite::SqliteConnection, sqlite::SqliteRow};

/// No count grows beyond this, whatever a provider says: sums of it still fit.
const MOST: u64 = 1_000_000_000_000_000;

/// What an event says that a model call took.
struct Spent<'a> {
    /// The model, where the event names another than the turn's own.
    model: Option<&'a ModelName>,
    usage: Option<Usage>,
    cost: Option<Money>,
}

impl<'a> Spent<'a> {
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

const BEGUN: Statement = Statement::new("UPDATE turns SET agent = ?, model = ? WHERE id = ?");
const RELEASE: Statement = Statement::new("DELETE FROM reservations WHERE holder = ?");

/// Charges what an event says was spent and lets go of what was held for it, in the transaction of the event.
pub(super) fn project(batch: &mut Batch, event: &Event) {
    if let (EventBody::TurnStarted { agent, model, .. }, Some(turn)) = (&event.body, event.turn) {
        batch.add(BEGUN);
        batch
            .bind(agent.as_str())
            .bind(model.as_str())
            .bind(&turn.uuid().as_bytes()[..]);
    }
    let spent = Spent::of(&event.body);
    if let Some(spent) = &spent {
        charge(batch, event, spent);
    }
    let session = event.session;
    let done = match (event.turn, &event.body) {
        (Some(turn), body) if spent.is_some() || body.is_terminal() => Some(Holder::Turn { session, turn }),
        (None, EventBody::CompactionCompleted { .. } | EventBody::CompactionFailed { .. }) => {
            Some(Holder::Session(session))
        }
        _ => None,
    };
    if let Some(holder) = done {
        release(batch, holder);
    }
}

fn release(batch: &mut Batch, holder: Holder) {
    batch.add(RELEASE);
    batch.bind(id(holder));
}

/// What a holder is known by.
fn id(holder: Holder) -> Vec<u8> {
    match holder {
        Holder::Turn { turn, .. } => turn.uuid().as_bytes().to_vec(),
        Holder::Session(session) => session.uuid().as_bytes().to_vec(),
    }
}

/// Who worked it is the turn's to tell; a session that sums itself up has its agent to tell.
const CHARGE_DAY: Statement = Statement::new(
    "INSERT INTO usage_days (org, day, agent, model, calls, unmeasured, \
         input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, cost) \
     SELECT s.org, ?, ifnull(t.agent, s.agent), ifnull(?, ifnull(t.model, '')), 1, ?, ?, ?, ?, ?, ?, ? \
         FROM sessions s LEFT JOIN turns t ON t.session = s.id AND t.id = ? WHERE s.id = ? \
     ON CONFLICT (org, day, agent, model) DO UPDATE SET \
         calls = calls + 1, unmeasured = unmeasured + excluded.unmeasured, \
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
const SUMS: usize = 6;

const CHARGE_SESSION: Statement = Statement::new(
    "UPDATE sessions SET spent_tokens = min(spent_tokens + ?, ?), spent_cost = min(spent_cost + ?, ?) WHERE id = ?",
);

fn charge(batch: &mut Batch, event: &Event, spent: &Spent<'_>) {
    let count = |tokens: Option<u64>| tokens.map(kept);
    let usage = spent.usage.unwrap_or_default();
    let cost = spent.cost.map(|cost| kept(cost.millionths()));
    let (session, turn) = (event.session.uuid(), event.turn.map(TurnId::uuid));
    batch.add(CHARGE_DAY);
    batch
        .bind(Day::of(event.time).number())
        .bind(spent.model.map(ModelName::as_str))
        .bind(!spent.usage.is_some_and(Usage::is_whole))
        .bind(count(usage.input_tokens))
        .bind(count(usage.output_tokens))
        .bind(count(usage.cached_input_tokens))
        .bind(count(usage.cache_write_tokens))
        .bind(count(usage.reasoning_tokens))
        .bind(cost)
        .bind(turn.as_ref().map(|turn| &turn.as_bytes()[..]))
        .bind(&session.as_bytes()[..]);
    for _ in 0..SUMS {
        batch.bind(kept(MOST));
    }
    batch.add(CHARGE_SESSION);
    batch
        .bind(kept(usage.total()))
        .bind(kept(MOST))
        .bind(cost.unwrap_or(0))
        .bind(kept(MOST))
        .bind(&session.as_bytes()[..]);
}

/// What an event charges its session with, as it is kept.
pub(super) struct Charged {
    pub(super) tokens: i64,
    pub(super) cost: i64,
}

/// What an event charges its session with, if it tells a model call.
pub(super) fn spent(body: &EventBody) -> Option<Charged> {
    let spent = Spent::of(body)?;
    Some(Charged {
        tokens: kept(spent.usage.unwrap_or_default().total()),
        cost: spent.cost.map_or(0, |cost| kept(cost.millionths())),
    })
}

/// The sum of what is charged already and more of it, as it is kept.
pub(super) fn sum(charged: i64, more: i64) -> i64 {
    charged.saturating_add(more).min(kept(MOST))
}

/// A count as it is kept.
fn kept(count: u64) -> i64 {
    i64::try_from(count.min(MOST)).unwrap_or(i64::MAX)
}

/// A sum that was kept.
fn told(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// What was spent that counts towards a cap.
async fn used(connection: &mut SqliteConnection, org: &OrgName, session: SessionId, cap: &Cap) -> Result<u64> {
    let used: i64 = match cap.account {
        Account::Org { since } => {
            let sum = match cap.part {
                Part::Tokens => {
                    "SELECT ifnull(sum(ifnull(input_tokens, 0) + ifnull(output_tokens, 0)), 0) FROM usage_days \
                     WHERE org = ?1 AND day >= ?2"
                }
                Part::Cost => "SELECT ifnull(sum(cost), 0) FROM usage_days WHERE org = ?1 AND day >= ?2",
            };
            sqlx::query_scalar(sum)
                .bind(org.as_str())
                .bind(since.number())
                .fetch_one(connection)
                .await
        }
        Account::Session => {
            let sum = match cap.part {
                Part::Tokens => {
                    "SELECT ifnull(sum(spent_tokens), 0) FROM sessions WHERE org = ?1 AND id = ?2 AND deleting IS NULL"
                }
                Part::Cost => {
                    "SELECT ifnull(sum(spent_cost), 0) FROM sessions WHERE org = ?1 AND id = ?2 AND deleting IS NULL"
                }
            };
            sqlx::query_scalar(sum)
                .bind(org.as_str())
                .bind(&session.uuid().as_bytes()[..])
                .fetch_one(connection)
                .await
        }
    }
    .map_err(failed)?;
    Ok(told(used))
}

/// Who asks what others hold.
#[derive(Clone, Copy)]
struct Asks<'a> {
    org: &'a OrgName,
    session: SessionId,
    /// Whose own reservation does not count.
    holder: Option<Holder>,
    now: i64,
}

impl<'a> Asks<'a> {
    const fn for_wish(org: &'a OrgName, wish: Reservation, now: i64) -> Self {
        Self {
            org,
            session: wish.holder.session(),
            holder: Some(wish.holder),
            now,
        }
    }
}

async fn held(connection: &mut SqliteConnection, asks: Asks<'_>, cap: &Cap) -> Result<u64> {
    let sum = match cap.part {
        Part::Tokens => {
            "SELECT ifnull(sum(tokens), 0) FROM reservations \
             WHERE org = ?1 AND until > ?3 AND holder <> ?4 AND (?2 IS NULL OR session = ?2 \
                 AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = ?2))"
        }
        Part::Cost => {
            "SELECT ifnull(sum(cost), 0) FROM reservations \
             WHERE org = ?1 AND until > ?3 AND holder <> ?4 AND (?2 IS NULL OR session = ?2 \
                 AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = ?2))"
        }
    };
    let session = match cap.account {
        Account::Org { .. } => None,
        Account::Session => Some(asks.session.uuid().as_bytes().to_vec()),
    };
    let held: i64 = sqlx::query_scalar(sum)
        .bind(asks.org.as_str())
        .bind(session)
        .bind(asks.now)
        .bind(asks.holder.map(id).unwrap_or_default())
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    Ok(told(held))
}

async fn standings(connection: &mut SqliteConnection, asks: Asks<'_>, caps: &[Cap]) -> Result<Vec<Standing>> {
    let mut standings = Vec::with_capacity(caps.len());
    for cap in caps {
        standings.push(Standing {
            used: used(connection, asks.org, asks.session, cap).await?,
            held: held(connection, asks, cap).await?,
        });
    }
    Ok(standings)
}

/// Decides and holds, inside a transaction: there is one writer, so nobody decides meanwhile.
// THREAT[T-org-budget-race]
async fn reserve(
    connection: &mut SqliteConnection,
    org: &OrgName,
    caps: &[Cap],
    wish: Reservation,
) -> Result<Reserved> {
    let now = decode::to_nanos(now())?;
    sqlx::query("DELETE FROM reservations WHERE org = ?1 AND until <= ?2")
        .bind(org.as_str())
        .bind(now)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    let asks = Asks::for_wish(org, wish, now);
    let standings = standings(connection, asks, caps).await?;
    let mut stand = caps.iter().zip(&standings);
    if !stand.all(|(cap, standing)| standing.leaves_something_of(cap)) {
        return Ok(Reserved::Refused(standings));
    }
    let (hold, what) = match wish.holder {
        Holder::Turn { .. } => (
            "INSERT INTO reservations (holder, org, session, tokens, cost, until) \
             SELECT t.id, t.org, t.session, ?4, ?5, ?6 FROM turns t WHERE t.org = ?1 AND t.session = ?2 AND t.id = ?3 \
                 AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = t.session) \
             ON CONFLICT (holder) DO UPDATE SET tokens = excluded.tokens, cost = excluded.cost, until = excluded.until",
            "turn",
        ),
        Holder::Session(_) => (
            "INSERT INTO reservations (holder, org, session, tokens, cost, until) \
             SELECT ?3, s.org, s.id, ?4, ?5, ?6 FROM sessions s WHERE s.org = ?1 AND s.id = ?2 AND s.deleting IS NULL \
             ON CONFLICT (holder) DO UPDATE SET tokens = excluded.tokens, cost = excluded.cost, until = excluded.until",
            "session",
        ),
    };
    let written = sqlx::query(hold)
        .bind(org.as_str())
        .bind(&wish.holder.session().uuid().as_bytes()[..])
        .bind(id(wish.holder))
        // One that is foreseen to take nothing still holds the last unit.
        .bind(kept(wish.tokens.max(1)))
        .bind(kept(wish.cost.millionths().max(1)))
        .bind(decode::to_nanos(wish.until)?)
        .execute(connection)
        .await
        .map_err(failed)?;
    match written.rows_affected() {
        0 => Err(StoreError::Gone { what }),
        _ => Ok(Reserved::Granted(standings)),
    }
}

async fn tell_once(connection: &mut SqliteConnection, org: &OrgName, notice: Notice) -> Result<bool> {
    let (session, since) = match notice.cap.account {
        Account::Org { since } => (None, since.number()),
        Account::Session => {
            if sessions::standing(connection, org, notice.session).await?.is_none() {
                return Err(StoreError::Gone { what: "session" });
            }
            (Some(notice.session.uuid().as_bytes().to_vec()), 0)
        }
    };
    // What was told of another window or another limit is told again of this one.
    let written = sqlx::query(
        "INSERT INTO budgets_told (org, session, since, budget, most, percent) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT (org, ifnull(session, x''), budget) \
             DO UPDATE SET since = excluded.since, most = excluded.most, percent = excluded.percent \
             WHERE since <> excluded.since OR most <> excluded.most OR percent < excluded.percent",
    )
    .bind(org.as_str())
    .bind(session)
    .bind(since)
    .bind(notice.cap.part.as_str())
    .bind(kept(notice.cap.limit))
    .bind(i64::from(notice.percent))
    .execute(connection)
    .await
    .map_err(|error| insert_failed(error, "session", || "the notice".into()))?;
    Ok(written.rows_affected() > 0)
}

fn row(row: &SqliteRow) -> Result<UsageOfDay> {
    let get = |column: &str| row.try_get::<Option<i64>, _>(column).map_err(failed);
    let count = |column: &str| Ok::<_, StoreError>(get(column)?.map(told));
    let text = |column: &str| row.try_get::<String, _>(column).map_err(failed);
    let (agent, model) = (text("agent")?, text("model")?);
    let day = get("day")?.and_then(Day::from_number);
    Ok(UsageOfDay {
        day: day.ok_or_else(|| decode::corrupt("a day"))?,
        agent: (!agent.is_empty())
            .then(|| decode::name(agent, "an agent's name"))
            .transpose()?,
        model: (!model.is_empty())
            .then(|| decode::name(model, "a model's name"))
            .transpose()?,
        calls: count("calls")?.unwrap_or(0),
        unmeasured_calls: count("unmeasured")?.unwrap_or(0),
        usage: Usage {
            input_tokens: count("input_tokens")?,
            output_tokens: count("output_tokens")?,
            cached_input_tokens: count("cached_input_tokens")?,
            cache_write_tokens: count("cache_write_tokens")?,
            reasoning_tokens: count("reasoning_tokens")?,
        },
        cost: count("cost")?.map(Money::from_millionths),
    })
}

#[async_trait]
impl Spending for SqliteStore {
    async fn reserve(&self, org: &OrgName, caps: &[Cap], wish: Reservation) -> Result<Reserved> {
        let (org, caps) = (org.clone(), caps.to_vec());
        self.write(
            Point::SpendingReserve,
            move |connection| -> BoxFuture<'_, Result<Reserved>> {
                Box::pin(async move { reserve(connection, &org, &caps, wish).await })
            },
        )
        .await
    }

    async fn release(&self, holder: Holder) -> Result<()> {
        self.write(Point::SpendingRelease, move |connection| {
            Box::pin(async move {
                let mut batch = Batch::default();
                release(&mut batch, holder);
                batch.run(connection).await.map(drop)
            })
        })
        .await
    }

    async fn standings_for(&self, org: &OrgName, caps: &[Cap], wish: Reservation) -> Result<Vec<Standing>> {
        let asks = Asks::for_wish(org, wish, decode::to_nanos(now())?);
        let mut connection = self.readers().acquire().await.map_err(failed)?;
        standings(&mut connection, asks, caps).await
    }

    async fn standings(&self, org: &OrgName, session: SessionId, caps: &[Cap]) -> Result<Vec<Standing>> {
        let asks = Asks {
            org,
            session,
            holder: None,
            now: decode::to_nanos(now())?,
        };
        let mut connection = self.readers().acquire().await.map_err(failed)?;
        standings(&mut connection, asks, caps).await
    }

    async fn tell_once(&self, org: &OrgName, notice: Notice) -> Result<bool> {
        let org = org.clone();
        self.write(Point::SpendingTell, move |connection| -> BoxFuture<'_, Result<bool>> {
            Box::pin(async move { tell_once(connection, &org, notice).await })
        })
        .await
    }

    async fn usage(&self, org: &OrgName, days: Days, page: &PageRequest) -> Result<Page<UsageOfDay>> {
        let limit = cursor::limit(page);
        let place: Option<(i64, String, String)> = cursor::place(page, List::Usage)?;
        let (day, agent, model) = place.unwrap_or((i64::MAX, String::new(), String::new()));
        let rows = sqlx::query(
            "SELECT * FROM usage_days WHERE org = ?1 AND day BETWEEN ?2 AND ?3 \
             AND (day < ?4 OR (day = ?4 AND (agent, model) > (?5, ?6))) ORDER BY day DESC, agent, model LIMIT ?7",
        )
        .bind(org.as_str())
        .bind(days.from.number())
        .bind(days.to.number())
        .bind(day)
        .bind(agent)
        .bind(model)
        .bind(i64::from(limit) + 1)
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        let items = rows.iter().map(row).collect::<Result<_>>()?;
        cursor::page(items, limit, List::Usage, |last: &UsageOfDay| {
            let text = |name: Option<&str>| name.unwrap_or_default().to_owned();
            (
                last.day.number(),
                text(last.agent.as_ref().map(fumehood_core::name::AgentName::as_str)),
                text(last.model.as_ref().map(ModelName::as_str)),
            )
        })
    }
}
