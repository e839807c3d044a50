//! A disk that fills up while a host serves: what is new is refused, nothing that was told is lost, and with space the host goes on.
//!
//! The disk is a small one in memory. Where this user may not mount one, the test does nothing and says so.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Place, find, refused};
use reqwest::Method;
use serde_json::json;
use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const SCRIPT: &str = r#"
turns:
  - match: "wait"
    steps:
      - tool_calls: [ { tool: clock_sleep, arguments: { ms: 2000 } } ]
      - text: "Went on."
otherwise:
  steps:
    - text: "You said: {{input}}"
"#;

/// Longer than the call takes; what it shows is weaker where a machine under load takes longer yet, and not wrong.
const FULL_FOR: Duration = Duration::from_secs(4);
/// Long enough for a machine under load; reached only when the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small disk in the place of a directory, with what was in it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn over(dir: &Path) -> Option<Self> {
        let before = dir.with_extension("before");
        std::fs::rename(dir, &before).unwrap();
        std::fs::create_dir(dir).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=96m,mode=0700", "none"])
            .arg(dir)
            .output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let disk = Self(dir.to_owned());
        let copied = Command::new("cp").arg("-a").arg(before.join(".")).arg(dir).status();
        assert!(copied.unwrap().success());
        Some(disk)
    }

    /// Leaves no space.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut ballast = File::create(&path).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_in_a_turn_costs_nothing_that_was_told() {
    let place = Place::scripted(SCRIPT, "");
    let Some(disk) = SmallDisk::over(&place.data()) else {
        eprintln!("skipped: this user may not mount a small disk");
        return;
    };
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let value = |key: &str, length: usize| {
        host.request(Method::PUT, &format!("/v1/sessions/{session}/kv/{key}"))
            .header("content-type", "text/plain")
            .body("x".repeat(length))
    };
    assert!(value("before", 100).send().await.unwrap().status().is_success());
    let turn = host
        .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .header("prefer", "respond-async")
        .json(&json!({"input": "wait"}));
    assert_eq!(turn.send().await.unwrap().status(), 202);
    let begun = Instant::now();
    while find(&host.events(&session).await, "tool.started", |_| true).is_none() {
        assert!(begun.elapsed() < PATIENCE, "the call did not begin");
        tokio::task::yield_now().await;
    }

    let ballast = disk.fill();
    let full = Instant::now();
    while full.elapsed() < FULL_FOR {
        // What the log of the database has room for is still taken; it is soon used up.
        let _ = value("more", 200_000).send().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    refused(value("last", 200_000), 503, "store_unavailable").await;
    let read = host.get(&format!("/v1/sessions/{session}")).await;
    assert_eq!(read["id"], session.as_str(), "what is there can be read");

    std::fs::remove_file(ballast).unwrap();
    let freed = Instant::now();
    let events = loop {
        let events = host.events(&session).await;
        if find(&events, "turn.completed", |_| true).is_some() {
            break events;
        }
        assert!(freed.elapsed() < PATIENCE, "the turn did not go on: {events:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let places: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(places, (1..=places.len() as u64).collect::<Vec<_>>());
    let ended = events.iter().filter(|event| event["type"] == "tool.completed");
    assert_eq!(ended.count(), 1, "the call ran once");
    let kept = host.request(Method::GET, &format!("/v1/sessions/{session}/kv/before"));
    assert_eq!(kept.send().await.unwrap().text().await.unwrap(), "x".repeat(100));
    let log = host.stop().await;
    assert!(log.contains("the disk is full: free some space"), "{log}");
    assert_eq!(
        place.run(&["doctor", "--store"]).await.status.code(),
        Some(0),
        "all of it hangs together"
    );
}
