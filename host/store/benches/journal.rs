//! How many events become durable in a second when 64 turns append one at a time, each waiting for its own; and what SQLite does by
//! itself with the same bytes in the same table, the same number of rows in a transaction.
//!
//! On the disk of the directory for temporary files: set `TMPDIR` to try another.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use fumehood_core::{
    content::Content,
    event::{EventBody, NewEvent, Source},
    id::{EventId, SessionId, TurnId},
    name::{AgentName, OrgName},
    now,
    turn::Budget,
};
use fumehood_policy::authority::SessionNarrowing;
use fumehood_store::{
    Store, StoreUrl,
    record::{IfBusy, NewTurn, Session},
};
use serde_json::json;
use sqlx::{
    Connection as _,
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous},
};
use std::{path::Path, sync::Arc, time::Instant};

const TURNS: usize = 64;
const EVENTS: usize = 400;
/// Each is measured so often, by turns, and the best of each is told: what else the machine does only makes it slower.
const ROUNDS: usize = 5;

fn main() {
    // Cargo passes `--bench`; what else there is says which benchmarks to run.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if wanted.is_some_and(|wanted| !"journal".contains(&wanted)) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut ours, mut bare) = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        ours = ours.max(runtime.block_on(appended()));
        bare = bare.max(runtime.block_on(inserted()));
    }
    println!("| durable events per second, {TURNS} turns at a time | SQLite alone | ratio |\n|---|---|---|");
    println!("| {ours:.0} | {bare:.0} | {:.2}× |", ours / bare);
}

fn per_second(begun: Instant) -> f64 {
    (TURNS * EVENTS) as f64 / begun.elapsed().as_secs_f64()
}

fn body(turn: usize, n: usize) -> EventBody {
    EventBody::TextCompleted {
        step: n as u64,
        text: format!(
            "The {n}th answer of turn {turn}: a table of measurements with three columns, time, place and value."
        ),
    }
}

/// Through the store.
async fn appended() -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let opened = fumehood_store::open(dir.path(), &StoreUrl::InDataDir).await.unwrap();
    let org = OrgName::default_org();
    opened.store.create_org(&org).await.unwrap();
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        turns.push(turn(&*opened.store, &org).await);
    }
    let begun = Instant::now();
    let mut appending = tokio::task::JoinSet::new();
    for (at, (session, turn)) in turns.into_iter().enumerate() {
        let (store, org) = (Arc::clone(&opened.store), org.clone());
        appending.spawn(async move {
            for n in 0..EVENTS {
                let event = NewEvent {
                    turn: Some(turn),
                    source: Source::Model,
                    body: body(at, n),
                };
                store.append(&org, session, &[event]).await.unwrap();
            }
        });
    }
    appending.join_all().await;
    let rate = per_second(begun);
    opened.close().await;
    rate
}

async fn turn(store: &dyn Store, org: &OrgName) -> (SessionId, TurnId) {
    let agent = AgentName::new("assistant").unwrap();
    let session = Session {
        id: SessionId::new(),
        org: org.clone(),
        agent: agent.clone(),
        title: None,
        metadata: json!({}),
        narrowing: SessionNarrowing::default(),
        created: now(),
        updated: now(),
        archived: None,
    };
    let created = NewEvent {
        turn: None,
        source: Source::Client,
        body: EventBody::SessionCreated {
            agent,
            title: None,
            forked_from: None,
        },
    };
    store.create_session(&session, &[created]).await.unwrap();
    let new = NewTurn {
        id: TurnId::new(),
        input: vec![Content::text("hi")],
        system: None,
        budget: Budget::default(),
        output_schema: None,
        tools: Vec::new(),
        record: false,
        idempotency: None,
        replaces: None,
        ends: None,
        if_busy: IfBusy::Refuse,
    };
    store.accept_turn(org, session.id, &new).await.unwrap().unwrap();
    (session.id, new.id)
}

/// The same rows, by nothing but SQLite.
async fn inserted() -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let mut database = bare(&dir.path().join("bare.db")).await;
    let turns: Vec<_> = (0..TURNS).map(|_| (SessionId::new(), TurnId::new())).collect();
    let begun = Instant::now();
    for n in 0..EVENTS {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut database).await.unwrap();
        for (at, (session, turn)) in turns.iter().enumerate() {
            sqlx::query("INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")
                .bind(&session.uuid().as_bytes()[..])
                .bind(i64::try_from(n).unwrap())
                .bind(&EventId::new().uuid().as_bytes()[..])
                .bind(now().timestamp_nanos_opt())
                .bind(&turn.uuid().as_bytes()[..])
                .bind(r#"{"kind":"model"}"#)
                .bind(serde_json::to_string(&body(at, n)).unwrap())
                .execute(&mut database)
                .await
                .unwrap();
        }
        sqlx::query("COMMIT").execute(&mut database).await.unwrap();
    }
    let rate = per_second(begun);
    database.close().await.unwrap();
    rate
}

async fn bare(file: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    let schema = "CREATE TABLE events (session BLOB NOT NULL, seq INTEGER NOT NULL, id BLOB NOT NULL, time INTEGER NOT NULL, \
         turn BLOB, source TEXT NOT NULL, body TEXT NOT NULL) STRICT; \
         CREATE UNIQUE INDEX events_in_order ON events (session, seq); \
         CREATE INDEX events_of_turn ON events (session, turn, seq) WHERE turn IS NOT NULL;";
    sqlx::raw_sql(schema).execute(&mut database).await.unwrap();
    database
}
