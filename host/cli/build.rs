//! Embeds the standard tools into the binary: the components in the directory that `FUMEHOOD_STANDARD_TOOLS` names, or
//! in `target/guests` of the workspace. Where they are missing, the binary has none, so that building the host never
//! needs the WebAssembly target.

use std::{env, fmt::Write as _, fs, path::PathBuf};

const STANDARD_TOOLS: [&str; 4] = ["clock", "data", "files", "http"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-env-changed=FUMEHOOD_STANDARD_TOOLS");
    let dir = match env::var("FUMEHOOD_STANDARD_TOOLS").ok().filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../target/guests"),
    };
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut table = String::from("pub(crate) const STANDARD_TOOLS: &[(&str, &[u8])] = &[\n");
    for name in STANDARD_TOOLS {
        let file = dir.join(format!("{name}.wasm"));
        println!("cargo::rerun-if-changed={}", file.display());
        if file.exists() {
            fs::copy(&file, out.join(format!("{name}.wasm")))?;
            writeln!(
                table,
                "    (\"{name}\", include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.wasm\"))),"
            )?;
        }
    }
    table.push_str("];\n");
    fs::write(out.join("standard_tools.rs"), table)?;
    Ok(())
}
