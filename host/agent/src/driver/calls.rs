//! The calls of one step: admitted, run side by side, recorded as they end.

use super::{
    Driver, Interruption, Stop,
    admission::{Admission, AdmittedCall, HeldCall, arguments},
    handing_over::HandedCall,
    notes::noted,
};
use crate::{
    excerpt,
    machine::{Client, OpenCall},
    ports::{self, Observe, Observed},
    redact, telemetry,
};
use fumehood_core::{
    approval::AskedApproval,
    call::{CallResult, Metering},
    event::{EventBody, NewEvent, Source},
    message::RequestedCall,
    now,
    turn::{TurnError, TurnErrorCode, WaitingFor},
};
use fumehood_policy::{agent::APPROVAL_TIMEOUT, authority::Authority};
use std::sync::Arc;
use tokio::task::JoinSet;
use tracing::Instrument as _;

/// Calls of one step that run at the same time.
const PARALLEL_CALLS: usize = 8;

impl Driver {
    /// Runs the calls side by side, a bounded number at a time, and records each as it ends. Those that wait for a decision are
    /// asked about together, when the others have ended.
    pub(super) async fn run_calls(&mut self, calls: Vec<OpenCall>) -> Result<(), Stop> {
        let (mut waiting, calls) = self.take_up(calls).await?;
        let room = self.room_for_calls(&calls).await?;
        let within_budget = calls.iter().filter(|open| self.beyond(&room, open).is_none());
        let mut guarded = self.guard_calls(within_budget.collect()).await?;
        let (mut settled, mut held, mut handed) = (Vec::new(), Vec::new(), Vec::new());
        for open in calls {
            let beyond = self.beyond(&room, &open);
            let call = open.call.clone();
            if beyond.is_none() && self.plan.tools.control.has(&call.tool) {
                let control = &self.plan.tools.control;
                let result = arguments(&call).and_then(|arguments| control.run(&call.tool, arguments));
                settled.push(self.completed(&call, result, Metering::default()));
                continue;
            }
            let judged = guarded.take(call.id);
            match self.admit(open, beyond, judged) {
                Ok(Admission::Runs(admitted)) => waiting.push_back(admitted),
                Ok(Admission::Asks(asked)) => held.push(asked),
                Ok(Admission::HandsOver(call)) => handed.push(call),
                Err(error) => {
                    telemetry::refused_before_a_call(
                        &self.plan.scope.org,
                        &self.plan.tools.offered,
                        &call.tool,
                        &error,
                    );
                    settled.push(self.completed(&call, Err(error), Metering::default()));
                }
            }
        }
        self.recorder.hold_back(settled).await?;

        let (observe, mut observed) = ports::observe();
        // Dropping the set, on any way out, stops every guest in it.
        let mut running = JoinSet::new();
        let at_once = waiting.len().min(PARALLEL_CALLS);
        let mut starting: Vec<_> = waiting.drain(..at_once).collect();
        loop {
            self.start(&mut starting, &mut running, &observe).await?;
            if running.is_empty() {
                match waiting.pop_front() {
                    // All those went to the background.
                    Some(next) => starting.push(next),
                    None => return self.park(held, handed).await,
                }
                continue;
            }
            let (mut events, ended) = match self.next_happening(&mut running, &mut observed).await {
                Ok(happened) => happened,
                Err(stop) => {
                    self.stop(&mut running, &mut observed).await;
                    return Err(stop);
                }
            };
            if let Some(ended) = ended {
                events.extend(self.end_of(ended));
                starting.extend(waiting.pop_front());
            }
            if let Some(differs) = self.makes_another_call(&mut events) {
                self.cut_off.extend(events);
                self.stop(&mut running, &mut observed).await;
                return Err(differs);
            }
            if running.is_empty() && starting.is_empty() && observed.nobody_waits() {
                self.recorder.hold_back(events).await?;
                continue;
            }
            self.recorder.record(events).await?;
            observed.recorded();
        }
    }

    /// Parks the turn, where a call waits for somebody. A person decides first: what is approved runs, and the rest is handed over
    /// together.
    async fn park(&mut self, held: Vec<HeldCall>, handed: Vec<HandedCall>) -> Result<(), Stop> {
        match (held.is_empty(), handed.is_empty()) {
            (false, _) => self.ask(held).await,
            (true, false) => self.hand_over(handed).await,
            (true, true) => Ok(()),
        }
    }

    /// Asks for a decision about all of them, and parks the turn.
    async fn ask(&mut self, held: Vec<HeldCall>) -> Result<(), Stop> {
        // Nobody is asked about a turn that is to stop here.
        if self.reins.client() == Client::Stops {
            return Err(Interruption::Cancelled.into());
        }
        // Asked about together, so that they expire together.
        let timeout = self
            .plan
            .scope
            .chain
            .last()
            .map_or(APPROVAL_TIMEOUT, |agent| agent.approval_timeout);
        let expires = now() + timeout.as_duration();
        let asked = held.into_iter().map(|held| AskedApproval {
            call_id: held.call.id,
            tool: held.call.tool,
            arguments: held.arguments,
            rule: held.rule,
            fingerprint: held.fingerprint,
            expires,
        });
        let calls = asked.collect();
        let machine = &self.recorder.machine;
        let events = vec![
            machine.event(EventBody::ApprovalRequested { calls }),
            machine.event(EventBody::TurnPaused {
                waiting_for: WaitingFor::Approval,
                worked_ms: None,
            }),
        ];
        Ok(self.recorder.record(events).await?)
    }

    async fn start(
        &mut self,
        starting: &mut Vec<AdmittedCall>,
        running: &mut JoinSet<Ended>,
        observe: &Observe,
    ) -> Result<(), Stop> {
        let (mut events, mut beginning) = (Vec::new(), Vec::new());
        for mut admitted in starting.drain(..) {
            if admitted.changed().is_some() {
                // What is claimed is what the journal keeps; should they be no arguments without the values, the call says so.
                let guard = self.recorder.guard().await?;
                let _ = redact::arguments(&guard, &mut admitted.cleared.arguments);
            }
            let authority = match self.plan.tools.offered.get(&admitted.tool) {
                Ok(tool) => self.caller.authority(&self.plan.scope, tool).await.map(Arc::new),
                Err(error) => Err(error),
            };
            if let Ok(authority) = &authority
                && self.runs_in_background(&admitted, authority)
            {
                self.send_to_background(admitted).await?;
                continue;
            }
            events.push(self.started(&admitted, authority.as_deref().ok()));
            beginning.push((admitted, authority));
        }
        self.recorder.record(events).await?;
        let shared = beginning.len() > 1 || !running.is_empty();
        for (admitted, authority) in beginning {
            let caller = Arc::clone(&self.caller);
            let AdmittedCall {
                call, tool, cleared, ..
            } = admitted;
            let scope = self.plan.scope.for_call(observe.clone(), authority, cleared.clearance);
            let tape = if self.plan.record {
                self.caller.tape(shared)
            } else {
                None
            };
            let scope = scope.within(self.deadline.clone()).repeatable(call.id, admitted.effect);
            let scope = match admitted.attempt {
                0 | 1 => scope,
                _ => scope.once_more(),
            };
            let scope = scope.recorded_on(tape.clone());
            let tools = Arc::clone(&self.plan.tools.offered);
            let (session, most) = (self.plan.session, self.plan.tool_output);
            let work = async move {
                let (result, metering) = Arc::clone(&caller)
                    .call(&scope, &tools, call.id, &tool, cleared.arguments)
                    .await;
                let result = excerpt::fitting(caller.workspaces(), session, call.id, result, most).await;
                let recorded = tape.and_then(|tape| tape.event(call.id));
                Ended {
                    result: noted(result, cleared.note),
                    call,
                    metering,
                    recorded,
                }
            };
            // On a task of its own: in the step's span, and on top of the turn's, or a trace would lose the way.
            running.spawn(work.in_current_span().instrument(self.span.clone()));
        }
        Ok(())
    }

    /// Waits for a call to end or to report something. What a call reported comes before its end.
    async fn next_happening(
        &self,
        running: &mut JoinSet<Ended>,
        observed: &mut Observed,
    ) -> Result<(Vec<NewEvent>, Option<Ended>), Stop> {
        let mut events = Vec::new();
        let waiting = async {
            tokio::select! {
                Some(ended) = running.join_next() => Some(ended),
                Some(event) = observed.next() => {
                    events.push(event);
                    None
                }
            }
        };
        let ended = match self.interruptible(waiting).await? {
            None => None,
            Some(Ok(ended)) => Some(ended),
            Some(Err(error)) => {
                tracing::error!(%error, "a call's task broke");
                let message = "a fault in the host ended the call; the host's log has more".into();
                return Err(Stop::Failed(TurnError {
                    code: TurnErrorCode::Internal,
                    message,
                }));
            }
        };
        while let Some(event) = observed.ready() {
            events.push(event);
        }
        Ok((events, ended))
    }

    fn started(&self, admitted: &AdmittedCall, authority: Option<&Authority>) -> NewEvent {
        let tool = self.plan.tools.offered.get(&admitted.tool).ok();
        self.recorder.machine.event(EventBody::ToolStarted {
            call: admitted.call.id,
            tool: admitted.tool.clone(),
            component: admitted.component.clone(),
            authority: authority.and_then(|authority| serde_json::to_value(authority).ok()),
            effect: admitted.effect,
            fingerprint: tool.map(|tool| tool.fingerprint(&admitted.cleared.arguments)),
            attempt: admitted.attempt,
            arguments: admitted.changed().cloned(),
        })
    }

    /// Stops the calls that run. What has ended by now keeps its result, whatever ends the turn.
    async fn stop(&mut self, running: &mut JoinSet<Ended>, observed: &mut Observed) {
        self.cut_off.extend(observed.decisions());
        while let Some(Ok(ended)) = running.try_join_next() {
            let events = self.end_of(ended);
            self.cut_off.extend(events);
        }
        running.shutdown().await;
        self.cut_off.extend(observed.decisions());
    }

    fn end_of(&self, ended: Ended) -> Vec<NewEvent> {
        let Ended {
            call,
            result,
            metering,
            recorded,
        } = ended;
        let recorded = recorded.map(|body| self.recorder.machine.event(body));
        recorded
            .into_iter()
            .chain([self.came_back(&call, result, metering)])
            .collect()
    }

    /// A call that was handed on and came back well goes on outside: it has no end yet.
    fn came_back(&self, call: &RequestedCall, result: CallResult, metering: Metering) -> NewEvent {
        match (self.recorder.machine.detached(call.id), result) {
            (Some(handed), Ok(output)) if !output.is_error => NewEvent {
                source: Source::Tool {
                    tool: call.tool.clone(),
                    call: call.id,
                },
                ..self.recorder.machine.event(EventBody::ToolProvisional {
                    call: call.id,
                    tool: handed.detached.tool,
                    output,
                    metering,
                })
            },
            (_, result) => self.completed(call, result, metering),
        }
    }

    pub(super) fn completed(&self, call: &RequestedCall, result: CallResult, metering: Metering) -> NewEvent {
        let source = Source::Tool {
            tool: call.tool.clone(),
            call: call.id,
        };
        let body = EventBody::tool_completed(call.id, call.tool.clone(), result, metering);
        NewEvent {
            source,
            ..self.recorder.machine.event(body)
        }
    }
}

/// A call that ran to its end.
struct Ended {
    call: RequestedCall,
    result: CallResult,
    metering: Metering,
    /// What is told of its recording, where it was to be recorded.
    recorded: Option<EventBody>,
}
