//! What an org may still spend, and what of it a new turn finds.

use super::{Host, HostError};
use crate::budgets::{OrgStanding, Purpose};
use fumehood_core::{id::SessionId, name::OrgName};
use fumehood_policy::spending::SpendingLimit;

impl Host {
    /// Where the org's budget stands, if it has one.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn budget(&self, org: &OrgName) -> Result<Option<OrgStanding>, HostError> {
        Ok(self.inner.budgets.standing(org).await?)
    }

    /// Refuses what would spend where there is nothing left to spend.
    pub(crate) async fn admit(&self, org: &OrgName, session: SessionId, purpose: Purpose) -> Result<(), HostError> {
        let agent = self.session(org, session).await?.agent;
        let limit = match self.chain(org, &agent).await {
            Ok(chain) => chain.last().map(|leaf| leaf.session_budget).unwrap_or_default(),
            Err(HostError::Store(error)) => return Err(error.into()),
            // The turn says so itself, when it is planned.
            Err(_) => SpendingLimit::default(),
        };
        match self.inner.budgets.admit(org, session, limit, purpose).await? {
            None => Ok(()),
            Some(exhausted) => Err(exhausted.into()),
        }
    }
}
