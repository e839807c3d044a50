//! `fumehood backup` and `fumehood restore`

use crate::{
    args::Backup,
    config::Loaded,
    distribution::LockFile,
    out::{Out, count, number},
};
use fumehood_store::{
    MasterKeys, StoreUrl,
    backup::{self, BackupManifest, LeftOutReason, WithKeys},
};
use serde_json::json;
use std::path::Path;

pub(crate) async fn backup(out: Out, loaded: &Loaded, args: &Backup) -> anyhow::Result<()> {
    let url: StoreUrl = loaded.config.store_url().parse()?;
    let with_keys = if args.with_keys { WithKeys::Yes } else { WithKeys::No };
    let made = backup::backup(&loaded.config.data_dir, &url, &args.to, with_keys).await?;
    let manifest = &made.manifest;
    let value = json!({
        "backup": args.to, "at": manifest.at, "bytes": made.bytes, "sessions": manifest.sessions, "schema": manifest.schema,
        "master_key": manifest.master_key, "api_key_included": manifest.api_key_included, "left_out": manifest.left_out,
    });
    out.either(&value, |_| {
        out.line(format_args!(
            "{}: {} and all else as of {}, {} bytes",
            args.to.display(),
            count(manifest.sessions, "session"),
            manifest.at.format("%Y-%m-%dT%H:%M:%SZ"),
            number(made.bytes)
        ));
    });
    tell_of_keys(manifest, with_keys);
    tell_of_left_out(manifest);
    tell_of_configuration(loaded);
    Ok(())
}

/// What installs the same again is kept with the configuration, and code that is installed is in the backup.
fn tell_of_configuration(loaded: &Loaded) {
    if LockFile::of(loaded).path().exists() {
        eprintln!(
            "The configuration and fumehood.lock are not in it: keep {} under version control, or beside the backup.",
            match loaded.file {
                Some(_) => "them",
                None => "the lock",
            }
        );
    }
}

/// To standard error, so that it is read also where the output is JSON for machines.
fn tell_of_keys(manifest: &BackupManifest, with_keys: WithKeys) {
    let name = manifest.master_key.name.as_deref().unwrap_or("that is not known");
    match (manifest.master_key.included, with_keys) {
        (true, _) => eprintln!(
            "It holds the master key: whoever has it can read every secret. Keep it as you keep the key, or make backups without."
        ),
        (false, WithKeys::Yes) => {
            eprintln!(
                "The master key {name} is in no file of the data directory, so it is not in the backup: keep a copy of it."
            );
        }
        (false, WithKeys::No) => eprintln!(
            "No key is in it. Secrets open only with the master key {name}: keep a copy of that somewhere else, or make a backup with --with-keys."
        ),
    }
}

fn tell_of_left_out(manifest: &BackupManifest) {
    for left_out in &manifest.left_out {
        let session = left_out.session;
        match left_out.reason {
            LeftOutReason::Changing => {
                eprintln!(
                    "The files of {session} were changed all the time: they are those of moments after the journal's."
                );
            }
            LeftOutReason::CannotBeCopied => eprintln!(
                "The files of {session} are not in it: there is a pipe or device among them, a name that is no text, or a path that is too long."
            ),
        }
    }
}

pub(crate) async fn restore(out: Out, loaded: &Loaded, from: &Path) -> anyhow::Result<()> {
    let url: StoreUrl = loaded.config.store_url().parse()?;
    let data_dir = &loaded.config.data_dir;
    let manifest = backup::restore(from, data_dir, &url).await?.manifest;
    let value = json!({
        "data_dir": data_dir, "at": manifest.at, "made_by": manifest.made_by, "sessions": manifest.sessions,
        "master_key": manifest.master_key, "api_key_included": manifest.api_key_included, "left_out": manifest.left_out,
    });
    out.either(&value, |_| {
        out.line(format_args!(
            "{}: {} and all else as of {}; `fumehood doctor --store` looks at it",
            data_dir.display(),
            count(manifest.sessions, "session"),
            manifest.at.format("%Y-%m-%dT%H:%M:%SZ")
        ));
    });
    let there = MasterKeys::existing(data_dir)?.is_some_and(|keys| {
        let mut all = std::iter::once(keys.first()).chain(keys.others());
        manifest
            .master_key
            .name
            .as_ref()
            .is_none_or(|name| all.any(|key| key.fingerprint() == *name))
    });
    if let (Some(name), false) = (&manifest.master_key.name, there) {
        eprintln!(
            "The master key {name} was not in the backup. Before the first start, put it into {} (mode 0600) or FUMEHOOD_MASTER_KEY: \
             without it the secrets don't open, and a host with secrets doesn't start.",
            data_dir.join("master.key").display()
        );
    }
    if !manifest.api_key_included {
        eprintln!(
            "No API key was in the backup: clients' keys hold as before; for the commands set FUMEHOOD_KEY, or make one with `fumehood key create`."
        );
    }
    eprintln!("Turns that had not ended then go on when the host serves.");
    tell_of_left_out(&manifest);
    Ok(())
}
