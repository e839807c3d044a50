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
        "the component imports what this host does not offer: {}; use the interfaces of the worlds fumehood:tool/tool and fumehood:tool/hook, and WASI 0.2",
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
    #[error("one instance of the component needs {0}; make it smaller")]
    TooDemanding(String),
    /// A plain function has a type that JSON cannot carry.
    #[error("the function {function} uses a {what}, which this host has no JSON form for; use plain values")]
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

/// A definition's name breaks the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tool of the component has an invalid name: {0}")]
pub struct ToolNameError(#[from] pub NameError);
