//! `fumehood policy test FILE`: an operator's expectations against the policy that is configured.
//!
//! Agents and the host's own lists are those of the configuration file, whatever a serving host was started with;
//! what is installed and granted, and the sessions, are asked of the store, or of the host that holds it. A file that is
//! about none of these needs neither.

use crate::{
    args::Policy,
    client::Client,
    config::Loaded,
    connect,
    out::{Out, Style, list, printable, text},
};
use anyhow::Context as _;
use fumehood_core::{
    id::SessionId,
    name::{AgentName, ComponentName, ToolName},
};
use fumehood_policy::{
    agent::{AgentSpec, resolve_agents},
    authority::{HostPolicy, SessionNarrowing},
    expect::{Action, Decided, Expectation, Expected, Layers, LineError, Subject, decide, parse},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

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
    let content = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let expectations = match parse(&content) {
        Ok(expectations) => expectations,
        Err(errors) => return Ok(not_understood(out, file, &errors)),
    };
    let world = match World::read(loaded, &expectations).await? {
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
        Decided::Denied { by, reason } => ("deny", by, Some(reason)),
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

/// Everything that the expectations are judged by.
struct World {
    host: HostPolicy,
    agents: BTreeMap<AgentName, Vec<AgentSpec>>,
    components: BTreeMap<ComponentName, Subject>,
    /// Which component offers a tool.
    tools: BTreeMap<ToolName, ComponentName>,
    sessions: BTreeMap<SessionId, (AgentName, SessionNarrowing)>,
}

impl World {
    /// Reads what the expectations name; the inner errors are about their lines.
    async fn read(loaded: &Loaded, expectations: &[Expectation]) -> anyhow::Result<Result<Self, Vec<LineError>>> {
        let mut world = Self {
            host: loaded.config.host_policy(),
            agents: resolve_agents(&loaded.config.agents())?,
            components: BTreeMap::new(),
            tools: BTreeMap::new(),
            sessions: BTreeMap::new(),
        };
        let stored = |one: &Expectation| one.context.tool.is_some() || one.context.session.is_some();
        if expectations.iter().any(stored) {
            let connection = connect::connect(loaded).await?;
            let filled = world.fill(&connection.client, expectations).await;
            connection.close().await;
            filled?;
        }
        let errors = world.unknown(expectations);
        Ok(if errors.is_empty() { Ok(world) } else { Err(errors) })
    }

    async fn fill(&mut self, client: &Client, expectations: &[Expectation]) -> anyhow::Result<()> {
        let mut cursor = String::new();
        loop {
            let page = client.get(&format!("/v1/tools?limit=100{cursor}")).await?;
            for component in list(&page, "items") {
                self.installed(component)?;
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let named: BTreeSet<SessionId> = expectations.iter().filter_map(|one| one.context.session).collect();
        for id in named {
            // One that is not there is an error of the line that names it.
            let Ok(session) = client.get(&format!("/v1/sessions/{id}")).await else {
                continue;
            };
            let agent = text(&session, "agent").parse().context("the session has no agent")?;
            let narrowing = ["network", "files"]
                .into_iter()
                .filter_map(|key| Some((key.to_owned(), session.get(key)?.clone())))
                .collect();
            let narrowing = serde_json::from_value(Value::Object(narrowing)).context("the session is not readable")?;
            self.sessions.insert(id, (agent, narrowing));
        }
        Ok(())
    }

    fn installed(&mut self, component: &Value) -> anyhow::Result<()> {
        let part = |key: &str| component.get(key).cloned();
        let subject = Subject {
            request: serde_json::from_value(part("manifest").unwrap_or_default())
                .context("the host's answer has no manifest")?,
            grant: part("grant")
                .map(serde_json::from_value)
                .transpose()
                .context("the host's answer has a grant that can't be read")?,
        };
        let name = subject.request.name.clone();
        for tool in list(component, "tools") {
            self.tools.insert(text(tool, "name").parse()?, name.clone());
        }
        self.components.insert(name, subject);
        Ok(())
    }

    /// The lines that name what is not there: judged without it, they would hold or fail for no reason.
    fn unknown(&self, expectations: &[Expectation]) -> Vec<LineError> {
        let mut errors = Vec::new();
        for Expectation { line, context, .. } in expectations {
            let mut missing = |message: String| errors.push(LineError { line: *line, message });
            if let Some(tool) = context
                .tool
                .as_ref()
                .filter(|tool| !self.components.contains_key(*tool))
            {
                missing(format!(
                    "no component `{tool}` is installed; `fumehood tool list` shows those that are"
                ));
            }
            if let Some(agent) = context.agent.as_ref().filter(|agent| !self.agents.contains_key(*agent)) {
                missing(format!(
                    "there is no agent `{agent}`; add `[agent.{agent}]` to fumehood.toml or correct the name"
                ));
            }
            match context.session.map(|id| (id, self.sessions.get(&id))) {
                Some((id, None)) => missing(format!(
                    "there is no session {id}; `fumehood session list` shows those there are"
                )),
                Some((_, Some((agent, _)))) if context.agent.is_none() && !self.agents.contains_key(agent) => {
                    missing(format!(
                        "the session's agent `{agent}` is not in fumehood.toml; name another with `agent NAME`"
                    ));
                }
                _ => {}
            }
        }
        errors
    }

    fn decide(&self, expectation: &Expectation) -> Decided {
        let context = &expectation.context;
        let session = context.session.and_then(|id| self.sessions.get(&id));
        let agent = context.agent.as_ref().or(session.map(|(agent, _)| agent));
        let open = SessionNarrowing::default();
        let layers = Layers {
            component: context.tool.as_ref().and_then(|tool| self.components.get(tool)),
            agents: agent
                .and_then(|agent| self.agents.get(agent))
                .map_or(&[], Vec::as_slice),
            session: session.map_or(&open, |(_, narrowing)| narrowing),
            host: &self.host,
            callee: match &expectation.action {
                Action::Call(tool) => self.tools.get(tool),
                _ => None,
            },
        };
        decide(&expectation.action, &layers)
    }
}
