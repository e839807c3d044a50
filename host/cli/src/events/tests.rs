use super::*;
use crate::args::Color;
use fumehood_core::event::Life;
use serde_json::json;

const CALL: &str = "call_0000000000000000000000000abcdef0";
const JOB: &str = "job_00000000000000000000000000000004";
const TURN: &str = "trn_00000000000000000000000000000001";

fn shown(kind: &str, data: &Value) -> Option<String> {
    let event = json!({
        "id": "evt_00000000000000000000000000000001", "seq": 7, "time": "1970-01-01T00:00:00Z", "org": "default",
        "session": "ses_00000000000000000000000000000002", "turn": TURN, "source": {"kind": "host"},
        "type": kind, "data": data,
    });
    line(Out::new(false, Color::Never), &event)
}

/// One event of each type, and how it reads.
fn examples() -> Vec<(&'static str, Value, &'static str)> {
    let asked = json!({"call_id": CALL, "tool": "send", "arguments": {"to": "a"}, "rule": "r",
        "fingerprint": format!("sha256:{}", "0".repeat(64)), "expires": "1970-01-02T00:00:00Z"});
    let metering = json!({"duration_ms": 12, "cpu_ms": 1, "memory_peak": 1, "host_calls": 0, "http_requests": 0});
    let error = json!({"code": "model_unavailable", "message": "the provider is busy"});
    let usage = json!({"input_tokens": 1200, "output_tokens": 34});
    let egress = |key: &str| json!({"call": CALL, "method": "GET", "host": "a.example", "path": "/x", key: "no rule"});
    vec![
        (
            "session.created",
            json!({"agent": "assistant", "title": "notes"}),
            "session with agent assistant, notes",
        ),
        (
            "session.copied",
            json!({"messages": []}),
            "begins with 0 copied messages",
        ),
        (
            "session.rewound",
            json!({"after": 3, "turns": [TURN], "files": "restored", "outside_more": 2}),
            "back to 3: 1 turn undone, files restored, 2 effects outside not undone",
        ),
        (
            "session.updated",
            json!({"changed": ["title", "agent"]}),
            "changed: title, agent",
        ),
        (
            "turn.queued",
            json!({"input": [{"type": "text", "text": "hi\nthere"}], "budget": {}}),
            "you: hi there",
        ),
        (
            "turn.started",
            json!({"agent": "assistant", "model": "main", "tools": ["add"], "budget": {}}),
            "agent assistant on model main, 1 tool",
        ),
        (
            "turn.completed",
            json!({"stop_reason": "step_limit", "output": [], "usage": usage, "cost": 0.25}),
            "completed (step limit), 1,234 tokens, cost 0.25",
        ),
        ("turn.failed", json!({"error": error}), "failed: the provider is busy"),
        ("turn.cancelled", json!({}), "cancelled"),
        ("turn.paused", json!({"waiting_for": "approval"}), "waits for approval"),
        (
            "turn.resumed",
            json!({"waited_for": "results"}),
            "goes on after results",
        ),
        (
            "turn.steered",
            json!({"input": [{"type": "text", "text": "shorter"}]}),
            "you, meanwhile: shorter",
        ),
        (
            "step.started",
            json!({"step": 2, "notes": [{"kind": "repetition", "text": "You repeat yourself."}]}),
            "step 2, the model is told: You repeat yourself.",
        ),
        (
            "step.completed",
            json!({"step": 1, "stop_reason": "length", "usage": usage, "model": "spare", "dropped_calls": ["add"]}),
            "step 1 (length) by spare, 1,234 tokens, cut off, calls dropped: add",
        ),
        (
            "step.restarted",
            json!({"step": 3}),
            "step 3 is begun anew: the host was stopped",
        ),
        (
            "retry.scheduled",
            json!({"step": 1, "attempt": 1, "max_attempts": 4, "delay_ms": 500, "error": error, "model": "spare"}),
            "the provider is busy; retry 1 of 4 of spare in 500 ms",
        ),
        (
            "retry.scheduled",
            json!({"step": 1, "attempt": 2, "max_attempts": 4, "delay_ms": 500,
                "error": {"code": "model_unavailable", "message": "the provider is busy; the turn can be tried again later"}}),
            "the provider is busy; retry 2 of 4 in 500 ms",
        ),
        (
            "step.failed",
            json!({"step": 1, "error": error}),
            "step 1 given up: the provider is busy",
        ),
        ("text.completed", json!({"step": 1, "text": "hello"}), "model: hello"),
        ("reasoning.completed", json!({"step": 1, "text": "hm"}), "thinks: hm"),
        (
            "output.validated",
            json!({"attempt": 2, "value": {"a": 1}}),
            r#"attempt 2: {"a":1}"#,
        ),
        (
            "output.rejected",
            json!({"attempt": 1, "faults": ["/a: not a number"]}),
            "attempt 1: /a: not a number",
        ),
        (
            "tool.requested",
            json!({"step": 1, "call": {"id": CALL, "tool": "add", "arguments": {"a": 1}}}),
            r#"bcdef0 add({"a":1})"#,
        ),
        (
            "tool.started",
            json!({"call": CALL, "tool": "add",
                "component": {"name": "calc", "digest": format!("sha256:{}", "0".repeat(64))}}),
            "bcdef0 runs add in the sandbox",
        ),
        (
            "tool.started",
            json!({"call": CALL, "tool": "add", "attempt": 2,
                "component": {"name": "calc", "digest": format!("sha256:{}", "0".repeat(64))}}),
            "bcdef0 runs add in the sandbox again: the host was stopped",
        ),
        (
            "tool.committed",
            json!({"call": CALL, "tool": "send"}),
            "bcdef0 calls send, which may run once",
        ),
        (
            "tool.called",
            json!({"call": CALL, "made": CALL, "tool": "add", "fingerprint": format!("sha256:{}", "0".repeat(64)),
                "component": {"name": "calc", "digest": format!("sha256:{}", "0".repeat(64))}}),
            "bcdef0 calls add, as bcdef0",
        ),
        (
            "tool.recorded",
            json!({"call": CALL, "recording": format!("sha256:{}", "0".repeat(64)), "bytes": 700}),
            "bcdef0 is recorded: 700 bytes",
        ),
        (
            "tool.detached",
            json!({"call": CALL, "tool": "build", "callback": "cbk_00000000000000000000000000000003", "note": "build 7",
                "token": format!("sha256:{}", "0".repeat(64)), "expires": "1970-01-02T00:00:00Z"}),
            "bcdef0 of build is handed on as cbk_00000000000000000000000000000003, until 1970-01-02 00:00:00: build 7",
        ),
        (
            "tool.provisional",
            json!({"call": CALL, "tool": "build", "output": {"content": [{"type": "text", "text": "build 7 runs"}]},
                "metering": metering}),
            "bcdef0 goes on outside: build 7 runs",
        ),
        (
            "job.queued",
            json!({"job": JOB, "call": CALL, "tool": "crawl", "effect": "pure", "arguments": {}, "agent": "assistant",
                "component": {"name": "crawler", "digest": format!("sha256:{}", "0".repeat(64))},
                "fingerprint": format!("sha256:{}", "0".repeat(64))}),
            "bcdef0 runs crawl in the background, as job_00000000000000000000000000000004",
        ),
        (
            "job.started",
            json!({"job": JOB, "call": CALL, "attempt": 2}),
            "job_00000000000000000000000000000004 begins again: the host was stopped",
        ),
        (
            "job.completed",
            json!({"job": JOB, "call": CALL, "tool": "crawl", "status": "timeout", "metering": metering,
                "error": {"code": "timeout", "message": "too late"}}),
            "job_00000000000000000000000000000004 timeout: too late",
        ),
        (
            "tool.progress",
            json!({"call": CALL, "message": "half", "fraction": 0.5}),
            "bcdef0 half (50 %)",
        ),
        (
            "tool.output",
            json!({"call": CALL, "channel": "stderr", "chunk": "a\tb", "truncated": true}),
            "bcdef0 writes to stderr: a b (cut)",
        ),
        (
            "tool.completed",
            json!({"call": CALL, "tool": "add", "status": "rate_limited", "metering": metering,
                "error": {"code": "rate_limited", "message": "not now"}}),
            "bcdef0 ✗ rate limited 12 ms: not now",
        ),
        (
            "approval.requested",
            json!({"calls": [asked]}),
            r#"waits for a decision: call_0000000000000000000000000abcdef0 send({"to":"a"})"#,
        ),
        (
            "approval.resolved",
            json!({"decisions": [{"call_id": CALL, "decision": "rejected", "feedback": "not today"}]}),
            "bcdef0 rejected (not today)",
        ),
        ("egress.allowed", egress("rule"), "allowed GET a.example/x by no rule"),
        ("egress.denied", egress("reason"), "denied GET a.example/x: no rule"),
        (
            "secret.used",
            json!({"call": CALL, "secret": "KEY", "used_for": "a.example"}),
            "secret KEY used for a.example",
        ),
        (
            "limit.reached",
            json!({"limit": "tool_calls", "message": "1 per minute"}),
            "limit tool_calls: 1 per minute",
        ),
        (
            "tools.changed",
            json!({"added": ["add", "sub"], "removed": ["mul"]}),
            "added: add, sub; removed: mul",
        ),
        (
            "hook.changed",
            json!({"hook": "audit", "call": CALL, "arguments": {"a": 2}}),
            r#"audit gives bcdef0 other arguments: {"a":2}"#,
        ),
        (
            "hook.denied",
            json!({"hook": "audit", "point": "before_tool_call", "call": CALL, "reason": "not today"}),
            "audit before tool call bcdef0: not today",
        ),
        (
            "hook.failed",
            json!({"hook": "audit", "point": "before_turn", "mode": "guard", "failure": "timeout", "message": "5 s"}),
            "audit (guard) before turn (timeout): 5 s",
        ),
        (
            "results.requested",
            json!({"calls": [{"call_id": CALL, "tool": "locate", "arguments": {"room": "lab"}, "expires": "2026-01-01T00:00:00Z"}]}),
            r#"waits for results of the client: call_0000000000000000000000000abcdef0 locate({"room":"lab"})"#,
        ),
        (
            "compaction.started",
            json!({"reason": "nearly_full"}),
            "summing up the conversation (nearly full)",
        ),
        (
            "compaction.completed",
            json!({"summary": "s", "kept": 4, "tokens_before": 12000, "tokens_after": 900, "usage": usage}),
            "about 12,000 tokens before, 900 now, the last 4 messages kept, 1,234 tokens",
        ),
        (
            "compaction.failed",
            json!({"message": "no summary came"}),
            "the conversation stays as it is: no summary came",
        ),
        (
            "budget.warning",
            json!({"scope": "session", "budget": "time", "percent": 80, "used": 480_000, "limit": 600_000}),
            "80 % of the session's budget of time used: 8 min of 10 min",
        ),
        (
            "budget.exhausted",
            json!({"budget": "tool_calls", "used": 1000, "limit": 1000}),
            "the turn's budget of tool calls used up: 1,000 of 1,000",
        ),
    ]
}

#[test]
fn every_recorded_event_has_a_line() {
    for (kind, data, says) in examples() {
        assert_eq!(
            shown(kind, &data).as_deref(),
            Some(&*format!("  7 {kind:<20} {says}")),
            "{kind}"
        );
    }
    let shown: Vec<_> = examples().iter().map(|(kind, ..)| *kind).collect();
    for kind in EventBody::CATALOGUE {
        assert_eq!(kind.life == Life::Recorded, shown.contains(&kind.name), "{}", kind.name);
    }
}

#[test]
fn what_is_only_live_has_none() {
    assert_eq!(shown("text.delta", &json!({"step": 1, "index": 0, "delta": "x"})), None);
    assert_eq!(
        shown("reasoning.delta", &json!({"step": 1, "index": 0, "delta": "x"})),
        None
    );
}

#[test]
fn what_a_newer_host_tells_is_shown_as_it_came() {
    assert_eq!(
        shown("moon.risen", &json!({"phase": "full\u{1b}[2J"})).unwrap(),
        r#"  7 moon.risen           {"phase":"full\u001b[2J"}"#
    );
    assert_eq!(
        shown("turn.completed", &json!({"stop_reason": "bliss", "output": []})).unwrap(),
        r#"  7 turn.completed       {"stop_reason":"bliss","output":[]}"#
    );
}

#[test]
fn no_event_drives_the_terminal() {
    const HOSTILE: &str = "a\u{1b}[2J\u{9b}1A\rb\u{202e}c\nd";
    let hostile = [
        ("text.completed", json!({"step": 1, "text": HOSTILE})),
        (
            "tool.progress",
            json!({"call": CALL, "message": HOSTILE, "fraction": 9.0}),
        ),
        (
            "tool.requested",
            json!({"step": 1, "call": {"id": CALL, "tool": HOSTILE, "malformed_arguments": HOSTILE}}),
        ),
        (
            "step.completed",
            json!({"step": 1, "stop_reason": "length", "dropped_calls": [HOSTILE]}),
        ),
        ("moon\u{1b}[2J", json!({})),
    ];
    for (kind, data) in hostile {
        let line = shown(kind, &data).unwrap();
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
    }
}

#[test]
fn a_time_is_told_as_a_person_says_it() {
    assert_eq!(
        [0, 999, 1_250, 59_999, 60_000, 605_000].map(duration),
        ["0 ms", "999 ms", "1.2 s", "59.9 s", "1 min", "10 min 5 s"]
    );
}

#[test]
fn a_call_that_waits_is_shown_with_all_its_arguments() {
    let arguments = json!({"aside": "x".repeat(1000), "url": "https://evil.example/\u{202e}"});
    let shown = waiting(
        Out::new(false, Color::Never),
        &json!({"call_id": "call_1", "tool": "http_get", "arguments": arguments}),
    );
    assert!(shown.contains("https://evil.example/"), "{shown}");
    assert!(!shown.contains('\u{202e}'), "{shown}");
}
