//! What is too old goes, by a clock that the tests hold in their hands.

use crate::house::{House, Plan, wasm};
use fumehood_agent::host::{Housekept, RetentionRules};
use fumehood_core::{Time, digest::Digest, name::OrgName, now};
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
async fn a_session_is_held_by_an_open_turn_a_schedule_and_a_newer_file() {
    let house = house(&[Kind::Sessions]).await;
    let (open, planned, written) = (house.session().await, house.session().await, house.session().await);
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
    assert!(!is_there(&house, &written).await);

    // One whose journal is old and whose file is not.
    let written = house.session().await;
    let mut database = house.database().await;
    let hours = in_hours(0).timestamp_nanos_opt().unwrap() - 2 * 3_600_000_000_000;
    sqlx::query("UPDATE sessions SET updated = ?1, created = ?1 WHERE id = ?2")
        .bind(hours)
        .bind(&session_bytes(&written)[..])
        .execute(&mut database)
        .await
        .unwrap();
    house
        .put(&format!("{written}/files/a.txt"))
        .body("text/plain", "new")
        .answer()
        .await;
    assert_eq!(removed(&keeps(&house, 0).await), []);
    assert!(is_there(&house, &written).await);
    assert_eq!(removed(&keeps(&house, 2).await), [("sessions", 1)]);

    told.says("Hello.");
    let turn = begun["id"].as_str().unwrap().parse().unwrap();
    house.host.wait_for_turn(&OrgName::default_org(), turn).await.unwrap();
    house.delete(&made_path(&made.json())).answer().await;
    assert_eq!(removed(&keeps(&house, 2).await), [("sessions", 2)]);
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
    let blobs = house.host.catalog().blobs();
    assert!(blobs.get(&Digest::of(&wasm())).await.unwrap().is_some());
    house.delete("/v1/tools/sums").answer().await;
    assert_eq!(removed(&keeps(&house, 2).await), [], "it may be being added again");
    assert!(blobs.get(&Digest::of(&wasm())).await.unwrap().is_some());
}
