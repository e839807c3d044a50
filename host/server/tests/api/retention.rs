//! What is too old goes, by a clock that the tests hold in their hands.

use crate::house::{House, Plan, wasm};
use fumehood_agent::host::{Housekept, RetentionRules};
use fumehood_core::{Time, digest::Digest, id::CallId, name::OrgName, now};
use fumehood_policy::{
    quantity::Span,
    retention::{Kind, Retention},
};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

const HOUR: Span = Span::from_secs(3600);

/// A house in which this is kept for an hour.
async fn house(kinds: &[Kind]) -> House {
    let usual = kinds
        .iter()
        .fold(Retention::default(), |kept, kind| kept.with(*kind, Some(HOUR)));
    House::built(Plan {
        retention: RetentionRules {
            usual,
            orgs: [(OrgName::new("other").unwrap(), Retention::default())].into(),
        },
        ..Plan::default()
    })
    .await
}

fn in_hours(hours: u64) -> Time {
    now() + Duration::from_secs(hours * 3600)
}

async fn keeps(house: &House, hours: u64) -> Housekept {
    house.host.keep_house_at(in_hours(hours)).await.unwrap()
}

fn removed(kept: &Housekept) -> Vec<(&'static str, u64)> {
    kept.removed.iter().map(|(kind, count)| (*kind, *count)).collect()
}

async fn is_there(house: &House, session: &str) -> bool {
    house.get(session).answer().await.status == StatusCode::OK
}

async fn worked(house: &House, session: &str) -> Value {
    let turn = house.post(&format!("{session}/turns"));
    let turn = turn.json(&json!({"input": "hi"})).answer().await;
    assert_eq!(turn.status, StatusCode::OK, "{}", turn.text());
    turn.json()
}

#[tokio::test]
async fn a_session_in_which_nothing_happened_for_as_long_is_deleted_with_its_files() {
    let house = house(&[Kind::Sessions]).await;
    let session = house.session().await;
    worked(&house, &session).await;
    house
        .put(&format!("{session}/files/a.txt"))
        .body("text/plain", "a")
        .answer()
        .await;
    let id = session.rsplit('/').next().unwrap().parse().unwrap();
    let org_other = house
        .post("/v1/sessions")
        .by_other_org()
        .json(&json!({}))
        .answer()
        .await;
    let foreign = org_other.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(removed(&keeps(&house, 0).await), []);
    assert!(is_there(&house, &session).await, "it is not old enough");
    assert_eq!(removed(&keeps(&house, 2).await), [("sessions", 1)]);
    assert!(!is_there(&house, &session).await);
    assert!(
        house.host.workspaces().tree(id).await.is_err(),
        "its files are out of reach"
    );
    let foreign = house.get(&foreign).by_other_org().answer().await;
    assert_eq!(foreign.status, StatusCode::OK, "an org with rules of its own");
}

#[tokio::test]
async fn without_a_word_from_the_operator_no_session_is_too_old() {
    let house = House::new().await;
    let session = house.session().await;
    for day in 1..=5 {
        keeps(&house, day * 24).await;
    }
    assert!(is_there(&house, &session).await);
}

#[tokio::test]
async fn a_session_is_held_by_an_open_turn_and_a_schedule() {
    let house = house(&[Kind::Sessions]).await;
    let (open, planned, free) = (house.session().await, house.session().await, house.session().await);
    let told = house.next_answer();
    let begun = house
        .post(&format!("{open}/turns"))
        .with("prefer", "respond-async")
        .json(&json!({"input": "hi"}))
        .answer()
        .await
        .json();
    let id = planned.rsplit('/').next().unwrap();
    let schedule = json!({"when": {"at": "2090-01-01T00:00:00Z"}, "input": "rounds", "session": id});
    let made = house.post("/v1/schedules").json(&schedule).answer().await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    assert_eq!(removed(&keeps(&house, 2).await), [("sessions", 1)]);
    assert!(is_there(&house, &open).await && is_there(&house, &planned).await);
    assert!(!is_there(&house, &free).await);

    told.says("Hello.");
    let turn = begun["id"].as_str().unwrap().parse().unwrap();
    house.host.wait_for_turn(&OrgName::default_org(), turn).await.unwrap();
    house.delete(&made_path(&made.json())).answer().await;
    assert_eq!(removed(&keeps(&house, 2).await), [("sessions", 2)]);
}

/// As if nothing had happened in it for so long.
async fn ages(house: &House, session: &str, hours: i64) {
    let mut database = house.database().await;
    let then = in_hours(0).timestamp_nanos_opt().unwrap() - hours * 3_600_000_000_000;
    let aged = sqlx::query("UPDATE sessions SET updated = ?1, created = ?1 WHERE id = ?2")
        .bind(then)
        .bind(&session_bytes(session)[..])
        .execute(&mut database)
        .await
        .unwrap();
    assert_eq!(aged.rows_affected(), 1);
}

#[tokio::test]
async fn a_session_that_is_used_without_a_turn_is_not_too_old() {
    let house = house(&[Kind::Sessions]).await;
    house.add_sums().await;
    let call = |session: &str| {
        let id = session.rsplit('/').next().unwrap();
        json!({"session": id, "arguments": {"n": 2}})
    };
    let mut used = Vec::new();
    for _ in 0..5 {
        let session = house.session().await;
        house
            .put(&format!("{session}/files/gone.txt"))
            .body("text/plain", "old")
            .answer()
            .await;
        ages(&house, &session, 2).await;
        used.push(session);
    }
    let (unused, read) = (house.session().await, house.session().await);
    ages(&house, &unused, 2).await;
    ages(&house, &read, 2).await;
    let uses = [
        house.put(&format!("{}/files/a.txt", used[0])).body("text/plain", "new"),
        house.delete(&format!("{}/files/gone.txt", used[1])),
        house.post("/v1/tools/double/call").json(&call(&used[2])),
        house
            .put(&format!("{}/secrets/NAME", used[3]))
            .json(&json!({"value": "a value"})),
        house.put(&format!("{}/kv/key", used[4])).body("text/plain", "new"),
        house.get(&format!("{read}/files?list")),
    ];
    for ask in uses {
        let answer = ask.answer().await;
        assert!(answer.status.is_success(), "{}", answer.text());
    }
    assert_eq!(
        removed(&keeps(&house, 0).await),
        [("sessions", 2)],
        "nobody used, or changed, them"
    );
    for session in &used {
        assert!(is_there(&house, session).await, "{session} was used");
    }
    assert_eq!(
        removed(&keeps(&house, 2).await),
        [("sessions", 5)],
        "a use holds nothing for ever"
    );
}

#[tokio::test]
async fn a_file_that_says_it_is_of_the_future_holds_no_session() {
    let house = house(&[Kind::Sessions]).await;
    let session = house.session().await;
    house
        .put(&format!("{session}/files/a.txt"))
        .body("text/plain", "a")
        .answer()
        .await;
    // As a tool may set it.
    let workspaces = std::fs::read_dir(house.dir().join("workspaces")).unwrap();
    let mut files = workspaces.map(|workspace| workspace.unwrap().path().join("a.txt"));
    let path = files.find(|path| path.exists()).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(100 * 365 * 86_400))
        .unwrap();
    ages(&house, &session, 2).await;
    assert_eq!(removed(&keeps(&house, 0).await), [("sessions", 1)]);
}

#[tokio::test]
async fn recordings_are_kept_for_as_long_as_the_operator_says() {
    let house = house(&[Kind::Recordings]).await;
    let session = house.session().await;
    house.next_answer().says("Hello.");
    let turn = worked(&house, &session).await["id"].as_str().unwrap().parse().unwrap();
    let (org, store, call) = (OrgName::default_org(), house.host.store(), CallId::new());
    let id = session.rsplit('/').next().unwrap().parse().unwrap();
    store
        .keep_recording(&org, (id, turn), call, b"x".to_vec())
        .await
        .unwrap();
    assert_eq!(removed(&keeps(&house, 0).await), []);
    assert_eq!(removed(&keeps(&house, 2).await), [("recordings", 1)]);
    assert_eq!(store.recording(&org, turn, call).await.unwrap(), None);
    assert!(is_there(&house, &session).await, "the turn stays, and what it said");
}

fn made_path(schedule: &Value) -> String {
    format!("/v1/schedules/{}", schedule["id"].as_str().unwrap())
}

fn session_bytes(session: &str) -> Vec<u8> {
    let id: fumehood_core::id::SessionId = session.rsplit('/').next().unwrap().parse().unwrap();
    id.uuid().as_bytes().to_vec()
}

#[tokio::test]
async fn an_archived_session_is_kept_from_when_it_was_archived() {
    let house = house(&[Kind::ArchivedSessions]).await;
    let (used, kept) = (house.session().await, house.session().await);
    let archived = house.ask(Method::PATCH, &kept).json(&json!({"archived": true}));
    assert_eq!(archived.answer().await.status, StatusCode::OK);
    assert_eq!(removed(&keeps(&house, 0).await), []);
    assert_eq!(removed(&keeps(&house, 2).await), [("archived_sessions", 1)]);
    assert!(is_there(&house, &used).await && !is_there(&house, &kept).await);
}

#[tokio::test]
async fn a_clock_that_jumps_years_ahead_deletes_nothing_that_is_newer_than_its_steps_and_says_so() {
    let usual = Retention::default().with(Kind::Sessions, Some(Span::from_secs(30 * 86_400)));
    let house = House::built(Plan {
        retention: RetentionRules { usual, orgs: [].into() },
        ..Plan::default()
    })
    .await;
    let session = house.session().await;
    assert_eq!(keeps(&house, 0).await.ahead, Duration::ZERO);
    for _ in 0..3 {
        let kept = keeps(&house, 10 * 365 * 24).await;
        assert_eq!(removed(&kept), []);
        assert!(kept.ahead > Duration::from_secs(9 * 365 * 86_400), "{kept:?}");
    }
    assert!(is_there(&house, &session).await);
    assert_eq!(
        keeps(&house, 0).await.ahead,
        Duration::ZERO,
        "a clock that was set back"
    );
    assert!(is_there(&house, &session).await);
}

#[tokio::test]
async fn code_that_no_component_has_is_removed_when_it_is_not_being_added() {
    let house = House::new().await;
    house.add_sums().await;
    // Of a component that was removed under an earlier host: this one has never put it.
    let (left, code) = (b"left".to_vec(), house.dir().join("components"));
    let digest = Digest::of(&left);
    std::fs::write(code.join(digest.to_hex()).with_extension("wasm"), &left).unwrap();
    let blobs = house.host.catalog().blobs();
    assert!(blobs.get(&digest).await.unwrap().is_some());
    assert_eq!(removed(&keeps(&house, 0).await), [("code", 1)]);
    assert_eq!(blobs.get(&digest).await.unwrap(), None);
    assert!(
        blobs.get(&Digest::of(&wasm())).await.unwrap().is_some(),
        "a component has it"
    );

    house.delete("/v1/tools/sums").answer().await;
    assert_eq!(removed(&keeps(&house, 2).await), [], "it may be being added again");
    assert!(blobs.get(&Digest::of(&wasm())).await.unwrap().is_some());
}
