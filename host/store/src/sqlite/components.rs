//! Components and their grants.

use super::{SqliteStore, decode, failed, insert_failed};
use crate::{
    api::{Components, Result},
    record::Component,
};
use async_trait::async_trait;
use fumehood_core::{
    digest::Digest,
    name::{ComponentName, OrgName},
};
use fumehood_policy::grant::Grant;
use sqlx::sqlite::SqliteConnection;

type Row = (String, String, Vec<u8>, String, String, i64, Option<String>);

const ONE: &str = "SELECT c.org, c.name, c.digest, c.manifest, c.tools, c.added, g.what FROM components c \
     LEFT JOIN grants g ON g.org = c.org AND g.component = c.name AND g.digest = c.digest \
     WHERE c.org = ?1 AND c.name = ?2";
const ALL: &str = "SELECT c.org, c.name, c.digest, c.manifest, c.tools, c.added, g.what FROM components c \
     LEFT JOIN grants g ON g.org = c.org AND g.component = c.name AND g.digest = c.digest \
     WHERE c.org = ?1 ORDER BY c.name";

fn component((org, name, digest, manifest, tools, added, grant): Row) -> Result<Component> {
    Ok(Component {
        name: decode::name(name, "a component's name")?,
        org: decode::name(org, "a component's org")?,
        digest: decode::digest(&digest, "a component's digest")?,
        manifest: decode::from_json(&manifest, "a manifest")?,
        tools: decode::from_json(&tools, "a component's tools")?,
        grant: grant.map(|grant| decode::from_json(&grant, "a grant")).transpose()?,
        added: decode::from_nanos(added),
    })
}

async fn grant(
    connection: &mut SqliteConnection,
    org: &OrgName,
    name: &ComponentName,
    digest: &Digest,
    what: String,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO grants (org, component, digest, what) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (org, component, digest) DO UPDATE SET what = ?4",
    )
    .bind(org.as_str())
    .bind(name.as_str())
    .bind(&digest.as_bytes()[..])
    .bind(what)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}

#[async_trait]
impl Components for SqliteStore {
    async fn put_component(&self, component: &Component) -> Result<()> {
        let manifest = decode::to_json(&component.manifest, "a manifest")?;
        let tools = decode::to_json(&component.tools, "a component's tools")?;
        let what = component
            .grant
            .as_ref()
            .map(|grant| decode::to_json(grant, "a grant"))
            .transpose()?;
        let added = decode::to_nanos(component.added)?;
        let (org, name, digest) = (component.org.clone(), component.name.clone(), component.digest);
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO components (org, name, digest, manifest, tools, added) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                     ON CONFLICT (org, name) DO UPDATE SET digest = ?3, manifest = ?4, tools = ?5, added = ?6",
                )
                .bind(org.as_str())
                .bind(name.as_str())
                .bind(&digest.as_bytes()[..])
                .bind(manifest)
                .bind(tools)
                .bind(added)
                .execute(&mut *connection)
                .await
                .map_err(|error| insert_failed(error, "org", || format!("the component {name}")))?;
                match what {
                    Some(what) => grant(connection, &org, &name, &digest, what).await,
                    None => Ok(()),
                }
            })
        })
        .await
    }

    async fn component(&self, org: &OrgName, name: &ComponentName) -> Result<Option<Component>> {
        let row: Option<Row> = sqlx::query_as(ONE)
            .bind(org.as_str())
            .bind(name.as_str())
            .fetch_optional(self.readers())
            .await
            .map_err(failed)?;
        row.map(component).transpose()
    }

    async fn components(&self, org: &OrgName) -> Result<Vec<Component>> {
        let rows: Vec<Row> = sqlx::query_as(ALL)
            .bind(org.as_str())
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        rows.into_iter().map(component).collect()
    }

    async fn remove_component(&self, org: &OrgName, name: &ComponentName) -> Result<bool> {
        let (org, name) = (org.clone(), name.clone());
        self.write(move |connection| {
            Box::pin(async move {
                // Its grants go with it: added again, it is decided again.
                let result = sqlx::query("DELETE FROM components WHERE org = ?1 AND name = ?2")
                    .bind(org.as_str())
                    .bind(name.as_str())
                    .execute(connection)
                    .await
                    .map_err(failed)?;
                Ok(result.rows_affected() > 0)
            })
        })
        .await
    }

    async fn set_grant(&self, org: &OrgName, name: &ComponentName, digest: &Digest, what: &Grant) -> Result<bool> {
        let what = decode::to_json(what, "a grant")?;
        let (org, name, digest) = (org.clone(), name.clone(), *digest);
        self.write(move |connection| {
            Box::pin(async move {
                // THREAT[T-supply-digest]: a grant is for the code that was looked at, not for whatever has the name by now.
                let current: Option<i64> =
                    sqlx::query_scalar("SELECT 1 FROM components WHERE org = ?1 AND name = ?2 AND digest = ?3")
                        .bind(org.as_str())
                        .bind(name.as_str())
                        .bind(&digest.as_bytes()[..])
                        .fetch_optional(&mut *connection)
                        .await
                        .map_err(failed)?;
                if current.is_none() {
                    return Ok(false);
                }
                grant(connection, &org, &name, &digest, what).await?;
                Ok(true)
            })
        })
        .await
    }
}
