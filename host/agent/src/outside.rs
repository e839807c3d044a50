//! What turns did outside of their session, as the journal knows it: what going back does not take back.

use crate::catalog::OrgTools;
use fumehood_core::{
    call::{CallError, CallErrorCode, CallStatus, Metering},
    digest::Digest,
    event::EventBody,
    id::CallId,
    name::ToolName,
    rewind::OutsideEffect,
    tool::{Effect, ToolDefinition},
};
use std::collections::HashMap;

/// More are counted, not named.
const MOST: usize = 100;

/// What tools say of themselves.
pub(crate) trait Says {
    /// The code of a tool that is there, and its definition.
    fn says(&self, tool: &str) -> Option<(Digest, &ToolDefinition)>;
}

impl Says for OrgTools {
    fn says(&self, tool: &str) -> Option<(Digest, &ToolDefinition)> {
        let tool = self.find(tool).ok()?;
        Some((tool.component.record.digest, &tool.definition))
    }
}

/// What is known of a call that began.
#[derive(Clone, Copy)]
enum Begun {
    /// The host runs this code, unless it refuses that yet.
    ByHost(Digest),
    /// This code ran, and handed its call on to somebody outside.
    HandedOn(Digest),
    /// It was about to call a tool that may run once.
    Committed,
    /// The client runs it: the host hears of it what it is told.
    ByClient,
}

/// What was found so far in a part of a journal.
pub(crate) struct Looked<'a, T = OrgTools> {
    tools: &'a T,
    /// Calls that began, and have not ended.
    begun: HashMap<CallId, Begun>,
    /// Those that went to the background and are not named: what they do is told after their end in the turn.
    jobs: HashMap<CallId, ToolName>,
    found: Vec<OutsideEffect>,
    more: u64,
}

impl<'a> Looked<'a> {
    pub(crate) fn new(tools: &'a OrgTools) -> Self {
        Self::with(tools)
    }
}

impl<'a, T: Says> Looked<'a, T> {
    fn with(tools: &'a T) -> Self {
        Self {
            tools,
            begun: HashMap::new(),
            jobs: HashMap::new(),
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
            EventBody::ToolStarted { call, component, .. } => {
                // One that runs again did before what it did.
                self.begun.entry(*call).or_insert(Begun::ByHost(component.digest));
            }
            // What runs in the background is the turn's doing as well.
            EventBody::JobQueued {
                call, tool, component, ..
            } => {
                self.begun.insert(*call, Begun::ByHost(component.digest));
                self.jobs.insert(*call, tool.clone());
            }
            EventBody::ToolDetached { call, .. } => {
                if let Some(begun) = self.begun.get_mut(call)
                    && let Begun::ByHost(code) = *begun
                {
                    *begun = Begun::HandedOn(code);
                }
            }
            EventBody::ToolCommitted { call, .. } => match self.jobs.remove(call) {
                Some(tool) => self.push_call(*call, tool.as_str()),
                None => {
                    self.begun.insert(*call, Begun::Committed);
                }
            },
            EventBody::ResultsRequested { calls } => {
                let handed = calls.iter().map(|call| (call.call_id, Begun::ByClient));
                self.begun.extend(handed);
            }
            EventBody::ToolCompleted {
                call,
                tool,
                status,
                error,
                metering,
                ..
            } => {
                let Some(begun) = self.begun.remove(call) else { return };
                let did_nothing = match begun {
                    Begun::ByHost(code) => {
                        was_refused(*status, error.as_ref(), metering) || self.is_harmless(tool, code)
                    }
                    Begun::HandedOn(code) => self.is_harmless(tool, code),
                    Begun::Committed | Begun::ByClient => false,
                };
                if !did_nothing {
                    self.jobs.remove(call);
                    self.push_call(*call, tool);
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
        self.tools
            .says(tool)
            .is_some_and(|(now, says)| now == code && (says.read_only || says.effect != Effect::AtMostOnce))
    }

    fn push_call(&mut self, call: CallId, tool: &str) {
        let tool = tool.to_owned();
        self.push(OutsideEffect::Call { call, tool });
    }

    fn push(&mut self, effect: OutsideEffect) {
        if self.found.len() < MOST {
            self.found.push(effect);
        } else {
            self.more += 1;
        }
    }
}

/// Whether a call ended before its code ran. The same words end one that ran and whose result was withheld, or whose tool said them
/// itself; but that one used something.
fn was_refused(status: CallStatus, error: Option<&CallError>, metering: &Metering) -> bool {
    let says_so = matches!(status, CallStatus::Denied | CallStatus::RateLimited)
        || error.is_some_and(|error| error.code == CallErrorCode::InvalidArguments);
    says_so && *metering == Metering::default()
}

#[cfg(test)]
mod tests;
