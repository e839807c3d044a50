//! What is refused at install, with words that say what to do; and the cache of compiled code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use fumehood_core::digest::Digest;
use fumehood_policy::{limits::Limits, quantity::ByteSize};
use fumehood_sandbox::{CacheKey, ComponentKind, LoadError, Sandbox, SandboxConfig, ShareKey, ports::Ports};
use std::{path::Path, sync::Arc};
use support::{Definition, ECHO, SPIN, TOOL, authority, call, load, sandbox, tool, tool_defined_as};

async fn refused(wasm: Vec<u8>) -> LoadError {
    let digest = Digest::of(&wasm);
    sandbox()
        .load(wasm, digest)
        .await
        .expect_err("should have been refused")
}

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn a_tool_component_shows_its_tools() {
    let sandbox = sandbox();
    let component = load(&sandbox, tool("", ECHO)).await;
    assert_eq!(component.kind(), ComponentKind::FumehoodTool);
    assert_eq!(component.tools().len(), 1);
    assert_eq!(component.tools()[0].name.as_str(), "t");
    assert_eq!(component.tools()[0].description, TOOL.description);
    assert_eq!(component.manifest(), None);
}

#[tokio::test]
async fn bytes_of_another_digest_are_refused() {
    let error = sandbox().load(tool("", ECHO), Digest::of(b"other")).await.unwrap_err();
    assert!(matches!(error, LoadError::WrongDigest { .. }), "{error}");
}

#[tokio::test]
async fn text_a_core_module_and_a_stump_are_told_apart() {
    assert_eq!(refused(b"hello".to_vec()).await, LoadError::NotWasm);
    assert_eq!(refused(component("(module)")).await, LoadError::CoreModule);
    let whole = tool("", ECHO);
    let error = refused(whole[..whole.len() / 2].to_vec()).await;
    assert!(matches!(error, LoadError::Malformed(_)), "{error}");
}

#[tokio::test]
async fn a_component_larger_than_the_host_takes_is_refused() {
    let sandbox = Sandbox::new(&SandboxConfig {
        max_component_size: 10,
        ..SandboxConfig::new().unwrap()
    })
    .unwrap();
    let wasm = tool("", ECHO);
    let digest = Digest::of(&wasm);
    let error = sandbox.load(wasm, digest).await.unwrap_err();
    assert!(matches!(error, LoadError::TooLarge { limit: 10, .. }), "{error}");
}

#[tokio::test]
async fn unknown_imports_are_named() {
    let error = refused(component(
        r#"(component (import "acme:rocket/launch@1.0.0" (instance (export "go" (func)))) (import "fire" (func)))"#,
    ))
    .await;
    let message = error.to_string();
    assert!(
        message.contains("acme:rocket/launch@1.0.0") && message.contains("fire"),
        "{message}"
    );
}

#[tokio::test]
async fn a_known_import_of_another_shape_is_refused() {
    let error = refused(component(
        r#"(component (import "wasi:random/random@0.2.0" (instance (export "get-random-u64" (func (result string))))))"#,
    ))
    .await;
    assert!(matches!(error, LoadError::ImportMismatch(_)), "{error}");
}

#[tokio::test]
async fn a_component_that_exports_nothing_is_refused() {
    assert_eq!(refused(component("(component)")).await, LoadError::NoTools);
}

#[tokio::test]
async fn definitions_that_break_a_rule_are_refused() {
    let of = |definition: Definition| tool_defined_as(&[definition], "", ECHO);
    let error = refused(of(Definition {
        name: "Bad-Name",
        ..TOOL
    }))
    .await;
    assert!(matches!(error, LoadError::ToolName(_)), "{error}");
    let error = refused(of(Definition {
        input_schema: "[]",
        ..TOOL
    }))
    .await;
    assert!(matches!(error, LoadError::Schema { .. }), "{error}");
    let error = refused(tool_defined_as(&[TOOL, TOOL], "", ECHO)).await;
    assert_eq!(error, LoadError::DuplicateTool("t".into()));
    assert_eq!(refused(tool_defined_as(&[], "", ECHO)).await, LoadError::NoTools);
}

#[tokio::test]
async fn a_component_that_traps_while_it_starts_is_refused() {
    let error = refused(tool(";;; (func $start unreachable) (start $start)", ECHO)).await;
    assert!(matches!(error, LoadError::DefinitionsFailed(_)), "{error}");
}

#[tokio::test]
async fn a_component_that_spins_while_it_starts_is_refused() {
    let error = refused(tool(";;; (func $start (loop $l (br $l))) (start $start)", ECHO)).await;
    assert!(error.to_string().contains("cpu"), "{error}");
}

fn cached(dir: &Path, key: u8) -> Sandbox {
    Sandbox::new(&SandboxConfig {
        cache_dir: Some(dir.to_owned()),
        cache_key: CacheKey::new([key; 32]),
        max_concurrent_calls: 8,
        ..SandboxConfig::new().unwrap()
    })
    .unwrap()
}

/// Loads into the cache and waits until the file is there.
async fn fill(dir: &Path, key: u8, wasm: &[u8]) -> std::path::PathBuf {
    let sandbox = cached(dir, key);
    load(&sandbox, wasm.to_vec()).await;
    loop {
        let found = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        if let Some(path) = found
            .into_iter()
            .find(|path| path.extension().is_some_and(|e| e == "aot"))
        {
            return path;
        }
        tokio::task::yield_now().await;
    }
}

async fn echoes(sandbox: &Sandbox, component: &fumehood_sandbox::Component) -> bool {
    let report = sandbox
        .call(component, call("t", "{}"), Arc::new(authority()), Ports::denied())
        .await;
    report.result.is_ok()
}

#[tokio::test]
async fn a_warm_start_needs_no_wasm_and_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = tool("", ECHO);
    fill(dir.path(), 1, &wasm).await;
    let sandbox = cached(dir.path(), 1);
    let component = sandbox.load_cached(Digest::of(&wasm)).await.unwrap();
    assert_eq!(component.tools()[0].name.as_str(), "t");
    assert!(echoes(&sandbox, &component).await);
}

#[tokio::test]
async fn what_is_not_kept_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    assert!(cached(dir.path(), 1).load_cached(Digest::of(b"x")).await.is_none());
    assert!(sandbox().load_cached(Digest::of(b"x")).await.is_none());
}

// T-box-cache-tamper
#[tokio::test]
async fn kept_code_that_was_changed_anywhere_is_compiled_anew_and_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = tool("", ECHO);
    let path = fill(dir.path(), 1, &wasm).await;
    let good = std::fs::read(&path).unwrap();
    for at in [0, 10, 42, 60, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let sandbox = cached(dir.path(), 1);
        assert!(sandbox.load_cached(Digest::of(&wasm)).await.is_none(), "byte {at}");
        let component = load(&sandbox, wasm.clone()).await;
        assert!(echoes(&sandbox, &component).await);
        while std::fs::read(&path).unwrap() == bad {
            tokio::task::yield_now().await;
        }
    }
}

// T-box-cache-tamper
#[tokio::test]
async fn code_that_is_in_use_stays_as_it_was_whatever_becomes_of_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = tool("", ECHO);
    let path = fill(dir.path(), 1, &wasm).await;
    let sandbox = cached(dir.path(), 1);
    let component = sandbox.load_cached(Digest::of(&wasm)).await.unwrap();
    let good = std::fs::read(&path).unwrap();
    // In place, as somebody would who knows that it is looked at once.
    for bytes in [vec![0xcc; good.len()], Vec::new()] {
        std::fs::write(&path, bytes).unwrap();
        assert!(echoes(&sandbox, &component).await);
    }
    std::fs::remove_file(&path).unwrap();
    assert!(echoes(&sandbox, &component).await);
}

#[tokio::test]
async fn kept_code_that_is_cut_off_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = tool("", ECHO);
    let path = fill(dir.path(), 1, &wasm).await;
    let good = std::fs::read(&path).unwrap();
    for len in [0, 7, 39, 43, 100, good.len() - 1] {
        std::fs::write(&path, &good[..len]).unwrap();
        assert!(
            cached(dir.path(), 1).load_cached(Digest::of(&wasm)).await.is_none(),
            "{len} bytes"
        );
    }
}

#[tokio::test]
async fn kept_code_of_another_host_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = tool("", ECHO);
    fill(dir.path(), 1, &wasm).await;
    assert!(cached(dir.path(), 2).load_cached(Digest::of(&wasm)).await.is_none());
}

#[tokio::test]
async fn kept_code_under_the_name_of_another_component_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (wasm, other) = (tool("", ECHO), tool("", SPIN));
    let path = fill(dir.path(), 1, &wasm).await;
    let name = path.file_name().unwrap().to_str().unwrap();
    let renamed = name.replace(&Digest::of(&wasm).to_hex(), &Digest::of(&other).to_hex());
    std::fs::copy(&path, path.with_file_name(renamed)).unwrap();
    assert!(cached(dir.path(), 1).load_cached(Digest::of(&other)).await.is_none());
}

#[cfg(unix)]
#[tokio::test]
async fn kept_code_is_readable_by_its_host_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = fill(dir.path(), 1, &tool("", ECHO)).await;
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn loads_of_one_component_at_the_same_time_share_the_result() {
    let sandbox = sandbox();
    let wasm = tool("", ECHO);
    let (a, b) = tokio::join!(load(&sandbox, wasm.clone()), load(&sandbox, wasm));
    assert!(std::ptr::eq(a.tools(), b.tools()), "compiled twice");
}

#[tokio::test]
async fn a_component_that_everybody_let_go_of_can_be_loaded_again() {
    let sandbox = sandbox();
    let wasm = tool("", ECHO);
    drop(load(&sandbox, wasm.clone()).await);
    let component = load(&sandbox, wasm).await;
    assert!(echoes(&sandbox, &component).await);
}

#[tokio::test]
async fn only_so_many_installs_of_an_org_go_on_at_once() {
    let sandbox = sandbox();
    let (one, other) = (ShareKey::of("one"), ShareKey::of("other"));
    let mut held: Vec<_> = (0..5).map(|_| sandbox.begin_install(one).unwrap()).collect();
    assert_eq!(sandbox.begin_install(one).err(), Some(LoadError::Busy));
    assert!(sandbox.begin_install(other).is_ok());
    held.pop();
    assert!(sandbox.begin_install(one).is_ok());
}

#[tokio::test]
async fn what_runs_at_install_keeps_to_the_operators_ceilings() {
    let sandbox = Sandbox::new(&SandboxConfig {
        max_concurrent_calls: 4,
        ceilings: Limits {
            memory: ByteSize(1 << 16),
            ..Limits::default_ceilings()
        },
        ..SandboxConfig::new().unwrap()
    })
    .unwrap();
    load(&sandbox, tool("", ECHO)).await;
    // A page more than there may be, from the start.
    let wasm = tool(
        ";;; (func $start (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))) (start $start)",
        ECHO,
    );
    let error = sandbox.load(wasm.clone(), Digest::of(&wasm)).await.unwrap_err();
    assert!(error.to_string().contains("`memory`"), "{error}");
}

/// A component with one plain function, and so much memory from its start.
fn plain(pages: u32) -> Vec<u8> {
    component(&format!(
        r#"(component
  (core module $m (memory {pages}) (func (export "f")))
  (core instance $i (instantiate $m))
  (func (export "nothing") (canon lift (core func $i "f"))))"#
    ))
}

#[tokio::test]
async fn what_has_no_definitions_is_started_with_all_that_a_call_can_have() {
    let roomy = sandbox();
    let component = load(&roomy, plain(1100)).await;
    let start = roomy.start(&component).await.unwrap();
    assert_eq!(start.memory, 1100 << 16, "more than `definitions` could have");
}

#[tokio::test]
async fn what_has_no_definitions_and_no_room_to_start_is_told_so() {
    let narrow = Sandbox::new(&SandboxConfig {
        max_concurrent_calls: 4,
        ceilings: Limits {
            memory: ByteSize::mib(8),
            ..Limits::default_ceilings()
        },
        ..SandboxConfig::new().unwrap()
    })
    .unwrap();
    let component = load(&narrow, plain(129)).await;
    let error = narrow.start(&component).await.unwrap_err();
    assert!(matches!(error, LoadError::InstanceFailed(_)), "{error}");
    let said = error.to_string();
    let decided = "its limit of 8MiB, which is the host's ceiling";
    let raised = "raise `memory` in `[limits.ceiling]` of fumehood.toml";
    assert!(said.contains(decided) && said.contains(raised), "{said}");
    assert!(!said.contains("manifest"), "{said}");
}
