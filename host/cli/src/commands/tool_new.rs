//! `fumehood tool new NAME`: a folder that builds.

use crate::{
    args::ToolNew,
    kit::{Language, New, make},
    out::{Out, Style},
};
use serde_json::json;
use std::path::{Path, PathBuf};

pub(crate) fn new(out: Out, args: &ToolNew) -> anyhow::Result<()> {
    let new = New {
        name: &args.name,
        language: args.lang,
        sdk: args.sdk.as_deref(),
    };
    let files = make(&new, Path::new("."))?;
    let files: Vec<_> = files
        .iter()
        .map(|file| file.strip_prefix(".").unwrap_or(file))
        .collect();
    let value = json!({"name": args.name, "language": args.lang.as_str(), "path": args.name, "files": files});
    out.either(&value, |_| {
        out.line(format_args!(
            "{} in {}",
            out.style(Style::Bold, format_args!("{}/", args.name)),
            args.lang
        ));
        for line in shown(&files) {
            out.line(format_args!("  {line}"));
        }
        out.line("\nnext");
        out.line(format_args!("  cd {}", args.name));
        for step in next(args.lang) {
            out.line(format_args!("  {step}"));
        }
        out.line("README.md says what each of them does, and how to call it.");
    });
    Ok(())
}

/// Each file; the interfaces that the contract refers to, which nobody changes, as the folder that has them.
fn shown(files: &[&Path]) -> Vec<String> {
    const INTERFACES: &str = "wit/deps";
    let mut lines = Vec::new();
    let mut interfaces = 0;
    for file in files {
        let within = file.iter().skip(1).collect::<PathBuf>();
        match within.starts_with(INTERFACES) {
            true => interfaces += 1,
            false => lines.push(file.display().to_string()),
        }
    }
    if let Some(folder) = files
        .first()
        .and_then(|file| file.iter().next())
        .filter(|_| interfaces > 0)
    {
        let folder = Path::new(folder).join(INTERFACES);
        lines.push(format!("{}/ ({interfaces} files)", folder.display()));
    }
    lines
}

/// What its README begins with: built, and tested as far as that takes nothing but what is there.
const fn next(language: Language) -> [&'static str; 3] {
    let natively = match language {
        Language::Rust => "cargo test",
        Language::Js => "npm test",
        Language::Python => "python3 -m unittest",
        Language::C => "sh test.sh",
        Language::Go => "go test",
    };
    ["fumehood tool build", natively, "fumehood tool test"]
}
