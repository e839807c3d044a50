//! `fumehood secret rotate`

use crate::{
    args::Rotate,
    config::Loaded,
    out::{self, Out},
};
use anyhow::bail;
use fumehood_store::{
    MasterKey, StoreUrl,
    rotation::{self, Retired, RotateError, Rotated, Rotation},
};
use serde_json::json;

pub(crate) async fn rotate(out: Out, loaded: &Loaded, args: &Rotate) -> anyhow::Result<()> {
    let data_dir = &loaded.config.data_dir;
    if !data_dir.exists() {
        bail!("{} does not exist: there is nothing to change", data_dir.display());
    }
    let url: StoreUrl = loaded.config.store_url().parse()?;
    let rotation = match (args.dry_run, &args.new_key) {
        (true, _) => Rotation::DryRun,
        (false, None) => Rotation::NewKey,
        (false, Some(file)) => Rotation::To(MasterKey::from_file(file)?),
    };
    let rotated = match rotation::rotate(data_dir, &url, rotation).await {
        Err(RotateError::Open(error @ fumehood_store::OpenError::InUse { .. })) => {
            bail!(
                "{error}. Stop the host, change the key, and start it again: what it serves meanwhile would be cut off halfway"
            )
        }
        other => other?,
    };
    tell(out, args.dry_run, &rotated);
    Ok(())
}

fn tell(out: Out, dry_run: bool, rotated: &Rotated) {
    let retired = match &rotated.retired {
        Retired::InFile(file) => Some(file.display().to_string()),
        Retired::None | Retired::InEnvironment => None,
    };
    let from: Vec<_> = rotated
        .from
        .iter()
        .map(|(key, secrets)| json!({"key": key, "secrets": secrets}))
        .collect();
    let value = json!({
        "dry_run": dry_run, "key": rotated.to, "from": from, "rewrapped": rotated.rewrapped, "unchanged": rotated.unchanged,
        "retired": retired,
    });
    out.either(&value, |_| {
        for (key, secrets) in &rotated.from {
            let (secrets, were) = (
                out::count(*secrets, "secret"),
                if *secrets == 1 { "was" } else { "were" },
            );
            out.line(format_args!("{secrets} {were} under the master key {key}"));
        }
        let to = rotated.to.as_deref().unwrap_or("a new one");
        let (count, there) = (rotated.rewrapped, rotated.unchanged);
        if dry_run {
            out.line(format_args!(
                "{count} would be put under {to}, already there: {there}; nothing was changed"
            ));
            return;
        }
        if count == 0 {
            let (secrets, they) = (
                out::count(there, "secret"),
                if there == 1 { "it is" } else { "they are" },
            );
            out.line(format_args!("there was nothing to do for {secrets}: {they} under {to}"));
        } else {
            out.line(format_args!("{count} put under {to}, already there: {there}"));
        }
        match &rotated.retired {
            Retired::InFile(file) => out.line(format_args!(
                "the old key is in {} now: backups from before open only with it; delete it when there are none",
                file.display()
            )),
            Retired::InEnvironment => out.line(format_args!(
                "the old key can be removed from FUMEHOOD_MASTER_KEY_PREVIOUS; backups from before open only with it"
            )),
            Retired::None => {}
        }
    });
}
