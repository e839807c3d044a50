//! When a turn's time is up: by its own budget of time, or by what is left of its session's or its org's.
//!
//! The turn's own is known when it begins. What is left of the others is looked at before each step, so turns that run at the same time
//! may pass them together by what each of them takes beyond what it had foreseen.

use super::Driver;
use crate::{
    budgets::TimeLeft,
    machine::{TurnMachine, Warning},
};
use fumehood_core::{
    event::{EventBody, NewEvent},
    turn::{BudgetScope, TurnError, TurnErrorCode, TurnStatus},
};
use fumehood_policy::{
    deadline::{Deadline, SetBy},
    quantity::Span,
};
use fumehood_store::StoreError;
use std::time::Duration;
use tokio::time::Instant;

impl Driver {
    /// The time budget counts over all hosts that have worked the turn.
    pub(super) fn arm_deadline(&mut self) {
        let time = self.recorder.machine.budget().time_ms;
        self.deadline = time.map(|ms| Deadline::after(self.begun.into_std(), Span::from_millis(ms), SetBy::TurnBudget));
        self.shared_time = None;
    }

    /// A turn that was begun before goes on in what is left of the time of its session and its org, too; or ends before it does
    /// anything.
    pub(super) async fn go_on_in_time(&mut self) -> Result<(), StoreError> {
        let machine = &self.recorder.machine;
        if machine.agent().is_none() || machine.status() != TurnStatus::Running {
            return Ok(());
        }
        let time = self.plan.purse.time_left(self.recorder.uncounted()).await?;
        self.share_time(time);
        match self.time_left() {
            Some(Duration::ZERO) => self.end_out_of_time().await,
            _ => Ok(()),
        }
    }

    /// The turn ends when so much more was worked, unless its own time is up sooner.
    pub(super) fn share_time(&mut self, time: Option<TimeLeft>) {
        self.arm_deadline();
        let Some(time) = time else { return };
        let allowed = Span::from_millis(u64::try_from(time.left.as_millis()).unwrap_or(u64::MAX));
        let set_by = match time.scope() {
            BudgetScope::Org => SetBy::OrgBudget,
            BudgetScope::Session | BudgetScope::Turn => SetBy::SessionBudget,
        };
        let shared = Deadline::after(Instant::now().into_std(), allowed, set_by);
        if self.deadline.as_ref().is_none_or(|own| shared.at() < own.at()) {
            self.deadline = Some(shared);
            self.shared_time = Some(time);
        }
    }

    /// What is left of the turn's time, where that is limited.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let deadline = self.deadline.as_ref()?;
        Some(Instant::from(deadline.at()).saturating_duration_since(Instant::now()))
    }

    /// Ends the turn, whose time is up.
    pub(super) async fn end_out_of_time(&mut self) -> Result<(), StoreError> {
        // While the turn waits nobody looks at what is used.
        let warnings = match self.shared_time {
            Some(time) => self.plan.purse.time_is_up(time).await?,
            None => {
                let untold = self.recorder.machine.untold(self.begun.elapsed());
                untold.into_iter().filter(|warning| warning.budget == "time").collect()
            }
        };
        let (scope, limit_ms) = match self.shared_time {
            Some(time) => (time.scope(), time.limit_ms()),
            None => (
                BudgetScope::Turn,
                self.recorder.machine.budget().time_ms.unwrap_or_default(),
            ),
        };
        let deadline = self.deadline.clone();
        self.end(|machine| out_of_time(machine, (scope, limit_ms), &warnings, deadline.as_ref()))
            .await
    }
}

fn out_of_time(
    machine: &TurnMachine,
    (scope, limit_ms): (BudgetScope, u64),
    warnings: &[Warning],
    deadline: Option<&Deadline>,
) -> Vec<NewEvent> {
    let exhausted = EventBody::BudgetExhausted {
        scope,
        budget: "time".into(),
        used: limit_ms,
        limit: limit_ms,
    };
    let error = TurnError {
        code: TurnErrorCode::TimeLimit,
        message: words(scope, Span::from_millis(limit_ms)),
    };
    let mut events: Vec<_> = warnings.iter().map(|warning| machine.warning(*warning)).collect();
    events.push(machine.event(exhausted));
    events.extend(match deadline {
        Some(deadline) => machine.failure_of_calls(error, &deadline.error()),
        None => machine.failure(error),
    });
    events
}

fn words(scope: BudgetScope, limit: Span) -> String {
    match scope {
        BudgetScope::Turn => {
            format!("the turn used up its time budget of {limit}; a larger `budget.time` allows more")
        }
        BudgetScope::Session => format!(
            "the session's time budget of {limit} is used up; begin a new session, or raise `time` in the agent's `session_budget`"
        ),
        BudgetScope::Org => format!(
            "the org's time budget of {limit} is used up; only the operator can raise it, with `time` in the org's budget"
        ),
    }
}
