//! A session's files, end to end: quotas that tools and clients share, files that a session begins with, nothing left of what
//! was deleted, and no path of the host in any answer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Host, Place, refused};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;

const SMALL: &str = "[files]\nquota = \"10000B\"\nfile = \"6000B\"\nentries = 8\n";

async fn host(place: &Place) -> Host {
    let host = place.serve().await;
    host.add_guest("hostile", None).await;
    host
}

async fn ops(host: &Host, session: &str, ops: Value) -> Value {
    host.call("file_ops", Some(session), json!({"ops": ops, "fail": true}))
        .await
}

fn file(session: &str, path: &str) -> String {
    format!("/v1/sessions/{session}/files/{path}")
}

#[tokio::test]
async fn tools_and_clients_share_the_configured_quota() {
    let place = Place::new(SMALL);
    let host = host(&place).await;
    let session = host.session(json!({})).await;
    let written = ops(
        &host,
        &session,
        json!([{"op": "write", "path": "/workspace/a", "bytes": 6000}]),
    )
    .await;
    assert_eq!(written["status"], "ok", "{written}");
    let put = |path: &str, bytes: usize| host.request(Method::PUT, &file(&session, path)).body(vec![b'x'; bytes]);
    let problem = refused(put("b", 4001), 413, "quota_exceeded").await;
    assert_eq!(problem["limit"], 10_000);
    refused(put("b", 6001), 413, "body_too_large").await;
    host.put_file(&session, "b", vec![b'x'; 4000]).await;
    let full = ops(
        &host,
        &session,
        json!([{"op": "append", "path": "/workspace/b", "bytes": 1}]),
    )
    .await;
    let message = full["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("10000 bytes") && message.contains("`quota` in `[files]`"),
        "{full}"
    );
    host.stop().await;
    // Counted anew.
    let host = place.serve().await;
    let full = ops(
        &host,
        &session,
        json!([{"op": "append", "path": "/workspace/b", "bytes": 1}]),
    )
    .await;
    assert!(full["error"].is_object(), "{full}");
    host.stop().await;
}

#[tokio::test]
async fn a_session_begins_with_its_files_and_keeps_the_read_only_ones() {
    let place = Place::new("");
    let host = host(&place).await;
    let body = json!({"files": {"access": "read-write", "starter": [
        {"path": "rules/style.md", "content": "fixed", "read_only": true},
        {"path": "notes.bin", "content_base64": "AP8="},
    ]}});
    let made = host.post("/v1/sessions", body).await;
    assert_eq!(made["files"], "read-write", "{made}");
    let session = made["id"].as_str().unwrap();
    let read = |path: &str| host.request(Method::GET, &file(session, path)).send();
    assert_eq!(read("rules/style.md").await.unwrap().text().await.unwrap(), "fixed");
    assert_eq!(
        &read("notes.bin").await.unwrap().bytes().await.unwrap()[..],
        b"\x00\xff"
    );
    refused(
        host.request(Method::PUT, &file(session, "rules/style.md"))
            .body("other"),
        403,
        "file_read_only",
    )
    .await;
    refused(
        host.request(Method::DELETE, &file(session, "rules/style.md")),
        403,
        "file_read_only",
    )
    .await;
    refused(
        host.request(Method::DELETE, &file(session, "rules")),
        403,
        "file_read_only",
    )
    .await;
    host.put_file(session, "notes.bin", "other").await;
    for op in [
        json!({"op": "write", "path": "/workspace/rules/style.md", "bytes": 1}),
        json!({"op": "remove_all", "path": "/workspace/rules"}),
        json!({"op": "rename", "path": "/workspace/rules", "to": "/workspace/x"}),
    ] {
        let denied = ops(&host, session, json!([op])).await;
        let message = denied["error"]["message"].as_str().unwrap();
        assert!(message.contains("read-only"), "{denied}");
    }
    assert_eq!(read("rules/style.md").await.unwrap().text().await.unwrap(), "fixed");
    let deleted = host
        .request(Method::DELETE, &format!("/v1/sessions/{session}"))
        .send()
        .await
        .unwrap();
    assert_eq!(deleted.status(), 204);
    host.stop().await;
}

#[tokio::test]
async fn starter_files_that_make_no_sense_are_refused_and_no_session_is_made() {
    let place = Place::new(SMALL);
    let host = place.serve().await;
    let one = |more: Value| json!({"files": {"starter": [more]}});
    for (body, status, code) in [
        (one(json!({"path": "a"})), 422, "invalid_request"),
        (
            one(json!({"path": "a", "content": "x", "content_base64": "eA=="})),
            422,
            "invalid_request",
        ),
        (
            one(json!({"path": "a", "content_base64": "not base64"})),
            422,
            "invalid_request",
        ),
        (one(json!({"path": "../a", "content": "x"})), 422, "invalid_name"),
        (
            one(json!({"path": "a", "content": "x", "mode": 7})),
            422,
            "invalid_body",
        ),
        (
            one(json!({"path": "a", "content": "x".repeat(6001)})),
            413,
            "quota_exceeded",
        ),
        (json!({"files": "all"}), 422, "invalid_body"),
        (
            json!({"files": {"starter": [{"path": "a", "content": ""}, {"path": "a", "content": ""}]}}),
            422,
            "invalid_request",
        ),
        (
            json!({"files": {"starter": [{"path": "a", "content": ""}, {"path": "a/b", "content": ""}]}}),
            409,
            "not_a_file",
        ),
    ] {
        refused(host.request(Method::POST, "/v1/sessions").json(&body), status, code).await;
    }
    assert_eq!(host.get("/v1/sessions").await["items"], json!([]));
    assert_eq!(std::fs::read_dir(place.data().join("workspaces")).unwrap().count(), 0);
    host.stop().await;
}

#[tokio::test]
async fn nothing_is_left_of_a_session_that_is_deleted_while_a_call_runs_in_it() {
    let place = Place::new("");
    let host = host(&place).await;
    let session = host
        .session(json!({"secrets": {"HOSTILE_TOKEN": "a-secret-of-this-session"}}))
        .await;
    host.put_file(&session, "before", "x").await;
    host.put(&format!("/v1/sessions/{session}/kv/key"), json!("value"))
        .await;
    let many: Vec<Value> = (0..4000)
        .flat_map(|_| {
            [
                json!({"op": "write", "path": "/workspace/late", "bytes": 2000}),
                json!({"op": "nest", "path": "/workspace/n", "depth": 1}),
                json!({"op": "remove_all", "path": "/workspace/n"}),
            ]
        })
        .collect();
    let running = host.call("file_ops", Some(&session), json!({"ops": many}));
    let deleting = async {
        let late = place.data().join("workspaces").join(&session).join("late");
        while !late.exists() {
            tokio::task::yield_now().await;
        }
        let request = host.request(Method::DELETE, &format!("/v1/sessions/{session}"));
        assert_eq!(request.send().await.unwrap().status(), 204);
    };
    let (result, ()) = tokio::join!(running, deleting);
    assert!(result["status"].is_string(), "{result}");
    refused(
        host.request(Method::GET, &format!("/v1/sessions/{session}")),
        404,
        "not_found",
    )
    .await;
    refused(
        host.request(Method::PUT, &file(&session, "late")).body("x"),
        404,
        "not_found",
    )
    .await;
    refused(
        host.request(Method::GET, &format!("/v1/sessions/{session}/kv/key")),
        404,
        "not_found",
    )
    .await;
    host.stop().await;
    assert_eq!(named(&place.data(), &session), Vec::<String>::new());
}

/// The files and directories below `dir` whose name has `part` in it.
fn named(dir: &Path, part: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.contains(part) {
            found.push(name);
        }
        if path.is_dir() {
            found.extend(named(&path, part));
        }
    }
    found
}

#[tokio::test]
async fn no_answer_shows_where_the_files_are() {
    let place = Place::new(SMALL);
    let host = host(&place).await;
    let session = host.session(json!({})).await;
    host.put_file(&session, "a", "x").await;
    let mut answers = String::new();
    for path in [
        "/workspace/a/b",
        "/workspace/../x",
        "/etc/passwd",
        "/workspace",
        "/workspace/none",
        "/tmp/none",
        "",
    ] {
        for op in ["read", "list", "remove", "remove_all", "touch"] {
            answers += &ops(&host, &session, json!([{"op": op, "path": path}]))
                .await
                .to_string();
        }
        for op in [
            json!({"op": "write", "path": path, "bytes": 7000}),
            json!({"op": "rename", "path": path, "to": "/workspace/a"}),
            json!({"op": "link", "path": path, "to": "/workspace/l"}),
            json!({"op": "symlink", "target": "/etc/passwd", "path": path}),
        ] {
            answers += &ops(&host, &session, json!([op])).await.to_string();
        }
    }
    for tool in ["panic", "unreachable"] {
        answers += &host
            .call(tool, Some(&session), json!({"message": "x"}))
            .await
            .to_string();
    }
    for (method, path) in [
        (Method::GET, "none"),
        (Method::GET, "a/b"),
        (Method::PUT, "a/b"),
        (Method::DELETE, "none"),
        (Method::GET, "%2e%2e/x"),
        (Method::GET, "x%00"),
    ] {
        let request = host.request(method, &file(&session, path)).body("x");
        answers += &request.send().await.unwrap().text().await.unwrap();
    }
    answers += &json!(host.events(&session).await).to_string();
    host.stop().await;
    let data = place.data();
    let data = data.canonicalize().unwrap_or(data);
    for shown in [data.to_str().unwrap(), place.path().to_str().unwrap(), "workspaces"] {
        assert!(!answers.contains(shown), "{shown} in {answers}");
    }
}

#[tokio::test]
async fn key_values_of_a_session_end_at_their_quota_for_tools_and_clients() {
    let place = Place::new("[kv]\nentries = 3\nbytes = \"1KiB\"\n");
    let host = host(&place).await;
    let session = host.session(json!({})).await;
    let set = |key: String, times: u32| {
        let arguments = json!({"key": key, "value": "x", "times": times});
        host.call("kv_set", Some(&session), arguments)
    };
    for key in ["a", "b", "c"] {
        assert_eq!(set(key.into(), 100).await["status"], "ok");
    }
    let message = |answer: &Value| answer["error"]["message"].as_str().unwrap_or_default().to_owned();
    let full = message(&set("d".into(), 1).await);
    assert!(
        full.contains("3 keys") && full.contains("`entries` in `[kv]`"),
        "{full}"
    );
    let full = message(&set("a".into(), 1000).await);
    assert!(
        full.contains("1024 bytes") && full.contains("`bytes` in `[kv]`"),
        "{full}"
    );
    let put = |key: &str, bytes: usize| {
        let path = format!("/v1/sessions/{session}/kv/{key}");
        host.request(Method::PUT, &path).body(vec![b'x'; bytes])
    };
    assert_eq!(refused(put("d", 1), 413, "quota_exceeded").await["limit"], 3);
    assert_eq!(refused(put("a", 1000), 413, "quota_exceeded").await["limit"], 1024);
    assert!(put("a", 10).send().await.unwrap().status().is_success());
    assert_eq!(set("b".into(), 700).await["status"], "ok");
    host.stop().await;
}

#[tokio::test]
async fn what_calls_had_in_tmp_when_the_host_was_killed_is_removed_at_the_next_start() {
    let place = Place::new("");
    let host = host(&place).await;
    let many = json!({"ops": [
        {"op": "nest", "path": "/tmp/deep", "depth": 50},
        {"op": "write", "path": "/tmp/left", "bytes": 1000},
        {"op": "swap_and_read", "link": "/tmp/l", "first": "/tmp/left", "second": "/tmp/left", "times": 10_000_000},
    ]});
    let running = host
        .request(Method::POST, "/v1/tools/file_ops/call")
        .json(&json!({"arguments": many}));
    let running = tokio::spawn(running.send());
    let tmp = place.data().join("tmp");
    let of_calls = || std::fs::read_dir(&tmp).unwrap().flatten();
    let is_left = || of_calls().any(|call| call.path().join("left").exists());
    while !is_left() {
        assert!(!running.is_finished(), "the call ended");
        tokio::task::yield_now().await;
    }
    host.kill().await;
    let _ = running.await;
    assert!(is_left());
    let host = place.serve().await;
    assert_eq!(of_calls().count(), 0);
    host.stop().await;
}

#[tokio::test]
async fn names_on_the_disk_that_are_no_text_keep_nobody_from_the_others_and_go_with_the_session() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::new("");
    let host = host(&place).await;
    let session = host.session(json!({})).await;
    host.put_file(&session, "a", "x").await;
    let dir = place.data().join("workspaces").join(&session);
    std::fs::write(dir.join(std::ffi::OsStr::from_bytes(b"odd\xff")), "y").unwrap();
    let listed = host.get(&format!("/v1/sessions/{session}/files?list")).await;
    let names: Vec<&str> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["path"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a"]);
    let read = ops(&host, &session, json!([{"op": "read", "path": "/workspace/a"}])).await;
    assert_eq!(read["status"], "ok", "{read}");
    let odd = ops(&host, &session, json!([{"op": "list", "path": "/workspace"}])).await;
    assert!(odd["error"].is_object(), "{odd}");
    let request = host.request(Method::DELETE, &format!("/v1/sessions/{session}"));
    assert_eq!(request.send().await.unwrap().status(), 204);
    host.stop().await;
    assert_eq!(named(&place.data(), "odd"), Vec::<String>::new());
}
