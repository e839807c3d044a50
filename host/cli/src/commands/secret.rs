//! `fumehood secret …`

use crate::{
    args::Secret,
    client::Client,
    out::{Out, list},
};
use anyhow::{Context as _, bail};
use fumehood_core::id::SessionId;
use serde_json::json;
use std::io::{IsTerminal as _, Read as _};
use zeroize::Zeroizing;

pub(crate) async fn secret(out: Out, client: &Client, command: &Secret) -> anyhow::Result<()> {
    match command {
        Secret::Set { name, session } => {
            let value = value_from_stdin()?;
            client
                .put(&format!("{}/{name}", base(*session)), &json!({"value": *value}))
                .await?;
            report(out, "set", name);
        }
        // It works on the data directory, not with a host.
        Secret::Rotate(_) => {}
        Secret::Delete { name, session } => {
            client.delete(&format!("{}/{name}", base(*session))).await?;
            report(out, "deleted", name);
        }
        Secret::List { session } => {
            let names = json!({"items": client.every(&base(*session)).await?});
            out.either(&names, |names| {
                let name = |item: &serde_json::Value| {
                    vec![
                        item.as_str()
                            .or_else(|| item.get("name")?.as_str())
                            .unwrap_or_default()
                            .to_owned(),
                    ]
                };
                out.table(
                    &["secret"],
                    list(names, "items").iter().map(name).collect(),
                    "no secrets yet",
                );
            });
        }
    }
    Ok(())
}

fn base(session: Option<SessionId>) -> String {
    session.map_or_else(
        || "/v1/secrets".to_owned(),
        |session| format!("/v1/sessions/{session}/secrets"),
    )
}

fn report(out: Out, done: &str, name: &str) {
    if out.json {
        out.value(&json!({"secret": name, "done": done}));
    } else {
        out.line(format_args!("{done} {name}"));
    }
}

/// Never from the arguments: they are in the shell's history and in every process list.
fn value_from_stdin() -> anyhow::Result<Zeroizing<String>> {
    let mut value = Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        value = hidden("value (not shown): ")?;
    } else {
        std::io::stdin()
            .take(1 << 20)
            .read_to_string(&mut value)
            .context("cannot read the value from standard input")?;
    }
    let end = value.trim_end_matches(['\r', '\n']).len();
    value.truncate(end);
    if value.is_empty() {
        bail!("the value is empty; give it on standard input: `printf %s \"$TOKEN\" | fumehood secret set NAME`");
    }
    Ok(value)
}

/// A line that is typed and not shown. Standard input is a terminal.
pub(crate) fn hidden(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    eprint!("{prompt}");
    let read = {
        let _hidden = HiddenInput::begin();
        std::io::stdin().read_line(&mut line)
    };
    eprintln!();
    read.context("cannot read what was typed")?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

/// The terminal without echo, until dropped. Uses `stty`, which every terminal system has.
struct HiddenInput;

impl HiddenInput {
    fn begin() -> Self {
        Self::stty("-echo");
        Self
    }

    fn stty(mode: &str) {
        // Without it the value is shown while it is typed, which the prompt can't prevent then.
        let _ = std::process::Command::new("stty")
            .arg(mode)
            .stdin(std::process::Stdio::inherit())
            .status();
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        Self::stty("echo");
    }
}
