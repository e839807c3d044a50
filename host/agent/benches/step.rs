//! What a step costs in the host, without the model and without tools, and whether that grows with the history: the time from one
//! model call to the next, in sessions of 10 to 10,000 messages. Each step records its beginning, its answer and its end.
//! And what it costs to take such a session up: from a turn's submission to its first model call, with the journal read and folded.
//!
//! The journal is on a file system in memory where there is one, so that this is the host's own time; and on the disk, as it is.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use async_trait::async_trait;
use fumehood_agent::{
    StoreLedger,
    caller::{Caller, CallerParts},
    catalog::Catalog,
    host::{Host, HostParts, NewSession, RetentionRules, ScheduleLimits, TurnRequest},
    limits::Limits,
};
use fumehood_core::{
    content::Content,
    event::{EventBody, NewEvent, Source},
    id::SessionId,
    name::{AgentName, ModelName, OrgName},
    turn::StepStop,
};
use fumehood_egress::{Egress, EgressConfig};
use fumehood_model::{ModelError, ModelEvent, ModelInfo, ModelRequest, ModelStream, Provider, ProviderKind};
use fumehood_policy::{agent::AgentConfig, authority::HostPolicy};
use fumehood_sandbox::{Sandbox, SandboxConfig};
use fumehood_store::{Opened, StoreUrl};
use futures::{StreamExt as _, stream};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Steps of the turn that is timed.
const STEPS: usize = 400;
const HISTORIES: [usize; 4] = [10, 100, 1000, 10_000];

/// Answers so often with a call that was cut off, which asks for another step, and remembers when it was asked.
#[derive(Default)]
struct Model {
    asked: Mutex<Vec<Instant>>,
}

#[async_trait]
impl Provider for Model {
    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        std::hint::black_box(request);
        let mut asked = self.asked.lock().unwrap();
        asked.push(Instant::now());
        let stop = if asked.len() < STEPS {
            StepStop::Length
        } else {
            StepStop::Stop
        };
        let mut events = vec![ModelEvent::TextDelta("I look further.".into())];
        if stop == StepStop::Length {
            let name = "look".into();
            events.push(ModelEvent::ToolCallStart { index: 0, name });
            events.push(ModelEvent::ToolCallEnd { index: 0 });
        }
        events.push(ModelEvent::Done { stop });
        Ok(stream::iter(events.into_iter().map(Ok)).boxed())
    }

    fn describe(&self) -> ModelInfo {
        ModelInfo {
            provider: ProviderKind::Scripted,
            model: "bench".into(),
            // So large that the whole conversation fits: what is measured is a step, not a summary.
            context_window: Some(10_000_000),
        }
    }
}

fn main() {
    // Cargo passes `--bench`; what else there is says which benchmarks to run.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if wanted.is_some_and(|wanted| !"step".contains(&wanted)) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let disk = std::env::temp_dir();
    let memory = PathBuf::from("/dev/shm");
    println!("| a step after so many messages | journal | median | p99 | taken up in |\n|---|---|---|---|---|");
    for (name, place) in [("in memory", memory), ("on disk", disk)] {
        if place.is_dir() {
            for messages in HISTORIES {
                let (taken_up, times) = runtime.block_on(timed(&place, messages));
                let at = |part: usize| times[times.len() * part / 100].as_micros();
                let taken_up = taken_up.as_millis();
                println!(
                    "| {messages} | {name} | {} µs | {} µs | {taken_up} ms |",
                    at(50),
                    at(99)
                );
            }
        }
    }
}

/// The time to the first model call of one turn, and those between its calls, in order of length.
async fn timed(place: &Path, messages: usize) -> (Duration, Vec<Duration>) {
    let dir = tempfile::tempdir_in(place).unwrap();
    let model = Arc::new(Model::default());
    let (host, _opened) = host(dir.path(), Arc::clone(&model)).await;
    let org = OrgName::default_org();
    let session = host.create_session(&org, NewSession::default()).await.unwrap().id;
    seed(&host, session, messages).await;
    let request = TurnRequest {
        input: vec![Content::text("go on")],
        ..TurnRequest::default()
    };
    let submitted = Instant::now();
    let turn = host.submit_turn(&org, session, request).await.unwrap().turn;
    host.wait_for_turn(&org, turn.id).await.unwrap();
    host.shut_down().await;
    let asked = model.asked.lock().unwrap();
    assert_eq!(asked.len(), STEPS);
    let mut times: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    times.sort_unstable();
    (asked[0] - submitted, times)
}

async fn seed(host: &Host, session: SessionId, messages: usize) {
    let by_host = |body| NewEvent {
        turn: None,
        source: Source::Host,
        body,
    };
    let exchange = || {
        [
            EventBody::TurnSteered {
                input: vec![Content::text("What is there in the next file of the list?")],
            },
            EventBody::StepStarted {
                step: 1,
                notes: Vec::new(),
                worked_ms: None,
            },
            EventBody::TextCompleted {
                step: 1,
                text: "A table of measurements with three columns: time, place and value.".into(),
            },
            EventBody::StepCompleted {
                step: 1,
                stop_reason: StepStop::Stop,
                usage: None,
                model: None,
                cost: None,
                unmeasured: true,
                dropped_calls: Vec::new(),
                worked_ms: None,
            },
        ]
        .map(by_host)
    };
    let events: Vec<_> = (0..messages / 2).flat_map(|_| exchange()).collect();
    for page in events.chunks(400) {
        host.store()
            .append(&OrgName::default_org(), session, page)
            .await
            .unwrap();
    }
}

async fn host(dir: &Path, model: Arc<Model>) -> (Host, Opened) {
    let url = StoreUrl::Sqlite(dir.join("bench.db"));
    let opened = fumehood_store::open(dir, &url).await.unwrap();
    let store = Arc::clone(&opened.store);
    let agent = AgentName::new("assistant").unwrap();
    let config = serde_json::json!({"model": "main", "budget": {"steps": STEPS + 1}});
    let config: AgentConfig = serde_json::from_value(config).unwrap();
    let agents = [(agent.clone(), config)].into();
    store.create_org(&OrgName::default_org()).await.unwrap();
    store.replace_agents(&OrgName::default_org(), &agents).await.unwrap();
    let sandbox = Sandbox::new(&SandboxConfig {
        max_concurrent_calls: 1,
        ..SandboxConfig::new().unwrap()
    })
    .unwrap();
    let limits = Arc::new(Limits::default());
    let ledger = StoreLedger::new(Arc::clone(&store), Arc::clone(&limits));
    let caller = Caller::new(CallerParts {
        sandbox: sandbox.clone(),
        egress: Egress::new(&EgressConfig::default(), Arc::clone(&ledger) as Arc<_>).unwrap(),
        ledger,
        store: Arc::clone(&store),
        workspaces: opened.workspaces.clone(),
        policy: HostPolicy::default(),
        limits,
        env: Vec::new(),
        recording_bytes: fumehood_agent::recording::RECORDING_BYTES,
        callbacks: fumehood_agent::callbacks::CallbackLimits::default(),
    });
    let catalog = Catalog::new(
        Arc::clone(&store),
        opened.blobs.clone(),
        sandbox,
        fumehood_agent::catalog::DRAIN,
    );
    let host = Host::start(HostParts {
        store,
        workspaces: opened.workspaces.clone(),
        catalog,
        caller,
        models: [(ModelName::main(), (model as Arc<dyn Provider>).into())].into(),
        skills: BTreeMap::new(),
        budgets: BTreeMap::new(),
        default_agent: agent,
        patience: fumehood_agent::host::Patience::default(),
        schedules: ScheduleLimits::default(),
        retention: RetentionRules::default(),
        jobs: fumehood_agent::jobs::JobLimits::default(),
    });
    (host, opened)
}
