//! Of a deleted org nothing is left, and of the others nothing is missing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_core::{
    call::Output,
    content::Content,
    digest::Digest,
    event::{EventBody, NewEvent, Source},
    id::{CallId, CallbackId, KeyId, SessionId, TurnId},
    name::{AgentName, ComponentName, OrgName, SecretName, ToolName},
    now,
    turn::Budget,
};
use fumehood_policy::{authority::SessionNarrowing, manifest::Manifest};
use fumehood_store::{
    Opened, Problem, StoreUrl,
    callbacks::Giving,
    deletion::{DeleteOrgError, delete_org},
    examine::{Depth, examine},
    record::{Component, IfBusy, Key, NewTurn, Owner, Session},
    workspace::{Precondition, WorkspacePath},
};
use secrecy::SecretString;
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use std::path::Path;

const URL: StoreUrl = StoreUrl::InDataDir;
/// In all that the org has.
const MARKER: &str = "kumquat7312";

async fn open(dir: &Path) -> Opened {
    fumehood_store::open(dir, &URL).await.unwrap()
}

fn org(name: &str) -> OrgName {
    OrgName::new(name).unwrap()
}

fn remark(text: &str) -> NewEvent {
    NewEvent {
        turn: None,
        source: Source::Host,
        body: EventBody::TextCompleted {
            step: 1,
            text: text.into(),
        },
    }
}

/// Everything an org can have, with this word in it.
async fn lives(opened: &Opened, org: &OrgName, word: &str) -> SessionId {
    let store = &opened.store;
    store.create_org(org).await.unwrap();
    let key = Key {
        id: KeyId::new(),
        org: org.clone(),
        label: word.into(),
        created: now(),
    };
    store.create_key(&key, &Digest::of(word.as_bytes())).await.unwrap();
    let digest = opened.blobs.put(format!("code of {word}").into_bytes()).await.unwrap();
    let name = ComponentName::new(word).unwrap();
    let component = Component {
        name: name.clone(),
        org: org.clone(),
        digest,
        manifest: Manifest::without_requests(name),
        tools: Vec::new(),
        grant: None,
        added: now(),
    };
    store.put_component(&component).await.unwrap();
    let session = Session {
        id: SessionId::new(),
        org: org.clone(),
        agent: AgentName::new("assistant").unwrap(),
        title: Some(word.into()),
        metadata: serde_json::json!({ "word": word }),
        narrowing: SessionNarrowing::default(),
        created: now(),
        updated: now(),
        archived: None,
    };
    store.create_session(&session, &[]).await.unwrap();
    for owner in [Owner::Org(org.clone()), Owner::Session(org.clone(), session.id)] {
        store.kv_set(&owner, word, word.as_bytes()).await.unwrap();
        let name = SecretName::new(word.to_uppercase()).unwrap();
        store
            .secret_set(&owner, &name, &SecretString::from(word))
            .await
            .unwrap();
    }
    let turn = NewTurn {
        id: TurnId::new(),
        input: vec![Content::Text { text: word.into() }],
        system: Some(word.into()),
        budget: Budget::default(),
        output_schema: None,
        tools: Vec::new(),
        record: false,
        idempotency: Some((word.into(), Digest::of(word.as_bytes()))),
        replaces: None,
        ends: None,
        if_busy: IfBusy::Refuse,
    };
    store.accept_turn(org, session.id, &turn).await.unwrap();
    hand_on(opened, org, (session.id, turn.id), word).await;
    // More than one batch of them, and some that fill pages of their own.
    let many: Vec<_> = (0..700).map(|number| remark(&format!("{word} {number}"))).collect();
    store.append(org, session.id, &many).await.unwrap();
    store
        .append(org, session.id, &[remark(&word.repeat(2000))])
        .await
        .unwrap();
    let path = WorkspacePath::new(format!("{word}.txt")).unwrap();
    for text in ["before", "now"] {
        let bytes = format!("{text} {word}").into_bytes();
        opened
            .workspaces
            .write(session.id, &path, bytes, Precondition::Any)
            .await
            .unwrap();
        opened.workspaces.snapshot(session.id).await.unwrap().unwrap();
    }
    session.id
}

/// A call that waits for somebody outside and was given a result.
async fn hand_on(opened: &Opened, org: &OrgName, (session, turn): (SessionId, TurnId), word: &str) {
    let callback = CallbackId::new();
    let detached = NewEvent {
        turn: Some(turn),
        source: Source::Host,
        body: EventBody::ToolDetached {
            call: CallId::new(),
            tool: ToolName::new("build").unwrap(),
            callback,
            token: Digest::of(word.as_bytes()),
            expires: now() + std::time::Duration::from_secs(3600),
            note: Some(word.into()),
        },
    };
    opened.store.append(org, session, &[detached]).await.unwrap();
    let giving = Giving {
        callback,
        request: Digest::of(b"request"),
        result: Ok(Output {
            content: vec![Content::text(word)],
            ..Output::default()
        }),
        at: now(),
    };
    assert!(opened.store.give(&giving).await.unwrap());
}

/// Where the word is: in the bytes or the name of a file.
fn found(dir: &Path, word: &str) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let named = path.file_name().unwrap().to_string_lossy().contains(word);
            let holds = |path: &Path| {
                let bytes = std::fs::read(path).unwrap();
                bytes
                    .windows(word.len())
                    .any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
            };
            if path.is_dir() {
                open.push(path.clone());
            }
            if named || (path.is_file() && holds(&path)) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

async fn is_gone(dir: &Path, other: SessionId) {
    assert_eq!(found(dir, MARKER), Vec::<String>::new());
    assert!(!found(dir, "persimmon").is_empty());
    let looked = examine(dir, &URL, Depth::Everything).await.unwrap();
    assert_eq!(looked.findings, []);
    let opened = open(dir).await;
    assert_eq!(opened.store.orgs().await.unwrap().len(), 1);
    let kept = opened.store.session(&org("rival"), other).await.unwrap().unwrap();
    assert_eq!(kept.title.as_deref(), Some("persimmon"));
    let code = Digest::of(b"code of persimmon");
    assert!(opened.blobs.get(&code).await.unwrap().is_some());
    opened.close().await;
}

#[tokio::test]
async fn nothing_of_a_deleted_org_is_left_in_the_data_directory() {
    let place = tempfile::tempdir().unwrap();
    let opened = open(place.path()).await;
    let session = lives(&opened, &org("doomed"), MARKER).await;
    // What was deleted before, too.
    let owner = Owner::Session(org("doomed"), session);
    opened
        .store
        .kv_set(&owner, "early", MARKER.repeat(1000).as_bytes())
        .await
        .unwrap();
    opened.store.kv_delete(&owner, "early").await.unwrap();
    let other = lives(&opened, &org("rival"), "persimmon").await;
    opened.close().await;
    assert!(found(place.path(), MARKER).len() > 3);
    let deleted = delete_org(open(place.path()).await, &org("doomed")).await.unwrap();
    assert_eq!(deleted.sessions, 1);
    assert_eq!(deleted.code, [Digest::of(b"code of persimmon")].into());
    is_gone(place.path(), other).await;
}

#[tokio::test]
async fn a_deletion_that_was_begun_is_ended_before_anybody_uses_the_store() {
    let place = tempfile::tempdir().unwrap();
    let opened = open(place.path()).await;
    lives(&opened, &org("doomed"), MARKER).await;
    let other = lives(&opened, &org("rival"), "persimmon").await;
    opened.close().await;
    let options = SqliteConnectOptions::new().filename(place.path().join("fumehood.db"));
    let mut raw = options.connect().await.unwrap();
    let begun = "UPDATE orgs SET deleting = 1 WHERE name = 'doomed'";
    sqlx::query(begun).execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    let opened = open(place.path()).await;
    assert_eq!(opened.store.org(&org("doomed")).await.unwrap(), None);
    opened.close().await;
    is_gone(place.path(), other).await;
}

#[tokio::test]
async fn an_org_that_is_not_there_is_told_and_nothing_is_deleted() {
    let place = tempfile::tempdir().unwrap();
    let opened = open(place.path()).await;
    let other = lives(&opened, &org("rival"), "persimmon").await;
    opened.close().await;
    let refused = delete_org(open(place.path()).await, &org("doomed")).await.unwrap_err();
    assert!(matches!(refused, DeleteOrgError::Unknown(_)), "{refused}");
    is_gone(place.path(), other).await;
}

/// Keeps the database file from being written anew, as a full disk would, and nothing else.
async fn hinder(dir: &Path) {
    for statement in [
        "CREATE TABLE odd (x TEXT)",
        "CREATE INDEX odd_by_x ON odd (x)",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = 'CREATE INDEX odd_by_x ON odd (x COLLATE nowhere)' WHERE name = 'odd_by_x'",
    ] {
        raw(dir, statement).await;
    }
}

async fn raw(dir: &Path, statement: &'static str) {
    let options = SqliteConnectOptions::new()
        .filename(dir.join("fumehood.db"))
        .pragma("writable_schema", "ON");
    let mut raw = options.connect().await.unwrap();
    sqlx::query(statement).execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
}

#[tokio::test]
async fn a_database_that_can_not_be_written_anew_keeps_no_host_from_starting_and_is_when_it_can() {
    let place = tempfile::tempdir().unwrap();
    let opened = open(place.path()).await;
    lives(&opened, &org("doomed"), MARKER).await;
    let other = lives(&opened, &org("rival"), "persimmon").await;
    opened.close().await;
    hinder(place.path()).await;
    let deleted = delete_org(open(place.path()).await, &org("doomed")).await.unwrap();
    assert!(deleted.not_erased.unwrap().contains("nowhere"));

    let opened = open(place.path()).await;
    assert_eq!(opened.store.org(&org("doomed")).await.unwrap(), None);
    opened.close().await;

    raw(place.path(), "DROP INDEX odd_by_x").await;
    let looked = examine(place.path(), &URL, Depth::Database).await.unwrap();
    assert!(
        matches!(&looked.findings[..], [finding] if matches!(finding.problem, Problem::Unfinished(_)) && !finding.is_damage()),
        "{:?}",
        looked.findings
    );
    open(place.path()).await.close().await;
    raw(place.path(), "DROP TABLE odd").await;
    is_gone(place.path(), other).await;
}

#[tokio::test]
async fn what_another_program_keeps_from_being_written_anew_is_not_called_erased_and_is_at_the_next_start() {
    let place = tempfile::tempdir().unwrap();
    let opened = open(place.path()).await;
    lives(&opened, &org("doomed"), MARKER).await;
    let other = lives(&opened, &org("rival"), "persimmon").await;
    let options = SqliteConnectOptions::new().filename(place.path().join("fumehood.db"));
    let mut reader = options.connect().await.unwrap();
    for statement in ["BEGIN", "SELECT count(*) FROM events"] {
        sqlx::query(statement).execute(&mut reader).await.unwrap();
    }
    let deleted = delete_org(opened, &org("doomed")).await.unwrap();
    assert!(deleted.not_erased.unwrap().contains("another program reads it"));
    reader.close().await.unwrap();
    open(place.path()).await.close().await;
    is_gone(place.path(), other).await;
}

#[tokio::test]
async fn a_session_whose_deletion_was_decided_reads_as_not_there_and_is_gone_when_the_store_is_opened_next() {
    let place = tempfile::tempdir().unwrap();
    let opened = open(place.path()).await;
    let doomed = lives(&opened, &org("doomed"), MARKER).await;
    let other = lives(&opened, &org("rival"), "persimmon").await;
    opened.close().await;
    raw(place.path(), "UPDATE sessions SET deleting = 1 WHERE org = 'doomed'").await;
    let looked = examine(place.path(), &URL, Depth::Everything).await.unwrap();
    assert!(
        matches!(&looked.findings[..], [finding] if matches!(finding.problem, Problem::Unfinished(_))),
        "{:?}",
        looked.findings
    );
    let opened = open(place.path()).await;
    assert_eq!(opened.store.session(&org("doomed"), doomed).await.unwrap(), None);
    let owner = Owner::Session(org("doomed"), doomed);
    assert_eq!(opened.store.kv_get(&owner, MARKER).await.unwrap(), None);
    assert_eq!(
        opened.store.events(&org("rival"), other, 0, 1000).await.unwrap().len(),
        703
    );
    assert!(!place.path().join("workspaces").join(doomed.to_string()).exists());
    opened.close().await;
    let looked = examine(place.path(), &URL, Depth::Everything).await.unwrap();
    assert_eq!(looked.findings, []);
}
