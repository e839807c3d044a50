//! The shapes of what lower crates put on the wire, for the API's description only. Those crates know nothing of HTTP, so
//! their types are described here; a test checks real answers against these descriptions.
#![allow(dead_code, reason = "read by the derive, never made")]

mod schedules;

pub(crate) use self::schedules::{IfBusy, Misfire, When};

use fumehood_core::event::EventBody;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Object, ObjectBuilder, RefOr, Type, schema::Schema},
};

/// One piece of content.
#[derive(ToSchema, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Content {
    /// Plain text.
    Text { text: String },
    /// A JSON value.
    Json { json: Value },
    /// An image; `data` is base64.
    Image { media_type: String, data: String },
    /// A sound; `data` is base64.
    Audio { media_type: String, data: String },
    /// A file of the session's workspace.
    File { path: String },
}

/// Where a turn is.
#[derive(ToSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TurnStatus {
    Queued,
    Running,
    AwaitingApproval,
    AwaitingResults,
    Completed,
    Failed,
    Cancelled,
}

/// Why a completed turn ended.
#[derive(ToSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StopReason {
    EndTurn,
    OutputLimit,
    ContentFilter,
    StepLimit,
    ToolCallLimit,
    TokenLimit,
    CostLimit,
    SessionTokenLimit,
    SessionCostLimit,
    SessionToolCallLimit,
    SessionStepLimit,
    OrgTokenLimit,
    OrgCostLimit,
    OrgToolCallLimit,
    OrgStepLimit,
    Repetition,
}

/// Tokens, as the provider counted them; a count it did not give is absent.
#[derive(ToSchema, Serialize)]
pub(crate) struct Usage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cached_input_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
}

/// Why a turn failed.
#[derive(ToSchema, Serialize)]
pub(crate) struct TurnError {
    /// For programs: `model_unavailable`, `model_rate_limited`, `model_auth`, `model_rejected`, `context_too_long`,
    /// `model_protocol`, `empty_answer`, `time_limit`, `output_invalid`, `hook_denied`, `configuration`, `interrupted`, `diverged`,
    /// `journal_unreadable` or `internal`.
    code: String,
    /// For people.
    message: String,
}

/// A call that waits for a decision.
#[derive(ToSchema, Serialize)]
pub(crate) struct Approval {
    /// `call_…`
    call_id: String,
    tool: String,
    /// Exactly what it will be called with.
    arguments: Map<String, Value>,
    /// The rule that asks, in words.
    rule: String,
    /// SHA-256 of the tool, its code and the arguments: a decision is about these and no others.
    fingerprint: String,
    /// When it counts as rejected if nobody has decided.
    #[schema(format = DateTime)]
    expires: String,
}

/// A call whose result the turn waits for.
#[derive(ToSchema, Serialize)]
pub(crate) struct Awaited {
    /// `call_…`
    call_id: String,
    tool: String,
    /// What the tool is called with: they follow its schema.
    arguments: Map<String, Value>,
    /// When the call ends without a result, if none has come.
    #[schema(format = DateTime)]
    expires: String,
    /// What the model is told with the result.
    note: Option<String>,
}

/// A call that a tool handed on to somebody outside, who ends it.
#[derive(ToSchema, Serialize)]
pub(crate) struct Detached {
    /// `call_…`
    call_id: String,
    tool: String,
    /// `cbk_…`: what whoever ends it names it by. Not secret.
    callback: String,
    /// When the call ends without a result, if none has come.
    #[schema(format = DateTime)]
    expires: String,
    /// What the tool says of it.
    note: Option<String>,
}

/// A turn and what came of it so far.
#[derive(ToSchema, Serialize)]
pub(crate) struct Turn {
    /// `trn_…`
    id: String,
    /// `ses_…`
    session: String,
    status: TurnStatus,
    /// The answer; empty until the turn is completed.
    output: Vec<Content>,
    stop_reason: Option<StopReason>,
    error: Option<TurnError>,
    usage: Option<Usage>,
    /// What it cost in the currency of the operator's price tables, as far as it is known.
    cost: Option<f64>,
    /// The calls that wait for a decision: `POST /v1/turns/{turn}/approvals` takes it.
    approvals: Vec<Approval>,
    /// The calls whose results the turn waits for: `POST /v1/turns/{turn}/results` takes them.
    awaited: Vec<Awaited>,
    /// The calls that tools handed on: whoever they were handed to ends them.
    detached: Vec<Detached>,
    /// When it was accepted.
    #[schema(format = DateTime)]
    created: String,
    /// When it ended.
    #[schema(format = DateTime)]
    ended: Option<String>,
    /// Set when it was undone: the conversation passes over it.
    undone: Option<bool>,
}

/// What became of a session's files when it went back.
#[derive(ToSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FilesRewound {
    /// They are as they were.
    Restored,
    /// Nothing had changed.
    Unchanged,
    /// They were left as they are, as asked.
    Kept,
    /// They were left as they are: what they were is not kept.
    Unavailable,
}

/// Where a session comes from that is a fork.
#[derive(ToSchema, Serialize)]
pub(crate) struct ForkedFrom {
    /// `ses_…`
    session: String,
    /// The last `seq` of its journal that was looked at.
    seq: u64,
}

/// Something done outside of a session.
#[derive(ToSchema, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum OutsideEffect {
    /// A request other than `GET` and `HEAD`.
    Request {
        call: String,
        method: String,
        host: String,
        path: String,
    },
    /// A call that ran, of a tool that does not say that running it again is harmless.
    Call { call: String, tool: String },
}

/// What the turns of one agent took with one model on one day.
#[derive(ToSchema, Serialize)]
pub(crate) struct UsageOfDay {
    /// In UTC.
    #[schema(format = Date)]
    day: String,
    /// Absent where it is not known.
    agent: Option<String>,
    /// Absent where it is not known.
    model: Option<String>,
    /// Model calls, with those that gave no answer.
    calls: u64,
    /// Of how many the provider did not count all.
    unmeasured_calls: u64,
    /// Steps whose model answered, or that took something.
    steps: u64,
    /// Calls of tools that the model asked for.
    tool_calls: u64,
    /// For how long turns were worked, in milliseconds, with the model that they were begun with or that answered last.
    worked_ms: u64,
    usage: Usage,
    /// In the currency of the operator's price tables, as far as it is known.
    cost: Option<f64>,
}

/// How much of a part of a budget is used: a count, money, or milliseconds.
#[derive(ToSchema, Serialize)]
pub(crate) struct BudgetShare {
    used: f64,
    /// Held for model calls that run.
    held: f64,
    limit: f64,
}

/// Where the org's budget stands.
#[derive(ToSchema, Serialize)]
pub(crate) struct OrgBudget {
    /// `day` or `month`.
    per: String,
    tokens: Option<BudgetShare>,
    cost: Option<BudgetShare>,
    tool_calls: Option<BudgetShare>,
    steps: Option<BudgetShare>,
    /// For how long turns are worked.
    time_ms: Option<BudgetShare>,
    /// When it begins anew.
    #[schema(format = DateTime)]
    resets: String,
}

/// A page of usage.
#[derive(ToSchema, Serialize)]
pub(crate) struct UsagePage {
    /// The newest day first.
    items: Vec<UsageOfDay>,
    /// Pass it as `cursor` to get the items after these; absent on the last page.
    next: Option<String>,
    /// Absent where the org has none.
    budget: Option<OrgBudget>,
}

/// One message of what a model is shown.
#[derive(ToSchema, Serialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub(crate) enum Message {
    /// What the client sent.
    User { content: Vec<Content> },
    /// What the model answered in one step: `text`, `reasoning` and `tool_call` parts in the order they came.
    Assistant { parts: Vec<Map<String, Value>> },
    /// The result of one call: `{"output": {…}}` or `{"error": {…}}`.
    Tool {
        call: String,
        tool: String,
        result: Map<String, Value>,
    },
}

/// What a tool returned.
#[derive(ToSchema, Serialize)]
pub(crate) struct Output {
    /// For the model and for people, in order.
    content: Vec<Content>,
    /// For programs; follows the tool's output schema if it has one.
    structured: Option<Value>,
    /// The tool ran, and says that what it was asked to do did not work.
    #[serde(default)]
    is_error: bool,
}

/// Why a call has no output.
#[derive(ToSchema, Serialize)]
pub(crate) struct CallError {
    code: CallErrorCode,
    /// What happened, why, and what to do.
    message: String,
    /// Set when `code` is `trapped`: `unreachable`, `memory`, `stack`, `table`, `cpu`, `output` or `host_calls`.
    trap: Option<String>,
    /// When trying again may help, in milliseconds from now.
    retry_after_ms: Option<u64>,
    /// Set when a deadline ended the call: whose. `time_limit`, `host_default`, `host_ceiling`, `turn_budget`, `client`, `caller`,
    /// `callback`, `drain` or `job`.
    deadline: Option<String>,
}

/// Why a call failed, for programs.
#[derive(ToSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CallErrorCode {
    InvalidArguments,
    ToolNotFound,
    Denied,
    RateLimited,
    Timeout,
    Cancelled,
    Interrupted,
    Trapped,
    OutputTooLarge,
    Failed,
    Unavailable,
}

/// How a call ended, in one word.
#[derive(ToSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CallStatus {
    Ok,
    Error,
    Denied,
    Timeout,
    Cancelled,
    Interrupted,
    RateLimited,
    Trapped,
}

/// What one call used.
#[derive(ToSchema, Serialize)]
pub(crate) struct Metering {
    /// From accepted to ended, waiting included.
    duration_ms: u64,
    /// CPU time in the guest.
    cpu_ms: u64,
    /// The most linear memory the guest had, in bytes.
    memory_peak: u64,
    host_calls: u64,
    /// Refused ones included.
    http_requests: u64,
}

/// A function that a component exports and that can't be a tool.
#[derive(ToSchema, Serialize)]
pub(crate) struct LeftOut {
    /// Its full name.
    function: String,
    /// Why, and what its author could do.
    why: String,
}

/// A tool's definition. The hints inform people and models; they never authorise.
#[derive(ToSchema, Serialize)]
pub(crate) struct ToolDefinition {
    /// `[a-z0-9_]{1,64}`
    name: String,
    title: Option<String>,
    description: String,
    /// JSON Schema (2020-12) of the arguments, an object.
    input_schema: Value,
    output_schema: Option<Value>,
    /// What a re-run would do outside: `pure`, `idempotent` or `at-most-once`.
    effect: String,
    read_only: bool,
    destructive: bool,
    open_world: bool,
}

/// Network rules. `deny` wins; a list without `allow` does not narrow; an empty `allow` allows nothing.
#[derive(ToSchema, Serialize)]
#[schema(example = json!({"allow": ["https://api.example.com/v1"]}))]
pub(crate) struct NetworkList {
    /// `[METHOD[,METHOD] ][scheme://]host[:port][/path]`
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
}

/// How far an access goes.
#[derive(ToSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Access {
    None,
    Read,
    ReadWrite,
}

/// How far a session's calls may go with its files; or that and the files it begins with.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub(crate) enum SessionFiles {
    Access(Access),
    WithStarter {
        /// Absent: as granted.
        access: Option<Access>,
        /// At most 100 files.
        starter: Option<Vec<StarterFile>>,
    },
}

/// A file that a session begins with: `content` or `content_base64`.
#[derive(ToSchema, Serialize)]
pub(crate) struct StarterFile {
    /// Relative to `/workspace`.
    path: String,
    content: Option<String>,
    content_base64: Option<String>,
    /// Nobody changes, moves or deletes it; it goes with the session.
    #[serde(default)]
    read_only: bool,
}

/// What an org lets a component do: the manifest's keys. What is absent is not granted; absent limits are as requested.
#[derive(ToSchema, Serialize)]
#[schema(example = json!({"network": {"allow": ["https://api.example.com/v1"]}, "files": {"workspace": "read"}}))]
pub(crate) struct Grant {
    network: Option<NetworkList>,
    /// `{secret, hosts?, inject?}` each.
    credential: Option<Vec<Map<String, Value>>>,
    /// `{workspace, paths?}`
    files: Option<Map<String, Value>>,
    /// `{access}`
    kv: Option<Map<String, Value>>,
    /// `{sign: […]}`
    secrets: Option<Map<String, Value>>,
    /// `{call: […]}`
    tools: Option<Map<String, Value>>,
    /// `{detach: true, background: […]}`
    jobs: Option<Map<String, Value>>,
    /// `{names: […]}`
    env: Option<Map<String, Value>>,
    /// Such as `{"memory": "64MiB", "cpu": "2s"}`.
    limits: Option<Map<String, Value>>,
    /// Such as `{"calls": "60/min"}`.
    rate: Option<Map<String, Value>>,
}

/// What a component may do, and why not more.
#[derive(ToSchema, Serialize)]
pub(crate) struct Authority {
    /// Which of its tools the agent offers the model.
    tools: Vec<OfferedTool>,
    /// One for each thing asked, then each limit.
    capabilities: Vec<ExplainedCapability>,
}

/// Whether an agent offers a tool.
#[derive(ToSchema, Serialize)]
pub(crate) struct OfferedTool {
    tool: String,
    /// The agents whose `tools` list does not name it, as `agent NAME`; none: it is offered.
    cut_by: Vec<String>,
}

/// One capability: what is asked, what is left of it, and which layers cut it.
#[derive(ToSchema, Serialize)]
pub(crate) struct ExplainedCapability {
    /// `network`, `credential`, `files`, `kv`, `sign`, `call_tools`, `detach`, `background`, `env`, `limit` or `rate`.
    capability: String,
    /// As the manifest writes it; absent where it asks for nothing and gets a default.
    asked: Option<String>,
    /// `all`, `part` or `none` of it is left.
    extent: String,
    /// What is left, as a manifest would write it.
    has: Vec<String>,
    /// Whether there is more left than `has` and `cuts` list: too much to be said.
    more: Option<bool>,
    /// Rules that refuse what `has` names.
    except: Option<Vec<AuthorityException>>,
    /// Which layers cut it, each by itself.
    cuts: Option<Vec<AuthorityCut>>,
}

/// A `deny` rule that takes something out.
#[derive(ToSchema, Serialize)]
pub(crate) struct AuthorityException {
    /// `request`, `grant`, `agent NAME`, `session` or `host`.
    layer: String,
    rule: String,
}

/// What one layer leaves of what was asked.
#[derive(ToSchema, Serialize)]
pub(crate) struct AuthorityCut {
    /// `grant`, `agent NAME`, `session` or `host`.
    layer: String,
    /// What this layer alone would leave; nothing: none of it.
    left: Vec<String>,
    /// The `deny` rule that did it; absent where no rule allows it.
    rule: Option<String>,
    /// How to change that.
    change: String,
}

/// One egress decision: never a query, header value or body.
#[derive(ToSchema, Serialize)]
pub(crate) struct LedgerEntry {
    /// `led_…`
    id: String,
    #[schema(format = DateTime)]
    time: String,
    org: String,
    session: Option<String>,
    turn: Option<String>,
    call: String,
    tool: String,
    component: String,
    method: String,
    scheme: String,
    host: String,
    port: u16,
    /// Without query.
    path: String,
    query_bytes: u64,
    /// The rule that decided, and its layer.
    rule: String,
    /// The address connected to, once known.
    address: Option<String>,
    /// Names of the secrets that were injected.
    secrets: Vec<String>,
    /// `started`, `completed`, `denied` or `failed`.
    outcome: String,
    /// The HTTP status, when completed.
    status: Option<u16>,
    /// Why, when denied or failed.
    reason: Option<String>,
    bytes_sent: u64,
    bytes_received: u64,
    duration_ms: u64,
    /// What looked like a key of a known kind, and where; absent when nothing did. It was not blocked.
    shapes: Option<Vec<ShapeSeen>>,
}

/// A text that looks like a key: never the text itself.
#[derive(ToSchema, Serialize)]
pub(crate) struct ShapeSeen {
    /// `github_token`, `aws_access_key`, `sk_key`, `slack_token`, `google_api_key`, `json_web_token` or `private_key`.
    kind: String,
    /// `request_url`, `request_headers`, `request_body`, `response_headers` or `response_body`.
    place: String,
}

/// A journal entry, or something shown live. Clients ignore types they do not know.
pub(crate) struct Event;

impl PartialSchema for Event {
    fn schema() -> RefOr<Schema> {
        let text = |doc: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(doc));
        let types = EventBody::CATALOGUE
            .iter()
            .map(|kind| format!("- `{}`: {}", kind.name, kind.doc.trim()));
        let types = format!(
            "What happened. Types of this version:\n{}",
            types.collect::<Vec<_>>().join("\n")
        );
        let any = |doc: &str| ObjectBuilder::new().schema_type(Type::Object).description(Some(doc));
        let schema = ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("id", text("`evt_…`"))
            .property(
                "seq",
                integer("Place in the session's journal, gapless from 1. Absent on live events: the deltas, and `stream.truncated`."),
            )
            .property("type", text(&types))
            .property("time", text("RFC 3339."))
            .property("org", text("The org."))
            .property("session", text("`ses_…`"))
            .property("turn", text("`trn_…`, where the event belongs to a turn."))
            .property(
                "source",
                any("Who says so: `kind` is `client`, `host`, `schedule`, `model`, `tool` or `egress`."),
            )
            .property("data", any("What the type tells."));
        let needed = ["id", "type", "time", "org", "session", "source", "data"];
        let schema = needed.into_iter().fold(schema, ObjectBuilder::required);
        schema
            .description(Some(
                "A journal entry, or something shown live. Clients ignore types they do not know.",
            ))
            .into()
    }
}

impl ToSchema for Event {}

fn integer(doc: &str) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .description(Some(doc))
        .build()
}

/// A refusal or failure (RFC 9457). Some codes add members, such as `field`, `limit` or `turn`.
#[derive(ToSchema)]
pub(crate) struct Problem {
    /// `urn:fumehood:problem:CODE`
    r#type: String,
    /// The same for every problem of the code.
    title: String,
    status: u16,
    /// What happened, why, and what to do.
    detail: String,
    code: crate::problem::ProblemCode,
}

/// What becomes of an input while the session is busy.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "described only")]
pub(crate) enum Mode {
    Reject,
    Queue,
    Steer,
}
