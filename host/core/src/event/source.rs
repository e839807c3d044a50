//! Who events come from.

use crate::{
    Time,
    id::{CallId, CallbackId, ScheduleId},
};
use serde::{Deserialize, Serialize};

/// Who an event comes from. Typed, so that no text from outside can pose as the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// A client, over the API.
    Client,
    /// Somebody outside to whom a tool handed its call on.
    Callback {
        /// By which it was named.
        callback: CallbackId,
    },
    /// The agent loop.
    Host,
    /// A schedule, at one of its times.
    Schedule {
        /// The schedule.
        schedule: ScheduleId,
        /// The time it was for.
        due: Time,
    },
    /// The model.
    Model,
    /// A tool, in one call.
    Tool {
        /// The tool.
        tool: String,
        /// The call.
        call: CallId,
    },
    /// The egress door, for one call.
    Egress {
        /// The call.
        call: CallId,
    },
}
