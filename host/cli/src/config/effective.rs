//! What `config show` shows: the configuration as it is in effect.

use super::Loaded;
use fumehood_core::name::{AgentName, ModelName};
use fumehood_model::SecretLookup;
use fumehood_policy::{agent::AgentConfig, authority::HostPolicy, quantity::ByteSize};
use fumehood_store::Quotas;
use serde::Serialize;
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

/// The configuration as it is in effect, for `config show`. Holds no secret: keys are named by their variables.
#[derive(Debug, Serialize)]
pub(crate) struct Effective {
    file: Option<PathBuf>,
    variables: Vec<String>,
    listen: SocketAddr,
    data_dir: PathBuf,
    store: String,
    models: BTreeMap<ModelName, EffectiveModel>,
    agents: BTreeMap<AgentName, AgentConfig>,
    host: HostPolicy,
    files: EffectiveFiles,
    kv: EffectiveKv,
    largest_component: ByteSize,
}

#[derive(Debug, Serialize)]
struct EffectiveFiles {
    quota: ByteSize,
    file: ByteSize,
    entries: u64,
}

#[derive(Debug, Serialize)]
struct EffectiveKv {
    entries: u64,
    bytes: ByteSize,
}

#[derive(Debug, Serialize)]
struct EffectiveModel {
    provider: &'static str,
    model: String,
}

impl Effective {
    pub(crate) fn new(loaded: &Loaded, secrets: &SecretLookup<'_>) -> Self {
        let config = &loaded.config;
        let Quotas { files, key_values } = config.quotas();
        let models = config.models(secrets).into_iter().map(|(name, model)| {
            (
                name,
                EffectiveModel {
                    provider: model.provider.as_str(),
                    model: model.model_name().to_owned(),
                },
            )
        });
        Self {
            file: loaded.file.clone(),
            variables: loaded.variables.clone(),
            listen: config.listen,
            data_dir: config.data_dir.clone(),
            store: config.store_url(),
            models: models.collect(),
            agents: config.agents(),
            host: config.host_policy(),
            files: EffectiveFiles {
                quota: ByteSize(files.bytes),
                file: ByteSize(files.file_bytes),
                entries: files.entries,
            },
            kv: EffectiveKv {
                entries: key_values.entries,
                bytes: ByteSize(key_values.bytes),
            },
            largest_component: config.call_limits().install.component_size,
        }
    }
}
