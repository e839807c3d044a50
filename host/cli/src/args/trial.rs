//! `fumehood tool test`.

use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct ToolTest {
    /// The tool's folder, with its tests in `tests/*.toml`.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// The component to test. Without it the folder's own: built first, or NAME.wasm in a folder without code.
    #[arg(long, value_name = "FILE")]
    pub(crate) component: Option<PathBuf>,
    /// Only tests with this in their name.
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
    /// Keep the results of tests with a snapshot as they are now.
    #[arg(long)]
    pub(crate) update: bool,
    /// Run each test with exchanges again with an outside that fails: 429, 500, no answer, 10 MiB, and so on. The tool must
    /// end by itself.
    #[arg(long)]
    pub(crate) failing_outside: bool,
    /// Ask the real outside, under the component's own manifest, and write what it answers as the exchanges of the tests: of those
    /// that have none, or recorded ones.
    #[arg(long, conflicts_with = "failing_outside")]
    pub(crate) record: bool,
    /// The value of a secret, for a recording.
    #[arg(long, value_name = "NAME=VALUE", requires = "record")]
    pub(crate) secret: Vec<String>,
}
