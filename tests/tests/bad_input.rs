//! What comes in wrong: each gets a clear refusal that names what to do, and nothing is half-written.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Place, guest, refused};
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_by_kind() {
    let place = Place::new("");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let turns = format!("/v1/sessions/{session}/turns");
    refused(host.request(Method::GET, "/v1/no/such/route"), 404, "unknown_route").await;
    refused(host.request(Method::DELETE, "/v1/sessions"), 405, "method_not_allowed").await;
    refused(host.request(Method::GET, "/v1/sessions/ses_0123"), 404, "not_found").await;
    refused(
        host.request(Method::GET, "/v1/turns/trn_018f0000000070008000000000000000"),
        404,
        "not_found",
    )
    .await;
    for (body, field) in [
        (json!({"input": "x", "inputs": 1}), "inputs"),
        (json!({"input": 7}), "input"),
        (json!({}), "input"),
        (json!({"input": "x", "budget": {"steps": "many"}}), "steps"),
    ] {
        let response = host.request(Method::POST, &turns).json(&body).send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        assert!(
            [400, 422].contains(&status) && text.contains(field),
            "{body}: {status} {text}"
        );
    }
    let broken = host
        .request(Method::POST, &turns)
        .header("content-type", "application/json")
        .body("{\"input\": ");
    assert_eq!(broken.send().await.unwrap().status(), 400);
    let large = host
        .request(Method::POST, &turns)
        .json(&json!({"input": "x".repeat(2 << 20)}));
    assert_eq!(large.send().await.unwrap().status(), 413);
    refused(
        host.request(Method::POST, "/v1/sessions")
            .json(&json!({"agent": "nobody"})),
        422,
        "invalid_request",
    )
    .await;
    refused(
        host.request(Method::POST, "/v1/tools/no_such_tool/call")
            .json(&json!({"arguments": {}})),
        404,
        "not_found",
    )
    .await;
    let list = host
        .request(Method::POST, "/v1/tools/clock_now/call")
        .json(&json!({"arguments": [1]}));
    assert!([400, 422].contains(&list.send().await.unwrap().status().as_u16()));
    host.stop().await;
}

#[tokio::test]
async fn files_that_are_not_components_are_refused_and_leave_nothing() {
    let place = Place::new("");
    let host = place.serve().await;
    let before = host.get("/v1/tools").await;
    let whole = guest("clock");
    let wat = |text: &str| wat::parse_str(text).unwrap();
    for (what, wasm, word) in [
        ("text", b"#!/bin/sh\necho hi\n".to_vec(), "not WebAssembly"),
        ("nothing", Vec::new(), "not WebAssembly"),
        ("a core module", wat("(module)"), "core WebAssembly module"),
        ("a cut component", whole[..whole.len() / 2].to_vec(), "cut off"),
        ("no exports", wat("(component)"), "exports nothing"),
        (
            "an unknown import",
            wat("(component (import \"evil:corp/backdoor@1.0.0\" (instance (export \"open\" (func)))))"),
            "evil:corp/backdoor",
        ),
    ] {
        let request = host
            .request(Method::POST, "/v1/tools?name=bad")
            .header("content-type", "application/wasm")
            .body(wasm);
        let problem = refused(request, 422, "component_refused").await;
        assert!(problem["detail"].as_str().unwrap().contains(word), "{what}: {problem}");
    }
    let unknown_key =
        json!({"wasm": "AA==", "manifest": "name = \"x\"\nversion = \"1\"\ndescription = \"\"\nnetwrk = 1\n"});
    let problem = refused(
        host.request(Method::POST, "/v1/tools").json(&unknown_key),
        422,
        "component_refused",
    )
    .await;
    assert!(problem["detail"].as_str().unwrap().contains("netwrk"), "{problem}");
    assert_eq!(host.get("/v1/tools").await, before);
    host.stop().await;
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused_by_name() {
    let place = Place::new("");
    let host = place.serve().await;
    let second = place.run(&["serve", "--listen", "127.0.0.1:0"]).await;
    let message = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success());
    assert!(message.contains("in use by another process"), "{message}");
    host.stop().await;
}

#[tokio::test]
async fn a_configuration_that_is_not_understood_stops_the_start() {
    for (config, word) in [
        ("lisen = \"127.0.0.1:0\"\n", "lisen"),
        ("[network]\nallow = [\"ftp://example.com\"]\n", "ftp"),
        ("[network]\nprivate_networks = [\"127.0.0.1/99\"]\n", "127.0.0.1/99"),
        ("[agent.a]\nextends = \"a\"\n", "circle"),
        (
            "[[agent.a.approval]]\ntool = \"*\"\nwhen = \"arguments.method !=\"\ndecide = \"ask\"\n",
            "[[agent.a.approval]] rule 1: `when` can't be used, at line 1",
        ),
    ] {
        let place = Place::new(config);
        let output = place.run(&["config", "check"]).await;
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(word), "{message}");
    }
}

#[tokio::test]
async fn a_data_directory_that_is_a_file_is_refused_by_name() {
    let place = Place::empty("");
    std::fs::write(place.data(), "a file where the directory should be").unwrap();
    let output = place.run(&["serve", "--listen", "127.0.0.1:0"]).await;
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("data"), "{message}");
}

#[tokio::test]
async fn usage_errors_exit_with_two() {
    let place = Place::new("");
    assert_eq!(place.run(&["no-such-command"]).await.status.code(), Some(2));
    assert_eq!(place.run(&["turn", "show", "not-an-id"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn a_typing_error_in_the_configuration_is_told_with_file_line_and_the_word_that_was_meant() {
    for (config, words) in [
        (
            "[network]\nprivate_network = []\n",
            &["fumehood.toml", "line 3", "did you mean `private_networks`"][..],
        ),
        (
            "[agent.a.netwrok]\nallow = []\n",
            &["fumehood.toml", "line 2", "did you mean `network`"],
        ),
        (
            "[agent.a]\nextends = \"nobody\"\n",
            &["fumehood.toml", "line 2", "add `[agent.nobody]`"],
        ),
        (
            "\n[agent.a]\nextends = \"b\"\n[agent.b]\nextends = \"a\"\n",
            &["fumehood.toml", "line 3", "a → b → a"],
        ),
        (
            "[tool.x]\nsource = \"x.wasm\"\n[tool.x.grant.limits]\nmemory = \"64MB!\"\n",
            &["line 5", "64MiB"],
        ),
        (
            "[tool.x]\nsource = \"x.wasm\"\n[[tool.x.grant.credential]]\nsecret = \"K\"\nhosts = []\n",
            &["line 6", "at least one host"],
        ),
        ("[org.default.limits]\nturns = \"many\"\n", &["line 3", "60/min"]),
        (
            "[network]\nallow = [\"https://example.com\", \"https://u@example.com\"]\n",
            &["line 3", "use a credential"],
        ),
    ] {
        let place = Place::new(config);
        for command in [
            &["config", "check"][..],
            &["serve", "--listen", "127.0.0.1:0"],
            &["policy", "test", "none.txt"],
        ] {
            let output = place.run(command).await;
            let message = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{command:?}: {message}");
            for word in words {
                assert!(message.contains(word), "{message}: {word}");
            }
        }
    }
}

#[tokio::test]
async fn a_configuration_that_no_host_could_start_with_is_not_called_valid() {
    for (config, words) in [
        ("[store]\nurl = \"mysql://db/x\"\n", "[store] url"),
        ("[tool.x]\nsource = \"none.wasm\"\n", "line 2: [tool.x]"),
        (
            "[tool.x]\nsource = \"fumehood.toml\"\ndigest = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"\n",
            "has the digest",
        ),
        (
            "[model.main]\nprovider = \"scripted\"\nscript = \"none.yaml\"\n",
            "line 2: [model.main]",
        ),
        ("[files]\nquota = \"0B\"\n", "line 2: [files]: zero"),
        ("[files]\nentries = 0\n", "line 2: [files]: zero"),
        ("[agent.a.budget]\ntime = \"0s\"\n", "time is zero"),
    ] {
        let place = Place::new(config);
        let output = place.run(&["config", "check"]).await;
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{config}: {message}");
        assert!(message.contains(words), "{config}: {message}");
    }
    let place = Place::new("");
    std::fs::write(place.path().join("bad.toml"), "[kv]\nacces = \"read\"\n").unwrap();
    for command in [
        &["tool", "grant", "files", "--grant", "bad.toml"][..],
        &["policy", "test", "none.txt"],
    ] {
        assert_eq!(place.run(command).await.status.code(), Some(2), "{command:?}");
    }
}

#[tokio::test]
async fn a_variable_that_is_no_text_is_refused_and_not_passed_over() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::empty("");
    let mut command = place.command(&["config", "check"]);
    command.env("FUMEHOOD_NETWORK_ALLOW", std::ffi::OsStr::from_bytes(b"[\"a\xff\"]"));
    let output = command.output().await.unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("FUMEHOOD_NETWORK_ALLOW"), "{message}");
}

#[tokio::test]
async fn names_that_match_nothing_are_warned_of_at_the_start() {
    let place = Place::new(
        "[org.defualt.limits]\nturns = \"9/min\"\n[agent.a]\ntools = [\"flies_*\", \"files\"]\n\
         [[agent.a.approval]]\ntool = \"http_*\"\ndecide = \"ask\"\n\
         [[agent.a.approval]]\ntool = \"files_delete\"\ndecide = \"deny\"\n",
    );
    // Before the first start, beside a host that runs, and after.
    check_names(&place).await;
    let host = place.serve().await;
    check_names(&place).await;
    let log = host.stop().await;
    check_names(&place).await;
    for words in [
        "[org.defualt]",
        "did you mean `default`",
        "`flies_*` names no tool",
        "[[agent.a.approval]] rule 2: `files_delete` names no tool",
    ] {
        assert_eq!(log.matches(words).count(), 1, "{words}: {log}");
    }
    assert!(
        !log.contains("`files` names no tool") && !log.contains("`http_*` names no tool"),
        "{log}"
    );
}

async fn check_names(place: &Place) {
    let checked = place.json(&["config", "check"]).await;
    let warnings: Vec<_> = checked["warnings"].as_array().unwrap().iter().collect();
    assert_eq!(warnings.len(), 2, "{checked}");
    for (warning, words) in warnings.iter().zip([
        "[agent.a] tools: `flies_*` names no tool",
        "[[agent.a.approval]] rule 2: `files_delete` names no tool",
    ]) {
        assert!(warning.as_str().unwrap().contains(words), "{checked}");
    }
}

#[tokio::test]
async fn rules_without_effect_are_warned_of_once_and_refuse_nothing() {
    let place = Place::new(
        "[network]\ndeny = [\"x.example.com\", \"x.example.com\"]\n\
         [agent.base.network]\nallow = [\"a.example.com\", \"b.example.com\"]\ndeny = [\"a.example.com\"]\n\
         [agent.leaf]\nextends = \"base\"\n[agent.leaf.network]\nallow = [\"c.example.com\"]\n",
    );
    let output = place.run(&["config", "check"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for words in [
        "fumehood.toml: line 3: `x.example.com` stands twice in `deny`",
        "fumehood.toml: line 5: `a.example.com` can never allow anything",
        "fumehood.toml: line 10: `c.example.com` can never allow anything: the agent `base` allows none of it",
    ] {
        assert_eq!(text.matches(words).count(), 1, "{words}: {text}");
    }
    let warnings = place.json(&["config", "check"]).await;
    assert_eq!(warnings["warnings"].as_array().unwrap().len(), 3, "{warnings}");
    let host = place.serve().await;
    let log = host.stop().await;
    assert_eq!(log.matches("stands twice").count(), 1, "{log}");
}

#[tokio::test]
async fn a_manifest_beside_a_component_is_read_or_refused_and_never_passed_over() {
    let place = Place::new("");
    let dir = place.path().join("tool");
    std::fs::create_dir(&dir).unwrap();
    let wasm = dir.join("hostile.wasm");
    std::fs::write(&wasm, guest("hostile")).unwrap();
    let wasm = wasm.to_str().unwrap();
    let run = async |manifest: &str, command: &[&str]| {
        std::fs::write(dir.join("tool.toml"), manifest).unwrap();
        let output = place.run(command).await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    for command in [["tool", "check", wasm], ["tool", "add", wasm]] {
        for (manifest, words) in [
            (
                "name = \"hostile\"\nversion = \"1\"\n[netwrok]\n",
                "line 3: unknown field `netwrok`",
            ),
            ("name = \"hostile\nversion = \"1\"\n", "line 1"),
        ] {
            let (ok, text) = run(manifest, &command).await;
            assert!(
                !ok && text.contains("tool.toml is not a manifest") && text.contains(words),
                "{text}"
            );
        }
    }
    assert_eq!(
        place.json(&["tool", "list"]).await["items"].as_array().unwrap().len(),
        4
    );
    let manifest = "name = \"hostile\"\nversion = \"1\"\n[network]\nallow = [\"a.example.com\"]\ndeny = [\"a.example.com\"]\n[limits]\nmemory = \"64GiB\"\n";
    let (ok, text) = run(manifest, &["tool", "check", wasm]).await;
    assert!(ok, "{text}");
    assert!(
        text.contains("line 4: `a.example.com` can never allow anything") && text.contains("line 7: memory"),
        "{text}"
    );
    let grant = place.path().join("my.toml");
    std::fs::write(&grant, "[network]\nallow = [\"b.example.com\"]\n").unwrap();
    let add = ["tool", "add", wasm, "--grant", grant.to_str().unwrap()];
    let (ok, text) = run(manifest, &add).await;
    assert!(ok, "{text}");
    assert!(
        text.contains("my.toml: line 2: the grant allows `b.example.com`, which hostile does not ask for"),
        "{text}"
    );
    std::fs::write(&grant, "[network]\nalow = []\n").unwrap();
    let (ok, text) = run(
        manifest,
        &["tool", "grant", "hostile", "--grant", grant.to_str().unwrap()],
    )
    .await;
    assert!(
        !ok && text.contains("my.toml is not a grant: line 2") && text.contains("did you mean `allow`"),
        "{text}"
    );
}
