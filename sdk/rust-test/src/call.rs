//! A call, and what came of it.

use crate::{Error, Exchange, Tool, program};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A call to be made, with the world that its tool finds. Nothing happens before [`run`](Self::run).
#[derive(Debug, Clone)]
#[must_use = "a call is made by `run`"]
pub struct Call {
    of: Tool,
    test: Test,
}

/// As a test file has it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Test {
    name: String,
    tool: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    arguments: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<Value>,
    limits: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
    kv: BTreeMap<String, String>,
    expect: After,
    exchange: Vec<Exchange>,
}

/// What there is to be after the call.
#[derive(Debug, Clone, Default, Serialize)]
struct After {
    files: BTreeMap<String, String>,
    kv: BTreeMap<String, String>,
}

impl Call {
    pub(crate) fn new(of: Tool, tool: &str, arguments: Value) -> Self {
        Self {
            of,
            test: Test {
                name: format!("a call of {tool}"),
                tool: tool.to_owned(),
                clock: None,
                seed: None,
                arguments,
                grant: None,
                limits: BTreeMap::new(),
                secrets: BTreeMap::new(),
                files: BTreeMap::new(),
                kv: BTreeMap::new(),
                expect: After::default(),
                exchange: Vec::new(),
            },
        }
    }

    /// A request that the tool is to make, and its answer. A request that none answers fails the test.
    pub fn exchange(mut self, exchange: Exchange) -> Self {
        self.test.exchange.push(exchange);
        self
    }

    /// The value of a secret. One that the manifest names and nobody gives has a made-up value.
    pub fn secret(mut self, name: &str, value: &str) -> Self {
        self.test.secrets.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What the component may do, with the keys of a grant; all that its manifest requests when this is not said.
    pub fn grant(mut self, grant: Value) -> Self {
        self.test.grant = Some(grant);
        self
    }

    /// A narrower limit of the call than the manifest's, such as `"time"`, `"1s"`.
    pub fn limit(mut self, key: &str, value: &str) -> Self {
        self.test.limits.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A file that is in the workspace before the call.
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.test.files.insert(path.to_owned(), text.to_owned());
        self
    }

    /// A key-value that is there before the call.
    pub fn kv(mut self, key: &str, value: &str) -> Self {
        self.test.kv.insert(key.to_owned(), value.to_owned());
        self
    }

    /// What the clocks show when the call begins, such as `2026-01-02T03:04:05Z`. They go on by a millisecond with each look, and by
    /// what the tool waits.
    pub fn clock(mut self, time: &str) -> Self {
        self.test.clock = Some(time.to_owned());
        self
    }

    /// What all random bytes of the call are made from.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.test.seed = Some(seed);
        self
    }

    /// This file is to be in the workspace after the call.
    pub fn leaves_file(mut self, path: &str, text: &str) -> Self {
        self.test.expect.files.insert(path.to_owned(), text.to_owned());
        self
    }

    /// This key-value is to be there after the call.
    pub fn leaves_kv(mut self, key: &str, value: &str) -> Self {
        self.test.expect.kv.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Makes the call. How the tool ends it is the test's to judge.
    ///
    /// # Panics
    /// When the call can't be made; when the tool makes a request that no exchange answers, or does not make one that an exchange is
    /// for; when a file or a key-value is not left as it was to be. [`Call::try_run`] returns what this panics with.
    #[track_caller]
    pub fn run(self) -> Said {
        program::passed(self.try_run())
    }

    /// The same, without a panic.
    ///
    /// # Errors
    /// As [`Call::run`] panics.
    pub fn try_run(self) -> Result<Said, Error> {
        let ran = self.of.program.ran(&self.of.component, &self.test)?;
        let wrong: Vec<String> = ran
            .findings
            .iter()
            // How it ends is no finding here: the test looks at that.
            .filter(|finding| finding.about != "status")
            .map(|finding| {
                format!(
                    "{}\n  expected  {}\n  found     {}",
                    finding.about, finding.expected, finding.found
                )
            })
            .collect();
        let said = Said::of(ran);
        if wrong.is_empty() {
            return Ok(said);
        }
        Err(Error::NotAsExpected {
            wrong: wrong.join("\n"),
            said: Box::new(said),
        })
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Said {
    /// How it ended: `ok`, `error`, `denied`, `timeout`, `trapped`, `rate_limited`.
    pub status: String,
    /// All that it says: the text of its pieces, one below the other, or the message of its error.
    pub text: String,
    /// Its structured output.
    pub structured: Option<Value>,
    /// Its pieces, as the wire has them. None for a call that failed.
    pub content: Vec<Value>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Requests that the door refused, and by which rule.
    pub refused: Vec<String>,
    /// What it used, as the wire has it: `duration_ms`, `cpu_ms`, `memory_peak`, `http_requests` and so on.
    pub metering: Value,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// Such as `unavailable` or `invalid_arguments`.
    pub code: String,
    /// For the model.
    pub message: String,
    /// When it may be tried again, in milliseconds.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
}

impl Said {
    fn of(ran: program::Ran) -> Self {
        let (mut structured, mut content, mut said) = (None, Vec::new(), ran.text);
        if let Some(output) = ran.result.output {
            structured = output.structured;
            content = output.content;
        }
        if let Some(failure) = &ran.result.error {
            said.clone_from(&failure.message);
        }
        Self {
            status: ran.result.status,
            text: said,
            structured,
            content,
            failure: ran.result.error,
            refused: ran.refused,
            metering: ran.metering,
        }
    }
}
