//! Clients that never give up, and a host that is killed at any moment, again and again: nothing that was acknowledged is lost, and
//! nothing runs twice.

use crate::{
    assert_whole,
    journal::{called, of, one_end, one_result},
    life, script,
};
use fumehood_tests::{Host, Place, signal, world::World};
use futures::future::join_all;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the host is killed, unless `TESTS_KILLS` says otherwise, as `cargo xtask soak` does.
const KILLS: u32 = 4;
const CLIENTS: usize = 6;
/// A host lives no longer than this, in milliseconds from its first answer.
const LONGEST_LIFE: u64 = 700;
/// Before a client asks again that was not answered.
const PAUSE: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_kept_however_often_the_host_is_killed_under_load() {
    let kills = std::env::var("TESTS_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut moments = fastrand::Rng::with_seed(seed);
    let world = World::start().await;
    let place = Place::new(&script::config());
    std::fs::write(place.path().join("script.yaml"), script::script(&world)).unwrap();

    let mut host = place.serve().await;
    let (reached, reach) = watch::channel(host.base.clone());
    let enough = CancellationToken::new();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let patient = Patient {
                reach: reach.clone(),
                key: host.key.clone(),
                http: Client::new(),
                number,
            };
            tokio::spawn(patient.works(enough.clone()))
        })
        .collect();
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(moments.u64(0..LONGEST_LIFE))).await;
        host = killed_and_served_again(host, &place).await;
        reached.send_replace(host.base.clone());
    }
    enough.cancel();

    let (mut completed, mut turns) = (0, 0);
    for seen in join_all(clients).await {
        let seen = seen.unwrap();
        completed += seen.completed;
        turns += seen.turns;
    }
    println!("{completed} of {turns} turns completed, {kills} kills");
    assert!(completed > 0);
    let (arrived, most) = (world.arrived().len(), turns);
    assert!(arrived <= most, "{arrived} requests of {most} calls that may run once");
    host.stop().await;
    assert_whole(&place, "killed under load").await;
}

async fn killed_and_served_again(host: Host, place: &Place) -> Host {
    signal(host.pid(), "-KILL").await;
    host.ended().await;
    place.serve().await
}

/// What a client has seen to its end.
#[derive(Default)]
struct Seen {
    turns: usize,
    completed: usize,
}

/// A client that asks again until it is answered.
struct Patient {
    reach: watch::Receiver<String>,
    key: String,
    http: Client,
    number: usize,
}

impl Patient {
    /// Works turns in sessions of its own, and looks at each journal.
    async fn works(self, enough: CancellationToken) -> Seen {
        let mut seen = Seen::default();
        // The last host is not killed: there it comes to an end.
        while !enough.is_cancelled() || seen.completed == 0 {
            let made = self.until_answered(|| self.post("/v1/sessions", &json!({}))).await;
            let session = made["id"].as_str().unwrap().to_owned();
            self.turn(&session, &mut seen).await;
            self.looks_at(&session).await;
        }
        seen
    }

    /// One turn with tools of all effects, however often it has to be asked for.
    async fn turn(&self, session: &str, seen: &mut Seen) {
        let key = format!("{}-{}", self.number, seen.turns);
        seen.turns += 1;
        let mut known: Option<String> = None;
        loop {
            let ask = || {
                let turns = format!("/v1/sessions/{session}/turns");
                self.post(&turns, &json!({"input": "work"}))
                    .header("idempotency-key", &key)
            };
            let view = self.until_answered(ask).await;
            let turn = view["id"].as_str().unwrap();
            assert!(
                known.as_deref().is_none_or(|known| known == turn),
                "{key}: another turn than before"
            );
            known = Some(turn.to_owned());
            match view["status"].as_str().unwrap() {
                "completed" => {
                    seen.completed += 1;
                    return;
                }
                "awaiting_approval" => {
                    self.approves(&view).await;
                }
                // Each of its hosts was killed before it came any further.
                "failed" if view["error"]["code"] == "interrupted" => return,
                _ => panic!("{view}"),
            }
        }
    }

    /// Again where nobody answered. What was decided before the host died is not decided twice.
    async fn approves(&self, view: &Value) {
        let decisions: Vec<_> = view["approvals"]
            .as_array()
            .unwrap()
            .iter()
            .map(|asked| json!({"call_id": asked["call_id"], "decision": "approve"}))
            .collect();
        let turn = view["id"].as_str().unwrap();
        loop {
            let ask = self.post(&format!("/v1/turns/{turn}/approvals"), &json!({"decisions": decisions}));
            match life::ask(ask).await {
                Ok((401, _)) | Err(life::Died) => tokio::time::sleep(PAUSE).await,
                Ok((status, said)) => {
                    assert!(status < 300 || status == 409, "{status}: {said}");
                    return;
                }
            }
        }
    }

    async fn looks_at(&self, session: &str) {
        let path = format!("/v1/sessions/{session}/events?after=0&limit=1000");
        let page = self
            .until_answered(|| self.request(Method::GET, &path).header("accept", "application/json"))
            .await;
        let events = page["items"].as_array().unwrap();
        let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "gapless from 1");
        let turns: BTreeSet<_> = events.iter().filter_map(|event| event["turn"].as_str()).collect();
        for turn in turns {
            one_end(events, turn);
        }
        for call in called(events) {
            one_result(events, &call);
        }
        assert!(
            of(events, "tool.requested").count() <= 4,
            "the model is asked again, what it said is not kept twice"
        );
    }

    async fn until_answered(&self, ask: impl Fn() -> RequestBuilder) -> Value {
        loop {
            match life::ask(ask()).await {
                // Another host may have the port of the one that died.
                Ok((401, _)) | Err(life::Died) => tokio::time::sleep(PAUSE).await,
                Ok((status, said)) => {
                    assert!(status < 300, "{status}: {said}");
                    return said;
                }
            }
        }
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).json(body)
    }

    /// To where the host is now.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let base = self.reach.borrow().clone();
        self.http
            .request(method, format!("{base}{path}"))
            .bearer_auth(&self.key)
    }
}
