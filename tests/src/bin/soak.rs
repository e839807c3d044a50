//! `cargo xtask soak`: many mixed calls, hostile and honest, cancelled and complete, against one host; afterwards its memory,
//! handles, threads and files must be where they were.
//!
//! Some thousand calls warm the host up before the counted ones; what it uses then is what it may use at the end, beside a little
//! slack for the allocator. The journal and the ledger grow with what happened, as they should, and are not counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a soak fails by panicking"
)]

use fumehood_tests::{Host, Place, world::World};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// Calls before the counted ones: enough that every slot of the pool that will be used has been.
const WARM_UP: u32 = 4000;
/// Calls at the same time.
const CLIENTS: u32 = 24;
/// What the memory may grow by after the warm-up, in KiB: fragmentation, not a leak per call.
const MEMORY_SLACK: u64 = 24 * 1024;
/// What a call may take of memory while it runs, in KiB: twice the limit of the guest's own.
const MEMORY_PER_CALL: u64 = 32 * 1024;
/// Handles of idle connections and of the database's, which come and go.
const HANDLE_SLACK: u64 = 24;
/// Threads for blocking work end some seconds after their last task.
const THREAD_SLACK: u64 = 4;

/// Wide enough for an honest call on a busy machine, where the time that others have counts as well.
const MANIFEST: &str = "name = \"hostile\"\nversion = \"0.1.0\"\ndescription = \"Misbehaves.\"\n\
    [files]\nworkspace = \"read-write\"\n[kv]\naccess = \"read-write\"\n\
    [limits]\nmemory = \"16MiB\"\ncpu = \"100ms\"\ntime = \"10s\"\noutput = \"64KiB\"\ntmp = \"1MiB\"\nhost_calls = 20000\nstdout = \"16KiB\"\n";

/// One kind of call: how often among a hundred, the tool, its arguments, and whether it must succeed.
struct Kind {
    share: u32,
    tool: &'static str,
    arguments: Value,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// With a result.
    Ok,
    /// With an error.
    Error,
    /// The client leaves in the middle.
    Left,
}

#[tokio::main]
async fn main() {
    let calls: u32 = std::env::args()
        .nth(1)
        .map_or(100_000, |calls| calls.parse().expect("a number of calls"));
    let world = World::start().await;
    let place = Place::new(
        "[network]\nprivate_networks = [\"127.0.0.1/32\"]\n\
         [org.default.limits]\ntool_calls = \"1000000/s\"\negress_requests = \"1000000/s\"\nconcurrent_calls = 64\n",
    );
    let host = Arc::new(place.serve().await);
    let manifest = format!("{MANIFEST}[network]\nallow = [\"http://127.0.0.1:{}\"]\n", world.port);
    host.add_guest("hostile", Some(&manifest)).await;
    let session = host.session(json!({})).await;
    let kinds = Arc::new(kinds(&world));
    assert_eq!(kinds.iter().map(|kind| kind.share).sum::<u32>(), 100);

    run(&host, &kinds, &session, 0..WARM_UP).await;
    let before = settled(&host, &place).await;
    println!("| after | {} |", Use::HEAD);
    println!("|---|---|---|---|---|");
    println!("| the warm-up of {WARM_UP} calls | {before} |");
    let begun = Instant::now();
    let counted = run(&host, &kinds, &session, WARM_UP..WARM_UP + calls).await;
    let took = begun.elapsed();
    let after = settled(&host, &place).await;
    println!("| {calls} more | {after} |\n");
    for (tool, number) in counted {
        println!("{number:>8}  {tool}");
    }
    println!("{:.0} calls a second", f64::from(calls) / took.as_secs_f64());
    let honest = host.call("echo", None, json!({"text": "still here"})).await;
    assert_eq!(honest["status"], "ok", "{honest}");
    after.compare(&before);
    // Also while it ran: what each call may have, and as much again beside it.
    let peak = status(&format!("/proc/{}", host.pid()), "VmHWM:");
    assert!(
        peak <= before.memory + u64::from(CLIENTS) * MEMORY_PER_CALL,
        "{peak} KiB at one time"
    );
    println!("memory, handles, threads and files are where they began");
}

fn kinds(world: &World) -> Vec<Kind> {
    let kind = |share, tool, arguments, end| Kind {
        share,
        tool,
        arguments,
        end,
    };
    vec![
        kind(40, "echo", json!({"text": "x".repeat(200)}), End::Ok),
        kind(6, "write_file", json!({"path": "/workspace/notes", "kib": 4}), End::Ok),
        kind(6, "read_file", json!({"path": "/etc/passwd"}), End::Error),
        kind(4, "kv_set", json!({"key": "k", "value": "v"}), End::Ok),
        kind(8, "http_get", json!({"url": world.url("/x")}), End::Ok),
        kind(
            4,
            "http_get",
            json!({"url": "http://169.254.169.254/latest/meta-data"}),
            End::Error,
        ),
        kind(1, "http_get", json!({"url": world.url("/slow")}), End::Error),
        kind(4, "tmp_fill", json!({"kib": 64}), End::Ok),
        kind(3, "tmp_fill", json!({"kib": 4096}), End::Error),
        kind(3, "spin", json!({}), End::Error),
        kind(3, "spin", json!({}), End::Left),
        kind(2, "sleep", json!({"ms": 60_000}), End::Left),
        kind(3, "allocate", json!({"mib": 64}), End::Error),
        kind(2, "recurse", json!({}), End::Error),
        kind(4, "panic", json!({"message": "boom"}), End::Error),
        kind(3, "huge_output", json!({"kib": 512}), End::Error),
        kind(3, "flood_stdout", json!({"kib": 64}), End::Error),
        kind(1, "many_host_calls", json!({"n": 10_000_000}), End::Error),
    ]
}

/// Makes the calls of these numbers, so many at a time, and counts them by tool and end.
async fn run(
    host: &Arc<Host>,
    kinds: &Arc<Vec<Kind>>,
    session: &str,
    numbers: std::ops::Range<u32>,
) -> BTreeMap<String, u32> {
    let next = Arc::new(AtomicU32::new(numbers.start));
    let counted = Arc::new(Mutex::new(BTreeMap::new()));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (host, kinds, next, counted) = (
            Arc::clone(host),
            Arc::clone(kinds),
            Arc::clone(&next),
            Arc::clone(&counted),
        );
        let (session, end) = (session.to_owned(), numbers.end);
        clients.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return;
                }
                let kind = chosen(&kinds, number);
                let how = call(&host, kind, &session).await;
                *counted
                    .lock()
                    .unwrap()
                    .entry(format!("{} {how}", kind.tool))
                    .or_insert(0) += 1;
            }
        });
    }
    clients.join_all().await;
    counted.lock().unwrap().clone()
}

/// The kinds take turns in a fixed order in which neighbours differ.
fn chosen(kinds: &[Kind], number: u32) -> &Kind {
    let mut at = number * 37 % 100;
    kinds
        .iter()
        .find(|kind| match at.checked_sub(kind.share) {
            None => true,
            Some(rest) => {
                at = rest;
                false
            }
        })
        .expect("the shares make a hundred")
}

async fn call(host: &Host, kind: &Kind, session: &str) -> String {
    let request = host
        .request(Method::POST, &format!("/v1/tools/{}/call", kind.tool))
        .json(&json!({"session": session, "arguments": kind.arguments}));
    if kind.end == End::Left {
        let left = tokio::time::timeout(Duration::from_millis(5), request.send()).await;
        return if left.is_err() { "left" } else { "complete" }.to_owned();
    }
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    assert!(status.is_success(), "{}: {status}: {text}", kind.tool);
    let result: Value = serde_json::from_str(&text).unwrap();
    let failed = result["status"] != "ok" || result["output"]["is_error"] == true;
    assert_eq!(failed, kind.end == End::Error, "{}: {text}", kind.tool);
    match result["error"]["trap"].as_str().or(result["error"]["code"].as_str()) {
        Some(how) => how.to_owned(),
        None => result["status"].as_str().unwrap_or("?").to_owned(),
    }
}

/// What a host uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Use {
    /// KiB.
    memory: u64,
    handles: u64,
    threads: u64,
    /// Temporary files and workspace files.
    files: u64,
}

impl Use {
    const HEAD: &str = "memory, KiB | handles | threads | files";

    fn of(host: &Host, place: &Place) -> Self {
        let proc = format!("/proc/{}", host.pid());
        Self {
            memory: status(&proc, "VmRSS:"),
            handles: fs::read_dir(format!("{proc}/fd")).unwrap().count() as u64,
            threads: status(&proc, "Threads:"),
            files: files(&place.data().join("workspaces")) + files(&place.data().join("tmp")),
        }
    }

    fn compare(self, before: &Self) {
        assert!(
            self.memory <= before.memory + MEMORY_SLACK,
            "memory grew: {before:?} {self:?}"
        );
        assert!(
            self.handles <= before.handles + HANDLE_SLACK,
            "handles grew: {before:?} {self:?}"
        );
        assert!(
            self.threads <= before.threads + THREAD_SLACK,
            "threads grew: {before:?} {self:?}"
        );
        assert_eq!(self.files, before.files, "files were left behind");
    }
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} | {} | {} | {}",
            self.memory, self.handles, self.threads, self.files
        )
    }
}

/// What the host uses once calls that were left have ended: the same number of threads and files three times in a row.
async fn settled(host: &Host, place: &Place) -> Use {
    let mut last = Use::of(host, place);
    let mut same = 0;
    let begun = Instant::now();
    while same < 3 && begun.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let now = Use::of(host, place);
        same = if (now.threads, now.files) == (last.threads, last.files) {
            same + 1
        } else {
            0
        };
        last = now;
    }
    last
}

/// A number of `/proc/PID/status`.
fn status(proc: &str, field: &str) -> u64 {
    let text = fs::read_to_string(format!("{proc}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn files(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let below = if entry.file_type().unwrap().is_dir() {
                files(&entry.path())
            } else {
                0
            };
            below + 1
        })
        .sum()
}
