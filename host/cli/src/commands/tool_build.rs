//! `fumehood tool build [DIR]`: the component of a tool's folder, and what this host says of it.

use crate::{
    args::ToolBuild,
    commands::tool,
    config::Loaded,
    kit::{Project, build},
    out::{Out, Style, text},
};
use serde_json::{Value, json};
use std::path::PathBuf;

pub(crate) async fn command(out: Out, loaded: &Loaded, args: &ToolBuild) -> anyhow::Result<()> {
    built(out, loaded, &Project::find(&args.dir)?).await?;
    Ok(())
}

/// Builds, says what came of it, and returns the component's file.
pub(crate) async fn built(out: Out, loaded: &Loaded, project: &Project) -> anyhow::Result<PathBuf> {
    let built = build(project).await?;
    let mut value = tool::checked(loaded, &built.file).await?;
    value["path"] = json!(built.file);
    value["size"] = json!(built.size);
    value["stripped"] = json!(built.stripped);
    value["language"] = json!(project.language.as_str());
    out.either(&value, |value| show(out, value));
    Ok(built.file)
}

fn show(out: Out, value: &Value) {
    tool::show(out, value);
    let kib = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_u64)
            .unwrap_or_default()
            .div_ceil(1024)
    };
    let mut line = format!("{} ({} KiB", text(value, "path"), kib("size"));
    if kib("stripped") > 0 {
        line.push_str(&format!(
            ", without {} KiB of names and debug information",
            kib("stripped")
        ));
    }
    out.line(format_args!("\n{}", out.style(Style::Good, format_args!("{line})"))));
}
