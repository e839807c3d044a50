//! `fumehood schedule …`

use crate::{
    args::{IfBusy, Misfire, Schedule, ScheduleNew},
    client::Client,
    out::{Out, Style, list, printable, text},
};
use serde_json::{Value, json};

pub(crate) async fn schedule(out: Out, client: &Client, command: &Schedule) -> anyhow::Result<()> {
    match command {
        Schedule::Create(new) => {
            let made = client.post("/v1/schedules", &body(new)).await?;
            out.either(&made, |made| line(out, made));
        }
        Schedule::List => {
            let items = client.every("/v1/schedules").await?;
            out.either(&json!({ "items": items }), |page| table(out, page));
        }
        Schedule::Show { id } => {
            let schedule = client.get(&format!("/v1/schedules/{id}")).await?;
            let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
            out.either(&schedule, |schedule| out.line(printable(&pretty(schedule))));
        }
        Schedule::Pause { id } => {
            let paused = client.post(&format!("/v1/schedules/{id}/pause"), &json!({})).await?;
            out.either(&paused, |paused| line(out, paused));
        }
        Schedule::Resume { id } => {
            let resumed = client.post(&format!("/v1/schedules/{id}/resume"), &json!({})).await?;
            out.either(&resumed, |resumed| line(out, resumed));
        }
        Schedule::Run { id } => {
            let run = client.post(&format!("/v1/schedules/{id}/run"), &json!({})).await?;
            out.either(&run, |run| {
                let turn = text(run, "turn");
                match turn {
                    "" => out.line(format_args!("{}: {}", text(run, "outcome"), came_of(run))),
                    turn => out.line(format_args!(
                        "{} in {}",
                        out.style(Style::Bold, turn),
                        text(run, "session")
                    )),
                }
            });
        }
        Schedule::Runs { id, limit } => {
            let page = client.get(&format!("/v1/schedules/{id}/runs?limit={limit}")).await?;
            out.either(&page, |page| runs(out, page));
        }
        Schedule::Delete { id } => {
            let gone = client.delete(&format!("/v1/schedules/{id}")).await?;
            out.either(&gone, |_| out.line(format_args!("{id} is deleted")));
        }
    }
    Ok(())
}

fn body(new: &ScheduleNew) -> Value {
    let when = json!({
        "cron": new.when.cron,
        "time_zone": new.time_zone,
        "every": new.when.every,
        "from": new.from,
        "at": new.when.at,
    });
    json!({
        "title": new.title,
        "when": when,
        "misfire": match new.misfire {
            Misfire::Skip => "skip",
            Misfire::Once => "once",
            Misfire::All => "all",
        },
        "if_busy": match new.if_busy {
            IfBusy::Queue => "queue",
            IfBusy::Skip => "skip",
        },
        "max_runs": new.max_runs,
        "session": new.session,
        "agent": new.agent,
        "input": new.input,
        "paused": new.paused,
    })
}

fn table(out: Out, page: &Value) {
    let row = |schedule: &Value| {
        let cell = |key| printable(text(schedule, key));
        vec![
            cell("id"),
            cell("status"),
            cell("next"),
            printable(&when(schedule)),
            cell("title"),
        ]
    };
    let rows = list(page, "items").iter().map(row).collect();
    out.table(
        &["schedule", "status", "next", "when", "title"],
        rows,
        "no schedules yet",
    );
}

fn runs(out: Out, page: &Value) {
    let row = |run: &Value| {
        let cells = ["fire_at", "cause", "outcome"].map(|key| printable(text(run, key)));
        cells.into_iter().chain([came_of(run)]).collect()
    };
    let rows = list(page, "items").iter().map(row).collect();
    let heads = ["time", "cause", "outcome", "what came of it"];
    out.table(&heads, rows, "it has not fired yet");
}

/// One line about a schedule.
fn line(out: Out, schedule: &Value) {
    let id = out.style(Style::Bold, text(schedule, "id"));
    let next = match text(schedule, "next") {
        "" => String::new(),
        next => format!(", next at {next}"),
    };
    out.line(format_args!("{id} {}{next}", text(schedule, "status")));
}

fn when(schedule: &Value) -> String {
    let part = |key| schedule.get("when").map_or("", |when| text(when, key));
    match (part("cron"), part("every")) {
        ("", "") => format!("at {}", part("at")),
        ("", every) => format!("every {every}"),
        (line, _) => format!("{line} ({})", part("time_zone")),
    }
}

/// What a run led to, or why it did not.
fn came_of(run: &Value) -> String {
    let parts = [
        text(run, "turn"),
        text(run, "turn_status"),
        text(run, "reason"),
        text(run, "message"),
    ];
    let parts: Vec<_> = parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(printable)
        .collect();
    match run.get("missed").and_then(Value::as_u64) {
        Some(missed) => format!("{missed} times"),
        None => parts.join(" "),
    }
}
