//! Components that should not be compiled, or not for long: they are refused in words, and the host goes on.

use crate::{Process, still_serves};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_tests::{Host, Place, hand_written};
use reqwest::Method;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Tries to add a component and returns why it is refused.
async fn refused(host: &Host, wasm: &[u8]) -> String {
    let body = json!({"wasm": STANDARD.encode(wasm), "name": "bomb", "grant": "requested"});
    let request = host.request(Method::POST, "/v1/tools").json(&body);
    let problem: Value = fumehood_tests::refused(request, 422, "component_refused").await;
    problem["detail"].as_str().unwrap().to_owned()
}

/// A component of one function with this body.
fn function(locals: usize, body: &str) -> Vec<u8> {
    let locals = "i32 ".repeat(locals);
    let text = format!(
        "(component (core module $m (func (export \"f\") (result i32) (local {locals}) {body} (i32.const 0)))
           (core instance $i (instantiate $m))
           (func (export \"f\") (result u32) (canon lift (core func $i \"f\"))))"
    );
    wat::parse_str(text).unwrap()
}

/// Small, and the work of minutes for an optimising compiler: very many variables that live across very many loops.
fn slow_to_compile() -> Vec<u8> {
    const LOCALS: usize = 2000;
    let mut body = "loop ".repeat(900);
    for n in 0..30_000 {
        let (a, b) = (n * 7919 % LOCALS, n * 104_729 % LOCALS);
        write!(body, "local.get {a} local.get {b} i32.add local.set {a} ").unwrap();
    }
    body.push_str(&"i32.const 0 br_if 0 end ".repeat(900));
    function(LOCALS, &body)
}

#[tokio::test]
async fn a_component_that_takes_too_long_to_compile_is_refused_and_stalls_nobody() {
    let place = Place::new("[limits.install]\ncompile_time = \"2s\"\n");
    let host = place.serve().await;
    let bomb = slow_to_compile();
    let others = async {
        for _ in 0..20 {
            still_serves(&host).await;
        }
    };
    let (why, ()) = tokio::join!(refused(&host, &bomb), others);
    assert!(
        why.contains("longer than 2s") && why.contains("`compile_time`"),
        "{why}"
    );
    // Nothing of it goes on.
    Process::of(&host).is_idle().await;
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", host.pid())).unwrap();
    assert_eq!(children.trim(), "");
    host.stop().await;
}

#[tokio::test]
async fn a_component_that_takes_too_much_memory_to_compile_is_refused() {
    let place = Place::new("[limits.install]\ncompile_memory = \"24MiB\"\ncompile_time = \"10m\"\n");
    let host = place.serve().await;
    let before = Process::of(&host).status("VmHWM");
    let why = refused(&host, &slow_to_compile()).await;
    assert!(why.contains("memory") && why.contains("`compile_memory`"), "{why}");
    let grown = Process::of(&host).status("VmHWM") - before;
    assert!(grown < 64 << 10, "the host took {grown} KiB");
    still_serves(&host).await;
    host.stop().await;
}

#[tokio::test]
async fn a_component_larger_than_the_operator_takes_is_refused() {
    let place = Place::new("[limits.install]\ncomponent_size = \"100KiB\"\n");
    let host = place.serve().await;
    let of = |bytes: usize| {
        let padding = "x".repeat(bytes);
        let text = format!(
            "(component (@custom \"padding\" \"{padding}\") (core module $m (func (export \"f\")))
               (core instance $i (instantiate $m)) (func (export \"f\") (canon lift (core func $i \"f\"))))"
        );
        wat::parse_str(text).unwrap()
    };
    for (size, status) in [(90 << 10, 201), (110 << 10, 413)] {
        let request = host
            .request(Method::POST, "/v1/tools?name=padded")
            .header("content-type", "application/wasm")
            .body(of(size));
        assert_eq!(request.send().await.unwrap().status().as_u16(), status);
    }
    host.stop().await;
}

#[tokio::test]
async fn features_that_would_go_round_the_limits_are_not_offered() {
    let place = Place::new("");
    let host = place.serve().await;
    for guest in ["shared-memory", "collected"] {
        let why = refused(&host, &hand_written(guest)).await;
        assert!(why.contains("cannot be compiled"), "{guest}: {why}");
    }
    host.stop().await;
}

#[tokio::test]
async fn types_that_unfold_to_more_than_is_kept_are_refused() {
    let place = Place::new("");
    let host = place.serve().await;
    let before = Process::of(&host).status("VmHWM");
    let why = refused(&host, &hand_written("nested-types")).await;
    assert!(why.contains("the function take") && why.contains("unfold"), "{why}");
    let grown = Process::of(&host).status("VmHWM") - before;
    assert!(grown < 64 << 10, "the host took {grown} KiB");
    host.stop().await;
}

#[tokio::test]
async fn structures_without_end_are_refused_soon() {
    let place = Place::new("[limits.install]\ncompile_time = \"20s\"\n");
    let host = place.serve().await;
    let nested = nested(2000);
    // A function type without parameters and result, very often.
    let types = with_section(TYPES, &list(1_100_000, |_, out| out.extend(b"\x40\0\x01\0")));
    // One such type, and very many functions of it to import.
    let mut imports = with_section(TYPES, &list(1, |_, out| out.extend(b"\x40\0\x01\0")));
    let many = list(110_000, |n, out| {
        let name = format!("a:b/c{n}");
        out.push(0);
        number(name.len(), out);
        out.extend(name.bytes());
        out.extend(b"\x01\0");
    });
    section(IMPORTS, &many, &mut imports);
    for bomb in [nested, types, imports] {
        let why = refused(&host, &bomb).await;
        assert!(why.len() < 4096, "{why}");
    }
    still_serves(&host).await;
    host.stop().await;
}

/// Components within each other, that deep.
fn nested(depth: usize) -> Vec<u8> {
    let mut component = EMPTY.to_vec();
    for _ in 0..depth {
        component = with_section(COMPONENT, &component);
    }
    component
}

// The binary format, as far as it is needed here: the text format has limits of its own, and is slow.
const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
const COMPONENT: u8 = 4;
const TYPES: u8 = 7;
const IMPORTS: u8 = 10;

fn with_section(id: u8, content: &[u8]) -> Vec<u8> {
    let mut component = EMPTY.to_vec();
    section(id, content, &mut component);
    component
}

fn section(id: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(id);
    number(content.len(), out);
    out.extend(content);
}

fn list(count: usize, item: impl Fn(usize, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    number(count, &mut out);
    for n in 0..count {
        item(n, &mut out);
    }
    out
}

/// LEB128.
fn number(mut number: usize, out: &mut Vec<u8>) {
    while number > 0x7f {
        out.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap());
}
