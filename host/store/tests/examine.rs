//! What the doctor says of what is kept, and what it mends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_core::{
    awaited::AwaitedCall,
    call::{Arguments, ComponentRef, Metering, Output},
    digest::Digest,
    event::{EventBody, NewEvent, Source},
    id::{CallId, CallbackId, JobId, SessionId, TurnId},
    name::{AgentName, OrgName, SecretName, ToolName},
    now,
    tool::Effect,
    turn::{Budget, Note, NoteKind, TurnStatus},
};
use fumehood_policy::authority::SessionNarrowing;
use fumehood_store::{
    OpenError, Opened, Problem, Quotas, Schema, StoreUrl,
    examine::{Care, Depth, Examination, FilesLooked, Finding, RepairError, examine, repair},
    record::{Accepted, IfBusy, NewTurn, Owner, Session},
    workspace::{Precondition, WorkspacePath},
};
use secrecy::SecretString;
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

const URL: StoreUrl = StoreUrl::InDataDir;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    async fn open(&self) -> Opened {
        fumehood_store::open(self.path(), &URL).await.unwrap()
    }

    async fn look(&self) -> Examination {
        examine(self.path(), &URL, Depth::Everything).await.unwrap()
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

    /// Every file with its bytes.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut files, mut open) = (BTreeMap::new(), vec![self.path().to_owned()]);
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let bytes = std::fs::read(&path).unwrap();
                    files.insert(path, bytes);
                }
            }
        }
        files
    }
}

fn org() -> OrgName {
    OrgName::default_org()
}

fn said(turn: Option<TurnId>, body: EventBody) -> NewEvent {
    NewEvent {
        turn,
        source: Source::Host,
        body,
    }
}

/// A store with a session that has a turn, files, a state of them, a key-value and a secret.
async fn lived_in(opened: &Opened) -> (SessionId, TurnId) {
    let store = &opened.store;
    store.create_org(&org()).await.unwrap();
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
    let owner = Owner::Session(org(), session.id);
    store.kv_set(&owner, "k", b"value").await.unwrap();
    let name = SecretName::new("TOKEN").unwrap();
    store
        .secret_set(&owner, &name, &SecretString::from("hidden"))
        .await
        .unwrap();
    let path = WorkspacePath::new("a.txt").unwrap();
    let files = &opened.workspaces;
    files
        .write(session.id, &path, b"text".to_vec(), Precondition::Any)
        .await
        .unwrap();
    files.snapshot(session.id).await.unwrap().unwrap();
    let turn = NewTurn {
        id: TurnId::new(),
        input: Vec::new(),
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
    let accepted = store.accept_turn(&org(), session.id, &turn).await.unwrap();
    assert!(matches!(accepted, Some(Accepted::New(..))));
    let end = said(
        Some(turn.id),
        EventBody::TurnCancelled {
            usage: None,
            cost: None,
            worked_ms: None,
        },
    );
    store.append(&org(), session.id, &[end]).await.unwrap();
    (session.id, turn.id)
}

fn damage(found: &Examination) -> Vec<&Finding> {
    found.findings.iter().filter(|finding| finding.is_damage()).collect()
}

#[tokio::test]
async fn a_store_that_is_whole_has_nothing_to_tell_and_is_not_touched() {
    let place = Place::new();
    let opened = place.open().await;
    lived_in(&opened).await;
    opened.close().await;
    let before = place.files();
    let found = place.look().await;
    assert_eq!(found.findings, []);
    assert_eq!(found.schema, Some(Schema::Current));
    assert_eq!(found.files, FilesLooked::Yes);
    assert_eq!(found.secrets.len(), 1);
    assert_eq!(place.files(), before);
}

#[tokio::test]
async fn of_a_store_that_a_host_uses_the_database_is_looked_at() {
    let place = Place::new();
    let opened = place.open().await;
    lived_in(&opened).await;
    let found = place.look().await;
    assert_eq!(found.findings, []);
    assert_eq!(found.files, FilesLooked::HostRuns);
    let refused = repair(place.path(), &URL, Quotas::default()).await.unwrap_err();
    assert!(
        matches!(refused, RepairError::Open(OpenError::InUse { .. })),
        "{refused}"
    );
    opened.close().await;
}

#[tokio::test]
async fn an_earlier_schema_is_told_and_stays_as_it_is() {
    let place = Place::new();
    place.open().await.close().await;
    place.tamper("DELETE FROM _sqlx_migrations WHERE version > 3").await;
    let before = place.files();
    let found = place.look().await;
    assert!(
        matches!(found.schema, Some(Schema::Earlier { found: 3, .. })),
        "{found:?}"
    );
    assert_eq!(place.files(), before);
}

#[tokio::test]
async fn a_newer_or_damaged_database_is_told_clearly_and_stays_as_it_is() {
    let place = Place::new();
    place.open().await.close().await;
    place
        .tamper("INSERT INTO _sqlx_migrations VALUES (9999, 'later', datetime(), 1, x'00', 0)")
        .await;
    let before = place.files();
    let error = examine(place.path(), &URL, Depth::Everything).await.unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 9999, .. }), "{error}");
    assert_eq!(place.files(), before);

    std::fs::write(place.path().join("fumehood.db"), "no database ".repeat(1000)).unwrap();
    let error = examine(place.path(), &URL, Depth::Everything).await.unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn damaged_pages_are_found_and_nothing_is_repaired_then() {
    let place = Place::new();
    let opened = place.open().await;
    let (session, _) = lived_in(&opened).await;
    for _ in 0..200 {
        let remark = EventBody::TextCompleted {
            step: 1,
            text: "x".repeat(500),
        };
        opened
            .store
            .append(&org(), session, &[said(None, remark)])
            .await
            .unwrap();
    }
    opened.close().await;
    let file = place.path().join("fumehood.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let from = bytes.len() - 8 * 4096;
    bytes[from..].fill(0xa5);
    std::fs::write(&file, &bytes).unwrap();
    match examine(place.path(), &URL, Depth::Everything).await {
        Ok(found) => assert!(
            damage(&found)
                .iter()
                .any(|finding| matches!(finding.problem, Problem::Database(_))),
            "{found:?}"
        ),
        Err(error) => assert!(matches!(error, OpenError::Damaged { .. }), "{error}"),
    }
    let refused = repair(place.path(), &URL, Quotas::default()).await.unwrap_err();
    assert!(
        matches!(
            refused,
            RepairError::Damaged(_) | RepairError::Open(OpenError::Damaged { .. })
        ),
        "{refused}"
    );
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}

#[tokio::test]
async fn rows_that_do_not_follow_from_the_journal_are_made_anew_from_it() {
    let place = Place::new();
    let opened = place.open().await;
    let (session, turn) = lived_in(&opened).await;
    opened.close().await;
    place
        .tamper(
            "UPDATE turns SET status = 'running', ended = NULL;
             UPDATE sessions SET last_seq = 1, spent_tokens = 77, spent_steps = 5, spent_ms = 5, kv_entries = 9;
             INSERT INTO reservations (holder, org, session, tokens, cost, until)
                 SELECT id, org, session, 5, 5, 9000000000000000000 FROM turns;",
        )
        .await;
    let found = place.look().await;
    let about: Vec<_> = found.findings.iter().map(|finding| finding.problem.about()).collect();
    assert_eq!(about, ["session", "turn", "session"], "{found:?}");
    assert!(
        damage(&found)
            .iter()
            .all(|finding| matches!(finding.care, Care::Repair(_)))
    );

    let (mended, after) = repair(place.path(), &URL, Quotas::default()).await.unwrap();
    assert_eq!(mended.len(), 3, "{mended:?}");
    // What was held for a turn that seemed to be worked is now held for one that has ended.
    assert!(damage(&after).is_empty(), "{after:?}");
    let (mended, after) = repair(place.path(), &URL, Quotas::default()).await.unwrap();
    assert!(matches!(mended[0].problem, Problem::Reservation { .. }), "{mended:?}");
    assert_eq!(after.findings, []);
    let opened = place.open().await;
    let turn = opened.store.turn(&org(), turn).await.unwrap().unwrap();
    assert_eq!(turn.status, TurnStatus::Cancelled);
    assert_eq!(opened.store.last_seq(&org(), session).await.unwrap(), Some(2));
    opened.close().await;
}

#[tokio::test]
async fn calls_that_wait_for_somebody_outside_are_noted_anew_from_the_journal() {
    let place = Place::new();
    let opened = place.open().await;
    let (session, turn) = lived_in(&opened).await;
    let tool = ToolName::new("build").unwrap();
    let expires = now() + std::time::Duration::from_secs(3600);
    let callbacks = [CallbackId::new(), CallbackId::new()];
    let detached = |callback| {
        let body = EventBody::ToolDetached {
            call: CallId::new(),
            tool: tool.clone(),
            callback,
            token: Digest::of(b"token"),
            expires,
            note: None,
        };
        said(Some(turn), body)
    };
    let asked = AwaitedCall {
        call_id: CallId::new(),
        tool: tool.clone(),
        arguments: Arguments::new(),
        expires,
        note: None,
    };
    let asked = said(Some(turn), EventBody::ResultsRequested { calls: vec![asked] });
    let events = [detached(callbacks[0]), detached(callbacks[1]), asked];
    opened.store.append(&org(), session, &events).await.unwrap();
    let kept = opened.store.callback(callbacks[1]).await.unwrap();
    opened.close().await;
    assert_eq!(place.look().await.findings, []);
    place
        .tamper(
            "UPDATE awaited_calls SET state = 'settled', expires = 5 WHERE callback = (SELECT min(callback) FROM awaited_calls);
             DELETE FROM awaited_calls WHERE callback = (SELECT max(callback) FROM awaited_calls);
             DELETE FROM awaited_calls WHERE callback IS NULL;
             INSERT INTO awaited_calls (call, org, session, turn, expires, state) SELECT x'00112233445566778899aabbccddeeff', org, session, id, 7, 'open' FROM turns;",
        )
        .await;
    let found = place.look().await;
    assert!(
        matches!(&damage(&found)[..], [Finding { problem: Problem::Session { detail, .. }, care: Care::Repair(_) }]
            if detail.contains("wait for") || detail.contains("waited")),
        "{found:?}"
    );
    let (_, after) = repair(place.path(), &URL, Quotas::default()).await.unwrap();
    assert_eq!(after.findings, []);
    let opened = place.open().await;
    assert_eq!(opened.store.callback(callbacks[1]).await.unwrap(), kept);
    opened.close().await;
}

#[tokio::test]
async fn jobs_are_noted_anew_from_the_journal_and_what_had_begun_is_left_behind_then() {
    let place = Place::new();
    let opened = place.open().await;
    let (session, turn) = lived_in(&opened).await;
    let tool = ToolName::new("build").unwrap();
    let jobs: [JobId; 3] = std::array::from_fn(|_| JobId::new());
    let queued = |job| {
        let body = EventBody::JobQueued {
            job,
            call: CallId::new(),
            tool: tool.clone(),
            component: ComponentRef {
                name: "builder".parse().unwrap(),
                digest: Digest::of(b"code"),
            },
            effect: Effect::AtMostOnce,
            fingerprint: Digest::of(b"call"),
            arguments: Arguments::new(),
            agent: "a".parse().unwrap(),
            approved: false,
        };
        said(Some(turn), body)
    };
    opened.store.append(&org(), session, &jobs.map(queued)).await.unwrap();
    for _ in &jobs[..2] {
        let job = opened.store.take_job(9).await.unwrap().unwrap();
        let started = EventBody::JobStarted {
            job: job.id,
            call: job.call,
            attempt: 1,
            authority: None,
        };
        let mut events = vec![said(None, started)];
        if job.id == jobs[0] {
            let done = EventBody::job_completed(
                job.id,
                job.call,
                tool.clone(),
                Ok(Output::default()),
                Metering::default(),
            );
            events.push(said(None, done));
        }
        opened.store.append_to_job(job.id, 1, &events).await.unwrap();
    }
    let ended = opened.store.job(&org(), jobs[0]).await.unwrap();
    let note = Note {
        kind: NoteKind::JobEnded,
        text: "It is done.".into(),
        job: Some(jobs[0]),
    };
    let told = EventBody::StepStarted {
        step: 2,
        notes: vec![note],
        worked_ms: None,
    };
    opened
        .store
        .append(&org(), session, &[said(Some(turn), told)])
        .await
        .unwrap();
    opened.close().await;
    assert_eq!(place.look().await.findings, []);
    place
        .tamper(
            "UPDATE jobs SET state = 'queued', status = NULL, ended_seq = NULL, ended = NULL, told_seq = NULL WHERE id = (SELECT min(id) FROM jobs);
             DELETE FROM jobs WHERE id > (SELECT min(id) FROM jobs);",
        )
        .await;
    let found = place.look().await;
    assert!(
        matches!(&damage(&found)[..], [Finding { problem: Problem::Session { detail, .. }, care: Care::Repair(_) }]
            if detail.contains("of the jobs 1 are not kept as the journal tells, and 2")),
        "{found:?}"
    );
    let (_, after) = repair(place.path(), &URL, Quotas::default()).await.unwrap();
    assert_eq!(after.findings, []);
    let opened = place.open().await;
    assert_eq!(opened.store.job(&org(), jobs[0]).await.unwrap(), ended);
    assert_eq!(
        opened.store.jobs_untold(&org(), session, 9).await.unwrap(),
        [],
        "the model knows"
    );
    let over = opened.store.jobs_to_end(9).await.unwrap();
    assert_eq!(
        over.iter().map(|job| job.id).collect::<Vec<_>>(),
        [jobs[1]],
        "it is not run again"
    );
    let next = opened.store.take_job(9).await.unwrap().unwrap();
    assert_eq!(next.id, jobs[2], "it had not begun");
    opened.close().await;
}

#[tokio::test]
async fn a_journal_that_lost_events_is_told_and_never_touched() {
    let place = Place::new();
    let opened = place.open().await;
    let (session, _) = lived_in(&opened).await;
    opened.close().await;
    place.tamper("DELETE FROM events WHERE seq = 2").await;
    let found = place.look().await;
    let told = damage(&found);
    assert!(
        matches!(told[..], [Finding { problem: Problem::Journal { session: of, .. }, care: Care::Operator(_) }] if *of == session),
        "{found:?}"
    );
    let (mended, after) = repair(place.path(), &URL, Quotas::default()).await.unwrap();
    assert_eq!(mended, []);
    assert_eq!(damage(&after), told);
}

#[tokio::test]
async fn code_that_no_component_has_and_broken_states_are_removed() {
    let place = Place::new();
    let opened = place.open().await;
    let (session, _) = lived_in(&opened).await;
    let loose = opened.blobs.put(b"loose".to_vec()).await.unwrap();
    opened.close().await;
    let shelf = place.path().join("snapshots").join(session.to_string());
    let bytes = shelf.join("bytes").join(Digest::of(b"text").to_hex());
    std::fs::remove_file(&bytes).unwrap();
    std::fs::write(&bytes, "other").unwrap();

    let found = place.look().await;
    let code = |finding: &&Finding| matches!(finding.problem, Problem::Code { digest, .. } if digest == loose);
    assert!(
        found
            .findings
            .iter()
            .any(|finding| code(&finding) && !finding.is_damage()),
        "{found:?}"
    );
    let states = damage(&found);
    assert!(
        matches!(
            states[..],
            [Finding {
                problem: Problem::Files(_),
                ..
            }]
        ),
        "{found:?}"
    );
    assert!(
        states[0].problem.to_string().contains("names bytes that are not there"),
        "{found:?}"
    );

    let (mended, after) = repair(place.path(), &URL, Quotas::default()).await.unwrap();
    assert_eq!(mended.len(), 2, "{mended:?}");
    assert_eq!(after.findings, []);
    let opened = place.open().await;
    let path = WorkspacePath::new("a.txt").unwrap();
    let kept = opened.workspaces.read(session, &path).await.unwrap().unwrap();
    assert_eq!(kept.bytes, b"text", "clients' files are not touched");
    assert!(opened.workspaces.snapshot(session).await.unwrap().is_some());
    opened.close().await;
    assert_eq!(place.look().await.findings, []);
}

#[tokio::test]
async fn a_master_key_that_is_lost_is_named_and_none_is_made() {
    let place = Place::new();
    let opened = place.open().await;
    lived_in(&opened).await;
    opened.close().await;
    let key = place.path().join("master.key");
    std::fs::remove_file(&key).unwrap();
    let found = place.look().await;
    let told = damage(&found);
    assert!(
        matches!(
            told[..],
            [Finding {
                problem: Problem::MasterKey(_),
                ..
            }]
        ),
        "{found:?}"
    );
    assert!(!key.exists());
}
