//! `fumehood serve`

use crate::{args::Serve, boot, config::Loaded, fault::OrFault as _, out::Out, telemetry::MetricsKeeper};
use anyhow::{Context as _, anyhow};
use fumehood_core::name::OrgName;
use fumehood_server::{AdoptTrace, Metrics, MetricsAccess, MetricsPage, ServerConfig};
use serde_json::json;
use std::net::SocketAddr;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// Serves until SIGINT or SIGTERM: then what is under way comes to the end of its step, if it does so in time. A second signal stops at
/// once; what is recorded is safe either way.
pub(crate) async fn serve(
    out: Out,
    loaded: &Loaded,
    args: &Serve,
    adopt_trace: Option<AdoptTrace>,
) -> anyhow::Result<()> {
    let address = args.listen.unwrap_or(loaded.config.listen);
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; is another host running? `--listen 127.0.0.1:0` takes any free port")
    })?;
    let address = listener.local_addr()?;
    allow_all_files();
    let metrics = Metrics::install()?;
    let _keeper = MetricsKeeper::start(metrics.clone(), &loaded.config.store_url());
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config = boot::server_config(loaded)?;
    let running = boot::start(loaded).await?;
    let tools = running.host.tools(&OrgName::default_org()).await?;
    if let Some(unusable) = boot::unusable_hooks(loaded, &tools).into_iter().next() {
        running.stop().await;
        return Err(loaded.located(anyhow!("{unusable}"))).or_fault();
    }
    boot::tell_of_new_key(&running, loaded);
    // Now that nothing is missing that its turns were worked with.
    if let Err(error) = running.host.recover().await {
        running.stop().await;
        return Err(error).context("cannot go on with what an earlier process left");
    }
    // Before anybody is told: who reads that this host serves may stop it at once, and it ends as it should.
    let signals = StopSignals::listen()?;
    if out.json {
        out.value(&json!({"listening": format!("http://{address}")}));
    } else {
        out.line(format_args!("fumehood serves on http://{address}"));
    }
    let shutdown = CancellationToken::new();
    let drain = loaded.config.shutdown.drain();
    let signals = tokio::spawn(signals.obey(shutdown.clone()));
    let config = ServerConfig {
        metrics: Some(MetricsPage {
            metrics,
            access: metrics_access(loaded.config.metrics.public, address),
        }),
        adopt_trace,
        drain_time: drain.as_duration(),
        ..config
    };
    // Together: requests that wait for a turn end once it is left.
    let turns = async {
        shutdown.cancelled().await;
        running.host.drain(drain.as_duration()).await;
    };
    let requests = fumehood_server::serve(listener, running.host.clone(), config, shutdown.clone());
    tokio::join!(requests, turns);
    running.stop().await;
    signals.abort();
    Ok(())
}

/// Takes as many open files as the system lets it have. Connections, requests of tools and the files that calls open are
/// some thousands together, and the usual soft limit of 1024 is for programs that use `select`.
fn allow_all_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    // THREAT[T-box-files-open]
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the number of open files stays as it is");
    }
}

/// What stops this host. Until it listens, a signal ends the process as it would any other.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn listen() -> anyhow::Result<Self> {
        let of = |kind| signal(kind).context("cannot listen for the signals that stop a host");
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
        })
    }

    async fn obey(mut self, shutdown: CancellationToken) {
        self.next().await;
        eprintln!("stopping; once more to stop at once");
        shutdown.cancel();
        self.next().await;
        std::process::exit(1);
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Without a word from the operator, only who is on this machine reads the metrics without a key.
const fn metrics_access(public: Option<bool>, listening: SocketAddr) -> MetricsAccess {
    match public {
        Some(true) => MetricsAccess::Everybody,
        None if listening.ip().is_loopback() => MetricsAccess::Local,
        Some(false) | None => MetricsAccess::Operator,
    }
}
