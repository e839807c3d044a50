//! `tool update`: what is newer, how it differs, and who says that it may come.

use crate::{component, component_of, digest, lock, publish, registry::Registry, said, write};
use fumehood_tests::{Place, root};
use serde_json::{Value, json};

/// A place that has the first version, granted all that it asks.
async fn with_the_first(registry: &Registry) -> Place {
    publish("sums", "1.0.0", &registry.source("acme/sums")).await;
    let place = Place::new("");
    place
        .json(&["tool", "add", &registry.source("acme/sums:1.0.0"), "--yes"])
        .await;
    place
}

async fn publish_wasm(wasm: &[u8], to: &str) {
    let place = Place::compiled("");
    write(&place, "x.wasm", wasm);
    place.json(&["tool", "publish", "x.wasm", to]).await;
}

async fn shown(place: &Place) -> Value {
    place.json(&["tool", "show", "sums"]).await
}

#[tokio::test]
async fn a_newer_version_that_asks_for_no_more_comes_with_yes_and_not_without() {
    let registry = Registry::start().await;
    let place = with_the_first(&registry).await;
    let none = place.json(&["tool", "update"]).await;
    assert_eq!((&none["updated"], &none["name"]), (&json!(false), &json!("sums")));

    let text = std::fs::read_to_string(root().join("tests/guests/wat/plain.wat")).unwrap();
    let other = text
        .replace(
            "(func (export \"divide\") (param \"a\" s32)",
            "(func (export \"quotient\") (param \"a\" s32)",
        )
        .replace("(param \"text\" string)", "(param \"words\" string)");
    assert_ne!(text, other);
    let newer = component_of(wat::parse_str(other).unwrap(), "sums", "1.10.0", "");
    publish_wasm(&newer, &registry.source("acme/sums")).await;
    publish("sums", "1.9.0", &registry.source("acme/sums")).await;

    let before = lock(&place);
    let unasked = place.run(&["tool", "update", "sums"]).await;
    assert_eq!(unasked.status.code(), Some(1));
    let words = said(&unasked);
    for part in [
        "1.0.0 → 1.10.0",
        "asks for the same",
        "- the tool divide",
        "+ the tool quotient",
        "- echo_text: `text`",
        "+ echo_text: `words`, which has to be given",
        "nobody can be asked",
    ] {
        assert!(words.contains(part), "{part} in {words}");
    }
    assert_eq!(
        (lock(&place), &shown(&place).await["version"]),
        (before, &json!("1.0.0"))
    );

    let updated = place.json(&["tool", "update", "sums", "--yes"]).await;
    assert_eq!((&updated["updated"], &updated["wider"]), (&json!(true), &json!(false)));
    let now = shown(&place).await;
    assert_eq!(now["version"], "1.10.0");
    assert!(now["grant"].is_object(), "it keeps what it was granted: {now}");
    assert!(lock(&place).contains("acme/sums:1.10.0"));
}

#[tokio::test]
async fn what_asks_for_more_is_marked_and_comes_only_if_that_is_accepted() {
    let registry = Registry::start().await;
    let place = with_the_first(&registry).await;
    let wider = component(
        "sums",
        "1.1.0",
        "[network]\nallow = [\"https://api.example.com\"]\n[kv]\naccess = \"read\"\n",
    );
    publish_wasm(&wider, &registry.source("acme/sums")).await;
    let refused = place.run(&["tool", "update", "--yes"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let words = said(&refused);
    assert!(
        words.contains("+ wider: reach over the network: https://api.example.com"),
        "{words}"
    );
    assert!(words.contains("--accept-wider"), "{words}");
    assert_eq!(shown(&place).await["version"], "1.0.0");
    let accepted = place.json(&["tool", "update", "--yes", "--accept-wider"]).await;
    assert_eq!(accepted["wider"], true);
    let now = shown(&place).await;
    assert_eq!(now["version"], "1.1.0");
    assert_eq!(now["not_granted"], json!([]), "all was granted before: {now}");
}

#[tokio::test]
async fn what_was_granted_less_gets_no_more_by_an_update() {
    let registry = Registry::start().await;
    let network = "[network]\nallow = [\"https://api.example.com\"]\n";
    publish_wasm(&component("sums", "1.0.0", network), &registry.source("acme/sums")).await;
    let place = Place::new("");
    write(&place, "none.toml", b"");
    place
        .json(&[
            "tool",
            "add",
            &registry.source("acme/sums:1.0.0"),
            "--grant",
            "none.toml",
        ])
        .await;
    let wider = component("sums", "1.1.0", &format!("{network}[kv]\naccess = \"read\"\n"));
    publish_wasm(&wider, &registry.source("acme/sums")).await;
    place.json(&["tool", "update", "--yes", "--accept-wider"]).await;
    let now = shown(&place).await;
    assert_eq!(now["version"], "1.1.0");
    assert_eq!(now["not_granted"].as_array().unwrap().len(), 2, "{now}");
}

#[tokio::test]
async fn what_is_pinned_by_its_digest_alone_is_passed_over_unless_it_is_named() {
    let registry = Registry::start().await;
    publish("sums", "1.0.0", &registry.source("acme/sums")).await;
    publish("other", "1.0.0", &registry.source("acme/other")).await;
    let place = Place::new("");
    place.json(&["tool", "add", &registry.source("acme/sums:1.0.0")]).await;
    let artifact = digest(registry.bytes("acme/other:1.0.0").as_ref());
    let pinned = registry.source(&format!("acme/other@{artifact}"));
    place.json(&["tool", "add", &pinned]).await;
    let all = place.json(&["tool", "update"]).await;
    assert_eq!((&all["name"], &all["updated"]), (&json!("sums"), &json!(false)));
    let named = place.run(&["tool", "update", "other"]).await;
    assert_eq!(named.status.code(), Some(1));
    assert!(said(&named).contains("pinned by its digest"), "{}", said(&named));
}

#[tokio::test]
async fn a_tag_that_goes_back_or_to_another_component_is_no_update() {
    let registry = Registry::start().await;
    for version in ["1.0.0", "1.1.0"] {
        publish("sums", version, &registry.source("acme/sums")).await;
    }
    publish("other", "2.0.0", &registry.source("acme/sums")).await;
    registry.move_tag("acme/sums:1.1.0", "acme/sums:stable");
    let place = Place::new("");
    place
        .json(&["tool", "add", &registry.source("acme/sums:stable"), "--yes"])
        .await;
    let before = lock(&place);
    for (tag, says) in [("1.0.0", "older than 1.1.0"), ("2.0.0", "calls itself other")] {
        registry.move_tag(&format!("acme/sums:{tag}"), "acme/sums:stable");
        let refused = place.run(&["tool", "update", "--yes", "--accept-wider"]).await;
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).contains(says), "{}", said(&refused));
    }
    assert_eq!(
        (lock(&place), &shown(&place).await["version"]),
        (before, &json!("1.1.0"))
    );
    let unknown = place.run(&["tool", "update", "nothing"]).await;
    assert!(
        said(&unknown).contains("fumehood.lock has no nothing"),
        "{}",
        said(&unknown)
    );
}
