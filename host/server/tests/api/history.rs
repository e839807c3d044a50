//! Undo and its siblings.

use crate::{
    hooks::guests::{Does, hook},
    house::House,
};
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
    assert_eq!(
        (&shown_turn["status"], &shown_turn["undone"]),
        (&json!("completed"), &json!(true))
    );
    let kept = house.get(&format!("/v1/turns/{third}")).answer().await.json();
    assert_eq!(kept.get("undone"), None, "{kept}");
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
async fn undo_and_fork_need_no_body_for_what_they_usually_do() {
    let house = House::new().await;
    let session = house.session().await;
    for text in ["one", "two"] {
        say(&house, &session, text).await;
    }
    put(&house, &session, "a.txt", "kept").await;
    let forked = house.post(&format!("{session}/fork")).answer().await;
    assert_eq!(forked.status, StatusCode::CREATED, "{}", forked.text());
    assert_eq!(forked.json()["workspace"], "copied");
    let undone = house.post(&format!("{session}/undo")).answer().await;
    assert_eq!(undone.status, StatusCode::OK, "{}", undone.text());
    assert_eq!(said(&house, &session).await, ["one"]);
    let no_json = house.post(&format!("{session}/undo")).body("text/plain", "turns=1");
    assert_eq!(no_json.answer().await.problem(), "unsupported_media_type");
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

async fn put(house: &House, session: &str, path: &str, text: &'static str) {
    let written = house
        .put(&format!("{session}/files/{path}"))
        .body("text/plain", text)
        .answer()
        .await;
    assert!(written.status.is_success(), "{}", written.text());
}

/// Writes a file until its time is after the end of a turn: the clock of files ticks coarsely.
async fn put_after(house: &House, session: &str, path: &str, text: &'static str, turn: &str) {
    let turn = house.get(&format!("/v1/turns/{turn}")).answer().await.json();
    let time = |value: &Value| value.as_str().unwrap().parse::<fumehood_core::Time>().unwrap();
    loop {
        put(house, session, path, text).await;
        let listed = house.get(&format!("{session}/files?list")).answer().await.json();
        let items = listed["items"].as_array().unwrap();
        let written = items.iter().find(|item| item["path"] == path).unwrap();
        if time(&written["modified"]) > time(&turn["ended"]) {
            return;
        }
    }
}

/// A file as a client reads it; `None` if it is not there.
async fn file(house: &House, session: &str, path: &str) -> Option<String> {
    let answer = house.get(&format!("{session}/files/{path}")).answer().await;
    (answer.status == StatusCode::OK).then(|| answer.text())
}

#[tokio::test]
async fn undo_brings_back_the_files_that_the_turn_found_and_names_what_is_lost() {
    let house = House::new().await;
    let session = house.session().await;
    put(&house, &session, "a", "first").await;
    put(&house, &session, "b", "first").await;
    let turn = say(&house, &session, "one").await;
    put_after(&house, &session, "a", "second", &turn).await;
    put(&house, &session, "c/new", "second").await;
    house.delete(&format!("{session}/files/b")).answer().await;

    let undone = undo(&house, &session, &json!({})).await.json();
    assert_eq!(undone["files"], "restored");
    assert_eq!(undone["files_changed"], 4, "with the directory: {undone}");
    assert_eq!(
        undone["files_lost"],
        json!(["a", "c/new"]),
        "a client changed them after the turn"
    );
    assert_eq!(file(&house, &session, "a").await.as_deref(), Some("first"));
    assert_eq!(file(&house, &session, "b").await.as_deref(), Some("first"));
    assert_eq!(file(&house, &session, "c/new").await, None);

    say(&house, &session, "again").await;
    let undone = undo(&house, &session, &json!({})).await.json();
    assert_eq!(
        (&undone["files"], &undone["files_changed"]),
        (&json!("unchanged"), &json!(0))
    );
}

#[tokio::test]
async fn undo_can_leave_the_files_as_they_are() {
    let house = House::new().await;
    let session = house.session().await;
    say(&house, &session, "one").await;
    put(&house, &session, "a", "kept").await;
    let undone = undo(&house, &session, &json!({"files": false})).await.json();
    assert_eq!(undone["files"], "kept");
    assert_eq!(file(&house, &session, "a").await.as_deref(), Some("kept"));
}

/// A turn in which the model asks for one call, to where it stands still.
async fn calling(house: &House, session: &str, tool: &str, body: &Value) -> Value {
    house.next_answer().calls(&[(tool, json!({"n": 3}))]);
    let turn = house.post(&format!("{session}/turns")).json(body).answer().await;
    assert_eq!(turn.status, StatusCode::OK, "{}", turn.text());
    turn.json()
}

#[tokio::test]
async fn undo_names_a_call_that_ran_and_was_denied_after_that_and_not_one_that_was_denied_before() {
    let house = House::new().await;
    house.add_sums().await;
    house.add("guardian", hook(&Does::Denies("private"))).await;
    for (point, names_it) in [("after_tool_call", true), ("before_tool_call", false)] {
        let guard =
            json!({"name": "guard", "points": [point], "mode": "guard", "component": "guardian", "timeout": "30s"});
        house.agent(json!({"model": "main", "hook": [guard]})).await;
        let session = house.session().await;
        let turn = calling(&house, &session, "shout", &json!({"input": "shout"})).await;
        assert_eq!(turn["status"], "completed", "{turn}");
        let undone = undo(&house, &session, &json!({})).await.json();
        let outside = undone["outside"].as_array().unwrap();
        let named: Vec<_> = outside.iter().map(|one| (&one["kind"], &one["tool"])).collect();
        match names_it {
            true => assert_eq!(named, [(&json!("call"), &json!("shout"))], "{undone}"),
            false => assert!(named.is_empty(), "{undone}"),
        }
    }
}

#[tokio::test]
async fn undo_names_a_call_that_the_client_was_to_run() {
    let house = House::new().await;
    let session = house.session().await;
    let locate =
        json!({"name": "locate", "description": "Tells where the user is.", "input_schema": {"type": "object"}});
    let body = json!({"input": "where am I?", "tools": [locate]});
    let turn = calling(&house, &session, "locate", &body).await;
    let (id, call) = (turn["id"].as_str().unwrap(), &turn["awaited"][0]["call_id"]);
    let results = json!({"results": [{"call_id": call, "content": "bench 3"}]});
    let given = house
        .post(&format!("/v1/turns/{id}/results"))
        .json(&results)
        .answer()
        .await;
    assert_eq!(given.status, StatusCode::OK, "{}", given.text());
    house
        .get(&format!("{session}/events?turn={id}"))
        .stream()
        .await
        .rest()
        .await;
    let undone = undo(&house, &session, &json!({})).await.json();
    assert_eq!(
        undone["outside"],
        json!([{"kind": "call", "call": call, "tool": "locate"}])
    );
    assert_eq!(undone["outside_more"], 0);
}

#[tokio::test]
async fn a_turn_that_takes_the_place_of_another_finds_the_files_as_that_one_did() {
    let house = House::new().await;
    let session = house.session().await;
    put(&house, &session, "a", "first").await;
    let first = say(&house, &session, "one").await;
    put(&house, &session, "a", "second").await;
    let empty = json!({"input": "", "replaces": first});
    house.post(&format!("{session}/turns")).json(&empty).answer().await;
    assert_eq!(
        file(&house, &session, "a").await.as_deref(),
        Some("second"),
        "it was refused"
    );
    let edited = json!({"input": "edited", "replaces": first});
    let turn = house.post(&format!("{session}/turns")).json(&edited).answer().await;
    assert_eq!(turn.json()["status"], "completed");
    assert_eq!(file(&house, &session, "a").await.as_deref(), Some("first"));
}

async fn fork(house: &House, session: &str, body: &Value) -> (String, Value) {
    let forked = house.post(&format!("{session}/fork")).json(body).answer().await;
    assert_eq!(forked.status, StatusCode::CREATED, "{}", forked.text());
    let location = forked.headers["location"].to_str().unwrap().to_owned();
    (location, forked.json())
}

#[tokio::test]
async fn a_fork_begins_as_the_session_is_and_goes_its_own_way() {
    let house = House::new().await;
    let asked = json!({"title": "First", "metadata": {"a": 1}, "network": {"allow": ["api.example.com"]}});
    let made = house.post("/v1/sessions").json(&asked).answer().await;
    let session = made.headers["location"].to_str().unwrap().to_owned();
    put(&house, &session, "a", "first").await;
    house
        .put(&format!("{session}/kv/k"))
        .body("text/plain", "v")
        .answer()
        .await;
    say(&house, &session, "one").await;
    say(&house, &session, "undone").await;
    undo(&house, &session, &json!({})).await;

    let (forked, body) = fork(&house, &session, &json!({})).await;
    assert_eq!(body["forked_from"]["session"], made.json()["id"]);
    assert_eq!(body["workspace"], "copied");
    for field in ["agent", "title", "metadata", "network"] {
        assert_eq!(body[field], made.json()[field], "{field}");
    }
    let [old, new] = [&session, &forked].map(|session| house.get(&format!("{session}/messages")).answer());
    assert_eq!(new.await.json()["items"], old.await.json()["items"]);
    assert_eq!(
        house.get(&format!("{forked}/kv/k")).answer().await.problem(),
        "not_found"
    );

    say(&house, &forked, "two").await;
    assert_eq!(shown(&house.asked()), ["one", "two"]);
    put(&house, &forked, "a", "second").await;
    assert_eq!(said(&house, &session).await, ["one"]);
    assert_eq!(file(&house, &session, "a").await.as_deref(), Some("first"));
    let too_far = undo(&house, &forked, &json!({"turns": 2})).await;
    assert_eq!(
        too_far.problem(),
        "invalid_request",
        "what was copied is no turn of the fork"
    );
    house.delete(&session).answer().await;
    assert_eq!(
        said(&house, &forked).await,
        ["one", "two"],
        "it needs nothing of the other"
    );
}

#[tokio::test]
async fn a_fork_after_a_turn_has_what_there_was_after_it() {
    let house = House::new().await;
    let session = house.session().await;
    put(&house, &session, "a", "before one").await;
    let first = say(&house, &session, "one").await;
    put(&house, &session, "a", "before two").await;
    let second = say(&house, &session, "two").await;
    put(&house, &session, "a", "now").await;

    let (forked, _) = fork(&house, &session, &json!({"after": first, "title": "Other"})).await;
    assert_eq!(said(&house, &forked).await, ["one"]);
    assert_eq!(file(&house, &forked, "a").await.as_deref(), Some("before two"));
    let (forked, _) = fork(&house, &session, &json!({"after": second})).await;
    assert_eq!(file(&house, &forked, "a").await.as_deref(), Some("now"));
    let (forked, body) = fork(&house, &session, &json!({"files": false})).await;
    assert_eq!(body["workspace"], "left");
    assert_eq!(file(&house, &forked, "a").await, None);
}

#[tokio::test]
async fn a_session_with_an_open_turn_is_forked_without_it() {
    let house = House::new().await;
    let session = house.session().await;
    put(&house, &session, "a", "first").await;
    say(&house, &session, "one").await;
    let told = house.next_answer();
    let mut frames = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "two"}))
        .stream()
        .await;
    told.say("I");
    let begun = frames.until("text.delta").await;
    put(&house, &session, "a", "while it runs").await;
    let (forked, _) = fork(&house, &session, &json!({})).await;
    assert_eq!(said(&house, &forked).await, ["one"]);
    assert_eq!(
        file(&house, &forked, "a").await.as_deref(),
        Some("first"),
        "as the open turn found it"
    );
    let open = begun.last().unwrap().data["turn"].clone();
    let refused = house
        .post(&format!("{session}/fork"))
        .json(&json!({"after": open}))
        .answer()
        .await;
    assert_eq!(refused.problem(), "invalid_request");
    told.done();
}

#[tokio::test]
async fn a_fork_that_makes_no_sense_is_refused() {
    let house = House::new().await;
    let session = house.session().await;
    let first = say(&house, &session, "one").await;
    undo(&house, &session, &json!({})).await;
    let other = house.session().await;
    let foreign = say(&house, &other, "elsewhere").await;
    for (body, code) in [
        (json!({"after": first}), "invalid_request"),
        (json!({"after": foreign}), "not_found"),
        (json!({"after": 1}), "invalid_body"),
        (json!({"before": first}), "invalid_body"),
    ] {
        let refused = house.post(&format!("{session}/fork")).json(&body).answer().await;
        assert_eq!(refused.problem(), code, "{body}");
    }
    let refused = house.post(&format!("{session}/fork")).json(&json!({})).by_other_org();
    assert_eq!(refused.answer().await.problem(), "not_found");
    let sessions = house.get("/v1/sessions").answer().await.json();
    assert_eq!(sessions["items"].as_array().unwrap().len(), 2);
}
