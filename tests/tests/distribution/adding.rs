//! `tool publish` and `tool add`, with registries and servers that are honest and with such as are not.

use crate::{
    component, digest, lock, publish, refused_without_a_trace,
    registry::{Lie, Registry},
    said, write,
};
use fumehood_tests::{Place, tls::Authority, world::World};
use serde_json::json;
use std::sync::{Arc, Mutex};

#[tokio::test]
async fn a_component_is_published_and_added_and_does_its_work() {
    let registry = Registry::start().await;
    let place = Place::new("");
    let wasm = component("sums", "1.2.0", "");
    write(&place, "sums.wasm", &wasm);
    let published = place
        .json(&["tool", "publish", "sums.wasm", &registry.source("acme/sums")])
        .await;
    let source = registry.source("acme/sums:1.2.0");
    assert_eq!(
        published["source"],
        format!("{source}@{}", published["artifact"].as_str().unwrap())
    );
    assert_eq!(published["digest"], digest(&wasm));
    let manifest = registry.manifest("acme/sums:1.2.0");
    assert_eq!(
        (&manifest["config"]["mediaType"], &manifest["layers"][0]["mediaType"]),
        (
            &json!("application/vnd.wasm.config.v0+json"),
            &json!("application/wasm")
        )
    );
    assert_eq!(manifest["annotations"]["org.opencontainers.image.title"], "sums");
    // What other clients make of it is a file of that name.
    let layer = &manifest["layers"][0]["annotations"];
    assert_eq!(layer["org.opencontainers.image.title"], "sums.wasm");

    let added = place.json(&["tool", "add", &source, "--yes"]).await;
    assert_eq!(
        (&added["name"], &added["digest"]),
        (&json!("sums"), &published["digest"])
    );
    let called = place
        .json(&["tool", "call", "sums", "add", r#"{"a": 2, "b": 3}"#])
        .await;
    assert_eq!(called["status"], "ok", "{called}");
    let pinned = lock(&place);
    for part in [
        &source,
        "name = \"sums\"",
        "version = \"1.2.0\"",
        published["artifact"].as_str().unwrap(),
        &digest(&wasm),
    ] {
        assert!(pinned.contains(part), "{part} in {pinned}");
    }
    // By digest, too, and with one that it has not.
    place
        .json(&["tool", "add", published["source"].as_str().unwrap()])
        .await;
    place.json(&["tool", "remove", "sums"]).await;
    assert!(!lock(&place).contains("sums"));
}

#[tokio::test]
async fn publishing_the_same_again_changes_nothing_and_another_as_the_same_version_is_refused() {
    let registry = Registry::start().await;
    let to = registry.source("acme/sums");
    let place = Place::compiled("");
    write(&place, "a.wasm", &component("sums", "1.2.0", ""));
    write(
        &place,
        "b.wasm",
        &component("sums", "1.2.0", "[kv]\naccess = \"read\"\n"),
    );
    let first = place.json(&["tool", "publish", "a.wasm", &to]).await;
    assert_eq!(first["unchanged"], false);
    let again = place.json(&["tool", "publish", "a.wasm", &to]).await;
    assert_eq!(
        (&again["unchanged"], &again["artifact"]),
        (&json!(true), &first["artifact"])
    );
    let other = place.run(&["tool", "publish", "b.wasm", &to]).await;
    assert_eq!(other.status.code(), Some(1));
    assert!(said(&other).contains("already published"), "{}", said(&other));
    let asked = place.json(&["tool", "publish", "b.wasm", &to, "--replace"]).await;
    assert_ne!(asked["artifact"], first["artifact"]);
    let wrong = place
        .run(&["tool", "publish", "b.wasm", &registry.source("acme/sums:1.3.0")])
        .await;
    assert!(said(&wrong).contains("calls itself 1.2.0"), "{}", said(&wrong));
}

#[tokio::test]
async fn what_carries_no_manifest_or_another_than_lies_beside_it_is_not_published() {
    let registry = Registry::start().await;
    let to = registry.source("acme/sums");
    let place = Place::compiled("");
    write(&place, "sums.wasm", &fumehood_tests::hand_written("plain"));
    let bare = place.run(&["tool", "publish", "sums.wasm", &to]).await;
    assert!(said(&bare).contains("tool build"), "{}", said(&bare));
    write(&place, "sums.wasm", &component("sums", "1.2.0", ""));
    write(&place, "tool.toml", b"name = \"sums\"\nversion = \"1.3.0\"\n");
    let stale = place.run(&["tool", "publish", "sums.wasm", &to]).await;
    assert!(said(&stale).contains("tool build"), "{}", said(&stale));
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn a_component_of_a_web_server_is_added_if_it_is_the_one_that_was_named() {
    let files = Files::start(component("sums", "1.2.0", "")).await;
    let place = Place::new("");
    let pinned = format!("{}@{}", files.url("/sums.wasm"), digest(&files.wasm));
    let added = place.json(&["tool", "add", &pinned]).await;
    assert_eq!(added["name"], "sums");
    assert!(lock(&place).contains(&files.url("/sums.wasm")));

    let place = Place::empty("");
    let other = format!("{}@{}", files.url("/sums.wasm"), digest(b"other"));
    let refused = refused_without_a_trace(&place, &["tool", "add", &other]).await;
    assert!(
        refused.contains(&digest(b"other")) && refused.contains("changed"),
        "{refused}"
    );
    let page = refused_without_a_trace(&place, &["tool", "add", &files.url("/page.html")]).await;
    assert!(page.contains("no WebAssembly"), "{page}");
    let nothing = refused_without_a_trace(&place, &["tool", "add", &files.url("/nothing.wasm")]).await;
    assert!(nothing.contains("nothing at"), "{nothing}");
}

#[tokio::test]
async fn a_registry_that_is_down_is_said_to_be() {
    let registry = Registry::start().await;
    let source = registry.source("acme/sums:1.2.0");
    let place = Place::empty("");
    registry.lie(Lie::Broken);
    let broken = refused_without_a_trace(&place, &["tool", "add", &source]).await;
    assert!(broken.contains("502") && broken.contains("try again later"), "{broken}");
    drop(registry);
    let down = refused_without_a_trace(&place, &["tool", "add", &source]).await;
    assert!(
        down.contains("can't be reached") && down.contains("127.0.0.1"),
        "{down}"
    );
}

#[tokio::test]
async fn a_registry_that_never_answers_is_not_waited_for() {
    let registry = Registry::start().await;
    registry.lie(Lie::Silent);
    let place = Place::empty("[tools]\ntimeout = \"1s\"\n");
    let slow = refused_without_a_trace(&place, &["tool", "add", &registry.source("acme/sums:1.2.0")]).await;
    assert!(slow.contains("did not answer in time"), "{slow}");
}

#[tokio::test]
async fn a_registry_that_lies_about_a_digest_is_caught() {
    let registry = Registry::start().await;
    let source = registry.source("acme/sums:0.1.0");
    publish("sums", "0.1.0", &source).await;
    let place = Place::empty("");
    for lie in [Lie::OtherBlobs, Lie::OtherManifests] {
        registry.lie(lie);
        let caught = refused_without_a_trace(&place, &["tool", "add", &source]).await;
        assert!(caught.contains("promised") && caught.contains("sha256:"), "{caught}");
    }
}

#[tokio::test]
async fn an_artifact_that_is_no_component_is_said_to_be_what_it_is() {
    let registry = Registry::start().await;
    let place = Place::empty("");
    let source = registry.source("acme/x:1");
    let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2});
    let image = "application/vnd.oci.image.manifest.v1+json";
    for (manifest, says) in [
        (
            json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}),
            "an index of several artifacts",
        ),
        (
            json!({"schemaVersion": 2, "mediaType": image, "config": config, "layers": []}),
            "application/vnd.oci.image.config.v1+json",
        ),
        (json!({"schemaVersion": 1, "name": "old"}), "`application/json`"),
        (json!({"schemaVersion": 2, "mediaType": image}), "can't be read"),
    ] {
        registry.put("acme/x:1", &manifest);
        let refused = refused_without_a_trace(&place, &["tool", "add", &source]).await;
        assert!(refused.contains(says), "{refused}");
    }
    let absent = refused_without_a_trace(&place, &["tool", "add", &registry.source("acme/x:2")]).await;
    assert!(absent.contains("has no acme/x `2`"), "{absent}");
}

#[tokio::test]
async fn a_component_that_is_too_large_is_not_fetched_and_one_without_an_end_is_cut_off() {
    let registry = Registry::start().await;
    let source = registry.source("acme/sums:0.1.0");
    publish("sums", "0.1.0", &source).await;
    let small = Place::empty("[limits.install]\ncomponent_size = \"100B\"\n");
    let large = refused_without_a_trace(&small, &["tool", "add", &source]).await;
    assert!(
        large.contains("more than the 100") && large.contains("component_size"),
        "{large}"
    );
    let fetched = registry
        .requests()
        .iter()
        .any(|(line, _)| line.starts_with("GET") && line.contains("/blobs/"));
    assert!(!fetched, "not even asked for");
    let place = Place::empty("");
    registry.lie(Lie::Endless);
    let endless = refused_without_a_trace(&place, &["tool", "add", &source]).await;
    assert!(endless.contains("larger than"), "{endless}");
}

#[tokio::test]
async fn a_redirect_does_not_lead_off_loopback_without_tls_nor_take_a_login_along() {
    let registry = Registry::start().await;
    let source = registry.source("acme/sums:0.1.0");
    publish("sums", "0.1.0", &source).await;
    let place = Place::empty("");
    registry.lie(Lie::Redirect("http://files.example/x".into()));
    let plain = refused_without_a_trace(&place, &["tool", "add", &source]).await;
    assert!(
        plain.contains("http://files.example/x") && plain.contains("plain http"),
        "{plain}"
    );
    registry.lie(Lie::Redirect("file:///etc/passwd".into()));
    let file = refused_without_a_trace(&place, &["tool", "add", &source]).await;
    assert!(file.contains("not https"), "{file}");
    // To another server that has other bytes.
    let world = World::start().await;
    registry.lie(Lie::Redirect(world.url("/hello?signature=s3cret")));
    let other = refused_without_a_trace(&place, &["tool", "add", &source]).await;
    assert!(other.contains("promised") && !other.contains("s3cret"), "{other}");
    assert_eq!(world.arrived().len(), 1);
    assert!(!world.arrived()[0].headers.contains_key("authorization"));
    let round = format!("http://{}/v2/acme/sums/blobs/{}", registry.host, digest(b""));
    registry.lie(Lie::Redirect(round));
    let round = refused_without_a_trace(&place, &["tool", "add", &source]).await;
    assert!(
        round.contains("has no acme/sums") || round.contains("redirects more than"),
        "{round}"
    );
}

#[tokio::test]
async fn a_login_is_asked_for_used_and_refused_in_words() {
    let registry = Registry::start().await;
    let source = registry.source("acme/sums:0.1.0");
    publish("sums", "0.1.0", &source).await;
    registry.lie(Lie::Login("me", "p@ss:word"));
    let place = Place::empty("");
    let none = refused_without_a_trace(&place, &["tool", "add", &source]).await;
    assert!(none.contains("refuses") || none.contains("docker login"), "{none}");

    let docker = place.path().join("docker");
    std::fs::create_dir(&docker).unwrap();
    let login = |password: &str| {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let auth = STANDARD.encode(format!("me:{password}"));
        let config = json!({"auths": {registry.host.as_str(): {"auth": auth}}});
        std::fs::write(docker.join("config.json"), config.to_string()).unwrap();
    };
    login("wr0ng");
    let wrong = place
        .command(&["tool", "add", &source])
        .env("DOCKER_CONFIG", &docker)
        .output()
        .await
        .unwrap();
    assert!(said(&wrong).contains("refuses the login of `me`"), "{}", said(&wrong));
    assert!(!said(&wrong).contains("wr0ng"), "{}", said(&wrong));

    login("p@ss:word");
    let place = Place::new("");
    let right = place
        .command(&["tool", "add", &source])
        .env("DOCKER_CONFIG", &docker)
        .output()
        .await
        .unwrap();
    assert!(right.status.success(), "{}", said(&right));
    write(&place, "new.wasm", &component("sums", "0.2.0", ""));
    let published = place
        .command(&["tool", "publish", "new.wasm", &registry.source("acme/sums")])
        .env("DOCKER_CONFIG", &docker)
        .output()
        .await
        .unwrap();
    assert!(published.status.success(), "{}", said(&published));
    let asked = registry
        .requests()
        .into_iter()
        .filter(|(line, _)| line.starts_with("GET /token"));
    let last = asked.last().unwrap().0;
    assert!(last.contains("pull%2Cpush"), "{last}");
    let by_variable = place
        .command(&["tool", "add", &source])
        .env("FUMEHOOD_REGISTRY_AUTH", format!("me:p@ss:word@{}", registry.host))
        .output()
        .await
        .unwrap();
    assert!(by_variable.status.success(), "{}", said(&by_variable));
}

#[tokio::test]
async fn no_login_is_sent_without_tls_whoever_asks_for_one() {
    // Another machine, as far as the command knows: it is reached through a proxy.
    let registry = Registry::start().await;
    publish("sums", "0.1.0", &registry.source("acme/sums:0.1.0")).await;
    registry.lie(Lie::Login("me", "s3cret"));
    let place = Place::new("");
    let add = async |source: &str| {
        place
            .command(&["tool", "add", source, "--plain-http"])
            .env("HTTP_PROXY", format!("http://{}", registry.host))
            .env("NO_PROXY", "")
            .env("FUMEHOOD_REGISTRY_AUTH", "me:s3cret@registry.example")
            .output()
            .await
            .unwrap()
    };
    let source = "oci://registry.example/acme/sums:0.1.0";
    let refused = add(source).await;
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("asks for a login"), "{}", said(&refused));
    assert!(
        said(&refused).contains("without TLS, where none is sent"),
        "{}",
        said(&refused)
    );
    let requests = registry.requests();
    let by_proxy = requests
        .iter()
        .filter(|(line, _)| line.contains("http://registry.example/"));
    assert!(
        by_proxy.clone().any(|(line, _)| line.contains("/token?")),
        "{requests:?}"
    );
    for (line, headers) in by_proxy {
        assert!(!headers.contains_key("authorization"), "{line}");
    }
    // What wants no login is had.
    registry.lie(Lie::Honest);
    let open = add(source).await;
    assert!(open.status.success(), "{}", said(&open));
}

#[tokio::test]
async fn a_helper_is_asked_by_the_name_of_its_login_and_where_it_knows_nothing_the_next_file_counts() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let registry = Registry::start().await;
    let source = registry.source("acme/sums:0.1.0");
    publish("sums", "0.1.0", &source).await;
    registry.lie(Lie::Login("me", "p@ss:word"));
    let place = Place::new("");
    let server = format!("https://{}", registry.host);
    let answers = format!(
        "read server; test \"$server\" = \"{server}\" && echo '{{\"Username\": \"me\", \"Secret\": \"p@ss:word\"}}'"
    );
    for (name, does) in [("knows", answers.as_str()), ("empty", "exit 1")] {
        use std::os::unix::fs::PermissionsExt as _;
        let file = place.path().join(format!("docker-credential-{name}"));
        std::fs::write(&file, format!("#!/bin/sh\n{does}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let own = STANDARD.encode("me:p@ss:word");
    let host = registry.host.as_str();
    let knows = json!({"auths": {server.as_str(): {}}, "credsStore": "knows"});
    let empty = json!({"credHelpers": {host: "empty"}});
    let login = json!({"auths": {host: {"auth": own}}});
    for (first, second) in [(&knows, &json!({})), (&empty, &login)] {
        std::fs::write(place.path().join("config.json"), first.to_string()).unwrap();
        let home = place.path().join("home/.docker");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("config.json"), second.to_string()).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let added = place
            .command(&["tool", "add", &source])
            .env("DOCKER_CONFIG", place.path())
            .env("HOME", place.path().join("home"))
            .env("PATH", format!("{}:{path}", place.path().display()))
            .output()
            .await
            .unwrap();
        assert!(added.status.success(), "{first}: {}", said(&added));
    }
}

#[tokio::test]
async fn plain_http_is_for_this_machine_and_for_those_who_ask() {
    let place = Place::empty("[tools]\ntimeout = \"1s\"\n");
    let plain = refused_without_a_trace(&place, &["tool", "add", "http://files.example/x.wasm"]).await;
    assert!(plain.contains("--plain-http"), "{plain}");
    assert!(plain.contains("--plain-http=files.example"), "{plain}");
    for (source, says) in [
        ("https://user:pw@a.example/x.wasm", "password"),
        ("https://a.example/x.wasm?signature=x", "often a key"),
        ("ftp://a.example/x.wasm", "no source"),
        ("oci://acme/x:1", "no registry"),
    ] {
        let usage = place.run(&["tool", "add", source]).await;
        assert_eq!(usage.status.code(), Some(2), "{}", said(&usage));
        assert!(said(&usage).contains(says), "{}", said(&usage));
        for secret in ["user:pw", "signature=x"] {
            assert!(!said(&usage).contains(secret), "{}", said(&usage));
        }
    }
}

#[tokio::test]
async fn plain_http_that_was_meant_for_one_server_is_for_no_other() {
    let place = Place::empty("[tools]\ntimeout = \"1s\"\n");
    let source = "http://files.example/x.wasm";
    let refused = refused_without_a_trace(&place, &["tool", "add", source, "--plain-http=files.example:8080"]).await;
    assert!(refused.contains("plain http"), "{refused}");
    // It names no server itself.
    let usage = place.run(&["tool", "lock", "--plain-http"]).await;
    assert_eq!(usage.status.code(), Some(2), "{}", said(&usage));
    assert!(said(&usage).contains("--plain-http=HOST"), "{}", said(&usage));
    let usage = place
        .run(&["tool", "add", source, "--plain-http=https://files.example"])
        .await;
    assert_eq!(usage.status.code(), Some(2), "{}", said(&usage));
    assert!(said(&usage).contains("is no server"), "{}", said(&usage));
}

/// A web server with one component.
pub(crate) struct Files {
    pub(crate) wasm: Vec<u8>,
    host: String,
    signature: Arc<Mutex<Option<Vec<u8>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Files {
    pub(crate) async fn start(wasm: Vec<u8>) -> Self {
        use axum::{Router, routing::get};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let served = wasm.clone();
        let signature = Arc::<Mutex<Option<Vec<u8>>>>::default();
        let signed = Arc::clone(&signature);
        let sig = move || {
            let signature = signed.lock().unwrap().clone();
            std::future::ready(signature.ok_or(axum::http::StatusCode::NOT_FOUND))
        };
        let app = Router::new()
            .route("/sums.wasm.sig", get(sig))
            .route("/sums.wasm", get(move || std::future::ready(served.clone())))
            .route("/page.html", get(|| std::future::ready("<html>")));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            wasm,
            host,
            signature,
            task,
        }
    }

    /// Puts a signature beside the component.
    pub(crate) fn sign(&self, signature: Vec<u8>) {
        *self.signature.lock().unwrap() = Some(signature);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_registry_on_this_machine_that_has_tls_is_reached_over_it() {
    let authority = Authority::new();
    let registry = Registry::secured_by(&authority).await;
    let place = Place::compiled("");
    write(&place, "sums.wasm", &component("sums", "1.2.0", ""));
    std::fs::write(place.path().join("ca.pem"), authority.pem()).unwrap();
    std::fs::write(place.path().join("other.pem"), Authority::new().pem()).unwrap();
    let run = async |args: &[&str], trusting: bool| {
        let mut command = place.command(args);
        command.env_remove("SSL_CERT_DIR");
        command.env("SSL_CERT_FILE", if trusting { "ca.pem" } else { "other.pem" });
        command.output().await.unwrap()
    };
    let to = registry.source("acme/sums");

    let distrusted = run(&["tool", "publish", "sums.wasm", &to], false).await;
    assert_eq!(distrusted.status.code(), Some(1), "{}", said(&distrusted));
    assert!(
        said(&distrusted).contains("a certificate that is not trusted"),
        "no way around it over plain http: {}",
        said(&distrusted)
    );
    assert!(registry.requests().is_empty());

    let published = run(&["tool", "publish", "sums.wasm", &to], true).await;
    assert!(published.status.success(), "{}", said(&published));
    let added = run(&["tool", "add", &registry.source("acme/sums:1.2.0"), "--yes"], true).await;
    assert!(added.status.success(), "{}", said(&added));
    assert!(lock(&place).contains("sums"));
}

#[tokio::test]
async fn who_gives_no_tag_or_no_scheme_is_told_what_there_is_to_give() {
    let registry = Registry::start().await;
    let place = Place::empty("");
    let bare = registry.source("acme/sums");
    let nothing = refused_without_a_trace(&place, &["tool", "add", &bare]).await;
    assert!(
        nothing.contains("no tag was given") && nothing.contains("check the name"),
        "{nothing}"
    );
    for version in ["1.9.0", "1.10.0"] {
        publish("sums", version, &bare).await;
    }
    let told = refused_without_a_trace(&place, &["tool", "add", &bare]).await;
    assert!(told.contains("there are the versions 1.10.0, 1.9.0"), "{told}");
    // As other programs take it.
    let unschemed = bare.strip_prefix("oci://").unwrap();
    let told = refused_without_a_trace(&place, &["tool", "add", &format!("{unschemed}:1.9.0")]).await;
    assert!(told.contains(&format!("write {bare}:1.9.0")), "{told}");
    let told = refused_without_a_trace(&place, &["tool", "add", "sums.wasm"]).await;
    assert!(!told.contains("registry"), "{told}");
}
