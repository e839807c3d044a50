//! One call: a fresh store and instance, run under its limits to its end.

use crate::{
    ambient,
    bindings::fumehood::tool::types::{Failure, Output as GuestOutput},
    component::{Component, Entry, Inner},
    files::{Files, WorkspacePlan, work::Account},
    hook::{self, Occasion},
    http::{FIELDS_SIZE, HttpHooks},
    keyvalue::Bucket,
    meter::{Meter, Metered},
    output,
    plain::{Function, Stopped, Work},
    ports::Ports,
    recall::Recall,
    sandbox::{Sandbox, Shared},
    share::ShareKey,
    state::CallState,
    stdio::{CallLog, Output as StdOutput, Stream},
    telemetry,
    trap::{self, Bounds},
};
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, CallResult, Metering},
    id::CallId,
    name::ToolName,
};
use fumehood_policy::{authority::Authority, deadline::Deadline, limits::Limits};
use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use wasmtime::{
    Store, UpdateDeadline,
    component::{ComponentExportIndex, ComponentType, Instance, Lower, Resource, ResourceTable, types},
};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};
use wasmtime_wasi_http::WasiHttpCtx;

/// What is asked of a tool.
#[derive(Debug, Clone)]
pub struct Call {
    /// This call.
    pub id: CallId,
    /// One of the component's tools.
    pub tool: ToolName,
    /// Arguments, already checked against the tool's schema.
    pub arguments: Arguments,
    /// The same for every run of what is the same call to the outside: printable ASCII, at most 128
    /// bytes.
    pub idempotency_key: String,
    /// The language of the person who asked, as a BCP 47 tag.
    pub locale: Option<String>,
    /// When the call must be done; its own time limit holds in any case.
    pub deadline: Option<Deadline>,
    /// Says so if it must be done sooner, while it runs.
    pub recall: Recall,
    /// On whose account it computes.
    pub share: ShareKey,
    /// Another call makes it, and waits for it. It does not wait for a slot then.
    pub nested: bool,
}

/// Something the call was refused, that its interface has no words for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What was refused and what would allow it.
    pub reason: String,
}

impl From<String> for Denial {
    fn from(reason: String) -> Self {
        Self { reason }
    }
}

impl Denial {
    pub(crate) fn new(reason: String) -> Self {
        Self { reason }
    }
}

/// How a call ended, what it used and what it said.
#[derive(Debug, Clone, PartialEq)]
pub struct CallReport {
    /// What the tool returned, or why there is nothing.
    pub result: CallResult,
    /// What it used.
    pub metering: Metering,
    /// What it wrote to stdout, within its limit. Invalid UTF-8 is replaced.
    pub stdout: String,
    /// What it wrote to stderr, within the same limit.
    pub stderr: String,
    /// What it was refused, in order; the first few.
    pub denials: Vec<Denial>,
    /// Progress reports that were dropped because they came faster than its limit.
    pub dropped_reports: u64,
    /// What making its instance took; absent where it did not come to one.
    pub instantiated: Option<Duration>,
}

/// `tool-call` of the contract, borrowed: one copy of the arguments into the guest is enough.
#[derive(ComponentType, Lower)]
#[component(record)]
struct ToolCall<'a> {
    id: &'a str,
    tool: &'a str,
    arguments: &'a str,
    #[component(name = "idempotency-key")]
    idempotency_key: &'a str,
    #[component(name = "deadline-ms")]
    deadline_ms: u64,
    locale: Option<&'a str>,
}

/// What `fumehood:tool/tools.call` returns.
pub(crate) type Answer = Result<GuestOutput, Failure>;

/// Whether an exported function is `call` as this host calls it.
pub(crate) fn typecheck(function: &types::ComponentFunc, component: &types::Component) -> wasmtime::Result<()> {
    function.typecheck::<(ToolCall<'_>,), (Answer,)>(&component.instance_type())
}

impl Sandbox {
    /// Runs one call of one of the component's tools to its end, whatever that is.
    ///
    /// Waits for a free slot if the host runs as many calls as it can, within the call's time limit; a nested call is
    /// refused instead.
    /// Cancel-safe: dropping the future stops the guest at once and frees what it had; operations on
    /// files that have begun on a blocking thread end by themselves.
    pub async fn call(&self, component: &Component, call: Call, authority: Arc<Authority>, ports: Ports) -> CallReport {
        let started = Instant::now();
        let Some(tool) = component
            .inner
            .about
            .tools
            .iter()
            .position(|tool| tool.name == call.tool)
        else {
            return CallReport::refused(
                started,
                CallError::new(
                    CallErrorCode::ToolNotFound,
                    format!("the component has no tool {}", call.tool),
                ),
            );
        };
        let asked = Asked {
            id: call.id,
            share: call.share,
            nested: call.nested,
            deadline: call.deadline.clone(),
            recall: call.recall.clone(),
            what: What::Tool { call: &call, tool },
        };
        self.enter(component, asked, authority, ports, started).await
    }

    /// Waits for a slot, and runs the guest in it.
    pub(crate) async fn enter(
        &self,
        component: &Component,
        asked: Asked<'_>,
        authority: Arc<Authority>,
        ports: Ports,
        started: Instant,
    ) -> CallReport {
        let Asked {
            id,
            share,
            nested,
            deadline,
            recall,
            what,
        } = asked;
        // THREAT[T-box-wall]
        let own = authority.time_limit(started);
        let deadline = match deadline {
            Some(given) => given.or_sooner(Some(own)),
            None => own,
        };
        let prepared = Prepared {
            id,
            share,
            deadline,
            recall,
            what,
        };
        let slots = &self.shared.slots;
        let slot = if nested {
            slots.try_take(share)
        } else {
            tokio::select! {
                biased;
                slot = slots.take(share, prepared.deadline.at()) => slot,
                recalled = prepared.recall.clone().sooner_than(&prepared.deadline) => {
                    return CallReport::refused(started, recalled.error());
                }
            }
        };
        let soonest = prepared.soonest();
        if soonest.at() <= Instant::now() && slot.is_some() {
            return CallReport::refused(started, soonest.error());
        }
        let Some(_slot) = slot else {
            let busy = "the host runs as many calls of this org as it can, and none ended in time; try again";
            let error = CallError {
                retry_after_ms: Some(1000),
                ..CallError::new(CallErrorCode::Unavailable, busy)
            };
            return CallReport::refused(started, error);
        };
        self.shared
            .run(&component.inner, &prepared, authority, ports, started)
            .await
    }
}

/// What is asked of a component.
pub(crate) struct Asked<'a> {
    pub(crate) id: CallId,
    pub(crate) share: ShareKey,
    pub(crate) nested: bool,
    /// The soonest that whoever asks sets.
    pub(crate) deadline: Option<Deadline>,
    pub(crate) recall: Recall,
    pub(crate) what: What<'a>,
}

/// Which of its exports is called, with what.
pub(crate) enum What<'a> {
    Tool {
        call: &'a Call,
        /// Its place among the component's tools.
        tool: usize,
    },
    Hook(&'a Occasion),
}

/// A call that knows when it has to be over.
struct Prepared<'a> {
    id: CallId,
    share: ShareKey,
    deadline: Deadline,
    recall: Recall,
    what: What<'a>,
}

impl Prepared<'_> {
    /// When it must be done, as far as is known now.
    fn soonest(&self) -> Deadline {
        self.deadline.clone().or_sooner(self.recall.now())
    }

    /// Waits until it must be done, and says who says so.
    async fn time_is_up(&self) -> Deadline {
        tokio::select! {
            () = tokio::time::sleep_until(self.deadline.at().into()) => self.deadline.clone(),
            recalled = self.recall.clone().sooner_than(&self.deadline) => recalled,
        }
    }
}

impl CallReport {
    fn refused(started: Instant, error: CallError) -> Self {
        Self {
            result: Err(error),
            metering: Metering {
                duration_ms: millis(started.elapsed()),
                ..Metering::default()
            },
            stdout: String::new(),
            stderr: String::new(),
            denials: Vec::new(),
            dropped_reports: 0,
            instantiated: None,
        }
    }
}

impl Shared {
    async fn run(
        &self,
        component: &Inner,
        prepared: &Prepared<'_>,
        authority: Arc<Authority>,
        ports: Ports,
        started: Instant,
    ) -> CallReport {
        let limits = authority.limits;
        let bounds = Bounds {
            limits: &limits,
            ceilings: &self.ceilings,
            of: trap::Running::Call,
        };
        let core_instances = component.about.core_instances;
        if core_instances > limits.instances {
            return CallReport::refused(started, bounds.more_instances(core_instances));
        }
        let _running = (self.ticker.run(), telemetry::Living::new());
        let log = Arc::new(CallLog::new(Arc::clone(&ports.observer), &limits));
        let mut store = self.store(authority, ports, &log, prepared.share, started);
        // The store stays outside of what is timed, so that a call that is stopped still has its counts.
        let timed = {
            let metered = pin!(Metered {
                clock: store.data().meter.clock(),
                call: Box::pin(enter(component, prepared, &limits, &mut store)),
            });
            let gated = self.gate.run(prepared.share, metered);
            tokio::select! {
                biased;
                ended = gated => Ok(ended),
                passed = prepared.time_is_up() => Err(passed),
            }
        };
        let result = match timed {
            Ok(Ok(result)) => result,
            Ok(Err(Ended::Refused(error))) => Err(error),
            Ok(Err(Ended::Trapped(error))) if trap::returned_too_much(&error) => Err(output::too_large(&limits)),
            Ok(Err(Ended::Trapped(error))) => {
                look_for_handles(&mut store);
                Err(trap::classify(&error, &store.data().meter, bounds, &prepared.id))
            }
            Err(passed) => Err(passed.error()),
        };
        let state = store.data();
        let metering = Metering {
            duration_ms: millis(started.elapsed()),
            cpu_ms: millis(state.meter.cpu()),
            memory_peak: state.meter.memory_peak(),
            host_calls: state.meter.host_calls(),
            http_requests: state.hooks.requests(),
        };
        let said = log.take();
        CallReport {
            result,
            metering,
            stdout: said.stdout,
            stderr: said.stderr,
            denials: said.denials,
            dropped_reports: said.dropped_reports,
            instantiated: state.meter.instantiated(),
        }
    }

    /// A fresh store: the limits are set before anything of the guest runs.
    pub(crate) fn store(
        &self,
        authority: Arc<Authority>,
        ports: Ports,
        log: &Arc<CallLog>,
        share: ShareKey,
        now: Instant,
    ) -> Store<CallState> {
        let limits = &authority.limits;
        let handles = usize::try_from(limits.handles).unwrap_or(usize::MAX);
        // THREAT[T-box-host-memory]: what a guest holds is memory of the host; how much of it there can be
        // is the number of its handles times what one may be.
        let mut table = ResourceTable::new();
        table.set_max_capacity(handles);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_SIZE);
        let meter = Meter::new(limits, now);
        let state = CallState {
            table,
            wasi: wasi(&authority, &ports, log),
            http,
            hooks: HttpHooks::new(Arc::clone(&ports.door), Arc::clone(log), limits).seen_by(ports.witness.clone()),
            files: Files::new(
                workspace(&authority, &ports),
                limits.tmp.bytes(),
                Arc::clone(&self.tmp),
                Arc::clone(log),
                Account::new(&self.file_threads, share, meter.clock()),
            )
            .seen_by(ports.witness.clone()),
            meter,
            log: Arc::clone(log),
            ports,
            authority,
        };
        // THREAT[T-box-host-memory]: what is copied out of the guest at once. It may point at the same bytes very often.
        let copied = state.authority.limits.output.as_usize().saturating_mul(2);
        let mut store = Store::new(&self.engine, state);
        store.set_hostcall_fuel(copied.max(COPIED));
        // Handles of the guest's own resources are memory of the host as well. Above the host's table, so
        // that this is not what ends a guest which holds only the host's: waiting for one counts it again.
        store.set_max_component_handles(handles.saturating_mul(ENGINE_HANDLES));
        store.limiter(|state| &mut state.meter);
        store.call_hook(|mut context, hook| Ok(context.data_mut().meter.on(hook)?));
        // One tick, then give way: the next is asked for each time. Whether CPU time is left was
        // checked on the way here, by the hook.
        // THREAT[T-box-stall-executor]
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut context| {
            context.data_mut().meter.interrupted();
            // Tokio's own way to give way lets it look after timers and sockets first; just waking
            // itself, a busy guest would be polled dozens of times in between.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        store
    }
}

/// The most that a host call copies out of the guest, and a result as far as it is looked at: twice the largest result, and
/// more than programs write at once.
const COPIED: usize = 8 << 20;

/// How many handles the engine allows for each of the host's.
const ENGINE_HANDLES: usize = 4;

/// Finds out whether the call ended because the engine had no room for one more handle: its error has
/// no type of its own.
fn look_for_handles(store: &mut Store<CallState>) {
    if Resource::<Bucket>::new_own(0)
        .try_into_resource_any(&mut *store)
        .is_err()
    {
        store.data_mut().meter.found_out_of_handles();
    }
}

/// Why the guest did not return an answer.
enum Ended {
    Refused(CallError),
    Trapped(wasmtime::Error),
}

impl From<Stopped> for Ended {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Unfit(error) => Self::Refused(error),
            Stopped::Limit(limit) => Self::Trapped(limit.into()),
        }
    }
}

impl From<wasmtime::Error> for Ended {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trapped(error)
    }
}

async fn enter(
    component: &Inner,
    prepared: &Prepared<'_>,
    limits: &Limits,
    store: &mut Store<CallState>,
) -> Result<CallResult, Ended> {
    match (&component.entry, &prepared.what) {
        (Entry::Tools(index), What::Tool { call, .. }) => {
            let arguments = serde_json::to_string(&call.arguments)
                .map_err(|error| Ended::Refused(output::failed(format!("the arguments cannot be written: {error}"))))?;
            let instance = instance(component, store).await?;
            let own = wall_clock_ms(prepared.soonest().at());
            let ambient = store.data().ports.ambient.as_ref();
            let request = Request {
                call,
                arguments: &arguments,
                deadline_ms: ambient.map_or(own, |ambient| ambient.deadline_ms(own)),
            };
            call_tool(&instance, index, &request, limits, store).await
        }
        (Entry::Functions(functions), What::Tool { call, tool }) => match functions.get(*tool) {
            Some(function) => call_function(component, function, call, limits, store).await,
            None => Err(Ended::Refused(output::failed(
                "the component's functions changed under the host",
            ))),
        },
        (Entry::Hook(index), What::Hook(occasion)) => {
            let instance = instance(component, store).await?;
            let deadline_ms = wall_clock_ms(prepared.soonest().at());
            Ok(hook::decide(&instance, index, occasion, deadline_ms, limits, store).await?)
        }
        (Entry::Hook(_), What::Tool { .. }) => Err(Ended::Refused(output::failed("a hook can't be called as a tool"))),
        (Entry::Tools(_) | Entry::Functions(_), What::Hook(_)) => Err(Ended::Refused(output::failed(
            "the component is no hook: it does not export fumehood:tool/hooks",
        ))),
    }
}

/// The call's own instance.
async fn instance(component: &Inner, store: &mut Store<CallState>) -> wasmtime::Result<Instance> {
    let begun = Instant::now();
    let instance = component.pre.instantiate_async(&mut *store).await?;
    store.data_mut().meter.made_instance(begun.elapsed());
    Ok(instance)
}

/// A call of a tool, written out.
struct Request<'a> {
    call: &'a Call,
    arguments: &'a str,
    deadline_ms: u64,
}

async fn call_tool(
    instance: &Instance,
    index: &ComponentExportIndex,
    request: &Request<'_>,
    limits: &Limits,
    store: &mut Store<CallState>,
) -> Result<CallResult, Ended> {
    let function = instance.get_typed_func::<(ToolCall<'_>,), (Answer,)>(&mut *store, index)?;
    let Request {
        call,
        arguments,
        deadline_ms,
    } = *request;
    let id = call.id.to_string();
    let request = ToolCall {
        id: &id,
        tool: &call.tool,
        arguments,
        idempotency_key: &call.idempotency_key,
        deadline_ms,
        locale: call.locale.as_deref(),
    };
    let (answer,) = function.call_async(&mut *store, (request,)).await?;
    Ok(output::from_guest(answer, limits))
}

async fn call_function(
    component: &Inner,
    function: &Function,
    call: &Call,
    limits: &Limits,
    store: &mut Store<CallState>,
) -> Result<CallResult, Ended> {
    let arguments = call.arguments.clone();
    let arguments = function.arguments(arguments, &mut Work::new(&store.data().meter, limits))?;
    let instance = instance(component, store).await?;
    let entry = instance
        .get_func(&mut *store, function.index)
        .ok_or_else(|| Ended::Refused(output::failed("the component does not export the function")))?;
    let mut results = function.results();
    store.set_hostcall_fuel(function.copied(limits));
    entry.call_async(&mut *store, &arguments, &mut results).await?;
    let output = function.output(results, &mut Work::new(&store.data().meter, limits))?;
    let size: usize = output
        .content
        .iter()
        .map(fumehood_core::content::Content::byte_len)
        .sum();
    Ok(output::within_limit(size as u64, limits).map(|()| output))
}

/// The most random bytes at once. Programs seed generators with less than 1 KiB.
const RANDOM_SIZE: u64 = 1 << 20;

fn wasi(authority: &Authority, ports: &Ports, log: &Arc<CallLog>) -> WasiCtx {
    let output = |stream| StdOutput {
        log: Arc::clone(log),
        stream,
    };
    let mut wasi = WasiCtxBuilder::new();
    wasi.stdout(output(Stream::Stdout)).stderr(output(Stream::Stderr));
    // THREAT[T-box-host-memory]: made in the host's memory before the guest gets it.
    wasi.max_random_size(RANDOM_SIZE);
    // THREAT[T-box-env]: only what is named; nothing is inherited from the host's own environment.
    for (name, value) in ports.env.iter() {
        if authority.may_see(name) {
            wasi.env(name, value);
        }
    }
    ambient::provide(&mut wasi, ports);
    // Raw sockets and name lookup are never granted.
    // THREAT[T-net-raw-socket]
    wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    wasi.build()
}

fn workspace(authority: &Arc<Authority>, ports: &Ports) -> Option<WorkspacePlan> {
    let perms = if authority.files.access.can_write() {
        FsPerms::ReadWrite
    } else if authority.files.access.can_read() {
        FsPerms::ReadOnly
    } else {
        return None;
    };
    let workspace = ports.workspace.as_ref()?;
    Some(WorkspacePlan {
        tree: Arc::clone(&workspace.tree),
        perms,
        paths: authority.files.paths.clone(),
        authority: Arc::clone(authority),
    })
}

fn wall_clock_ms(at: Instant) -> u64 {
    let left = at.saturating_duration_since(Instant::now());
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    millis(since_epoch + left)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
