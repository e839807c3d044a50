use super::*;
use crate::{args::Color, out::Out};
use serde_json::{Value, json};

/// A turn as it is drawn: events go in, one line for each change comes out.
#[derive(Default)]
struct Turn {
    view: View,
    ms: u64,
}

impl Turn {
    fn see(&mut self, kind: &str, data: &Value) -> Vec<String> {
        self.ms += 500;
        let time = Time::from_timestamp_millis(i64::try_from(self.ms).unwrap()).unwrap();
        let event = json!({
            "id": "evt_00000000000000000000000000000001", "time": time, "org": "default",
            "session": "ses_00000000000000000000000000000002", "turn": "trn_00000000000000000000000000000001",
            "source": {"kind": "host"}, "type": kind, "data": data,
        });
        let event: Event = serde_json::from_value(event).unwrap();
        self.view.see(&event).iter().map(shown).collect()
    }

    fn see_all(&mut self, events: &[(&str, Value)]) -> Vec<String> {
        events.iter().flat_map(|(kind, data)| self.see(kind, data)).collect()
    }
}

fn shown(draw: &Draw) -> String {
    let row = |line: &Line| line.settled(Out::new(false, Color::Never), None);
    let name = |running: &Running| match running {
        Running::Model => "model".to_owned(),
        Running::Compaction => "compaction".to_owned(),
        Running::Call(call) => events::short(call),
    };
    match draw {
        Draw::Answer(text) => format!("answer {text:?}"),
        Draw::AnswerEnds => "answer ends".to_owned(),
        Draw::Settled(line) => row(line),
        Draw::Begins(running, line) => format!("begins {}: {}", name(running), row(line)),
        Draw::Says(running, says) => format!("says {}: {says}", name(running)),
        Draw::Ends(running) => format!("ends {}", name(running)),
        Draw::AllEnd => "all end".to_owned(),
    }
}

fn call(number: u32) -> String {
    format!("call_{number:032x}")
}

fn requested(number: u32, tool: &str, arguments: &Value) -> (&'static str, Value) {
    let call = json!({"id": call(number), "tool": tool, "arguments": arguments});
    ("tool.requested", json!({"step": 1, "call": call}))
}

fn started(number: u32, tool: &str) -> (&'static str, Value) {
    let component = json!({"name": "calc", "digest": format!("sha256:{}", "0".repeat(64))});
    (
        "tool.started",
        json!({"call": call(number), "tool": tool, "component": component}),
    )
}

fn completed(number: u32, tool: &str, status: &str, ms: u64, result: Value) -> (&'static str, Value) {
    let metering = json!({"duration_ms": ms, "cpu_ms": 1, "memory_peak": 1, "host_calls": 0, "http_requests": 0});
    let mut data = json!({"call": call(number), "tool": tool, "status": status, "metering": metering});
    let key = if result.get("code").is_some() {
        "error"
    } else {
        "output"
    };
    data[key] = result;
    ("tool.completed", data)
}

fn step(number: u64) -> (&'static str, Value) {
    ("step.started", json!({"step": number}))
}

/// A piece that goes on with what came before.
fn delta(text: &str) -> (&'static str, Value) {
    ("text.delta", json!({"step": 1, "index": 1, "delta": text}))
}

fn text(text: &str) -> (&'static str, Value) {
    ("text.completed", json!({"step": 1, "text": text}))
}

fn begin(budget: &Value) -> (&'static str, Value) {
    (
        "turn.started",
        json!({"agent": "assistant", "model": "main", "tools": [], "budget": budget}),
    )
}

fn end(reason: &str) -> (&'static str, Value) {
    ("turn.completed", json!({"stop_reason": reason, "output": []}))
}

#[test]
fn a_turn_with_calls_side_by_side_reads_from_top_to_bottom() {
    let seen = Turn::default().see_all(&[
        (
            "turn.queued",
            json!({"input": [{"type": "text", "text": "go"}], "budget": {}}),
        ),
        begin(&json!({})),
        step(1),
        ("reasoning.delta", json!({"step": 1, "index": 0, "delta": "Hm"})),
        delta("I'll "),
        delta("look."),
        text("I'll look."),
        requested(1, "add", &json!({"a": 1})),
        requested(2, "fetch", &json!({"url": "x"})),
        ("step.completed", json!({"step": 1, "stop_reason": "tool_calls"})),
        started(1, "add"),
        started(2, "fetch"),
        (
            "tool.progress",
            json!({"call": call(1), "message": "half", "fraction": 0.5}),
        ),
        completed(
            2,
            "fetch",
            "denied",
            3,
            json!({"code": "denied", "message": "no rule\nallows it"}),
        ),
        completed(
            1,
            "add",
            "ok",
            1_250,
            json!({"content": [{"type": "text", "text": "3"}]}),
        ),
        step(2),
        delta("3"),
        text("3"),
        ("step.completed", json!({"step": 2, "stop_reason": "stop"})),
        (
            "turn.completed",
            json!({"stop_reason": "end_turn", "output": [], "usage": {"input_tokens": 1200, "output_tokens": 34}}),
        ),
    ]);
    assert_eq!(
        seen,
        [
            "begins model: · waiting for its turn",
            "begins model: · waiting for the model",
            "says model: thinking",
            "ends model",
            "answer \"I'll \"",
            "answer \"look.\"",
            "answer ends",
            "ends model",
            r#"begins 000001: · add({"a":1})"#,
            r#"begins 000002: · fetch({"url":"x"})"#,
            "says 000001: half (50 %)",
            "ends 000002",
            r#"✗ fetch({"url":"x"}) denied, 3 ms"#,
            "  no rule allows it",
            "ends 000001",
            r#"✓ add({"a":1}) 1.2 s"#,
            "begins model: · waiting for the model",
            "ends model",
            "answer \"3\"",
            "answer ends",
            "ends model",
            "all end",
            "· 2 steps, 2 calls, 1,234 tokens (1,200 in, 34 out), 9.0 s",
        ]
    );
}

#[test]
fn the_last_line_says_how_much_of_what_was_used() {
    let mut turn = Turn::default();
    turn.see_all(&[
        begin(&json!({"steps": 50, "tool_calls": 1, "tokens": 200_000, "time_ms": 600_000, "cost": 1.5})),
        step(1),
    ]);
    let usage = json!({"input_tokens": 12_000, "output_tokens": 345, "cached_input_tokens": 8_000, "cache_write_tokens": 3_000});
    let seen = turn.see(
        "turn.completed",
        &json!({"stop_reason": "tool_call_limit", "output": [], "usage": usage, "cost": 0.0123}),
    );
    assert_eq!(
        seen,
        [
            "all end",
            "✗ stopped: the turn's budget of tool calls is used up",
            "· 1 of 50 steps, 0 of 1 call, 12,345 of 200,000 tokens (12,000 in, 8,000 of them cached, \
             3,000 written to the cache, 345 out), cost 0.0123 of 1.50, 1.0 s of 10 min",
        ]
    );
}

#[test]
fn what_nobody_counted_is_not_told() {
    let seen = Turn::default().see_all(&[begin(&json!({})), step(1), end("end_turn")]);
    assert_eq!(seen.last().unwrap(), "· 1 step, 0 calls, 1.0 s");
    let partly = json!({"stop_reason": "end_turn", "output": [], "usage": {"output_tokens": 5}});
    let seen = Turn::default().see("turn.completed", &partly);
    assert_eq!(seen.last().unwrap(), "· 0 steps, 0 calls, 5 tokens (5 out)");
}

#[test]
fn every_end_but_the_usual_one_is_told_with_its_reason() {
    for (reason, says) in [
        (
            "output_limit",
            "stopped: the answer is as long as the model's answers may be",
        ),
        ("content_filter", "stopped: the provider withheld the answer"),
        (
            "session_cost_limit",
            "stopped: the session's budget of money is used up",
        ),
        ("repetition", "stopped: the model went on repeating itself"),
    ] {
        let seen = Turn::default().see_all(&[end(reason)]);
        assert_eq!(seen[1], format!("✗ {says}"));
    }
    assert_eq!(Turn::default().see_all(&[end("end_turn")]).len(), 2);
    let failed = Turn::default().see(
        "turn.failed",
        &json!({"error": {"code": "model_auth", "message": "the key was refused"}}),
    );
    assert_eq!(failed[..2], ["all end", "✗ failed: the key was refused"]);
    let cancelled = Turn::default().see("turn.cancelled", &json!({}));
    assert_eq!(cancelled[..2], ["all end", "✗ cancelled"]);
}

#[test]
fn a_text_that_came_only_in_part_is_completed() {
    let seen = |events: &[_]| Turn::default().see_all(events);
    assert_eq!(
        seen(&[delta("one "), text("one two")]),
        ["ends model", "answer \"one \"", "answer \"two\"", "answer ends"]
    );
    assert_eq!(
        seen(&[delta("wo"), text("two")]),
        [
            "ends model",
            "answer \"wo\"",
            "answer ends",
            "answer \"two\"",
            "answer ends"
        ]
    );
    let anew = ("text.delta", json!({"step": 1, "index": 0, "delta": "two"}));
    assert_eq!(
        seen(&[delta("wo"), anew, text("two")]),
        [
            "ends model",
            "answer \"wo\"",
            "answer ends",
            "answer \"two\"",
            "answer ends"
        ]
    );
    assert_eq!(seen(&[text("two")]), ["ends model", "answer \"two\"", "answer ends"]);
    assert_eq!(
        seen(&[delta("on"), ("turn.cancelled", json!({}))])[2..4],
        ["all end", "answer ends"],
        "nothing completes it any more"
    );
}

#[test]
fn what_happens_beside_the_answer_is_a_quiet_line_each() {
    let error = json!({"code": "model_rate_limited", "message": "the provider limits the rate; the turn can be tried again later"});
    let retry = |more: Value| {
        let mut data = json!({"step": 1, "attempt": 1, "max_attempts": 4, "delay_ms": 1500, "error": error});
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("retry.scheduled", data)
    };
    for (event, says) in [
        (retry(json!({})), "the provider limits the rate; retry 1 of 4 in 1.5 s"),
        (
            retry(json!({"model": "spare", "delay_ms": 0})),
            "the provider limits the rate; asking spare instead",
        ),
        (
            (
                "compaction.completed",
                json!({"summary": "s", "kept": 4, "tokens_before": 12_000, "tokens_after": 900}),
            ),
            "the conversation is summed up: about 12,000 tokens before, 900 now",
        ),
        (
            ("compaction.failed", json!({"message": "no summary came"})),
            "the conversation is not summed up: no summary came",
        ),
        (
            (
                "budget.warning",
                json!({"budget": "steps", "percent": 80, "used": 8, "limit": 10}),
            ),
            "80 % of the turn's budget of steps used: 8 of 10",
        ),
        (
            (
                "budget.exhausted",
                json!({"scope": "org", "budget": "cost", "used": 1_500_000, "limit": 1_500_000}),
            ),
            "the org's budget of cost used up: 1.50 of 1.50",
        ),
        (
            ("turn.steered", json!({"input": [{"type": "text", "text": "shorter"}]})),
            "added meanwhile: shorter",
        ),
        (
            ("output.rejected", json!({"attempt": 1, "faults": ["/a: not a number"]})),
            "the answer breaks the output schema: /a: not a number",
        ),
        (
            ("tools.changed", json!({"added": ["sub"]})),
            "the tools have changed: added: sub",
        ),
        (
            (
                "egress.denied",
                json!({"call": call(1), "method": "GET", "host": "a.example", "path": "/x", "reason": "no rule"}),
            ),
            "denied: GET a.example/x: no rule",
        ),
        (
            (
                "hook.denied",
                json!({"hook": "audit", "point": "before_turn", "reason": "not today"}),
            ),
            "the hook audit denied it: not today",
        ),
        (
            (
                "hook.failed",
                json!({"hook": "audit", "point": "before_turn", "mode": "guard", "failure": "timeout", "message": "5 s"}),
            ),
            "the hook audit gave no answer: 5 s",
        ),
        (
            ("limit.reached", json!({"limit": "turns", "message": "1 per minute"})),
            "limit turns: 1 per minute",
        ),
        (
            (
                "step.completed",
                json!({"step": 1, "stop_reason": "length", "dropped_calls": ["add"]}),
            ),
            "the answer was cut off, calls dropped: add",
        ),
        (
            (
                "step.started",
                json!({"step": 2, "notes": [{"kind": "repetition", "text": "You repeat yourself."}]}),
            ),
            "the model repeats itself, and was told so",
        ),
    ] {
        let seen = Turn::default().see_all(&[event]);
        let quiet: Vec<_> = seen.iter().filter(|line| line.starts_with('·')).collect();
        assert_eq!(quiet, [&format!("· {says}")]);
    }
}

#[test]
fn a_call_that_a_hook_changed_is_shown_as_it_runs() {
    let mut turn = Turn::default();
    turn.see_all(&[requested(1, "add", &json!({"a": 1}))]);
    let changed = json!({"hook": "audit", "call": call(1), "arguments": {"a": 2}});
    assert_eq!(
        turn.see("hook.changed", &changed),
        ["· the hook audit gives add other arguments"]
    );
    let (kind, data) = started(1, "add");
    assert_eq!(turn.see(kind, &data), [r#"begins 000001: · add({"a":2})"#]);
}

#[test]
fn while_a_person_is_asked_nothing_moves() {
    let mut turn = Turn::default();
    turn.see_all(&[requested(1, "send", &json!({"to": "a"}))]);
    let asked = json!({"call_id": call(1), "tool": "send", "arguments": {"to": "a"}, "rule": "r",
        "fingerprint": format!("sha256:{}", "0".repeat(64)), "expires": "1970-01-02T00:00:00Z"});
    assert_eq!(turn.see("approval.requested", &json!({"calls": [asked]})), ["all end"]);
    assert!(turn.see("turn.paused", &json!({"waiting_for": "approval"})).is_empty());
    let decided = |more: Value| json!({"decisions": [more]});
    assert_eq!(
        turn.see(
            "approval.resolved",
            &decided(json!({"call_id": call(1), "decision": "approved", "arguments": {"to": "b"}}))
        ),
        [r#"✓ send({"to":"b"}) approved"#]
    );
    assert_eq!(
        turn.see(
            "approval.resolved",
            &decided(json!({"call_id": call(1), "decision": "rejected", "feedback": "not today"}))
        ),
        [r#"✗ send({"to":"a"}) rejected: not today"#]
    );
}

#[test]
fn nothing_that_a_model_or_a_tool_says_drives_the_terminal() {
    const HOSTILE: &str = "a\u{1b}[2J\u{9b}1A\rb\u{7}";
    let mut turn = Turn::default();
    let hostile = json!({"x": HOSTILE});
    let seen = turn.see_all(&[
        delta(HOSTILE),
        text(HOSTILE),
        (
            "tool.requested",
            json!({"step": 1, "call": {"id": call(1), "tool": HOSTILE, "arguments": hostile}}),
        ),
        (
            "tool.requested",
            json!({"step": 1, "call": {"id": call(2), "tool": "t", "malformed_arguments": HOSTILE}}),
        ),
        started(1, "add"),
        ("tool.progress", json!({"call": call(1), "message": HOSTILE})),
        completed(1, HOSTILE, "error", 1, json!({"code": "failed", "message": HOSTILE})),
        completed(
            2,
            "t",
            "error",
            1,
            json!({"content": [{"type": "text", "text": HOSTILE}], "is_error": true}),
        ),
        (
            "turn.failed",
            json!({"error": {"code": "internal", "message": HOSTILE}}),
        ),
    ]);
    assert_eq!(seen.iter().filter(|line| line.contains("[2J")).count(), 8, "{seen:#?}");
    for line in seen {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}
