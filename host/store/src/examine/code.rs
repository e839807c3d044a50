//! Whether the code of components is there, and as it should be.

use super::{Care, Finding};
use crate::{
    Problem, disk,
    faults::{self, Point},
};
use fumehood_core::digest::Digest;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

/// Where the code is, in the data directory.
const DIR: &str = "components";

/// A file of code that no component has.
#[derive(Debug)]
pub(super) struct Unreferenced(PathBuf);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Code {
    pub(super) findings: Vec<Finding>,
    pub(super) unreferenced: Vec<Unreferenced>,
}

/// Looks at all code; `referenced` is what components have, with their names.
pub(super) fn examine(data_dir: &Path, referenced: &BTreeMap<Digest, String>) -> io::Result<Code> {
    let mut code = Code::default();
    let mut there = BTreeSet::new();
    for file in files(&data_dir.join(DIR))? {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
            continue;
        };
        there.insert(digest);
        let care = match referenced.get(&digest) {
            None => {
                code.unreferenced.push(Unreferenced(file));
                code.findings.push(Finding {
                    problem: Problem::Code {
                        digest,
                        detail: "no component has it".into(),
                    },
                    care: Care::Tidy("remove it".into()),
                });
                continue;
            }
            Some(_) if Digest::of(&fs::read(&file)?) == digest => continue,
            Some(who) => Finding {
                problem: Problem::Code {
                    digest,
                    detail: format!("it was changed on disk; it is that of {who}"),
                },
                care: ADD_AGAIN,
            },
        };
        code.findings.push(care);
    }
    let missing = referenced.iter().filter(|(digest, _)| !there.contains(digest));
    code.findings.extend(missing.map(|(digest, who)| Finding {
        problem: Problem::Code {
            digest: *digest,
            detail: format!("it is not there; it is that of {who}"),
        },
        care: ADD_AGAIN,
    }));
    Ok(code)
}

const ADD_AGAIN: Care = Care::Operator("add the component again from a source you trust");

/// Removes code that no component has.
pub(super) fn remove(data_dir: &Path, unreferenced: &[Unreferenced]) -> io::Result<()> {
    for Unreferenced(file) in unreferenced {
        faults::around(Point::BlobRemove, || fs::remove_file(file))?;
    }
    if unreferenced.is_empty() {
        return Ok(());
    }
    disk::sync_dir(&data_dir.join(DIR))
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let file = entry?.path();
        if file.extension() == Some(OsStr::new("wasm")) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}
