//! What the names of imports and exports say: which contract and which WASI a component was built for, and whether it was made
//! to be a tool at all. Told before anything is compiled, in words that say what the thing is.
//!
//! The contract is the package `fumehood:tool`. A host takes components of its own 0.1 and of every other 0.1.x: what a later
//! one adds is absent here, and a component that imports such a thing is refused by its name.

use crate::{error::LoadError, inspect::Anatomy, linker::is_linked};
use wasmparser::{Parser, Payload};

/// The version of the package `fumehood:tool` that this host speaks; it takes components of every 0.1.x.
pub const CONTRACT_VERSION: &str = "0.1.0";

/// What the names of the contract's interfaces begin with.
const CONTRACT: &str = "fumehood:tool/";
/// What versions of the contract begin with.
const SERIES: &str = "0.1.";
/// What versions of WASI begin with.
const WASI_SERIES: &str = "0.2.";
/// WASI that is no part of 0.2: the interface, and what its versions begin with.
const LOGGING: (&str, &str) = ("wasi:logging/logging", "0.1.");
/// The interfaces that a component exports to be called by this host.
const ENTRIES: [&str; 2] = ["tools", "hooks"];

/// What calls a component that is no tool, and what such a component is.
const OTHER_WORLDS: [(&str, &str); 3] = [
    ("wasi:cli/run", "a command-line program (it exports wasi:cli/run)"),
    (
        "wasi:http/incoming-handler",
        "a server of HTTP requests (it exports wasi:http/incoming-handler)",
    ),
    (
        "wasi:http/handler",
        "a server of HTTP requests (it exports wasi:http/handler)",
    ),
];

/// Whether an export is for callers of another kind, and never a tool.
pub(crate) fn is_for_others(export: &str) -> bool {
    OTHER_WORLDS.iter().any(|(name, _)| unversioned(export) == *name)
}

/// Refuses what was built for another version of the contract or of WASI, and what is no tool.
pub(crate) fn check(anatomy: &Anatomy) -> Result<(), LoadError> {
    let names = || anatomy.imports.iter().chain(&anatomy.exports);
    let other: Vec<String> = names()
        .filter(|name| name.starts_with(CONTRACT) && patch_of(name).is_none())
        .cloned()
        .collect();
    if !other.is_empty() {
        return Err(LoadError::ContractVersion { names: few(other) });
    }
    let wasi: Vec<String> = anatomy
        .imports
        .iter()
        .filter(|name| of_other_wasi(name))
        .cloned()
        .collect();
    // What it is counts for more than what it was built with: another version would make no tool of it.
    exports(&anatomy.exports)?;
    if !wasi.is_empty() {
        return Err(LoadError::WasiVersion { names: few(wasi) });
    }
    Ok(())
}

/// A component that exports nothing for this host, but something that says what it is.
fn exports(exports: &[String]) -> Result<(), LoadError> {
    let interface = |name: &String| name.strip_prefix(CONTRACT).map(|name| unversioned(name).to_owned());
    if exports
        .iter()
        .filter_map(interface)
        .any(|name| ENTRIES.contains(&&*name))
    {
        return Ok(());
    }
    let unknown: Vec<String> = exports
        .iter()
        .filter(|name| name.starts_with(CONTRACT))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Err(LoadError::UnknownExports { names: few(unknown) });
    }
    match nothing_to_call(exports) {
        refused @ LoadError::NotATool { .. } if exports.iter().all(|name| is_for_others(name)) => Err(refused),
        _ => Ok(()),
    }
}

/// Why a component with these exports, of which none can be called, is refused: it may be something else than a tool.
pub(crate) fn nothing_to_call(exports: &[String]) -> LoadError {
    let other = OTHER_WORLDS
        .iter()
        .find(|(world, _)| exports.iter().any(|name| unversioned(name) == *world));
    match other {
        Some(&(_, what)) => LoadError::NotATool { what },
        None => LoadError::NoTools,
    }
}

/// The part of the contract's version after `0.1.`, of an interface of this series.
fn patch_of(name: &str) -> Option<u64> {
    let (_, version) = name.split_once('@')?;
    let patch = version.strip_prefix(SERIES)?;
    patch.bytes().all(|b| b.is_ascii_digit()).then(|| patch.parse().ok())?
}

/// The newest version of the contract that the names of imports or exports have, if it is newer than this host's.
#[must_use]
pub fn newer_contract<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let own = CONTRACT_VERSION.strip_prefix(SERIES)?.parse().ok()?;
    let newest = names
        .filter(|name| name.starts_with(CONTRACT))
        .filter_map(patch_of)
        .max()?;
    (newest > own).then(|| format!("{SERIES}{newest}"))
}

/// A WASI interface that this host has, in a version that it has not.
fn of_other_wasi(name: &str) -> bool {
    let version = name.split_once('@').map(|(_, version)| version);
    let series = match unversioned(name) == LOGGING.0 {
        true => LOGGING.1,
        false => WASI_SERIES,
    };
    name.starts_with("wasi:") && is_linked(name) && !version.is_some_and(|version| version.starts_with(series))
}

fn unversioned(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

/// What a core module is, as far as what it imports and exports shows whom it was made for.
pub(crate) fn core_module(bytes: &[u8]) -> LoadError {
    let (mut preview1, mut command) = (false, false);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload {
            Ok(Payload::ImportSection(reader)) => {
                for import in reader.into_imports().map_while(Result::ok) {
                    if let Some(made_for) = host_of_import(import.module) {
                        return LoadError::ForeignModule { made_for };
                    }
                    preview1 |= import.module.starts_with("wasi_");
                }
            }
            Ok(Payload::ExportSection(reader)) => {
                for export in reader.into_iter().map_while(Result::ok) {
                    if export.name.starts_with("proxy_abi_version") {
                        return LoadError::ForeignModule {
                            made_for: "proxies (Proxy-Wasm)",
                        };
                    }
                    command |= export.name == "_start";
                }
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    match (preview1, command) {
        (true, true) => LoadError::Preview1Command,
        (true, false) => LoadError::Preview1Library,
        (false, _) => LoadError::CoreModule,
    }
}

/// Which hosts offer core modules something under this name.
fn host_of_import(module: &str) -> Option<&'static str> {
    match module {
        "extism:host/env" | "extism:host/user" => Some("Extism"),
        "wapc" => Some("waPC"),
        "__wbindgen_placeholder__" | "wbg" => Some("JavaScript (wasm-bindgen)"),
        _ if module.ends_with("_bg.js") => Some("JavaScript (wasm-bindgen)"),
        _ => None,
    }
}

/// The first of the names, and how many more there are: nobody reads a hundred thousand.
pub(crate) fn few(names: Vec<String>) -> Vec<String> {
    const SHOWN: usize = 10;
    const LONGEST: usize = 200;
    let more = names.len().saturating_sub(SHOWN);
    let short = |name: String| name.chars().take(LONGEST).collect();
    let mut names: Vec<String> = names.into_iter().take(SHOWN).map(short).collect();
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(imports: &[&str], exports: &[&str]) -> Result<(), LoadError> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        check(&Anatomy {
            imports: owned(imports),
            exports: owned(exports),
            ..Anatomy::default()
        })
    }

    const TOOLS: &str = "fumehood:tool/tools@0.1.0";

    #[test]
    fn every_version_of_the_series_is_taken() {
        for name in [TOOLS, "fumehood:tool/tools@0.1.7", "fumehood:tool/hooks@0.1.99"] {
            assert_eq!(of(&["fumehood:tool/progress@0.1.3"], &[name]), Ok(()), "{name}");
        }
        assert_eq!(
            of(&[], &[TOOLS, "fumehood:tool/later@0.1.5"]),
            Ok(()),
            "what a later version adds to be called is not called"
        );
    }

    #[test]
    fn another_version_of_the_contract_is_refused_by_name() {
        for name in [
            "fumehood:tool/tools@0.2.0",
            "fumehood:tool/tools@1.0.0",
            "fumehood:tool/tools@0.1.0-rc.1",
            "fumehood:tool/tools@0.1.",
            "fumehood:tool/tools",
        ] {
            for refused in [of(&[], &[name]), of(&[name], &[TOOLS])] {
                assert!(
                    matches!(&refused, Err(LoadError::ContractVersion { names }) if names == &[name]),
                    "{name}: {refused:?}"
                );
            }
        }
        let unknown = of(&[], &["fumehood:tool/later@0.1.5"]);
        assert!(matches!(unknown, Err(LoadError::UnknownExports { .. })), "{unknown:?}");
    }

    #[test]
    fn another_wasi_is_refused_and_what_is_no_wasi_of_this_host_is_left_to_the_linker() {
        assert_eq!(
            of(&["wasi:cli/stdout@0.2.9", "wasi:keyvalue/store@0.2.0-draft"], &[TOOLS]),
            Ok(())
        );
        assert_eq!(of(&["wasi:nn/graph@0.3.0"], &[TOOLS]), Ok(()), "unknown altogether");
        let refused = of(&["wasi:cli/stdout@0.3.0"], &[TOOLS]);
        assert!(matches!(refused, Err(LoadError::WasiVersion { .. })), "{refused:?}");
    }

    #[test]
    fn a_program_and_a_server_are_no_tools_unless_they_export_something_else() {
        for name in [
            "wasi:cli/run@0.2.3",
            "wasi:http/incoming-handler@0.2.0",
            "wasi:http/handler@0.3.0-rc-2026-03-15",
        ] {
            let refused = of(&["wasi:http/types@0.3.0-rc-2026-03-15"], &[name]);
            assert!(matches!(refused, Err(LoadError::NotATool { .. })), "{refused:?}");
            assert_eq!(of(&[], &[name, "add"]), Ok(()));
            assert_eq!(of(&[], &[name, TOOLS]), Ok(()));
        }
    }

    #[test]
    fn a_newer_version_of_the_contract_is_told_from_an_older_one() {
        let newer = |names: &[&str]| newer_contract(names.iter().copied());
        assert_eq!(newer(&["fumehood:tool/progress@0.1.0"]), None);
        let names = [
            "wasi:cli/exit@0.2.9",
            "fumehood:tool/peers@0.1.2",
            "fumehood:tool/progress@0.1.12",
        ];
        assert_eq!(newer(&names).as_deref(), Some("0.1.12"));
    }

    #[test]
    fn core_modules_are_told_apart_by_whom_they_were_made_for() {
        let of = |text: &str| core_module(&wat::parse_str(text).unwrap());
        let preview1 = r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))"#;
        assert_eq!(of("(module)"), LoadError::CoreModule);
        assert_eq!(
            of(&format!("(module {preview1} (func (export \"_start\")))")),
            LoadError::Preview1Command
        );
        assert_eq!(of(&format!("(module {preview1})")), LoadError::Preview1Library);
        for import in ["extism:host/env", "wapc", "__wbindgen_placeholder__", "./app_bg.js"] {
            let refused = of(&format!("(module (import \"{import}\" \"f\" (func)) {preview1})"));
            assert!(
                matches!(refused, LoadError::ForeignModule { .. }),
                "{import}: {refused}"
            );
        }
        let proxy = of("(module (func (export \"proxy_abi_version_0_2_1\")))");
        assert!(matches!(proxy, LoadError::ForeignModule { .. }), "{proxy}");
    }
}
