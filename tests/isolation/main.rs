//! What hostile components and hostile servers try, against the real host as a process: nothing of it leaves the call.
//!
//! `faults` has one test for each fault that was measured in systems like this one; `limits` goes to each limit of a
//! call and one beyond it; `install` brings components that should not be compiled; `servers` answers as nobody should.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod faults;
mod install;
mod limits;
mod servers;

use fumehood_tests::{Host, PATIENCE, hand_written};
use serde_json::{Value, json};
use std::{path::PathBuf, time::Instant};

/// The operator lets tools reach this machine, which is all the outside that these tests have.
const LOOPBACK: &str = "[network]\nprivate_networks = [\"127.0.0.1/32\"]\n";

/// Adds a component from `tests/guests/wat`, with these lines in its manifest, granting all that it asks for.
async fn add(host: &Host, name: &str, manifest: &str) {
    let manifest = format!("name = \"{name}\"\nversion = \"0.1.0\"\ndescription = \"Misbehaves.\"\n{manifest}\n");
    host.add_component(&hand_written(name), Some(&manifest), json!("requested"))
        .await;
}

/// What a plain function returned.
fn returned(result: &Value) -> &Value {
    assert_eq!(result["status"], "ok", "{result}");
    &result["output"]["structured"]["result"]
}

/// The kind of trap that a call ended with.
fn trap(result: &Value) -> &str {
    assert_eq!(result["error"]["code"], "trapped", "{result}");
    result["error"]["trap"].as_str().unwrap()
}

/// An honest call is served.
async fn still_serves(host: &Host) {
    let now = host.call("clock_now", None, json!({})).await;
    assert_eq!(now["status"], "ok", "{now}");
}

/// What the system says of a process.
struct Process(PathBuf);

impl Process {
    fn of(host: &Host) -> Self {
        Self(PathBuf::from(format!("/proc/{}", host.pid())))
    }

    /// A line of `status`, such as `VmRSS` (in KiB) or `Threads`.
    fn status(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(self.0.join("status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Its open files.
    fn files(&self) -> usize {
        std::fs::read_dir(self.0.join("fd")).unwrap().count()
    }

    /// Processor time it used, in clock ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(self.0.join("stat")).unwrap();
        // After the name, which may hold anything: user time is the 12th field, system time the 13th.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Waits until it has used less than a fifth of a core for half a second.
    async fn is_idle(&self) {
        let start = Instant::now();
        loop {
            let before = self.ticks();
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            if self.ticks() - before < 10 {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "it goes on computing");
        }
    }

    /// Waits until it computes.
    async fn is_busy(&self) {
        let start = self.ticks();
        while self.ticks() - start < 20 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}
