//! What a call asks of its host is taken down for who explains it. Needs the guests of the tree: `cargo xtask tools`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use fumehood_files::{Quota, Tree};
use fumehood_policy::{
    authority::Authority,
    files::{Access, Files},
};
use fumehood_sandbox::{
    CacheKey, Call, HostCalls, Interface, Outcome, Sandbox, SandboxConfig, Witness,
    ports::{Ports, Workspace},
};
use std::{path::Path, sync::Arc};
use support::{authority, call, guest, load, tool};

/// What a call of the hostile component asks.
async fn asked(tool: &str, arguments: &str, authority: Authority, ports: Ports) -> HostCalls {
    asked_by(guest("hostile"), call(tool, arguments), authority, ports).await
}

async fn asked_by(wasm: Vec<u8>, call: Call, authority: Authority, ports: Ports) -> HostCalls {
    let sandbox = Sandbox::new(&SandboxConfig {
        cache_dir: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled")),
        cache_key: CacheKey::new([7; 32]),
        ..SandboxConfig::new().unwrap()
    })
    .unwrap();
    let component = load(&sandbox, wasm).await;
    let witness = Arc::new(Witness::new(|text| text.replace("hunter2", "[secret]")));
    let ports = Ports {
        witness: Some(Arc::clone(&witness)),
        ..ports
    };
    sandbox.call(&component, call, Arc::new(authority), ports).await;
    witness.take()
}

/// The rows of one interface: what was asked, what became of it, how often.
fn rows(calls: &HostCalls, interface: Interface) -> Vec<(&str, &Outcome, u64)> {
    let of = calls.rows.iter().filter(|row| row.interface == interface);
    of.map(|row| (&*row.asked, &row.outcome, row.times)).collect()
}

fn done(words: &str) -> Outcome {
    Outcome::Done(words.to_owned())
}

fn workspace(access: Access, dir: &Path) -> (Authority, Ports) {
    let root = cap_std::fs::Dir::open_ambient_dir(dir, cap_std::ambient_authority()).unwrap();
    let tree = Tree::open(root, Quota::default()).unwrap();
    let files = Files { access, paths: None };
    let ports = Ports {
        workspace: Some(Workspace { tree }),
        ..Ports::denied()
    };
    (Authority { files, ..authority() }, ports)
}

#[tokio::test]
async fn files_are_taken_down_by_the_paths_that_the_guest_knows() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "notes").unwrap();
    let (authority, ports) = workspace(Access::Read, dir.path());
    let read = asked(
        "read_file",
        r#"{"path": "/workspace/notes.txt"}"#,
        authority.clone(),
        ports.clone(),
    )
    .await;
    let opened = read.rows.iter().find(|row| row.asked == "open /workspace/notes.txt");
    assert_eq!(
        opened.and_then(|row| row.rule.as_deref()),
        Some("[files] workspace = \"read\""),
        "{read:?}"
    );
    let read = rows(&read, Interface::Files);
    let folders = done("/workspace, /tmp");
    assert!(read.contains(&("which folders there are", &folders, 1)), "{read:?}");
    assert!(
        read.contains(&("open /workspace/notes.txt", &done("done"), 1)),
        "{read:?}"
    );
    let written = asked(
        "write_file",
        r#"{"path": "/workspace/hunter2.txt", "kib": 1}"#,
        authority.clone(),
        ports.clone(),
    )
    .await;
    let refused = Outcome::Denied("not-permitted".to_owned());
    let written = rows(&written, Interface::Files);
    assert_eq!(
        written.last(),
        Some(&("open or create /workspace/[secret].txt", &refused, 1))
    );
    let missing = asked("read_file", r#"{"path": "/workspace/none.txt"}"#, authority, ports).await;
    let failed = Outcome::Failed("no-entry".to_owned());
    assert_eq!(
        rows(&missing, Interface::Files).last(),
        Some(&("open /workspace/none.txt", &failed, 1))
    );
    // What lies in no folder of the guest is not asked of the host at all.
    let bare = asked(
        "read_file",
        r#"{"path": "/etc/passwd"}"#,
        self::authority(),
        Ports::denied(),
    )
    .await;
    assert_eq!(
        rows(&bare, Interface::Files),
        [("which folders there are", &done("/tmp"), 1)]
    );
}

#[tokio::test]
async fn key_values_secrets_tools_and_requests_are_taken_down_with_what_became_of_them() {
    let call = async |tool: &str, arguments: &str| asked(tool, arguments, authority(), Ports::denied()).await;
    let is_denied = |outcome: &Outcome, part: &str| matches!(outcome, Outcome::Denied(why) if why.contains(part));
    let seen = call("kv_set", r#"{"key": "a", "value": "b"}"#).await;
    let set = rows(&seen, Interface::KeyValues);
    assert_eq!(set[0].0, "open the bucket \"default\"");
    assert!(is_denied(set[0].1, "[kv]"), "{set:?}");
    let seen = call("secret_available", r#"{"name": "KEY"}"#).await;
    assert_eq!(
        rows(&seen, Interface::Secrets),
        [("whether there is \"KEY\"", &done("no"), 1)]
    );
    let seen = call("secret_sign", r#"{"name": "KEY", "message": "hello"}"#).await;
    let signed = rows(&seen, Interface::Secrets);
    assert_eq!((signed[0].0, signed.len()), ("sign 5 bytes with \"KEY\"", 1));
    assert!(is_denied(signed[0].1, "KEY"), "{signed:?}");
    let seen = call("peer_call", r#"{"tool": "other", "arguments": {"a": 1}}"#).await;
    let called = rows(&seen, Interface::Peers);
    assert_eq!(called[0].0, r#"call "other" with {"a":1}"#);
    assert!(is_denied(called[0].1, "other"), "{called:?}");
    let seen = call("http_get", r#"{"url": "https://a.example/x?token=y"}"#).await;
    let requests = rows(&seen, Interface::Http);
    assert_eq!(requests[0].0, "GET https://a.example/x");
    assert!(is_denied(requests[0].1, "a.example"), "{requests:?}");
    let seen = call("http_get_many", r#"{"url": "https://a.example/x", "n": 3}"#).await;
    let requests = rows(&seen, Interface::Http);
    assert_eq!(
        (requests.len(), requests[0].2),
        (1, 3),
        "each refusal counts: {requests:?}"
    );
}

#[tokio::test]
async fn what_is_allowed_says_what_allows_it() {
    let authority = Authority {
        kv: Access::Read,
        ..authority()
    };
    let seen = asked("kv_get", r#"{"key": "a"}"#, authority, Ports::denied()).await;
    let opened = &seen.rows[0];
    assert_eq!(
        (&opened.outcome, opened.rule.as_deref()),
        (&done("done"), Some("[kv] access = \"read\""))
    );
}

#[tokio::test]
async fn progress_that_is_dropped_says_so_and_clocks_and_chance_are_counted() {
    let seen = asked("progress_flood", r#"{"n": 2000}"#, authority(), Ports::denied()).await;
    let reports = rows(&seen, Interface::Progress);
    assert_eq!(reports[0], ("report \"step 0 of 2000\" (0 %)", &done("passed on"), 1));
    assert!(
        reports
            .iter()
            .any(|(_, outcome, _)| matches!(outcome, Outcome::Denied(why) if why.starts_with("dropped"))),
    );
    assert!(seen.left_out >= 1500, "{}", seen.left_out);
    let seen = asked("sleep", r#"{"ms": 1}"#, authority(), Ports::denied()).await;
    assert!(seen.waits >= 1, "{seen:?}");
    let imports = r#"
        (import "wasi:random/random@0.2.12" "get-random-u64" (func $random (result i64)))
        (import "wasi:clocks/monotonic-clock@0.2.12" "now" (func $now (result i64)))"#;
    let body = "(drop (call $random)) (drop (call $now)) (drop (call $now)) (call $text (i32.const 0) (i32.const 0))";
    let seen = asked_by(tool(imports, body), call("t", "{}"), authority(), Ports::denied()).await;
    assert_eq!((seen.random_bytes, seen.clock_readings, seen.waits), (8, 2, 0));
}
