//! The custom sections of a WebAssembly binary: what names functions and helps debuggers is taken out, the manifest put in.
//!
//! Only the frame of the binary is read, its sections and their sizes, in nested modules and components, too; everything else stays
//! byte for byte. Whether it is a valid component is for the sandbox to say.

/// What carries the manifest.
const MANIFEST: &str = "fumehood:manifest";
/// Magic, version and layer.
const HEAD: usize = 8;
const MODULE: [u8; HEAD] = *b"\0asm\x01\0\0\0";
const COMPONENT: [u8; HEAD] = *b"\0asm\x0d\0\x01\0";
/// Section ids: of both kinds, and of components.
const CUSTOM: u8 = 0;
const CORE_MODULE: u8 = 1;
const NESTED_COMPONENT: u8 = 4;
/// Deeper than any compiler nests. What lies deeper stays as it is.
const DEEPEST: u8 = 16;

/// Why a file is not a component that can be finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoComponent {
    #[error("it is not WebAssembly")]
    NotWasm,
    #[error(
        "it is a core module and no component; build for wasm32-wasip2, or wrap it with `wasm-component-ld` or `wasm-tools component new`"
    )]
    Module,
    #[error("it is cut off or damaged")]
    Damaged,
}

/// A component without names and debug information, that carries this manifest.
pub(super) fn finish(bytes: &[u8], manifest: &str) -> Result<Vec<u8>, NoComponent> {
    match bytes.first_chunk::<HEAD>() {
        Some(&COMPONENT) => {}
        Some(&MODULE) => return Err(NoComponent::Module),
        _ => return Err(NoComponent::NotWasm),
    }
    let carries = manifest_in_force(bytes, 0)?.is_some_and(|(_, found)| found == manifest.as_bytes());
    let keep = |depth: u8, name: &str| !helps_debugging(name) && (carries || depth > 0 || name != MANIFEST);
    let mut finished = Vec::with_capacity(bytes.len() + manifest.len());
    copy(bytes, 0, &keep, &mut finished)?;
    if !carries {
        let mut section = Vec::with_capacity(MANIFEST.len() + 1 + manifest.len());
        put_size(MANIFEST.len(), &mut section);
        section.extend_from_slice(MANIFEST.as_bytes());
        section.extend_from_slice(manifest.as_bytes());
        put_section(CUSTOM, &section, &mut finished);
    }
    Ok(finished)
}

/// The manifest that a host takes, of what is a component and has one.
pub(crate) fn embedded_manifest(bytes: &[u8]) -> Option<&str> {
    let (_, text) = bytes
        .starts_with(&COMPONENT)
        .then(|| manifest_in_force(bytes, 0).ok().flatten())??;
    std::str::from_utf8(text).ok()
}

fn helps_debugging(name: &str) -> bool {
    matches!(
        name,
        "name" | "component-name" | "sourceMappingURL" | "external_debug_info"
    ) || name.starts_with(".debug_")
}

/// The manifest that a host takes: the outermost, and of those the first; with its depth.
fn manifest_in_force(bytes: &[u8], depth: u8) -> Result<Option<(u8, &[u8])>, NoComponent> {
    let mut found: Option<(u8, &[u8])> = None;
    for section in sections(bytes)? {
        let (id, content) = section?;
        let inner = match (custom(id, content)?, nested(id, content, bytes)) {
            (Some((MANIFEST, text)), _) => Some((depth, text)),
            (None, Some(inner)) if depth < DEEPEST => manifest_in_force(inner, depth + 1)?,
            _ => None,
        };
        if let Some((at, text)) = inner
            && found.is_none_or(|(known, _)| at < known)
        {
            found = Some((at, text));
        }
    }
    Ok(found)
}

fn copy(bytes: &[u8], depth: u8, keep: &dyn Fn(u8, &str) -> bool, to: &mut Vec<u8>) -> Result<(), NoComponent> {
    to.extend_from_slice(bytes.get(..HEAD).ok_or(NoComponent::Damaged)?);
    for section in sections(bytes)? {
        let (id, content) = section?;
        if custom(id, content)?.is_some_and(|(name, _)| !keep(depth, name)) {
            continue;
        }
        match nested(id, content, bytes) {
            Some(inner) if depth < DEEPEST => {
                let mut copied = Vec::with_capacity(inner.len());
                copy(inner, depth + 1, keep, &mut copied)?;
                put_section(id, &copied, to);
            }
            _ => put_section(id, content, to),
        }
    }
    Ok(())
}

type Section<'a> = Result<(u8, &'a [u8]), NoComponent>;

/// The sections of a module or component: their ids and contents.
fn sections(bytes: &[u8]) -> Result<impl Iterator<Item = Section<'_>>, NoComponent> {
    let mut rest = bytes.get(HEAD..).ok_or(NoComponent::Damaged)?;
    Ok(std::iter::from_fn(move || {
        let (&id, after) = rest.split_first()?;
        let section = take_sized(after).ok_or(NoComponent::Damaged);
        // Nothing more where one could not be read.
        rest = section.map_or(&[], |(_, rest)| rest);
        Some(section.map(|(content, _)| (id, content)))
    }))
}

/// Name and data of a custom section.
fn custom(id: u8, content: &[u8]) -> Result<Option<(&str, &[u8])>, NoComponent> {
    if id != CUSTOM {
        return Ok(None);
    }
    let (name, data) = take_sized(content).ok_or(NoComponent::Damaged)?;
    let name = std::str::from_utf8(name).map_err(|_| NoComponent::Damaged)?;
    Ok(Some((name, data)))
}

/// The module or component that a section of `within` holds.
fn nested<'a>(id: u8, content: &'a [u8], within: &[u8]) -> Option<&'a [u8]> {
    (within.starts_with(&COMPONENT) && matches!(id, CORE_MODULE | NESTED_COMPONENT)).then_some(content)
}

/// A size in LEB128, and as many bytes; and what follows.
fn take_sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut size = 0_usize;
    for (place, &byte) in bytes.iter().take(5).enumerate() {
        size |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return bytes[place + 1..].split_at_checked(size);
        }
    }
    None
}

fn put_section(id: u8, content: &[u8], to: &mut Vec<u8>) {
    to.push(id);
    put_size(content.len(), to);
    to.extend_from_slice(content);
}

fn put_size(mut size: usize, to: &mut Vec<u8>) {
    loop {
        let low = size.to_le_bytes()[0] & 0x7f;
        size >>= 7;
        if size == 0 {
            return to.push(low);
        }
        to.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPONENT_TEXT: &str = r#"(component $outer
        (@custom "producers" "\00")
        (core module $named (@custom ".debug_info" "long") (func $f (export "f")) (@custom "fumehood:manifest" "inner"))
        (component $nested (core module $deep (func $g (export "g")))))"#;

    fn component() -> Vec<u8> {
        wat::parse_str(COMPONENT_TEXT).unwrap()
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        for section in sections(bytes).unwrap() {
            let (id, content) = section.unwrap();
            if let Some((name, _)) = custom(id, content).unwrap() {
                names.push(name.to_owned());
            }
            if let Some(inner) = nested(id, content, bytes) {
                names.extend(self::names(inner));
            }
        }
        names
    }

    #[test]
    fn names_and_debug_information_are_taken_out_at_every_depth_and_nothing_else() {
        let finished = finish(&component(), "inner").unwrap();
        assert!(
            names(&component()).iter().any(|name| name == "name"),
            "{:?}",
            names(&component())
        );
        assert_eq!(names(&finished), ["producers", MANIFEST]);
        let again = finish(&finished, "inner").unwrap();
        assert_eq!(again, finished);
    }

    #[test]
    fn the_manifest_of_the_folder_wins_over_one_that_the_build_put_in() {
        let finished = finish(&component(), "other").unwrap();
        assert_eq!(manifest_in_force(&finished, 0).unwrap(), Some((0, "other".as_bytes())));
        let replaced = finish(&finished, "third").unwrap();
        assert_eq!(manifest_in_force(&replaced, 0).unwrap(), Some((0, "third".as_bytes())));
        assert_eq!(replaced.len(), finished.len(), "in the place of the other one");
    }

    #[test]
    fn what_is_no_component_is_told_apart() {
        assert_eq!(finish(b"#!/bin/sh", ""), Err(NoComponent::NotWasm));
        assert_eq!(finish(b"", ""), Err(NoComponent::NotWasm));
        assert_eq!(
            finish(&wat::parse_str("(module)").unwrap(), ""),
            Err(NoComponent::Module)
        );
        let whole = component();
        for len in HEAD + 1..whole.len() {
            // A cut between two sections is not visible from outside.
            assert!(matches!(finish(&whole[..len], "m"), Ok(_) | Err(NoComponent::Damaged)));
        }
        assert_eq!(finish(&whole[..whole.len() - 1], "m"), Err(NoComponent::Damaged));
    }

    #[test]
    fn sizes_of_several_bytes_are_read_and_written() {
        let long = "#".repeat(20_000);
        let finished = finish(&component(), &long).unwrap();
        assert_eq!(manifest_in_force(&finished, 0).unwrap(), Some((0, long.as_bytes())));
    }
}
