//! Who a component is where its `tool.toml` leaves that out: the name, the version and the description of the `Cargo.toml` beside it.
//!
//! The Rust SDK puts the same into what plain cargo builds. A folder without a `[package]` gives nothing, and its `tool.toml` has to
//! say who the component is.

use anyhow::{Context as _, bail};
use fumehood_core::name::ComponentName;
use fumehood_policy::{
    manifest::{MAX_MANIFEST, Manifest, ManifestError},
    toml_text,
};
use std::{fs, io, path::Path};
use toml::{Table, Value};

/// A `tool.toml`, and what of its folder completes it.
#[derive(Debug)]
pub(crate) struct Written {
    /// As its author wrote it.
    pub(crate) text: String,
    /// The keys that its author left out, to stand in front of it, one a line.
    head: String,
}

impl Written {
    /// Completes the text of a file.
    ///
    /// # Errors
    /// When what is to complete it can't be read, or can't be a component's.
    pub(crate) fn new(text: String, file: &Path) -> anyhow::Result<Self> {
        let dir = file.parent().unwrap_or(Path::new(""));
        let head = head(&text, dir).with_context(|| format!("{} is not a manifest", file.display()))?;
        Ok(Self { text, head })
    }

    /// The manifest as a component carries it.
    pub(crate) fn whole(&self) -> String {
        if self.head.is_empty() {
            return self.text.clone();
        }
        format!("{}{}", self.head, self.text.trim_start_matches('\u{feff}'))
    }

    /// What it says. The line of an error is that of the author's text.
    pub(crate) fn manifest(&self) -> Result<Manifest, ManifestError> {
        Manifest::parse_toml(&self.whole()).map_err(|error| {
            let line = error
                .line
                .and_then(|line| line.checked_sub(self.head.lines().count()))
                .filter(|line| *line > 0);
            let missing = IDENTITY
                .iter()
                .find(|key| error.message.starts_with(&format!("missing field `{key}`")));
            let message = match missing {
                Some(key) => format!(
                    "{}: give `{key} = \"…\"` at the top, unless a Cargo.toml beside it has a `[package]`, which gives it then",
                    error.message
                ),
                None => error.message,
            };
            ManifestError { line, message }
        })
    }
}

/// What a package says of a component.
const IDENTITY: [&str; 3] = ["name", "version", "description"];
/// The longest version, in bytes.
const LONGEST_VERSION: usize = 64;

fn head(text: &str, dir: &Path) -> anyhow::Result<String> {
    // What is too long or no TOML is refused when it is read as a manifest.
    let given: Table = match text.parse() {
        Ok(given) if text.len() <= MAX_MANIFEST => given,
        _ => return Ok(String::new()),
    };
    let lacking: Vec<&str> = IDENTITY.into_iter().filter(|key| !given.contains_key(*key)).collect();
    if lacking.is_empty() {
        return Ok(String::new());
    }
    let cargo = cargo_toml(dir)?;
    let Some(package) = cargo
        .as_ref()
        .and_then(|cargo| cargo.get("package")?.as_table())
        .filter(|package| package.contains_key("name"))
    else {
        return Ok(String::new());
    };
    let mut head = String::new();
    for key in lacking {
        let value = match package.get(key) {
            None => String::new(),
            Some(Value::String(value)) => value.clone(),
            Some(value) => inherited(dir, package, key, value)?,
        };
        let value = fitting(key, value)?;
        if !value.is_empty() {
            head.push_str(&toml::to_string(&Table::from_iter([(
                key.to_owned(),
                Value::String(value),
            )]))?);
        }
    }
    Ok(head)
}

/// What a component takes from a package's value, on one line.
fn fitting(key: &str, value: String) -> anyhow::Result<String> {
    match key {
        "name" => match ComponentName::new(&value) {
            Ok(name) => Ok(name.to_string()),
            Err(error) => {
                let near = value.to_lowercase().replace('_', "-");
                let near = ComponentName::new(near).map_or_else(|_| "…".to_owned(), |name| name.to_string());
                bail!(
                    "it gives no name, and that of the package in Cargo.toml can't be a component's: {error}; write `name = \"{near}\"` \
                     at the top of tool.toml"
                )
            }
        },
        // As cargo has it.
        "version" if value.is_empty() => Ok("0.0.0".to_owned()),
        "version" if value.len() > LONGEST_VERSION => bail!(
            "it gives no version, and that of the package in Cargo.toml is longer than {LONGEST_VERSION} characters; write \
             `version = \"…\"` at the top of tool.toml"
        ),
        "version" => Ok(value),
        _ => Ok(value.split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

/// A value that a package has from its workspace, as `KEY.workspace = true` says.
fn inherited(dir: &Path, package: &Table, key: &str, value: &Value) -> anyhow::Result<String> {
    if value.get("workspace") != Some(&Value::Boolean(true)) {
        bail!("`{key}` of the package in Cargo.toml is no text; cargo refuses that, too");
    }
    let dir = dir
        .canonicalize()
        .with_context(|| format!("cannot find {}", dir.display()))?;
    let root = match package.get("workspace").and_then(Value::as_str) {
        Some(named) => cargo_toml(&dir.join(named))?,
        None => {
            let mut above = dir.ancestors().map(cargo_toml);
            above
                .find(|cargo| !matches!(cargo, Ok(cargo) if cargo.as_ref().is_none_or(|cargo| !cargo.contains_key("workspace"))))
                .transpose()?
                .flatten()
        }
    };
    let found = root
        .as_ref()
        .and_then(|root| root.get("workspace")?.get("package")?.get(key)?.as_str());
    match found {
        Some(found) => Ok(found.to_owned()),
        None => bail!(
            "it gives no `{key}`, Cargo.toml takes that from its workspace, and there is no `[workspace.package]` above with one; write \
             `{key} = \"…\"` at the top of tool.toml"
        ),
    }
}

/// The `Cargo.toml` of a folder, if it has one.
fn cargo_toml(dir: &Path) -> anyhow::Result<Option<Table>> {
    let file = dir.join("Cargo.toml");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    toml_text::parse(&text)
        .map(Some)
        .with_context(|| format!("it leaves out what {} says, and that is not TOML", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    /// The manifest of a folder with these files.
    fn read(text: &str, files: &[(&str, &str)]) -> Result<(Written, Manifest), String> {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("tool");
        fs::create_dir(&dir).unwrap();
        for (name, content) in files {
            fs::write(dir.join(name), content).unwrap();
        }
        let written = Written::new(text.to_owned(), &dir.join("tool.toml")).map_err(|error| format!("{error:#}"))?;
        let manifest = written.manifest().map_err(|error| error.to_string())?;
        Ok((written, manifest))
    }

    const CARGO: (&str, &str) = (
        "Cargo.toml",
        "[package]\nname = \"tides\"\nversion = \"1.2.0\"\ndescription = \"\"\"Says \"high\"\nor low.\"\"\"\n",
    );

    fn who(manifest: &Manifest) -> (&str, &str, &str) {
        (&manifest.name, &manifest.version, &manifest.description)
    }

    #[test]
    fn what_the_manifest_leaves_out_is_the_packages() {
        for text in ["", "\u{feff}# nothing\n", "[limits]\ntime = \"10s\"\n"] {
            let (written, manifest) = read(text, &[CARGO]).unwrap();
            assert_eq!(who(&manifest), ("tides", "1.2.0", "Says \"high\" or low."));
            assert_eq!(Manifest::parse_toml(&written.whole()).unwrap(), manifest);
            assert_eq!(written.text, text);
        }
        let cargo = ("Cargo.toml", "[package]\nname = \"tides\"\n");
        assert_eq!(who(&read("", &[cargo]).unwrap().1), ("tides", "0.0.0", ""));
    }

    #[test]
    fn what_the_manifest_gives_stands() {
        let text = "name = \"a\"\nversion = \"9\"\ndescription = \"\"\n";
        let (written, manifest) = read(text, &[CARGO]).unwrap();
        assert_eq!(who(&manifest), ("a", "9", ""));
        assert_eq!(written.whole(), text);
        let (_, manifest) = read("version = \"9\"\n", &[CARGO]).unwrap();
        assert_eq!(who(&manifest), ("tides", "9", "Says \"high\" or low."));
        // It need not be one that is understood, where nothing is asked of it.
        read(text, &[("Cargo.toml", "[")]).unwrap();
    }

    #[test]
    fn a_folder_without_a_package_is_told_to_say_it() {
        for files in [&[][..], &[("Cargo.toml", "")], &[("Cargo.toml", "[workspace]\n")]] {
            for (text, words) in [("", "`name = \"…\"`"), ("name = \"a\"\n", "`version = \"…\"`")] {
                let error = read(text, files).unwrap_err();
                assert!(error.contains("give ") && error.contains(words), "{error}");
            }
            read("name = \"a\"\nversion = \"1\"\n", files).unwrap();
        }
    }

    #[test]
    fn an_error_has_the_line_of_the_authors_text() {
        for (text, at) in [
            ("\n[netwrok]\n", "line 2: unknown field `netwrok`"),
            ("version = \"1\"\n[limits]\ntime = 3\n", "line 3: "),
            ("\nversion = \"1\n", "line 2: "),
            ("edition = \"1\"\n", "line 1: unknown field `edition`"),
        ] {
            let error = read(text, &[CARGO]).unwrap_err();
            assert!(error.starts_with(at), "{at}: {error}");
        }
    }

    #[test]
    fn what_a_component_can_not_be_called_is_refused_unless_the_manifest_names_it() {
        let cargo = |name: &str, version: &str| format!("[package]\nname = \"{name}\"\nversion = \"{version}\"\n");
        for (name, near) in [
            ("tide_tables", "tide-tables"),
            ("Tides", "tides"),
            ("2day", "…"),
            (&"a".repeat(64), "…"),
        ] {
            let cargo = cargo(name, "1.0.0");
            let error = read("", &[("Cargo.toml", &cargo)]).unwrap_err();
            assert!(error.contains(&format!("write `name = \"{near}\"`")), "{error}");
            read("name = \"tides\"\n", &[("Cargo.toml", &cargo)]).unwrap();
        }
        let cargo = cargo("tides", &format!("1.0.0-{}", "a".repeat(64)));
        let error = read("", &[("Cargo.toml", &cargo)]).unwrap_err();
        assert!(error.contains("write `version"), "{error}");
        let error = read("", &[("Cargo.toml", "[package]\nname = 3\n")]).unwrap_err();
        assert!(error.contains("no text"), "{error}");
        let error = read("", &[("Cargo.toml", "\n[package\n")]).unwrap_err();
        assert!(error.contains("Cargo.toml") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn what_a_package_has_from_its_workspace_is_found_there() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("tools/tides");
        fs::create_dir_all(&dir).unwrap();
        let mut cargo =
            "[package]\nname = \"tides\"\nversion.workspace = true\ndescription = { workspace = true }\n".to_owned();
        let who_at = |cargo: &str| {
            fs::write(dir.join("Cargo.toml"), cargo).unwrap();
            let manifest = Written::new(String::new(), &dir.join("tool.toml"))?.manifest()?;
            anyhow::Ok((manifest.version, manifest.description))
        };
        let error = format!("{:#}", who_at(&cargo).unwrap_err());
        assert!(
            error.contains("workspace") && error.contains("write `version"),
            "{error}"
        );
        let root = |at: &str, version: &str| {
            let text = format!("[workspace]\n[workspace.package]\nversion = \"{version}\"\ndescription = \"Tides.\"\n");
            fs::write(place.path().join(at).join("Cargo.toml"), text).unwrap();
        };
        root("", "3.0.0");
        fs::write(place.path().join("tools/Cargo.toml"), "[package]\nname = \"between\"\n").unwrap();
        assert_eq!(who_at(&cargo).unwrap(), ("3.0.0".to_owned(), "Tides.".to_owned()));
        fs::create_dir(place.path().join("named")).unwrap();
        root("named", "4.0.0");
        let named = cargo.replace("name = \"tides\"", "name = \"tides\"\nworkspace = \"../../named\"");
        assert_eq!(who_at(&named).unwrap().0, "4.0.0");
        write!(
            cargo,
            "[workspace]\n[workspace.package]\nversion = \"5.0.0\"\ndescription = \"Own.\"\n"
        )
        .unwrap();
        assert_eq!(who_at(&cargo).unwrap(), ("5.0.0".to_owned(), "Own.".to_owned()));
    }
}
