//! The code of a component file, by what the file has now.
//!
//! Code that was compiled before is found by the digest of the file. So a file is read in pieces to have that, and is in memory as a whole
//! only where it has to be compiled: a language's runtime has tens of megabytes.

use anyhow::Context as _;
use fumehood_core::digest::{Digest, Digesting};
use fumehood_sandbox::{Component, Sandbox};
use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How much is read at once.
const PIECE: usize = 128 << 10;

/// A component file, loaded.
pub(crate) struct LoadedFile {
    pub(crate) code: Component,
    /// Whether its compiled code was kept.
    pub(crate) kept: bool,
    /// How long all of it took.
    pub(crate) took: Duration,
}

impl LoadedFile {
    /// Loads what the file has now.
    ///
    /// # Errors
    /// When the file can't be read, or this host can't use it.
    pub(crate) async fn load(sandbox: &Sandbox, path: &Path) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let (code, kept) = Pinned::read(path).await?.load(sandbox).await?;
        Ok(Self {
            code,
            kept,
            took: begun.elapsed(),
        })
    }
}

/// A component file whose digest is known.
#[derive(Debug)]
struct Pinned {
    path: PathBuf,
    digest: Digest,
    bytes: u64,
    /// What it had, where it can be read only once.
    wasm: Option<Vec<u8>>,
}

impl Pinned {
    /// Reads it, on a thread of its own.
    async fn read(path: &Path) -> anyhow::Result<Self> {
        let path = path.to_owned();
        let read = move || Self::read_blocking(&path).with_context(|| format!("cannot read {}", path.display()));
        tokio::task::spawn_blocking(read).await?
    }

    fn read_blocking(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut wasm = None;
        let (digest, bytes) = if file.metadata()?.is_file() {
            digest_of(&mut file)?
        } else {
            let mut all = Vec::new();
            file.read_to_end(&mut all)?;
            let found = (Digest::of(&all), all.len() as u64);
            wasm = Some(all);
            found
        };
        Ok(Self {
            path: path.to_owned(),
            digest,
            bytes,
            wasm,
        })
    }

    /// Says whether its compiled code was kept, too.
    async fn load(self, sandbox: &Sandbox) -> anyhow::Result<(Component, bool)> {
        sandbox.check_size(self.bytes)?;
        // THREAT[T-supply-digest]: what was compiled before is that of these bytes, and what is compiled now has to be, too.
        if let Some(kept) = sandbox.load_cached(self.digest).await {
            return Ok((kept, true));
        }
        let wasm = match self.wasm {
            Some(wasm) => wasm,
            None => std::fs::read(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?,
        };
        Ok((sandbox.load(wasm, self.digest).await?, false))
    }
}

fn digest_of(file: &mut File) -> io::Result<(Digest, u64)> {
    let (mut digest, mut bytes) = (Digesting::default(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok((digest.finish(), bytes)),
            Ok(read) => {
                digest.update(&piece[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_sandbox::SandboxConfig;

    #[tokio::test]
    async fn a_file_that_changed_since_its_digest_was_taken_is_not_loaded_under_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.wasm");
        std::fs::write(&path, b"as it was").unwrap();
        let code = Pinned::read(&path).await.unwrap();
        assert_eq!((code.digest, code.bytes), (Digest::of(b"as it was"), 9));
        std::fs::write(&path, b"as it is now").unwrap();
        let sandbox = Sandbox::new(&SandboxConfig {
            max_concurrent_calls: 1,
            ..SandboxConfig::new().unwrap()
        })
        .unwrap();
        let refused = code.load(&sandbox).await.unwrap_err().to_string();
        assert!(refused.contains(&Digest::of(b"as it is now").to_string()), "{refused}");
    }

    #[tokio::test]
    async fn a_pipe_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::write(pipe, b"through a pipe").unwrap()
        });
        let code = Pinned::read(&pipe).await.unwrap();
        writer.join().unwrap();
        assert_eq!(code.digest, Digest::of(b"through a pipe"));
        assert_eq!(code.wasm.as_deref(), Some(&b"through a pipe"[..]));
    }

    #[tokio::test]
    async fn a_file_that_is_too_large_is_refused_with_both_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.wasm");
        std::fs::write(&path, vec![0; 3000]).unwrap();
        let sandbox = Sandbox::new(&SandboxConfig {
            max_concurrent_calls: 1,
            max_component_size: 2999,
            ..SandboxConfig::new().unwrap()
        })
        .unwrap();
        let refused = Pinned::read(&path)
            .await
            .unwrap()
            .load(&sandbox)
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains("3000") && refused.contains("2999"), "{refused}");
    }
}
