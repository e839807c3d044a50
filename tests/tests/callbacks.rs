//! Calls that a tool hands on to somebody outside, from outside: ended once, over a restart, in time, and by nobody else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Calls, Host, Place, count, expect_json, find, refused, until, world::World};
use futures::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

async fn place(turns: &Calls<'_>) -> (Place, Host) {
    let place = Place::calling(turns, "[callbacks]\nurl = \"https://agents.example.com\"\n");
    let host = place.serve().await;
    host.add_guest("hostile", None).await;
    (place, host)
}

/// What the tool was given, and wrote down.
struct Ticket {
    id: String,
    token: String,
}

async fn ticket(host: &Host, session: &str) -> Ticket {
    let path = format!("/v1/sessions/{session}/files/ticket.json");
    let written = host.get(&path).await;
    Ticket {
        id: written["id"].as_str().unwrap().to_owned(),
        token: written["token"].as_str().unwrap().to_owned(),
    }
}

impl Ticket {
    fn request(&self, host: &Host, body: &Value) -> RequestBuilder {
        host.anonymous(Method::POST, &format!("/v1/callbacks/{}", self.id))
            .header("fumehood-callback-token", &self.token)
            .json(body)
    }

    async fn bring(&self, host: &Host, body: &Value) -> Value {
        expect_json(self.request(host, body).send().await.unwrap()).await
    }
}

/// A turn that waits for somebody outside, in a session of its own.
async fn parked(host: &Host, input: &str) -> (String, Value) {
    let session = host.session(json!({})).await;
    let turn = host.turn(&session, input).await;
    assert_eq!(turn["status"], "awaiting_results", "{turn}");
    (session, turn)
}

async fn once(host: &Host, turn: &Value, there: impl Fn(&str) -> bool) -> Value {
    let path = format!("/v1/turns/{}", turn["id"].as_str().unwrap());
    until("the turn", async || {
        let view = host.get(&path).await;
        there(view["status"].as_str().unwrap()).then_some(view)
    })
    .await
}

async fn ended(host: &Host, turn: &Value) -> Value {
    once(host, turn, |status| {
        ["completed", "failed", "cancelled"].contains(&status)
    })
    .await
}

/// The end of the one call of `detach`.
fn result(events: &[Value]) -> &Value {
    let ends: Vec<_> = events
        .iter()
        .filter(|event| event["type"] == "tool.completed" && event["data"]["tool"] == "detach")
        .collect();
    assert_eq!(ends.len(), 1, "{ends:#?}");
    ends[0]
}

#[tokio::test]
async fn a_call_that_is_handed_on_ends_by_its_callback_and_the_turn_goes_on() {
    let (_place, host) = place(&[("build", &[("detach", json!({"note": "build 7"}))])]).await;
    let (session, turn) = parked(&host, "build").await;
    let ticket = ticket(&host, &session).await;
    assert_eq!(turn["detached"][0]["callback"], ticket.id.as_str());
    assert_eq!(turn["detached"][0]["note"], "build 7");
    assert_eq!(turn["awaited"], json!([]));
    let written = host.get(&format!("/v1/sessions/{session}/files/ticket.json")).await;
    let url = format!("https://agents.example.com/v1/callbacks/{}", ticket.id);
    assert_eq!(written["url"], url.as_str());

    let progress = json!({"progress": {"message": "half of it", "fraction": 0.5}});
    let told = (0..8).map(|_| async {
        let response = ticket.request(&host, &progress).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    });
    let told = join_all(told).await;
    let waits = told.iter().find(|(status, _)| *status == 200).unwrap();
    assert_eq!(waits.1["status"], "waiting");
    let too_many = told.iter().find(|(status, _)| *status == 429).unwrap();
    assert_eq!(
        (&too_many.1["code"], &too_many.1["limit"]),
        (&json!("rate_limited"), &json!("callback_progress"))
    );

    let built = json!({"content": "built", "structured": {"artifact": 7}});
    assert_eq!(ticket.bring(&host, &built).await["status"], "completed");
    let view = ended(&host, &turn).await;
    assert_eq!(view["status"], "completed", "{view}");
    assert_eq!(view["detached"], json!([]));
    // The same again is no other; another one is.
    assert_eq!(ticket.bring(&host, &built).await["status"], "completed");
    for body in [&json!({"content": "other"}), &progress] {
        let told = refused(ticket.request(&host, body), 409, "callback_settled").await;
        assert_eq!(told["reason"], "given", "{told}");
    }

    let events = host.events(&session).await;
    let end = result(&events);
    assert_eq!(end["data"]["status"], "ok");
    assert_eq!(end["data"]["output"]["content"][0]["text"], "built");
    assert_eq!(end["data"]["output"]["structured"]["artifact"], 7);
    assert_eq!(end["source"], json!({"kind": "callback", "callback": ticket.id}));
    let told = find(&events, "tool.progress", |_| true).unwrap();
    assert_eq!(told["message"], "half of it");
    let meanwhile = find(&events, "tool.provisional", |_| true).unwrap();
    assert_eq!(meanwhile["output"]["content"][0]["text"], "handed on");
    assert_eq!(count(&events, "turn.resumed"), 1);
    assert!(
        !Value::from(events).to_string().contains(&ticket.token),
        "the journal tells what ends the call"
    );
    host.stop().await;
}

#[tokio::test]
async fn a_call_that_was_handed_on_before_the_host_was_killed_is_ended_after_it_and_not_run_again() {
    let (place, host) = place(&[("build", &[("detach", json!({}))])]).await;
    let (session, turn) = parked(&host, "build").await;
    let ticket = ticket(&host, &session).await;
    host.kill().await;
    let host = place.serve().await;
    assert_eq!(
        ticket.bring(&host, &json!({"content": "built"})).await["status"],
        "completed"
    );
    assert_eq!(ended(&host, &turn).await["status"], "completed");
    let events = host.events(&session).await;
    assert_eq!(count(&events, "tool.started"), 1);
    assert_eq!(result(&events)["data"]["output"]["content"][0]["text"], "built");
    host.stop().await;
}

#[tokio::test]
async fn of_many_callbacks_at_once_one_ends_the_call() {
    let (_place, host) = place(&[("build", &[("detach", json!({}))])]).await;
    let (session, turn) = parked(&host, "build").await;
    let ticket = ticket(&host, &session).await;
    let answers = (0..8).map(|number| {
        let body = json!({"content": number.to_string().repeat(100_000)});
        let request = ticket.request(&host, &body);
        async move { request.send().await.unwrap().status().as_u16() }
    });
    let mut answers = join_all(answers).await;
    answers.sort_unstable();
    assert_eq!(answers, [200, 409, 409, 409, 409, 409, 409, 409]);
    assert_eq!(ended(&host, &turn).await["status"], "completed");
    let events = host.events(&session).await;
    let end = &result(&events)["data"];
    assert_eq!(end["status"], "ok");
    assert_eq!(count(&events, "turn.resumed"), 1);
    // Of the long results the one that counts is kept, and no other.
    let listed = host.get(&format!("/v1/sessions/{session}/files?list")).await;
    let files: Vec<_> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|file| file["path"].as_str().filter(|path| path.starts_with("tool-outputs/")))
        .collect();
    let shown = end["output"]["content"][0]["text"].as_str().unwrap();
    assert!(files.len() == 1 && shown.contains(files[0]), "{files:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_result_that_comes_before_the_step_is_through_is_kept_also_when_the_host_is_killed() {
    let world = World::start().await;
    let held = json!({"url": world.url("/held"), "n": 1});
    let both = [("detach", json!({})), ("http_get_many", held)];
    let (place, host) = place(&[("build", &both)]).await;
    let session = host.session(json!({})).await;
    let turn = expect_json(
        host.request(Method::POST, &format!("/v1/sessions/{session}/turns"))
            .header("prefer", "respond-async")
            .json(&json!({"input": "build"}))
            .send()
            .await
            .unwrap(),
    )
    .await;
    // The other call runs meanwhile.
    until("the ticket", async || {
        find(&host.events(&session).await, "tool.provisional", |_| true).cloned()
    })
    .await;
    let ticket = ticket(&host, &session).await;
    let built = json!({"content": "built"});
    let response = ticket.request(&host, &built).send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(expect_json(response).await["status"], "accepted");
    let response = ticket.request(&host, &built).send().await.unwrap();
    assert_eq!(response.status(), 202, "the same request again");
    refused(
        ticket.request(&host, &json!({"content": "other"})),
        409,
        "callback_settled",
    )
    .await;
    assert_eq!(once(&host, &turn, |_| true).await["status"], "running");
    host.kill().await;
    let host = place.serve().await;
    assert_eq!(ended(&host, &turn).await["status"], "completed");
    let events = host.events(&session).await;
    assert_eq!(result(&events)["data"]["output"]["content"][0]["text"], "built");
    assert!(find(&events, "tool.completed", |data| data["status"] == "interrupted").is_some());
    assert_eq!(ticket.bring(&host, &built).await["status"], "completed");
    host.stop().await;
}

#[tokio::test]
async fn a_call_that_nobody_ends_in_time_fails_also_over_a_restart() {
    let short = json!({"within_ms": 1000});
    let longer = json!({"within_ms": 3000});
    let (place, host) = place(&[("short", &[("detach", short)]), ("longer", &[("detach", longer)])]).await;
    let (session, turn) = parked(&host, "short").await;
    let late = ticket(&host, &session).await;
    assert_eq!(ended(&host, &turn).await["status"], "completed");
    let events = host.events(&session).await;
    let end = &result(&events)["data"];
    assert_eq!(
        (&end["status"], &end["error"]["deadline"]),
        (&json!("timeout"), &json!("callback"))
    );
    let told = refused(
        late.request(&host, &json!({"content": "late"})),
        409,
        "callback_settled",
    )
    .await;
    assert_eq!(told["reason"], "expired", "{told}");

    let (session, turn) = parked(&host, "longer").await;
    host.kill().await;
    let host = place.serve().await;
    assert_eq!(ended(&host, &turn).await["status"], "completed");
    assert_eq!(result(&host.events(&session).await)["data"]["status"], "timeout");
    host.stop().await;
}

#[tokio::test]
async fn each_call_fails_at_its_own_time_and_the_turn_goes_on_with_the_last() {
    let calls = [
        ("detach", json!({"within_ms": 1000, "file": "first.json"})),
        ("detach", json!({"within_ms": 600_000})),
    ];
    let (_place, host) = place(&[("build", &calls)]).await;
    let (session, turn) = parked(&host, "build").await;
    until("the end of the first call", async || {
        find(&host.events(&session).await, "tool.completed", |data| {
            data["status"] == "timeout"
        })
        .cloned()
    })
    .await;
    let view = once(&host, &turn, |_| true).await;
    assert_eq!(view["status"], "awaiting_results", "{view}");
    assert_eq!(view["detached"].as_array().unwrap().len(), 1);
    let ticket = ticket(&host, &session).await;
    assert_eq!(
        ticket.bring(&host, &json!({"content": "built"})).await["status"],
        "completed"
    );
    assert_eq!(ended(&host, &turn).await["status"], "completed");
    assert_eq!(count(&host.events(&session).await, "turn.resumed"), 1);
    host.stop().await;
}

#[tokio::test]
async fn a_cancelled_turn_and_one_that_gives_way_end_their_calls() {
    let (_place, host) = place(&[("build", &[("detach", json!({}))])]).await;
    let (session, turn) = parked(&host, "build").await;
    let cancelled = ticket(&host, &session).await;
    let path = format!("/v1/turns/{}/cancel", turn["id"].as_str().unwrap());
    assert_eq!(host.post(&path, json!({})).await["status"], "cancelled");
    assert_eq!(result(&host.events(&session).await)["data"]["status"], "cancelled");
    // Who tells how far the work is, is told to stop it.
    let progress = json!({"progress": {"message": "half of it"}});
    for body in [&progress, &json!({"content": "late"})] {
        let told = refused(cancelled.request(&host, body), 409, "callback_settled").await;
        assert_eq!(told["reason"], "cancelled", "{told}");
    }

    let (session, turn) = parked(&host, "build").await;
    let abandoned = ticket(&host, &session).await;
    assert_eq!(host.turn(&session, "never mind").await["status"], "completed");
    assert_eq!(ended(&host, &turn).await["status"], "cancelled");
    let events = host.events(&session).await;
    let end = &result(&events)["data"];
    assert_eq!(end["status"], "cancelled");
    let said = end["error"]["message"].as_str().unwrap();
    assert!(said.contains("the work may go on outside"), "{said}");
    let told = refused(abandoned.request(&host, &progress), 409, "callback_settled").await;
    assert_eq!(told["reason"], "cancelled", "{told}");
    host.stop().await;
}

#[tokio::test]
async fn a_tool_that_fails_after_it_handed_its_call_on_ends_it_as_that() {
    let then = |then: &str| json!({"then": then});
    let turns: [(&str, [(&str, Value); 1]); 5] = [
        ("fail", [("detach", then("fail"))]),
        ("panic", [("detach", then("panic"))]),
        ("return-error", [("detach", then("return-error"))]),
        ("again", [("detach", then("again"))]),
        ("leak", [("detach", then("leak"))]),
    ];
    let turns: Vec<(&str, &[(&str, Value)])> = turns.iter().map(|(input, calls)| (*input, calls.as_slice())).collect();
    let (_place, host) = place(&turns).await;
    for (input, status) in [
        ("fail", "error"),
        ("panic", "trapped"),
        ("return-error", "error"),
        ("again", "error"),
    ] {
        let session = host.session(json!({})).await;
        let turn = host.turn(&session, input).await;
        assert_eq!(turn["status"], "completed", "{input}: {turn}");
        let events = host.events(&session).await;
        assert_eq!(result(&events)["data"]["status"], status, "{input}");
        assert_eq!(count(&events, "tool.provisional"), 0, "{input}");
        let ticket = ticket(&host, &session).await;
        let told = refused(
            ticket.request(&host, &json!({"content": "late"})),
            409,
            "callback_settled",
        )
        .await;
        assert_eq!(told["reason"], "failed", "{input}: {told}");
    }
    let (session, _) = parked(&host, "leak").await;
    let ticket = ticket(&host, &session).await;
    let events = Value::from(host.events(&session).await).to_string();
    assert!(!events.contains(&ticket.token), "the journal tells what ends the call");
    assert!(!events.contains(&ticket.token[20..]), "also in pieces");
    assert!(events.matches("[secret:CALLBACK_TOKEN]").count() >= 4, "{events}");
    host.stop().await;
}

#[tokio::test]
async fn who_reads_events_and_ledger_is_not_told_what_ends_a_call_that_went_out_in_a_url() {
    let world = World::start().await;
    let reached = json!({"tell": world.url("/hooks")});
    let denied = json!({"tell": "http://10.0.0.1/hooks"});
    let (_place, host) = place(&[("reached", &[("detach", reached)]), ("denied", &[("detach", denied)])]).await;
    for (input, how) in [("reached", "egress.allowed"), ("denied", "egress.denied")] {
        let session = host.session(json!({})).await;
        host.turn(&session, input).await;
        let ticket = ticket(&host, &session).await;
        let events = host.events(&session).await;
        let told = find(&events, how, |_| true).expect(how);
        assert_eq!(told["path"], "/hooks/[secret:CALLBACK_TOKEN]", "{told}");
        let ledger = host.get(&format!("/v1/sessions/{session}/ledger")).await;
        assert_eq!(ledger["items"][0]["path"], "/hooks/[secret:CALLBACK_TOKEN]", "{ledger}");
        for shown in [Value::from(events), ledger] {
            assert!(!shown.to_string().contains(&ticket.token), "{shown}");
        }
    }
    host.stop().await;
}

#[tokio::test]
async fn whatever_is_wrong_with_id_and_token_the_answer_is_the_same() {
    let (_place, host) = place(&[("build", &[("detach", json!({}))])]).await;
    let (session, turn) = parked(&host, "build").await;
    let ticket = ticket(&host, &session).await;
    let unknown = format!("cbk_{}", "0".repeat(32));
    let wrong = format!("{}x", ticket.token);
    let none: &[&str] = &[];
    let asked = [
        (ticket.id.as_str(), &[wrong.as_str()] as &[&str]),
        (&ticket.id, none),
        (&ticket.id, &[""]),
        (&ticket.id, &[&ticket.token, &ticket.token]),
        (&unknown, &[&ticket.token]),
        (&unknown, none),
        ("cbk_x", &[&ticket.token]),
        (turn["id"].as_str().unwrap(), &[&ticket.token]),
    ];
    let mut answers = Vec::new();
    for body in ["{\"content\": \"guessed\"}", "not JSON"] {
        for (id, tokens) in &asked {
            let mut request = host.anonymous(Method::POST, &format!("/v1/callbacks/{id}"));
            for token in *tokens {
                request = request.header("fumehood-callback-token", *token);
            }
            let response = request.body(body).send().await.unwrap();
            let status = response.status().as_u16();
            let mut headers: Vec<_> = response
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()))
                .collect();
            headers.sort();
            answers.push((status, headers, response.text().await.unwrap()));
        }
    }
    assert_eq!(answers[0].0, 404);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert_eq!(once(&host, &turn, |_| true).await["status"], "awaiting_results");

    // Who has the token is told what is wrong.
    let request = |body: &str| {
        host.anonymous(Method::POST, &format!("/v1/callbacks/{}", ticket.id))
            .header("fumehood-callback-token", &ticket.token)
            .header("content-type", "application/json")
            .body(body.to_owned())
    };
    refused(request("not JSON"), 400, "invalid_json").await;
    refused(request("{}"), 422, "invalid_result").await;
    refused(request("{\"status\": \"done\"}"), 422, "invalid_body").await;
    refused(
        request("{\"progress\": {\"message\": \"x\"}, \"content\": \"y\"}"),
        422,
        "invalid_result",
    )
    .await;
    refused(
        request("{\"progress\": {\"message\": \"x\", \"fraction\": 2}}"),
        422,
        "invalid_result",
    )
    .await;
    let long = json!({"content": "x".repeat(300 << 10)}).to_string();
    refused(request(&long), 413, "body_too_large").await;
    assert_eq!(once(&host, &turn, |_| true).await["status"], "awaiting_results");
    host.stop().await;
}

#[tokio::test]
async fn a_call_is_handed_on_only_where_it_is_granted_and_a_turn_waits_for_it() {
    let nested = json!({"tool": "detach", "arguments": {}});
    let (_place, host) = place(&[
        ("build", &[("detach", json!({}))]),
        ("nested", &[("peer_call", nested)]),
    ])
    .await;
    let session = host.session(json!({})).await;
    let denied = |ended: &Value, words: &str| {
        let said = ended["error"]["message"].as_str().unwrap_or_default();
        assert!(said.contains(words), "{ended}");
        assert_eq!(ended["status"], "denied", "{ended}");
    };
    let called = host.call("detach", Some(&session), json!({})).await;
    denied(&called, "no turn waits for its result");
    host.turn(&session, "nested").await;
    let events = host.events(&session).await;
    let end = find(&events, "tool.completed", |data| data["tool"] == "peer_call").unwrap();
    denied(end, "another tool made it");

    host.put("/v1/tools/hostile/grant", json!({"files": {"workspace": "read-write"}}))
        .await;
    let session = host.session(json!({})).await;
    let turn = host.turn(&session, "build").await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let events = host.events(&session).await;
    denied(
        &result(&events)["data"],
        "set `detach = true` under `[jobs]` of the grant",
    );
    host.stop().await;
}

#[tokio::test]
async fn what_comes_back_is_searched_for_secrets() {
    let (_place, host) = place(&[("build", &[("detach", json!({}))])]).await;
    host.put("/v1/secrets/KEY", json!({"value": "hush-5d1f0c7e"})).await;
    let (session, turn) = parked(&host, "build").await;
    let ticket = ticket(&host, &session).await;
    let progress = json!({"progress": {"message": "with hush-5d1f0c7e"}});
    ticket.bring(&host, &progress).await;
    let built =
        json!({"content": "built with hush-5d1f0c7e", "structured": {"key": "hush-5d1f0c7e"}, "is_error": true});
    ticket.bring(&host, &built).await;
    ended(&host, &turn).await;
    let events = host.events(&session).await;
    assert_eq!(result(&events)["data"]["status"], "error");
    let all = Value::from(events).to_string();
    assert!(!all.contains("hush-5d1f0c7e"), "{all}");
    assert!(all.contains("built with [secret:KEY]"), "{all}");
    host.stop().await;
}

#[tokio::test]
async fn calls_that_were_handed_on_go_with_their_session() {
    let (_place, host) = place(&[("build", &[("detach", json!({}))])]).await;
    let (session, _) = parked(&host, "build").await;
    let ticket = ticket(&host, &session).await;
    let deleted = host
        .request(Method::DELETE, &format!("/v1/sessions/{session}"))
        .send()
        .await;
    assert!(deleted.unwrap().status().is_success());
    refused(ticket.request(&host, &json!({"content": "late"})), 404, "not_found").await;
    host.stop().await;
}
