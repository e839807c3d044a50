use super::*;
use fumehood_core::{
    awaited::AwaitedCall,
    call::{Arguments, CallResult, ComponentRef, Output},
    id::{CallbackId, JobId},
    now,
};
use serde_json::json;

/// The tools that there are: their code has their name, with a `2` once it was updated.
#[derive(Default)]
struct Tools(Vec<(Digest, ToolDefinition)>);

impl Tools {
    fn and(mut self, name: &str, code: &str, effect: Effect, read_only: bool) -> Self {
        let definition = ToolDefinition {
            name: name.parse().unwrap(),
            title: None,
            description: String::new(),
            input_schema: json!({"type": "object"}),
            output_schema: None,
            effect,
            read_only,
            destructive: false,
            open_world: true,
        };
        self.0.push((Digest::of(code.as_bytes()), definition));
        self
    }
}

impl Says for Tools {
    fn says(&self, tool: &str) -> Option<(Digest, &ToolDefinition)> {
        let found = self.0.iter().find(|(_, says)| *says.name == *tool);
        found.map(|(code, says)| (*code, says))
    }
}

fn tools() -> Tools {
    Tools::default()
        .and("send", "send", Effect::AtMostOnce, false)
        .and("put", "put", Effect::Idempotent, false)
        .and("sum", "sum", Effect::Pure, false)
        .and("look", "look", Effect::AtMostOnce, true)
        .and("updated", "updated2", Effect::Pure, false)
}

fn code(tool: &str) -> ComponentRef {
    ComponentRef {
        name: "things".parse().unwrap(),
        digest: Digest::of(tool.as_bytes()),
    }
}

fn starts(call: CallId, tool: &str) -> EventBody {
    EventBody::ToolStarted {
        call,
        tool: tool.parse().unwrap(),
        component: code(tool),
        authority: None,
        effect: Effect::AtMostOnce,
        fingerprint: None,
        attempt: 1,
        arguments: None,
    }
}

fn hands_over(call: CallId, tool: &str) -> EventBody {
    EventBody::ResultsRequested {
        calls: vec![AwaitedCall {
            call_id: call,
            tool: tool.parse().unwrap(),
            arguments: Arguments::new(),
            expires: now(),
            note: None,
        }],
    }
}

fn hands_on(call: CallId, tool: &str) -> EventBody {
    EventBody::ToolDetached {
        call,
        tool: tool.parse().unwrap(),
        callback: CallbackId::new(),
        token: Digest::of(b""),
        expires: now(),
        note: None,
    }
}

fn commits(call: CallId) -> EventBody {
    EventBody::ToolCommitted {
        call,
        tool: "send".parse().unwrap(),
    }
}

fn ends(call: CallId, tool: &str, result: CallResult, metering: Metering) -> EventBody {
    EventBody::tool_completed(call, tool.to_owned(), result, metering)
}

fn refusal(code: CallErrorCode) -> CallResult {
    Err(CallError::new(code, "no"))
}

fn request(call: CallId, method: &str) -> EventBody {
    EventBody::EgressAllowed {
        call,
        method: method.into(),
        host: "api.example.com".into(),
        path: "/v1/orders".into(),
        rule: "api.example.com".into(),
        shapes: Vec::new(),
    }
}

const NOTHING: Metering = Metering {
    duration_ms: 0,
    cpu_ms: 0,
    memory_peak: 0,
    host_calls: 0,
    http_requests: 0,
};
/// What the least call takes.
const LITTLE: Metering = Metering {
    memory_peak: 65_536,
    ..NOTHING
};

fn found_in(events: &[EventBody]) -> (Vec<OutsideEffect>, u64) {
    let tools = tools();
    let mut looked = Looked::with(&tools);
    events.iter().for_each(|event| looked.at(event));
    looked.found()
}

/// The tools of the calls that are named.
fn named_in(events: &[EventBody]) -> Vec<String> {
    let (found, more) = found_in(events);
    assert_eq!(more, 0);
    let tool = |effect| match effect {
        OutsideEffect::Call { tool, .. } => tool,
        OutsideEffect::Request { method, .. } => method,
    };
    found.into_iter().map(tool).collect()
}

/// The same for one call of a tool that the host ran, and that ended so.
fn named_of(tool: &str, result: CallResult, metering: Metering) -> Vec<String> {
    let call = CallId::new();
    named_in(&[starts(call, tool), ends(call, tool, result, metering)])
}

fn fine() -> CallResult {
    Ok(Output::default())
}

#[test]
fn a_request_is_named_with_its_call_and_where_it_went_unless_it_only_asks() {
    let call = CallId::new();
    let methods = ["GET", "POST", "HEAD", "DELETE", "PROPFIND"];
    let events = methods.map(|method| request(call, method));
    let sent = |method: &str| OutsideEffect::Request {
        call,
        method: method.into(),
        host: "api.example.com".into(),
        path: "/v1/orders".into(),
    };
    assert_eq!(
        found_in(&events),
        (vec![sent("POST"), sent("DELETE"), sent("PROPFIND")], 0)
    );
}

#[test]
fn a_call_is_named_unless_its_tool_says_that_running_it_again_is_harmless() {
    let call = CallId::new();
    let events = [starts(call, "send"), ends(call, "send", fine(), LITTLE)];
    let tool = "send".to_owned();
    assert_eq!(found_in(&events).0, [OutsideEffect::Call { call, tool }]);
    for harmless in ["put", "sum", "look"] {
        assert!(named_of(harmless, fine(), LITTLE).is_empty(), "{harmless}");
    }
}

#[test]
fn a_call_that_failed_on_its_way_is_named() {
    for code in [
        CallErrorCode::Failed,
        CallErrorCode::Trapped,
        CallErrorCode::Timeout,
        CallErrorCode::Interrupted,
    ] {
        assert_eq!(named_of("send", refusal(code), NOTHING), ["send"], "{code:?}");
    }
}

const REFUSED: [CallErrorCode; 3] = [
    CallErrorCode::Denied,
    CallErrorCode::RateLimited,
    CallErrorCode::InvalidArguments,
];

#[test]
fn a_call_that_is_refused_before_it_runs_is_not_named() {
    for code in REFUSED {
        assert!(named_of("send", refusal(code), NOTHING).is_empty(), "{code:?}");
    }
    let call = CallId::new();
    let unbegun = ends(call, "send", refusal(CallErrorCode::Denied), NOTHING);
    assert!(named_in(&[unbegun]).is_empty());
}

#[test]
fn a_call_that_ran_and_whose_result_was_withheld_is_named() {
    for code in REFUSED {
        assert_eq!(named_of("send", refusal(code), LITTLE), ["send"], "{code:?}");
        assert!(named_of("sum", refusal(code), LITTLE).is_empty(), "{code:?}");
    }
}

#[test]
fn a_call_that_was_cut_off_by_a_cancel_is_named_if_it_had_begun() {
    let cancelled = || refusal(CallErrorCode::Cancelled);
    assert_eq!(named_of("send", cancelled(), NOTHING), ["send"]);
    assert!(named_in(&[ends(CallId::new(), "send", cancelled(), NOTHING)]).is_empty());
}

#[test]
fn a_call_that_the_client_was_to_run_is_named_however_it_ended() {
    let ways = [
        fine(),
        refusal(CallErrorCode::Denied),
        refusal(CallErrorCode::Timeout),
        refusal(CallErrorCode::Cancelled),
    ];
    for result in ways {
        let call = CallId::new();
        // It is no tool of the host's, though one may have its name by now.
        let events = [hands_over(call, "sum"), ends(call, "sum", result.clone(), NOTHING)];
        assert_eq!(named_in(&events), ["sum"], "{result:?}");
    }
}

#[test]
fn a_call_that_its_tool_handed_on_is_named_though_what_was_given_for_it_is_withheld() {
    for (tool, named) in [("send", &["send"][..]), ("put", &[])] {
        let call = CallId::new();
        let end = ends(call, tool, refusal(CallErrorCode::Denied), NOTHING);
        assert_eq!(
            named_in(&[starts(call, tool), hands_on(call, tool), end]),
            named,
            "{tool}"
        );
    }
}

#[test]
fn a_call_that_called_a_tool_that_may_run_once_is_named_whatever_it_says_of_itself() {
    let call = CallId::new();
    let events = [
        starts(call, "sum"),
        commits(call),
        hands_on(call, "sum"),
        ends(call, "sum", fine(), LITTLE),
    ];
    assert_eq!(named_in(&events), ["sum"]);
}

fn job(call: CallId, tool: &str) -> [EventBody; 2] {
    let queued = EventBody::JobQueued {
        job: JobId::new(),
        call,
        tool: tool.parse().unwrap(),
        component: code(tool),
        effect: Effect::AtMostOnce,
        fingerprint: Digest::of(b""),
        arguments: Arguments::new(),
        agent: "assistant".parse().unwrap(),
        approved: false,
    };
    [queued, ends(call, tool, fine(), NOTHING)]
}

#[test]
fn a_job_is_named_as_a_call_is_though_its_end_is_not_there_yet() {
    for (tool, named) in [("send", &["send"][..]), ("sum", &[])] {
        assert_eq!(named_in(&job(CallId::new(), tool)), named, "{tool}");
    }
}

#[test]
fn a_job_that_calls_a_tool_that_may_run_once_is_named_once_whatever_it_says_of_itself() {
    for tool in ["sum", "removed"] {
        let call = CallId::new();
        let [queued, begun] = job(call, tool);
        assert_eq!(named_in(&[queued, begun, commits(call)]), [tool]);
    }
    let other = commits(CallId::new());
    assert!(named_in(&[other]).is_empty(), "one that another turn began");
}

#[test]
fn a_call_of_code_that_is_gone_is_named_because_nobody_knows_what_it_said() {
    assert_eq!(named_of("updated", fine(), LITTLE), ["updated"], "another code now");
    assert_eq!(named_of("removed", fine(), LITTLE), ["removed"]);
}

#[test]
fn the_first_hundred_are_named_and_the_rest_is_counted() {
    let calls: Vec<_> = (0..103).map(|_| CallId::new()).collect();
    let sent: Vec<_> = calls.iter().map(|call| request(*call, "POST")).collect();
    let (found, more) = found_in(&sent[..100]);
    assert_eq!((found.len(), more), (100, 0));
    let (found, more) = found_in(&sent);
    let of = |effect: &OutsideEffect| match effect {
        OutsideEffect::Request { call, .. } | OutsideEffect::Call { call, .. } => *call,
    };
    assert_eq!(found.iter().map(of).collect::<Vec<_>>(), calls[..100]);
    assert_eq!(more, 3);
}
