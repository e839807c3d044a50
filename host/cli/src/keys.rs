//! API keys: making them, and the first one, which is in a file for the commands.

use anyhow::Context as _;
use fumehood_core::{digest::Digest, id::KeyId, name::OrgName, now};
use fumehood_store::{
    DataDir, Store, StoreError,
    faults::{self, Point},
    record::Key,
};
use secrecy::{ExposeSecret as _, SecretString};
use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// What each token begins with, before the hexadecimal digits of its random bytes.
const PREFIX: &str = "fh_";
const RANDOM_BYTES: usize = 32;
const FILE: &str = "key";

/// Where the key of the org `default` is kept for the commands.
pub(crate) fn file(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// Makes a key. The token is returned here and kept nowhere else.
pub(crate) async fn create(store: &dyn Store, org: &OrgName, label: &str) -> anyhow::Result<(Key, SecretString)> {
    let token = token()?;
    let key = put_in(store, org, label, &token).await?;
    Ok((key, token))
}

/// Makes the first key of an org without keys, and gives it if it did.
///
/// It is in the file before it is in the store: a crash between them leaves a file, which the next start puts in. The other way round
/// it would leave a host whose only key nobody has.
pub(crate) async fn first(
    store: &dyn Store,
    data_dir: &DataDir,
    org: &OrgName,
) -> anyhow::Result<Option<SecretString>> {
    const LABEL: &str = "made at the first start";
    if !store.keys(org).await?.is_empty() {
        return Ok(None);
    }
    let file = file(data_dir.path());
    if let Some(kept) = read(&file).with_context(|| format!("cannot read the key in {}", file.display()))? {
        match store.create_key(&new(org, LABEL), &digest(&kept)).await {
            Ok(()) => return Ok(Some(kept)),
            // It was revoked.
            Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let token = token()?;
    faults::around(Point::FirstKeyWrite, || write(data_dir, &token))
        .with_context(|| format!("cannot write the key to {}", file.display()))?;
    put_in(store, org, LABEL, &token).await?;
    Ok(Some(token))
}

fn token() -> anyhow::Result<SecretString> {
    let mut random = zeroize::Zeroizing::new([0; RANDOM_BYTES]);
    getrandom::fill(&mut *random)
        .ok()
        .context("the system gives no random bytes")?;
    // THREAT[T-org-key-theft]: 256 random bits; the store holds only their digest.
    Ok(SecretString::from(format!("{PREFIX}{}", hex::encode(*random))))
}

async fn put_in(store: &dyn Store, org: &OrgName, label: &str, token: &SecretString) -> anyhow::Result<Key> {
    let key = new(org, label);
    store.create_key(&key, &digest(token)).await?;
    Ok(key)
}

fn new(org: &OrgName, label: &str) -> Key {
    Key {
        id: KeyId::new(),
        org: org.clone(),
        label: label.into(),
        created: now(),
    }
}

fn digest(token: &SecretString) -> Digest {
    Digest::of(token.expose_secret().as_bytes())
}

/// The token in the file; `None` where there is no file, or something else in it than a token of ours.
fn read(file: &Path) -> io::Result<Option<SecretString>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => zeroize::Zeroizing::new(text),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = text.trim();
    // THREAT[T-org-key-theft]: a short text that somebody wrote there is no key.
    let is_ours = text.strip_prefix(PREFIX).is_some_and(|digits| {
        digits.len() == 2 * RANDOM_BYTES && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    });
    Ok(is_ours.then(|| SecretString::from(text)))
}

fn write(data_dir: &DataDir, token: &SecretString) -> io::Result<()> {
    let line = zeroize::Zeroizing::new(format!("{}\n", token.expose_secret()));
    data_dir.write_private(FILE, line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_store::StoreUrl;
    use std::os::unix::fs::PermissionsExt as _;

    async fn opened(dir: &Path) -> fumehood_store::Opened {
        let opened = fumehood_store::open(dir, &StoreUrl::InDataDir).await.unwrap();
        let org = OrgName::default_org();
        if opened.store.org(&org).await.unwrap().is_none() {
            opened.store.create_org(&org).await.unwrap();
        }
        opened
    }

    async fn works(opened: &fumehood_store::Opened, token: &SecretString) -> bool {
        let key = opened.store.key_by_token(&digest(token)).await.unwrap();
        key.is_some()
    }

    #[tokio::test]
    async fn the_first_key_is_in_its_file_and_works() {
        let dir = tempfile::tempdir().unwrap();
        let (opened, org) = (opened(dir.path()).await, OrgName::default_org());
        let key = first(&*opened.store, &opened.lock, &org).await.unwrap().unwrap();
        assert!(works(&opened, &key).await);
        let file = file(dir.path());
        assert_eq!(fs::read_to_string(&file).unwrap().trim(), key.expose_secret());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(first(&*opened.store, &opened.lock, &org).await.unwrap().is_none());
        opened.close().await;
    }

    #[tokio::test]
    async fn a_first_key_that_did_not_come_into_the_store_is_put_in_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let (opened, org) = (opened(dir.path()).await, OrgName::default_org());
        let left = token().unwrap();
        write(&opened.lock, &left).unwrap();
        let key = first(&*opened.store, &opened.lock, &org).await.unwrap().unwrap();
        assert_eq!(key.expose_secret(), left.expose_secret());
        assert!(works(&opened, &left).await);
        opened.close().await;
    }

    #[tokio::test]
    async fn a_revoked_key_in_the_file_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (opened, org) = (opened(dir.path()).await, OrgName::default_org());
        let revoked = first(&*opened.store, &opened.lock, &org).await.unwrap().unwrap();
        let id = opened.store.keys(&org).await.unwrap()[0].id;
        opened.store.revoke_key(&org, id).await.unwrap();
        let key = first(&*opened.store, &opened.lock, &org).await.unwrap().unwrap();
        assert!(works(&opened, &key).await && !works(&opened, &revoked).await);
        opened.close().await;
    }

    #[tokio::test]
    async fn what_is_no_token_in_the_file_does_not_become_a_key() {
        for kept in [&b"hunter2"[..], b"fh_1", b"", b"\xff"] {
            let dir = tempfile::tempdir().unwrap();
            let (opened, org) = (opened(dir.path()).await, OrgName::default_org());
            fs::write(file(dir.path()), kept).unwrap();
            let key = first(&*opened.store, &opened.lock, &org).await.unwrap().unwrap();
            assert_ne!(key.expose_secret().as_bytes(), kept);
            assert!(works(&opened, &key).await);
            opened.close().await;
        }
    }
}
