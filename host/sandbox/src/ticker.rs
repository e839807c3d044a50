//! The clock that interrupts guests: a thread that advances the engine's epoch while calls run.
//!
//! It is a thread and not a task because a task would stop with a stalled executor, which is what
//! the epoch is there to prevent. It sleeps while no call runs, so an idle host wakes nobody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};
use wasmtime::Engine;

/// How long a guest may run before it gives way to others on its thread. Short enough that a
/// heartbeat beside a spinning guest is not late, long enough that yielding costs nothing next to it.
pub(crate) const TICK: Duration = Duration::from_millis(2);

/// How many idle ticks before the thread sleeps. Waking it costs a system call, so it stays awake
/// through the pauses of a busy host.
const IDLE_TICKS: u32 = 500;

#[derive(Default)]
struct Shared {
    running_calls: AtomicU32,
    asleep: AtomicBool,
    stop: AtomicBool,
}

/// Owns the thread, which ends when this is dropped.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: thread::Thread,
}

impl Ticker {
    pub(crate) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let handle = thread::Builder::new()
            .name("fumehood-epoch".into())
            .spawn(move || tick(&engine, &for_thread))?;
        Ok(Self {
            shared,
            thread: handle.thread().clone(),
        })
    }

    /// Keeps the clock going until the guard is dropped.
    pub(crate) fn run(&self) -> Running<'_> {
        self.shared.running_calls.fetch_add(1, Ordering::SeqCst);
        // Sequentially consistent with the thread's store-then-load below: one of us sees the other.
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running { shared: &self.shared }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// A call is running.
pub(crate) struct Running<'a> {
    shared: &'a Shared,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.running_calls.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(engine: &Engine, shared: &Shared) {
    let mut idle = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        if shared.running_calls.load(Ordering::SeqCst) > 0 {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle < IDLE_TICKS {
            thread::sleep(TICK);
            engine.increment_epoch();
            continue;
        }
        shared.asleep.store(true, Ordering::SeqCst);
        if shared.running_calls.load(Ordering::SeqCst) == 0 && !shared.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        shared.asleep.store(false, Ordering::SeqCst);
        idle = 0;
    }
}
