//! Workspaces: what they take, what they refuse, and that nothing leads out of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod search;

use fumehood_core::{digest::Digest, id::SessionId};
use fumehood_files::{Create, FileError, Open, Opened};
use fumehood_store::{
    DataDir, WorkspaceError, WorkspacePath, Workspaces,
    record::PageRequest,
    workspace::{
        Depth, Entry, GrepRequest, Kept, Kind, ListRequest, Precondition, Quota, Starter, Usage, WriteOutcome,
    },
};
use std::{fs, os::unix::fs::symlink, path::PathBuf};

struct Fixture {
    dir: tempfile::TempDir,
    files: Workspaces,
    session: SessionId,
}

async fn with_quota(quota: Quota) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).await.unwrap();
    Fixture {
        files: Workspaces::open(&data, quota).unwrap(),
        dir,
        session: SessionId::new(),
    }
}

async fn fixture() -> Fixture {
    with_quota(Quota::default()).await
}

fn path(text: &str) -> WorkspacePath {
    WorkspacePath::new(text).unwrap()
}

impl Fixture {
    async fn put(&self, name: &str, bytes: &[u8]) -> Result<WriteOutcome, WorkspaceError> {
        let written = self
            .files
            .write(self.session, &path(name), bytes.to_vec(), Precondition::Any)
            .await?;
        assert_eq!(written.etag, Digest::of(bytes));
        Ok(written.outcome)
    }

    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, WorkspaceError> {
        Ok(self.files.read(self.session, &path(name)).await?.map(|file| {
            assert_eq!(file.etag, Digest::of(&file.bytes));
            file.bytes
        }))
    }

    async fn names(&self, directory: Option<&str>, depth: Depth) -> Vec<String> {
        let request = ListRequest {
            directory: directory.map(path),
            depth,
            page: PageRequest::default(),
        };
        let page = self.files.list(self.session, request).await.unwrap();
        page.items.into_iter().map(|entry| entry.path.to_string()).collect()
    }

    /// The directory, as a guest has it.
    async fn inside(&self) -> PathBuf {
        self.files.tree(self.session).await.unwrap();
        self.dir.path().join("workspaces").join(self.session.to_string())
    }

    fn outside(&self) -> PathBuf {
        let outside = self.dir.path().join("outside");
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("secret"), b"outside").unwrap();
        outside
    }
}

fn search(pattern: &str) -> GrepRequest {
    GrepRequest {
        pattern: pattern.into(),
        glob: None,
        directory: None,
        context: 0,
        offset: 0,
        limit: 100,
    }
}

#[tokio::test]
async fn a_file_is_read_as_it_was_written_binary_or_empty() {
    let f = fixture().await;
    assert_eq!(f.get("a/b.bin").await.unwrap(), None);
    assert_eq!(f.put("a/b.bin", b"\x00\xff").await.unwrap(), WriteOutcome::Created);
    assert_eq!(f.put("a/b.bin", b"").await.unwrap(), WriteOutcome::Replaced);
    assert_eq!(f.put("a/b.bin", b"\xfe\x00").await.unwrap(), WriteOutcome::Replaced);
    assert_eq!(f.get("a/b.bin").await.unwrap().unwrap(), b"\xfe\x00");
    assert_eq!(fs::read(f.inside().await.join("a/b.bin")).unwrap(), b"\xfe\x00");
    assert_eq!(fs::read_dir(f.dir.path().join("workspaces.new")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_write_with_a_precondition_that_fails_changes_nothing() {
    let f = fixture().await;
    let file = path("a");
    let absent = |bytes: &[u8]| f.files.write(f.session, &file, bytes.to_vec(), Precondition::Absent);
    let first = absent(b"one").await.unwrap();
    let error = absent(b"two").await.unwrap_err();
    assert!(matches!(error, WorkspaceError::Precondition { current: Some(etag) } if etag == first.etag));
    let stale = Precondition::Matches(Digest::of(b"other"));
    let error = f
        .files
        .write(f.session, &file, b"two".to_vec(), stale)
        .await
        .unwrap_err();
    assert!(matches!(error, WorkspaceError::Precondition { current: Some(etag) } if etag == first.etag));
    assert_eq!(f.get("a").await.unwrap().unwrap(), b"one");
    let fresh = Precondition::Matches(first.etag);
    f.files.write(f.session, &file, b"two".to_vec(), fresh).await.unwrap();
    let error = f.files.delete(f.session, &file, fresh).await.unwrap_err();
    assert!(matches!(error, WorkspaceError::Precondition { .. }));
    assert_eq!(f.get("a").await.unwrap().unwrap(), b"two");
    let missing = f
        .files
        .write(f.session, &path("x/y"), b"z".to_vec(), fresh)
        .await
        .unwrap_err();
    assert!(matches!(missing, WorkspaceError::Precondition { current: None }));
    assert_eq!(f.names(None, Depth::Below).await, ["a"]);
}

#[tokio::test]
async fn of_two_writes_of_one_etag_one_holds() {
    let f = fixture().await;
    f.put("a", b"0").await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 1..=8_u8 {
        let (files, session) = (f.files.clone(), f.session);
        let expected = Precondition::Matches(Digest::of(b"0"));
        tasks.spawn(async move { files.write(session, &path("a"), vec![number], expected).await.is_ok() });
    }
    let held = tasks.join_all().await.into_iter().filter(|held| *held).count();
    assert_eq!(held, 1);
}

#[tokio::test]
async fn files_directories_and_links_are_deleted_but_not_a_full_directory() {
    let f = fixture().await;
    f.put("a/b", b"x").await.unwrap();
    symlink("b", f.inside().await.join("a/link")).unwrap();
    let delete = async |name: &str| f.files.delete(f.session, &path(name), Precondition::Any).await;
    assert!(matches!(delete("a").await, Err(WorkspaceError::NotEmpty { .. })));
    assert!(delete("a/link").await.unwrap());
    assert_eq!(f.get("a/b").await.unwrap().unwrap(), b"x");
    assert!(delete("a/b").await.unwrap());
    assert!(!delete("a/b").await.unwrap());
    assert!(delete("a").await.unwrap());
    assert!(!delete("a").await.unwrap());
}

#[tokio::test]
async fn a_directory_is_not_a_file_and_a_file_is_not_a_directory() {
    let f = fixture().await;
    f.put("a/b", b"x").await.unwrap();
    assert!(matches!(
        f.put("a", b"y").await,
        Err(WorkspaceError::IsDirectory { .. })
    ));
    assert!(matches!(f.get("a").await, Err(WorkspaceError::IsDirectory { .. })));
    assert!(matches!(
        f.put("a/b/c", b"y").await,
        Err(WorkspaceError::Blocked { .. })
    ));
    assert!(matches!(f.get("a/b/c").await, Err(WorkspaceError::Blocked { .. })));
    assert_eq!(f.get("a/b").await.unwrap().unwrap(), b"x");
}

#[tokio::test]
async fn a_link_that_leads_out_is_never_followed() {
    let f = fixture().await;
    let (inside, outside) = (f.inside().await, f.outside());
    symlink(&outside, inside.join("absolute")).unwrap();
    symlink("../../outside", inside.join("relative")).unwrap();
    symlink(outside.join("secret"), inside.join("file")).unwrap();
    for name in ["absolute/secret", "relative/secret", "file"] {
        let error = f.get(name).await.unwrap_err();
        assert!(matches!(error, WorkspaceError::LeadsOut { .. }), "{name}: {error}");
    }
    for name in ["absolute/new", "relative/new", "relative/a/b"] {
        let error = f.put(name, b"x").await.unwrap_err();
        assert!(matches!(error, WorkspaceError::LeadsOut { .. }), "{name}: {error}");
        let error = f
            .files
            .delete(f.session, &path(name), Precondition::Any)
            .await
            .unwrap_err();
        assert!(matches!(error, WorkspaceError::LeadsOut { .. }), "{name}: {error}");
    }
    // The link itself is replaced, not what it points to.
    f.put("file", b"mine").await.unwrap();
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"outside");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    let found = f.files.grep(f.session, search("outside"), |bytes| bytes).await.unwrap();
    assert_eq!(found.matches, []);
    assert!(f.files.remove(f.session).await.unwrap());
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"outside");
}

#[tokio::test]
async fn links_are_listed_as_what_they_are_and_followed_when_they_stay_inside() {
    let f = fixture().await;
    f.put("a/b", b"x").await.unwrap();
    let inside = f.inside().await;
    symlink("a/b", inside.join("good")).unwrap();
    symlink("loop", inside.join("loop")).unwrap();
    symlink(f.outside(), inside.join("out")).unwrap();
    assert_eq!(f.get("good").await.unwrap().unwrap(), b"x");
    assert!(matches!(f.get("loop").await, Err(WorkspaceError::Blocked { .. })));
    assert_eq!(f.names(None, Depth::Below).await, ["a", "a/b", "good", "loop", "out"]);
    for name in ["good", "loop", "out"] {
        let entry: Entry = f.files.stat(f.session, &path(name)).await.unwrap().unwrap();
        assert_eq!((entry.kind, entry.size), (Kind::Other, 0), "{name}");
    }
    let entry = f.files.stat(f.session, &path("a/b")).await.unwrap().unwrap();
    assert_eq!((entry.kind, entry.size), (Kind::File, 1));
    assert_eq!(f.files.stat(f.session, &path("none")).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_no_ordinary_file_is_refused_without_waiting_for_it() {
    let f = fixture().await;
    let pipe = f.inside().await.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    assert!(matches!(f.get("pipe").await, Err(WorkspaceError::Blocked { .. })));
    assert_eq!(
        f.files
            .grep(f.session, search("x"), |bytes| bytes)
            .await
            .unwrap()
            .matches,
        []
    );
}

#[tokio::test]
async fn each_quota_refuses_before_anything_is_written() {
    let f = with_quota(Quota {
        bytes: 10,
        file_bytes: 6,
        entries: 3,
        entry_bytes: 0,
    })
    .await;
    let refused = |result: Result<WriteOutcome, WorkspaceError>| match result {
        Err(WorkspaceError::Quota { of, limit }) => (of, limit),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(f.put("a", b"1234567").await), ("bytes in one file", 6));
    assert!(!f.dir.path().join("workspaces").join(f.session.to_string()).exists());
    f.put("a", b"123456").await.unwrap();
    assert_eq!(refused(f.put("b", b"12345").await), ("bytes", 10));
    f.put("a", b"12345").await.unwrap();
    f.put("b", b"12345").await.unwrap();
    assert_eq!(refused(f.put("c", b"1").await), ("bytes", 10));
    assert_eq!(refused(f.put("d/e", b"").await), ("files", 3));
    f.put("c", b"").await.unwrap();
    assert_eq!(refused(f.put("d", b"").await), ("files", 3));
    assert_eq!(f.names(None, Depth::Below).await, ["a", "b", "c"]);
    let usage = f.files.usage(f.session).await.unwrap();
    assert_eq!(usage, Usage { bytes: 10, entries: 3 });
}

#[tokio::test]
async fn a_workspace_that_a_guest_overfilled_can_still_be_emptied() {
    let f = with_quota(Quota {
        bytes: 10,
        file_bytes: 100,
        entries: 10,
        entry_bytes: 0,
    })
    .await;
    fs::write(f.inside().await.join("big"), vec![b'x'; 50]).unwrap();
    f.put("big", b"smaller").await.unwrap();
    assert_eq!(f.get("big").await.unwrap().unwrap(), b"smaller");
    fs::write(f.inside().await.join("huge"), vec![b'x'; 101]).unwrap();
    assert!(matches!(f.get("huge").await, Err(WorkspaceError::Quota { .. })));
    assert!(
        f.files
            .delete(f.session, &path("huge"), Precondition::Any)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_list_is_in_order_and_pages_each_entry_once() {
    let f = fixture().await;
    for name in ["b", "a/2", "a/1", "a.txt", "a/c/d"] {
        f.put(name, b"x").await.unwrap();
    }
    assert_eq!(f.names(None, Depth::Here).await, ["a", "a.txt", "b"]);
    assert_eq!(f.names(Some("a"), Depth::Here).await, ["a/1", "a/2", "a/c"]);
    assert_eq!(f.names(Some("none"), Depth::Below).await, Vec::<String>::new());
    let all = f.names(None, Depth::Below).await;
    assert_eq!(all, ["a", "a.txt", "a/1", "a/2", "a/c", "a/c/d", "b"]);
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let request = ListRequest {
            directory: None,
            depth: Depth::Below,
            page: PageRequest { after, limit: 2 },
        };
        let page = f.files.list(f.session, request).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items.into_iter().map(|entry| entry.path.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, all);
    for bad in ["", "x", "d2E/", "d2E", "d3cvLi4"] {
        let request = ListRequest {
            directory: None,
            depth: Depth::Here,
            page: PageRequest {
                after: Some(bad.into()),
                limit: 2,
            },
        };
        let result = f.files.list(f.session, request).await;
        // `d2E` is the cursor of `a`.
        assert_eq!(
            matches!(result, Err(WorkspaceError::BadCursor)),
            bad != "d2E",
            "{bad}: {result:?}"
        );
    }
}

#[tokio::test]
async fn sessions_do_not_see_each_others_files() {
    let f = fixture().await;
    f.put("a", b"x").await.unwrap();
    let other = SessionId::new();
    assert!(f.files.read(other, &path("a")).await.unwrap().is_none());
    assert!(!f.files.delete(other, &path("a"), Precondition::Any).await.unwrap());
    assert!(!f.files.remove(other).await.unwrap());
    assert!(f.files.remove(f.session).await.unwrap());
    assert!(!f.files.remove(f.session).await.unwrap());
    assert_eq!(f.get("a").await.unwrap(), None);
}

#[tokio::test]
async fn nothing_is_written_into_a_session_that_was_deleted() {
    let f = fixture().await;
    f.put("a", b"x").await.unwrap();
    let guest = f.files.tree(f.session).await.unwrap();
    f.files.remove(f.session).await.unwrap();
    assert!(matches!(f.put("a", b"y").await, Err(WorkspaceError::Gone)));
    assert!(matches!(f.files.tree(f.session).await, Err(WorkspaceError::Gone)));
    assert!(matches!(f.files.usage(f.session).await, Err(WorkspaceError::Gone)));
    // A guest that had the files open.
    let made = guest.create_dir(guest.root(), "late");
    assert!(matches!(made, Err(FileError::Closed)), "{made:?}");
    for place in ["workspaces", "workspaces.gone", "workspaces.new"] {
        assert_eq!(fs::read_dir(f.dir.path().join(place)).unwrap().count(), 0, "{place}");
    }
}

#[tokio::test]
async fn a_deletion_that_fails_further_on_can_be_undone() {
    let f = fixture().await;
    f.put("a", b"x").await.unwrap();
    assert!(f.files.retire(f.session).await.unwrap());
    f.files.restore(f.session).await.unwrap();
    assert_eq!(f.get("a").await.unwrap().unwrap(), b"x");
    f.put("a", b"y").await.unwrap();
}

#[tokio::test]
async fn what_an_interrupted_deletion_left_is_removed_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).await.unwrap();
    let left = dir.path().join("workspaces.gone/ses_x/deep/er");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("file"), b"left").unwrap();
    Workspaces::open(&data, Quota::default()).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("workspaces.gone")).unwrap().count(), 0);
}

#[tokio::test]
async fn guests_and_clients_share_one_account() {
    let f = with_quota(Quota {
        bytes: 1000,
        file_bytes: 600,
        entries: 4,
        entry_bytes: 0,
    })
    .await;
    let guest = f.files.tree(f.session).await.unwrap();
    let new = Open {
        write: true,
        create: Create::IfAbsent,
        ..Open::default()
    };
    let Opened::File(file) = guest.open_at(guest.root(), "guest", &new).unwrap() else {
        panic!("a directory");
    };
    file.append(&[b'x'; 600]).unwrap();
    assert!(matches!(
        f.put("client", &[b'y'; 401]).await,
        Err(WorkspaceError::Quota { of: "bytes", .. })
    ));
    f.put("client", &[b'y'; 400]).await.unwrap();
    file.set_len(0).unwrap();
    assert!(file.append(&[b'x'; 600]).is_ok() && file.append(b"x").is_err());
    // Deleted by the client, but open in the guest: not free yet.
    assert!(
        f.files
            .delete(f.session, &path("guest"), Precondition::Any)
            .await
            .unwrap()
    );
    assert!(matches!(f.put("more", b"z").await, Err(WorkspaceError::Quota { .. })));
    drop(file);
    f.put("more", b"z").await.unwrap();
    let usage = f.files.usage(f.session).await.unwrap();
    assert_eq!(usage, Usage { bytes: 401, entries: 2 });
}

#[tokio::test]
async fn a_precondition_holds_against_a_guest_that_writes_meanwhile() {
    let f = fixture().await;
    let guest = f.files.tree(f.session).await.unwrap();
    f.put("counter", b"0").await.unwrap();
    let writing = tokio::task::spawn_blocking(move || {
        let how = Open {
            write: true,
            truncate: true,
            create: Create::IfAbsent,
            follow: true,
            ..Open::default()
        };
        // Each text once: what a client replaces is always what it read.
        for round in 0..200 {
            let Ok(Opened::File(file)) = guest.open_at(guest.root(), &format!("g{round}"), &how) else {
                panic!("a directory");
            };
            file.append(format!("guest {round}").as_bytes()).unwrap();
            guest
                .rename(guest.root(), &format!("g{round}"), guest.root(), "counter")
                .unwrap();
        }
    });
    let (mut replaced, mut refused) = (0, 0);
    while !writing.is_finished() {
        let Some(read) = f.files.read(f.session, &path("counter")).await.unwrap() else {
            continue;
        };
        let ours = format!("client {replaced}").into_bytes();
        let written = f
            .files
            .write(f.session, &path("counter"), ours, Precondition::Matches(read.etag))
            .await;
        match written {
            Ok(_) => replaced += 1,
            Err(WorkspaceError::Precondition { current }) => {
                assert_ne!(current, Some(read.etag));
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    writing.await.unwrap();
    assert!(replaced + refused > 0);
}

#[tokio::test]
async fn files_that_a_session_begins_with_are_there_and_read_only_ones_stay() {
    let f = fixture().await;
    let starter = |name: &str, kept| Starter {
        path: path(name),
        bytes: name.as_bytes().to_vec(),
        kept,
    };
    let files = vec![
        starter("rules/fixed.md", Kept::ReadOnly),
        starter("notes.md", Kept::Changeable),
    ];
    f.files.start_with(f.session, files).await.unwrap();
    assert_eq!(f.get("rules/fixed.md").await.unwrap().unwrap(), b"rules/fixed.md");
    f.put("notes.md", b"other").await.unwrap();
    f.put("rules/more.md", b"other").await.unwrap();
    for name in ["rules/fixed.md", "rules"] {
        let deleted = f.files.delete(f.session, &path(name), Precondition::Any).await;
        assert!(matches!(deleted, Err(WorkspaceError::ReadOnly { .. })), "{deleted:?}");
    }
    let put = f.put("rules/fixed.md", b"other").await;
    assert!(matches!(put, Err(WorkspaceError::ReadOnly { .. })), "{put:?}");
    assert!(f.files.remove(f.session).await.unwrap());
}

#[tokio::test]
async fn a_session_begins_with_all_of_its_files_or_with_none() {
    let f = fixture().await;
    let starter = |name: &str| Starter {
        path: path(name),
        bytes: Vec::new(),
        kept: Kept::ReadOnly,
    };
    let files = vec![starter("a"), starter("b"), starter("a")];
    assert!(f.files.start_with(f.session, files).await.is_err());
    assert_eq!(fs::read_dir(f.dir.path().join("workspaces")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_an_interrupted_write_left_is_swept_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).await.unwrap();
    let left = dir.path().join("workspaces.new/x");
    fs::create_dir_all(left.parent().unwrap()).unwrap();
    fs::write(&left, b"half").unwrap();
    Workspaces::open(&data, Quota::default()).unwrap();
    assert!(!left.exists());
}
