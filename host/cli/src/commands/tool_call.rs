//! `fumehood tool call FILE …`: one call of a component file under the real limits, without installing it anywhere.
//!
//! A host on a temporary data directory runs it, so that everything is enforced as it would be in service.

use crate::{args::ToolCall, boot, commands::tool, component_file::ComponentFile, config::Loaded, out::Out};
use anyhow::{Context as _, bail};
use fumehood_agent::{host::NewSession, install::NewGrant};
use fumehood_core::{
    call::{Arguments, status_of},
    name::{OrgName, SecretName},
};
use fumehood_policy::grant::Grant;
use fumehood_store::record::Owner;
use secrecy::SecretString;
use serde_json::json;
use std::path::Path;

pub(crate) async fn call_file(out: Out, loaded: &Loaded, args: &ToolCall) -> anyhow::Result<bool> {
    let arguments: Arguments = serde_json::from_str(&args.arguments).context("the arguments are not a JSON object")?;
    let file = ComponentFile::read(Path::new(&args.component))?;
    file.tell();

    let new = file.component(NewGrant::Exactly(Box::new(grant(args, &file)?)));

    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    let mut loaded = loaded.clone();
    loaded.config.data_dir = dir.path().to_owned();
    loaded.config.store = Default::default();
    loaded.config.tool.clear();
    let running = boot::start_bare(&loaded).await?;
    let org = OrgName::default_org();
    let host = &running.host;
    host.add_component(&org, new).await?;
    for secret in &args.secret {
        let (name, value) = secret.split_once('=').context("--secret takes NAME=VALUE")?;
        host.store()
            .secret_set(
                &Owner::Org(org.clone()),
                &SecretName::new(name)?,
                &SecretString::from(value),
            )
            .await?;
    }
    let workspace = args
        .workspace
        .as_ref()
        .map(|dir| dir.canonicalize())
        .transpose()
        .context("--workspace is no directory")?;
    if workspace.as_ref().is_some_and(|dir| !dir.is_dir()) {
        bail!("--workspace is no directory");
    }
    let session = host.create_session(&org, NewSession::default()).await?;
    let called = match workspace {
        Some(dir) => {
            host.call_tool_on_files(&org, session.id, &dir, &args.tool, arguments)
                .await
        }
        None => {
            host.call_tool(&org, Some(session.id), &args.tool, arguments, None)
                .await
        }
    };
    let called = called?;
    let mut value = json!({"call": called.id, "status": status_of(&called.result), "metering": called.metering});
    match called.result {
        Ok(output) => value["output"] = json!(output),
        Err(error) => value["error"] = json!(error),
    }
    let ok = tool::print_result(out, &value);
    running.stop().await;
    Ok(ok)
}

/// What the call may do: what is granted by a file, all that the component asks for, or nothing; within the limits that are given.
fn grant(args: &ToolCall, file: &ComponentFile) -> anyhow::Result<Grant> {
    let mut grant = match &args.grant {
        Some(file) => tool::read_grant(file)?,
        None if args.yes => file
            .manifest_in_force()?
            .as_ref()
            .map(Grant::everything_requested)
            .unwrap_or_default(),
        None => Grant::none(),
    };
    for limit in &args.limit {
        let (key, value) = limit
            .split_once('=')
            .context("--limit takes KEY=VALUE, for example cpu=100ms")?;
        grant.limits.set(key, value)?;
    }
    Ok(grant)
}
