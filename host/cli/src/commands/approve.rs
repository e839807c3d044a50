//! Deciding about calls that wait for a person: `fumehood turn approve`, and the questions that `fumehood run` asks.
//!
//! What is shown is what would run. Characters that make a text read otherwise than it is are written out.

use crate::{
    args::Approve,
    client::Client,
    out::{Out, Style, list, number, plain, tell, text},
    terminal::{self, LONGEST_LINE},
};
use anyhow::{Context as _, anyhow, bail};
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::io::IsTerminal as _;

/// Decides about calls of a turn, as the command line says, and returns the turn when it has ended or waits again.
pub(crate) async fn approve(out: Out, client: &Client, args: &Approve) -> anyhow::Result<Value> {
    let turn = client.get(&format!("/v1/turns/{}", args.id)).await?;
    let waiting = list(&turn, "approvals");
    let Some(first) = waiting.first() else {
        bail!("the turn waits for no decision: it is {}", text(&turn, "status"));
    };
    for call in &args.call {
        if !waiting.iter().any(|one| text(one, "call_id") == call.to_string()) {
            let ids: Vec<_> = waiting.iter().map(|one| text(one, "call_id")).collect();
            bail!(
                "the call {call} waits for no decision; those that wait: {}",
                ids.join(", ")
            );
        }
    }
    let is_named =
        |one: &Value| args.call.is_empty() || args.call.iter().any(|id| id.to_string() == text(one, "call_id"));
    let edited = args.arguments.as_deref().map(object).transpose()?;
    if edited.is_some() && waiting.iter().filter(|one| is_named(one)).count() != 1 {
        bail!("--arguments are those of one call, and several wait; name it with --call");
    }
    let mut decisions = Vec::new();
    for one in waiting {
        let decision = match (is_named(one), args.reject) {
            (true, false) => "approve",
            (true, true) | (false, _) => "reject",
        };
        let mut decided = json!({"call_id": one.get("call_id"), "decision": decision});
        if is_named(one) {
            if let Some(edited) = &edited {
                set(&mut decided, "arguments", Value::Object(edited.clone()));
            }
            if let Some(said) = &args.feedback {
                set(&mut decided, "feedback", said.as_str().into());
            }
        }
        if !out.json {
            tell_decided(out, one, decision, edited.as_ref().filter(|_| is_named(one)));
        }
        decisions.push(decided);
    }
    let path = format!("/v1/turns/{}/approvals", args.id);
    client.post(&path, &json!({"decisions": decisions})).await?;
    goes_on(client, &turn, text(first, "call_id")).await?;
    client.get(&format!("/v1/turns/{}", args.id)).await
}

/// Waits until a turn has ended or waits again, after a decision about a call: a host of this process ends with the command.
async fn goes_on(client: &Client, turn: &Value, call: &str) -> anyhow::Result<()> {
    let path = format!(
        "/v1/sessions/{}/events?turn={}",
        text(turn, "session"),
        text(turn, "id")
    );
    let mut stream = client.events(client.request(Method::GET, &path)).await?;
    let mut decided = false;
    while let Some(event) = stream.next().await {
        let event = event?;
        match text(&event, "type") {
            "approval.resolved" => {
                let decisions = event.pointer("/data/decisions").and_then(Value::as_array);
                decided |= decisions.into_iter().flatten().any(|one| text(one, "call_id") == call);
            }
            "turn.paused" if decided => return Ok(()),
            "turn.completed" | "turn.failed" | "turn.cancelled" => return Ok(()),
            _ => {}
        }
    }
    bail!("the stream of events ended before the turn did; `fumehood turn show` tells how it ended")
}

fn set(decided: &mut Value, key: &str, value: Value) {
    if let Value::Object(members) = decided {
        members.insert(key.to_owned(), value);
    }
}

fn tell_decided(out: Out, one: &Value, decision: &str, edited: Option<&Map<String, Value>>) {
    let arguments = edited.cloned().map(Value::Object);
    let arguments = arguments
        .as_ref()
        .or_else(|| one.get("arguments"))
        .unwrap_or(&Value::Null);
    let word = match decision {
        "approve" => out.style(Style::Good, "approves"),
        _ => out.style(Style::Bad, "rejects"),
    };
    out.line(format_args!(
        "{word} {} {}({})",
        text(one, "call_id"),
        out.style(Style::Name, plain(text(one, "tool"))),
        plain(&arguments.to_string())
    ));
}

/// Asks the person at the terminal about the calls of an `approval.requested`; `None` when there is nobody to ask. Cancel-safe: a
/// question that is given up decides nothing.
pub(crate) async fn ask(out: Out, event: &Value) -> anyhow::Result<Option<Decisions>> {
    if out.json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    let calls = event.pointer("/data/calls").and_then(Value::as_array);
    let mut decisions = Vec::new();
    for call in calls.into_iter().flatten() {
        match ask_about(out, text(event, "turn"), call).await? {
            Some(decision) => decisions.push(decision),
            None => return Ok(None),
        }
    }
    Ok(Some(Decisions(decisions)))
}

/// What a person decided about all calls that wait.
#[derive(Debug)]
pub(crate) struct Decisions(Vec<Value>);

/// What the host says to decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The turn goes on: by these decisions, or because somebody else was first or the time was over.
    GoesOn,
    /// They make no sense, and decide nothing.
    Invalid,
}

/// Tells the host what was decided about the calls of an `approval.requested`.
pub(crate) async fn decide(client: &Client, event: &Value, decisions: &Decisions) -> anyhow::Result<Answer> {
    let path = format!("/v1/turns/{}/approvals", text(event, "turn"));
    let Err(refused) = client.post(&path, &json!({"decisions": decisions.0})).await else {
        return Ok(Answer::GoesOn);
    };
    let said = refused.to_string();
    let answer = if said.ends_with("(invalid_decision)") {
        Answer::Invalid
    } else if said.ends_with("(not_awaiting_approval)") || said.ends_with("(approval_expired)") {
        Answer::GoesOn
    } else {
        return Err(refused);
    };
    tell(&format!("{}\n", plain(&said)));
    Ok(answer)
}

/// What the person decides about one call; `None` when there is no answer to be had.
async fn ask_about(out: Out, turn: &str, call: &Value) -> anyhow::Result<Option<Value>> {
    let out = out.on_errors();
    let mut arguments = call.get("arguments").cloned().unwrap_or_default();
    let mut edited = false;
    let decision = |decision: &str| json!({"call_id": call.get("call_id"), "decision": decision});
    loop {
        let pretty = serde_json::to_string_pretty(&arguments).unwrap_or_default();
        tell(&format!(
            "\n{} wants to run:\n{}\n{}\n",
            out.style(Style::Name, plain(text(call, "tool"))),
            plain(&pretty),
            out.style(Style::Dim, plain(text(call, "rule")))
        ));
        // THREAT[T-appr-deception]: what was typed before this stood there is no answer to it.
        terminal::forget_typed()?;
        let Some(line) = terminal::line("run it? y (yes), n (no), e (edit the arguments), or say why not> ").await?
        else {
            return Ok(None);
        };
        match Reply::read(&line) {
            Reply::Unclear => {}
            Reply::Yes => {
                let mut approved = decision("approve");
                if edited {
                    set(&mut approved, "arguments", arguments);
                }
                return Ok(Some(approved));
            }
            Reply::No => return Ok(Some(decision("reject"))),
            Reply::Because(why) => {
                let mut rejected = decision("reject");
                set(&mut rejected, "feedback", why.into());
                return Ok(Some(rejected));
            }
            Reply::Edit => {
                let Some(line) = terminal::line("the arguments, as JSON on one line> ").await? else {
                    return Ok(None);
                };
                match typed(&line, turn) {
                    Ok(given) => (arguments, edited) = (Value::Object(given), true),
                    Err(error) => tell(&format!("{}\n", plain(&format!("{error:#}")))),
                }
            }
        }
    }
}

/// What somebody typed.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Yes,
    No,
    Edit,
    Because(String),
    Unclear,
}

impl Reply {
    fn read(line: &str) -> Self {
        let line = line.trim();
        match line.to_lowercase().as_str() {
            "" => Self::Unclear,
            "y" | "yes" => Self::Yes,
            "n" | "no" => Self::No,
            "e" | "edit" => Self::Edit,
            // A slip of the finger decides nothing.
            one if one.chars().count() == 1 => Self::Unclear,
            _ => Self::Because(line.to_owned()),
        }
    }
}

/// Arguments that were typed on one line. The terminal loses what is longer than its lines.
fn typed(line: &str, turn: &str) -> anyhow::Result<Map<String, Value>> {
    let line = line.trim_end_matches('\n');
    object(line).map_err(|error| match line.len() {
        ..LONGEST_LINE => error,
        _ => anyhow!(
            "the terminal cuts a line at {} bytes, and here the arguments do not end before that; \
             for longer ones leave with Ctrl-D and run `fumehood turn approve {turn} --arguments …`",
            number(LONGEST_LINE as u64)
        ),
    })
}

fn object(given: &str) -> anyhow::Result<Map<String, Value>> {
    serde_json::from_str(given).context("the arguments are not a JSON object")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_the_terminal_cut_say_how_to_give_them_otherwise() {
        let cut = format!("{{\"content\":\"{}", "x".repeat(5000));
        let cut = cut.split_at(LONGEST_LINE).0;
        let said = typed(&format!("{cut}\n"), "turn_1").unwrap_err().to_string();
        assert!(said.contains("cuts a line at 4,095 bytes"), "{said}");
        assert!(said.ends_with("`fumehood turn approve turn_1 --arguments …`"), "{said}");
        let short = typed("{\"a\n", "turn_1").unwrap_err().to_string();
        assert_eq!(short, "the arguments are not a JSON object");
        assert_eq!(typed("{\"a\": 1}\n", "turn_1").unwrap()["a"], 1);
    }

    #[test]
    fn only_a_clear_yes_approves() {
        for yes in ["y", "Y\n", " yes \n"] {
            assert_eq!(Reply::read(yes), Reply::Yes);
        }
        for unclear in ["", "\n", "x", "ü", "1"] {
            assert_eq!(Reply::read(unclear), Reply::Unclear);
        }
        assert_eq!(Reply::read("no\n"), Reply::No);
        assert_eq!(Reply::read("e\n"), Reply::Edit);
        for why in ["yes, but smaller", "yeah", "use the other file"] {
            assert_eq!(Reply::read(why), Reply::Because(why.to_owned()));
        }
    }
}
