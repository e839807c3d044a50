//! The recording of a call, from before its component runs to where it is kept.

use super::{CallScope, Caller};
use crate::recording::{Tape, Whole, recorded};
use fumehood_core::{
    digest::Digest,
    id::{CallId, SessionId, TurnId},
    name::OrgName,
};
use fumehood_egress::LeakGuard;
use fumehood_policy::authority::Authority;
use fumehood_sandbox::{Call, CallReport, ports::Ports};
use std::sync::Arc;

/// A call that is to be recorded, and of which turn it is.
pub(super) struct Taping {
    tape: Arc<Tape>,
    org: OrgName,
    session: SessionId,
    turn: TurnId,
}

/// A call that is recorded while it runs.
pub(super) struct Running {
    taping: Taping,
    call: CallId,
    whole: Whole,
    changes_files: bool,
}

impl CallScope {
    /// Whether its call is to be recorded.
    pub(super) fn taping(&self) -> Option<Taping> {
        Some(Taping {
            tape: self.tape.clone()?,
            org: self.org.clone(),
            session: self.session?,
            turn: self.turn?,
        })
    }
}

impl Caller {
    /// Takes down what the call begins with. Its time runs.
    pub(super) async fn begin_recording(
        &self,
        taping: Taping,
        call: &Call,
        authority: &Authority,
        ports: Ports,
    ) -> (Ports, Option<Running>) {
        let files = match &ports.workspace {
            Some(_) => self.state_of(taping.session).await,
            None => None,
        };
        let is_granted = |name: &str| authority.env.iter().any(|granted| granted.as_str() == name);
        let whole = Whole {
            tool: call.tool.clone(),
            arguments: call.arguments.clone(),
            locale: call.locale.clone(),
            env: ports.env.iter().filter(|(name, _)| is_granted(name)).cloned().collect(),
            files: files.map(|before| (before, None)),
            result: Ok(fumehood_core::call::Output::default()),
        };
        if ports.workspace.is_some() && whole.files.is_none() {
            taping
                .tape
                .lost("the state of the session's files could not be kept".to_owned());
            return (ports, None);
        }
        let running = Running {
            changes_files: ports.workspace.is_some() && authority.files.access.can_write(),
            call: call.id,
            whole,
            taping,
        };
        (recorded(ports, &running.taping.tape), Some(running))
    }

    /// Keeps what was taken down, before the call's end is recorded. What can't be kept is told, and changes nothing for the call.
    pub(super) async fn end_recording(&self, running: Running, report: &CallReport, guard: &LeakGuard) {
        let Running {
            taping,
            call,
            mut whole,
            changes_files,
        } = running;
        if report.instantiated.is_none() {
            taping.tape.lost("its component did not come to run".to_owned());
            return;
        }
        if let (true, Some((_, after))) = (changes_files, &mut whole.files) {
            *after = self.state_of(taping.session).await;
            if after.is_none() {
                let why = "the state that it left the session's files in could not be kept";
                taping.tape.lost(why.to_owned());
                return;
            }
        }
        // As the guest gave it: one with a value of a secret is not kept, and a replay is compared with nothing else.
        whole.result = report.result.clone();
        let Some(content) = taping.tape.finish(whole, guard) else {
            return;
        };
        let bytes = content.len() as u64;
        let of = (taping.session, taping.turn);
        match self.store.keep_recording(&taping.org, of, call, content).await {
            Ok(digest) => taping.tape.kept(digest, bytes),
            Err(error) => {
                tracing::warn!(%call, %error, "the recording of a call can't be kept");
                taping
                    .tape
                    .lost("the store could not keep it; the host's log has more".to_owned());
            }
        }
    }

    async fn state_of(&self, session: SessionId) -> Option<Digest> {
        match self.workspaces.snapshot(session).await {
            Ok(state) => state,
            Err(error) => {
                tracing::warn!(%session, %error, "the state of a session's files can't be recorded");
                None
            }
        }
    }
}
