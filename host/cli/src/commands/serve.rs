//! `fumehood serve`

use crate::{args::Serve, boot, config::Loaded, fault::OrFault as _, out::Out, telemetry::MetricsKeeper};
use anyhow::{Context as _, anyhow};
use fumehood_core::name::OrgName;
use fumehood_server::{AdoptTrace, Metrics, MetricsAccess, MetricsPage, ServerConfig};
use serde_json::json;
use std::net::SocketAddr;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// Serves until SIGINT or SIGTERM. A second signal stops at once; what is recorded is safe either way.
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
    if out.json {
        out.value(&json!({"listening": format!("http://{address}")}));
    } else {
        out.line(format_args!("fumehood serves on http://{address}"));
    }
    let shutdown = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(shutdown.clone()));
    let config = ServerConfig {
        metrics: Some(MetricsPage {
            metrics,
            access: metrics_access(loaded.config.metrics.public, address),
        }),
        adopt_trace,
        ..boot::server_config(&loaded.config)
    };
    fumehood_server::serve(listener, running.host.clone(), config, shutdown).await;
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

async fn stop_on_signal(shutdown: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::error!("signals can't be handled; only SIGKILL stops this host");
        return;
    };
    for urgent in [false, true] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if urgent {
            std::process::exit(1);
        }
        eprintln!("stopping; once more to stop at once");
        shutdown.cancel();
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
