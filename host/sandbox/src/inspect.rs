//! Looks at a component's bytes before wasmtime does, for what wasmtime would not say so well, and for
//! what it does not keep: the embedded manifest, and what it is made of.

use crate::{
    error::LoadError,
    plain::{DOCS_SECTION, Docs},
    world,
};
use fumehood_policy::manifest::MAX_MANIFEST;
use std::collections::BTreeMap;
use wasmparser::{ComponentExternalKind, ComponentTypeRef, Encoding, Instance, Parser, Payload};

const MANIFEST_SECTION: &str = "fumehood:manifest";
/// The first bytes of a component, before its version.
const MAGIC: &[u8; 4] = b"\0asm";
/// What follows the magic in components: the version of the format, and that it is a component.
const COMPONENT_VERSION: [u8; 4] = [0x0d, 0, 1, 0];
/// More imports, exports and names of sections than any component has.
const MOST_NAMES: usize = 10_000;

/// What a component is made of, as its bytes show it. Nothing of it was compiled or run.
///
/// Of imports, of exports and of names of sections there are the first 10000 each: what is further behind is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Anatomy {
    /// The interfaces and functions that it imports, under their full names, such as `wasi:http/outgoing-handler@0.2.0`.
    pub imports: Vec<String>,
    /// The interfaces and functions that it exports.
    pub exports: Vec<String>,
    /// Its custom sections, those of its parts included: names, and the bytes that those of a name have together.
    pub sections: BTreeMap<String, u64>,
}

/// What the bytes show.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inspection {
    pub(crate) manifest: Option<String>,
    /// What is said of the functions that it exports.
    pub(crate) docs: Docs,
    /// Core instances that one instance of the component makes.
    pub(crate) core_instances: u32,
    pub(crate) anatomy: Anatomy,
}

/// What a component is made of.
///
/// # Errors
/// When the bytes are not those of a component that was made for a host like this one: the same as loading it says.
pub fn anatomy(bytes: &[u8]) -> Result<Anatomy, LoadError> {
    Ok(inspect(bytes)?.anatomy)
}

/// Checks that the bytes are a whole component for hosts like this one, and reads what is wanted of it.
///
/// The manifest is the outermost section of its name, since a composed component carries those of its
/// parts as well; a compiler that only knows core modules leaves it in the inner one.
pub(crate) fn inspect(bytes: &[u8]) -> Result<Inspection, LoadError> {
    let Some(version) = bytes.strip_prefix(MAGIC) else {
        return Err(LoadError::NotWasm);
    };
    if let Some(&[format, other, 1, 0]) = version.first_chunk::<4>()
        && [format, other, 1, 0] != COMPONENT_VERSION
    {
        return Err(LoadError::OtherFormat {
            version: u16::from_le_bytes([format, other]),
        });
    }
    let mut depth = 0_u32;
    let mut manifest: Option<(u32, &[u8])> = None;
    let mut docs = Docs::default();
    let mut core_instances = 0;
    let mut anatomy = Anatomy::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| malformed(&error))?;
        match payload {
            Payload::Version { encoding, .. } if depth == 0 && encoding == Encoding::Module => {
                return Err(world::core_module(bytes));
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::InstanceSection(reader) => {
                for instance in reader {
                    if let Instance::Instantiate { .. } = instance.map_err(|error| malformed(&error))? {
                        core_instances += 1;
                    }
                }
            }
            Payload::ComponentImportSection(reader) if depth == 0 => {
                for import in reader {
                    let import = import.map_err(|error| malformed(&error))?;
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        keep(&mut anatomy.imports, import.name.name);
                    }
                }
            }
            Payload::ComponentExportSection(reader) if depth == 0 => {
                for export in reader {
                    let export = export.map_err(|error| malformed(&error))?;
                    if export.kind != ComponentExternalKind::Type {
                        keep(&mut anatomy.exports, export.name.name);
                    }
                }
            }
            Payload::CustomSection(section) => {
                add_up(&mut anatomy.sections, section.name(), section.data().len() as u64);
                if section.name() == MANIFEST_SECTION && manifest.is_none_or(|(found, _)| depth < found) {
                    manifest = Some((depth, section.data()));
                }
                // Those of a part say nothing of what the whole exports.
                if section.name() == DOCS_SECTION && depth == 0 {
                    docs = Docs::read(section.data());
                }
            }
            _ => {}
        }
    }
    world::check(&anatomy)?;
    Ok(Inspection {
        manifest: manifest.map(|(_, text)| manifest_text(text)).transpose()?,
        docs,
        core_instances,
        anatomy,
    })
}

/// Keeps a name while there are few: a small one costs the host ten times the memory that it takes in the component.
// THREAT[T-box-compile]
fn keep(names: &mut Vec<String>, name: &str) {
    if names.len() < MOST_NAMES {
        names.push(name.to_owned());
    }
}

/// Adds up the bytes of a section with those of its name, if that is known or one of the first.
// THREAT[T-box-compile]
fn add_up(sections: &mut BTreeMap<String, u64>, name: &str, bytes: u64) {
    if let Some(total) = sections.get_mut(name) {
        *total += bytes;
    } else if sections.len() < MOST_NAMES {
        sections.insert(name.to_owned(), bytes);
    }
}

// THREAT[T-box-compile]
fn manifest_text(text: &[u8]) -> Result<String, LoadError> {
    if text.len() > MAX_MANIFEST {
        return Err(LoadError::TooLong {
            what: "manifest",
            actual: text.len(),
            limit: MAX_MANIFEST,
        });
    }
    String::from_utf8(text.to_vec()).map_err(|_| LoadError::ManifestNotText)
}

fn malformed(error: &wasmparser::BinaryReaderError) -> LoadError {
    LoadError::Malformed(format!("{} at byte {}", error.message(), error.offset()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn what_is_no_wasm_is_told_from_a_core_module() {
        assert_eq!(inspect(b"#!/bin/sh"), Err(LoadError::NotWasm));
        assert_eq!(inspect(b""), Err(LoadError::NotWasm));
        assert_eq!(inspect(&component("(module)")), Err(LoadError::CoreModule));
    }

    #[test]
    fn a_component_that_is_cut_off_is_malformed() {
        let whole = component("(component (core module (func (export \"f\"))) (core module))");
        for len in 5..whole.len() {
            match inspect(&whole[..len]) {
                Err(LoadError::Malformed(_)) => {}
                // A cut between two sections is not visible from outside.
                Ok(_) => {}
                other => panic!("{len}: {other:?}"),
            }
        }
        assert!(matches!(
            inspect(&whole[..whole.len() - 1]),
            Err(LoadError::Malformed(_))
        ));
    }

    #[test]
    fn the_manifest_is_found_in_an_inner_module() {
        let bytes = component(r#"(component (core module (@custom "fumehood:manifest" "name = \"x\"")))"#);
        assert_eq!(inspect(&bytes).unwrap().manifest.as_deref(), Some("name = \"x\""));
    }

    #[test]
    fn the_outermost_manifest_wins() {
        let bytes = component(
            r#"(component (core module (@custom "fumehood:manifest" "inner")) (@custom "fumehood:manifest" "outer"))"#,
        );
        assert_eq!(inspect(&bytes).unwrap().manifest.as_deref(), Some("outer"));
    }

    #[test]
    fn a_manifest_that_is_too_long_is_refused() {
        let of = |len: usize| {
            let text = "#".repeat(len);
            component(&format!(r#"(component (@custom "fumehood:manifest" "{text}"))"#))
        };
        assert!(inspect(&of(MAX_MANIFEST)).is_ok());
        assert!(matches!(inspect(&of(MAX_MANIFEST + 1)), Err(LoadError::TooLong { .. })));
    }

    #[test]
    fn what_it_is_made_of_is_told_and_of_its_parts_only_the_sections() {
        let bytes = component(
            r#"(component
                (import "acme:rocket/launch@1.0.0" (instance $i (export "go" (func))))
                (import "t" (type (sub resource)))
                (core module (import "inner" "f" (func)) (@custom ".debug_info" "12345"))
                (component (@custom ".debug_info" "678") (import "deep" (func)))
                (export "again" (instance $i)))"#,
        );
        let anatomy = anatomy(&bytes).unwrap();
        assert_eq!(anatomy.imports, ["acme:rocket/launch@1.0.0"]);
        assert_eq!(anatomy.exports, ["again"]);
        assert_eq!(anatomy.sections.get(".debug_info"), Some(&8));
    }

    // T-box-compile
    #[test]
    fn of_names_without_end_only_the_first_are_kept() {
        let each = |part: &dyn Fn(usize) -> String| (0..2 * MOST_NAMES).map(part).collect::<String>();
        let bytes = component(&format!(
            "(component (type $t (func)) {} {} {} {})",
            each(&|i| format!(r#"(import "i{i}" (func (type $t)))"#)),
            each(&|i| format!(r#"(export "e{i}" (func 0))"#)),
            each(&|i| format!(r#"(@custom "s{i}" "1")"#)),
            r#"(@custom "s7" "234") (@custom "late" "5")"#
        ));
        let anatomy = anatomy(&bytes).unwrap();
        assert_eq!((anatomy.imports.len(), &*anatomy.imports[7]), (MOST_NAMES, "i7"));
        assert_eq!((anatomy.exports.len(), &*anatomy.exports[7]), (MOST_NAMES, "e7"));
        assert_eq!(anatomy.sections.len(), MOST_NAMES);
        assert_eq!(
            anatomy.sections.get("s7"),
            Some(&4),
            "what is known is added up to the end"
        );
        assert_eq!(anatomy.sections.get("late"), None);
    }

    #[test]
    fn a_component_of_another_format_is_told_from_a_damaged_one() {
        let mut bytes = component("(component)");
        bytes[4] = 0x0c;
        assert_eq!(inspect(&bytes), Err(LoadError::OtherFormat { version: 0x0c }));
        bytes[4] = 0x0d;
        bytes[6] = 7;
        assert!(matches!(inspect(&bytes), Err(LoadError::Malformed(_))));
    }

    #[test]
    fn a_manifest_that_is_no_text_is_refused() {
        let bytes = component(r#"(component (@custom "fumehood:manifest" "\ff\fe"))"#);
        assert_eq!(inspect(&bytes), Err(LoadError::ManifestNotText));
    }
}
