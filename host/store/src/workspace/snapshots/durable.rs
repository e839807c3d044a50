//! Making many files durable: several at once, because a disk that is asked for one after the other has each wait for it.

use cap_std::fs::File;
use std::{
    io,
    sync::{Mutex, PoisonError},
    thread,
};

/// How many files are made durable together, and open until then.
const TOGETHER: usize = 16;
/// For how many of them the disk is asked at once.
const AT_ONCE: usize = 8;

/// Files that were written and may not be durable yet. They stay open: what the disk refused of a file in the background, it tells
/// those who had it open then.
#[derive(Debug, Default)]
pub(super) struct Written(Vec<File>);

impl Written {
    pub(super) fn add(&mut self, file: File) {
        self.0.push(file);
    }

    /// Whether it is time to [`Written::sync`].
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= TOGETHER
    }

    /// Makes all of them durable; after an error, nobody knows which.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let files = std::mem::take(&mut self.0);
        let threads = files.len().min(AT_ONCE);
        let left = Mutex::new(files);
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || {
            while let Some(file) = next() {
                file.sync_all()?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            // Where there are no more threads to be had, it takes longer.
            let others: Vec<_> = (1..threads)
                .map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
                .collect();
            let mine: io::Result<()> = work();
            others.into_iter().fold(mine, |done, other| {
                let theirs = other.join();
                done.and(theirs.unwrap_or_else(|_| Err(io::Error::other("what made files durable broke"))))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cap_std::{ambient_authority, fs::Dir};
    use std::os::fd::OwnedFd;

    #[test]
    fn of_many_files_one_that_can_not_be_made_durable_is_told() {
        let place = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(place.path(), ambient_authority()).unwrap();
        for broken in [None, Some(0), Some(7), Some(TOGETHER - 1)] {
            let mut written = Written::default();
            for number in 0..TOGETHER {
                assert!(!written.is_full());
                let file = if Some(number) == broken {
                    // Of a pipe nothing can be made durable.
                    let (reader, _writer) = io::pipe().unwrap();
                    File::from_std(std::fs::File::from(OwnedFd::from(reader)))
                } else {
                    dir.create(number.to_string()).unwrap()
                };
                written.add(file);
            }
            assert!(written.is_full());
            assert_eq!(written.sync().is_err(), broken.is_some(), "{broken:?}");
            assert!(!written.is_full());
            written.sync().unwrap();
        }
    }
}
