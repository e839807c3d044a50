//! Whether what came of a call is what its test expects.

use super::{
    case::Expect,
    outside::Asked,
    snapshot::{Comparison, Snapshots},
};
use fumehood_core::{
    call::{CallResult, CallStatus, status_of},
    content::Content,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};

/// What came of a call, as far as tests may say something about it.
pub(crate) struct Came<'a> {
    pub(crate) result: &'a CallResult,
    /// The files that the test expects something of, by path; none for one that is not there or no text.
    pub(crate) files: BTreeMap<String, Option<String>>,
    /// The same of key-values.
    pub(crate) kv: BTreeMap<String, Option<String>>,
    pub(crate) asked: Asked,
}

/// One thing that is not as it was expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is about.
    pub(crate) about: String,
    /// What was expected.
    pub(crate) expected: String,
    /// What there is.
    pub(crate) found: String,
}

/// How a test went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Passed,
    Failed,
}

/// Where the kept result of a test is.
pub(crate) struct Kept<'a> {
    pub(crate) how: Snapshots,
    pub(crate) dir: &'a Path,
    pub(crate) stem: &'a str,
    pub(crate) name: &'a str,
}

/// All that is not as `expect` says. Empty: the test passed.
pub(crate) fn judge(expect: &Expect, came: &Came<'_>, kept: &Kept<'_>) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Findings(Vec::new());
    let said = said(came.result);
    let status = status_of(came.result);
    if status != expect.status {
        findings.add("status", word(&expect.status), format!("{}: {said}", word(&status)));
    }
    if let Some(code) = &expect.code {
        let found = came.result.as_ref().err().map(|error| error.code);
        if found != Some(*code) {
            findings.add(
                "code",
                word(code),
                found.map_or("no error".to_owned(), |found| word(&found)),
            );
        }
    }
    if let Some(text) = &expect.text
        && *text != said
    {
        findings.add("text", text, &said);
    }
    for part in &expect.contains {
        if !said.contains(part) {
            findings.add("text", format!("… {part} …"), &said);
        }
    }
    if let Some(wanted) = &expect.structured {
        let found = came.result.as_ref().ok().and_then(|output| output.structured.as_ref());
        if found != Some(wanted) {
            findings.add(
                "structured output",
                wanted.to_string(),
                found.map_or("none".to_owned(), Value::to_string),
            );
        }
    }
    findings.texts("file", &expect.files, &came.files);
    findings.texts("key", &expect.kv, &came.kv);
    for request in &came.asked.unexpected {
        findings.add("requests", "one of the test's exchanges", request);
    }
    for request in &came.asked.unused {
        findings.add("requests", request, "it was not made");
    }
    if expect.snapshot {
        findings.snapshot(kept, came.result)?;
    }
    Ok(findings.0)
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, about: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) {
        self.0.push(Finding {
            about: about.into(),
            expected: expected.into(),
            found: found.into(),
        });
    }

    fn texts(&mut self, kind: &str, wanted: &BTreeMap<String, String>, found: &BTreeMap<String, Option<String>>) {
        for (name, wanted) in wanted {
            let found = found.get(name).and_then(Option::as_ref);
            if found != Some(wanted) {
                let found = found.map_or("there is none, or no text", String::as_str);
                self.add(format!("{kind} `{name}`"), wanted, found);
            }
        }
    }

    fn snapshot(&mut self, kept: &Kept<'_>, result: &CallResult) -> anyhow::Result<()> {
        match kept.how.compare(kept.dir, kept.stem, kept.name, &shown(result))? {
            Comparison::Same => {}
            Comparison::Missing(path) => self.add(
                "snapshot",
                format!("{}", path.display()),
                "there is none yet; look at the result and run again with --update",
            ),
            Comparison::Differs { line, kept, now } => {
                self.add(format!("snapshot, line {line}"), kept.trim(), now.trim());
            }
        }
        Ok(())
    }
}

/// A result as snapshots keep it.
pub(crate) fn shown(result: &CallResult) -> Value {
    match result {
        Ok(output) => json!({"status": status_of(result), "output": output}),
        Err(error) => json!({"status": status_of(result), "error": error}),
    }
}

/// All that a result says in words.
pub(crate) fn said(result: &CallResult) -> String {
    let output = match result {
        Ok(output) => output,
        Err(error) => return error.message.clone(),
    };
    let pieces = output.content.iter().map(Content::as_plain_text);
    pieces.collect::<Vec<_>>().join("\n")
}

/// A word of the wire, such as `rate_limited`.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// Whether the tool dealt with what happened: it ended by itself, well or with words.
pub(crate) const fn is_an_answer(status: CallStatus) -> bool {
    matches!(status, CallStatus::Ok | CallStatus::Error | CallStatus::Denied)
}
