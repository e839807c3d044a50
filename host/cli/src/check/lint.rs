//! The lints: a stable name, a level and a sentence for each.

use fumehood_policy::{lint::Step, suggest::nearest};
use serde::{Serialize, Serializer};
use std::{fmt, str::FromStr};

/// How bad it is. The worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// It cannot work, or it misleads whoever relies on it.
    Error,
    /// It works, and is probably not what was meant.
    Warning,
    /// Worth knowing.
    Note,
}

macro_rules! lints {
    ($($lint:ident, $id:literal, $level:ident, $about:literal;)*) => {
        /// One kind of finding. Its id never changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum Lint { $(#[doc = $about] $lint,)* }

        impl Lint {
            /// Every one, in the order of the documentation.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$lint),*];

            /// What it is called on the command line, in JSON and in the documentation.
            pub(crate) const fn id(self) -> &'static str {
                match self { $(Self::$lint => $id),* }
            }

            /// How bad what it finds is.
            pub(crate) const fn level(self) -> Level {
                match self { $(Self::$lint => Level::$level),* }
            }

            /// What it finds, as the documentation has it.
            #[cfg(test)]
            pub(crate) const fn about(self) -> &'static str {
                match self { $(Self::$lint => $about),* }
            }
        }
    };
}

lints! {
    EffectContradicted, "effect-contradicted", Error, "A tool says that it is `pure` or `read_only`, and `destructive` as well.";
    DescriptionRepeated, "description-repeated", Error, "Two tools have the same description.";
    ParameterImpossible, "parameter-impossible", Error, "A schema requires a property that it does not allow, so that nothing follows it.";
    MemoryTooSmall, "memory-too-small", Error, "It needs more memory to start than its calls get.";
    NameVague, "name-vague", Warning, "A tool's name says nothing, such as `run` or `get`.";
    DescriptionShort, "description-short", Warning, "A description is a word or two, or only the name again.";
    DescriptionLong, "description-long", Warning, "A description has more than 2000 characters, which every request to a model carries.";
    ParameterUndescribed, "parameter-undescribed", Warning, "Parameters have no description.";
    SchemaUntyped, "schema-untyped", Warning, "A parameter takes any JSON.";
    SchemaOpen, "schema-open", Warning, "A schema with properties takes others too, so that a misspelt one is passed over in silence.";
    ManifestMissing, "manifest-missing", Warning, "It has no manifest: no version, and nothing that it could be granted.";
    ManifestDiffers, "manifest-differs", Warning, "The component does not carry the `tool.toml` beside it: who gets the file alone sees another request.";
    ManifestUndescribed, "manifest-undescribed", Warning, "The manifest has no description.";
    ComponentStale, "component-stale", Warning, "Files of the folder were saved after the component was built.";
    RequestWithoutEffect, "request-without-effect", Warning, "The manifest asks for what can have no effect: a rule that another one refuses or contains, a credential for hosts that it may not reach, a limit above the host's ceiling.";
    CapabilityUndeclared, "capability-undeclared", Warning, "It imports an interface that needs a grant, and its manifest does not ask for that: each use is denied.";
    CapabilityUnused, "capability-unused", Warning, "The manifest asks for what the component has no interface to use.";
    OpenWorldUnsaid, "open-world-unsaid", Warning, "It reaches the network, and none of its tools says `open_world`.";
    WritesUnsaid, "writes-unsaid", Warning, "It asks to change files or key-values, and all its tools say `read_only`.";
    NetworkAnyHost, "network-any-host", Warning, "A rule allows every public host, or every one under a top-level domain.";
    NetworkAnyMethod, "network-any-method", Warning, "A rule allows every method.";
    NetworkAnyPort, "network-any-port", Warning, "A rule allows every port.";
    NetworkPlainHttp, "network-plain-http", Warning, "A rule allows requests without encryption.";
    NetworkPrivate, "network-private", Warning, "A rule is for an address or a name that is not public, which hosts refuse unless their operator lists it.";
    ToolsAny, "tools-any", Warning, "It asks to call every other tool.";
    ContractNewer, "contract-newer", Warning, "It was built against a newer 0.1.x of `fumehood:tool` than this host has.";
    SizeLarge, "size-large", Warning, "It is larger than a quarter of what this host takes.";
    DebugSections, "debug-sections", Warning, "It carries debug information.";
    StartSlow, "start-slow", Warning, "Starting it takes the processor more than 100 ms.";
    StartMemory, "start-memory", Warning, "Starting it takes more than half of the memory that a call gets.";
    FunctionsLeftOut, "functions-left-out", Warning, "Functions that it exports are no tools, since their types have no form in JSON, or for their names.";
    SchemaUnbounded, "schema-unbounded", Note, "Arrays, or texts that leave for the outside, may be as long as all arguments may be.";
    EnumInWords, "enum-in-words", Note, "A description lists the values that a text may have, and the schema does not.";
    FunctionsUndescribed, "functions-undescribed", Note, "Plain functions are tools whose only description is their signature.";
    FilesAll, "files-all", Note, "It asks to change every file of the workspace.";
    SocketsRefused, "sockets-refused", Note, "It imports sockets, which are refused always.";
    NameSections, "name-sections", Note, "It carries the names of its functions.";
}

impl Serialize for Lint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl FromStr for Lint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|lint| lint.id() == text).copied();
        found.ok_or_else(|| {
            let hint = nearest(text, Self::ALL.iter().map(|lint| lint.id()));
            format!("no lint is called `{text}`{hint}; docs/tool-authors/checking.md lists them")
        })
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) lint: Lint,
    /// What is the matter: a sentence without its full stop.
    pub(crate) what: String,
    /// What to do: the same.
    pub(crate) remedy: String,
    /// Where in the manifest, if it is about something there.
    pub(crate) place: Vec<Step>,
}

impl Finding {
    pub(super) fn new(lint: Lint, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            lint,
            what: what.into(),
            remedy: remedy.into(),
            place: Vec::new(),
        }
    }

    /// About this place of the manifest.
    pub(super) fn at(mut self, keys: &[&str], item: Option<usize>) -> Self {
        let keys = keys.iter().map(|key| Step::Key((*key).to_owned()));
        self.place = keys.chain(item.map(Step::Item)).collect();
        self
    }
}
