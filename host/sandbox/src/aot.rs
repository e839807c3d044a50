//! Compiled code on disk: one file per component and engine, authenticated.
//!
//! Machine code that is loaded is machine code that runs with the host's rights, so a file is used
//! only if it carries a valid tag (keyed BLAKE3, 256 bits) under the host's own key, over everything in it.
//! The tag is much of what loading costs, and a language's runtime compiles to tens of megabytes: this one
//! takes half the time of HMAC-SHA256 with the processor's instructions for that. A file that is tampered
//! with, cut off, of another engine or of another host is not used; the caller compiles
//! and writes it anew. With the code the file keeps what is known of the component, so a warm start
//! neither reads the component nor runs it.
//!
//! This is the one file in the repository with `unsafe` code: loading the authenticated bytes, and those
//! that a child has just compiled.
#![allow(
    unsafe_code,
    reason = "deserialising precompiled code; see `Cache::read` and `from_own_child`"
)]

use crate::{
    component::About,
    error::SandboxError,
    sealed::{Sealed, Unsealed},
};
use fumehood_core::digest::Digest;
use std::{
    fmt, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};
use wasmtime::{Engine, component::Component};
use zeroize::Zeroizing;

/// The key that authenticates compiled code. Made once per host and kept with its other keys: whoever
/// has it can make the host run machine code. Wiped from memory when dropped.
#[derive(Clone)]
pub struct CacheKey(Zeroizing<[u8; 32]>);

impl CacheKey {
    /// Takes a key.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// A key for this process only: what is written under it is compiled anew by the next.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random() -> Result<Self, SandboxError> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key).map_err(|_| SandboxError::Engine("the system gives no random bytes".into()))?;
        Ok(Self(key))
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheKey")
    }
}

/// The file: magic, tag over the rest, length of the header, header (JSON), code.
const MAGIC: &[u8; 8] = b"FHAOT\x00\x00\x02";
const TAG: usize = blake3::OUT_LEN;
const HEADER_LEN: usize = 4;
const PREFIX: usize = MAGIC.len() + TAG + HEADER_LEN;
/// Above what definitions and a manifest have at most: it is read before it is known to be ours.
const LARGEST_HEADER: u32 = 16 << 20;
/// How much is read at once: what the processor keeps near itself between reading, authenticating and copying it.
const PIECE: usize = 128 << 10;
/// How many pieces wait to be copied.
const PIECES: usize = 8;
/// What the key is used for, so that nothing else that is made of it is a tag.
const PURPOSE: &str = "fumehood compiled code: tags of its files";

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// What the engine says must be equal for its code to be usable.
    engine: u64,
    about: About,
}

/// The directory of compiled code.
pub(crate) struct Cache {
    dir: PathBuf,
    key: Zeroizing<[u8; blake3::KEY_LEN]>,
    engine: Engine,
    compatibility: u64,
}

impl Cache {
    pub(crate) fn open(dir: &Path, key: &CacheKey, engine: &Engine) -> Result<Self, SandboxError> {
        if let Err(error) = fs::create_dir_all(dir) {
            tracing::error!(%error, dir = %dir.display(), "cannot make the directory for compiled code");
            return Err(SandboxError::Cache { kind: error.kind() });
        }
        // Not a secret: tells engines apart, and wasmtime checks again.
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self {
            dir: dir.to_owned(),
            key: Zeroizing::new(blake3::derive_key(PURPOSE, &*key.0)),
            engine: engine.clone(),
            compatibility: hasher.finish(),
        })
    }

    fn mac(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.key)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir
            .join(format!("{}-{:016x}.aot", digest.to_hex(), self.compatibility))
    }

    /// The compiled component, if there is a file that this host wrote for this engine. Blocks.
    // THREAT[T-box-cache-tamper]
    pub(crate) fn read(&self, digest: &Digest) -> Option<(About, Component)> {
        let kept = fs::File::open(self.path(digest)).and_then(|file| self.authenticated(file, digest));
        let (about, code) = match kept {
            Ok(Some(kept)) => kept,
            Ok(None) => {
                tracing::warn!(%digest, "compiled code is not of this host or was changed; compiling");
                return None;
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, %digest, "compiled code cannot be read; compiling");
                }
                return None;
            }
        };
        // SAFETY: `Component::deserialize_file` requires a file with bytes that `Component::serialize` produced, and that stays
        // as it is while it is mapped. `authenticated` has verified a tag over exactly these bytes, under a key that only this
        // host has and uses only in `write`, on the output of `serialize`. They are not the file on disk, which is not read
        // again and not mapped, but this process's own copy of them in memory, filled from the bytes that the tag was computed
        // from and sealed by the system before the tag was compared: nobody can change them any more. That they are of a
        // compatible engine is in the header under the same tag, and wasmtime checks it once more.
        match unsafe { Component::deserialize_file(&self.engine, code.path()) } {
            Ok(component) => Some((about, component)),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), %digest, "compiled code cannot be loaded; compiling");
                None
            }
        }
    }

    /// What is known of the component, and a copy of its code, read once. None unless this host wrote all of it about this component.
    fn authenticated(&self, file: fs::File, digest: &Digest) -> io::Result<Option<(About, Sealed)>> {
        let mut prefix = Vec::with_capacity(PREFIX);
        let mut file = file;
        (&mut file).take(PREFIX as u64).read_to_end(&mut prefix)?;
        let Some((tag, len)) = prefix
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.split_first_chunk::<TAG>())
        else {
            return Ok(None);
        };
        let Ok(header_len) = <[u8; HEADER_LEN]>::try_from(len).map(u32::from_le_bytes) else {
            return Ok(None);
        };
        if header_len > LARGEST_HEADER {
            return Ok(None);
        }
        let mut header = Vec::new();
        (&mut file).take(u64::from(header_len)).read_to_end(&mut header)?;
        let mut mac = self.mac();
        mac.update(len);
        mac.update(&header);
        let code = copied(file, |piece| {
            mac.update(piece);
        })?;
        // Compared in constant time.
        if mac.finalize() != *tag {
            return Ok(None);
        }
        let header: Option<Header> = serde_json::from_slice(&header).ok();
        // A file of ours under the name of another component.
        let of_this = |header: &Header| header.engine == self.compatibility && header.about.digest == *digest;
        Ok(header.filter(of_this).map(|header| (header.about, code)))
    }

    /// Keeps compiled code. Blocks. Failing to is logged and harmless: it will be compiled again.
    pub(crate) fn write(&self, about: &About, component: &Component) {
        if let Err(error) = self.try_write(about, component) {
            tracing::warn!(error = format!("{error:#}"), digest = %about.digest, "compiled code cannot be kept");
        }
    }

    fn try_write(&self, about: &About, component: &Component) -> wasmtime::Result<()> {
        let code = component.serialize()?;
        let header = serde_json::to_vec(&Header {
            engine: self.compatibility,
            about: about.clone(),
        })?;
        let mut bytes = Vec::with_capacity(PREFIX + header.len() + code.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[0; TAG]);
        bytes.extend_from_slice(&u32::try_from(header.len())?.to_le_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&code);
        let mut mac = self.mac();
        mac.update(&bytes[MAGIC.len() + TAG..]);
        bytes[MAGIC.len()..MAGIC.len() + TAG].copy_from_slice(mac.finalize().as_bytes());
        write_atomically(&self.path(&about.digest), &bytes)?;
        Ok(())
    }
}

/// A sealed copy of the rest of a file, each piece of which was shown to `see`.
///
/// Most of the time of this is the system's, for pages to copy to; another thread spends that, while this one reads and looks.
fn copied(mut file: fs::File, mut see: impl FnMut(&[u8])) -> io::Result<Sealed> {
    let mut code = Unsealed::new()?;
    let (copy, pieces) = mpsc::sync_channel::<Vec<u8>>(PIECES);
    let (give_back, spare) = mpsc::channel();
    thread::scope(move |scope| {
        let copying = thread::Builder::new()
            .name("copy-code".into())
            .spawn_scoped(scope, move || {
                for piece in pieces {
                    code.write_all(&piece)?;
                    // Where all is read nobody wants it.
                    let _ = give_back.send(piece);
                }
                code.seal()
            })?;
        let mut read = || -> io::Result<bool> {
            let mut piece = spare.try_recv().unwrap_or_default();
            piece.resize(PIECE, 0);
            let len = match file.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
                read => read?,
            };
            piece.truncate(len);
            see(&piece);
            // Not taken when copying failed, which its result says.
            Ok(!piece.is_empty() && copy.send(piece).is_ok())
        };
        let all = loop {
            match read() {
                Ok(true) => {}
                ended => break ended.map(drop),
            }
        };
        // So that the other one comes to its end.
        drop(copy);
        let copied = copying
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("copying compiled code panicked")));
        all.and(copied)
    })
}

/// What a child of this process compiled, from its pipe.
pub(crate) fn from_own_child(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `Component::deserialize` requires bytes that `Engine::precompile_component` produced, unchanged. They come
    // from a pipe that only this process and the child that it started from its own program hold, and that program
    // writes nothing else to it. They are in this process's own memory. Wasmtime checks that the engines are alike.
    unsafe { Component::deserialize(engine, code) }
}

/// Removes compiled code of components that are not among these from a directory of it, and what broken-off writes left there. Blocks.
///
/// For a directory in which nobody compiles meanwhile what is not among them; what is removed is compiled again when it is needed.
///
/// # Errors
/// When the system refuses; some may be removed then.
pub fn prune_compiled(dir: &Path, keep: &std::collections::BTreeSet<Digest>) -> io::Result<u64> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry?.path();
        let extension = path.extension().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let digest = stem.split(['-', '.']).next().unwrap_or_default();
        let is_ours = matches!(extension, "aot" | "tmp");
        let is_kept = format!("sha256:{digest}")
            .parse()
            .is_ok_and(|digest| keep.contains(&digest));
        if is_ours && !is_kept {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => removed += 1,
            }
        }
    }
    Ok(removed)
}

/// All of it or nothing, readable by the host alone. Not synced: a file that a crash cuts off does not
/// authenticate.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let unique = format!("{}-{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let temporary = path.with_extension(unique);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
