//! Every limit ends the call that passes it, says which it was, and harms nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use fumehood_core::{
    call::{CallErrorCode, DeadlineOwner, TrapKind},
    digest::Digest,
};
use fumehood_policy::{
    authority::Authority,
    deadline::{Deadline, Gone, SetBy},
    limits::Limits,
    quantity::{ByteSize, Span},
};
use fumehood_sandbox::{
    Sandbox, SandboxConfig,
    ports::{Channel, Observer, Ports},
    recall,
};
use std::{
    sync::{Arc, Mutex},
    time::Instant,
};
use support::{ECHO, SPIN, authority, call, error, load, run, run_with, sandbox, tool, with_limits};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

const EMIT: &str = r#"(import "fumehood:tool/progress@0.1.0" "emit" (func $emit (param i32 i32 i32 i32)))"#;
const NOW: &str = r#"(import "wasi:clocks/monotonic-clock@0.2.12" "now" (func $now (result i64)))"#;
const SLEEP: &str = r#"
    (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration" (func $after (param i64) (result i32)))
    (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))"#;

#[tokio::test]
async fn a_call_within_its_limits_returns_what_the_tool_returned() {
    let sandbox = sandbox();
    let component = load(&sandbox, tool("", ECHO)).await;
    let report = sandbox
        .call(
            &component,
            call("t", r#"{"a":"é"}"#),
            Arc::new(authority()),
            Ports::denied(),
        )
        .await;
    let output = report.result.unwrap();
    assert_eq!(fumehood_core::content::plain_text(&output.content), r#"{"a":"é"}"#);
    assert_eq!(report.metering.memory_peak, 65536);
    assert_eq!(report.metering.host_calls, 0);
}

#[tokio::test]
async fn an_unknown_tool_is_not_run() {
    let sandbox = sandbox();
    let component = load(&sandbox, tool("", ECHO)).await;
    let report = sandbox
        .call(&component, call("other", "{}"), Arc::new(authority()), Ports::denied())
        .await;
    assert_eq!(error(report).code, CallErrorCode::ToolNotFound);
}

#[tokio::test]
async fn computing_beyond_the_cpu_limit_is_a_cpu_trap() {
    let report = run(tool("", SPIN), with_limits(|limits| limits.cpu = Span::from_millis(20))).await;
    assert!(report.metering.cpu_ms >= 20, "{:?}", report.metering);
    let error = error(report);
    assert_eq!(error.trap, Some(TrapKind::Cpu));
    assert!(
        error.message.contains("20ms") && error.message.contains("`cpu`"),
        "{error}"
    );
}

#[tokio::test]
async fn computing_between_host_calls_counts_as_well() {
    let body = "(loop $forever (drop (call $now)) (br $forever)) unreachable";
    let limits = with_limits(|limits| {
        limits.cpu = Span::from_millis(5);
        limits.host_calls = u64::MAX;
    });
    assert_eq!(error(run(tool(NOW, body), limits).await).trap, Some(TrapKind::Cpu));
}

#[tokio::test]
async fn waiting_does_not_count_as_computing() {
    let body = "(call $block (call $after (i64.const 100000000))) (call $text (i32.const 0) (i32.const 0))";
    let report = run(
        tool(SLEEP, body),
        with_limits(|limits| limits.cpu = Span::from_millis(50)),
    )
    .await;
    assert!(report.result.is_ok(), "{report:?}");
    assert!(report.metering.duration_ms >= 100, "{:?}", report.metering);
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_a_timeout_that_keeps_its_counts() {
    let body = "(call $block (call $after (i64.const 60000000000))) unreachable";
    let report = run(
        tool(SLEEP, body),
        with_limits(|limits| limits.time = Span::from_millis(50)),
    )
    .await;
    assert_eq!(report.metering.host_calls, 2);
    let error = error(report);
    assert_eq!(error.code, CallErrorCode::Timeout);
    assert!(
        error.message.contains("50ms") && error.message.contains("`time`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_spinning_call_ends_at_its_wall_time_too() {
    let report = run(
        tool("", SPIN),
        with_limits(|limits| limits.time = Span::from_millis(30)),
    )
    .await;
    assert_eq!(error(report).code, CallErrorCode::Timeout);
}

#[tokio::test]
async fn an_earlier_deadline_of_whoever_calls_holds_and_is_named() {
    let sandbox = sandbox();
    let component = load(&sandbox, tool("", SPIN)).await;
    for (set_by, owner) in [
        (SetBy::TurnBudget, DeadlineOwner::TurnBudget),
        (SetBy::Client, DeadlineOwner::Client),
        (SetBy::Caller("outer".parse().unwrap()), DeadlineOwner::Caller),
    ] {
        let mut call = call("t", "{}");
        call.deadline = Some(Deadline::after(Instant::now(), Span::from_millis(20), set_by));
        let report = sandbox
            .call(&component, call, Arc::new(authority()), Ports::denied())
            .await;
        let error = error(report);
        assert_eq!(
            (error.code, error.deadline),
            (CallErrorCode::Timeout, Some(owner)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_later_deadline_of_whoever_calls_leaves_the_calls_own_limit() {
    let sandbox = sandbox();
    let component = load(&sandbox, tool("", SPIN)).await;
    let mut call = call("t", "{}");
    call.deadline = Some(Deadline::after(
        Instant::now(),
        Span::from_secs(3600),
        SetBy::TurnBudget,
    ));
    let short = with_limits(|limits| limits.time = Span::from_millis(20));
    let report = sandbox.call(&component, call, Arc::new(short), Ports::denied()).await;
    assert_eq!(error(report).deadline, Some(DeadlineOwner::TimeLimit));
}

#[tokio::test]
async fn a_call_whose_time_was_over_before_it_came_does_not_run() {
    let sandbox = sandbox();
    let component = load(&sandbox, tool("", ECHO)).await;
    let mut call = call("t", "{}");
    call.deadline = Some(Deadline::after(Instant::now(), Span::from_millis(0), SetBy::TurnBudget));
    let report = sandbox
        .call(&component, call, Arc::new(authority()), Ports::denied())
        .await;
    assert_eq!(report.metering.memory_peak, 0, "nothing ran");
    assert_eq!(error(report).deadline, Some(DeadlineOwner::TurnBudget));
}

fn drain(allowed: Span) -> Deadline {
    let component = "github".parse().unwrap();
    let gone = Gone::Replaced;
    Deadline::after(Instant::now(), allowed, SetBy::Drain { component, gone })
}

/// Sends when the guest says something: it runs.
struct Says(UnboundedSender<()>);

impl Observer for Says {
    fn progress(&self, _: &str, _: Option<f32>) {}
    fn output(&self, _: Channel<'_>, _: &str) {
        let _ = self.0.send(());
    }
}

/// A guest that says that it runs, and then spins.
fn says_and_spins() -> Vec<u8> {
    let body = "(call $emit (i32.const 32) (i32.const 4) (i32.const 32) (i32.const 4))";
    tool(EMIT, &format!("{body} {SPIN}"))
}

#[tokio::test]
async fn a_call_that_is_recalled_ends_when_the_time_it_still_has_is_over() {
    let sandbox = sandbox();
    let component = load(&sandbox, says_and_spins()).await;
    let (recaller, recall) = recall();
    let (says, mut runs) = unbounded_channel();
    let ports = Ports {
        observer: Arc::new(Says(says)),
        ..Ports::denied()
    };
    let mut call = call("t", "{}");
    call.recall = recall;
    let calling = sandbox.call(&component, call, Arc::new(authority()), ports);
    let recalling = async {
        runs.recv().await.unwrap();
        // Called off again before it was over, then set anew.
        recaller.set(Some(drain(Span::from_secs(3600))));
        recaller.set(None);
        recaller.set(Some(drain(Span::from_millis(10))));
    };
    let (report, ()) = tokio::join!(calling, recalling);
    assert!(report.metering.memory_peak > 0, "its counts are kept");
    let error = error(report);
    assert_eq!(
        (error.code, error.deadline),
        (CallErrorCode::Interrupted, Some(DeadlineOwner::Drain)),
        "{error}"
    );
}

#[tokio::test]
async fn a_recall_that_is_later_than_the_calls_own_limit_changes_nothing() {
    let sandbox = sandbox();
    let component = load(&sandbox, tool("", SPIN)).await;
    let (recaller, recall) = recall();
    recaller.set(Some(drain(Span::from_secs(3600))));
    // Who recalls may be gone: what was set stays.
    drop(recaller);
    let mut call = call("t", "{}");
    call.recall = recall;
    let short = with_limits(|limits| limits.time = Span::from_millis(20));
    let report = sandbox.call(&component, call, Arc::new(short), Ports::denied()).await;
    assert_eq!(error(report).deadline, Some(DeadlineOwner::TimeLimit));
}

#[tokio::test]
async fn a_call_that_waits_for_its_slot_is_recalled_as_well() {
    let sandbox = Sandbox::new(&SandboxConfig {
        max_concurrent_calls: 1,
        ..SandboxConfig::new().unwrap()
    })
    .unwrap();
    let component = load(&sandbox, says_and_spins()).await;
    let (says, mut runs) = unbounded_channel();
    let ports = Ports {
        observer: Arc::new(Says(says)),
        ..Ports::denied()
    };
    let holding = sandbox.call(&component, call("t", "{}"), Arc::new(authority()), ports);
    let waiting = async {
        runs.recv().await.unwrap();
        let (recaller, recall) = recall();
        let mut call = call("t", "{}");
        call.recall = recall;
        let waiting = sandbox.call(&component, call, Arc::new(authority()), Ports::denied());
        let recalling = async { recaller.set(Some(drain(Span::from_millis(0)))) };
        tokio::join!(waiting, recalling).0
    };
    let report = tokio::select! {
        held = holding => panic!("{held:?}"),
        report = waiting => report,
    };
    assert_eq!(error(report).deadline, Some(DeadlineOwner::Drain));
}

#[tokio::test]
async fn memory_beyond_the_limit_is_refused_to_the_guest_which_may_cope() {
    // 1 page + 1000 pages is more than 8 MiB: grow returns -1.
    let body = "(if (i32.ne (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable))
                (call $text (i32.const 0) (i32.const 0))";
    assert!(run(tool("", body), authority()).await.result.is_ok());
}

#[tokio::test]
async fn a_guest_that_aborts_for_want_of_memory_is_a_memory_trap() {
    let body = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable";
    let report = run(tool("", body), authority()).await;
    assert!(report.metering.memory_peak <= 8 << 20, "{:?}", report.metering);
    let error = error(report);
    assert_eq!(error.trap, Some(TrapKind::Memory));
    assert!(
        error.message.contains("8MiB") && error.message.contains("`memory`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_component_whose_memory_is_too_large_from_the_start_is_a_memory_trap() {
    let report = run(tool("", ECHO), with_limits(|limits| limits.memory = ByteSize(1000))).await;
    assert_eq!(error(report).trap, Some(TrapKind::Memory));
}

#[tokio::test]
async fn touching_memory_out_of_bounds_is_a_memory_trap() {
    let report = run(tool("", "(i32.load (i32.const -8))"), authority()).await;
    assert_eq!(error(report).trap, Some(TrapKind::Memory));
}

#[tokio::test]
async fn nesting_without_end_is_a_stack_trap() {
    let module = ";;; (func $deeper (param i32) (result i32) (i32.add (i32.const 1) (call $deeper (local.get 0))))";
    let report = run(tool(module, "(call $deeper (i32.const 0))"), authority()).await;
    assert_eq!(error(report).trap, Some(TrapKind::Stack));
}

#[tokio::test]
async fn a_bad_indirect_call_is_a_table_trap() {
    let module = ";;; (table $table 1 funcref) (type $nothing (func (result i32)))";
    let report = run(
        tool(module, "(call_indirect $table (type $nothing) (i32.const 7))"),
        authority(),
    )
    .await;
    assert_eq!(error(report).trap, Some(TrapKind::Table));
}

#[tokio::test]
async fn a_table_beyond_the_limit_is_a_table_trap() {
    let module = ";;; (table $table 1 funcref)";
    let body = "(loop $more (br_if $more (i32.ne (table.grow $table (ref.null func) (i32.const 10)) (i32.const -1)))) unreachable";
    let report = run(tool(module, body), with_limits(|limits| limits.tables = 100)).await;
    assert_eq!(error(report).trap, Some(TrapKind::Table));
}

#[tokio::test]
async fn a_component_of_too_many_core_instances_is_not_run() {
    let report = run(tool("", ECHO), with_limits(|limits| limits.instances = 0)).await;
    let error = error(report);
    assert_eq!(error.code, CallErrorCode::Trapped);
    assert!(error.message.contains("core instances"), "{error}");
    assert!(
        error
            .message
            .contains("raise `instances` in `[limits]` of the manifest and the grant"),
        "{error}"
    );
}

#[tokio::test]
async fn a_component_of_more_core_instances_than_the_hosts_ceiling_is_the_operators_matter() {
    let limited = |instances| Limits {
        instances,
        ..Limits::default_ceilings()
    };
    let sandbox = |instances| {
        let ceilings = limited(instances);
        Sandbox::new(&SandboxConfig {
            ceilings,
            ..SandboxConfig::new().unwrap()
        })
        .unwrap()
    };
    let low = sandbox(1);
    let of_operator = |message: &str| {
        let said = "2 core instances, more than its limit of 1, which is the host's ceiling";
        assert!(
            message.contains(said) && message.contains("`[limits.ceiling]`"),
            "{message}"
        );
        assert!(!message.contains("manifest"), "{message}");
    };
    let two = r#"(core module $m (func (export "f"))) (core instance $a (instantiate $m)) (core instance $b (instantiate $m))"#;
    // Nothing of a plain component runs before it is called.
    let plain = format!("(component {two} (func (export \"f\") (canon lift (core func $a \"f\"))))");
    let component = load(&low, wat::parse_str(plain).unwrap()).await;
    let with_ceiling = Authority {
        limits: limited(1),
        ..authority()
    };
    let report = low
        .call(&component, call("f", "{}"), Arc::new(with_ceiling), Ports::denied())
        .await;
    of_operator(&error(report).message);
    let wasm = tool("", ECHO);
    let digest = Digest::of(&wasm);
    let refused = sandbox(0).load(wasm, digest).await.unwrap_err().to_string();
    assert!(
        refused.contains("core instances") && refused.contains("`[limits.ceiling]`"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_panic_is_an_unreachable_trap_without_a_backtrace_in_the_message() {
    let error = error(run(tool("", "unreachable"), authority()).await);
    assert_eq!(error.trap, Some(TrapKind::Unreachable));
    assert!(
        !error.message.contains("0x") && !error.message.contains("wasm!"),
        "{error}"
    );
}

#[tokio::test]
async fn an_exit_is_a_trap_that_says_so() {
    let module = r#"(import "wasi:cli/exit@0.2.12" "exit" (func $exit (param i32)))"#;
    let error = error(run(tool(module, "(call $exit (i32.const 0)) unreachable"), authority()).await);
    assert_eq!(error.trap, Some(TrapKind::Unreachable));
    assert!(error.message.contains("exit code 0"), "{error}");
}

#[tokio::test]
async fn host_calls_beyond_the_limit_are_a_host_calls_trap_whichever_interface_they_are_of() {
    let body = "(loop $forever (drop (call $now)) (br $forever)) unreachable";
    let report = run(tool(NOW, body), with_limits(|limits| limits.host_calls = 100)).await;
    assert_eq!(report.metering.host_calls, 101);
    let error = error(report);
    assert_eq!(error.trap, Some(TrapKind::HostCalls));
    assert!(
        error.message.contains("100") && error.message.contains("`host_calls`"),
        "{error}"
    );
}

#[tokio::test]
async fn the_clock_that_interrupts_a_guest_is_no_host_call_of_its() {
    let report = run(tool("", SPIN), with_limits(|limits| limits.cpu = Span::from_millis(50))).await;
    assert_eq!(report.metering.host_calls, 0, "{:?}", report.metering);
}

#[tokio::test]
async fn streamed_output_beyond_the_limit_is_an_output_trap() {
    let body = "(loop $forever (call $emit (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1000)) (br $forever)) unreachable";
    let report = run(tool(EMIT, body), with_limits(|limits| limits.stdout = ByteSize(10_500))).await;
    let error = error(report);
    assert_eq!(error.trap, Some(TrapKind::Output));
    assert!(error.message.contains("`stdout`"), "{error}");
}

#[tokio::test]
async fn a_result_beyond_the_limit_is_too_large() {
    // Nothing was written there: zero bytes, which are text.
    let body = "(call $text (i32.const 34000) (i32.const 30000))";
    let report = run(tool("", body), with_limits(|limits| limits.output = ByteSize(20_000))).await;
    let error = error(report);
    assert_eq!(error.code, CallErrorCode::OutputTooLarge);
    assert!(error.message.contains("`output`"), "{error}");
}

#[tokio::test]
async fn a_result_beyond_what_the_host_copies_is_too_large() {
    let authority = with_limits(|limits| limits.memory = ByteSize::mib(64));
    let grow = "(drop (memory.grow (i32.const 400)))";
    let report = run(
        tool(
            "",
            &format!("{grow} (call $text (i32.const 0) (i32.const {}))", 9 << 20),
        ),
        authority,
    )
    .await;
    assert_eq!(error(report).code, CallErrorCode::OutputTooLarge);
}

#[tokio::test]
async fn a_result_that_claims_to_be_json_and_is_not_fails_the_call() {
    let error = error(run(tool("", "(call $json (i32.const 0) (i32.const 4))"), authority()).await);
    assert_eq!(error.code, CallErrorCode::Failed);
}

#[tokio::test]
async fn a_result_that_points_outside_of_memory_is_a_trap() {
    let report = run(
        tool("", "(call $text (i32.const 1000) (i32.const 99999999))"),
        authority(),
    )
    .await;
    assert_eq!(error(report).code, CallErrorCode::Trapped);
}

/// Remembers what it hears.
#[derive(Default)]
struct Heard(Mutex<Vec<(String, String)>>);

impl Observer for Heard {
    fn progress(&self, message: &str, fraction: Option<f32>) {
        self.0
            .lock()
            .unwrap()
            .push(("progress".into(), format!("{message} {fraction:?}")));
    }
    fn output(&self, channel: Channel<'_>, chunk: &str) {
        let Channel::Named(channel) = channel else { return };
        self.0.lock().unwrap().push((channel.into(), chunk.into()));
    }
}

#[tokio::test]
async fn progress_and_channels_are_heard_while_the_call_runs() {
    let module = format!(
        r#"{EMIT} (import "fumehood:tool/progress@0.1.0" "report" (func $report (param i32 i32 i32 f32)))
        ;;; (data (i32.const 20000) "halfBAD-CHANNEL")"#
    );
    let body = "(call $report (i32.const 20000) (i32.const 4) (i32.const 1) (f32.const 7))
                (call $emit (i32.const 20004) (i32.const 11) (i32.const 20000) (i32.const 4))
                (call $text (i32.const 0) (i32.const 0))";
    let heard = Arc::new(Heard::default());
    let ports = Ports {
        observer: heard.clone(),
        ..Ports::denied()
    };
    assert!(run_with(tool(&module, body), authority(), ports).await.result.is_ok());
    let heard = heard.0.lock().unwrap();
    assert_eq!(
        *heard,
        [
            ("progress".to_owned(), "half Some(1.0)".to_owned()),
            ("output".to_owned(), "half".to_owned())
        ]
    );
}

#[tokio::test]
async fn nothing_of_one_call_is_left_for_the_next() {
    // Writes a mark where nothing is, and returns what was there before.
    let body = "(call $text (i32.const 24000) (i32.const 1)) (i32.store8 (i32.const 24001) (i32.const 1))
                (i32.store8 (i32.const 24000) (i32.add (i32.load8_u (i32.const 24000)) (i32.const 65)))";
    let sandbox = sandbox();
    let component = load(&sandbox, tool("", body)).await;
    for _ in 0..3 {
        let report = sandbox
            .call(&component, call("t", "{}"), Arc::new(authority()), Ports::denied())
            .await;
        let text = fumehood_core::content::plain_text(&report.result.unwrap().content);
        assert_eq!(text, "A");
    }
}
