//! What orgs and sessions may spend on models, over all their turns.
//!
//! Before each model call whoever asks, a turn or a session that is summed up, holds what the call may take, and what was taken is
//! charged with the event that tells it; so of two who ask at the same time one gets the last of a budget. What is held by a call that a
//! crash ended lapses.

mod waiting;

use self::waiting::{Waiter, Waiting};
use crate::machine::{Exhausted, Warning};
use fumehood_core::{
    Time,
    id::SessionId,
    money::Money,
    name::OrgName,
    now,
    spending::{OrgBudget, SpendingLimit, Window},
    turn::{BudgetScope, StopReason},
};
use fumehood_store::{
    Store, StoreError,
    spending::{Account, Cap, Holder, Notice, Part, Reservation, Reserved, Standing},
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
    /// `tokens` or `cost`.
    pub budget: &'static str,
    /// How much was used; of money, in millionths.
    pub used: u64,
    /// How much there was.
    pub limit: u64,
    /// When it begins anew, if it does.
    pub again: Option<Time>,
}

impl std::error::Error for BudgetExhausted {}

impl fmt::Display for BudgetExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = match self.budget {
            "cost" => format!("of {}", Money::from_millionths(self.limit)),
            _ => format!("of {} tokens", self.limit),
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
    Granted,
    /// A budget is used up.
    Exhausted(Exhausted),
    /// The rest is held for calls that run.
    Taken,
}

/// What a model call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Foreseen {
    pub(crate) tokens: u64,
    pub(crate) cost: Money,
    pub(crate) time_left: Option<Duration>,
}

impl Budgets {
    pub(crate) fn new(orgs: BTreeMap<OrgName, OrgBudget>, store: Arc<dyn Store>) -> Self {
        Self {
            orgs,
            store,
            waiting: Waiting::default(),
        }
    }

    /// Refuses a turn whose org or session has nothing left to spend.
    pub(crate) async fn admit(
        &self,
        org: &OrgName,
        session: SessionId,
        limit: SpendingLimit,
    ) -> Result<Option<BudgetExhausted>, StoreError> {
        let time = now();
        let caps = self.caps(org, limit, time);
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
            budget: cap.part.as_str(),
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
        let caps = self.caps(org, SpendingLimit::default(), time);
        // Caps of the org ask nothing about a session.
        let standings = self.store.standings(org, SessionId::new(), &caps).await?;
        let share = |part: Part| caps.iter().zip(&standings).find(|(cap, _)| cap.part == part);
        Ok(Some(OrgStanding {
            per: budget.per,
            tokens: share(Part::Tokens).map(|(cap, standing)| Share {
                used: standing.used,
                held: standing.held,
                limit: cap.limit,
            }),
            cost: share(Part::Cost).map(|(cap, standing)| Share {
                used: Money::from_millionths(standing.used),
                held: Money::from_millionths(standing.held),
                limit: Money::from_millionths(cap.limit),
            }),
            resets: budget.per.end(time),
        }))
    }

    /// What limits a session, those of the org first.
    fn caps(&self, org: &OrgName, session: SpendingLimit, time: Time) -> Vec<Cap> {
        let org = self.orgs.get(org).map(|budget| {
            let since = budget.per.first_day(time);
            (Account::Org { since }, budget.limit())
        });
        org.into_iter()
            .chain([(Account::Session, session)])
            .flat_map(|(account, limit)| {
                [
                    (Part::Tokens, limit.tokens),
                    (Part::Cost, limit.cost.map(Money::millionths)),
                ]
                .into_iter()
                .filter_map(move |(part, limit)| {
                    Some(Cap {
                        account,
                        part,
                        limit: limit?,
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
        let caps = self.budgets.caps(&self.org, self.limit, time);
        if caps.is_empty() {
            return Ok((Hold::Granted, Vec::new()));
        }
        let wish = self.wish(foreseen, time);
        let reserved = self.budgets.store.reserve(&self.org, &caps, wish).await?;
        let (granted, standings) = match reserved {
            Reserved::Granted(standings) => (true, standings),
            Reserved::Refused(standings) => (false, standings),
        };
        let warnings = self.warnings(&caps, &standings).await?;
        let used_up = caps
            .iter()
            .zip(&standings)
            .find(|(cap, standing)| standing.used >= cap.limit);
        let hold = match used_up {
            _ if granted => Hold::Granted,
            Some((cap, standing)) => Hold::Exhausted(exhausted(cap, *standing)),
            None => Hold::Taken,
        };
        Ok((hold, warnings))
    }

    /// Whether there is something to be held by now, or nothing left at all: whether it's worth to try again. Writes nothing.
    pub(crate) async fn is_worth_trying(&self, foreseen: Foreseen) -> Result<bool, StoreError> {
        let time = now();
        let caps = self.budgets.caps(&self.org, self.limit, time);
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
            tokens: foreseen.tokens,
            cost: foreseen.cost,
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

const fn exhausted(cap: &Cap, standing: Standing) -> Exhausted {
    let stop_reason = match (cap.account, cap.part) {
        (Account::Org { .. }, Part::Tokens) => StopReason::OrgTokenLimit,
        (Account::Org { .. }, Part::Cost) => StopReason::OrgCostLimit,
        (Account::Session, Part::Tokens) => StopReason::SessionTokenLimit,
        (Account::Session, Part::Cost) => StopReason::SessionCostLimit,
    };
    Exhausted {
        scope: scope(cap),
        budget: cap.part.as_str(),
        used: standing.used,
        limit: cap.limit,
        stop_reason,
    }
}
