//! The commands of who writes tools.

use crate::kit::Language;
use clap::Args;
use fumehood_core::name::ComponentName;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct ToolNew {
    /// The component's name, and the folder's: a letter, then letters, digits and hyphens, all lower-case.
    pub(crate) name: ComponentName,
    /// The language it is written in.
    #[arg(long, value_enum, default_value_t = Language::Rust, value_name = "LANGUAGE")]
    pub(crate) lang: Language,
    /// Use the Rust SDK in this folder, the crate `fumehood`, instead of the published one.
    #[arg(long, value_name = "DIR")]
    pub(crate) sdk: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ToolBuild {
    /// The tool's folder.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ToolDev {
    /// The tool's folder.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// What to call: a tool, its arguments and the options of `tool call`; it may do all that it asks for, unless `--grant` says
    /// what. Without it: the tests are run.
    #[arg(last = true, value_name = "TOOL [JSON] [OPTIONS]")]
    pub(crate) call: Vec<String>,
}
