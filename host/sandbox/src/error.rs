//! Why a sandbox cannot be set up, and why a component is refused. Each says what to do about it.

use fumehood_core::{digest::Digest, name::NameError};

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Wasmtime cannot run here.
    #[error("the WebAssembly engine cannot start on this machine: {0}; see `fumehood doctor`")]
    Engine(String),
    /// The thread that keeps guests' time could not start.
    #[error("cannot start the thread that limits CPU time: {0}")]
    Ticker(std::io::Error),
    /// The directory for temporary files cannot be used.
    #[error("cannot use the directory for temporary files ({kind}); check that it exists and is writable")]
    Tmp {
        /// What went wrong; the path is in the log.
        kind: std::io::ErrorKind,
    },
    /// The cache directory cannot be used.
    #[error("cannot use the directory for compiled code ({kind}); check that it exists and is writable")]
    Cache {
        /// What went wrong; the path is in the log.
        kind: std::io::ErrorKind,
    },
}

/// Why a component is not loaded. Shown to whoever installs it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The bytes are not those that were asked for.
    #[error(
        "the file's digest is {actual}, not {expected}; it was changed or is another version: check where it comes from"
    )]
    WrongDigest {
        /// What was asked for.
        expected: Digest,
        /// What the bytes are.
        actual: Digest,
    },
    /// Larger than the host takes.
    #[error(
        "the component is {actual} bytes, more than the {limit} that this host takes; build it for size, or raise the host's limit"
    )]
    TooLarge {
        /// Its size.
        actual: u64,
        /// The host's limit.
        limit: u64,
    },
    /// No WebAssembly at all.
    #[error("this is not WebAssembly; give a component, such as what `fumehood tool build` writes")]
    NotWasm,
    /// A core module.
    #[error(
        "this is a core WebAssembly module, not a component; build it for the target wasm32-wasip2, \
         or turn it into a component with `wasm-tools component new`"
    )]
    CoreModule,
    /// A core module for WASI preview 1 that runs from its beginning to its end.
    #[error(
        "this is a core WebAssembly module, not a component: a command for WASI preview 1 (wasip1), which runs once and has no \
         functions to offer; write what it does as a library for the target wasm32-wasip2, such as what `fumehood tool new` makes"
    )]
    Preview1Command,
    /// A core module for WASI preview 1 with functions.
    #[error(
        "this is a core WebAssembly module, not a component: a library for WASI preview 1 (wasip1); build it for the target \
         wasm32-wasip2, or turn it into a component with `wasm-tools component new --adapt` and the adapter for preview 1"
    )]
    Preview1Library,
    /// A core module with the calling convention of other hosts.
    #[error(
        "this is a core WebAssembly module for {made_for}, which calls modules in a way of its own; build it anew as a \
         component for the target wasm32-wasip2, which exports the interface fumehood:tool/tools, or plain functions"
    )]
    ForeignModule {
        /// Which hosts.
        made_for: &'static str,
    },
    /// A component of another version of the binary format.
    #[error(
        "this is a component in version 0x{version:02x} of the binary format, where this host reads version 0x0d; build it with \
         current tools, such as `fumehood tool build`"
    )]
    OtherFormat {
        /// The version.
        version: u16,
    },
    /// Built for another contract.
    #[error(
        "the component was built for another version of the contract ({}), where this host speaks fumehood:tool {} and every \
         other 0.1.x; build it against the WIT files of this host",
        .names.join(", "), crate::world::CONTRACT_VERSION
    )]
    ContractVersion {
        /// The interfaces, as the component has them.
        names: Vec<String>,
    },
    /// Built for another WASI.
    #[error(
        "the component was built for another version of WASI ({}), where this host has WASI 0.2; build it with libraries for \
         that (in Rust, for the target wasm32-wasip2)",
        .names.join(", ")
    )]
    WasiVersion {
        /// The interfaces, as the component has them.
        names: Vec<String>,
    },
    /// It exports interfaces of the contract, and none that this host calls.
    #[error(
        "the component exports {}, which this host does not know; export the interface fumehood:tool/tools, \
         fumehood:tool/hooks, or plain functions",
        .names.join(", ")
    )]
    UnknownExports {
        /// The interfaces, as the component has them.
        names: Vec<String>,
    },
    /// It was made to be run or asked in another way.
    #[error(
        "the component is {what}, and exports nothing that can be offered as a tool; make what it does a library that exports \
         the interface fumehood:tool/tools, or plain functions"
    )]
    NotATool {
        /// What it is.
        what: &'static str,
    },
    /// It ends too early or is damaged.
    #[error("the component is damaged or cut off ({0}); get or build it again")]
    Malformed(String),
    /// It is well-formed, but uses what this host does not offer.
    #[error("the component cannot be compiled ({0}); build it with the WebAssembly features of wasm32-wasip2")]
    Unsupported(String),
    /// Compiling it took too long.
    #[error(
        "compiling the component took longer than {}s, the host's limit; make its functions smaller, or raise `compile_time` in `[limits.install]`",
        .limit.as_secs_f32()
    )]
    CompileTime {
        /// The host's limit.
        limit: std::time::Duration,
    },
    /// Compiling it took too much memory.
    #[error(
        "compiling the component needed more than {limit} bytes of memory, the host's limit; make its functions smaller, or raise `compile_memory` in `[limits.install]`"
    )]
    CompileMemory {
        /// The host's limit.
        limit: u64,
    },
    /// Its code would stay in the host's memory, and there is too much of it.
    #[error(
        "the component compiles to more than {limit} bytes of code, the most this host keeps; remove functions that it does not use, or divide it"
    )]
    CodeSize {
        /// The host's limit, in bytes.
        limit: u64,
    },
    /// A part that is kept and shown is too long.
    #[error("the component's {what} has {actual} bytes, more than the {limit} that this host keeps; shorten it")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its size.
        actual: usize,
        /// The most.
        limit: usize,
    },
    /// It imports interfaces that the host does not have.
    #[error(
        "the component imports what this host does not offer: {}; use the interfaces of the worlds fumehood:tool/tool and fumehood:tool/hook, and WASI 0.2, or compose it with components that export \
         the others (`wac plug`)",
        .names.join(", ")
    )]
    UnknownImports {
        /// The names, as the component has them.
        names: Vec<String>,
    },
    /// It imports known interfaces in another shape.
    #[error("the component's imports do not fit this host ({0}); build it against the WIT files of this version")]
    ImportMismatch(String),
    /// It exports `fumehood:tool/tools` in another shape.
    #[error(
        "the component's export fumehood:tool/tools does not fit this host ({0}); build it against the WIT files of this version"
    )]
    ExportMismatch(String),
    /// Nothing to call.
    #[error(
        "the component exports nothing that can be called; export the interface fumehood:tool/tools, or plain functions"
    )]
    NoTools,
    /// It exports `fumehood:tool/hooks` in another shape.
    #[error(
        "the component's export fumehood:tool/hooks does not fit this host ({0}); build it against the WIT files of this version"
    )]
    HookMismatch(String),
    /// What judges calls would be called itself.
    #[error("the component exports both fumehood:tool/tools and fumehood:tool/hooks; make it two components")]
    ToolsAndHooks,
    /// It needs more than one call may have even to start.
    #[error("{0}")]
    TooDemanding(String),
    /// A plain function has a type that JSON cannot carry.
    #[error("the function {function} uses {}", unsupported(.what))]
    UnsupportedType {
        /// The function.
        function: String,
        /// What cannot be converted.
        what: &'static str,
    },
    /// What its plain functions take and return is too long to write out.
    #[error(
        "the types of the function {function}, with those of the functions before it, unfold to more than the {limit} bytes of \
         JSON Schema that this host keeps of a component; use simpler types, or fewer functions"
    )]
    TypesTooLarge {
        /// The function.
        function: String,
        /// The most.
        limit: usize,
    },
    /// Two functions give the same tool name, or none.
    #[error("the function {function} cannot become a tool: {why}")]
    FunctionName {
        /// The function.
        function: String,
        /// Why.
        why: String,
    },
    /// `definitions` failed.
    #[error("the component's `definitions` failed: {0}; it must work without files, network and environment")]
    DefinitionsFailed(String),
    /// It has no `definitions`, and no call of it could begin.
    #[error("an instance of the component can't be made even with all that this host lets a call have: {0}")]
    InstanceFailed(String),
    /// There are too many.
    #[error("the component defines more than {limit} tools, the most that one component may have; split it")]
    TooManyTools {
        /// The limit.
        limit: usize,
    },
    /// A definition has a name that no tool may have.
    #[error(transparent)]
    ToolName(#[from] ToolNameError),
    /// Two definitions have one name.
    #[error("the component defines the tool {0} twice; give each its own name")]
    DuplicateTool(String),
    /// A description is missing.
    #[error("the tool {0} has no description; a model needs one to use it")]
    NoDescription(String),
    /// A schema is not JSON, or not one of an object.
    #[error("the {which} of the tool {tool} is invalid: {why}")]
    Schema {
        /// The tool.
        tool: String,
        /// Which schema.
        which: &'static str,
        /// Why.
        why: String,
    },
    /// The embedded manifest is not text.
    #[error("the custom section fumehood:manifest is not UTF-8 text; embed the tool.toml itself")]
    ManifestNotText,
    /// Too many components are being loaded.
    #[error("the host is busy with components to compile, this org's or others'; try again when they are done")]
    Busy,
    /// The host failed; the details are in its log.
    #[error("the host failed to load the component; its log says why")]
    Internal,
}

/// What to use in the place of a type that JSON cannot carry.
/// What keeps a function from being a tool, and what to do, after "it uses".
pub(crate) fn unsupported(what: &str) -> String {
    format!("{what}, which this host has no JSON form for; {}", plainly(what))
}

fn plainly(what: &str) -> &'static str {
    match what {
        "a resource" => {
            "a resource lives in the instance that made it, and each call has an instance of its own: return its data as a \
             record, and take a name or a number of it in the next call"
        }
        "a stream" | "a future" | "an asynchronous signature" => {
            "a call has one result, at its end: return a list or a value, and report what is done meanwhile as progress"
        }
        _ => "use plain values",
    }
}

/// A definition's name breaks the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tool of the component has an invalid name: {0}")]
pub struct ToolNameError(#[from] pub NameError);
