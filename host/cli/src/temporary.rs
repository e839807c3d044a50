//! A host on a data directory of its own, which goes with it: for component files that are tried and installed nowhere.
//!
//! Everything is enforced as it would be in service. Only compiled code stays, for the next time that the user tries the same file.

use crate::{
    boot::{self, Running},
    compiled_code::CompiledCode,
    config::Loaded,
};
use anyhow::Context as _;
use fumehood_egress::EgressConfig;
use fumehood_store::StoreUrl;
use std::ops::Deref;
use tempfile::TempDir;

/// Calls at once, with those that calls make: the place for each is made at the start, which a command waits for.
const CALLS_AT_ONCE: u32 = 32;

/// The host, running.
pub(crate) struct Temporary {
    running: Running,
    _dir: TempDir,
}

impl Temporary {
    /// Starts it as it is configured, but without the configured tools and with this door.
    pub(crate) async fn start(
        loaded: &Loaded,
        door: &EgressConfig,
        compiled: Option<CompiledCode>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
        let mut loaded = loaded.clone();
        loaded.config.data_dir = dir.path().to_owned();
        loaded.config.tool.clear();
        let opened = fumehood_store::open_with(dir.path(), &StoreUrl::Temporary, loaded.config.quotas()).await?;
        let mut sandbox = boot::sandbox_of(&loaded.config, &opened)?;
        sandbox.max_concurrent_calls = CALLS_AT_ONCE;
        if let Some(compiled) = compiled {
            sandbox.cache_dir = Some(compiled.dir);
            sandbox.cache_key = compiled.key;
        }
        let running = boot::start_bare(&loaded, opened, door, &sandbox).await?;
        Ok(Self { running, _dir: dir })
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }
}

impl Deref for Temporary {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}
