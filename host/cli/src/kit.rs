//! What authors of tools work with: a folder that holds one component's code and its `tool.toml`, made from a template, and built
//! to `NAME.wasm` beside them.
//!
//! It knows languages only by their own build: `cargo`, or what a template's `build.sh` calls. What the finished component is and
//! asks for is the sandbox's and the policy's to say, as for any other.

mod build;
mod identity;
mod install;
mod language;
mod process;
mod project;
mod rust;
mod sections;
mod step;
mod templates;
mod watch;

pub(crate) use build::{build, test};
pub(crate) use identity::Written;
pub(crate) use language::Language;
pub(crate) use project::{Project, named_component};
pub(crate) use rust::PROGRAM as TESTING_PROGRAM;
pub(crate) use sections::embedded_manifest;
pub(crate) use templates::{New, make};
pub(crate) use watch::{Watch, saved_since};
