//! The SQLite store keeps every promise; stores that break one are caught.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use async_trait::async_trait;
use fumehood_core::id::SessionId;
use fumehood_store::{
    DataDir, EmptyDatabase, MasterKey, SqliteStore, Store, StoreUrl,
    conformance::{self, Factory, Failure},
};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use std::sync::Arc;
use tokio::sync::Mutex;

mod broken;

use broken::{Broken, Fault};

/// Opens one SQLite store after the other in the same directory.
struct Sqlite {
    dir: tempfile::TempDir,
    master: MasterKey,
    last: Mutex<Option<SqliteStore>>,
}

impl Sqlite {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            master: MasterKey::random().unwrap(),
            last: Mutex::new(None),
        }
    }

    async fn reopen(&self) -> SqliteStore {
        let mut last = self.last.lock().await;
        if let Some(last) = last.take() {
            last.close().await;
        }
        let data_dir = DataDir::open(self.dir.path()).await.unwrap();
        let keys = self.master.clone().into();
        let store = SqliteStore::open_within(&data_dir, &StoreUrl::InDataDir, &keys, conformance::KV_QUOTA)
            .await
            .unwrap();
        last.insert(store).clone()
    }
}

#[async_trait]
impl Factory for Sqlite {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.reopen().await)
    }

    async fn decide_deletion(&self, session: SessionId) {
        let options = SqliteConnectOptions::new().filename(self.dir.path().join("fumehood.db"));
        let mut database = options.connect().await.unwrap();
        let decided = sqlx::query("UPDATE sessions SET deleting = 1 WHERE id = ?1")
            .bind(&session.uuid().as_bytes()[..])
            .execute(&mut database)
            .await
            .unwrap();
        assert_eq!(decided.rows_affected(), 1);
        database.close().await.unwrap();
    }
}

struct WithFault {
    sound: Sqlite,
    fault: Fault,
}

#[async_trait]
impl Factory for WithFault {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(Broken::new(self.sound.reopen().await, self.fault))
    }

    async fn decide_deletion(&self, session: SessionId) {
        self.sound.decide_deletion(session).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sqlite_store_keeps_every_promise() {
    let factory = Sqlite::new();
    assert_eq!(conformance::run(&factory).await, []);
    assert_eq!(factory.reopen().await.check().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_empty_database_keeps_every_promise() {
    let made = tempfile::tempdir().unwrap();
    let empty = EmptyDatabase::make(made.path()).await.unwrap();
    let factory = Sqlite::new();
    std::fs::write(factory.dir.path().join("fumehood.db"), empty.bytes()).unwrap();
    assert_eq!(conformance::run(&factory).await, []);
    assert_eq!(factory.reopen().await.check().await.unwrap(), []);
}

async fn caught(fault: Fault, promise: &str) {
    let factory = WithFault {
        sound: Sqlite::new(),
        fault,
    };
    let failures: Vec<Failure> = conformance::run(&factory).await;
    assert!(
        failures.iter().any(|failure| failure.promise == promise),
        "{fault:?}: {failures:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_uses_a_place_twice_is_caught() {
    caught(
        Fault::ReusesPlaces,
        "a journal counts from 1 without a gap and is read in order",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_reads_whatever_is_asked_for_is_caught() {
    caught(
        Fault::ReadsWithoutBound,
        "a page of events ends at its bytes but for a single event, and the pages are the journal",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_leaks_across_orgs_is_caught() {
    caught(
        Fault::LeaksSessions,
        "sessions, turns and journals of another org read as absent",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_splits_appends_is_caught() {
    caught(Fault::SplitsAppends, "many appends at once leave no gap and no double").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_forgets_is_caught() {
    caught(
        Fault::LosesKeyValues,
        "everything is there after closing and opening again",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_ignores_idempotency_keys_is_caught() {
    caught(Fault::IgnoresIdempotency, "the same idempotency key makes one turn").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_goes_back_without_looking_is_caught() {
    caught(
        Fault::RewindsWhatChanged,
        "a session whose turns are others than those to be undone does not go back",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_gives_the_last_of_a_budget_to_everybody_is_caught() {
    caught(
        Fault::HoldsNothing,
        "of many who want the last of a budget at once one gets it",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_counts_tokens_and_money_only_is_caught() {
    caught(
        Fault::CountsNoWork,
        "steps, calls of tools and the time of work are counted with the events that tell them, each once",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lets_no_turn_wait_is_caught() {
    caught(
        Fault::ForgetsWhoMayWait,
        "turns that may wait are worked in the order in which they came",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_forgets_what_was_seen_is_caught() {
    caught(
        Fault::ForgetsWhatWasSeen,
        "of many who act on the same sight of a turn one does",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_ends_a_turn_for_one_that_it_refuses_is_caught() {
    caught(
        Fault::EndsBeforeLooking,
        "a new turn that can't undo what it was to undo ends none either",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lets_an_earlier_holder_write_is_caught() {
    caught(
        Fault::ForgetsWhoHolds,
        "who held a turn before another writes nothing more for it",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fires_a_schedule_for_everybody_is_caught() {
    caught(
        Fault::FiresForEverybody,
        "of many who fire a schedule for the same time one does",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_sessions_beyond_the_bound_is_caught() {
    caught(
        Fault::CountsNoSessions,
        "of sessions made at once an org keeps no more than it may",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_forgets_what_is_to_be_cancelled_is_caught() {
    caught(
        Fault::ForgetsCancels,
        "a turn that is to be cancelled is known as one to who takes it, until it ends",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_loses_the_last_event_is_caught() {
    caught(
        Fault::LosesTheLastEvent,
        "many appends at once leave no gap and no double",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_keeps_an_event_twice_is_caught() {
    caught(Fault::DoublesAnEvent, "many appends at once leave no gap and no double").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_reads_events_in_another_order_is_caught() {
    caught(
        Fault::ReordersEvents,
        "a journal counts from 1 without a gap and is read in order",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_gives_a_turn_to_two_hosts_is_caught() {
    caught(
        Fault::TakesWhatIsHeld,
        "a turn is one host's until its lease ends, and another's then",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_forgets_that_a_schedule_fired_is_caught() {
    caught(
        Fault::ForgetsThatItFired,
        "a schedule that fires makes its session, its turn and its next time at once",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_keeps_what_was_deleted_is_caught() {
    caught(
        Fault::ForgetsDeletions,
        "a deleted session is gone with everything of it",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_uses_what_is_being_deleted_is_caught() {
    caught(
        Fault::UsesWhatGoes,
        "a session whose deletion is decided is answered for as one that never was, before its rows are gone",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_ends_no_deletion_is_caught() {
    caught(
        Fault::EndsNoDeletion,
        "what is left of a decided deletion is deleted by who ends deletions",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_deletes_what_is_held_is_caught() {
    caught(
        Fault::DeletesWhatIsHeld,
        "a session that is held is not deleted for its age",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_ends_jobs_that_run_is_caught() {
    caught(
        Fault::EndsWhatRuns,
        "what happens in a job is told by who took it, until its end, and that is told once",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_every_result_is_caught() {
    caught(
        Fault::TakesEveryResult,
        "of many results that are given to one call one is kept",
    )
    .await;
}
