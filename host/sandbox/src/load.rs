//! From bytes to a component that can be called: check, compile or take from the cache, link, ask what
//! tools it has.

use crate::{
    bindings::fumehood::tool::types::Definition,
    compile,
    component::{About, Component, ComponentKind, Entry, Inner},
    definitions,
    error::LoadError,
    hook,
    inspect::{Inspection, inspect},
    linker::is_linked,
    plain::{self, Descriptions},
    sandbox::{Sandbox, Shared},
    share::ShareKey,
    slots::Slot,
    telemetry, world,
};
use bytes::Bytes;
use fumehood_core::digest::Digest;
use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;
use wasmtime::component::{Component as Compiled, ComponentExportIndex, InstancePre, types::ComponentItem};

const TOOLS_INTERFACE: &str = "fumehood:tool/tools@0.1.0";

/// One load per digest at a time; who comes later gets what the first one made, while anybody has it.
pub(crate) type LoadSlot = Arc<OnceCell<Weak<Inner>>>;

/// The longest that a component waits for its turn to be compiled.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// An install that goes on, until dropped.
#[must_use]
pub struct Installing(#[expect(dead_code, reason = "held")] Slot);

impl Sandbox {
    /// Loads a component: from the cache of compiled code, or by compiling it, once however many ask
    /// at the same time.
    ///
    /// Cancel-safe; a compilation that has begun runs to its end.
    ///
    /// # Errors
    /// When the bytes are not those of `digest` or are no component that this host can call.
    pub async fn load(&self, wasm: impl Into<Bytes>, digest: Digest) -> Result<Component, LoadError> {
        self.load_for(ShareKey::default(), wasm, digest).await
    }

    /// The same, on a share's account: compiling takes turns, and a share compiles one component at a time.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`LoadError::Busy`] when its turn did not come.
    pub async fn load_for(
        &self,
        share: ShareKey,
        wasm: impl Into<Bytes>,
        digest: Digest,
    ) -> Result<Component, LoadError> {
        let wasm = wasm.into();
        self.check_size(wasm.len() as u64)?;
        self.single_flight(digest, || self.shared.load(share, wasm, digest))
            .await
    }

    /// Whether a component of so many bytes is taken.
    ///
    /// # Errors
    /// [`LoadError::TooLarge`].
    pub fn check_size(&self, bytes: u64) -> Result<(), LoadError> {
        let limit = self.shared.max_component_size;
        if bytes > limit {
            return Err(LoadError::TooLarge { actual: bytes, limit });
        }
        Ok(())
    }

    /// A place among the installs of a share, to be held while one goes on.
    ///
    /// # Errors
    /// [`LoadError::Busy`] when too many go on already.
    // THREAT[T-org-compile]
    pub fn begin_install(&self, share: ShareKey) -> Result<Installing, LoadError> {
        let place = self.shared.installs.try_take(share).ok_or(LoadError::Busy)?;
        Ok(Installing(place))
    }

    /// Loads a component whose compiled code this host has kept, without its WebAssembly. `None` when
    /// there is no usable code: then [`load`](Self::load) it.
    pub async fn load_cached(&self, digest: Digest) -> Option<Component> {
        let cached = || async { self.shared.load_cached(digest).await.ok_or(LoadError::Internal) };
        self.single_flight(digest, cached).await.ok()
    }

    async fn single_flight<F>(&self, digest: Digest, load: impl FnOnce() -> F) -> Result<Component, LoadError>
    where
        F: Future<Output = Result<Arc<Inner>, LoadError>>,
    {
        let mut load = Some(load);
        loop {
            let slot = self.shared.load_slot(digest);
            let mut made = None;
            let found = slot
                .get_or_try_init(|| async {
                    let load = load.take().ok_or(LoadError::Internal)?;
                    let inner = load().await?;
                    let weak = Arc::downgrade(&inner);
                    made = Some(inner);
                    Ok::<_, LoadError>(weak)
                })
                .await?;
            match made.or_else(|| found.upgrade()) {
                Some(inner) => return Ok(Component { inner }),
                // Everybody who had it let go of it since.
                None => self.shared.forget_slot(digest, &slot),
            }
        }
    }
}

impl Shared {
    async fn load(self: &Arc<Self>, share: ShareKey, wasm: Bytes, digest: Digest) -> Result<Arc<Inner>, LoadError> {
        let (shared, checked) = (Arc::clone(self), wasm.clone());
        if let Some(inner) = blocking(move || shared.look_up(&checked, digest)).await? {
            return Ok(inner);
        }
        let within = Instant::now() + LONGEST_WAIT;
        // THREAT[T-org-compile]
        let turn = self.compilations.take(share, within).await.ok_or(LoadError::Busy)?;
        let shared = Arc::clone(self);
        let linked = blocking(move || {
            let _turn = turn;
            shared.prepare(&wasm)
        })
        .await?;
        let inner = Arc::new(self.introduce(linked, digest).await?);
        if self.cache.is_some() {
            let shared = Arc::clone(self);
            let kept = Arc::clone(&inner);
            // The caller need not wait for the disk.
            tokio::task::spawn_blocking(move || {
                if let Some(cache) = &shared.cache {
                    cache.write(&kept.about, kept.pre.component());
                }
            });
        }
        Ok(inner)
    }

    async fn load_cached(self: &Arc<Self>, digest: Digest) -> Option<Arc<Inner>> {
        self.cache.as_ref()?;
        let shared = Arc::clone(self);
        let cached = tokio::task::spawn_blocking(move || shared.cached(&digest)).await;
        cached
            .map_err(|error| internal("loading a component panicked", &error))
            .ok()?
    }

    fn cached(&self, digest: &Digest) -> Option<Arc<Inner>> {
        let (mut about, compiled) = self.cache.as_ref()?.read(digest)?;
        let linked = self.link(&compiled).and_then(|pre| {
            let mut left_out = Vec::new();
            let entry = match about.kind {
                ComponentKind::FumehoodTool => Entry::Tools(tools_exports(&compiled)?.ok_or(LoadError::NoTools)?.call),
                ComponentKind::PlainFunctions => {
                    // Both, since they belong together by their places: another version of this host may have had others.
                    let offered = plain::functions(&self.engine, &compiled, Descriptions::Kept(&about.tools))?;
                    let (functions, tools) = (offered.functions, offered.tools);
                    left_out = offered.left_out;
                    about.tools = tools;
                    Entry::Functions(functions)
                }
                ComponentKind::Hook => Entry::Hook(hook::exports(&compiled)?.ok_or(LoadError::NoTools)?),
            };
            Ok(Arc::new(Inner {
                about,
                pre,
                entry,
                left_out,
            }))
        });
        linked
            .inspect(|_| telemetry::loaded_from_cache())
            .map_err(|error| tracing::warn!(%error, %digest, "kept code does not fit this host; compiling"))
            .ok()
    }

    /// Checks the digest and looks into the cache. Blocks.
    fn look_up(&self, wasm: &[u8], digest: Digest) -> Result<Option<Arc<Inner>>, LoadError> {
        // THREAT[T-supply-digest]
        let actual = Digest::of(wasm);
        if actual != digest {
            return Err(LoadError::WrongDigest {
                expected: digest,
                actual,
            });
        }
        Ok(self.cached(&digest))
    }

    /// The part that computes: structure, compilation, linking. Blocks.
    fn prepare(&self, wasm: &[u8]) -> Result<Linked, LoadError> {
        let inspection = inspect(wasm)?;
        let begun = Instant::now();
        let compiled = self.compiler.compile(&self.engine, wasm)?;
        telemetry::compiled(begun.elapsed());
        let pre = self.link(&compiled)?;
        let exports = match (tools_exports(&compiled)?, hook::exports(&compiled)?) {
            (Some(_), Some(_)) => return Err(LoadError::ToolsAndHooks),
            (Some(exports), None) => Exports::Tools(exports),
            (None, Some(decide)) => Exports::Hook(decide),
            (None, None) => {
                let comments = Descriptions::Comments(&inspection.docs);
                let offered = plain::functions(&self.engine, &compiled, comments);
                Exports::Functions(offered.map_err(|error| match error {
                    LoadError::NoTools => world::nothing_to_call(&inspection.anatomy.exports),
                    other => other,
                })?)
            }
        };
        Ok(Linked {
            pre,
            inspection,
            exports,
        })
    }

    fn link(&self, compiled: &Compiled) -> Result<InstancePre<crate::state::CallState>, LoadError> {
        let ty = compiled.component_type();
        let unknown: Vec<String> = ty
            .imports(&self.engine)
            .filter(|(name, import)| !matches!(import.ty, ComponentItem::Type(_)) && !is_linked(name))
            .map(|(name, _)| name.to_owned())
            .collect();
        if !unknown.is_empty() {
            return Err(LoadError::UnknownImports {
                names: world::few(unknown),
            });
        }
        self.linker.instantiate_pre(compiled).map_err(|error| {
            let mut why = one_line(&error);
            if let Some(newer) = world::newer_contract(ty.imports(&self.engine).map(|(name, _)| name)) {
                why.push_str(&format!(
                    "; it was built for fumehood:tool {newer}, which is newer than this host's {}",
                    world::CONTRACT_VERSION
                ));
            }
            LoadError::ImportMismatch(why)
        })
    }

    /// Learns the tools of a component.
    async fn introduce(&self, linked: Linked, digest: Digest) -> Result<Inner, LoadError> {
        let Linked {
            pre,
            inspection,
            exports,
        } = linked;
        let mut left_out = Vec::new();
        let (kind, entry, tools) = match exports {
            Exports::Tools(exports) => {
                let definitions = self
                    .start(&pre, Some(&exports.definitions), inspection.core_instances)
                    .await?
                    .definitions;
                let tools = definitions::check(definitions)?;
                (ComponentKind::FumehoodTool, Entry::Tools(exports.call), tools)
            }
            Exports::Functions(offered) => {
                left_out = offered.left_out;
                let entry = Entry::Functions(offered.functions);
                (ComponentKind::PlainFunctions, entry, offered.tools)
            }
            Exports::Hook(decide) => (ComponentKind::Hook, Entry::Hook(decide), Vec::new()),
        };
        Ok(Inner {
            about: About {
                digest,
                kind,
                tools,
                manifest: inspection.manifest,
                core_instances: inspection.core_instances,
            },
            pre,
            entry,
            left_out,
        })
    }
}

/// A component that was compiled and linked just now.
struct Linked {
    pre: InstancePre<crate::state::CallState>,
    inspection: Inspection,
    exports: Exports,
}

enum Exports {
    Tools(ToolsExports),
    Functions(plain::Offered),
    /// `decide`.
    Hook(ComponentExportIndex),
}

pub(crate) struct ToolsExports {
    pub(crate) definitions: ComponentExportIndex,
    call: ComponentExportIndex,
}

/// The exports of `fumehood:tool/tools`, if the component has it.
pub(crate) fn tools_exports(compiled: &Compiled) -> Result<Option<ToolsExports>, LoadError> {
    let Some(interface) = compiled.get_export_index(None, TOOLS_INTERFACE) else {
        return Ok(None);
    };
    let function = |name: &str| match compiled.get_export(Some(&interface), name) {
        Some((ComponentItem::ComponentFunc(function), index)) => Ok((function, index)),
        _ => Err(LoadError::ExportMismatch(format!("it has no function `{name}`"))),
    };
    let (definitions_type, definitions) = function("definitions")?;
    let (call_type, call) = function("call")?;
    let ty = compiled.component_type();
    let mismatch = |error: wasmtime::Error| LoadError::ExportMismatch(one_line(&error));
    definitions_type
        .typecheck::<(), (Vec<Definition>,)>(&ty.instance_type())
        .map_err(mismatch)?;
    crate::call::typecheck(&call_type, &ty).map_err(mismatch)?;
    Ok(Some(ToolsExports { definitions, call }))
}

/// An error of wasmtime for whoever installs: what is wrong with the component, on one line.
pub(crate) fn one_line(error: &wasmtime::Error) -> String {
    compile::one_line(&format!("{error:#}"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| internal("loading a component panicked", &error))?
}

fn internal(what: &'static str, error: &dyn std::fmt::Display) -> LoadError {
    tracing::error!(%error, "{what}");
    LoadError::Internal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CacheKey, Call, Recall, SandboxConfig, ports::Ports, start};
    use fumehood_core::{call::Arguments, id::CallId};
    use fumehood_policy::limits::Limits;
    use serde_json::json;

    const TWO: &str = r#"(component
  (core module $m
    (func (export "one") (result i32) (i32.const 1))
    (func (export "two") (result i32) (i32.const 2)))
  (core instance $i (instantiate $m))
  (func (export "one") (result u32) (canon lift (core func $i "one")))
  (func (export "two") (result u32) (canon lift (core func $i "two"))))"#;

    fn sandbox(cache_dir: Option<&std::path::Path>) -> Sandbox {
        Sandbox::new(&SandboxConfig {
            cache_dir: cache_dir.map(Into::into),
            cache_key: CacheKey::new([1; 32]),
            max_concurrent_calls: 4,
            ..SandboxConfig::new().unwrap()
        })
        .unwrap()
    }

    #[tokio::test]
    async fn kept_code_of_plain_functions_calls_each_by_its_name_whatever_tools_were_kept_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let wasm = wat::parse_str(TWO).unwrap();
        let digest = Digest::of(&wasm);
        let made = sandbox(None).load(wasm, digest).await.unwrap();
        let mut about = made.inner.about.clone();
        about.tools.reverse();
        let sandbox = sandbox(Some(dir.path()));
        let cache = sandbox.shared.cache.as_ref().unwrap();
        cache.write(&about, made.inner.pre.component());

        let kept = sandbox.load_cached(digest).await.unwrap();
        assert_eq!(kept.tools(), made.tools());
        for (name, returns) in [("one", 1), ("two", 2)] {
            let call = Call {
                id: CallId::new(),
                tool: name.parse().unwrap(),
                arguments: Arguments::default(),
                idempotency_key: "key".into(),
                locale: None,
                deadline: None,
                recall: Recall::never(),
                share: ShareKey::default(),
                nested: false,
            };
            let authority = Arc::new(start::nothing(Limits::default()));
            let report = sandbox.call(&kept, call, authority, Ports::denied()).await;
            assert_eq!(
                report.result.unwrap().structured,
                Some(json!({"result": returns})),
                "{name}"
            );
        }
    }

    /// Functions with so many long names that there is room for short comments about them, and none for their signatures.
    fn wordy() -> String {
        let parameters = |function: usize| -> String {
            let name = |at: usize| format!("p{function}x{at}-{}", "a".repeat(190));
            (0..100).map(|at| format!(r#"(param "{}" u32)"#, name(at))).collect()
        };
        let function = |at: usize| {
            format!(
                r#"(func (export "f{at}") {} (result u32) (canon lift (core func $i "f")
                    (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))"#,
                parameters(at)
            )
        };
        let functions: String = (0..25).map(function).collect();
        let comments: Vec<String> = (0..25)
            .map(|at| format!(r#"\22f{at}\22:{{\22docs\22:\22Does.\22}}"#))
            .collect();
        format!(
            r#"(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
    (func (export "f") (param i32) (result i32) (i32.const 1)))
  (core instance $i (instantiate $m))
  {functions}
  (@custom "package-docs" "\01{{\22worlds\22:{{\22w\22:{{\22func_exports\22:{{{}}}}}}}}}"))"#,
            comments.join(",")
        )
    }

    #[tokio::test]
    async fn kept_code_is_used_also_where_there_is_room_for_comments_and_none_for_signatures() {
        let dir = tempfile::tempdir().unwrap();
        let wasm = wat::parse_str(wordy()).unwrap();
        let digest = Digest::of(&wasm);
        let made = sandbox(None).load(wasm, digest).await.unwrap();
        let without = plain::functions(
            &sandbox(None).shared.engine,
            made.inner.pre.component(),
            Descriptions::Kept(&[]),
        );
        assert!(
            matches!(without, Err(LoadError::TypesTooLarge { .. })),
            "the test is about nothing"
        );
        let sandbox = sandbox(Some(dir.path()));
        let cache = sandbox.shared.cache.as_ref().unwrap();
        cache.write(&made.inner.about, made.inner.pre.component());

        let kept = sandbox
            .load_cached(digest)
            .await
            .expect("it would be compiled at each start");
        assert_eq!(kept.tools(), made.tools());
    }
}
