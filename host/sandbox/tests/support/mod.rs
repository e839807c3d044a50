//! Small components written by hand, and what every test needs to run them.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub
)]

use fumehood_core::{
    call::{Arguments, CallError},
    digest::Digest,
    id::CallId,
    name::ToolName,
};
use fumehood_policy::{
    authority::Authority,
    files::{Access, Files},
    limits::Limits,
    network::NetworkPolicy,
    quantity::{ByteSize, Span},
    tool_pattern::ToolFilter,
};
use fumehood_sandbox::{Call, CallReport, Component, Recall, Sandbox, SandboxConfig, ShareKey, ports::Ports};
use std::{path::PathBuf, sync::Arc, time::Duration};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// What a definition says; the defaults are valid.
#[derive(Clone)]
pub struct Definition {
    pub name: &'static str,
    pub description: &'static str,
    pub input_schema: &'static str,
}

pub const TOOL: Definition = Definition {
    name: "t",
    description: "Does what the test needs.",
    input_schema: r#"{"type":"object"}"#,
};

/// A component with the tool `t`, whose `call` is the given body, in WebAssembly text. In scope: the
/// parameters (`$args`, `$args_len`, …), `$text` (pointer, length → a result of that text), `$json`
/// (the same as JSON content), and what `module` adds (imports first).
pub fn tool(module: &str, body: &str) -> Vec<u8> {
    tool_defined_as(&[TOOL], module, body)
}

pub fn tool_defined_as(definitions: &[Definition], module: &str, body: &str) -> Vec<u8> {
    let (imports, rest) = module.split_once(";;;").unwrap_or((module, ""));
    let data = definition_bytes(definitions);
    let text = format!(
        r#"(module
  {imports}
  (memory $memory (export "memory") 1)
  (global $heap (mut i32) (i32.const 32768))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (block $fits (loop $more
      (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))
      unreachable))
    (local.get $at))
  (func $content (param $kind i32) (param $at i32) (param $len i32) (result i32)
    (i32.store8 (i32.const 16384) (local.get $kind))
    (i32.store (i32.const 16388) (local.get $at))
    (i32.store (i32.const 16392) (local.get $len))
    (i32.store8 (i32.const 16448) (i32.const 0))
    (i32.store (i32.const 16456) (i32.const 16384))
    (i32.store (i32.const 16460) (i32.const 1))
    (i32.store8 (i32.const 16464) (i32.const 0))
    (i32.store8 (i32.const 16476) (i32.const 0))
    (i32.const 16448))
  (func $text (param $at i32) (param $len i32) (result i32)
    (call $content (i32.const 0) (local.get $at) (local.get $len)))
  (func $json (param $at i32) (param $len i32) (result i32)
    (call $content (i32.const 1) (local.get $at) (local.get $len)))
  {rest}
  (func (export "fumehood:tool/tools@0.1.0#definitions") (result i32) (i32.const 0))
  (func (export "fumehood:tool/tools@0.1.0#call")
    (param $id i32) (param $id_len i32) (param $tool i32) (param $tool_len i32)
    (param $args i32) (param $args_len i32) (param $key i32) (param $key_len i32)
    (param $deadline i64) (param $locale i32) (param $locale_at i32) (param $locale_len i32) (result i32)
    {body})
  (data (i32.const 0) "{data}"))"#
    );
    encode(&text, "tool")
}

fn definition_bytes(definitions: &[Definition]) -> String {
    const SIZE: usize = 52;
    let list = 8;
    let mut strings = list + definitions.len() * SIZE;
    let mut records: Vec<u8> = Vec::new();
    let mut texts: Vec<u8> = Vec::new();
    let mut string = |text: &str, out: &mut Vec<u8>| {
        out.extend_from_slice(&(strings as u32).to_le_bytes());
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        texts.extend_from_slice(text.as_bytes());
        strings += text.len();
    };
    for definition in definitions {
        let mut record = Vec::new();
        string(definition.name, &mut record);
        record.extend_from_slice(&[0; 12]); // title
        string(definition.description, &mut record);
        string(definition.input_schema, &mut record);
        record.extend_from_slice(&[0; 12]); // output-schema
        record.extend_from_slice(&[0, 0, 0, 0]); // pure; no hints
        assert_eq!(record.len(), SIZE);
        records.extend(record);
    }
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(list as u32).to_le_bytes());
    bytes.extend_from_slice(&(definitions.len() as u32).to_le_bytes());
    bytes.extend(records);
    bytes.extend(texts);
    assert!(bytes.len() < 16384, "the data overlaps the result");
    bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
}

/// A core module in text as a component of our world.
pub fn encode(text: &str, world: &str) -> Vec<u8> {
    let wit = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default()
        .module(&module)
        .unwrap()
        .validate(true)
        .encode()
        .unwrap()
}

/// Returns its arguments as text.
pub const ECHO: &str = "(call $text (local.get $args) (local.get $args_len))";
/// Never returns.
pub const SPIN: &str = "(loop $forever (br $forever)) unreachable";

pub fn sandbox() -> Sandbox {
    Sandbox::new(&SandboxConfig {
        max_concurrent_calls: 64,
        ..SandboxConfig::new().unwrap()
    })
    .unwrap()
}

pub async fn load(sandbox: &Sandbox, wasm: Vec<u8>) -> Component {
    let digest = Digest::of(&wasm);
    sandbox.load(wasm, digest).await.unwrap()
}

/// Nothing is granted; limits are as small as a test needs them.
pub fn authority() -> Authority {
    Authority {
        network: NetworkPolicy { layers: Vec::new() },
        credentials: Vec::new(),
        files: Files::none(),
        kv: Access::None,
        sign: Vec::new(),
        call_tools: ToolFilter::all_of([Vec::new()]),
        detach: false,
        background: ToolFilter::closed(),
        env: Vec::new(),
        limits: Limits {
            memory: ByteSize::mib(8),
            cpu: Span::from_secs(20),
            time: Span::from_secs(60),
            ..Limits::default()
        },
        rate: None,
        origins: Default::default(),
    }
}

pub fn with_limits(change: impl FnOnce(&mut Limits)) -> Authority {
    let mut authority = authority();
    change(&mut authority.limits);
    authority
}

pub fn call(tool: &str, arguments: &str) -> Call {
    Call {
        id: CallId::new(),
        tool: ToolName::new(tool).unwrap(),
        arguments: serde_json::from_str::<Arguments>(arguments).unwrap(),
        idempotency_key: "key".into(),
        locale: None,
        deadline: None,
        recall: Recall::never(),
        share: ShareKey::default(),
        nested: false,
    }
}

/// Loads a component and calls its tool `t`.
pub async fn run(wasm: Vec<u8>, authority: Authority) -> CallReport {
    run_with(wasm, authority, Ports::denied()).await
}

pub async fn run_with(wasm: Vec<u8>, authority: Authority, ports: Ports) -> CallReport {
    let sandbox = sandbox();
    let component = load(&sandbox, wasm).await;
    sandbox
        .call(&component, call("t", "{}"), Arc::new(authority), ports)
        .await
}

pub fn error(report: CallReport) -> CallError {
    report.result.expect_err("the call should have failed")
}

/// Long enough for a machine under load; reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A guest built from source in the tree.
pub fn guest(name: &str) -> Vec<u8> {
    let dir = match std::env::var_os("FUMEHOOD_GUESTS") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/guests"),
    };
    let path = dir.join(name).with_extension("wasm");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask tools`", path.display()))
}
