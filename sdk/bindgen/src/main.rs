//! Generates `sdk/rust/src/bindings.rs` from `wit/`.
//!
//! Checked-in bindings spare every tool author the build of a WIT parser. This program writes
//! them, or with `--check` only says whether they are what it would write (exit code 1 if not).
//! It promises nothing about the generated code beyond what `wit-bindgen` promises.
#![forbid(unsafe_code)]

use anyhow::{Context as _, bail};
use std::{fs, path::Path, process::ExitCode};
use wit_bindgen_core::{Files, wit_parser::Resolve};

/// The part of the `tool` world that the SDK offers by itself. The rest of WASI reaches a tool
/// through the standard library, which has its own bindings.
const SDK_WORLD: &str = "
package fumehood:sdk;
world sdk {
    import fumehood:tool/progress@0.1.0;
    import fumehood:tool/secrets@0.1.0;
    import fumehood:tool/peers@0.1.0;
    import wasi:http/outgoing-handler@0.2.12;
    import wasi:keyvalue/store@0.2.0-draft;
    export fumehood:tool/tools@0.1.0;
}
";

const USAGE: &str = "usage: fumehood-bindgen [--check]

Writes sdk/rust/src/bindings.rs from wit/. With --check writes nothing and exits 1 when the file is not up to date.";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let check = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        _ => {
            eprintln!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("sdk/rust/src/bindings.rs");
    let wanted = generate(&root.join("wit"))?;
    if fs::read_to_string(&path).is_ok_and(|present| present == wanted) {
        println!("sdk/rust/src/bindings.rs is up to date");
    } else if check {
        eprintln!(
            "sdk/rust/src/bindings.rs is not what wit/ gives: run `cargo run -p fumehood-bindgen` and commit the result"
        );
        return Ok(ExitCode::FAILURE);
    } else {
        fs::write(&path, wanted).context("cannot write sdk/rust/src/bindings.rs")?;
        println!("wrote sdk/rust/src/bindings.rs");
    }
    Ok(ExitCode::SUCCESS)
}

fn generate(wit: &Path) -> anyhow::Result<String> {
    let mut resolve = Resolve::default();
    resolve
        .push_path(wit)
        .with_context(|| format!("cannot resolve {}", wit.display()))?;
    let package = resolve
        .push_str("sdk.wit", SDK_WORLD)
        .context("cannot resolve the SDK's world")?;
    let world = resolve.select_world(&[package], Some("sdk"))?;
    let options = wit_bindgen_rust::Opts {
        format: true,
        generate_all: true,
        pub_export_macro: true,
        export_macro_name: Some("export_tools".to_owned()),
        default_bindings_module: Some("fumehood::bindings".to_owned()),
        ..Default::default()
    };
    let mut files = Files::default();
    wit_bindgen_core::WorldGenerator::generate(&mut options.build(), &mut resolve, world, &mut files)?;
    let Some((_, source)) = files.iter().next() else {
        bail!("the generator gave no file");
    };
    Ok(std::str::from_utf8(source)
        .context("the generated bindings are not UTF-8")?
        .to_owned())
}
