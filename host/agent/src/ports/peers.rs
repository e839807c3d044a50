//! Tools that call tools, each under its own grant.

use crate::{
    caller::{CallScope, Caller},
    catalog::OfferedTools,
};
use async_trait::async_trait;
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, CallResult},
    id::CallId,
    name::ToolName,
};
use fumehood_policy::{authority::Authority, refusal::Refusal};
use fumehood_sandbox::ports::Peers;
use std::sync::Arc;

/// The tools of the same session.
pub(crate) fn peers(
    caller: Arc<Caller>,
    scope: CallScope,
    tools: Arc<OfferedTools>,
    authority: Arc<Authority>,
) -> Arc<dyn Peers> {
    Arc::new(SessionPeers {
        caller,
        scope,
        tools,
        authority,
    })
}

struct SessionPeers {
    caller: Arc<Caller>,
    scope: CallScope,
    tools: Arc<OfferedTools>,
    authority: Arc<Authority>,
}

#[async_trait]
impl Peers for SessionPeers {
    fn may_call(&self, tool: &ToolName) -> Result<(), CallError> {
        let denied = |refusal: Refusal| CallError::new(CallErrorCode::Denied, refusal.message);
        match self.tools.get(tool) {
            Ok(offered) => {
                let component = &offered.component.record.name;
                self.authority.may_call(component, tool).map_err(denied)
            }
            Err(error) => {
                // Only who may call such a tool learns whether there is one.
                self.authority.may_call_named(tool).map_err(denied)?;
                Err(error)
            }
        }
    }

    async fn call(&self, tool: &ToolName, arguments: Arguments) -> CallResult {
        self.may_call(tool)?;
        let caller = Arc::clone(&self.caller);
        caller
            .call(&self.scope, &self.tools, CallId::new(), tool, arguments)
            .await
            .0
    }
}
