//! What a client does with a host, step by step; and what must be true of it afterwards, wherever the host died.

use crate::journal::{assert_begins_with, called, of, one_end, one_result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_tests::{Host, PATIENCE, frames, world::World};
use futures::StreamExt as _;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The host did not answer any more.
#[derive(Debug)]
pub(crate) struct Died;

/// Between two looks at what comes by itself.
const POLL: Duration = Duration::from_millis(20);

type Lived<T> = Result<T, Died>;

/// The steps, in order. What is cut off is done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Grant,
    Component,
    Session,
    Values,
    Files,
    Rename,
    Archive,
    Work,
    HandOn,
    Jobs,
    More,
    Undo,
    Steer,
    Schedule,
    Webhook,
    Compact,
    Fork,
    Delete,
    Room,
    Cancel,
}

const STEPS: [Step; 20] = [
    Step::Grant,
    Step::Component,
    Step::Session,
    Step::Values,
    Step::Files,
    Step::Rename,
    Step::Archive,
    Step::Work,
    Step::HandOn,
    Step::Jobs,
    Step::More,
    Step::Undo,
    Step::Steer,
    Step::Schedule,
    Step::Webhook,
    Step::Compact,
    Step::Fork,
    Step::Delete,
    Step::Room,
    Step::Cancel,
];

/// A client, and what it knows.
pub(crate) struct Life<'w> {
    world: &'w World,
    /// The next step.
    at: usize,
    /// Sessions it was told of, by what they are for.
    sessions: BTreeMap<&'static str, String>,
    /// Turns it was told of, by their idempotency keys.
    turns: BTreeMap<String, String>,
    /// The schedule that it made.
    schedule: Option<String>,
    /// The webhook that it made.
    webhook: Option<String>,
    /// Whether the turn with tools of all effects went through without a crash.
    worked: bool,
    /// What it has read of the main session's journal.
    read: Vec<Value>,
}

impl<'w> Life<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        Self {
            world,
            at: 0,
            sessions: BTreeMap::new(),
            turns: BTreeMap::new(),
            schedule: None,
            webhook: None,
            worked: false,
            read: Vec::new(),
        }
    }

    /// All of it, or as far as the host lives.
    pub(crate) async fn lives(&mut self, host: &Host) -> Lived<()> {
        while let Some(step) = STEPS.get(self.at) {
            self.step(host, *step).await?;
            self.reads(host).await?;
            self.worked |= *step == Step::Work;
            self.at += 1;
        }
        Ok(())
    }

    /// As far as there are secrets.
    pub(crate) async fn until_secrets(&mut self, host: &Host) {
        while STEPS[self.at] != Step::Files {
            self.step(host, STEPS[self.at]).await.unwrap();
            self.at += 1;
        }
    }

    /// Its sessions went because they were too old.
    pub(crate) fn forgets(&mut self) {
        self.sessions.clear();
        self.turns.clear();
        self.read.clear();
        self.at = STEPS.len();
    }

    /// Does the step again that was cut off, or the first that uses all there is: a turn.
    pub(crate) async fn goes_on(&mut self, host: &Host) {
        if let Some(step) = STEPS.get(self.at) {
            self.step(host, *step).await.unwrap();
        }
        if !self.sessions.contains_key("main") {
            self.step(host, Step::Session).await.unwrap();
        }
        self.turn(host, "main", "hello again").await.unwrap();
        self.at = STEPS.len();
    }

    async fn step(&mut self, host: &Host, step: Step) -> Lived<()> {
        match step {
            Step::Grant => {
                let allow = format!("http://127.0.0.1:{}", self.world.port);
                let wasm = STANDARD.encode(fumehood_tests::guest("hostile"));
                let new = json!({"wasm": wasm, "grant": "none"});
                done(host.request(Method::POST, "/v1/tools").json(&new)).await?;
                let grant = json!({"network": {"allow": [allow]}, "files": {"workspace": "read-write"}, "jobs": {"detach": true, "background": ["bg_*"]}});
                done(host.request(Method::PUT, "/v1/tools/hostile/grant").json(&grant)).await?;
            }
            Step::Component => self.component(host).await?,
            Step::Session => {
                self.session(host, "main").await?;
            }
            Step::Values => self.values(host).await?,
            Step::Files => {
                self.put(host, "main", "mine.txt", b"mine".to_vec()).await?;
                self.put(host, "main", "gone.txt", b"gone".to_vec()).await?;
                let gone = self.at_session(host, "main", Method::DELETE, "/files/gone.txt");
                gone_or_done(gone).await?;
            }
            Step::Rename => {
                let session = &self.sessions["main"];
                let request = host.request(Method::PATCH, &format!("/v1/sessions/{session}"));
                done(request.json(&json!({"title": "A life"}))).await?;
            }
            Step::Archive => self.archive(host).await?,
            Step::Work => {
                self.turn(host, "main", "work").await?;
            }
            Step::HandOn => self.hand_on(host).await?,
            Step::Jobs => self.jobs(host).await?,
            Step::More => {
                self.turn(host, "main", "more").await?;
            }
            Step::Undo => self.undo(host).await?,
            Step::Steer => self.steer(host).await?,
            Step::Schedule => self.schedule(host).await?,
            Step::Webhook => self.webhook(host).await?,
            Step::Compact => {
                done(self.at_session(host, "main", Method::POST, "/compact").json(&json!({}))).await?;
            }
            Step::Fork => {
                let forked = done(self.at_session(host, "main", Method::POST, "/fork").json(&json!({}))).await?;
                self.sessions.insert("fork", forked["id"].as_str().unwrap().to_owned());
            }
            Step::Delete => {
                let fork = self.sessions["fork"].clone();
                gone_or_done(host.request(Method::DELETE, &format!("/v1/sessions/{fork}"))).await?;
            }
            Step::Cancel => self.cancel(host).await?,
            Step::Room => {
                self.session(host, "room").await?;
                for (number, letter) in ["a", "b", "c", "d"].into_iter().enumerate() {
                    self.put(host, "room", "large", letter.repeat(40_000).into_bytes())
                        .await?;
                    self.turn(host, "room", &format!("look {number}")).await?;
                }
            }
        }
        Ok(())
    }

    /// The session is put aside and brought back. Meanwhile it takes nothing.
    async fn archive(&self, host: &Host) -> Lived<()> {
        for archived in [true, false] {
            let request = self.at_session(host, "main", Method::PATCH, "");
            let shown = done(request.json(&json!({ "archived": archived }))).await?;
            assert_eq!(shown["archived"], archived);
            if archived {
                let turn = self.at_session(host, "main", Method::POST, "/turns");
                let (status, said) = ask(turn.json(&json!({"input": "no"}))).await?;
                assert_eq!((status, &said["code"]), (409, &json!("session_archived")), "{said}");
            }
        }
        Ok(())
    }

    /// One that comes and goes.
    async fn component(&self, host: &Host) -> Lived<()> {
        let wasm = STANDARD.encode(fumehood_tests::hand_written("plain"));
        let manifest = "name = \"plain\"\nversion = \"0.1.0\"\ndescription = \"plain\"\n";
        let new = json!({"wasm": wasm, "manifest": manifest, "grant": "none"});
        done(host.request(Method::POST, "/v1/tools").json(&new)).await?;
        gone_or_done(host.request(Method::DELETE, "/v1/tools/plain")).await
    }

    async fn session(&mut self, host: &Host, name: &'static str) -> Lived<()> {
        if !self.sessions.contains_key(name) {
            let made = done(host.request(Method::POST, "/v1/sessions").json(&json!({}))).await?;
            self.sessions.insert(name, made["id"].as_str().unwrap().to_owned());
        }
        Ok(())
    }

    async fn values(&self, host: &Host) -> Lived<()> {
        for what in ["kv", "secrets"] {
            for name in ["KEPT", "GONE"] {
                let request = self.at_session(host, "main", Method::PUT, &format!("/{what}/{name}"));
                let request = match what {
                    "kv" => request.body("a value"),
                    _ => request.json(&json!({"value": "4f1d9c27e85b-of-the-life"})),
                };
                done(request).await?;
            }
            gone_or_done(self.at_session(host, "main", Method::DELETE, &format!("/{what}/GONE"))).await?;
        }
        Ok(())
    }

    async fn put(&self, host: &Host, session: &str, path: &str, bytes: Vec<u8>) -> Lived<()> {
        let request = self.at_session(host, session, Method::PUT, &format!("/files/{path}"));
        done(request.body(bytes)).await?;
        Ok(())
    }

    /// Works a turn to its end, once however often it is asked for, and decides what it asks.
    async fn turn(&mut self, host: &Host, session: &str, input: &str) -> Lived<()> {
        loop {
            let request = self.request(
                host,
                session,
                (input, json!({"input": input, "record": input == "work"})),
            );
            let view = self.answered(input, request).await?;
            match view["status"].as_str().unwrap_or_else(|| panic!("{view}")) {
                "completed" => return Ok(()),
                "awaiting_approval" => self.approve(host, &view).await?,
                _ => panic!("{view}"),
            }
        }
    }

    fn request(&self, host: &Host, session: &str, (key, body): (&str, Value)) -> RequestBuilder {
        self.at_session(host, session, Method::POST, "/turns")
            .header("idempotency-key", key)
            .json(&body)
    }

    /// The turn that a request led to, which is the same however often it is sent.
    async fn answered(&mut self, key: &str, request: RequestBuilder) -> Lived<Value> {
        let view = done(request).await?;
        let turn = view["id"].as_str().unwrap().to_owned();
        let known = self.turns.insert(key.to_owned(), turn.clone());
        assert!(
            known.is_none_or(|known| known == turn),
            "{key}: the same request is the same turn, also after a crash"
        );
        Ok(view)
    }

    async fn approve(&self, host: &Host, view: &Value) -> Lived<()> {
        let waiting = view["approvals"].as_array().unwrap();
        let decide = |one: &Value| json!({"call_id": one["call_id"], "decision": "approve"});
        let decisions: Vec<_> = waiting.iter().map(decide).collect();
        let turn = view["id"].as_str().unwrap();
        let request = host.request(Method::POST, &format!("/v1/turns/{turn}/approvals"));
        done(request.json(&json!({"decisions": decisions}))).await?;
        Ok(())
    }

    /// A turn with a call that somebody outside ends.
    async fn hand_on(&mut self, host: &Host) -> Lived<()> {
        loop {
            let request = self.request(host, "main", ("hand on", json!({"input": "hand on"})));
            let view = self.answered("hand on", request).await?;
            match view["status"].as_str().unwrap_or_else(|| panic!("{view}")) {
                "completed" => return Ok(()),
                "awaiting_results" => self.bring(host, &view).await?,
                _ => panic!("{view}"),
            }
        }
    }

    /// Ends the call as whoever has its ticket.
    async fn bring(&self, host: &Host, view: &Value) -> Lived<()> {
        let (status, written) = text(self.at_session(host, "main", Method::GET, "/files/ticket.json")).await?;
        let ticket: Value = serde_json::from_str(&written).unwrap_or_default();
        if status != 200 || ticket["id"] != view["detached"][0]["callback"] {
            // The host died before the tool could give it to anybody: the call ends by its time.
            tokio::time::sleep(POLL).await;
            return Ok(());
        }
        let path = format!("/v1/callbacks/{}", ticket["id"].as_str().unwrap());
        let callback = |body: Value| {
            let token = ticket["token"].as_str().unwrap();
            host.anonymous(Method::POST, &path)
                .header("fumehood-callback-token", token)
                .json(&body)
        };
        // Told before, perhaps by the request that nobody answered.
        let (status, said) = ask(callback(json!({"progress": {"message": "half"}}))).await?;
        assert!([200, 409, 429].contains(&status), "{status}: {said}");
        let (status, said) = ask(callback(json!({"content": "ended outside"}))).await?;
        assert!([200, 409].contains(&status), "{status}: {said}");
        Ok(())
    }

    /// A turn whose calls run in the background, to their ends.
    async fn jobs(&mut self, host: &Host) -> Lived<()> {
        self.turn(host, "main", "in the background").await?;
        let ended = async {
            loop {
                let listed = done(self.at_session(host, "main", Method::GET, "/jobs")).await?;
                let jobs = listed["items"].as_array().unwrap();
                assert_eq!(jobs.len(), 2, "{listed}");
                let stop = format!("/v1/jobs/{}/stop", jobs[0]["id"].as_str().unwrap());
                done(host.request(Method::POST, &stop).json(&json!({}))).await?;
                if jobs.iter().all(|job| !job["ended"].is_null()) {
                    return Ok(());
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("a job never ended")
    }

    async fn undo(&mut self, host: &Host) -> Lived<()> {
        let more = self.turns["more"].clone();
        let request = self.at_session(host, "main", Method::POST, "/undo");
        let (status, said) = ask(request.json(&json!({"to": more}))).await?;
        // It may have been undone by the request that nobody answered.
        assert!(
            status < 300 || (status == 422 && said["detail"].as_str().unwrap().contains("undone")),
            "{said}"
        );
        let (_, notes) = text(self.at_session(host, "main", Method::GET, "/files/notes.txt")).await?;
        assert_eq!(notes, "first", "the files are as they were before what was undone");
        Ok(())
    }

    /// Adds to a turn that would go on without end.
    async fn steer(&mut self, host: &Host) -> Lived<()> {
        let begin = self.request(host, "main", ("endless", json!({"input": "endless"})));
        self.answered("endless", begin.header("prefer", "respond-async"))
            .await?;
        let steer = self.request(host, "main", ("enough", json!({"input": "enough", "mode": "steer"})));
        self.answered("enough", steer).await?;
        self.turn(host, "main", "endless").await
    }

    /// Ends a turn that would go on without end.
    async fn cancel(&mut self, host: &Host) -> Lived<()> {
        self.session(host, "stopped").await?;
        let begin = self.request(host, "stopped", ("unending", json!({"input": "endless"})));
        let begun = self
            .answered("unending", begin.header("prefer", "respond-async"))
            .await?;
        let turn = format!("/v1/turns/{}", begun["id"].as_str().unwrap());
        let mut view = done(host.request(Method::POST, &format!("{turn}/cancel"))).await?;
        let ended = async {
            // Answered before its end, it ends all the same.
            while view["status"] != "cancelled" {
                tokio::time::sleep(POLL).await;
                view = done(host.request(Method::GET, &turn)).await?;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, ended)
            .await
            .expect("what was cancelled never ended")
    }

    /// A turn that comes by itself, once.
    async fn schedule(&mut self, host: &Host) -> Lived<()> {
        let listed = done(host.request(Method::GET, "/v1/schedules")).await?;
        let id = match (listed["items"][0]["id"].as_str(), &self.schedule) {
            (Some(id), _) => id.to_owned(),
            // It was deleted by the request that nobody answered.
            (None, Some(_)) => return Ok(()),
            (None, None) => {
                let new = json!({"when": {"every": "1s"}, "max_runs": 1, "session": self.sessions["main"], "input": "rounds"});
                let made = done(host.request(Method::POST, "/v1/schedules").json(&new)).await?;
                made["id"].as_str().unwrap().to_owned()
            }
        };
        self.schedule = Some(id.clone());
        let schedule = format!("/v1/schedules/{id}");
        done(host.request(Method::PATCH, &schedule).json(&json!({"title": "Rounds"}))).await?;
        let fired = async {
            loop {
                let runs = done(host.request(Method::GET, &format!("{schedule}/runs"))).await?;
                if runs["items"][0]["turn_status"] == "completed" {
                    return Ok(());
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, fired)
            .await
            .expect("the schedule never fired")?;
        gone_or_done(host.request(Method::DELETE, &schedule)).await
    }

    /// A URL that is told of a change, and once more.
    async fn webhook(&mut self, host: &Host) -> Lived<()> {
        let listed = done(host.request(Method::GET, "/v1/webhooks")).await?;
        let id = match (listed["items"][0]["id"].as_str(), &self.webhook) {
            (Some(id), _) => id.to_owned(),
            (None, Some(_)) => return Ok(()),
            (None, None) => {
                let new = json!({"url": self.world.url("/echo"), "events": ["session.updated"]});
                let made = done(host.request(Method::POST, "/v1/webhooks").json(&new)).await?;
                made["id"].as_str().unwrap().to_owned()
            }
        };
        self.webhook = Some(id.clone());
        let webhook = format!("/v1/webhooks/{id}");
        done(host.request(Method::PATCH, &webhook).json(&json!({"title": "Told"}))).await?;
        let told = self.at_session(host, "main", Method::PATCH, "");
        done(told.json(&json!({"title": "A life that is told"}))).await?;
        self.arrives(host, &webhook).await?;
        done(host.request(Method::POST, &format!("{webhook}/replay"))).await?;
        self.arrives(host, &webhook).await?;
        gone_or_done(host.request(Method::DELETE, &webhook)).await
    }

    /// Waits until a webhook has been told all it is to be told.
    async fn arrives(&self, host: &Host, webhook: &str) -> Lived<()> {
        let arrived = async {
            loop {
                let all = done(host.request(Method::GET, &format!("{webhook}/deliveries"))).await?;
                let all = all["items"].as_array().unwrap();
                if !all.is_empty() && all.iter().all(|one| one["status"] == "delivered") {
                    return Ok(());
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, arrived)
            .await
            .expect("the webhook was never told")
    }

    fn at_session(&self, host: &Host, session: &str, method: Method, path: &str) -> RequestBuilder {
        host.request(method, &format!("/v1/sessions/{}{path}", self.sessions[session]))
    }

    /// Reads what there is of the journal now: it was shown, so it stays.
    async fn reads(&mut self, host: &Host) -> Lived<()> {
        if self.sessions.contains_key("main") {
            let events = self.journal(host, "main").await?;
            assert_begins_with(&events, &self.read);
            self.read = events;
        }
        Ok(())
    }

    async fn journal(&self, host: &Host, session: &str) -> Lived<Vec<Value>> {
        const PAGE: usize = 1000;
        let mut events: Vec<Value> = Vec::new();
        loop {
            let after = events.len();
            let path = format!("/events?after={after}&limit={PAGE}");
            let request = self.at_session(host, session, Method::GET, &path);
            let page = done(request.header("accept", "application/json")).await?;
            let items = page["items"].as_array().unwrap();
            events.extend(items.iter().cloned());
            if items.len() < PAGE {
                return Ok(events);
            }
        }
    }

    /// What must be true, wherever the host died.
    pub(crate) async fn is_whole(&self, host: &Host) {
        let events = self.journal(host, "main").await.unwrap();
        assert_begins_with(&events, &self.read);
        let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "gapless from 1");
        let ids: BTreeSet<_> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), events.len(), "no event twice");
        let jobs = |kind: &str| {
            let told = events.iter().filter(|event| event["type"] == kind);
            let mut jobs: Vec<_> = told.map(|event| event["data"]["job"].as_str().unwrap()).collect();
            jobs.sort_unstable();
            jobs
        };
        if self.at > STEPS.iter().position(|step| *step == Step::Jobs).unwrap() {
            assert_eq!(jobs("job.queued"), jobs("job.completed"), "each job has one end");
        }
        let turns: BTreeSet<_> = events.iter().filter_map(|event| event["turn"].as_str()).collect();
        for turn in turns {
            one_end(&events, turn);
        }
        let scheduled = of(&events, "turn.queued").filter(|event| event["source"]["kind"] == "schedule");
        let scheduled = scheduled.count();
        assert!(scheduled <= 1, "a schedule that fires once fired {scheduled} times");
        for call in called(&events) {
            one_result(&events, &call);
        }
        let arrived = self
            .world
            .arrived()
            .into_iter()
            .filter(|one| one.line.ends_with(" /once"));
        let arrived = arrived.count();
        assert!(arrived <= 1, "a call that may run once ran {arrived} times");
        assert!(
            arrived == 1 || !self.worked,
            "nothing cut the call off, and it did not run"
        );
        self.streams(host, &events).await;
    }

    /// A stream that is taken up in the middle goes on without gap or double, to the end of its turn.
    async fn streams(&self, host: &Host, events: &[Value]) {
        let turn = &self.turns["hello again"];
        let recorded: Vec<_> = events.iter().filter(|event| event["turn"] == turn.as_str()).collect();
        let middle = recorded[recorded.len() / 2]["seq"].as_u64().unwrap();
        let request = self
            .at_session(host, "main", Method::GET, &format!("/events?turn={turn}"))
            .header("accept", "text/event-stream")
            .header("last-event-id", middle.to_string());
        let told: Vec<_> = frames(request.send().await.unwrap()).await.collect().await;
        let told: Vec<_> = told.into_iter().map(|(_, _, data)| data).collect();
        let rest: Vec<Value> = recorded[recorded.len() / 2 + 1..]
            .iter()
            .map(|event| (*event).clone())
            .collect();
        assert_eq!(told, rest);
    }
}

/// Asks for what must be done.
async fn done(request: RequestBuilder) -> Lived<Value> {
    let (status, said) = ask(request).await?;
    assert!(status < 300, "{status}: {said}");
    Ok(said)
}

/// Asks for a removal, which may have been done when nobody answered.
async fn gone_or_done(request: RequestBuilder) -> Lived<()> {
    let (status, said) = ask(request).await?;
    assert!(status < 300 || status == 404, "{status}: {said}");
    Ok(())
}

/// Asks; a JSON answer, or none.
pub(crate) async fn ask(request: RequestBuilder) -> Result<(u16, Value), Died> {
    let (status, text) = text(request).await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

async fn text(request: RequestBuilder) -> Lived<(u16, String)> {
    let asking = async {
        let response = request.send().await.map_err(|_| Died)?;
        let status = response.status().as_u16();
        Ok((status, response.text().await.map_err(|_| Died)?))
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .expect("the host went silent")
}
