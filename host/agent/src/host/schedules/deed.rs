//! What a schedule does at one of its times: a turn in its session, or a session and a turn.

use super::super::{Host, HostError, by_client};
use crate::{budgets::Purpose, redact};
use fumehood_core::{
    Time,
    event::{EventBody, NewEvent, Source},
    id::{SessionId, TurnId},
    name::AgentName,
    now,
};
use fumehood_egress::LeakGuard;
use fumehood_policy::{authority::SessionNarrowing, spending::SpendingLimit};
use fumehood_store::{
    record::{IfBusy, NewTurn, Session},
    schedules::{Deed, Fired, Firing, Overlap, Place, Schedule, SkipReason, Task},
};
use serde_json::Value;

/// Takes the values of secrets out of it.
pub(super) fn redact_task(guard: &LeakGuard, task: &mut Task) {
    redact::contents(guard, &mut task.input);
    task.system = task.system.as_ref().map(|text| guard.redact_str(text).into_owned());
    if let Some(schema) = &mut task.output_schema {
        redact::json(guard, schema);
    }
}

impl Host {
    /// Fires a schedule for a time, or passes over what there is to pass over, and sees to it that what was begun is worked.
    ///
    /// To be done to its end: a turn that was counted and accepted is begun.
    pub(super) async fn fire_at(&self, mut firing: Firing, at: Option<Time>) -> Result<Fired, HostError> {
        let org = firing.schedule.org.clone();
        let _in_order = match (at, firing.schedule.plan.place.session()) {
            (Some(_), Some(session)) => Some(self.in_order(session).await),
            _ => None,
        };
        if let Some(at) = at {
            firing.fire = Some((at, self.deed(&firing.schedule, at).await?));
        }
        let counted = match &firing.fire {
            Some((_, Deed::Turn(..) | Deed::Session { .. })) => match self.caller().limits().turn(&org).await {
                Ok(counted) => counted.is_some(),
                Err(limited) => {
                    let message = Some(limited.to_string());
                    let reason = SkipReason::RateLimited;
                    firing.fire = at.map(|at| (at, Deed::Skip { reason, message }));
                    false
                }
            },
            _ => false,
        };
        let fired = self.store().fire_schedule(&firing).await;
        if counted && !matches!(fired, Ok(Fired::Turn { .. })) {
            self.caller().limits().give_back_turn(&org).await;
        }
        let fired = fired?;
        if let Fired::Turn { turn, events, .. } = &fired {
            self.publish_accepted(&org, events.clone()).await;
            if let Err(error) = self.drive_next(&org, turn.session).await {
                tracing::error!(turn = %turn.id, %error, "a scheduled turn could not be begun; the next one, or the next start, does it");
            }
        }
        Ok(fired)
    }

    async fn deed(&self, schedule: &Schedule, at: Time) -> Result<Deed, HostError> {
        match &schedule.plan.place {
            Place::Session(session) => self.deed_in_session(schedule, *session).await,
            Place::Fresh {
                agent,
                metadata,
                narrowing,
            } => {
                let agent = agent.as_ref().unwrap_or(&self.inner.default_agent);
                self.deed_in_fresh(schedule, at, agent, metadata, narrowing).await
            }
        }
    }

    async fn deed_in_session(&self, schedule: &Schedule, session: SessionId) -> Result<Deed, HostError> {
        let org = &schedule.org;
        match self.admit(org, session, Purpose::Turn).await {
            Ok(()) => {}
            Err(HostError::BudgetExhausted(exhausted)) => {
                return Ok(Deed::Skip {
                    reason: SkipReason::BudgetExhausted,
                    message: Some(exhausted.to_string()),
                });
            }
            Err(error) => return Err(error),
        }
        // What waits does not change the conversation.
        if schedule.plan.overlap == Overlap::Skip && self.refuse_while_summed_up(session).is_err() {
            return Ok(Deed::Skip {
                reason: SkipReason::Busy,
                message: Some("the session's conversation was being summed up".into()),
            });
        }
        let guard = self.guard(org, Some(session)).await?;
        let if_busy = match schedule.plan.overlap {
            Overlap::Queue => IfBusy::Queue,
            Overlap::Skip => IfBusy::Refuse,
        };
        Ok(Deed::Turn(session, new_turn(schedule, &guard, if_busy)))
    }

    async fn deed_in_fresh(
        &self,
        schedule: &Schedule,
        due: Time,
        agent: &AgentName,
        metadata: &Value,
        narrowing: &SessionNarrowing,
    ) -> Result<Deed, HostError> {
        let org = &schedule.org;
        match self.chain(org, agent).await {
            Ok(_) => {}
            Err(HostError::Store(error)) => return Err(error.into()),
            // The configuration is another than that with which it was made.
            Err(error) => {
                return Ok(Deed::Fail {
                    message: error.to_string(),
                });
            }
        }
        let id = SessionId::new();
        // Nothing is spent in a session that is not there yet: what counts is what the org may.
        let org_only = SpendingLimit::default();
        if let Some(exhausted) = self.inner.budgets.admit(org, id, org_only, Purpose::Turn).await? {
            return Ok(Deed::Skip {
                reason: SkipReason::BudgetExhausted,
                message: Some(exhausted.to_string()),
            });
        }
        let guard = self.guard(org, None).await?;
        let title = schedule.plan.title.as_deref();
        let title = title.map(|title| guard.redact_str(title).into_owned());
        let mut metadata = metadata.clone();
        redact::json(&guard, &mut metadata);
        let time = now();
        let session = Session {
            id,
            org: org.clone(),
            agent: agent.clone(),
            title: title.clone(),
            metadata,
            narrowing: narrowing.clone(),
            created: time,
            updated: time,
            archived: None,
        };
        let created = NewEvent {
            source: Source::Schedule {
                schedule: schedule.id,
                due,
            },
            ..by_client(EventBody::SessionCreated {
                agent: agent.clone(),
                title,
                forked_from: None,
            })
        };
        let turn = new_turn(schedule, &guard, IfBusy::Refuse);
        Ok(Deed::Session {
            session: Box::new(session),
            created: vec![created],
            turn,
            most: self.caller().limits().sessions(org),
        })
    }
}

// THREAT[T-sec-exfiltration]: a secret may have been set since the schedule was made.
fn new_turn(schedule: &Schedule, guard: &LeakGuard, if_busy: IfBusy) -> NewTurn {
    let mut task = schedule.plan.task.clone();
    redact_task(guard, &mut task);
    NewTurn {
        id: TurnId::new(),
        input: task.input,
        system: task.system,
        budget: task.budget,
        output_schema: task.output_schema,
        tools: Vec::new(),
        record: false,
        idempotency: None,
        replaces: None,
        ends: None,
        if_busy,
    }
}
