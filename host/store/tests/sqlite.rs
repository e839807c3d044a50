//! What the SQLite store does with databases, keys and rows that are not as it left them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_core::{
    digest::Digest,
    event::{EventBody, NewEvent, Source},
    id::{SessionId, TurnId},
    name::{AgentName, OrgName, SecretName},
    now,
    turn::Budget,
};
use fumehood_policy::authority::SessionNarrowing;
use fumehood_store::{
    Journal as _, KeyValues as _, Leases as _, MasterKey, OpenError, Orgs as _, Problem, Secrets as _, Sessions as _,
    SqliteStore, StoreError, StoreUrl, Turns as _,
    lease::{HostId, Lease, Taken},
    record::{Accepted, IfBusy, NewTurn, Owner, Session},
};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

struct Place {
    dir: tempfile::TempDir,
    master: MasterKey,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            master: MasterKey::random().unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    async fn open(&self) -> Result<SqliteStore, OpenError> {
        let data_dir = fumehood_store::DataDir::open(self.path()).await?;
        SqliteStore::open(&data_dir, &StoreUrl::InDataDir, &self.master).await
    }

    /// Runs statements behind the store's back.
    async fn tamper(&self, statements: &'static str) {
        let mut raw = SqliteConnectOptions::new()
            .filename(self.path().join("fumehood.db"))
            .foreign_keys(false)
            .connect()
            .await
            .unwrap();
        sqlx::raw_sql(statements).execute(&mut raw).await.unwrap();
        raw.close().await.unwrap();
    }
}

fn org() -> OrgName {
    OrgName::default_org()
}

async fn new_session(store: &SqliteStore) -> SessionId {
    if store.org(&org()).await.unwrap().is_none() {
        store.create_org(&org()).await.unwrap();
    }
    let session = Session {
        id: SessionId::new(),
        org: org(),
        agent: AgentName::new("assistant").unwrap(),
        title: None,
        metadata: serde_json::json!({}),
        narrowing: SessionNarrowing::default(),
        created: now(),
        updated: now(),
        archived: None,
    };
    store.create_session(&session, &[]).await.unwrap();
    session.id
}

fn remark() -> NewEvent {
    NewEvent {
        turn: None,
        source: Source::Host,
        body: EventBody::TextCompleted {
            step: 1,
            text: "x".into(),
        },
    }
}

fn new_turn(key: Option<(&str, &[u8])>) -> NewTurn {
    NewTurn {
        id: TurnId::new(),
        input: Vec::new(),
        system: None,
        budget: Budget::default(),
        output_schema: None,
        tools: Vec::new(),
        record: false,
        idempotency: key.map(|(key, request)| (key.into(), Digest::of(request))),
        replaces: None,
        ends: None,
        if_busy: IfBusy::Refuse,
    }
}

fn secret(name: &str) -> SecretName {
    SecretName::new(name).unwrap()
}

#[tokio::test]
async fn the_files_of_the_database_are_for_this_user_only() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    new_session(&store).await;
    for name in ["fumehood.db", "fumehood.db-wal", "fumehood.db-shm"] {
        let mode = place.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_untouched() {
    let place = Place::new();
    place.open().await.unwrap().close().await;
    place
        .tamper("INSERT INTO _sqlx_migrations VALUES (9999, 'later', datetime(), 1, x'00', 0)")
        .await;
    let error = place.open().await.unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 9999, .. }), "{error}");
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_untouched() {
    let place = Place::new();
    let file = place.path().join("fumehood.db");
    let text = "this is no database, but it is long enough to have a header. ".repeat(40);
    std::fs::write(&file, &text).unwrap();
    let error = place.open().await.unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("backup"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[tokio::test]
async fn a_database_with_damaged_pages_never_answers_with_something_else() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let session = new_session(&store).await;
    for _ in 0..20 {
        store
            .append(&org(), session, &[remark(), remark(), remark()])
            .await
            .unwrap();
    }
    store.close().await;
    let file = place.path().join("fumehood.db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[8192..].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();
    match place.open().await {
        Err(error) => assert!(matches!(error, OpenError::Damaged { .. }), "{error}"),
        Ok(store) => {
            let error = store.events(&org(), session, 0, 100).await.unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        }
    }
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_untouched() {
    let place = Place::new();
    let mut raw = SqliteConnectOptions::new()
        .filename(place.path().join("fumehood.db"))
        .create_if_missing(true)
        .connect()
        .await
        .unwrap();
    sqlx::raw_sql("CREATE TABLE theirs (x)")
        .execute(&mut raw)
        .await
        .unwrap();
    raw.close().await.unwrap();
    let before = std::fs::read(place.path().join("fumehood.db")).unwrap();
    let error = place.open().await.unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert_eq!(std::fs::read(place.path().join("fumehood.db")).unwrap(), before);
}

#[tokio::test]
async fn another_master_key_is_refused_at_start_once_there_are_secrets() {
    let mut place = Place::new();
    place.open().await.unwrap().close().await;
    place.master = MasterKey::random().unwrap();
    let store = place.open().await.unwrap();
    store.create_org(&org()).await.unwrap();
    let owner = Owner::Org(org());
    store
        .secret_set(&owner, &secret("A"), &SecretString::from("hidden"))
        .await
        .unwrap();
    store.close().await;
    place.master = MasterKey::random().unwrap();
    let error = place.open().await.unwrap_err();
    assert!(matches!(error, OpenError::WrongMasterKey { .. }), "{error}");
}

#[tokio::test]
async fn a_directory_opened_twice_is_refused_until_the_first_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let first = fumehood_store::open(dir.path(), &StoreUrl::InDataDir).await.unwrap();
    let second = fumehood_store::open(dir.path(), &StoreUrl::InDataDir).await;
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    first.close().await;
    fumehood_store::open(dir.path(), &StoreUrl::InDataDir).await.unwrap();
}

#[tokio::test]
async fn a_database_of_two_data_directories_is_one_stores_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    let url = StoreUrl::Sqlite(dir.path().join("shared.db"));
    let first = fumehood_store::open(&one, &url).await.unwrap();
    let second = fumehood_store::open(&other, &url).await;
    let Err(OpenError::InUse { place, holder, .. }) = second else {
        panic!("opened twice");
    };
    assert_eq!(place, fumehood_store::Place::Database);
    assert!(holder.contains(&std::process::id().to_string()), "{holder}");
    first.close().await;
    fumehood_store::open(&other, &url).await.unwrap();
}

#[tokio::test]
async fn a_closed_store_refuses_to_work() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    store.close().await;
    store.close().await;
    let write = store.create_org(&org()).await;
    assert!(matches!(write, Err(StoreError::Unavailable { .. })), "{write:?}");
    let read = store.orgs().await;
    assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
}

#[tokio::test]
async fn a_dropped_store_gives_the_directory_back_with_what_was_written() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    store.create_org(&org()).await.unwrap();
    drop(store);
    let store = loop {
        match place.open().await {
            Ok(store) => break store,
            Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(store.org(&org()).await.unwrap().is_some());
}

#[tokio::test]
async fn secrets_whose_rows_were_swapped_do_not_open() {
    let swaps = [
        "UPDATE secrets SET name = CASE name WHEN 'A' THEN 'B' WHEN 'B' THEN 'A2' ELSE name END;
         UPDATE secrets SET name = 'A' WHERE name = 'A2'",
        "UPDATE secrets SET version = version + 1",
        "UPDATE secrets SET org = 'rival'; INSERT INTO orgs (name, created) VALUES ('rival', 0)",
        "UPDATE secrets SET session = (SELECT id FROM sessions)",
        "UPDATE secrets SET envelope = replace(envelope, '\"sealed\":\"', '\"sealed\":\"AAAA')",
        "UPDATE secrets SET envelope = '{}'",
    ];
    for swap in swaps {
        let place = Place::new();
        let store = place.open().await.unwrap();
        let session = new_session(&store).await;
        for name in ["A", "B"] {
            let value = SecretString::from(format!("hidden {name}"));
            store
                .secret_set(&Owner::Org(org()), &secret(name), &value)
                .await
                .unwrap();
        }
        store.close().await;
        // THREAT[T-sec-row-swap]
        if swap.contains("SET name") {
            place.tamper("DROP INDEX secrets_by_name").await;
        }
        place.tamper(swap).await;
        let store = place.open().await.unwrap();
        let org = if swap.contains("rival") {
            OrgName::new("rival").unwrap()
        } else {
            org()
        };
        let result = store.secrets_in_effect(&org, Some(session)).await;
        let error = result.map(|found| found.len()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{swap}: {error}");
        assert!(!error.to_string().contains("hidden"), "{error}");
        let problems = store.check().await.unwrap();
        assert!(
            problems.iter().any(|problem| matches!(problem, Problem::Secret { .. })),
            "{swap}: {problems:?}"
        );
    }
}

#[tokio::test]
async fn no_file_of_the_data_directory_shows_a_secret() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let session = new_session(&store).await;
    let owner = Owner::Session(org(), session);
    let value = SecretString::from("correct horse battery staple");
    store.secret_set(&owner, &secret("A"), &value).await.unwrap();
    let read = store.secrets_in_effect(&org(), Some(session)).await.unwrap();
    assert_eq!(read[0].1.expose_secret(), value.expose_secret());
    for entry in std::fs::read_dir(place.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(12).any(|window| window == b"correct hors"));
    }
}

#[tokio::test]
async fn an_idempotency_key_is_forgotten_a_day_after_the_end_of_its_turn() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let session = new_session(&store).await;
    let first = new_turn(Some(("k", b"one")));
    store.accept_turn(&org(), session, &first).await.unwrap();
    let end = NewEvent {
        turn: Some(first.id),
        source: Source::Host,
        body: EventBody::TurnCancelled {
            usage: None,
            cost: None,
            worked_ms: None,
        },
    };
    store.append(&org(), session, &[end]).await.unwrap();
    store.close().await;
    let hour = Duration::from_secs(3600).as_nanos();
    assert_eq!(hour, 3_600_000_000_000);
    place
        .tamper(
            "UPDATE idempotency SET created = created - 720 * 3600000000000; \
             UPDATE turns SET ended = ended - 23 * 3600000000000",
        )
        .await;
    let store = place.open().await.unwrap();
    let again = store
        .accept_turn(&org(), session, &new_turn(Some(("k", b"two"))))
        .await
        .unwrap();
    assert_eq!(again, Some(Accepted::KeyReused));
    store.close().await;
    place.tamper("UPDATE turns SET ended = ended - 3600000000000").await;
    let store = place.open().await.unwrap();
    let again = store
        .accept_turn(&org(), session, &new_turn(Some(("k", b"two"))))
        .await
        .unwrap();
    assert!(matches!(again, Some(Accepted::New(..))), "{again:?}");
}

#[tokio::test]
async fn an_idempotency_key_is_not_forgotten_while_its_turn_waits() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let session = new_session(&store).await;
    let first = new_turn(Some(("k", b"one")));
    store.accept_turn(&org(), session, &first).await.unwrap();
    store.close().await;
    place
        .tamper("UPDATE idempotency SET created = created - 720 * 3600000000000")
        .await;
    let store = place.open().await.unwrap();
    let other = new_session(&store).await;
    let elsewhere = store.accept_turn(&org(), other, &new_turn(Some(("k", b"one")))).await;
    assert!(matches!(elsewhere, Ok(Some(Accepted::New(..)))), "{elsewhere:?}");
    let again = store
        .accept_turn(&org(), session, &new_turn(Some(("k", b"one"))))
        .await
        .unwrap();
    assert!(
        matches!(&again, Some(Accepted::Repeated(turn)) if turn.id == first.id),
        "{again:?}"
    );
    let asked = store.repeated_turn(&org(), session, "k", &Digest::of(b"two")).await;
    assert_eq!(asked.unwrap(), Some(Accepted::KeyReused));
}

#[tokio::test]
async fn the_check_finds_gaps_wrong_states_and_dangling_rows() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let session = new_session(&store).await;
    store
        .append(&org(), session, &[remark(), remark(), remark()])
        .await
        .unwrap();
    store.accept_turn(&org(), session, &new_turn(None)).await.unwrap();
    let other = new_session(&store).await;
    store
        .append(&org(), other, &[remark(), remark(), remark()])
        .await
        .unwrap();
    store.kv_set(&Owner::Session(org(), session), "k", b"v").await.unwrap();
    assert_eq!(store.check().await.unwrap(), []);
    store.close().await;
    place
        .tamper(
            "DELETE FROM events WHERE seq = 2 AND session NOT IN (SELECT session FROM turns);
             UPDATE turns SET status = 'running';
             UPDATE key_values SET session = x'00000000000000000000000000000000'",
        )
        .await;
    let store = place.open().await.unwrap();
    let problems = store.check().await.unwrap();
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(matches!(&problems[0], Problem::Database(_)), "{problems:?}");
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for (about, words) in [
        (other, "after event 1 comes event 3"),
        (session, "key-values are counted as 1"),
    ] {
        let about = about.to_string();
        assert!(
            texts.iter().any(|text| text.contains(&about) && text.contains(words)),
            "{texts:?}"
        );
    }
    let turn = problems.iter().find(|problem| matches!(problem, Problem::Turn { .. }));
    let turn = turn.unwrap().to_string();
    assert!(
        turn.contains("running") && turn.contains("by the journal it is queued"),
        "{turn}"
    );
}

#[tokio::test]
async fn a_row_of_an_unknown_form_is_an_error_not_an_absence() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let session = new_session(&store).await;
    store.append(&org(), session, &[remark()]).await.unwrap();
    store.close().await;
    place
        .tamper("UPDATE events SET body = '{\"type\":\"not.yet\",\"data\":{}}'; UPDATE sessions SET metadata = '{'")
        .await;
    let store = place.open().await.unwrap();
    let events = store.events(&org(), session, 0, 10).await;
    assert!(matches!(events, Err(StoreError::Corrupt { .. })), "{events:?}");
    let session = store.session(&org(), session).await;
    assert!(matches!(session, Err(StoreError::Corrupt { .. })), "{session:?}");
}

/// Commits per second; run with `--ignored --nocapture` on a quiet machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn append_throughput() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    for writers in [1_u32, 8, 64] {
        let mut sessions = Vec::new();
        for _ in 0..writers {
            sessions.push(new_session(&store).await);
        }
        let each = 2048 / writers.max(4);
        let began = std::time::Instant::now();
        let tasks: Vec<_> = sessions
            .into_iter()
            .map(|session| {
                let store = store.clone();
                tokio::spawn(async move {
                    for _ in 0..each {
                        store.append(&org(), session, &[remark()]).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{writers} writers: {:.0} appends/s",
            f64::from(each * writers) / seconds
        );
    }
    let session = new_session(&store).await;
    let began = std::time::Instant::now();
    for _ in 0..2000 {
        store.session(&org(), session).await.unwrap();
    }
    println!("one reader: {:.1} µs a read", began.elapsed().as_secs_f64() * 500.0);
}

#[tokio::test]
async fn what_is_deleted_is_overwritten_where_it_was() {
    let place = Place::new();
    let org = OrgName::default_org();
    let owner = Owner::Org(org.clone());
    let (deleted, kept) = (b"this is deleted".repeat(3), b"this is kept".repeat(3));
    let store = place.open().await.unwrap();
    store.create_org(&org).await.unwrap();
    store.kv_set(&owner, "deleted", &deleted).await.unwrap();
    store.kv_set(&owner, "kept", &kept).await.unwrap();
    store.kv_delete(&owner, "deleted").await.unwrap();
    // Closing brings all into the file and removes the log.
    store.close().await;
    let contains = |bytes: &[u8]| {
        let files = std::fs::read_dir(place.path())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut files = files
            .filter(|path| path.is_file())
            .map(|path| std::fs::read(path).unwrap());
        files.any(|file| file.windows(bytes.len()).any(|part| part == bytes))
    };
    assert!(contains(&kept) && !contains(&deleted));
}

#[tokio::test]
async fn a_lease_counts_for_nothing_when_the_database_is_opened_again() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let session = new_session(&store).await;
    let turn = new_turn(None);
    store.accept_turn(&org(), session, &turn).await.unwrap();
    let lease = || {
        let at = now();
        Lease {
            host: HostId::new(),
            at,
            until: at + Duration::from_secs(3600),
        }
    };
    store.take_turn(&org(), turn.id, lease()).await.unwrap();
    let held = store.take_turn(&org(), turn.id, lease()).await.unwrap();
    assert_eq!(held, Some(Taken::Held));
    store.close().await;
    drop(store);
    let store = place.open().await.unwrap();
    let left = store.turns_to_take(now(), None, 10).await.unwrap();
    assert_eq!(left.iter().map(|turn| turn.id).collect::<Vec<_>>(), [turn.id]);
    let taken = store.take_turn(&org(), turn.id, lease()).await.unwrap();
    assert!(matches!(taken, Some(Taken::Mine { recoveries: 1, .. })), "{taken:?}");
}
