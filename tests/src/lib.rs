//! A host as a process, for tests from outside: started on a directory of its own, reached over HTTP, killed on drop.
//!
//! Nothing of the host is linked in: these tests know what an operator and a client know.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a harness fails by panicking"
)]

pub mod terminal;
pub mod tls;
mod warm;
pub mod world;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{Stream, StreamExt as _};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// How long a host may take to answer anything before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at what is to come.
const POLL: Duration = Duration::from_millis(20);

/// The calls, by tool and arguments, that a turn of each input makes.
pub type Calls<'a> = [(&'a str, &'a [(&'a str, Value)])];

/// Where a host keeps everything, with its configuration; outlives the host.
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// A place after a host's first start, with this configuration, beside which `data_dir` is set.
    #[must_use]
    pub fn new(config: &str) -> Self {
        let place = Self::empty(config);
        warm::copy_into(&place);
        place
    }

    /// A place where no host ever started.
    #[must_use]
    pub fn empty(config: &str) -> Self {
        let place = Self {
            dir: TempDir::new().unwrap(),
        };
        std::fs::write(
            place.path().join("fumehood.toml"),
            format!("data_dir = {:?}\n{config}", place.data()),
        )
        .unwrap();
        place
    }

    /// A place where no host ever started, but for the components that are compiled.
    #[must_use]
    pub fn compiled(config: &str) -> Self {
        let place = Self::empty(config);
        warm::copy_compiled_into(&place);
        place
    }

    /// A place whose agent `assistant` is played by this script.
    #[must_use]
    pub fn scripted(script: &str, more: &str) -> Self {
        let place = Self::new(&format!(
            "{more}\n[model.main]\nprovider = \"scripted\"\nscript = \"script.yaml\"\n"
        ));
        std::fs::write(place.path().join("script.yaml"), script).unwrap();
        place
    }

    /// A place whose agent makes these calls in one step and then ends its turn, and that reaches servers on loopback.
    #[must_use]
    pub fn calling(turns: &Calls<'_>, more: &str) -> Self {
        let turns = turns.iter().map(|(input, calls)| {
            let calls: Vec<_> = calls
                .iter()
                .map(|(tool, arguments)| json!({"tool": tool, "arguments": arguments}))
                .collect();
            json!({"match": input, "steps": [{"tool_calls": calls}, {"text": "Done."}]})
        });
        let script = json!({"turns": turns.collect::<Vec<_>>(), "otherwise": {"steps": [{"text": "Heard."}]}});
        let network = "[network]\nprivate_networks = [\"127.0.0.1/32\"]\n";
        Self::scripted(&script.to_string(), &format!("{network}{more}"))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// A command of the binary, in this place.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(args)
            .current_dir(self.path())
            .env("NO_COLOR", "1")
            .env("XDG_CACHE_HOME", self.path().join("cache"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.ends_with("_API_KEY") || name.starts_with("FUMEHOOD_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, args: &[&str]) -> Output {
        tokio::time::timeout(PATIENCE, self.command(args).output())
            .await
            .expect("the command did not end")
            .unwrap()
    }

    /// Runs a command that must succeed, and reads the JSON it prints.
    pub async fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["--json"], args].concat()).await;
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts a host here.
    pub async fn serve(&self) -> Host {
        self.serve_with(&[]).await
    }

    /// Starts a host here, with these environment variables.
    pub async fn serve_with(&self, variables: &[(&str, &str)]) -> Host {
        let mut process = self
            .command(&["--json", "serve", "--listen", "127.0.0.1:0"])
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Read from the beginning: a host that says much waits until somebody does.
        let mut errors = BufReader::new(process.stderr.take().unwrap()).lines();
        let log = tokio::spawn(async move {
            let mut log = String::new();
            while let Ok(Some(line)) = errors.next_line().await {
                log.push_str(&line);
                log.push('\n');
            }
            log
        });
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .expect("the host did not start")
            .unwrap();
        let Some(first) = first else {
            panic!("the host ended at start: {}", log.await.unwrap());
        };
        let line: Value = serde_json::from_str(&first).unwrap();
        let key = std::fs::read_to_string(self.data().join("key"))
            .unwrap()
            .trim()
            .to_owned();
        Host {
            base: line["listening"].as_str().unwrap().to_owned(),
            key,
            http: Client::new(),
            process,
            log,
        }
    }
}

/// A serving host.
pub struct Host {
    /// Where it listens.
    pub base: String,
    /// A key of the org `default`.
    pub key: String,
    http: Client,
    process: Child,
    log: tokio::task::JoinHandle<String>,
}

impl Host {
    /// A request with the key of the org `default`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(&self.key)
    }

    /// A request without a key.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .timeout(PATIENCE)
    }

    /// Gets JSON.
    pub async fn get(&self, path: &str) -> Value {
        expect_json(
            self.request(Method::GET, path)
                .header("accept", "application/json")
                .send()
                .await
                .unwrap(),
        )
        .await
    }

    /// Posts JSON and gets JSON.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        expect_json(self.request(Method::POST, path).json(&body).send().await.unwrap()).await
    }

    /// Puts JSON and gets JSON.
    pub async fn put(&self, path: &str, body: Value) -> Value {
        expect_json(self.request(Method::PUT, path).json(&body).send().await.unwrap()).await
    }

    /// Makes a session and returns its id.
    pub async fn session(&self, body: Value) -> String {
        self.post("/v1/sessions", body).await["id"].as_str().unwrap().to_owned()
    }

    /// Puts a file into a session.
    pub async fn put_file(&self, session: &str, path: &str, content: impl Into<reqwest::Body>) {
        let request = self
            .request(Method::PUT, &format!("/v1/sessions/{session}/files/{path}"))
            .body(content);
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.text().await.unwrap());
    }

    /// Works a turn to its end and returns it.
    pub async fn turn(&self, session: &str, input: &str) -> Value {
        self.post(&format!("/v1/sessions/{session}/turns"), json!({"input": input}))
            .await
    }

    /// Every recorded event of a session.
    pub async fn events(&self, session: &str) -> Vec<Value> {
        let (mut events, mut after) = (Vec::new(), 0.to_string());
        loop {
            let path = format!("/v1/sessions/{session}/events?after={after}&limit=1000");
            let page = self.get(&path).await;
            events.extend(page["items"].as_array().unwrap().iter().cloned());
            match page["next"].as_str() {
                Some(next) => next.clone_into(&mut after),
                None => return events,
            }
        }
    }

    /// Adds a component from the built guests, with a manifest that takes the place of its own, granting all it asks for.
    pub async fn add_guest(&self, name: &str, manifest: Option<&str>) -> Value {
        self.add_component(&guest(name), manifest, json!("requested")).await
    }

    /// Adds a component.
    pub async fn add_component(&self, wasm: &[u8], manifest: Option<&str>, grant: Value) -> Value {
        let mut body = json!({"wasm": STANDARD.encode(wasm), "grant": grant});
        if let Some(manifest) = manifest {
            body["manifest"] = json!(manifest);
        }
        self.post("/v1/tools", body).await
    }

    /// Calls a tool and returns what the API says of it.
    pub async fn call(&self, tool: &str, session: Option<&str>, arguments: Value) -> Value {
        let mut body = json!({"arguments": arguments});
        if let Some(session) = session {
            body["session"] = json!(session);
        }
        self.post(&format!("/v1/tools/{tool}/call"), body).await
    }

    /// Stops the host as an operator would, and returns what it logged.
    pub async fn stop(mut self) -> String {
        signal(self.pid(), "-TERM").await;
        let status = tokio::time::timeout(PATIENCE, self.process.wait())
            .await
            .expect("the host did not stop")
            .unwrap();
        assert!(status.success(), "{status}");
        self.log.await.unwrap()
    }

    /// Waits for the host's end and says what it was.
    pub async fn ended(mut self) -> std::process::ExitStatus {
        tokio::time::timeout(PATIENCE, self.process.wait())
            .await
            .expect("the host did not end")
            .unwrap()
    }

    /// Kills the host without warning.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    /// The host's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id().unwrap()
    }
}

/// Sends a process a signal, named as `kill` takes it.
pub async fn signal(pid: u32, signal: &str) {
    let mut kill = Command::new("kill");
    assert!(kill.args([signal, &pid.to_string()]).status().await.unwrap().success());
}

/// The JSON of a response that must be a success.
pub async fn expect_json(response: Response) -> Value {
    let status = response.status();
    let text = response.text().await.unwrap();
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(if text.is_empty() { "null" } else { &text }).unwrap()
}

/// Sends a request that must be refused with this status and code, and returns the problem.
pub async fn refused(request: RequestBuilder, status: u16, code: &str) -> Value {
    let response = request.send().await.unwrap();
    let found = response.status().as_u16();
    let kind = response
        .headers()
        .get("content-type")
        .map(|kind| kind.to_str().unwrap().to_owned());
    let text = response.text().await.unwrap();
    assert_eq!(found, status, "{text}");
    assert_eq!(kind.as_deref(), Some("application/problem+json"), "{text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["code"], code, "{text}");
    assert!(
        problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()),
        "{text}"
    );
    problem
}

/// The frames of a stream of events: `id`, `event`, `data`.
pub async fn frames(response: Response) -> impl Stream<Item = (Option<u64>, String, Value)> + Unpin {
    assert!(response.status().is_success(), "{}", response.status());
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let state = (response.bytes_stream().boxed(), String::new());
    futures::stream::unfold(state, |(mut bytes, mut buffer)| async move {
        loop {
            if let Some(end) = buffer.find("\n\n") {
                let frame: String = buffer.drain(..end + 2).collect();
                let field = |name: &str| {
                    frame.lines().find_map(|line| {
                        line.strip_prefix(name)?
                            .strip_prefix(':')
                            .map(|text| text.trim().to_owned())
                    })
                };
                let Some(data) = field("data") else { continue };
                let id = field("id").map(|id| id.parse().unwrap());
                let parsed = (
                    id,
                    field("event").unwrap_or_default(),
                    serde_json::from_str(&data).unwrap(),
                );
                return Some((parsed, (bytes, buffer)));
            }
            match tokio::time::timeout(PATIENCE, bytes.next())
                .await
                .expect("the stream went silent")
            {
                Some(Ok(chunk)) => buffer.push_str(std::str::from_utf8(&chunk).unwrap()),
                Some(Err(_)) | None => return None,
            }
        }
    })
    .boxed()
}

/// The data of the first event of a type that fits.
#[must_use]
pub fn find<'a>(events: &'a [Value], kind: &str, fits: impl Fn(&Value) -> bool) -> Option<&'a Value> {
    events
        .iter()
        .filter(|event| event["type"] == kind)
        .map(|event| &event["data"])
        .find(|data| fits(data))
}

/// How many of the events are of a type.
#[must_use]
pub fn count(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["type"] == kind).count()
}

/// Looks again and again until there is what is looked for.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, looking).await;
    seen.unwrap_or_else(|_| panic!("{what} never came"))
}

/// All that a command printed: standard output, then standard error.
#[must_use]
pub fn said(output: &std::process::Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A guest built by `cargo xtask tools`.
#[must_use]
pub fn guest(name: &str) -> Vec<u8> {
    let dir = std::env::var_os("FUMEHOOD_GUESTS").map_or_else(|| root().join("target/guests"), PathBuf::from);
    let file = dir.join(format!("{name}.wasm"));
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask tools`", file.display()))
}

/// A component written by hand, from `tests/guests/wat/`.
#[must_use]
pub fn hand_written(name: &str) -> Vec<u8> {
    wat::parse_file(root().join(format!("tests/guests/wat/{name}.wat"))).unwrap()
}

/// The workspace.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The binary under test.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("FUMEHOOD_BIN") {
        return binary.into();
    }
    // Test executables are in `target/PROFILE/deps`, the binary is beside that.
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().find(|dir| dir.join("fumehood").is_file());
    profile
        .expect("the binary is not built; run `cargo xtask build`")
        .join("fumehood")
}
