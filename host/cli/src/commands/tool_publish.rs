//! `fumehood tool publish`: a component that was built, in a registry.

use crate::{
    args::ToolPublish,
    commands::{tool, tool_add::outside, tool_key},
    component_file::ComponentFile,
    config::Loaded,
    distribution::{Overwrite, Release, push},
    kit::{Project, embedded_manifest},
    out::{Out, Style},
};
use anyhow::{Context as _, bail, ensure};
use fumehood_policy::manifest::Manifest;
use serde_json::json;
use std::path::{Path, PathBuf};

pub(crate) async fn publish(out: Out, loaded: &Loaded, args: &ToolPublish) -> anyhow::Result<()> {
    let path = component(&args.component)?;
    let file = ComponentFile::read(&path)?;
    let manifest = manifest(&file, &path)?;
    // What no host can run is not published.
    let checked = tool::checked(loaded, &path).await?;
    let key = args.key.as_deref().map(tool_key::read).transpose()?;
    let release = Release {
        wasm: &file.wasm,
        manifest: &manifest,
        key: key.as_ref(),
    };
    let overwrite = match args.replace {
        true => Overwrite::Asked,
        false => Overwrite::Never,
    };
    let pushed = push(
        &outside(loaded, &args.way, Some(&args.to.registry))?,
        &release,
        &args.to,
        overwrite,
    )
    .await?;
    let value = json!({
        "name": manifest.name, "version": manifest.version, "digest": checked["digest"],
        "source": pushed.reference.to_string(), "artifact": pushed.artifact, "unchanged": pushed.unchanged,
        "key": key.as_ref().map(|key| key.public().map(|public| public.id())).transpose()?,
    });
    out.either(&value, |_| {
        let done = if pushed.unchanged {
            "was already published"
        } else {
            "published"
        };
        out.line(format_args!(
            "{} {} {}",
            out.style(Style::Bold, &manifest.name),
            manifest.version,
            out.style(Style::Good, done)
        ));
        out.line(format_args!("fumehood tool add {}", pushed.reference));
    });
    Ok(())
}

/// The component of a folder, or the file itself.
fn component(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let project = Project::find(path)?;
    let component = project.component();
    ensure!(
        component.is_file(),
        "{} is not there yet; run `fumehood tool build {}` first",
        component.display(),
        path.display()
    );
    Ok(component)
}

/// What the component itself carries: nothing that lies beside it is published.
fn manifest(file: &ComponentFile, path: &Path) -> anyhow::Result<Manifest> {
    let path = path.display();
    let Some(text) = embedded_manifest(&file.wasm) else {
        bail!(
            "{path} carries no manifest, so nobody would know its version and what it asks for; build it with `fumehood tool build`"
        );
    };
    let manifest = Manifest::parse_toml(text).with_context(|| format!("the manifest in {path} is not valid"))?;
    if let Some(beside) = file
        .beside
        .manifest
        .as_ref()
        .filter(|beside| beside.manifest != manifest)
    {
        bail!(
            "{path} was built before {} was changed; run `fumehood tool build` again, so that what is published is what you see",
            beside.file
        );
    }
    Ok(manifest)
}
