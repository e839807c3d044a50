//! `fumehood run`: one turn in the terminal. The answer goes to standard output as it comes; what happens on the way, to
//! standard error.

use crate::{
    args::Run,
    client::Client,
    commands::{
        approve::{self, Asked},
        tool,
    },
    events,
    out::{Out, printable, text},
};
use anyhow::{Context as _, bail};
use fumehood_core::turn::StopReason;
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::Read as _;

/// How a turn ended, as the process's exit tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Completed,
    Failed,
    BudgetUsedUp,
}

pub(crate) async fn run(out: Out, client: &Client, args: &Run) -> anyhow::Result<Ended> {
    for file in &args.tool {
        tool::add(out.as_text(), client, file, &tool::Decision::Requested).await?;
    }
    let session = match args.session {
        Some(session) => session.to_string(),
        None => {
            let body = args
                .agent
                .as_ref()
                .map_or_else(|| json!({}), |agent| json!({"agent": agent}));
            text(&client.post("/v1/sessions", &body).await?, "id").to_owned()
        }
    };
    let input = input(&args.input)?;
    turn(out, client, &session, &json!({"input": input})).await
}

/// Works one turn and shows it.
pub(crate) async fn turn(out: Out, client: &Client, session: &str, body: &Value) -> anyhow::Result<Ended> {
    let request = client
        .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .json(body);
    let mut stream = client.events(request).await?;
    let mut screen = Screen {
        out,
        turn: None,
        streamed: false,
    };
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            _ = tokio::signal::ctrl_c() => {
                screen.cancel(client).await?;
                continue;
            }
        };
        let event = event
            .context("the stream of events ended before the turn did; `fumehood turn show` tells how it ended")??;
        if let Some(ended) = screen.show(&event) {
            return Ok(ended);
        }
        if text(&event, "type") == "approval.requested" {
            tokio::select! {
                asked = approve::ask(out, client, &event) => if asked? == Asked::Nobody {
                    return nobody_to_ask(&event);
                },
                _ = tokio::signal::ctrl_c() => screen.cancel(client).await?,
            }
        }
    }
}

fn nobody_to_ask(event: &Value) -> anyhow::Result<Ended> {
    let turn = text(event, "turn");
    bail!(
        "the turn {turn} waits for a decision about its calls, and there is nobody at a terminal to ask; \
         `fumehood turn show {turn}` shows them, `fumehood turn approve {turn}` decides, and the turn goes on"
    )
}

struct Screen {
    out: Out,
    turn: Option<String>,
    /// Whether the text of the current step was shown as it came.
    streamed: bool,
}

impl Screen {
    async fn cancel(&self, client: &Client) -> anyhow::Result<()> {
        let Some(turn) = &self.turn else { bail!("interrupted") };
        client
            .post(&format!("/v1/turns/{turn}/cancel"), &json!({}))
            .await
            .map(drop)
    }

    fn show(&mut self, event: &Value) -> Option<Ended> {
        if let Some(turn) = event.get("turn").and_then(Value::as_str) {
            self.turn = Some(turn.to_owned());
        }
        let data = event.get("data").unwrap_or(&Value::Null);
        let kind = text(event, "type");
        if self.out.json {
            self.out.value(event);
        } else {
            self.show_text(kind, data, event);
        }
        match kind {
            "turn.completed" => {
                let reason = data.get("stop_reason").cloned().unwrap_or_default();
                let budget = serde_json::from_value(reason).is_ok_and(StopReason::is_budget);
                Some(if budget { Ended::BudgetUsedUp } else { Ended::Completed })
            }
            "turn.failed" => {
                let time = data.pointer("/error/code").and_then(Value::as_str) == Some("time_limit");
                Some(if time { Ended::BudgetUsedUp } else { Ended::Failed })
            }
            "turn.cancelled" => Some(Ended::Failed),
            _ => None,
        }
    }

    fn show_text(&mut self, kind: &str, data: &Value, event: &Value) {
        match kind {
            "text.delta" => {
                self.streamed = true;
                self.out.write(format_args!("{}", printable(text(data, "delta"))));
            }
            "text.completed" if self.streamed => {
                self.streamed = false;
                self.out.line("");
            }
            "text.completed" => self.out.line(printable(text(data, "text"))),
            "turn.failed" => eprintln!(
                "failed: {}",
                printable(
                    data.pointer("/error/message")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                )
            ),
            "turn.cancelled" => eprintln!("cancelled"),
            "tool.requested" | "tool.completed" | "tool.progress" | "egress.denied" | "retry.scheduled"
            | "budget.exhausted" | "approval.resolved" => {
                if let Some(line) = events::line(self.out, event) {
                    eprintln!("{line}");
                }
            }
            _ => {}
        }
    }
}

fn input(given: &str) -> anyhow::Result<String> {
    const LONGEST: u64 = 1 << 20;
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut text = String::new();
    std::io::stdin()
        .take(LONGEST)
        .read_to_string(&mut text)
        .context("cannot read standard input")?;
    Ok(text)
}
