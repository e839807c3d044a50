//! Calls that run in the background, from outside: the turn goes on, the end is told once, over restarts, and somebody may stop one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Calls, Host, Place, count, expect_json, find, refused, until, world::World};
use reqwest::Method;
use serde_json::{Value, json};

async fn place(turns: &Calls<'_>, more: &str) -> (Place, Host) {
    let place = Place::calling(turns, more);
    let host = place.serve().await;
    host.add_guest("hostile", None).await;
    (place, host)
}

/// The one job of the session, once it is as far.
async fn job(host: &Host, session: &str, there: impl Fn(&Value) -> bool) -> Value {
    until("the job", async || {
        let jobs = host.get(&format!("/v1/sessions/{session}/jobs")).await;
        let items = jobs["items"].as_array().unwrap();
        assert!(items.len() <= 1, "{jobs}");
        let listed = items.first()?;
        let job = host.get(&format!("/v1/jobs/{}", listed["id"].as_str().unwrap())).await;
        there(&job).then_some(job)
    })
    .await
}

async fn ended(host: &Host, session: &str) -> Value {
    job(host, session, |job| !job["ended"].is_null()).await
}

/// What models were told of jobs that have ended.
fn told(events: &[Value]) -> Vec<&Value> {
    let steps = events.iter().filter(|event| event["type"] == "step.started");
    let notes = steps.filter_map(|event| event["data"]["notes"].as_array()).flatten();
    notes.filter(|note| note["kind"] == "job_ended").collect()
}

#[tokio::test]
async fn the_turn_goes_on_and_the_model_is_told_once_how_a_call_in_the_background_ended() {
    let world = World::start().await;
    let work = json!({"say": "built", "url": world.url("/held")});
    let (_place, host) = place(&[("build", &[("bg_once", work)])], "").await;
    let session = host.session(json!({})).await;
    let turn = host.turn(&session, "build").await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let events = host.events(&session).await;
    let begun = find(&events, "tool.completed", |_| true).unwrap();
    let id = begun["output"]["structured"]["job_id"].as_str().unwrap().to_owned();
    world.has_seen(1).await;
    let running = job(&host, &session, |job| job["log"] != "").await;
    assert_eq!(running["progress"]["message"], "begun");
    assert_eq!((&running["id"], &running["status"]), (&json!(id), &json!("running")));
    assert_eq!(running["log"], "the first line\n");
    assert_eq!(running["result"], Value::Null);
    // A turn meanwhile is told nothing.
    host.turn(&session, "how is it?").await;
    assert_eq!(told(&host.events(&session).await), Vec::<&Value>::new());

    world.release();
    let done = ended(&host, &session).await;
    assert_eq!((&done["status"], &done["attempts"]), (&json!("completed"), &json!(1)));
    assert_eq!(done["result"]["output"]["content"][0]["text"], "built");
    for _ in 0..2 {
        host.turn(&session, "and now?").await;
    }
    let events = host.events(&session).await;
    let notes = told(&events);
    assert_eq!(notes.len(), 1, "{notes:?}");
    let text = notes[0]["text"].as_str().unwrap();
    assert!(text.contains(&id) && text.ends_with("built"), "{text}");
    assert_eq!(count(&events, "job.completed"), 1);
    let end = events.iter().find(|event| event["type"] == "job.completed").unwrap();
    assert_eq!(end["turn"], Value::Null, "an event of the session");
    assert!(find(&events, "egress.allowed", |_| true).is_some());
    host.stop().await;
}

#[tokio::test]
async fn a_job_that_ends_while_its_turn_goes_on_is_told_in_the_next_step_and_once() {
    let (of_job, of_turn) = (World::start().await, World::start().await);
    let call = |tool: &str, arguments: Value| json!({"tool_calls": [{"tool": tool, "arguments": arguments}]});
    let steps = [
        call("bg_once", json!({"say": "built", "url": of_job.url("/held")})),
        call("http_get", json!({"url": of_turn.url("/held")})),
        call("http_get", json!({"url": of_turn.url("/echo")})),
        json!({"text": "Done."}),
    ];
    let script = json!({"turns": [{"match": "build", "steps": steps}]}).to_string();
    let place = Place::scripted(&script, "[network]\nprivate_networks = [\"127.0.0.1/32\"]\n");
    let host = place.serve().await;
    host.add_guest("hostile", None).await;
    let session = host.session(json!({})).await;
    let meanwhile = async {
        of_turn.has_seen(1).await;
        of_job.has_seen(1).await;
        of_job.release();
        ended(&host, &session).await;
        of_turn.release();
    };
    let (turn, ()) = tokio::join!(host.turn(&session, "build"), meanwhile);
    assert_eq!(turn["status"], "completed", "{turn}");
    let events = host.events(&session).await;
    assert_eq!(told(&events).len(), 1);
    let step = find(&events, "step.started", |data| data["notes"][0]["kind"] == "job_ended").unwrap();
    assert_eq!(step["step"], 3, "{step}");
    host.stop().await;
}

#[tokio::test]
async fn a_job_of_a_host_that_was_killed_runs_again_once_if_it_may_and_is_told_as_interrupted_if_not() {
    let world = World::start().await;
    let work = json!({"say": "built", "url": world.url("/held")});
    let turns: &Calls<'_> = &[("once", &[("bg_once", work.clone())]), ("again", &[("bg_again", work)])];
    let (place, host) = place(turns, "").await;
    let (once, again) = (host.session(json!({})).await, host.session(json!({})).await);
    host.turn(&once, "once").await;
    host.turn(&again, "again").await;
    world.has_seen(2).await;
    host.kill().await;
    let host = place.serve().await;
    let lost = ended(&host, &once).await;
    assert_eq!(
        (&lost["status"], &lost["result"]["status"]),
        (&json!("failed"), &json!("interrupted"))
    );
    world.has_seen(3).await;
    let second = job(&host, &again, |job| job["attempts"] == 2).await;
    assert_eq!(second["status"], "running");
    host.kill().await;
    let host = place.serve().await;
    // Twice is as often as it begins.
    let lost = ended(&host, &again).await;
    assert_eq!(lost["result"]["status"], "interrupted", "{lost}");
    assert_eq!(world.arrived().len(), 3);
    for session in [&once, &again] {
        host.turn(session, "and now?").await;
        let events = host.events(session).await;
        assert_eq!((count(&events, "job.completed"), told(&events).len()), (1, 1));
    }
    host.stop().await;
}

#[tokio::test]
async fn a_job_that_runs_again_is_given_no_other_arguments_by_a_hook() {
    let (world, guard) = (World::start().await, World::start().await);
    let hook = format!(
        "[[agent.assistant.hook]]\nname = \"guard\"\nmode = \"guard\"\npoints = [\"before_tool_call\"]\nurl = \"{}\"\n\
         key = \"HOOK_KEY\"\ntimeout = \"1m\"\n",
        guard.url("/appends")
    );
    let work = json!({"say": "built", "url": world.url("/held")});
    let (place, host) = place(&[("build", &[("bg_again", work)])], &hook).await;
    let key = json!({"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"});
    let set = host.request(Method::PUT, "/v1/secrets/HOOK_KEY").json(&key);
    assert!(set.send().await.unwrap().status().is_success());
    let session = host.session(json!({})).await;
    host.turn(&session, "build").await;
    world.has_seen(1).await;
    host.kill().await;
    let host = place.serve().await;
    let refused = ended(&host, &session).await;
    assert_eq!(refused["result"]["status"], "interrupted", "{refused}");
    let said = refused["result"]["error"]["message"].as_str().unwrap();
    assert!(said.contains("begun with"), "{said}");
    assert_eq!(
        (world.arrived().len(), guard.arrived().len()),
        (1, 2),
        "it was asked, and nothing ran"
    );
    let events = host.events(&session).await;
    assert_eq!(count(&events, "hook.changed"), 1);
    let queued = find(&events, "job.queued", |_| true).unwrap();
    assert_eq!(queued["arguments"]["say"], "built!");
    host.stop().await;
}

#[tokio::test]
async fn a_job_is_stopped_and_another_org_sees_none_of_it() {
    let world = World::start().await;
    let work = json!({"say": "built", "url": world.url("/held")});
    let (_place, host) = place(&[("build", &[("bg_once", work)])], "").await;
    let session = host.session(json!({})).await;
    host.turn(&session, "build").await;
    world.has_seen(1).await;
    let id = job(&host, &session, |job| job["status"] == "running").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    for path in [format!("/v1/jobs/{id}x"), format!("/v1/jobs/job_{}", "0".repeat(32))] {
        refused(host.request(Method::GET, &path), 404, "not_found").await;
        refused(host.request(Method::POST, &format!("{path}/stop")), 404, "not_found").await;
    }
    let path = format!("/v1/jobs/{id}/stop");
    let stopping = host.post(&path, json!({})).await;
    assert_eq!(stopping["id"], id.as_str());
    let stopped = ended(&host, &session).await;
    assert_eq!(
        (&stopped["status"], &stopped["stopping"]),
        (&json!("cancelled"), &json!(false))
    );
    let again = expect_json(host.request(Method::POST, &path).json(&json!({})).send().await.unwrap()).await;
    assert_eq!(again["status"], "cancelled", "what has ended stays as it is");
    assert_eq!(count(&host.events(&session).await, "job.completed"), 1);
    host.stop().await;
}

#[tokio::test]
async fn a_session_is_archived_once_its_jobs_have_ended() {
    let world = World::start().await;
    let work = json!({"say": "built", "url": world.url("/held")});
    let (_place, host) = place(&[("build", &[("bg_once", work)])], "").await;
    let session = host.session(json!({})).await;
    host.turn(&session, "build").await;
    world.has_seen(1).await;
    let running = job(&host, &session, |job| job["status"] == "running").await;
    let path = format!("/v1/sessions/{session}");
    let archive = || host.request(Method::PATCH, &path).json(&json!({"archived": true}));
    let problem = refused(archive(), 409, "session_busy").await;
    assert_eq!(
        (&problem["job"], problem.get("turn")),
        (&running["id"], None),
        "{problem}"
    );
    world.release();
    assert_eq!(ended(&host, &session).await["status"], "completed");
    assert_eq!(expect_json(archive().send().await.unwrap()).await["archived"], true);
    host.stop().await;
}

#[tokio::test]
async fn a_job_that_takes_too_long_or_is_one_too_many_says_so() {
    let world = World::start().await;
    let held = |path: &str| json!({"say": "built", "url": world.url(path)});
    let many = [("bg_once", held("/held")), ("bg_once", held("/held"))];
    let (_place, host) = place(&[("many", &many)], "[jobs]\ntime = \"1s\"\nunfinished_per_org = 1\n").await;
    let session = host.session(json!({})).await;
    let turn = host.turn(&session, "many").await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let late = ended(&host, &session).await;
    assert_eq!(
        (&late["status"], &late["result"]["status"]),
        (&json!("failed"), &json!("timeout"))
    );
    assert_eq!(late["result"]["error"]["deadline"], "job");
    let events = host.events(&session).await;
    let refused = find(&events, "tool.completed", |data| data["status"] == "rate_limited").unwrap();
    let said = refused["error"]["message"].as_str().unwrap();
    assert!(said.contains("in the background"), "{said}");
    host.stop().await;
}

#[tokio::test]
async fn a_job_waits_for_a_place_among_the_orgs_calls_for_no_longer_than_its_time() {
    let (of_turn, of_job) = (World::start().await, World::start().await);
    let turns: &Calls<'_> = &[
        ("fetch", &[("http_get", json!({"url": of_turn.url("/held")}))]),
        (
            "build",
            &[("bg_once", json!({"say": "built", "url": of_job.url("/held")}))],
        ),
    ];
    let limits = "[jobs]\ntime = \"1s\"\n[org.default.limits]\nconcurrent_calls = 1\n";
    let (_place, host) = place(turns, limits).await;
    let (holding, waiting) = (host.session(json!({})).await, host.session(json!({})).await);
    let meanwhile = async {
        of_turn.has_seen(1).await;
        host.turn(&waiting, "build").await;
        let late = ended(&host, &waiting).await;
        of_turn.release();
        late
    };
    let (turn, late) = tokio::join!(host.turn(&holding, "fetch"), meanwhile);
    assert_eq!(turn["status"], "completed", "{turn}");
    assert_eq!(
        (&late["result"]["status"], &late["result"]["error"]["deadline"]),
        (&json!("timeout"), &json!("job")),
        "{late}"
    );
    assert_eq!(of_job.arrived().len(), 0);
    host.stop().await;
}

#[tokio::test]
async fn without_a_grant_a_call_runs_as_any_other() {
    let (_place, host) = place(&[("build", &[("bg_once", json!({"say": "built"}))])], "").await;
    host.put("/v1/tools/hostile/grant", json!({"files": {"workspace": "read"}}))
        .await;
    let session = host.session(json!({})).await;
    host.turn(&session, "build").await;
    let events = host.events(&session).await;
    let end = find(&events, "tool.completed", |_| true).unwrap();
    assert_eq!(end["output"]["content"][0]["text"], "built");
    assert_eq!(count(&events, "job.queued"), 0);
    host.stop().await;
}

#[tokio::test]
async fn agents_sessions_and_schedules_narrow_what_runs_in_the_background() {
    let (place, host) = place(
        &[("build", &[("bg_once", json!({"say": "built"}))])],
        "[agent.assistant]\n[agent.quiet]\nbackground = [\"bg_again\"]\n",
    )
    .await;
    let runs_as_a_job = async |session: &str| {
        host.turn(session, "build").await;
        let events = host.events(session).await;
        let end = find(&events, "tool.completed", |_| true).unwrap();
        let built = end["output"]["content"][0]["text"] == "built";
        assert_eq!(built, count(&events, "job.queued") == 0);
        !built
    };
    for (narrowing, as_a_job) in [
        (json!({}), true),
        (json!({"background": ["bg_*"]}), true),
        (json!({"background": ["hostile"]}), true),
        (json!({"background": ["bg_again"]}), false),
        (json!({"background": []}), false),
        (json!({"agent": "quiet"}), false),
        (json!({"agent": "quiet", "background": ["bg_once"]}), false),
    ] {
        let session = host.session(narrowing.clone()).await;
        let shown = host.get(&format!("/v1/sessions/{session}")).await;
        assert_eq!(shown.get("background"), narrowing.get("background"));
        assert_eq!(runs_as_a_job(&session).await, as_a_job, "{narrowing}");
    }
    let session = host.session(json!({"background": []})).await;
    let path = format!("/v1/sessions/{session}");
    let change = host.request(Method::PATCH, &path).json(&json!({"background": null}));
    assert!(change.send().await.unwrap().status().is_success());
    assert!(runs_as_a_job(&session).await, "it does not narrow any more");
    let told = host.events(&session).await;
    let changed = find(&told, "session.updated", |_| true).unwrap();
    assert_eq!(changed["changed"], json!(["background"]));
    let bad = host
        .request(Method::POST, "/v1/sessions")
        .json(&json!({"background": ["No Tool"]}));
    refused(bad, 422, "invalid_body").await;

    let expected = place.path().join("policy.txt");
    let lines = format!(
        "tool hostile\nallow background bg_once\nagent quiet\ndeny background bg_once\nallow background bg_again\n\
         agent -\ndeny background echo\nsession {}\ndeny background bg_once\n",
        host.session(json!({"background": []})).await
    );
    std::fs::write(&expected, lines).unwrap();
    let mut test = place.command(&["policy", "test", "policy.txt"]);
    let tested = test.env("FUMEHOOD_URL", &host.base).output().await.unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));

    let when = json!({"at": "2100-01-01T00:00:00Z"});
    let schedule = json!({"when": when, "input": "build", "background": ["bg_again"]});
    let made = host.post("/v1/schedules", schedule).await;
    assert_eq!(made["background"], json!(["bg_again"]), "{made}");
    let path = format!("/v1/schedules/{}", made["id"].as_str().unwrap());
    let change = host.request(Method::PATCH, &path).json(&json!({"background": null}));
    let changed = expect_json(change.send().await.unwrap()).await;
    assert_eq!(changed["background"], Value::Null);
    host.stop().await;
}

#[tokio::test]
async fn a_job_is_not_handed_on_and_the_refusal_says_that_it_runs_in_the_background() {
    let place = Place::calling(&[("build", &[("detach", json!({}))])], "");
    let host = place.serve().await;
    let manifest = "name = \"hostile\"\nversion = \"0.1.0\"\n[files]\nworkspace = \"read-write\"\n[jobs]\ndetach = true\nbackground = [\"detach\"]\n";
    host.add_guest("hostile", Some(manifest)).await;
    let session = host.session(json!({})).await;
    host.turn(&session, "build").await;
    let refused = ended(&host, &session).await;
    assert_eq!(refused["result"]["status"], "denied", "{refused}");
    let said = refused["result"]["error"]["message"].as_str().unwrap();
    assert!(
        said.contains("it runs in the background") && said.contains("`[jobs] background`"),
        "{said}"
    );
    host.stop().await;
}

#[tokio::test]
async fn a_replay_leaves_a_call_in_the_background_out_and_says_so() {
    let (place, host) = place(&[("build", &[("bg_once", json!({"say": "built"}))])], "").await;
    let session = host.session(json!({})).await;
    let turn = host.turn(&session, "build").await;
    ended(&host, &session).await;
    host.stop().await;
    let replayed = place.run(&["replay", turn["id"].as_str().unwrap()]).await;
    let said = String::from_utf8_lossy(&replayed.stdout);
    assert!(replayed.status.success(), "{said}");
    assert!(
        said.contains("decisions of the turn: identical") && said.contains("it was refused, runs in the background"),
        "{said}"
    );
}

#[tokio::test]
async fn a_job_goes_with_its_session() {
    let world = World::start().await;
    let work = json!({"say": "built", "url": world.url("/held")});
    let (_place, host) = place(&[("build", &[("bg_once", work)])], "").await;
    let session = host.session(json!({})).await;
    host.turn(&session, "build").await;
    world.has_seen(1).await;
    let id = job(&host, &session, |job| job["status"] == "running").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let deleted = host
        .request(Method::DELETE, &format!("/v1/sessions/{session}"))
        .send()
        .await;
    assert!(deleted.unwrap().status().is_success());
    refused(host.request(Method::GET, &format!("/v1/jobs/{id}")), 404, "not_found").await;
    // Stopped as well: it lets go of the server while the host goes on.
    world.has_lost(1).await;
    host.stop().await;
}
