//! Bodies that are made of something else, and what they mean.

use super::EventBody;
use crate::{
    call::{CallResult, Metering, parts},
    id::{CallId, JobId},
    name::ToolName,
};

impl EventBody {
    /// How long the turn had been worked by then, in milliseconds: of the events whose budgets of time count it.
    #[must_use]
    pub const fn worked_ms(&self) -> Option<u64> {
        match self {
            Self::StepCompleted { worked_ms, .. }
            | Self::StepFailed { worked_ms, .. }
            | Self::TurnPaused { worked_ms, .. }
            | Self::TurnCompleted { worked_ms, .. }
            | Self::TurnFailed { worked_ms, .. }
            | Self::TurnCancelled { worked_ms, .. } => *worked_ms,
            _ => None,
        }
    }

    /// Says how long the turn had been worked by then, where the event tells that.
    pub const fn set_worked_ms(&mut self, so_far: u64) {
        match self {
            Self::StepCompleted { worked_ms, .. }
            | Self::StepFailed { worked_ms, .. }
            | Self::TurnPaused { worked_ms, .. }
            | Self::TurnCompleted { worked_ms, .. }
            | Self::TurnFailed { worked_ms, .. }
            | Self::TurnCancelled { worked_ms, .. } => *worked_ms = Some(so_far),
            _ => {}
        }
    }

    /// Whether this ends a turn.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::TurnCompleted { .. } | Self::TurnFailed { .. } | Self::TurnCancelled { .. }
        )
    }

    /// The `job.completed` of a result.
    #[must_use]
    pub fn job_completed(job: JobId, call: CallId, tool: ToolName, result: CallResult, metering: Metering) -> Self {
        let (status, output, error) = parts(result);
        Self::JobCompleted {
            job,
            call,
            tool,
            status,
            output,
            error,
            metering,
        }
    }

    /// How a job ended, of its `job.completed`.
    #[must_use]
    pub fn into_result_of_job(self) -> Option<(CallResult, Metering)> {
        let Self::JobCompleted {
            output,
            error,
            metering,
            ..
        } = self
        else {
            return None;
        };
        let result = output.map(Ok).or_else(|| error.map(Err))?;
        Some((result, metering))
    }

    /// The `tool.completed` of a result.
    #[must_use]
    pub fn tool_completed(call: CallId, tool: String, result: CallResult, metering: Metering) -> Self {
        let (status, output, error) = parts(result);
        Self::ToolCompleted {
            call,
            tool,
            status,
            output,
            error,
            metering,
        }
    }
}
