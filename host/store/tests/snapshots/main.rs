//! The states of workspaces: kept cheaply, gone back to whole, whatever comes between.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod belonging;
mod crashes;
mod room;

use fumehood_core::{
    Time,
    digest::Digest,
    event::{EventBody, NewEvent, Source},
    id::{EventId, SessionId, TurnId},
    name::{AgentName, OrgName},
    now,
    rewind::FilesRewound,
    turn::{Budget, StopReason},
};
use fumehood_files::{Create, Open, OpenFile, Opened};
use fumehood_policy::authority::SessionNarrowing;
use fumehood_store::{
    Quotas, StoreUrl, WorkspaceError, WorkspacePath, Workspaces,
    record::{Accepted, IfBusy, NewRewind, NewTurn, Rewound, Session, Turn},
    workspace::{Kept, Precondition, Quota, Ready, Starter, TakenAlong},
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

struct House {
    dir: tempfile::TempDir,
    opened: fumehood_store::Opened,
    quotas: Quotas,
    org: OrgName,
    session: SessionId,
}

impl House {
    async fn new() -> Self {
        Self::with(Quotas::default()).await
    }

    async fn with(quotas: Quotas) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let opened = fumehood_store::open_with(dir.path(), &StoreUrl::InDataDir, quotas)
            .await
            .unwrap();
        let org = OrgName::default_org();
        if opened.store.org(&org).await.unwrap().is_none() {
            opened.store.create_org(&org).await.unwrap();
        }
        let time = now();
        let session = Session {
            id: SessionId::new(),
            org: org.clone(),
            agent: AgentName::new("assistant").unwrap(),
            title: None,
            metadata: serde_json::json!({}),
            narrowing: SessionNarrowing::default(),
            created: time,
            updated: time,
            archived: None,
        };
        opened.store.create_session(&session, &[]).await.unwrap();
        Self {
            dir,
            opened,
            quotas,
            org,
            session: session.id,
        }
    }

    /// As after a crash: nothing is finished.
    async fn reopened(self) -> Self {
        let Self {
            dir,
            opened,
            quotas,
            org,
            session,
        } = self;
        opened.close().await;
        let opened = fumehood_store::open_with(dir.path(), &StoreUrl::InDataDir, quotas)
            .await
            .unwrap();
        Self {
            dir,
            opened,
            quotas,
            org,
            session,
        }
    }

    fn files(&self) -> &Workspaces {
        &self.opened.workspaces
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("workspaces").join(self.session.to_string())
    }

    /// What is ready to be put back.
    fn staged(&self) -> PathBuf {
        self.dir
            .path()
            .join("workspaces.restoring")
            .join(self.session.to_string())
    }

    async fn text(&self, path: &str) -> String {
        let read = self.files().read(self.session, &path.parse().unwrap()).await;
        String::from_utf8(read.unwrap().unwrap().bytes).unwrap()
    }

    fn kept(&self) -> PathBuf {
        self.dir.path().join("snapshots").join(self.session.to_string())
    }

    async fn put(&self, path: &str, text: &str) {
        let path: WorkspacePath = path.parse().unwrap();
        let written = self.files().write(self.session, &path, text.into(), Precondition::Any);
        written.await.unwrap();
    }

    async fn delete(&self, path: &str) {
        let path: WorkspacePath = path.parse().unwrap();
        assert!(
            self.files()
                .delete(self.session, &path, Precondition::Any)
                .await
                .unwrap()
        );
    }

    async fn snapshot(&self) -> Digest {
        self.files().snapshot(self.session).await.unwrap().unwrap()
    }

    async fn ready(&self, event: EventId, state: Digest) -> Ready {
        self.files()
            .make_ready(self.session, event, state, Vec::new())
            .await
            .unwrap()
    }

    /// Goes back to a state.
    async fn back(&self, state: Digest) -> FilesRewound {
        let ready = self.ready(EventId::new(), state).await;
        let files = ready.files;
        self.files().put_back(ready).await.unwrap();
        files
    }

    async fn turn(&self) -> Turn {
        let new = NewTurn {
            id: TurnId::new(),
            input: Vec::new(),
            system: None,
            budget: Budget::default(),
            output_schema: None,
            tools: Vec::new(),
            record: false,
            idempotency: None,
            ends: None,
            replaces: None,
            if_busy: IfBusy::Refuse,
        };
        let accepted = self
            .opened
            .store
            .accept_turn(&self.org, self.session, &new)
            .await
            .unwrap();
        let Some(Accepted::New(turn, _)) = accepted else {
            panic!("{accepted:?}")
        };
        let end = NewEvent {
            turn: Some(turn.id),
            source: Source::Host,
            body: EventBody::TurnCompleted {
                stop_reason: StopReason::EndTurn,
                output: Vec::new(),
                usage: None,
                cost: None,
                worked_ms: None,
            },
        };
        self.opened.store.append(&self.org, self.session, &[end]).await.unwrap();
        turn
    }

    /// The journal says that it goes back.
    async fn decide(&self, event: EventId, turn: &Turn) {
        let rewind = NewRewind {
            id: event,
            after: turn.first_seq - 1,
            turns: vec![turn.id],
            files: FilesRewound::Restored,
            outside: Vec::new(),
            outside_more: 0,
        };
        let rewound = self
            .opened
            .store
            .rewind(&self.org, self.session, &rewind)
            .await
            .unwrap();
        assert!(matches!(rewound, Some(Rewound::Done(_))), "{rewound:?}");
    }

    /// A file that a guest has open.
    async fn guest(&self, path: &str) -> OpenFile {
        let tree = self.files().tree(self.session).await.unwrap();
        let how = Open {
            write: true,
            create: Create::IfAbsent,
            ..Open::default()
        };
        match tree.open_at(tree.root(), path, &how).unwrap() {
            Opened::File(file) => file,
            Opened::Directory(_) => panic!("a directory"),
        }
    }
}

/// Everything below a directory: modes, targets and bytes.
fn all(root: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let bytes = if metadata.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if metadata.is_dir() {
                open.push(path);
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(name, (metadata.permissions().mode(), bytes));
        }
    }
    found
}

#[tokio::test]
async fn a_session_goes_back_to_the_files_it_had() {
    let house = House::new().await;
    house.put("same", "same").await;
    house.put("changed", "old").await;
    house.put("gone/deep/file", "kept").await;
    symlink("same", house.root().join("link")).unwrap();
    let before = all(&house.root());
    let state = house.snapshot().await;

    house.put("changed", "new").await;
    house.delete("gone/deep/file").await;
    house.delete("gone/deep").await;
    house.put("gone/deep", "a file where a directory was").await;
    house.put("more/of/it", "new").await;
    fs::remove_file(house.root().join("link")).unwrap();
    symlink("changed", house.root().join("link")).unwrap();
    let usage_of_more = house.files().usage(house.session).await.unwrap();

    assert_eq!(house.back(state).await, FilesRewound::Restored);
    assert_eq!(all(&house.root()), before);
    let usage = house.files().usage(house.session).await.unwrap();
    assert_eq!(
        (usage.bytes, usage.entries),
        (4 + 3 + 4, 6),
        "by the account; before: {usage_of_more:?}"
    );
    assert_eq!(house.snapshot().await, state, "it is the same state");
    assert_eq!(house.back(state).await, FilesRewound::Unchanged);
}

#[tokio::test]
async fn a_state_has_one_name_as_long_as_nothing_changes() {
    let house = House::new().await;
    let empty = house.snapshot().await;
    assert!(!house.kept().exists(), "a session without files keeps nothing");
    house.put("a", "one").await;
    let one = house.snapshot().await;
    assert_ne!(one, empty);
    assert_eq!(house.snapshot().await, one);
    house.put("a", "two").await;
    let two = house.snapshot().await;
    assert_ne!(two, one);
    house.put("a", "one").await;
    assert_eq!(
        house.snapshot().await,
        one,
        "what is in it counts, not when it was written"
    );
    let house = house.reopened().await;
    assert_eq!(house.snapshot().await, one);
    assert_eq!(house.back(two).await, FilesRewound::Restored);
    assert_eq!(house.back(empty).await, FilesRewound::Restored);
    assert!(all(&house.root()).is_empty());
}

#[tokio::test]
async fn what_a_guest_writes_in_place_changes_nothing_that_is_kept() {
    let house = House::new().await;
    let file = house.guest("a").await;
    file.write_at(0, b"one").unwrap();
    let one = house.snapshot().await;
    file.write_at(0, b"two").unwrap();
    assert_ne!(house.snapshot().await, one);
    assert_eq!(house.back(one).await, FilesRewound::Restored);
    assert_eq!(fs::read(house.root().join("a")).unwrap(), b"one");
    file.write_at(0, b"six").unwrap();
    assert_eq!(
        fs::read(house.root().join("a")).unwrap(),
        b"one",
        "it goes on with the file it has"
    );
    house.guest("a").await.write_at(0, b"ten").unwrap();
    assert_eq!(
        house.back(one).await,
        FilesRewound::Restored,
        "what was put back is a copy"
    );
}

#[tokio::test]
async fn read_only_files_are_put_back_as_such() {
    let house = House::new().await;
    let starter = Starter {
        path: "given/rules".parse().unwrap(),
        bytes: b"rules".to_vec(),
        kept: Kept::ReadOnly,
    };
    house.files().start_with(house.session, vec![starter]).await.unwrap();
    let before = all(&house.root());
    let state = house.snapshot().await;
    house.put("given/more", "x").await;
    // Only the operator can.
    fs::remove_file(house.root().join("given/rules")).unwrap();
    assert_eq!(house.back(state).await, FilesRewound::Restored);
    assert_eq!(all(&house.root()), before);
    let refused = house
        .files()
        .write(
            house.session,
            &"given/rules".parse().unwrap(),
            b"x".to_vec(),
            Precondition::Any,
        )
        .await;
    assert!(matches!(refused, Err(WorkspaceError::ReadOnly { .. })), "{refused:?}");
}

#[tokio::test]
async fn what_others_changed_meanwhile_is_named_as_lost() {
    let house = House::new().await;
    house.put("a", "1").await;
    let state = house.snapshot().await;
    house.put("a", "2").await;
    house.put("b", "2").await;
    let during = |times: Vec<(Time, Time)>| {
        let files = house.files().clone();
        async move {
            let ready = files
                .make_ready(house.session, EventId::new(), state, times)
                .await
                .unwrap();
            let found = (ready.changed, ready.lost.clone(), ready.lost_more);
            files.discard(ready).await.unwrap();
            found
        }
    };
    let lost: Vec<String> = ["a", "b"].map(Into::into).into();
    assert_eq!(during(Vec::new()).await, (2, lost, 0));
    let then = now() - chrono_hour();
    assert_eq!(during(vec![(then, now() + chrono_hour())]).await, (2, Vec::new(), 0));
    assert_eq!(
        fs::read(house.root().join("a")).unwrap(),
        b"2",
        "nothing is changed before it is decided"
    );
}

fn chrono_hour() -> std::time::Duration {
    std::time::Duration::from_secs(3600)
}

#[tokio::test]
async fn who_keeps_no_states_goes_back_to_none() {
    let house = House::new().await;
    let empty = house.snapshot().await;
    house.put("a", "1").await;
    let one = house.snapshot().await;
    house.put("a", "2").await;
    let quotas = Quotas {
        snapshots: 0,
        ..Quotas::default()
    };
    let house = House { quotas, ..house };
    let house = house.reopened().await;
    assert!(!house.kept().exists(), "what was kept is freed");
    for state in [empty, one] {
        assert_eq!(house.back(state).await, FilesRewound::Unavailable);
        let taken = house.files().take_along(house.session, SessionId::new(), Some(state));
        assert_eq!(taken.await.unwrap(), TakenAlong::Unavailable);
    }
    assert_eq!(house.text("a").await, "2");
    let other = SessionId::new();
    assert_eq!(
        house.files().snapshot(other).await.unwrap(),
        None,
        "not even that there is nothing"
    );
}

#[tokio::test]
async fn a_plan_that_was_not_finished_is_thrown_away() {
    let house = House::new().await;
    house.put("a", "1").await;
    let half = house
        .dir
        .path()
        .join("workspaces.restoring")
        .join(house.session.to_string());
    fs::create_dir(&half).unwrap();
    fs::write(half.join("0"), "half").unwrap();
    fs::write(half.join("plan.json.new"), "{").unwrap();
    let house = house.reopened().await;
    assert!(!half.exists());
    assert_eq!(fs::read(house.root().join("a")).unwrap(), b"1");
}

#[tokio::test]
async fn damaged_bytes_are_never_put_back() {
    let house = House::new().await;
    house.put("a", "1").await;
    let state = house.snapshot().await;
    house.put("a", "2").await;
    let kept = house.kept().join("bytes").join(Digest::of(b"1").to_hex());
    fs::remove_file(&kept).unwrap();
    fs::write(&kept, "x").unwrap();
    assert_eq!(house.back(state).await, FilesRewound::Unavailable);
    assert_eq!(fs::read(house.root().join("a")).unwrap(), b"2");
    fs::remove_file(&kept).unwrap();
    assert_eq!(house.back(state).await, FilesRewound::Unavailable);
}

#[tokio::test]
async fn what_can_not_be_put_back_is_not_kept() {
    let house = House::new().await;
    house.put("a", "1").await;
    let deep = "deeper/".repeat(200);
    fs::create_dir_all(house.root().join(deep)).unwrap();
    assert_eq!(house.files().snapshot(house.session).await.unwrap(), None);
    assert_eq!(fs::read(house.root().join("a")).unwrap(), b"1");
}

#[tokio::test]
async fn nothing_is_left_of_a_session_that_is_deleted() {
    let house = House::new().await;
    house.put("a", "1").await;
    let state = house.snapshot().await;
    assert!(house.kept().exists());
    house.files().retire(house.session).await.unwrap();
    assert!(!house.kept().exists());
    house.files().restore(house.session).await.unwrap();
    house.put("a", "2").await;
    assert_eq!(
        house.back(state).await,
        FilesRewound::Restored,
        "it was not deleted after all"
    );

    house.files().retire(house.session).await.unwrap();
    let house = house.reopened().await;
    assert!(house.kept().exists(), "a crash before the session is deleted");
    house.files().retire(house.session).await.unwrap();
    house
        .opened
        .store
        .delete_session(&house.org, house.session)
        .await
        .unwrap();
    let house = house.reopened().await;
    assert!(!house.kept().exists(), "a crash after it");
    assert_eq!(
        fs::read_dir(house.dir.path().join("workspaces.gone")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn the_files_of_a_session_are_taken_along_as_they_are_or_as_they_were() {
    let house = House::new().await;
    let (to, then) = (SessionId::new(), SessionId::new());
    let taken = house.files().take_along(house.session, to, None).await.unwrap();
    assert_eq!(taken, TakenAlong::Nothing);
    house.put("dir/a", "1").await;
    symlink("dir/a", house.root().join("link")).unwrap();
    let first = all(&house.root());
    let state = house.snapshot().await;
    house.put("dir/a", "2").await;
    let second = all(&house.root());

    let at = |session: SessionId| house.dir.path().join("workspaces").join(session.to_string());
    assert_eq!(
        house.files().take_along(house.session, to, None).await.unwrap(),
        TakenAlong::All
    );
    assert_eq!(all(&at(to)), second);
    let taken = house
        .files()
        .take_along(house.session, then, Some(state))
        .await
        .unwrap();
    assert_eq!(taken, TakenAlong::All);
    assert_eq!(all(&at(then)), first);
    let unknown = Some(Digest::of(b"unknown"));
    let taken = house
        .files()
        .take_along(house.session, SessionId::new(), unknown)
        .await
        .unwrap();
    assert_eq!(taken, TakenAlong::Unavailable);
    house.put("dir/a", "3").await;
    assert_eq!(all(&at(to)), second, "each has its own");
}

#[tokio::test]
async fn clients_that_write_while_it_goes_back_come_before_or_after_it() {
    let house = House::new().await;
    house.put("a", "old").await;
    let state = house.snapshot().await;
    for round in 0..20 {
        house.put("a", "new").await;
        let path: WorkspacePath = "a".parse().unwrap();
        let text = format!("client {round}");
        let write = house
            .files()
            .write(house.session, &path, text.clone().into_bytes(), Precondition::Any);
        let (written, files) = tokio::join!(write, house.back(state));
        written.unwrap();
        let is = fs::read_to_string(house.root().join("a")).unwrap();
        assert!(is == "old" || is == text, "{is}, {files:?}");
    }
}

/// What a turn pays for being undoable; `docs/performance.md` says what came out.
#[tokio::test]
#[ignore = "a measurement"]
async fn what_a_state_of_a_thousand_files_costs() {
    let house = House::new().await;
    for number in 0..1000 {
        house
            .put(&format!("d{}/f{number}", number % 10), &"x".repeat(number))
            .await;
    }
    // Until the times of the files tell a change.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let measure = |what: &'static str| {
        let begun = std::time::Instant::now();
        move || eprintln!("{what}: {:?}", begun.elapsed())
    };
    let done = measure("the first");
    house.snapshot().await;
    done();
    for _ in 0..3 {
        let done = measure("nothing changed");
        house.snapshot().await;
        done();
    }
    for number in 0..3 {
        house.put("d1/f1", &format!("changed {number}")).await;
        let done = measure("one changed");
        house.snapshot().await;
        done();
    }
    let house = house.reopened().await;
    let done = measure("nothing changed, after a restart");
    house.snapshot().await;
    done();
}
