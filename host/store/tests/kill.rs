//! What was told to be written is there after the process is killed in the middle of writing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use fumehood_core::{
    event::{EventBody, NewEvent, Source},
    id::SessionId,
    name::{AgentName, OrgName},
    now,
};
use fumehood_policy::authority::SessionNarrowing;
use fumehood_store::{StoreUrl, record::Session};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

/// Names the data directory to the process that is to be killed.
const VARIABLE: &str = "FUMEHOOD_TEST_KILL_DIR";

/// Writes from several tasks, and says each place that was told to be durable, until it is killed.
async fn write_until_killed(dir: &Path) {
    let opened = fumehood_store::open(dir, &StoreUrl::InDataDir).await.unwrap();
    let org = OrgName::default_org();
    opened.store.create_org(&org).await.unwrap();
    let session = Session {
        id: SessionId::new(),
        org: org.clone(),
        agent: AgentName::new("assistant").unwrap(),
        title: None,
        metadata: serde_json::json!({}),
        narrowing: SessionNarrowing::default(),
        created: now(),
        updated: now(),
    };
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
