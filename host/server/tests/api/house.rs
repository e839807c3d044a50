//! A host with two orgs, a model that says what a test wants, and a client.

mod client;

pub(crate) use self::client::{Answer, Ask, Frame, Frames, kinds, seqs};

use async_trait::async_trait;
use axum::{Router, body::Body};
use fumehood_agent::{
    StoreLedger,
    callbacks::CallbackLimits,
    caller::{Caller, CallerParts},
    catalog::{Catalog, DRAIN},
    host::{Host, HostParts, Patience, RetentionRules, ScheduleLimits},
    jobs::JobLimits,
    limits::Limits,
    models::Models,
    skills::Skill,
};
use fumehood_core::{
    digest::Digest,
    id::{KeyId, TurnId},
    name::{AgentName, ModelName, OrgName, SkillName},
    now,
    turn::{StepStop, Usage},
};
use fumehood_egress::{Egress, EgressConfig};
use fumehood_model::{
    ModelError, ModelErrorKind, ModelEvent, ModelInfo, ModelRequest, ModelStream, Provider, ProviderKind,
    scripted::Scripted,
};
use fumehood_policy::{agent::AgentConfig, authority::HostPolicy, quantity::Span, spending::OrgBudget};
use fumehood_sandbox::{Sandbox, SandboxConfig};
use fumehood_server::{ServerConfig, router};
use fumehood_store::{StoreUrl, record::Key};
use futures::{StreamExt as _, stream};
use http::{Method, Request, StatusCode};
use serde_json::Value;
use sqlx::Connection as _;
use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex},
};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(crate) const KEY: &str = "fh_test_key_of_the_default_org";
pub(crate) const OTHER_KEY: &str = "fh_test_key_of_the_other_org";

/// A component that exports plain functions, so that no guest has to be built.
pub(crate) fn wasm() -> Vec<u8> {
    let text = r#"(component
        (core module $code
            (func (export "double") (param i32) (result i32) local.get 0 i32.const 2 i32.mul)
            (func (export "fall") (param i32) (result i32) unreachable)
            (memory (export "memory") 4)
            (func (export "shout") (param $n i32) (result i32)
                (memory.fill (i32.const 8) (i32.const 65) (local.get $n))
                (i32.store (i32.const 0) (i32.const 8))
                (i32.store (i32.const 4) (local.get $n))
                i32.const 0))
        (core instance $running (instantiate $code))
        (func (export "double") (param "n" u32) (result u32) (canon lift (core func $running "double")))
        (func (export "fall") (param "n" u32) (result u32) (canon lift (core func $running "fall")))
        (func (export "shout") (param "n" u32) (result string)
            (canon lift (core func $running "shout") (memory (core memory $running "memory")))))"#;
    wat::parse_str(text).unwrap()
}

/// A model that says "Hello." unless a test took over its next answer.
#[derive(Default)]
struct Model {
    answers: Mutex<VecDeque<Result<mpsc::UnboundedReceiver<ModelEvent>, ModelErrorKind>>>,
    asked: watch::Sender<Vec<ModelRequest>>,
    window: Mutex<Option<u64>>,
}

#[async_trait]
impl Provider for Model {
    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        self.asked.send_modify(|asked| asked.push(request.clone()));
        let taken = self.answers.lock().unwrap().pop_front();
        Ok(match taken {
            Some(Err(refusal)) => return Err(refusal.into()),
            Some(Ok(told)) => stream::unfold(told, |mut told| async {
                told.recv().await.map(|event| (Ok(event), told))
            })
            .boxed(),
            None => stream::iter([
                Ok(ModelEvent::TextDelta("Hello.".into())),
                Ok(ModelEvent::Done { stop: StepStop::Stop }),
            ])
            .boxed(),
        })
    }

    fn describe(&self) -> ModelInfo {
        ModelInfo {
            provider: ProviderKind::Scripted,
            model: "told".into(),
            context_window: *self.window.lock().unwrap(),
        }
    }
}

/// An answer of the model that a test tells, piece by piece.
pub(crate) struct Told(mpsc::UnboundedSender<ModelEvent>);

impl Told {
    /// Says the whole answer.
    pub(crate) fn says(&self, text: &str) {
        self.say(text);
        self.done();
    }

    pub(crate) fn say(&self, text: &str) {
        self.0.send(ModelEvent::TextDelta(text.into())).unwrap();
    }

    pub(crate) fn think(&self, text: &str) {
        self.0.send(ModelEvent::ReasoningDelta(text.into())).unwrap();
    }

    /// Asks for one call and ends the answer.
    pub(crate) fn call(&self, tool: &str, arguments: &Value) {
        self.ask_for(tool, &arguments.to_string(), StepStop::ToolCalls);
    }

    /// Asks for calls and ends the answer.
    pub(crate) fn calls(&self, calls: &[(&str, Value)]) {
        for (index, (tool, arguments)) in calls.iter().enumerate() {
            let name = (*tool).to_owned();
            let delta = arguments.to_string();
            for event in [
                ModelEvent::ToolCallStart { index, name },
                ModelEvent::ToolCallArguments { index, delta },
                ModelEvent::ToolCallEnd { index },
            ] {
                self.0.send(event).unwrap();
            }
        }
        self.stop(StepStop::ToolCalls);
    }

    /// Reaches the output limit in the middle of a call.
    pub(crate) fn cut_call(&self, tool: &str) {
        self.ask_for(tool, "{\"path\":", StepStop::Length);
    }

    /// Asks for one call with arguments that are no JSON.
    pub(crate) fn malformed_call(&self, tool: &str) {
        self.ask_for(tool, "{\"path\":", StepStop::ToolCalls);
    }

    /// Asks for a call in an answer that the provider withholds.
    pub(crate) fn withheld_call(&self, tool: &str, arguments: &Value) {
        self.ask_for(tool, &arguments.to_string(), StepStop::ContentFilter);
    }

    /// Begins a call and does not end it.
    pub(crate) fn open_call(&self, tool: &str) {
        let name = tool.to_owned();
        self.0.send(ModelEvent::ToolCallStart { index: 0, name }).unwrap();
    }

    fn ask_for(&self, tool: &str, arguments: &str, stop: StepStop) {
        let start = ModelEvent::ToolCallStart {
            index: 0,
            name: tool.into(),
        };
        let given = ModelEvent::ToolCallArguments {
            index: 0,
            delta: arguments.to_owned(),
        };
        for event in [
            start,
            given,
            ModelEvent::ToolCallEnd { index: 0 },
            ModelEvent::Done { stop },
        ] {
            self.0.send(event).unwrap();
        }
    }

    pub(crate) fn count(&self, input: u64, output: u64) {
        let usage = Usage {
            input_tokens: Some(input),
            output_tokens: Some(output),
            ..Usage::default()
        };
        self.0.send(ModelEvent::Usage(usage)).unwrap();
    }

    pub(crate) fn done(&self) {
        self.stop(StepStop::Stop);
    }

    pub(crate) fn stop(&self, stop: StepStop) {
        self.0.send(ModelEvent::Done { stop }).unwrap();
    }
}

/// A model that plays a script.
pub(crate) fn scripted(script: &str) -> fumehood_agent::models::Model {
    let provider = Scripted::from_yaml(script).unwrap();
    (Arc::new(provider) as Arc<dyn Provider>).into()
}

/// What is special about a house.
pub(crate) struct Plan {
    pub(crate) config: ServerConfig,
    pub(crate) limits: Limits,
    /// The configuration of the agent `assistant`.
    pub(crate) agent: Value,
    /// Models beside `main`, or in its place.
    pub(crate) models: Models,
    /// Skills that it may have.
    pub(crate) skills: BTreeMap<SkillName, Arc<Skill>>,
    /// What the orgs may spend.
    pub(crate) budgets: BTreeMap<OrgName, OrgBudget>,
    /// The operator's part of every call's authority.
    pub(crate) policy: HostPolicy,
    /// How long calls may go on whose component is removed or replaced.
    pub(crate) drain: Span,
    /// How it bears with a store that takes nothing for a moment.
    pub(crate) patience: Patience,
    /// How long things are kept.
    pub(crate) retention: RetentionRules,
    /// What jobs may be.
    pub(crate) jobs: JobLimits,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            config: ServerConfig::default(),
            limits: Limits::default(),
            agent: serde_json::json!({"model": "main"}),
            models: Models::new(),
            skills: BTreeMap::new(),
            budgets: BTreeMap::new(),
            policy: HostPolicy::default(),
            drain: DRAIN,
            patience: Patience::default(),
            retention: RetentionRules::default(),
            jobs: JobLimits::default(),
        }
    }
}

pub(crate) struct House {
    pub(crate) host: Host,
    pub(crate) config: ServerConfig,
    pub(crate) closing: CancellationToken,
    pub(crate) key: KeyId,
    router: Router,
    model: Arc<Model>,
    opened: fumehood_store::Opened,
    policy: HostPolicy,
    dir: TempDir,
}

impl House {
    pub(crate) async fn new() -> Self {
        Self::with(ServerConfig::default()).await
    }

    pub(crate) async fn with(config: ServerConfig) -> Self {
        Self::limited(config, Limits::default()).await
    }

    pub(crate) async fn limited(config: ServerConfig, limits: Limits) -> Self {
        Self::built(Plan {
            config,
            limits,
            ..Plan::default()
        })
        .await
    }

    pub(crate) async fn built(plan: Plan) -> Self {
        let Plan {
            config,
            limits,
            agent: agent_config,
            models: others,
            skills,
            budgets,
            policy,
            drain,
            patience,
            retention,
            jobs,
        } = plan;
        let dir = tempfile::tempdir().unwrap();
        let url = StoreUrl::Sqlite(dir.path().join("test.db"));
        let opened = fumehood_store::open(dir.path(), &url).await.unwrap();
        let store = Arc::clone(&opened.store);
        let agent = AgentName::new("assistant").unwrap();
        let agents: BTreeMap<_, AgentConfig> = [(agent.clone(), serde_json::from_value(agent_config).unwrap())].into();
        let mut ids = Vec::new();
        for (org, token) in [("default", KEY), ("other", OTHER_KEY)] {
            let org = OrgName::new(org).unwrap();
            if store.org(&org).await.unwrap().is_none() {
                store.create_org(&org).await.unwrap();
            }
            let key = Key {
                id: KeyId::new(),
                org: org.clone(),
                label: "test".into(),
                created: now(),
            };
            store.create_key(&key, &Digest::of(token.as_bytes())).await.unwrap();
            ids.push(key.id);
        }
        store.replace_agents(&OrgName::default_org(), &agents).await.unwrap();
        let model = Arc::new(Model::default());
        let mut models: Models = [(ModelName::main(), (Arc::clone(&model) as Arc<dyn Provider>).into())].into();
        models.extend(others);
        let kept = policy.clone();
        let host = host_of(
            &opened,
            limits,
            models,
            (skills, budgets),
            policy,
            (drain, patience, retention, jobs),
        )
        .await;
        let closing = CancellationToken::new();
        let router = router(host.clone(), config.clone(), closing.clone());
        Self {
            host,
            config,
            closing,
            key: ids[0],
            router,
            model,
            opened,
            policy: kept,
            dir,
        }
    }

    /// The data directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A connection of its own to the database.
    pub(crate) async fn database(&self) -> sqlx::SqliteConnection {
        let database = format!("sqlite:{}", self.dir.path().join("test.db").display());
        sqlx::SqliteConnection::connect(&database).await.unwrap()
    }

    /// Makes the events of a turn unreadable.
    pub(crate) async fn damage(&self, turn: TurnId) {
        let mut database = self.database().await;
        let damaged = sqlx::query("UPDATE events SET body = '{}' WHERE turn = ?1")
            .bind(&turn.uuid().as_bytes()[..])
            .execute(&mut database)
            .await
            .unwrap();
        assert!(damaged.rows_affected() > 0);
    }

    /// The same after the host stopped and started again.
    pub(crate) async fn restarted(mut self) -> Self {
        self.host.shut_down().await;
        let model = Arc::clone(&self.model) as Arc<dyn Provider>;
        let models = [(ModelName::main(), model.into())].into();
        self.host = host_of(
            &self.opened,
            Limits::default(),
            models,
            (BTreeMap::new(), BTreeMap::new()),
            self.policy.clone(),
            (
                DRAIN,
                Patience::default(),
                RetentionRules::default(),
                JobLimits::default(),
            ),
        )
        .await;
        self.router = router(self.host.clone(), self.config.clone(), self.closing.clone());
        self
    }

    /// Takes over the model's next answer.
    pub(crate) fn next_answer(&self) -> Told {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.model.answers.lock().unwrap().push_back(Ok(receiver));
        Told(sender)
    }

    /// Has the model refuse its next request.
    pub(crate) fn next_refusal(&self, kind: ModelErrorKind) {
        self.model.answers.lock().unwrap().push_back(Err(kind));
    }

    /// Says how many tokens the model takes.
    pub(crate) fn window(&self, tokens: u64) {
        *self.model.window.lock().unwrap() = Some(tokens);
    }

    /// What the model was asked, request by request.
    pub(crate) fn asked(&self) -> Vec<ModelRequest> {
        self.model.asked.borrow().clone()
    }

    /// Adds the component of [`wasm`] as `sums`, and grants it all it asks for.
    pub(crate) async fn add_sums(&self) {
        self.add("sums", wasm()).await;
    }

    /// Waits until the model was asked so often.
    pub(crate) async fn has_asked(&self, times: usize) {
        let mut asked = self.model.asked.subscribe();
        asked.wait_for(|asked| asked.len() >= times).await.unwrap();
    }

    pub(crate) fn get(&self, path: &str) -> Ask<'_> {
        self.ask(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> Ask<'_> {
        self.ask(Method::POST, path)
    }

    pub(crate) fn put(&self, path: &str) -> Ask<'_> {
        self.ask(Method::PUT, path)
    }

    pub(crate) fn delete(&self, path: &str) -> Ask<'_> {
        self.ask(Method::DELETE, path)
    }

    pub(crate) fn ask(&self, method: Method, path: &str) -> Ask<'_> {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        Ask { house: self, request }.with("authorization", &format!("Bearer {KEY}"))
    }

    /// Revokes the default org's key, and tells the server.
    pub(crate) async fn revoke(&self) {
        assert!(
            self.host
                .store()
                .revoke_key(&OrgName::default_org(), self.key)
                .await
                .unwrap()
        );
        self.config.keys.forget(self.key);
    }

    /// Configures the agent of all sessions, from the next turn on.
    pub(crate) async fn agent(&self, agent: Value) {
        self.agents([("assistant", agent)]).await;
    }

    /// Configures the agents, from the next turn on. `assistant` is that of all sessions.
    pub(crate) async fn agents<const N: usize>(&self, agents: [(&str, Value); N]) {
        let agents = agents.map(|(name, agent)| {
            let agent: AgentConfig = serde_json::from_value(agent).unwrap();
            (AgentName::new(name).unwrap(), agent)
        });
        let store = self.host.store();
        store
            .replace_agents(&OrgName::default_org(), &agents.into())
            .await
            .unwrap();
    }

    /// Adds a component, or another version of it, and grants it what it asks for.
    pub(crate) async fn add(&self, name: &str, wasm: Vec<u8>) {
        let added = self
            .post(&format!("/v1/tools?name={name}"))
            .body("application/wasm", wasm)
            .answer()
            .await;
        assert!(added.status.is_success(), "{}", added.text());
        let granted = self
            .put(&format!("/v1/tools/{name}/grant"))
            .json(&serde_json::json!({}))
            .answer()
            .await;
        assert!(granted.status.is_success(), "{}", granted.text());
    }

    /// A new session's path.
    pub(crate) async fn session(&self) -> String {
        let made = self.post("/v1/sessions").json(&serde_json::json!({})).answer().await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
        made.headers["location"].to_str().unwrap().to_owned()
    }
}

/// A host on what was opened.
async fn host_of(
    opened: &fumehood_store::Opened,
    limits: Limits,
    models: Models,
    (skills, budgets): (BTreeMap<SkillName, Arc<Skill>>, BTreeMap<OrgName, OrgBudget>),
    policy: HostPolicy,
    (drain, patience, retention, jobs): (Span, Patience, RetentionRules, JobLimits),
) -> Host {
    let store = Arc::clone(&opened.store);
    let sandbox = Sandbox::new(&SandboxConfig {
        max_concurrent_calls: 4,
        ..SandboxConfig::new().unwrap()
    })
    .unwrap();
    let limits = Arc::new(limits);
    let ledger = StoreLedger::new(Arc::clone(&store), Arc::clone(&limits));
    let door = EgressConfig {
        private_networks: policy.private_networks.clone(),
        ..EgressConfig::default()
    };
    let egress = Egress::new(&door, Arc::clone(&ledger) as Arc<_>).unwrap();
    let workspaces = opened.workspaces.clone();
    let caller = Caller::new(CallerParts {
        sandbox: sandbox.clone(),
        egress,
        ledger,
        store: Arc::clone(&store),
        workspaces: workspaces.clone(),
        policy,
        limits,
        env: Vec::new(),
        recording_bytes: fumehood_agent::recording::RECORDING_BYTES,
        callbacks: CallbackLimits::default(),
    });
    let catalog = Catalog::new(Arc::clone(&store), opened.blobs.clone(), sandbox, drain);
    let host = Host::start(HostParts {
        store,
        workspaces,
        catalog,
        caller,
        models,
        skills,
        budgets,
        default_agent: AgentName::new("assistant").unwrap(),
        schedules: ScheduleLimits {
            per_org: 5,
            least_interval: Span::from_secs(1),
        },
        patience,
        retention,
        jobs,
    });
    host.recover().await.unwrap();
    host
}
