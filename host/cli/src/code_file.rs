//! The code of a component file, by what the file has now.
//!
//! Code that was compiled before is found by the digest of the file. So a file is read in pieces to have that, and is in memory as a whole
//! only where it has to be compiled: a language's runtime has tens of megabytes.

use crate::load_hints::Hints;
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
    /// Loads what the file has now. Finding that out takes its time, and so does loading: what the file had when it was loaded last is
    /// loaded meanwhile, and used if that is what it has.
    ///
    /// # Errors
    /// When the file can't be read, or this host can't use it.
    pub(crate) async fn load(sandbox: &Sandbox, path: &Path, hints: &Hints) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let likely = async {
            match hints.of(path).await {
                Some(digest) => Some((digest, sandbox.load_cached(digest).await?)),
                None => None,
            }
        };
        let (read, likely) = tokio::join!(Pinned::read(path), likely);
        let read = read?;
        let digest = read.digest;
        // Whoever has loaded the code of a digest shares it while it is held.
        let (code, kept) = read.load(sandbox).await?;
        if likely.is_none_or(|(hinted, _)| hinted != digest) {
            hints.keep(path, digest).await;
        }
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
    use crate::compiled_code::CompiledCode;
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

    /// A component with one function of this name.
    fn component(function: &str) -> Vec<u8> {
        let text = format!(
            r#"(component
                (core module $m (func (export "f") (result i32) (i32.const 1)))
                (core instance $i (instantiate $m))
                (func (export "{function}") (result u32) (canon lift (core func $i "f"))))"#
        );
        wat::parse_str(text).unwrap()
    }

    async fn kept_in(folder: &CompiledCode, wasm: &[u8]) {
        let sandbox = keeping(folder);
        sandbox.load(wasm.to_vec(), Digest::of(wasm)).await.unwrap();
        while keeping(folder).load_cached(Digest::of(wasm)).await.is_none() {
            tokio::task::yield_now().await;
        }
    }

    fn keeping(folder: &CompiledCode) -> Sandbox {
        Sandbox::new(&SandboxConfig {
            max_concurrent_calls: 1,
            cache_dir: Some(folder.dir.clone()),
            cache_key: folder.key.clone(),
            ..SandboxConfig::new().unwrap()
        })
        .unwrap()
    }

    // T-box-cache-tamper
    #[tokio::test]
    async fn whatever_a_hint_says_the_code_is_that_of_what_the_file_has() {
        let home = tempfile::tempdir().unwrap();
        let folder = CompiledCode::open(&home.path().join("compiled")).unwrap();
        let path = home.path().join("x.wasm");
        let (first, second) = (component("first"), component("second"));
        for wasm in [&first, &second] {
            kept_in(&folder, wasm).await;
        }
        let hints = Hints::in_folder(Some(&folder));
        assert!(hints.of(&path).await.is_none());
        let loaded = async || {
            let loaded = LoadedFile::load(&keeping(&folder), &path, &hints).await.unwrap();
            assert!(loaded.kept);
            *loaded.code.digest()
        };
        std::fs::write(&path, &first).unwrap();
        assert_eq!(loaded().await, Digest::of(&first), "without a hint");
        assert_eq!(hints.of(&path).await, Some(Digest::of(&first)));
        assert_eq!(loaded().await, Digest::of(&first), "with the right one");
        std::fs::write(&path, &second).unwrap();
        assert_eq!(loaded().await, Digest::of(&second), "with that of before");
        assert_eq!(hints.of(&path).await, Some(Digest::of(&second)));
        hints.keep(&path, Digest::of(b"nothing that is there")).await;
        assert_eq!(loaded().await, Digest::of(&second), "with that of nothing");
    }
}
