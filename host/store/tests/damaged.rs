//! Databases that are not what was written: each is refused with what to do, or read as far as it is whole; nothing is made up.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_core::name::OrgName;
use fumehood_store::{OpenError, Opened, StoreUrl};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A data directory in which a host was, with something to be missed.
async fn used() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path()).await.unwrap();
    opened.store.create_org(&org()).await.unwrap();
    opened.close().await;
    dir
}

fn org() -> OrgName {
    OrgName::new("acme").unwrap()
}

async fn open(dir: &Path) -> Result<Opened, OpenError> {
    fumehood_store::open(dir, &StoreUrl::InDataDir).await
}

fn database(dir: &Path) -> PathBuf {
    dir.join("fumehood.db")
}

/// That it is refused as damaged, with a way out, and left as it is.
async fn refused(dir: &Path) {
    let before = fs::read(database(dir)).unwrap();
    let Err(error) = open(dir).await else {
        panic!("opened");
    };
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("fumehood.db") && text.contains("backup"), "{text}");
    assert!(fs::read(database(dir)).unwrap() == before, "it was changed");
}

#[tokio::test]
async fn a_header_that_is_overwritten_is_refused() {
    let dir = used().await;
    let mut bytes = fs::read(database(dir.path())).unwrap();
    bytes[..100].fill(0xa5);
    fs::write(database(dir.path()), bytes).unwrap();
    refused(dir.path()).await;
}

#[tokio::test]
async fn a_database_that_is_cut_off_is_refused() {
    let dir = used().await;
    let bytes = fs::read(database(dir.path())).unwrap();
    for length in [bytes.len() / 2, 50_000, 4096 + 7] {
        fs::write(database(dir.path()), &bytes[..length]).unwrap();
        refused(dir.path()).await;
    }
}

#[tokio::test]
async fn a_database_that_was_emptied_is_not_begun_anew() {
    let dir = used().await;
    fs::write(database(dir.path()), []).unwrap();
    refused(dir.path()).await;
    // As the refusal says.
    fs::remove_file(database(dir.path())).unwrap();
    let opened = open(dir.path()).await.unwrap();
    assert!(opened.store.org(&org()).await.unwrap().is_none());
    opened.close().await;
}

#[tokio::test]
async fn an_empty_file_in_a_new_directory_becomes_a_database() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(database(dir.path()), []).unwrap();
    open(dir.path()).await.unwrap().close().await;
}

#[tokio::test]
async fn a_log_of_garbage_takes_nothing_from_the_database() {
    let dir = used().await;
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
    fs::write(dir.path().join("fumehood.db-wal"), garbage).unwrap();
    let opened = open(dir.path()).await.unwrap();
    assert!(opened.store.org(&org()).await.unwrap().is_some());
    assert_eq!(opened.check().await.unwrap(), []);
    opened.close().await;
}
