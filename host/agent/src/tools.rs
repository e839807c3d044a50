//! The tools of an org, as operations of the host: look, grant, remove, call.

use crate::{
    caller::{CallScope, Ended, Ran},
    catalog::OrgTools,
    changes::{Operation, ToolChange},
    host::{Host, HostError},
    limits::Counted,
    ports,
    recording::HttpTape,
    telemetry,
};
use fumehood_core::{
    call::{Arguments, CallResult, Metering},
    digest::Digest,
    event::{EventBody, NewEvent},
    id::{CallId, SessionId},
    name::{AgentName, ComponentName, OrgName},
};
use fumehood_files::{Quota, Tree};
use fumehood_policy::{
    deadline::{Deadline, SetBy},
    explain::{Explanation, explain},
    grant::Grant,
    limits::Limits,
    quantity::Span,
};
use fumehood_sandbox::ports::Ambient;
use fumehood_store::record;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// A call made without a turn.
#[derive(Debug)]
pub struct Called {
    /// The call.
    pub id: CallId,
    /// What came of it.
    pub result: CallResult,
    /// What it used.
    pub metering: Metering,
    /// Where the limit of calls stands, where there is one and this call counted.
    pub counted: Option<Counted>,
    /// What is known of a call that came to run.
    pub ran: Option<Ran>,
}

/// What a call that somebody watches is given in the place of what the host has for it.
#[derive(Clone, Default)]
pub struct Staging {
    /// A directory of the host in the place of the session's workspace. No quota is kept there: it is the operator's own.
    pub dir: Option<PathBuf>,
    /// A time and a chance in the place of the system's.
    pub ambient: Option<Arc<dyn Ambient>>,
    /// What takes down its HTTP exchanges.
    pub exchanges: Option<HttpTape>,
    /// Whether what it asks of its host is taken down: [`Ran::host_calls`].
    pub host_calls: bool,
}

/// The most events of one call that are kept for who explains it.
const OBSERVED: usize = 1000;

impl Host {
    /// Runs one tool once, under the full policy, without a turn; not longer than `time`, if the client says so.
    ///
    /// # Errors
    /// [`HostError::NotFound`] when the session is named and not there, the store's `Archived`, [`HostError::Limited`] when the org may not call now.
    /// What the tool itself does is in the result.
    pub async fn call_tool(
        &self,
        org: &OrgName,
        session: Option<SessionId>,
        tool: &str,
        arguments: Arguments,
        time: Option<Span>,
    ) -> Result<Called, HostError> {
        let deadline = time.map(|time| Deadline::after(Instant::now(), time, SetBy::Client));
        let scope = match session {
            None => CallScope::new(org.clone(), None, None, Arc::from([])),
            Some(id) => self.session_scope(org, id).await?,
        };
        self.call_in(scope.within(deadline), tool, arguments).await
    }

    /// The same in a session, with what the call did, as the journal of a turn would have it: requests and how they were decided,
    /// secrets used, progress, output; the first thousand of it. The call finds what was staged for it.
    ///
    /// # Errors
    /// As [`Host::call_tool`]; [`HostError::Invalid`] when the directory can't be opened.
    pub async fn call_tool_observed(
        &self,
        org: &OrgName,
        session: SessionId,
        staging: Staging,
        tool: &str,
        arguments: Arguments,
    ) -> Result<(Called, Vec<EventBody>), HostError> {
        let scope = self.session_scope(org, session).await?;
        let mut scope = scope.staged(staging.exchanges, staging.ambient);
        if staging.host_calls {
            scope = scope.explained();
        }
        if let Some(dir) = staging.dir {
            scope = scope.on_files(workspace(&dir).await?);
        }
        let (observe, mut observed) = ports::observe();
        let mut call = Box::pin(self.call_in(scope.observed_by(observe), tool, arguments));
        let mut events = Vec::new();
        let mut keep = |event: NewEvent| {
            if events.len() < OBSERVED {
                events.push(event.body);
            }
        };
        let called = loop {
            tokio::select! {
                biased;
                Some(event) = observed.next() => {
                    keep(event);
                    observed.recorded();
                }
                called = &mut call => break called?,
            }
        };
        drop(call);
        while let Some(event) = observed.ready() {
            keep(event);
        }
        Ok((called, events))
    }

    async fn session_scope(&self, org: &OrgName, id: SessionId) -> Result<CallScope, HostError> {
        let session = self.use_session(org, id).await?;
        let chain = self.chain(org, &session.agent).await?;
        Ok(CallScope::new(org.clone(), Some(id), None, chain).with_hooks(Arc::clone(self.hooks())))
    }

    async fn call_in(&self, scope: CallScope, tool: &str, arguments: Arguments) -> Result<Called, HostError> {
        let tools = self.catalog().tools(&scope.org).await?;
        let offered = Arc::new(tools.offered_by(&scope.chain));
        let scope = scope.by_client();
        let id = CallId::new();
        let ended = match offered.find(tool) {
            Ok((name, _)) => {
                let call = Arc::clone(self.caller()).call_within_limits(&scope, &offered, id, &name, arguments);
                match (call.await, scope.session) {
                    (Ok(ended), _) => ended,
                    (Err(limited), session) => {
                        if let Some(session) = session {
                            self.tell_limit(&scope.org, session, Some(id), &limited).await;
                        }
                        return Err(limited.into());
                    }
                }
            }
            Err(error) => {
                telemetry::refused_before_a_call(&scope.org, &offered, tool, &error);
                Ended::without_running(error)
            }
        };
        let Ended {
            result,
            metering,
            counted,
            ran,
        } = ended;
        Ok(Called {
            id,
            result,
            metering,
            counted,
            ran,
        })
    }

    /// The org's tools.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn tools(&self, org: &OrgName) -> Result<Arc<OrgTools>, HostError> {
        Ok(self.catalog().tools(org).await?)
    }

    /// What no call of this host passes.
    #[must_use]
    pub fn ceilings(&self) -> &Limits {
        &self.caller().policy().ceilings
    }

    /// Decides what a component may do. `looked_at` is the code that was decided about; absent: whatever is there now.
    ///
    /// # Errors
    /// [`HostError::NotFound`]; [`HostError::OtherCode`] when the component is not what was looked at. Nothing was decided then.
    pub async fn set_grant(
        &self,
        org: &OrgName,
        name: &ComponentName,
        grant: &Grant,
        looked_at: Option<Digest>,
    ) -> Result<record::Component, HostError> {
        let digest = match looked_at {
            Some(digest) => digest,
            None => self.component(org, name).await?.digest,
        };
        let (host, org, name, grant) = (self.clone(), org.clone(), name.clone(), grant.clone());
        // What is decided holds for every call from then on.
        self.to_the_end(async move {
            // THREAT[T-supply-digest]: compared where it is written, so that no update comes in between.
            if !host.store().set_grant(&org, &name, &digest, &grant).await? {
                return Err(HostError::OtherCode(host.component(&org, &name).await?.digest));
            }
            host.catalog().refresh(&org).await?;
            host.component(&org, &name).await
        })
        .await
    }

    /// What a component may do, and which layer cut what: in a session, with an agent (the session's own, where none is
    /// named), or with neither. One that waits for a grant may do nothing.
    ///
    /// # Errors
    /// [`HostError::NotFound`] for the component or the session, [`HostError::Invalid`] for the agent.
    pub async fn explain(
        &self,
        org: &OrgName,
        name: &ComponentName,
        session: Option<SessionId>,
        agent: Option<&AgentName>,
    ) -> Result<(record::Component, Explanation), HostError> {
        let component = self.component(org, name).await?;
        let session = match session {
            Some(id) => Some(self.session(org, id).await?),
            None => None,
        };
        let chain = match agent.or(session.as_ref().map(|session| &session.agent)) {
            Some(agent) => self.chain(org, agent).await?,
            None => Arc::from([]),
        };
        let narrowing = session.map(|session| session.narrowing).unwrap_or_default();
        let policy = self.caller().policy().clone();
        // Long lists take their time, and calls must not wait for it.
        let explained = tokio::task::spawn_blocking(move || {
            let nothing = Grant::none();
            let explanation = explain(
                &component.manifest,
                component.grant.as_ref().unwrap_or(&nothing),
                &chain,
                &narrowing,
                &policy,
                component.tools.iter().map(|tool| &tool.name),
            );
            (component, explanation)
        });
        explained.await.map_err(|_| HostError::ShuttingDown)
    }

    /// One component.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn component(&self, org: &OrgName, name: &ComponentName) -> Result<record::Component, HostError> {
        self.store()
            .component(org, name)
            .await?
            .ok_or(HostError::NotFound("component"))
    }

    /// Removes a component. No call begins any more, in no turn; those that run have only so much time left.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn remove_component(&self, org: &OrgName, name: &ComponentName) -> Result<ToolChange, HostError> {
        let (host, org, name) = (self.clone(), org.clone(), name.clone());
        // What is gone from the store is out of use.
        self.to_the_end(async move { host.remove_now(&org, &name).await }).await
    }

    async fn remove_now(&self, org: &OrgName, name: &ComponentName) -> Result<ToolChange, HostError> {
        let digest = self.component(org, name).await?.digest;
        let changes = self.catalog().changes();
        let pending = changes.begin(org, Operation::Remove, Some(name.clone()));
        // Held, so that the version is there to be told of the change, whatever ends on it meanwhile.
        let tools_before = self.catalog().tools(org).await;
        let removed = match self.store().remove_component(org, name).await {
            Ok(true) => self.catalog().refresh(org).await.map_err(HostError::from),
            Ok(false) => Err(HostError::NotFound("component")),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = removed {
            pending.failed(match error {
                HostError::NotFound(_) => "somebody else removed it in the same moment".to_owned(),
                _ => HostError::Fault.to_string(),
            });
            return Err(error);
        }
        let change = pending.applied(name, None, Some(digest));
        if let Some(version) = self.catalog().version(org, name, digest) {
            version.tell(&change);
        }
        drop(tools_before);
        Ok(change.now())
    }

    /// The last changes of the org's components and how far they have come, the newest first: those since this host started.
    #[must_use]
    pub fn tool_changes(&self, org: &OrgName) -> Vec<ToolChange> {
        self.catalog().changes().of(org)
    }
}

/// A directory of the host, in the place of a session's workspace.
async fn workspace(dir: &Path) -> Result<Arc<Tree>, HostError> {
    let unusable = |error| HostError::Invalid(format!("{} can't be used as a workspace: {error}", dir.display()));
    unlimited(dir).await.map_err(unusable)
}

async fn unlimited(dir: &Path) -> io::Result<Arc<Tree>> {
    let dir = dir.to_owned();
    let open = move || Tree::open_ambient(&dir, Quota::UNLIMITED);
    tokio::task::spawn_blocking(open)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the host is shutting down")))
}
