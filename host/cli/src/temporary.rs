//! A host on a data directory of its own, which goes with it: for component files that are tried and installed nowhere.
//!
//! Everything is enforced as it would be in service. Only compiled code stays, for the next time that the user tries the same file,
//! and a copy of the empty database.

use crate::{
    boot::{self, Running},
    code_file::LoadedFile,
    compiled_code::CompiledCode,
    config::Loaded,
    kept_database,
    load_hints::Hints,
};
use anyhow::Context as _;
use fumehood_egress::EgressConfig;
use fumehood_sandbox::{Sandbox, SandboxConfig};
use std::{ops::Deref, path::Path};
use tempfile::TempDir;

/// Calls at once, with those that calls make: the place for each is made at the start, which a command waits for.
const CALLS_AT_ONCE: u32 = 32;

/// The host, running.
pub(crate) struct Temporary {
    running: Running,
    _dir: TempDir,
}

impl Temporary {
    /// Starts it as it is configured, but without the configured tools and with this door, and loads a component file for it meanwhile:
    /// the two need nothing of each other, and both take their time.
    ///
    /// # Errors
    /// When one of them fails; nothing of the other is left then.
    pub(crate) async fn start(
        loaded: &Loaded,
        door: &EgressConfig,
        kept: Option<CompiledCode>,
        file: &Path,
    ) -> anyhow::Result<(Self, LoadedFile)> {
        let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
        let mut loaded = loaded.clone();
        loaded.config.data_dir = dir.path().join("data");
        loaded.config.tool.clear();
        let sandbox = Sandbox::new(&SandboxConfig {
            tmp_dir: Some(dir.path().join("tmp")),
            max_concurrent_calls: CALLS_AT_ONCE,
            ..boot::for_files(&loaded.config, kept.clone())?
        })?;
        let host = async {
            let empty = match &kept {
                Some(kept) => kept_database::of_user(kept).await,
                None => None,
            };
            let (data_dir, quotas) = (&loaded.config.data_dir, loaded.config.quotas());
            let opened = fumehood_store::open_temporary(data_dir, quotas, empty.as_ref()).await?;
            boot::start_bare(&loaded, opened, door, sandbox.clone()).await
        };
        let hints = Hints::in_folder(kept.as_ref());
        let (running, code) = tokio::join!(Box::pin(host), LoadedFile::load(&sandbox, file, &hints));
        let running = running?;
        match code {
            Ok(code) => Ok((Self { running, _dir: dir }, code)),
            Err(error) => {
                running.stop().await;
                Err(error)
            }
        }
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
