//! Generates `sdk/rust/src/generated/` from `wit/`.
//!
//! Checked-in bindings spare every tool author the build of a WIT parser. This program writes
//! them, or with `--check` only says whether they are what it would write (exit code 1 if not).
//! It promises nothing about the generated code beyond what `wit-bindgen` promises.
#![forbid(unsafe_code)]

use anyhow::{Context as _, bail};
use std::{fs, path::Path, process::ExitCode};
use wit_bindgen_core::{Files, wit_parser::Resolve};
use wit_bindgen_rust::WithOption;

/// The part of the `tool` world that the SDK offers by itself. The rest of WASI reaches a tool
/// through the standard library, which has its own bindings.
const SDK_WORLD: &str = "
package fumehood:sdk;
world sdk {
    import fumehood:tool/progress@0.1.0;
    import fumehood:tool/secrets@0.1.0;
    import fumehood:tool/peers@0.1.0;
    import fumehood:tool/jobs@0.1.0;
    import wasi:http/outgoing-handler@0.2.12;
    import wasi:keyvalue/store@0.2.0-draft;
    export fumehood:tool/tools@0.1.0;
}
";

/// What a hook exports, apart from what tools do: a component that has the one need not have the other.
const HOOK_WORLD: &str = "
package fumehood:sdk;
world sdk-hook {
    export fumehood:tool/hooks@0.1.0;
}
";

const USAGE: &str = "usage: fumehood-bindgen [--check]

Writes the SDK's bindings from wit/. With --check writes nothing and exits 1 when they are not up to date.";

/// One file of bindings.
struct Bindings {
    file: &'static str,
    text: &'static str,
    world: &'static str,
    export_macro: &'static str,
    module: &'static str,
    /// Interfaces whose types another file has.
    elsewhere: &'static [(&'static str, &'static str)],
}

const ALL: [Bindings; 2] = [
    Bindings {
        file: "bindings.rs",
        text: SDK_WORLD,
        world: "sdk",
        export_macro: "export_tools",
        module: "fumehood::bindings",
        elsewhere: &[],
    },
    Bindings {
        file: "hook_bindings.rs",
        text: HOOK_WORLD,
        world: "sdk-hook",
        export_macro: "export_hooks",
        module: "fumehood::hook_bindings",
        elsewhere: &[("fumehood:tool/types@0.1.0", "crate::bindings::fumehood::tool::types")],
    },
];

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
    let mut all_good = true;
    for bindings in &ALL {
        let name = format!("sdk/rust/src/generated/{}", bindings.file);
        let path = root.join(&name);
        let wanted = generate(&root.join("wit"), bindings)?;
        if fs::read_to_string(&path).is_ok_and(|present| present == wanted) {
            println!("{name} is up to date");
        } else if check {
            eprintln!("{name} is not what wit/ gives: run `cargo run -p fumehood-bindgen` and commit the result");
            all_good = false;
        } else {
            fs::write(&path, wanted).with_context(|| format!("cannot write {name}"))?;
            println!("wrote {name}");
        }
    }
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn generate(wit: &Path, bindings: &Bindings) -> anyhow::Result<String> {
    let mut resolve = Resolve::default();
    resolve
        .push_path(wit)
        .with_context(|| format!("cannot resolve {}", wit.display()))?;
    let package = resolve
        .push_str("sdk.wit", bindings.text)
        .context("cannot resolve the SDK's world")?;
    let world = resolve.select_world(&[package], Some(bindings.world))?;
    let options = wit_bindgen_rust::Opts {
        format: true,
        generate_all: true,
        pub_export_macro: true,
        export_macro_name: Some(bindings.export_macro.to_owned()),
        default_bindings_module: Some(bindings.module.to_owned()),
        with: bindings
            .elsewhere
            .iter()
            .map(|(interface, module)| ((*interface).to_owned(), WithOption::Path((*module).to_owned())))
            .collect(),
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
