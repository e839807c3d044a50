//! What a test file says: tests, each with its world before, the answers of the outside, and what is expected.

use super::mistakes;
use fumehood_core::{
    Time,
    call::{Arguments, CallErrorCode, CallStatus},
    name::SecretName,
};
use fumehood_policy::{
    grant::Grant,
    quantity::ByteSize,
    toml_text::{self, TomlError},
};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// One file below `tests/`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestFile {
    /// The tool of tests that name none.
    #[serde(default)]
    tool: Option<String>,
    /// Secrets that all tests of the file have.
    #[serde(default)]
    secrets: BTreeMap<SecretName, String>,
    /// The tests, in the order in which they run.
    #[serde(default, rename = "test")]
    pub(crate) tests: Vec<Case>,
}

/// One call, and what is to come of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// What it shows, as a sentence. Unique in its file.
    pub(crate) name: String,
    #[serde(default)]
    tool: Option<String>,
    /// What the tool is called with.
    #[serde(default)]
    pub(crate) arguments: Arguments,
    /// What the component may do; everything that its manifest requests when absent.
    #[serde(default)]
    pub(crate) grant: Option<Grant>,
    /// Narrower limits of the call than the manifest's, such as `time = "2s"`.
    #[serde(default)]
    pub(crate) limits: BTreeMap<String, String>,
    /// What the clocks show when the call begins; the system's time when absent. They go on by a millisecond with each look, and
    /// by what the tool waits.
    #[serde(default)]
    pub(crate) clock: Option<Time>,
    /// What all random bytes of the call are made from; chance when absent.
    #[serde(default)]
    pub(crate) seed: Option<u64>,
    /// Secrets. One that the manifest names and nobody gives has a made-up value.
    #[serde(default)]
    pub(crate) secrets: BTreeMap<SecretName, String>,
    /// The workspace before the call: texts by path.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
    /// Key-values before the call.
    #[serde(default)]
    pub(crate) kv: BTreeMap<String, String>,
    /// What the outside answers.
    #[serde(default, rename = "exchange")]
    pub(crate) exchanges: Vec<Exchange>,
    /// What is to come of it; that it ends well when absent.
    #[serde(default)]
    pub(crate) expect: Expect,
}

/// One request that the tool is to make, and its answer. It is used once, unless it may be repeated.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exchange {
    pub(crate) request: RequestPattern,
    #[serde(default)]
    pub(crate) response: Answer,
    /// Whether it answers any number of such requests, none included.
    #[serde(default)]
    pub(crate) repeat: bool,
    /// Whether it was written by a recording, and another may take its place.
    #[serde(default)]
    pub(crate) recorded: bool,
}

/// Which request an exchange answers. What is absent does not matter.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestPattern {
    /// `GET` when absent.
    #[serde(default = "get")]
    pub(crate) method: String,
    /// The whole URL. The order of what the query says does not matter.
    pub(crate) url: String,
    /// Headers that the request has, as they leave the host: `{{secret:NAME}}` stands for the value of a secret.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// Its body, as text.
    #[serde(default)]
    pub(crate) body: Option<String>,
    /// Its body, as JSON.
    #[serde(default)]
    pub(crate) json: Option<Value>,
}

fn get() -> String {
    "GET".to_owned()
}

/// What the outside answers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    /// The status; 200 when absent.
    #[serde(default)]
    pub(crate) status: Option<u16>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The body as text.
    #[serde(default)]
    pub(crate) body: Option<String>,
    /// The body as JSON, with that media type.
    #[serde(default)]
    pub(crate) json: Option<Value>,
    /// The body from a file beside the test file.
    #[serde(default)]
    pub(crate) file: Option<PathBuf>,
    /// A body of so many bytes.
    #[serde(default)]
    pub(crate) size: Option<ByteSize>,
    /// How the answer fails.
    #[serde(default)]
    pub(crate) fault: Option<Fault>,
}

/// How an answer fails to arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// There is never an answer.
    Hang,
    /// The connection ends before there is one.
    Reset,
    /// The connection ends in the middle of the body.
    Cut,
}

/// What is to come of a call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// How it ends.
    #[serde(default = "ok")]
    pub(crate) status: CallStatus,
    /// The code of its error.
    #[serde(default)]
    pub(crate) code: Option<CallErrorCode>,
    /// All that it says: the text of its pieces, or the message of its error.
    #[serde(default)]
    pub(crate) text: Option<String>,
    /// Parts of what it says.
    #[serde(default)]
    pub(crate) contains: Vec<String>,
    /// Its structured output.
    #[serde(default)]
    pub(crate) structured: Option<Value>,
    /// Files after the call: texts by path.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
    /// Key-values after the call.
    #[serde(default)]
    pub(crate) kv: BTreeMap<String, String>,
    /// Whether the whole result is compared with the one that was kept.
    #[serde(default)]
    pub(crate) snapshot: bool,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            status: ok(),
            code: None,
            text: None,
            contains: Vec::new(),
            structured: None,
            files: BTreeMap::new(),
            kv: BTreeMap::new(),
            snapshot: false,
        }
    }
}

const fn ok() -> CallStatus {
    CallStatus::Ok
}

/// Why a test file can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CaseError {
    /// It is not TOML, or has keys that mean nothing.
    #[error(transparent)]
    Toml(#[from] TomlError),
    /// It holds nothing to run.
    #[error("it has no [[test]]")]
    Empty,
    /// Two tests can't be told apart.
    #[error("two tests are called {0:?}; give one another name")]
    SameName(String),
    /// A test has no tool.
    #[error("the test {0:?} names no tool: add `tool = \"…\"` to it, or above the tests for all of them")]
    NoTool(String),
    /// The results of two tests would be kept in one file.
    #[error(
        "the result of the test {0:?} would be kept in the same file as that of another; give one of them another name"
    )]
    SameSnapshot(String),
    /// Something in a test means nothing, or can't be.
    #[error("the test {test:?}: {why}")]
    Mistake {
        /// Its name.
        test: String,
        /// What, and what to write instead.
        why: String,
    },
}

impl TestFile {
    /// Reads one that lies in `dir`.
    ///
    /// # Errors
    /// When there is a mistake in it, as far as that can be told without the component.
    pub(crate) fn parse(text: &str, dir: &Path) -> Result<Self, CaseError> {
        let file: Self = toml_text::parse(text)?;
        mistakes::check(&file, dir)?;
        Ok(file)
    }

    /// The tool that a test calls.
    pub(crate) fn tool_of<'a>(&'a self, case: &'a Case) -> Option<&'a str> {
        case.tool.as_deref().or(self.tool.as_deref())
    }

    /// The secrets that a test gives.
    pub(crate) fn secrets_of(&self, case: &Case) -> BTreeMap<SecretName, String> {
        let mut secrets = self.secrets.clone();
        secrets.extend(case.secrets.clone());
        secrets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        TestFile::parse(text, Path::new("")).unwrap_err().to_string()
    }

    #[test]
    fn a_test_has_the_tool_and_the_secrets_of_its_file_unless_it_says_otherwise() {
        let file = TestFile::parse(
            "tool = \"a\"\n[secrets]\nK = \"1\"\nL = \"2\"\n[[test]]\nname = \"x\"\n[[test]]\nname = \"y\"\ntool = \"b\"\nsecrets = { K = \"3\" }\n",
            Path::new(""),
        )
        .unwrap();
        let tools: Vec<_> = file.tests.iter().map(|case| file.tool_of(case)).collect();
        assert_eq!(tools, [Some("a"), Some("b")]);
        let secrets = file.secrets_of(&file.tests[1]);
        let values: Vec<&str> = secrets.values().map(String::as_str).collect();
        assert_eq!(values, ["3", "2"]);
    }

    #[test]
    fn a_file_without_a_test_is_refused() {
        assert_eq!(refused("tool = \"a\"\n"), "it has no [[test]]");
    }

    #[test]
    fn a_test_that_names_no_tool_is_refused() {
        assert!(refused("[[test]]\nname = \"x\"\n").contains("names no tool"));
    }

    #[test]
    fn two_tests_of_one_name_are_refused() {
        let text = "tool = \"a\"\n[[test]]\nname = \"x\"\n[[test]]\nname = \"x\"\n";
        assert!(refused(text).contains("two tests are called \"x\""));
    }

    #[test]
    fn a_word_that_means_nothing_is_refused_with_its_line() {
        let message = refused("tool = \"a\"\n[[test]]\nname = \"x\"\nargument = {}\n");
        assert!(message.contains("line 4") && message.contains("argument"), "{message}");
    }
}
