//! Undo and its siblings.

use crate::house::House;
use fumehood_model::ModelRequest;
use http::StatusCode;
use serde_json::{Value, json};

async fn say(house: &House, session: &str, text: &str) -> String {
    let turn = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": text}))
        .answer()
        .await;
    assert_eq!(turn.status, StatusCode::OK, "{}", turn.text());
    turn.json()["id"].as_str().unwrap().to_owned()
}

async fn undo(house: &House, session: &str, body: &Value) -> crate::house::Answer {
    house.post(&format!("{session}/undo")).json(body).answer().await
}

/// What the users said, as a client reads it.
async fn said(house: &House, session: &str) -> Vec<String> {
    let messages = house.get(&format!("{session}/messages")).answer().await.json();
    let items = messages["items"].as_array().unwrap().clone();
    items
        .iter()
        .filter(|message| message["role"] == "user")
        .map(|message| message["content"][0]["text"].as_str().unwrap().to_owned())
        .collect()
}

/// What the model was shown last of what the users said.
fn shown(asked: &[ModelRequest]) -> Vec<String> {
    let user = |message: &fumehood_core::message::Message| match message {
        fumehood_core::message::Message::User { content } => match &content[..] {
            [fumehood_core::content::Content::Text { text }] => Some(text.clone()),
            _ => None,
        },
        _ => None,
    };
    asked.last().unwrap().messages.iter().filter_map(user).collect()
}

#[tokio::test]
async fn undo_takes_the_last_turn_out_of_the_conversation_and_leaves_it_in_the_journal() {
    let house = House::new().await;
    let session = house.session().await;
    say(&house, &session, "one").await;
    let second = say(&house, &session, "two").await;
    let undone = undo(&house, &session, &json!({})).await;
    assert_eq!(undone.status, StatusCode::OK, "{}", undone.text());
    assert_eq!(undone.json()["turns"], json!([second]));
    assert_eq!(undone.json()["key_values"], "kept");
    assert_eq!(said(&house, &session).await, ["one"]);

    let third = say(&house, &session, "three").await;
    assert_eq!(shown(&house.asked()), ["one", "three"], "the model knows nothing of it");
    let shown_turn = house.get(&format!("/v1/turns/{second}")).answer().await.json();
    assert_eq!(shown_turn["status"], "completed");
    let events = house
        .get(&format!("{session}/events?after=0"))
        .with("accept", "application/json")
        .answer()
        .await
        .json();
    let rewound: Vec<_> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type"] == "session.rewound")
        .cloned()
        .collect();
    assert_eq!(rewound.len(), 1);
    assert_eq!(rewound[0]["seq"], undone.json()["seq"]);
    assert_eq!(rewound[0]["data"]["turns"], json!([second]));

    let undone = undo(&house, &session, &json!({"turns": 2})).await.json();
    assert_eq!(undone["turns"].as_array().unwrap().len(), 2);
    assert_eq!(undone["turns"][1], json!(third));
    assert_eq!(said(&house, &session).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_session_can_be_cut_off_before_one_of_its_turns() {
    let house = House::new().await;
    let session = house.session().await;
    let mut turns = Vec::new();
    for text in ["one", "two", "three"] {
        turns.push(say(&house, &session, text).await);
    }
    let undone = undo(&house, &session, &json!({"to": turns[1]})).await.json();
    assert_eq!(undone["turns"], json!(turns[1..]));
    assert_eq!(said(&house, &session).await, ["one"]);
    let again = undo(&house, &session, &json!({"to": turns[2]})).await;
    assert_eq!(again.problem(), "invalid_request", "undone already");
}

#[tokio::test]
async fn an_undo_that_makes_no_sense_is_refused_and_changes_nothing() {
    let house = House::new().await;
    let session = house.session().await;
    assert_eq!(undo(&house, &session, &json!({})).await.problem(), "invalid_request");
    say(&house, &session, "one").await;
    let other = house.session().await;
    let foreign = say(&house, &other, "elsewhere").await;
    for (body, code, status) in [
        (json!({"turns": 2}), "invalid_request", StatusCode::UNPROCESSABLE_ENTITY),
        (json!({"turns": 0}), "invalid_request", StatusCode::UNPROCESSABLE_ENTITY),
        (json!({"turns": -1}), "invalid_body", StatusCode::UNPROCESSABLE_ENTITY),
        (
            json!({"turns": 1, "to": foreign}),
            "invalid_request",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (json!({"to": foreign}), "not_found", StatusCode::NOT_FOUND),
        (json!({"to": "x"}), "invalid_body", StatusCode::UNPROCESSABLE_ENTITY),
        (json!({"turn": 1}), "invalid_body", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let answer = undo(&house, &session, &body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{body}");
    }
    let answer = house.post(&format!("{session}/undo")).json(&json!({})).by_other_org();
    assert_eq!(answer.answer().await.problem(), "not_found");
    assert_eq!(said(&house, &session).await, ["one"]);
}

#[tokio::test]
async fn nothing_is_undone_while_a_turn_is_open() {
    let house = House::new().await;
    let session = house.session().await;
    say(&house, &session, "one").await;
    let told = house.next_answer();
    let open = house
        .post(&format!("{session}/turns"))
        .with("prefer", "respond-async")
        .json(&json!({"input": "two"}))
        .answer()
        .await
        .json();
    let refused = undo(&house, &session, &json!({})).await;
    assert_eq!(refused.problem(), "session_busy");
    assert_eq!(refused.json()["turn"], open["id"]);
    told.done();
}

#[tokio::test]
async fn a_turn_that_takes_the_place_of_another_undoes_it_when_it_is_accepted() {
    let house = House::new().await;
    let session = house.session().await;
    say(&house, &session, "one").await;
    let second = say(&house, &session, "two").await;
    let edited = json!({"input": "two, edited", "replaces": second});
    let send = |body: &Value, key: &'static str| {
        house
            .post(&format!("{session}/turns"))
            .with("idempotency-key", key)
            .json(body)
            .answer()
    };
    let turn = send(&edited, "a").await;
    assert_eq!(turn.status, StatusCode::OK, "{}", turn.text());
    assert_eq!(shown(&house.asked()), ["one", "two, edited"]);

    let again = send(&edited, "a").await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.json()["id"], turn.json()["id"], "repeated, not undone twice");
    let other = send(&json!({"input": "two, edited"}), "a").await;
    assert_eq!(other.problem(), "idempotency_key_reused");
    assert_eq!(
        send(&edited, "b").await.problem(),
        "invalid_request",
        "it is undone already"
    );
    assert_eq!(said(&house, &session).await, ["one", "two, edited"]);
}

#[tokio::test]
async fn nothing_is_undone_for_a_turn_that_is_refused() {
    let house = House::new().await;
    let session = house.session().await;
    let first = say(&house, &session, "one").await;
    for body in [
        json!({"input": " ", "replaces": first}),
        json!({"input": "x", "replaces": first, "output_schema": {"type": 5}}),
    ] {
        let refused = house.post(&format!("{session}/turns")).json(&body).answer().await;
        assert_eq!(refused.problem(), "invalid_request", "{body}");
    }
    assert_eq!(said(&house, &session).await, ["one"]);
}

#[tokio::test]
async fn of_an_undo_and_a_new_turn_at_once_one_comes_first() {
    let house = House::new().await;
    for _ in 0..10 {
        let session = house.session().await;
        say(&house, &session, "one").await;
        let path = format!("{session}/turns");
        let two = json!({"input": "two"});
        let turn = house.post(&path).json(&two).answer();
        let back = json!({});
        let (turn, undone) = tokio::join!(turn, undo(&house, &session, &back));
        assert_eq!(turn.status, StatusCode::OK, "{}", turn.text());
        let now = said(&house, &session).await;
        match undone.status {
            StatusCode::OK if undone.json()["turns"][0] == turn.json()["id"] => assert_eq!(now, ["one"]),
            StatusCode::OK => assert_eq!(now, ["two"]),
            _ => {
                assert_eq!(undone.problem(), "session_busy");
                assert_eq!(now, ["one", "two"]);
            }
        }
    }
}
