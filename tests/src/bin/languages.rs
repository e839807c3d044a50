//! `cargo xtask languages`: the templates of `sdk/templates`, built, in a real host against an API on loopback. What each must answer is
//! asserted, and its own tests have to pass; what it costs is a Markdown table in the file that `LANGUAGES_REPORT` names.
//!
//! Arguments: the folder of the built projects, the port that they were built to ask, and their languages.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a trial fails by panicking"
)]

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use fumehood_tests::{Host, Place};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

/// How long compiling a component may take, on a machine that does other work.
const COMPILED: Duration = Duration::from_secs(5 * 60);
/// Calls of which the median is taken.
const CALLS: usize = 20;
/// What the operator keeps, and no component sees.
const KEY: &str = "a-key-that-only-the-host-knows";

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let projects = PathBuf::from(arguments.next().expect("the folder of the projects"));
    let port: u16 = arguments.next().and_then(|port| port.parse().ok()).expect("a port");
    let served = api(port).await;
    let mut table = String::from(
        "| language | size | install | first call | later calls | of it CPU | memory |\n|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for language in arguments {
        table.push_str(&trial(&language, &projects.join(&language), &served).await);
    }
    fs::write(
        std::env::var_os("LANGUAGES_REPORT").expect("where the report goes"),
        table,
    )
    .unwrap();
}

/// One language: installed, called in every way that its answer can go, and with nothing granted.
async fn trial(language: &str, project: &Path, served: &AtomicU64) -> String {
    let wasm = fs::read(project.join(format!("weather-{language}.wasm"))).unwrap();
    let manifest = fs::read_to_string(project.join("tool.toml")).unwrap();
    // Where that does not say who the component is, the component carries it whole.
    let manifest = manifest.starts_with("name = ").then_some(&*manifest);
    let place =
        Place::new("[network]\nprivate_networks = [\"127.0.0.0/8\"]\n[limits.install]\ncompile_time = \"5m\"\n");
    let host = place.serve().await;
    host.put("/v1/secrets/FORECAST_KEY", json!({"value": KEY})).await;

    let began = Instant::now();
    let added = host.add_component(&wasm, manifest, json!("requested")).await;
    let install = began.elapsed();
    assert_eq!(added["name"], format!("weather-{language}"), "{added}");
    let began = Instant::now();
    host.call("forecast", None, json!({"city": "Bergen"})).await;
    let first = began.elapsed();
    answers(&host).await;
    let cost = measure(&host).await;

    served.store(0, Ordering::Relaxed);
    host.add_component(&wasm, manifest, json!({})).await;
    let denied = host.call("forecast", None, json!({"city": "Bergen"})).await;
    assert_eq!(denied["status"], "denied", "{denied}");
    let message = denied["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("[network]"),
        "it does not say what is missing: {denied}"
    );
    assert_eq!(served.load(Ordering::Relaxed), 0, "a request left without a grant");
    host.stop().await;
    own_tests(&place, language, project).await;
    format!(
        "| {language} | {} | {} | {} | {} | {} | {} |\n",
        size(wasm.len()),
        millis(install),
        millis(first),
        millis(cost.time),
        millis(cost.cpu),
        size(cost.memory)
    )
}

/// The tests that a template comes with, as its author runs them, and with an outside that fails.
async fn own_tests(place: &Place, language: &str, project: &Path) {
    let (folder, component) = (
        project.display().to_string(),
        project.join(format!("weather-{language}.wasm")),
    );
    let component = component.display().to_string();
    let mut command = place.command(&["tool", "test", &folder, "--component", &component, "--failing-outside"]);
    let tested = tokio::time::timeout(COMPILED, command.output()).await;
    let tested = tested.expect("the tests did not end").unwrap();
    let said = String::from_utf8_lossy(&[tested.stdout, tested.stderr].concat()).into_owned();
    assert!(
        tested.status.success() && said.contains("4 passed"),
        "{language}: {said}"
    );
}

/// What each template promises.
async fn answers(host: &Host) {
    let found = host
        .call("forecast", None, json!({"city": " Tromsø ", "days": 2}))
        .await;
    assert_eq!(found["status"], "ok", "{found}");
    let text = found["output"]["content"][0]["text"].as_str().unwrap();
    assert_eq!(
        text, "Tromsø\n2030-06-01: rain, 8 to 12.5 °C\n2030-06-02: rain, 9 to 13.5 °C",
        "{found}"
    );
    assert_eq!(found["output"]["structured"]["days"][1]["high"], 13.5, "{found}");
    let default = host.call("forecast", None, json!({"city": "Bergen"})).await;
    assert_eq!(
        default["output"]["structured"]["days"].as_array().unwrap().len(),
        3,
        "{default}"
    );

    for (city, code, says) in [
        (" ", "invalid_arguments", "blank"),
        ("Atlantis", "failed", "no city is called Atlantis"),
        ("Crowded", "unavailable", "429"),
        ("Garbled", "failed", "not the expected JSON"),
    ] {
        let failed = host.call("forecast", None, json!({"city": city})).await;
        assert_eq!(failed["status"], "error", "{failed}");
        let message = failed["error"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{city}: {failed}");
        assert_eq!(failed["error"]["code"], code, "{failed}");
    }
    let crowded = host.call("forecast", None, json!({"city": "Crowded"})).await;
    assert_eq!(crowded["error"]["retry_after_ms"], 30_000, "{crowded}");
}

struct Cost {
    time: Duration,
    cpu: Duration,
    memory: usize,
}

/// The medians of some calls, as a client sees them.
async fn measure(host: &Host) -> Cost {
    let (mut times, mut cpu, mut memory) = (Vec::new(), Vec::new(), 0);
    for _ in 0..CALLS {
        let began = Instant::now();
        let called = host.call("forecast", None, json!({"city": "Bergen"})).await;
        times.push(began.elapsed());
        let metering = |key: &str| called["metering"][key].as_u64().unwrap();
        cpu.push(Duration::from_millis(metering("cpu_ms")));
        memory = memory.max(usize::try_from(metering("memory_peak")).unwrap());
    }
    times.sort_unstable();
    cpu.sort_unstable();
    Cost {
        time: times[CALLS / 2],
        cpu: cpu[CALLS / 2],
        memory,
    }
}

/// An API that wants a key and knows every city but one.
async fn api(port: u16) -> Arc<AtomicU64> {
    let served = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .expect("the port that the projects ask");
    let app = Router::new()
        .route("/v1/forecast", get(forecast))
        .with_state(served.clone());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    served
}

async fn forecast(
    State(served): State<Arc<AtomicU64>>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    served.fetch_add(1, Ordering::Relaxed);
    if headers.get("x-api-key").is_none_or(|key| key != KEY) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let days: u32 = query["days"].parse().unwrap();
    match query["city"].as_str() {
        "Atlantis" => StatusCode::NOT_FOUND.into_response(),
        "Crowded" => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "30")]).into_response(),
        "Garbled" => "<html>".into_response(),
        city => {
            let day = |day: u32| json!({"date": format!("2030-06-{day:02}"), "summary": "rain", "low": 7 + day, "high": f64::from(day) + 11.5});
            let days: Vec<Value> = (1..=days).map(day).collect();
            Json(json!({"city": city, "days": days})).into_response()
        }
    }
}

fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    if millis < 10.0 {
        format!("{millis:.1} ms")
    } else if millis < 1000.0 {
        format!("{millis:.0} ms")
    } else {
        format!("{:.1} s", millis / 1000.0)
    }
}

fn size(bytes: usize) -> String {
    if bytes < 1 << 20 {
        format!("{} KiB", bytes.div_ceil(1024))
    } else {
        format!("{}.{} MiB", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20)
    }
}
