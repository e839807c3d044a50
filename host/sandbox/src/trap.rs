//! How a call that did not return ended, by the types of the errors, never by their text, but for one that has no type.
//!
//! The guest's backtrace goes to the log; the result gets the kind, the limit and the key that
//! raises it.

use crate::{
    engine::MAX_FRAMES,
    meter::{LimitReached, Meter, Refused},
};
use fumehood_core::{
    call::{CallError, CallErrorCode, TrapKind},
    id::CallId,
};
use fumehood_policy::limits::Limits;
use std::{collections::HashSet, fmt};
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

/// The host could not do its part. What exactly is in its log, because it may name host paths.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct HostFailed {
    what: &'static str,
}

impl HostFailed {
    pub(crate) fn new(what: &'static str, error: &dyn fmt::Display) -> Self {
        tracing::error!(%error, "{what}");
        Self { what }
    }
}

/// What ended the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Limit(LimitReached),
    Refused(Refused),
    /// It held as many handles as it may.
    Handles,
    Exit(i32),
    Trap(Trap),
    /// It handed the host more at once than that copies.
    Copied,
    /// The guest broke the rules of an interface, or the host did; the log tells which.
    Misuse,
}

/// The limits of what ran, and what decided them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds<'a> {
    pub(crate) limits: &'a Limits,
    /// What no call of this host passes.
    pub(crate) ceilings: &'a Limits,
    pub(crate) of: Running,
}

/// What ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    /// A call, within what its manifest, its grant and the host say.
    Call,
    /// A component that describes its tools, within what any of them has for that.
    Definitions,
}

/// Turns wasmtime's error into the call's, and logs what the result does not say.
pub(crate) fn classify(error: &wasmtime::Error, meter: &Meter, bounds: Bounds<'_>, call: &CallId) -> CallError {
    if let Some(failed) = error.downcast_ref::<HostFailed>() {
        return CallError::new(CallErrorCode::Unavailable, format!("{failed}; the host's log says why"));
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return CallError {
            retry_after_ms: Some(100),
            ..CallError::new(
                CallErrorCode::Unavailable,
                "the host runs as many calls as it can; try again",
            )
        };
    }
    let cause = cause(error, meter);
    let (kind, message) = describe(cause, bounds);
    let why = cut(&error.root_cause().to_string(), MAX_WHY);
    tracing::info!(%call, ?kind, why, "a guest trapped");
    if tracing::enabled!(tracing::Level::DEBUG)
        && let Some(backtrace) = error.downcast_ref::<WasmBacktrace>()
    {
        let frames = frames(backtrace.frames().iter().map(wasmtime::FrameInfo::func_name));
        tracing::debug!(%call, frames, "where a guest trapped");
    }
    CallError::trapped(kind, message)
}

/// What of an error's text is logged. It may quote the guest.
const MAX_WHY: usize = 256;
/// What of a function's name is logged, and of the names of a whole backtrace. The guest chose them.
const MAX_NAME: usize = 128;
const MAX_BACKTRACE: usize = 4 << 10;

/// The names of functions, innermost first.
// THREAT[T-box-log]
fn frames<'a>(names: impl Iterator<Item = Option<&'a str>>) -> String {
    let mut text = String::new();
    for name in names {
        let name = cut(name.unwrap_or("?"), MAX_NAME);
        if text.len() + name.len() > MAX_BACKTRACE {
            break;
        }
        text.push_str(&name);
        text.push_str("; ");
    }
    text
}

fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)]
        .escape_debug()
        .take(most)
        .collect()
}

fn cause(error: &wasmtime::Error, meter: &Meter) -> Cause {
    if let Some(limit) = error.downcast_ref::<LimitReached>() {
        return Cause::Limit(*limit);
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Cause::Exit(exit.0);
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref::<ResourceTableError>() {
        return Cause::Handles;
    }
    match (error.downcast_ref::<Trap>(), meter.refused()) {
        // An allocator that is refused memory aborts; instantiation that is refused fails untyped.
        (Some(Trap::UnreachableCodeReached) | None, Some(refused)) => Cause::Refused(refused),
        // A compiled program keeps its own stack in linear memory, below everything else, and when it
        // nests too deep runs off its end.
        (Some(Trap::MemoryOutOfBounds), _) if nested_deep(error) => Cause::Trap(Trap::StackOverflow),
        (Some(trap), _) => Cause::Trap(*trap),
        (None, None) if meter.out_of_handles() => Cause::Handles,
        (None, None) if copied_too_much(error) => Cause::Copied,
        (None, None) => Cause::Misuse,
    }
}

/// Whether the guest returned, and what it returned is more than the host copies.
pub(crate) fn returned_too_much(error: &wasmtime::Error) -> bool {
    // What happens in a host call has the frames that led to it.
    copied_too_much(error) && !error.is::<WasmBacktrace>()
}

/// The engine's error for that has no type of its own that could be named.
fn copied_too_much(error: &wasmtime::Error) -> bool {
    const TEXT: &str =
        "too much data is being copied between the host and the guest: fuel allocated for hostcalls has been exhausted";
    error.root_cause().to_string() == TEXT
}

/// Whether the backtrace is as long as it gets and made of a few functions over and over.
fn nested_deep(error: &wasmtime::Error) -> bool {
    error.downcast_ref::<WasmBacktrace>().is_some_and(|backtrace| {
        let functions: HashSet<u32> = backtrace.frames().iter().map(wasmtime::FrameInfo::func_index).collect();
        backtrace.frames().len() >= MAX_FRAMES && functions.len() <= MAX_FRAMES / 4
    })
}

fn describe(cause: Cause, bounds: Bounds<'_>) -> (TrapKind, String) {
    match cause {
        Cause::Limit(LimitReached::Cpu) => (
            TrapKind::Cpu,
            bounds.passed("computed longer than", "cpu", |limits| limits.cpu),
        ),
        Cause::Limit(LimitReached::HostCalls) => (
            TrapKind::HostCalls,
            bounds.passed("made more host calls than", "host_calls", |limits| limits.host_calls),
        ),
        Cause::Limit(LimitReached::Output) => (
            TrapKind::Output,
            bounds.passed("wrote more to stdout, stderr and progress than", "stdout", |limits| {
                limits.stdout
            }),
        ),
        Cause::Limit(LimitReached::LogLines) => (
            TrapKind::Output,
            bounds.passed(
                "wrote more lines to stdout, stderr and channels than",
                "log_lines",
                |limits| limits.log_lines,
            ),
        ),
        Cause::Handles => (
            TrapKind::Table,
            bounds.passed(
                "held more files, streams, requests and other handles at once than",
                "handles",
                |limits| limits.handles,
            ),
        ),
        Cause::Refused(Refused::Memory) => (
            TrapKind::Memory,
            bounds.passed("needed more memory than", "memory", |limits| limits.memory),
        ),
        Cause::Refused(Refused::Table) => (
            TrapKind::Table,
            bounds.passed("needed more table elements than", "tables", |limits| limits.tables),
        ),
        Cause::Exit(code) => (
            TrapKind::Unreachable,
            format!("the tool ended its process with exit code {code} instead of returning a result"),
        ),
        Cause::Trap(trap) => of_trap(trap, bounds),
        Cause::Copied => (
            TrapKind::Memory,
            "the tool handed the host more at once than it takes; pass large data in pieces".to_owned(),
        ),
        Cause::Misuse => (
            TrapKind::Unreachable,
            "the tool broke the rules of an interface that it uses; the host's log has the details".to_owned(),
        ),
    }
}

impl Bounds<'_> {
    /// That a component is made of more core instances than a call may have. They are known before anything runs.
    pub(crate) fn more_instances(self, needed: u32) -> CallError {
        let what = format!("is made of {needed} core instances, more than");
        CallError::trapped(
            TrapKind::Memory,
            self.passed(&what, "instances", |limits| limits.instances),
        )
    }

    /// That a limit was passed, which value it had, and what decided that.
    fn passed<T: PartialOrd + fmt::Display>(self, what: &str, key: &str, limit: impl Fn(&Limits) -> T) -> String {
        let (limit, ceiling) = (limit(self.limits), limit(self.ceilings));
        if limit >= ceiling {
            return format!(
                "the tool {what} its limit of {limit}, which is the host's ceiling; make it need less, or have the operator raise \
                 `{key}` in `[limits.ceiling]` of fumehood.toml"
            );
        }
        match self.of {
            Running::Call => {
                format!(
                    "the tool {what} its limit of {limit}; raise `{key}` in `[limits]` of the manifest and the grant"
                )
            }
            Running::Definitions => format!(
                "the tool {what} the {limit} of `{key}` that every component has to describe its tools; make it need less for that"
            ),
        }
    }
}

fn of_trap(trap: Trap, bounds: Bounds<'_>) -> (TrapKind, String) {
    let broke = |how: &str| format!("the tool broke: {how}; the host's log at `debug` has its backtrace");
    match trap {
        Trap::StackOverflow => (TrapKind::Stack, broke("it nested too deep and used up its stack")),
        Trap::MemoryOutOfBounds
        | Trap::HeapMisaligned
        | Trap::StringOutOfBounds
        | Trap::ListOutOfBounds
        | Trap::ArrayOutOfBounds
        | Trap::AllocationTooLarge => (TrapKind::Memory, broke("it touched memory that it does not have")),
        Trap::TableOutOfBounds | Trap::IndirectCallToNull | Trap::BadSignature => {
            (TrapKind::Table, broke("it called through a bad table element"))
        }
        // Only the epoch interrupts, and it does so for CPU time.
        Trap::Interrupt | Trap::OutOfFuel => (
            TrapKind::Cpu,
            bounds.passed("computed longer than", "cpu", |limits| limits.cpu),
        ),
        Trap::IntegerOverflow => (TrapKind::Unreachable, broke("an integer overflowed")),
        Trap::IntegerDivisionByZero => (TrapKind::Unreachable, broke("it divided by zero")),
        _ => (TrapKind::Unreachable, broke("it panicked or aborted")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn kind_of(error: &wasmtime::Error) -> (Option<TrapKind>, String) {
        let limits = Limits::default();
        let meter = Meter::new(&limits, Instant::now());
        let bounds = Bounds {
            limits: &limits,
            ceilings: &Limits::default_ceilings(),
            of: Running::Call,
        };
        let error = classify(error, &meter, bounds, &CallId::new());
        (error.trap, error.message)
    }

    #[test]
    fn each_limit_has_its_kind_and_names_its_key() {
        for (limit, kind, key) in [
            (LimitReached::Cpu, TrapKind::Cpu, "`cpu`"),
            (LimitReached::HostCalls, TrapKind::HostCalls, "`host_calls`"),
            (LimitReached::Output, TrapKind::Output, "`stdout`"),
            (LimitReached::LogLines, TrapKind::Output, "`log_lines`"),
        ] {
            let (found, message) = kind_of(&limit.into());
            assert_eq!(found, Some(kind));
            assert!(message.contains(key), "{message}");
        }
    }

    #[test]
    fn a_limit_says_which_value_it_had_and_what_decided_that() {
        let ceilings = Limits::default_ceilings();
        let said = |limits: &Limits, of| {
            let bounds = Bounds {
                limits,
                ceilings: &ceilings,
                of,
            };
            bounds.passed("needed more memory than", "memory", |limits| limits.memory)
        };
        let (own, most) = (Limits::default(), ceilings);
        let of_call = said(&own, Running::Call);
        assert!(
            of_call.contains(&format!(
                "its limit of {}; raise `memory` in `[limits]` of the manifest",
                own.memory
            )),
            "{of_call}"
        );
        for running in [Running::Call, Running::Definitions] {
            let at_ceiling = said(&most, running);
            assert!(
                at_ceiling.contains(&format!("{}, which is the host's ceiling", most.memory)),
                "{at_ceiling}"
            );
            assert!(
                at_ceiling.contains("`[limits.ceiling]`") && !at_ceiling.contains("manifest"),
                "{at_ceiling}"
            );
        }
        let described = said(&own, Running::Definitions);
        assert!(
            described.contains("to describe its tools") && !described.contains("manifest"),
            "{described}"
        );
    }

    #[test]
    fn a_full_table_of_the_host_is_too_many_handles() {
        let (kind, message) = kind_of(&wasmtime::Error::from(ResourceTableError::Full));
        assert_eq!(kind, Some(TrapKind::Table));
        assert!(message.contains("`handles`"), "{message}");
        let (kind, _) = kind_of(&wasmtime::Error::from(ResourceTableError::NotPresent));
        assert_eq!(kind, Some(TrapKind::Unreachable));
    }

    #[test]
    fn a_limit_is_found_below_context() {
        let error = wasmtime::Error::from(LimitReached::Cpu).context("while running");
        assert_eq!(kind_of(&error).0, Some(TrapKind::Cpu));
    }

    #[test]
    fn traps_are_told_apart() {
        for (trap, kind) in [
            (Trap::StackOverflow, TrapKind::Stack),
            (Trap::MemoryOutOfBounds, TrapKind::Memory),
            (Trap::TableOutOfBounds, TrapKind::Table),
            (Trap::IndirectCallToNull, TrapKind::Table),
            (Trap::UnreachableCodeReached, TrapKind::Unreachable),
            (Trap::IntegerDivisionByZero, TrapKind::Unreachable),
        ] {
            assert_eq!(kind_of(&trap.into()).0, Some(kind), "{trap:?}");
        }
    }

    #[test]
    fn what_the_host_failed_at_is_not_the_guests_trap() {
        let (kind, message) =
            kind_of(&HostFailed::new("no temporary directory can be made", &"/secret/path: EROFS").into());
        assert_eq!(kind, None);
        assert!(!message.contains("/secret"), "{message}");
    }

    #[test]
    fn names_that_a_guest_chose_are_cut_in_the_log() {
        let long = "ü\n".repeat(100_000);
        let text = frames(std::iter::repeat_n(Some(long.as_str()), MAX_FRAMES));
        assert!(text.len() <= MAX_BACKTRACE + 2 * MAX_FRAMES, "{}", text.len());
        assert!(!text.contains('\n'));
        assert_eq!(frames([Some("main"), None].into_iter()), "main; ?; ");
    }
}
