//! What happens inside a call, as events of its turn.
//!
//! What a tool says waits for nobody: when it comes faster than the turn's driver records it, or a call says more than its
//! share, the rest is dropped. What was decided about a call is never dropped: a decision waits until it can be told. A
//! call's result does not pass here.

use super::observe::{Observe, ROOM};
use crate::{limits::Limited, redact};
use bytes::Bytes;
use fumehood_core::{
    call::CallResult,
    event::{EventBody, NewEvent, OutputChannel, Source},
    id::{CallId, TurnId},
    ledger::{EgressOutcome, LedgerEntry},
    name::{SecretName, ToolName},
};
use fumehood_egress::{LeakGuard, Redactor};
use fumehood_sandbox::ports::{Channel, Observer};
use secrecy::SecretString;
use std::{
    borrow::Cow,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::sync::mpsc;

/// Progress reports and output chunks of one call that are kept.
const REPORTS: u32 = 64;
/// Bytes of one report that are kept.
const REPORT_LENGTH: usize = 4096;
/// What stands in the place of what ends a call: `[secret:CALLBACK_TOKEN]`.
const TOKEN: &str = "CALLBACK_TOKEN";
/// Channels of one call that are kept apart; what is written to more of them is dropped.
const CHANNELS: usize = 8;

/// Room for the events of one decision.
pub(crate) struct Places<'e>(Option<mpsc::PermitIterator<'e, NewEvent>>);

/// When what a tool says beside its result is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    /// At once.
    AtOnce,
    /// When the guards have allowed its result.
    WhenAllowed,
}

/// Knows what ends a call, if that was handed on, in it and in the calls that it makes.
#[derive(Clone, Default)]
pub(crate) struct HiddenToken(Arc<OnceLock<LeakGuard>>);

impl HiddenToken {
    fn guard(&self) -> Option<&LeakGuard> {
        self.0.get()
    }
}

/// Turns what a call does into events.
pub(crate) struct CallEvents {
    observe: Observe,
    turn: Option<TurnId>,
    call: CallId,
    tool: ToolName,
    guard: LeakGuard,
    token: HiddenToken,
    reports_left: AtomicU32,
    /// What the tool says, until that is allowed. Absent: it is told at once.
    held: Option<Mutex<Vec<NewEvent>>>,
    /// What a tool writes to a channel in pieces is one text: a value may lie over several.
    channels: Mutex<Vec<Writing>>,
}

/// What a tool writes to one channel, on its way.
struct Writing {
    channel: OutputChannel,
    /// Takes out the values of secrets.
    secrets: Redactor,
    /// Takes out what ends the call, from when there is that.
    token: Option<Redactor>,
    /// How much was written to a standard stream that need not be told at the end, in bytes.
    taken: usize,
    /// What could not be told of a standard stream. The rest of it is told at the end, too.
    untold: Option<Bytes>,
}

impl Writing {
    /// What may be shown once this was written.
    fn push(&mut self, chunk: &str, token: Option<&LeakGuard>) -> Bytes {
        let passed = self.secrets.push(Bytes::copy_from_slice(chunk.as_bytes()));
        match self.token_with(token) {
            Some(token) => token.push(passed),
            None => passed,
        }
    }

    /// What was held back, once nothing more is written.
    fn finish(&mut self, token: Option<&LeakGuard>) -> Vec<u8> {
        let held = self.secrets.finish();
        match self.token_with(token) {
            Some(token) => [token.push(held), token.finish()].concat(),
            None => held.to_vec(),
        }
    }

    fn token_with(&mut self, token: Option<&LeakGuard>) -> Option<&mut Redactor> {
        if self.token.is_none() {
            self.token = token.map(LeakGuard::redactor);
        }
        self.token.as_mut()
    }
}

impl CallEvents {
    pub(crate) fn new(
        (observe, telling): (Observe, Telling),
        turn: Option<TurnId>,
        call: CallId,
        tool: ToolName,
        guard: LeakGuard,
    ) -> Self {
        Self {
            held: (telling == Telling::WhenAllowed).then(Mutex::default),
            observe,
            turn,
            call,
            tool,
            guard,
            token: HiddenToken::default(),
            reports_left: AtomicU32::new(REPORTS),
            channels: Mutex::default(),
        }
    }

    /// The same, of a call that another may have made: what ends that one is known to both.
    pub(crate) fn sharing(self, token: HiddenToken) -> Self {
        Self { token, ..self }
    }

    /// The call is over: what its channels still hold back, and what was not told yet of what the component wrote to its standard
    /// streams, which the sandbox has bounded.
    pub(crate) fn ended(&self, stdout: &str, stderr: &str) {
        let mut channels = std::mem::take(&mut *self.channels());
        for (channel, text) in [(OutputChannel::Stdout, stdout), (OutputChannel::Stderr, stderr)] {
            if !text.is_empty() && !channels.iter().any(|known| known.channel == channel) {
                channels.push(self.writing(channel));
            }
        }
        for mut writing in channels {
            let written = match writing.channel {
                OutputChannel::Stdout => stdout,
                OutputChannel::Stderr => stderr,
                OutputChannel::Named(_) => "",
            };
            let token = self.token.guard();
            let untold = writing.untold.take().unwrap_or_default();
            let rest = written.get(writing.taken..).unwrap_or_default();
            let rest = [&untold[..], &writing.push(rest, token), &writing.finish(token)].concat();
            if !rest.is_empty() {
                self.wrote(&writing.channel, &rest);
            }
        }
    }

    /// From here on nothing that the tool says tells what ends the call.
    // THREAT[T-callback-shown]: who reads a journal can end no call.
    pub(crate) fn hide(&self, token: &SecretString) {
        if let Ok(name) = SecretName::new(TOKEN) {
            let _ = self.token.0.set(LeakGuard::new([(name, token)]));
        }
    }

    /// A result without what ends the call.
    pub(crate) fn hidden(&self, result: CallResult) -> CallResult {
        match self.token.guard() {
            Some(token) => redact::result(token, result),
            None => result,
        }
    }

    /// What a request's entry in the ledger says, without what ends the call: a tool may hand that on in a URL.
    // THREAT[T-callback-shown]: who reads a ledger can end no call.
    pub(crate) fn hidden_entry<'e>(&self, entry: &'e LedgerEntry) -> Cow<'e, LedgerEntry> {
        let Some(token) = self.token.guard() else {
            return Cow::Borrowed(entry);
        };
        let hide = |text: &mut String| {
            if let Cow::Owned(clean) = token.redact_str(text) {
                *text = clean;
            }
        };
        let mut entry = entry.clone();
        for text in [&mut entry.method, &mut entry.host, &mut entry.path, &mut entry.rule] {
            hide(text);
        }
        if let EgressOutcome::Denied { reason } | EgressOutcome::Failed { reason } = &mut entry.outcome {
            hide(reason);
        }
        Cow::Owned(entry)
    }

    /// The call's result is allowed, and with it what was held back. Waits for room.
    pub(crate) async fn allowed(&self) {
        let Some(held) = &self.held else { return };
        let said = std::mem::take(&mut *held.lock().unwrap_or_else(PoisonError::into_inner));
        for event in said {
            // When nobody observes any more, the turn is over.
            let _ = self.observe.said.send(event).await;
        }
    }

    /// Waits for room for so many events. None when nobody observes any more.
    pub(crate) async fn places(&self, count: usize) -> Places<'_> {
        Places(self.observe.decided.reserve_many(count.min(ROOM)).await.ok())
    }

    /// A request passed every list, perhaps with secrets; or it was refused.
    pub(crate) fn decided(&self, places: Places<'_>, entry: &LedgerEntry) {
        let (call, method) = (self.call, entry.method.clone());
        let (host, path) = (entry.host.clone(), entry.path.clone());
        let decision = match &entry.outcome {
            EgressOutcome::Denied { reason } => EventBody::EgressDenied {
                call,
                method,
                host,
                path,
                reason: reason.clone(),
            },
            _ => EventBody::EgressAllowed {
                call,
                method,
                host,
                path,
                rule: entry.rule.clone(),
                shapes: entry.shapes.clone(),
            },
        };
        let used = entry.secrets.iter().map(|secret| EventBody::SecretUsed {
            call,
            secret: secret.clone(),
            used_for: entry.host.clone(),
        });
        let bodies = std::iter::once(decision).chain(used);
        for (place, body) in places.0.into_iter().flatten().zip(bodies) {
            place.send(self.event(Source::Egress { call }, body));
        }
    }

    /// A limit of the org kept a request from leaving.
    pub(crate) async fn limit_reached(&self, limited: &Limited) {
        let body = EventBody::LimitReached {
            call: Some(self.call),
            limit: limited.limit().to_owned(),
            message: limited.to_string(),
        };
        self.observe.decided(self.event(Source::Host, body)).await;
    }

    /// A secret signed something.
    pub(crate) async fn secret_used(&self, secret: SecretName, used_for: &str) {
        let body = EventBody::SecretUsed {
            call: self.call,
            secret,
            used_for: used_for.into(),
        };
        self.observe
            .decided(self.event(Source::Egress { call: self.call }, body))
            .await;
    }

    fn event(&self, source: Source, body: EventBody) -> NewEvent {
        NewEvent {
            turn: self.turn,
            source,
            body,
        }
    }

    fn by_tool(&self, body: EventBody) -> Told {
        let source = Source::Tool {
            tool: self.tool.to_string(),
            call: self.call,
        };
        let event = self.event(source, body);
        if let Some(held) = &self.held {
            // THREAT[T-hook-beside]: not more than a call may say.
            held.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            return Told::Kept;
        }
        if self.observe.said.try_send(event).is_err() {
            tracing::debug!(call = %self.call, "an event of a call was dropped: they come faster than they are recorded");
            return Told::Dropped;
        }
        Told::Kept
    }

    /// THREAT[T-box-output]: a call may say so much and no more beside its result.
    fn may_report(&self) -> bool {
        self.reports_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
    }

    fn clean(&self, text: &str) -> (String, bool) {
        cut(&self.cleaned(text))
    }

    /// A text without the values of secrets, and without what ends the call.
    pub(crate) fn cleaned(&self, text: &str) -> String {
        let clean = self.guard.redact_str(text);
        match self.token.guard() {
            Some(token) => token.redact_str(&clean).into_owned(),
            None => clean.into_owned(),
        }
    }

    fn writing(&self, channel: OutputChannel) -> Writing {
        Writing {
            channel,
            secrets: self.guard.redactor(),
            token: None,
            taken: 0,
            untold: None,
        }
    }

    /// Tells what may be shown now of a channel, unless there are too many.
    fn write(&self, channel: Channel<'_>, chunk: &str) {
        let mut channels = self.channels();
        let at = match channels.iter().position(|known| is_same(&known.channel, channel)) {
            Some(at) => at,
            None if channels.len() < CHANNELS => {
                channels.push(self.writing(match channel {
                    Channel::Stdout => OutputChannel::Stdout,
                    Channel::Stderr => OutputChannel::Stderr,
                    Channel::Named(name) => OutputChannel::Named(name.to_owned()),
                }));
                channels.len() - 1
            }
            None => return,
        };
        let writing = &mut channels[at];
        if writing.untold.is_some() {
            return;
        }
        writing.taken += chunk.len();
        let passed = writing.push(chunk, self.token.guard());
        if !passed.is_empty()
            && self.wrote(&writing.channel, &passed) == Told::Dropped
            && !matches!(channel, Channel::Named(_))
        {
            writing.untold = Some(passed);
        }
    }

    fn wrote(&self, channel: &OutputChannel, chunk: &[u8]) -> Told {
        let text = String::from_utf8_lossy(chunk);
        let (channel, (chunk, truncated)) = match channel {
            OutputChannel::Named(name) => (OutputChannel::Named(self.clean(name).0), cut(&text)),
            standard => (standard.clone(), (text.into_owned(), false)),
        };
        self.by_tool(EventBody::ToolOutput {
            call: self.call,
            channel,
            chunk,
            truncated,
        })
    }

    fn channels(&self) -> MutexGuard<'_, Vec<Writing>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether somebody will hear of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Kept,
    Dropped,
}

fn is_same(known: &OutputChannel, channel: Channel<'_>) -> bool {
    match (known, channel) {
        (OutputChannel::Stdout, Channel::Stdout) | (OutputChannel::Stderr, Channel::Stderr) => true,
        (OutputChannel::Named(known), Channel::Named(name)) => known == name,
        _ => false,
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

    fn output(&self, channel: Channel<'_>, chunk: &str) {
        // Once it may not it never may again: what is not taken of a stream is its end.
        if self.may_report() {
            self.write(channel, chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::observe::{Observed, observe},
        *,
    };

    const LOG: Channel<'_> = Channel::Named("log");

    fn call(observe: &Observe) -> CallEvents {
        call_telling(observe, Telling::AtOnce)
    }

    fn call_telling(observe: &Observe, telling: Telling) -> CallEvents {
        let tool = ToolName::new("talk").unwrap();
        let observe = (observe.clone(), telling);
        CallEvents::new(observe, None, CallId::new(), tool, LeakGuard::default())
    }

    #[tokio::test]
    async fn what_is_held_back_is_told_once_it_is_allowed_and_decisions_are_told_at_once() {
        let (observe, mut observed) = observe();
        let call = call_telling(&observe, Telling::WhenAllowed);
        call.progress("half", Some(0.5));
        call.output(LOG, "more");
        call.secret_used(SecretName::new("KEY").unwrap(), "sign").await;
        call.ended("out", "");
        let mut told = || {
            std::iter::from_fn(|| observed.ready())
                .map(|event| event.body.type_name())
                .collect::<Vec<_>>()
        };
        assert_eq!(told(), ["secret.used"]);
        call.allowed().await;
        assert_eq!(told(), ["tool.progress", "tool.output", "tool.output"]);
    }

    fn said(observed: &mut Observed) -> String {
        let said = std::iter::from_fn(|| observed.ready());
        said.map(|event| match event.body {
            EventBody::ToolOutput { chunk, .. } => chunk,
            other => panic!("no output: {other:?}"),
        })
        .collect()
    }

    #[tokio::test]
    async fn what_a_tool_prints_is_told_once_as_it_is_written_and_at_the_end_what_is_left() {
        let lines: Vec<String> = (0..2 * REPORTS).map(|n| format!("line {n}\n")).collect();
        let (observe, mut observed) = observe();
        let talking = call(&observe);
        talking.output(Channel::Stderr, "a mishap\n");
        for line in &lines {
            talking.output(Channel::Stdout, line);
        }
        let first = observed.ready().unwrap().body;
        assert!(
            matches!(&first, EventBody::ToolOutput { channel: OutputChannel::Stderr, chunk, .. } if chunk == "a mishap\n"),
            "{first:?}"
        );
        talking.ended(&lines.concat(), "a mishap\n");
        assert_eq!(said(&mut observed), lines.concat());
    }

    #[tokio::test]
    async fn what_a_tool_prints_is_told_whole_where_others_leave_no_room_meanwhile() {
        let (observe, mut observed) = observe();
        let talking = call(&observe);
        talking.output(Channel::Stdout, "one ");
        for _ in 0..=ROOM / REPORTS as usize {
            let other = call(&observe);
            (0..REPORTS).for_each(|_| other.output(LOG, "more"));
        }
        talking.output(Channel::Stdout, "two ");
        while observed.ready().is_some() {}
        talking.output(Channel::Stdout, "three ");
        talking.ended("one two three four", "");
        assert_eq!(said(&mut observed), "two three four");
    }

    #[tokio::test]
    async fn what_ends_a_call_is_hidden_also_where_it_is_written_in_pieces_and_by_calls_that_it_makes() {
        let (observe, mut observed) = observe();
        let call = call(&observe);
        call.output(LOG, "before; ");
        let token = SecretString::from("fhcb_0123456789abcdef0123456789abcdef");
        call.hide(&token);
        for piece in [
            "the token is fhcb_01234567",
            "89abcdef0123456789",
            "abcdef",
            ", and fhcb_0123",
        ] {
            call.output(LOG, piece);
        }
        call.ended("", "");
        assert_eq!(
            said(&mut observed),
            "before; the token is [secret:CALLBACK_TOKEN], and fhcb_0123"
        );
        let made = super::CallEvents::new(
            (observe, Telling::AtOnce),
            None,
            CallId::new(),
            ToolName::new("peer").unwrap(),
            LeakGuard::default(),
        );
        let made = made.sharing(call.token);
        made.output(LOG, "fhcb_0123456789abcdef");
        made.output(LOG, "0123456789abcdef");
        made.ended("", "");
        assert_eq!(said(&mut observed), "[secret:CALLBACK_TOKEN]");
    }

    #[tokio::test]
    async fn a_decision_is_told_however_much_tools_say() {
        let (observe, mut observed) = observe();
        for _ in 0..=ROOM / REPORTS as usize {
            let talking = call(&observe);
            (0..REPORTS).for_each(|_| talking.output(LOG, "more"));
        }
        assert!(observe.said.capacity() == 0, "some of it was dropped");
        let call = call(&observe);
        call.secret_used(SecretName::new("KEY").unwrap(), "api.example.com")
            .await;
        let first = observed.next().await.unwrap();
        assert_eq!(first.body.type_name(), "secret.used");
        assert_eq!(std::iter::from_fn(|| observed.ready()).count(), ROOM);
    }

    #[tokio::test]
    async fn a_decision_waits_for_room_instead_of_being_dropped() {
        let (observe, mut observed) = observe();
        let call = call(&observe);
        let many = async {
            for _ in 0..3 * ROOM {
                call.secret_used(SecretName::new("KEY").unwrap(), "sign").await;
            }
            drop(call);
            drop(observe);
        };
        let all = async {
            let mut count = 0;
            while observed.next().await.is_some() {
                count += 1;
            }
            count
        };
        assert_eq!(tokio::join!(many, all).1, 3 * ROOM);
    }
}
