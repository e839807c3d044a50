//! An empty database that the commands of one user keep from one run to the next, beside the [compiled code](crate::compiled_code): hosts
//! that go with their command begin from a copy.
//!
//! A database says who may do what. So one is used only if it authenticates under the user's key, and only by the version whose schema it
//! has. Where none can be kept, each host makes its own.

use crate::compiled_code::CompiledCode;
use anyhow::Context as _;
use aws_lc_rs::hmac;
use fumehood_store::EmptyDatabase;
use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

const TAG: usize = 32;
const SCHEMA: usize = 32;

/// The empty database of this version; made if there is none. None, with a line in the log, where it can't be.
pub(crate) async fn of_user(folder: &CompiledCode) -> Option<EmptyDatabase> {
    let kept = read_in_background(folder).await;
    let had = match kept {
        Ok(Some(kept)) => return Some(kept),
        Ok(None) => make(folder).await,
        Err(error) => Err(error),
    };
    had.inspect_err(|error| tracing::warn!("an empty database is not kept: {error:#}"))
        .ok()
}

async fn read_in_background(folder: &CompiledCode) -> anyhow::Result<Option<EmptyDatabase>> {
    let folder = folder.clone();
    tokio::task::spawn_blocking(move || read(&folder)).await?
}

fn file(dir: &Path) -> PathBuf {
    dir.join(format!("empty-{}.db", EmptyDatabase::schema().to_hex()))
}

/// The file: tag over the rest, schema, database. None if there is none, or none that the user's key vouches for.
// THREAT[T-box-cache-tamper]
fn read(folder: &CompiledCode) -> anyhow::Result<Option<EmptyDatabase>> {
    let file = file(&folder.dir);
    let kept = match fs::read(&file) {
        Ok(kept) => kept,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let vouched = kept
        .split_first_chunk::<TAG>()
        .filter(|(tag, rest)| hmac::verify(&folder.databases, rest, *tag).is_ok());
    let database = vouched
        .and_then(|(_, rest)| rest.split_first_chunk::<SCHEMA>())
        // One of another version under this one's name.
        .filter(|(schema, _)| *schema == EmptyDatabase::schema().as_bytes())
        .map(|(_, database)| EmptyDatabase::from_kept(database.to_vec()));
    if database.is_none() {
        tracing::warn!("{} is not as it was written; it is made anew", file.display());
    }
    Ok(database)
}

async fn make(folder: &CompiledCode) -> anyhow::Result<EmptyDatabase> {
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    let made = EmptyDatabase::make(dir.path()).await?;
    let (folder, kept) = (folder.clone(), made.clone());
    tokio::task::spawn_blocking(move || keep(&folder, &kept)).await??;
    Ok(made)
}

fn keep(folder: &CompiledCode, database: &EmptyDatabase) -> anyhow::Result<()> {
    let mut rest = EmptyDatabase::schema().as_bytes().to_vec();
    rest.extend_from_slice(database.bytes());
    let tag = hmac::sign(&folder.databases, &rest);
    // Its owner alone reads and writes it.
    let mut unfinished = tempfile::Builder::new()
        .prefix("empty-")
        .suffix(".tmp")
        .tempfile_in(&folder.dir)?;
    unfinished.write_all(tag.as_ref())?;
    unfinished.write_all(&rest)?;
    unfinished.persist(file(&folder.dir))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(home: &tempfile::TempDir) -> CompiledCode {
        CompiledCode::open(&home.path().join("compiled")).unwrap()
    }

    #[tokio::test]
    async fn an_empty_database_is_made_once_and_kept_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::tempdir().unwrap();
        let folder = folder(&home);
        assert!(read(&folder).unwrap().is_none());
        let made = of_user(&folder).await.unwrap();
        let kept = read(&folder).unwrap().unwrap();
        assert_eq!(made.bytes(), kept.bytes());
        let file = file(&folder.dir);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let written = fs::metadata(&file).unwrap().modified().unwrap();
        of_user(&folder).await.unwrap();
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written);
        assert_eq!(fs::read_dir(&folder.dir).unwrap().count(), 2, "the key and this");
    }

    #[tokio::test]
    async fn a_kept_database_that_was_changed_is_not_used_and_made_anew() {
        let home = tempfile::tempdir().unwrap();
        let folder = folder(&home);
        let made = of_user(&folder).await.unwrap();
        let file = file(&folder.dir);
        let whole = fs::read(&file).unwrap();
        let flipped = |at: usize| {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            changed
        };
        let cut = |len: usize| whole[..len].to_vec();
        for changed in [
            flipped(0),
            flipped(TAG),
            flipped(TAG + SCHEMA),
            flipped(whole.len() - 1),
            cut(0),
            cut(TAG + 3),
            cut(whole.len() - 1),
        ] {
            fs::write(&file, &changed).unwrap();
            assert!(read(&folder).unwrap().is_none());
        }
        assert_eq!(of_user(&folder).await.unwrap().bytes().len(), made.bytes().len());
        assert!(read(&folder).unwrap().is_some(), "kept again");
    }

    #[tokio::test]
    async fn a_database_that_another_key_vouches_for_or_of_another_schema_is_not_used() {
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (folder, other) = (folder(&home), super::tests::folder(&other));
        of_user(&other).await.unwrap();
        fs::copy(file(&other.dir), file(&folder.dir)).unwrap();
        assert!(read(&folder).unwrap().is_none(), "another user's");

        let mut rest = vec![7; SCHEMA];
        rest.extend_from_slice(of_user(&folder).await.unwrap().bytes());
        let mut earlier = hmac::sign(&folder.databases, &rest).as_ref().to_vec();
        earlier.extend_from_slice(&rest);
        fs::write(file(&folder.dir), earlier).unwrap();
        assert!(read(&folder).unwrap().is_none(), "another schema");
    }
}
