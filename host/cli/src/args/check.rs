//! `fumehood tool check`.

use crate::check::Lint;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct ToolCheck {
    /// The .wasm file, or a tool's folder.
    #[arg(default_value = ".", value_name = "FILE|DIR")]
    pub(crate) target: PathBuf,
    /// Fail on these as on errors.
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub(crate) deny: Option<Deny>,
    /// Say nothing of this lint, by its id. May be given several times.
    #[arg(long, value_name = "ID")]
    pub(crate) allow: Vec<Lint>,
}

/// What a check fails on beside errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Deny {
    /// Warnings.
    Warnings,
    /// Warnings and notes.
    Notes,
}
