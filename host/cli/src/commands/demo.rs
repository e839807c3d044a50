//! `fumehood demo`: the whole story once, with everything real but the model. A host on a temporary data directory, a small
//! HTTP service of the demo's own, and one turn driven through the HTTP API, on the files in `demo/`.

use crate::{
    boot,
    client::Client,
    commands::run::Ended,
    config::{Config, Loaded},
    connect, events,
    out::{Out, Style, list, printable, text},
    standard,
};
use anyhow::{Context as _, bail};
use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::{net::SocketAddr, path::Path};
use tokio::net::TcpListener;

/// The key of the demo's service. The tools use it and never see it.
const SERVICE_KEY: &str = "rates-4f1d9c27e85b";
const FILES: [(&str, &str); 3] = [
    ("sales.csv", include_str!("../../demo/sales.csv")),
    ("brief.txt", include_str!("../../demo/brief.txt")),
    ("report.md", include_str!("../../demo/report.md")),
];

/// Runs the demo. Whether everything went as it should.
pub(crate) async fn demo(out: Out) -> anyhow::Result<bool> {
    if standard::STANDARD_TOOLS.is_empty() {
        bail!("this binary was built without the standard tools; `cargo xtask demo` builds one with them");
    }
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    let service = Service::start().await?;
    let loaded = configuration(dir.path(), service.port)?;
    let running = boot::start(&loaded).await?;
    let connection = connect::connect_to_own(running, &loaded).await?;
    let told = tell(out, &connection.client, service.port).await;
    connection.close().await;
    service.task.abort();
    told
}

async fn tell(out: Out, client: &Client, port: u16) -> anyhow::Result<bool> {
    heading(
        out,
        "A host is running",
        "its own data directory, the standard tools, a scripted model in place of a real one",
    );
    fact(out, "API", client.base());
    fact(
        out,
        "service",
        &format!("http://127.0.0.1:{port} (the demo's own; wants a key)"),
    );
    install(client, port).await?;
    fact(
        out,
        "tools",
        "files, data: the session's files; http: one path of one host, with a credential it never sees",
    );
    fact(
        out,
        "",
        "search: a stranger's component, granted nothing but 200 ms of CPU",
    );

    let body = json!({"agent": "analyst", "title": "demo", "secrets": {"RATES_KEY": SERVICE_KEY}});
    let session = text(&client.post("/v1/sessions", &body).await?, "id").to_owned();
    for (name, content) in FILES {
        let request = client
            .request(Method::PUT, &format!("/v1/sessions/{session}/files/{name}"))
            .body(content);
        client
            .send(request)
            .await
            .with_context(|| format!("cannot put {name} into the session"))?;
    }
    fact(
        out,
        "session",
        &format!("{session} with sales.csv, brief.txt, report.md"),
    );

    heading(
        out,
        "One turn",
        "POST /v1/sessions/{s}/turns, and what comes back as it happens",
    );
    let seen = turn(out, client, &session).await?;

    heading(
        out,
        "The ledger",
        "GET /v1/sessions/{s}/ledger: every request that left or wanted to",
    );
    let ledger = client.get(&format!("/v1/sessions/{session}/ledger")).await?;
    print_ledger(out, &ledger);

    heading(out, "What is left", "the edited report, and the answer");
    let report = client
        .get_text(&format!("/v1/sessions/{session}/files/report.md"))
        .await?;
    out.line(out.style(Style::Dim, printable(report.trim_end())));
    out.line(format_args!("\n{}", printable(&seen.answer)));

    let good = seen.is_whole_story() && !report.contains("TODO");
    let leaked = seen.everything.contains(SERVICE_KEY);
    heading(out, "In short", "");
    let verdicts = [
        ("the tools ran in the sandbox, two at a time", seen.ok >= 3),
        (
            "the one allowed host was reached, with the key put in by the host",
            seen.allowed == 1,
        ),
        ("the other host was refused before a byte left", seen.denied == 1),
        (
            "the endless computation was stopped by its CPU limit",
            seen.trapped == 1,
        ),
        (
            "the key appears in no event, result or file",
            !leaked && !report.contains(SERVICE_KEY),
        ),
    ];
    for (what, holds) in verdicts {
        let mark = if holds {
            out.style(Style::Good, "✓")
        } else {
            out.style(Style::Bad, "✗")
        };
        out.line(format_args!("  {mark} {what}"));
    }
    Ok(good && verdicts.iter().all(|(_, holds)| *holds))
}

/// The operator's part: which components there are, and what they may do.
async fn install(client: &Client, port: u16) -> anyhow::Result<()> {
    let http = standard::STANDARD_TOOLS
        .iter()
        .find(|(name, _)| *name == "http")
        .context("the tool `http` is missing")?
        .1;
    let manifest = format!(
        "name = \"http\"\nversion = \"0.1.0\"\ndescription = \"Fetches from the rate service.\"\n\
         [network]\nallow = [\"http://127.0.0.1:{port}\"]\n\
         [[credential]]\nsecret = \"RATES_KEY\"\nhosts = [\"127.0.0.1\"]\n\
         inject = {{ header = \"authorization\", format = \"Bearer {{}}\" }}\n"
    );
    let grant = json!({
        "network": {"allow": [format!("GET http://127.0.0.1:{port}/v1/rate")]},
        "credential": [{"secret": "RATES_KEY"}],
    });
    let body = json!({"wasm": STANDARD.encode(http), "manifest": manifest, "grant": grant});
    client
        .post("/v1/tools", &body)
        .await
        .context("cannot add the tool `http`")?;

    let search =
        wat::parse_str(include_str!("../../demo/search.wat")).context("the demo's component does not assemble")?;
    let manifest =
        "name = \"search\"\nversion = \"1.0.0\"\ndescription = \"Looks for divisors.\"\n[limits]\ncpu = \"200ms\"\n";
    let body = json!({"wasm": STANDARD.encode(search), "manifest": manifest, "grant": "requested"});
    client
        .post("/v1/tools", &body)
        .await
        .context("cannot add the tool `search`")?;
    Ok(())
}

/// What the turn's events told.
#[derive(Default)]
struct Seen {
    ended: Option<Ended>,
    answer: String,
    ok: usize,
    trapped: usize,
    allowed: usize,
    denied: usize,
    everything: String,
}

impl Seen {
    fn is_whole_story(&self) -> bool {
        self.ended == Some(Ended::Completed)
    }

    fn note(&mut self, event: &Value) {
        let data = event.get("data").unwrap_or(&Value::Null);
        self.everything.push_str(&event.to_string());
        match (text(event, "type"), text(data, "status")) {
            ("tool.completed", "ok") => self.ok += 1,
            ("tool.completed", "trapped") => self.trapped += 1,
            ("egress.allowed", _) => self.allowed += 1,
            ("egress.denied", _) => self.denied += 1,
            ("turn.completed", _) => {
                self.ended = Some(Ended::Completed);
                self.answer = events::content(list(data, "output"));
            }
            ("turn.failed" | "turn.cancelled", _) => self.ended = Some(Ended::Failed),
            _ => {}
        }
    }
}

async fn turn(out: Out, client: &Client, session: &str) -> anyhow::Result<Seen> {
    let input = json!({"input": "Write the sales report that brief.txt asks for."});
    let request = client
        .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .json(&input);
    let mut stream = client.events(request).await?;
    let mut seen = Seen::default();
    while let Some(event) = stream.next().await {
        let event = event?;
        seen.note(&event);
        if out.json {
            out.value(&event);
        } else if let Some(line) = events::line(out, &event) {
            out.line(line);
        }
    }
    Ok(seen)
}

fn print_ledger(out: Out, ledger: &Value) {
    if out.json {
        return out.value(ledger);
    }
    let row = |entry: &Value| {
        let secrets = list(entry, "secrets")
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(" ");
        let status = entry.get("status").map(Value::to_string).unwrap_or_default();
        vec![
            text(entry, "tool").to_owned(),
            format!(
                "{} {}{}",
                text(entry, "method"),
                text(entry, "host"),
                text(entry, "path")
            ),
            format!("{} {status}", text(entry, "outcome")),
            secrets,
            printable(text(entry, "rule")),
        ]
    };
    out.table(
        &["tool", "request", "outcome", "secrets", "rule"],
        list(ledger, "items").iter().map(row).collect(),
        "empty",
    );
}

fn heading(out: Out, title: &str, what: &str) {
    if !out.json {
        out.line(format_args!(
            "\n{}  {}",
            out.style(Style::Bold, title),
            out.style(Style::Dim, what)
        ));
    }
}

fn fact(out: Out, name: &str, what: &str) {
    if !out.json {
        out.line(format_args!(
            "  {}{what}",
            out.style(Style::Dim, format_args!("{name:<9}"))
        ));
    }
}

fn configuration(dir: &Path, port: u16) -> anyhow::Result<Loaded> {
    let script = dir.join("script.yaml");
    std::fs::write(
        &script,
        include_str!("../../demo/script.yaml").replace("@PORT@", &port.to_string()),
    )?;
    let text = format!(
        "data_dir = {:?}\n\
         [model.main]\nprovider = \"scripted\"\nscript = {:?}\n\
         [network]\nprivate_networks = [\"127.0.0.1/32\"]\n\
         [agent.analyst]\ninstructions = \"You write short reports from the files of the session.\"\n",
        dir.join("data"),
        script,
    );
    let config: Config = toml::from_str(&text).context("the demo's configuration is wrong")?;
    Ok(Loaded {
        config,
        file: None,
        variables: Vec::new(),
        warnings: Vec::new(),
    })
}

/// The service that the demo's tool may reach. It hands its caller's key back, as careless services do.
struct Service {
    port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl Service {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .context("cannot listen on loopback")?;
        let port = listener.local_addr()?.port();
        let app = Router::new().route("/v1/rate", get(rate));
        let task = tokio::spawn(async move {
            // Ends with the demo.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { port, task })
    }
}

async fn rate(headers: HeaderMap) -> (StatusCode, Json<Value>) {
    let given = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if given != format!("Bearer {SERVICE_KEY}") {
        return (
            StatusCode::UNAUTHORIZED,
            Json(json!({"error": "this service wants a key"})),
        );
    }
    (
        StatusCode::OK,
        Json(json!({"from": "USD", "to": "EUR", "rate": 0.8642, "authenticated_as": given})),
    )
}
