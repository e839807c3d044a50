//! Jobs: calls that run on in the background, each by one task of the host's, some at a time.
//!
//! That there is one is in the journal before it runs, with what it is called with; that it was taken is beside it. So of a host that
//! stops, those that may run again do, once, and the others end as interrupted: nothing runs twice that may not. What a job does is
//! told in the session's journal as it happens, and its end once.
//!
//! One that breaks, or of which the store does not take for a minute what happened, is given up: its place is free, and it ends as
//! interrupted once the store takes that. Should it not, that is tried again for as long as the host runs, and by the next start.

use super::{Host, HostError};
use crate::{
    caller::{CallScope, LOST, not_run_again},
    catalog::{InstalledTool, OfferedTools},
    excerpt,
    inner_calls::{self, InnerCalls},
    jobs::{Ends, JobLimits},
    ports, redact,
};
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, CallResult, Metering},
    event::{EventBody, NewEvent, Source},
    id::{JobId, SessionId},
    name::{OrgName, ToolName},
    now,
};
use fumehood_policy::{
    authority::Authority,
    deadline::{Deadline, SetBy},
    quantity::Span,
};
use fumehood_store::{
    StoreError,
    jobs::{Job, JobState},
};
use futures::FutureExt as _;
use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// How long nothing is looked for that nobody tells of.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long to leave a store alone that fails.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// Events that are read together.
const EVENTS: u32 = 1000;
/// Jobs that are ended together.
const PAGE: u32 = 100;

/// The jobs of a host.
pub(super) struct RunningJobs {
    pub(super) limits: JobLimits,
    /// There is something to run, or to end.
    pub(super) queued: Arc<Notify>,
    pub(super) ends: Ends,
    /// What stops those that run.
    stops: Mutex<HashMap<JobId, (SessionId, CancellationToken)>>,
    /// Those that were given up, each with why: their ends are to be written.
    given_up: Mutex<Vec<(Job, CallError)>>,
}

impl RunningJobs {
    pub(super) fn new(limits: JobLimits) -> Self {
        Self {
            limits,
            queued: Arc::default(),
            ends: Ends::default(),
            stops: Mutex::default(),
            given_up: Mutex::default(),
        }
    }

    fn stops(&self) -> MutexGuard<'_, HashMap<JobId, (SessionId, CancellationToken)>> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given_up(&self) -> MutexGuard<'_, Vec<(Job, CallError)>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops those of a session that is deleted.
    pub(super) fn stop_of(&self, session: SessionId) {
        for (_, stop) in self.stops().values().filter(|(of, _)| *of == session) {
            stop.cancel();
        }
    }
}

/// Why who runs a job tells nothing more of it.
enum Left {
    /// It is not this host's any more, or gone.
    Gone,
    /// What happened in it can't be written.
    Unwritten,
}

/// What a job calls.
struct Called {
    scope: CallScope,
    tools: Arc<OfferedTools>,
    arguments: Arguments,
    /// How long a result may be.
    most: usize,
    /// The calls of other tools that it has made under a host that stopped.
    made: InnerCalls,
}

/// Why there is nothing to call.
enum Unbegun {
    Refused(CallError),
    /// What it would call is not known.
    Unread(HostError),
}

impl From<CallError> for Unbegun {
    fn from(error: CallError) -> Self {
        Self::Refused(error)
    }
}

impl From<HostError> for Unbegun {
    fn from(error: HostError) -> Self {
        Self::Unread(error)
    }
}

impl From<StoreError> for Unbegun {
    fn from(error: StoreError) -> Self {
        Self::Unread(error.into())
    }
}

impl Host {
    /// A job of the org.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn job(&self, org: &OrgName, id: JobId) -> Result<Job, HostError> {
        self.store().job(org, id).await?.ok_or(HostError::NotFound("job"))
    }

    /// How a job ended: its result and what it used. `None` while it has not.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn job_result(&self, job: &Job) -> Result<Option<(CallResult, Metering)>, HostError> {
        let JobState::Ended { seq, .. } = job.state else {
            return Ok(None);
        };
        let events = self
            .store()
            .events(&job.org, job.session, seq.saturating_sub(1), 1)
            .await?;
        let end = events.into_iter().next();
        Ok(end.and_then(|event| event.body.into_result_of_job()))
    }

    /// Asks for a job to be stopped. It has ended once the journal says so; one that has ended stays as it is.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn stop_job(&self, org: &OrgName, id: JobId) -> Result<Job, HostError> {
        // Kept first: who takes it in the same moment sees it.
        let job = self
            .store()
            .stop_job(org, id)
            .await?
            .ok_or(HostError::NotFound("job"))?;
        if let Some((_, stop)) = self.inner.jobs.stops().get(&id) {
            stop.cancel();
        }
        self.inner.jobs.queued.notify_one();
        Ok(job)
    }

    /// Runs for as long as the host does.
    pub(super) async fn run_jobs(&self) {
        let mut running = JoinSet::new();
        loop {
            let wait = self.fill(&mut running).await;
            tokio::select! {
                () = self.inner.draining.cancelled() => break,
                () = self.inner.jobs.queued.notified() => {}
                Some(_) = running.join_next() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        // Those that run may come to their end while the host takes its leave; the next start sees to the others.
        let ending = async { while running.join_next().await.is_some() {} };
        self.inner.closing.run_until_cancelled(ending).await;
    }

    /// Ends what is to end, and takes as many as may run. Says when to look again.
    async fn fill(&self, running: &mut JoinSet<()>) -> Duration {
        match self.end_and_take(running).await {
            Ok(()) => LOOK_AGAIN,
            Err(error) => {
                tracing::error!(%error, "the jobs can't be read or taken; it is tried again");
                AFTER_FAILURE
            }
        }
    }

    async fn end_and_take(&self, running: &mut JoinSet<()>) -> Result<(), HostError> {
        self.end_given_up().await;
        self.end_left_behind().await?;
        let limits = &self.inner.jobs.limits;
        // Those that have ended make room.
        while running.try_join_next().is_some() {}
        while running.len() < limits.running as usize && !self.is_draining() {
            let Some(job) = self.store().take_job(limits.running_per_org).await? else {
                break;
            };
            let stop = CancellationToken::new();
            self.inner.jobs.stops().insert(job.id, (job.session, stop.clone()));
            let (host, counted) = (self.clone(), self.inner.working.token());
            running.spawn(async move {
                host.see_through(job, stop).await;
                drop(counted);
            });
        }
        Ok(())
    }

    /// Ends those that nobody works, and that are not to run.
    async fn end_left_behind(&self) -> Result<(), HostError> {
        loop {
            let over = self.store().jobs_to_end(PAGE).await?;
            let mut refused = false;
            for job in &over {
                let error = match job.stopping {
                    true => stopped(),
                    false => CallError::new(CallErrorCode::Interrupted, LOST),
                };
                let end = completed(job, Err(error), Metering::default());
                match self.store().end_job(job.id, &end).await {
                    Ok(Some(events)) => {
                        self.inner.jobs.ends.one_more();
                        self.publish(events);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::error!(job = %job.id, %error, "the end of a job can't be written; it is tried again");
                        refused = true;
                    }
                }
            }
            if refused || over.len() < PAGE as usize {
                return Ok(());
            }
        }
    }

    /// Writes the ends of those that were given up. One that the store does not take keeps no other from its end.
    async fn end_given_up(&self) {
        let given_up = std::mem::take(&mut *self.inner.jobs.given_up());
        for (job, why) in given_up {
            // The host's own words: nothing in them is to be searched for.
            let end = completed(&job, Err(why.clone()), Metering::default());
            match self.store().append_to_job(job.id, job.attempts, &[end]).await {
                Ok(events) => {
                    self.inner.jobs.ends.one_more();
                    self.publish(events);
                }
                Err(StoreError::Gone { .. } | StoreError::Lost) => {}
                Err(error) => {
                    tracing::error!(job = %job.id, %error, "the end of a job that was given up can't be written; it is tried again");
                    self.inner.jobs.given_up().push((job, why));
                }
            }
        }
    }

    /// Runs one job that was taken, to its end or until it is given up.
    async fn see_through(&self, job: Job, stop: CancellationToken) {
        let id = job.id;
        let _listed = Listed { host: self.clone(), id };
        // What breaks in it is dropped with it.
        let work = Box::pin(AssertUnwindSafe(self.work_job(&job, stop)).catch_unwind());
        let why = match self.inner.closing.run_until_cancelled(work).await {
            Some(Ok(Ok(()) | Err(Left::Gone))) => return,
            Some(Ok(Err(Left::Unwritten))) => UNWRITTEN,
            Some(Err(_)) => {
                tracing::error!(job = %id, "a job broke by a fault in the host; it is ended");
                BROKEN
            }
            None => {
                tracing::info!(job = %id, "a job is cut off; the next start runs it again, or ends it");
                return;
            }
        };
        let why = CallError::new(CallErrorCode::Interrupted, why);
        self.inner.jobs.given_up().push((job, why));
    }

    /// Runs one job that was taken to its end.
    async fn work_job(&self, job: &Job, stop: CancellationToken) -> Result<(), Left> {
        let (result, metering) = match self.to_call(job).await {
            Ok(called) => self.call(job, called, &stop).await?,
            Err(error) => (Err(error), Metering::default()),
        };
        self.record_of(job, vec![completed(job, result, metering)]).await?;
        self.inner.jobs.ends.one_more();
        Ok(())
    }

    /// What the job calls, or why it does not. What the store can't tell just now is asked for again, for as long as what happens in a
    /// turn is held.
    async fn to_call(&self, job: &Job) -> Result<Called, CallError> {
        let begun = Instant::now();
        loop {
            match self.called(job).await {
                Ok(called) => return Ok(called),
                Err(Unbegun::Refused(error)) => return Err(error),
                Err(Unbegun::Unread(error @ HostError::Store(StoreError::Unavailable { .. })))
                    if begun.elapsed() < self.inner.patience.held =>
                {
                    tracing::warn!(job = %job.id, %error, "a job can't be begun yet; it is tried again");
                }
                Err(Unbegun::Unread(error)) => {
                    tracing::error!(job = %job.id, %error, "a job can't be begun");
                    let why = "the host could not begin the job";
                    let then = "Its agent may be gone; the operator's log says why";
                    return Err(unbegun(job, CallErrorCode::Unavailable, why, then));
                }
            }
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }

    /// What the job calls, as it is today.
    async fn called(&self, job: &Job) -> Result<Called, Unbegun> {
        // Somebody may have asked for it before there was anything to stop.
        let now_is = self.store().job(&job.org, job.id).await?;
        if now_is.is_none_or(|job| job.stopping) {
            return Err(stopped().into());
        }
        let queued = self
            .store()
            .events(&job.org, job.session, job.queued_seq.saturating_sub(1), 1);
        let queued = queued.await?;
        let Some(EventBody::JobQueued {
            tool,
            arguments,
            fingerprint,
            agent,
            effect,
            approved,
            ..
        }) = queued.into_iter().next().map(|event| event.body)
        else {
            return Err(HostError::Fault.into());
        };
        let chain = self.chain(&job.org, &agent).await?;
        let most = chain.last().map_or(usize::MAX, |leaf| leaf.tool_output.as_usize());
        let tools = self.catalog().tools(&job.org).await?;
        let tools = Arc::new(tools.offered_by(&chain));
        // THREAT[T-turn-replay]: what runs is what was asked for, and by the code that it was asked of.
        let installed = tools.get(&tool).map_err(|error| refused(job, error))?;
        if installed.fingerprint(&arguments) != fingerprint {
            return Err(changed(job).into());
        }
        let made = self.made_by(job).await?;
        let limit = self.inner.jobs.limits.time;
        let scope = CallScope::new(job.org.clone(), Some(job.session), None, chain)
            .with_hooks(Arc::clone(self.hooks()))
            .in_background(left_of(limit, job), approved.then_some(fingerprint))
            .repeatable(job.call, effect);
        let scope = match job.attempts {
            0 | 1 => scope.judged_already(),
            _ => scope.once_more(),
        };
        Ok(Called {
            scope,
            tools,
            arguments,
            most,
            made,
        })
    }

    /// The calls that a job which runs again has made of other tools.
    async fn made_by(&self, job: &Job) -> Result<InnerCalls, HostError> {
        let (mut made, mut after) = (InnerCalls::default(), job.queued_seq);
        if job.attempts <= 1 {
            return Ok(made);
        }
        loop {
            let events = self.store().events(&job.org, job.session, after, EVENTS).await?;
            for event in &events {
                made.apply(&event.body);
            }
            match events.last().and_then(|last| last.seq) {
                Some(last) => after = last,
                None => return Ok(made),
            }
        }
    }

    /// Makes the call, and records what happens in it.
    async fn call(&self, job: &Job, called: Called, stop: &CancellationToken) -> Result<(CallResult, Metering), Left> {
        let Called {
            scope,
            tools,
            arguments,
            most,
            made,
        } = called;
        let (observe, mut observed) = ports::observe();
        let authority = match tools.get(&job.tool) {
            Ok(tool) => {
                let authority = self.caller().authority(&scope, tool).await;
                authority.and_then(|authority| may_still(tool, &job.tool, authority))
            }
            Err(error) => Err(error),
        };
        let started = EventBody::JobStarted {
            job: job.id,
            call: job.call,
            attempt: job.attempts,
            authority: authority
                .as_ref()
                .ok()
                .and_then(|authority| serde_json::to_value(authority).ok()),
        };
        // That it begins is in the journal, or it does not.
        self.record_of(job, vec![event(Source::Host, started)]).await?;
        let scope = scope.recorded_as(observe, authority.map(Arc::new));
        let calling = Arc::clone(self.caller());
        let mut calling = Box::pin(calling.call(&scope, &tools, job.call, &job.tool, arguments));
        let (result, metering) = loop {
            let happened = tokio::select! {
                biased;
                () = stop.cancelled() => break (Err(stopped()), Metering::default()),
                Some(event) = observed.next() => event,
                ended = &mut calling => break ended,
            };
            let mut events = vec![happened];
            events.extend(std::iter::from_fn(|| observed.ready()));
            // THREAT[T-turn-replay]: the calls that it makes are the same when it runs again.
            let differs = events.iter().find_map(|event| made.contradicted_by(&event.body));
            let differs = differs.map(inner_calls::differs);
            events.retain(|event| made.contradicted_by(&event.body).is_none());
            self.record_of(job, events).await?;
            if let Some(why) = differs {
                break (
                    Err(CallError::new(CallErrorCode::Interrupted, why)),
                    Metering::default(),
                );
            }
            observed.recorded();
        };
        // The guest is stopped before its end is told.
        drop(calling);
        let rest: Vec<_> = std::iter::from_fn(|| observed.ready()).collect();
        self.record_of(job, rest).await?;
        let result = excerpt::fitting(self.workspaces(), job.session, job.call, result, most).await;
        Ok((result, metering))
    }

    /// Records events of a job that this host runs. What the store can't take just now is held for as long as what happens in a turn is.
    async fn record_of(&self, job: &Job, mut events: Vec<NewEvent>) -> Result<(), Left> {
        if events.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        loop {
            match self.record_once(job, &mut events).await {
                Ok(()) => return Ok(()),
                Err(HostError::Store(error @ (StoreError::Gone { .. } | StoreError::Lost))) => {
                    tracing::debug!(job = %job.id, %error, "a job is gone");
                    return Err(Left::Gone);
                }
                Err(error @ HostError::Store(StoreError::Unavailable { .. }))
                    if begun.elapsed() < self.inner.patience.held =>
                {
                    tracing::error!(job = %job.id, %error, "what happened in a job can't be written yet; it is tried again");
                }
                Err(error) => {
                    tracing::error!(job = %job.id, %error, "what happened in a job can't be written; the job is ended");
                    return Err(Left::Unwritten);
                }
            }
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }

    async fn record_once(&self, job: &Job, events: &mut [NewEvent]) -> Result<(), HostError> {
        // THREAT[T-sec-exfiltration]: what a tool says is searched before it is kept.
        let guard = self.guard(&job.org, Some(job.session)).await?;
        for event in &mut *events {
            redact::event(&guard, &mut event.body);
        }
        let events = self.store().append_to_job(job.id, job.attempts, events).await?;
        self.publish(events);
        Ok(())
    }
}

const BROKEN: &str =
    "a fault in the host ended the job; it may have taken effect, and was not run again. The host's log has more";
const UNWRITTEN: &str = "the host could not record what happened in the job, and stopped it; it may have taken effect, and was not run \
                         again. The host's log has more";

/// Leaves the list of those that run, also when the work breaks.
struct Listed {
    host: Host,
    id: JobId,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.host.inner.jobs.stops().remove(&self.id);
    }
}

/// What is left of its time, which goes on while nobody runs it.
fn left_of(limit: Span, job: &Job) -> Deadline {
    let since = job
        .started
        .map_or(Duration::ZERO, |started| (now() - started).to_std().unwrap_or_default());
    let begun = Instant::now();
    Deadline::after(begun.checked_sub(since).unwrap_or(begun), limit, SetBy::Job)
}

/// What was granted and narrowed since the call was asked for holds from when its job begins.
fn may_still(tool: &InstalledTool, name: &ToolName, authority: Authority) -> Result<Authority, CallError> {
    match authority.may_run_in_background(&tool.component.record.name, name) {
        Ok(()) => Ok(authority),
        Err(refusal) => Err(CallError::new(CallErrorCode::Denied, refusal.message)),
    }
}

fn event(source: Source, body: EventBody) -> NewEvent {
    NewEvent {
        turn: None,
        source,
        body,
    }
}

fn completed(job: &Job, result: CallResult, metering: Metering) -> NewEvent {
    let source = Source::Tool {
        tool: job.tool.to_string(),
        call: job.call,
    };
    event(
        source,
        EventBody::job_completed(job.id, job.call, job.tool.clone(), result, metering),
    )
}

fn stopped() -> CallError {
    CallError::new(
        CallErrorCode::Cancelled,
        "the job was stopped; what it did until then is done",
    )
}

fn changed(job: &Job) -> CallError {
    let why = format!(
        "the component of {} was changed after the call was asked for, so what was asked for is not what would run",
        job.tool
    );
    unbegun(job, CallErrorCode::Denied, &why, "Call it again")
}

/// The end of a job that does not run, and what to do about it.
fn unbegun(job: &Job, code: CallErrorCode, why: &str, then: &str) -> CallError {
    match job.attempts {
        0 | 1 => CallError::new(code, format!("{why}; nothing ran. {then}")),
        _ => not_run_again(why),
    }
}

/// The same in words of others: one that began before may have taken effect, whatever keeps it from running now.
fn refused(job: &Job, error: CallError) -> CallError {
    match job.attempts {
        0 | 1 => error,
        _ => not_run_again(&error.message),
    }
}
