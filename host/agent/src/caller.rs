//! One call, from the name of a tool to its result: check the arguments, compute the authority, open the ports it allows,
//! run it in the sandbox, and take secrets out of what comes back.

mod explained;
mod hooked;
mod recorded;
mod scope;

pub use scope::CallScope;
pub(crate) use scope::{Clearance, LOST, not_run_again, refused_by};

use explained::explain;
use hooked::Judged;
use recorded::Taping;
use scope::Explained;

use crate::{
    callbacks::CallbackLimits,
    catalog::{InstalledTool, OfferedTools},
    limits::{Counted, Limited, Limits, Place},
    narrowings::Narrowings,
    ports::{self, CallEvents, StoreLedger},
    recording::{HttpTape, Tape, recorded_door},
    redact,
    secrets::{Bounds, SecretCache, SecretsInUse},
    standing::RunningCall,
    telemetry::{ObservedCall, OneMore},
};
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, CallResult, Metering},
    digest::Digest,
    id::{CallId, SessionId},
    ledger::EgressScope,
    name::ToolName,
};
use fumehood_egress::Egress;
use fumehood_policy::{
    authority::{Authority, HostPolicy},
    deadline::Deadline,
};
use fumehood_sandbox::{
    Call, Denial, HostCalls, Sandbox, ShareKey, Witness,
    ports::{Ports, Workspace},
};
use fumehood_store::{Store, WorkspaceError, Workspaces};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::Instrument as _;

/// How deep tools may call tools.
const PEER_DEPTH: u8 = 4;

/// How a call ended.
pub(crate) struct Ended {
    pub(crate) result: CallResult,
    pub(crate) metering: Metering,
    /// Where the limit of calls stands, where there is one and this call counted.
    pub(crate) counted: Option<Counted>,
    /// What is known of a call that came to run.
    pub(crate) ran: Option<Ran>,
}

/// What is known of a call that ran, for who explains it.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its limits.
    pub limits: fumehood_policy::limits::Limits,
    /// What making its instance took; absent where it did not come to one.
    pub instantiated: Option<Duration>,
    /// What it was refused, in words; the first few.
    pub denials: Vec<String>,
    /// What it asked of its host, where that was taken down.
    pub host_calls: Option<HostCalls>,
}

impl Ended {
    /// One that failed before it ran.
    pub(crate) fn without_running(error: CallError) -> Self {
        Self {
            result: Err(error),
            metering: Metering::default(),
            counted: None,
            ran: None,
        }
    }
}

/// Why a call does not run.
enum Refused {
    /// The org has used what it may for now.
    Limited(Limited),
    /// Anything else.
    Failed(CallError),
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        Self::Failed(error)
    }
}

impl From<Limited> for Refused {
    fn from(limited: Limited) -> Self {
        Self::Limited(limited)
    }
}

/// Whether a call was counted.
enum Charge {
    /// It was, and that is where the limit stands.
    Made(Option<Counted>),
    /// It will be when it runs.
    Due,
}

/// What calls are made with.
pub struct CallerParts {
    /// Runs the components.
    pub sandbox: Sandbox,
    /// The one door out.
    pub egress: Egress,
    /// The ledger that `egress` writes to.
    pub ledger: Arc<StoreLedger>,
    /// Secrets and key-values.
    pub store: Arc<dyn Store>,
    /// The sessions' files.
    pub workspaces: Workspaces,
    /// The operator's part of every call's authority.
    pub policy: HostPolicy,
    /// What orgs may use; `ledger` charges them as well.
    pub limits: Arc<Limits>,
    /// The environment variables that grants may hand to tools.
    pub env: Vec<(String, String)>,
    /// How many bytes the recording of a call may have; 0: nothing is recorded, whoever asks for it.
    pub recording_bytes: u64,
    /// What calls may be that are handed on.
    pub callbacks: CallbackLimits,
}

/// Runs calls.
pub struct Caller {
    sandbox: Sandbox,
    egress: Egress,
    ledger: Arc<StoreLedger>,
    store: Arc<dyn Store>,
    secrets: SecretCache,
    narrowings: Narrowings,
    workspaces: Workspaces,
    policy: HostPolicy,
    limits: Arc<Limits>,
    env: Arc<[(String, String)]>,
    recording_bytes: u64,
    callbacks: CallbackLimits,
}

impl Caller {
    /// A tape for a call that is to be recorded, unless the operator wants none. `shared`: other calls run beside it.
    pub(crate) fn tape(&self, shared: bool) -> Option<Arc<Tape>> {
        (self.recording_bytes > 0).then(|| Arc::new(Tape::new(self.recording_bytes, shared)))
    }

    /// The sessions' files.
    pub(crate) const fn workspaces(&self) -> &Workspaces {
        &self.workspaces
    }

    /// The secrets in use.
    pub(crate) const fn secrets(&self) -> &SecretCache {
        &self.secrets
    }

    /// How the sessions narrow their calls.
    pub(crate) const fn narrowings(&self) -> &Narrowings {
        &self.narrowings
    }

    /// Keeps the state of a session's files as a turn finds it, so that the turn can be undone.
    pub(crate) async fn keep_files(&self, session: SessionId) -> Result<Option<Digest>, WorkspaceError> {
        self.workspaces.snapshot(session).await
    }

    /// The one door out.
    pub(crate) const fn egress(&self) -> &Egress {
        &self.egress
    }

    /// The environment variables that grants may hand out.
    pub(crate) fn env(&self) -> Arc<[(String, String)]> {
        Arc::clone(&self.env)
    }

    /// The limits of the orgs, to be held on to.
    pub(crate) const fn limits_shared(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// The limits of the orgs.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The operator's part of every call's authority.
    #[must_use]
    pub const fn policy(&self) -> &HostPolicy {
        &self.policy
    }

    /// A caller made of its parts. Call it within a Tokio runtime.
    #[must_use]
    pub fn new(parts: CallerParts) -> Self {
        let CallerParts {
            sandbox,
            egress,
            ledger,
            store,
            workspaces,
            policy,
            limits,
            env,
            recording_bytes,
            callbacks,
        } = parts;
        Self {
            sandbox,
            egress,
            ledger,
            secrets: SecretCache::new(Arc::clone(&store), Bounds::default()),
            narrowings: Narrowings::new(Arc::clone(&store)),
            store,
            workspaces,
            policy,
            limits,
            env: env.into(),
            recording_bytes,
            callbacks,
        }
    }

    /// What a tool may do in a scope now: what its component is granted and how the session narrows it are looked up for each
    /// call, also in a turn that began before either was changed.
    ///
    /// # Errors
    /// `denied` when its component has no grant or is removed, or the session is gone; `unavailable` when the store can't be
    /// read.
    pub async fn authority(&self, scope: &CallScope, tool: &InstalledTool) -> Result<Authority, CallError> {
        let granted = tool.component.standing.granted(&tool.definition.name)?;
        let (request, grant) = &*granted;
        let narrowing = match scope.session {
            None => Arc::default(),
            Some(session) => match self.narrowings.of(&scope.org, session).await {
                Ok(Some(narrowing)) => narrowing,
                Ok(None) => {
                    return Err(CallError::new(
                        CallErrorCode::Denied,
                        "the session of the call was deleted",
                    ));
                }
                Err(error) => {
                    tracing::error!(%error, "how the session narrows its calls can't be read");
                    let message = "the host can't read what the session allows; try again later";
                    return Err(CallError::new(CallErrorCode::Unavailable, message));
                }
            },
        };
        Ok(Authority::compute(
            request,
            grant,
            &scope.chain,
            &narrowing,
            &self.policy,
        ))
    }

    /// Runs one call to its end. Dropping the future stops the guest.
    pub async fn call(
        self: Arc<Self>,
        scope: &CallScope,
        tools: &Arc<OfferedTools>,
        id: CallId,
        tool: &ToolName,
        arguments: Arguments,
    ) -> (CallResult, Metering) {
        match self.call_within_limits(scope, tools, id, tool, arguments).await {
            Ok(ended) => (ended.result, ended.metering),
            Err(limited) => (Err(scope.refusal(limited.into())), Metering::default()),
        }
    }

    /// The same, with a limit of the org that kept it from running told apart from a call that failed.
    pub(crate) async fn call_within_limits(
        self: Arc<Self>,
        scope: &CallScope,
        tools: &Arc<OfferedTools>,
        id: CallId,
        tool: &ToolName,
        arguments: Arguments,
    ) -> Result<Ended, Limited> {
        let observed = ObservedCall::begin(scope, tools, id, tool);
        let work = self.unobserved(scope, tools, id, tool, arguments);
        let ended = work.instrument(observed.span.clone()).await;
        match &ended {
            Ok(ended) => observed.end(&ended.result, &ended.metering),
            Err(limited) => observed.end(&Err(limited.clone().into()), &Metering::default()),
        }
        ended
    }

    async fn unobserved(
        self: Arc<Self>,
        scope: &CallScope,
        tools: &Arc<OfferedTools>,
        id: CallId,
        tool: &ToolName,
        mut arguments: Arguments,
    ) -> Result<Ended, Limited> {
        let secrets = match self.secrets.of(&scope.org, scope.session).await {
            Ok(secrets) => secrets,
            Err(error) => {
                // THREAT[T-sec-exfiltration]: nothing runs that could not be searched.
                tracing::error!(%error, "the secrets in use can't be read");
                let message = "the host can't read the secrets that it has to keep out of results; try again later";
                let error = CallError::new(CallErrorCode::Unavailable, message);
                return Ok(Ended::without_running(scope.refusal(error)));
            }
        };
        let prepared = match redact::arguments(secrets.guard(), &mut arguments) {
            Ok(()) => self.prepare(scope, tools, id, tool, &mut arguments, &secrets).await,
            Err(error) => Err(error.into()),
        };
        match prepared {
            Ok(prepared) => {
                if let Err(error) = scope.claim(id, &prepared.installed, &arguments).await {
                    return Ok(Ended::without_running(error));
                }
                let watched = scope.watched(id, Arc::clone(&prepared.installed) as _, &arguments);
                let events = prepared.events.clone();
                let mut ended = self.run(prepared, id, tool, arguments, &secrets).await;
                if let Some(watched) = watched {
                    ended.result = match scope.judge_result(watched, ended.result).await {
                        Judged::Withheld(error) => Err(error),
                        Judged::Allowed(result) => {
                            if let Some(events) = events {
                                events.allowed().await;
                            }
                            result
                        }
                    };
                }
                Ok(ended)
            }
            Err(Refused::Failed(error)) => Ok(Ended {
                result: redact::result(secrets.guard(), Err(scope.refusal(error))),
                metering: Metering::default(),
                counted: None,
                ran: None,
            }),
            Err(Refused::Limited(limited)) => {
                scope.report_limit(id, &limited).await;
                Err(limited)
            }
        }
    }

    async fn run(
        &self,
        prepared: Prepared,
        id: CallId,
        tool: &ToolName,
        arguments: Arguments,
        secrets: &SecretsInUse,
    ) -> Ended {
        let Prepared {
            installed,
            authority,
            ports,
            events,
            share,
            counted,
            nested,
            locale,
            deadline,
            running,
            taping,
            _place,
        } = prepared;
        let limits = authority.limits;
        let most = limits.output.bytes();
        let call = Call {
            id,
            tool: tool.clone(),
            arguments,
            // The same for every attempt at this call, so that the outside can tell a repetition.
            idempotency_key: id.to_string(),
            locale,
            deadline: Some(deadline),
            recall: running.recall(),
            share,
            nested,
        };
        let (ports, taping) = match taping {
            Some(taping) => self.begin_recording(taping, &call, &authority, ports).await,
            None => (ports, None),
        };
        let witness = ports.witness.clone();
        let report = self
            .sandbox
            .call(&installed.component.code, call, authority, ports)
            .await;
        running.ended(&report);
        if let Some(taping) = taping {
            self.end_recording(taping, &report, secrets.guard()).await;
        }
        let result = explain(report.result, &report.denials, most);
        // THREAT[T-sec-exfiltration]: what a tool returns is shown to a model, a journal and a client.
        let result = redact::result(secrets.guard(), result);
        let result = match events {
            Some(events) => {
                events.ended(&report.stdout, &report.stderr);
                // A tool that made the call may be given back what it gave.
                if nested { result } else { events.hidden(result) }
            }
            None => result,
        };
        let told = |denial: Denial| secrets.guard().redact_str(&denial.reason).into_owned();
        Ended {
            result,
            metering: report.metering,
            counted,
            ran: Some(Ran {
                limits,
                instantiated: report.instantiated,
                denials: report.denials.into_iter().map(told).collect(),
                host_calls: witness.map(|witness| witness.take()),
            }),
        }
    }

    async fn prepare(
        self: &Arc<Self>,
        scope: &CallScope,
        tools: &Arc<OfferedTools>,
        id: CallId,
        tool: &ToolName,
        arguments: &mut Arguments,
        secrets: &Arc<SecretsInUse>,
    ) -> Result<Prepared, Refused> {
        let installed = Arc::clone(tools.get(tool)?);
        installed.check(arguments)?;
        if scope.depth > PEER_DEPTH {
            let message = format!("tools called tools more than {PEER_DEPTH} deep; answer without another call");
            return Err(CallError::new(CallErrorCode::Denied, message).into());
        }
        let place = match scope.depth {
            0 => {
                let _waiting = OneMore::waiting_call();
                let place = self.limits.place(&scope.org, scope.longest_wait()).await;
                // Of a job that had to wait until its time was over, that is what is told.
                Some(place.map_err(|limited| scope.overdue().map_or(Refused::Limited(limited), Refused::Failed))?)
            }
            _ => None,
        };
        let charge = self.judge(scope, id, &installed, arguments).await?;
        scope.clear(&installed, arguments)?;
        // THREAT[T-supply-revoked]: counted first, so that a removal is seen by the one or heard of by the other.
        let running = installed.component.standing.begin();
        // Not before it has its place: what was decided while it waited holds.
        let authority = Arc::new(self.authority(scope, &installed).await?);
        if let Some(recorded) = scope.recorded.clone()
            && *recorded? != *authority
        {
            let message = format!("what {tool} may do was changed while the call waited to run; call it again");
            return Err(CallError::new(CallErrorCode::Unavailable, message).into());
        }
        // What the call takes from here on is its own: also the time to open its ports.
        let deadline = match scope.deadline.clone() {
            Some(deadline) if scope.in_background => deadline,
            deadline => authority.time_limit(Instant::now()).or_sooner(deadline),
        };
        let events = scope.observe.clone().map(|observe| {
            let guard = secrets.guard().clone();
            let observe = (observe, scope.telling(&*installed));
            let events = CallEvents::new(observe, scope.turn, id, tool.clone(), guard);
            Arc::new(events.sharing(scope.token.clone()))
        });
        let ports = self
            .ports(
                scope,
                tools,
                id,
                &installed,
                &authority,
                &deadline,
                secrets,
                events.as_ref(),
            )
            .await?;
        // A call that is answered from the journal never comes here, and what is left can't refuse it: each call is charged once,
        // when it runs.
        let counted = match charge {
            Charge::Made(counted) => counted,
            Charge::Due => self.charge(scope, &installed, &authority).await?,
        };
        Ok(Prepared {
            installed,
            authority,
            ports,
            events,
            share: ShareKey::of(&scope.org),
            counted,
            nested: scope.depth > 0,
            locale: scope.locale.as_ref().map(ToString::to_string),
            deadline,
            running,
            taping: scope.taping(),
            _place: place,
        })
    }

    /// Asks the guards about a call that nobody has asked them about. It is charged before: their work is the org's as well.
    // THREAT[T-org-limit-bypass]: who is over a limit has no hooks run either.
    async fn judge(
        &self,
        scope: &CallScope,
        id: CallId,
        installed: &Arc<InstalledTool>,
        arguments: &mut Arguments,
    ) -> Result<Charge, Refused> {
        let mut charge = Charge::Due;
        if scope.is_to_be_judged(&**installed) {
            let authority = self.authority(scope, installed).await?;
            charge = Charge::Made(self.charge(scope, installed, &authority).await?);
        }
        if scope.guarded == scope::Guarded::Not {
            scope.judge_by_hooks(id, &**installed, arguments).await?;
        }
        Ok(charge)
    }

    async fn charge(
        &self,
        scope: &CallScope,
        installed: &InstalledTool,
        authority: &Authority,
    ) -> Result<Option<Counted>, Limited> {
        let digest = installed.component.record.digest;
        self.limits.call(&scope.org, digest, authority.rate).await
    }

    /// Opens what the authority allows, and nothing else.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one call, each used for another port"
    )]
    async fn ports(
        self: &Arc<Self>,
        scope: &CallScope,
        tools: &Arc<OfferedTools>,
        id: CallId,
        installed: &InstalledTool,
        authority: &Arc<Authority>,
        deadline: &Deadline,
        secrets: &SecretsInUse,
        events: Option<&Arc<CallEvents>>,
    ) -> Result<Ports, CallError> {
        let mut ports = Ports::denied();
        // Also where no list lets anything through: a refusal has its words and its row in the ledger.
        let egress_scope = EgressScope {
            org: scope.org.clone(),
            session: scope.session,
            turn: scope.turn,
            call: id,
            tool: installed.definition.name.clone(),
            component: installed.component.record.name.clone(),
        };
        let watcher = events.map(|events| (&self.ledger, Arc::clone(events)));
        ports.door = ports::door(&self.egress, &self.limits, egress_scope, authority, secrets, watcher)?;
        if let Some(HttpTape(tape)) = &scope.exchanges {
            ports.door = recorded_door(ports.door, tape);
        }
        ports.ambient.clone_from(&scope.ambient);
        if scope.explained == Explained::Yes {
            let guard = secrets.guard().clone();
            let redact = move |text: &str| guard.redact_str(text).into_owned();
            ports.witness = Some(Arc::new(Witness::new(redact)));
        }
        if !authority.sign.is_empty() {
            ports.signer = ports::signer(secrets, &authority.sign, events.cloned())?;
        }
        if let Some(session) = scope.session {
            ports.key_values = ports::key_values(&self.store, scope.org.clone(), session, authority.kv);
            if authority.files.access.can_read() {
                let tree = match &scope.files {
                    Some(tree) => Arc::clone(tree),
                    None => ports::files(&self.workspaces, session).await?,
                };
                ports.workspace = Some(Workspace { tree });
            }
        }
        if !authority.call_tools.is_closed() {
            let authority = Arc::clone(authority);
            let scope = scope.deeper(&installed.definition.name, deadline);
            ports.peers = ports::peers(Arc::clone(self), scope, (id, Arc::clone(tools)), authority);
        }
        if authority.detach {
            ports.jobs = ports::jobs(scope.waits(events), id, &installed.definition.name, &self.callbacks);
        }
        if let Some(events) = events {
            ports.observer = Arc::clone(events) as Arc<_>;
        }
        ports.env = Arc::clone(&self.env);
        Ok(ports)
    }
}

struct Prepared {
    installed: Arc<InstalledTool>,
    authority: Arc<Authority>,
    ports: Ports,
    events: Option<Arc<CallEvents>>,
    share: ShareKey,
    counted: Option<Counted>,
    nested: bool,
    locale: Option<String>,
    deadline: Deadline,
    running: RunningCall,
    taping: Option<Taping>,
    _place: Option<Place>,
}
