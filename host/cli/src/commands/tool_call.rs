//! `fumehood tool call FILE …`: one call of a component file under the real limits, without installing it anywhere.

use crate::{
    args::ToolCall,
    boot::{self, Running},
    code_file::LoadedFile,
    commands::{
        explanation::{self, Given, Made, Times},
        tool,
    },
    compiled_code::CompiledCode,
    component_file::Beside,
    config::Loaded,
    fault::{OrFault as _, of_usage},
    out::{Out, tell},
    printed,
    temporary::Temporary,
};
use anyhow::{Context as _, bail};
use fumehood_agent::{
    host::NewSession,
    install::NewGrant,
    tools::{Called, Staging},
};
use fumehood_core::{
    call::{Arguments, status_of},
    event::EventBody,
    id::SessionId,
    ledger::LedgerEntry,
    name::{OrgName, SecretName},
};
use fumehood_policy::{grant::Grant, limits::Limits};
use fumehood_store::record::{Owner, PageRequest};
use secrecy::SecretString;
use serde_json::json;
use std::path::{Path, PathBuf};

pub(crate) async fn call_file(out: Out, loaded: &Loaded, args: &ToolCall) -> anyhow::Result<bool> {
    let arguments: Arguments = serde_json::from_str(&args.arguments)
        .context("the arguments are not a JSON object")
        .or_fault()?;
    if args.session.is_some() {
        return Err(of_usage(
            "--session is for an installed component: a file is called in a session of its own".to_owned(),
        ));
    }
    let workspace = workspace(args).or_fault()?;
    let secrets = secrets(args).or_fault()?;
    let file = Path::new(&args.component);
    let beside = Beside::of(file)?;
    beside.tell();
    let mut grant = granted(args)?;

    let door = boot::door(loaded)?;
    let (running, loaded) = Box::pin(Temporary::start(loaded, &door, CompiledCode::of_user(), file)).await?;
    let LoadedFile { code, kept, took: load } = loaded;
    let org = OrgName::default_org();

    if args.yes && args.grant.is_none() {
        let manifest = beside.manifest_in_force(code.manifest())?;
        grant = manifest.as_ref().map(Grant::everything_requested).unwrap_or_default();
        set_limits(&mut grant, args)?;
    }
    let new = beside.loaded(code, NewGrant::Exactly(Box::new(grant.clone())));
    let added = Box::pin(running.host.add_loaded(&org, new)).await?;
    let tools: Vec<&str> = added.component.tools.iter().map(|tool| tool.name.as_str()).collect();
    tool::has_tool(&tools, args)?;
    for (name, value) in &secrets {
        let owner = Owner::Org(org.clone());
        running.host.store().secret_set(&owner, name, value).await?;
    }
    let session = running.host.create_session(&org, NewSession::default()).await?.id;
    let staging = Staging {
        dir: workspace.clone(),
        host_calls: args.explain,
        ..Staging::default()
    };
    let call = running
        .host
        .call_tool_observed(&org, session, staging, &args.tool, arguments);
    let (called, events) = Box::pin(call).await?;

    let mut value = json!({"call": called.id, "status": status_of(&called.result), "metering": called.metering});
    match &called.result {
        Ok(output) => value["output"] = json!(output),
        Err(error) => value["error"] = json!(error),
    }
    let printed = printed::of(&events);
    if !printed.is_empty() {
        value["printed"] = json!(printed);
    }
    if args.explain {
        let ledger = ledger(&running, &org, session).await?;
        let ran = called.ran.as_ref();
        let times = Times {
            load,
            kept,
            instance: ran.and_then(|ran| ran.instantiated),
        };
        let manifest = &added.component.manifest;
        let ceilings = running.host.ceilings();
        let given = Given {
            grant: &grant,
            workspace: workspace.is_some(),
        };
        let made = made(manifest, given, ceilings, &called, &events, &ledger, times);
        value["explanation"] = explanation::explanation(&made);
    }
    let ok = tool::print_result(out, &value);
    if !out.json {
        // Beside the result, which alone is the command's output.
        for one in &printed {
            eprintln!("\n{one}");
        }
    }
    if let Some(explanation) = value.get("explanation").filter(|_| !out.json) {
        explanation::show(out, explanation);
    } else if !out.json && gave_nothing(args) && was_denied(&called) {
        tell(
            "nothing was granted to it: --yes grants this call all that the component asks for, --grant FILE what stands in the file; --explain says what \
             would have been needed\n",
        );
    }
    running.stop().await;
    Ok(ok)
}

fn made<'a>(
    manifest: &'a fumehood_policy::manifest::Manifest,
    given: Given<'a>,
    ceilings: &'a Limits,
    called: &'a Called,
    events: &'a [EventBody],
    ledger: &'a [LedgerEntry],
    times: Times,
) -> Made<'a> {
    let ran = called.ran.as_ref();
    Made {
        manifest,
        given,
        result: &called.result,
        metering: &called.metering,
        limits: ran.map(|ran| &ran.limits),
        ceilings,
        denials: ran.map(|ran| ran.denials.as_slice()).unwrap_or_default(),
        host_calls: ran.and_then(|ran| ran.host_calls.as_ref()),
        events,
        ledger,
        times,
    }
}

fn gave_nothing(args: &ToolCall) -> bool {
    args.grant.is_none() && !args.yes
}

/// Whether something was refused to a call that did not go well.
fn was_denied(called: &Called) -> bool {
    let failed = called.result.as_ref().map_or(true, |output| output.is_error);
    failed && called.ran.as_ref().is_some_and(|ran| !ran.denials.is_empty())
}

/// What the call may do: what is granted by a file, or nothing; within the limits that are given.
fn granted(args: &ToolCall) -> anyhow::Result<Grant> {
    let mut grant = match &args.grant {
        Some(file) => tool::read_grant(file)?,
        None => Grant::none(),
    };
    set_limits(&mut grant, args)?;
    Ok(grant)
}

/// The limits that are given.
fn set_limits(grant: &mut Grant, args: &ToolCall) -> anyhow::Result<()> {
    for limit in &args.limit {
        let (key, value) = limit
            .split_once('=')
            .context("--limit takes KEY=VALUE, for example cpu=100ms")
            .or_fault()?;
        grant.limits.set(key, value).or_fault()?;
    }
    Ok(())
}

/// The directory that the call sees as its workspace, if one is given.
fn workspace(args: &ToolCall) -> anyhow::Result<Option<PathBuf>> {
    let dir = args.workspace.as_ref().map(|dir| dir.canonicalize()).transpose();
    let dir = dir.context("--workspace is no directory")?;
    if dir.as_ref().is_some_and(|dir| !dir.is_dir()) {
        bail!("--workspace is no directory");
    }
    Ok(dir)
}

/// The secrets that the call may use.
fn secrets(args: &ToolCall) -> anyhow::Result<Vec<(SecretName, SecretString)>> {
    let secret = |given: &String| {
        let (name, value) = given.split_once('=').context("--secret takes NAME=VALUE")?;
        Ok((SecretName::new(name)?, SecretString::from(value)))
    };
    args.secret.iter().map(secret).collect()
}

/// What the door decided, oldest first.
async fn ledger(running: &Running, org: &OrgName, session: SessionId) -> anyhow::Result<Vec<LedgerEntry>> {
    running.egress.flush().await;
    let page = PageRequest {
        after: None,
        limit: 1000,
    };
    let mut entries = running.host.store().ledger(org, session, &page).await?.items;
    entries.sort_by_key(|entry| entry.time);
    Ok(entries)
}
