//! A store that can't be written for a moment: what happened meanwhile is written when it can, and nothing is done twice.

use crate::{
    house::{House, Plan, wasm},
    metrics::METRICS,
    steering::later,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_agent::host::Patience;
use fumehood_core::{id::SessionId, name::OrgName};
use fumehood_server::{MetricsAccess, MetricsPage, ServerConfig};
use serde_json::{Value, json};
use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// What the host logs, line by line.
struct Lines(mpsc::UnboundedSender<String>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The warnings of this thread, for as long as the guard lives.
pub(crate) fn warnings() -> (tracing::subscriber::DefaultGuard, mpsc::UnboundedReceiver<String>) {
    let (sender, lines) = mpsc::unbounded_channel();
    let logs = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(Mutex::new(Lines(sender)))
        .finish();
    (tracing::subscriber::set_default(logs), lines)
}

/// Panics in who logs this, once: a fault in the host.
#[derive(Clone)]
struct Breaks {
    at: &'static str,
    broke: Arc<AtomicBool>,
}

impl io::Write for Breaks {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let here = String::from_utf8_lossy(line).contains(self.at);
        assert!(!here || self.broke.swap(true, Ordering::Relaxed), "a fault");
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has what logs this break once, for as long as the guard lives, and tells whether it did.
pub(crate) fn breaks_where_it_logs(at: &'static str) -> (tracing::subscriber::DefaultGuard, Arc<AtomicBool>) {
    let broke = Arc::<AtomicBool>::default();
    let breaks = Breaks {
        at,
        broke: Arc::clone(&broke),
    };
    let logs = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || breaks.clone())
        .finish();
    (tracing::subscriber::set_default(logs), broke)
}

/// Refuses events of this type from now on, as a full disk would.
pub(crate) async fn refuse(house: &House, kind: &str) {
    let trigger = format!(
        "CREATE TRIGGER full BEFORE INSERT ON events WHEN CAST(NEW.body AS TEXT) LIKE '%\"{kind}\"%' \
         BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    );
    sqlx::query(sqlx::AssertSqlSafe(trigger))
        .execute(&mut house.database().await)
        .await
        .unwrap();
}

pub(crate) async fn take_again(house: &House) {
    sqlx::query("DROP TRIGGER full")
        .execute(&mut house.database().await)
        .await
        .unwrap();
}

pub(crate) async fn until(lines: &mut mpsc::UnboundedReceiver<String>, text: &str) {
    while !lines.recv().await.unwrap().contains(text) {}
}

#[tokio::test]
async fn what_happened_while_the_store_took_nothing_is_kept_and_not_done_again() {
    let (_logs, mut lines) = warnings();
    let house = House::new().await;
    house.add_sums().await;
    let session = house.session().await;
    for kind in [
        "text.completed",
        "tool.started",
        "tool.completed",
        "step.completed",
        "turn.completed",
    ] {
        let asked = house.asked().len();
        let model = house.next_answer();
        model.say("Let me see.");
        model.call("double", &json!({"n": 21}));
        refuse(&house, kind).await;
        let turn = later(&house, &session, json!({"input": "double it"})).await.json();
        until(&mut lines, "can't be written yet").await;
        take_again(&house).await;
        let id = turn["id"].as_str().unwrap();
        let ended = house.get(&format!("{session}/events?turn={id}")).stream().await;
        let events: Vec<Value> = ended.rest().await.into_iter().map(|frame| frame.data).collect();
        let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
        assert_eq!(
            (of("tool.started").len(), of("turn.completed").len()),
            (1, 1),
            "{kind}: {events:?}"
        );
        let results: Vec<&Value> = of("tool.completed")
            .iter()
            .map(|event| &event["data"]["status"])
            .collect();
        assert_eq!(results, ["ok"], "{kind}");
        assert_eq!(house.asked().len() - asked, 2, "{kind}: the model is not asked again");
    }
}

#[tokio::test]
async fn a_call_that_ended_while_another_ones_result_could_not_be_written_keeps_its_result_when_the_turn_is_cancelled()
{
    let (_logs, mut lines) = warnings();
    let house = House::with(ServerConfig {
        metrics: Some(MetricsPage {
            metrics: METRICS.clone(),
            access: MetricsAccess::Everybody,
        }),
        ..ServerConfig::default()
    })
    .await;
    house.add_sums().await;
    let session = house.session().await;
    let model = house.next_answer();
    model.calls(&[("double", json!({"n": 1})), ("double", json!({"n": 2}))]);
    refuse(&house, "tool.completed").await;
    let turn = later(&house, &session, json!({"input": "double them"})).await.json();
    until(&mut lines, "can't be written yet").await;
    while !house
        .get("/metrics")
        .answer()
        .await
        .text()
        .contains("\nfumehood_tool_calls_running 0\n")
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let id = turn["id"].as_str().unwrap();
    let cancelling = async { house.post(&format!("/v1/turns/{id}/cancel")).answer().await };
    let writing = async {
        let mut database = house.database().await;
        let asked = "SELECT count(*) FROM turns WHERE cancel IS NOT NULL";
        while sqlx::query_scalar::<_, i64>(asked)
            .fetch_one(&mut database)
            .await
            .unwrap()
            == 0
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        take_again(&house).await;
    };
    let (cancelled, ()) = tokio::join!(cancelling, writing);
    assert_eq!(cancelled.json()["status"], "cancelled");
    let events = house.get(&format!("{session}/events?turn={id}")).stream().await;
    let ended: Vec<_> = events
        .rest()
        .await
        .into_iter()
        .filter(|frame| frame.event == "tool.completed")
        .collect();
    let results: Vec<_> = ended.iter().map(|frame| &frame.data["data"]["status"]).collect();
    assert_eq!(results, ["ok", "ok"]);
}

#[tokio::test]
async fn a_turn_whose_work_breaks_is_gone_on_with_however_long_its_lease_lasts() {
    let (_logs, broke) = breaks_where_it_logs("what happened can't be written yet");
    let patience = Patience {
        again: Duration::from_millis(1),
        ..Patience::default()
    };
    let house = House::built(Plan {
        patience,
        ..Plan::default()
    })
    .await;
    let session = house.session().await;
    refuse(&house, "text.completed").await;
    let turn = later(&house, &session, json!({"input": "hi"})).await.json();
    let breaking = async {
        while !broke.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), breaking).await.unwrap();
    // As after a clock that was set back: its end is far away.
    sqlx::query("UPDATE turns SET leased_until = leased_until + 86400000000000 WHERE leased_until IS NOT NULL")
        .execute(&mut house.database().await)
        .await
        .unwrap();
    take_again(&house).await;
    let id = turn["id"].as_str().unwrap();
    let stream = house.get(&format!("{session}/events?turn={id}")).stream().await;
    let rest = tokio::time::timeout(Duration::from_secs(60), stream.rest());
    let frames = rest.await.unwrap();
    assert_eq!(frames.last().unwrap().event, "turn.completed");
}

#[tokio::test]
async fn a_session_that_is_deleted_while_turns_come_leaves_nothing_at_work() {
    let house = House::new().await;
    let session = house.session().await;
    let _model = house.next_answer();
    later(&house, &session, json!({"input": "first"})).await;
    house.has_asked(1).await;
    let deletion = async { house.delete(&session).answer().await };
    let more = (0..8).map(|_| later(&house, &session, json!({"input": "more", "mode": "queue"})));
    let (deleted, more) = tokio::join!(deletion, futures::future::join_all(more));
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    for answer in more {
        assert!([202, 404].contains(&answer.status.as_u16()), "{}", answer.text());
    }
    let id: SessionId = session.rsplit('/').next().unwrap().parse().unwrap();
    let left = house.host.store().next_turn(&OrgName::default_org(), id).await.unwrap();
    assert!(left.is_none());
    // It does not wait for a turn that nobody can end.
    house.host.drain(Duration::from_secs(3600)).await;
}

#[tokio::test]
async fn a_turn_whose_answer_the_store_refuses_each_time_ends_and_its_model_is_asked_no_more() {
    let plan = Plan {
        patience: Patience {
            held: Duration::ZERO,
            again: Duration::from_millis(1),
        },
        ..Plan::default()
    };
    let house = House::built(plan).await;
    let session = house.session().await;
    refuse(&house, "text.completed").await;
    let turn = later(&house, &session, json!({"input": "hi"})).await.json();
    let id = turn["id"].as_str().unwrap();
    let stream = house.get(&format!("{session}/events?turn={id}")).stream().await;
    let frames = tokio::select! {
        biased;
        frames = stream.rest() => frames,
        () = house.has_asked(8) => panic!("it is asked on and on"),
    };
    let last = frames.last().unwrap();
    assert_eq!(last.event, "turn.failed");
    let error = &last.data["data"]["error"];
    assert_eq!(error["code"], "interrupted");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("store refused"), "{message}");
    assert_eq!(
        house.asked().len(),
        4,
        "once, and once more for each time that it was gone on with"
    );
    // The session goes on once there is room.
    take_again(&house).await;
    let next = house.post(&format!("{session}/turns")).json(&json!({"input": "hi"}));
    assert_eq!(next.answer().await.json()["status"], "completed");
}

async fn rename(house: &House, table: &str, to: &str) {
    let rename = format!("ALTER TABLE {table} RENAME TO {to}");
    sqlx::query(sqlx::AssertSqlSafe(rename))
        .execute(&mut house.database().await)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_job_whose_agent_can_not_be_read_for_a_moment_begins_later_unless_it_is_stopped_meanwhile() {
    let (_logs, mut lines) = warnings();
    let house = House::new().await;
    let manifest = "name = \"sums\"\nversion = \"0.1.0\"\n[jobs]\nbackground = [\"double\"]\n";
    let component = json!({"wasm": STANDARD.encode(wasm()), "manifest": manifest, "grant": "requested"});
    let added = house.post("/v1/tools").json(&component).answer().await;
    assert!(added.status.is_success(), "{}", added.text());
    for (stop, status) in [(false, "completed"), (true, "cancelled")] {
        let session = house.session().await;
        let (asked, model) = (house.asked().len(), house.next_answer());
        later(&house, &session, json!({"input": "go"})).await;
        house.has_asked(asked + 1).await;
        rename(&house, "agents", "agents_away").await;
        model.call("double", &json!({"n": 21}));
        until(&mut lines, "a job can't be begun yet").await;
        let job = || async { house.get(&format!("{session}/jobs")).answer().await.json()["items"][0].clone() };
        if stop {
            let path = format!("/v1/jobs/{}/stop", job().await["id"].as_str().unwrap());
            assert!(house.post(&path).answer().await.status.is_success());
        }
        rename(&house, "agents_away", "agents").await;
        let ended = async {
            while job().await["ended"].is_null() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
        assert_eq!(job().await["status"], status);
    }
}
