//! Calls that run on in the background: the model has a result at once, and goes on; the host runs them.

use super::{Driver, Stop, admission::AdmittedCall};
use crate::jobs::{self, Ends, JobLimits};
use fumehood_core::{call::Metering, event::EventBody, id::JobId, turn::Note};
use fumehood_policy::authority::Authority;
use std::sync::Arc;
use tokio::sync::Notify;

/// Ends of jobs that a model is told before one step.
const TOLD_AT_ONCE: u32 = 4;

/// Who runs calls in the background, on a host that stays.
#[derive(Clone)]
pub(crate) struct Background {
    pub(crate) limits: JobLimits,
    /// There is something to run.
    pub(crate) queued: Arc<Notify>,
    pub(crate) ends: Ends,
}

impl Driver {
    /// Whether a call runs in the background. One that began otherwise before does not.
    pub(super) fn runs_in_background(&self, admitted: &AdmittedCall, authority: &Authority) -> bool {
        let Ok(tool) = self.plan.tools.offered.get(admitted.tool()) else {
            return false;
        };
        let (component, name) = (&tool.component.record.name, &tool.definition.name);
        self.plan.background.is_some() && admitted.is_first() && authority.background.allows(component, name)
    }

    /// Records that it does, with what the model gets at once, or that it can't now.
    pub(super) async fn send_to_background(&mut self, admitted: AdmittedCall) -> Result<(), Stop> {
        let Some(background) = self.plan.background.clone() else {
            return Ok(());
        };
        let Ok(tool) = self.plan.tools.offered.get(admitted.tool()) else {
            return Ok(());
        };
        let most = background.limits.unfinished_per_org;
        let (job, call) = (JobId::new(), admitted.call().clone());
        let queued = self.recorder.machine.event(EventBody::JobQueued {
            job,
            call: call.id,
            tool: tool.definition.name.clone(),
            component: tool.component_ref(),
            effect: tool.definition.effect,
            fingerprint: tool.fingerprint(admitted.arguments()),
            arguments: admitted.arguments().clone(),
            agent: self.plan.agent.clone(),
            approved: admitted.is_approved(),
        });
        let begun = super::noted(jobs::begun(job, &tool.definition), admitted.note());
        let begun = self.completed(&call, begun, Metering::default());
        // THREAT[T-turn-replay]: what is to run and the end of the call in the turn are one: neither is there without the other.
        if self.recorder.record_job(vec![queued, begun], most).await? {
            background.queued.notify_one();
            return Ok(());
        }
        let refused = self.completed(&call, Err(jobs::too_many(most)), Metering::default());
        Ok(self.recorder.record(vec![refused]).await?)
    }

    /// What the model is told of jobs of the session that have ended, and of which it was not told.
    pub(super) async fn ends_of_jobs(&mut self) -> Vec<Note> {
        // Before the look: what ends meanwhile is looked for again.
        let ends = self
            .plan
            .background
            .as_ref()
            .map_or(0, |background| background.ends.count());
        if self.ends_seen == Some(ends) {
            return Vec::new();
        }
        match self.recorder.ends_of_jobs(TOLD_AT_ONCE).await {
            Ok(ended) => {
                let may_be_more = ended.len() >= TOLD_AT_ONCE as usize;
                self.ends_seen = (!may_be_more).then_some(ends);
                ended
            }
            Err(error) => {
                tracing::warn!(%error, "it can't be read which jobs have ended; the model is told before its next step");
                Vec::new()
            }
        }
    }
}
