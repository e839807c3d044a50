//! Hooks: components that are asked, and are no tools.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod support;

use fumehood_core::{
    call::CallErrorCode,
    digest::Digest,
    hook::{HookMode, HookPoint},
    id::CallId,
};
use fumehood_policy::quantity::Span;
use fumehood_sandbox::{
    CacheKey, CallReport, ComponentKind, LoadError, Occasion, Question, Recall, Sandbox, SandboxConfig, ShareKey,
    ports::Ports,
};
use serde_json::json;
use std::sync::Arc;
use support::{call, encode, load, sandbox, with_limits};

/// A hook with this body; what it returns lies at 16, and `about` begins at the address in the local 14.
fn hook(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (memory (export "memory") 4)
            (global $next (mut i32) (i32.const 65536))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
                (local.set $at (global.get $next))
                (global.set $next (i32.and (i32.add (i32.add (global.get $next) (local.get 3)) (i32.const 15)) (i32.const -16)))
                (local.get $at))
            (func (export "fumehood:tool/hooks@0.1.0#decide")
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32) (result i32)
                {body}
                (i32.const 16)))"#
    );
    encode(&text, "hook")
}

/// Denies with what it was asked about.
const ECHO: &str = "(i32.store8 (i32.const 24) (i32.const 1)) (i32.store (i32.const 28) (local.get 14)) \
                    (i32.store (i32.const 32) (local.get 15))";

fn question() -> Question {
    Question {
        id: CallId::new(),
        occasion: Occasion {
            id: "hook_1".into(),
            point: HookPoint::BeforeToolCall,
            mode: HookMode::Guard,
            hook: "guard".into(),
            agent: "assistant".into(),
            session: "ses_1".into(),
            turn: None,
            about: r#"{"n":1}"#.into(),
        },
        share: ShareKey::default(),
        nested: false,
        recall: Recall::never(),
    }
}

/// With more time than it needs, whatever else the machine does.
async fn ask(sandbox: &Sandbox, wasm: Vec<u8>) -> CallReport {
    ask_for(sandbox, wasm, Span::from_secs(60)).await
}

async fn ask_for(sandbox: &Sandbox, wasm: Vec<u8>, time: Span) -> CallReport {
    let component = load(sandbox, wasm).await;
    let authority = with_limits(|limits| limits.time = time);
    sandbox
        .ask(&component, question(), Arc::new(authority), Ports::denied())
        .await
}

#[tokio::test]
async fn a_hook_is_asked_and_its_answer_is_in_the_form_of_a_webhook() {
    let sandbox = sandbox();
    let allowed = ask(&sandbox, hook("")).await.result.unwrap();
    assert_eq!(allowed.structured, Some(json!({"decision": "allow"})));
    let denied = ask(&sandbox, hook(ECHO)).await.result.unwrap();
    assert_eq!(
        denied.structured,
        Some(json!({"decision": "deny", "reason": "{\"n\":1}"}))
    );
    let changes = ECHO.replacen("(i32.const 1)", "(i32.const 2)", 1);
    let changed = ask(&sandbox, hook(&changes)).await.result.unwrap();
    assert_eq!(
        changed.structured,
        Some(json!({"decision": "allow", "arguments": {"n": 1}}))
    );
}

#[tokio::test]
async fn a_hook_that_spins_is_stopped_and_one_that_traps_is_told() {
    let sandbox = sandbox();
    let forever = hook("(loop $forever (br $forever))");
    let spun = ask_for(&sandbox, forever, Span::from_millis(500)).await;
    assert_eq!(spun.result.unwrap_err().code, CallErrorCode::Timeout);
    let trapped = ask(&sandbox, hook("unreachable")).await;
    assert_eq!(trapped.result.unwrap_err().code, CallErrorCode::Trapped);
}

#[tokio::test]
async fn a_hook_has_no_tools_and_a_tool_is_no_hook() {
    let sandbox = sandbox();
    let component = load(&sandbox, hook("")).await;
    assert_eq!(component.kind(), ComponentKind::Hook);
    assert!(component.tools().is_empty());
    let authority = Arc::new(support::authority());
    let called = sandbox
        .call(
            &component,
            call("decide", "{}"),
            Arc::clone(&authority),
            Ports::denied(),
        )
        .await;
    assert_eq!(called.result.unwrap_err().code, CallErrorCode::ToolNotFound);

    let tool = load(&sandbox, support::guest("clock")).await;
    let asked = sandbox.ask(&tool, question(), authority, Ports::denied()).await;
    let error = asked.result.unwrap_err();
    assert!(error.message.contains("no hook"), "{error}");
}

#[tokio::test]
async fn a_hook_of_another_shape_is_refused_at_install() {
    let other = r#"(component
        (core module $code (func (export "decide") (result i32) i32.const 1))
        (core instance $running (instantiate $code))
        (func $decide (result u32) (canon lift (core func $running "decide")))
        (instance $hooks (export "decide" (func $decide)))
        (export "fumehood:tool/hooks@0.1.0" (instance $hooks)))"#;
    let wasm = wat::parse_str(other).unwrap();
    let digest = Digest::of(&wasm);
    let refused = sandbox().load(wasm, digest).await.unwrap_err();
    assert!(matches!(refused, LoadError::HookMismatch(_)), "{refused}");
}

#[tokio::test]
async fn a_hook_comes_out_of_the_cache_as_a_hook() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = hook(ECHO);
    let digest = Digest::of(&wasm);
    let made = || {
        Sandbox::new(&SandboxConfig {
            cache_dir: Some(dir.path().to_owned()),
            cache_key: CacheKey::new([7; 32]),
            ..SandboxConfig::new().unwrap()
        })
        .unwrap()
    };
    load(&made(), wasm).await;
    // The file is written beside the work.
    let component = loop {
        match made().load_cached(digest).await {
            Some(component) => break component,
            None => tokio::task::yield_now().await,
        }
    };
    assert_eq!(component.kind(), ComponentKind::Hook);
}
