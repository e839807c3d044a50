//! Agents, as configured.

use super::{SqliteStore, decode, failed, insert_failed};
use crate::{
    api::{Agents, Result},
    faults::Point,
};
use async_trait::async_trait;
use fumehood_core::name::{AgentName, OrgName};
use fumehood_policy::agent::AgentConfig;
use std::collections::BTreeMap;

#[async_trait]
impl Agents for SqliteStore {
    async fn replace_agents(&self, org: &OrgName, agents: &BTreeMap<AgentName, AgentConfig>) -> Result<()> {
        let rows = agents
            .iter()
            .map(|(name, config)| Ok((name.clone(), decode::to_json(config, "an agent")?)))
            .collect::<Result<Vec<_>>>()?;
        let org = org.clone();
        self.write(Point::AgentsReplace, move |connection| {
            Box::pin(async move {
                sqlx::query("DELETE FROM agents WHERE org = ?1")
                    .bind(org.as_str())
                    .execute(&mut *connection)
                    .await
                    .map_err(failed)?;
                for (name, config) in rows {
                    sqlx::query("INSERT INTO agents (org, name, config) VALUES (?1, ?2, ?3)")
                        .bind(org.as_str())
                        .bind(name.as_str())
                        .bind(config)
                        .execute(&mut *connection)
                        .await
                        .map_err(|error| insert_failed(error, "org", || format!("the agent {name}")))?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn agents(&self, org: &OrgName) -> Result<BTreeMap<AgentName, AgentConfig>> {
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT name, config FROM agents WHERE org = ?1")
            .bind(org.as_str())
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        rows.into_iter()
            .map(|(name, config)| {
                Ok((
                    decode::name(name, "an agent's name")?,
                    decode::from_json(&config, "an agent")?,
                ))
            })
            .collect()
    }
}
