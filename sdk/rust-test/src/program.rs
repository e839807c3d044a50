//! The program `fumehood`: found, run, and read by what it prints for machines.

use crate::call::{Failure, Said, Test};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, PoisonError},
};

/// Names the program.
const VARIABLE: &str = "FUMEHOOD_BIN";

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no `fumehood` to run.
    #[error("`{program}` can't be run ({error}): install fumehood, or have {VARIABLE} name it")]
    Program {
        /// What was to be run.
        program: String,
        /// Why it can't.
        error: io::Error,
    },
    /// It could not do what it was asked for.
    #[error("`fumehood {command}` failed: {said}")]
    Failed {
        /// What was asked for.
        command: &'static str,
        /// What it says.
        said: String,
    },
    /// It is of a version that this crate does not know, or no `fumehood`.
    #[error("`fumehood {command}` does not answer as this crate knows it ({reason}); take the same version of both")]
    Unreadable {
        /// What was asked for.
        command: &'static str,
        /// What is missing.
        reason: String,
    },
    /// A call that a test file can't have.
    #[error("the call can't be written as a test: {0}; TOML, in which it is written, has no `null`")]
    Unwritable(String),
    /// A temporary folder can't be used.
    #[error("a temporary folder can't be used: {0}")]
    Folder(#[from] io::Error),
    /// The tool asked for something else than the exchanges have, or left something else behind.
    #[error("the call is not as the test has it\n{wrong}\nthe tool said ({status}): {text}", status = said.status, text = said.text)]
    NotAsExpected {
        /// All that is not as it was to be.
        wrong: String,
        /// What came of the call.
        said: Box<Said>,
    },
}

/// The value, or the end of the test.
#[track_caller]
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub(crate) fn passed<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// The program `fumehood`.
#[derive(Debug, Clone)]
pub struct Program(OsString);

impl Program {
    /// The one that the variable `FUMEHOOD_BIN` names, else the one on the `PATH`.
    #[must_use]
    pub fn find() -> Self {
        Self(std::env::var_os(VARIABLE).unwrap_or_else(|| "fumehood".into()))
    }

    /// This one.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into().into_os_string())
    }

    /// The component of a folder: built when it is first asked for.
    pub(crate) fn built(&self, folder: &Path) -> Result<PathBuf, Error> {
        static BUILT: Mutex<BTreeMap<PathBuf, PathBuf>> = Mutex::new(BTreeMap::new());
        #[derive(Deserialize)]
        struct Printed {
            path: PathBuf,
        }
        // Held while it builds: other tests wait for the same. One that panicked has left it as it was.
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(component) = built.get(folder) {
            return Ok(component.clone());
        }
        let output = self.run(&["tool".into(), "build".into(), folder.into()])?;
        if !output.status.success() {
            return Err(failed("tool build", &output));
        }
        let Printed { path } = read("tool build", &output)?;
        built.insert(folder.to_owned(), path.clone());
        Ok(path)
    }

    /// Runs one test on a component.
    pub(crate) fn ran(&self, component: &Path, test: &Test) -> Result<Ran, Error> {
        #[derive(Serialize)]
        struct File<'a> {
            test: [&'a Test; 1],
        }
        #[derive(Deserialize)]
        struct AllPrinted {
            files: Vec<FilePrinted>,
        }
        #[derive(Deserialize)]
        struct FilePrinted {
            tests: Vec<Ran>,
        }
        const COMMAND: &str = "tool test";
        let text = toml::to_string(&File { test: [test] }).map_err(|error| Error::Unwritable(error.to_string()))?;
        let folder = tempfile::tempdir()?;
        let tests = folder.path().join("tests");
        std::fs::create_dir(&tests)?;
        std::fs::write(tests.join("call.toml"), text)?;
        let (folder, component) = (folder.path().into(), component.into());
        let output = self.run(&["tool".into(), "test".into(), folder, "--component".into(), component])?;
        // 1: it ran, and something is not as the test has it.
        if !matches!(output.status.code(), Some(0 | 1)) || output.stdout.is_empty() {
            return Err(failed(COMMAND, &output));
        }
        let AllPrinted { files } = read(COMMAND, &output)?;
        let ran = files.into_iter().flat_map(|file| file.tests).next();
        ran.ok_or_else(|| Error::Unreadable {
            command: COMMAND,
            reason: "it names no test".to_owned(),
        })
    }

    fn run(&self, args: &[OsString]) -> Result<Output, Error> {
        let mut command = Command::new(&self.0);
        command.arg("--json").args(args).stdin(Stdio::null());
        command.output().map_err(|error| Error::Program {
            program: self.0.to_string_lossy().into_owned(),
            error,
        })
    }
}

/// What is printed of a test.
#[derive(Debug, Deserialize)]
pub(crate) struct Ran {
    pub(crate) result: Printed,
    /// All that it says.
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) findings: Vec<Finding>,
    #[serde(default)]
    pub(crate) refused: Vec<String>,
    pub(crate) metering: Value,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Printed {
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) output: Option<PrintedOutput>,
    #[serde(default)]
    pub(crate) error: Option<Failure>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct PrintedOutput {
    #[serde(default)]
    pub(crate) content: Vec<Value>,
    #[serde(default)]
    pub(crate) structured: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Finding {
    pub(crate) about: String,
    pub(crate) expected: String,
    pub(crate) found: String,
}

fn failed(command: &'static str, output: &Output) -> Error {
    Error::Failed {
        command,
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    }
}

fn read<T: for<'de> Deserialize<'de>>(command: &'static str, output: &Output) -> Result<T, Error> {
    serde_json::from_slice(&output.stdout).map_err(|error| Error::Unreadable {
        command,
        reason: error.to_string(),
    })
}
