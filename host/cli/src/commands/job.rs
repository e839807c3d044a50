//! `fumehood job …`

use crate::{
    args::Job,
    client::Client,
    out::{Out, Style, list, printable, text},
};
use serde_json::{Value, json};

pub(crate) async fn job(out: Out, client: &Client, command: &Job) -> anyhow::Result<()> {
    match command {
        Job::List { session } => {
            let items = client.every(&format!("/v1/sessions/{session}/jobs")).await?;
            out.either(&json!({ "items": items }), |page| table(out, page));
        }
        Job::Show { id } => {
            let job = client.get(&format!("/v1/jobs/{id}")).await?;
            out.either(&job, |job| whole(out, job));
        }
        Job::Stop { id } => {
            let job = client.post(&format!("/v1/jobs/{id}/stop"), &json!({})).await?;
            out.either(&job, |job| line(out, job));
        }
    }
    Ok(())
}

fn status(job: &Value) -> &str {
    match job.get("stopping").and_then(Value::as_bool) {
        Some(true) => "stopping",
        _ => text(job, "status"),
    }
}

fn line(out: Out, job: &Value) {
    let id = out.style(Style::Bold, text(job, "id"));
    out.line(format_args!("{id} {} {}", status(job), printable(text(job, "tool"))));
}

fn whole(out: Out, job: &Value) {
    line(out, job);
    if let Some(progress) = job.get("progress").filter(|progress| !progress.is_null()) {
        out.line(format_args!("  {}", printable(text(progress, "message"))));
    }
    for line in text(job, "log").lines() {
        out.line(format_args!("  | {}", printable(line)));
    }
    let Some(result) = job.get("result").filter(|result| !result.is_null()) else {
        return;
    };
    match result.get("error").filter(|error| !error.is_null()) {
        Some(error) => out.line(format_args!(
            "{}: {}",
            text(result, "status"),
            printable(text(error, "message"))
        )),
        None => {
            let output = result.get("output").cloned().unwrap_or_default();
            for piece in list(&output, "content") {
                out.line(printable(text(piece, "text")));
            }
        }
    }
}

fn table(out: Out, page: &Value) {
    let row = |job: &Value| {
        let cell = |key| printable(text(job, key));
        let progress = job.get("progress").map(|progress| printable(text(progress, "message")));
        vec![
            cell("id"),
            status(job).to_owned(),
            cell("tool"),
            cell("created"),
            progress.unwrap_or_default(),
        ]
    };
    let rows = list(page, "items").iter().map(row).collect();
    out.table(&["job", "status", "tool", "asked for", "progress"], rows, "no jobs yet");
}
