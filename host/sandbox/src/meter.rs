//! What a call may use, and what it has used: CPU time, host calls, memory, tables.
//!
//! CPU time is the time that the executor spends in the call's future: the guest's code and the host
//! functions that it calls, but not waiting, in a host call or for its turn after yielding; and the
//! time that the processor works on the call's files elsewhere. It is exact, not sampled: a guest
//! cannot dodge by being elsewhere whenever the clock ticks, nor by having the host do its work. A
//! stretch is measured by the monotonic clock, which costs nothing; one that is longer than a slice
//! by what the thread really computed, since the system may have given its core to others.
//!
//! A host call is every exit of the guest into the host that is not the clock's doing: each function
//! of each interface (WASI's, too), dropping a host resource, growing a memory or a table.

use crate::engine::{MEMORIES_PER_COMPONENT, TABLES_PER_COMPONENT};
use fumehood_policy::limits::Limits;
use rustix::time::{ClockId, clock_gettime};
use std::{
    cell::Cell,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use wasmtime::{CallHook, ResourceLimiter};

/// A limit that ends the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitReached {
    #[error("CPU time")]
    Cpu,
    #[error("host calls")]
    HostCalls,
    #[error("streamed output")]
    Output,
    #[error("lines of output")]
    LogLines,
}

/// A growth that was refused. The guest sees an ordinary failure and may cope; if it traps next,
/// this is why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Memory,
    Table,
}

/// Measures the time that an executor spends in one call. All its parts run one after the other, so
/// plain loads and stores are enough; they are atomic because the call moves between threads. What is
/// done elsewhere meanwhile is added up apart.
#[derive(Debug)]
pub(crate) struct CpuClock {
    base: Instant,
    /// Nanoseconds since `base`; meaningful while the call is polled.
    entered: AtomicU64,
    /// What the thread had computed by then, or shortly before.
    computed: AtomicU64,
    used: AtomicU64,
    elsewhere: AtomicU64,
}

impl CpuClock {
    pub(crate) fn new(base: Instant) -> Self {
        Self {
            base,
            entered: AtomicU64::new(0),
            computed: AtomicU64::new(0),
            used: AtomicU64::new(0),
            elsewhere: AtomicU64::new(0),
        }
    }

    /// The processor worked for the call on another thread.
    pub(crate) fn add_elsewhere(&self, time: Duration) {
        self.elsewhere.fetch_add(nanos(time), Ordering::Relaxed);
    }

    fn since_base(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.base))
    }

    fn enter(&self) {
        let now = Instant::now();
        self.entered.store(self.since_base(now), Ordering::Relaxed);
        self.computed
            .store(nanos(recent_processor_time(now)), Ordering::Relaxed);
    }

    fn leave(&self) {
        self.used.store(self.here(), Ordering::Relaxed);
    }

    /// What the executor spent, while the call is being polled.
    fn here(&self) -> u64 {
        let mut current = self
            .since_base(Instant::now())
            .saturating_sub(self.entered.load(Ordering::Relaxed));
        if current > LONGEST_SLICE {
            current = current.min(nanos(processor_time()).saturating_sub(self.computed.load(Ordering::Relaxed)));
        }
        self.used.load(Ordering::Relaxed).saturating_add(current)
    }

    /// What was used, while the call is being polled.
    fn running(&self) -> u64 {
        self.here().saturating_add(self.elsewhere.load(Ordering::Relaxed))
    }

    /// What was used, up to where the call last gave way.
    pub(crate) fn used(&self) -> Duration {
        let here = self.used.load(Ordering::Relaxed);
        Duration::from_nanos(here.saturating_add(self.elsewhere.load(Ordering::Relaxed)))
    }
}

/// In nanoseconds: no guest computes for longer without giving way, and few host functions do.
const LONGEST_SLICE: u64 = 5_000_000;
/// How old a thread's time may be where it only bounds another clock.
const RECENT: Duration = Duration::from_millis(1);

/// What the processor has worked for this thread. A system call.
pub(crate) fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// The same, as of at most a millisecond ago: a system call a millisecond.
fn recent_processor_time(now: Instant) -> Duration {
    thread_local! {
        static KNOWN: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
    }
    match KNOWN.get() {
        Some((at, time)) if now.saturating_duration_since(at) < RECENT => time,
        _ => {
            let time = processor_time();
            KNOWN.set(Some((now, time)));
            time
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A future whose time is the call's.
pub(crate) struct Metered<F> {
    pub(crate) clock: Arc<CpuClock>,
    pub(crate) call: Pin<Box<F>>,
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.clock.enter();
        let poll = self.call.as_mut().poll(cx);
        self.clock.leave();
        poll
    }
}

/// A future inside a call whose time is another's: another call that this one made.
pub(crate) struct Unmetered<F> {
    pub(crate) clock: Arc<CpuClock>,
    pub(crate) other: Pin<Box<F>>,
}

impl<F: Future> Future for Unmetered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.clock.leave();
        let poll = self.other.as_mut().poll(cx);
        self.clock.enter();
        poll
    }
}

/// The limits and the counts of one call.
#[derive(Debug)]
pub(crate) struct Meter {
    clock: Arc<CpuClock>,
    host_calls: u64,
    instantiated: Option<Duration>,
    memory: usize,
    memory_peak: usize,
    table_elements: usize,
    /// The last growth that was allowed, undone if it then fails.
    last_growth: usize,
    refused: Option<Refused>,
    out_of_handles: bool,
    cpu_limit: Duration,
    host_call_limit: u64,
    memory_limit: usize,
    table_limit: usize,
    instance_limit: usize,
}

impl Meter {
    pub(crate) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            clock: Arc::new(CpuClock::new(now)),
            host_calls: 0,
            instantiated: None,
            memory: 0,
            memory_peak: 0,
            table_elements: 0,
            last_growth: 0,
            refused: None,
            out_of_handles: false,
            cpu_limit: limits.cpu.as_duration(),
            host_call_limit: limits.host_calls,
            memory_limit: limits.memory.as_usize(),
            table_limit: usize::try_from(limits.tables).unwrap_or(usize::MAX),
            instance_limit: usize::try_from(limits.instances).unwrap_or(usize::MAX),
        }
    }

    /// The guest is entered or left.
    pub(crate) fn on(&mut self, hook: CallHook) -> Result<(), LimitReached> {
        match hook {
            CallHook::CallingWasm | CallHook::ReturningFromHost | CallHook::ReturningFromWasm => Ok(()),
            CallHook::CallingHost => {
                // THREAT[T-box-cpu]: the epoch interrupts a guest that only computes; this catches
                // one that computes between host calls, or in them.
                self.within_cpu()?;
                // THREAT[T-box-host-calls]
                self.host_calls += 1;
                if self.host_calls > self.host_call_limit {
                    return Err(LimitReached::HostCalls);
                }
                Ok(())
            }
        }
    }

    /// Whether CPU time is left, while the call is being polled.
    pub(crate) fn within_cpu(&self) -> Result<(), LimitReached> {
        if u128::from(self.clock.running()) > self.cpu_limit.as_nanos() {
            return Err(LimitReached::Cpu);
        }
        Ok(())
    }

    /// The clock interrupted the guest: that exit was not its doing.
    pub(crate) fn interrupted(&mut self) {
        self.host_calls = self.host_calls.saturating_sub(1);
    }

    pub(crate) fn refused(&self) -> Option<Refused> {
        self.refused
    }

    pub(crate) fn out_of_handles(&self) -> bool {
        self.out_of_handles
    }

    /// The engine has no room for one more handle of the call.
    pub(crate) fn found_out_of_handles(&mut self) {
        self.out_of_handles = true;
    }

    pub(crate) fn clock(&self) -> Arc<CpuClock> {
        Arc::clone(&self.clock)
    }

    pub(crate) fn cpu(&self) -> Duration {
        self.clock.used()
    }

    pub(crate) fn host_calls(&self) -> u64 {
        self.host_calls
    }

    /// The instance was made, in so much time.
    pub(crate) fn made_instance(&mut self, took: Duration) {
        self.instantiated = Some(took);
    }

    pub(crate) fn instantiated(&self) -> Option<Duration> {
        self.instantiated
    }

    pub(crate) fn memory_peak(&self) -> u64 {
        self.memory_peak as u64
    }
}

impl ResourceLimiter for Meter {
    // THREAT[T-box-memory]: one limit over all memories of all instances together.
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current);
        let total = self.memory.saturating_add(growth);
        if total > self.memory_limit {
            self.refused = Some(Refused::Memory);
            return Ok(false);
        }
        self.memory = total;
        self.memory_peak = self.memory_peak.max(total);
        self.last_growth = growth;
        // It coped with an earlier refusal.
        self.refused = None;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory = self.memory.saturating_sub(self.last_growth);
        self.refused = Some(Refused::Memory);
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current);
        let total = self.table_elements.saturating_add(growth);
        if total > self.table_limit {
            self.refused = Some(Refused::Table);
            return Ok(false);
        }
        self.table_elements = total;
        self.last_growth = growth;
        Ok(true)
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.table_elements = self.table_elements.saturating_sub(self.last_growth);
        self.refused = Some(Refused::Table);
        Ok(())
    }

    fn instances(&self) -> usize {
        self.instance_limit
    }

    fn tables(&self) -> usize {
        TABLES_PER_COMPONENT as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_PER_COMPONENT as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future, task::Waker, thread};

    fn polled(work: impl FnOnce()) -> Duration {
        let clock = Arc::new(CpuClock::new(Instant::now()));
        let mut work = Some(work);
        let call = future::poll_fn(|_| {
            work.take().expect("polled once")();
            Poll::Ready(())
        });
        let metered = Metered {
            clock: Arc::clone(&clock),
            call: Box::pin(call),
        };
        let ready = std::pin::pin!(metered).poll(&mut Context::from_waker(Waker::noop()));
        assert!(ready.is_ready());
        clock.used()
    }

    #[test]
    fn a_core_that_the_system_gave_to_others_is_not_the_calls() {
        let away = Duration::from_millis(200);
        assert!(polled(|| thread::sleep(away)) < away / 4);
    }

    #[test]
    fn what_is_computed_in_one_stretch_is_the_calls() {
        let long = Duration::from_millis(20);
        let used = polled(|| {
            let until = processor_time() + long;
            while processor_time() < until {}
        });
        assert!(used >= long, "{used:?}");
    }
}
