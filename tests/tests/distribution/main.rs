//! What an operator has from elsewhere: components of registries and web servers, pinned, and refused where somebody lies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod adding;
mod configured;
mod locking;
mod real;
mod registry;
mod signing;
mod updating;

use fumehood_tests::{Place, hand_written};
use sha2::{Digest as _, Sha256};
use std::process::Output;

/// `sha256:…`
fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A component that carries a manifest of this name and version, and what more is in it.
fn component(name: &str, version: &str, more: &str) -> Vec<u8> {
    component_of(hand_written("plain"), name, version, more)
}

/// The same of this code.
fn component_of(mut wasm: Vec<u8>, name: &str, version: &str, more: &str) -> Vec<u8> {
    const SECTION: &str = "fumehood:manifest";
    let manifest = format!("name = \"{name}\"\nversion = \"{version}\"\ndescription = \"For tests.\"\n{more}");
    let mut section = vec![u8::try_from(SECTION.len()).unwrap()];
    section.extend(SECTION.bytes());
    section.extend(manifest.bytes());
    wasm.push(0);
    let mut size = section.len();
    while size > 0x7f {
        wasm.push(u8::try_from(size & 0x7f).unwrap() | 0x80);
        size >>= 7;
    }
    wasm.push(u8::try_from(size).unwrap());
    wasm.extend(section);
    wasm
}

/// Puts a component's file into the place.
fn write(place: &Place, file: &str, wasm: &[u8]) {
    std::fs::write(place.path().join(file), wasm).unwrap();
}

/// Publishes a component there, without a host.
async fn publish(name: &str, version: &str, to: &str) {
    let place = Place::compiled("");
    write(&place, "x.wasm", &component(name, version, ""));
    place.json(&["tool", "publish", "x.wasm", to]).await;
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs what must be refused, in a place where no host ever started: nothing at all may be left of it.
async fn refused_without_a_trace(place: &Place, args: &[&str]) -> String {
    assert!(!place.data().exists());
    let output = place.run(args).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(!place.data().exists(), "a host was started");
    assert!(!place.path().join("fumehood.lock").exists(), "it was pinned");
    let kept = std::fs::read_dir(place.path().join("cache/fumehood/components"));
    assert_eq!(kept.map_or(0, Iterator::count), 0, "it was kept");
    said(&output)
}

/// What is pinned.
fn lock(place: &Place) -> String {
    std::fs::read_to_string(place.path().join("fumehood.lock")).unwrap()
}
