//! `cargo xtask setup`: what a machine needs beyond cargo.

use anyhow::Result;

use crate::devtools;
use crate::progress::{Outcome, Step};
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// The guests' compiler and the programs of the checks.
pub(crate) fn everything(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let (_, compiler) = Toolchain::ready(workspace, step)?;
    let tools = devtools::ready(workspace, step)?;
    Ok(Outcome::Noted(match (compiler, tools) {
        (Outcome::Noted(compiler), Outcome::Noted(tools)) => format!("{compiler}; developer tools: {tools}"),
        _ => String::new(),
    }))
}
