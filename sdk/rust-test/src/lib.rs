//! Tests of a tool's component as Rust tests: the file that operators install, in the sandbox that runs it, under the manifest that is
//! shipped, with an outside that is written down. No server, no model, no network.
//!
//! In a `#[test]`:
//!
//! ```no_run
//! use fumehood_test::{Exchange, Tool};
//! use serde_json::json;
//!
//! let url = "https://api.forecast.example/v1/forecast?city=Brgen&days=3";
//! let said = Tool::build()
//!     .call("forecast", json!({"city": "Brgen"}))
//!     .secret("FORECAST_KEY", "key-of-this-test")
//!     .exchange(Exchange::get(url).with_header("x-api-key", "{{secret:FORECAST_KEY}}").status(404))
//!     .run();
//! assert_eq!(said.status, "error");
//! assert!(said.text.contains("Brgen"));
//! ```
//!
//! It does what `fumehood tool test` does with a test file, by the program `fumehood`: the one that the variable `FUMEHOOD_BIN` names,
//! else the one on the `PATH`. What a key of a call means is said in the book, under "Testing a tool".
#![forbid(unsafe_code)]

mod call;
mod exchange;
mod program;

pub use call::{Call, Failure, Said};
pub use exchange::Exchange;
pub use program::{Error, Program};

use std::path::{Path, PathBuf};

/// A component to be called.
#[derive(Debug, Clone)]
pub struct Tool {
    program: Program,
    component: PathBuf,
}

impl Tool {
    /// The tool of the package whose test this is, built as `fumehood tool build` does; once in a process.
    ///
    /// # Panics
    /// When it can't be built, with what the build says. [`Tool::try_build`] returns that.
    #[must_use]
    #[track_caller]
    pub fn build() -> Self {
        // Cargo sets it for the tests that it runs; elsewhere the folder is the one that they are run in.
        let folder = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
        program::passed(Self::try_build(&folder))
    }

    /// The tool of this folder, built; once in a process.
    ///
    /// # Errors
    /// When there is no `fumehood` to run, or the folder can't be built.
    pub fn try_build(folder: &Path) -> Result<Self, Error> {
        Self::build_by(Program::find(), folder)
    }

    /// The same, by this `fumehood`.
    ///
    /// # Errors
    /// As [`Tool::try_build`].
    pub fn build_by(program: Program, folder: &Path) -> Result<Self, Error> {
        let component = program.built(folder)?;
        Ok(Self { program, component })
    }

    /// A component that is there. Its manifest is the `tool.toml` beside it, or the one in it.
    #[must_use]
    pub fn of_component(file: impl Into<PathBuf>) -> Self {
        Self {
            program: Program::find(),
            component: file.into(),
        }
    }

    /// The same, called by this `fumehood`.
    #[must_use]
    pub fn by(self, program: Program) -> Self {
        Self { program, ..self }
    }

    /// A call of one of its tools, which is made by [`Call::run`].
    pub fn call(&self, tool: &str, arguments: serde_json::Value) -> Call {
        Call::new(self.clone(), tool, arguments)
    }
}
