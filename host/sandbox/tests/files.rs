//! Files against a guest built by an ordinary compiler: quotas on every route, prefixes that hold, a /tmp that goes.
//! Needs the guests of the tree: `cargo xtask tools`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use fumehood_core::content::plain_text;
use fumehood_files::{Quota, Tree, Usage};
use fumehood_policy::{
    authority::Authority,
    files::{Access, Files},
    quantity::ByteSize,
};
use fumehood_sandbox::{
    CacheKey, CallReport, Component, Sandbox, SandboxConfig,
    ports::{Ports, Workspace},
};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use support::{authority, call, guest, load};

struct Host {
    sandbox: Sandbox,
    component: Component,
    tree: Arc<Tree>,
    dir: tempfile::TempDir,
}

const SMALL: Quota = Quota {
    bytes: 10_000,
    file_bytes: 6000,
    entries: 8,
    entry_bytes: 0,
};

impl Host {
    async fn new(quota: Quota) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workspace = dir.path().join("workspace");
        std::fs::create_dir(&workspace).unwrap();
        std::fs::write(dir.path().join("outside"), "outside").unwrap();
        let sandbox = Sandbox::new(&SandboxConfig {
            cache_dir: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled")),
            cache_key: CacheKey::new([7; 32]),
            tmp_dir: Some(dir.path().join("tmp")),
            max_concurrent_calls: 8,
            ..SandboxConfig::new().unwrap()
        })
        .unwrap();
        Self {
            component: load(&sandbox, guest("hostile")).await,
            sandbox,
            tree: Tree::open_ambient(&workspace, quota).unwrap(),
            dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("workspace").join(name)
    }

    async fn report(&self, ops: &Value, paths: Option<&[&str]>, fail: bool) -> CallReport {
        let files = Files {
            access: Access::ReadWrite,
            paths: paths.map(|paths| paths.iter().map(|path| path.parse().unwrap()).collect()),
        };
        self.report_with(files, ops, fail).await
    }

    async fn report_with(&self, files: Files, ops: &Value, fail: bool) -> CallReport {
        let mut authority = Authority { files, ..authority() };
        authority.limits.tmp = ByteSize::mib(1);
        let ports = Ports {
            workspace: Some(Workspace {
                tree: Arc::clone(&self.tree),
            }),
            ..Ports::denied()
        };
        let arguments = json!({"ops": ops, "fail": fail}).to_string();
        self.sandbox
            .call(
                &self.component,
                call("file_ops", &arguments),
                Arc::new(authority),
                ports,
            )
            .await
    }

    /// What became of each.
    async fn run_in(&self, ops: Value, paths: Option<&[&str]>) -> Vec<String> {
        let report = self.report(&ops, paths, false).await;
        let output = report.result.unwrap_or_else(|error| panic!("{error:?}"));
        serde_json::from_str(&plain_text(&output.content)).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    async fn run(&self, ops: Value) -> Vec<String> {
        self.run_in(ops, None).await
    }

    fn is_exact(&self) {
        let counted = Tree::open(self.tree.root().try_clone().unwrap(), SMALL).unwrap();
        assert_eq!(self.tree.usage(), counted.usage());
    }
}

const FULL: &str = "StorageFull";
const TOO_LARGE: &str = "FileTooLarge";
/// `EIO`: what the guest's libc makes of every stream that fails, without asking for its error code.
const IO: &str = "Uncategorized";

#[tokio::test]
async fn each_way_a_guest_can_grow_a_file_stops_at_the_quota() {
    let host = Host::new(SMALL).await;
    let outcomes = host
        .run(json!([
            {"op": "write", "path": "/workspace/a", "bytes": 6000},
            {"op": "append", "path": "/workspace/a", "bytes": 1},
            {"op": "set_len", "path": "/workspace/a", "len": 6001},
            {"op": "write_at", "path": "/workspace/a", "offset": 1_000_000_000, "bytes": 1},
            {"op": "write", "path": "/workspace/b", "bytes": 4000},
            {"op": "append", "path": "/workspace/b", "bytes": 1},
            {"op": "set_len", "path": "/workspace/b", "len": 4001},
            {"op": "write_at", "path": "/workspace/b", "offset": 5000, "bytes": 1},
            {"op": "write_at", "path": "/workspace/b", "offset": 0, "bytes": 4000},
            {"op": "write_deleted", "path": "/workspace/c", "bytes": 1024},
            {"op": "set_len", "path": "/workspace/a", "len": 0},
            {"op": "write_deleted", "path": "/workspace/c", "bytes": 4096},
            {"op": "append", "path": "/workspace/b", "bytes": 2000},
        ]))
        .await;
    assert_eq!(
        outcomes,
        ["ok", IO, TOO_LARGE, IO, "ok", IO, FULL, IO, "ok", IO, "ok", "ok", "ok"]
    );
    host.is_exact();
}

#[tokio::test]
async fn a_guest_makes_no_more_names_than_it_may() {
    let host = Host::new(SMALL).await;
    let outcomes = host
        .run(json!([
            {"op": "mkdir", "path": "/workspace/d"},
            {"op": "symlink", "target": "nowhere", "path": "/workspace/l"},
            {"op": "make_many", "path": "/workspace/d", "files": 100},
            {"op": "mkdir", "path": "/workspace/e"},
            {"op": "symlink", "target": "nowhere", "path": "/workspace/m"},
            {"op": "rename", "path": "/workspace/d/0", "to": "/workspace/d/1"},
            {"op": "mkdir", "path": "/workspace/e"},
        ]))
        .await;
    assert_eq!(outcomes, ["ok", "ok", FULL, FULL, FULL, "ok", "ok"]);
    assert_eq!(host.tree.usage().entries, 8);
    host.is_exact();
}

#[tokio::test]
async fn a_refusal_says_which_quota_and_how_much_it_is() {
    let host = Host::new(SMALL).await;
    for (op, words) in [
        (
            json!({"op": "write", "path": "/workspace/a", "bytes": 6001}),
            ["6000 bytes in one file", "`file` in `[files]`"],
        ),
        (
            json!({"op": "make_many", "path": "/workspace", "files": 10}),
            ["8 files", "`entries` in `[files]`"],
        ),
        (
            json!({"op": "write", "path": "/tmp/a", "bytes": 2_000_000}),
            ["1048576 bytes", "`tmp` in `[limits]`"],
        ),
    ] {
        let report = host.report(&json!([op]), None, true).await;
        assert!(report.result.is_err(), "{report:?}");
        let reason = &report.denials[0].reason;
        assert!(words.iter().all(|words| reason.contains(words)), "{reason}");
        let shown = format!("{report:?}");
        assert!(!shown.contains(host.dir.path().to_str().unwrap()), "{shown}");
    }
}

#[tokio::test]
async fn guests_at_once_do_not_pass_the_quota_together() {
    let host = Host::new(Quota { entries: 1000, ..SMALL }).await;
    let ops = |name: &str| {
        let path = |file: usize| format!("/workspace/{name}{file}");
        let ops: Vec<Value> = (0..20)
            .flat_map(|round| {
                [
                    json!({"op": "write", "path": path(round), "bytes": 900}),
                    json!({"op": "append", "path": "/workspace/shared", "bytes": 100}),
                    json!({"op": "append", "path": path(round), "bytes": 500}),
                    json!({"op": "write_deleted", "path": path(100), "bytes": 2048}),
                    json!({"op": "set_len", "path": path(round / 2), "len": 10}),
                ]
            })
            .collect();
        json!(ops)
    };
    host.run(json!([{"op": "write", "path": "/workspace/shared", "bytes": 0}]))
        .await;
    let (a, b, c) = tokio::join!(host.run(ops("a")), host.run(ops("b")), host.run(ops("c")));
    assert!([a, b, c].iter().flatten().any(|outcome| outcome == IO));
    let on_disk: u64 = std::fs::read_dir(host.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(on_disk <= SMALL.bytes, "{on_disk}");
    host.is_exact();
}

#[tokio::test]
async fn there_are_no_hard_links() {
    let host = Host::new(SMALL).await;
    std::fs::create_dir(host.path("src")).unwrap();
    let outcomes = host
        .run(json!([
            {"op": "write", "path": "/workspace/a", "bytes": 1},
            {"op": "link", "path": "/workspace/a", "to": "/workspace/src/a"},
            {"op": "link", "path": "/workspace/a", "to": "/tmp/a"},
        ]))
        .await;
    assert_eq!(outcomes, ["ok", "PermissionDenied", "PermissionDenied"]);
}

#[tokio::test]
async fn a_granted_folder_leads_to_nothing_beside_it() {
    let host = Host::new(Quota::default()).await;
    for folder in ["src", "secret", "SRC"] {
        std::fs::create_dir(host.path(folder)).unwrap();
        std::fs::write(host.path(folder).join("file"), folder).unwrap();
    }
    std::os::unix::fs::symlink("../secret", host.path("src/there")).unwrap();
    std::os::unix::fs::symlink(host.path("secret"), host.path("src/absolute")).unwrap();
    let outcomes = host
        .run_in(
            json!([
                {"op": "read", "path": "/workspace/src/file"},
                {"op": "read", "path": "/workspace/secret/file"},
                {"op": "read", "path": "/workspace/SRC/file"},
                {"op": "read", "path": "/workspace/src/../secret/file"},
                {"op": "read", "path": "/workspace/src/there/file"},
                {"op": "read", "path": "/workspace/src/absolute/file"},
                {"op": "write", "path": "/workspace/src/there/new", "bytes": 1},
                {"op": "rename", "path": "/workspace/src/file", "to": "/workspace/secret/taken"},
                {"op": "rename", "path": "/workspace/src/there/file", "to": "/workspace/src/taken"},
                {"op": "rename", "path": "/workspace/src/file", "to": "/workspace/src/there/taken"},
                {"op": "remove", "path": "/workspace/src/there/file"},
                {"op": "mkdir", "path": "/workspace/src/there/new"},
                {"op": "symlink", "target": "../secret/file", "path": "/workspace/src/own"},
                {"op": "read", "path": "/workspace/src/own"},
                {"op": "write", "path": "/workspace/src/own", "bytes": 1},
                {"op": "list", "path": "/workspace/src/there"},
                {"op": "list", "path": "/workspace"},
            ]),
            Some(&["src/"]),
        )
        .await;
    assert_eq!(outcomes[0], "src");
    for (number, outcome) in outcomes.iter().enumerate().skip(1) {
        // A link may be made; it leads nowhere.
        let may = number == 12;
        assert_eq!(outcome == "ok", may, "{number}: {outcomes:?}");
        assert!(!outcome.contains("secret") && !outcome.contains("SRC"), "{outcomes:?}");
    }
    let left: Vec<_> = std::fs::read_dir(host.path("secret")).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(std::fs::read_to_string(host.path("secret/file")).unwrap(), "secret");
}

#[tokio::test]
async fn a_link_in_the_place_of_a_granted_folder_is_not_followed() {
    let host = Host::new(Quota::default()).await;
    std::fs::create_dir(host.path("secret")).unwrap();
    std::fs::write(host.path("secret/file.txt"), "secret").unwrap();
    std::os::unix::fs::symlink("secret", host.path("src")).unwrap();
    std::os::unix::fs::symlink("secret/file.txt", host.path("one.txt")).unwrap();
    for paths in [["src/"], ["src/file.txt"], ["one.txt"]] {
        let outcomes = host
            .run_in(
                json!([
                    {"op": "read", "path": "/workspace/src/file.txt"},
                    {"op": "read", "path": "/workspace/one.txt"},
                    {"op": "write", "path": "/workspace/src/new.txt", "bytes": 1},
                ]),
                Some(&paths),
            )
            .await;
        assert!(
            !outcomes.iter().any(|outcome| outcome == "ok" || outcome == "secret"),
            "{paths:?}: {outcomes:?}"
        );
    }
    assert_eq!(std::fs::read_dir(host.path("secret")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_link_that_another_guest_swaps_meanwhile_leads_nowhere_outside() {
    let host = Host::new(Quota::default()).await;
    std::fs::create_dir(host.path("src")).unwrap();
    std::fs::write(host.path("src/mine"), "mine").unwrap();
    std::fs::write(host.path("secret"), "secret").unwrap();
    let swap = |link: &str, times: usize| json!([{"op": "swap_and_read", "link": link, "first": "mine", "second": "../secret", "times": times}]);
    // Both have the same folder; each reads through what the other swaps.
    let (a, b) = tokio::join!(
        host.run_in(swap("/workspace/src/link", 300), Some(&["src/"])),
        host.run_in(swap("/workspace/src/link", 300), Some(&["src/"])),
    );
    for outcomes in [a, b] {
        assert!(outcomes == ["mine"] || outcomes == ["ok"], "{outcomes:?}");
    }
    let outside = swap("/workspace/src/link", 20)
        .to_string()
        .replace("../secret", "../../outside");
    let outcomes = host.run(serde_json::from_str(&outside).unwrap()).await;
    assert_eq!(outcomes, ["mine"]);
}

#[tokio::test]
async fn what_may_only_be_read_is_not_changed_and_the_report_says_what_would_allow_it() {
    let host = Host::new(Quota::default()).await;
    std::fs::write(host.path("mine"), "mine").unwrap();
    let files = Files {
        access: Access::Read,
        paths: None,
    };
    let ops = json!([
        {"op": "read", "path": "/workspace/mine"},
        {"op": "write", "path": "/workspace/new", "bytes": 1},
        {"op": "remove", "path": "/workspace/mine"},
    ]);
    let report = host.report_with(files, &ops, false).await;
    let outcomes: Vec<String> =
        serde_json::from_str(&plain_text(&report.result.expect("a result").content)).expect("outcomes");
    assert_eq!(outcomes[0], "mine");
    assert!(!outcomes[1..].iter().any(|outcome| outcome == "ok"), "{outcomes:?}");
    let [denial] = &report.denials[..] else {
        panic!("told once: {:?}", report.denials);
    };
    assert!(
        denial.reason.starts_with("changing files of the workspace was denied") && denial.reason.contains("`[files]`"),
        "{denial:?}"
    );
    assert_eq!(std::fs::read_dir(host.path("")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_read_only_file_stays_as_it_is_whatever_a_guest_tries() {
    let host = Host::new(Quota::default()).await;
    std::fs::create_dir_all(host.path("rules/deep")).unwrap();
    std::fs::write(host.path("rules/deep/fixed"), "fixed").unwrap();
    host.tree.make_read_only("rules/deep/fixed").unwrap();
    let before = std::fs::metadata(host.path("rules/deep/fixed"))
        .unwrap()
        .modified()
        .unwrap();
    let fixed = "/workspace/rules/deep/fixed";
    let outcomes = host
        .run(json!([
            {"op": "read", "path": fixed},
            {"op": "write", "path": "/workspace/other", "bytes": 1},
            {"op": "write", "path": fixed, "bytes": 1},
            {"op": "append", "path": fixed, "bytes": 1},
            {"op": "write_at", "path": fixed, "offset": 0, "bytes": 1},
            {"op": "set_len", "path": fixed, "len": 0},
            {"op": "remove", "path": fixed},
            {"op": "rename", "path": fixed, "to": "/workspace/moved"},
            {"op": "rename", "path": "/workspace/other", "to": fixed},
            {"op": "rename", "path": "/workspace/rules", "to": "/workspace/moved"},
            {"op": "touch", "path": fixed},
            {"op": "remove_all", "path": "/workspace/rules"},
        ]))
        .await;
    assert_eq!(outcomes[..2], ["fixed", "ok"]);
    for outcome in &outcomes[2..] {
        assert_eq!(outcome, "PermissionDenied", "{outcomes:?}");
    }
    assert_eq!(std::fs::read_to_string(host.path("rules/deep/fixed")).unwrap(), "fixed");
    let after = std::fs::metadata(host.path("rules/deep/fixed"))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_tmp_full_of_names_or_nested_deep_is_bounded_and_gone_after_the_call() {
    let host = Host::new(Quota::default()).await;
    let (names, nested) = tokio::join!(
        host.run(json!([{"op": "make_many", "path": "/tmp", "files": 5000}, {"op": "mkdir", "path": "/tmp/d"}])),
        host.run(json!([{"op": "nest", "path": "/tmp/n", "depth": 200}])),
    );
    assert_eq!(names, [FULL, FULL]);
    assert_eq!(nested, ["ok"]);
    // Removed on a blocking thread once the call is gone.
    for _ in 0..1000 {
        if std::fs::read_dir(host.dir.path().join("tmp")).unwrap().count() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("/tmp of a call is left behind");
}

#[tokio::test]
async fn deep_nesting_in_the_workspace_is_counted_and_can_be_removed() {
    let host = Host::new(Quota::default()).await;
    assert_eq!(
        host.run(json!([{"op": "nest", "path": "/workspace/n", "depth": 300}]))
            .await,
        ["ok"]
    );
    assert_eq!(host.tree.usage(), Usage { bytes: 0, entries: 301 });
    host.is_exact();
    fumehood_files::remove_all(host.tree.root(), "n").unwrap();
    assert!(!host.path("n").exists());
}

#[tokio::test]
async fn a_path_longer_than_any_system_takes_is_refused_unlooked() {
    let host = Host::new(Quota::default()).await;
    let longest = format!("/workspace/{}a", "../workspace/".repeat(400));
    let roundabout = format!("/workspace/d/{}a", "../d/".repeat(1000));
    let outcomes = host
        .run(json!([
            {"op": "mkdir", "path": "/workspace/d"},
            {"op": "write", "path": roundabout, "bytes": 1},
            {"op": "mkdir", "path": roundabout},
            {"op": "rename", "path": "/workspace/d", "to": roundabout},
            {"op": "symlink", "target": longest, "path": "/workspace/l"},
            {"op": "list", "path": roundabout},
        ]))
        .await;
    assert_eq!(outcomes[0], "ok");
    for outcome in &outcomes[1..] {
        assert_eq!(outcome, "InvalidFilename", "{outcomes:?}");
    }
    assert_eq!(host.tree.usage().entries, 1);
}

#[tokio::test]
async fn a_large_directory_is_listed_whole() {
    let host = Host::new(Quota::default()).await;
    for number in 0..500 {
        std::fs::write(host.path(&format!("{number:0>3}")), "").unwrap();
    }
    let listed = host.run(json!([{"op": "list", "path": "/workspace"}])).await;
    assert!(
        (0..500).all(|number| listed[0].contains(&format!("{number:0>3}"))),
        "{listed:?}"
    );
}

/// One thread for everything: whoever blocks it stops all.
#[tokio::test]
async fn a_call_that_waits_for_its_files_to_be_opened_keeps_no_other_waiting() {
    let host = Host::new(Quota::default()).await;
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let tree = Arc::clone(&host.tree);
    let holder = std::thread::spawn(move || {
        tree.remove("nothing", |_| {
            begun.send(()).unwrap();
            let _ = held.recv();
            Ok::<(), fumehood_files::FileError>(())
        })
    });
    has_begun.await.unwrap();
    // The folder is granted and has to be made first, which waits.
    let call = host.run_in(
        json!([{"op": "write", "path": "/workspace/new/a", "bytes": 1}]),
        Some(&["new/"]),
    );
    let others = async {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        drop(release);
    };
    let (outcomes, ()) = tokio::join!(call, others);
    assert_eq!(outcomes, ["ok"]);
    assert!(holder.join().unwrap().is_err());
}
