//! Components and their grants.

use super::{SqliteStore, decode, failed, insert_failed};
use crate::{
    api::{Components, Result},
    faults::Point,
    record::{Component, Put},
};
use async_trait::async_trait;
use fumehood_core::{
    digest::Digest,
    name::{ComponentName, OrgName},
};
use fumehood_policy::{
    grant::{Difference, Grant},
    manifest::Manifest,
};
use sqlx::{SqliteExecutor, sqlite::SqliteConnection};

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

async fn find(connection: &mut SqliteConnection, org: &OrgName, name: &ComponentName) -> Result<Option<Component>> {
    let row: Option<Row> = sqlx::query_as(ONE)
        .bind(org.as_str())
        .bind(name.as_str())
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    row.map(component).transpose()
}

/// The org's components, by name.
pub(crate) async fn of(executor: impl SqliteExecutor<'_>, org: &OrgName) -> Result<Vec<Component>> {
    let rows: Vec<Row> = sqlx::query_as(ALL)
        .bind(org.as_str())
        .fetch_all(executor)
        .await
        .map_err(failed)?;
    rows.into_iter().map(component).collect()
}

/// Keeps what was decided about a component, with the manifest that was decided about.
async fn grant(connection: &mut SqliteConnection, component: &Component, what: &Grant) -> Result<()> {
    sqlx::query(
        "INSERT INTO grants (org, component, digest, what, request) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (org, component, digest) DO UPDATE SET what = ?4, request = ?5",
    )
    .bind(component.org.as_str())
    .bind(component.name.as_str())
    .bind(&component.digest.as_bytes()[..])
    .bind(decode::to_json(what, "a grant")?)
    .bind(decode::to_json(&component.manifest, "a manifest")?)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}

/// What was decided about this code before, and about which manifest.
async fn decided_before(connection: &mut SqliteConnection, component: &Component) -> Result<Option<(Grant, Manifest)>> {
    let row: Option<(String, String)> =
        sqlx::query_as("SELECT what, request FROM grants WHERE org = ?1 AND component = ?2 AND digest = ?3")
            .bind(component.org.as_str())
            .bind(component.name.as_str())
            .bind(&component.digest.as_bytes()[..])
            .fetch_optional(connection)
            .await
            .map_err(failed)?;
    row.map(|(what, request)| {
        Ok((
            decode::from_json(&what, "a grant")?,
            decode::from_json(&request, "a manifest")?,
        ))
    })
    .transpose()
}

async fn withhold(connection: &mut SqliteConnection, component: &Component) -> Result<()> {
    sqlx::query("DELETE FROM grants WHERE org = ?1 AND component = ?2 AND digest = ?3")
        .bind(component.org.as_str())
        .bind(component.name.as_str())
        .bind(&component.digest.as_bytes()[..])
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

/// The grant that holds for a component about which nothing is decided just now.
// THREAT[T-supply-wide-request]: what was decided about another request decides nothing about a wider one, and a narrower
// decision about this very code is never replaced by what another version was granted.
async fn standing_grant(
    connection: &mut SqliteConnection,
    component: &Component,
    before: Option<&Component>,
) -> Result<Option<Grant>> {
    let asks_for_more = |decided: &Manifest| Difference::between(decided, &component.manifest).is_wider();
    if let Some((own, request)) = decided_before(&mut *connection, component).await? {
        if !asks_for_more(&request) {
            return Ok(Some(own));
        }
        withhold(connection, component).await?;
        return Ok(None);
    }
    let other = before.filter(|before| before.digest != component.digest && !asks_for_more(&before.manifest));
    let Some(taken_over) = other.and_then(|before| before.grant.clone()) else {
        return Ok(None);
    };
    grant(connection, component, &taken_over).await?;
    Ok(Some(taken_over))
}

async fn put(connection: &mut SqliteConnection, mut component: Component) -> Result<Put> {
    let before = find(&mut *connection, &component.org, &component.name).await?;
    sqlx::query(
        "INSERT INTO components (org, name, digest, manifest, tools, added) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT (org, name) DO UPDATE SET digest = ?3, manifest = ?4, tools = ?5, added = ?6",
    )
    .bind(component.org.as_str())
    .bind(component.name.as_str())
    .bind(&component.digest.as_bytes()[..])
    .bind(decode::to_json(&component.manifest, "a manifest")?)
    .bind(decode::to_json(&component.tools, "a component's tools")?)
    .bind(decode::to_nanos(component.added)?)
    .execute(&mut *connection)
    .await
    .map_err(|error| insert_failed(error, "org", || format!("the component {}", component.name)))?;
    match &component.grant {
        Some(decided) => grant(connection, &component, decided).await?,
        None => component.grant = standing_grant(connection, &component, before.as_ref()).await?,
    }
    Ok(Put { component, before })
}

#[async_trait]
impl Components for SqliteStore {
    async fn put_component(&self, component: &Component) -> Result<Put> {
        let component = component.clone();
        self.write(Point::ComponentPut, move |connection| {
            Box::pin(put(connection, component))
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
        of(self.readers(), org).await
    }

    async fn remove_component(&self, org: &OrgName, name: &ComponentName) -> Result<bool> {
        let (org, name) = (org.clone(), name.clone());
        self.write(Point::ComponentRemove, move |connection| {
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
        let (org, name, digest, what) = (org.clone(), name.clone(), *digest, what.clone());
        self.write(Point::GrantSet, move |connection| {
            Box::pin(async move {
                // THREAT[T-supply-digest]: a grant is for the code that was looked at, not for whatever has the name by now.
                let current = find(&mut *connection, &org, &name).await?;
                let Some(component) = current.filter(|component| component.digest == digest) else {
                    return Ok(false);
                };
                grant(connection, &component, &what).await?;
                Ok(true)
            })
        })
        .await
    }
}
