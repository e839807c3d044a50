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
use std::ops::Deref;
use tempfile::TempDir;

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
        loaded.config.store = Default::default();
        loaded.config.tool.clear();
        let running = boot::start_bare(&loaded, door, compiled).await?;
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
