//! A busy guest shares its thread, and a call that nobody waits for any more is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use async_trait::async_trait;
use fumehood_core::call::{Arguments, CallError, CallErrorCode, CallResult, Output, TrapKind};
use fumehood_core::{content::plain_text, name::ToolName};
use fumehood_policy::{
    quantity::{ByteSize, Span},
    tool_pattern::ToolFilter,
};
use fumehood_sandbox::{
    Call, Sandbox, SandboxConfig, ShareKey,
    ports::{Peers, Ports},
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use support::{ECHO, PATIENCE, SPIN, authority, call, error, load, sandbox, tool, with_limits};
use tokio::{sync::Notify, task::JoinSet};

/// Starts guests that spin until they are stopped, and waits until each runs.
async fn spinning(sandbox: &Sandbox, count: usize) -> JoinSet<()> {
    let component = load(sandbox, tool("", SPIN)).await;
    let authority = Arc::new(with_limits(|limits| limits.time = Span::from_secs(600)));
    let mut guests = JoinSet::new();
    for _ in 0..count {
        let (sandbox, component, authority) = (sandbox.clone(), component.clone(), Arc::clone(&authority));
        guests.spawn(async move {
            sandbox
                .call(&component, call("t", "{}"), authority, Ports::denied())
                .await;
        });
    }
    guests
}

async fn a_heartbeat_beats() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn spinning_guests_leave_the_only_thread_to_others() {
    let sandbox = sandbox();
    let _guests = spinning(&sandbox, 3).await;
    // With a guest that blocks the thread this never ends.
    tokio::time::timeout(PATIENCE, a_heartbeat_beats()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_spinning_guests_than_threads_leave_room_for_other_calls() {
    let sandbox = sandbox();
    let _guests = spinning(&sandbox, 6).await;
    let component = load(&sandbox, tool("", ECHO)).await;
    for _ in 0..5 {
        let report = sandbox
            .call(&component, call("t", "{}"), Arc::new(authority()), Ports::denied())
            .await;
        assert!(report.result.is_ok(), "{report:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn dropping_a_call_stops_a_guest_that_spins_and_frees_its_slot() {
    let sandbox = Sandbox::new(&SandboxConfig {
        max_concurrent_calls: 1,
        ..SandboxConfig::new().unwrap()
    })
    .unwrap();
    let component = load(&sandbox, tool("", ECHO)).await;
    let mut guests = spinning(&sandbox, 1).await;
    a_heartbeat_beats().await;
    assert!(format!("{sandbox:?}").contains("free_slots: 0"), "{sandbox:?}");
    guests.shutdown().await;
    assert!(format!("{sandbox:?}").contains("free_slots: 1"), "{sandbox:?}");
    let report = sandbox
        .call(&component, call("t", "{}"), Arc::new(authority()), Ports::denied())
        .await;
    assert!(report.result.is_ok(), "{report:?}");
}

/// Waits until it is dropped, and says so.
#[derive(Clone, Default)]
struct Endless {
    entered: Arc<Notify>,
    dropped: Arc<Notify>,
}

#[async_trait]
impl Peers for Endless {
    fn may_call(&self, _: &ToolName) -> Result<(), CallError> {
        Ok(())
    }

    async fn call(&self, _: &ToolName, _: Arguments) -> CallResult {
        struct OnDrop(Arc<Notify>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }
        let _on_drop = OnDrop(Arc::clone(&self.dropped));
        self.entered.notify_one();
        std::future::pending::<()>().await;
        Ok(Output::default())
    }
}

/// Calls the peer `t` with `{}`.
fn caller() -> Vec<u8> {
    let module = r#"(import "fumehood:tool/peers@0.1.0" "call" (func $peer (param i32 i32 i32 i32 i32)))
        ;;; (data (i32.const 20000) "t{}")"#;
    let body = "(call $peer (i32.const 20000) (i32.const 1) (i32.const 20001) (i32.const 2) (i32.const 24000))
                (call $text (i32.const 24000) (i32.const 1))";
    tool(module, body)
}

#[tokio::test(flavor = "current_thread")]
async fn dropping_a_call_drops_what_it_waits_for() {
    let sandbox = sandbox();
    let component = load(&sandbox, caller()).await;
    let peers = Endless::default();
    let ports = Ports {
        peers: Arc::new(peers.clone()),
        ..Ports::denied()
    };
    let mut authority = authority();
    authority.call_tools = ToolFilter::default();
    let mut calls = JoinSet::new();
    calls.spawn(async move {
        sandbox
            .call(&component, call("t", "{}"), Arc::new(authority), ports)
            .await
    });
    peers.entered.notified().await;
    calls.shutdown().await;
    tokio::time::timeout(PATIENCE, peers.dropped.notified()).await.unwrap();
}

#[tokio::test]
async fn a_call_that_finds_no_free_slot_in_its_time_is_unavailable() {
    let sandbox = Sandbox::new(&SandboxConfig {
        max_concurrent_calls: 1,
        ..SandboxConfig::new().unwrap()
    })
    .unwrap();
    let component = load(&sandbox, tool("", ECHO)).await;
    let _guests = spinning(&sandbox, 1).await;
    a_heartbeat_beats().await;
    let limits = with_limits(|limits| limits.time = Span::from_millis(20));
    let report = sandbox
        .call(&component, call("t", "{}"), Arc::new(limits), Ports::denied())
        .await;
    let error = error(report);
    assert_eq!(error.code, CallErrorCode::Unavailable);
    assert!(error.retry_after_ms.is_some());
}

#[tokio::test]
async fn a_nested_call_that_finds_no_slot_is_unavailable_at_once() {
    let sandbox = Sandbox::new(&SandboxConfig {
        max_concurrent_calls: 1,
        ..SandboxConfig::new().unwrap()
    })
    .unwrap();
    let component = load(&sandbox, tool("", ECHO)).await;
    let _guests = spinning(&sandbox, 1).await;
    a_heartbeat_beats().await;
    let nested = Call {
        nested: true,
        ..call("t", "{}")
    };
    // Were it to wait, it would for ten minutes.
    let limits = Arc::new(with_limits(|limits| limits.time = Span::from_secs(600)));
    let run = sandbox.call(&component, nested, limits, Ports::denied());
    let report = tokio::time::timeout(PATIENCE, run).await.unwrap();
    assert_eq!(error(report).code, CallErrorCode::Unavailable);
}

/// Has as many memories and tables as a component may, and spins.
fn greedy(memories: usize, tables: usize) -> Vec<u8> {
    let modules =
        "(core instance (instantiate $m))".repeat(memories) + &"(core instance (instantiate $t))".repeat(tables);
    wat::parse_str(format!(
        r#"(component
  (core module $m (memory 1))
  (core module $t (table 1 funcref))
  (core module $spin (func (export "t") (loop $l (br $l))))
  {modules}
  (core instance $i (instantiate $spin))
  (func (export "t") (canon lift (core func $i "t"))))"#
    ))
    .unwrap()
}

#[tokio::test]
async fn every_call_that_has_a_slot_finds_room_whatever_the_others_are_made_of() {
    let sandbox = Sandbox::new(&SandboxConfig {
        max_concurrent_calls: 4,
        ..SandboxConfig::new().unwrap()
    })
    .unwrap();
    let component = load(&sandbox, greedy(8, 16)).await;
    let authority = Arc::new(with_limits(|limits| limits.cpu = Span::from_millis(50)));
    let mut calls = JoinSet::new();
    for _ in 0..4 {
        let (sandbox, component, authority) = (sandbox.clone(), component.clone(), Arc::clone(&authority));
        calls.spawn(async move {
            sandbox
                .call(&component, call("t", "{}"), authority, Ports::denied())
                .await
        });
    }
    for report in calls.join_all().await {
        assert_eq!(error(report).trap, Some(TrapKind::Cpu));
    }
}

#[tokio::test]
async fn an_org_is_served_while_another_holds_all_the_slots_that_it_can() {
    let sandbox = sandbox();
    let component = load(&sandbox, tool("", ECHO)).await;
    let _guests = spinning(&sandbox, 200).await;
    a_heartbeat_beats().await;
    let other = Call {
        share: ShareKey::of("other"),
        ..call("t", "{}")
    };
    let run = sandbox.call(&component, other, Arc::new(authority()), Ports::denied());
    let report = tokio::time::timeout(PATIENCE, run).await.unwrap();
    assert!(report.result.is_ok(), "{report:?}");
}

#[tokio::test]
async fn a_peer_that_is_not_granted_is_denied_and_reported() {
    // The first byte of the result is 1 for an error; the second field's tag is 1 for denied.
    let report = support::run(caller(), authority()).await;
    assert_eq!(report.denials.len(), 1);
    assert!(
        report.denials[0].reason.contains("`call` under `[tools]` of the grant"),
        "{:?}",
        report.denials
    );
}

/// May call everything, and counts.
#[derive(Default)]
struct Counting(AtomicUsize);

#[async_trait]
impl Peers for Counting {
    fn may_call(&self, _: &ToolName) -> Result<(), CallError> {
        Ok(())
    }

    async fn call(&self, _: &ToolName, _: Arguments) -> CallResult {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Output::default())
    }
}

/// Calls the peer `t` with `{}` and this many spaces, and returns the case of the failure, or `-` if there is none.
fn caller_with_spaces(spaces: usize) -> Vec<u8> {
    let module = r#"(import "fumehood:tool/peers@0.1.0" "call" (func $peer (param i32 i32 i32 i32 i32)))
        ;;; (data (i32.const 20000) "t") (data (i32.const 20100) "-012345")"#;
    let body = format!(
        r#"(drop (memory.grow (i32.const 400)))
        (i32.store8 (i32.const 65536) (i32.const 123))
        (memory.fill (i32.const 65537) (i32.const 32) (i32.const {spaces}))
        (i32.store8 (i32.add (i32.const 65537) (i32.const {spaces})) (i32.const 125))
        (call $peer (i32.const 20000) (i32.const 1) (i32.const 65536) (i32.const {}) (i32.const 24000))
        (if (result i32) (i32.eqz (i32.load8_u (i32.const 24000)))
          (then (call $text (i32.const 20100) (i32.const 1)))
          (else (call $text (i32.add (i32.const 20101) (i32.load8_u (i32.const 24004))) (i32.const 1))))"#,
        spaces + 2
    );
    tool(module, &body)
}

#[tokio::test]
async fn arguments_for_a_peer_end_at_a_megabyte_before_they_are_read() {
    for (len, expected, calls) in [(1 << 20, "-", 1), ((1 << 20) + 1, "0", 0)] {
        let peers = Arc::new(Counting::default());
        let ports = Ports {
            peers: Arc::clone(&peers) as Arc<_>,
            ..Ports::denied()
        };
        let mut authority = with_limits(|limits| limits.memory = ByteSize::mib(64));
        authority.call_tools = ToolFilter::default();
        let report = support::run_with(caller_with_spaces(len - 2), authority, ports).await;
        assert_eq!(plain_text(&report.result.unwrap().content), expected);
        assert_eq!(peers.0.load(Ordering::Relaxed), calls);
    }
}

#[tokio::test]
async fn what_a_guest_hands_over_at_once_is_bounded() {
    let mut authority = with_limits(|limits| limits.memory = ByteSize::mib(64));
    authority.call_tools = ToolFilter::default();
    let error = error(support::run(caller_with_spaces(9 << 20), authority).await);
    assert_eq!(error.trap, Some(TrapKind::Memory), "{error}");
    assert!(error.message.contains("in pieces"), "{error}");
}
