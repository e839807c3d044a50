//! What one call may use. Requested in the manifest, bounded in the grant, capped by the host's ceilings.

use crate::quantity::{ByteSize, ParseQuantityError, Span};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// The limits of one call; none is zero. `Default` is what a call gets that asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Linear memory, all memories of the instance together.
    pub memory: ByteSize,
    /// Time the guest computes.
    pub cpu: Span,
    /// Wall time, waiting included.
    pub time: Span,
    /// What the call may return.
    pub output: ByteSize,
    /// What it may keep in `/tmp`.
    pub tmp: ByteSize,
    /// The body of each HTTP request, and of each response.
    pub http_body: ByteSize,
    /// HTTP requests, refused ones included.
    pub http_requests: u32,
    /// Calls into the host.
    pub host_calls: u64,
    /// Elements of all tables together.
    pub tables: u32,
    /// Core instances inside the component.
    pub instances: u32,
    /// What it may write to stdout and stderr together.
    pub stdout: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(64),
            cpu: Span::from_secs(2),
            time: Span::from_secs(30),
            output: ByteSize::kib(256),
            tmp: ByteSize::mib(16),
            http_body: ByteSize::mib(4),
            http_requests: 20,
            host_calls: 1_000_000,
            tables: 20_000,
            instances: 64,
            stdout: ByteSize::kib(64),
        }
    }
}

impl Limits {
    /// What no call passes unless the operator says otherwise.
    #[must_use]
    pub const fn default_ceilings() -> Self {
        Self {
            memory: ByteSize::mib(512),
            cpu: Span::from_secs(60),
            time: Span::from_secs(600),
            output: ByteSize::mib(4),
            tmp: ByteSize::mib(256),
            http_body: ByteSize::mib(64),
            http_requests: 1_000,
            host_calls: 100_000_000,
            tables: 100_000,
            instances: 256,
            stdout: ByteSize::mib(1),
        }
    }

    /// The smallest of what is asked, granted and possible. Where neither manifest nor grant says anything, the
    /// default. A grant alone may therefore raise a limit above the default; a ceiling is never passed.
    #[must_use]
    pub fn effective(defaults: &Self, request: &LimitsRequest, grant: &LimitsRequest, ceilings: &Self) -> Self {
        fn least<T: Ord + Copy>(default: T, request: Option<T>, grant: Option<T>, ceiling: T) -> T {
            request.into_iter().chain(grant).min().unwrap_or(default).min(ceiling)
        }
        macro_rules! each {
            ($($field:ident),*) => {
                Self {
                    $($field: least(defaults.$field, request.$field, grant.$field, ceilings.$field),)*
                    tables: defaults.tables.min(ceilings.tables),
                    instances: defaults.instances.min(ceilings.instances),
                }
            };
        }
        each!(
            memory,
            cpu,
            time,
            output,
            tmp,
            http_body,
            http_requests,
            host_calls,
            stdout
        )
    }
}

/// The limits that a manifest asks for, or a grant sets; absent where it says nothing, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each field is that of `Limits`")]
pub struct LimitsRequest {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "above_zero")]
    pub memory: Option<ByteSize>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "above_zero")]
    pub cpu: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "above_zero")]
    pub time: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "above_zero")]
    pub output: Option<ByteSize>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "above_zero")]
    pub tmp: Option<ByteSize>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "above_zero")]
    pub http_body: Option<ByteSize>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "above_zero")]
    pub http_requests: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "above_zero")]
    pub host_calls: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "above_zero")]
    pub stdout: Option<ByteSize>,
}

/// Why `key=value` sets no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// No such limit.
    #[error("`{0}` is not a limit; the limits are {list}", list = KEYS.join(", "))]
    Unknown(String),
    /// The value is not of the limit's kind.
    #[error("limit `{key}`: {reason}")]
    Value {
        /// The limit.
        key: String,
        /// What is accepted.
        reason: String,
    },
    /// Zero.
    #[error("limit `{0}`: zero would forbid every call; use a value above zero, or leave the limit out")]
    Zero(String),
}

const KEYS: [&str; 9] = [
    "memory",
    "cpu",
    "time",
    "output",
    "tmp",
    "http_body",
    "http_requests",
    "host_calls",
    "stdout",
];

impl LimitsRequest {
    /// Sets one limit from text, as in `--limit memory=64MiB`.
    ///
    /// # Errors
    /// When there is no such limit, or the value is not of its kind, or zero.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), LimitError> {
        match key {
            "memory" => self.memory = Some(parsed(key, value)?),
            "cpu" => self.cpu = Some(parsed(key, value)?),
            "time" => self.time = Some(parsed(key, value)?),
            "output" => self.output = Some(parsed(key, value)?),
            "tmp" => self.tmp = Some(parsed(key, value)?),
            "http_body" => self.http_body = Some(parsed(key, value)?),
            "http_requests" => self.http_requests = Some(parsed(key, value)?),
            "host_calls" => self.host_calls = Some(parsed(key, value)?),
            "stdout" => self.stdout = Some(parsed(key, value)?),
            _ => return Err(LimitError::Unknown(crate::text_serde::shown(key))),
        }
        Ok(())
    }

    /// What is set, as `(key, value)` in words.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let text = |value: Option<String>, key| value.map(|value| (key, value));
        [
            text(self.memory.map(|v| v.to_string()), "memory"),
            text(self.cpu.map(|v| v.to_string()), "cpu"),
            text(self.time.map(|v| v.to_string()), "time"),
            text(self.output.map(|v| v.to_string()), "output"),
            text(self.tmp.map(|v| v.to_string()), "tmp"),
            text(self.http_body.map(|v| v.to_string()), "http_body"),
            text(self.http_requests.map(|v| v.to_string()), "http_requests"),
            text(self.host_calls.map(|v| v.to_string()), "host_calls"),
            text(self.stdout.map(|v| v.to_string()), "stdout"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The limits that this sets higher than `other` sets them, as `(key, value)` in words.
    #[must_use]
    pub fn above(&self, other: &Self) -> Vec<(&'static str, String)> {
        fn is_above<T: Ord>(own: Option<T>, other: Option<T>) -> bool {
            matches!((own, other), (Some(own), Some(other)) if own > other)
        }
        let above = [
            is_above(self.memory, other.memory),
            is_above(self.cpu, other.cpu),
            is_above(self.time, other.time),
            is_above(self.output, other.output),
            is_above(self.tmp, other.tmp),
            is_above(self.http_body, other.http_body),
            is_above(self.http_requests, other.http_requests),
            is_above(self.host_calls, other.host_calls),
            is_above(self.stdout, other.stdout),
        ];
        self.entries()
            .into_iter()
            .filter(|(key, _)| KEYS.iter().zip(above).any(|(k, above)| above && k == key))
            .collect()
    }
}

/// A kind of limit: read from text, with a zero that is refused.
trait Quantity: Sized {
    fn read(text: &str) -> Result<Self, String>;
    fn is_zero(&self) -> bool;
}

macro_rules! quantity {
    ($($kind:ty, $zero:expr, $read:expr;)*) => {$(
        impl Quantity for $kind {
            fn read(text: &str) -> Result<Self, String> {
                let read: fn(&str) -> Result<Self, String> = $read;
                read(text)
            }
            fn is_zero(&self) -> bool {
                *self == $zero
            }
        }
    )*};
}

quantity! {
    ByteSize, ByteSize(0), |text| text.parse().map_err(|e: ParseQuantityError| e.to_string());
    Span, Span::from_millis(0), |text| text.parse().map_err(|e: ParseQuantityError| e.to_string());
    u32, 0, |text| text.parse().map_err(|_| "write a whole number, at most 4294967295".to_owned());
    u64, 0, |text| text.parse().map_err(|_| "write a whole number".to_owned());
}

fn parsed<T: Quantity>(key: &str, value: &str) -> Result<T, LimitError> {
    let parsed = T::read(value.trim()).map_err(|reason| LimitError::Value {
        key: key.to_owned(),
        reason,
    })?;
    if parsed.is_zero() {
        return Err(LimitError::Zero(key.to_owned()));
    }
    Ok(parsed)
}

fn above_zero<'de, D: Deserializer<'de>, T: Quantity + Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = Option::<T>::deserialize(deserializer)?;
    if value.as_ref().is_some_and(Quantity::is_zero) {
        return Err(D::Error::custom(
            "a limit of zero would forbid every call; use a value above zero, or leave the limit out",
        ));
    }
    Ok(value)
}
