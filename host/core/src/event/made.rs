//! Bodies that are made of something else, and what they mean.

use super::EventBody;
use crate::{
    call::{CallResult, Metering, status_of},
    id::{CallId, JobId},
    name::ToolName,
};

impl EventBody {
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
        let status = status_of(&result);
        let (output, error) = match result {
            Ok(output) => (Some(output), None),
            Err(error) => (None, Some(error)),
        };
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

    /// The `tool.completed` of a result.
    #[must_use]
    pub fn tool_completed(call: CallId, tool: String, result: CallResult, metering: Metering) -> Self {
        let status = status_of(&result);
        let (output, error) = match result {
            Ok(output) => (Some(output), None),
            Err(error) => (None, Some(error)),
        };
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
