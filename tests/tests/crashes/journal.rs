//! What a journal must tell, wherever the host died.

use serde_json::{Value, json};

pub(crate) fn assert_begins_with(events: &[Value], read: &[Value]) {
    assert!(events.len() >= read.len(), "what was shown is gone: {read:#?}");
    assert_eq!(&events[..read.len()], read, "what was shown is other than it was");
}

pub(crate) fn of<'e>(events: &'e [Value], kind: &'e str) -> impl Iterator<Item = &'e Value> {
    events.iter().filter(move |event| event["type"] == kind)
}

pub(crate) fn one_end(events: &[Value], turn: &str) {
    let ends = ["turn.completed", "turn.failed", "turn.cancelled"];
    let ends = ends.iter().flat_map(|kind| of(events, kind));
    let ends: Vec<_> = ends.filter(|event| event["turn"] == turn).collect();
    assert_eq!(ends.len(), 1, "one end of {turn}: {ends:?}");
}

pub(crate) fn called(events: &[Value]) -> Vec<Value> {
    of(events, "tool.requested")
        .map(|event| event["data"]["call"]["id"].clone())
        .collect()
}

pub(crate) fn one_result(events: &[Value], call: &Value) {
    let count = |kind| of(events, kind).filter(|event| event["data"]["call"] == *call).count();
    assert_eq!(count("tool.completed"), 1, "one result of {call}");
    let Some(started) = of(events, "tool.started").find(|event| event["data"]["call"] == *call) else {
        return;
    };
    if started["data"]["effect"] == "at-most-once" {
        assert_eq!(count("tool.started"), 1, "{call} may start once");
    } else {
        let given_up = of(events, "turn.failed")
            .any(|end| end["turn"] == started["turn"] && end["data"]["error"]["code"] == "interrupted");
        let mut ends = of(events, "tool.completed").filter(|event| event["data"]["call"] == *call);
        let status = ends.next().map(|event| &event["data"]["status"]);
        // The turn that goes on without end is steered, never cancelled.
        assert!(
            given_up || status == Some(&json!("ok")),
            "{call} may run again, so it ends well: {status:?}"
        );
    }
}
