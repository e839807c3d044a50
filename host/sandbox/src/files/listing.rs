//! Reading a directory: a few names at a time, however many there are.

use cap_std::fs::{Dir, DirEntry, FileType, FileTypeExt as _, ReadDir};
use std::{collections::VecDeque, io};
use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

/// How many names a listing holds: about 20 KiB of the host's memory.
const AT_ONCE: usize = 64;

/// A directory that is being read.
pub(super) struct Listing {
    read: VecDeque<Result<DirectoryEntry, ErrorCode>>,
    /// Where it goes on, unless it is at its end.
    rest: Option<ReadDir>,
}

impl Listing {
    /// Begins to read. Blocks.
    pub(super) fn begin(dir: &Dir) -> io::Result<Self> {
        Ok(Self::read_on(dir.entries()?))
    }

    /// Reads the next few names. Blocks.
    // THREAT[T-box-host-memory]: a directory may hold thousands of names, and a guest may read it many times at once.
    pub(super) fn read_on(mut rest: ReadDir) -> Self {
        let read: VecDeque<_> = rest.by_ref().take(AT_ONCE).map(entry).collect();
        let is_at_end = read.len() < AT_ONCE;
        Self {
            read,
            rest: (!is_at_end).then_some(rest),
        }
    }

    /// The next entry, if it was read already.
    pub(super) fn next(&mut self) -> Option<Result<DirectoryEntry, ErrorCode>> {
        self.read.pop_front()
    }

    /// What to read on with when there is no next entry; `None` at the end.
    pub(super) fn take_rest(&mut self) -> Option<ReadDir> {
        self.rest.take()
    }
}

fn entry(entry: io::Result<DirEntry>) -> Result<DirectoryEntry, ErrorCode> {
    let entry = entry?;
    let type_ = descriptor_type(entry.file_type()?);
    let name = entry
        .file_name()
        .into_string()
        .map_err(|_| ErrorCode::IllegalByteSequence)?;
    Ok(DirectoryEntry { type_, name })
}

fn descriptor_type(file_type: FileType) -> DescriptorType {
    if file_type.is_dir() {
        DescriptorType::Directory
    } else if file_type.is_file() {
        DescriptorType::RegularFile
    } else if file_type.is_symlink() {
        DescriptorType::SymbolicLink
    } else if file_type.is_block_device() {
        DescriptorType::BlockDevice
    } else if file_type.is_char_device() {
        DescriptorType::CharacterDevice
    } else {
        DescriptorType::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cap_std::ambient_authority;
    use std::collections::BTreeSet;

    fn all(dir: &std::path::Path) -> Vec<Result<DirectoryEntry, ErrorCode>> {
        let dir = Dir::open_ambient_dir(dir, ambient_authority()).unwrap();
        let mut listing = Listing::begin(&dir).unwrap();
        let mut all = Vec::new();
        loop {
            assert!(listing.read.len() <= AT_ONCE);
            match (listing.next(), listing.rest.is_some()) {
                (Some(entry), _) => all.push(entry),
                (None, true) => listing = Listing::read_on(listing.take_rest().unwrap()),
                (None, false) => return all,
            }
        }
    }

    #[test]
    fn a_listing_holds_few_names_however_many_there_are() {
        for count in [0, 1, AT_ONCE, 3 * AT_ONCE, 1000] {
            let dir = tempfile::tempdir().unwrap();
            let names: BTreeSet<String> = (0..count).map(|number| format!("{number:0>200}")).collect();
            for name in &names {
                std::fs::write(dir.path().join(name), "").unwrap();
            }
            let read: Vec<String> = all(dir.path()).into_iter().map(|entry| entry.unwrap().name).collect();
            assert_eq!(read.len(), count);
            assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), names);
        }
    }

    #[test]
    fn entries_are_what_they_are_and_names_that_are_no_text_are_an_error_of_their_own() {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "").unwrap();
        let (named, odd): (Vec<_>, Vec<_>) = all(dir.path()).into_iter().partition(Result::is_ok);
        assert!(matches!(odd[..], [Err(ErrorCode::IllegalByteSequence)]));
        let mut named: Vec<_> = named
            .into_iter()
            .flatten()
            .map(|entry| (entry.name, entry.type_))
            .collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("dir", DescriptorType::Directory),
            ("file", DescriptorType::RegularFile),
            ("link", DescriptorType::SymbolicLink),
        ];
        assert_eq!(named, expected.map(|(name, kind)| (name.to_owned(), kind)));
    }
}
