//! What a component imports and exports, by name, for those who look at its artifact without fetching it.

use wasmparser::{Parser, Payload};

/// More than any component has.
const MOST: usize = 1000;

/// The names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Interfaces {
    pub(super) exports: Vec<String>,
    pub(super) imports: Vec<String>,
}

/// Those of a component. What can't be read is left out: others say whether it is a component.
pub(super) fn interfaces(wasm: &[u8]) -> Interfaces {
    let mut found = Interfaces::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::ComponentImportSection(section)) if depth == 0 => {
                let names = section.into_iter().flatten().map(|import| import.name.name.to_owned());
                found.imports.extend(names.take(MOST - found.imports.len().min(MOST)));
            }
            Ok(Payload::ComponentExportSection(section)) if depth == 0 => {
                let names = section.into_iter().flatten().map(|export| export.name.name.to_owned());
                found.exports.extend(names.take(MOST - found.exports.len().min(MOST)));
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_outermost_component_are_read() {
        let wasm = wat::parse_str(
            r#"(component
                (import "wasi:cli/exit@0.2.6" (instance))
                (component $inner (import "inner" (instance)))
                (instance $own)
                (export "fumehood:tool/tools@0.1.0" (instance $own)))"#,
        )
        .unwrap();
        let found = interfaces(&wasm);
        assert_eq!(found.imports, ["wasi:cli/exit@0.2.6"]);
        assert_eq!(found.exports, ["fumehood:tool/tools@0.1.0"]);
        assert_eq!(interfaces(b"no wasm"), Interfaces::default());
    }
}
