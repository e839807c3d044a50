//! Starting a component without any authority: what `definitions` says, and what it costs to begin a call.

use crate::{
    bindings::fumehood::tool::types::Definition,
    component::{Component, ComponentKind},
    error::LoadError,
    load::tools_exports,
    meter::Metered,
    ports::Ports,
    sandbox::{Sandbox, Shared},
    share::ShareKey,
    state::CallState,
    stdio::CallLog,
    telemetry,
    trap::{self, Bounds, Running},
};
use fumehood_core::{call::CallError, id::CallId};
use fumehood_policy::{
    authority::{Authority, Origins},
    files::{Access, Files},
    limits::{Limits, LimitsRequest},
    network::{Layer, NetworkList, NetworkPolicy},
    quantity::{ByteSize, Span},
    tool_pattern::ToolFilter,
};
use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use wasmtime::component::{ComponentExportIndex, InstancePre};

/// What it costs to start a component: to make an instance of it, and to ask that for its definitions where it has some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Making the instance, as the clock on the wall has it. Every call begins with this.
    pub instance: Duration,
    /// What the processor worked for all of it.
    pub cpu: Duration,
    /// The most memory that it had, in bytes.
    pub memory: u64,
}

/// What came of a start.
pub(crate) struct Started {
    /// Empty where none were asked for.
    pub(crate) definitions: Vec<Definition>,
    cost: Start,
}

impl Sandbox {
    /// Starts a loaded component once more, with no authority, and measures it. One that describes its tools has the little
    /// room that it has when it is loaded; any other what a call can have at most, since loading it starts nothing.
    ///
    /// Cancel-safe: dropped, it stops the guest.
    ///
    /// # Errors
    /// [`LoadError::DefinitionsFailed`] or, where it has none, [`LoadError::InstanceFailed`] when it traps or takes too long or
    /// too much; [`LoadError::Busy`] when there is no room for it now.
    pub async fn start(&self, component: &Component) -> Result<Start, LoadError> {
        let inner = &component.inner;
        let definitions = match inner.about.kind {
            ComponentKind::FumehoodTool => tools_exports(inner.pre.component())?.map(|exports| exports.definitions),
            ComponentKind::PlainFunctions | ComponentKind::Hook => None,
        };
        let started = self
            .shared
            .start(&inner.pre, definitions.as_ref(), inner.about.core_instances)
            .await?;
        Ok(started.cost)
    }
}

impl Shared {
    /// Makes an instance that may do nothing, and runs `definitions` in it if that is given.
    pub(crate) async fn start(
        &self,
        pre: &InstancePre<CallState>,
        definitions: Option<&ComponentExportIndex>,
        core_instances: u32,
    ) -> Result<Started, LoadError> {
        let (limits, running, failed): (_, _, fn(String) -> LoadError) = match definitions {
            Some(_) => (
                little(&self.ceilings),
                Running::Definitions,
                LoadError::DefinitionsFailed,
            ),
            None => (self.ceilings, Running::Call, LoadError::InstanceFailed),
        };
        let authority = Arc::new(nothing(limits));
        if core_instances > limits.instances {
            let bounds = Bounds {
                limits: &limits,
                ceilings: &self.ceilings,
                of: running,
            };
            return Err(LoadError::TooDemanding(bounds.more_instances(core_instances).message));
        }
        let ports = Ports::denied();
        let log = Arc::new(CallLog::new(Arc::clone(&ports.observer), &limits));
        let within = Instant::now() + limits.time.as_duration();
        let _slot = self
            .slots
            .take(ShareKey::default(), within)
            .await
            .ok_or(LoadError::Busy)?;
        let _running = (self.ticker.run(), telemetry::Living::new());
        // On nobody's account: what runs at install runs for all.
        let share = ShareKey::default();
        let mut store = self.store(authority, ports, &log, share, Instant::now());
        let clock = store.data().meter.clock();
        let run = async {
            let begun = Instant::now();
            let instance = pre.instantiate_async(&mut store).await?;
            let took = begun.elapsed();
            let Some(index) = definitions else {
                return Ok((Vec::new(), took));
            };
            let function = instance.get_typed_func::<(), (Vec<Definition>,)>(&mut store, index)?;
            let (definitions,) = function.call_async(&mut store, ()).await?;
            wasmtime::Result::Ok((definitions, took))
        };
        let timed = {
            let metered = pin!(Metered {
                clock,
                call: Box::pin(run),
            });
            let gated = self.gate.run(share, metered);
            tokio::time::timeout(limits.time.as_duration(), gated).await
        };
        match timed {
            Ok(Ok((definitions, instance))) => Ok(Started {
                definitions,
                cost: Start {
                    instance,
                    cpu: store.data().meter.cpu(),
                    memory: store.data().meter.memory_peak(),
                },
            }),
            Ok(Err(error)) => {
                let bounds = Bounds {
                    limits: &limits,
                    ceilings: &self.ceilings,
                    of: running,
                };
                let CallError { message, trap, .. } =
                    trap::classify(&error, &store.data().meter, bounds, &CallId::new());
                Err(if trap.is_some() {
                    failed(message)
                } else {
                    LoadError::Busy
                })
            }
            Err(_) => Err(failed(format!("it took longer than {}", limits.time))),
        }
    }
}

/// The room for `definitions`, which has nothing to do but answer.
fn little(ceilings: &Limits) -> Limits {
    let little = Limits {
        memory: ByteSize::mib(64),
        cpu: Span::from_secs(2),
        time: Span::from_secs(10),
        tmp: ByteSize(0),
        host_calls: 10_000,
        http_requests: 0,
        ..Limits::default()
    };
    let unasked = LimitsRequest::default();
    Limits::effective(&little, &unasked, &unasked, ceilings)
}

/// No authority.
pub(crate) fn nothing(limits: Limits) -> Authority {
    Authority {
        network: NetworkPolicy {
            layers: vec![(Layer::Host, NetworkList::nothing())],
        },
        credentials: Vec::new(),
        files: Files::none(),
        kv: Access::None,
        sign: Vec::new(),
        call_tools: ToolFilter::all_of([Vec::new()]),
        detach: false,
        background: ToolFilter::closed(),
        env: Vec::new(),
        limits,
        rate: None,
        origins: Origins::default(),
    }
}
