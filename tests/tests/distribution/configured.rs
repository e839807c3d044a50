//! What the configuration names at registries and web servers: locked by a command, and installed by each start without a network.

use crate::{
    component, digest, lock, publish,
    registry::{Lie, Registry},
    said, write,
};
use fumehood_tests::Place;
use std::{fs, process::Output};

fn names(name: &str, source: &str, more: &str) -> String {
    format!("[tools]\ncache = \"vendor\"\n[tool.{name}]\nsource = \"{source}\"\n{more}")
}

fn configure(place: &Place, config: &str) {
    let file = place.path().join("fumehood.toml");
    let text = fs::read_to_string(&file).unwrap();
    let rest = text.find("[tools]").map_or(text.as_str(), |at| &text[..at]);
    fs::write(&file, format!("{rest}{config}")).unwrap();
}

/// Runs what must be refused as a fault of the configuration.
async fn refused(place: &Place, args: &[&str]) -> String {
    let output = place.run(args).await;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    said(&output)
}

fn went_well(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

#[tokio::test]
async fn what_the_configuration_names_at_a_registry_is_installed_at_each_start_without_a_network() {
    let registry = Registry::start().await;
    let source = registry.source("acme/sums:1.0.0");
    publish("sums", "1.0.0", &source).await;
    let place = Place::new(&names("sums", &source, "[tool.sums.grant]\n"));
    for args in [["config", "check"], ["tool", "list"]] {
        let unlocked = refused(&place, &args).await;
        assert!(
            unlocked.contains("fumehood.lock has no sums") && unlocked.contains("fumehood tool lock"),
            "{unlocked}"
        );
    }
    let locked = place.json(&["tool", "lock"]).await;
    let code = digest(&component("sums", "1.0.0", ""));
    assert_eq!(locked["components"][0]["digest"], code.as_str());
    assert_eq!(locked["components"][0]["changed"], true);
    assert!(lock(&place).contains(&code));
    drop(registry);

    let again = place.json(&["tool", "lock"]).await;
    assert_eq!(again["components"][0]["changed"], false, "without a network");
    went_well(&place.run(&["config", "check"]).await);
    let host = place.serve().await;
    let shown = host.get("/v1/tools/sums").await;
    assert_eq!((&shown["digest"], shown["grant"].is_object()), (&code.into(), true));
    host.stop().await;

    // What is installed needs no cache either, and what is neither there nor here is refused.
    fs::remove_dir_all(place.path().join("vendor")).unwrap();
    assert_eq!(place.json(&["tool", "show", "sums"]).await["version"], "1.0.0");
    fs::remove_dir_all(place.data()).unwrap();
    let absent = refused(&place, &["tool", "list"]).await;
    assert!(
        absent.contains("is locked, but not here") && absent.contains("fumehood tool lock"),
        "{absent}"
    );
}

#[tokio::test]
async fn what_is_locked_is_what_the_configuration_names_or_no_host_starts() {
    let registry = Registry::start().await;
    for version in ["1.0.0", "1.1.0"] {
        publish("sums", version, &registry.source("acme/sums")).await;
    }
    let (old, new) = (registry.source("acme/sums:1.0.0"), registry.source("acme/sums:1.1.0"));
    let place = Place::new(&names("sums", &new, ""));
    place.json(&["tool", "lock"]).await;
    configure(&place, &names("sums", &old, ""));
    let other = refused(&place, &["tool", "list"]).await;
    assert!(
        other.contains("acme/sums:1.1.0") && other.contains("tool lock"),
        "{other}"
    );
    let back = place.run(&["tool", "lock"]).await;
    assert_eq!(back.status.code(), Some(1));
    assert!(said(&back).contains("older than 1.1.0"), "{}", said(&back));
    place.json(&["tool", "lock", "--replace"]).await;
    assert_eq!(place.json(&["tool", "show", "sums"]).await["version"], "1.0.0");

    let wrong = format!("digest = \"{}\"\n", digest(b"other"));
    configure(&place, &names("sums", &old, &wrong));
    let pinned = refused(&place, &["tool", "list"]).await;
    assert!(pinned.contains("fumehood.lock has"), "{pinned}");
    let lying = place.run(&["tool", "lock"]).await;
    assert!(said(&lying).contains("asks for"), "{}", said(&lying));

    configure(&place, &names("sum", &old, ""));
    let misnamed = place.run(&["tool", "lock"]).await;
    assert!(said(&misnamed).contains("calls itself `sums`"), "{}", said(&misnamed));
    assert!(!lock(&place).contains("\"sum\""));
}

#[tokio::test]
async fn a_tag_that_moves_after_it_was_locked_changes_no_start() {
    let registry = Registry::start().await;
    let stable = registry.source("acme/sums:stable");
    publish("sums", "1.0.0", &stable).await;
    publish("sums", "1.1.0", &registry.source("acme/sums")).await;
    let place = Place::new(&names("sums", &stable, ""));
    place.json(&["tool", "lock"]).await;
    registry.move_tag("acme/sums:1.1.0", "acme/sums:stable");
    // Not even where it has to be fetched anew.
    fs::remove_dir_all(place.path().join("vendor")).unwrap();
    place.json(&["tool", "lock"]).await;
    assert_eq!(place.json(&["tool", "show", "sums"]).await["version"], "1.0.0");
    fs::remove_dir_all(place.path().join("vendor")).unwrap();
    fs::remove_dir_all(place.data()).unwrap();
    registry.lie(Lie::OtherBlobs);
    let lied = place.run(&["tool", "lock"]).await;
    assert_eq!(lied.status.code(), Some(1));
    assert!(said(&lied).contains("promised"), "{}", said(&lied));
    assert_eq!(fs::read_dir(place.path().join("vendor")).map_or(0, Iterator::count), 0);
    registry.lie(Lie::Honest);
    // An update of the same place is for the next start as well.
    place.json(&["tool", "lock"]).await;
    place.json(&["tool", "update", "sums", "--yes"]).await;
    assert_eq!(place.json(&["tool", "show", "sums"]).await["version"], "1.1.0");
}

#[tokio::test]
async fn an_update_and_a_removal_leave_what_the_configuration_names_startable() {
    let registry = Registry::start().await;
    for version in ["1.0.0", "1.1.0"] {
        publish("sums", version, &registry.source("acme/sums")).await;
    }
    let place = Place::new(&names("sums", &registry.source("acme/sums:1.0.0"), ""));
    place.json(&["tool", "lock"]).await;
    let update = place.run(&["tool", "update", "sums", "--yes"]).await;
    assert_eq!(update.status.code(), Some(1));
    assert!(
        said(&update).contains("acme/sums:1.1.0\"` there, and `fumehood tool lock`"),
        "{}",
        said(&update)
    );
    went_well(&place.run(&["tool", "remove", "sums"]).await);
    assert_eq!(place.json(&["tool", "show", "sums"]).await["version"], "1.0.0");
}

#[tokio::test]
async fn a_damaged_cache_a_lock_that_cannot_be_read_and_what_needs_no_lock_are_told_apart() {
    let registry = Registry::start().await;
    let source = registry.source("acme/sums:1.0.0");
    publish("sums", "1.0.0", &source).await;
    let place = Place::new(&names("sums", &source, ""));
    place.json(&["tool", "lock"]).await;
    for kept in fs::read_dir(place.path().join("vendor")).unwrap() {
        fs::write(
            kept.unwrap().path(),
            component("sums", "1.0.0", "[kv]\naccess = \"read\"\n"),
        )
        .unwrap();
    }
    let changed = refused(&place, &["tool", "list"]).await;
    assert!(changed.contains("is locked, but not here"), "{changed}");
    let unknown = refused(&place, &["tool", "lock", "other"]).await;
    assert!(unknown.contains("no [tool.other]"), "{unknown}");
    fs::write(place.path().join("fumehood.lock"), "version = 1\ncomponents = 3\n").unwrap();
    let unreadable = refused(&place, &["tool", "list"]).await;
    assert!(unreadable.contains("is not a lock file"), "{unreadable}");
    // One's own files need none.
    write(&place, "own.wasm", &component("own", "1.0.0", ""));
    configure(&place, "[tools]\n[tool.own]\nsource = \"own.wasm\"\n");
    assert_eq!(place.json(&["tool", "show", "own"]).await["version"], "1.0.0");
    let own = refused(&place, &["tool", "lock", "own"]).await;
    assert!(own.contains("file of yours"), "{own}");
}
