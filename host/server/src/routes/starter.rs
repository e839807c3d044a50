//! The files that a session begins with, as `POST /v1/sessions` takes them under `files`, beside how far calls may go.

use crate::{
    input::name,
    problem::{Answer, Problem, ProblemCode},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_policy::files::FileAccess;
use fumehood_store::workspace::{Kept, Starter, WorkspacePath};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use std::collections::HashSet;

/// More are better put there one by one, once the session is made.
const MOST: usize = 100;

/// `"read"`, or `{"access": "read", "starter": […]}`.
#[derive(Debug, Default)]
pub(super) struct SessionFiles {
    pub(super) access: Option<FileAccess>,
    pub(super) starter: Vec<StarterFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WithStarter {
    access: Option<FileAccess>,
    #[serde(default)]
    starter: Vec<StarterFile>,
}

/// One file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StarterFile {
    path: String,
    content: Option<String>,
    content_base64: Option<String>,
    #[serde(default)]
    read_only: bool,
}

impl<'de> Deserialize<'de> for SessionFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.is_object() {
            let WithStarter { access, starter } = serde_json::from_value(value).map_err(D::Error::custom)?;
            return Ok(Self { access, starter });
        }
        let access = serde_json::from_value(value).map_err(|error| {
            D::Error::custom(format!(
                "{error}; `files` is `none`, `read` or `read-write`, or an object of `access` and `starter`"
            ))
        })?;
        Ok(Self {
            access: Some(access),
            starter: Vec::new(),
        })
    }
}

/// The files, checked and decoded.
pub(super) fn files(starter: Vec<StarterFile>) -> Answer<Vec<Starter>> {
    if starter.len() > MOST {
        return Err(refused(format!(
            "`files.starter` has more than {MOST} files; put the rest there afterwards"
        )));
    }
    let mut paths = HashSet::new();
    starter
        .into_iter()
        .map(|file| {
            let path = name::<WorkspacePath>(&file.path)?;
            if !paths.insert(path.clone()) {
                return Err(refused(format!("`files.starter` has two files at `{path}`")));
            }
            let bytes = match (file.content, file.content_base64) {
                (Some(text), None) => text.into_bytes(),
                (None, Some(encoded)) => STANDARD
                    .decode(encoded)
                    .map_err(|_| refused(format!("`content_base64` of `{path}` is not base64")))?,
                _ => return Err(refused(format!("give `{path}` either `content` or `content_base64`"))),
            };
            let kept = if file.read_only {
                Kept::ReadOnly
            } else {
                Kept::Changeable
            };
            Ok(Starter { path, bytes, kept })
        })
        .collect()
}

fn refused(detail: String) -> Problem {
    Problem::new(ProblemCode::InvalidRequest, detail)
}
