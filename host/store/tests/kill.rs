//! What was told to be written is there after the process is killed in the middle of writing, and what was half deleted is put right.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use fumehood_core::{
    event::{EventBody, NewEvent, Source},
    id::SessionId,
    name::{AgentName, OrgName},
    now,
};
use fumehood_policy::authority::SessionNarrowing;
use fumehood_store::{StoreUrl, record::Session, workspace::Precondition};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

/// Names the data directory to the process that is to be killed.
const VARIABLE: &str = "FUMEHOOD_TEST_KILL_DIR";

fn session_of(org: &OrgName) -> Session {
    Session {
        id: SessionId::new(),
        org: org.clone(),
        agent: AgentName::new("assistant").unwrap(),
        title: None,
        metadata: serde_json::json!({}),
        narrowing: SessionNarrowing::default(),
        created: now(),
        updated: now(),
        archived: None,
    }
}

/// Writes from several tasks, and says each place that was told to be durable, until it is killed.
async fn write_until_killed(dir: &Path) {
    let opened = fumehood_store::open(dir, &StoreUrl::InDataDir).await.unwrap();
    let org = OrgName::default_org();
    opened.store.create_org(&org).await.unwrap();
    let session = session_of(&org);
    opened.store.create_session(&session, &[]).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, org, session) = (opened.store.clone(), org.clone(), session.id);
        tasks.spawn(async move {
            loop {
                let text = "x".repeat(2000);
                let event = NewEvent {
                    turn: None,
                    source: Source::Host,
                    body: EventBody::TextCompleted { step: 1, text },
                };
                let told = store.append(&org, session, &[event.clone(), event]).await.unwrap();
                // To the pipe itself: the test harness would keep what is printed.
                let line = format!("{session} {}\n", told[1].seq.unwrap());
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_to_be_written_survives_a_kill() {
    if let Some(dir) = std::env::var_os(VARIABLE) {
        return write_until_killed(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_was_told_to_be_written_survives_a_kill", "--nocapture"])
        .env(VARIABLE, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told: Vec<(SessionId, u64)> = Vec::new();
    for line in lines.map_while(Result::ok) {
        // The harness says something of its own, too.
        if let Some((session, place)) = line.rsplit_once(' ')
            && let (Some(at), Ok(place)) = (session.find("ses_"), place.parse())
        {
            told.push((session[at..].parse().unwrap(), place));
        }
        if told.len() == 100 {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(told.len() >= 100, "the writer ended early");

    let opened = fumehood_store::open(dir.path(), &StoreUrl::InDataDir).await.unwrap();
    assert_eq!(opened.check().await.unwrap(), []);
    let last = told.iter().map(|(_, place)| *place).max().unwrap();
    let events = opened
        .store
        .events(&OrgName::default_org(), told[0].0, 0, u32::MAX)
        .await
        .unwrap();
    assert!(
        events.len() as u64 >= last,
        "{} events are kept, {last} were told",
        events.len()
    );
    assert_eq!(events.len() % 2, 0, "half an append is kept");
}

#[tokio::test]
async fn files_of_a_session_that_was_not_deleted_to_the_end_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let org = OrgName::default_org();
    let (kept, deleted) = (session_of(&org), session_of(&org));
    let path: fumehood_store::WorkspacePath = "a/b".parse().unwrap();
    {
        let opened = fumehood_store::open(dir.path(), &StoreUrl::InDataDir).await.unwrap();
        opened.store.create_org(&org).await.unwrap();
        for session in [&kept, &deleted] {
            opened.store.create_session(session, &[]).await.unwrap();
            let written = opened
                .workspaces
                .write(session.id, &path, b"x".to_vec(), Precondition::Any);
            written.await.unwrap();
            opened.workspaces.retire(session.id).await.unwrap();
        }
        // Killed before the one, and after the other was deleted.
        opened.store.delete_session(&org, deleted.id).await.unwrap();
        opened.close().await;
    }
    let opened = fumehood_store::open(dir.path(), &StoreUrl::InDataDir).await.unwrap();
    let read = opened.workspaces.read(kept.id, &path).await.unwrap();
    assert_eq!(read.unwrap().bytes, b"x");
    opened.workspaces.tree(kept.id).await.unwrap();
    assert_eq!(opened.workspaces.read(deleted.id, &path).await.unwrap(), None);
    assert_eq!(
        std::fs::read_dir(dir.path().join("workspaces.gone")).unwrap().count(),
        0
    );
    opened.close().await;
}
