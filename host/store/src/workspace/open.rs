//! A file that is read piece by piece, so that a large one never lies in memory whole.

use super::{FileContent, Result, WorkspaceError, WorkspacePath, failed, file};
use cap_std::fs::{Dir, File};
use fumehood_core::digest::{Digest, Digesting};
use std::io::{Read as _, Seek as _};

/// Bytes of a piece, and of a file that is none too large to be read at once.
const PIECE: usize = 64 << 10;

/// A file to be read.
#[derive(Debug)]
pub enum Opened {
    /// All of it.
    Whole(FileContent),
    /// A large one, to be read on with [`Workspaces::read_on`](super::Workspaces::read_on).
    Pieces(OpenFile),
}

impl Opened {
    /// The SHA-256 of the bytes.
    #[must_use]
    pub const fn etag(&self) -> &Digest {
        match self {
            Self::Whole(content) => &content.etag,
            Self::Pieces(file) => &file.etag,
        }
    }
}

/// A file being read from its beginning. What is read is what the etag names, or reading fails before its end.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    path: WorkspacePath,
    etag: Digest,
    left: u64,
    seen: Digesting,
}

pub(super) fn open(dir: &Dir, path: &WorkspacePath, largest: u64) -> Result<Option<Opened>> {
    let Some((mut file, metadata)) = file::open(dir, path, largest)? else {
        return Ok(None);
    };
    if metadata.len() <= PIECE as u64 {
        return file::content(file, &metadata, path, largest).map(|content| Some(Opened::Whole(content)));
    }
    let broke = |error| failed(path, &error);
    let (mut seen, mut left) = (Digesting::default(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(broke)? {
            0 => break,
            count => {
                seen.update(&piece[..count]);
                left += count as u64;
            }
        }
        // A guest may be appending meanwhile.
        if left > largest {
            return Err(file::too_large(largest));
        }
    }
    file.rewind().map_err(broke)?;
    Ok(Some(Opened::Pieces(OpenFile {
        file,
        path: path.clone(),
        etag: seen.finish(),
        left,
        seen: Digesting::default(),
    })))
}

impl OpenFile {
    /// The next piece; empty at the end.
    pub(super) fn read_on(&mut self) -> Result<Vec<u8>> {
        let mut piece = vec![0; PIECE.min(usize::try_from(self.left).unwrap_or(PIECE))];
        if piece.is_empty() {
            return Ok(piece);
        }
        self.file
            .read_exact(&mut piece)
            .map_err(|error| failed(&self.path, &error))?;
        self.seen.update(&piece);
        self.left -= piece.len() as u64;
        // The last piece is kept back from whoever would take the whole for what the etag names.
        if self.left == 0 && std::mem::take(&mut self.seen).finish() != self.etag {
            return Err(WorkspaceError::Unavailable {
                reason: "the file was changed while it was read".into(),
            });
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cap_std::ambient_authority;

    fn large() -> Vec<u8> {
        (0..PIECE * 3 + 7).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    fn opened(bytes: &[u8]) -> (tempfile::TempDir, OpenFile) {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::write(temporary.path().join("f"), bytes).unwrap();
        let dir = Dir::open_ambient_dir(temporary.path(), ambient_authority()).unwrap();
        match open(&dir, &"f".parse().unwrap(), u64::MAX).unwrap().unwrap() {
            Opened::Pieces(file) => (temporary, file),
            Opened::Whole(_) => panic!("it is a large one"),
        }
    }

    #[test]
    fn a_large_file_is_read_in_pieces_that_are_what_its_etag_names() {
        let bytes = large();
        let (_dir, mut file) = opened(&bytes);
        assert_eq!(file.etag, Digest::of(&bytes));
        let mut read = Vec::new();
        loop {
            let piece = file.read_on().unwrap();
            assert!(piece.len() <= PIECE);
            if piece.is_empty() {
                break;
            }
            read.extend(piece);
        }
        assert!(read == bytes);
        assert!(file.read_on().unwrap().is_empty());
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_not_read_to_its_end() {
        let bytes = large();
        for (after, what) in [(vec![b'x'; bytes.len()], "other bytes"), (Vec::new(), "none left")] {
            let (dir, mut file) = opened(&bytes);
            file.read_on().unwrap();
            std::fs::write(dir.path().join("f"), after).unwrap();
            let rest: Result<Vec<_>> = (0..3).map(|_| file.read_on()).collect();
            assert!(rest.is_err(), "{what}");
        }
    }
}
