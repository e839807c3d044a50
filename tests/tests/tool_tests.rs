//! `fumehood tool test`, as an author of tools runs it: the real component, the real sandbox, and an outside that is written down.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Place, guest, hand_written};
use serde_json::Value;

const MANIFEST: &str = r#"
name = "http"
version = "0.1.0"
description = "Fetches pages."

[network]
allow = ["https://api.example.com/v1/"]

[[credential]]
secret = "API_KEY"
hosts = ["api.example.com"]
inject = { header = "authorization", format = "Bearer {}" }

[limits]
http_body = "1MiB"
"#;

/// A tool's folder with the component that fetches, and one test file.
struct Folder(Place);

impl Folder {
    fn with(tests: &str) -> Self {
        Self::of("http", MANIFEST, tests)
    }

    fn of(component: &str, manifest: &str, tests: &str) -> Self {
        Self::of_wasm(component, &guest(component), manifest, tests)
    }

    fn of_wasm(component: &str, wasm: &[u8], manifest: &str, tests: &str) -> Self {
        let place = Place::new("");
        let dir = place.path().join("tool");
        std::fs::create_dir_all(dir.join("tests")).unwrap();
        std::fs::write(dir.join("tool.toml"), manifest).unwrap();
        std::fs::write(dir.join(format!("{component}.wasm")), wasm).unwrap();
        std::fs::write(dir.join("tests/some.toml"), tests).unwrap();
        Self(place)
    }

    /// Runs the tests: the exit code, and what is printed as JSON.
    async fn test(&self, options: &[&str]) -> (Option<i32>, Value) {
        let args = [&["--json", "tool", "test", "tool"], options].concat();
        let output = self.0.run(&args).await;
        let printed = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), printed)
    }

    /// The only finding of the only test, which failed: what it is about, expected and found.
    async fn finding(&self) -> (String, String, String) {
        let (code, printed) = self.test(&[]).await;
        assert_eq!(code, Some(1), "{printed}");
        let findings = printed["files"][0]["tests"][0]["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 1, "{printed}");
        let text = |key: &str| findings[0][key].as_str().unwrap().to_owned();
        (text("about"), text("expected"), text("found"))
    }

    /// What is said where nothing could be run.
    async fn refused(&self) -> String {
        let output = self.0.run(&["tool", "test", "tool"]).await;
        assert_eq!(
            output.status.code(),
            Some(2),
            "a mistake in the tests has its own exit code"
        );
        String::from_utf8(output.stderr).unwrap()
    }
}

#[tokio::test]
async fn a_test_passes_when_the_tool_asks_and_says_what_it_should_and_the_key_is_put_in_by_the_host() {
    let folder = Folder::with(
        r#"
tool = "http_fetch"
[[test]]
name = "an answer is passed on"
arguments = { url = "https://api.example.com/v1/rate?b=2&a=1" }
secrets = { API_KEY = "key-of-this-test" }
[[test.exchange]]
request = { url = "https://api.example.com/v1/rate?a=1&b=2", headers = { authorization = "Bearer {{secret:API_KEY}}" } }
response = { json = { rate = 0.86 } }
[test.expect]
contains = ["0.86"]
"#,
    );
    let (code, printed) = folder.test(&[]).await;
    assert_eq!((code, &printed["passed"]), (Some(0), &Value::from(1)), "{printed}");
}

#[tokio::test]
async fn a_request_beyond_the_manifest_is_denied_in_a_test_as_it_is_in_service() {
    let folder = Folder::with(
        r#"
tool = "http_fetch"
[[test]]
name = "elsewhere"
arguments = { url = "https://collector.example.net/upload" }
expect = { status = "denied" }
"#,
    );
    let (code, printed) = folder.test(&[]).await;
    assert_eq!(code, Some(0), "{printed}");
    let refused = printed["files"][0]["tests"][0]["refused"].to_string();
    assert!(refused.contains("collector.example.net"), "{refused}");
}

#[tokio::test]
async fn a_request_that_no_exchange_answers_fails_the_test_by_its_name() {
    let folder = Folder::with(
        r#"
tool = "http_fetch"
[[test]]
name = "unexpected"
arguments = { url = "https://api.example.com/v1/rate" }
expect = { status = "error" }
"#,
    );
    let (about, _, found) = folder.finding().await;
    assert_eq!((&*about, &*found), ("requests", "GET https://api.example.com/v1/rate"));
}

#[tokio::test]
async fn an_exchange_that_was_not_asked_for_fails_the_test() {
    let folder = Folder::with(
        r#"
tool = "http_fetch"
[[test]]
name = "unused"
arguments = { url = "https://collector.example.net/" }
expect = { status = "denied" }
[[test.exchange]]
request = { url = "https://api.example.com/v1/rate" }
"#,
    );
    let (_, expected, found) = folder.finding().await;
    assert_eq!(expected, "GET https://api.example.com/v1/rate");
    assert_eq!(found, "it was not made");
}

#[tokio::test]
async fn a_result_that_is_not_as_expected_is_shown_on_both_sides() {
    let folder = Folder::with(
        r#"
tool = "http_fetch"
[[test]]
name = "other"
arguments = { url = "https://api.example.com/v1/rate" }
expect = { contains = ["no such words"] }
[[test.exchange]]
request = { url = "https://api.example.com/v1/rate" }
response = { body = "it is 0.86" }
"#,
    );
    let (about, expected, found) = folder.finding().await;
    assert_eq!(about, "text");
    assert!(expected.contains("no such words") && found.contains("it is 0.86"));
}

#[tokio::test]
async fn a_kept_result_is_compared_and_kept_anew_only_when_asked() {
    let tests = |body: &str| {
        format!(
            "tool = \"http_fetch\"\n[[test]]\nname = \"kept\"\narguments = {{ url = \"https://api.example.com/v1/\" }}\nexpect = {{ snapshot = true }}\n[[test.exchange]]\nrequest = {{ url = \"https://api.example.com/v1/\" }}\nresponse = {{ body = \"{body}\" }}\n"
        )
    };
    let folder = Folder::with(&tests("one"));
    let (about, _, found) = folder.finding().await;
    assert!(about == "snapshot" && found.contains("--update"), "{about}: {found}");
    assert_eq!(folder.test(&["--update"]).await.0, Some(0));
    assert_eq!(folder.test(&[]).await.0, Some(0));
    std::fs::write(folder.0.path().join("tool/tests/some.toml"), tests("two")).unwrap();
    let (about, expected, found) = folder.finding().await;
    assert!(about.starts_with("snapshot, line"), "{about}");
    assert!(expected.contains("one") && found.contains("two"), "{expected} {found}");
}

#[tokio::test]
async fn a_tool_is_tried_against_an_outside_that_fails_in_every_way() {
    let folder = Folder::with(
        r#"
tool = "http_fetch"
[[test]]
name = "bent"
arguments = { url = "https://api.example.com/v1/rate" }
[[test.exchange]]
request = { url = "https://api.example.com/v1/rate" }
response = { body = "fine" }
"#,
    );
    let (code, printed) = folder.test(&["--failing-outside"]).await;
    assert_eq!(code, Some(0), "{printed}");
    let bent = printed["files"][0]["tests"][0]["failing_outside"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(bent.len(), 8);
    let came = |how: &str| {
        let found = bent.iter().find(|bent| bent["how"] == how);
        found.unwrap()["came"].as_str().unwrap().to_owned()
    };
    assert!(came("429, come back in 7 s").starts_with("error"));
    assert!(came("no answer").starts_with("error"), "{}", came("no answer"));
    assert!(came("a connection that breaks").starts_with("error"));
}

#[tokio::test]
async fn a_tool_that_does_not_deal_with_a_failing_outside_fails() {
    let manifest = "name = \"hostile\"\nversion = \"0.1.0\"\ndescription = \"Misbehaves.\"\n[network]\nallow = [\"https://api.example.com\"]\n[limits]\ncpu = \"200ms\"\n";
    let tests = "tool = \"spin\"\n[[test]]\nname = \"it never ends\"\nexpect = { status = \"trapped\" }\n[[test.exchange]]\nrepeat = true\nrequest = { url = \"https://api.example.com/\" }\n";
    let folder = Folder::of("hostile", manifest, tests);
    assert_eq!(folder.test(&[]).await.0, Some(0));
    let (code, printed) = folder.test(&["--failing-outside"]).await;
    assert_eq!(code, Some(1), "{printed}");
}

#[tokio::test]
async fn files_and_keys_are_there_before_and_compared_after() {
    let manifest =
        "name = \"files\"\nversion = \"0.1.0\"\ndescription = \"Files.\"\n[files]\nworkspace = \"read-write\"\n";
    let tests = |wanted: &str| {
        format!(
            "[[test]]\nname = \"edited\"\ntool = \"files_edit\"\narguments = {{ path = \"a/b.txt\", old = \"one\", new = \"two\" }}\nfiles = {{ \"a/b.txt\" = \"one\\n\" }}\nexpect.files = {{ \"a/b.txt\" = \"{wanted}\\n\" }}\n"
        )
    };
    let folder = Folder::of("files", manifest, &tests("two"));
    let (code, printed) = folder.test(&[]).await;
    assert_eq!(code, Some(0), "{printed}");
    std::fs::write(folder.0.path().join("tool/tests/some.toml"), tests("three")).unwrap();
    let (about, expected, found) = folder.finding().await;
    assert_eq!((&*about, &*expected, &*found), ("file `a/b.txt`", "three\n", "two\n"));
}

#[tokio::test]
async fn a_test_file_that_names_no_tool_or_a_key_that_means_nothing_is_refused_with_its_name_and_line() {
    let message = Folder::with("[[test]]\nname = \"x\"\n").refused().await;
    assert!(
        message.contains("some.toml") && message.contains("names no tool"),
        "{message}"
    );
    let message = Folder::with("tool = \"http_fetch\"\n[[test]]\nname = \"x\"\nexpects = {}\n")
        .refused()
        .await;
    assert!(message.contains("some.toml") && message.contains("line 4"), "{message}");
    assert!(message.contains("(did you mean `expect`?)"), "{message}");
}

#[tokio::test]
async fn a_mistake_in_a_test_is_told_with_its_file_and_its_name_before_anything_runs() {
    let exchange = |request: &str, response: &str| {
        format!(
            "tool = \"http_fetch\"\n[[test]]\nname = \"fine\"\n[[test]]\nname = \"broken\"\nexchange = [{{ request = {{ {request} }}, response = {{ {response} }} }}]\n"
        )
    };
    let url = "url = \"https://api.example.com/v1/\"";
    for (tests, words) in [
        (exchange(url, "file = \"missing.json\""), "missing.json"),
        (exchange(url, "status = 99"), "99"),
        (exchange(url, "headers = { \"a b\" = \"1\" }"), "a b"),
        (exchange("url = \"api.example.com\"", ""), "api.example.com"),
        (exchange(&format!("{url}, method = \"G T\""), ""), "G T"),
        (
            "tool = \"http_fetch\"\n[[test]]\nname = \"broken\"\nlimits = { time = \"soon\" }\n".to_owned(),
            "time",
        ),
        (
            "tool = \"http_fetch\"\n[[test]]\nname = \"broken\"\nfiles = { \"/etc/x\" = \"\" }\n".to_owned(),
            "/etc/x",
        ),
        (
            "tool = \"http_fetch\"\n[[test]]\nname = \"a b\"\nexpect.snapshot = true\n[[test]]\nname = \"A, b\"\nexpect.snapshot = true\n"
                .to_owned(),
            "A, b",
        ),
    ] {
        let folder = Folder::with(&tests);
        std::fs::remove_file(folder.0.path().join("tool/http.wasm")).unwrap();
        let message = folder.refused().await;
        let named = message.contains("some.toml") && (message.contains("\"broken\"") || words == "A, b");
        assert!(named && message.contains(words), "{words}: {message}");
    }
}

#[tokio::test]
async fn what_one_test_used_up_is_not_missed_by_the_next() {
    let manifest = format!("{MANIFEST}\n[rate]\ncalls = \"1/h\"\n");
    let test = |name: &str| {
        format!(
            "[[test]]\nname = \"{name}\"\narguments = {{ url = \"https://other.example/\" }}\nexpect = {{ status = \"denied\" }}\n"
        )
    };
    let tests = format!("tool = \"http_fetch\"\n{}{}", test("one"), test("two"));
    let (code, printed) = Folder::of("http", &manifest, &tests).test(&[]).await;
    assert_eq!((code, &printed["passed"]), (Some(0), &Value::from(2)), "{printed}");
}

#[tokio::test]
async fn what_a_tool_says_does_not_drive_the_terminal() {
    let folder = Folder::with(
        r#"
tool = "http_fetch"
[[test]]
name = "a \u001b[31mred\u001b[0m name"
arguments = { url = "https://api.example.com/v1/\u001b[2J" }
[[test]]
name = "red"
arguments = { url = "https://api.example.com/v1/rate" }
expect = { contains = ["nothing\u001b[2J"] }
[[test.exchange]]
request = { url = "https://api.example.com/v1/rate" }
response = { body = "\u001b[2Jred\u009b31m" }
"#,
    );
    let output = folder.0.run(&["tool", "test", "tool", "--failing-outside"]).await;
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(said.contains("red"), "{said}");
    let controls: Vec<char> = said.chars().filter(|c| c.is_control() && *c != '\n').collect();
    assert!(controls.is_empty(), "{controls:?}: {said}");
}

#[tokio::test]
async fn a_test_sets_the_time_that_its_tool_sees() {
    let manifest = "name = \"clock\"\nversion = \"0.1.0\"\ndescription = \"Time.\"\n";
    let tests = "tool = \"clock_now\"\n[[test]]\nname = \"new year\"\nclock = \"2026-01-01T00:00:00Z\"\nexpect = { contains = [\"2026-01-01T00:00:00\"], snapshot = true }\n";
    let folder = Folder::of("clock", manifest, tests);
    let (code, printed) = folder.test(&["--update"]).await;
    assert_eq!(code, Some(0), "{printed}");
    let (code, printed) = folder.test(&[]).await;
    assert_eq!(code, Some(0), "the same to the millisecond: {printed}");
    let message = Folder::of("clock", manifest, &tests.replace("2026-01-01T00:00:00Z", "new year"))
        .refused()
        .await;
    assert!(message.contains("some.toml") && message.contains("line 4"), "{message}");
}

#[tokio::test]
async fn what_a_tool_waits_passes_on_a_clock_that_its_test_sets() {
    let manifest = "name = \"naps\"\nversion = \"0.1.0\"\ndescription = \"Waits.\"\n";
    let test = |tool: &str, passed: u64| {
        format!(
            "[[test]]\nname = \"{tool}\"\ntool = \"{tool}\"\nclock = \"2026-01-01T00:00:00Z\"\narguments = {{ ms = 200 }}\n\
             expect = {{ structured = {{ result = {passed} }} }}\n"
        )
    };
    // To the millisecond in each run: one of them is that of the first look at the clock.
    let tests = format!("{}{}", test("nap", 201), test("nap_until", 200));
    let folder = Folder::of_wasm("naps", &hand_written("naps"), manifest, &tests);
    let (code, printed) = folder.test(&[]).await;
    assert_eq!((code, &printed["passed"]), (Some(0), &Value::from(2)), "{printed}");
}

#[tokio::test]
async fn a_test_sets_what_chance_gives_its_tool() {
    let manifest = "name = \"hostile\"\nversion = \"0.1.0\"\ndescription = \"Chance.\"\n";
    let test = |name: &str, seed: &str| format!("[[test]]\nname = \"{name}\"\ntool = \"random\"\n{seed}\n");
    let tests = test("one", "seed = 7") + &test("same", "seed = 7") + &test("other", "seed = 8") + &test("none", "");
    let folder = Folder::of("hostile", manifest, &tests);
    let said = async || {
        let (code, printed) = folder.test(&[]).await;
        assert_eq!(code, Some(0), "{printed}");
        let tests = printed["files"][0]["tests"].as_array().unwrap();
        tests
            .iter()
            .map(|test| test["text"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let (first, second) = (said().await, said().await);
    assert_eq!(first[0], first[1]);
    assert_ne!(first[0], first[2]);
    assert_eq!(first[..3], second[..3], "in each run");
    assert_ne!(first[3], second[3], "without a seed it is chance");
}

#[tokio::test]
async fn a_test_of_a_tool_that_the_component_does_not_have_says_so() {
    // Also where it is the call's failing that is expected.
    for expected in ["", "expect.status = \"error\"\n"] {
        let folder = Folder::with(&format!("tool = \"http_fetsh\"\n[[test]]\nname = \"x\"\n{expected}"));
        let (about, expected, found) = folder.finding().await;
        assert_eq!(about, "tool");
        assert!(
            expected.contains("http_fetch") && found.contains("`http_fetsh` (did you mean `http_fetch`?)"),
            "{expected}, {found}"
        );
    }
}

#[tokio::test]
async fn a_folder_without_tests_or_without_a_component_says_what_is_missing() {
    let folder = Folder::with("");
    assert!(folder.refused().await.contains("[[test]]"));
    let folder = Folder::with("tool = \"http_fetch\"\n[[test]]\nname = \"x\"\n");
    std::fs::remove_file(folder.0.path().join("tool/http.wasm")).unwrap();
    assert!(folder.refused().await.contains("http.wasm"));
    let elsewhere = Place::empty("");
    let output = elsewhere.run(&["tool", "test"]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("no folder of a tool") && said.contains("tool new NAME"),
        "{said}"
    );
}

#[tokio::test]
async fn what_a_component_printed_is_shown_with_a_test_that_failed() {
    let manifest = "name = \"hostile\"\nversion = \"1\"\ndescription = \"Breaks.\"\n";
    let tests = "[[test]]\nname = \"it holds\"\ntool = \"panic\"\narguments = { message = \"no such harbour\" }\n";
    let folder = Folder::of("hostile", manifest, tests);
    let (code, printed) = folder.test(&[]).await;
    assert_eq!(code, Some(1), "{printed}");
    let wrote = &printed["files"][0]["tests"][0]["printed"][0];
    assert_eq!(wrote["channel"], "stderr", "{printed}");
    assert!(wrote["text"].as_str().unwrap().contains("no such harbour"), "{printed}");
    let said = String::from_utf8(folder.0.run(&["tool", "test", "tool"]).await.stdout).unwrap();
    let (_, below) = said
        .split_once("it wrote to stderr:")
        .unwrap_or_else(|| panic!("{said}"));
    assert!(below.contains("no such harbour"), "{said}");
}
