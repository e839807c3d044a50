//! Turns that come by themselves.

use crate::{
    house::{House, Plan},
    steering::later,
    unwritable::{refuse, take_again},
};
use fumehood_agent::limits::{Limits, OrgLimits};
use fumehood_core::{Time, name::OrgName, now};
use fumehood_server::ServerConfig;
use fumehood_store::schedules::State;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

/// Makes a schedule of the body and what is usual.
async fn made(house: &House, body: Value) -> Value {
    let mut whole = json!({"when": {"every": "1h"}, "input": "look around"});
    whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    let made = house.post("/v1/schedules").json(&whole).answer().await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let schedule = made.json();
    assert_eq!(made.headers["location"], path(&schedule));
    schedule
}

fn path(schedule: &Value) -> String {
    format!("/v1/schedules/{}", schedule["id"].as_str().unwrap())
}

async fn shown(house: &House, schedule: &Value) -> Value {
    house.get(&path(schedule)).answer().await.json()
}

async fn run(house: &House, schedule: &Value) -> Value {
    let run = house.post(&format!("{}/run", path(schedule))).answer().await;
    assert_eq!(run.status, StatusCode::OK, "{}", run.text());
    run.json()
}

async fn runs(house: &House, schedule: &Value) -> Vec<Value> {
    let runs = house.get(&format!("{}/runs", path(schedule))).answer().await.json();
    runs["items"].as_array().unwrap().clone()
}

/// Waits until as many turns of a session have been completed.
async fn completed(house: &House, session: &str, turns: usize) -> Vec<Value> {
    let mut stream = house.get(&format!("{session}/events?after=0")).stream().await;
    let mut seen = Vec::new();
    for _ in 0..turns {
        let frames = stream.until("turn.completed").await;
        seen.extend(frames.into_iter().map(|frame| frame.data));
    }
    seen
}

fn id_of(session: &str) -> &str {
    session.rsplit('/').next().unwrap()
}

/// Plans a schedule for another time, as if it had been made then.
async fn plan_for(house: &House, schedule: &Value, at: Time) {
    let id = schedule["id"].as_str().unwrap().parse().unwrap();
    let org = OrgName::default_org();
    let mut kept = house.host.schedule(&org, id).await.unwrap();
    kept.state = State::Active(at);
    assert!(house.host.store().change_schedule(&kept).await.unwrap().is_some());
}

fn time(value: &Value) -> Time {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_schedule_is_shown_as_it_was_made_and_as_it_was_changed() {
    let house = House::new().await;
    let made = made(
        &house,
        json!({
            "title": "Mornings",
            "when": {"cron": "30 9 * * 1-5", "time_zone": "Europe/Zurich"},
            "metadata": {"a": 1},
            "network": {"allow": []},
            "system": "be brief",
            "budget": {"steps": 3, "time": "1m"},
            "output_schema": {"type": "object"},
            "misfire": "all",
            "if_busy": "skip",
            "max_runs": 7,
        }),
    )
    .await;
    assert_eq!(made, shown(&house, &made).await);
    assert_eq!(made["status"], "active");
    assert!(time(&made["next"]) > now());
    assert_eq!(
        made["when"],
        json!({"cron": "30 9 * * 1-5", "time_zone": "Europe/Zurich"})
    );
    assert_eq!(made["budget"]["time_ms"], 60_000);
    assert_eq!(made["input"], json!([{"type": "text", "text": "look around"}]));
    let change = json!({
        "title": null, "when": {"every": "2h", "from": "2090-01-01T00:00:00Z"}, "misfire": "skip", "max_runs": null,
        "network": null, "input": "look again", "system": null, "output_schema": null,
    });
    let changed = house.ask(Method::PATCH, &path(&made)).json(&change).answer().await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text());
    let changed = changed.json();
    assert_eq!(changed["next"], "2090-01-01T00:00:00Z");
    assert_eq!(changed["input"][0]["text"], "look again");
    assert_eq!(
        (&changed["misfire"], &changed["if_busy"]),
        (&json!("skip"), &json!("skip"))
    );
    for gone in ["title", "max_runs", "network", "system", "output_schema"] {
        assert_eq!(changed.get(gone), None, "{gone}");
    }
    let listed = house.get("/v1/schedules").answer().await.json();
    assert_eq!(listed["items"], json!([changed]));
    let gone = house.delete(&path(&made)).answer().await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert_eq!(house.get(&path(&made)).answer().await.problem(), "not_found");
    assert_eq!(house.delete(&path(&made)).answer().await.problem(), "not_found");
}

#[tokio::test]
async fn what_could_never_be_done_is_refused_when_it_is_made() {
    let house = House::new().await;
    let session = house.session().await;
    let session = id_of(&session);
    let nowhere = "ses_018f3c5b7d2a7c3e9f00112233445566";
    for (body, code, word) in [
        (
            json!({"when": {"cron": "0 0 30 2 *"}}),
            "invalid_request",
            "never comes",
        ),
        (
            json!({"when": {"at": "2020-01-01T00:00:00Z"}}),
            "invalid_request",
            "never comes",
        ),
        (
            json!({"when": {"every": "999ms"}}),
            "invalid_request",
            "more often than every 1s",
        ),
        (json!({"when": {}}), "invalid_request", "exactly one"),
        (
            json!({"when": {"every": "1h", "at": "2090-01-01T00:00:00Z"}}),
            "invalid_request",
            "exactly one",
        ),
        (json!({"when": {"cron": "soon"}}), "invalid_body", "no cron line"),
        (
            json!({"when": {"cron": "0 9 * * *", "time_zone": "Mars/Olympus"}}),
            "invalid_body",
            "no time zone",
        ),
        (json!({"session": nowhere}), "not_found", "session"),
        (
            json!({"session": session, "agent": "assistant"}),
            "invalid_request",
            "leave them out",
        ),
        (json!({"agent": "nobody"}), "invalid_request", "there is no agent"),
        (json!({"input": " "}), "invalid_request", "empty"),
        (json!({"max_runs": 0}), "invalid_request", "max_runs"),
        (json!({"title": "x".repeat(201)}), "invalid_request", "title"),
        (
            json!({"output_schema": {"type": 1}}),
            "invalid_request",
            "output_schema",
        ),
        (json!({"often": true}), "invalid_body", "often"),
    ] {
        let mut whole = json!({"when": {"every": "1h"}, "input": "look around"});
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let refused = house.post("/v1/schedules").json(&whole).answer().await;
        assert_eq!(refused.problem(), code, "{body}");
        assert!(refused.text().contains(word), "{body}: {}", refused.text());
    }
    let on_session = made(&house, json!({"session": session})).await;
    let change = json!({"agent": "assistant"});
    let refused = house
        .ask(Method::PATCH, &path(&on_session))
        .json(&change)
        .answer()
        .await;
    assert_eq!(refused.problem(), "invalid_request");
    assert_eq!(
        house.get("/v1/schedules").answer().await.json()["items"],
        json!([on_session])
    );
}

#[tokio::test]
async fn a_schedule_fires_by_itself_as_often_as_it_may_and_ends() {
    let house = House::new().await;
    let session = house.session().await;
    let schedule = made(
        &house,
        json!({"when": {"every": "1s"}, "session": id_of(&session), "max_runs": 2, "misfire": "all"}),
    )
    .await;
    let events = completed(&house, &session, 2).await;
    let queued: Vec<_> = events.iter().filter(|event| event["type"] == "turn.queued").collect();
    assert_eq!(queued.len(), 2);
    for event in &queued {
        assert_eq!(
            (&event["source"]["kind"], &event["source"]["schedule"]),
            (&json!("schedule"), &schedule["id"])
        );
        assert_eq!(event["data"]["input"][0]["text"], "look around");
    }
    let (first, second) = (time(&queued[0]["source"]["due"]), time(&queued[1]["source"]["due"]));
    let between = (second - first).num_milliseconds();
    assert!(between > 0 && between % 1000 == 0, "{first} {second}");
    let ended = shown(&house, &schedule).await;
    assert_eq!(
        (&ended["status"], &ended["runs"], ended.get("next")),
        (&json!("ended"), &json!(2), None)
    );
    // One that came while the turn before still waited is passed over.
    let mut runs = runs(&house, &schedule).await;
    runs.retain(|run| run["outcome"] == "fired");
    assert_eq!(runs.len(), 2);
    for (run, event) in runs.iter().zip(queued.iter().rev()) {
        assert_eq!(run["cause"], "due");
        assert_eq!(
            (&run["turn"], &run["turn_status"]),
            (&event["turn"], &json!("completed"))
        );
    }
    for way in ["pause", "resume"] {
        let refused = house.post(&format!("{}/{way}", path(&schedule))).answer().await;
        assert_eq!(refused.problem(), "invalid_request", "{way}");
    }
    // With more to come it goes on.
    let change = json!({"max_runs": 3});
    let more = house
        .ask(Method::PATCH, &path(&schedule))
        .json(&change)
        .answer()
        .await
        .json();
    assert_eq!(more["status"], "active");
    completed(&house, &session, 3).await;
}

#[tokio::test]
async fn a_session_of_its_own_is_made_for_each_time() {
    let house = House::new().await;
    let schedule = made(
        &house,
        json!({"title": "Rounds", "metadata": {"a": 1}, "files": "read"}),
    )
    .await;
    let first = run(&house, &schedule).await;
    let second = run(&house, &schedule).await;
    assert_ne!(first["session"], second["session"]);
    for run in [&first, &second] {
        let session = format!("/v1/sessions/{}", run["session"].as_str().unwrap());
        let made = house.get(&session).answer().await.json();
        assert_eq!(
            (&made["title"], &made["metadata"]),
            (&json!("Rounds"), &json!({"a": 1}))
        );
        assert_eq!(made["files"], schedule["files"]);
        let events = completed(&house, &session, 1).await;
        assert_eq!(events[0]["type"], "session.created");
        assert_eq!(events[0]["source"]["schedule"], schedule["id"]);
        assert_eq!(events.last().unwrap()["turn"], run["turn"]);
    }
    // Who asks changes nothing of when it comes by itself.
    let after = shown(&house, &schedule).await;
    assert_eq!((&after["next"], &after["runs"]), (&schedule["next"], &json!(0)));
    let causes: Vec<_> = runs(&house, &schedule)
        .await
        .iter()
        .map(|run| run["cause"].clone())
        .collect();
    assert_eq!(causes, ["asked", "asked"]);
}

#[tokio::test]
async fn a_paused_schedule_has_no_next_time_until_it_is_resumed() {
    let house = House::new().await;
    let schedule = made(&house, json!({"paused": true})).await;
    assert_eq!((&schedule["status"], schedule.get("next")), (&json!("paused"), None));
    let pause = house.post(&format!("{}/pause", path(&schedule))).answer().await;
    assert_eq!(pause.json()["status"], "paused", "once more is the same");
    assert_eq!(run(&house, &schedule).await["outcome"], "fired", "who asks is served");
    let resumed = house.post(&format!("{}/resume", path(&schedule))).answer().await.json();
    assert_eq!(resumed["status"], "active");
    assert!(time(&resumed["next"]) > now());
}

#[tokio::test]
async fn while_its_session_is_at_work_a_turn_waits_or_is_skipped() {
    let house = House::new().await;
    let session = house.session().await;
    let told = house.next_answer();
    let busy = house.post(&format!("{session}/turns")).with("prefer", "respond-async");
    busy.json(&json!({"input": "wait"})).answer().await;
    house.has_asked(1).await;
    let skips = made(&house, json!({"session": id_of(&session), "if_busy": "skip"})).await;
    let skipped = run(&house, &skips).await;
    assert_eq!(
        (&skipped["outcome"], &skipped["reason"]),
        (&json!("skipped"), &json!("busy"))
    );
    let waits = made(&house, json!({"session": id_of(&session)})).await;
    let waiting = run(&house, &waits).await;
    assert_eq!(
        (&waiting["outcome"], &waiting["turn_status"]),
        (&json!("fired"), &json!("queued"))
    );
    let behind = run(&house, &waits).await;
    assert_eq!(
        (&behind["outcome"], &behind["reason"]),
        (&json!("skipped"), &json!("previous_waits"))
    );
    told.says("Done.");
    completed(&house, &session, 2).await;
    assert_eq!(run(&house, &skips).await["outcome"], "fired");
    completed(&house, &session, 3).await;
}

#[tokio::test]
async fn times_that_no_host_was_there_for_are_made_up_for_as_the_schedule_says() {
    let house = House::new().await;
    let session = house.session().await;
    let from = now() - Duration::from_secs(200 * 60);
    let mut schedules = Vec::new();
    for misfire in ["skip", "once", "all"] {
        let when = json!({"every": "1h", "from": from});
        let schedule = made(
            &house,
            json!({"session": id_of(&session), "when": when, "misfire": misfire}),
        )
        .await;
        plan_for(&house, &schedule, from).await;
        schedules.push(schedule);
    }
    let house = house.restarted().await;
    // Of four times: none, the last, and all of them.
    completed(&house, &session, 5).await;
    let mut outcomes = Vec::new();
    for schedule in &schedules {
        let runs = runs(&house, schedule).await;
        let told = runs
            .iter()
            .map(|run| (time(&run["fire_at"]), run["outcome"].clone(), run["missed"].clone()));
        outcomes.push(told.collect::<Vec<_>>());
        assert!(time(&shown(&house, schedule).await["next"]) > now());
    }
    let hour = |hours: u64| Duration::from_secs(hours * 3600);
    assert_eq!(outcomes[0], [(from, json!("missed"), json!(4))]);
    let once = [
        (from + hour(3), json!("fired"), Value::Null),
        (from, json!("missed"), json!(3)),
    ];
    assert_eq!(outcomes[1], once);
    let all: Vec<_> = (0..4)
        .rev()
        .map(|n| (from + hour(n), json!("fired"), Value::Null))
        .collect();
    assert_eq!(outcomes[2], all);
}

#[tokio::test]
async fn a_schedule_that_was_planned_by_a_clock_that_was_ahead_comes_sooner() {
    let house = House::new().await;
    let session = house.session().await;
    let ahead = made(&house, json!({"session": id_of(&session)})).await;
    plan_for(&house, &ahead, now() + Duration::from_secs(400 * 24 * 3600)).await;
    let due = made(&house, json!({"session": id_of(&session)})).await;
    // This host fires nothing any more.
    house.host.drain(Duration::ZERO).await;
    plan_for(&house, &due, now() - Duration::from_secs(1)).await;
    let house = house.restarted().await;
    // What is due fires after the others were looked at.
    completed(&house, &session, 1).await;
    assert_eq!(shown(&house, &ahead).await["next"], ahead["next"]);
}

#[tokio::test]
async fn a_schedule_obeys_the_limits_of_its_org_and_says_so() {
    let limited = OrgLimits {
        turns: Some("1/hour".parse().unwrap()),
        ..OrgLimits::none()
    };
    let limits = Limits::new([(OrgName::default_org(), limited)].into());
    let house = House::limited(ServerConfig::default(), limits).await;
    let schedule = made(&house, json!({})).await;
    assert_eq!(run(&house, &schedule).await["outcome"], "fired");
    let limited = run(&house, &schedule).await;
    assert_eq!(
        (&limited["outcome"], &limited["reason"]),
        (&json!("skipped"), &json!("rate_limited"))
    );
    assert!(limited["message"].as_str().unwrap().contains("turns"), "{limited}");
}

#[tokio::test]
async fn a_schedule_whose_agent_is_gone_fails_and_says_so() {
    let house = House::built(Plan::default()).await;
    house
        .agents([
            ("assistant", json!({"model": "main"})),
            ("night", json!({"model": "main"})),
        ])
        .await;
    let schedule = made(&house, json!({"agent": "night"})).await;
    house.agent(json!({"model": "main"})).await;
    let failed = run(&house, &schedule).await;
    assert_eq!(failed["outcome"], "failed");
    assert!(
        failed["message"]
            .as_str()
            .unwrap()
            .contains("there is no agent `night`"),
        "{failed}"
    );
    assert_eq!(runs(&house, &schedule).await, [failed]);
}

#[tokio::test]
async fn an_org_has_only_so_many_schedules_and_sees_no_others() {
    let house = House::new().await;
    let mut last = Value::Null;
    for _ in 0..5 {
        last = made(&house, json!({})).await;
    }
    let body = json!({"when": {"every": "1h"}, "input": "look around"});
    let refused = house.post("/v1/schedules").json(&body).answer().await;
    assert_eq!(refused.problem(), "quota_exceeded");
    let others = house.get("/v1/schedules").by_other_org().answer().await.json();
    assert_eq!(others["items"], json!([]));
    for (method, way) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::POST, "/pause"),
        (Method::POST, "/resume"),
        (Method::POST, "/run"),
        (Method::GET, "/runs"),
    ] {
        let asked = house.ask(method, &format!("{}{way}", path(&last))).by_other_org();
        assert_eq!(asked.answer().await.problem(), "not_found", "{way}");
    }
    let change = house
        .ask(Method::PATCH, &path(&last))
        .by_other_org()
        .json(&json!({"title": "mine"}));
    assert_eq!(change.answer().await.problem(), "not_found");
    assert_eq!(shown(&house, &last).await, last);
    let session = house.session().await;
    let on_foreign = json!({"when": {"every": "1h"}, "input": "look around", "session": id_of(&session)});
    let refused = house.post("/v1/schedules").by_other_org().json(&on_foreign);
    assert_eq!(refused.answer().await.problem(), "not_found");
}

#[tokio::test]
async fn a_schedule_goes_with_its_session() {
    let house = House::new().await;
    let session = house.session().await;
    let schedule = made(&house, json!({"session": id_of(&session)})).await;
    assert_eq!(house.delete(&session).answer().await.status, StatusCode::NO_CONTENT);
    assert_eq!(house.get(&path(&schedule)).answer().await.problem(), "not_found");
}

#[tokio::test]
async fn the_value_of_a_secret_is_kept_in_no_schedule() {
    let house = House::new().await;
    let secret = house
        .put("/v1/secrets/TOKEN")
        .json(&json!({"value": "hunter2-hunter2"}));
    assert_eq!(secret.answer().await.status, StatusCode::NO_CONTENT);
    let schedule = made(
        &house,
        json!({"title": "hunter2-hunter2", "input": "say hunter2-hunter2", "metadata": {"a": "hunter2-hunter2"}}),
    )
    .await;
    assert!(!schedule.to_string().contains("hunter2"), "{schedule}");
}

#[tokio::test]
async fn a_schedule_that_waits_for_its_session_keeps_no_other() {
    let house = House::new().await;
    let (busy, free) = (house.session().await, house.session().await);
    let _never = house.next_answer();
    later(&house, &busy, json!({"input": "hi"})).await;
    house.has_asked(1).await;
    // Its deletion has the session for as long as the end of its turn can't be written.
    refuse(&house, "turn.cancelled").await;
    let deletion = async {
        house.delete(&busy).answer().await;
    };
    let others = async {
        while house.host.store().turns_to_cancel(None, 1).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let when = json!({"every": "1s"});
        let waits = made(&house, json!({"when": when, "session": id_of(&busy)})).await;
        plan_for(&house, &waits, now() - Duration::from_secs(1)).await;
        made(&house, json!({"when": when, "session": id_of(&free)})).await;
        completed(&house, &free, 2).await;
        assert!(runs(&house, &waits).await.is_empty());
    };
    tokio::select! {
        () = deletion => panic!("the deletion does not end"),
        () = others => {}
    }
    take_again(&house).await;
}

#[tokio::test]
async fn a_schedule_is_only_so_large() {
    let house = House::new().await;
    let large = json!({"when": {"every": "1h"}, "input": "x".repeat(300_000)});
    let refused = house.post("/v1/schedules").json(&large).answer().await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request")
    );
    let said = refused.text();
    assert!(
        said.contains("at most 262144 bytes") && said.contains("shorten"),
        "{said}"
    );
    let fits = made(&house, json!({"input": "x".repeat(100_000)})).await;
    let change = json!({"system": "x".repeat(300_000)});
    let refused = house.ask(Method::PATCH, &path(&fits)).json(&change).answer().await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.text());
}

#[tokio::test]
async fn the_same_request_with_the_same_key_makes_one_schedule() {
    let house = House::new().await;
    let create = async |key: &str, body: Value| {
        let made = house.post("/v1/schedules").with("idempotency-key", key).json(&body);
        made.answer().await
    };
    let body = json!({"when": {"every": "1h"}, "input": "look around", "budget": {"time": "60s"}});
    let first = create("a", body).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text());
    // Written otherwise, it means the same.
    let written =
        json!({"budget": {"time": "1m"}, "input": [{"type": "text", "text": "look around"}], "when": {"every": "1h"}});
    let again = create("a", written).await;
    assert_eq!(again.status, StatusCode::CREATED, "{}", again.text());
    assert_eq!(again.json(), first.json());
    let other = json!({"when": {"every": "1h"}, "input": "look elsewhere"});
    let reused = create("a", other.clone()).await;
    assert_eq!(
        (reused.status, reused.problem().as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused")
    );
    assert_ne!(create("b", other).await.json()["id"], first.json()["id"]);
    let listed = house.get("/v1/schedules").answer().await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    let bad = create("", json!({"when": {"every": "1h"}, "input": "x"})).await;
    assert_eq!(bad.problem(), "invalid_header");
}

#[tokio::test]
async fn a_schedule_whose_time_is_over_is_known_to_the_request_that_made_it() {
    let house = House::new().await;
    // Time enough for the first request to arrive, and short enough to wait for.
    let at = now() + Duration::from_secs(2);
    let body = json!({"when": {"at": at}, "input": "once"});
    let create = async || {
        let made = house.post("/v1/schedules").with("idempotency-key", "once");
        made.json(&body).answer().await
    };
    let first = create().await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text());
    while now() <= at {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(create().await.json()["id"], first.json()["id"]);
}
