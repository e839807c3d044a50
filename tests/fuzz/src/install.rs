//! Installing a component: whatever the bytes, the answer is a component or a refusal. Input: a `.wasm` file.

use bytes::Bytes;
use fumehood_core::digest::Digest;
use fumehood_sandbox::{Sandbox, SandboxConfig};
use std::sync::LazyLock;
use tokio::runtime::Runtime;

struct Installer {
    runtime: Runtime,
    sandbox: Sandbox,
}

static INSTALLER: LazyLock<Installer> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    let mut config = SandboxConfig::new().expect("randomness");
    config.max_concurrent_calls = 4;
    config.max_component_size = 1 << 20;
    let sandbox = runtime.block_on(async { Sandbox::new(&config) }).expect("a sandbox");
    Installer { runtime, sandbox }
});

pub(crate) fn run(input: &[u8]) {
    let installer = &*INSTALLER;
    let wasm = Bytes::copy_from_slice(input);
    let digest = Digest::of(&wasm);
    let loaded = installer.runtime.block_on(installer.sandbox.load(wasm, digest));
    match loaded {
        Ok(component) => {
            for definition in component.tools() {
                assert!(
                    definition.input_schema.is_object(),
                    "a tool without a schema of its arguments"
                );
            }
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    [
        "(component)",
        "(module)",
        r#"(component
            (core module $m (func (export "f") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))
            (core instance $i (instantiate $m))
            (func (export "add") (param "a" s32) (param "b" s32) (result s32) (canon lift (core func $i "f"))))"#,
        r#"(component
            (core module $m (func (export "f") (result i32) (unreachable)) (start 0))
            (core instance $i (instantiate $m))
            (func (export "never") (result s32) (canon lift (core func $i "f"))))"#,
        r#"(component
            (core module $m (memory (export "m") 1) (table 10 funcref) (func (export "f") (result i32) (memory.grow (i32.const 1))))
            (core instance $i (instantiate $m))
            (func (export "grow") (result u32) (canon lift (core func $i "f"))))"#,
        r#"(component (import "wasi:cli/environment@0.2.3" (instance (export "get-environment" (func (result (list (tuple string string))))))))"#,
    ]
    .iter()
    .map(|text| wat::parse_str(text).expect("a seed"))
    .collect()
}
