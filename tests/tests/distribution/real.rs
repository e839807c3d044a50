//! The same with a registry that others wrote: `docker-registry` of Debian, as a process of its own.

use crate::{component, said, write};
use fumehood_tests::{PATIENCE, Place};
use serde_json::json;
use std::{net::TcpListener, process::Stdio, time::Duration};
use tokio::process::{Child, Command};

/// A registry on a free port of loopback, with a folder of its own. None where the program is not installed.
struct Real {
    host: String,
    _dir: tempfile::TempDir,
    _process: Child,
}

impl Real {
    async fn start() -> Option<Self> {
        let program = "docker-registry";
        let there = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .await;
        if !there.is_ok_and(|status| status.success()) {
            let required = std::env::var_os("TESTS_REQUIRE_REGISTRY").is_some();
            assert!(!required, "{program} is not installed");
            eprintln!("{program} is not installed: nothing is tested");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; the registry says if it is not any more.
        let host = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let process = Command::new(program)
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let ready = async {
            while reqwest::get(format!("http://{host}/v2/")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready)
            .await
            .expect("the registry did not start");
        Some(Self {
            host,
            _dir: dir,
            _process: process,
        })
    }
}

#[tokio::test]
async fn a_registry_that_others_wrote_takes_and_gives_components() {
    let Some(registry) = Real::start().await else { return };
    let place = Place::new("");
    write(&place, "sums.wasm", &component("sums", "1.2.0", ""));
    let to = format!("oci://{}/acme/tools/sums", registry.host);
    let published = place.json(&["tool", "publish", "sums.wasm", &to]).await;
    assert_eq!(published["unchanged"], false);
    let again = place.json(&["tool", "publish", "sums.wasm", &to]).await;
    assert_eq!(
        (&again["unchanged"], &again["artifact"]),
        (&json!(true), &published["artifact"])
    );
    let latest = place
        .json(&["tool", "publish", "sums.wasm", &format!("{to}:latest")])
        .await;
    assert_eq!(latest["artifact"], published["artifact"]);
    let added = place.json(&["tool", "add", &to, "--yes"]).await;
    assert_eq!(added["digest"], published["digest"]);
    let called = place
        .json(&["tool", "call", "sums", "add", r#"{"a": 2, "b": 3}"#])
        .await;
    assert_eq!(called["status"], "ok");
    let absent = place.run(&["tool", "add", &format!("{to}:9.9.9")]).await;
    assert!(
        said(&absent).contains("has no acme/tools/sums `9.9.9`"),
        "{}",
        said(&absent)
    );
}
