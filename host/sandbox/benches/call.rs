//! What a whole sandboxed call costs next to a bare wasmtime loop on the same component, in one run.
//!
//! The two are measured in turns, so that a noisy machine disturbs both alike, and what is printed is
//! the median of many rounds and the ratio of the medians. The bare loop has everything that makes
//! wasmtime fast (pre-instantiated, pooled, copy-on-write memory, warm slots) and what no host can do
//! without: a WASI context, a memory limit and an epoch deadline per call.
//!
//! Not criterion: it measures one thing after the other, and a ratio needs them side by side.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use fumehood_policy::{authority::Authority, quantity::Span};
use fumehood_sandbox::{Call, Component, Sandbox, SandboxConfig, ports::Ports};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, StoreLimits,
    StoreLimitsBuilder,
    component::{Component as Compiled, Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

mod bindings {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "
            package fumehood:bench;
            world bench { export fumehood:tool/tools@0.1.0; }
        ",
        world: "fumehood:bench/bench",
        exports: { default: async },
    });
}
use bindings::{BenchPre, exports::fumehood::tool::tools::ToolCall};

const CALLS_PER_ROUND: u32 = 500;
const ROUNDS: usize = 60;

/// A host call that does little: it reads the clock. And one that is refused: there is no such secret.
const NOW: &str = r#"(import "wasi:clocks/monotonic-clock@0.2.12" "now" (func $now (result i64)))"#;
const AVAILABLE: &str =
    r#"(import "fumehood:tool/secrets@0.1.0" "available" (func $available (param i32 i32) (result i32)))"#;
const HOST_CALLS: u32 = 1000;

struct Bare {
    pre: BenchPre<BareState>,
    engine: Engine,
}

struct BareState {
    wasi: WasiCtx,
    table: ResourceTable,
    limits: StoreLimits,
}

impl WasiView for BareState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl Bare {
    fn new(wasm: &[u8]) -> Self {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_stacks(1000)
            .max_unused_warm_slots(1000)
            .async_stack_keep_resident(64 << 10);
        if PoolingAllocationConfig::is_pagemap_scan_available() {
            pool.pagemap_scan(Enabled::Yes)
                .linear_memory_keep_resident(1 << 20)
                .table_keep_resident(64 << 10);
        }
        let mut config = Config::new();
        config
            .concurrency_support(false)
            .epoch_interruption(true)
            .memory_init_cow(true)
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config).unwrap();
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        let compiled = Compiled::new(&engine, wasm).unwrap();
        let pre = BenchPre::new(linker.instantiate_pre(&compiled).unwrap()).unwrap();
        Self { pre, engine }
    }

    async fn call(&self, request: &ToolCall) {
        let state = BareState {
            wasi: WasiCtx::builder().build(),
            table: ResourceTable::new(),
            limits: StoreLimitsBuilder::new().memory_size(64 << 20).build(),
        };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.limits);
        store.set_epoch_deadline(1);
        let instance = self.pre.instantiate_async(&mut store).await.unwrap();
        let answer = instance
            .fumehood_tool_tools()
            .call_call(&mut store, request)
            .await
            .unwrap();
        std::hint::black_box(answer.unwrap());
    }
}

struct Whole {
    sandbox: Sandbox,
    component: Component,
    authority: Arc<Authority>,
    call: Call,
}

impl Whole {
    async fn new(sandbox: &Sandbox, wasm: Vec<u8>, call: Call) -> Self {
        Self {
            component: support::load(sandbox, wasm).await,
            sandbox: sandbox.clone(),
            authority: Arc::new(support::with_limits(|limits| {
                limits.host_calls = u64::MAX;
                limits.time = Span::from_secs(600);
            })),
            call,
        }
    }

    async fn call(&self) {
        let (call, authority) = (self.call.clone(), Arc::clone(&self.authority));
        let report = self
            .sandbox
            .call(&self.component, call, authority, Ports::denied())
            .await;
        std::hint::black_box(report.result.unwrap());
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

async fn timed<F: Future<Output = ()>>(call: impl Fn() -> F) -> Duration {
    let start = Instant::now();
    for _ in 0..CALLS_PER_ROUND {
        call().await;
    }
    start.elapsed() / CALLS_PER_ROUND
}

/// Calls per second with `workers` tasks that call as fast as they can.
async fn throughput<F, Fut>(workers: usize, call: F) -> f64
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let per_worker = CALLS_PER_ROUND * 10;
    let start = Instant::now();
    let tasks: Vec<_> = (0..workers)
        .map(|_| {
            let call = call.clone();
            tokio::spawn(async move {
                for _ in 0..per_worker {
                    call().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    f64::from(per_worker) * workers as f64 / start.elapsed().as_secs_f64()
}

/// How long a component of a real compiler takes to load from the cache.
async fn warm_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = SandboxConfig {
        cache_dir: Some(dir.path().to_owned()),
        ..SandboxConfig::new().unwrap()
    };
    let wasm = support::guest("hostile");
    let (size, digest) = (wasm.len(), fumehood_core::digest::Digest::of(&wasm));
    let start = Instant::now();
    drop(support::load(&Sandbox::new(&config).unwrap(), wasm).await);
    let compiled = start.elapsed();
    let mut times = Vec::new();
    while times.len() < 15 {
        let sandbox = Sandbox::new(&config).unwrap();
        let start = Instant::now();
        // The file is written after the first load returned.
        if sandbox.load_cached(digest).await.is_some() {
            times.push(start.elapsed());
        }
    }
    println!("loading a component of {} KB", size / 1000);
    println!("  compiled            {:8.2} ms", compiled.as_secs_f64() * 1e3);
    println!("  from the cache      {:8.2} ms", median(times).as_secs_f64() * 1e3);
}

/// What the SDK adds to a call: the same echo by way of it, and by the bindings alone.
async fn through_the_sdk(sandbox: &Sandbox, arguments: &str) {
    let guest = async |name: &str| {
        let call = support::call("echo", arguments);
        Whole::new(sandbox, support::guest(name), call).await
    };
    let (without, with) = (guest("echo-bare").await, guest("echo").await);
    let (mut without_times, mut with_times) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Each goes first as often as the other.
        if round % 2 == 0 {
            without_times.push(timed(|| without.call()).await);
            with_times.push(timed(|| with.call()).await);
        } else {
            with_times.push(timed(|| with.call()).await);
            without_times.push(timed(|| without.call()).await);
        }
    }
    let (without, with) = (micros(median(without_times)), micros(median(with_times)));
    println!("the same echo in Rust, a component with WASI");
    println!("  by bindings alone   {without:8.2} µs");
    println!("  through the SDK     {with:8.2} µs");
    println!("  ratio               {:8.2}    (goal: 0.95 to 1.05)", with / without);
}

#[tokio::main]
async fn main() {
    let wasm = support::tool("", support::ECHO);
    let text = "x".repeat(90);
    let arguments = format!(r#"{{"text":"{text}"}}"#);
    let request = ToolCall {
        id: "call_018f0000000070008000000000000000".into(),
        tool: "t".into(),
        arguments: arguments.clone(),
        idempotency_key: "key".into(),
        deadline_ms: 0,
        locale: None,
    };
    let sandbox = Sandbox::new(&SandboxConfig::new().unwrap()).unwrap();
    let bare = Arc::new(Bare::new(&wasm));
    let whole = Arc::new(Whole::new(&sandbox, wasm, support::call("t", &arguments)).await);

    let (mut bare_times, mut whole_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare_times.push(timed(|| bare.call(&request)).await);
        whole_times.push(timed(|| whole.call()).await);
    }
    let (bare_time, whole_time) = (median(bare_times), median(whole_times));
    println!("a call that echoes {} bytes", arguments.len());
    println!("  bare wasmtime       {:8.2} µs", micros(bare_time));
    println!("  whole sandboxed call{:8.2} µs", micros(whole_time));
    println!(
        "  ratio               {:8.2}    (goal: at most 1.5)",
        micros(whole_time) / micros(bare_time)
    );

    through_the_sdk(&sandbox, &arguments).await;

    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut ratios = Vec::new();
    let (mut bare_best, mut whole_best) = (0.0_f64, 0.0_f64);
    for _ in 0..7 {
        let (bare, whole, request) = (Arc::clone(&bare), Arc::clone(&whole), Arc::new(request.clone()));
        let bare_rate = throughput(workers, move || {
            let (bare, request) = (Arc::clone(&bare), Arc::clone(&request));
            async move { bare.call(&request).await }
        })
        .await;
        let whole_rate = throughput(workers, move || {
            let whole = Arc::clone(&whole);
            async move { whole.call().await }
        })
        .await;
        bare_best = bare_best.max(bare_rate);
        whole_best = whole_best.max(whole_rate);
        ratios.push(whole_rate / bare_rate);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    println!("calls per second, {workers} tasks, best round");
    println!("  bare wasmtime       {bare_best:8.0}");
    println!("  whole sandboxed call{whole_best:8.0}");
    println!(
        "  ratio (median)      {:8.2}    (goal: at least 0.7)",
        ratios[ratios.len() / 2]
    );

    warm_start().await;

    println!("one host call, of {HOST_CALLS} in a call");
    for (name, module, once) in [
        ("trivial (clock)", NOW, "(drop (call $now))"),
        (
            "denied (secret)",
            AVAILABLE,
            // The first word of the tool's description, which is a valid name.
            "(drop (call $available (i32.const 61) (i32.const 4)))",
        ),
    ] {
        let body = format!(
            "(local $left i32) (local.set $left (i32.const {HOST_CALLS}))
             (loop $again {once} (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
             (call $text (i32.const 0) (i32.const 0))"
        );
        let many = Whole::new(&sandbox, support::tool(module, &body), support::call("t", "{}")).await;
        let mut times = Vec::new();
        for _ in 0..30 {
            let start = Instant::now();
            for _ in 0..20 {
                many.call().await;
            }
            times.push(start.elapsed() / 20);
        }
        let each = (micros(median(times)) - micros(whole_time)) / f64::from(HOST_CALLS);
        println!("  {name:20}{each:8.3} µs  (goal: at most 3)");
    }
}
