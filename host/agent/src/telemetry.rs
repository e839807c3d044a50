//! What the loop counts and measures. Handles are made once per tool and org, so that measuring a call takes neither an
//! allocation nor a lock.

mod spans;

pub(crate) use spans::{step as step_span, turn as turn_span, turn_planned};

use crate::{
    caller::CallScope,
    catalog::{InstalledTool, OfferedTools},
};
use fumehood_core::{
    call::{CallError, CallErrorCode, CallResult, CallStatus, Metering, TrapKind, status_of},
    event::EventBody,
    id::{CallId, SessionId},
    ledger::{EgressOutcome, LedgerEntry},
    metric::{self, LabelValues},
    name::{HookName, ModelName, OrgName, ToolName},
    turn::{StepStop, TurnStatus, Usage},
};
use fumehood_egress::Settlement;
use fumehood_model::{ModelErrorKind, ModelEvent, ModelInfo};
use fumehood_policy::deadline::Deadline;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tracing::Span;

const MOST_ORGS: usize = 100;
const MOST_TOOLS: usize = 200;
const MOST_HOOKS: usize = 100;
/// Calls of what is no tool.
const UNKNOWN: &str = "unknown";

static ORGS: LabelValues = LabelValues::new(MOST_ORGS);
static TOOLS: LabelValues = LabelValues::new(MOST_TOOLS);
static HOOKS: LabelValues = LabelValues::new(MOST_HOOKS);
/// Of orgs that have a label of their own; every other shares one.
static ORG_METERS: Mutex<BTreeMap<String, Arc<OrgMeters>>> = Mutex::new(BTreeMap::new());

const STATUSES: [(CallStatus, &str); 8] = [
    (CallStatus::Ok, "ok"),
    (CallStatus::Error, "error"),
    (CallStatus::Denied, "denied"),
    (CallStatus::Timeout, "timeout"),
    (CallStatus::Cancelled, "cancelled"),
    (CallStatus::Interrupted, "interrupted"),
    (CallStatus::RateLimited, "rate_limited"),
    (CallStatus::Trapped, "trapped"),
];

/// The word for a status, as on the wire.
pub(crate) fn status_word(status: CallStatus) -> &'static str {
    STATUSES
        .iter()
        .find(|(known, _)| *known == status)
        .map_or("error", |(_, word)| word)
}

/// The word for an error's code, as on the wire.
pub(crate) const fn code_word(code: CallErrorCode) -> &'static str {
    match code {
        CallErrorCode::InvalidArguments => "invalid_arguments",
        CallErrorCode::ToolNotFound => "tool_not_found",
        CallErrorCode::Denied => "denied",
        CallErrorCode::RateLimited => "rate_limited",
        CallErrorCode::Timeout => "timeout",
        CallErrorCode::Cancelled => "cancelled",
        CallErrorCode::Interrupted => "interrupted",
        CallErrorCode::Trapped => "trapped",
        CallErrorCode::OutputTooLarge => "output_too_large",
        CallErrorCode::Failed => "failed",
        CallErrorCode::Unavailable => "unavailable",
    }
}

const fn trap_word(trap: TrapKind) -> &'static str {
    match trap {
        TrapKind::Unreachable => "unreachable",
        TrapKind::Memory => "memory",
        TrapKind::Stack => "stack",
        TrapKind::Table => "table",
        TrapKind::Cpu => "cpu",
        TrapKind::Output => "output",
        TrapKind::HostCalls => "host_calls",
    }
}

/// One counter per status, made when it is first needed.
#[derive(Default)]
struct ByStatus([OnceLock<Counter>; STATUSES.len()]);

impl ByStatus {
    fn count(&self, status: CallStatus, make: impl FnOnce(&'static str) -> Counter) {
        if let Some(place) = STATUSES.iter().position(|(known, _)| *known == status) {
            self.0[place].get_or_init(|| make(STATUSES[place].1)).increment(1);
        }
    }
}

/// What is measured of one tool of one org.
pub(crate) struct ToolMeters {
    tool: String,
    org: Arc<OrgMeters>,
    calls: ByStatus,
    duration: Histogram,
    cpu: Histogram,
    memory: Histogram,
    host_calls: Histogram,
}

impl ToolMeters {
    pub(crate) fn new(org: &OrgName, tool: &str) -> Self {
        let tool = TOOLS.label(tool);
        Self {
            org: of_org(org),
            calls: ByStatus::default(),
            duration: histogram!(metric::TOOL_CALL_DURATION.name, "tool" => tool.clone()),
            cpu: histogram!(metric::TOOL_CALL_CPU.name, "tool" => tool.clone()),
            memory: histogram!(metric::TOOL_CALL_MEMORY.name, "tool" => tool.clone()),
            host_calls: histogram!(metric::TOOL_CALL_HOST_CALLS.name, "tool" => tool.clone()),
            tool,
        }
    }

    /// A call ended.
    #[expect(clippy::cast_precision_loss, reason = "buckets are far coarser")]
    pub(crate) fn record(&self, result: &CallResult, metering: &Metering, took: Duration) {
        let status = status_of(result);
        self.calls.count(
            status,
            |word| counter!(metric::TOOL_CALLS.name, "tool" => self.tool.clone(), "status" => word),
        );
        self.org.count_call(status);
        self.duration.record(took);
        // A call that was refused never was a guest: it would look like one that takes nothing.
        if metering.memory_peak > 0 {
            self.cpu.record(Duration::from_millis(metering.cpu_ms));
            self.memory.record(metering.memory_peak as f64);
            self.host_calls.record(metering.host_calls as f64);
        }
        let Err(error) = result else { return };
        if let Some(trap) = error.trap {
            counter!(metric::TOOL_TRAPS.name, "tool" => self.tool.clone(), "trap" => trap_word(trap)).increment(1);
        }
        if let Some(owner) = error.deadline {
            let tool = self.tool.clone();
            counter!(metric::TOOL_DEADLINES.name, "tool" => tool, "deadline" => owner.as_str()).increment(1);
        }
    }
}

/// A call of what is no tool of the org was refused.
pub(crate) fn refused_unknown(org: &OrgName, status: CallStatus) {
    counter!(metric::TOOL_CALLS.name, "tool" => UNKNOWN, "status" => status_word(status)).increment(1);
    of_org(org).count_call(status);
}

/// The driver refused a call that never came to a sandbox.
pub(crate) fn refused_before_a_call(org: &OrgName, tools: &OfferedTools, name: &str, error: &CallError) {
    match tools.get(name) {
        Ok(tool) => tool
            .meters
            .record(&Err(error.clone()), &Metering::default(), Duration::ZERO),
        Err(_) => refused_unknown(org, error.status()),
    }
}

/// One call, observed from its beginning to its end. Dropped without an end, it was cancelled: its caller left, or had no more time.
pub(crate) struct ObservedCall {
    pub(crate) span: Span,
    org: OrgName,
    tool: Option<Arc<InstalledTool>>,
    begun: Instant,
    deadline: Option<Deadline>,
    ended: bool,
    _running: OneMore,
}

impl ObservedCall {
    pub(crate) fn begin(scope: &CallScope, tools: &OfferedTools, id: CallId, tool: &ToolName) -> Self {
        Self {
            span: spans::call(scope, id, tool),
            org: scope.org.clone(),
            tool: tools.get(tool).ok().cloned(),
            begun: Instant::now(),
            deadline: scope.deadline().cloned(),
            ended: false,
            _running: OneMore::call(),
        }
    }

    pub(crate) fn end(mut self, result: &CallResult, metering: &Metering) {
        self.ended = true;
        self.count(result, metering);
        spans::call_ended(&self.span, result, metering);
    }

    fn count(&self, result: &CallResult, metering: &Metering) {
        match &self.tool {
            Some(tool) => tool.meters.record(result, metering, self.begun.elapsed()),
            None => refused_unknown(&self.org, status_of(result)),
        }
    }
}

impl Drop for ObservedCall {
    fn drop(&mut self) {
        if !self.ended {
            let passed = self
                .deadline
                .as_ref()
                .filter(|deadline| deadline.at() <= Instant::now());
            let error = match passed {
                Some(deadline) => deadline.error(),
                None => CallError::new(CallErrorCode::Cancelled, ""),
            };
            self.span.record("status", status_word(error.status()));
            if let Some(owner) = error.deadline {
                self.span.record("deadline", owner.as_str());
            }
            self.count(&Err(error), &Metering::default());
        }
    }
}

/// What was deleted because it was too old, or nobody needed it.
pub(crate) fn removed(kind: &'static str, count: u64) {
    counter!(metric::REMOVED.name, "kind" => kind).increment(count);
}

/// How far the clock is ahead of the time by which things are too old.
pub(crate) fn housekeeping_behind(ahead: Duration) {
    gauge!(metric::RETENTION_BEHIND.name).set(ahead.as_secs_f64());
}

/// There was no room to tell a hook.
pub(crate) fn hook_not_told(org: &OrgName, hook: &HookName) {
    hook_answered(hook, "dropped", None);
    counter!(metric::HOOKS_NOT_TOLD.name, "org" => of_org(org).org.clone()).increment(1);
}

/// A hook was asked or told.
pub(crate) fn hook_answered(hook: &HookName, outcome: &'static str, took: Option<Duration>) {
    let hook = HOOKS.label(hook);
    counter!(metric::HOOKS.name, "hook" => hook.clone(), "outcome" => outcome).increment(1);
    if let Some(took) = took {
        histogram!(metric::HOOK_DURATION.name, "hook" => hook).record(took);
    }
}

/// What is measured of one org.
pub(crate) struct OrgMeters {
    org: String,
    calls: ByStatus,
    sent: Counter,
    received: Counter,
    secrets: Counter,
}

impl OrgMeters {
    fn new(org: String) -> Self {
        Self {
            calls: ByStatus::default(),
            sent: counter!(metric::EGRESS_SENT.name, "org" => org.clone()),
            received: counter!(metric::EGRESS_RECEIVED.name, "org" => org.clone()),
            secrets: counter!(metric::SECRETS_USED.name, "org" => org.clone()),
            org,
        }
    }

    fn count_call(&self, status: CallStatus) {
        self.calls.count(
            status,
            |word| counter!(metric::ORG_TOOL_CALLS.name, "org" => self.org.clone(), "status" => word),
        );
    }

    fn count_egress(&self, outcome: &'static str) {
        counter!(metric::EGRESS_REQUESTS.name, "org" => self.org.clone(), "outcome" => outcome).increment(1);
    }
}

fn of_org(org: &OrgName) -> Arc<OrgMeters> {
    let mut meters = ORG_METERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = meters.get(org.as_str()) {
        return Arc::clone(known);
    }
    let label = ORGS.label(org);
    let made = meters
        .entry(label.clone())
        .or_insert_with(|| Arc::new(OrgMeters::new(label)));
    Arc::clone(made)
}

/// The door decided.
pub(crate) fn egress_decided(entry: &LedgerEntry) {
    let org = of_org(&entry.scope.org);
    if matches!(entry.outcome, EgressOutcome::Denied { .. }) {
        org.count_egress("denied");
        // THREAT[T-sec-log]: no path, query, header or body.
        tracing::info!(method = %entry.method, host = %entry.host, port = entry.port, rule = %entry.rule, "a request was denied");
    } else {
        org.secrets.increment(entry.secrets.len() as u64);
    }
}

/// What the door allowed is over.
pub(crate) fn egress_settled(settlement: &Settlement) {
    static DURATION: LazyLock<Histogram> = LazyLock::new(|| histogram!(metric::EGRESS_DURATION.name));
    let org = of_org(&settlement.scope.org);
    org.count_egress(match settlement.outcome {
        EgressOutcome::Completed { .. } => "completed",
        EgressOutcome::Denied { .. } => "denied",
        EgressOutcome::Started | EgressOutcome::Failed { .. } => "failed",
    });
    org.sent.increment(settlement.bytes_sent);
    org.received.increment(settlement.bytes_received);
    DURATION.record(Duration::from_millis(settlement.duration_ms));
}

/// Counts one more for as long as it lives.
pub(crate) struct OneMore(&'static Gauge);

impl OneMore {
    fn of(gauge: &'static Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }

    /// A turn that is worked.
    pub(crate) fn turn() -> Self {
        static TURNS: LazyLock<Gauge> = LazyLock::new(|| gauge!(metric::TURNS_RUNNING.name));
        Self::of(&TURNS)
    }

    /// A call under way.
    pub(crate) fn call() -> Self {
        static CALLS: LazyLock<Gauge> = LazyLock::new(|| gauge!(metric::TOOL_CALLS_RUNNING.name));
        Self::of(&CALLS)
    }

    /// A call that waits for its place.
    pub(crate) fn waiting_call() -> Self {
        static WAITING: LazyLock<Gauge> = LazyLock::new(|| gauge!(metric::TOOL_CALLS_WAITING.name));
        Self::of(&WAITING)
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// A fact of a turn was recorded; what ends the turn is counted.
pub(crate) fn turn_recorded(org: &OrgName, body: &EventBody, begun: Instant) {
    let status = match body {
        EventBody::TurnCompleted { .. } => TurnStatus::Completed,
        EventBody::TurnFailed { .. } => TurnStatus::Failed,
        EventBody::TurnCancelled { .. } => TurnStatus::Cancelled,
        _ => return,
    };
    let status = match status {
        TurnStatus::Completed => "completed",
        TurnStatus::Cancelled => "cancelled",
        _ => "failed",
    };
    counter!(metric::TURNS.name, "org" => of_org(org).org.clone(), "status" => status).increment(1);
    histogram!(metric::TURN_DURATION.name, "status" => status).record(begun.elapsed());
    spans::turn_ended(body, status, begun.elapsed());
}

/// One attempt at a model call. Dropped without an end, it was interrupted.
pub(crate) struct ModelCall {
    pub(crate) span: Span,
    model: String,
    begun: Instant,
    first: Option<Duration>,
    outcome: &'static str,
}

impl ModelCall {
    pub(crate) fn begin(session: SessionId, model: &ModelName, info: &ModelInfo) -> Self {
        Self {
            span: spans::chat(session, model, info),
            model: model.to_string(),
            begun: Instant::now(),
            first: None,
            outcome: "interrupted",
        }
    }

    /// Something of the answer came.
    pub(crate) fn came(&mut self, event: &ModelEvent) {
        if self.first.is_none() && !matches!(event, ModelEvent::Usage(_) | ModelEvent::Done { .. }) {
            self.first = Some(self.begun.elapsed());
        }
    }

    /// The answer is whole.
    pub(crate) fn answered(mut self, stop: StepStop, usage: Option<Usage>) {
        self.outcome = stop_word(stop);
        let usage = usage.unwrap_or_default();
        spans::answered(&self.span, self.outcome, usage);
        let kinds = [
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("cached_input", usage.cached_input_tokens),
            ("cache_write", usage.cache_write_tokens),
            ("reasoning", usage.reasoning_tokens),
        ];
        for (kind, tokens) in kinds {
            if let Some(tokens) = tokens {
                counter!(metric::MODEL_TOKENS.name, "model" => self.model.clone(), "kind" => kind).increment(tokens);
            }
        }
    }

    /// There is no answer.
    pub(crate) fn failed(mut self, kind: &ModelErrorKind) {
        self.outcome = model_error_word(kind);
        self.span.record("error", self.outcome);
    }
}

impl Drop for ModelCall {
    fn drop(&mut self) {
        counter!(metric::MODEL_CALLS.name, "model" => self.model.clone(), "outcome" => self.outcome).increment(1);
        histogram!(metric::MODEL_CALL_DURATION.name, "model" => self.model.clone()).record(self.begun.elapsed());
        if let Some(first) = self.first {
            histogram!(metric::MODEL_FIRST_TOKEN.name, "model" => self.model.clone()).record(first);
        }
    }
}

/// Why the model stopped, as on the wire.
pub(crate) const fn stop_word(stop: StepStop) -> &'static str {
    match stop {
        StepStop::Stop => "stop",
        StepStop::ToolCalls => "tool_calls",
        StepStop::Length => "length",
        StepStop::ContentFilter => "content_filter",
    }
}

/// How a model call failed, in one word.
pub(crate) const fn model_error_word(kind: &ModelErrorKind) -> &'static str {
    match kind {
        ModelErrorKind::RateLimited { .. } => "rate_limited",
        ModelErrorKind::Overloaded { .. } => "overloaded",
        ModelErrorKind::Unavailable { .. } => "unavailable",
        ModelErrorKind::Timeout { .. } => "timeout",
        ModelErrorKind::Incomplete => "incomplete",
        ModelErrorKind::Empty => "empty",
        ModelErrorKind::Auth => "auth",
        ModelErrorKind::OutOfCredit => "out_of_credit",
        ModelErrorKind::InvalidRequest => "invalid_request",
        ModelErrorKind::RequestTooLarge => "request_too_large",
        ModelErrorKind::ContextTooLong => "context_too_long",
        ModelErrorKind::UnknownModel => "unknown_model",
        ModelErrorKind::ContentFiltered => "content_filtered",
        ModelErrorKind::Protocol(_) => "protocol",
        ModelErrorKind::AnswerTooLarge => "answer_too_large",
        ModelErrorKind::Script(_) => "script",
    }
}
