//! From a configuration to a running host: the same way for `serve`, for the commands and for the demo.

use crate::{
    compiled_code::CompiledCode,
    config::{Config, Loaded},
    configured,
    distribution::Uploads,
    fault::OrFault as _,
    keys, standard, unmatched,
};
use anyhow::Context as _;
use fumehood_agent::{
    StoreLedger,
    caller::{Caller, CallerParts},
    catalog::{Catalog, InstalledTool, OrgTools},
    host::{Host, HostParts, Patience},
    models::{Model, Models},
    skills::Skill,
};
use fumehood_core::name::{OrgName, SkillName};
use fumehood_egress::{Egress, EgressConfig};
use fumehood_model::{build, resolve_fallbacks};
use fumehood_sandbox::{CacheKey, Compiler, CompilerChild, Sandbox, SandboxConfig};
use fumehood_server::{ServerConfig, SignatureCheck};
use fumehood_store::{OpenError, Opened, StoreUrl};
use secrecy::{ExposeSecret as _, SecretString};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// A running host and what it stands on.
pub(crate) struct Running {
    pub(crate) host: Host,
    pub(crate) egress: Egress,
    pub(crate) opened: Opened,
    /// Set when this start made the first key of the org `default`.
    new_key: Option<SecretString>,
}

impl Running {
    /// Stops the host where it is and closes the store.
    pub(crate) async fn stop(self) {
        self.host.shut_down().await;
        self.egress.flush().await;
        drop(self.host);
        self.opened.close().await;
    }
}

/// Opens the store as it is configured.
pub(crate) async fn open(config: &Config) -> Result<Opened, OpenError> {
    let url: StoreUrl = config.store_url().parse()?;
    fumehood_store::open_with(&config.data_dir, &url, config.quotas()).await
}

/// Opens the store and starts the host. It has all it works with then, and leaves alone what an earlier process left.
pub(crate) async fn start(loaded: &Loaded) -> anyhow::Result<Running> {
    start_on(loaded, open(&loaded.config).await?).await
}

/// Starts the host on an opened store.
pub(crate) async fn start_on(loaded: &Loaded, opened: Opened) -> anyhow::Result<Running> {
    // What would be refused is refused before a tool is installed or a key is made.
    let configured = configured::read(loaded)?;
    let running = start_untooled(loaded, opened).await?;
    let org = OrgName::default_org();
    standard::install(&running.host, &org).await?;
    configured::install(&running.host, configured, &org).await?;
    let tools = running.host.tools(&org).await?;
    let orgs = running.opened.store.orgs().await?;
    let orgs: Vec<_> = orgs.iter().map(|org| org.name.as_str()).collect();
    let named = |tool: &Arc<InstalledTool>| (tool.component.record.name.clone(), tool.definition.name.clone());
    let tools: Vec<_> = tools.iter().map(named).collect();
    let warnings = unmatched::orgs(loaded, &orgs)
        .into_iter()
        .chain(unmatched::tools(loaded, &tools));
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(running)
}

/// Components that hooks of the configuration name and that are none here: what such a hook guards would be denied, all of it.
pub(crate) fn unusable_hooks(loaded: &Loaded, tools: &OrgTools) -> Vec<String> {
    let agents = loaded.config.agents();
    let hooks = agents
        .iter()
        .flat_map(|(name, agent)| agent.hook.iter().map(move |hook| (name, hook)));
    let unusable = hooks.filter_map(|(agent, hook)| {
        let component = hook.component.as_ref()?;
        if tools.hook(component).is_some() {
            return None;
        }
        Some(format!(
            "[[agent.{agent}.hook]] `{}`: there is no hook `{component}` among the installed components; add one that exports \
             fumehood:tool/hooks with `fumehood tool add`, or under [tool.{component}]",
            hook.name
        ))
    });
    unusable.collect()
}

/// Starts a host that has no tools yet on an opened store.
pub(crate) async fn start_untooled(loaded: &Loaded, opened: Opened) -> anyhow::Result<Running> {
    let sandbox = Sandbox::new(&sandbox_of(&loaded.config, &opened)?)?;
    let mut running = start_bare(loaded, opened, &door(loaded)?, sandbox).await?;
    let (store, lock) = (&*running.opened.store, &running.opened.lock);
    running.new_key = keys::first(store, lock, &OrgName::default_org()).await?;
    Ok(running)
}

/// The sandbox of a host with this store, as it is configured.
fn sandbox_of(config: &Config, opened: &Opened) -> anyhow::Result<SandboxConfig> {
    Ok(SandboxConfig {
        cache_dir: Some(opened.lock.path().join("compiled")),
        cache_key: CacheKey::new(*opened.master.derive("compiled code")),
        tmp_dir: Some(opened.lock.path().join("tmp")),
        max_component_size: config.call_limits().install.component_size.bytes(),
        compiler: compiler(config),
        ceilings: config.host_policy().ceilings,
        ..SandboxConfig::new()?
    })
}

/// The door as it is configured.
///
/// # Errors
/// Where certificates of authorities can't be used: without them servers would be refused that the operator trusts.
pub(crate) fn door(loaded: &Loaded) -> anyhow::Result<EgressConfig> {
    Ok(EgressConfig {
        private_networks: loaded.config.host_policy().private_networks,
        extra_roots: loaded.certificate_authorities()?,
        ..EgressConfig::default()
    })
}

/// Starts a host that has no tools and no key yet, with this door and this sandbox.
pub(crate) async fn start_bare(
    loaded: &Loaded,
    opened: Opened,
    door: &EgressConfig,
    sandbox: Sandbox,
) -> anyhow::Result<Running> {
    let config = &loaded.config;
    let store = Arc::clone(&opened.store);
    let org = OrgName::default_org();
    if store.org(&org).await?.is_none() {
        store.create_org(&org).await?;
    }
    store.replace_agents(&org, &config.agents()).await?;

    let policy = config.host_policy();
    let limits = Arc::new(config.limits()?);
    let ledger = StoreLedger::new(Arc::clone(&store), Arc::clone(&limits));
    let egress = Egress::new(door, Arc::clone(&ledger) as Arc<_>)?;
    let workspaces = opened.workspaces.clone();
    let caller = Caller::new(CallerParts {
        sandbox: sandbox.clone(),
        egress: egress.clone(),
        ledger,
        store: Arc::clone(&store),
        workspaces: workspaces.clone(),
        policy,
        limits,
        env: guest_environment(std::env::vars()),
        recording_bytes: config.recordings.in_effect(),
        callbacks: config.callbacks.in_effect(),
    });
    let drain = config.call_limits().drain();
    let catalog = Catalog::new(Arc::clone(&store), opened.blobs.clone(), sandbox, drain);
    let host = Host::start(HostParts {
        store,
        workspaces,
        catalog,
        caller,
        models: models(loaded)?,
        skills: skills(loaded)?,
        budgets: config.budgets(),
        default_agent: config.default_agent()?,
        schedules: config.schedules.in_effect(),
        patience: Patience::default(),
        retention: config.retention(),
        jobs: config.jobs.in_effect(),
    });
    Ok(Running {
        host,
        egress,
        opened,
        new_key: None,
    })
}

/// This program as the one that compiles, limited as the configuration says.
pub(crate) fn compiler(config: &Config) -> Compiler {
    let install = &config.call_limits().install;
    // On Linux by what it is and not by its path, where an update may have put another version.
    let program = if cfg!(target_os = "linux") {
        Ok(PathBuf::from("/proc/self/exe"))
    } else {
        std::env::current_exe()
    };
    match program {
        Ok(program) => Compiler::Child(CompilerChild {
            program,
            arguments: vec!["compile".to_owned()],
            time: install.compile_time.as_duration(),
            memory: install.compile_memory.bytes(),
        }),
        Err(error) => {
            tracing::warn!(%error, "this program's file is not known; components are compiled without limits of time and memory");
            Compiler::InProcess
        }
    }
}

/// A sandbox that only looks at components.
pub(crate) fn inspecting(config: &Config) -> anyhow::Result<Sandbox> {
    looking(config, None)
}

/// The same, for the component files of an author, who calls them next: their compiled code is kept for that.
pub(crate) fn looking(config: &Config, compiled: Option<CompiledCode>) -> anyhow::Result<Sandbox> {
    Ok(Sandbox::new(&for_files(config, compiled)?)?)
}

/// A sandbox for component files that are installed nowhere: it runs few calls at once.
pub(crate) fn for_files(config: &Config, compiled: Option<CompiledCode>) -> anyhow::Result<SandboxConfig> {
    let unkept = SandboxConfig::new()?;
    let (cache_dir, cache_key) = match compiled {
        Some(compiled) => (Some(compiled.dir), compiled.key),
        None => (None, unkept.cache_key.clone()),
    };
    Ok(SandboxConfig {
        cache_dir,
        cache_key,
        max_concurrent_calls: 4,
        max_component_size: config.call_limits().install.component_size.bytes(),
        compiler: compiler(config),
        ceilings: config.host_policy().ceilings,
        ..unkept
    })
}

/// What the API takes, as it is configured.
pub(crate) fn server_config(loaded: &Loaded) -> anyhow::Result<ServerConfig> {
    let config = &loaded.config;
    let uploads = Uploads::of(loaded.trust()?);
    Ok(ServerConfig {
        signatures: uploads.map(|uploads| Arc::new(uploads) as Arc<dyn SignatureCheck>),
        component_body: config.call_limits().install.component_size.as_usize(),
        file_body: usize::try_from(config.quotas().files.file_bytes).unwrap_or(usize::MAX),
        ..ServerConfig::default()
    })
}

/// The configured models, ready to be asked.
pub(crate) fn models(loaded: &Loaded) -> anyhow::Result<Models> {
    let configured = loaded.config.models(&variable);
    let mut fallbacks = resolve_fallbacks(&configured)
        .map_err(|error| loaded.located(error.into()))
        .or_fault()?;
    configured
        .into_iter()
        .map(|(name, mut model)| {
            if let Some(script) = &mut model.script {
                *script = loaded.base().join(&*script);
            }
            let provider = build(&model, &variable).with_context(|| format!("[model.{name}] can't be used"));
            let model = Model {
                provider: provider.map_err(|error| loaded.located(error)).or_fault()?,
                max_retries: model.max_retries,
                fallbacks: fallbacks.remove(&name).unwrap_or_default(),
                price: model.price,
            };
            Ok((name, model))
        })
        .collect()
}

/// The configured skills, read.
pub(crate) fn skills(loaded: &Loaded) -> anyhow::Result<BTreeMap<SkillName, Arc<Skill>>> {
    let sections = loaded.config.skill.iter();
    let read = sections
        .map(|(name, section)| {
            let skill = Skill::read(&loaded.base().join(&section.source), name)
                .with_context(|| format!("[skill.{name}] can't be used"))?;
            Ok((name.clone(), Arc::new(skill)))
        })
        .collect::<anyhow::Result<_>>();
    read.map_err(|error| loaded.located(error)).or_fault()
}

/// The variables that grants may hand to tools.
///
/// THREAT[T-box-env]: an org decides about grants, the operator about the environment. So only what the operator set
/// for tools is there to be granted: `FUMEHOOD_GUEST_NAME` is NAME to a tool. Never the host's own variables.
fn guest_environment(variables: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    variables
        .filter_map(|(name, value)| Some((name.strip_prefix("FUMEHOOD_GUEST_")?.to_owned(), value)))
        .collect()
}

/// An environment variable that may hold a secret.
pub(crate) fn variable(name: &str) -> Option<SecretString> {
    std::env::var(name).ok().map(SecretString::from)
}

/// Shows the first key, once, to whoever made it.
pub(crate) fn tell_of_new_key(running: &Running, loaded: &Loaded) {
    if let Some(key) = &running.new_key {
        let file = keys::file(&loaded.config.data_dir);
        eprintln!(
            "A first API key was made for the org `default`. It is shown once, and kept in {}:",
            file.display()
        );
        eprintln!("  {}", key.expose_secret());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_can_be_granted_only_variables_that_were_set_for_tools() {
        let host = [
            ("OPENAI_API_KEY", "sk"),
            ("FUMEHOOD_GUEST_TZ", "Europe/Paris"),
            ("FUMEHOOD_KEY", "fh"),
        ];
        let host = host.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            guest_environment(host.into_iter()),
            [("TZ".to_owned(), "Europe/Paris".to_owned())]
        );
    }
}
