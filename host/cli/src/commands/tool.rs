//! `fumehood tool add|list|show|remove|grant`

use crate::{
    args::{Tool, ToolCall},
    boot,
    client::Client,
    commands::{authority, changes},
    compiled_code::CompiledCode,
    component_file::ComponentFile,
    config::{Loaded, told},
    fault::{OrFault as _, of_usage},
    out::{Out, Style, list, printable, text},
};
use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_agent::install::{NewGrant, inspect};
use fumehood_core::name::ComponentName;
use fumehood_policy::{grant::Grant, lint, manifest::Manifest, suggest::nearest};
use fumehood_sandbox::ShareKey;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;

/// What is decided about a component when it is added.
pub(crate) enum Decision {
    Nothing,
    Requested,
    Exactly(Box<GrantFile>),
}

/// A grant, and the file it was read from.
pub(crate) struct GrantFile {
    grant: Grant,
    name: String,
    text: String,
}

impl Decision {
    /// From `--grant FILE` and `--yes`.
    pub(crate) fn read(grant: Option<&Path>, yes: bool) -> anyhow::Result<Self> {
        match grant {
            Some(file) => Ok(Self::Exactly(Box::new(read_grant_file(file)?))),
            None if yes => Ok(Self::Requested),
            None => Ok(Self::Nothing),
        }
    }

    /// To grant this.
    pub(crate) fn exactly(grant: Grant) -> Self {
        Self::Exactly(Box::new(GrantFile {
            grant,
            name: String::new(),
            text: String::new(),
        }))
    }

    /// What of the grant has no effect, with its file and line.
    fn warn(&self, component: &Value) {
        let Self::Exactly(file) = self else { return };
        let manifest = component.get("manifest").cloned().unwrap_or_default();
        let Ok(manifest) = serde_json::from_value::<Manifest>(manifest) else {
            return;
        };
        for finding in lint::grant_for(&file.grant, &manifest) {
            eprintln!("warning: {}", told(&finding, &file.name, &file.text));
        }
    }
}

fn read_grant_file(file: &Path) -> anyhow::Result<GrantFile> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {}", file.display()))
        .or_fault()?;
    let grant = Grant::parse_toml(&text).with_context(|| format!("{} is not a grant", file.display()));
    Ok(GrantFile {
        grant: grant.or_fault()?,
        name: file.display().to_string(),
        text,
    })
}

/// Reads a grant file.
pub(crate) fn read_grant(file: &Path) -> anyhow::Result<Grant> {
    Ok(read_grant_file(file)?.grant)
}

pub(crate) async fn tool(out: Out, client: &Client, command: &Tool) -> anyhow::Result<()> {
    match command {
        Tool::List => {
            let page = json!({
                "items": client.every("/v1/tools").await?,
                "changes": client.every("/v1/tool-changes").await?,
            });
            out.either(&page, |page| {
                let rows = list(page, "items").iter().map(row).collect();
                out.table(
                    &["component", "version", "tools", "grant", "digest"],
                    rows,
                    "no components yet",
                );
                section(out, "changes", changes::news(list(page, "changes")).into_iter());
            });
        }
        Tool::Show { name, session, agent } => {
            let session = session.map(|session| format!("session={session}"));
            let agent = agent.as_ref().map(|agent| format!("agent={agent}"));
            let query: Vec<String> = session.into_iter().chain(agent).collect();
            let component = client.get(&format!("/v1/tools/{name}?{}", query.join("&"))).await?;
            out.either(&component, |component| show(out, component));
        }
        Tool::Remove { name } => {
            let change = client.delete(&format!("/v1/tools/{name}")).await?;
            let mut removed = json!({"removed": name});
            if !change.is_null() {
                removed["change"] = change;
            }
            out.either(&removed, |removed| {
                out.line(format_args!("removed {name}"));
                if let Some(change) = removed.get("change") {
                    out.line(changes::sentence(change));
                }
            });
        }
        Tool::Grant { name, grant, yes } => {
            let decision = Decision::read(grant.as_deref(), *yes)?;
            let looked_at = client.get(&format!("/v1/tools/{name}")).await?;
            let decided = match &decision {
                Decision::Exactly(file) => json!(file.grant),
                Decision::Requested => json!(everything_requested(&looked_at)?),
                Decision::Nothing => bail!("give --grant FILE or --yes"),
            };
            // About this code and no other that comes in between.
            let digest = text(&looked_at, "digest");
            let request = client
                .request(Method::PUT, &format!("/v1/tools/{name}/grant"))
                .header(reqwest::header::IF_MATCH, format!("\"{digest}\""))
                .json(&decided);
            let component = client.send(request).await?;
            if !out.json {
                out.line(format_args!("decided about {digest}"));
            }
            decision.warn(&component);
            out.either(&component, |component| show(out, component));
        }
        // They need no host, or something else before it.
        Tool::New(_)
        | Tool::Build(_)
        | Tool::Dev(_)
        | Tool::Check(_)
        | Tool::Call(_)
        | Tool::Test(_)
        | Tool::Add(_)
        | Tool::Update(_)
        | Tool::Lock(_)
        | Tool::Publish(_)
        | Tool::Key(_)
        | Tool::Sign(_) => {}
    }
    Ok(())
}

/// What a component asks for, as a grant.
fn everything_requested(component: &Value) -> anyhow::Result<Grant> {
    let manifest = component.get("manifest").cloned().unwrap_or_default();
    let manifest: Manifest = serde_json::from_value(manifest).context("the host's answer has no manifest")?;
    Ok(Grant::everything_requested(&manifest))
}

/// Adds a component and says what it asks for and what it got.
pub(crate) async fn add(out: Out, client: &Client, source: &Path, decision: &Decision) -> anyhow::Result<()> {
    let file = ComponentFile::read(source)?;
    file.beside.tell();
    added(out, &post(client, &file, decision).await?, decision);
    Ok(())
}

/// Has the host add a component, and returns it as the host has it.
pub(crate) async fn post(client: &Client, file: &ComponentFile, decision: &Decision) -> anyhow::Result<Value> {
    let mut body = json!({"wasm": STANDARD.encode(&file.wasm), "grant": match decision {
        Decision::Nothing => json!("none"),
        Decision::Requested => json!("requested"),
        Decision::Exactly(file) => json!(file.grant),
    }});
    if let Some(name) = &file.beside.name {
        body["name"] = json!(name);
    }
    if let Some(beside) = &file.beside.manifest {
        body["manifest"] = json!(beside.whole);
    }
    if let (Some(endorsement), Some(body)) = (&file.beside.endorsement, body.as_object_mut()) {
        let Value::Object(fields) = json!(endorsement) else {
            bail!("the signature can't be sent")
        };
        body.extend(fields);
    }
    client.post("/v1/tools", &body).await
}

/// Says what a component that was added asks for and what it got.
pub(crate) fn added(out: Out, component: &Value, decision: &Decision) {
    decision.warn(component);
    out.either(component, |component| {
        show(out, component);
        if let Some(update) = component.get("update") {
            authority::update(out, update);
            if matches!(decision, Decision::Nothing) {
                authority::decided_by_the_version_before(out, component);
            }
        }
        if component.get("grant").is_none() {
            let name = text(component, "name");
            out.line(format_args!(
                "\nIt may do nothing yet. `fumehood tool grant {name} --yes` grants what it asks for, `--grant FILE` less."
            ));
        }
    });
}

fn row(component: &Value) -> Vec<String> {
    const NAMED: usize = 8;
    let tools = list(component, "tools");
    let mut names = tools
        .iter()
        .take(NAMED)
        .map(|tool| text(tool, "name"))
        .collect::<Vec<_>>()
        .join(" ");
    if tools.len() > NAMED {
        names.push_str(&format!(" and {} more", tools.len() - NAMED));
    }
    let grant = match component.get("grant") {
        None => "waits",
        Some(_) if list(component, "not_granted").is_empty() => "all it asks",
        Some(_) => "narrower",
    };
    let digest: String = text(component, "digest").chars().take("sha256:".len() + 12).collect();
    vec![
        text(component, "name").into(),
        printable(text(component, "version")),
        names,
        grant.into(),
        digest,
    ]
}

pub(crate) fn show(out: Out, component: &Value) {
    out.line(format_args!(
        "{} {}",
        out.style(Style::Bold, text(component, "name")),
        printable(text(component, "version"))
    ));
    out.line(printable(text(component, "description")));
    out.line(out.style(Style::Dim, text(component, "digest")));
    section(
        out,
        "tools",
        list(component, "tools").iter().map(|tool| {
            let first = text(tool, "description").lines().next().unwrap_or_default();
            format!("{}  {}", out.style(Style::Name, text(tool, "name")), printable(first))
        }),
    );
    section(
        out,
        "left out",
        list(component, "left_out").iter().map(|function| {
            let name = printable(text(function, "function"));
            format!("{name}  {}", printable(text(function, "why")))
        }),
    );
    let sentences = |key: &str| {
        list(component, key)
            .iter()
            .filter_map(Value::as_str)
            .map(printable)
            .collect::<Vec<_>>()
    };
    section(out, "asks for", sentences("requests").into_iter());
    if component.get("path").is_some() {
        // A file: nobody has decided about it.
    } else if component.get("grant").is_some() {
        section(out, "not granted of it", sentences("not_granted").into_iter());
    } else {
        out.line(format_args!("\n{}", out.style(Style::Bad, "waits for a grant")));
    }
    section(out, "warnings", sentences("warnings").into_iter());
    if let Some(change) = component.get("change") {
        section(out, "last change", std::iter::once(changes::sentence(change)));
    }
    if let Some(explanation) = component.get("authority") {
        authority::show(out, explanation);
    }
}

pub(crate) fn section(out: Out, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        out.line(format_args!("\n{}", out.style(Style::Bold, title)));
    }
    for line in lines {
        out.line(format_args!("  {line}"));
    }
}

/// What a component file is, as this host sees it.
pub(crate) async fn checked(loaded: &Loaded, file: &Path) -> anyhow::Result<Value> {
    let file = ComponentFile::read(file)?;
    file.beside.tell();
    let sandbox = boot::looking(&loaded.config, CompiledCode::of_user())?;
    let inspected = inspect(&sandbox, ShareKey::default(), &file.component(NewGrant::Undecided)).await?;
    let warnings: Vec<String> = lint::manifest(&inspected.manifest, &loaded.config.host_policy().ceilings)
        .iter()
        .map(|finding| match &file.beside.manifest {
            Some(beside) => told(finding, &beside.file, &beside.text),
            None => finding.to_string(),
        })
        .collect();
    Ok(json!({
        "name": inspected.manifest.name, "version": inspected.manifest.version, "description": inspected.manifest.description,
        "digest": inspected.digest, "tools": inspected.tools, "left_out": inspected.left_out,
        "requests": inspected.manifest.describe(), "manifest": inspected.manifest,
        "warnings": warnings,
    }))
}

/// Whether the arguments of `tool call` are for an installed component: nothing that somebody gives to narrow a call is passed over.
pub(crate) fn check_call_of_installed(args: &ToolCall) -> anyhow::Result<()> {
    let component = &args.component;
    if let Err(error) = component.parse::<ComponentName>() {
        let words = match Path::new(component).is_dir() {
            true => format!("{component} is a folder; give the .wasm file that `fumehood tool build` made of it"),
            false => format!("{component:?} is neither a .wasm file nor the name of a component: {error}"),
        };
        return Err(of_usage(words));
    }
    let of_files = [
        ("--grant", args.grant.is_some()),
        ("--yes", args.yes),
        ("--workspace", args.workspace.is_some()),
        ("--secret", !args.secret.is_empty()),
        ("--limit", !args.limit.is_empty()),
        ("--explain", args.explain),
    ];
    let Some((option, _)) = of_files.iter().find(|(_, given)| *given) else {
        return Ok(());
    };
    let file = format!("{component}.wasm");
    let instead = match Path::new(&file).is_file() {
        true => format!("for the file beside it, write {file}"),
        false => format!("`fumehood tool grant {component}` decides what it may do"),
    };
    Err(of_usage(format!(
        "{option} is for a .wasm file, and {component} is the name of an installed component; {instead}"
    )))
}

/// `tool call` on an installed component.
pub(crate) async fn call_installed(out: Out, client: &Client, args: &ToolCall) -> anyhow::Result<bool> {
    let arguments: Value = serde_json::from_str(&args.arguments)
        .context("the arguments are not JSON")
        .or_fault()?;
    let Some(component) = client.find(&format!("/v1/tools/{}", args.component)).await? else {
        let hint = match Path::new(&args.component).is_dir() {
            true => "; of the folder of this name, give the .wasm file that `fumehood tool build` made",
            false => "; `fumehood tool list` shows what is",
        };
        bail!("no component {} is installed{hint}", args.component);
    };
    let tools: Vec<&str> = list(&component, "tools")
        .iter()
        .map(|tool| text(tool, "name"))
        .collect();
    has_tool(&tools, args)?;
    let mut body = json!({"arguments": arguments});
    if let Some(session) = args.session {
        body["session"] = json!(session);
    }
    let request = client
        .request(Method::POST, &format!("/v1/tools/{}/call", args.tool))
        .json(&body);
    let result = client.send(request).await?;
    Ok(print_result(out, &result))
}

/// Refuses a call of a tool that the component does not have.
pub(crate) fn has_tool(tools: &[&str], args: &ToolCall) -> anyhow::Result<()> {
    if !tools.contains(&args.tool.as_str()) {
        let there = tools.join(", ");
        return Err(of_usage(format!(
            "{} has no tool `{}`{}; it has {there}",
            args.component,
            args.tool,
            nearest(&args.tool, tools.iter().copied())
        )));
    }
    Ok(())
}

/// Prints a call's result; whether it went well.
pub(crate) fn print_result(out: Out, result: &Value) -> bool {
    let ok = text(result, "status") == "ok";
    out.either(result, |result| {
        if let Some(output) = result.get("output") {
            out.line(printable(&crate::events::content(list(output, "content"))));
        }
        if let Some(error) = result.get("error") {
            eprintln!("{} ({})", printable(text(error, "message")), text(result, "status"));
        }
        let metering = |key: &str| {
            result
                .pointer(&format!("/metering/{key}"))
                .and_then(Value::as_u64)
                .unwrap_or_default()
        };
        eprintln!(
            "{} ms, {} ms CPU, {} KiB memory, {} host calls",
            metering("duration_ms"),
            metering("cpu_ms"),
            metering("memory_peak") / 1024,
            metering("host_calls")
        );
    });
    ok
}
