//! `fumehood policy test FILE`: an operator's expectations against the policy that is configured.
//!
//! Agents, the host's own lists and the configured components are those of the configuration file, whatever a serving host
//! was started with; what else is installed and granted, and the sessions, are read from the store, or asked of the host
//! that holds it. Nothing is changed there. A file that is about none of these needs neither.

use crate::{
    args::Policy,
    config::Loaded,
    fault::OrFault as _,
    out::{Out, Style, printable},
    planned,
};
use anyhow::Context as _;
use fumehood_policy::{
    agent::resolve_agents,
    expect::{Action, Decided, Expectation, Expected, LineError, Which, parse},
    world::World,
};
use serde_json::{Value, json};
use std::path::Path;

/// How a file of expectations came out.
pub(crate) enum Tested {
    /// Each was met.
    Met,
    /// One was not.
    Surprise,
    /// The file is not understood.
    NotUnderstood,
}

pub(crate) async fn policy(out: Out, loaded: &Loaded, command: &Policy) -> anyhow::Result<Tested> {
    let Policy::Test { file } = command;
    let content = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {}", file.display()))
        .or_fault()?;
    let expectations = match parse(&content) {
        Ok(expectations) => expectations,
        Err(errors) => return Ok(not_understood(out, file, &errors)),
    };
    let world = match read(loaded, &expectations).await? {
        Ok(world) => world,
        Err(errors) => return Ok(not_understood(out, file, &errors)),
    };
    for expectation in &expectations {
        let decided = world.decide(expectation);
        if !decided.is(expectation.expected) {
            surprise(out, file, expectation, &decided);
            return Ok(Tested::Surprise);
        }
    }
    let checked = expectations.len();
    out.either(&json!({"file": file, "checked": checked, "surprise": null}), |_| {
        out.line(out.style(
            Style::Good,
            format_args!("{}: all {checked} expectations are met", file.display()),
        ));
    });
    Ok(Tested::Met)
}

fn not_understood(out: Out, file: &Path, errors: &[LineError]) -> Tested {
    let faults: Vec<Value> = errors
        .iter()
        .map(|error| json!({"line": error.line, "message": error.message}))
        .collect();
    out.either(&json!({"file": file, "errors": faults}), |_| {
        for error in errors {
            eprintln!("{}:{}: {}", file.display(), error.line, printable(&error.message));
        }
    });
    Tested::NotUnderstood
}

fn surprise(out: Out, file: &Path, expectation: &Expectation, decided: &Decided) {
    let Expectation { line, text, .. } = expectation;
    let (word, by, reason) = match decided {
        Decided::Allowed { by } => ("allow", by, None),
        Decided::Denied { by, reason, .. } => ("deny", by, Some(reason)),
    };
    let value = json!({
        "file": file, "checked": null,
        "surprise": {"line": line, "expectation": text, "decided": word, "by": by, "reason": reason},
    });
    out.either(&value, |_| {
        let became = match expectation.expected {
            Expected::Allow => "but it is denied by",
            Expected::Deny => "but it is allowed by",
        };
        let head = format!("{}:{line}: expected `{text}`, {became} {by}", file.display());
        out.line(out.style(Style::Bad, printable(&head)));
        if let Some(reason) = reason {
            out.line(format_args!("  {}", printable(reason)));
        }
    });
}

/// Reads what the expectations are judged by; the inner errors are about their lines.
async fn read(loaded: &Loaded, expectations: &[Expectation]) -> anyhow::Result<Result<World, Vec<LineError>>> {
    let mut world = World::new(loaded.config.host_policy(), resolve_agents(&loaded.config.agents())?);
    let stored = |one: &Expectation| {
        let about_urls = matches!(one.action, Action::RefusedHttp(_));
        one.context.session.is_some() || one.context.tool != Which::None && !about_urls
    };
    if expectations.iter().any(stored) {
        planned::fill(&mut world, loaded, expectations).await?;
    }
    let errors = world.unknown(expectations);
    Ok(if errors.is_empty() { Ok(world) } else { Err(errors) })
}
