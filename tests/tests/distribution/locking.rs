//! What is pinned stays what it was: tags that move, versions that go back, installations that are repeated.

use crate::{
    component, digest, lock, publish,
    registry::{Lie, Registry},
    said, write,
};
use fumehood_tests::Place;
use serde_json::json;

#[tokio::test]
async fn a_tag_that_has_something_else_than_when_it_was_locked_is_refused() {
    let registry = Registry::start().await;
    let source = registry.source("acme/sums:stable");
    publish("sums", "1.0.0", &source).await;
    publish("sums", "1.1.0", &registry.source("acme/sums")).await;
    let place = Place::new("");
    let first = place.json(&["tool", "add", &source]).await;
    let before = lock(&place);
    registry.move_tag("acme/sums:1.1.0", "acme/sums:stable");
    let moved = place.run(&["tool", "add", &source]).await;
    assert_eq!(moved.status.code(), Some(1));
    assert!(
        said(&moved).contains("when it was locked") && said(&moved).contains("--replace"),
        "{}",
        said(&moved)
    );
    assert_eq!(lock(&place), before);
    assert_eq!(place.json(&["tool", "show", "sums"]).await["digest"], first["digest"]);
    let asked = place.json(&["tool", "add", &source, "--replace"]).await;
    assert_eq!(asked["version"], "1.1.0");
    assert_ne!(lock(&place), before);
}

#[tokio::test]
async fn an_older_version_than_the_locked_one_is_refused_unless_asked_for() {
    let registry = Registry::start().await;
    for version in ["1.9.0", "1.10.0"] {
        publish("sums", version, &registry.source("acme/sums")).await;
    }
    let place = Place::new("");
    place.json(&["tool", "add", &registry.source("acme/sums:1.10.0")]).await;
    let old = registry.source("acme/sums:1.9.0");
    let back = place.run(&["tool", "add", &old]).await;
    assert_eq!(back.status.code(), Some(1));
    assert!(said(&back).contains("older than 1.10.0"), "{}", said(&back));
    assert_eq!(place.json(&["tool", "show", "sums"]).await["version"], "1.10.0");
    assert_eq!(
        place.json(&["tool", "add", &old, "--replace"]).await["version"],
        "1.9.0"
    );
}

#[tokio::test]
async fn one_of_the_same_name_from_somebody_else_is_refused_unless_asked_for() {
    let registry = Registry::start().await;
    publish("sums", "1.0.0", &registry.source("acme/sums")).await;
    publish("sums", "9.0.0", &registry.source("evil/sums")).await;
    let place = Place::new("");
    place.json(&["tool", "add", &registry.source("acme/sums:1.0.0")]).await;
    let other = place.run(&["tool", "add", &registry.source("evil/sums:9.0.0")]).await;
    assert_eq!(other.status.code(), Some(1));
    assert!(said(&other).contains("of the same name"), "{}", said(&other));
    assert_eq!(place.json(&["tool", "show", "sums"]).await["version"], "1.0.0");
}

#[tokio::test]
async fn one_from_elsewhere_takes_the_place_of_no_own_and_no_standard_component_unless_asked_for() {
    let registry = Registry::start().await;
    publish("sums", "9.0.0", &registry.source("evil/sums")).await;
    publish("files", "9.0.0", &registry.source("evil/files")).await;
    let place = Place::new("[tool.named]\nsource = \"named.wasm\"\n");
    write(&place, "named.wasm", &component("named", "1.0.0", ""));
    publish("named", "9.0.0", &registry.source("evil/named")).await;
    write(&place, "own.wasm", &component("sums", "1.0.0", ""));
    place.json(&["tool", "add", "own.wasm", "--yes"]).await;
    let pinned = lock(&place);
    let mut before = Vec::new();
    for (name, says) in [
        ("sums", "is locked from own.wasm"),
        ("files", "is installed, and fumehood.lock does not say from where"),
        ("named", "is installed, and fumehood.lock does not say from where"),
    ] {
        let there = place.json(&["tool", "show", name]).await;
        let source = registry.source(&format!("evil/{name}:9.0.0"));
        let refused = place.run(&["tool", "add", &source]).await;
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        for part in [says, "--replace", "of the same name"] {
            assert!(said(&refused).contains(part), "{part} in {}", said(&refused));
        }
        assert_eq!(place.json(&["tool", "show", name]).await, there);
        before.push((source, there));
    }
    assert_eq!(lock(&place), pinned);
    let kept = std::fs::read_dir(place.path().join("cache/fumehood/components"));
    assert_eq!(kept.map_or(0, Iterator::count), 0, "it was kept");
    for (source, there) in &before[..2] {
        let asked = place.json(&["tool", "add", source, "--replace"]).await;
        assert_eq!((&asked["name"], &asked["version"]), (&there["name"], &json!("9.0.0")));
        assert!(lock(&place).contains(source.as_str()));
    }
}

#[tokio::test]
async fn the_code_that_is_installed_is_pinned_to_where_it_comes_from_without_being_asked() {
    let registry = Registry::start().await;
    let source = registry.source("acme/sums:1.0.0");
    publish("sums", "1.0.0", &source).await;
    let place = Place::new("");
    write(&place, "own.wasm", &component("sums", "1.0.0", ""));
    place.json(&["tool", "add", "own.wasm"]).await;
    std::fs::remove_file(place.path().join("fumehood.lock")).unwrap();
    place.json(&["tool", "add", &source]).await;
    assert!(lock(&place).contains(&source));
}

#[tokio::test]
async fn what_is_locked_is_installed_again_exactly_and_without_a_network() {
    let registry = Registry::start().await;
    let source = registry.source("acme/sums:1.0.0");
    publish("sums", "1.0.0", &source).await;
    let config = "[tools]\ncache = \"vendor\"\n";
    let place = Place::new(config);
    write(&place, "own.wasm", &component("own", "0.1.0", ""));
    place.json(&["tool", "add", &source]).await;
    place.json(&["tool", "add", "own.wasm"]).await;
    drop(registry);

    let again = Place::new(config);
    std::fs::create_dir(again.path().join("vendor")).unwrap();
    for file in ["fumehood.lock", "own.wasm"] {
        std::fs::copy(place.path().join(file), again.path().join(file)).unwrap();
    }
    let unreachable = again.run(&["tool", "add", "--locked"]).await;
    assert!(
        said(&unreachable).contains("can't be reached"),
        "{}",
        said(&unreachable)
    );
    for kept in std::fs::read_dir(place.path().join("vendor")).unwrap() {
        let kept = kept.unwrap();
        std::fs::copy(kept.path(), again.path().join("vendor").join(kept.file_name())).unwrap();
    }
    let output = again.run(&["tool", "add", "--locked", "--yes"]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(lock(&again), lock(&place));
    let sums = again.json(&["tool", "show", "sums"]).await;
    assert_eq!(sums["digest"], digest(&component("sums", "1.0.0", "")));
    assert_eq!(again.json(&["tool", "show", "own"]).await["version"], "0.1.0");

    write(&again, "own.wasm", &component("own", "0.2.0", ""));
    let changed = again.run(&["tool", "add", "own.wasm", "--locked"]).await;
    assert_eq!(changed.status.code(), Some(1));
    assert!(said(&changed).contains("fumehood.lock says"), "{}", said(&changed));
    let absent = again
        .run(&["tool", "add", "oci://127.0.0.1:1/acme/other:1", "--locked"])
        .await;
    assert!(said(&absent).contains("has nothing from"), "{}", said(&absent));
}

#[tokio::test]
async fn a_registry_that_has_other_content_for_a_locked_digest_is_refused() {
    let registry = Registry::start().await;
    let source = registry.source("acme/sums:1.0.0");
    publish("sums", "1.0.0", &source).await;
    publish("sums", "1.1.0", &registry.source("acme/sums")).await;
    let place = Place::new("");
    place.json(&["tool", "add", &source]).await;
    let again = Place::new("");
    std::fs::copy(place.path().join("fumehood.lock"), again.path().join("fumehood.lock")).unwrap();
    registry.lie(Lie::OtherBlobs);
    let other = again.run(&["tool", "add", "--locked"]).await;
    assert_eq!(other.status.code(), Some(1));
    assert!(said(&other).contains("promised"), "{}", said(&other));
    // The tag may move: what is locked is fetched by its digest.
    registry.lie(Lie::Honest);
    registry.move_tag("acme/sums:1.1.0", "acme/sums:1.0.0");
    let output = again.run(&["tool", "add", "--locked"]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(again.json(&["tool", "show", "sums"]).await["version"], "1.0.0");
}

#[tokio::test]
async fn adding_at_the_same_time_loses_nothing() {
    let place = Place::new("");
    let host = place.serve().await;
    let files: Vec<String> = (0..4).map(|n| format!("sums-{n}.wasm")).collect();
    for (n, file) in files.iter().enumerate() {
        write(&place, file, &component(&format!("sums-{n}"), "1.0.0", ""));
    }
    let adding = files.iter().map(|file| {
        let place = &place;
        let url = host.base.clone();
        async move {
            let output = place.command(&["tool", "add", file]).env("FUMEHOOD_URL", url).output();
            let output = output.await.unwrap();
            assert!(output.status.success(), "{}", said(&output));
        }
    });
    futures::future::join_all(adding).await;
    let pinned = lock(&place);
    for file in &files {
        assert!(pinned.contains(file.as_str()), "{file} in {pinned}");
    }
    assert_eq!(json!(pinned.matches("[[component]]").count()), json!(4));
}
