//! The engine and its settings. Every number here is either measured or a bound that something
//! else relies on; the comment says which.

use crate::error::SandboxError;
use fumehood_policy::{limits::Limits, quantity::ByteSize};
use std::num::NonZeroUsize;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

/// The most linear memory that one memory of a guest can have, whatever its limit says: the size of
/// a pool slot. A 32-bit memory cannot be larger.
pub(crate) const MAX_MEMORY: u64 = 4 << 30;

/// The most elements that one table can have: a slot's size. Tables of compiled programs hold their
/// indirectly called functions, a few thousand at most.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 100_000;

/// How deep a guest may nest, in bytes of native stack; wasmtime's own default, made explicit
/// because the fiber's stack below must be larger.
const WASM_STACK: usize = 512 << 10;

/// A fiber's stack: the guest's part, and room for the host functions that it calls. Reserved
/// address space; what is not touched costs no memory.
const FIBER_STACK: usize = WASM_STACK + (512 << 10);

/// One component may instantiate this many core modules at a time: as many as any call may. A component from one compiler has
/// up to four (the program, an adapter, two shims), from one that links libraries at run time two dozen; composed ones have a few
/// times that.
const CORE_INSTANCES_PER_COMPONENT: u32 = Limits::default_ceilings().instances;

/// One component may have this many memories and tables, each of any size up to the limit for all together. A program has one
/// memory and two tables.
pub(crate) const MEMORIES_PER_COMPONENT: u32 = 8;
pub(crate) const TABLES_PER_COMPONENT: u32 = 16;

/// How many frames of a guest's backtrace are kept for the log: enough to see a recursion.
pub(crate) const MAX_FRAMES: usize = 64;

/// These limits, none above what the engine has for a call; nothing that an operator says makes that more.
#[must_use]
pub fn within_engine(limits: Limits) -> Limits {
    Limits {
        memory: limits.memory.min(ByteSize(MAX_MEMORY)),
        tables: limits.tables.min(u32::try_from(MAX_TABLE_ELEMENTS).unwrap_or(u32::MAX)),
        instances: limits.instances.min(CORE_INSTANCES_PER_COMPONENT),
        ..limits
    }
}

/// How instances are allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// From slots reserved at start.
    Pooled,
    /// One by one from the system: several times slower, but it always works.
    OnDemand,
}

/// Makes the engine, pooled if the address space for the pool can be had.
pub(crate) fn engine(max_concurrent_calls: u32) -> Result<(Engine, Allocation), SandboxError> {
    let mut config = common();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(max_concurrent_calls)));
    match Engine::new(&config) {
        Ok(engine) => Ok((engine, Allocation::Pooled)),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "no address space for the pool of instances (is there an address-space limit?); calls will be slower"
            );
            let mut config = common();
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            let engine = Engine::new(&config).map_err(|error| SandboxError::Engine(format!("{error:#}")))?;
            Ok((engine, Allocation::OnDemand))
        }
    }
}

/// An engine that compiles for the others and runs nothing, so it reserves nothing.
pub(crate) fn for_compiling() -> wasmtime::Result<Engine> {
    let mut config = common();
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    Engine::new(&config)
}

fn common() -> Config {
    let mut config = Config::new();
    config
        // WASI 0.2 only: the experimental parts get no security patches in this line, and without
        // them an asynchronous call is as cheap as a synchronous one.
        .concurrency_support(false)
        // CPU limits and fairness. Cheaper than fuel on guests that compute.
        // THREAT[T-box-cpu] THREAT[T-box-stall-executor]
        .epoch_interruption(true)
        // A fresh memory is a private mapping of the component's initial image: only touched pages
        // cost anything.
        .memory_init_cow(true)
        // THREAT[T-box-stack]
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(FIBER_STACK)
        // With a 4 GiB reservation and its guard, no access needs a bounds check (they cost up to
        // 60 % on CPU-bound guests).
        .memory_reservation(MAX_MEMORY)
        .wasm_backtrace_max_frames(NonZeroUsize::new(MAX_FRAMES))
        // Function names for the log; line numbers would need debug information parsed per trap.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // A tenth of compiled code, which is read and authenticated whenever it is loaded: where in the component an instruction comes from,
        // which no log says, and what debuggers and profilers walk native stacks by. Traps and backtraces need neither.
        .generate_address_map(false)
        .native_unwind_info(false);
    config
}

fn pool(max_concurrent_calls: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    let calls = max_concurrent_calls.max(1);
    // What one call may have, for each: whoever has a slot finds room, whatever the components of others are made of. It is
    // address space (48 TiB at 1250 calls) and a megabyte or two of the host's lists.
    // THREAT[T-org-slots]
    pool.total_component_instances(calls)
        .total_core_instances(calls.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(calls.saturating_mul(MEMORIES_PER_COMPONENT))
        .total_tables(calls.saturating_mul(TABLES_PER_COMPONENT))
        .total_stacks(calls)
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .table_elements(MAX_TABLE_ELEMENTS)
        // Slots that keep the image of the component that used them last. With 200 components called
        // in turn: 20 µs a call at 1000, 44 µs at the default 100. Never more than there are slots.
        .max_unused_warm_slots(calls.min(1000))
        // A stack that went deep gives its pages back beyond this.
        .async_stack_keep_resident(64 << 10);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        // Reset only the pages that the call touched, and keep them mapped: 12 µs a call instead of
        // 30. Without the kernel's help, keeping pages would mean clearing all of them: slower than
        // dropping them. 1 MiB covers what an ordinary call touches.
        pool.pagemap_scan(Enabled::Yes)
            .linear_memory_keep_resident(1 << 20)
            .table_keep_resident(64 << 10);
    }
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_whose_pool_cannot_be_reserved_allocates_on_demand() {
        // More slots than any address space holds.
        let (_, allocation) = engine(u32::MAX / 64).unwrap();
        assert_eq!(allocation, Allocation::OnDemand);
    }

    #[test]
    fn an_ordinary_engine_is_pooled() {
        let (_, allocation) = engine(1250).unwrap();
        assert_eq!(allocation, Allocation::Pooled);
    }
}
