//! A loaded component, ready to be called.

use crate::{
    plain::{Function, LeftOut},
    state::CallState,
};
use fumehood_core::{digest::Digest, tool::ToolDefinition};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};
use wasmtime::component::{ComponentExportIndex, InstancePre};

/// What kind of component it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentKind {
    /// It exports `fumehood:tool/tools` and describes its tools itself.
    FumehoodTool,
    /// It exports plain functions; each is offered as one tool.
    PlainFunctions,
    /// It exports `fumehood:tool/hooks`: it judges what others do, and has no tools.
    Hook,
}

/// A component: compiled, linked, its tools known. Cheap to clone; the code lives as long as a clone.
#[derive(Clone)]
pub struct Component {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) about: About,
    pub(crate) pre: InstancePre<CallState>,
    pub(crate) entry: Entry,
    /// Functions that are no tools.
    pub(crate) left_out: Vec<LeftOut>,
}

/// What is known of a component without running it. Kept with the compiled code.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct About {
    pub(crate) digest: Digest,
    pub(crate) kind: ComponentKind,
    pub(crate) tools: Vec<ToolDefinition>,
    pub(crate) manifest: Option<String>,
    /// How many core instances one instance of it has.
    pub(crate) core_instances: u32,
}

/// Where a call enters.
pub(crate) enum Entry {
    /// `fumehood:tool/tools.call`.
    Tools(ComponentExportIndex),
    /// One function per tool, in the order of the tools.
    Functions(Vec<Function>),
    /// `fumehood:tool/hooks.decide`.
    Hook(ComponentExportIndex),
}

impl Component {
    /// What pins it.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.inner.about.digest
    }

    /// What kind it is.
    #[must_use]
    pub fn kind(&self) -> ComponentKind {
        self.inner.about.kind
    }

    /// Its tools, as it described them when it was installed. At least one, unless it is a hook.
    #[must_use]
    pub fn tools(&self) -> &[ToolDefinition] {
        &self.inner.about.tools
    }

    /// The functions that it exports and that can't be tools, with the reason: of plain functions only, and no more than there may be tools.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        &self.inner.left_out
    }

    /// The text of its embedded manifest (`fumehood:manifest`), unchecked.
    #[must_use]
    pub fn manifest(&self) -> Option<&str> {
        self.inner.about.manifest.as_deref()
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component")
            .field("digest", self.digest())
            .field("kind", &self.kind())
            .field("tools", &self.tools().len())
            .finish()
    }
}
