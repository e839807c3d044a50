//! Orgs.

use super::{SqliteStore, decode, failed, insert_failed};
use crate::{
    api::{Orgs, Result},
    faults::Point,
    record::Org,
};
use async_trait::async_trait;
use fumehood_core::{name::OrgName, now};

type Row = (String, i64);

fn org((name, created): Row) -> Result<Org> {
    Ok(Org {
        name: decode::name(name, "an org's name")?,
        created: decode::from_nanos(created),
    })
}

#[async_trait]
impl Orgs for SqliteStore {
    async fn create_org(&self, name: &OrgName) -> Result<Org> {
        let org = Org {
            name: name.clone(),
            created: now(),
        };
        let created = decode::to_nanos(org.created)?;
        self.write(Point::OrgCreate, move |connection| {
            Box::pin(async move {
                sqlx::query("INSERT INTO orgs (name, created) VALUES (?1, ?2)")
                    .bind(org.name.as_str())
                    .bind(created)
                    .execute(connection)
                    .await
                    .map_err(|error| insert_failed(error, "org", || format!("the org {}", org.name)))?;
                Ok(org)
            })
        })
        .await
    }

    async fn org(&self, name: &OrgName) -> Result<Option<Org>> {
        let row: Option<Row> = sqlx::query_as("SELECT name, created FROM orgs WHERE name = ?1")
            .bind(name.as_str())
            .fetch_optional(self.readers())
            .await
            .map_err(failed)?;
        row.map(org).transpose()
    }

    async fn orgs(&self) -> Result<Vec<Org>> {
        let rows: Vec<Row> = sqlx::query_as("SELECT name, created FROM orgs ORDER BY name")
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        rows.into_iter().map(org).collect()
    }
}
