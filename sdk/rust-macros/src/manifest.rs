//! The manifest that a component carries: `tool.toml`, with the name, the version and the description of `Cargo.toml` where it leaves
//! them out.
//!
//! `fumehood tool build` completes it in the same way. What a manifest asks for is not looked at: that is the host's.

use proc_macro2::{Literal, TokenStream};
use quote::quote;
use std::{env, fs, io, path::Path};

/// What of `Cargo.toml` says who the component is.
struct Package {
    name: String,
    version: String,
    description: String,
}

/// The manifest of the crate that is compiled, as an expression, or an error that says what to write.
pub(crate) fn expand() -> TokenStream {
    match of_this_crate() {
        Ok(manifest) => {
            let manifest = Literal::byte_string(manifest.as_bytes());
            // Included too, so that a change of the file compiles the crate again.
            quote!({
                const _: &[u8] = ::core::include_bytes!(::core::concat!(::core::env!("CARGO_MANIFEST_DIR"), "/tool.toml"));
                #manifest
            })
        }
        Err(error) => quote!(::core::compile_error!(#error)),
    }
}

fn of_this_crate() -> Result<String, String> {
    let variable =
        |name: &str| env::var(name).map_err(|_| format!("cargo sets {name}, and it is not there: build with cargo"));
    let package = Package {
        name: variable("CARGO_PKG_NAME")?,
        version: variable("CARGO_PKG_VERSION")?,
        description: variable("CARGO_PKG_DESCRIPTION")?,
    };
    let file = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("tool.toml");
    let text = fs::read_to_string(&file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            "tool.toml is not there: beside Cargo.toml, it says what the component asks for; one that asks for \
                                    nothing has an empty one"
                .to_owned()
        }
        _ => format!("tool.toml can't be read: {error}"),
    })?;
    completed(&text, &package)
}

/// The manifest, with the keys in front that its author left to the package.
fn completed(text: &str, package: &Package) -> Result<String, String> {
    let text = text.trim_start_matches('\u{feff}');
    let given = toml::de::DeTable::parse(text).map_err(|error| {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.matches('\n').count() + 1);
        format!("tool.toml is not TOML: line {line}: {}", error.message())
    })?;
    let lacks = |key: &str| !given.get_ref().iter().any(|(own, _)| own.get_ref() == key);
    let mut head = String::new();
    if lacks("name") {
        if !is_component_name(&package.name) {
            return Err(format!(
                "the package's name `{}` can't be that of a component, which has 1 to 63 lower-case letters, digits and dashes, starting with \
                 a letter; write `name = \"…\"` at the top of tool.toml",
                package.name
            ));
        }
        head += &entry("name", &package.name);
    }
    if lacks("version") {
        if package.version.len() > 64 {
            return Err("the package's version is longer than the 64 characters of a component's; write `version = \"…\"` at the top of \
                        tool.toml"
                .to_owned());
        }
        head += &entry("version", &package.version);
    }
    let description = package.description.split_whitespace().collect::<Vec<_>>().join(" ");
    if lacks("description") && !description.is_empty() {
        head += &entry("description", &description);
    }
    Ok(head + text)
}

/// `[a-z][a-z0-9-]{0,62}`.
fn is_component_name(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A line of TOML.
fn entry(key: &str, value: &str) -> String {
    let mut line = format!("{key} = \"");
    for c in value.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            c if c.is_control() => line += &format!("\\u{:04X}", u32::from(c)),
            c => line.push(c),
        }
    }
    line + "\"\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Package {
        Package {
            name: "tide-tables".to_owned(),
            version: "1.2.0".to_owned(),
            description: "Says \"high\"\nor C:\\low.\u{1}".to_owned(),
        }
    }

    #[test]
    fn what_the_manifest_leaves_out_is_the_packages() {
        let whole =
            "name = \"tide-tables\"\nversion = \"1.2.0\"\ndescription = \"Says \\\"high\\\" or C:\\\\low.\\u0001\"\n";
        for text in [
            "",
            "# nothing\n",
            "[limits]\ntime = \"10s\"\n[[credential]]\nname = \"x\"\n",
        ] {
            let completed = completed(text, &package()).unwrap();
            assert_eq!(completed, format!("{whole}{text}"));
            toml::de::DeTable::parse(&completed).unwrap();
        }
    }

    #[test]
    fn what_the_manifest_gives_stands() {
        let text = "\"version\" = \"9\"\ndescription = \"\"\n[network]\n";
        assert_eq!(
            completed(text, &package()).unwrap(),
            format!("name = \"tide-tables\"\n{text}")
        );
        let undescribed = Package {
            description: String::new(),
            ..package()
        };
        assert_eq!(
            completed("name = \"a\"\nversion = \"1\"", &undescribed).unwrap(),
            "name = \"a\"\nversion = \"1\""
        );
    }

    #[test]
    fn what_a_component_can_not_be_called_is_refused_unless_the_manifest_names_it() {
        for name in ["tide_tables", "Tides", "2day", &"a".repeat(64)] {
            let package = Package {
                name: name.to_owned(),
                ..package()
            };
            let error = completed("", &package).unwrap_err();
            assert!(error.contains(name) && error.contains("tool.toml"), "{error}");
            completed("name = \"tides\"\n", &package).unwrap();
        }
        let version = format!("1.0.0-{}", "a".repeat(64));
        let error = completed("", &Package { version, ..package() }).unwrap_err();
        assert!(error.contains("`version"), "{error}");
    }

    #[test]
    fn what_is_not_toml_is_refused_with_its_line() {
        let error = completed("name = \"a\"\nversion = \"1\n", &package()).unwrap_err();
        assert!(error.contains("line 2"), "{error}");
    }
}
