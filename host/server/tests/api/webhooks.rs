//! An org's URLs that are told what happens in its sessions.

use crate::{
    hooks::{
        outside::{Came, Outside, redirect, status},
        webhooks::hmac,
    },
    house::{House, Plan},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_agent::limits::{Limits, OrgLimits};
use fumehood_core::name::OrgName;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A house that may reach loopback.
async fn house() -> House {
    let mut plan = Plan::default();
    plan.policy.private_networks = serde_json::from_value(json!(["127.0.0.1/32"])).unwrap();
    House::built(plan).await
}

async fn made(house: &House, body: Value) -> Value {
    let made = house.post("/v1/webhooks").json(&body).answer().await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let webhook = made.json();
    assert_eq!(made.headers["location"], path(&webhook));
    webhook
}

fn path(webhook: &Value) -> String {
    format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap())
}

/// A turn in a session of its own, worked to its end.
async fn turn(house: &House) -> (String, Value) {
    let session = house.session().await;
    let turn = house.post(&format!("{session}/turns")).json(&json!({"input": "hello"}));
    (session.clone(), turn.answer().await.json())
}

async fn deliveries(house: &House, webhook: &Value, query: &str) -> Vec<Value> {
    let listed = house
        .get(&format!("{}/deliveries{query}", path(webhook)))
        .answer()
        .await;
    listed.json()["items"].as_array().unwrap().clone()
}

/// Waits until deliveries are so.
async fn until(house: &House, webhook: &Value, mut seen: impl FnMut(&[Value]) -> bool) -> Vec<Value> {
    loop {
        let there = deliveries(house, webhook, "").await;
        if seen(&there) {
            return there;
        }
        tokio::task::yield_now().await;
    }
}

fn signed_by(came: &Came, secret: &Value) -> String {
    let header = |name: &str| came.headers[name].to_str().unwrap();
    let signed = format!("{}.{}.{}", header("webhook-id"), header("webhook-timestamp"), came.body);
    let key = secret.as_str().unwrap().strip_prefix("whsec_").unwrap();
    let key = STANDARD.decode(key).unwrap();
    format!("v1,{}", STANDARD.encode(hmac(&key, signed.as_bytes())))
}

fn signatures(came: &Came) -> Vec<&str> {
    came.headers["webhook-signature"].to_str().unwrap().split(' ').collect()
}

#[tokio::test]
async fn a_webhook_is_told_of_each_turn_signed_as_standard_webhooks_says() {
    let house = house().await;
    let outside = Outside::new(|_| status(204)).await;
    let webhook = made(&house, json!({"url": format!("{}/told", outside.base)})).await;
    let (session, turn) = turn(&house).await;
    outside.until(|came| came.len() == 3).await;
    let came = outside.came();
    let kinds: Vec<_> = came.iter().map(|came| came.json()["type"].clone()).collect();
    assert_eq!(kinds, ["turn.queued", "turn.started", "turn.completed"]);
    let events = house
        .get(&format!("{session}/events"))
        .with("accept", "application/json")
        .answer()
        .await
        .json();
    let events = events["items"].as_array().unwrap();
    for came in &came {
        assert_eq!(came.path, "/told");
        assert_eq!(came.headers["content-type"], "application/json");
        let told = came.json();
        assert!(
            events.contains(&told["data"]),
            "it is the event as clients read it: {told}"
        );
        assert_eq!(
            (&told["timestamp"], &told["data"]["turn"]),
            (&told["data"]["time"], &turn["id"])
        );
        assert_eq!(came.headers["webhook-id"], told["data"]["id"].as_str().unwrap());
        assert_eq!(signatures(came), [signed_by(came, &webhook["secret"])]);
    }
    let told = until(&house, &webhook, |all| {
        all.iter().all(|one| one["status"] == "delivered")
    })
    .await;
    assert_eq!(told.len(), 3);
    assert_eq!(
        (&told[0]["type"], &told[0]["attempts"], &told[0]["response_status"]),
        (&json!("turn.completed"), &json!(1), &json!(204))
    );
    let ledger = house.get(&format!("{session}/ledger")).answer().await.json();
    let entry = &ledger["items"][0];
    assert_eq!(
        (&entry["tool"], &entry["path"]),
        (&json!("webhook"), &json!("/told")),
        "{ledger}"
    );
}

#[tokio::test]
async fn a_webhook_is_told_what_it_is_to_be_told_and_while_it_is_active() {
    let house = house().await;
    let outside = Outside::new(|_| status(200)).await;
    let webhook = made(
        &house,
        json!({"url": outside.base, "title": "Ends", "events": ["turn.completed"]}),
    )
    .await;
    assert_eq!(
        (&webhook["title"], &webhook["status"]),
        (&json!("Ends"), &json!("active"))
    );
    turn(&house).await;
    let paused = house
        .ask(Method::PATCH, &path(&webhook))
        .json(&json!({"status": "paused", "title": null}));
    let paused = paused.answer().await.json();
    assert_eq!((&paused["status"], paused.get("title")), (&json!("paused"), None));
    turn(&house).await;
    let change = json!({"status": "active", "events": ["session.*"]});
    house.ask(Method::PATCH, &path(&webhook)).json(&change).answer().await;
    let (session, _) = turn(&house).await;
    outside.until(|came| came.len() == 2).await;
    let kinds: Vec<_> = outside.came().iter().map(|came| came.json()["type"].clone()).collect();
    assert_eq!(kinds, ["turn.completed", "session.created"]);
    until(&house, &webhook, |all| {
        all.iter().all(|one| one["status"] == "delivered")
    })
    .await;
    // What is deleted is told to nobody any more, and leaves nothing.
    assert_eq!(house.delete(&session).answer().await.status, StatusCode::NO_CONTENT);
    assert_eq!(deliveries(&house, &webhook, "").await.len(), 1);
}

#[tokio::test]
async fn what_does_not_arrive_is_sent_again_with_the_same_id() {
    let house = house().await;
    static TRIES: AtomicUsize = AtomicUsize::new(0);
    let outside = Outside::new(|_| match TRIES.fetch_add(1, Ordering::SeqCst) {
        0 => status(500),
        _ => status(200),
    })
    .await;
    let webhook = made(&house, json!({"url": outside.base, "events": ["turn.completed"]})).await;
    turn(&house).await;
    let failed = until(&house, &webhook, |all| {
        all.first().is_some_and(|one| one["attempts"].as_u64() >= Some(1))
    })
    .await;
    assert_eq!(
        (&failed[0]["status"], &failed[0]["response_status"]),
        (&json!("pending"), &json!(500))
    );
    assert!(failed[0]["message"].as_str().unwrap().contains("500"), "{failed:?}");
    outside.until(|came| came.len() == 2).await;
    let came = outside.came();
    assert_eq!(came[0].headers["webhook-id"], came[1].headers["webhook-id"]);
    assert_eq!(came[0].body, came[1].body);
    let arrived = until(&house, &webhook, |all| all[0]["status"] == "delivered").await;
    assert_eq!(arrived[0]["attempts"], 2);
    // Also what arrived can be sent again.
    let id = arrived[0]["id"].as_str().unwrap();
    let replayed = house
        .post(&format!("{}/deliveries/{id}/replay", path(&webhook)))
        .answer()
        .await;
    assert_eq!(replayed.json(), json!({"deliveries": 1}));
    outside.until(|came| came.len() == 3).await;
}

#[tokio::test]
async fn a_server_that_is_gone_is_told_nothing_more_until_somebody_says_so() {
    let house = house().await;
    static GONE: AtomicUsize = AtomicUsize::new(1);
    let outside = Outside::new(|_| match GONE.load(Ordering::SeqCst) {
        1 => status(410),
        _ => status(200),
    })
    .await;
    let webhook = made(&house, json!({"url": outside.base, "events": ["turn.completed"]})).await;
    turn(&house).await;
    until(&house, &webhook, |all| {
        all.first().is_some_and(|one| one["status"] == "dead")
    })
    .await;
    assert_eq!(house.get(&path(&webhook)).answer().await.json()["status"], "disabled");
    turn(&house).await;
    assert_eq!(
        deliveries(&house, &webhook, "").await.len(),
        1,
        "nothing more was to be told"
    );
    GONE.store(0, Ordering::SeqCst);
    let active = house
        .ask(Method::PATCH, &path(&webhook))
        .json(&json!({"status": "active"}))
        .answer()
        .await;
    assert_eq!(active.json()["status"], "active");
    let replayed = house.post(&format!("{}/replay", path(&webhook))).answer().await.json();
    assert_eq!(replayed, json!({"deliveries": 1}));
    until(&house, &webhook, |all| all[0]["status"] == "delivered").await;
    assert_eq!(deliveries(&house, &webhook, "?status=dead").await, [] as [Value; 0]);
}

#[tokio::test]
async fn private_addresses_are_refused_and_redirects_are_not_followed() {
    let house = house().await;
    let outside = Outside::new(|came| match came.path.as_str() {
        "/redirect" => redirect("/followed"),
        _ => status(200),
    })
    .await;
    for (url, word) in [
        ("http://127.0.0.2:7070/".to_owned(), "denied"),
        ("http://169.254.169.254/latest".to_owned(), "denied"),
        (format!("{}/redirect", outside.base), "redirect"),
    ] {
        let webhook = made(&house, json!({"url": url, "events": ["turn.completed"]})).await;
        turn(&house).await;
        let tried = until(&house, &webhook, |all| {
            all.first().is_some_and(|one| one["attempts"].as_u64() >= Some(1))
        })
        .await;
        assert_eq!(tried[0]["status"], "pending", "{url}");
        assert!(tried[0]["message"].as_str().unwrap().contains(word), "{tried:?}");
        assert_eq!(
            house.delete(&path(&webhook)).answer().await.status,
            StatusCode::NO_CONTENT
        );
    }
    assert!(
        !outside.paths().contains(&"/followed".to_owned()),
        "nothing follows a redirect"
    );
}

#[tokio::test]
async fn a_server_that_hangs_keeps_no_other_from_being_told() {
    let house = house().await;
    let hangs = Outside::new(|_| None).await;
    let answers = Outside::new(|_| status(200)).await;
    made(&house, json!({"url": hangs.base, "events": ["turn.*"]})).await;
    let webhook = made(&house, json!({"url": answers.base, "events": ["turn.*"]})).await;
    turn(&house).await;
    hangs.until(|came| !came.is_empty()).await;
    answers.until(|came| came.len() == 3).await;
    assert_eq!(hangs.came().len(), 1, "one request at a time");
    until(&house, &webhook, |all| {
        all.iter().all(|one| one["status"] == "delivered")
    })
    .await;
}

#[tokio::test]
async fn what_was_not_told_when_the_host_stopped_is_told_by_the_next() {
    let house = house().await;
    let outside = Outside::new(|_| status(200)).await;
    let webhook = made(&house, json!({"url": outside.base, "events": ["turn.completed"]})).await;
    house
        .ask(Method::PATCH, &path(&webhook))
        .json(&json!({"status": "paused"}))
        .answer()
        .await;
    turn(&house).await;
    let active = house
        .ask(Method::PATCH, &path(&webhook))
        .json(&json!({"status": "active"}));
    active.answer().await;
    let (_, told) = turn(&house).await;
    let house = house.restarted().await;
    outside.until(|came| !came.is_empty()).await;
    assert_eq!(outside.came()[0].json()["data"]["turn"], told["id"]);
    until(&house, &webhook, |all| {
        all.iter().all(|one| one["status"] == "delivered")
    })
    .await;
}

#[tokio::test]
async fn for_a_day_a_secret_that_was_changed_signs_beside_the_new_one() {
    let house = house().await;
    let outside = Outside::new(|_| status(200)).await;
    let webhook = made(&house, json!({"url": outside.base, "events": ["turn.completed"]})).await;
    let rotated = house.post(&format!("{}/secret", path(&webhook))).answer().await.json();
    assert_ne!(rotated["secret"], webhook["secret"]);
    assert!(rotated["key_before_until"].is_string());
    turn(&house).await;
    outside.until(|came| came.len() == 1).await;
    let came = &outside.came()[0];
    assert_eq!(
        signatures(came),
        [signed_by(came, &rotated["secret"]), signed_by(came, &webhook["secret"])]
    );
    // The secrets are the org's: kept like others, never shown again, and gone with the webhook.
    let names = async || {
        house.get("/v1/secrets").answer().await.json()["items"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(names().await, 2);
    assert_eq!(house.get(&path(&webhook)).answer().await.json().get("secret"), None);
    assert_eq!(
        house.delete(&path(&webhook)).answer().await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(names().await, 0);
}

#[tokio::test]
async fn secrets_that_were_changed_within_a_day_all_sign_and_only_so_many_are_changed() {
    let house = house().await;
    let outside = Outside::new(|_| status(200)).await;
    let webhook = made(&house, json!({"url": outside.base, "events": ["turn.completed"]})).await;
    let mut secrets = vec![webhook["secret"].clone()];
    for _ in 0..4 {
        let rotated = house.post(&format!("{}/secret", path(&webhook))).answer().await;
        assert_eq!(rotated.status, StatusCode::OK, "{}", rotated.text());
        secrets.insert(0, rotated.json()["secret"].clone());
    }
    let refused = house.post(&format!("{}/secret", path(&webhook))).answer().await;
    assert_eq!(refused.problem(), "invalid_request");
    turn(&house).await;
    outside.until(|came| came.len() == 1).await;
    let came = &outside.came()[0];
    let expected: Vec<_> = secrets.iter().map(|secret| signed_by(came, secret)).collect();
    assert_eq!(signatures(came), expected);
    house.delete(&path(&webhook)).answer().await;
    let left = house.get("/v1/secrets").answer().await.json();
    assert_eq!(left["items"], json!([]), "also what was refused leaves no secret");
}

#[tokio::test]
async fn what_the_orgs_rate_refuses_is_no_attempt() {
    let limited = OrgLimits {
        egress_requests: Some("1/hour".parse().unwrap()),
        ..OrgLimits::default()
    };
    let mut plan = Plan {
        limits: Limits::new([(OrgName::default_org(), limited)].into()),
        ..Plan::default()
    };
    plan.policy.private_networks = serde_json::from_value(json!(["127.0.0.1/32"])).unwrap();
    let house = House::built(plan).await;
    let outside = Outside::new(|_| status(200)).await;
    let webhook = made(&house, json!({"url": outside.base, "events": ["turn.completed"]})).await;
    turn(&house).await;
    outside.until(|came| came.len() == 1).await;
    turn(&house).await;
    let told = until(&house, &webhook, |all| {
        all.len() == 2 && all[0].get("message").is_some()
    })
    .await;
    assert_eq!(
        (&told[0]["status"], &told[0]["attempts"]),
        (&json!("pending"), &json!(0)),
        "{told:?}"
    );
    assert_eq!(outside.came().len(), 1);
}

#[tokio::test]
async fn what_can_be_told_nobody_is_refused_and_another_orgs_webhooks_are_not_there() {
    let house = house().await;
    for (body, code) in [
        (json!({"url": "not a url"}), "invalid_request"),
        (json!({"url": "ftp://example.com/"}), "invalid_request"),
        (json!({"url": "https://user:pass@example.com/"}), "invalid_request"),
        (json!({"url": "https://example.com/", "events": []}), "invalid_request"),
        (
            json!({"url": "https://example.com/", "events": ["tool.completed"]}),
            "invalid_body",
        ),
        (
            json!({"url": "https://example.com/", "title": "x".repeat(201)}),
            "invalid_request",
        ),
        (json!({"url": "https://example.com/", "secret": "mine"}), "invalid_body"),
    ] {
        let refused = house.post("/v1/webhooks").json(&body).answer().await;
        assert_eq!(refused.problem(), code, "{body}: {}", refused.text());
    }
    let mut last = Value::Null;
    for _ in 0..10 {
        last = made(&house, json!({"url": "https://example.com/"})).await;
    }
    let refused = house
        .post("/v1/webhooks")
        .json(&json!({"url": "https://example.com/"}))
        .answer()
        .await;
    assert_eq!(refused.problem(), "quota_exceeded");
    let secrets = house.get("/v1/secrets").answer().await.json();
    assert_eq!(
        secrets["items"].as_array().unwrap().len(),
        10,
        "what was refused leaves no secret"
    );
    let others = house.get("/v1/webhooks").by_other_org().answer().await.json();
    assert_eq!(others["items"], json!([]));
    let delivery = "/deliveries/dlv_018f3c5b7d2a7c3e9f00112233445566/replay";
    for (method, way) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::POST, "/secret"),
        (Method::GET, "/deliveries"),
        (Method::POST, "/replay"),
        (Method::POST, delivery),
    ] {
        let asked = house.ask(method, &format!("{}{way}", path(&last))).by_other_org();
        assert_eq!(asked.answer().await.problem(), "not_found", "{way}");
    }
    let unknown = house.post(&format!("{}{delivery}", path(&last))).answer().await;
    assert_eq!(unknown.problem(), "not_found");
}

#[tokio::test]
async fn the_same_request_with_the_same_key_makes_one_webhook_and_shows_its_secret() {
    let house = house().await;
    let create = async |body: Value| {
        let made = house.post("/v1/webhooks").with("idempotency-key", "a");
        made.json(&body).answer().await
    };
    let first = create(json!({"url": "https://example.com/"})).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text());
    let org = OrgName::default_org();
    let stamp = async || house.host.store().secrets_stamp(&org, None).await.unwrap().unwrap();
    let before = stamp().await;
    let again = create(json!({"url": "https://example.com/", "events": ["turn.*"]})).await;
    assert_eq!(again.json(), first.json());
    assert_eq!(stamp().await, before, "no secret was written for it");
    let reused = create(json!({"url": "https://example.com/elsewhere"})).await;
    assert_eq!(reused.problem(), "idempotency_key_reused");
    let secrets = house.get("/v1/secrets").answer().await.json();
    assert_eq!(
        secrets["items"].as_array().unwrap().len(),
        1,
        "what was not made leaves no secret"
    );
}
