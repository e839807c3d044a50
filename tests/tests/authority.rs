//! What a component may do, explained: over HTTP and on the command line, in sessions, and when a version asks for more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Host, Place, guest, refused, root};
use reqwest::Method;
use serde_json::{Value, json};

const ASKS: &str = r#"
name = "hostile"
version = "1"
[network]
allow = ["https://api.example.com"]
[files]
workspace = "read-write"
[kv]
access = "read-write"
[secrets]
sign = ["KEY"]
[tools]
call = ["*"]
"#;

const CONFIG: &str = "[agent.assistant]\ninstructions = \"x\"\n\
    [agent.narrow]\ntools = [\"hostile\"]\nextends = \"assistant\"\n\
    [agent.narrow.network]\nallow = [\"*.example.com\"]\ndeny = [\"api.example.com/secret-path\"]\n";

fn capability<'a>(component: &'a Value, kind: &str) -> &'a Value {
    component["authority"]["capabilities"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["capability"] == kind)
        .unwrap_or_else(|| panic!("no {kind} in {component}"))
}

/// The same component with other bytes: another digest.
fn another(wasm: &[u8]) -> Vec<u8> {
    let mut wasm = wasm.to_vec();
    // A custom section: its id, its length, its name's length and name, and nothing in it.
    wasm.extend([0, 5, 4, b'n', b'o', b't', b'e']);
    wasm
}

async fn with_grant(place: &Place, grant: Value) -> Host {
    let host = place.serve().await;
    host.add_component(&guest("hostile"), Some(ASKS), grant).await;
    host
}

#[tokio::test]
async fn an_explanation_says_what_each_layer_cut() {
    let place = Place::new(CONFIG);
    let host = with_grant(
        &place,
        json!({"network": {"allow": ["GET https://api.example.com"]}, "files": {"workspace": "read-write"}}),
    )
    .await;
    let session = host.session(json!({"agent": "narrow", "files": "read"})).await;
    let alone = host.get("/v1/tools/hostile").await;
    assert_eq!(
        capability(&alone, "network")["has"],
        json!(["GET https://api.example.com"])
    );
    assert_eq!(capability(&alone, "network")["cuts"][0]["layer"], "grant");
    assert_eq!(capability(&alone, "files")["extent"], "all");
    assert_eq!(capability(&alone, "kv")["extent"], "none");
    let inside = host.get(&format!("/v1/tools/hostile?session={session}")).await;
    assert_eq!(capability(&inside, "files")["has"], json!(["read everywhere"]));
    assert_eq!(capability(&inside, "files")["cuts"][0]["layer"], "session");
    let except = &capability(&inside, "network")["except"];
    assert_eq!(
        *except,
        json!([{"layer": "agent narrow", "rule": "api.example.com/secret-path"}])
    );
    let agent = host.get("/v1/tools/clock?agent=narrow").await;
    assert_eq!(agent["authority"]["tools"][0]["cut_by"], json!(["agent narrow"]));
    refused(
        host.request(Method::GET, "/v1/tools/hostile?agent=nobody"),
        422,
        "invalid_request",
    )
    .await;
    let text = place.run(&["tool", "show", "hostile", "--session", &session]).await;
    // The serving host listens on another port than the configuration says; the command is told where.
    assert!(!text.status.success());
    let text = place
        .command(&["tool", "show", "hostile", "--session", &session])
        .env("FUMEHOOD_URL", &host.base)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    for words in [
        "may do",
        "part  network: https://api.example.com",
        "has GET https://api.example.com",
        "cut by grant: it leaves GET https://api.example.com",
        "except what agent narrow denies: api.example.com/secret-path",
        "cut by session: it leaves read everywhere",
        "fumehood tool grant",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    host.stop().await;
}

#[tokio::test]
async fn a_foreign_session_explains_nothing() {
    let place = Place::new("");
    let made = place.json(&["org", "create", "acme"]).await;
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let foreign = host
        .anonymous(Method::GET, &format!("/v1/tools/files?session={session}"))
        .bearer_auth(made["key"].as_str().unwrap());
    refused(foreign, 404, "not_found").await;
    let missing = host.request(
        Method::GET,
        "/v1/tools/files?session=ses_018f0000000070008000000000000000",
    );
    refused(missing, 404, "not_found").await;
    host.stop().await;
}

#[tokio::test]
async fn every_denial_says_which_layer_and_how_to_change_it() {
    let place = Place::new(CONFIG);
    let host = with_grant(
        &place,
        json!({"network": {"allow": ["https://api.example.com", "https://other.example.com"]}, "kv": {"access": "read"}}),
    )
    .await;
    let session = host.session(json!({"agent": "narrow"})).await;
    let message = async |tool: &str, arguments: Value| {
        let result = host.call(tool, Some(&session), arguments).await;
        assert_ne!(result["status"], "ok", "{tool}: {result}");
        result["error"]["message"].as_str().unwrap().to_owned()
    };
    let get = |url: &str| json!({"url": url, "headers": {}});
    let by_rule = message("http_get", get("https://api.example.com/secret-path/x")).await;
    assert!(
        by_rule.contains("api.example.com/secret-path` of the agent `narrow`"),
        "{by_rule}"
    );
    assert!(by_rule.contains("[agent.narrow.network]"), "{by_rule}");
    let by_request = message("http_get", get("https://other.example.com/")).await;
    assert!(
        by_request.contains("manifest does not request it") && by_request.contains("tool.toml"),
        "{by_request}"
    );
    assert!(!by_request.contains("api.example.com"), "{by_request}");
    let kv = message("kv_set", json!({"key": "k", "value": "v"})).await;
    assert!(kv.contains("changing the session's key-values was denied"), "{kv}");
    assert!(
        kv.contains("`access = \"read-write\"` under `[kv]` of the grant"),
        "{kv}"
    );
    let sign = message("secret_sign", json!({"name": "KEY", "message": "m"})).await;
    assert!(
        sign.contains("`KEY` to `sign` under `[secrets]` of the grant"),
        "{sign}"
    );
    let peer = message("peer_call", json!({"tool": "clock_now", "arguments": {}})).await;
    assert!(
        peer.contains("`clock_now` to `call` under `[tools]` of the grant"),
        "{peer}"
    );
    let offered = message("clock_now", json!({})).await;
    assert!(offered.contains("`tools` under `[agent.narrow]`"), "{offered}");
    let ledger = host.get(&format!("/v1/sessions/{session}/ledger")).await;
    let rules: Vec<_> = ledger["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["rule"].as_str().unwrap())
        .collect();
    assert_eq!(
        rules,
        [
            "agent narrow: deny api.example.com/secret-path",
            "request: no rule allows it"
        ]
    );
    host.stop().await;
}

#[tokio::test]
async fn a_call_without_any_network_is_in_the_ledger_all_the_same() {
    let place = Place::new("");
    let host = place.serve().await;
    host.add_component(
        &guest("hostile"),
        Some("name = \"hostile\"\nversion = \"1\"\n"),
        json!("requested"),
    )
    .await;
    let session = host.session(json!({})).await;
    let result = host
        .call(
            "http_get",
            Some(&session),
            json!({"url": "https://example.com/", "headers": {}}),
        )
        .await;
    assert_eq!(result["status"], "denied", "{result}");
    assert!(
        result["error"]["message"]
            .as_str()
            .unwrap()
            .contains("manifest does not request it"),
        "{result}"
    );
    let ledger = host.get(&format!("/v1/sessions/{session}/ledger")).await;
    assert_eq!(ledger["items"][0]["outcome"], "denied", "{ledger}");
    host.stop().await;
}

#[tokio::test]
async fn a_version_that_asks_for_no_more_keeps_the_grant() {
    let place = Place::new("");
    let host = with_grant(&place, json!({"kv": {"access": "read-write"}})).await;
    let less = ASKS.replace("[tools]\ncall = [\"*\"]\n", "");
    let added = host
        .add_component(&another(&guest("hostile")), Some(&less), json!("none"))
        .await;
    assert_eq!(added["grant"]["kv"]["access"], "read-write", "{added}");
    assert_eq!(added["update"]["added"], json!([]));
    assert_eq!(added["update"]["removed"], json!(["call other tools: *"]));
    let session = host.session(json!({})).await;
    let set = host
        .call("kv_set", Some(&session), json!({"key": "k", "value": "v"}))
        .await;
    assert_eq!(set["status"], "ok", "{set}");
    host.stop().await;
}

#[tokio::test]
async fn a_version_that_asks_for_more_shows_the_difference_and_waits() {
    let place = Place::new("");
    let files = place.path().join("update");
    std::fs::create_dir(&files).unwrap();
    let (wasm, manifest) = (files.join("hostile.wasm"), files.join("tool.toml"));
    std::fs::write(&wasm, guest("hostile")).unwrap();
    std::fs::write(&manifest, ASKS).unwrap();
    let add = ["tool", "add", wasm.to_str().unwrap()];
    let granted = place.run(&[&add[..], &["--yes"]].concat()).await;
    assert!(granted.status.success(), "{}", String::from_utf8_lossy(&granted.stderr));
    std::fs::write(&wasm, another(&guest("hostile"))).unwrap();
    let wider = ASKS
        .replace("https://api.example.com", "https://*")
        .replace("sign = [\"KEY\"]", "sign = []")
        + "[limits]\nmemory = \"512MiB\"\n";
    std::fs::write(&manifest, &wider).unwrap();
    let text = String::from_utf8(place.run(&add).await.stdout).unwrap();
    for words in [
        "asks differently from the version before",
        "+ reach over the network: https://*",
        "+ a limit of its own: memory 512MiB",
        "- sign messages with: KEY",
        "its tools are withheld",
        "waits for a grant",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let denied = host.call("kv_get", Some(&session), json!({"key": "k"})).await;
    assert_eq!(denied["status"], "denied", "{denied}");
    let grant = json!({"kv": {"access": "read"}});
    let component = host.put("/v1/tools/hostile/grant", grant).await;
    assert_eq!(capability(&component, "kv")["has"], json!(["read"]));
    let read = host.call("kv_get", Some(&session), json!({"key": "k"})).await;
    assert_eq!(read["status"], "ok", "{read}");
    // The old bytes again: what was decided about them holds for them.
    let old = host.add_component(&guest("hostile"), Some(ASKS), json!("none")).await;
    assert_eq!(old["grant"]["secrets"]["sign"], json!(["KEY"]), "{old}");
    host.stop().await;
}

#[tokio::test]
async fn expectations_about_the_hosts_own_lists_need_no_store() {
    let place = Place::empty(
        "[network]\ndeny = [\"*.internal.example.com\"]\nprivate_networks = [\"10.1.0.0/16\"]\n\
         [agent.narrow.network]\nallow = [\"api.example.com\"]\n",
    );
    let file = place.path().join("policy.txt");
    std::fs::write(
        &file,
        "# what must not leave\n\
         tool -\n\
         deny http GET https://x.internal.example.com/   # a comment\n\
         allow http POST https://api.example.com/v1\n\
         deny http GET http://169.254.169.254/latest\n\
         deny http GET https://user@api.example.com/\n\
         agent narrow\n\
         deny http GET https://other.example.com/\n",
    )
    .unwrap();
    let met = place.run(&["policy", "test", "policy.txt"]).await;
    let text = String::from_utf8(met.stdout).unwrap();
    assert_eq!(
        met.status.code(),
        Some(0),
        "{text}{}",
        String::from_utf8_lossy(&met.stderr)
    );
    assert!(text.contains("all 5 expectations are met"), "{text}");
    assert!(!place.data().exists(), "nothing is opened that is not needed");
    std::fs::write(
        &file,
        "tool -\nagent narrow\nallow http GET https://other.example.com/x\n",
    )
    .unwrap();
    let surprise = place.run(&["policy", "test", "policy.txt"]).await;
    let text = String::from_utf8(surprise.stdout).unwrap();
    assert_eq!(surprise.status.code(), Some(1));
    assert!(
        text.contains("policy.txt:3: expected `allow http GET https://other.example.com/x`, but it is denied by agent narrow: no rule allows it"),
        "{text}"
    );
    std::fs::write(
        &file,
        "alow http GET https://x.example/\ntool -\nallow files write src/x\nagent nobody\ndeny http GET https://x.example/\n",
    )
    .unwrap();
    let bad = place.run(&["policy", "test", "policy.txt"]).await;
    let text = String::from_utf8(bad.stderr).unwrap();
    assert_eq!(bad.status.code(), Some(2), "{text}");
    assert!(
        text.contains("policy.txt:1: ") && text.contains("did you mean `allow`"),
        "{text}"
    );
    assert!(text.contains("policy.txt:3: ") && text.contains("tool NAME"), "{text}");
}

#[tokio::test]
async fn a_policy_is_tested_without_a_change_of_what_is_installed_and_granted() {
    let source = root().join("target/guests/hostile.wasm");
    let section =
        |grant: &str| format!("[tool.hostile]\nsource = {source:?}\n[tool.hostile.grant.kv]\naccess = \"{grant}\"\n");
    let place = Place::new(&section("read"));
    let before = place.json(&["tool", "show", "hostile"]).await;
    assert_eq!(before["grant"], json!({"kv": {"access": "read"}}));
    // As a pipeline looks at a change: another file, the same data directory.
    let candidate = place.path().join("candidate.toml");
    let data = format!("data_dir = {:?}\n", place.data());
    std::fs::write(&candidate, data + &section("read-write") + "[agent.other]\n").unwrap();
    let file = place.path().join("policy.txt");
    let text = "allow files write src/x\ndeny http GET https://evil.test.com/\ndeny http GET http://localhost:8080/\n\
         agent other\ntool hostile\nallow kv write\n";
    std::fs::write(&file, text).unwrap();
    let test = ["--config", "candidate.toml", "policy", "test", "policy.txt"];
    let met = async |base: Option<&str>| {
        let mut command = place.command(&test);
        if let Some(base) = base {
            command.env("FUMEHOOD_URL", base);
        }
        let output = command.output().await.unwrap();
        let (text, errors) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}{errors}",
            String::from_utf8_lossy(&text)
        );
    };
    met(None).await;
    let host = place.serve().await;
    met(Some(&host.base)).await;
    assert_eq!(host.get("/v1/tools/hostile").await["grant"], before["grant"]);
    refused(
        host.request(Method::GET, "/v1/tools/hostile?agent=other"),
        422,
        "invalid_request",
    )
    .await;
    host.stop().await;
    std::fs::write(&file, "tool hostile\ndeny kv write\n").unwrap();
    assert_eq!(place.run(&test).await.status.code(), Some(1));
    assert_eq!(place.json(&["tool", "show", "hostile"]).await["grant"], before["grant"]);
    std::fs::write(&file, "# nothing\n").unwrap();
    assert_eq!(place.run(&test).await.status.code(), Some(2));
}

#[tokio::test]
async fn expectations_about_tools_are_judged_by_what_is_installed_and_granted() {
    let place = Place::new(CONFIG);
    let host = with_grant(
        &place,
        json!({"network": {"allow": ["GET https://api.example.com"]}, "files": {"workspace": "read-write", "paths": ["src"]}}),
    )
    .await;
    let session = host.session(json!({"files": "read"})).await;
    let file = place.path().join("policy.txt");
    std::fs::write(
        &file,
        format!(
            "tool hostile\nallow http GET https://api.example.com/v1\ndeny http POST https://api.example.com/v1\n\
             allow files write src/x\ndeny files read docs\ndeny kv read\ndeny sign KEY\ndeny secret KEY to api.example.com\n\
             deny call clock_now\ndeny env HOME\nsession {session}\nallow files read src/x\ndeny files write src/x\n\
             session -\nagent narrow\ndeny http GET https://api.example.com/secret-path\n"
        ),
    )
    .unwrap();
    let run = async |serving: Option<&str>| {
        let mut command = place.command(&["--json", "policy", "test", "policy.txt"]);
        if let Some(base) = serving {
            command.env("FUMEHOOD_URL", base);
        }
        let output = command.output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), value)
    };
    // Of the host that serves, and of the store when none does.
    assert_eq!(
        run(Some(&host.base)).await,
        (Some(0), json!({"file": "policy.txt", "checked": 12, "surprise": null}))
    );
    host.stop().await;
    assert_eq!(run(None).await.0, Some(0));
    std::fs::write(&file, "tool hostile\n\ndeny files write src/x\n").unwrap();
    let (code, value) = run(None).await;
    assert_eq!(code, Some(1));
    assert_eq!(value["surprise"]["line"], 3);
    assert_eq!(value["surprise"]["decided"], "allow");
    std::fs::write(&file, "tool hostil\ndeny kv read\n").unwrap();
    let (code, value) = run(None).await;
    assert_eq!(code, Some(2));
    assert!(
        value["errors"][0]["message"].as_str().unwrap().contains("hostil"),
        "{value}"
    );
}
