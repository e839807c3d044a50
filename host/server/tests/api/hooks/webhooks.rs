//! Hooks over HTTP: what is sent, how it is signed, and what counts as an answer.

use super::{
    KEY, by_webhook, calling, counted, data, ended, events, house,
    outside::{Came, Outside, allow, redirect, status},
    say,
};
use axum::response::IntoResponse;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_core::digest::Digest;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};

/// HMAC-SHA256 as RFC 2104 defines it, of nothing but a hash.
pub(crate) fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |with: u8| -> Vec<u8> {
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        block.iter().map(|byte| byte ^ with).collect()
    };
    let hash = |bytes: &[u8]| {
        let text = Digest::of(bytes).to_string();
        let hex = text.strip_prefix("sha256:").unwrap().as_bytes().to_vec();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        hex.chunks(2).map(byte).collect::<Vec<u8>>()
    };
    let inner = hash(&[pad(0x36), message.to_vec()].concat());
    hash(&[pad(0x5c), inner].concat())
}

#[tokio::test]
async fn a_webhook_is_signed_as_standard_webhooks_says_and_shows_what_it_is_about() {
    let house = house().await;
    let outside = Outside::new(|_| allow()).await;
    let hook = by_webhook(
        "audit",
        format!("{}/hooks/x", outside.base),
        json!(["before_tool_call"]),
    );
    house.agent(json!({"model": "main", "hook": [hook]})).await;
    let session = house.session().await;
    let turn = calling(&house, &session, &[("double", json!({"n": 4}))]).await;
    let came = &outside.came()[0];
    let header = |name: &str| came.headers[name].to_str().unwrap();
    assert_eq!(
        (came.path.as_str(), header("content-type")),
        ("/hooks/x", "application/json")
    );
    let signed = format!("{}.{}.{}", header("webhook-id"), header("webhook-timestamp"), came.body);
    let key = STANDARD.decode(KEY.strip_prefix("whsec_").unwrap()).unwrap();
    let signature = STANDARD.encode(hmac(&key, signed.as_bytes()));
    assert_eq!(header("webhook-signature"), format!("v1,{signature}"));

    let told = came.data();
    let events = events(&house, &session).await;
    let end = ended(&events, "double");
    assert_eq!(end["status"], "ok");
    let body: serde_json::Value = serde_json::from_str(&came.body).unwrap();
    assert_eq!(body["type"], "hook.before_tool_call");
    assert_eq!((&told["hook"], &told["mode"]), (&json!("audit"), &json!("guard")));
    assert_eq!((&told["turn"], &told["call"]), (&turn["id"], &end["call"]));
    assert_eq!((&told["agent"], &told["org"]), (&json!("assistant"), &json!("default")));
    assert_eq!(told["about"]["tool"], "double");
    assert_eq!(told["about"]["arguments"], json!({"n": 4}));

    let ledger = house.get(&format!("{session}/ledger")).answer().await.json();
    let entry = &ledger["items"][0];
    assert_eq!(
        (&entry["tool"], &entry["path"]),
        (&json!("audit"), &json!("/hooks/x")),
        "{ledger}"
    );
}

#[tokio::test]
async fn what_is_no_answer_denies() {
    let house = house().await;
    let outside = Outside::new(|came| match came.path.as_str() {
        "/error" => status(500),
        "/refused" => status(403),
        "/nothing" => status(204),
        "/redirect" => redirect("/allow"),
        "/words" => Some("ok".into_response()),
        "/unknown" => Some(json!({"decision": "allow", "also": 1}).to_string().into_response()),
        "/large" => Some(" ".repeat(2 << 20).into_response()),
        "/slow" => None,
        _ => allow(),
    })
    .await;
    let nobody = "http://127.0.0.1:1/".to_owned();
    let own = |path: &str| format!("{}{path}", outside.base);
    for (url, failure) in [
        (own("/error"), "unreachable"),
        (own("/refused"), "unreachable"),
        (own("/nothing"), "invalid_answer"),
        (own("/redirect"), "unreachable"),
        (own("/words"), "invalid_answer"),
        (own("/unknown"), "invalid_answer"),
        (own("/large"), "invalid_answer"),
        (own("/slow"), "timeout"),
        (nobody, "unreachable"),
        // Not a public address, and not one that the operator lists.
        ("http://127.0.0.2:7070/".to_owned(), "unreachable"),
        ("http://169.254.169.254/latest".to_owned(), "unreachable"),
    ] {
        let mut hook = by_webhook("guard", url.clone(), json!(["before_tool_call"]));
        if failure == "timeout" {
            hook["timeout"] = json!("300ms");
        }
        house.agent(json!({"model": "main", "hook": [hook]})).await;
        let session = house.session().await;
        calling(&house, &session, &[("double", json!({"n": 4}))]).await;
        let events = events(&house, &session).await;
        assert_eq!(ended(&events, "double")["status"], "denied", "{url}");
        assert_eq!(data(&events, "hook.failed")[0]["failure"], failure, "{url}");
    }
    assert!(
        !outside.paths().contains(&"/allow".to_owned()),
        "nothing follows a redirect"
    );
}

#[tokio::test]
async fn a_guard_whose_key_is_not_set_denies_also_where_a_session_sets_one() {
    let house = house().await;
    let outside = Outside::new(|_| allow()).await;
    let mut hook = by_webhook("guard", outside.base.clone(), json!(["before_turn"]));
    hook["key"] = json!("OTHER_KEY");
    house.agent(json!({"model": "main", "hook": [hook]})).await;
    let made = house
        .post("/v1/sessions")
        .json(&json!({"secrets": {"OTHER_KEY": "a key that a client has chosen itself"}}))
        .answer()
        .await;
    let session = made.headers["location"].to_str().unwrap();
    let turn = say(&house, session, "hi").await;
    assert_eq!(turn["error"]["code"], "hook_denied", "{turn}");
    let events = events(&house, session).await;
    let failed = data(&events, "hook.failed");
    assert_eq!(failed[0]["failure"], "unavailable");
    assert!(
        failed[0]["message"]
            .as_str()
            .unwrap()
            .contains("fumehood secret set OTHER_KEY"),
        "{failed:?}"
    );
    assert!(outside.came().is_empty());
}

#[tokio::test]
async fn a_webhook_is_never_shown_the_value_of_a_secret() {
    let house = house().await;
    let outside = Outside::new(|_| allow()).await;
    let all = json!([
        "before_turn",
        "before_model_call",
        "after_model_call",
        "before_tool_call",
        "after_tool_call",
        "after_turn"
    ]);
    let hook = by_webhook("audit", outside.base.clone(), all);
    house.agent(json!({"model": "main", "hook": [hook]})).await;
    let set = house
        .put("/v1/secrets/TOKEN")
        .json(&json!({"value": "correct-horse-battery"}));
    assert!(set.answer().await.status.is_success());
    let session = house.session().await;
    let model = house.next_answer();
    model.say("I know correct-horse-battery.");
    model.calls(&[("double", json!({"n": 4, "note": "correct-horse-battery"}))]);
    say(&house, &session, "use correct-horse-battery").await;
    let came = outside.came();
    assert!(came.len() >= 5, "{came:?}");
    for came in came {
        assert!(!came.body.contains("correct-horse"), "{}", came.body);
    }
}

#[tokio::test]
async fn an_observer_that_never_answers_delays_nothing_and_denies_nothing() {
    let house = house().await;
    let outside = Outside::new(|_| None).await;
    let all = json!([
        "before_turn",
        "before_model_call",
        "after_model_call",
        "before_tool_call",
        "after_tool_call",
        "after_turn"
    ]);
    let mut hook = by_webhook("audit", outside.base.clone(), all);
    hook["mode"] = json!("observe");
    hook["timeout"] = json!("60s");
    house.agent(json!({"model": "main", "hook": [hook]})).await;
    let session = house.session().await;
    // More than there is room for.
    for _ in 0..30 {
        assert_eq!(say(&house, &session, "hi").await["status"], "completed");
    }
    let dropped = counted(&house, "fumehood_hooks_total", r#"hook="audit",outcome="dropped""#).await;
    assert!(dropped > 0);
    let of_org = counted(&house, "fumehood_hooks_not_told_total", r#"org="default""#).await;
    assert!(of_org >= dropped);
    let told = events(&house, &session).await;
    assert!(
        !told
            .iter()
            .any(|event| event["type"].as_str().unwrap().starts_with("hook."))
    );

    // And it keeps no other from being told.
    let mut other = by_webhook("other", format!("{}/other", outside.base), json!(["after_turn"]));
    other["mode"] = json!("observe");
    house.agent(json!({"model": "main", "hook": [hook, other]})).await;
    let last = say(&house, &session, "hi").await;
    let is_it = |came: &Came| came.path == "/other" && came.data()["turn"] == last["id"];
    outside.until(|came| came.iter().any(is_it)).await;
}

#[tokio::test]
async fn an_observer_that_goes_on_failing_is_told_of_once() {
    let house = house().await;
    let outside = Outside::new(|_| status(500)).await;
    let mut hook = by_webhook("broken", outside.base.clone(), json!(["before_turn", "after_turn"]));
    hook["mode"] = json!("observe");
    house.agent(json!({"model": "main", "hook": [hook]})).await;
    let session = house.session().await;
    let mut stream = house.get(&format!("{session}/events?after=0")).stream().await;
    for _ in 0..8 {
        assert_eq!(say(&house, &session, "hi").await["status"], "completed");
    }
    stream.until("hook.failed").await;
    let failed = async || counted(&house, "fumehood_hooks_total", r#"hook="broken",outcome="unreachable""#).await;
    while failed().await < 16 {
        tokio::task::yield_now().await;
    }
    assert_eq!(data(&events(&house, &session).await, "hook.failed").len(), 1);
}

#[tokio::test]
async fn what_an_observer_says_changes_nothing_and_its_failure_is_told() {
    let house = house().await;
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let outside = Outside::new(|_| {
        ASKED.fetch_add(1, Ordering::SeqCst);
        if ASKED.load(Ordering::SeqCst) == 1 {
            super::deny("never")
        } else {
            status(500)
        }
    })
    .await;
    let mut hook = by_webhook("audit", outside.base.clone(), json!(["before_turn", "after_turn"]));
    hook["mode"] = json!("observe");
    house.agent(json!({"model": "main", "hook": [hook]})).await;
    let session = house.session().await;
    let mut stream = house.get(&format!("{session}/events?after=0")).stream().await;
    assert_eq!(say(&house, &session, "hi").await["status"], "completed");
    let seen = stream.until("hook.failed").await;
    let failed = &seen.last().unwrap().data["data"];
    assert_eq!(
        (&failed["mode"], &failed["failure"]),
        (&json!("observe"), &json!("unreachable"))
    );
}

#[tokio::test]
async fn a_session_that_reaches_nobody_silences_no_hook() {
    let house = house().await;
    let outside = Outside::new(|_| allow()).await;
    let hook = by_webhook("audit", outside.base.clone(), json!(["before_turn"]));
    house
        .agent(json!({"model": "main", "hook": [hook], "network": {"allow": []}}))
        .await;
    let made = house
        .post("/v1/sessions")
        .json(&json!({"network": {"allow": []}}))
        .answer()
        .await;
    let session = made.headers["location"].to_str().unwrap();
    assert_eq!(say(&house, session, "hi").await["status"], "completed");
    assert_eq!(outside.came().len(), 1);
}
