//! What is no component for this host, each told apart, in the same words by `tool check`, `tool add` and `tool call`; and old
//! components, which go on working.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Place, hand_written};

/// A component of the contract's first version, with a text in it replaced by one of the same length, wherever it stands.
fn first_with(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let first = hand_written("tool-0.1.0");
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mut changed = Vec::with_capacity(first.len());
    let mut rest = &*first;
    while let Some(&byte) = rest.first() {
        match rest.strip_prefix(from) {
            Some(after) => {
                changed.extend_from_slice(to);
                rest = after;
            }
            None => {
                changed.push(byte);
                rest = &rest[1..];
            }
        }
    }
    assert_ne!(changed, first, "{from:?} is in it");
    changed
}

/// A component of the contract's first version whose tool has this output schema, which takes the place of its description.
fn first_with_output_schema(schema: &str) -> Vec<u8> {
    // Where the description and the input schema are, and no output schema.
    const BEFORE: &[u8] = b"D\0\0\0:\0\0\0~\0\0\0\x8d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    const AFTER: &[u8] = b"D\0\0\0:\0\0\0~\0\0\0\x8d\0\0\0\x01\0\0\0D\0\0\0:\0\0\0";
    let description = "Says again what it is told, as tools did on the first day.";
    let mut wasm = first_with(description, &format!("{schema:58}"));
    let at = wasm.windows(BEFORE.len()).position(|bytes| bytes == BEFORE).unwrap();
    wasm[at..at + AFTER.len()].copy_from_slice(AFTER);
    wasm
}

/// A component that exports this interface, with a function that returns a number.
fn exporting(interface: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component
          (core module $m (func (export "f") (result i32) (i32.const 0)))
          (core instance $i (instantiate $m))
          (func $f (result (result)) (canon lift (core func $i "f")))
          (instance $all (export "run" (func $f)))
          (export "{interface}" (instance $all)))"#
    ))
    .unwrap()
}

fn importing(module: &str, name: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module (import "{module}" "{name}" (func)) (func (export "_start")))"#
    ))
    .unwrap()
}

#[tokio::test]
async fn what_is_no_component_for_this_host_is_told_apart_everywhere_and_nothing_of_it_is_kept() {
    let place = Place::new("");
    let before = place.json(&["tool", "list"]).await;
    let mut of_old_format = hand_written("plain");
    of_old_format[4] = 0x0c;
    let cases = [
        ("text", b"(component)".to_vec(), "this is not WebAssembly"),
        ("core", hand_written("core-module"), "wasm-tools component new"),
        (
            "preview1",
            importing("wasi_snapshot_preview1", "sched_yield"),
            "a command for WASI preview 1",
        ),
        ("extism", importing("extism:host/env", "input_length"), "for Extism"),
        ("format", of_old_format, "version 0x0c of the binary format"),
        (
            "contract",
            first_with("fumehood:tool/tools@0.1.0", "fumehood:tool/tools@0.2.0"),
            "fumehood:tool/tools@0.2.0), where this host speaks fumehood:tool 0.1.0",
        ),
        (
            "interface",
            first_with("fumehood:tool/progress@0.1.0", "fumehood:tool/telepath@0.1.3"),
            "does not offer: fumehood:tool/telepath@0.1.3",
        ),
        ("program", exporting("wasi:cli/run@0.2.3"), "a command-line program"),
        (
            "server",
            exporting("wasi:http/incoming-handler@0.2.0"),
            "a server of HTTP requests",
        ),
        (
            "unknown",
            exporting("fumehood:tool/later@0.1.9"),
            "fumehood:tool/later@0.1.9, which this host does not know",
        ),
        (
            "schema",
            first_with(r#""type":"string""#, r#""type":"strimg""#),
            "the tool old_echo has an input schema that can't be used: at `/properties/text/type`: `strimg` is no type (did you mean `string`?)",
        ),
        (
            "output",
            first_with_output_schema(r#"{"type":"object","required":"all"}"#),
            "the tool old_echo has an output schema that can't be used",
        ),
        (
            "json",
            first_with(r#"{"type":"object","#, r#"{"type":"object";"#),
            "the input schema of the tool old_echo is invalid: it is not JSON",
        ),
    ];
    for (name, wasm, words) in cases {
        let file = format!("{name}.wasm");
        std::fs::write(place.path().join(&file), wasm).unwrap();
        for command in [
            &["tool", "check", &file][..],
            &["tool", "add", &file, "--yes"],
            &["tool", "call", &file, "old_echo", "{}"],
        ] {
            let output = place.run(command).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
            assert!(said.contains(words), "{command:?}: {said}");
        }
        // For a machine: what is found, and nothing else.
        let output = place.run(&["--json", "tool", "check", &file]).await;
        assert_eq!((output.status.code(), &*output.stderr), (Some(1), &b""[..]), "{name}");
        let checked: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&checked["passed"], &checked["counts"]["error"]),
            (&false.into(), &1.into()),
            "{checked}"
        );
        let finding = &checked["findings"][0];
        assert_eq!(
            (&finding["id"], &finding["level"]),
            (&"refused".into(), &"error".into()),
            "{checked}"
        );
        assert!(finding["what"].as_str().unwrap().contains(words), "{checked}");
    }
    assert_eq!(place.json(&["tool", "list"]).await["items"], before["items"]);
}

#[tokio::test]
async fn functions_that_can_be_no_tools_are_named_wherever_their_component_is_looked_at_and_the_others_work() {
    let place = Place::new("");
    std::fs::write(place.path().join("numbers.wasm"), hand_written("with-a-resource")).unwrap();
    let left_out = |value: &serde_json::Value| -> Vec<String> {
        let list = value["left_out"].as_array().unwrap();
        for function in list {
            let why = function["why"].as_str().unwrap();
            assert!(why.contains("a resource lives in the instance that made it"), "{why}");
        }
        let names = list
            .iter()
            .map(|function| function["function"].as_str().unwrap().to_owned());
        names.collect()
    };
    let expected = ["[constructor]counter", "count"];

    let checked = place.json(&["tool", "check", "numbers.wasm"]).await;
    assert_eq!(left_out(&checked), expected);
    let findings = checked["findings"].as_array().unwrap();
    let found = findings
        .iter()
        .find(|finding| finding["id"] == "functions-left-out")
        .unwrap();
    assert!(found["what"].as_str().unwrap().contains("and 1 more"), "{found}");
    let added = place.json(&["tool", "add", "numbers.wasm", "--yes"]).await;
    assert_eq!(left_out(&added), expected);
    let shown = place.json(&["tool", "show", "numbers"]).await;
    assert_eq!(left_out(&shown), expected);
    assert_eq!(shown["tools"].as_array().unwrap().len(), 1, "{shown}");
    let text = place.run(&["tool", "show", "numbers"]).await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("left out") && text.contains("[constructor]counter  it uses a resource"),
        "{text}"
    );
    let called = place.json(&["tool", "call", "numbers", "answer", "{}"]).await;
    assert_eq!(
        (&called["status"], &called["output"]["structured"]["result"]),
        (&"ok".into(), &42.into()),
        "{called}"
    );
}

#[tokio::test]
async fn a_component_of_the_contracts_first_version_and_of_a_later_one_of_its_series_work() {
    let place = Place::new("");
    let later = first_with("@0.1.0", "@0.1.7");
    for (name, wasm) in [("first", hand_written("tool-0.1.0")), ("later", later)] {
        let file = format!("{name}.wasm");
        std::fs::write(place.path().join(&file), wasm).unwrap();
        let checked = place.json(&["tool", "check", &file]).await;
        assert_eq!(checked["passed"], true, "{checked}");
        let newer = checked["findings"].to_string().contains("contract-newer");
        assert_eq!(newer, name == "later", "{checked}");
        place.json(&["tool", "add", &file, "--yes"]).await;
        let called = place
            .json(&["tool", "call", name, "old_echo", r#"{"text":"as ever"}"#])
            .await;
        assert_eq!(called["status"], "ok", "{called}");
        assert_eq!(called["output"]["content"][0]["json"]["text"], "as ever", "{called}");
        let wrong = place.run(&["tool", "call", name, "old_echo", "{}"]).await;
        assert_eq!(wrong.status.code(), Some(1), "its schema is as it was");
        place.json(&["tool", "remove", name]).await;
    }
}

#[tokio::test]
async fn a_manifest_with_a_typing_error_names_the_key_that_was_probably_meant() {
    let place = Place::new("");
    std::fs::write(place.path().join("plain.wasm"), hand_written("plain")).unwrap();
    for (manifest, words) in [
        ("[netwrok]\n", "did you mean `network`?"),
        ("[network]\nalow = []\n", "did you mean `allow`?"),
        ("[files]\nworkspace = \"read-wirte\"\n", "did you mean `read-write`?"),
        ("[limits]\nmemroy = \"1MiB\"\n", "did you mean `memory`?"),
    ] {
        let manifest = format!("name = \"plain\"\nversion = \"1\"\ndescription = \"Adds.\"\n{manifest}");
        std::fs::write(place.path().join("tool.toml"), manifest).unwrap();
        for command in [
            &["tool", "check", "plain.wasm"][..],
            &["tool", "add", "plain.wasm"],
            &["tool", "call", "plain.wasm", "add", "{}"],
        ] {
            let output = place.run(command).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{command:?}: {said}");
            assert!(
                said.contains("tool.toml is not a manifest: line") && said.contains(words),
                "{command:?}: {said}"
            );
        }
    }
}

#[tokio::test]
async fn where_no_host_ever_started_none_is_made_for_what_is_no_component() {
    let place = Place::empty("");
    let mut cut = hand_written("tool-0.1.0");
    cut.truncate(cut.len() / 2);
    for (name, wasm) in [
        ("text", b"(component)".to_vec()),
        ("core", hand_written("core-module")),
        ("cut", cut),
    ] {
        let file = format!("{name}.wasm");
        std::fs::write(place.path().join(&file), wasm).unwrap();
        let output = place.run(&["tool", "add", &file]).await;
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("API key"), "{name}");
        assert!(!place.data().exists(), "{name}");
        assert!(!place.path().join("fumehood.lock").exists(), "{name}");
    }
}
