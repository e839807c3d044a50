//! `fumehood session undo` and `fumehood session fork`

use crate::{
    client::Client,
    out::{Out, Style, list, printable, text},
};
use fumehood_core::id::{SessionId, TurnId};
use serde_json::{Value, json};

/// What to ask the host for.
pub(crate) fn back(turns: u64, to: Option<TurnId>, keep_files: bool) -> Value {
    match to {
        Some(turn) => json!({"to": turn, "files": !keep_files}),
        None => json!({"turns": turns, "files": !keep_files}),
    }
}

pub(crate) async fn undo(out: Out, client: &Client, session: SessionId, back: Value) -> anyhow::Result<()> {
    let undone = client.post(&format!("/v1/sessions/{session}/undo"), &back).await?;
    out.either(&undone, |undone| {
        for turn in list(undone, "turns") {
            let turn = turn.as_str().unwrap_or_default();
            out.line(format_args!("{} undone", out.style(Style::Bold, turn)));
        }
        out.line(files(text(undone, "files")));
        let lost = list(undone, "files_lost");
        if !lost.is_empty() {
            out.line(out.style(Style::Bad, "changed outside of the turns, and lost:"));
        }
        for path in lost {
            out.line(format_args!("  {}", printable(path.as_str().unwrap_or_default())));
        }
        let effects = list(undone, "outside");
        if !effects.is_empty() {
            out.line(out.style(Style::Bad, "what can't be undone:"));
        }
        for effect in effects {
            out.line(format_args!("  {}", printable(&outside(effect))));
        }
        match undone.get("outside_more").and_then(Value::as_u64) {
            Some(more) if more > 0 => out.line(format_args!("  and {more} more")),
            _ => {}
        }
    });
    Ok(())
}

pub(crate) async fn fork(out: Out, client: &Client, session: SessionId, asked: Value) -> anyhow::Result<()> {
    let forked = client.post(&format!("/v1/sessions/{session}/fork"), &asked).await?;
    out.either(&forked, |forked| {
        out.line(out.style(Style::Bold, text(forked, "id")));
        out.line(match text(forked, "workspace") {
            "copied" => "it has the files",
            "empty" => "there are no files",
            "left" => "it has no files",
            _ => "it has no files: what they were is not kept",
        });
    });
    Ok(())
}

fn files(state: &str) -> &'static str {
    match state {
        "restored" => "the files are as they were before",
        "unchanged" => "the files had not changed",
        "kept" => "the files are left as they are",
        _ => "the files are left as they are: what they were is not kept",
    }
}

fn outside(effect: &Value) -> String {
    match text(effect, "kind") {
        "request" => format!(
            "{} {}{}",
            text(effect, "method"),
            text(effect, "host"),
            text(effect, "path")
        ),
        _ => format!("the call {} of {}", text(effect, "call"), text(effect, "tool")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_go_back_over_is_a_number_or_a_turn() {
        let turn = TurnId::new();
        assert_eq!(back(2, None, false), json!({"turns": 2, "files": true}));
        assert_eq!(back(1, Some(turn), true), json!({"to": turn, "files": false}));
    }

    #[test]
    fn what_can_not_be_undone_is_told_in_words() {
        let request = json!({"kind": "request", "method": "POST", "host": "api.example.com", "path": "/v1"});
        assert_eq!(outside(&request), "POST api.example.com/v1");
        assert_eq!(
            outside(&json!({"kind": "call", "call": "call_1", "tool": "mail"})),
            "the call call_1 of mail"
        );
    }
}
