//! Looks at a component's bytes before wasmtime does, for what wasmtime would not say so well, and for
//! what it does not keep: the embedded manifest.

use crate::error::LoadError;
use fumehood_policy::manifest::MAX_MANIFEST;
use wasmparser::{Encoding, Instance, Parser, Payload};

const MANIFEST_SECTION: &str = "fumehood:manifest";

/// What the bytes show.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inspection {
    pub(crate) manifest: Option<String>,
    /// Core instances that one instance of the component makes.
    pub(crate) core_instances: u32,
}

/// Checks that the bytes are a whole component and reads what is wanted of it.
///
/// The manifest is the outermost section of its name, since a composed component carries those of its
/// parts as well; a compiler that only knows core modules leaves it in the inner one.
pub(crate) fn inspect(bytes: &[u8]) -> Result<Inspection, LoadError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(LoadError::NotWasm);
    }
    let mut depth = 0_u32;
    let mut manifest: Option<(u32, &[u8])> = None;
    let mut core_instances = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| malformed(&error))?;
        match payload {
            Payload::Version { encoding, .. } if depth == 0 && encoding == Encoding::Module => {
                return Err(LoadError::CoreModule);
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
            Payload::CustomSection(section)
                if section.name() == MANIFEST_SECTION && manifest.is_none_or(|(found, _)| depth < found) =>
            {
                manifest = Some((depth, section.data()));
            }
            _ => {}
        }
    }
    // THREAT[T-box-compile]
    if let Some((_, text)) = manifest
        && text.len() > MAX_MANIFEST
    {
        return Err(LoadError::TooLong {
            what: "manifest",
            actual: text.len(),
            limit: MAX_MANIFEST,
        });
    }
    let manifest = manifest
        .map(|(_, text)| String::from_utf8(text.to_vec()).map_err(|_| LoadError::ManifestNotText))
        .transpose()?;
    Ok(Inspection {
        manifest,
        core_instances,
    })
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
    fn a_manifest_that_is_no_text_is_refused() {
        let bytes = component(r#"(component (@custom "fumehood:manifest" "\ff\fe"))"#);
        assert_eq!(inspect(&bytes), Err(LoadError::ManifestNotText));
    }
}
