//! A turn that has ended, worked again without a model and without a network, and compared with what its journal says.
//!
//! What decided about the turn is asked again: the turn machine, with the answers that the model gave; and each call that was recorded
//! runs again in the sandbox, by the code it ran, with the arguments, the files, the time, the chance and the answers from outside that
//! it had. Nothing is written to what is kept, and nothing leaves.
//!
//! A call is compared by what it asked at its ports, what it returned, and what it did to the session's files. What it used (time, CPU,
//! memory) is not compared, and may be more than it was.

mod calls;
mod compare;
mod decisions;
mod ports;

use compare::first_difference;
use fumehood_core::{
    digest::Digest,
    event::{Event, EventBody},
    id::{CallId, TurnId},
    name::{ComponentName, OrgName},
    turn::TurnStatus,
};
use fumehood_sandbox::{Component, LoadError, Sandbox};
use fumehood_store::{Blobs, Store, StoreError, Workspaces, workspace::Quota};
use serde::Serialize;
use std::{io, path::PathBuf, sync::Arc};

/// What a replay is made with.
pub struct ReplayParts {
    /// The journal and the recordings.
    pub store: Arc<dyn Store>,
    /// The states of the sessions' files.
    pub workspaces: Workspaces,
    /// The components' code.
    pub blobs: Blobs,
    /// Runs them.
    pub sandbox: Sandbox,
    /// A directory of the caller's for files that calls see, empty.
    pub scratch: PathBuf,
    /// What the files of a session may take.
    pub quota: Quota,
}

/// A component in the place of that of its name.
pub struct Replacement {
    /// The name.
    pub name: ComponentName,
    /// Its code.
    pub code: Component,
}

/// Why nothing was replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// There is no such turn.
    #[error("there is no turn {0} here; `fumehood session list` and `fumehood session events` show those there are")]
    NotFound(TurnId),
    /// The turn is still to be worked.
    #[error("the turn {turn} has not ended ({}): replay it when it has", word(*status))]
    NotEnded {
        /// The turn.
        turn: TurnId,
        /// Where it is.
        status: TurnStatus,
    },
    /// No call ran a component of that name.
    #[error(
        "no call of the turn {turn} ran a component `{name}`, so there is nothing to try another one for{}",
        ran(there)
    )]
    NotCalled {
        /// The turn.
        turn: TurnId,
        /// The name.
        name: ComponentName,
        /// Those that calls ran.
        there: Vec<ComponentName>,
    },
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A component can't be loaded.
    #[error("a component can't be loaded: {0}")]
    Load(#[from] LoadError),
    /// The files of a call can't be laid out.
    #[error("the files of a call can't be laid out: {0}")]
    Files(String),
}

const fn word(status: TurnStatus) -> &'static str {
    match status {
        TurnStatus::Queued => "queued",
        TurnStatus::Running => "running",
        TurnStatus::AwaitingApproval => "awaiting_approval",
        TurnStatus::AwaitingResults => "awaiting_results",
        TurnStatus::Completed => "completed",
        TurnStatus::Failed => "failed",
        TurnStatus::Cancelled => "cancelled",
    }
}

fn ran(there: &[ComponentName]) -> String {
    if there.is_empty() {
        return "; none ran any".to_owned();
    }
    let names: Vec<_> = there.iter().map(|name| name.as_str()).collect();
    format!("; calls ran: {}", names.join(", "))
}

impl From<io::Error> for ReplayError {
    fn from(error: io::Error) -> Self {
        Self::Files(error.to_string())
    }
}

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// The turn.
    pub turn: TurnId,
    /// What was decided in it.
    pub decisions: DecisionsReplayed,
    /// Its calls, in the order in which the model asked for them.
    pub calls: Vec<CallReplayed>,
}

impl Replayed {
    /// Whether nothing differs. What was not recorded was not compared.
    #[must_use]
    pub fn is_identical(&self) -> bool {
        let differs = |call: &CallReplayed| matches!(call.verdict, Verdict::Differs { .. });
        self.decisions.differs.is_none() && !self.calls.iter().any(differs)
    }
}

/// What was decided in a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DecisionsReplayed {
    /// How many were asked for again.
    pub compared: u64,
    /// The first that would be another one now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differs: Option<Difference>,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallReplayed {
    /// The call.
    pub call: CallId,
    /// The tool, as the model named it.
    pub tool: String,
    /// The component that ran, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentName>,
    /// What came of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What came of replaying one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It asked the same, returned the same and left the same files.
    Identical,
    /// It did not.
    Differs {
        /// The first difference.
        #[serde(flatten)]
        difference: Difference,
    },
    /// It can't be run again: not all is there that it takes.
    NotRecorded {
        /// What is missing.
        why: String,
    },
    /// No component ran.
    Skipped {
        /// Who else.
        why: String,
    },
}

impl Verdict {
    /// The word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Identical => "identical",
            Self::Differs { .. } => "differs",
            Self::NotRecorded { .. } => "not recorded",
            Self::Skipped { .. } => "skipped",
        }
    }
}

/// Where two runs part, and both sides there. Bounded, and without control characters only as far as who shows it sees to that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where: a request, a place in the result, a file, a decision.
    pub at: String,
    /// What was recorded.
    pub recorded: String,
    /// What came of it now.
    pub replayed: String,
}

/// Bytes of each side of a difference.
const SIDE: usize = 600;

impl Difference {
    fn new(at: impl Into<String>, recorded: impl Into<String>, replayed: impl Into<String>) -> Self {
        Self {
            at: at.into(),
            recorded: bounded(recorded.into()),
            replayed: bounded(replayed.into()),
        }
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > SIDE {
        text.truncate(text.floor_char_boundary(SIDE));
        text.push('…');
    }
    text
}

/// Replays a turn of an org, with a component in the place of another if one is given.
///
/// Cancel-safe: nothing is kept. What a dropped replay laid out stays in the caller's directory.
///
/// # Errors
/// [`ReplayError`]; a difference is none.
pub async fn replay(
    parts: &ReplayParts,
    org: &OrgName,
    turn: TurnId,
    with: Option<&Replacement>,
) -> Result<Replayed, ReplayError> {
    let row = parts.store.turn(org, turn).await?.ok_or(ReplayError::NotFound(turn))?;
    if !row.status.is_terminal() {
        return Err(ReplayError::NotEnded {
            turn,
            status: row.status,
        });
    }
    let events = parts.store.turn_events(org, turn).await?;
    let asked = calls::asked_for(&events);
    if let Some(with) = with {
        let there: std::collections::BTreeSet<_> = asked.iter().filter_map(calls::Asked::component).collect();
        if !there.contains(&with.name) {
            return Err(ReplayError::NotCalled {
                turn,
                name: with.name.clone(),
                there: there.into_iter().cloned().collect(),
            });
        }
    }
    let mut calls = Vec::with_capacity(asked.len());
    for call in asked {
        let verdict = calls::replay(parts, &row, &call, with).await?;
        calls.push(CallReplayed {
            component: call.component().cloned(),
            call: call.id,
            tool: call.tool,
            verdict,
        });
    }
    Ok(Replayed {
        turn,
        decisions: decisions::replay(turn, &events),
        calls,
    })
}

/// The digest that the journal has of what is recorded of a call, or why there is nothing.
fn recording_of(events: &[Event], of: CallId) -> Option<Result<Digest, String>> {
    events.iter().rev().find_map(|event| match &event.body {
        EventBody::ToolRecorded {
            call,
            recording,
            missing,
            ..
        } if *call == of => Some(match (recording, missing) {
            (Some(digest), _) => Ok(*digest),
            (None, Some(why)) => Err(why.clone()),
            (None, None) => Err("the journal does not say why".to_owned()),
        }),
        _ => None,
    })
}
