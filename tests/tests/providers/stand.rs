//! A host whose models are at the other end of a line that fails.

use fumehood_mock_provider::{Line, MockProvider};
use fumehood_tests::{Host, Place, frames};
use futures::{Stream, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};

/// The agents, each with the model of one provider, and what that is called there.
pub(crate) const AGENTS: [(&str, &str); 2] = [("openai", "gpt-5"), ("anthropic", "claude-sonnet-4-5")];

/// What the mock answers to every turn that is to show that a session goes on.
pub(crate) const GOES_ON: &str = "go on";

/// What is added to the configuration of both models and both agents.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) of_models: &'static str,
    pub(crate) of_agents: &'static str,
}

impl Settings {
    pub(crate) fn models(settings: &'static str) -> Self {
        Self {
            of_models: settings,
            ..Self::default()
        }
    }
}

/// A host whose models are the mock's, at the other end of the line.
pub(crate) struct Stand {
    _mock: MockProvider,
    pub(crate) line: Line,
    _place: Place,
    pub(crate) host: Host,
}

impl Stand {
    pub(crate) async fn new(fixtures: impl IntoIterator<Item = Value>) -> Option<Self> {
        Self::with(Settings::default(), fixtures).await
    }

    pub(crate) async fn with(settings: Settings, fixtures: impl IntoIterator<Item = Value>) -> Option<Self> {
        // First: an input without an answer is part of the next input on some wires.
        let mut all = vec![answers(GOES_ON, &json!({"content": "Gone on."}))];
        all.extend(fixtures);
        let mock = MockProvider::start(&json!({"fixtures": all})).await?;
        let line = Line::to(mock.url()).await;
        let mut config = String::new();
        for ((agent, model), wire) in AGENTS.into_iter().zip(["wire = \"chat\"", ""]) {
            config += &format!(
                "[model.{agent}]\nprovider = \"{agent}\"\nmodel = \"{model}\"\n{wire}\nbase_url = \"{}/v1\"\n\
                 api_key_env = \"MOCK_KEY\"\n{}\n[agent.{agent}]\nmodel = \"{agent}\"\n{}\n",
                line.url(),
                settings.of_models,
                settings.of_agents
            );
        }
        let place = Place::new(&config);
        let host = place.serve_with(&[("MOCK_KEY", "mock-key")]).await;
        Some(Self {
            _mock: mock,
            line,
            _place: place,
            host,
        })
    }

    pub(crate) async fn session(&self, agent: &str) -> String {
        self.host.session(json!({"agent": agent})).await
    }

    /// Works a turn in a session of its own: the turn and the session's events.
    pub(crate) async fn turn(&self, agent: &str, input: &str) -> (String, Value, Vec<Value>) {
        let session = self.session(agent).await;
        let turn = self.host.turn(&session, input).await;
        let events = self.host.events(&session).await;
        (session, turn, events)
    }

    /// Begins a turn whose events are read as they come.
    pub(crate) async fn begin(
        &self,
        session: &str,
        input: &str,
    ) -> impl Stream<Item = (Option<u64>, String, Value)> + Unpin {
        let request = self
            .host
            .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
            .header("accept", "text/event-stream");
        frames(request.json(&json!({"input": input})).send().await.unwrap()).await
    }

    /// The history is one that the provider takes: the next turn is worked to its end without another request.
    pub(crate) async fn goes_on(&self, session: &str, why: &str) {
        let _ = self.line.asked();
        let turn = self.host.turn(session, GOES_ON).await;
        assert_eq!(said(&turn), "Gone on.", "{why}: {turn}");
        assert_eq!(self.line.asked().len(), 1, "{why}");
    }
}

/// The next event of a type.
pub(crate) async fn until(
    events: &mut (impl Stream<Item = (Option<u64>, String, Value)> + Unpin),
    wanted: &str,
) -> Value {
    loop {
        let (_, kind, event) = events.next().await.expect("the turn has ended");
        if kind == wanted {
            return event;
        }
    }
}

/// A fixture of the mock: what it answers to an input that contains this.
pub(crate) fn answers(input: &str, response: &Value) -> Value {
    json!({"match": {"userMessage": input}, "response": response, "chunkSize": 1000})
}

/// What it answers to such an input one time after the other, to each model.
pub(crate) fn answers_in_turn(input: &str, responses: &[Value]) -> Vec<Value> {
    let of_model = |(_, model): (&str, &str)| {
        let numbered = responses.iter().enumerate();
        numbered
            .map(|(nth, response)| {
                let matched = json!({"userMessage": input, "model": model, "sequenceIndex": nth});
                json!({"match": matched, "response": response, "chunkSize": 1000})
            })
            .collect::<Vec<_>>()
    };
    AGENTS.into_iter().flat_map(of_model).collect()
}

pub(crate) fn said(turn: &Value) -> &str {
    turn["output"][0]["text"].as_str().unwrap_or_default()
}

pub(crate) fn all<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let of_kind = events.iter().filter(|event| event["type"] == kind);
    of_kind.map(|event| &event["data"]).collect()
}

/// What a turn of which nothing is left open looks like in the journal.
pub(crate) fn assert_one_end(events: &[Value], kind: &str, why: &str) {
    let ends = ["turn.completed", "turn.failed", "turn.cancelled"];
    let found: Vec<_> = events
        .iter()
        .filter_map(|event| event["type"].as_str())
        .filter(|kind| ends.contains(kind))
        .collect();
    assert_eq!(found, [kind], "{why}: {events:#?}");
}
