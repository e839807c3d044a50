//! What a turn is worked with: its agent, models, tools and instructions, looked up when a host begins to work it.

use super::{Host, HostError, instructions::instructions};
use crate::{
    budgets::Purse,
    caller::CallScope,
    client_tools::ClientTools,
    driver::{Background, Given, TurnPlan},
    models::{self, Candidate},
    schema::Schema,
    toolset::Toolbox,
};
use fumehood_core::{event::EventBody, name::AgentName, now, turn::Budget};
use fumehood_policy::agent::AgentSpec;
use fumehood_store::{StoreError, record, spending::Holder};
use std::sync::Arc;

impl Host {
    /// A turn that has begun goes on with its agent, whatever the session's is now.
    pub(super) async fn plan(&self, turn: &record::Turn, began: Option<&AgentName>) -> Result<TurnPlan, HostError> {
        let agent = match began {
            Some(agent) => agent.clone(),
            None => self.session(&turn.org, turn.session).await?.agent,
        };
        let chain = self.chain(&turn.org, &agent).await?;
        let leaf = chain.last().ok_or(HostError::NotFound("agent"))?.clone();
        let (model, fallbacks) = self.candidates(&leaf)?;
        let (given, asked) = self.queued(turn).await?;
        let toolbox = Toolbox {
            catalog: Arc::clone(&self.inner.catalog),
            skills: Arc::clone(&self.inner.skills),
            org: turn.org.clone(),
            chain: Arc::clone(&chain),
            client: ClientTools::ready(&given.tools)
                .map_err(|error| HostError::Invalid(format!("the client's tools can't be used: {error}")))?,
        };
        let tools = toolbox.toolset(self.inner.catalog.tools(&turn.org).await?);
        Ok(TurnPlan {
            agent: leaf.name.clone(),
            model,
            fallbacks,
            session: turn.session,
            system: instructions(
                &leaf,
                &tools.control,
                given.system.clone(),
                given.output_schema.as_ref(),
                now(),
            ),
            budget: leaf.budget.narrowed_by(asked),
            tools,
            toolbox,
            tool_output: leaf.tool_output.as_usize(),
            record: leaf.record || given.record,
            output: given
                .output_schema
                .as_ref()
                .map(Schema::compile)
                .transpose()
                .map_err(|error| HostError::Invalid(format!("the output schema can't be used: {error}")))?,
            given,
            purse: Purse::new(
                Arc::clone(&self.inner.budgets),
                turn.org.clone(),
                Holder::Turn {
                    session: turn.session,
                    turn: turn.id,
                },
                leaf.session_budget,
            ),
            // Who began something on a host that ends with one command would only cut it off.
            background: self.recovers().then(|| Background {
                limits: self.inner.jobs.limits,
                queued: Arc::clone(&self.inner.jobs.queued),
                ends: self.inner.jobs.ends.clone(),
            }),
            scope: CallScope::new(turn.org.clone(), Some(turn.session), Some(turn.id), chain)
                .with_hooks(Arc::clone(self.hooks())),
        })
    }

    /// The agent's model, and those that are asked when it doesn't answer.
    pub(super) fn candidates(&self, agent: &AgentSpec) -> Result<(Candidate, Vec<Candidate>), HostError> {
        models::candidates(&self.inner.models, &agent.model).ok_or_else(|| {
            HostError::Invalid(format!(
                "the agent {} uses the model `{}`, which is not configured",
                agent.name, agent.model
            ))
        })
    }

    /// What the client sent with the turn, beside its input.
    async fn queued(&self, turn: &record::Turn) -> Result<(Given, Budget), StoreError> {
        let store = &self.inner.store;
        let first = store.events(&turn.org, turn.session, turn.first_seq.saturating_sub(1), 1);
        let mut first = first
            .await?
            .into_iter()
            .next()
            .filter(|event| event.turn == Some(turn.id));
        if !matches!(&first, Some(event) if matches!(event.body, EventBody::TurnQueued { .. })) {
            // It waited for another, and has its place where it began.
            first = store.turn_events(&turn.org, turn.id).await?.into_iter().next();
        }
        match first.map(|event| event.body) {
            Some(EventBody::TurnQueued {
                system,
                budget,
                output_schema,
                tools,
                record,
                ..
            }) => {
                let given = Given {
                    system,
                    output_schema,
                    tools,
                    record,
                };
                Ok((given, budget))
            }
            _ => Err(StoreError::Corrupt {
                reason: format!("{} has no turn.queued", turn.id),
            }),
        }
    }
}
