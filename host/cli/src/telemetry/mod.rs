//! What a process tells its operator while it runs: logs on standard error, and traces where the environment asks for
//! them. Metrics are the server's; this keeps them in order.

mod conventions;
mod export;
mod lines;
mod metrics;
mod variables;

pub(crate) use metrics::MetricsKeeper;

use crate::config::LogFormat;
use export::Traces;
use fumehood_server::AdoptTrace;
use std::io::{IsTerminal as _, stderr};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, fmt::format::JsonFields, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// How much is said unless `FUMEHOOD_LOG` says how much.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verbosity {
    /// Only what went wrong: for commands, whose output is for people.
    Errors,
    /// What happens: for a serving host.
    Info,
}

/// Logs and traces of this process. End it with [`Telemetry::end`], or the last spans are lost.
pub(crate) struct Telemetry {
    traces: Option<Traces>,
}

impl Telemetry {
    /// Begins. What the environment asks for and this host can't do is said in the log.
    pub(crate) fn begin(verbosity: Verbosity, format: Option<LogFormat>) -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let mut notes = Vec::new();
        let filter = filter(verbosity, variable("FUMEHOOD_LOG").as_deref(), &mut notes);
        let (settings, found) = variables::read(&variable);
        notes.extend(found);
        let traces = settings.and_then(|settings| {
            Traces::begin(settings)
                .inspect_err(|error| notes.push(format!("traces are not exported: {error}")))
                .ok()
        });
        let spans = traces.as_ref().map(|traces| {
            tracing_opentelemetry::layer()
                .with_tracer(traces.tracer())
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_context_activation(false)
                // Only spans, and only those that a convention describes: log lines stay in the log.
                .with_filter(filter_fn(conventions::is_described))
        });
        let terminal = stderr().is_terminal();
        let format = format.unwrap_or(match verbosity {
            Verbosity::Info if !terminal => LogFormat::Json,
            Verbosity::Info | Verbosity::Errors => LogFormat::Text,
        });
        let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
        let logs = match format {
            LogFormat::Json => lines
                .fmt_fields(JsonFields::new())
                .event_format(lines::JsonLines)
                .with_filter(filter)
                .boxed(),
            LogFormat::Text => lines.with_target(false).with_ansi(terminal).with_filter(filter).boxed(),
        };
        tracing_subscriber::registry().with(spans).with(logs).init();
        for note in notes {
            tracing::warn!("{note}");
        }
        Self { traces }
    }

    /// What gives a request its place in its client's trace; none where no traces are exported.
    pub(crate) fn adopt_trace(&self) -> Option<AdoptTrace> {
        self.traces.as_ref().map(|_| export::adopt_trace())
    }

    /// Hands over what is left, for a few seconds at most. Blocks.
    pub(crate) fn end(self) {
        if let Some(traces) = self.traces {
            traces.end();
        }
    }
}

fn filter(verbosity: Verbosity, asked: Option<&str>, notes: &mut Vec<String>) -> EnvFilter {
    let default = match verbosity {
        Verbosity::Errors => LevelFilter::ERROR,
        Verbosity::Info => LevelFilter::INFO,
    };
    let builder = EnvFilter::builder().with_default_directive(default.into());
    match asked.map(EnvFilter::try_new) {
        Some(Ok(filter)) => filter,
        Some(Err(error)) => {
            notes.push(format!(
                "FUMEHOOD_LOG is not a filter ({error}); it is passed over. An example: info,fumehood_egress=debug"
            ));
            builder.parse_lossy("")
        }
        None => builder.parse_lossy(""),
    }
}
