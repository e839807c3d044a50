//! `tool check`: what an author and an operator are told of a component before it is added.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Place, guest, hand_written, said};
use serde_json::{Value, json};

fn ids(checked: &Value) -> Vec<&str> {
    let findings = checked["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_standard_tools_have_no_errors_and_only_the_warnings_that_they_are_made_for() {
    let place = Place::empty("");
    for (name, warnings) in [
        ("clock", &[][..]),
        ("files", &[]),
        ("data", &["schema-untyped"]),
        (
            "http",
            &[
                "schema-untyped",
                "network-any-host",
                "network-any-method",
                "network-plain-http",
            ],
        ),
    ] {
        let file = place.path().join(format!("{name}.wasm"));
        std::fs::write(&file, guest(name)).unwrap();
        let checked = place.json(&["tool", "check", file.to_str().unwrap()]).await;
        assert_eq!(checked["passed"], true, "{checked}");
        let found = checked["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["level"] != "note");
        let surprising: Vec<&Value> = found
            .filter(|finding| !warnings.contains(&finding["id"].as_str().unwrap()))
            .collect();
        assert!(surprising.is_empty(), "{name}: {surprising:?}");
        assert!(checked["start"]["memory"].as_u64().unwrap() > 0, "{checked}");
    }
}

#[tokio::test]
async fn a_finding_has_an_id_a_place_and_what_to_do_and_the_exit_code_follows_what_is_denied() {
    let place = Place::empty("");
    let file = place.path().join("guardian.wasm");
    std::fs::write(&file, guest("guardian")).unwrap();
    std::fs::write(
        place.path().join("tool.toml"),
        "name = \"guardian\"\nversion = \"1\"\ndescription = \"Judges calls.\"\n[network]\nallow = [\n  \"GET http://judge.example.com\",\n]\n",
    )
    .unwrap();
    let checked = place.json(&["tool", "check", "guardian.wasm"]).await;
    let plain = checked["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|found| found["id"] == "network-plain-http");
    let plain = plain.unwrap_or_else(|| panic!("{checked}"));
    assert_eq!((&plain["level"], &plain["line"]), (&json!("warning"), &json!(6)));
    assert!(plain["do"].as_str().unwrap().contains("https"), "{plain}");
    assert!(ids(&checked).contains(&"manifest-differs"), "{checked}");

    let run = async |flags: &[&str]| place.run(&[&["tool", "check", "guardian.wasm"], flags].concat()).await;
    let text = run(&[]).await;
    assert_eq!(text.status.code(), Some(0), "{}", said(&text));
    assert!(said(&text).contains("warning[network-plain-http]"), "{}", said(&text));
    assert!(said(&text).contains("tool.toml: line 6: the rule"), "{}", said(&text));
    assert_eq!(run(&["--deny", "warnings"]).await.status.code(), Some(1));
    let allowed = ["--allow", "network-plain-http", "--allow", "manifest-differs"];
    let passes = run(&[&["--deny", "warnings"], &allowed[..]].concat()).await;
    assert_eq!(passes.status.code(), Some(0), "{}", said(&passes));
    assert!(said(&passes).contains("2 allowed"), "{}", said(&passes));
    let notes = run(&[&["--deny", "notes"], &allowed[..]].concat()).await;
    assert_eq!(notes.status.code(), Some(1), "{}", said(&notes));
    let unknown = run(&["--allow", "network-plain-htp"]).await;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        said(&unknown).contains("did you mean `network-plain-http`?"),
        "{}",
        said(&unknown)
    );
}

#[tokio::test]
async fn an_error_fails_the_check_and_the_memory_of_calls_is_what_manifest_and_host_say() {
    let place = Place::empty("[limits.default]\nmemory = \"256MiB\"\n");
    let component = wat::parse_str(
        r#"(component
          (core module $m (memory 1100) (func (export "f")))
          (core instance $i (instantiate $m))
          (func (export "nothing") (canon lift (core func $i "f"))))"#,
    );
    std::fs::write(place.path().join("wide.wasm"), component.unwrap()).unwrap();
    let checked = async |limits: &str| {
        let manifest = format!("name = \"wide\"\nversion = \"1\"\ndescription = \"Does nothing.\"\n{limits}");
        std::fs::write(place.path().join("tool.toml"), manifest).unwrap();
        let output = place.run(&["--json", "tool", "check", "wide.wasm"]).await;
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
        (output.status.code(), value)
    };
    let (code, small) = checked("[limits]\nmemory = \"64MiB\"\n").await;
    assert_eq!((code, &small["passed"]), (Some(1), &json!(false)), "{small}");
    assert!(ids(&small).contains(&"memory-too-small"), "{small}");
    assert_eq!(small["counts"]["error"], 1, "{small}");
    let shown = String::from_utf8(place.run(&["tool", "check", "wide.wasm"]).await.stdout).unwrap();
    assert!(shown.contains("it does not work as it is: 1 error"), "{shown}");

    for limits in ["[limits]\nmemory = \"256MiB\"\n", ""] {
        let (code, enough) = checked(limits).await;
        assert_eq!((code, &enough["passed"]), (Some(0), &json!(true)), "{enough}");
        let of_memory = |id: &&str| id.contains("memory");
        assert!(!ids(&enough).iter().any(of_memory), "{enough}");
        assert_eq!(enough["start"]["memory"], 1100 << 16, "{enough}");
    }
}

#[tokio::test]
async fn a_component_that_a_hosts_ceiling_keeps_from_being_loaded_fails_the_check() {
    let place = Place::empty("[limits.ceiling]\nmemory = \"512KiB\"\n");
    std::fs::write(place.path().join("clock.wasm"), guest("clock")).unwrap();
    let checked = place.run(&["--json", "tool", "check", "clock.wasm"]).await;
    assert_eq!(checked.status.code(), Some(1), "{}", said(&checked));
    assert!(said(&checked).contains("memory"), "{}", said(&checked));
}

#[tokio::test]
async fn a_folder_is_checked_by_its_component_and_says_when_there_is_none() {
    let place = Place::empty("");
    let dir = place.path().join("adder");
    std::fs::create_dir(&dir).unwrap();
    let none = place.run(&["tool", "check", "adder"]).await;
    assert_eq!(none.status.code(), Some(2), "{}", said(&none));
    assert!(said(&none).contains("no folder of a tool"), "{}", said(&none));
    std::fs::write(
        dir.join("tool.toml"),
        "name = \"adder\"\nversion = \"1\"\ndescription = \"Adds.\"\n[kv]\naccess = \"read\"\n",
    )
    .unwrap();
    let none = place.run(&["tool", "check", "adder"]).await;
    assert_eq!(none.status.code(), Some(2), "{}", said(&none));
    std::fs::write(dir.join("adder.wasm"), hand_written("plain")).unwrap();
    let checked = place.json(&["tool", "check", "adder"]).await;
    assert_eq!(checked["kind"], "plain_functions");
    let mut found = ids(&checked);
    found.sort_unstable();
    assert_eq!(
        found,
        ["capability-unused", "functions-undescribed", "manifest-differs"]
    );
    let rows = checked["imports"].as_array().unwrap();
    assert_eq!(
        rows,
        &[json!({"capability": "key-values", "imports": [], "asks_for": "read"})],
        "what is asked for and not imported"
    );
}
