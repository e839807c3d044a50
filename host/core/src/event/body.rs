//! The types of events.

use super::{
    catalogue::{EventKind, Life, event_bodies},
    parts::{CompactionReason, OutputChannel, TruncationReason, first, is_zero},
};
use crate::{
    Time,
    approval::{AskedApproval, ResolvedApproval},
    awaited::{AwaitedCall, ClientTool},
    call::{Arguments, CallError, CallStatus, ComponentRef, Metering, Output},
    content::Content,
    digest::Digest,
    hook::{HookFailureKind, HookMode, HookPoint},
    id::{CallId, CallbackId, JobId, TurnId},
    ledger::ShapeSeen,
    message::{Message, RequestedCall},
    money::Money,
    name::{AgentName, ComponentName, HookName, ModelName, SecretName, ToolName},
    rewind::{FilesRewound, ForkedFrom, OutsideEffect},
    tool::Effect,
    turn::{Budget, BudgetScope, Note, StepStop, StopReason, TurnError, Usage, WaitingFor},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

event_bodies! {
    /// A session was made.
    SessionCreated, "session.created", Recorded, {
        /// The agent that works its turns.
        agent: AgentName,
        /// A title for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        /// The session it is a fork of, and the last `seq` there that was looked at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        forked_from: Option<ForkedFrom>,
    };
    /// A piece of the conversation that a fork begins with; the pieces follow each other.
    SessionCopied, "session.copied", Recorded, {
        /// The messages, as the model is shown them.
        messages: Vec<Message>,
    };
    /// A session went back: of the conversation, what was recorded after `after` and before this is passed over.
    SessionRewound, "session.rewound", Recorded, {
        /// The last `seq` that still counts.
        after: u64,
        /// The turns that are undone, oldest first.
        turns: Vec<TurnId>,
        /// What became of the files: `restored`, `unchanged`, `kept` or `unavailable`.
        files: FilesRewound,
        /// What the turns did outside of the session, which is not undone; the first of it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        outside: Vec<OutsideEffect>,
        /// How much more of it there was.
        #[serde(default, skip_serializing_if = "is_zero")]
        outside_more: u64,
    };
    /// A session's title, metadata, agent or network list was changed.
    SessionUpdated, "session.updated", Recorded, {
        /// The names of the changed fields.
        changed: Vec<String>,
    };
    /// A turn was accepted.
    TurnQueued, "turn.queued", Recorded, {
        /// What the client sent.
        input: Vec<Content>,
        /// Instructions for this turn only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        system: Option<String>,
        /// What the client allows it to use.
        #[serde(default)]
        budget: Budget,
        /// What the answer must follow: a JSON Schema.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output_schema: Option<Value>,
        /// The tools that the client brings and runs itself.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tools: Vec<ClientTool>,
        /// Whether it is kept what its calls are answered from outside, so that it can be replayed. Its agent may want that as well.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        record: bool,
    };
    /// Work on a turn began.
    TurnStarted, "turn.started", Recorded, {
        /// The agent.
        agent: AgentName,
        /// The model it uses.
        model: ModelName,
        /// The host's tools that it may ask for.
        tools: Vec<ToolName>,
        /// Which code the components of these tools are.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        components: BTreeMap<ComponentName, Digest>,
        /// What it may use: the agent's budget narrowed by the turn's.
        budget: Budget,
        /// Names the state of the session's files as the turn found it, where that is kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<Digest>,
    };
    /// A turn ended with an answer.
    TurnCompleted, "turn.completed", Recorded, {
        /// Why it ended.
        stop_reason: StopReason,
        /// The answer.
        output: Vec<Content>,
        /// Tokens of all steps, as far as measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// What all steps cost, as far as it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Money>,
        /// How long the turn had been worked, in milliseconds: what budgets of sessions and orgs count. Set by whoever works it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worked_ms: Option<u64>,
    };
    /// A turn ended by an error.
    TurnFailed, "turn.failed", Recorded, {
        /// Why.
        error: TurnError,
        /// Tokens of all steps, as far as measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// What all steps cost, as far as it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Money>,
        /// How long the turn had been worked, in milliseconds: what budgets of sessions and orgs count. Set by whoever works it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worked_ms: Option<u64>,
    };
    /// A turn ended on request.
    TurnCancelled, "turn.cancelled", Recorded, {
        /// Tokens of all steps, as far as measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// What all steps cost, as far as it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Money>,
        /// How long the turn had been worked, in milliseconds: what budgets of sessions and orgs count. Set by whoever works it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worked_ms: Option<u64>,
    };
    /// A turn waits for somebody outside; nothing of it runs.
    TurnPaused, "turn.paused", Recorded, {
        /// For what.
        waiting_for: WaitingFor,
        /// How long the turn had been worked, in milliseconds: what budgets of sessions and orgs count. Set by whoever works it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worked_ms: Option<u64>,
    };
    /// What a paused turn waited for is there.
    TurnResumed, "turn.resumed", Recorded, {
        /// What it waited for.
        waited_for: WaitingFor,
    };
    /// A client added to its input while the turn ran; the model sees it in the next step.
    TurnSteered, "turn.steered", Recorded, {
        /// What it sent.
        input: Vec<Content>,
    };
    /// The model is about to be called.
    StepStarted, "step.started", Recorded, {
        /// Counts from 1 in the turn.
        step: u64,
        /// What the host tells the model before it; not part of what a user sees of the conversation.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<Note>,
        /// How long the turn had been worked, in milliseconds: without what it waited for somebody outside, or for a host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worked_ms: Option<u64>,
    };
    /// The model's answer is complete.
    StepCompleted, "step.completed", Recorded, {
        /// Counts from 1 in the turn.
        step: u64,
        /// Why the model stopped.
        stop_reason: StepStop,
        /// Tokens, absent where the provider gave none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// The model that answered, where it is not the turn's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<ModelName>,
        /// What it cost, where the model has a price and the provider counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Money>,
        /// Whether the provider did not count all of it: what is not known is charged to no budget.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unmeasured: bool,
        /// Tools whose calls were dropped because the answer was cut off or withheld.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        dropped_calls: Vec<String>,
        /// How long the turn had been worked, in milliseconds: what budgets of sessions and orgs count. Set by whoever works it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worked_ms: Option<u64>,
    };
    /// A model call that a stop of the host cut off is made anew. What its deltas told does not count.
    StepRestarted, "step.restarted", Recorded, {
        /// The step.
        step: u64,
    };
    /// A model call failed and will be tried again. The deltas of the step so far count for nothing: they begin anew.
    RetryScheduled, "retry.scheduled", Recorded, {
        /// The step.
        step: u64,
        /// Counts from 1 in the step: this is the retry that comes.
        attempt: u32,
        /// How many retries the step may have, those of all its models.
        max_attempts: u32,
        /// The wait before it, in milliseconds: the longest of what follows, or what is left of the time budget.
        delay_ms: u64,
        /// The wait that the number of failures gives.
        #[serde(default)]
        computed_delay_ms: u64,
        /// The wait that the provider asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_hint_ms: Option<u64>,
        /// Whether the wait is the least there is after a rate limit without a hint.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        rate_limit_floor_applied: bool,
        /// Whether the wait was cut to what is left of the time budget.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        budget_capped: bool,
        /// What failed.
        error: TurnError,
        /// The model that is asked then, where it is another one than before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<ModelName>,
        /// The model that failed, where it is not the turn's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed_model: Option<ModelName>,
        /// Tokens that the failed attempt took, as far as measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// What the failed attempt cost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Money>,
    };
    /// A step was given up: its answer did not come to its end, and is not asked for again. Told where the attempt was counted.
    StepFailed, "step.failed", Recorded, {
        /// Counts from 1 in the turn.
        step: u64,
        /// Why; absent where the turn was cancelled or its time was up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<TurnError>,
        /// Tokens that the attempt took, as far as measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// The model that was asked, where it is not the turn's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<ModelName>,
        /// What the attempt cost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Money>,
        /// Whether the provider did not count all of it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unmeasured: bool,
        /// How long the turn had been worked, in milliseconds: what budgets of sessions and orgs count. Set by whoever works it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worked_ms: Option<u64>,
    };
    /// A piece of visible text.
    TextDelta, "text.delta", Live, {
        /// The step.
        step: u64,
        /// Which piece of the step's text, from 0. 0 begins the text anew: what came of it before counts no more.
        index: u64,
        /// The piece.
        delta: String,
    };
    /// The visible text of a step.
    TextCompleted, "text.completed", Recorded, {
        /// The step.
        step: u64,
        /// The whole text.
        text: String,
    };
    /// A piece of the model's reasoning.
    ReasoningDelta, "reasoning.delta", Live, {
        /// The step.
        step: u64,
        /// Which piece of the step's reasoning, from 0. 0 begins it anew: what came of it before counts no more.
        index: u64,
        /// The piece.
        delta: String,
    };
    /// The model's reasoning in a step.
    ReasoningCompleted, "reasoning.completed", Recorded, {
        /// The step.
        step: u64,
        /// What may be shown of it.
        text: String,
        /// What the provider needs back. Opaque.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_state: Option<Value>,
    };
    /// The answer follows the turn's output schema.
    OutputValidated, "output.validated", Recorded, {
        /// Counts from 1: which attempt.
        attempt: u32,
        /// The answer as a value.
        value: Value,
    };
    /// The answer does not follow the turn's output schema.
    OutputRejected, "output.rejected", Recorded, {
        /// Counts from 1: which attempt.
        attempt: u32,
        /// Why, with places.
        faults: Vec<String>,
    };
    /// The model asked for a call. Every call of a step is requested before any starts.
    ToolRequested, "tool.requested", Recorded, {
        /// The step.
        step: u64,
        /// The call: `id`, `tool`, and `arguments` or `malformed_arguments`.
        call: RequestedCall,
    };
    /// A call began: its authority is computed, its arguments are checked, then it enters the sandbox. By this it is claimed.
    ToolStarted, "tool.started", Recorded, {
        /// The call.
        call: CallId,
        /// The tool.
        tool: ToolName,
        /// The component and its digest.
        component: ComponentRef,
        /// What the call may do, under every layer; absent: nothing, and its end says why. Never shown to a model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        authority: Option<Value>,
        /// What running it again would do: one that may run once does not run again.
        #[serde(default)]
        effect: Effect,
        /// The digest of the tool, the component and the exact arguments: one that runs again is the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fingerprint: Option<Digest>,
        /// How often it has begun, this time included.
        #[serde(default = "first")]
        attempt: u32,
        /// What it is called with, where that is not what the model gave.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        arguments: Option<Arguments>,
    };
    /// A call that could run again calls a tool that may run once: from here on neither runs again.
    ToolCommitted, "tool.committed", Recorded, {
        /// The call.
        call: CallId,
        /// The tool that it calls.
        tool: ToolName,
    };
    /// A call that could run again makes a call of another tool, which begins. By this that one is claimed: made once more, it is the same.
    ToolCalled, "tool.called", Recorded, {
        /// The call that could run again.
        call: CallId,
        /// The call that it makes, or that one of those makes: its idempotency key.
        made: CallId,
        /// The tool that is called.
        tool: ToolName,
        /// Its component and the digest of that.
        component: ComponentRef,
        /// The digest of the tool, the component and the exact arguments.
        fingerprint: Digest,
    };
    /// What a call was answered from outside is kept, so that it can be replayed; or why it is not.
    ToolRecorded, "tool.recorded", Recorded, {
        /// The call.
        call: CallId,
        /// The SHA-256 of what is kept; absent where nothing is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recording: Option<Digest>,
        /// How many bytes that has.
        #[serde(default, skip_serializing_if = "is_zero")]
        bytes: u64,
        /// Why nothing is kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        missing: Option<String>,
    };
    /// A tool hands its call on to somebody outside, who ends it. From here on the call does not run again, whatever its effect is.
    ToolDetached, "tool.detached", Recorded, {
        /// The call.
        call: CallId,
        /// The tool.
        tool: ToolName,
        /// What whoever ends it names it by.
        callback: CallbackId,
        /// The SHA-256 of the token that whoever ends it has to show. The token itself has only the tool.
        token: Digest,
        /// When the call ends without a result, if none has come.
        expires: Time,
        /// What the tool says of it, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    };
    /// What a tool returned that has handed its call on: what there is to say until the result comes. No model is shown it.
    ToolProvisional, "tool.provisional", Recorded, {
        /// The call.
        call: CallId,
        /// The tool.
        tool: ToolName,
        /// What it returned.
        output: Output,
        /// What it used.
        metering: Metering,
    };
    /// A call runs in the background, by the host: the turn goes on, and its `tool.completed` only says so.
    JobQueued, "job.queued", Recorded, {
        /// The job.
        job: JobId,
        /// The call.
        call: CallId,
        /// The tool.
        tool: ToolName,
        /// The component and its digest.
        component: ComponentRef,
        /// What running it again would do: one that may run once does not run again.
        effect: Effect,
        /// The digest of the tool, the component and the exact arguments: what runs is the same.
        fingerprint: Digest,
        /// What it is called with.
        arguments: Arguments,
        /// The agent that asked for it.
        agent: AgentName,
        /// Whether a person approved it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        approved: bool,
    };
    /// A job begins, or begins once more after a stop of the host.
    JobStarted, "job.started", Recorded, {
        /// The job.
        job: JobId,
        /// The call.
        call: CallId,
        /// How often it has begun, this time included.
        attempt: u32,
        /// What the call may do, under every layer; absent: nothing, and its end says why. Never shown to a model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        authority: Option<Value>,
    };
    /// A job ended. Its result is here and only here; the model is told once, before its next step in the session.
    JobCompleted, "job.completed", Recorded, {
        /// The job.
        job: JobId,
        /// The call.
        call: CallId,
        /// The tool.
        tool: ToolName,
        /// How it ended.
        status: CallStatus,
        /// What it returned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Output>,
        /// Why there is nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<CallError>,
        /// What it used.
        metering: Metering,
    };
    /// A tool says how far it is.
    ToolProgress, "tool.progress", Recorded, {
        /// The call.
        call: CallId,
        /// In words.
        message: String,
        /// From 0 to 1, if the tool knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fraction: Option<f32>,
    };
    /// A tool wrote output besides its result.
    ToolOutput, "tool.output", Recorded, {
        /// The call.
        call: CallId,
        /// Where it wrote.
        channel: OutputChannel,
        /// What it wrote, as text.
        chunk: String,
        /// Whether more was written than is kept.
        truncated: bool,
    };
    /// A call ended. Its result is here and only here.
    ToolCompleted, "tool.completed", Recorded, {
        /// The call.
        call: CallId,
        /// The tool, as the model named it.
        tool: String,
        /// How it ended.
        status: CallStatus,
        /// What it returned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Output>,
        /// Why there is nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<CallError>,
        /// What it used.
        metering: Metering,
    };
    /// Calls wait for a decision. What else the step asked for has run.
    ApprovalRequested, "approval.requested", Recorded, {
        /// The calls.
        calls: Vec<AskedApproval>,
    };
    /// Every call that waited for a decision has one.
    ApprovalResolved, "approval.resolved", Recorded, {
        /// What was decided.
        decisions: Vec<ResolvedApproval>,
    };
    /// Calls wait for results from outside. What else the step asked for has run.
    ResultsRequested, "results.requested", Recorded, {
        /// The calls.
        calls: Vec<AwaitedCall>,
    };
    /// A request passed every list and left.
    EgressAllowed, "egress.allowed", Recorded, {
        /// The call.
        call: CallId,
        /// The HTTP method.
        method: String,
        /// The host.
        host: String,
        /// The path, without query.
        path: String,
        /// The rule that allowed it.
        rule: String,
        /// What looked like a key in its URL and headers; the ledger tells of the bodies as well.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        shapes: Vec<ShapeSeen>,
    };
    /// A request was refused before a byte left.
    EgressDenied, "egress.denied", Recorded, {
        /// The call.
        call: CallId,
        /// The HTTP method.
        method: String,
        /// The host.
        host: String,
        /// The path, without query.
        path: String,
        /// Why, with the rule and its layer.
        reason: String,
    };
    /// A secret was used for a call; its value stayed in the host.
    SecretUsed, "secret.used", Recorded, {
        /// The call.
        call: CallId,
        /// The secret's name.
        secret: SecretName,
        /// The host it was sent to, or `sign`.
        used_for: String,
    };
    /// A limit stopped something.
    LimitReached, "limit.reached", Recorded, {
        /// The call, where one was stopped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<CallId>,
        /// Which limit.
        limit: String,
        /// In words.
        message: String,
    };
    /// The tools on offer have changed since the turn, or its step before, began. Calls that ran went on with the code they began with.
    ToolsChanged, "tools.changed", Recorded, {
        /// Tools that were not there before.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        added: Vec<ToolName>,
        /// Tools that are other code now.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        updated: Vec<ToolName>,
        /// Tools that are not there any more.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        removed: Vec<ToolName>,
        /// Which code the components of the tools on offer are now.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        components: BTreeMap<ComponentName, Digest>,
    };
    /// A hook has given a call other arguments than it was asked for with. These are what schema, policy and approval judge.
    HookChanged, "hook.changed", Recorded, {
        /// The hook.
        hook: HookName,
        /// The call.
        call: CallId,
        /// What it is called with instead, if nothing else refuses it.
        arguments: Arguments,
    };
    /// A hook has denied what was about to happen.
    HookDenied, "hook.denied", Recorded, {
        /// The hook.
        hook: HookName,
        /// Where in the turn.
        point: HookPoint,
        /// The call, where it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<CallId>,
        /// Why, in the hook's words.
        reason: String,
    };
    /// A hook gave no answer. Where it is a guard, what it was asked about is denied; where it observes, nothing comes of it.
    HookFailed, "hook.failed", Recorded, {
        /// The hook.
        hook: HookName,
        /// Where in the turn.
        point: HookPoint,
        /// Whether it guards or observes.
        mode: HookMode,
        /// The call, where it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<CallId>,
        /// How it failed.
        failure: HookFailureKind,
        /// The same in words.
        message: String,
    };
    /// The older part of the conversation is being summed up.
    CompactionStarted, "compaction.started", Recorded, {
        /// Why.
        reason: CompactionReason,
    };
    /// The older part of the conversation is summed up: the model is shown the first input, the summary, and what came last.
    CompactionCompleted, "compaction.completed", Recorded, {
        /// What stands for what is left out.
        summary: String,
        /// How many of the last messages are kept as they are.
        kept: u64,
        /// Estimated tokens of the conversation before.
        tokens_before: u64,
        /// Estimated tokens of the conversation after.
        tokens_after: u64,
        /// Tokens that the summary took; absent where no model made it, or the provider gave none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// What the summary cost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Money>,
    };
    /// The conversation could not be summed up, and stays as it is.
    CompactionFailed, "compaction.failed", Recorded, {
        /// Why, in words.
        message: String,
        /// Tokens that the attempt took.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// What the attempt cost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Money>,
    };
    /// Most of a budget is used, or all of it. Told once for each turn, session, or window of an org.
    BudgetWarning, "budget.warning", Recorded, {
        /// Whose budget.
        #[serde(default)]
        scope: BudgetScope,
        /// Which budget: `steps`, `tool_calls`, `tokens`, `time` or `cost`.
        budget: String,
        /// 80 or 100.
        percent: u8,
        /// How much was used; milliseconds of time, millionths of money.
        used: u64,
        /// How much there is.
        limit: u64,
    };
    /// A stream does not show every delta. What is recorded follows; of a text that has begun no more pieces are shown, and those that were count for nothing: it comes whole when it is complete.
    StreamTruncated, "stream.truncated", Live, {
        /// The last `seq` that the stream has shown.
        after: u64,
        /// The last `seq` that the journal had. What lies between follows at once, and can be read again after `after`.
        until: u64,
        /// `lagged`: the client read too slowly; `joined_late`: the text had begun when the client came.
        reason: TruncationReason,
    };
    /// A budget is used up; the turn ends with what it has.
    BudgetExhausted, "budget.exhausted", Recorded, {
        /// Whose budget.
        #[serde(default)]
        scope: BudgetScope,
        /// Which budget: `steps`, `tool_calls`, `tokens`, `time` or `cost`.
        budget: String,
        /// How much was used; milliseconds of time, millionths of money.
        used: u64,
        /// How much there was.
        limit: u64,
    };
}
