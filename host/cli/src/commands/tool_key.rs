//! `fumehood tool key|sign`: keys that components are signed with, and signatures of files.

use crate::{
    args::{ToolKey, ToolSign},
    boot,
    commands::secret::hidden,
    distribution::{PrivateKey, beside},
    out::{Out, Style},
};
use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::ExposeSecret as _;
use serde_json::json;
use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The passphrase of a private key.
pub(crate) const PASSPHRASE: &str = "FUMEHOOD_KEY_PASSPHRASE";
const LARGEST_KEY: u64 = 64 << 10;

/// `tool key`
pub(crate) fn key(out: Out, args: &ToolKey) -> anyhow::Result<()> {
    let file = |ending: &str| {
        let mut name = args.name.clone().into_os_string();
        name.push(ending);
        PathBuf::from(name)
    };
    let (private, public) = (file(".key"), file(".pub"));
    for file in [&private, &public] {
        ensure!(
            !file.exists(),
            "{} is there already; no key is written over",
            file.display()
        );
    }
    let passphrase = new_passphrase()?;
    let key = PrivateKey::generate()?;
    let checks = key.public()?;
    write(&private, 0o600, &key.to_sealed_pem(&passphrase)?)?;
    if let Err(error) = write(&public, 0o644, &checks.to_pem()) {
        let _ = fs::remove_file(&private);
        return Err(error);
    }
    let value = json!({"private": private, "public": public, "id": checks.id()});
    out.either(&value, |_| {
        out.line(format_args!(
            "{}  signs; keep it and its passphrase to yourself",
            out.style(Style::Bold, private.display())
        ));
        out.line(format_args!(
            "{}  is for those who are to trust what you sign",
            out.style(Style::Bold, public.display())
        ));
        out.line(out.style(Style::Dim, checks.id()));
    });
    Ok(())
}

/// `tool sign`
pub(crate) fn sign(out: Out, args: &ToolSign) -> anyhow::Result<()> {
    let bytes = fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let key = read(&args.key)?;
    let signature = STANDARD.encode(key.sign(&bytes)?);
    let file = beside(&args.file);
    fs::write(&file, signature).with_context(|| format!("cannot write {}", file.display()))?;
    let value = json!({"signature": file, "key": key.public()?.id()});
    out.either(&value, |_| out.line(format_args!("signed: {}", file.display())));
    Ok(())
}

/// A private key, opened.
pub(crate) fn read(file: &Path) -> anyhow::Result<PrivateKey> {
    let shown = file.display();
    let size = fs::metadata(file)
        .with_context(|| format!("cannot read {shown}"))?
        .len();
    ensure!(size <= LARGEST_KEY, "{shown} is too large to be a key");
    let text = Zeroizing::new(fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?);
    let passphrase = match PrivateKey::is_sealed(&text) {
        true => passphrase(&format!("passphrase of {shown} (not shown): "), "the key is sealed")?,
        false => Zeroizing::default(),
    };
    PrivateKey::from_pem(&text, &passphrase).with_context(|| format!("{shown} can't be used"))
}

/// `why` one is needed.
fn passphrase(prompt: &str, why: &str) -> anyhow::Result<Zeroizing<String>> {
    if let Some(passphrase) = boot::variable(PASSPHRASE) {
        return Ok(Zeroizing::new(passphrase.expose_secret().to_owned()));
    }
    if !io::stdin().is_terminal() {
        bail!("{why}: set {PASSPHRASE}, or use a terminal, where it is asked for");
    }
    hidden(prompt)
}

/// One that is to be remembered, so it is asked for twice.
fn new_passphrase() -> anyhow::Result<Zeroizing<String>> {
    const WHY: &str = "a new key is sealed with a passphrase";
    let first = passphrase("passphrase for the new key (not shown): ", WHY)?;
    if boot::variable(PASSPHRASE).is_none() {
        let again = passphrase("the same again: ", WHY)?;
        ensure!(first == again, "the two are not the same; no key was made");
    }
    ensure!(
        !first.is_empty(),
        "the passphrase is empty: whoever gets the file could sign as you; no key was made"
    );
    Ok(first)
}

fn write(file: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.with_context(|| format!("cannot write {}", file.display()))
}
