//! The sandbox itself: the engine, its clock, its linker and its caches, shared by all calls.

use crate::{
    aot::{Cache, CacheKey},
    compile::Compiler,
    component::Inner,
    engine,
    error::SandboxError,
    files::{tmp::TmpRoot, work::Threads},
    linker,
    load::LoadSlot,
    share::Gate,
    slots::{self, Slots},
    state::CallState,
    ticker::Ticker,
};
use fumehood_core::digest::Digest;
use fumehood_policy::limits::Limits;
use std::{
    collections::HashMap,
    fmt,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use wasmtime::{Engine, component::Linker};

/// How many calls a host runs at once, of all orgs together.
pub const CALLS_AT_ONCE: u32 = 1250;

/// How a sandbox is set up.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Where compiled code is kept; `None` compiles every component in every process.
    pub cache_dir: Option<PathBuf>,
    /// Authenticates what is kept there.
    pub cache_key: CacheKey,
    /// Where the calls' `/tmp` directories are made. Belongs to this process alone: it is emptied at
    /// start. `None`: a new directory among the system's temporary files.
    pub tmp_dir: Option<PathBuf>,
    /// How many calls run at once, nested ones included; more wait. Calls of one share never hold all. Each reserves address
    /// space, and memory only while it runs. At least 1.
    pub max_concurrent_calls: u32,
    /// The largest component that is taken, in bytes.
    pub max_component_size: u64,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// What no call passes, nor what runs at install. The authority of a call is within them already.
    pub ceilings: Limits,
}

impl SandboxConfig {
    /// Without a cache, compiling in this process; else with the defaults of a host: 1250 calls at once, components up to
    /// 64 MiB.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new() -> Result<Self, SandboxError> {
        Ok(Self {
            cache_dir: None,
            cache_key: CacheKey::random()?,
            tmp_dir: None,
            max_concurrent_calls: CALLS_AT_ONCE,
            max_component_size: 64 << 20,
            compiler: Compiler::InProcess,
            ceilings: Limits::default_ceilings(),
        })
    }
}

/// Compilations at once, each of another share.
const COMPILATIONS: usize = 2;
/// Installs of one share at once: one that compiles, and four that wait.
const INSTALLS_PER_SHARE: usize = 5;
/// Installs of all shares at once: each holds a component in memory.
const INSTALLS: usize = 256;

/// Loads components and runs calls. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Sandbox {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<CallState>,
    pub(crate) ticker: Ticker,
    pub(crate) cache: Option<Cache>,
    pub(crate) tmp: Arc<TmpRoot>,
    /// Who computes next.
    pub(crate) gate: Arc<Gate>,
    /// Who works on files next.
    pub(crate) file_threads: Arc<Threads>,
    /// As many as the pool has room for.
    pub(crate) slots: Arc<Slots>,
    /// Who compiles: each uses all cores.
    pub(crate) compilations: Arc<Slots>,
    /// Who has asked for that.
    pub(crate) installs: Arc<Slots>,
    pub(crate) max_component_size: u64,
    pub(crate) compiler: Compiler,
    pub(crate) ceilings: Limits,
    loads: Mutex<HashMap<Digest, LoadSlot>>,
}

impl Sandbox {
    /// Sets up the engine and starts its clock. Call it within the Tokio runtime that will run the calls: how many guests compute at
    /// once is how many threads that has.
    ///
    /// # Errors
    /// When wasmtime cannot run on this machine, or a directory cannot be used.
    pub fn new(config: &SandboxConfig) -> Result<Self, SandboxError> {
        let (engine, allocation) = engine::engine(config.max_concurrent_calls)?;
        tracing::debug!(?allocation, calls = config.max_concurrent_calls, "sandbox ready");
        let linker = linker::linker(&engine).map_err(|error| SandboxError::Engine(format!("{error:#}")))?;
        let cache = match &config.cache_dir {
            Some(dir) => Some(Cache::open(dir, &config.cache_key, &engine)?),
            None => None,
        };
        let tmp = match &config.tmp_dir {
            Some(dir) => TmpRoot::in_dir(dir),
            None => TmpRoot::in_system(),
        }
        .map_err(|error| {
            tracing::error!(%error, "cannot make the directory for temporary files");
            SandboxError::Tmp { kind: error.kind() }
        })?;
        let slots = usize::try_from(config.max_concurrent_calls.max(1)).unwrap_or(usize::MAX);
        let gate = Arc::new(Gate::new(threads()));
        let shared = Shared {
            ticker: Ticker::start(engine.clone()).map_err(SandboxError::Ticker)?,
            engine,
            linker,
            cache,
            tmp: Arc::new(tmp),
            file_threads: Arc::new(Threads::new(Arc::clone(&gate), threads())),
            gate,
            slots: Slots::new(slots, slots::four_times_the_free),
            compilations: Slots::new(COMPILATIONS, |_| 1),
            installs: Slots::new(INSTALLS, |_| INSTALLS_PER_SHARE),
            max_component_size: config.max_component_size,
            compiler: config.compiler.clone(),
            ceilings: config.ceilings,
            loads: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

/// How many guests can compute at once: as many as the runtime has threads, which the system's processors stand for outside of one.
fn threads() -> usize {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.metrics().num_workers(),
        Err(_) => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("free_slots", &self.shared.slots.free())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn loads(&self) -> MutexGuard<'_, HashMap<Digest, LoadSlot>> {
        // Every change leaves it consistent.
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot that loads of `digest` meet in. Drops those that nobody needs any more.
    pub(crate) fn load_slot(&self, digest: Digest) -> LoadSlot {
        let mut loads = self.loads();
        let wanted = Arc::clone(loads.entry(digest).or_default());
        loads.retain(|_, slot| {
            let in_use = slot
                .get()
                .is_some_and(|inner: &std::sync::Weak<Inner>| inner.strong_count() > 0);
            in_use || Arc::strong_count(slot) > 1
        });
        wanted
    }

    pub(crate) fn forget_slot(&self, digest: Digest, slot: &LoadSlot) {
        let mut loads = self.loads();
        if loads.get(&digest).is_some_and(|found| Arc::ptr_eq(found, slot)) {
            loads.remove(&digest);
        }
    }
}
