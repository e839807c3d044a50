//! `fumehood session …` and `fumehood turn …`

use crate::{
    args::{CancelAt, Session, Turn},
    client::Client,
    commands::{approve, history},
    events,
    out::{Out, Style, list, printable, text},
};
use fumehood_core::id::SessionId;
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::json;

pub(crate) async fn session(out: Out, client: &Client, command: &Session) -> anyhow::Result<()> {
    match command {
        Session::List { limit, archived } => {
            let page = client
                .get(&format!("/v1/sessions?limit={limit}&archived={archived}"))
                .await?;
            out.either(&page, |page| {
                let row = |s: &serde_json::Value| {
                    ["id", "agent", "title", "updated"]
                        .map(|key| printable(text(s, key)))
                        .to_vec()
                };
                let rows = list(page, "items").iter().map(row).collect();
                out.table(&["session", "agent", "title", "updated"], rows, "no sessions yet");
            });
        }
        Session::Show { id } => {
            let session = client.get(&format!("/v1/sessions/{id}")).await?;
            out.either(&session, |session| out.line(printable(&pretty(session))));
        }
        Session::Archive { id } => {
            let session = change(client, *id, &json!({"archived": true})).await?;
            out.either(&session, |_| {
                out.line(format_args!(
                    "archived the session {id}: it takes no turns until it is brought back"
                ));
            });
        }
        Session::Unarchive { id } => {
            let session = change(client, *id, &json!({"archived": false})).await?;
            out.either(&session, |_| {
                out.line(format_args!("brought the session {id} back: it takes turns"));
            });
        }
        Session::Compact { id, instructions } => {
            let body = serde_json::json!({ "instructions": instructions });
            let done = client.post(&format!("/v1/sessions/{id}/compact"), &body).await?;
            out.either(&done, |done| {
                let tokens = |key| done.get(key).and_then(serde_json::Value::as_u64).unwrap_or_default();
                match (tokens("tokens_before"), tokens("tokens_after")) {
                    (before, after) if after < before => {
                        out.line(format_args!("about {before} tokens before, {after} now"));
                    }
                    (before, _) => out.line(format_args!("nothing to sum up: about {before} tokens")),
                }
            });
        }
        Session::Events {
            id,
            after,
            follow: true,
        } => {
            let request = client.request(Method::GET, &format!("/v1/sessions/{id}/events?after={after}"));
            let mut stream = client.events(request).await?;
            while let Some(event) = stream.next().await {
                print_event(out, &event?);
            }
        }
        Session::Events {
            id,
            after,
            follow: false,
        } => {
            let mut after = *after;
            loop {
                let page = client.get(&format!("/v1/sessions/{id}/events?after={after}")).await?;
                let events = list(&page, "items");
                for event in events {
                    print_event(out, event);
                }
                match events.last().and_then(|event| event.get("seq")?.as_u64()) {
                    Some(seq) if page.get("next").is_some() => after = seq,
                    _ => break,
                }
            }
        }
        Session::Undo {
            id,
            turns,
            to,
            keep_files,
        } => history::undo(out, client, *id, history::back(*turns, *to, *keep_files)).await?,
        Session::Fork {
            id,
            after,
            title,
            no_files,
        } => {
            let asked = json!({"after": after, "title": title, "files": !no_files});
            history::fork(out, client, *id, asked).await?;
        }
    }
    Ok(())
}

async fn change(client: &Client, id: SessionId, what: &serde_json::Value) -> anyhow::Result<serde_json::Value> {
    let request = client.request(Method::PATCH, &format!("/v1/sessions/{id}"));
    client.send(request.json(what)).await
}

pub(crate) async fn turn(out: Out, client: &Client, command: &Turn) -> anyhow::Result<()> {
    let turn = match command {
        Turn::Show { id } => client.get(&format!("/v1/turns/{id}")).await?,
        Turn::Approve(args) => approve::approve(out, client, args).await?,
        Turn::Cancel { id, at } => {
            let at = match at {
                CancelAt::Now => "now",
                CancelAt::Boundary => "boundary",
            };
            let body = serde_json::json!({ "at": at });
            client.post(&format!("/v1/turns/{id}/cancel"), &body).await?
        }
    };
    out.either(&turn, |turn| {
        out.line(format_args!(
            "{} {}",
            out.style(Style::Bold, text(turn, "id")),
            text(turn, "status")
        ));
        if let Some(error) = turn.get("error").filter(|error| !error.is_null()) {
            out.line(out.style(Style::Bad, printable(text(error, "message"))));
        }
        for waiting in list(turn, "approvals") {
            out.line(format_args!("waits for a decision: {}", events::waiting(out, waiting)));
        }
        for waiting in list(turn, "awaited") {
            out.line(format_args!("waits for a result: {}", events::waiting(out, waiting)));
        }
        for waiting in list(turn, "detached") {
            out.line(format_args!(
                "waits for somebody outside: {} {} until {}",
                text(waiting, "callback"),
                out.style(Style::Name, printable(text(waiting, "tool"))),
                text(waiting, "expires")
            ));
        }
        let answer = events::content(list(turn, "output"));
        if !answer.is_empty() {
            out.line(printable(&answer));
        }
    });
    Ok(())
}

fn print_event(out: Out, event: &serde_json::Value) {
    if out.json {
        out.value(event);
    } else if let Some(line) = events::line(out, event) {
        out.line(line);
    }
}

fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
