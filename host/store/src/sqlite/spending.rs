//! What is spent and held. What was spent is charged with the events that tell it, in one transaction.

mod charging;

pub(super) use charging::{Charged, Charges, project};

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
    spending::{Account, Amounts, Cap, Days, Holder, Notice, Part, Reservation, Reserved, Standing, UsageOfDay},
};
use async_trait::async_trait;
use fumehood_core::{
    id::SessionId,
    money::Money,
    name::{ModelName, OrgName},
    now,
    spending::Day,
    turn::Usage,
};
use sqlx::{Row as _, sqlite::SqliteConnection, sqlite::SqliteRow};

/// No count grows beyond this, whatever a provider says: sums of it still fit.
const MOST: u64 = 1_000_000_000_000_000;

const RELEASE: Statement = Statement::new("DELETE FROM reservations WHERE holder = ?");

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

/// A count as it is kept.
fn kept(count: u64) -> i64 {
    i64::try_from(count.min(MOST)).unwrap_or(i64::MAX)
}

/// A sum that was kept.
fn told(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// Tokens, money, calls of tools, steps and milliseconds, as a statement sums them.
type Sums = (i64, i64, i64, i64, i64);

fn amounts((tokens, cost, tool_calls, steps, time_ms): Sums) -> Amounts {
    Amounts {
        tokens: told(tokens),
        cost: Money::from_millionths(told(cost)),
        tool_calls: told(tool_calls),
        steps: told(steps),
        time_ms: told(time_ms),
    }
}

/// What was spent that counts towards the caps of an account.
async fn used(
    connection: &mut SqliteConnection,
    org: &OrgName,
    session: SessionId,
    account: Account,
) -> Result<Amounts> {
    let used: Sums =
        match account {
            Account::Org { since } => {
                sqlx::query_as(
                    "SELECT ifnull(sum(ifnull(input_tokens, 0) + ifnull(output_tokens, 0)), 0), ifnull(sum(cost), 0), \
                     ifnull(sum(tool_calls), 0), ifnull(sum(steps), 0), ifnull(sum(worked_ms), 0) \
                 FROM usage_days WHERE org = ?1 AND day >= ?2",
                )
                .bind(org.as_str())
                .bind(since.number())
                .fetch_one(connection)
                .await
            }
            Account::Session => sqlx::query_as(
                "SELECT ifnull(sum(spent_tokens), 0), ifnull(sum(spent_cost), 0), ifnull(sum(spent_tool_calls), 0), \
                     ifnull(sum(spent_steps), 0), ifnull(sum(spent_ms), 0) \
                 FROM sessions WHERE org = ?1 AND id = ?2 AND deleting IS NULL",
            )
            .bind(org.as_str())
            .bind(&session.uuid().as_bytes()[..])
            .fetch_one(connection)
            .await,
        }
        .map_err(failed)?;
    Ok(amounts(used))
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

/// What others hold of an account.
async fn held(connection: &mut SqliteConnection, asks: Asks<'_>, account: Account) -> Result<Amounts> {
    let session = match account {
        Account::Org { .. } => None,
        Account::Session => Some(asks.session.uuid().as_bytes().to_vec()),
    };
    let held: Sums = sqlx::query_as(
        "SELECT ifnull(sum(tokens), 0), ifnull(sum(cost), 0), ifnull(sum(tool_calls), 0), ifnull(sum(steps), 0), ifnull(sum(ms), 0) \
         FROM reservations WHERE org = ?1 AND until > ?3 AND holder <> ?4 AND (?2 IS NULL OR session = ?2 \
             AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = ?2))",
    )
    .bind(asks.org.as_str())
    .bind(session)
    .bind(asks.now)
    .bind(asks.holder.map(id).unwrap_or_default())
    .fetch_one(connection)
    .await
    .map_err(failed)?;
    Ok(amounts(held))
}

/// Where the caps stand, in their order. An account is looked at once for those of its caps that follow one another.
async fn standings(connection: &mut SqliteConnection, asks: Asks<'_>, caps: &[Cap]) -> Result<Vec<Standing>> {
    let mut standings = Vec::with_capacity(caps.len());
    for of_account in caps.chunk_by(|one, next| one.account == next.account) {
        let Some(Cap { account, .. }) = of_account.first() else {
            continue;
        };
        let used = used(connection, asks.org, asks.session, *account).await?;
        let held = held(connection, asks, *account).await?;
        standings.extend(of_account.iter().map(|cap| Standing {
            used: used.of(cap.part),
            held: held.of(cap.part),
        }));
    }
    Ok(standings)
}

const HOLD_FOR_TURN: &str = "INSERT INTO reservations (holder, org, session, until, tokens, cost, tool_calls, steps, ms) \
     SELECT t.id, t.org, t.session, ?4, ?5, ?6, ?7, ?8, ?9 FROM turns t WHERE t.org = ?1 AND t.session = ?2 AND t.id = ?3 \
         AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = t.session) \
     ON CONFLICT (holder) DO UPDATE SET until = excluded.until, tokens = excluded.tokens, cost = excluded.cost, \
         tool_calls = excluded.tool_calls, steps = excluded.steps, ms = excluded.ms";

const HOLD_FOR_SESSION: &str = "INSERT INTO reservations (holder, org, session, until, tokens, cost, tool_calls, steps, ms) \
     SELECT ?3, s.org, s.id, ?4, ?5, ?6, ?7, ?8, ?9 FROM sessions s WHERE s.org = ?1 AND s.id = ?2 AND s.deleting IS NULL \
     ON CONFLICT (holder) DO UPDATE SET until = excluded.until, tokens = excluded.tokens, cost = excluded.cost, \
         tool_calls = excluded.tool_calls, steps = excluded.steps, ms = excluded.ms";

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
        Holder::Turn { .. } => (HOLD_FOR_TURN, "turn"),
        Holder::Session(_) => (HOLD_FOR_SESSION, "session"),
    };
    let amounts = wish.amounts;
    // One that is foreseen to take nothing still holds the last unit.
    let least = |part| kept(amounts.of(part).max(1));
    let of_work = |part| match wish.holder {
        Holder::Turn { .. } => least(part),
        Holder::Session(_) => kept(amounts.of(part)),
    };
    let written = sqlx::query(hold)
        .bind(org.as_str())
        .bind(&wish.holder.session().uuid().as_bytes()[..])
        .bind(id(wish.holder))
        .bind(decode::to_nanos(wish.until)?)
        .bind(least(Part::Tokens))
        .bind(least(Part::Cost))
        .bind(of_work(Part::ToolCalls))
        .bind(of_work(Part::Steps))
        .bind(of_work(Part::Time))
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
        steps: count("steps")?.unwrap_or(0),
        tool_calls: count("tool_calls")?.unwrap_or(0),
        worked_ms: count("worked_ms")?.unwrap_or(0),
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
