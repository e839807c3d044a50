//! Doc comments of the WIT that a component was made of, as far as it carries them: the custom section `package-docs`, in the form in which
//! `wit-component` writes it. What can't be read, or is too long, is as if it were not there: a component works without.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The section's name.
pub(crate) const SECTION: &str = "package-docs";
/// The longest section that is read, in bytes.
const LONGEST: usize = 1 << 20;
/// The longest comment of a function, in characters.
const LONGEST_COMMENT: usize = 4096;
/// Its first byte: versions of the format whose documents are read the same way.
const VERSIONS: [u8; 2] = [0, 1];

/// What is said of functions.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Docs {
    #[serde(default)]
    worlds: BTreeMap<String, World>,
    #[serde(default)]
    interfaces: BTreeMap<String, Interface>,
}

/// What is exported stands apart only where something of the same name is imported, or always, by the writer's version.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct World {
    #[serde(default)]
    func_exports: BTreeMap<String, Function>,
    #[serde(default)]
    funcs: BTreeMap<String, Function>,
    #[serde(default)]
    interface_exports: BTreeMap<String, Interface>,
    #[serde(default)]
    interfaces: BTreeMap<String, Interface>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct Interface {
    #[serde(default)]
    funcs: BTreeMap<String, Function>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct Function {
    #[serde(default)]
    docs: Option<String>,
}

impl Docs {
    /// From a section's content.
    pub(crate) fn read(section: &[u8]) -> Self {
        // THREAT[T-box-compile]
        match section.split_first() {
            Some((version, json)) if VERSIONS.contains(version) && json.len() <= LONGEST => {
                serde_json::from_slice(json).unwrap_or_default()
            }
            _ => Self::default(),
        }
    }

    /// What is said of an exported function; `interface` is that in which it is, under its full name.
    pub(super) fn of(&self, interface: Option<&str>, function: &str) -> Option<String> {
        let found = match interface {
            None => self.worlds.values().find_map(|world| {
                let exported = world.func_exports.get(function);
                exported.or_else(|| world.funcs.get(function))?.docs.as_deref()
            }),
            Some(interface) => self.interface(interface)?.funcs.get(function)?.docs.as_deref(),
        };
        let comment: String = found?.trim().chars().take(LONGEST_COMMENT).collect();
        (!comment.is_empty()).then_some(comment)
    }

    fn interface(&self, name: &str) -> Option<&Interface> {
        let short = super::short_name(name);
        let inline = self.worlds.values().find_map(|world| {
            let exported = world.interface_exports.get(name);
            exported.or_else(|| world.interfaces.get(name))
        });
        inline.or_else(|| self.interfaces.get(short))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(json: &str) -> Vec<u8> {
        [&[1], json.as_bytes()].concat()
    }

    #[test]
    fn a_function_is_described_by_its_own_comment_wherever_it_is_exported() {
        let docs = Docs::read(&section(
            r#"{"docs":"all","worlds":{"w":{"docs":"w","funcs":{"read":{"docs":"imported"},"old":{"docs":"Old."}},
                "func_exports":{"read":{"docs":" Reads.\n"},"bare":{"stability":{}},"blank":{"docs":"  "}},
                "interface_exports":{"inline":{"funcs":{"go":{"docs":"Goes."}}}}}},
                "interfaces":{"calc":{"docs":"c","funcs":{"add":{"docs":"Adds."}},"types":{"t":{"docs":"t"}}}}}"#,
        ));
        let of = |interface, name| docs.of(interface, name);
        assert_eq!(of(None, "read").as_deref(), Some("Reads."));
        assert_eq!(of(None, "old").as_deref(), Some("Old."));
        assert_eq!(of(Some("docs:adder/calc@1.2.3"), "add").as_deref(), Some("Adds."));
        assert_eq!(of(Some("inline"), "go").as_deref(), Some("Goes."));
        for (interface, name) in [
            (None, "bare"),
            (None, "blank"),
            (None, "add"),
            (Some("calc"), "go"),
            (Some("x"), "add"),
        ] {
            assert_eq!(of(interface, name), None, "{interface:?} {name}");
        }
    }

    #[test]
    fn what_can_not_be_read_says_nothing() {
        for bytes in [&b""[..], b"\x01", b"\x01{", b"\x07{}", b"\x01[1]", b"{\"worlds\":{}}"] {
            assert_eq!(Docs::read(bytes), Docs::default(), "{bytes:?}");
        }
        let long = section(&format!("{{\"docs\":\"{}\"}}", "x".repeat(LONGEST)));
        assert_eq!(Docs::read(&long), Docs::default());
        let comment = section(&format!(
            r#"{{"worlds":{{"w":{{"funcs":{{"f":{{"docs":"{}"}}}}}}}}}}"#,
            "ä".repeat(LONGEST_COMMENT + 1)
        ));
        assert_eq!(
            Docs::read(&comment).of(None, "f").unwrap().chars().count(),
            LONGEST_COMMENT
        );
    }
}
