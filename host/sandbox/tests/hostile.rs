//! A component built by an ordinary compiler, with an ordinary libc, that reaches for what it was not
//! given. Needs the guests of the tree: `cargo xtask tools`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use async_trait::async_trait;
use bytes::Bytes;
use fumehood_core::{
    call::{CallErrorCode, TrapKind},
    content::plain_text,
};
use fumehood_files::{Quota, Tree};
use fumehood_policy::{
    authority::Authority,
    files::{Access, Files},
    quantity::{ByteSize, Span},
};
use fumehood_sandbox::{
    CacheKey, CallReport, Component, Sandbox, SandboxConfig,
    ports::{Body, Door, DoorError, KeyPage, KeyValueError, KeyValues, Ports, Timeouts, Workspace},
};
use http_body_util::{BodyExt as _, Full};
use std::{collections::BTreeMap, path::Path, sync::Arc, sync::Mutex};
use support::{authority, call, guest, load, with_limits};

struct Host {
    sandbox: Sandbox,
    component: Component,
}

impl Host {
    async fn new() -> Self {
        // Compiled once for all tests, which may be processes of their own.
        let sandbox = Sandbox::new(&SandboxConfig {
            cache_dir: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled")),
            cache_key: CacheKey::new([7; 32]),
            max_concurrent_calls: 8,
            ..SandboxConfig::new().unwrap()
        })
        .unwrap();
        let component = load(&sandbox, guest("hostile")).await;
        Self { sandbox, component }
    }

    async fn run(&self, tool: &str, arguments: &str, authority: Authority, ports: Ports) -> CallReport {
        self.sandbox
            .call(&self.component, call(tool, arguments), Arc::new(authority), ports)
            .await
    }
}

async fn run(tool: &str, arguments: &str, authority: Authority, ports: Ports) -> CallReport {
    Host::new().await.run(tool, arguments, authority, ports).await
}

/// Without any grant.
async fn bare(tool: &str, arguments: &str) -> CallReport {
    run(tool, arguments, authority(), Ports::denied()).await
}

fn text(report: &CallReport) -> String {
    match &report.result {
        Ok(output) => plain_text(&output.content),
        Err(error) => panic!("{error:?}"),
    }
}

fn fails(report: &CallReport) -> String {
    match &report.result {
        Ok(output) if output.is_error => plain_text(&output.content),
        Ok(output) => panic!("should have failed, but returned {output:?}"),
        Err(error) => error.message.clone(),
    }
}

fn trap(report: &CallReport) -> Option<TrapKind> {
    report.result.as_ref().err().and_then(|error| error.trap)
}

fn files(access: Access, paths: Option<&[&str]>) -> Authority {
    Authority {
        files: Files {
            access,
            paths: paths.map(|paths| paths.iter().map(|path| path.parse().unwrap()).collect()),
        },
        ..authority()
    }
}

fn with_workspace(dir: &Path) -> Ports {
    Ports {
        workspace: Some(Workspace {
            tree: tree(dir, Quota::default()),
        }),
        ..Ports::denied()
    }
}

fn tree(dir: &Path, quota: Quota) -> Arc<Tree> {
    let root = cap_std::fs::Dir::open_ambient_dir(dir, cap_std::ambient_authority()).unwrap();
    Tree::open(root, quota).unwrap()
}

/// `notes.txt`, `src/a.txt`, `src/out` → `../secret.txt`, `secret.txt`.
fn workspace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("src")).unwrap();
    std::fs::write(dir.path().join("notes.txt"), "notes").unwrap();
    std::fs::write(dir.path().join("secret.txt"), "secret").unwrap();
    std::fs::write(dir.path().join("src/a.txt"), "source").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("../secret.txt", dir.path().join("src/out")).unwrap();
    dir
}

#[tokio::test]
async fn without_a_grant_there_are_no_files_at_all() {
    let host = Host::new().await;
    let dir = workspace();
    for path in ["/workspace/notes.txt", "/etc/passwd", "/proc/self/environ", "notes.txt"] {
        let report = host
            .run(
                "read_file",
                &format!(r#"{{"path":"{path}"}}"#),
                authority(),
                with_workspace(dir.path()),
            )
            .await;
        fails(&report);
    }
}

#[tokio::test]
async fn a_reader_reads_and_does_not_write() {
    let host = Host::new().await;
    let dir = workspace();
    let read = files(Access::Read, None);
    let ports = with_workspace(dir.path());
    let report = host
        .run(
            "read_file",
            r#"{"path":"/workspace/src/a.txt"}"#,
            read.clone(),
            ports.clone(),
        )
        .await;
    assert_eq!(text(&report), "source");
    let report = host
        .run("list_dir", r#"{"path":"/workspace"}"#, read.clone(), ports.clone())
        .await;
    assert!(text(&report).contains("notes.txt"), "{report:?}");
    fails(
        &host
            .run(
                "write_file",
                r#"{"path":"/workspace/new","kib":1}"#,
                read.clone(),
                ports.clone(),
            )
            .await,
    );
    fails(
        &host
            .run("write_file", r#"{"path":"/workspace/notes.txt","kib":1}"#, read, ports)
            .await,
    );
    assert_eq!(std::fs::read_to_string(dir.path().join("notes.txt")).unwrap(), "notes");
}

#[tokio::test]
async fn a_writer_writes_into_the_workspace_and_nowhere_else() {
    let host = Host::new().await;
    let dir = workspace();
    let outside = dir.path().join("workspace");
    std::fs::create_dir(&outside).unwrap();
    let write = files(Access::ReadWrite, None);
    let ports = with_workspace(&outside);
    text(
        &host
            .run(
                "write_file",
                r#"{"path":"/workspace/new","kib":2}"#,
                write.clone(),
                ports.clone(),
            )
            .await,
    );
    assert_eq!(std::fs::metadata(outside.join("new")).unwrap().len(), 2048);
    fails(
        &host
            .run(
                "write_file",
                r#"{"path":"/workspace/../escaped","kib":1}"#,
                write.clone(),
                ports.clone(),
            )
            .await,
    );
    fails(
        &host
            .run("read_file", r#"{"path":"/workspace/../secret.txt"}"#, write, ports)
            .await,
    );
    assert!(!dir.path().join("escaped").exists());
}

#[tokio::test]
async fn a_link_in_the_workspace_does_not_lead_out_of_it() {
    let host = Host::new().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret.txt"), "secret").unwrap();
    let workspace = dir.path().join("workspace");
    std::fs::create_dir(&workspace).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../secret.txt", workspace.join("relative")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret.txt"), workspace.join("absolute")).unwrap();
    }
    for name in ["relative", "absolute"] {
        let arguments = format!(r#"{{"path":"/workspace/{name}"}}"#);
        fails(
            &host
                .run(
                    "read_file",
                    &arguments,
                    files(Access::ReadWrite, None),
                    with_workspace(&workspace),
                )
                .await,
        );
    }
}

#[tokio::test]
async fn a_grant_of_a_folder_reaches_that_folder_only() {
    let host = Host::new().await;
    let dir = workspace();
    let src = files(Access::ReadWrite, Some(&["src/"]));
    let ports = with_workspace(dir.path());
    let report = host
        .run(
            "read_file",
            r#"{"path":"/workspace/src/a.txt"}"#,
            src.clone(),
            ports.clone(),
        )
        .await;
    assert_eq!(text(&report), "source");
    for path in [
        "/workspace/notes.txt",
        "/workspace/src/../notes.txt",
        "/workspace/src/out",
        "/workspace",
    ] {
        fails(
            &host
                .run(
                    "read_file",
                    &format!(r#"{{"path":"{path}"}}"#),
                    src.clone(),
                    ports.clone(),
                )
                .await,
        );
    }
}

#[tokio::test]
async fn a_grant_of_a_file_reaches_that_file_only() {
    let host = Host::new().await;
    let dir = workspace();
    let one = files(Access::ReadWrite, Some(&["notes.txt", "new.txt"]));
    let ports = with_workspace(dir.path());
    let report = host
        .run(
            "read_file",
            r#"{"path":"/workspace/notes.txt"}"#,
            one.clone(),
            ports.clone(),
        )
        .await;
    assert_eq!(text(&report), "notes");
    text(
        &host
            .run(
                "write_file",
                r#"{"path":"/workspace/new.txt","kib":1}"#,
                one.clone(),
                ports.clone(),
            )
            .await,
    );
    for path in ["/workspace/secret.txt", "/workspace/src/a.txt"] {
        fails(
            &host
                .run(
                    "read_file",
                    &format!(r#"{{"path":"{path}"}}"#),
                    one.clone(),
                    ports.clone(),
                )
                .await,
        );
    }
    fails(
        &host
            .run("list_dir", r#"{"path":"/workspace"}"#, one.clone(), ports.clone())
            .await,
    );
    let arguments = r#"{"from":"/workspace/secret.txt","to":"/workspace/new.txt"}"#;
    fails(&host.run("link_file", arguments, one, ports).await);
}

#[tokio::test]
async fn tmp_holds_its_quota_and_is_empty_for_the_next_call() {
    let host = Host::new().await;
    let small = with_limits(|limits| limits.tmp = ByteSize::kib(100));
    text(
        &host
            .run("tmp_fill", r#"{"kib":60}"#, small.clone(), Ports::denied())
            .await,
    );
    let report = host
        .run("list_dir", r#"{"path":"/tmp"}"#, small.clone(), Ports::denied())
        .await;
    assert!(!text(&report).contains("fill"), "{report:?}");
    fails(&host.run("tmp_fill", r#"{"kib":200}"#, small, Ports::denied()).await);
}

#[tokio::test]
async fn without_a_quota_there_is_no_tmp() {
    let none = with_limits(|limits| limits.tmp = ByteSize(0));
    fails(&run("tmp_fill", r#"{"kib":1}"#, none, Ports::denied()).await);
}

#[tokio::test]
async fn nothing_is_linked_between_the_workspace_and_tmp() {
    let dir = workspace();
    let arguments = r#"{"from":"/workspace/notes.txt","to":"/tmp/notes.txt"}"#;
    fails(
        &run(
            "link_file",
            arguments,
            files(Access::ReadWrite, None),
            with_workspace(dir.path()),
        )
        .await,
    );
}

#[tokio::test]
async fn raw_sockets_and_name_lookup_are_denied() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    fails(&bare("tcp_connect", &format!(r#"{{"address":"{address}"}}"#)).await);
    fails(&bare("dns_lookup", r#"{"name":"localhost"}"#).await);
}

#[tokio::test]
async fn only_granted_environment_variables_are_seen() {
    let ports = Ports {
        env: Arc::new([("TZ".into(), "UTC".into()), ("API_KEY".into(), "hidden".into())]),
        ..Ports::denied()
    };
    let authority = Authority {
        env: vec!["TZ".parse().unwrap(), "HOME".parse().unwrap()],
        ..authority()
    };
    let host = Host::new().await;
    let seen = text(&host.run("env", "{}", authority.clone(), ports.clone()).await);
    assert!(
        seen.contains("TZ") && !seen.contains("hidden") && !seen.contains("HOME"),
        "{seen}"
    );
    assert_eq!(
        text(&host.run("args", "{}", authority.clone(), ports.clone()).await),
        "[]"
    );
    text(&host.run("stdin_read", "{}", authority, ports).await);
}

#[tokio::test]
async fn two_calls_share_no_state_and_no_randomness() {
    let host = Host::new().await;
    for _ in 0..3 {
        assert_eq!(
            text(&host.run("state_counter", "{}", authority(), Ports::denied()).await),
            "1"
        );
    }
    let one = text(&host.run("random", "{}", authority(), Ports::denied()).await);
    let other = text(&host.run("random", "{}", authority(), Ports::denied()).await);
    assert_ne!(one, other);
}

#[tokio::test]
async fn each_way_to_break_has_its_trap() {
    let host = Host::new().await;
    for (tool, arguments, kind) in [
        ("spin", "{}", TrapKind::Cpu),
        ("allocate", r#"{"mib":100}"#, TrapKind::Memory),
        ("recurse", "{}", TrapKind::Stack),
        ("panic", r#"{"message":"boo"}"#, TrapKind::Unreachable),
        ("unreachable", "{}", TrapKind::Unreachable),
        ("exit", r#"{"code":3}"#, TrapKind::Unreachable),
        ("many_host_calls", r#"{"n":5000}"#, TrapKind::HostCalls),
        ("flood_stdout", r#"{"kib":200}"#, TrapKind::Output),
    ] {
        let limits = with_limits(|limits| {
            limits.cpu = Span::from_millis(300);
            limits.host_calls = 2000;
        });
        let report = host.run(tool, arguments, limits, Ports::denied()).await;
        assert_eq!(trap(&report), Some(kind), "{tool}: {report:?}");
    }
}

#[tokio::test]
async fn a_panic_message_goes_to_stderr_and_not_into_the_result() {
    let report = bare("panic", r#"{"message":"boo"}"#).await;
    assert!(report.stderr.contains("boo"), "{report:?}");
    assert!(!fails(&report).contains("boo"));
}

#[tokio::test]
async fn results_that_are_not_what_they_claim_fail_the_call() {
    let host = Host::new().await;
    for tool in ["bad_output", "bad_structured"] {
        let report = host.run(tool, "{}", authority(), Ports::denied()).await;
        assert_eq!(report.result.unwrap_err().code, CallErrorCode::Failed, "{tool}");
    }
    let report = host
        .run("huge_output", r#"{"kib":1000}"#, authority(), Ports::denied())
        .await;
    assert_eq!(report.result.unwrap_err().code, CallErrorCode::OutputTooLarge);
}

/// Answers every request the same way and counts.
struct Fake {
    answer: fn() -> Result<http::Response<Body>, DoorError>,
    requests: Mutex<Vec<String>>,
}

fn fake(answer: fn() -> Result<http::Response<Body>, DoorError>) -> Arc<Fake> {
    Arc::new(Fake {
        answer,
        requests: Mutex::default(),
    })
}

#[async_trait]
impl Door for Fake {
    async fn send(&self, request: http::Request<Body>, _: Timeouts) -> Result<http::Response<Body>, DoorError> {
        assert!(request.headers().get("host").is_none());
        self.requests
            .lock()
            .unwrap()
            .push(format!("{} {}", request.method(), request.uri()));
        (self.answer)()
    }

    async fn refuse(&self, request: http::Request<Body>, limit: &'static str, _: String) {
        let refused = format!("{limit}: {} {}", request.method(), request.uri());
        self.requests.lock().unwrap().push(refused);
    }
}

fn body(len: usize) -> Body {
    Full::new(Bytes::from(vec![b'x'; len]))
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn behind(door: &Arc<Fake>) -> Ports {
    Ports {
        door: door.clone(),
        ..Ports::denied()
    }
}

const GET: &str = r#"{"url":"https://example.com/a?b=c"}"#;

#[tokio::test]
async fn a_request_goes_through_the_door_and_its_answer_comes_back() {
    let door = fake(|| Ok(http::Response::builder().status(201).body(body(5)).unwrap()));
    let report = run("http_get", GET, authority(), behind(&door)).await;
    let text = text(&report);
    assert!(text.contains("201") && text.contains("xxxxx"), "{text}");
    assert_eq!(*door.requests.lock().unwrap(), ["GET https://example.com/a?b=c"]);
    assert_eq!(report.metering.http_requests, 1);
}

#[tokio::test]
async fn without_a_grant_every_request_is_denied_with_a_reason() {
    let report = bare("http_get", GET).await;
    fails(&report);
    assert!(report.denials[0].reason.contains("example.com"), "{report:?}");
}

#[tokio::test]
async fn a_response_beyond_its_limit_is_cut_with_an_error() {
    let door = fake(|| Ok(http::Response::new(body(50_000))));
    let small = with_limits(|limits| limits.http_body = ByteSize::kib(10));
    fails(&run("http_get", GET, small, behind(&door)).await);
}

#[tokio::test]
async fn a_request_that_the_sandbox_refuses_is_told_to_the_door() {
    let door = fake(|| Ok(http::Response::new(body(1))));
    let few = with_limits(|limits| limits.http_concurrent = 0);
    let arguments = r#"{"url":"https://example.com/","n":2}"#;
    let report = run("http_get_many", arguments, few, behind(&door)).await;
    let refused = "http_concurrent: GET https://example.com/";
    assert_eq!(*door.requests.lock().unwrap(), [refused, refused]);
    assert_eq!(report.metering.http_requests, 2);
    assert!(report.denials[0].reason.contains("http_concurrent"), "{report:?}");
}

#[derive(Default)]
struct Values(Mutex<BTreeMap<String, Vec<u8>>>);

#[async_trait]
impl KeyValues for Values {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        self.0.lock().unwrap().insert(key.to_owned(), value);
        Ok(())
    }
    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }
    async fn exists(&self, key: &str) -> Result<bool, KeyValueError> {
        Ok(self.0.lock().unwrap().contains_key(key))
    }
    async fn list(&self, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        // One key a page.
        let at = usize::try_from(cursor.unwrap_or(0)).unwrap();
        let values = self.0.lock().unwrap();
        Ok(KeyPage {
            keys: values.keys().skip(at).take(1).cloned().collect(),
            cursor: (at + 1 < values.len()).then_some(at as u64 + 1),
        })
    }
}

#[tokio::test]
async fn key_values_are_kept_by_the_port_as_far_as_granted() {
    let host = Host::new().await;
    let values = Arc::new(Values::default());
    let ports = Ports {
        key_values: values.clone(),
        ..Ports::denied()
    };
    let with = |kv| Authority { kv, ..authority() };
    for key in ["a", "b"] {
        let arguments = format!(r#"{{"key":"{key}","value":"1"}}"#);
        text(
            &host
                .run("kv_set", &arguments, with(Access::ReadWrite), ports.clone())
                .await,
        );
        fails(&host.run("kv_set", &arguments, with(Access::Read), ports.clone()).await);
        fails(&host.run("kv_set", &arguments, with(Access::None), ports.clone()).await);
    }
    let list = text(&host.run("kv_list", "{}", with(Access::Read), ports.clone()).await);
    assert!(list.contains('a') && list.contains('b'), "{list}");
    fails(
        &host
            .run("kv_get", r#"{"key":"a"}"#, with(Access::None), ports.clone())
            .await,
    );
    fails(
        &host
            .run("kv_open", r#"{"name":"other"}"#, with(Access::Read), ports.clone())
            .await,
    );
    fails(&host.run("kv_delete", r#"{"key":"a"}"#, with(Access::Read), ports).await);
    assert_eq!(values.0.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_secret_that_is_not_granted_looks_absent_and_signs_nothing() {
    let host = Host::new().await;
    let report = host
        .run("secret_available", r#"{"name":"KEY"}"#, authority(), Ports::denied())
        .await;
    assert_eq!(text(&report), "false");
    let report = host
        .run(
            "secret_sign",
            r#"{"name":"KEY","message":"m"}"#,
            authority(),
            Ports::denied(),
        )
        .await;
    assert_eq!(report.result.unwrap_err().code, CallErrorCode::Denied);
}
