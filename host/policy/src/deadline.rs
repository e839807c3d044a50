//! When a call must be done, and who says so.
//!
//! Several set a deadline: the component's own time limit, the budgets of turn, session and org, a client, the call of the tool that makes it,
//! and the end of a removed version's time. The soonest holds; of two at the same instant the one that was there first. Whoever
//! reads the result of a call that ran into one learns whose it was, and what would change it.

use crate::quantity::Span;
use fumehood_core::{
    call::{CallError, CallErrorCode, DeadlineOwner},
    name::{ComponentName, ToolName},
};
use std::time::Instant;

/// Which setting the time limit of a call comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeLimitBy {
    /// The smaller of what the manifest asks and the grant allows.
    #[default]
    Component,
    /// The host's default: neither of them says anything.
    Default,
    /// The host's ceiling: they ask for more.
    Ceiling,
}

/// Who sets a deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetBy {
    /// The time limit of the call itself.
    TimeLimit(TimeLimitBy),
    /// The time budget of the turn.
    TurnBudget,
    /// The time budget of the session.
    SessionBudget,
    /// The time budget of the org.
    OrgBudget,
    /// The client that makes the call.
    Client,
    /// A call of this tool makes it, and ends then.
    Caller(ToolName),
    /// It runs in the background, for as long as jobs may.
    Job,
    /// The component was removed, or another version took its place.
    Drain {
        /// Which.
        component: ComponentName,
        /// How.
        gone: Gone,
    },
}

/// How a version of a component went out of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It was removed.
    Removed,
    /// Another version took its place.
    Replaced,
}

/// An instant at which a call ends, whatever it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
    allowed: Span,
    set_by: SetBy,
}

impl Deadline {
    /// The end of `allowed`, counted from `begun`.
    #[must_use]
    pub fn after(begun: Instant, allowed: Span, set_by: SetBy) -> Self {
        Self {
            at: begun + allowed.as_duration(),
            allowed,
            set_by,
        }
    }

    /// When.
    #[must_use]
    pub const fn at(&self) -> Instant {
        self.at
    }

    /// Whose it is, in a word.
    #[must_use]
    pub const fn owner(&self) -> DeadlineOwner {
        match self.set_by {
            SetBy::TimeLimit(TimeLimitBy::Component) => DeadlineOwner::TimeLimit,
            SetBy::TimeLimit(TimeLimitBy::Default) => DeadlineOwner::HostDefault,
            SetBy::TimeLimit(TimeLimitBy::Ceiling) => DeadlineOwner::HostCeiling,
            SetBy::TurnBudget => DeadlineOwner::TurnBudget,
            SetBy::SessionBudget => DeadlineOwner::SessionBudget,
            SetBy::OrgBudget => DeadlineOwner::OrgBudget,
            SetBy::Client => DeadlineOwner::Client,
            SetBy::Caller(_) => DeadlineOwner::Caller,
            SetBy::Job => DeadlineOwner::Job,
            SetBy::Drain { .. } => DeadlineOwner::Drain,
        }
    }

    /// The one that ends a call: this one, unless the other comes sooner.
    #[must_use]
    pub fn or_sooner(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.at < self.at => other,
            _ => self,
        }
    }

    /// What holds for the calls that a call of `tool` makes, if this is its own deadline and `outer` the one it was given: they end
    /// with it.
    #[must_use]
    pub fn for_calls_of(&self, tool: &ToolName, outer: Option<Self>) -> Self {
        let own = Self {
            set_by: SetBy::Caller(tool.clone()),
            ..self.clone()
        };
        match outer {
            Some(outer) => outer.or_sooner(Some(own)),
            None => own,
        }
    }

    /// The result of a call that it ended.
    #[must_use]
    pub fn error(&self) -> CallError {
        let code = match self.set_by {
            SetBy::Drain { .. } => CallErrorCode::Interrupted,
            _ => CallErrorCode::Timeout,
        };
        CallError {
            deadline: Some(self.owner()),
            ..CallError::new(code, self.words())
        }
    }

    fn words(&self) -> String {
        let allowed = self.allowed;
        match &self.set_by {
            SetBy::TimeLimit(TimeLimitBy::Component) => format!(
                "the call ran out of time: {allowed}, the component's `time` limit; raise `time` in `[limits]` of the manifest and \
                 the grant"
            ),
            SetBy::TimeLimit(TimeLimitBy::Default) => format!(
                "the call ran out of time: {allowed}, what a call gets whose component asks for no `time`; set `time` in \
                 `[limits]` of the manifest or the grant"
            ),
            SetBy::TimeLimit(TimeLimitBy::Ceiling) => format!(
                "the call ran out of time: {allowed}, the host's ceiling for every call; only the operator can raise it, with \
                 `time` in `[limits.ceiling]`"
            ),
            SetBy::TurnBudget => format!(
                "the call ran out of time: the turn's time budget of {allowed} was used up; a larger `budget.time` allows more"
            ),
            SetBy::SessionBudget => format!(
                "the call ran out of time: the session's time budget had {allowed} left, and they were used up; a new session has \
                 time, or a larger `session_budget.time` allows more"
            ),
            SetBy::OrgBudget => format!(
                "the call ran out of time: the org's time budget had {allowed} left, and they were used up; only the operator can \
                 raise it, with `time` in the org's budget"
            ),
            SetBy::Client => format!(
                "the call ran out of time: the {allowed} that the client gave it were over; call it again with a longer `time`"
            ),
            SetBy::Caller(tool) => format!(
                "the call ran out of time: the call of {tool} that made it had {allowed} in all, and they were over; make it \
                 sooner, or give {tool} more time"
            ),
            SetBy::Job => format!(
                "the job ran out of time: {allowed} since it began, the most that the host gives a call in the background; only the \
                 operator can raise it, with `time` in `[jobs]`"
            ),
            SetBy::Drain { component, gone } => {
                let gone = match gone {
                    Gone::Removed => "was removed",
                    Gone::Replaced => "was replaced by another version",
                };
                format!(
                    "the call was interrupted: its component {component} {gone} while it ran, and the {allowed} that running \
                     calls have then were over; it may have taken effect, so look before you call it again"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authority::{Authority, HostPolicy, SessionNarrowing},
        grant::Grant,
        limits::Limits,
        manifest::Manifest,
    };
    use std::time::Duration;

    fn every() -> Vec<(SetBy, DeadlineOwner, &'static str)> {
        let tool: ToolName = "outer".parse().unwrap();
        let component: ComponentName = "github".parse().unwrap();
        let drain = |gone| SetBy::Drain {
            component: component.clone(),
            gone,
        };
        vec![
            (
                SetBy::TimeLimit(TimeLimitBy::Component),
                DeadlineOwner::TimeLimit,
                "30s, the component's `time` limit",
            ),
            (
                SetBy::TimeLimit(TimeLimitBy::Default),
                DeadlineOwner::HostDefault,
                "asks for no `time`",
            ),
            (
                SetBy::TimeLimit(TimeLimitBy::Ceiling),
                DeadlineOwner::HostCeiling,
                "`[limits.ceiling]`",
            ),
            (
                SetBy::TurnBudget,
                DeadlineOwner::TurnBudget,
                "time budget of 30s was used up",
            ),
            (
                SetBy::SessionBudget,
                DeadlineOwner::SessionBudget,
                "the session's time budget had 30s left",
            ),
            (
                SetBy::OrgBudget,
                DeadlineOwner::OrgBudget,
                "the org's time budget had 30s left",
            ),
            (SetBy::Client, DeadlineOwner::Client, "30s that the client gave it"),
            (SetBy::Caller(tool), DeadlineOwner::Caller, "the call of outer"),
            (SetBy::Job, DeadlineOwner::Job, "`time` in `[jobs]`"),
            (drain(Gone::Removed), DeadlineOwner::Drain, "github was removed"),
            (drain(Gone::Replaced), DeadlineOwner::Drain, "github was replaced"),
        ]
    }

    #[test]
    fn each_winner_is_named_with_what_would_change_it() {
        let now = Instant::now();
        for (set_by, owner, words) in every() {
            let error = Deadline::after(now, Span::from_secs(30), set_by).error();
            assert_eq!(error.deadline, Some(owner));
            assert!(error.message.contains(words), "{error}");
            let code = match owner {
                DeadlineOwner::Drain => CallErrorCode::Interrupted,
                _ => CallErrorCode::Timeout,
            };
            assert_eq!(error.code, code);
        }
    }

    #[test]
    fn the_soonest_holds_and_of_two_at_once_the_first() {
        let now = Instant::now();
        let after = |secs, set_by| Deadline::after(now, Span::from_secs(secs), set_by);
        for (set_by, ..) in every() {
            let own = || after(30, SetBy::TimeLimit(TimeLimitBy::Component));
            assert_eq!(own().or_sooner(None), own());
            assert_eq!(own().or_sooner(Some(after(31, set_by.clone()))), own());
            assert_eq!(own().or_sooner(Some(after(30, set_by.clone()))), own(), "a tie");
            let sooner = after(29, set_by);
            assert_eq!(own().or_sooner(Some(sooner.clone())), sooner);
        }
    }

    #[test]
    fn a_calls_own_limit_is_its_components_the_hosts_default_or_its_ceiling() {
        let owner = |asked: Option<u64>, granted: Option<u64>| {
            let (mut manifest, mut grant) = (
                Manifest::without_requests("github".parse().unwrap()),
                Grant::everything_requested(&Manifest::without_requests("github".parse().unwrap())),
            );
            manifest.limits.time = asked.map(Span::from_secs);
            grant.limits.time = granted.map(Span::from_secs);
            let host = HostPolicy::default();
            let authority = Authority::compute(&manifest, &grant, &[], &SessionNarrowing::default(), &host);
            authority.time_limit(Instant::now()).owner()
        };
        let ceiling = Limits::default_ceilings().time.as_millis() / 1000;
        assert_eq!(owner(None, None), DeadlineOwner::HostDefault);
        assert_eq!(owner(Some(5), None), DeadlineOwner::TimeLimit);
        assert_eq!(owner(None, Some(5)), DeadlineOwner::TimeLimit);
        assert_eq!(owner(Some(ceiling + 1), Some(5)), DeadlineOwner::TimeLimit);
        assert_eq!(
            owner(Some(ceiling), None),
            DeadlineOwner::TimeLimit,
            "a tie is the component's"
        );
        assert_eq!(owner(Some(ceiling + 1), None), DeadlineOwner::HostCeiling);
        assert_eq!(owner(Some(ceiling + 1), Some(ceiling + 2)), DeadlineOwner::HostCeiling);
    }

    #[test]
    fn a_call_that_a_tool_makes_ends_with_it_and_names_who_ended_both() {
        let now = Instant::now();
        let tool: ToolName = "outer".parse().unwrap();
        let own = Deadline::after(now, Span::from_secs(5), SetBy::TimeLimit(TimeLimitBy::Component));
        let turn = |secs| Deadline::after(now, Span::from_secs(secs), SetBy::TurnBudget);
        let inner = own.for_calls_of(&tool, Some(turn(60)));
        assert_eq!(
            (inner.owner(), inner.at()),
            (DeadlineOwner::Caller, now + Duration::from_secs(5))
        );
        let inner = turn(3).for_calls_of(&tool, Some(turn(3)));
        assert_eq!(inner, turn(3), "the turn ends both");
        assert_eq!(own.for_calls_of(&tool, None).owner(), DeadlineOwner::Caller);
    }
}
