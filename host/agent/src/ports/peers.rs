//! Tools that call tools, each under its own grant.

use crate::{
    caller::{CallScope, Caller},
    catalog::OfferedTools,
};
use async_trait::async_trait;
use fumehood_core::{
    approval::fingerprint,
    call::{Arguments, CallError, CallErrorCode, CallResult},
    digest::Digest,
    id::CallId,
    name::ToolName,
    tool::Effect,
};
use fumehood_policy::{authority::Authority, refusal::Refusal};
use fumehood_sandbox::ports::Peers;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The tools of the same session, for one call.
pub(crate) fn peers(
    caller: Arc<Caller>,
    scope: CallScope,
    (call, tools): (CallId, Arc<OfferedTools>),
    authority: Arc<Authority>,
) -> Arc<dyn Peers> {
    Arc::new(SessionPeers {
        caller,
        scope,
        call,
        tools,
        authority,
        made: Mutex::default(),
    })
}

struct SessionPeers {
    caller: Arc<Caller>,
    scope: CallScope,
    /// Who calls.
    call: CallId,
    tools: Arc<OfferedTools>,
    authority: Arc<Authority>,
    /// How often it has made the same call.
    made: Mutex<HashMap<Digest, u64>>,
}

impl SessionPeers {
    /// The same for the same call when the one that makes it runs again, so that the outside can tell a repetition.
    fn id(&self, tool: &ToolName, arguments: &Arguments) -> CallId {
        let what = fingerprint(tool.as_str(), &Digest::of(self.call.uuid().as_bytes()), arguments);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let times = made.entry(what).or_default();
        *times += 1;
        self.call.derived(&what, *times)
    }
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
        if self.tools.get(tool)?.definition.effect == Effect::AtMostOnce {
            self.scope.commit(tool).await?;
        }
        let id = self.id(tool, &arguments);
        let caller = Arc::clone(&self.caller);
        caller.call(&self.scope, &self.tools, id, tool, arguments).await.0
    }
}
