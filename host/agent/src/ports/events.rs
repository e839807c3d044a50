//! What happens inside a call, as events of its turn.
//!
//! Nothing here waits: when events come faster than the turn's driver records them, or a call says more than its share,
//! the rest is dropped. A call's result does not pass here.

use crate::limits::Limited;
use bytes::Bytes;
use fumehood_core::{
    event::{EventBody, NewEvent, OutputChannel, Source},
    id::{CallId, TurnId},
    ledger::LedgerEntry,
    name::{SecretName, ToolName},
};
use fumehood_egress::{LeakGuard, Redactor};
use fumehood_sandbox::ports::Observer;
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};
use tokio::sync::mpsc;

/// Progress reports and output chunks of one call that are kept.
const REPORTS: u32 = 64;
/// Bytes of one report that are kept.
const REPORT_LENGTH: usize = 4096;
/// Channels of one call that are kept apart; what is written to more of them is dropped.
const CHANNELS: usize = 8;

/// Turns what a call does into events.
pub(crate) struct CallEvents {
    sender: mpsc::Sender<NewEvent>,
    turn: Option<TurnId>,
    call: CallId,
    tool: ToolName,
    guard: LeakGuard,
    reports_left: AtomicU32,
    /// What a tool writes to a channel in pieces is one text: a value may lie over several.
    channels: Mutex<Vec<(String, Redactor)>>,
}

impl CallEvents {
    pub(crate) fn new(
        sender: mpsc::Sender<NewEvent>,
        turn: Option<TurnId>,
        call: CallId,
        tool: ToolName,
        guard: LeakGuard,
    ) -> Self {
        Self {
            sender,
            turn,
            call,
            tool,
            guard,
            reports_left: AtomicU32::new(REPORTS),
            channels: Mutex::default(),
        }
    }

    /// The call is over: what its channels still hold back, and what the component wrote to its standard streams, which the
    /// sandbox has bounded.
    pub(crate) fn ended(&self, stdout: &str, stderr: &str) {
        let channels = std::mem::take(&mut *self.channels());
        for (channel, mut redactor) in channels {
            let rest = redactor.finish();
            if !rest.is_empty() {
                self.wrote(&channel, &rest);
            }
        }
        for (channel, text) in [(OutputChannel::Stdout, stdout), (OutputChannel::Stderr, stderr)] {
            if !text.is_empty() {
                let chunk = self.guard.redact_str(text).into_owned();
                self.by_tool(EventBody::ToolOutput {
                    call: self.call,
                    channel,
                    chunk,
                    truncated: false,
                });
            }
        }
    }

    /// A request passed every list.
    pub(crate) fn egress_allowed(&self, entry: &LedgerEntry) {
        self.by_door(EventBody::EgressAllowed {
            call: self.call,
            method: entry.method.clone(),
            host: entry.host.clone(),
            path: entry.path.clone(),
            rule: entry.rule.clone(),
            shapes: entry.shapes.clone(),
        });
    }

    /// A request was refused.
    pub(crate) fn egress_denied(&self, entry: &LedgerEntry, reason: &str) {
        self.by_door(EventBody::EgressDenied {
            call: self.call,
            method: entry.method.clone(),
            host: entry.host.clone(),
            path: entry.path.clone(),
            reason: reason.to_owned(),
        });
    }

    /// A limit of the org kept a request from leaving.
    pub(crate) fn limit_reached(&self, limited: &Limited) {
        let body = EventBody::LimitReached {
            call: Some(self.call),
            limit: limited.limit().to_owned(),
            message: limited.to_string(),
        };
        self.send(Source::Host, body);
    }

    /// A secret was sent to a host.
    pub(crate) fn secret_used(&self, secret: SecretName, host: &str) {
        self.by_door(EventBody::SecretUsed {
            call: self.call,
            secret,
            used_for: host.into(),
        });
    }

    fn by_tool(&self, body: EventBody) {
        self.send(
            Source::Tool {
                tool: self.tool.to_string(),
                call: self.call,
            },
            body,
        );
    }

    fn by_door(&self, body: EventBody) {
        self.send(Source::Egress { call: self.call }, body);
    }

    fn send(&self, source: Source, body: EventBody) {
        if self
            .sender
            .try_send(NewEvent {
                turn: self.turn,
                source,
                body,
            })
            .is_err()
        {
            tracing::debug!(call = %self.call, "an event of a call was dropped: they come faster than they are recorded");
        }
    }

    /// THREAT[T-box-output]: a call may say so much and no more beside its result.
    fn may_report(&self) -> bool {
        self.reports_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
    }

    fn clean(&self, text: &str) -> (String, bool) {
        cut(&self.guard.redact_str(text))
    }

    /// What may be shown now of a channel, or nothing if there are too many channels.
    fn next_of(&self, channel: &str, chunk: &str) -> Option<Bytes> {
        let mut channels = self.channels();
        let at = match channels.iter().position(|(known, _)| known == channel) {
            Some(at) => at,
            None if channels.len() < CHANNELS => {
                channels.push((channel.to_owned(), self.guard.redactor()));
                channels.len() - 1
            }
            None => return None,
        };
        Some(channels[at].1.push(Bytes::copy_from_slice(chunk.as_bytes())))
    }

    fn wrote(&self, channel: &str, chunk: &[u8]) {
        let (chunk, truncated) = cut(&String::from_utf8_lossy(chunk));
        let (channel, _) = self.clean(channel);
        self.by_tool(EventBody::ToolOutput {
            call: self.call,
            channel: OutputChannel::Named(channel),
            chunk,
            truncated,
        });
    }

    fn channels(&self) -> MutexGuard<'_, Vec<(String, Redactor)>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(text: &str) -> (String, bool) {
    let end = text.floor_char_boundary(REPORT_LENGTH);
    (text[..end].to_owned(), end < text.len())
}

impl Observer for CallEvents {
    fn progress(&self, message: &str, fraction: Option<f32>) {
        if self.may_report() {
            let (message, _) = self.clean(message);
            self.by_tool(EventBody::ToolProgress {
                call: self.call,
                message,
                fraction,
            });
        }
    }

    fn output(&self, channel: &str, chunk: &str) {
        if self.may_report()
            && let Some(passed) = self.next_of(channel, chunk)
            && !passed.is_empty()
        {
            self.wrote(channel, &passed);
        }
    }
}
