//! Traces to a collector: a queue of a fixed length, a thread that empties it, and a count of what was lost. A collector
//! that is slow or dead costs spans and two lines in the log, never a call.

use super::{conventions, variables::Settings};
use ::metrics::{Counter, counter};
use axum::http::HeaderMap;
use fumehood_core::metric;
use fumehood_server::AdoptTrace;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter,
        SpanProcessor,
    },
};
use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// How long the end of the process waits for the last spans.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// Looked up at the first loss: whoever keeps the metrics begins after the traces.
static QUEUE_FULL: LazyLock<Counter> = LazyLock::new(|| counter!(metric::SPANS_DROPPED.name, "reason" => "queue_full"));

/// Traces that are exported.
pub(super) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Begins to export. Starts a thread, which ends with [`Traces::end`].
    pub(super) fn begin(settings: Settings) -> anyhow::Result<Self> {
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build()?;
        let pending = Arc::new(AtomicUsize::new(0));
        let exporter = Exporter {
            inner: exporter,
            pending: Arc::clone(&pending),
            failing: AtomicBool::new(false),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(settings.queue)
            .build();
        let processor = Bounded {
            inner: BatchSpanProcessor::builder(exporter).with_batch_config(batches).build(),
            pending,
            most: settings.queue,
        };
        let mut resource = Resource::builder();
        if !settings.named {
            resource = resource.with_service_name("fumehood");
        }
        let resource = resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(settings.sampler)
            .with_resource(resource.build())
            .build();
        Ok(Self { provider })
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("fumehood")
    }

    /// Hands over what waits, if the collector takes it in time.
    pub(super) fn end(self) {
        if self.provider.shutdown_with_timeout(LAST_WAIT).is_err() {
            tracing::warn!("the last spans could not be handed over to the collector");
        }
    }
}

/// Gives a request its place in its client's trace (W3C Trace Context).
pub(super) fn adopt_trace() -> AdoptTrace {
    let propagator = TraceContextPropagator::new();
    Arc::new(move |span: &tracing::Span, headers: &HeaderMap| {
        let context = propagator.extract_with_context(&Context::new(), &Headers(headers));
        if context.span().span_context().is_valid() && span.set_parent(context).is_err() {
            tracing::debug!("a request's trace could not be taken up");
        }
    })
}

struct Headers<'h>(&'h HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}

/// Takes spans while there is room, and counts those it does not take.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    /// Taken and not yet exported: never more than the queue behind holds, so that it never drops one itself.
    pending: Arc<AtomicUsize>,
    most: usize,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let taken = self
            .pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |pending| {
                (pending < self.most).then_some(pending + 1)
            });
        match taken {
            Ok(_) => self.inner.on_end(span),
            Err(_) => QUEUE_FULL.increment(1),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Says spans in the words of the conventions, hands them over, and tells when that begins and ceases to fail.
#[derive(Debug)]
struct Exporter {
    inner: opentelemetry_otlp::SpanExporter,
    pending: Arc<AtomicUsize>,
    failing: AtomicBool,
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let batch: Vec<_> = batch.into_iter().filter_map(conventions::described).collect();
        let spans = batch.len() as u64;
        let result = if batch.is_empty() {
            Ok(())
        } else {
            self.inner.export(batch).await
        };
        self.pending.fetch_sub(count, Ordering::Relaxed);
        match &result {
            Ok(()) => {
                counter!(metric::SPANS_EXPORTED.name).increment(spans);
                if spans > 0 && self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the collector takes traces again");
                }
            }
            Err(error) => {
                counter!(metric::SPANS_DROPPED.name, "reason" => "export_failed").increment(spans);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let error = error.to_string();
                    // Behind that stands the address, with whatever its query holds.
                    let reason = error.split(" for url").next().unwrap_or_default();
                    tracing::warn!(
                        reason,
                        "the collector does not take traces; they are lost until it does, which the log will say"
                    );
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
