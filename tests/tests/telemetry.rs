//! What a host tells its operator: metrics, log lines, traces. From a real process, and with ids to find things by.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use fumehood_tests::{Host, Place, refused, world::World};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
    trace::v1::Span,
};
use prost::Message as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::SocketAddr};
use tokio::{net::TcpListener, sync::mpsc};

const LOOPBACK: &str = "[network]\nprivate_networks = [\"127.0.0.1/32\"]\n";

/// A turn that fetches one URL that is allowed and one that is not.
fn script(world: &World) -> String {
    format!(
        r#"
turns:
  - match: "fetch"
    steps:
      - tool_calls:
          - {{ tool: http_get, arguments: {{ url: "{}", headers: {{}} }} }}
          - {{ tool: http_get, arguments: {{ url: "{}", headers: {{}} }} }}
        usage: {{ input_tokens: 11, output_tokens: 3 }}
      - text: "Fetched."
        usage: {{ input_tokens: 20, output_tokens: 2 }}
otherwise:
  steps:
    - text: "Nothing."
"#,
        world.url("/allowed?token=hunter2"),
        world.url("/other?token=hunter2")
    )
}

async fn host_that_fetches(place: &Place, world: &World, variables: &[(&str, &str)]) -> Host {
    let host = place.serve_with(variables).await;
    let allow = format!("GET http://127.0.0.1:{}/allowed", world.port);
    let grant = json!({"network": {"allow": [allow]}});
    host.add_component(&fumehood_tests::guest("hostile"), None, grant).await;
    host
}

/// The samples of a page of metrics, by name and labels; the page must be well formed.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let mut kinds = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in page.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(kinds.insert(name, kind).is_none(), "{name} has two types");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix).filter(|family| kinds.contains_key(family)))
                .unwrap_or(name);
            assert!(kinds.contains_key(family), "{line} stands under no type");
            assert!(
                samples.insert(series.to_owned(), value.parse().unwrap()).is_none(),
                "{series} is there twice"
            );
        }
    }
    samples
}

async fn metrics(host: &Host) -> String {
    let response = host.anonymous(Method::GET, "/metrics").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    response.text().await.unwrap()
}

#[tokio::test]
async fn the_metrics_tell_of_turns_calls_and_requests_and_name_no_id_or_address() {
    let world = World::start().await;
    let place = Place::scripted(&script(&world), LOOPBACK);
    let host = host_that_fetches(&place, &world, &[]).await;
    let session = host.session(json!({})).await;
    let turn = host.turn(&session, "fetch").await;
    assert_eq!(turn["status"], "completed", "{turn}");
    host.put_file(&session, "a.txt", "hello").await;
    host.call("unreachable", Some(&session), json!({})).await;
    let page = metrics(&host).await;
    let samples = samples(&page);
    for (series, at_least) in [
        ("fumehood_turns_total{org=\"default\",status=\"completed\"}", 1.0),
        ("fumehood_turn_duration_seconds_count{status=\"completed\"}", 1.0),
        ("fumehood_model_calls_total{model=\"main\",outcome=\"tool_calls\"}", 1.0),
        ("fumehood_model_calls_total{model=\"main\",outcome=\"stop\"}", 1.0),
        ("fumehood_model_tokens_total{model=\"main\",kind=\"input\"}", 31.0),
        ("fumehood_model_tokens_total{model=\"main\",kind=\"output\"}", 5.0),
        ("fumehood_tool_calls_total{tool=\"http_get\",status=\"ok\"}", 1.0),
        ("fumehood_tool_calls_total{tool=\"http_get\",status=\"denied\"}", 1.0),
        ("fumehood_tool_call_duration_seconds_count{tool=\"http_get\"}", 2.0),
        ("fumehood_tool_call_memory_peak_bytes_count{tool=\"http_get\"}", 2.0),
        ("fumehood_org_tool_calls_total{org=\"default\",status=\"ok\"}", 1.0),
        (
            "fumehood_egress_requests_total{org=\"default\",outcome=\"completed\"}",
            1.0,
        ),
        (
            "fumehood_egress_requests_total{org=\"default\",outcome=\"denied\"}",
            1.0,
        ),
        (
            "fumehood_http_requests_total{route=\"/v1/sessions/{session}/turns\",method=\"POST\",status=\"2xx\"}",
            1.0,
        ),
        ("fumehood_store_commit_duration_seconds_count", 1.0),
        ("fumehood_journal_rows_total", 5.0),
        ("fumehood_workspace_written_bytes_total", 5.0),
        ("fumehood_limits_store_up", 1.0),
        ("process_resident_memory_bytes", 1e6),
        ("process_open_fds", 3.0),
        ("process_cpu_seconds_total", 0.0),
    ] {
        let found = samples.get(series);
        assert!(
            found.is_some_and(|value| *value >= at_least),
            "{series}: {found:?}\n{page}"
        );
    }
    for gauge in [
        "fumehood_turns_running",
        "fumehood_tool_calls_running",
        "fumehood_tool_calls_waiting",
        "fumehood_sandbox_instances",
    ] {
        assert_eq!(samples[gauge], 0.0, "{gauge}");
    }
    for never in [&session, turn["id"].as_str().unwrap(), "hunter2", "127.0.0.1", "a.txt"] {
        assert!(!page.contains(never), "{never}:\n{page}");
    }
    host.stop().await;
}

#[tokio::test]
async fn metrics_that_came_through_a_proxy_need_a_key_of_the_default_org() {
    let place = Place::new("");
    let host = place.serve().await;
    let passed_on = || {
        host.anonymous(Method::GET, "/metrics")
            .header("x-forwarded-for", "192.0.2.1")
    };
    refused(passed_on(), 401, "unauthorized").await;
    assert_eq!(passed_on().bearer_auth(&host.key).send().await.unwrap().status(), 200);
    host.stop().await;

    let open = Place::new("[metrics]\npublic = true\n");
    let host = open.serve().await;
    let elsewhere = host
        .anonymous(Method::GET, "/metrics")
        .header("host", "metrics.example");
    assert_eq!(elsewhere.send().await.unwrap().status(), 200);
    host.stop().await;

    let closed = Place::new("[metrics]\npublic = false\n");
    let host = closed.serve().await;
    refused(host.anonymous(Method::GET, "/metrics"), 401, "unauthorized").await;
    host.stop().await;
}

#[tokio::test]
async fn every_line_inside_a_turn_or_call_has_their_ids_and_none_has_content() {
    let world = World::start().await;
    let place = Place::scripted(&script(&world), LOOPBACK);
    let host = host_that_fetches(&place, &world, &[("FUMEHOOD_LOG", "debug")]).await;
    let session = host.session(json!({})).await;
    let request = host
        .request(Method::POST, &format!("/v1/sessions/{session}/turns?unknown=hunter2"))
        .header("x-request-id", "mine-1")
        .json(&json!({"input": "fetch of Erwin"}));
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["x-request-id"], "mine-1");
    let turn: Value = if answer.status().is_success() {
        answer.json().await.unwrap()
    } else {
        host.turn(&session, "fetch of Erwin").await
    };
    let turn = turn["id"].as_str().unwrap().to_owned();
    let events = host.events(&session).await;
    let denied = fumehood_tests::find(&events, "egress.denied", |_| true).unwrap()["call"].clone();
    let key = host.key.clone();
    let log = host.stop().await;
    let lines: Vec<Value> = log
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let line = |message: &str| {
        let found = lines
            .iter()
            .find(|line| line["message"] == message && line["turn"] == *turn);
        found.unwrap_or_else(|| panic!("no `{message}` in\n{log}"))
    };
    for message in [
        "the turn begins",
        "the turn ended",
        "a request was denied",
        "the call ended",
    ] {
        let line = line(message);
        assert_eq!(
            (&line["org"], &line["session"]),
            (&json!("default"), &json!(session)),
            "{line}"
        );
    }
    let refusal = line("a request was denied");
    assert_eq!(
        (&refusal["call"], &refusal["tool"], &refusal["step"]),
        (&denied, &json!("http_get"), &json!(1)),
        "{refusal}"
    );
    let access = lines
        .iter()
        .find(|line| line["message"] == "answered" && line["request"] == "mine-1")
        .unwrap();
    assert_eq!(access["http_route"], "/v1/sessions/{session}/turns", "{access}");
    assert_eq!(
        (&access["method"], &access["org"]),
        (&json!("POST"), &json!("default")),
        "{access}"
    );
    for never in ["hunter2", "Erwin", "Fetched", &key] {
        assert!(!log.contains(never), "{never} in\n{log}");
    }
}

#[tokio::test]
async fn the_log_is_text_where_the_configuration_says_so() {
    let place = Place::new("[log]\nformat = \"text\"\n");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    host.turn(&session, "hello").await;
    let log = host.stop().await;
    let line = log
        .lines()
        .find(|line| line.contains("the turn ended"))
        .unwrap_or_else(|| panic!("{log}"));
    assert!(
        !line.starts_with('{') && line.contains(&format!("session={session}")),
        "{line}"
    );
}

/// A collector that keeps what it is sent.
struct Collector {
    address: SocketAddr,
    batches: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
}

impl Collector {
    async fn start() -> Self {
        let (sender, batches) = mpsc::unbounded_channel();
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let take = async |State(sender): State<mpsc::UnboundedSender<_>>, body: Bytes| {
            sender.send(ExportTraceServiceRequest::decode(body).unwrap()).unwrap();
            StatusCode::OK
        };
        let app = Router::new().route("/v1/traces", post(take)).with_state(sender);
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, batches }
    }

    /// Everything that was sent, and the attributes of who sent it. For after the host's end.
    fn spans(&mut self) -> (Vec<Span>, Vec<KeyValue>) {
        let (mut spans, mut resource) = (Vec::new(), Vec::new());
        while let Ok(batch) = self.batches.try_recv() {
            for of in batch.resource_spans {
                resource = of.resource.unwrap().attributes;
                spans.extend(of.scope_spans.into_iter().flat_map(|of| of.spans));
            }
        }
        (spans, resource)
    }
}

fn attribute(attributes: &[KeyValue], name: &str) -> Value {
    let found = attributes
        .iter()
        .find(|one| one.key == name)
        .and_then(|one| one.value.clone()?.value);
    fn plain(any: Any) -> Value {
        match any {
            Any::StringValue(text) => json!(text),
            Any::IntValue(number) => json!(number),
            Any::BoolValue(truth) => json!(truth),
            Any::DoubleValue(number) => json!(number),
            Any::ArrayValue(list) => list.values.into_iter().filter_map(|one| one.value).map(plain).collect(),
            other => panic!("{other:?}"),
        }
    }
    found.map_or(Value::Null, plain)
}

#[tokio::test]
async fn one_trace_leads_from_the_clients_request_to_what_its_tools_sent() {
    let world = World::start().await;
    let mut collector = Collector::start().await;
    let place = Place::scripted(&script(&world), LOOPBACK);
    let endpoint = format!("http://{}", collector.address);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
    ];
    let host = host_that_fetches(&place, &world, &variables).await;
    let session = host.session(json!({})).await;
    let (trace, client) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let request = host
        .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .header("traceparent", format!("00-{trace}-{client}-01"))
        .json(&json!({"input": "fetch of Erwin"}));
    let turn = fumehood_tests::expect_json(request.send().await.unwrap()).await;
    host.anonymous(Method::GET, "/healthz").send().await.unwrap();
    host.stop().await;

    let (spans, resource) = collector.spans();
    assert_eq!(attribute(&resource, "service.name"), "fumehood");
    assert_eq!(attribute(&resource, "deployment.environment.name"), "test");
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let ours: Vec<&Span> = spans.iter().filter(|span| hex(&span.trace_id) == trace).collect();
    let names: Vec<_> = ours.iter().map(|span| span.name.as_str()).collect();
    let one = |name: &str| {
        let mut found = ours.iter().filter(|span| span.name == name);
        *found
            .next()
            .unwrap_or_else(|| panic!("no span `{name}` among {names:?}"))
    };
    let parent = |span: &Span| hex(&span.parent_span_id);
    let id = |span: &Span| hex(&span.span_id);
    let request = one("POST /v1/sessions/{session}/turns");
    assert_eq!(parent(request), client);
    assert_eq!(attribute(&request.attributes, "http.response.status_code"), 200);
    let agent = one("invoke_agent assistant");
    assert_eq!(parent(agent), id(request));
    assert_eq!(attribute(&agent.attributes, "gen_ai.operation.name"), "invoke_agent");
    assert_eq!(attribute(&agent.attributes, "gen_ai.conversation.id"), session);
    assert_eq!(attribute(&agent.attributes, "fumehood.turn.id"), turn["id"]);
    let chats: Vec<_> = ours.iter().filter(|span| span.name == "chat scripted").collect();
    assert_eq!(chats.len(), 2, "{names:?}");
    let stops: Vec<_> = chats
        .iter()
        .map(|chat| {
            assert_eq!(parent(chat), id(agent));
            assert_eq!(attribute(&chat.attributes, "gen_ai.provider.name"), "scripted");
            assert_eq!(attribute(&chat.attributes, "gen_ai.conversation.id"), session);
            (
                attribute(&chat.attributes, "gen_ai.response.finish_reasons"),
                attribute(&chat.attributes, "gen_ai.usage.input_tokens"),
            )
        })
        .collect();
    assert!(
        stops.contains(&(json!(["tool_calls"]), json!(11))) && stops.contains(&(json!(["stop"]), json!(20))),
        "{stops:?}"
    );
    let tools: Vec<_> = ours
        .iter()
        .filter(|span| span.name == "execute_tool http_get")
        .collect();
    assert_eq!(tools.len(), 2, "{names:?}");
    let went = one("GET");
    for tool in tools {
        assert_eq!(parent(tool), id(agent));
        assert_eq!(attribute(&tool.attributes, "gen_ai.tool.name"), "http_get");
        assert!(
            attribute(&tool.attributes, "gen_ai.tool.call.id")
                .as_str()
                .unwrap()
                .starts_with("call_")
        );
        let error = attribute(&tool.attributes, "error.type");
        assert_eq!(error == "denied", id(tool) != parent(went), "{error}");
    }
    assert_eq!(attribute(&went.attributes, "server.address"), "127.0.0.1");
    assert_eq!(attribute(&went.attributes, "server.port"), world.port);
    assert_eq!(attribute(&went.attributes, "http.response.status_code"), 200);

    assert!(!spans.iter().any(|span| span.name.contains("healthz")));
    let all = format!("{spans:?}");
    for never in ["hunter2", "Erwin", "Fetched"] {
        assert!(!all.contains(never), "{never}: {all}");
    }
}

#[tokio::test]
async fn a_dead_collector_costs_spans_and_one_line_of_the_log() {
    // A port that was free a moment ago: nobody listens.
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let endpoint = format!("http://{}/?token=hunter2", listener.local_addr().unwrap());
    drop(listener);
    let place = Place::new("");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_TRACES_SAMPLER", "xray"),
    ];
    let host = place.serve_with(&variables).await;
    let session = host.session(json!({})).await;
    for _ in 0..20 {
        assert_eq!(host.turn(&session, "hello").await["status"], "completed");
    }
    let dropped = async {
        loop {
            let samples = samples(&metrics(&host).await);
            let count = |reason: &str| {
                samples
                    .get(&format!("fumehood_trace_spans_dropped_total{{reason=\"{reason}\"}}"))
                    .copied()
            };
            if count("export_failed").is_some_and(|count| count > 0.0) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(fumehood_tests::PATIENCE, dropped)
        .await
        .expect("no loss was counted");
    let log = host.stop().await;
    assert_eq!(log.matches("the collector does not take traces").count(), 1, "{log}");
    assert!(log.contains("OTEL_TRACES_SAMPLER=xray is not supported"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}
