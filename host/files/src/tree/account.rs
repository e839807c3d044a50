//! The account of a tree: what is charged, what is taken off, and when it is counted again.

use super::{FileError, Tree};
use crate::{
    file::Inode,
    quota::{Full, Limit, Usage},
    walk::{self, FileId},
};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

/// How long a count is believed when the tree looks full.
const COUNT_HOLDS: Duration = Duration::from_secs(1);

/// Whose room a file takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// It is found by a count.
    Named,
    /// It has no name any more, and is charged while it is open.
    Nameless,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) used: Usage,
    /// The part of the bytes in `used` that files without a name take.
    nameless: u64,
    /// For what is about to come in; not in `used` yet.
    pub(super) reserved: Usage,
    pub(super) open: HashMap<FileId, Weak<Inode>>,
    /// How many in `open` make it worth looking for those that are closed.
    pub(super) sweep_at: usize,
    counted: Instant,
    /// How often it was counted.
    counts: u64,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            used: Usage::default(),
            nameless: 0,
            reserved: Usage::default(),
            open: HashMap::new(),
            sweep_at: 64,
            counted: Instant::now(),
            counts: 0,
        }
    }

    fn nameless_grew(&mut self, room: Room, bytes: u64) {
        if room == Room::Nameless {
            self.nameless = self.nameless.saturating_add(bytes);
        }
    }
}

impl Tree {
    /// Runs `change`; if it finds the tree full, counts again and runs it once more.
    pub(crate) fn attempt<T>(&self, change: impl Fn() -> Result<T, FileError>) -> Result<T, FileError> {
        match change() {
            Err(FileError::Full(full)) if full.limit != Limit::FileBytes && self.recount()? => change(),
            other => other,
        }
    }

    /// Counts again, unless it was counted just now. Whether there may be less than was thought.
    fn recount(&self) -> Result<bool, FileError> {
        let counts = {
            let state = self.state();
            if state.counted.elapsed() < COUNT_HOLDS {
                return Ok(false);
            }
            state.counts
        };
        self.recount_after(counts)
    }

    /// Counts again, unless somebody did since there were `counts`: many may find the tree full at the same time.
    // THREAT[T-box-workspace-quota]
    fn recount_after(&self, counts: u64) -> Result<bool, FileError> {
        let _gate = self.enter_alone()?;
        if self.state().counts != counts {
            return Ok(true);
        }
        let counted = self.count();
        let mut state = self.state();
        // Also when it failed: what fails is not tried by everybody in turn.
        state.counted = Instant::now();
        state.counts += 1;
        drop(state);
        Ok(self.counted_anew(counted?))
    }

    /// Takes what was counted for what is there. Whether that is less than was thought. The caller has the tree to itself.
    pub(super) fn counted_anew(&self, counted: Usage) -> bool {
        let mut state = self.state();
        // Files may have been closed during the count. What they took is in none of the two.
        let used = counted.plus(Usage {
            bytes: state.nameless,
            entries: 0,
        });
        let is_less = used.bytes < state.used.bytes || used.entries < state.used.entries;
        state.used = used;
        is_less
    }

    pub(super) fn count(&self) -> io::Result<Usage> {
        let counted = walk::count(&self.root)?;
        Ok(Usage {
            bytes: counted
                .bytes
                .saturating_add(self.quota.of_entries(counted.entries).bytes),
            entries: counted.entries,
        })
    }

    pub(super) fn inode(&self, id: FileId) -> Option<Arc<Inode>> {
        self.state().open.get(&id).and_then(Weak::upgrade)
    }

    /// An open file of that length has lost its name.
    pub(crate) fn named_no_more(&self, bytes: u64) {
        self.state().nameless_grew(Room::Nameless, bytes);
    }

    /// The last handle of a file is gone, and with it what it took without a name.
    pub(crate) fn closed(&self, id: FileId, inode: &Inode, nameless: u64) {
        let mut state = self.state();
        state.used.bytes = state.used.bytes.saturating_sub(nameless);
        state.nameless = state.nameless.saturating_sub(nameless);
        if state
            .open
            .get(&id)
            .is_some_and(|known| std::ptr::eq(known.as_ptr(), inode))
        {
            state.open.remove(&id);
        }
    }

    pub(crate) fn charge(&self, more: Usage) -> Result<(), Full> {
        let mut state = self.state();
        self.quota.has_room(state.used.plus(state.reserved), more)?;
        state.used = state.used.plus(more);
        Ok(())
    }

    pub(crate) fn release(&self, less: Usage) {
        let mut state = self.state();
        state.used = state.used.minus(less);
    }

    /// Charges what a file is about to grow by.
    pub(crate) fn charge_bytes(&self, room: Room, bytes: u64) -> Result<(), Full> {
        let mut state = self.state();
        let more = Usage { bytes, entries: 0 };
        self.quota.has_room(state.used.plus(state.reserved), more)?;
        state.used = state.used.plus(more);
        state.nameless_grew(room, bytes);
        Ok(())
    }

    /// Takes off what a file is shorter by.
    pub(crate) fn release_bytes(&self, room: Room, bytes: u64) {
        let mut state = self.state();
        state.used = state.used.minus(Usage { bytes, entries: 0 });
        if room == Room::Nameless {
            state.nameless = state.nameless.saturating_sub(bytes);
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Create, Open, OpenFile, Opened, Quota};
    use cap_std::{ambient_authority, fs::Dir};
    use std::thread;

    const QUOTA: Quota = Quota {
        bytes: 1000,
        file_bytes: 1000,
        entries: 100,
        entry_bytes: 0,
    };

    fn tree() -> (tempfile::TempDir, Arc<Tree>) {
        let dir = tempfile::tempdir().unwrap();
        let open = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        (dir, Tree::open(open, QUOTA).unwrap())
    }

    fn filled(tree: &Arc<Tree>, name: &str, len: u64) -> OpenFile {
        let how = Open {
            read: true,
            write: true,
            create: Create::IfAbsent,
            ..Open::default()
        };
        let Opened::File(file) = tree.open_at(tree.root(), name, &how).unwrap() else {
            panic!("a directory");
        };
        file.set_len(len).unwrap();
        file
    }

    /// As if the last count were long ago.
    fn age(tree: &Tree) {
        tree.state().counted = Instant::now().checked_sub(2 * COUNT_HOLDS).unwrap();
    }

    #[test]
    fn of_many_who_find_the_tree_full_at_once_one_counts() {
        let (dir, tree) = tree();
        std::fs::write(dir.path().join("beside"), "not through the tree").unwrap();
        age(&tree);
        let counts = tree.state().counts;
        // All have seen the same old count before the first of them counts.
        let answers: Vec<bool> = (0..250).map(|_| tree.recount_after(counts).unwrap()).collect();
        assert_eq!(tree.state().counts, counts + 1);
        assert!(answers[1..].iter().all(|again| *again), "the others try again");
    }

    #[test]
    fn a_full_tree_under_many_writers_is_counted_once_a_second_at_most() {
        let (_dir, tree) = tree();
        filled(&tree, "full", 1000);
        age(&tree);
        let since = Instant::now();
        thread::scope(|scope| {
            for writer in 0..16 {
                let tree = &tree;
                scope.spawn(move || {
                    let file = filled(tree, &format!("writer-{writer}"), 0);
                    for _ in 0..50 {
                        assert!(matches!(file.append(b"x"), Err(FileError::Full(_))));
                    }
                });
            }
        });
        let counts = tree.state().counts;
        assert!((1..=since.elapsed().as_secs() + 1).contains(&counts), "{counts}");
        assert_eq!(tree.usage().bytes, 1000);
    }

    #[test]
    fn what_deleted_files_take_is_taken_off_once_whenever_they_are_closed() {
        let (_dir, tree) = tree();
        let _kept = filled(&tree, "kept", 100);
        for round in 0..500 {
            let open = filled(&tree, "deleted", 300);
            tree.remove_file(tree.root(), "deleted").unwrap();
            open.set_len(400).unwrap();
            assert_eq!(tree.usage().bytes, 500, "round {round}");
            // Closed before, during or after a count.
            thread::scope(|scope| {
                scope.spawn(|| drop(open));
                let counts = tree.state().counts;
                tree.recount_after(counts).unwrap();
            });
            assert_eq!(tree.usage().bytes, 100, "round {round}");
            assert_eq!(tree.state().nameless, 0);
        }
    }
}
