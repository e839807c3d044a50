//! The crate `fumehood-test`, by the real binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_test::{Call, Error, Exchange, Program, Tool};
use fumehood_tests::{Place, binary, guest, hand_written};
use serde_json::json;

const URL: &str = "https://api.example.com/v1/rate?a=1";

/// A call of the component that fetches, with a key that the host puts in.
fn fetching(place: &Place) -> Call {
    let dir = place.path().join("tool");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("http.wasm"), guest("http")).unwrap();
    std::fs::write(
        dir.join("tool.toml"),
        "name = \"http\"\nversion = \"0.1.0\"\n[network]\nallow = [\"https://api.example.com/v1/\"]\n[[credential]]\nsecret = \"API_KEY\"\nhosts = [\"api.example.com\"]\ninject = { header = \"authorization\", format = \"Bearer {}\" }\n",
    )
    .unwrap();
    let tool = Tool::of_component(dir.join("http.wasm")).by(Program::at(binary()));
    tool.call("http_fetch", json!({"url": URL}))
}

#[test]
fn a_call_is_answered_by_its_exchanges_and_says_what_came_of_it() {
    let place = Place::empty("");
    let exchange = Exchange::get(URL)
        .with_header("authorization", "Bearer {{secret:API_KEY}}")
        .json(&json!({"rate": 0.86, "since": null}));
    let said = fetching(&place)
        .exchange(exchange)
        .secret("API_KEY", "key-of-this-test")
        .run();
    assert_eq!(said.status, "ok", "{said:?}");
    assert!(said.text.contains("0.86") && said.failure.is_none(), "{said:?}");
    assert!(
        !said.content.is_empty() && said.metering["http_requests"] == 1,
        "{said:?}"
    );
}

#[test]
fn a_call_that_fails_says_why_and_is_the_tests_to_judge() {
    let place = Place::empty("");
    let said = fetching(&place).exchange(Exchange::get(URL).resets()).run();
    assert_eq!(said.status, "error", "{said:?}");
    assert_eq!(said.failure.unwrap().message, said.text);
    let denied = fetching(&place).grant(json!({})).run();
    assert_eq!(denied.status, "denied", "{denied:?}");
    assert!(denied.refused[0].contains("api.example.com"), "{denied:?}");
}

#[test]
fn what_the_tool_asks_beside_the_exchanges_is_an_error_and_what_it_leaves_out_as_well() {
    let place = Place::empty("");
    let error = fetching(&place).try_run().unwrap_err();
    assert!(matches!(error, Error::NotAsExpected { .. }), "{error}");
    assert!(
        error.to_string().contains("GET https://api.example.com/v1/rate?a=1"),
        "{error}"
    );
    let unused = fetching(&place)
        .exchange(Exchange::get(URL))
        .exchange(Exchange::post("https://api.example.com/v1/never"))
        .try_run()
        .unwrap_err();
    assert!(unused.to_string().contains("v1/never"), "{unused}");
}

#[test]
fn a_tool_that_the_component_does_not_have_is_an_error_however_the_call_is_to_end() {
    let place = Place::empty("");
    let _ = fetching(&place);
    let tool = Tool::of_component(place.path().join("tool/http.wasm")).by(Program::at(binary()));
    let error = tool.call("http_fetsh", json!({"url": URL})).try_run().unwrap_err();
    assert!(matches!(error, Error::NotAsExpected { .. }), "{error}");
    for part in ["http_fetsh", "one of", "http_fetch"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
}

#[tokio::test]
async fn the_variable_that_names_the_program_does_not_stop_the_program() {
    let place = Place::empty("");
    let mut command = place.command(&["config", "check"]);
    let output = command.env("FUMEHOOD_BIN", binary()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_mistake_is_told_in_the_words_of_the_program() {
    let place = Place::empty("");
    let error = fetching(&place).limit("time", "soon").try_run().unwrap_err();
    assert!(error.to_string().contains("`limits`"), "{error}");
    let nobody = Tool::of_component("it.wasm").by(Program::at("/nowhere/fumehood"));
    let error = nobody.call("a", json!({})).try_run().unwrap_err();
    assert!(error.to_string().contains("FUMEHOOD_BIN"), "{error}");
    let null = fetching(&place).grant(json!({"network": null})).try_run().unwrap_err();
    assert!(null.to_string().contains("no `null`"), "{null}");
}

#[test]
fn a_folder_is_built_before_it_is_called() {
    let place = Place::empty("");
    let dir = place.path().join("sums");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("made"), hand_written("plain")).unwrap();
    std::fs::write(dir.join("sums.c"), "").unwrap();
    std::fs::write(dir.join("build.sh"), "cp made \"$COMPONENT\"\n").unwrap();
    std::fs::write(dir.join("tool.toml"), "name = \"sums\"\nversion = \"0.1.0\"\n").unwrap();
    let tool = Tool::build_by(Program::at(binary()), &dir).unwrap();
    let said = tool.call("add", json!({"a": 2, "b": 3})).run();
    assert!(said.status == "ok" && said.text.contains('5'), "{said:?}");
    std::fs::write(dir.join("tool.toml"), "name = 1").unwrap();
    assert!(Tool::build_by(Program::at(binary()), &dir).is_ok(), "once in a process");
    let other = place.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let refused = Tool::build_by(Program::at(binary()), &other).unwrap_err();
    assert!(
        refused.to_string().contains("`fumehood tool build` failed"),
        "{refused}"
    );
}
