//! What a call asks of files, for who explains it: each use of a path. What it reads and writes through a file that is open is not.

use super::WorkspacePlan;
use crate::witness::{Interface, Outcome, Question, Witness};
use std::{collections::HashMap, sync::Arc};
use wasmtime_wasi::p2::{FsResult, bindings::filesystem::types::ErrorCode};

/// As much of a path as is kept, in bytes; nobody is shown more.
const LONGEST_PATH: usize = 1000;

/// The paths of what the guest has open, as it knows them.
pub(super) struct Seen {
    witness: Arc<Witness>,
    /// What allows the workspace, where there is one.
    rule: Option<String>,
    paths: HashMap<u32, String>,
}

impl Seen {
    pub(super) fn new(witness: Arc<Witness>, workspace: Option<&WorkspacePlan>) -> Self {
        let rule = |plan: &WorkspacePlan| format!("[files] workspace = \"{}\"", plan.authority.files.access);
        Self {
            witness,
            rule: workspace.map(rule),
            paths: HashMap::new(),
        }
    }

    /// The path of `path` in a directory that is open.
    pub(super) fn path(&self, directory: u32, path: &str) -> String {
        let directory = self.paths.get(&directory).map_or("?", |path| path);
        match path {
            "" | "." => directory.to_owned(),
            path => format!("{directory}/{path}"),
        }
    }

    // A guest may open a folder in a folder as often as it has handles: what is kept of each is bounded.
    pub(super) fn opened(&mut self, descriptor: u32, mut path: String) {
        path.truncate(path.floor_char_boundary(LONGEST_PATH));
        self.paths.insert(descriptor, path);
    }

    pub(super) fn closed(&mut self, descriptor: u32) {
        self.paths.remove(&descriptor);
    }
}

/// A use of a path in a directory, or of none, if somebody wants to know.
pub(super) fn asked(seen: Option<&Seen>, directory: Option<u32>, words: impl FnOnce(&Seen) -> String) -> Question {
    let Some(seen) = seen else {
        return Question::unheard();
    };
    let of_workspace = |directory| {
        let path: Option<&String> = seen.paths.get(&directory);
        path.is_some_and(|path| path.starts_with("/workspace"))
    };
    let rule = seen.rule.as_ref().filter(|_| directory.is_some_and(of_workspace));
    Question::new(Some(&seen.witness), Interface::Files, || (words(seen), rule.cloned()))
}

/// The answer, which is passed on.
pub(super) fn answered<T>(question: Question, result: FsResult<T>) -> FsResult<T> {
    question.answer(|| match &result {
        Ok(_) => Outcome::Done("done".to_owned()),
        Err(error) => match error.downcast_ref() {
            Some(
                code @ (ErrorCode::Access
                | ErrorCode::NotPermitted
                | ErrorCode::ReadOnly
                | ErrorCode::InsufficientSpace
                | ErrorCode::FileTooLarge),
            ) => Outcome::Denied(code.name().to_owned()),
            Some(code) => Outcome::Failed(code.name().to_owned()),
            None => Outcome::Failed("the host failed".to_owned()),
        },
    });
    result
}
