//! Calls of tools that the client runs: handed over together, when what else the step asked for has run.

use super::{Driver, Interruption, Stop};
use crate::{
    callable::Callable as _,
    client_tools::{RESULT_TIMEOUT, ReadyTool},
    machine::Client,
};
use fumehood_core::{
    awaited::AwaitedCall,
    call::{Arguments, CallError},
    event::EventBody,
    message::RequestedCall,
    now,
    turn::WaitingFor,
};
use std::sync::Arc;

/// A call that the client may run.
pub(super) struct HandedCall {
    call: RequestedCall,
    tool: Arc<ReadyTool>,
    arguments: Arguments,
    note: Option<String>,
}

impl HandedCall {
    /// A call whose arguments fit the tool's schema.
    pub(super) fn new(
        tool: Arc<ReadyTool>,
        call: &RequestedCall,
        mut arguments: Arguments,
        note: Option<String>,
    ) -> Result<Self, CallError> {
        tool.check(&mut arguments)?;
        Ok(Self {
            call: call.clone(),
            tool,
            arguments,
            note,
        })
    }
}

impl Driver {
    /// Says what the client is to run, and parks the turn.
    pub(super) async fn hand_over(&mut self, handed: Vec<HandedCall>) -> Result<(), Stop> {
        // Nobody runs anything for a turn that is to stop here.
        if self.reins.client() == Client::Stops {
            return Err(Interruption::Cancelled.into());
        }
        // The turn goes on when it has them all: it waits for each as long as for the slowest.
        let timeout = handed.iter().map(|handed| handed.tool.timeout).max();
        let expires = now() + timeout.unwrap_or(RESULT_TIMEOUT).as_duration();
        let calls = handed.into_iter().map(|handed| AwaitedCall {
            call_id: handed.call.id,
            tool: handed.tool.definition().name.clone(),
            arguments: handed.arguments,
            expires,
            note: handed.note,
        });
        let calls = calls.collect();
        let waiting_for = WaitingFor::Results;
        let machine = &self.recorder.machine;
        let events = vec![
            machine.event(EventBody::ResultsRequested { calls }),
            machine.event(EventBody::TurnPaused {
                waiting_for,
                worked_ms: None,
            }),
        ];
        Ok(self.recorder.record(events).await?)
    }
}
