//! What one call may use. Requested in the manifest, bounded in the grant, capped by the host's ceilings.
//!
//! The table at the end of this file is the one place where a limit is named: its key, its kind, its default and its
//! ceiling, what happens to a call that reaches it, and why it is what it is. Types, keys and the reference page are
//! made of it.

use crate::quantity::{ByteSize, ParseQuantityError, Rate, Span};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::fmt;

/// One limit, for the reference page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitDoc {
    /// Its key in `[limits]` of manifests and grants, and in the configuration.
    pub key: &'static str,
    /// What is limited.
    pub what: &'static str,
    /// What a call gets that asks for nothing.
    pub default: String,
    /// What no call passes unless the operator says otherwise.
    pub ceiling: String,
    /// What happens to a call that would pass it.
    pub beyond: &'static str,
    /// Why there is such a limit, and why it is as large as it is.
    pub why: &'static str,
}

/// A limit that is set above what may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = \"{asked}\" is above the host's ceiling of {ceiling}")]
pub struct AboveCeiling {
    /// The limit.
    pub key: &'static str,
    /// What was asked for.
    pub asked: String,
    /// What is possible.
    pub ceiling: String,
}

macro_rules! limits {
    ($(
        #[doc = $what:literal]
        $field:ident: $kind:ty = $default:expr, at most $ceiling:expr;
        beyond $beyond:literal;
        why $why:literal;
    )*) => {
        /// The limits of one call; none is zero. `Default` is what a call gets that asks for nothing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Limits {
            $(#[doc = $what] pub $field: $kind,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl Limits {
            /// What no call passes unless the operator says otherwise.
            #[must_use]
            pub const fn default_ceilings() -> Self {
                Self { $($field: $ceiling,)* }
            }

            /// The smallest of what is asked, granted and possible. Where neither manifest nor grant says anything,
            /// the default. A grant alone may therefore raise a limit above the default; a ceiling is never passed.
            #[must_use]
            pub fn effective(defaults: &Self, request: &LimitsRequest, grant: &LimitsRequest, ceilings: &Self) -> Self {
                fn least<T: Quantity>(default: T, request: Option<T>, grant: Option<T>, ceiling: T) -> T {
                    request.into_iter().chain(grant).reduce(T::lesser).unwrap_or(default).lesser(ceiling)
                }
                Self { $($field: least(defaults.$field, request.$field, grant.$field, ceilings.$field),)* }
            }

            /// These limits, except for those that `other` sets.
            #[must_use]
            pub fn overridden(self, other: &LimitsRequest) -> Self {
                Self { $($field: other.$field.unwrap_or(self.$field),)* }
            }

            /// Every limit, for people.
            #[must_use]
            pub fn catalogue() -> Vec<LimitDoc> {
                let (default, ceiling) = (Self::default(), Self::default_ceilings());
                vec![$(LimitDoc {
                    key: stringify!($field),
                    what: $what.trim_ascii(),
                    default: default.$field.to_string(),
                    ceiling: ceiling.$field.to_string(),
                    beyond: $beyond,
                    why: $why,
                },)*]
            }
        }

        /// The limits that a manifest asks for, or a grant sets; absent where it says nothing, never zero.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct LimitsRequest {
            $(
                #[doc = $what]
                #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "above_zero")]
                pub $field: Option<$kind>,
            )*
        }

        const KEYS: &[&str] = &[$(stringify!($field),)*];

        impl LimitsRequest {
            /// Sets one limit from text, as in `--limit memory=64MiB`.
            ///
            /// # Errors
            /// When there is no such limit, or the value is not of its kind, or zero.
            pub fn set(&mut self, key: &str, value: &str) -> Result<(), LimitError> {
                match key {
                    $(stringify!($field) => self.$field = Some(parsed(key, value)?),)*
                    _ => return Err(LimitError::Unknown(crate::text_serde::shown(key))),
                }
                Ok(())
            }

            /// What is set, as `(key, value)` in words.
            #[must_use]
            pub fn entries(&self) -> Vec<(&'static str, String)> {
                let mut entries = Vec::new();
                $(entries.extend(self.$field.map(|value| (stringify!($field), value.to_string())));)*
                entries
            }

            /// The limits that this sets higher than `other` sets them, as `(key, value)` in words.
            #[must_use]
            pub fn above(&self, other: &Self) -> Vec<(&'static str, String)> {
                let mut above = Vec::new();
                $(if let (Some(own), Some(other)) = (self.$field, other.$field)
                    && own.is_above(other)
                {
                    above.push((stringify!($field), own.to_string()));
                })*
                above
            }

            /// The limits that this sets higher than they can be. What is above its ceiling is narrowed to it.
            #[must_use]
            pub fn above_ceilings(&self, ceilings: &Limits) -> Vec<AboveCeiling> {
                let mut above = Vec::new();
                $(if let Some(asked) = self.$field
                    && asked.is_above(ceilings.$field)
                {
                    above.push(AboveCeiling {
                        key: stringify!($field),
                        asked: asked.to_string(),
                        ceiling: ceilings.$field.to_string(),
                    });
                })*
                above
            }
        }
    };
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

/// A kind of limit: read from text, with a zero that is refused.
trait Quantity: Sized + Copy + PartialEq + fmt::Display {
    fn read(text: &str) -> Result<Self, String>;
    fn is_zero(&self) -> bool;
    fn lesser(self, other: Self) -> Self;
    fn is_above(self, other: Self) -> bool {
        self != other && self.lesser(other) == other
    }
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
            fn lesser(self, other: Self) -> Self {
                self.min(other)
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

impl Quantity for Rate {
    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|e: ParseQuantityError| e.to_string())
    }
    /// A rate of zero does not parse.
    fn is_zero(&self) -> bool {
        false
    }
    fn lesser(self, other: Self) -> Self {
        self.stricter(other)
    }
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

limits! {
    /// Linear memory, all memories of all instances of the call together.
    memory: ByteSize = ByteSize::mib(64), at most ByteSize::mib(512);
    beyond "growing fails in the guest; if it then gives up: trap `memory`";
    why "A program in a language with a garbage collector starts at 10 to 30 MiB. The ceiling times the calls at once is what the machine must have.";

    /// Time the processor works for the call: the guest's code, and the host functions it calls.
    cpu: Span = Span::from_secs(2), at most Span::from_secs(60);
    beyond "trap `cpu`";
    why "What a person waits for without wondering. Waiting does not count.";

    /// Wall time, waiting included.
    time: Span = Span::from_secs(30), at most Span::from_secs(600);
    beyond "error `timeout`";
    why "Two slow HTTP requests in a row; whoever waits for more than ten minutes should make it a job.";

    /// What the call may return.
    output: ByteSize = ByteSize::kib(256), at most ByteSize::mib(4);
    beyond "error `output_too_large`";
    why "More than a model reads at once. Larger results belong into the workspace.";

    /// What it may write to stdout, stderr, progress and channels together.
    stdout: ByteSize = ByteSize::kib(64), at most ByteSize::mib(1);
    beyond "trap `output`";
    why "It is held in memory until the call ends, and kept in the journal.";

    /// Lines and pieces written to stdout, stderr and channels together: a write counts as its lines, at least as one.
    log_lines: u32 = 2_000, at most 100_000;
    beyond "trap `output`";
    why "Each may become an event. So that a byte at a time is no way round the limit of bytes.";

    /// How often it may report progress.
    progress: Rate = Rate::per_second(20), at most Rate::per_second(200);
    beyond "further reports are dropped and counted; the call goes on";
    why "More than anybody sees. Whoever reports in a loop should not fail for it.";

    /// What it may keep in `/tmp`.
    tmp: ByteSize = ByteSize::mib(16), at most ByteSize::mib(256);
    beyond "the write fails in the guest as on a full disk";
    why "Unpacking one archive. It is on the host's disk, times the calls at once.";

    /// The body of each HTTP request, and of each response.
    http_body: ByteSize = ByteSize::mib(4), at most ByteSize::mib(64);
    beyond "the request fails with `HTTP-request-body-size` or `HTTP-response-body-size`";
    why "Answers of APIs are kilobytes, pages a few megabytes.";

    /// HTTP requests, refused ones included.
    http_requests: u32 = 20, at most 1_000;
    beyond "the request is denied";
    why "A few pages of a listing. A tool that needs more says so.";

    /// HTTP requests at the same time, until their answers are read or dropped.
    http_concurrent: u32 = 16, at most 128;
    beyond "the request fails with `connection-limit-reached`";
    why "Each holds a connection, its buffers and a task of the host.";

    /// Bodies of all HTTP requests and responses together.
    http_bytes: ByteSize = ByteSize::mib(32), at most ByteSize::mib(1024);
    beyond "the request fails with `HTTP-request-body-size` or `HTTP-response-body-size`";
    why "So that many bodies, each within its limit, are no way to move everything.";

    /// Calls into the host: of every interface, and growing memories and tables.
    host_calls: u64 = 1_000_000, at most 100_000_000;
    beyond "trap `host_calls`";
    why "About a quarter of a second of the cheapest ones. Code of the host is not interrupted, so it is counted.";

    /// What it may hold at once: open files, streams, requests, timers, and handles of its own.
    handles: u32 = 256, at most 4_096;
    beyond "trap `table`";
    why "Each is memory of the host, and perhaps one of the open files that all calls share.";

    /// Elements of all its tables together.
    tables: u32 = 20_000, at most 100_000;
    beyond "growing fails in the guest; if it then gives up: trap `table`";
    why "One per function that is called indirectly: a few thousand in a large program. A slot of the pool has 100000.";

    /// Core instances inside the component.
    instances: u32 = 64, at most 64;
    beyond "trap `memory`, before anything runs";
    why "A compiler makes up to four, one that links libraries at run time two dozen, a composition a few times that. The pool has room for the ceiling, times the calls at once.";
}
