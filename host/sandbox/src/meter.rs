//! What a call may use, and what it has used: CPU time, host calls, memory, tables.
//!
//! CPU time is the time between entering the guest and leaving it, by the monotonic clock, so time
//! that the guest waits in a host call, or for its turn after yielding, does not count. It is exact,
//! not sampled: a guest cannot dodge by being elsewhere whenever the clock ticks.
//!
//! A host call is every exit of the guest into the host that is not the clock's doing: each function
//! of each interface (WASI's, too), dropping a host resource, growing a memory or a table.

use fumehood_policy::limits::Limits;
use std::time::{Duration, Instant};
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
}

/// A growth that was refused. The guest sees an ordinary failure and may cope; if it traps next,
/// this is why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Memory,
    Table,
}

/// The limits and the counts of one call.
#[derive(Debug)]
pub(crate) struct Meter {
    entered: Instant,
    cpu: Duration,
    host_calls: u64,
    memory: usize,
    memory_peak: usize,
    table_elements: usize,
    /// The last growth that was allowed, undone if it then fails.
    last_growth: usize,
    refused: Option<Refused>,
    cpu_limit: Duration,
    host_call_limit: u64,
    memory_limit: usize,
    table_limit: usize,
    instance_limit: usize,
}

/// No component has reason to have more memories or tables than this; each may be small, and the sum
/// of their sizes is limited apart.
const MAX_MEMORIES: usize = 8;
const MAX_TABLES: usize = 40;

impl Meter {
    pub(crate) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            entered: now,
            cpu: Duration::ZERO,
            host_calls: 0,
            memory: 0,
            memory_peak: 0,
            table_elements: 0,
            last_growth: 0,
            refused: None,
            cpu_limit: limits.cpu.as_duration(),
            host_call_limit: limits.host_calls,
            memory_limit: limits.memory.as_usize(),
            table_limit: usize::try_from(limits.tables).unwrap_or(usize::MAX),
            instance_limit: usize::try_from(limits.instances).unwrap_or(usize::MAX),
        }
    }

    /// The guest is entered or left.
    pub(crate) fn on(&mut self, hook: CallHook) -> Result<(), LimitReached> {
        let now = Instant::now();
        match hook {
            CallHook::CallingWasm | CallHook::ReturningFromHost => {
                self.entered = now;
                Ok(())
            }
            CallHook::ReturningFromWasm => {
                self.cpu += now.duration_since(self.entered);
                Ok(())
            }
            CallHook::CallingHost => {
                self.cpu += now.duration_since(self.entered);
                // THREAT[T-box-cpu]: the epoch interrupts a guest that only computes; this catches
                // one that computes between host calls.
                if self.cpu > self.cpu_limit {
                    return Err(LimitReached::Cpu);
                }
                // THREAT[T-box-host-calls]
                self.host_calls += 1;
                if self.host_calls > self.host_call_limit {
                    return Err(LimitReached::HostCalls);
                }
                Ok(())
            }
        }
    }

    /// The clock interrupted the guest: that exit was not its doing.
    pub(crate) fn interrupted(&mut self) {
        self.host_calls = self.host_calls.saturating_sub(1);
    }

    pub(crate) fn refused(&self) -> Option<Refused> {
        self.refused
    }

    pub(crate) fn cpu(&self) -> Duration {
        self.cpu
    }

    pub(crate) fn host_calls(&self) -> u64 {
        self.host_calls
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
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}
