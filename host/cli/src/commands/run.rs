//! `fumehood run`: one turn in the terminal. The answer goes to standard output as it comes; what happens on the way, to
//! standard error.

use crate::{
    args::Run,
    client::Client,
    commands::{
        approve::{self, Answer},
        tool,
    },
    connect::Connection,
    interrupt,
    out::{Out, tell, text},
    stream::Events,
    terminal,
    watch::{Draw, Line, Mark, Screen, TICK, View},
};
use anyhow::{Context as _, bail};
use fumehood_core::{event::Event, turn::StopReason};
use futures::Stream;
use reqwest::Method;
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::{io::Read as _, pin::pin};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How a turn ended, as the process's exit tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Completed,
    Failed,
    BudgetUsedUp,
}

pub(crate) async fn run(out: Out, connection: &Connection, args: &Run) -> anyhow::Result<Ended> {
    let client = &connection.client;
    for file in &args.tool {
        tool::add(out.as_text(), client, file, &tool::Decision::Requested).await?;
    }
    let session = match args.session {
        Some(session) => {
            for turn in connection.finish_session(session).await? {
                tell(&format!(
                    "went on first with the turn {turn}, which was left in the session\n"
                ));
            }
            session.to_string()
        }
        None => {
            let body = args
                .agent
                .as_ref()
                .map_or_else(|| json!({}), |agent| json!({"agent": agent}));
            text(&client.post("/v1/sessions", &body).await?, "id").to_owned()
        }
    };
    connection.end_waits_of(&session)?;
    let input = input(&args.input)?;
    turn(out, client, &session, &json!({"input": input})).await
}

/// Works one turn and shows it.
pub(crate) async fn turn(out: Out, client: &Client, session: &str, body: &Value) -> anyhow::Result<Ended> {
    let interrupted = interrupt::listen()?;
    let request = client
        .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .json(body);
    let mut watched = Watched::new(out);
    let mut events = tokio::select! {
        stream = client.events(request) => Events::new(stream?),
        () = interrupted.cancelled() => bail!("interrupted before the host answered; a turn that it began all the same goes on there"),
    };
    let (known, turn) = watch::channel(None);
    let mut cancelling = pin!(cancel(client, interrupted.clone(), turn));
    let (mut told, mut cancelled) = (false, false);
    let mut ticks = tokio::time::interval(TICK);
    // While a person is asked nothing is drawn, and nothing of that is made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let event = tokio::select! {
            // What is asked for is answered before what comes, which may come to its end by that.
            biased;
            () = interrupted.cancelled(), if !told => {
                told = true;
                watched.say("cancelling the turn; Ctrl-C again leaves at once");
                continue;
            }
            done = &mut cancelling, if !cancelled => {
                cancelled = true;
                if let Err(error) = done {
                    watched.say(&format!("the turn could not be cancelled: {error:#}"));
                }
                continue;
            }
            _ = ticks.tick(), if watched.moves() => {
                watched.tick();
                continue;
            }
            event = events.next() => event,
        };
        let event = event
            .context("the stream of events ended before the turn did; `fumehood turn show` tells how it ended")??;
        if let Some(turn) = event.get("turn").and_then(Value::as_str) {
            known.send_if_modified(|known| known.replace(turn.to_owned()).is_none());
        }
        watched.see(&event);
        if let Some(ended) = ended(&event) {
            return Ok(ended);
        }
        if text(&event, "type") == "approval.requested" && !interrupted.is_cancelled() {
            tokio::select! {
                settled = settle(out, client, &event, &mut events) => if settled? == Settled::Nobody {
                    return nobody_to_ask(&event);
                },
                // From a line of its own: the question stands there.
                () = interrupted.cancelled() => tell("\n"),
            }
        }
    }
}

/// What came of a question about calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// The calls wait no more.
    Settled,
    /// There is nobody to ask.
    Nobody,
}

/// Asks the person about the calls of an `approval.requested` until they are decided, here or elsewhere.
async fn settle<S: Stream<Item = anyhow::Result<Value>> + Unpin>(
    out: Out,
    client: &Client,
    event: &Value,
    events: &mut Events<S>,
) -> anyhow::Result<Settled> {
    loop {
        let decisions = tokio::select! {
            biased;
            decisions = approve::ask(out, event) => decisions?,
            why = events.until_moot() => {
                // What is on the line already was meant for the question.
                terminal::forget_typed()?;
                // From a line of its own: the question stands there.
                tell(&format!("\n{why}\n"));
                return Ok(Settled::Settled);
            }
        };
        let Some(decisions) = decisions else {
            return Ok(Settled::Nobody);
        };
        if approve::decide(client, event, &decisions).await? == Answer::GoesOn {
            return Ok(Settled::Settled);
        }
    }
}

/// Cancels the turn at the first Ctrl-C, as soon as it is known which it is.
async fn cancel(
    client: &Client,
    interrupted: CancellationToken,
    mut turn: watch::Receiver<Option<String>>,
) -> anyhow::Result<()> {
    interrupted.cancelled().await;
    let known = turn
        .wait_for(Option::is_some)
        .await
        .context("there is no turn")?
        .clone();
    let path = format!("/v1/turns/{}/cancel", known.unwrap_or_default());
    client.post(&path, &json!({})).await.map(drop)
}

/// How the turn ended, if this event says so.
fn ended(event: &Value) -> Option<Ended> {
    match text(event, "type") {
        "turn.completed" => {
            let reason = event.pointer("/data/stop_reason").cloned().unwrap_or_default();
            let budget = serde_json::from_value(reason).is_ok_and(StopReason::is_budget);
            Some(if budget { Ended::BudgetUsedUp } else { Ended::Completed })
        }
        "turn.failed" => {
            let time = event.pointer("/data/error/code").and_then(Value::as_str) == Some("time_limit");
            Some(if time { Ended::BudgetUsedUp } else { Ended::Failed })
        }
        "turn.cancelled" => Some(Ended::Failed),
        _ => None,
    }
}

/// The events of a turn as its watcher wants them.
enum Watched {
    /// As they came, one on each line.
    Events(Out),
    /// Drawn.
    Drawn { view: View, screen: Box<Screen> },
}

impl Watched {
    fn new(out: Out) -> Self {
        if out.json {
            return Self::Events(out);
        }
        Self::Drawn {
            view: View::default(),
            screen: Box::new(Screen::new(out)),
        }
    }

    fn see(&mut self, event: &Value) {
        match self {
            Self::Events(out) => out.value(event),
            Self::Drawn { view, screen } => {
                // What a newer host tells that this binary does not know is no fault.
                if let Ok(event) = Event::deserialize(event) {
                    view.see(&event).into_iter().for_each(|draw| screen.draw(draw));
                }
            }
        }
    }

    fn say(&mut self, words: &str) {
        match self {
            Self::Events(_) => tell(&format!("{words}\n")),
            Self::Drawn { screen, .. } => screen.draw(Draw::Settled(Line::words(Mark::Quiet, words))),
        }
    }

    const fn moves(&self) -> bool {
        match self {
            Self::Events(_) => false,
            Self::Drawn { screen, .. } => screen.moves(),
        }
    }

    fn tick(&mut self) {
        if let Self::Drawn { screen, .. } = self {
            screen.tick();
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
