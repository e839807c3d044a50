//! A directory beside a state that is kept, by content.

use super::{
    NotKept, Snapshots,
    manifest::{Found, Manifest, Marked, What, walk},
    shelf,
};
use crate::workspace::laid_out::Differing;
use cap_std::fs::Dir;
use fumehood_core::{digest::Digest, id::SessionId};
use std::{collections::BTreeSet, io};

impl Snapshots {
    /// Where a directory is not as a state of a session, in order of the paths. `None` if the state is not kept any more.
    pub(crate) fn differing(
        &self,
        session: SessionId,
        state: &Digest,
        dir: &Dir,
    ) -> Result<Option<Vec<Differing>>, NotKept> {
        let Some((kept, _)) = self.manifest(session, state)? else {
            return Ok(None);
        };
        Ok(Some(between(&kept, &read(dir)?)))
    }
}

/// What is in a directory, everything read.
fn read(dir: &Dir) -> Result<Manifest, NotKept> {
    let mut entries = Vec::new();
    for seen in walk(dir)? {
        let marked = seen.marked();
        let what = match seen.found {
            Found::Directory => What::Directory { marked },
            Found::Link(target) => What::Link { target },
            Found::File => {
                let (digest, size) = shelf::copy(&mut dir.open(&seen.path)?, &mut io::sink())?;
                What::File { digest, size, marked }
            }
        };
        entries.push((seen.path, what));
    }
    Ok(Manifest(entries.into_iter().collect()))
}

fn between(kept: &Manifest, found: &Manifest) -> Vec<Differing> {
    let paths: BTreeSet<&String> = kept.0.keys().chain(found.0.keys()).collect();
    let differing = paths.into_iter().filter_map(|path| {
        let (kept, found) = (kept.0.get(path), found.0.get(path));
        (kept != found).then(|| Differing {
            path: path.clone(),
            kept: words(kept),
            found: words(found),
        })
    });
    differing.collect()
}

fn words(what: Option<&What>) -> String {
    match what {
        None => "nothing".to_owned(),
        Some(What::File { digest, size, marked }) => format!("a {}file of {size} bytes, {digest}", mark(*marked)),
        Some(What::Directory { marked }) => format!("a {}directory", mark(*marked)),
        Some(What::Link { target }) => format!("a link to {target}"),
    }
}

/// What a tool or a client may set of a file besides its bytes.
const fn mark(marked: Marked) -> &'static str {
    match marked {
        Marked::ReadOnly => "read-only ",
        Marked::Not => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cap_std::ambient_authority;

    #[test]
    fn a_directory_is_compared_path_by_path_and_by_content() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(temporary.path(), ambient_authority()).unwrap();
        dir.create_dir("d").unwrap();
        dir.write("d/same", "same").unwrap();
        dir.write("changed", "old").unwrap();
        dir.write("gone", "").unwrap();
        let kept = read(&dir).unwrap();
        assert_eq!(between(&kept, &read(&dir).unwrap()), []);
        dir.write("changed", "new").unwrap();
        dir.remove_file("gone").unwrap();
        dir.create_dir("new").unwrap();
        let differing = between(&kept, &read(&dir).unwrap());
        let paths: Vec<_> = differing.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(paths, ["changed", "gone", "new"]);
        assert!(
            differing[0].kept.starts_with("a file of 3 bytes, sha256:"),
            "{differing:?}"
        );
        assert_ne!(differing[0].kept, differing[0].found);
        assert_eq!(differing[1].found, "nothing");
        assert_eq!(differing[2].found, "a directory");
    }

    #[test]
    fn what_is_only_marked_otherwise_is_told_by_its_mark() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(temporary.path(), ambient_authority()).unwrap();
        dir.write("file", "").unwrap();
        let before = read(&dir).unwrap();
        let mut permissions = dir.metadata("file").unwrap().permissions();
        permissions.set_readonly(true);
        dir.set_permissions("file", permissions).unwrap();
        let differing = between(&before, &read(&dir).unwrap());
        assert_eq!(differing.len(), 1, "{differing:?}");
        assert!(differing[0].kept.starts_with("a file of"), "{differing:?}");
        assert!(differing[0].found.starts_with("a read-only file of"), "{differing:?}");
    }
}
