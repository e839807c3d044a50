//! What orgs and sessions may spend, over all their turns.
//!
//! Before each model call whoever asks, a turn or a session that is summed up, holds what the call and what follows from it may take, and
//! what was taken is charged with the event that tells it; so of two who ask at the same time one gets the last of a budget. What is held
//! by a call that a crash ended lapses. A session that is summed up takes no step, calls no tool, and counts for no time.

mod waiting;

use self::waiting::{Waiter, Waiting};
use crate::machine::{Exhausted, Warning};
use fumehood_core::{
    Time,
    id::SessionId,
    money::Money,
    name::OrgName,
    now,
    spending::Window,
    turn::{BudgetScope, StopReason},
};
use fumehood_policy::{
    quantity::Span,
    spending::{OrgBudget, SpendingLimit},
};
use fumehood_store::{
    Store, StoreError,
    spending::{Account, Amounts, Cap, Holder, Notice, Part, Reservation, Reserved, Standing},
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

/// When most of a budget is used, it is told: in percent.
const TOLD_AT: [u8; 2] = [100, 80];
/// How long what is held counts beyond the turn's time budget, or at all where it has none.
const LAPSE_MARGIN: Duration = Duration::from_secs(60);
const LAPSE_WITHOUT_DEADLINE: Duration = Duration::from_hours(1);
const LONGEST_LAPSE: Duration = Duration::from_hours(24);

/// The budgets of all orgs.
pub(crate) struct Budgets {
    orgs: BTreeMap<OrgName, OrgBudget>,
    store: Arc<dyn Store>,
    /// Those in this process who wait until what others hold is let go.
    waiting: Waiting,
}

/// A budget that a new turn finds used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetExhausted {
    /// Whose.
    pub scope: BudgetScope,
    /// Of what.
    pub part: Part,
    /// How much was used; of money, in millionths, and of time, in milliseconds.
    pub used: u64,
    /// How much there was.
    pub limit: u64,
    /// When it begins anew, if it does.
    pub again: Option<Time>,
}

impl std::error::Error for BudgetExhausted {}

impl fmt::Display for BudgetExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = match self.part {
            Part::Tokens => format!("of {} tokens", self.limit),
            Part::Cost => format!("of {}", Money::from_millionths(self.limit)),
            Part::ToolCalls => format!("of {} tool calls", self.limit),
            Part::Steps => format!("of {} steps", self.limit),
            Part::Time => format!("of {} of work", Span::from_millis(self.limit)),
        };
        match (self.scope, self.again) {
            (BudgetScope::Org, Some(again)) => write!(
                f,
                "the org's budget {limit} is used up; it begins anew at {}",
                again.format("%Y-%m-%dT%H:%M:%SZ")
            ),
            _ => write!(f, "the session's budget {limit} is used up; begin a new session"),
        }
    }
}

/// Where an org's budget stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OrgStanding {
    /// The window in which it counts.
    pub per: Window,
    /// Tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Share<u64>>,
    /// Money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Share<Money>>,
    /// Calls of tools that models ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Share<u64>>,
    /// Steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<Share<u64>>,
    /// For how long turns are worked, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<Share<u64>>,
    /// When the next window begins.
    pub resets: Time,
}

/// How much of a part of a budget is used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share<T> {
    /// What is spent.
    pub used: T,
    /// What is held for model calls that run.
    pub held: T,
    /// What may be spent.
    pub limit: T,
}

/// What one turn, or a session without one, may spend of its org's and its session's budgets.
pub(crate) struct Purse {
    budgets: Arc<Budgets>,
    org: OrgName,
    holder: Holder,
    limit: SpendingLimit,
    told: Vec<(Cap, u8)>,
}

/// What became of the wish to hold something.
pub(crate) enum Hold {
    /// It is held.
    Granted {
        /// How long the turn may still be worked, where a budget says so: the least of them.
        time: Option<TimeLeft>,
    },
    /// A budget is used up that ends a turn gracefully.
    Exhausted(Exhausted),
    /// A budget of time is used up.
    TimeIsUp(TimeLeft),
    /// The rest is held for calls that run.
    Taken,
}

/// What is left of a budget of time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLeft {
    cap: Cap,
    /// What is not spent.
    pub(crate) left: Duration,
}

impl TimeLeft {
    /// Whose budget it is.
    pub(crate) const fn scope(&self) -> BudgetScope {
        scope(&self.cap)
    }

    /// How much there is in all, in milliseconds.
    pub(crate) const fn limit_ms(&self) -> u64 {
        self.cap.limit
    }
}

/// What a model call, and what follows from it, may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Foreseen {
    pub(crate) amounts: Amounts,
    /// For how long the turn was worked that is not counted yet.
    pub(crate) uncounted: Duration,
    pub(crate) time_left: Option<Duration>,
}

/// For what something is to be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A turn.
    Turn,
    /// A summary that is made while no turn is open.
    Summary,
}

impl Purpose {
    /// What counts towards it.
    const fn parts(self) -> &'static [Part] {
        match self {
            Self::Turn => &[Part::Tokens, Part::Cost, Part::ToolCalls, Part::Steps, Part::Time],
            Self::Summary => &[Part::Tokens, Part::Cost],
        }
    }
}

impl Budgets {
    pub(crate) fn new(orgs: BTreeMap<OrgName, OrgBudget>, store: Arc<dyn Store>) -> Self {
        Self {
            orgs,
            store,
            waiting: Waiting::default(),
        }
    }

    /// Refuses what is to be done where the org or the session has nothing left to spend on it.
    pub(crate) async fn admit(
        &self,
        org: &OrgName,
        session: SessionId,
        limit: SpendingLimit,
        purpose: Purpose,
    ) -> Result<Option<BudgetExhausted>, StoreError> {
        let time = now();
        let caps = self.caps(org, limit, purpose, time);
        if caps.is_empty() {
            return Ok(None);
        }
        let standings = self.store.standings(org, session, &caps).await?;
        let used_up = caps
            .iter()
            .zip(standings)
            .find(|(cap, standing)| standing.used >= cap.limit);
        Ok(used_up.map(|(cap, standing)| BudgetExhausted {
            scope: scope(cap),
            part: cap.part,
            used: standing.used,
            limit: cap.limit,
            again: match cap.account {
                Account::Org { .. } => self.orgs.get(org).map(|budget| budget.per.end(time)),
                Account::Session => None,
            },
        }))
    }

    /// Where the org's budget stands, if it has one.
    pub(crate) async fn standing(&self, org: &OrgName) -> Result<Option<OrgStanding>, StoreError> {
        let Some(budget) = self.orgs.get(org) else {
            return Ok(None);
        };
        let time = now();
        let caps = self.caps(org, SpendingLimit::default(), Purpose::Turn, time);
        // Caps of the org ask nothing about a session.
        let standings = self.store.standings(org, SessionId::new(), &caps).await?;
        let share = |part: Part| {
            let mut all = caps.iter().zip(&standings);
            all.find(|(cap, _)| cap.part == part).map(|(cap, standing)| Share {
                used: standing.used,
                held: standing.held,
                limit: cap.limit,
            })
        };
        Ok(Some(OrgStanding {
            per: budget.per,
            tokens: share(Part::Tokens),
            cost: share(Part::Cost).map(|share| Share {
                used: Money::from_millionths(share.used),
                held: Money::from_millionths(share.held),
                limit: Money::from_millionths(share.limit),
            }),
            tool_calls: share(Part::ToolCalls),
            steps: share(Part::Steps),
            time_ms: share(Part::Time),
            resets: budget.per.end(time),
        }))
    }

    /// What limits a session in what it is to do, those of the org first.
    fn caps(&self, org: &OrgName, session: SpendingLimit, purpose: Purpose, time: Time) -> Vec<Cap> {
        let org = self.orgs.get(org).map(|budget| {
            let since = budget.per.first_day(time);
            (Account::Org { since }, budget.limit())
        });
        org.into_iter()
            .chain([(Account::Session, session)])
            .flat_map(|(account, limit)| {
                purpose.parts().iter().filter_map(move |part| {
                    Some(Cap {
                        account,
                        part: *part,
                        limit: limit_of(&limit, *part)?,
                    })
                })
            })
            .collect()
    }
}

impl Purse {
    pub(crate) fn new(budgets: Arc<Budgets>, org: OrgName, holder: Holder, limit: SpendingLimit) -> Self {
        Self {
            budgets,
            org,
            holder,
            limit,
            told: Vec::new(),
        }
    }

    /// Whether anything limits what may be spent.
    pub(crate) fn has_limits(&self) -> bool {
        self.budgets.orgs.contains_key(&self.org) || self.limit != SpendingLimit::default()
    }

    /// Tells those who wait that something is held no more.
    pub(crate) fn let_go(&self) {
        self.budgets.waiting.let_go(&self.org);
    }

    /// One more who waits until something is held no more.
    pub(crate) fn wait(&self) -> Waiter {
        self.budgets.waiting.join(&self.org)
    }

    /// Tries to hold what a call may take. Says what has to be told of the budgets then; to be told before anything else.
    // THREAT[T-org-budget-race]: nothing is asked of a model that nobody has anything left to pay for.
    pub(crate) async fn hold(&mut self, foreseen: Foreseen) -> Result<(Hold, Vec<Warning>), StoreError> {
        let time = now();
        let caps = self.caps(time);
        if caps.is_empty() {
            return Ok((Hold::Granted { time: None }, Vec::new()));
        }
        let wish = self.wish(foreseen, time);
        let reserved = self.budgets.store.reserve(&self.org, &caps, wish).await?;
        let (granted, mut standings) = match reserved {
            Reserved::Granted(standings) => (true, standings),
            Reserved::Refused(standings) => (false, standings),
        };
        count_too(foreseen.uncounted, &caps, &mut standings);
        let warnings = self.warnings(&caps, &standings).await?;
        let mut stand = caps.iter().zip(&standings);
        let used_up = stand.clone().find(|(cap, standing)| standing.used >= cap.limit);
        let hold = match used_up {
            Some((cap, standing)) => match stop_reason(cap) {
                Some(stop_reason) => Hold::Exhausted(Exhausted {
                    scope: scope(cap),
                    budget: cap.part.as_str(),
                    used: standing.used,
                    limit: cap.limit,
                    stop_reason,
                }),
                None => Hold::TimeIsUp(TimeLeft {
                    cap: *cap,
                    left: Duration::ZERO,
                }),
            },
            None if granted => Hold::Granted {
                time: least_time(&mut stand),
            },
            None => Hold::Taken,
        };
        Ok((hold, warnings))
    }

    /// How many of the calls that a step has just asked for are beyond a budget, and whose budget that is. They are charged already.
    pub(crate) async fn calls_beyond(&self) -> Result<Option<(BudgetScope, u64)>, StoreError> {
        let mut caps = self.caps(now());
        caps.retain(|cap| cap.part == Part::ToolCalls);
        if caps.is_empty() {
            return Ok(None);
        }
        let session = self.holder.session();
        let standings = self.budgets.store.standings(&self.org, session, &caps).await?;
        let beyond = caps.iter().zip(standings).map(|(cap, standing)| {
            let beyond = standing.used.saturating_sub(cap.limit);
            (scope(cap), beyond)
        });
        Ok(beyond
            .max_by_key(|(_, beyond)| *beyond)
            .filter(|(_, beyond)| *beyond > 0))
    }

    /// How long the turn may be worked beside what of it is not counted yet, where a budget says so: the least of them.
    pub(crate) async fn time_left(&self, uncounted: Duration) -> Result<Option<TimeLeft>, StoreError> {
        let mut caps = self.caps(now());
        caps.retain(|cap| cap.part == Part::Time);
        if caps.is_empty() {
            return Ok(None);
        }
        let session = self.holder.session();
        let mut standings = self.budgets.store.standings(&self.org, session, &caps).await?;
        count_too(uncounted, &caps, &mut standings);
        Ok(least_time(&mut caps.iter().zip(&standings)))
    }

    /// What is to be told of a budget of time that is used up, unless it was.
    pub(crate) async fn time_is_up(&mut self, time: TimeLeft) -> Result<Vec<Warning>, StoreError> {
        let standing = Standing {
            used: time.limit_ms(),
            held: 0,
        };
        self.warnings(&[time.cap], &[standing]).await
    }

    fn caps(&self, time: Time) -> Vec<Cap> {
        let purpose = match self.holder {
            Holder::Turn { .. } => Purpose::Turn,
            Holder::Session(_) => Purpose::Summary,
        };
        self.budgets.caps(&self.org, self.limit, purpose, time)
    }

    /// Whether there is something to be held by now, or nothing left at all: whether it's worth to try again. Writes nothing.
    pub(crate) async fn is_worth_trying(&self, foreseen: Foreseen) -> Result<bool, StoreError> {
        let time = now();
        let caps = self.caps(time);
        let wish = self.wish(foreseen, time);
        let standings = self.budgets.store.standings_for(&self.org, &caps, wish).await?;
        let mut all = caps.iter().zip(&standings);
        let is_used_up = all.clone().any(|(cap, standing)| standing.used >= cap.limit);
        Ok(is_used_up || all.all(|(cap, standing)| standing.leaves_something_of(cap)))
    }

    fn wish(&self, foreseen: Foreseen, time: Time) -> Reservation {
        let lapse = foreseen
            .time_left
            .map_or(LAPSE_WITHOUT_DEADLINE, |left| left.saturating_add(LAPSE_MARGIN));
        Reservation {
            holder: self.holder,
            amounts: foreseen.amounts,
            until: time + lapse.min(LONGEST_LAPSE),
        }
    }

    /// What is due to be told, once for each share of each budget.
    async fn warnings(&mut self, caps: &[Cap], standings: &[Standing]) -> Result<Vec<Warning>, StoreError> {
        let mut warnings = Vec::new();
        for (cap, standing) in caps.iter().zip(standings) {
            let Some(percent) = TOLD_AT
                .into_iter()
                .find(|percent| u128::from(standing.used) * 100 >= u128::from(cap.limit) * u128::from(*percent))
            else {
                continue;
            };
            if self.told.contains(&(*cap, percent)) {
                continue;
            }
            let notice = Notice {
                session: self.holder.session(),
                cap: *cap,
                percent,
            };
            if self.budgets.store.tell_once(&self.org, notice).await? {
                warnings.push(Warning {
                    scope: scope(cap),
                    budget: cap.part.as_str(),
                    percent,
                    used: standing.used,
                    limit: cap.limit,
                });
            }
            self.told.push((*cap, percent));
        }
        Ok(warnings)
    }
}

const fn scope(cap: &Cap) -> BudgetScope {
    match cap.account {
        Account::Org { .. } => BudgetScope::Org,
        Account::Session => BudgetScope::Session,
    }
}

fn limit_of(limit: &SpendingLimit, part: Part) -> Option<u64> {
    match part {
        Part::Tokens => limit.tokens,
        Part::Cost => limit.cost.map(Money::millionths),
        Part::ToolCalls => limit.tool_calls,
        Part::Steps => limit.steps,
        Part::Time => limit.time.map(Span::as_millis),
    }
}

/// Adds time that is worked and not counted yet.
fn count_too(uncounted: Duration, caps: &[Cap], standings: &mut [Standing]) {
    let uncounted = u64::try_from(uncounted.as_millis()).unwrap_or(u64::MAX);
    for (cap, standing) in caps.iter().zip(standings) {
        if cap.part == Part::Time {
            standing.used = standing.used.saturating_add(uncounted);
        }
    }
}

/// What is left of the budgets of time, where there is less than of the others.
fn least_time<'s>(stand: &mut dyn Iterator<Item = (&'s Cap, &'s Standing)>) -> Option<TimeLeft> {
    let of_time = stand.filter(|(cap, _)| cap.part == Part::Time);
    of_time
        .map(|(cap, standing)| TimeLeft {
            cap: *cap,
            left: Duration::from_millis(cap.limit.saturating_sub(standing.used)),
        })
        .min_by_key(|time| time.left)
}

/// What a turn ends with that a budget ends gracefully; one of time does not.
const fn stop_reason(cap: &Cap) -> Option<StopReason> {
    Some(match (cap.account, cap.part) {
        (Account::Org { .. }, Part::Tokens) => StopReason::OrgTokenLimit,
        (Account::Org { .. }, Part::Cost) => StopReason::OrgCostLimit,
        (Account::Org { .. }, Part::ToolCalls) => StopReason::OrgToolCallLimit,
        (Account::Org { .. }, Part::Steps) => StopReason::OrgStepLimit,
        (Account::Session, Part::Tokens) => StopReason::SessionTokenLimit,
        (Account::Session, Part::Cost) => StopReason::SessionCostLimit,
        (Account::Session, Part::ToolCalls) => StopReason::SessionToolCallLimit,
        (Account::Session, Part::Steps) => StopReason::SessionStepLimit,
        (_, Part::Time) => return None,
    })
}
