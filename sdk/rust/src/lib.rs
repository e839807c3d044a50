//! Write tools for [Fumehood](https://github.com/fumehood/fumehood): a function with a doc comment
//! becomes a tool that a language model can call.
//!
//! ```
//! use fumehood::Failure;
//!
//! /// Divides one number by another.
//! #[fumehood::tool(effect = "pure", read_only)]
//! fn divide(
//!     /// What is divided.
//!     dividend: f64,
//!     /// What it is divided by; not zero.
//!     divisor: f64,
//! ) -> Result<f64, Failure> {
//!     if divisor == 0.0 {
//!         return Err(Failure::invalid_arguments("`divisor` is zero: give another number"));
//!     }
//!     Ok(dividend / divisor)
//! }
//!
//! fumehood::export!(divide);
//!
//! // Tools are plain functions, so tests need no sandbox:
//! assert_eq!(divide(1.0, 4.0).unwrap(), 0.25);
//! // and the tool as the host sees it can be tried, too:
//! let output = fumehood::testing::call::<divide>(serde_json::json!({"dividend": 1, "divisor": 4})).unwrap();
//! assert_eq!(output.text(), "0.25");
//! ```
//!
//! # A project
//!
//! A tool project is a library crate of type `cdylib` (and `rlib`, for its tests) with this crate as
//! a dependency and a manifest `tool.toml` beside its `Cargo.toml`. Built for `wasm32-wasip2`, it is a
//! component; [`export!`] puts the manifest into it, with the name, version and description of `Cargo.toml` where the
//! manifest gives none.
//!
//! # What a tool may do
//!
//! What the manifest requests *and* the grant allows, nothing else. The standard library works:
//! `std::fs` sees `/workspace` and `/tmp`, `println!` becomes live output, `std::env` holds the granted
//! variables. Beyond it there are [`http`], [`kv`], [`secrets`], [`peers`], [`jobs`] and [`progress`]. What was not
//! granted fails with an error that says so; pass it on with `?` and the model reads [`Failure::Denied`].
//!
//! Each call runs in a fresh instance: a `static` never carries anything from one call to the next.
//! There is no `async`: a call that waits costs the host next to nothing, so simply block.
//!
//! # Natively
//!
//! Everything compiles for the machine you build on, so that `cargo test` works. There is no host
//! there: [`http`], [`kv`], [`secrets`], [`peers`] and [`jobs`] answer "denied", and [`progress`] goes nowhere.
#![deny(unsafe_code)]

mod call;
mod failure;
mod generated;
pub mod hook;
pub mod http;
pub mod jobs;
pub mod kv;
mod output;
pub mod peers;
pub mod progress;
#[doc(hidden)]
pub mod reply;
#[doc(hidden)]
pub mod schema;
pub mod secrets;
pub mod testing;
mod tool;

pub use bindings::fumehood::tool::types::{Definition, Effect};
pub use call::Call;
pub use failure::Failure;
pub use fumehood_macros::tool;
#[doc(hidden)]
pub use generated::{bindings, hook_bindings};
pub use output::{Content, Output};
pub use tool::Tool;

/// What a tool's function usually returns.
pub type Result<T, E = Failure> = core::result::Result<T, E>;

/// Makes the functions marked with [`tool`](macro@tool) the tools of this component, and embeds its
/// manifest.
///
/// Takes the paths of the functions; write it once in a crate. The manifest is the file `tool.toml`
/// beside `Cargo.toml`; it becomes the custom section `fumehood:manifest`. Where it has no `name`, `version` or
/// `description`, those of `Cargo.toml` are the component's. Two tools of one name are a compile error.
#[macro_export]
macro_rules! export {
    ($($tool:path),+ $(,)?) => {
        #[doc(hidden)]
        struct __FumehoodComponent;

        const _: () = $crate::__private::assert_names_differ(&[$(<$tool as $crate::Tool>::NAME),+]);

        impl $crate::bindings::exports::fumehood::tool::tools::Guest for __FumehoodComponent {
            fn definitions() -> ::std::vec::Vec<$crate::Definition> {
                ::std::vec![$(<$tool as $crate::Tool>::definition()),+]
            }

            fn call(
                request: $crate::__private::ToolCall,
            ) -> ::core::result::Result<$crate::__private::WitOutput, $crate::__private::WitFailure> {
                $crate::__private::dispatch(
                    request,
                    &[$((<$tool as $crate::Tool>::NAME, <$tool as $crate::Tool>::call)),+],
                )
            }
        }

        #[cfg(target_family = "wasm")]
        $crate::bindings::export_tools!(__FumehoodComponent with_types_in $crate::bindings);

        $crate::__manifest!();
    };
}

/// Makes a function the hook of this component, and embeds its manifest, as [`export!`] does.
///
/// The function takes a [`&Occasion`](hook::Occasion) and returns a [`Result`] of a [`Decision`](hook::Decision). Write it once in a
/// crate; a component has a hook or tools, not both.
#[macro_export]
macro_rules! export_hook {
    ($decide:path) => {
        #[doc(hidden)]
        struct __FumehoodHook;

        impl $crate::hook_bindings::exports::fumehood::tool::hooks::Guest for __FumehoodHook {
            fn decide(
                occasion: $crate::__private::WitOccasion,
            ) -> ::core::result::Result<$crate::__private::WitDecision, $crate::__private::WitFailure> {
                $crate::__private::decide(occasion, $decide)
            }
        }

        #[cfg(target_family = "wasm")]
        $crate::hook_bindings::export_hooks!(__FumehoodHook with_types_in $crate::hook_bindings);

        $crate::__manifest!();
    };
}

/// Puts the manifest into the component.
#[doc(hidden)]
#[macro_export]
macro_rules! __manifest {
    () => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            const MANIFEST: &[u8] = $crate::__private::manifest!();
            #[used]
            #[unsafe(link_section = "fumehood:manifest")]
            static SECTION: [u8; MANIFEST.len()] = *MANIFEST.as_array().unwrap();
        };
    };
}

/// What the macros' output needs. Not for use by hand: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::fumehood::tool::types::{Failure as WitFailure, Output as WitOutput, ToolCall};
    pub use crate::hook::decide;
    pub use crate::hook_bindings::exports::fumehood::tool::hooks::{Decision as WitDecision, Occasion as WitOccasion};
    pub use crate::tool::{About, assert_names_differ, define, dispatch, read_arguments};
    pub use crate::{reply, schema};
    pub use fumehood_macros::manifest;
    pub use schemars;
    pub use serde;
}

/// The examples of the page for tool authors.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/tool-authors/interfaces.md")]
struct InterfacesPage;

/// The example of the page about work that outlasts a call.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/tool-authors/long-jobs.md")]
struct LongJobsPage;

/// The tools of the cookbook.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/tool-authors/cookbook.md")]
struct CookbookPage;
