//! Sessions that are put aside: they stay as they are, and take nothing.

use crate::house::House;
use fumehood_core::name::OrgName;
use http::{Method, StatusCode};
use serde_json::{Value, json};

async fn archive(house: &House, session: &str, archived: bool) -> Value {
    let change = json!({ "archived": archived });
    let changed = house.ask(Method::PATCH, session).json(&change).answer().await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text());
    changed.json()
}

async fn worked(house: &House, session: &str) -> Value {
    let turn = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "hi"}))
        .answer()
        .await;
    assert_eq!(turn.status, StatusCode::OK, "{}", turn.text());
    turn.json()
}

async fn listed(house: &House, query: &str) -> Vec<String> {
    let page = house.get(&format!("/v1/sessions{query}")).answer().await.json();
    let items = page["items"].as_array().unwrap().iter();
    items
        .map(|session| format!("/v1/sessions/{}", session["id"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn an_archived_session_takes_no_turn_and_no_change_and_can_be_read() {
    let house = House::new().await;
    house.add_sums().await;
    let session = house.session().await;
    let file = format!("{session}/files/a.txt");
    house.put(&file).body("text/plain", "kept").answer().await;
    house
        .put(&format!("{session}/kv/a"))
        .body("text/plain", "kept")
        .answer()
        .await;
    let turn = worked(&house, &session).await;
    let shown = archive(&house, &session, true).await;
    assert_eq!(shown["archived"], true);
    assert!(shown["archived_at"].is_string());

    let id = session.rsplit('/').next().unwrap();
    let (input, nothing) = (json!({"input": "hi"}), json!({}));
    let schedule = json!({"when": {"every": "1h"}, "input": "rounds", "session": id});
    for (what, refused) in [
        ("a turn", house.post(&format!("{session}/turns")).json(&input)),
        ("an undo", house.post(&format!("{session}/undo")).json(&nothing)),
        ("a compaction", house.post(&format!("{session}/compact")).json(&nothing)),
        ("a file", house.put(&file).body("text/plain", "other")),
        ("the end of a file", house.delete(&file)),
        (
            "a key-value",
            house.put(&format!("{session}/kv/a")).body("text/plain", "other"),
        ),
        ("the end of a key-value", house.delete(&format!("{session}/kv/a"))),
        ("a schedule", house.post("/v1/schedules").json(&schedule)),
        (
            "a call",
            house
                .post("/v1/tools/double/call")
                .json(&json!({"session": id, "arguments": {"n": 2}})),
        ),
    ] {
        let refused = refused.answer().await;
        assert_eq!(
            (what, refused.status),
            (what, StatusCode::CONFLICT),
            "{}",
            refused.text()
        );
        let problem = refused.json();
        assert_eq!(problem["code"], "session_archived", "{what}");
        assert!(
            problem["detail"].as_str().unwrap().contains("\"archived\": false"),
            "{problem}"
        );
    }

    assert_eq!(house.get(&file).answer().await.text(), "kept");
    assert_eq!(house.get(&format!("{session}/kv/a")).answer().await.text(), "kept");
    let read = house
        .get(&format!("/v1/turns/{}", turn["id"].as_str().unwrap()))
        .answer()
        .await;
    assert_eq!(read.json()["status"], "completed");
    let messages = house.get(&format!("{session}/messages")).answer().await.json();
    assert_eq!(messages["items"].as_array().unwrap().len(), 2);
    let forked = house.post(&format!("{session}/fork")).json(&nothing).answer().await;
    assert_eq!(forked.status, StatusCode::CREATED, "{}", forked.text());
    assert_eq!(forked.json()["archived"], false, "a fork is in use");

    assert_eq!(archive(&house, &session, false).await["archived"], false);
    worked(&house, &session).await;
}

#[tokio::test]
async fn an_archived_session_is_listed_only_where_it_is_asked_for() {
    let house = House::new().await;
    let (used, kept) = (house.session().await, house.session().await);
    archive(&house, &kept, true).await;
    for (query, expected) in [
        ("", vec![used.clone()]),
        ("?archived=false", vec![used.clone()]),
        ("?archived=true", vec![kept.clone()]),
        ("?archived=any", vec![kept.clone(), used.clone()]),
    ] {
        assert_eq!(listed(&house, query).await, expected, "{query}");
    }
    let refused = house.get("/v1/sessions?archived=maybe").answer().await;
    assert_eq!(refused.problem(), "invalid_query");
}

#[tokio::test]
async fn a_session_with_an_open_turn_is_not_archived_and_one_that_is_stays_so_since_then() {
    let house = House::new().await;
    let session = house.session().await;
    let told = house.next_answer();
    let begun = house
        .post(&format!("{session}/turns"))
        .with("prefer", "respond-async")
        .json(&json!({"input": "hi"}))
        .answer()
        .await
        .json();
    let change = json!({"archived": true});
    let refused = house.ask(Method::PATCH, &session).json(&change).answer().await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert_eq!(
        (&refused.json()["code"], &refused.json()["turn"]),
        (&json!("session_busy"), &begun["id"])
    );
    told.says("Hello.");
    let turn = begun["id"].as_str().unwrap().parse().unwrap();
    house.host.wait_for_turn(&OrgName::default_org(), turn).await.unwrap();
    let first = archive(&house, &session, true).await;
    let again = archive(&house, &session, true).await;
    assert_eq!(first["archived_at"], again["archived_at"]);
    let events = house
        .get(&format!("{session}/events"))
        .with("accept", "application/json")
        .answer()
        .await
        .json();
    let changed: Vec<_> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type"] == "session.updated")
        .map(|event| event["data"]["changed"].clone())
        .collect();
    assert_eq!(changed, [json!(["archived"]), json!([])]);
}

#[tokio::test]
async fn a_schedule_of_an_archived_session_is_skipped_and_says_why() {
    let house = House::new().await;
    let session = house.session().await;
    let id = session.rsplit('/').next().unwrap();
    let schedule = json!({"when": {"every": "1h"}, "input": "rounds", "session": id});
    let made = house.post("/v1/schedules").json(&schedule).answer().await.json();
    archive(&house, &session, true).await;
    let path = format!("/v1/schedules/{}/run", made["id"].as_str().unwrap());
    let run = house.post(&path).answer().await.json();
    assert_eq!(
        (&run["outcome"], &run["reason"]),
        (&json!("skipped"), &json!("archived"))
    );
    archive(&house, &session, false).await;
    let run = house.post(&path).answer().await.json();
    assert_eq!(run["outcome"], "fired", "{run}");
}

#[tokio::test]
async fn a_session_whose_journal_can_not_be_read_is_deleted() {
    let house = House::new().await;
    let session = house.session().await;
    let damaged = worked(&house, &session).await["id"].as_str().unwrap().parse().unwrap();
    house.damage(damaged).await;
    let gone = house.delete(&session).answer().await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{}", gone.text());
    assert_eq!(house.get(&session).answer().await.problem(), "not_found");
}

#[tokio::test]
async fn a_session_with_an_open_turn_that_can_not_be_read_is_deleted() {
    let house = House::new().await;
    let session = house.session().await;
    let _told = house.next_answer();
    let begun = house
        .post(&format!("{session}/turns"))
        .with("prefer", "respond-async")
        .json(&json!({"input": "hi"}))
        .answer()
        .await
        .json();
    house.has_asked(1).await;
    house.damage(begun["id"].as_str().unwrap().parse().unwrap()).await;
    let house = house.restarted().await;
    let gone = house.delete(&session).answer().await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{}", gone.text());
    assert_eq!(house.get(&session).answer().await.problem(), "not_found");
}
