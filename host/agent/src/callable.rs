//! A tool as rules, hooks and approvals see it, wherever it runs: in a sandbox of the host, or at the client that brought it.

use crate::{catalog::InstalledTool, client_tools::ReadyTool};
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, ComponentRef},
    digest::Digest,
    name::{ComponentName, ToolName},
    tool::ToolDefinition,
};
use std::sync::Arc;

/// A tool that a model may call.
pub(crate) trait Callable: Send + Sync {
    /// What it says of itself.
    fn definition(&self) -> &ToolDefinition;

    /// Which component it is of.
    fn component_name(&self) -> &ComponentName;

    /// Which code a call of it runs.
    fn code(&self) -> ComponentRef;

    /// Whether the arguments follow the tool's schema.
    ///
    /// # Errors
    /// `invalid_arguments`, with the place and the reason of the first few faults.
    fn check(&self, arguments: &mut Arguments) -> Result<(), CallError>;

    /// Of a call of it with these arguments: what an approval is about.
    fn fingerprint(&self, arguments: &Arguments) -> Digest;

    /// As rules and hooks name it.
    fn named(&self) -> (&ComponentName, &ToolName) {
        (self.component_name(), &self.definition().name)
    }
}

impl Callable for InstalledTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    fn component_name(&self) -> &ComponentName {
        &self.component.record.name
    }

    fn code(&self) -> ComponentRef {
        self.component_ref()
    }

    fn check(&self, arguments: &mut Arguments) -> Result<(), CallError> {
        Self::check(self, arguments)
    }

    fn fingerprint(&self, arguments: &Arguments) -> Digest {
        Self::fingerprint(self, arguments)
    }
}

/// A tool that a model has asked for.
#[derive(Clone)]
pub(crate) enum Tool {
    /// It runs in a sandbox.
    Installed(Arc<InstalledTool>),
    /// The client runs it.
    Brought(Arc<ReadyTool>),
}

impl Tool {
    /// As rules, hooks and approvals see it.
    pub(crate) fn as_callable(&self) -> &dyn Callable {
        match self {
            Self::Installed(tool) => &**tool,
            Self::Brought(tool) => &**tool,
        }
    }
}

/// The words for arguments that do not fit a tool's schema.
pub(crate) fn misfit(tool: &ToolName, why: &crate::schema::Misfit) -> CallError {
    let message = format!("the arguments do not fit the schema of {tool}: {why}");
    CallError::new(CallErrorCode::InvalidArguments, message)
}
