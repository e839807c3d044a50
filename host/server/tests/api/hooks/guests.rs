//! Hooks as components, in a few lines of WebAssembly text each.

use std::path::PathBuf;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// What a hook of the tests does, whatever it is asked.
pub(crate) enum Does<'a> {
    Allows,
    Denies(&'a str),
    /// Gives these arguments.
    Changes(&'a str),
    Spins,
    Traps,
    /// Returns a failure.
    Fails(&'a str),
}

/// Where its text lies, and where the answer.
const ANSWER: &str = "(i32.const 16)";

/// A component that exports `fumehood:tool/hooks`.
pub(crate) fn hook(does: &Does<'_>) -> Vec<u8> {
    let text = match does {
        Does::Denies(text) | Does::Changes(text) | Does::Fails(text) => *text,
        Does::Allows | Does::Spins | Does::Traps => "",
    };
    // `result<decision, failure>`: its payload lies at 8, that of a decision 4 after it, that of a failure 8 after it.
    let decides = |case: u8| {
        format!(
            "(i32.store8 (i32.const 24) (i32.const {case})) (i32.store (i32.const 28) (i32.const 1024)) \
             (i32.store (i32.const 32) (i32.const {}))",
            text.len()
        )
    };
    let body = match does {
        Does::Allows => String::new(),
        Does::Denies(_) => decides(1),
        Does::Changes(_) => decides(2),
        Does::Spins => "(loop $forever (br $forever))".to_owned(),
        Does::Traps => "unreachable".to_owned(),
        Does::Fails(_) => format!(
            "(i32.store8 (i32.const 16) (i32.const 1)) (i32.store8 (i32.const 24) (i32.const 4)) \
             (i32.store (i32.const 32) (i32.const 1024)) (i32.store (i32.const 36) (i32.const {}))",
            text.len()
        ),
    };
    let data: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(
        r#"(module
            (memory (export "memory") 40)
            (global $next (mut i32) (i32.const 65536))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
                (local.set $at (global.get $next))
                (global.set $next
                    (i32.and (i32.add (i32.add (global.get $next) (local.get 3)) (i32.const 15)) (i32.const -16)))
                (local.get $at))
            (data (i32.const 1024) "{data}")
            (func (export "fumehood:tool/hooks@0.1.0#decide")
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32) (result i32)
                {body}
                {ANSWER}))"#
    );
    let wit = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit).unwrap();
    let world = resolve.select_world(&[package], Some("hook")).unwrap();
    let mut module = wat::parse_str(&text).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let mut encoder = ComponentEncoder::default().module(&module).unwrap().validate(true);
    encoder.encode().unwrap()
}
