//! What the process counts and measures: the recorder behind every crate's metrics, the page that Prometheus reads, and
//! the server's own metrics.

mod http;
mod process;

pub(crate) use http::{Answered, OpenStream, Route};

use fumehood_core::metric::{self, Metric, MetricKind};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::{fmt, sync::Arc};

/// Every metric of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    started: f64,
}

/// Why metrics can't be kept.
#[derive(Debug, thiserror::Error)]
#[error("metrics can't be kept: {0}")]
pub struct MetricsError(String);

impl Metrics {
    /// Begins to keep the metrics of this process. Once per process, and before anything is measured: what was measured
    /// before is lost.
    ///
    /// Call [`Metrics::tidy`] every few seconds from then on.
    ///
    /// # Errors
    /// When something else keeps them already.
    pub fn install() -> Result<Self, MetricsError> {
        let mut builder = PrometheusBuilder::new();
        for metric in metric::CATALOGUE {
            if let MetricKind::Histogram(buckets) = metric.kind {
                builder = builder
                    .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)
                    .map_err(|error| MetricsError(error.to_string()))?;
            }
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|error| MetricsError(error.to_string()))?;
        // What the process says of itself is written when it is asked for.
        for metric in metric::CATALOGUE.iter().filter(|metric| !process::writes(metric)) {
            describe(metric);
        }
        Ok(Self {
            handle,
            started: process::now(),
        })
    }

    /// Moves what was measured since the last time into the buckets: between two calls each observation takes a few bytes.
    pub fn tidy(&self) {
        self.handle.run_upkeep();
    }

    /// The page, in the text format 0.0.4 of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        let mut page = self.handle.render();
        process::write(&mut page, self.started);
        page
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Who may read the metrics, which tell of every org.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Whoever reaches the host at a loopback address, directly; others need a key of the org `default`.
    Local,
    /// Whoever has a key of the org `default`.
    Operator,
    /// Everybody who reaches the host.
    Everybody,
}

/// The page and who may read it.
#[derive(Debug, Clone)]
pub struct MetricsPage {
    /// The metrics.
    pub metrics: Metrics,
    /// Who may read them.
    pub access: MetricsAccess,
}

/// Says what a metric is. One without labels is there from the start, so that an alert can tell 0 from absent.
fn describe(metric: &Metric) {
    let Metric {
        name,
        kind,
        labels,
        doc,
    } = *metric;
    let doc = doc.trim();
    let alone = labels.is_empty();
    match kind {
        MetricKind::Counter => {
            describe_counter!(name, doc);
            alone.then(|| counter!(name).increment(0));
        }
        MetricKind::Gauge => {
            describe_gauge!(name, doc);
            alone.then(|| gauge!(name).increment(0.0));
        }
        MetricKind::Histogram(_) => {
            describe_histogram!(name, doc);
            alone.then(|| histogram!(name));
        }
    }
    if *metric == metric::LIMITS_STORE_UP {
        gauge!(name).set(1.0);
    }
}

/// The version of this host, as far as a page of metrics tells it.
pub(crate) fn build() -> [(&'static str, &'static str); 3] {
    [
        ("version", env!("CARGO_PKG_VERSION")),
        ("os", std::env::consts::OS),
        ("arch", std::env::consts::ARCH),
    ]
}

/// What adopts a request's place in a trace that began elsewhere: given the request's span and headers.
pub type AdoptTrace = Arc<dyn Fn(&tracing::Span, &::http::HeaderMap) + Send + Sync>;
