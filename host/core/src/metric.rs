//! The metrics that a host has: names, kinds, labels and meanings, as data. Crates measure; what is measured is
//! written here and nowhere else, and the reference page is made of it.
//!
//! A metric carries the label `org` or the label `tool`, never both, and the values of either are bounded
//! ([`LabelValues`]): so the number of time series grows with the sum of orgs and tools and has an end. No id, address,
//! path or text of a client is ever a label.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricKind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Is what it is now.
    Gauge,
    /// Counts observations by size; the upper bounds of the buckets, ascending.
    Histogram(&'static [f64]),
}

impl MetricKind {
    /// As the exposition format calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Its name, unit included.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: MetricKind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says; one line.
    pub doc: &'static str,
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $constant:ident = $name:literal, $kind:expr, [$($label:literal),*];)*) => {
        $($(#[doc = $doc])+ pub const $constant: Metric = Metric {
            name: $name,
            kind: $kind,
            labels: &[$($label),*],
            doc: concat!($($doc,)+),
        };)*

        /// Every metric of a host.
        pub const CATALOGUE: &[Metric] = &[$($constant),*];
    };
}

use MetricKind::{Counter, Gauge, Histogram};

/// A guest's call, in seconds: from a fraction of a millisecond to minutes.
const CALL_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// What waits for the outside, in seconds.
const WAIT_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];
/// A write to the disk, in seconds.
const WRITE_SECONDS: &[f64] = &[
    0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];
/// Memory of a guest: 64 KiB, a page of WebAssembly, to 4 GiB.
const MEMORY_BYTES: &[f64] = &[
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
];
const HOST_CALLS: &[f64] = &[1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0, 1_000_000.0];
const BATCHES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

metrics! {
    /// Turns that ended, by `status`: `completed`, `failed`, `cancelled`.
    TURNS = "fumehood_turns_total", Counter, ["org", "status"];
    /// Turns that are worked now.
    TURNS_RUNNING = "fumehood_turns_running", Gauge, [];
    /// From where this process began to work a turn to the turn's end, in seconds.
    TURN_DURATION = "fumehood_turn_duration_seconds", Histogram(WAIT_SECONDS), ["status"];

    /// Model calls by the configured `model` and `outcome`: why the model stopped (`stop`, `tool_calls`, `length`, `content_filter`), how the call failed, or `interrupted`. Each attempt counts.
    MODEL_CALLS = "fumehood_model_calls_total", Counter, ["model", "outcome"];
    /// From the request to the end of the answer, in seconds.
    MODEL_CALL_DURATION = "fumehood_model_call_duration_seconds", Histogram(WAIT_SECONDS), ["model"];
    /// From the request to the first text, reasoning or tool call of the answer, in seconds.
    MODEL_FIRST_TOKEN = "fumehood_model_time_to_first_token_seconds", Histogram(WAIT_SECONDS), ["model"];
    /// Tokens as the provider counted them, by `kind`: `input`, `output`, and as parts of those `cached_input`, `cache_write`, `reasoning`. What a provider does not count is not here.
    MODEL_TOKENS = "fumehood_model_tokens_total", Counter, ["model", "kind"];

    /// Calls of tools that ended, by `status` as in `tool.completed`. A name that is no tool of the org counts as `unknown`, one beyond the first 200 as `other`.
    TOOL_CALLS = "fumehood_tool_calls_total", Counter, ["tool", "status"];
    /// Calls that trapped, by `trap` kind.
    TOOL_TRAPS = "fumehood_tool_traps_total", Counter, ["tool", "trap"];
    /// Calls that a deadline ended, by whose it was: `deadline` of the error in `tool.completed`.
    TOOL_DEADLINES = "fumehood_tool_deadlines_total", Counter, ["tool", "deadline"];
    /// Changes of components, by the `state` they came to: `applied`, `failed`, or `forced`, where calls on the version before were interrupted.
    TOOL_CHANGES = "fumehood_tool_changes_total", Counter, ["state"];
    /// Calls that run on a version of a component that went out of use.
    TOOL_CALLS_DRAINING = "fumehood_tool_calls_draining", Gauge, [];
    /// From accepted to ended, waiting for a place included, in seconds.
    TOOL_CALL_DURATION = "fumehood_tool_call_duration_seconds", Histogram(CALL_SECONDS), ["tool"];
    /// Computing time of the guest, in seconds, to the granularity of the epoch clock.
    TOOL_CALL_CPU = "fumehood_tool_call_cpu_seconds", Histogram(CALL_SECONDS), ["tool"];
    /// The most linear memory a call had, in bytes.
    TOOL_CALL_MEMORY = "fumehood_tool_call_memory_peak_bytes", Histogram(MEMORY_BYTES), ["tool"];
    /// Host calls of one call.
    TOOL_CALL_HOST_CALLS = "fumehood_tool_call_host_calls", Histogram(HOST_CALLS), ["tool"];
    /// Calls of tools that ended, by org. An org beyond the first 100 counts as `other`.
    ORG_TOOL_CALLS = "fumehood_org_tool_calls_total", Counter, ["org", "status"];
    /// Calls of tools that are under way, waiting ones included.
    TOOL_CALLS_RUNNING = "fumehood_tool_calls_running", Gauge, [];
    /// Calls that wait for a place among the calls of their org.
    TOOL_CALLS_WAITING = "fumehood_tool_calls_waiting", Gauge, [];

    /// Answers of hooks by the `hook` and `outcome`: `allowed`, `changed` (other arguments), `denied`, `observed`, or how it failed: `timeout`, `crashed`, `unreachable`, `invalid_answer`, `too_large`, `unavailable`, `limited`. What was dropped because there was no room to tell a hook that observes counts as `dropped`. A hook beyond the first 100 counts as `other`.
    HOOKS = "fumehood_hooks_total", Counter, ["hook", "outcome"];
    /// What hooks that observe were not told, because there was no room, by org. An org beyond the first 100 counts as `other`.
    HOOKS_NOT_TOLD = "fumehood_hooks_not_told_total", Counter, ["org"];
    /// From asking or telling a hook to its answer, in seconds.
    HOOK_DURATION = "fumehood_hook_duration_seconds", Histogram(CALL_SECONDS), ["hook"];

    /// Guests that exist now, those that only say which tools they have included.
    SANDBOX_INSTANCES = "fumehood_sandbox_instances", Gauge, [];
    /// Components made ready, by where their machine code came `from`: `cache` or `compiler`.
    COMPONENT_LOADS = "fumehood_component_loads_total", Counter, ["from"];
    /// Compiling one component, in seconds.
    COMPONENT_COMPILE = "fumehood_component_compile_duration_seconds", Histogram(WAIT_SECONDS), [];

    /// Decisions of the egress door that are settled, by `outcome`: `completed` (allowed and answered), `denied`, `failed` (allowed, but it broke or passed a limit).
    EGRESS_REQUESTS = "fumehood_egress_requests_total", Counter, ["org", "outcome"];
    /// From the decision to the outcome of requests that were allowed, in seconds.
    EGRESS_DURATION = "fumehood_egress_duration_seconds", Histogram(WAIT_SECONDS), [];
    /// Body bytes sent through the door.
    EGRESS_SENT = "fumehood_egress_sent_bytes_total", Counter, ["org"];
    /// Body bytes received through the door.
    EGRESS_RECEIVED = "fumehood_egress_received_bytes_total", Counter, ["org"];
    /// Secrets injected into requests.
    SECRETS_USED = "fumehood_secrets_used_total", Counter, ["org"];
    /// Texts and bodies with the value of a secret where it must not be, by `action`: `blocked` (a request that would have carried it out) or `redacted` (the value was replaced before a guest, model or client saw it).
    LEAKS = "fumehood_leaks_total", Counter, ["action"];

    /// Refusals because an org has used what it may, by `limit`.
    LIMITS_REACHED = "fumehood_limits_reached_total", Counter, ["limit"];
    /// Whether the shared store of limits answers, which a ping finds out every few seconds: 1 or 0. Limits kept in the process are always up.
    LIMITS_STORE_UP = "fumehood_limits_store_up", Gauge, [];
    /// Checks that the shared store of limits did not answer, or too late, those included that were not made because it was down; what then happened is the org's `fail`.
    LIMITS_STORE_FAILURES = "fumehood_limits_store_failures_total", Counter, [];

    /// HTTP requests by the template of their `route` (`unmatched` where there is none), `method` and class of `status`; `gone` when the client left before the answer.
    HTTP_REQUESTS = "fumehood_http_requests_total", Counter, ["route", "method", "status"];
    /// From the request's head to the answer's head, in seconds. What streams goes on after that.
    HTTP_DURATION = "fumehood_http_request_duration_seconds", Histogram(WAIT_SECONDS), ["route"];
    /// HTTP requests without an answer yet.
    HTTP_IN_FLIGHT = "fumehood_http_requests_in_flight", Gauge, [];
    /// Streams of server-sent events that are open.
    HTTP_STREAMS = "fumehood_http_streams_open", Gauge, [];

    /// One transaction of the store's writer, in seconds: the work of its batch and the disk.
    STORE_COMMIT_DURATION = "fumehood_store_commit_duration_seconds", Histogram(WRITE_SECONDS), [];
    /// Writes that shared one transaction.
    STORE_COMMIT_BATCH = "fumehood_store_commit_batch_size", Histogram(BATCHES), [];
    /// Transactions that failed; whoever waited for them was told.
    STORE_COMMIT_FAILURES = "fumehood_store_commit_failures_total", Counter, [];
    /// Rows written to journals.
    JOURNAL_ROWS = "fumehood_journal_rows_total", Counter, [];
    /// The database on disk with its write-ahead log, in bytes; looked at every few seconds.
    STORE_DATABASE = "fumehood_store_database_bytes", Gauge, [];
    /// Bytes written to sessions' files through the API.
    WORKSPACE_WRITTEN = "fumehood_workspace_written_bytes_total", Counter, [];

    /// What was deleted because it was too old or nobody needed it, by `kind`: as in `[retention]`, or `code` that no component had, or `deletions` of sessions that were not at their end.
    REMOVED = "fumehood_retention_removed_total", Counter, ["kind"];
    /// How far the clock is ahead of the time by which things are too old, in seconds: above 0 after a clock that jumped, or days without a host.
    RETENTION_BEHIND = "fumehood_retention_behind_seconds", Gauge, [];

    /// Spans handed over to the OpenTelemetry collector.
    SPANS_EXPORTED = "fumehood_trace_spans_exported_total", Counter, [];
    /// Spans that never reached the collector, by `reason`: `queue_full` or `export_failed`.
    SPANS_DROPPED = "fumehood_trace_spans_dropped_total", Counter, ["reason"];

    /// Always 1; the labels say what runs.
    BUILD_INFO = "fumehood_build_info", Gauge, ["version", "os", "arch"];
    /// When the process began, in seconds since 1970.
    PROCESS_START = "process_start_time_seconds", Gauge, [];
    /// Computing time of the process, user and system, in seconds.
    PROCESS_CPU = "process_cpu_seconds_total", Counter, [];
    /// Resident memory, in bytes.
    PROCESS_RESIDENT = "process_resident_memory_bytes", Gauge, [];
    /// Virtual memory, in bytes. Most of it is reserved for guests and never touched.
    PROCESS_VIRTUAL = "process_virtual_memory_bytes", Gauge, [];
    /// Open file descriptors.
    PROCESS_FDS = "process_open_fds", Gauge, [];
    /// The most file descriptors the process may have.
    PROCESS_MAX_FDS = "process_max_fds", Gauge, [];
    /// Threads.
    PROCESS_THREADS = "process_threads", Gauge, [];
}

/// The values one label may have: the first so many that come, and then one for all others.
#[derive(Debug)]
pub struct LabelValues {
    known: Mutex<BTreeSet<String>>,
    most: usize,
}

impl LabelValues {
    /// What stands for every value beyond the bound.
    pub const OTHER: &'static str = "other";

    /// Room for `most` values.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self {
            known: Mutex::new(BTreeSet::new()),
            most,
        }
    }

    // THREAT[T-obs-cardinality]: who makes orgs or adds tools can't grow the host's memory through labels.
    /// The label for `value`: itself if it was among the first, else [`Self::OTHER`].
    pub fn label(&self, value: &str) -> String {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(value) {
            return value.to_owned();
        }
        if known.len() >= self.most {
            return Self::OTHER.to_owned();
        }
        known.insert(value.to_owned());
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beyond_the_bound_share_one_label() {
        let values = LabelValues::new(2);
        assert_eq!(values.label("a"), "a");
        assert_eq!(values.label("b"), "b");
        assert_eq!(values.label("c"), "other");
        assert_eq!(values.label("a"), "a");
    }

    #[test]
    fn every_metric_is_named_as_prometheus_wants_it_and_no_label_is_unbounded() {
        let mut names = BTreeSet::new();
        for metric in CATALOGUE {
            let Metric {
                name,
                kind,
                labels,
                doc,
            } = metric;
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Counter, "{name}");
            assert!(!doc.trim().is_empty() && !doc.contains('\n'), "{name}");
            if let Histogram(buckets) = kind {
                assert!(!buckets.is_empty() && buckets.is_sorted(), "{name}");
            }
            assert!(!(labels.contains(&"org") && labels.contains(&"tool")), "{name}");
            for label in *labels {
                let bounded = [
                    "org", "tool", "model", "status", "outcome", "kind", "trap", "from", "action", "limit", "route",
                    "method", "reason", "hook", "deadline", "state", "version", "os", "arch",
                ];
                assert!(bounded.contains(label), "{name}: {label}");
            }
        }
    }
}
