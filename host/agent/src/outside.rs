//! What turns did outside of their session, as the journal knows it: what going back does not take back.

use crate::catalog::OrgTools;
use fumehood_core::{
    call::{CallErrorCode, CallStatus},
    digest::Digest,
    event::EventBody,
    id::CallId,
    rewind::OutsideEffect,
    tool::Effect,
};
use std::collections::HashMap;

/// More are counted, not named.
const MOST: usize = 100;

/// What was found so far in a part of a journal.
pub(crate) struct Looked<'a> {
    tools: &'a OrgTools,
    /// Calls that began, with the code they run.
    begun: HashMap<CallId, Digest>,
    found: Vec<OutsideEffect>,
    more: u64,
}

impl<'a> Looked<'a> {
    pub(crate) fn new(tools: &'a OrgTools) -> Self {
        Self {
            tools,
            begun: HashMap::new(),
            found: Vec::new(),
            more: 0,
        }
    }

    /// Looks at the next event.
    pub(crate) fn at(&mut self, event: &EventBody) {
        match event {
            EventBody::EgressAllowed {
                call,
                method,
                host,
                path,
                ..
            } if !matches!(method.as_str(), "GET" | "HEAD") => self.push(OutsideEffect::Request {
                call: *call,
                method: method.clone(),
                host: host.clone(),
                path: path.clone(),
            }),
            // What runs in the background is the turn's doing as well.
            EventBody::ToolStarted { call, component, .. } | EventBody::JobQueued { call, component, .. } => {
                self.begun.insert(*call, component.digest);
            }
            EventBody::ToolCompleted {
                call,
                tool,
                status,
                error,
                ..
            } => {
                let Some(code) = self.begun.remove(call) else { return };
                let refused = matches!(status, CallStatus::Denied | CallStatus::RateLimited)
                    || error
                        .as_ref()
                        .is_some_and(|error| error.code == CallErrorCode::InvalidArguments);
                if !refused && !self.is_harmless(tool, code) {
                    self.push(OutsideEffect::Call {
                        call: *call,
                        tool: tool.clone(),
                    });
                }
            }
            _ => {}
        }
    }

    /// What was found: the first of it, and how much more there was.
    pub(crate) fn found(self) -> (Vec<OutsideEffect>, u64) {
        (self.found, self.more)
    }

    /// Whether the tool says that running it again does nothing more. Of code that is gone nobody knows.
    fn is_harmless(&self, tool: &str, code: Digest) -> bool {
        self.tools.find(tool).is_ok_and(|tool| {
            let says = &tool.definition;
            tool.component.record.digest == code && (says.read_only || says.effect != Effect::AtMostOnce)
        })
    }

    fn push(&mut self, effect: OutsideEffect) {
        if self.found.len() < MOST {
            self.found.push(effect);
        } else {
            self.more += 1;
        }
    }
}
