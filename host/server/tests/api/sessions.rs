use crate::house::House;
use fumehood_agent::{
    host::NewSession,
    limits::{Limits, OrgLimits},
};
use fumehood_core::name::OrgName;
use fumehood_server::ServerConfig;
use fumehood_store::workspace::{Kept, Starter};
use http::{Method, StatusCode};
use serde_json::json;
use std::time::Duration;

/// Long enough for a machine under load; reached only when a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_session_is_made_shown_changed_and_deleted() {
    let house = House::new().await;
    let asked =
        json!({"title": "Sales", "metadata": {"a": [1]}, "network": {"allow": ["api.example.com"]}, "files": "read"});
    let made = house.post("/v1/sessions").json(&asked).answer().await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let path = made.headers["location"].to_str().unwrap().to_owned();
    let session = made.json();
    assert_eq!(path, format!("/v1/sessions/{}", session["id"].as_str().unwrap()));
    for field in ["title", "metadata", "network", "files"] {
        assert_eq!(session[field].to_string(), asked[field].to_string(), "{field}");
    }
    assert_eq!(session["agent"], "assistant");

    let change = json!({"title": null, "files": null});
    let changed = house.ask(Method::PATCH, &path).json(&change).answer().await.json();
    assert_eq!((changed.get("title"), changed.get("files")), (None, None));
    assert_eq!(changed["network"], asked["network"], "what is not named stays");

    let shown = house.get(&path).answer().await.json();
    assert_eq!(shown, changed);
    assert_eq!(house.delete(&path).answer().await.status, StatusCode::NO_CONTENT);
    assert_eq!(house.get(&path).answer().await.problem(), "not_found");
}

#[tokio::test]
async fn sessions_are_listed_newest_first_in_pages() {
    let house = House::new().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(house.session().await);
    }
    let first = house.get("/v1/sessions?limit=2").answer().await.json();
    let next = first["next"].as_str().unwrap();
    let second = house
        .get(&format!("/v1/sessions?limit=2&cursor={next}"))
        .answer()
        .await
        .json();
    assert_eq!(second.get("next"), None);
    let listed: Vec<_> = [&first, &second]
        .iter()
        .flat_map(|page| page["items"].as_array().unwrap().clone())
        .map(|session| format!("/v1/sessions/{}", session["id"].as_str().unwrap()))
        .collect();
    made.reverse();
    assert_eq!(listed, made);
}

#[tokio::test]
async fn a_session_of_another_org_is_not_there() {
    let house = House::new().await;
    let path = house.session().await;
    for suffix in [
        "",
        "/messages",
        "/events",
        "/files",
        "/files/a",
        "/kv",
        "/kv/a",
        "/secrets",
        "/ledger",
    ] {
        let answer = house.get(&format!("{path}{suffix}")).by_other_org().answer().await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (StatusCode::NOT_FOUND, "not_found"),
            "{suffix}"
        );
    }
    let body = json!({"input": "hi"});
    assert_eq!(
        house
            .post(&format!("{path}/turns"))
            .by_other_org()
            .json(&body)
            .answer()
            .await
            .problem(),
        "not_found"
    );
    assert_eq!(
        house
            .put(&format!("{path}/kv/a"))
            .by_other_org()
            .body("text/plain", "x")
            .answer()
            .await
            .problem(),
        "not_found"
    );
    assert_eq!(
        house
            .put(&format!("{path}/files/a"))
            .by_other_org()
            .body("text/plain", "x")
            .answer()
            .await
            .problem(),
        "not_found"
    );
    assert_eq!(
        house
            .put(&format!("{path}/secrets/A"))
            .by_other_org()
            .body("text/plain", "x")
            .answer()
            .await
            .problem(),
        "not_found"
    );
    assert_eq!(house.delete(&path).by_other_org().answer().await.problem(), "not_found");
    assert_eq!(
        house.get("/v1/sessions").by_other_org().answer().await.json()["items"],
        json!([])
    );
    assert_eq!(house.get(&path).answer().await.status, StatusCode::OK);
}

#[tokio::test]
async fn secrets_come_with_their_session_and_are_never_shown() {
    let house = House::new().await;
    let made = house
        .post("/v1/sessions")
        .json(&json!({"secrets": {"TOKEN": "hunter2"}}))
        .answer()
        .await;
    assert!(!made.text().contains("hunter2"));
    let path = made.headers["location"].to_str().unwrap().to_owned();
    let names = house.get(&format!("{path}/secrets")).answer().await;
    assert_eq!(names.json()["items"], json!([{"name": "TOKEN"}]));
    assert!(!names.text().contains("hunter2"));
}

#[tokio::test]
async fn a_session_with_a_bad_secret_is_not_made() {
    let house = House::new().await;
    for secrets in [
        json!({"A-B": "x"}),
        json!({"A": ""}),
        json!({"A": 5}),
        json!({"A": "x".repeat(70_000)}),
    ] {
        let answer = house
            .post("/v1/sessions")
            .json(&json!({"secrets": secrets}))
            .answer()
            .await;
        assert!(answer.status.is_client_error(), "{}", answer.text());
    }
    assert_eq!(house.get("/v1/sessions").answer().await.json()["items"], json!([]));
}

#[tokio::test]
async fn an_unknown_agent_is_refused_with_those_there_are() {
    let house = House::new().await;
    let answer = house
        .post("/v1/sessions")
        .json(&json!({"agent": "nobody"}))
        .answer()
        .await;
    assert_eq!(answer.problem(), "invalid_request");
    assert!(answer.text().contains("assistant"), "{}", answer.text());
}

#[tokio::test]
async fn a_change_of_nothing_is_refused() {
    let house = House::new().await;
    let path = house.session().await;
    assert_eq!(
        house
            .ask(Method::PATCH, &path)
            .json(&json!({}))
            .answer()
            .await
            .problem(),
        "invalid_request"
    );
}

#[tokio::test]
async fn messages_page_from_the_oldest() {
    let house = House::new().await;
    let path = house.session().await;
    for input in ["one", "two"] {
        house
            .post(&format!("{path}/turns"))
            .json(&json!({"input": input}))
            .answer()
            .await;
    }
    let first = house.get(&format!("{path}/messages?limit=3")).answer().await.json();
    let roles: Vec<_> = first["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    let next = first["next"].as_str().unwrap();
    let second = house
        .get(&format!("{path}/messages?limit=3&cursor={next}"))
        .answer()
        .await
        .json();
    assert_eq!(second["items"][0]["parts"][0]["text"], "Hello.");
    assert_eq!(second.get("next"), None);
}

#[tokio::test]
async fn a_session_whose_deletion_nobody_waits_for_is_deleted_whole() {
    let house = House::new().await;
    let (host, org) = (&house.host, OrgName::default_org());
    let starter = Starter {
        path: "a".parse().unwrap(),
        bytes: b"x".to_vec(),
        kept: Kept::Changeable,
    };
    let new = NewSession {
        starter: vec![starter],
        ..NewSession::default()
    };
    let session = host.create_session(&org, new).await.unwrap().id;
    {
        let mut deletion = std::pin::pin!(host.delete_session(&org, session));
        // Until the files are out of reach, and no further.
        while host.workspaces().tree(session).await.is_ok() {
            let polled = std::future::poll_fn(|context| std::task::Poll::Ready(deletion.as_mut().poll(context)));
            if polled.await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let gone = async {
        while host.session(&org, session).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it is half deleted");
}

#[tokio::test]
async fn an_org_has_as_many_sessions_as_it_may_and_deleting_one_makes_room() {
    let two = OrgLimits {
        sessions: Some(2),
        ..OrgLimits::none()
    };
    let limits = Limits::new([(OrgName::default_org(), two)].into());
    let house = House::limited(ServerConfig::default(), limits).await;
    let (first, _) = (house.session().await, house.session().await);
    let fork = format!("{first}/fork");
    for refused in [house.post("/v1/sessions").json(&json!({})), house.post(&fork)] {
        let refused = refused.answer().await;
        assert_eq!(
            (refused.status, refused.problem().as_str()),
            (StatusCode::CONFLICT, "too_many_sessions")
        );
        assert_eq!(refused.json()["limit"], 2);
    }
    // Each begins with a session of its own.
    let plan = json!({"when": {"every": "1h"}, "input": "look around"});
    let schedule = house.post("/v1/schedules").json(&plan).answer().await.json();
    let run = format!("/v1/schedules/{}/run", schedule["id"].as_str().unwrap());
    let skipped = house.post(&run).answer().await.json();
    assert_eq!(
        (&skipped["outcome"], &skipped["reason"]),
        (&json!("skipped"), &json!("too_many_sessions"))
    );
    let others = house.post("/v1/sessions").by_other_org().json(&json!({}));
    assert_eq!(others.answer().await.status, StatusCode::CREATED, "another org's own");
    assert_eq!(house.delete(&first).answer().await.status, StatusCode::NO_CONTENT);
    house.session().await;
}
