//! What a start with this configuration would find and make, without starting: nothing is installed, granted or written.

use crate::{
    boot,
    client::Client,
    config::Loaded,
    configured, connect,
    out::{list, text},
    standard::{self, Due},
};
use anyhow::Context as _;
use fumehood_agent::install::{Inspected, inspect};
use fumehood_core::{
    digest::Digest,
    id::SessionId,
    name::{ComponentName, OrgName, ToolName},
};
use fumehood_policy::{
    expect::{Expectation, Subject},
    grant::{Difference, Grant},
    world::{Installed, World},
};
use fumehood_sandbox::{Sandbox, ShareKey};
use fumehood_store::{OpenError, Opened, Place, examine, record::Component};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The code of each component, as far as it is known here.
type Digests = BTreeMap<ComponentName, Digest>;

/// Adds components and the sessions that the expectations name.
pub(crate) async fn fill(world: &mut World, loaded: &Loaded, expectations: &[Expectation]) -> anyhow::Result<()> {
    let named: BTreeSet<SessionId> = expectations.iter().filter_map(|one| one.context.session).collect();
    let sandbox = boot::inspecting(&loaded.config)?;
    let mut digests = Digests::new();
    let due = if loaded.config.data_dir.exists() {
        match boot::open(&loaded.config).await {
            Ok(opened) => {
                let due = from_store(world, &mut digests, &opened, &named).await;
                opened.close().await;
                due?
            }
            Err(OpenError::InUse {
                place: Place::DataDir, ..
            }) => {
                let connection = connect::connect_to_serving(loaded).await?;
                from_host(world, &mut digests, &connection.client, &named).await?;
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        }
    } else {
        standard::all()
    };
    for due in due {
        let inspected = inspect(&sandbox, ShareKey::default(), &due.new)
            .await
            .context("a standard tool is broken")?;
        add_due(world, &due, inspected);
    }
    overlay(world, &digests, loaded, &sandbox).await
}

/// The tools that a start would find or install, as far as they are granted: those that are installed, and if those are not enough, those
/// of the configuration and the standard ones of a first start. Looks beside a host that runs, and changes nothing.
pub(crate) async fn tools(
    loaded: &Loaded,
    enough: impl Fn(&[(ComponentName, ToolName)]) -> bool,
) -> anyhow::Result<Vec<(ComponentName, ToolName)>> {
    let url = loaded.config.store_url().parse()?;
    let data_dir = &loaded.config.data_dir;
    let installed = match data_dir.exists() {
        true => examine::components(data_dir, &url, &OrgName::default_org()).await?,
        false => None,
    };
    let mut world = World::new(loaded.config.host_policy(), BTreeMap::new());
    let mut digests = Digests::new();
    let first = installed.is_none();
    for component in installed.into_iter().flatten() {
        add_installed(&mut world, &mut digests, component);
    }
    let tools = granted(&world);
    if enough(&tools) {
        return Ok(tools);
    }
    let sandbox = boot::inspecting(&loaded.config)?;
    for due in first.then(standard::all).into_iter().flatten() {
        let inspected = inspect(&sandbox, ShareKey::default(), &due.new)
            .await
            .context("a standard tool is broken")?;
        add_due(&mut world, &due, inspected);
    }
    overlay(&mut world, &digests, loaded, &sandbox).await?;
    Ok(granted(&world))
}

fn granted(world: &World) -> Vec<(ComponentName, ToolName)> {
    let granted = world
        .components
        .iter()
        .filter(|(_, installed)| installed.subject.grant.is_some());
    granted
        .flat_map(|(name, installed)| installed.tools.iter().map(move |tool| (name.clone(), tool.clone())))
        .collect()
}

fn add_installed(world: &mut World, digests: &mut Digests, component: Component) {
    digests.insert(component.name.clone(), component.digest);
    let installed = Installed {
        tools: component.tools.into_iter().map(|tool| tool.name).collect(),
        subject: Subject {
            request: component.manifest,
            grant: component.grant,
        },
    };
    world.components.insert(component.name, installed);
}

async fn from_store(
    world: &mut World,
    digests: &mut Digests,
    opened: &Opened,
    named: &BTreeSet<SessionId>,
) -> anyhow::Result<Vec<Due>> {
    let (store, org) = (&*opened.store, OrgName::default_org());
    for component in store.components(&org).await? {
        add_installed(world, digests, component);
    }
    for id in named {
        // One that is not there is an error of the line that names it.
        if let Some(session) = store.session(&org, *id).await? {
            world.sessions.insert(*id, (session.agent, session.narrowing));
        }
    }
    standard::due(store, &org).await
}

async fn from_host(
    world: &mut World,
    digests: &mut Digests,
    client: &Client,
    named: &BTreeSet<SessionId>,
) -> anyhow::Result<()> {
    for component in client.every("/v1/tools").await? {
        let part = |key: &str| component.get(key).cloned();
        let subject = Subject {
            request: serde_json::from_value(part("manifest").unwrap_or_default())
                .context("the host's answer has no manifest")?,
            grant: part("grant")
                .map(serde_json::from_value)
                .transpose()
                .context("the host's answer has a grant that can't be read")?,
        };
        let names = list(&component, "tools").iter().map(|tool| text(tool, "name").parse());
        let tools = names
            .collect::<Result<_, _>>()
            .context("the host's answer has a tool without a name")?;
        let name = subject.request.name.clone();
        let digest = text(&component, "digest").parse();
        digests.insert(name.clone(), digest.context("the host's answer has no digest")?);
        world.components.insert(name, Installed { subject, tools });
    }
    for id in named {
        let Some(session) = client.find(&format!("/v1/sessions/{id}")).await? else {
            continue;
        };
        let agent = text(&session, "agent").parse().context("the session has no agent")?;
        let narrowing = ["network", "files", "background"]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), session.get(key)?.clone())))
            .collect();
        let narrowing = serde_json::from_value(Value::Object(narrowing)).context("the session is not readable")?;
        world.sessions.insert(*id, (agent, narrowing));
    }
    Ok(())
}

fn add_due(world: &mut World, due: &Due, inspected: Inspected) {
    let name = inspected.manifest.name.clone();
    let grant = if due.first {
        Some(standard::grant(&inspected.manifest))
    } else {
        taken_over(world, &inspected)
    };
    put(world, name, inspected, grant);
}

/// The configured components, as a start would make them.
async fn overlay(world: &mut World, digests: &Digests, loaded: &Loaded, sandbox: &Sandbox) -> anyhow::Result<()> {
    for configured in configured::read(loaded)? {
        let name = configured.name;
        let inspected = inspect(sandbox, ShareKey::default(), &configured.new)
            .await
            .with_context(|| format!("[tool.{name}] is refused"))?;
        configured.check(&inspected)?;
        let same = |installed: &Installed| {
            digests.get(name) == Some(&inspected.digest) && installed.subject.request == inspected.manifest
        };
        let grant = match configured.grant {
            Some(grant) => Some(grant.clone()),
            None if world.components.get(name).is_some_and(same) => continue,
            None => taken_over(world, &inspected),
        };
        put(world, name.clone(), inspected, grant);
    }
    Ok(())
}

/// What the component whose place it takes was granted, if it asks for no more than that one.
fn taken_over(world: &World, inspected: &Inspected) -> Option<Grant> {
    let before = &world.components.get(&inspected.manifest.name)?.subject;
    let difference = Difference::between(&before.request, &inspected.manifest);
    before.grant.clone().filter(|_| !difference.is_wider())
}

fn put(world: &mut World, name: ComponentName, inspected: Inspected, grant: Option<Grant>) {
    let installed = Installed {
        tools: inspected.tools.into_iter().map(|tool| tool.name).collect(),
        subject: Subject {
            request: inspected.manifest,
            grant,
        },
    };
    world.components.insert(name, installed);
}
