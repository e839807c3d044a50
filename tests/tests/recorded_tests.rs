//! `fumehood tool test --record`: tests whose exchanges the real outside wrote, and which answer without it from then on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Place, guest, world::World};
use serde_json::Value;

const CONFIG: &str = "[network]\nprivate_networks = [\"127.0.0.0/8\"]\n";
const KEY: &str = "sk-a-real-key-4711";

/// A tool's folder whose component may ask a server on loopback, with the key in this place.
struct Folder {
    place: Place,
    world: Option<World>,
}

impl Folder {
    async fn with(inject: &str, tests: impl FnOnce(&World) -> String) -> Self {
        let (place, world) = (Place::new(CONFIG), World::start().await);
        let dir = place.path().join("tool");
        std::fs::create_dir_all(dir.join("tests")).unwrap();
        let manifest = format!(
            "name = \"http\"\nversion = \"0.1.0\"\ndescription = \"Fetches.\"\n[network]\nallow = [\"http://127.0.0.1:{}\"]\n[[credential]]\nsecret = \"API_KEY\"\nhosts = [\"127.0.0.1\"]\ninject = {inject}\n",
            world.port
        );
        std::fs::write(dir.join("tool.toml"), manifest).unwrap();
        std::fs::write(dir.join("http.wasm"), guest("http")).unwrap();
        std::fs::write(dir.join("tests/some.toml"), tests(&world)).unwrap();
        Self {
            place,
            world: Some(world),
        }
    }

    async fn test(&self, options: &[&str]) -> (Option<i32>, Value) {
        let args = [&["--json", "tool", "test", "tool"], options].concat();
        let output = self.place.run(&args).await;
        let printed = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), printed)
    }

    async fn record(&self) -> (Option<i32>, Value) {
        self.test(&["--record", "--secret", &format!("API_KEY={KEY}")]).await
    }

    fn written(&self) -> String {
        std::fs::read_to_string(self.place.path().join("tool/tests/some.toml")).unwrap()
    }

    /// Nobody answers any more.
    fn cut_off(&mut self) {
        self.world = None;
    }
}

fn fetch(name: &str, url: &str, more: &str) -> String {
    format!(
        "# What {name} is about.\n[[test]]\nname = \"{name}\"\ntool = \"http_fetch\"\narguments = {{ url = \"{url}\" }}\n{more}\n"
    )
}

#[tokio::test]
async fn what_was_recorded_answers_without_the_outside_and_holds_no_secret() {
    // The server gives the headers back that it got, the key among them.
    let mut folder = Folder::with("{ header = \"authorization\", format = \"Bearer {}\" }", |world| {
        fetch("the echo", &world.url("/echo"), "expect = { contains = [\"host\"] }")
            + &fetch("the other", &world.url("/x?b=2&a=1"), "")
    })
    .await;
    let (code, printed) = folder.record().await;
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(printed["files"][0]["tests"][0]["recorded"], 1, "{printed}");
    let sent = folder.world.as_ref().unwrap().arrived();
    assert_eq!(
        sent[0].headers["authorization"],
        format!("Bearer {KEY}"),
        "it was really asked, with the key"
    );

    let written = folder.written();
    assert!(!written.contains(KEY), "{written}");
    for part in [
        "# What the echo is about.",
        "recorded = true",
        "/x?b=2&a=1",
        "response.status = 200",
    ] {
        assert!(written.contains(part), "{part}: {written}");
    }
    folder.cut_off();
    let (code, printed) = folder.test(&[]).await;
    assert_eq!((code, &printed["passed"]), (Some(0), &Value::from(2)), "{printed}");
}

#[tokio::test]
async fn a_secret_that_the_host_puts_into_the_url_is_written_by_its_name() {
    let mut folder = Folder::with("{ query = \"key\" }", |world| {
        fetch("a query", &world.url("/x?a=1"), "")
    })
    .await;
    let (code, printed) = folder.record().await;
    assert_eq!(code, Some(0), "{printed}");
    let sent = folder.world.as_ref().unwrap().arrived();
    assert_eq!(sent[0].line, format!("GET /x?a=1&key={KEY}"));
    let written = folder.written();
    assert!(
        written.contains("/x?a=1&key={{secret:API_KEY}}") && !written.contains(KEY),
        "{written}"
    );
    folder.cut_off();
    assert_eq!(folder.test(&[]).await.0, Some(0));
}

#[tokio::test]
async fn a_recording_takes_the_place_of_an_earlier_one_and_leaves_what_was_written_by_hand() {
    let folder = Folder::with("{ query = \"key\" }", |world| {
        let by_hand = format!(
            "exchange = [{{ request.url = \"{}?key={{{{secret:API_KEY}}}}\", response.status = 404 }}]",
            world.url("/hand")
        );
        fetch("recorded", &world.url("/x"), "") + &fetch("by hand", &world.url("/hand"), &by_hand)
    })
    .await;
    for _ in 0..2 {
        let (code, printed) = folder.record().await;
        assert_eq!(code, Some(0), "{printed}");
        assert_eq!(printed["files"][0]["tests"].as_array().unwrap().len(), 1, "{printed}");
    }
    let sent = folder.world.as_ref().unwrap().arrived();
    assert!(
        sent.len() == 2 && sent.iter().all(|sent| sent.line.starts_with("GET /x?")),
        "{sent:?}"
    );
    let written = folder.written();
    assert_eq!(written.matches("recorded = true").count(), 1, "{written}");
    assert!(written.contains("response.status = 404"), "{written}");
}

#[tokio::test]
async fn a_request_beyond_the_manifest_is_denied_in_a_recording_and_not_written() {
    let folder = Folder::with("{ query = \"key\" }", |_| {
        fetch(
            "elsewhere",
            "https://collector.example.net/upload",
            "expect.status = \"denied\"",
        )
    })
    .await;
    let (code, printed) = folder.record().await;
    assert_eq!(
        (code, &printed["files"][0]["tests"][0]["recorded"]),
        (Some(0), &Value::from(0)),
        "{printed}"
    );
    assert!(!folder.written().contains("exchange"), "{}", folder.written());
}

#[tokio::test]
async fn an_outside_that_does_not_answer_is_a_finding_and_the_file_stays_as_it_is() {
    let mut folder = Folder::with("{ query = \"key\" }", |world| {
        fetch("gone", &world.url("/x"), "expect.status = \"error\"")
    })
    .await;
    folder.cut_off();
    let before = folder.written();
    let (code, printed) = folder.record().await;
    assert_eq!(code, Some(1), "{printed}");
    let about = printed["files"][0]["tests"][0]["findings"][0]["about"].clone();
    assert_eq!(about, "recording", "{printed}");
    assert_eq!(folder.written(), before);
}

#[tokio::test]
async fn a_test_that_exchanges_more_than_is_recorded_is_a_finding_and_the_file_stays_as_it_is() {
    let folder = Folder::with("{ query = \"key\" }", |world| {
        format!(
            "[[test]]\nname = \"much\"\ntool = \"http_get_many\"\narguments = {{ url = \"{}\", n = 40 }}\n",
            world.url("/big")
        )
    })
    .await;
    let dir = folder.place.path().join("tool");
    std::fs::write(dir.join("http.wasm"), guest("hostile")).unwrap();
    let manifest = std::fs::read_to_string(dir.join("tool.toml")).unwrap();
    // More than a slow machine needs to take it all in.
    let limits = "[limits]\ncpu = \"60s\"\ntime = \"120s\"\nhttp_body = \"16MiB\"\nhttp_bytes = \"512MiB\"\nhttp_requests = 100\n";
    std::fs::write(dir.join("tool.toml"), manifest + limits).unwrap();
    let before = folder.written();
    let (code, printed) = folder.record().await;
    assert_eq!(code, Some(1), "{printed}");
    let finding = printed["files"][0]["tests"][0]["findings"][0].clone();
    assert_eq!(finding["about"], "recording", "{printed}");
    let said = finding["found"].as_str().unwrap_or_default();
    assert!(said.contains("more over HTTP than is taken down"), "{printed}");
    assert_eq!(folder.written(), before);
}

#[tokio::test]
async fn what_can_not_be_recorded_is_refused_before_anybody_is_asked() {
    let refused = async |folder: &Folder, options: &[&str]| {
        let args = [&["tool", "test", "tool", "--record"], options].concat();
        let before = folder.written();
        let output = folder.place.run(&args).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(folder.world.as_ref().unwrap().arrived().is_empty());
        assert_eq!(folder.written(), before);
        said
    };
    let key = format!("API_KEY={KEY}");
    let one_file = Folder::with("{ query = \"key\" }", |world| {
        fetch("a b", &world.url("/x"), "") + &fetch("a-b", &world.url("/x"), "")
    })
    .await;
    let said = refused(&one_file, &["--secret", &key]).await;
    assert!(said.contains("\"a b\" and \"a-b\""), "{said}");
    let inline = Folder::with("{ query = \"key\" }", |world| {
        let url = world.url("/x");
        format!("test = [{{ name = \"x\", tool = \"http_fetch\", arguments = {{ url = \"{url}\" }} }}]\n")
    })
    .await;
    let said = refused(&inline, &["--secret", &key]).await;
    assert!(said.contains("no [[test]] tables"), "{said}");
    // The second lacks what the first has.
    let secret = Folder::with("{ query = \"key\" }", |world| {
        let own = format!("secrets = {{ API_KEY = \"{KEY}\" }}");
        fetch("first", &world.url("/x"), &own) + &fetch("second", &world.url("/x"), "")
    })
    .await;
    let said = refused(&secret, &[]).await;
    assert!(said.contains("--secret API_KEY="), "{said}");
}

#[tokio::test]
async fn a_test_of_no_tool_is_not_recorded_and_keeps_what_it_has() {
    let folder = Folder::with("{ query = \"key\" }", |world| fetch("a", &world.url("/x"), "")).await;
    assert_eq!(folder.record().await.0, Some(0));
    let mistaken = folder.written().replace("http_fetch", "http_fetsh");
    let path = folder.place.path().join("tool/tests/some.toml");
    std::fs::write(&path, &mistaken).unwrap();
    let (code, printed) = folder.record().await;
    let test = &printed["files"][0]["tests"][0];
    assert_eq!(
        (code, &test["findings"][0]["about"]),
        (Some(1), &Value::from("tool")),
        "{printed}"
    );
    assert_eq!(folder.written(), mistaken);
}

#[tokio::test]
async fn a_recording_needs_the_secrets_that_the_component_asks_for() {
    let folder = Folder::with("{ query = \"key\" }", |world| fetch("a", &world.url("/x"), "")).await;
    let refused = folder.place.run(&["tool", "test", "tool", "--record"]).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("--secret API_KEY="), "{said}");
    assert!(folder.world.as_ref().unwrap().arrived().is_empty());
}
