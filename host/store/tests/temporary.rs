//! Stores that go with their host, begun from a copy of an empty database or made from nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_core::name::{OrgName, SecretName};
use fumehood_store::{EmptyDatabase, Opened, Quotas, open_temporary, record::Owner};
use secrecy::SecretString;
use sqlx::{ConnectOptions as _, sqlite::SqliteConnectOptions};
use std::path::Path;

async fn empty() -> EmptyDatabase {
    EmptyDatabase::make(tempfile::tempdir().unwrap().path()).await.unwrap()
}

async fn begun(dir: &Path, from: Option<&EmptyDatabase>) -> Opened {
    open_temporary(dir, Quotas::default(), from).await.unwrap()
}

/// Everything that the database has but content.
async fn schema(opened: &Opened) -> Vec<(String, String, Option<String>)> {
    let file = opened.lock.path().join("fumehood.db");
    let mut database = SqliteConnectOptions::new().filename(file).connect().await.unwrap();
    sqlx::query_as("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")
        .fetch_all(&mut database)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_store_that_begins_from_a_copy_is_as_one_that_made_its_own() {
    let (copied, made) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let empty = empty().await;
    let copied = begun(copied.path(), Some(&empty)).await;
    let made = begun(made.path(), None).await;
    let of_copy = schema(&copied).await;
    assert!(of_copy.len() > 10);
    assert_eq!(of_copy, schema(&made).await);
    for opened in [&copied, &made] {
        assert_eq!(opened.check().await.unwrap(), []);
        assert_eq!(opened.store.orgs().await.unwrap().len(), 0);
    }
}

#[tokio::test]
async fn hosts_that_begin_from_the_same_copy_share_nothing() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let empty = empty().await;
    let (one, other) = (
        begun(one.path(), Some(&empty)).await,
        begun(other.path(), Some(&empty)).await,
    );
    let org = OrgName::default_org();
    one.store.create_org(&org).await.unwrap();
    let (name, value) = (SecretName::new("key").unwrap(), SecretString::from("first"));
    one.store.secret_set(&Owner::Org(org), &name, &value).await.unwrap();
    assert!(other.store.orgs().await.unwrap().is_empty());
    assert_ne!(one.master.fingerprint(), other.master.fingerprint());
}

#[tokio::test]
async fn no_key_of_a_store_that_goes_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let opened = begun(dir.path(), None).await;
    assert!(!dir.path().join("master.key").exists());
    opened.close().await;
}
