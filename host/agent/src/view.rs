//! A turn as clients see it: its row and its events, folded.

use fumehood_core::{
    Time,
    approval::AskedApproval,
    awaited::{AwaitedCall, DetachedCall},
    content::Content,
    event::{Event, EventBody},
    id::{SessionId, TurnId},
    money::Money,
    turn::{StopReason, TurnError, TurnStatus, Usage},
};
use fumehood_store::record::Turn;
use serde::{Deserialize, Serialize};

/// A turn and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnView {
    /// Its id.
    pub id: TurnId,
    /// Its session.
    pub session: SessionId,
    /// Where it is.
    pub status: TurnStatus,
    /// The answer; empty until the turn is completed.
    pub output: Vec<Content>,
    /// Why a completed turn ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// Why a failed turn failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TurnError>,
    /// Tokens, as far as measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What it cost, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Money>,
    /// Decisions the turn waits for.
    pub approvals: Vec<AskedApproval>,
    /// Calls whose results the turn waits for.
    pub awaited: Vec<AwaitedCall>,
    /// Calls that tools handed on to somebody outside, who ends them.
    #[serde(default)]
    pub detached: Vec<DetachedCall>,
    /// When it was accepted.
    pub created: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Time>,
    /// Whether the session went back to before it: the conversation passes over it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undone: bool,
}

impl TurnView {
    /// Folds the events of the turn; its terminal event tells all there is to tell.
    #[must_use]
    pub fn new(turn: &Turn, events: &[Event]) -> Self {
        let mut view = Self {
            id: turn.id,
            session: turn.session,
            status: turn.status,
            output: Vec::new(),
            stop_reason: None,
            error: None,
            usage: None,
            cost: None,
            approvals: Vec::new(),
            awaited: Vec::new(),
            detached: Vec::new(),
            created: turn.created,
            ended: turn.ended,
            undone: false,
        };
        for event in events {
            match &event.body {
                EventBody::TurnCompleted {
                    stop_reason,
                    output,
                    usage,
                    cost,
                    ..
                } => {
                    view.status = TurnStatus::Completed;
                    view.stop_reason = Some(*stop_reason);
                    view.output.clone_from(output);
                    (view.usage, view.cost) = (*usage, *cost);
                }
                EventBody::TurnFailed { error, usage, cost, .. } => {
                    view.status = TurnStatus::Failed;
                    view.error = Some(error.clone());
                    (view.usage, view.cost) = (*usage, *cost);
                }
                EventBody::TurnCancelled { usage, cost, .. } => {
                    view.status = TurnStatus::Cancelled;
                    (view.usage, view.cost) = (*usage, *cost);
                }
                EventBody::ApprovalRequested { calls } => {
                    view.approvals.clone_from(calls);
                    continue;
                }
                EventBody::ApprovalResolved { .. } => {
                    view.approvals.clear();
                    continue;
                }
                EventBody::ResultsRequested { calls } => {
                    view.awaited.clone_from(calls);
                    continue;
                }
                EventBody::ToolCompleted { call, .. } => {
                    view.awaited.retain(|awaited| awaited.call_id != *call);
                    view.detached.retain(|detached| detached.call_id != *call);
                    continue;
                }
                EventBody::ToolDetached {
                    call,
                    tool,
                    callback,
                    expires,
                    note,
                    ..
                } => {
                    view.detached.push(DetachedCall {
                        call_id: *call,
                        tool: tool.clone(),
                        callback: *callback,
                        expires: *expires,
                        note: note.clone(),
                    });
                    continue;
                }
                _ => continue,
            }
            view.approvals.clear();
            view.awaited.clear();
            view.detached.clear();
            view.ended = view.ended.or(Some(event.time));
        }
        view
    }
}
