//! What a component file had when it was loaded last, so that its compiled code can be loaded while that is found out anew.
//!
//! A hint is nobody's word for anything: it decides which kept code is looked at early, and never what is used. One that is wrong, or that
//! somebody else wrote, costs time.

use crate::compiled_code::CompiledCode;
use fumehood_core::digest::Digest;
use std::{
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// Where hints are kept, if they are.
pub(crate) struct Hints {
    dir: Option<PathBuf>,
}

impl Hints {
    /// Those that lie in the folder of compiled code.
    pub(crate) fn in_folder(folder: Option<&CompiledCode>) -> Self {
        Self {
            dir: folder.map(|folder| folder.dir.clone()),
        }
    }

    /// What the file had.
    pub(crate) async fn of(&self, file: &Path) -> Option<Digest> {
        let hint = self.hint(file)?;
        let read = move || fs::read_to_string(hint).ok()?.trim().parse().ok();
        tokio::task::spawn_blocking(read).await.ok()?
    }

    /// Keeps what it has now. What can't be kept is no loss.
    pub(crate) async fn keep(&self, file: &Path, digest: Digest) {
        let Some(hint) = self.hint(file) else { return };
        let kept = tokio::task::spawn_blocking(move || fs::write(hint, format!("{digest}\n"))).await;
        if let Ok(Err(error)) = kept {
            tracing::debug!(%error, "which code a file needs is not kept");
        }
    }

    fn hint(&self, file: &Path) -> Option<PathBuf> {
        // A name that depends on nothing but where the file is.
        let name = Digest::of(std::path::absolute(file).ok()?.as_os_str().as_bytes());
        Some(self.dir.as_ref()?.join(format!("{}.hint", name.to_hex())))
    }
}
