//! Each limit of a call: what lies just within it passes, what lies just beyond it ends the call and nothing else.

use crate::{LOOPBACK, Process, add, returned, still_serves, trap};
use fumehood_tests::{Host, Place, world::World};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// A tool that takes a number.
async fn with(host: &Host, tool: &str, n: u64) -> Value {
    host.call(tool, None, json!({"n": n})).await
}

/// `n` passes and gives `n` back; one more is a trap of this kind.
async fn ends_after(host: &Host, tool: &str, n: u64, kind: &str, key: &str) {
    assert_eq!(returned(&with(host, tool, n).await), &json!(n), "{tool}");
    let beyond = with(host, tool, n + 1).await;
    assert_eq!(trap(&beyond), kind, "{tool}: {beyond}");
    let message = beyond["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("`{key}`")), "{tool}: {message}");
    still_serves(host).await;
}

#[tokio::test]
async fn what_a_call_holds_ends_at_its_handles_whatever_it_is() {
    let place = Place::new("");
    let host = place.serve().await;
    for guest in ["timers", "headers", "own-handles"] {
        add(&host, guest, "[limits]\nhandles = 100").await;
    }
    add(&host, "buckets", "[kv]\naccess = \"read\"\n[limits]\nhandles = 100").await;
    // A timer is one, and waiting for it another.
    ends_after(&host, "hold_timers", 50, "table", "handles").await;
    ends_after(&host, "hold_headers", 100, "table", "handles").await;
    ends_after(&host, "hold_buckets", 100, "table", "handles").await;
    // The engine's own: four for each of the host's.
    ends_after(&host, "own_handles", 400, "table", "handles").await;
    // Waiting for one thing many times over holds it as often; the timer itself is one.
    assert_eq!(returned(&with(&host, "poll_many", 399).await), 399);
    assert_eq!(trap(&with(&host, "poll_many", 400).await), "table");
    host.stop().await;
}

#[tokio::test]
async fn work_that_the_host_does_for_a_guest_is_on_the_guests_account() {
    let place = Place::new("");
    let host = place.serve().await;
    add(&host, "random", "[limits]\ncpu = \"500ms\"").await;
    assert_eq!(returned(&with(&host, "random_megabytes", 1).await), 1);
    let beyond = with(&host, "random_megabytes", 1_000_000).await;
    assert_eq!(trap(&beyond), "cpu", "{beyond}");
    still_serves(&host).await;
    host.stop().await;
}

#[tokio::test]
async fn what_the_host_makes_for_a_guest_in_its_own_memory_is_small() {
    let place = Place::new("");
    let host = place.serve().await;
    add(&host, "random", "").await;
    add(&host, "stdout", "").await;
    assert_eq!(returned(&with(&host, "random_bytes", 1 << 20).await), 1048576);
    assert_eq!(returned(&with(&host, "write_zeroes", 1000).await), 0);
    let before = Process::of(&host).status("VmHWM");
    for n in [(1 << 20) + 1, 1 << 30, 1 << 40, u64::MAX >> 1] {
        trap(&with(&host, "random_bytes", n).await);
        trap(&with(&host, "write_zeroes", n).await);
    }
    let grown = Process::of(&host).status("VmHWM") - before;
    assert!(grown < 32 << 10, "the host took {grown} KiB");
    still_serves(&host).await;
    host.stop().await;
}

#[tokio::test]
async fn pieces_of_output_end_at_their_number_and_progress_is_dropped_beyond_its_rate() {
    let place = Place::new("");
    let host = place.serve().await;
    add(&host, "pieces", "[limits]\nlog_lines = 50\nprogress = \"5/s\"").await;
    ends_after(&host, "emit_pieces", 50, "output", "log_lines").await;
    // Seven bytes each would be far beyond `stdout`, were they not dropped.
    assert_eq!(returned(&with(&host, "report_progress", 100_000).await), 100000);
    host.stop().await;
}

#[tokio::test]
async fn all_memories_of_a_call_share_one_limit() {
    let place = Place::new("");
    let host = place.serve().await;
    for (limit, pages) in [("1MiB", 16), ("2MiB", 32)] {
        add(&host, "memories", &format!("[limits]\nmemory = \"{limit}\"")).await;
        assert_eq!(
            returned(&host.call("grow_memories", None, json!({})).await),
            &json!(pages)
        );
    }
    host.stop().await;
}

#[tokio::test]
async fn tables_end_at_their_number_of_elements() {
    let place = Place::new("");
    let host = place.serve().await;
    for (limit, elements) in [(8192, 4097), (8193, 8193)] {
        add(&host, "table-growth", &format!("[limits]\ntables = {limit}")).await;
        assert_eq!(returned(&host.call("grow", None, json!({})).await), &json!(elements));
    }
    host.stop().await;
}

#[tokio::test]
async fn a_result_passes_up_to_its_limit_and_not_beyond() {
    let place = Place::new("");
    let host = place.serve().await;
    add(&host, "result", "[limits]\noutput = \"4KiB\"").await;
    assert_eq!(
        returned(&with(&host, "give_text", 4096).await),
        "a".repeat(4096).as_str()
    );
    let beyond = with(&host, "give_text", 4097).await;
    assert_eq!(beyond["error"]["code"], "output_too_large", "{beyond}");
    host.stop().await;
}

#[tokio::test]
async fn a_result_that_is_little_for_the_guest_and_much_for_the_host_is_not_made() {
    let place = Place::new("");
    let host = place.serve().await;
    add(&host, "flags", "").await;
    let sets = with(&host, "give_flags", 100).await;
    let sets = returned(&sets).as_array().unwrap();
    assert_eq!((sets.len(), sets[0].as_array().unwrap().len()), (100, 32));
    let before = Process::of(&host).status("VmHWM");
    for n in [10_000, 100_000, 1_000_000] {
        let beyond = with(&host, "give_flags", n).await;
        assert_eq!(beyond["error"]["code"], "output_too_large", "{beyond}");
    }
    let grown = Process::of(&host).status("VmHWM") - before;
    assert!(grown < 64 << 10, "the host took {grown} KiB");
    still_serves(&host).await;
    host.stop().await;
}

#[tokio::test]
async fn nesting_ends_at_the_stack_and_a_little_is_fine() {
    let place = Place::new("");
    let host = place.serve().await;
    add(&host, "depth", "").await;
    assert_eq!(returned(&with(&host, "nest", 1000).await), 1000);
    assert_eq!(trap(&with(&host, "nest", 100_000_000).await), "stack");
    still_serves(&host).await;
    host.stop().await;
}

#[tokio::test]
async fn a_component_that_never_starts_ends_at_its_cpu() {
    let place = Place::new("");
    let host = place.serve().await;
    add(&host, "start-loop", "[limits]\ncpu = \"100ms\"").await;
    assert_eq!(trap(&host.call("answer", None, json!({})).await), "cpu");
    add(&host, "count", "[limits]\ncpu = \"100ms\"").await;
    assert_eq!(returned(&with(&host, "count", 1000).await), 1000);
    assert_eq!(trap(&with(&host, "count", u64::MAX >> 1).await), "cpu");
    host.stop().await;
}

#[tokio::test]
async fn a_guest_that_breaks_the_rules_of_its_interface_breaks_only_its_call() {
    let place = Place::new("");
    let host = place.serve().await;
    add(&host, "lies", "[limits]\ncpu = \"200ms\"").await;
    for tool in ["text_outside", "result_outside", "text_is_garbage"] {
        trap(&host.call(tool, None, json!({})).await);
    }
    for tool in ["realloc_outside", "realloc_calls_out"] {
        trap(&host.call(tool, None, json!({"text": "x".repeat(1000)})).await);
    }
    let endless = host.call("realloc_never_returns", None, json!({"text": "x"})).await;
    assert_eq!(trap(&endless), "cpu");
    still_serves(&host).await;
    host.stop().await;
}

#[tokio::test]
async fn requests_at_the_same_time_and_bytes_of_all_together_have_limits() {
    let world = World::start().await;
    let place = Place::new(LOOPBACK);
    let host = place.serve().await;
    let hostile = fumehood_tests::guest("hostile");
    let allow = json!({"allow": [format!("http://127.0.0.1:{}", world.port)]});
    let grant = |limits: Value| json!({"network": allow, "limits": limits});
    host.add_component(&hostile, None, grant(json!({"http_concurrent": 3})))
        .await;
    let many = |n: u32| json!({"url": world.url("/x"), "n": n, "parallel": n});
    let within = host.call("http_get_many", None, many(3)).await;
    assert_eq!(within["output"]["structured"]["answered"], 3, "{within}");
    let beyond = host.call("http_get_many", None, many(10)).await;
    assert_eq!(beyond["output"]["structured"]["answered"], 3, "{beyond}");
    assert_eq!(beyond["output"]["structured"]["refused"], 7, "{beyond}");
    // One after the other they are as many as the number of requests allows.
    let serial = json!({"url": world.url("/x"), "n": 10, "parallel": 1});
    let serial = host.call("http_get_many", None, serial).await;
    assert_eq!(serial["output"]["structured"]["answered"], 10, "{serial}");

    // Each answer is 5 bytes.
    host.put("/v1/tools/hostile/grant", grant(json!({"http_bytes": "22B"})))
        .await;
    let bytes = json!({"url": world.url("/x"), "n": 10});
    let bytes = host.call("http_get_many", None, bytes).await;
    assert_eq!(bytes["output"]["structured"]["answered"], 4, "{bytes}");
    host.stop().await;
}

#[tokio::test]
async fn a_manifest_that_asks_for_more_than_a_ceiling_gets_the_ceiling_and_the_log_says_so() {
    let place = Place::new("[limits.ceiling]\nmemory = \"2MiB\"\nhandles = 20\n");
    let host = place.serve().await;
    add(&host, "memories", "[limits]\nmemory = \"1GiB\"").await;
    add(&host, "headers", "[limits]\nhandles = 1000").await;
    assert_eq!(returned(&host.call("grow_memories", None, json!({})).await), 32);
    ends_after(&host, "hold_headers", 20, "table", "handles").await;
    let log = host.stop().await;
    assert!(log.contains("above the host's ceiling of 2MiB"), "{log}");
}

#[tokio::test]
async fn an_operator_may_raise_a_ceiling() {
    let place = Place::new("[limits.ceiling]\nmemory = \"2GiB\"\n");
    let host = place.serve().await;
    add(&host, "huge-memory", "[limits]\nmemory = \"1GiB\"").await;
    assert_eq!(trap(&host.call("size", None, json!({})).await), "memory");
    add(&host, "huge-memory", "[limits]\nmemory = \"1536MiB\"").await;
    assert_eq!(returned(&host.call("size", None, json!({})).await), 24576);
    host.stop().await;
}

#[tokio::test]
async fn the_host_takes_as_many_open_files_as_it_may_have() {
    let place = Place::new("");
    let mut serving = tokio::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -S -n 256 && exec \"$0\" --json serve --listen 127.0.0.1:0",
        ])
        .arg(fumehood_tests::binary())
        .current_dir(place.path())
        // How these tests are told what to try; the host knows no such variables.
        .env_remove("FUMEHOOD_BIN")
        .env_remove("FUMEHOOD_GUESTS")
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(serving.stdout.take().unwrap()).lines();
    lines.next_line().await.unwrap().expect("the host did not start");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", serving.id().unwrap())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(fields[3], fields[4], "soft and hard: {line}");
    serving.kill().await.unwrap();
}
