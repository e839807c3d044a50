//! Turns that end without a driver: while they wait, in favour of another input, or because nothing can work them.

use super::{Host, HostError};
use crate::{caller::CallScope, machine::TurnMachine};
use fumehood_core::{
    hook::HookPoint,
    id::{SessionId, TurnId},
    name::OrgName,
};
use std::sync::Arc;

impl Host {
    /// Tells the observers how a turn ended that no driver has ended. Its end stays recorded if that can't be done.
    pub(super) async fn tell_end(&self, org: &OrgName, session: SessionId, turn: TurnId) {
        if let Err(error) = self.tell_recorded_end(org, session, turn).await {
            tracing::warn!(%turn, %error, "observers are not told of a turn's end");
        }
    }

    async fn tell_recorded_end(&self, org: &OrgName, session: SessionId, turn: TurnId) -> Result<(), HostError> {
        let mut machine = TurnMachine::new(turn);
        machine.apply_all(&self.store().turn_events(org, turn).await?);
        let agent = match machine.agent() {
            Some(agent) => agent.clone(),
            None => self.session(org, session).await?.agent,
        };
        let chain = self.chain(org, &agent).await?;
        let scope = CallScope::new(org.clone(), Some(session), Some(turn), chain).with_hooks(Arc::clone(self.hooks()));
        if let Some((hooks, whose)) = scope.hooks_at(HookPoint::AfterTurn, None) {
            hooks.tell_end(&whose, &machine).await;
        }
        Ok(())
    }
}
