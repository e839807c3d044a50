//! Backups: of one moment, verified, and put back whole or not at all.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_core::{
    id::SessionId,
    name::{AgentName, ComponentName, OrgName, SecretName},
    now,
};
use fumehood_policy::{authority::SessionNarrowing, manifest::Manifest};
use fumehood_store::{
    Opened, StoreUrl,
    backup::{BackupError, LeftOutReason, RestoreError, WithKeys, backup, restore},
    examine::{Depth, examine},
    record::{Component, Owner, Session},
    workspace::{Precondition, WorkspacePath},
};
use secrecy::{ExposeSecret as _, SecretString};
use std::path::{Path, PathBuf};

const URL: StoreUrl = StoreUrl::InDataDir;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn open(&self, name: &str) -> Opened {
        fumehood_store::open(&self.at(name), &URL).await.unwrap()
    }

    async fn backup(&self, to: &str, with_keys: WithKeys) -> fumehood_store::backup::BackupManifest {
        let made = backup(&self.at("data"), &URL, &self.at(to), with_keys).await.unwrap();
        made.manifest
    }
}

fn org() -> OrgName {
    OrgName::default_org()
}

fn path(name: &str) -> WorkspacePath {
    WorkspacePath::new(name).unwrap()
}

async fn write(opened: &Opened, session: SessionId, name: &str, text: &str) {
    let bytes = text.as_bytes().to_vec();
    opened
        .workspaces
        .write(session, &path(name), bytes, Precondition::Any)
        .await
        .unwrap();
}

async fn read(opened: &Opened, session: SessionId, name: &str) -> String {
    let file = opened.workspaces.read(session, &path(name)).await.unwrap().unwrap();
    String::from_utf8(file.bytes).unwrap()
}

/// A store with a session that has files, a state of them, a key-value and a secret, and with a component.
async fn lived_in(opened: &Opened) -> SessionId {
    let store = &opened.store;
    store.create_org(&org()).await.unwrap();
    let session = Session {
        id: SessionId::new(),
        org: org(),
        agent: AgentName::new("assistant").unwrap(),
        title: Some("kept".into()),
        metadata: serde_json::json!({}),
        narrowing: SessionNarrowing::default(),
        created: now(),
        updated: now(),
        archived: None,
    };
    store.create_session(&session, &[]).await.unwrap();
    let owner = Owner::Session(org(), session.id);
    store.kv_set(&owner, "k", b"value").await.unwrap();
    let name = SecretName::new("TOKEN").unwrap();
    store
        .secret_set(&owner, &name, &SecretString::from("hidden"))
        .await
        .unwrap();
    write(opened, session.id, "deep/a.txt", "before").await;
    opened.workspaces.snapshot(session.id).await.unwrap().unwrap();
    write(opened, session.id, "deep/a.txt", "now").await;
    let digest = opened.blobs.put(b"code".to_vec()).await.unwrap();
    let component = Component {
        name: ComponentName::new("part").unwrap(),
        org: org(),
        digest,
        manifest: Manifest::without_requests(ComponentName::new("part").unwrap()),
        tools: Vec::new(),
        grant: None,
        added: now(),
    };
    store.put_component(&component).await.unwrap();
    session.id
}

async fn is_all_there(opened: &Opened, session: SessionId) {
    let store = &opened.store;
    let found = store.session(&org(), session).await.unwrap().unwrap();
    assert_eq!(found.title.as_deref(), Some("kept"));
    let owner = Owner::Session(org(), session);
    assert_eq!(store.kv_get(&owner, "k").await.unwrap().as_deref(), Some(&b"value"[..]));
    assert_eq!(read(opened, session, "deep/a.txt").await, "now");
    let component = store
        .component(&org(), &ComponentName::new("part").unwrap())
        .await
        .unwrap()
        .unwrap();
    let code = opened.blobs.get(&component.digest).await.unwrap();
    assert_eq!(code.as_deref(), Some(&b"code"[..]));
}

#[tokio::test]
async fn a_backup_of_a_host_that_works_is_put_back_with_everything_in_it() {
    for to in ["copy", "copy.tar"] {
        let place = Place::new();
        let opened = place.open("data").await;
        let session = lived_in(&opened).await;
        let manifest = place.backup(to, WithKeys::Yes).await;
        assert_eq!((manifest.sessions, manifest.left_out.len()), (1, 0));
        assert!(manifest.master_key.included && !place.at("copy.partial").exists());
        // Not of the moment any more.
        write(&opened, session, "deep/a.txt", "later").await;
        opened.close().await;

        std::fs::create_dir(place.at("other")).unwrap();
        let restored = restore(&place.at(to), &place.at("other"), &URL).await.unwrap();
        assert_eq!(restored.manifest.at, manifest.at);
        let found = examine(&place.at("other"), &URL, Depth::Everything).await.unwrap();
        assert_eq!(found.findings, []);
        let other = place.open("other").await;
        is_all_there(&other, session).await;
        let secrets = other.store.secrets_in_effect(&org(), Some(session)).await.unwrap();
        assert_eq!(secrets[0].1.expose_secret(), "hidden");
        other.close().await;
        assert!(!place.at("other.restoring").exists());
    }
}

#[tokio::test]
async fn no_key_is_in_a_backup_unless_it_was_asked_for() {
    let place = Place::new();
    let opened = place.open("data").await;
    let session = lived_in(&opened).await;
    opened.close().await;
    std::fs::write(place.at("data").join("key"), "fh_token").unwrap();
    let key = std::fs::read_to_string(place.at("data").join("master.key")).unwrap();
    let manifest = place.backup("copy.tar", WithKeys::No).await;
    assert!(!manifest.master_key.included && manifest.master_key.name.is_some() && !manifest.api_key_included);
    let bytes = std::fs::read(place.at("copy.tar")).unwrap();
    for secret in [key.trim(), "fh_token", "hidden"] {
        assert!(
            !bytes.windows(secret.len()).any(|window| window == secret.as_bytes()),
            "{secret}"
        );
    }
    restore(&place.at("copy.tar"), &place.at("other"), &URL).await.unwrap();
    assert!(
        fumehood_store::open(&place.at("other"), &URL).await.is_err(),
        "its secrets don't open"
    );
    std::fs::copy(
        place.at("data").join("master.key"),
        place.at("other").join("master.key"),
    )
    .unwrap();
    let other = place.open("other").await;
    is_all_there(&other, session).await;
    other.close().await;
}

fn first_file(dir: &Path) -> PathBuf {
    std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
}

#[tokio::test]
async fn what_was_changed_in_a_backup_is_found_before_anything_is_placed() {
    let place = Place::new();
    let opened = place.open("data").await;
    lived_in(&opened).await;
    opened.close().await;
    place.backup("copy", WithKeys::No).await;
    for dir in ["files", "sessions", "components"] {
        let file = first_file(&place.at("copy").join(dir));
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let refused = restore(&place.at("copy"), &place.at("other"), &URL).await.unwrap_err();
        assert!(
            matches!(&refused, RestoreError::Damaged(what) if what.contains("is not there")),
            "{refused}"
        );
        std::fs::write(&file, b"other").unwrap();
        let refused = restore(&place.at("copy"), &place.at("other"), &URL).await.unwrap_err();
        assert!(
            matches!(&refused, RestoreError::Damaged(what) if what.contains("was changed")),
            "{refused}"
        );
        std::fs::write(&file, bytes).unwrap();
    }
    let manifest = place.at("copy").join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    for (what, with, newer) in [("\"format\": 1", "\"format\": 2", true), ("{", "", false)] {
        std::fs::write(&manifest, text.replacen(what, with, 1)).unwrap();
        let refused = restore(&place.at("copy"), &place.at("other"), &URL).await.unwrap_err();
        match refused {
            RestoreError::Newer { .. } => assert!(newer),
            RestoreError::NoBackup { .. } => assert!(!newer),
            other => panic!("{other}"),
        }
    }
    assert!(!place.at("other").exists());
    std::fs::write(&manifest, text).unwrap();
    restore(&place.at("copy"), &place.at("other"), &URL).await.unwrap();
}

#[tokio::test]
async fn nothing_that_is_there_is_written_over() {
    let place = Place::new();
    let opened = place.open("data").await;
    lived_in(&opened).await;
    place.backup("copy.tar", WithKeys::No).await;
    let data = place.at("data");
    for to in ["copy.tar", "data/copy", "data"] {
        let refused = backup(&data, &URL, &place.at(to), WithKeys::No).await.unwrap_err();
        assert!(
            matches!(refused, BackupError::Taken(_) | BackupError::Inside(_)),
            "{refused}"
        );
    }
    let refused = restore(&place.at("copy.tar"), &data, &URL).await.unwrap_err();
    assert!(matches!(refused, RestoreError::Taken(_)), "{refused}");
    let elsewhere = StoreUrl::Sqlite(place.at("elsewhere.db"));
    let refused = restore(&place.at("copy.tar"), &place.at("other"), &elsewhere)
        .await
        .unwrap_err();
    assert!(matches!(refused, RestoreError::Elsewhere(_)), "{refused}");
    assert!(!place.at("other").exists() && !place.at("elsewhere.db").exists());
    opened.close().await;
}

#[tokio::test]
async fn what_a_broken_off_backup_or_restore_left_is_cleared_away_by_the_next() {
    let place = Place::new();
    let opened = place.open("data").await;
    lived_in(&opened).await;
    opened.close().await;
    for left in ["copy.partial", "other.restoring"] {
        std::fs::create_dir_all(place.at(left).join("files")).unwrap();
        std::fs::write(place.at(left).join("files/half"), "half").unwrap();
        std::fs::write(place.at(left).join("fumehood.db"), "half").unwrap();
    }
    let manifest = place.backup("copy", WithKeys::No).await;
    assert!(!manifest.files.contains_key("files/half"));
    restore(&place.at("copy"), &place.at("other"), &URL).await.unwrap();
    assert!(!place.at("copy.partial").exists() && !place.at("other.restoring").exists());
}

#[tokio::test]
async fn files_that_are_no_files_are_left_out_and_named() {
    let place = Place::new();
    let opened = place.open("data").await;
    let session = lived_in(&opened).await;
    opened.close().await;
    let socket = place.at("data").join("workspaces").join(session.to_string()).join("s");
    let _socket = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let manifest = place.backup("copy", WithKeys::Yes).await;
    assert_eq!(manifest.left_out.len(), 1);
    assert_eq!(manifest.left_out[0].reason, LeftOutReason::CannotBeCopied);
    restore(&place.at("copy"), &place.at("other"), &URL).await.unwrap();
}
