//! What `config show` shows: the configuration as it is in effect.

use super::{Loaded, LogFormat, org_limits, retention};
use crate::distribution::{Policy, Source};
use fumehood_core::{
    digest::Digest,
    name::{AgentName, ComponentName, ModelName, OrgName, SkillName},
    price::Price,
};
use fumehood_model::SecretLookup;
use fumehood_policy::{
    agent::AgentConfig,
    authority::HostPolicy,
    quantity::{ByteSize, Span},
    spending::OrgBudget,
};
use fumehood_store::Quotas;
use serde::Serialize;
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

/// The configuration as it is in effect, for `config show`. Holds no secret: keys are named by their variables, and who logs in
/// to a database is left out.
#[derive(Debug, Serialize)]
pub(crate) struct Effective {
    file: Option<PathBuf>,
    variables: Vec<String>,
    listen: SocketAddr,
    data_dir: PathBuf,
    store: String,
    limits_store: Option<String>,
    log: EffectiveLog,
    metrics: EffectiveMetrics,
    models: BTreeMap<ModelName, EffectiveModel>,
    agents: BTreeMap<AgentName, AgentConfig>,
    skills: BTreeMap<SkillName, PathBuf>,
    host: HostPolicy,
    certificate_authorities: Vec<PathBuf>,
    files: EffectiveFiles,
    kv: EffectiveKv,
    recordings: EffectiveRecordings,
    schedules: EffectiveSchedules,
    retention: EffectiveRetention,
    callbacks: EffectiveCallbacks,
    jobs: EffectiveJobs,
    install: EffectiveInstall,
    /// How long calls may go on whose component is removed or replaced.
    drain: Span,
    shutdown: EffectiveShutdown,
    /// Those with a section of their own.
    orgs: BTreeMap<OrgName, org_limits::Shown>,
    budgets: BTreeMap<OrgName, OrgBudget>,
    tools: BTreeMap<ComponentName, EffectiveTool>,
    /// Where components come from.
    distribution: EffectiveDistribution,
}

#[derive(Debug, Serialize)]
struct EffectiveDistribution {
    /// Nothing where the user has no cache.
    cache: Option<PathBuf>,
    cache_size: ByteSize,
    timeout: Span,
    signatures: Policy,
    /// What each key is trusted for.
    trusted_keys: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Serialize)]
struct EffectiveLog {
    format: Option<LogFormat>,
}

#[derive(Debug, Serialize)]
struct EffectiveMetrics {
    public: Option<bool>,
}

#[derive(Debug, Serialize)]
struct EffectiveShutdown {
    drain: Span,
}

#[derive(Debug, Serialize)]
struct EffectiveInstall {
    component_size: ByteSize,
    compile_time: Span,
    compile_memory: ByteSize,
}

#[derive(Debug, Serialize)]
struct EffectiveTool {
    source: Source,
    digest: Option<Digest>,
    /// Whether the configuration grants it something; else somebody decides with `fumehood tool grant`.
    granted: bool,
}

#[derive(Debug, Serialize)]
struct EffectiveFiles {
    quota: ByteSize,
    file: ByteSize,
    entries: u64,
    snapshots: ByteSize,
}

#[derive(Debug, Serialize)]
struct EffectiveKv {
    entries: u64,
    bytes: ByteSize,
}

#[derive(Debug, Serialize)]
struct EffectiveRecordings {
    bytes: ByteSize,
}

#[derive(Debug, Serialize)]
struct EffectiveSchedules {
    per_org: u64,
    least_interval: Span,
}

#[derive(Debug, Serialize)]
struct EffectiveRetention {
    usual: BTreeMap<&'static str, String>,
    /// Those with a section of their own.
    orgs: BTreeMap<OrgName, BTreeMap<&'static str, String>>,
}

#[derive(Debug, Serialize)]
struct EffectiveCallbacks {
    url: Option<String>,
    time: Span,
    longest: Span,
}

#[derive(Debug, Serialize)]
struct EffectiveJobs {
    time: Span,
    running: u32,
    running_per_org: u32,
    unfinished_per_org: u64,
}

#[derive(Debug, Serialize)]
struct EffectiveModel {
    provider: &'static str,
    model: String,
    max_retries: u32,
    fallback: Vec<ModelName>,
    price: Option<Price>,
}

impl Effective {
    pub(crate) fn new(loaded: &Loaded, secrets: &SecretLookup<'_>) -> Self {
        let config = &loaded.config;
        let Quotas {
            files,
            snapshots,
            key_values,
        } = config.quotas();
        let models = config.models(secrets).into_iter().map(|(name, model)| {
            (
                name,
                EffectiveModel {
                    provider: model.provider.as_str(),
                    model: model.model_name().to_owned(),
                    max_retries: model.max_retries,
                    fallback: model.fallback,
                    price: model.price,
                },
            )
        });
        let schedules = config.schedules.in_effect();
        let kept = config.retention();
        let callbacks = config.callbacks.in_effect();
        let jobs = config.jobs.in_effect();
        let install = config.call_limits().install;
        let tools = config.tool.iter().map(|(name, tool)| {
            let tool = EffectiveTool {
                source: tool.source.clone(),
                digest: tool.digest,
                granted: tool.grant.is_some(),
            };
            (name.clone(), tool)
        });
        Self {
            file: loaded.file.clone(),
            variables: loaded.variables.clone(),
            listen: config.listen,
            data_dir: config.data_dir.clone(),
            store: without_login(&config.store_url()),
            limits_store: Some(&config.limits_store.url)
                .filter(|url| !url.is_empty())
                .map(|url| without_login(url)),
            log: EffectiveLog {
                format: config.log.format,
            },
            metrics: EffectiveMetrics {
                public: config.metrics.public,
            },
            models: models.collect(),
            agents: config.agents(),
            skills: config
                .skill
                .iter()
                .map(|(name, section)| (name.clone(), section.source.clone()))
                .collect(),
            host: config.host_policy(),
            certificate_authorities: config.network.certificate_authorities.clone(),
            files: EffectiveFiles {
                quota: ByteSize(files.bytes),
                file: ByteSize(files.file_bytes),
                entries: files.entries,
                snapshots: ByteSize(snapshots),
            },
            kv: EffectiveKv {
                entries: key_values.entries,
                bytes: ByteSize(key_values.bytes),
            },
            recordings: EffectiveRecordings {
                bytes: ByteSize(config.recordings.in_effect()),
            },
            schedules: EffectiveSchedules {
                per_org: schedules.per_org,
                least_interval: schedules.least_interval,
            },
            retention: EffectiveRetention {
                usual: retention::shown(kept.usual),
                orgs: kept
                    .orgs
                    .into_iter()
                    .map(|(name, kept)| (name, retention::shown(kept)))
                    .collect(),
            },
            callbacks: EffectiveCallbacks {
                url: callbacks.url,
                time: callbacks.time,
                longest: callbacks.longest,
            },
            jobs: EffectiveJobs {
                time: jobs.time,
                running: jobs.running,
                running_per_org: jobs.running_per_org,
                unfinished_per_org: jobs.unfinished_per_org,
            },
            install: EffectiveInstall {
                component_size: install.component_size,
                compile_time: install.compile_time,
                compile_memory: install.compile_memory,
            },
            drain: config.call_limits().drain(),
            shutdown: EffectiveShutdown {
                drain: config.shutdown.drain(),
            },
            orgs: config
                .org
                .iter()
                .map(|(name, org)| (name.clone(), org.limits.shown()))
                .collect(),
            budgets: config.budgets(),
            tools: tools.collect(),
            distribution: EffectiveDistribution {
                cache: loaded.tool_cache().ok(),
                cache_size: config.tools.cache_size(),
                timeout: config.tools.timeout(),
                signatures: config.tools.signatures,
                trusted_keys: config.tools.trusted_places(),
            },
        }
    }
}

/// A URL without the name and password before its host.
fn without_login(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..authority].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[host..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_logs_in_to_a_store_is_not_shown() {
        for (url, shown) in [
            ("rediss://user:p@ss@h:6379/0", "rediss://h:6379/0"),
            ("redis://:pw@h", "redis://h"),
            ("redis://h/1?a=b@c", "redis://h/1?a=b@c"),
            ("sqlite:.fumehood/fumehood.db", "sqlite:.fumehood/fumehood.db"),
        ] {
            assert_eq!(without_login(url), shown);
        }
    }
}
