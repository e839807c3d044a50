//! Bringing a workspace back to a state: made ready, decided by the journal, done.

use super::{
    NotKept, Snapshots,
    durable::Written,
    manifest::{Found, Manifest, Marked, Plan, Seen},
    shelf::{self, Durable, Shelf},
    undisturbed,
};
use crate::faults::{self, Point};
use cap_std::fs::{Dir, MetadataExt as _, OpenOptions, OpenOptionsExt as _, Permissions, PermissionsExt as _};
use fumehood_core::{
    Time,
    digest::Digest,
    id::{EventId, SessionId},
    rewind::FilesRewound,
};
use fumehood_files::{FileError, Quota, Rewriting, Tree, remove_all};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, io, sync::Arc};

const PLAN: &str = "plan.json";
/// More paths are counted, not named.
const MOST_NAMED: usize = 100;

/// What to bring a workspace back to.
#[derive(Debug, Clone)]
pub(crate) struct PutBack {
    /// The event that decides it.
    pub(crate) event: EventId,
    /// The state.
    pub(crate) state: Digest,
    /// When the turns ran that are undone: what was changed at other times, somebody else changed.
    pub(crate) during: Vec<(Time, Time)>,
}

/// What is known of something that is ready to be put back and that nobody sees to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// An earlier process left it; [`Snapshots::decided_by`] says what it is.
    Earlier,
    /// It is to be put back.
    Decided,
    /// It is, if the journal has this event.
    UpTo(EventId),
}

/// What bringing it back would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Prospect {
    pub(crate) changed: usize,
    pub(crate) lost: Vec<String>,
    pub(crate) lost_more: usize,
}

/// What is to be done if the event is there.
#[derive(Serialize, Deserialize)]
struct Decided {
    event: EventId,
    plan: Plan,
}

impl Snapshots {
    /// Makes everything ready; nothing in the workspace is changed. The caller keeps clients from changing it until it is put back.
    pub(crate) fn make_ready(
        &self,
        session: SessionId,
        tree: &Arc<Tree>,
        back: &PutBack,
        quota: Quota,
    ) -> Result<(FilesRewound, Prospect), NotKept> {
        if self.marked(session, tree)? == Some(back.state) {
            return Ok((FilesRewound::Unchanged, Prospect::default()));
        }
        let Some((then, shelf)) = self.manifest(session, &back.state)? else {
            return Ok((FilesRewound::Unavailable, Prospect::default()));
        };
        let shelf = match shelf {
            Some(shelf) => shelf,
            None => Shelf::made(&self.root, &session.to_string())?,
        };
        let ((now, seen), _) = match undisturbed(tree, |root| shelf.look(root)) {
            Err(NotKept::Strange) => return Ok((FilesRewound::Unavailable, Prospect::default())),
            looked => looked?,
        };
        let plan = Plan::new(&now, &then);
        if plan == Plan::default() {
            return Ok((FilesRewound::Unchanged, Prospect::default()));
        }
        if !fits(&now, &then, quota) {
            return Ok((FilesRewound::Unavailable, Prospect::default()));
        }
        let prospect = prospect(&plan, &seen, &back.during);
        let name = session.to_string();
        remove_all(&self.restoring, &name)?;
        let made = shelf::made(&self.restoring, &name).and_then(|ready| self.stage(&ready, &shelf, plan, back.event));
        match made {
            Ok(true) => Ok((FilesRewound::Restored, prospect)),
            Ok(false) => {
                remove_all(&self.restoring, &name)?;
                Ok((FilesRewound::Unavailable, Prospect::default()))
            }
            Err(error) => {
                // The first error counts; a leftover is swept at the next start.
                let _ = remove_all(&self.restoring, &name);
                Err(error.into())
            }
        }
    }

    /// Copies what is to be put back; false if some of it is not kept any more, or damaged.
    fn stage(&self, ready: &Dir, shelf: &Shelf, plan: Plan, event: EventId) -> io::Result<bool> {
        let mut written = Written::default();
        for (number, (_, digest, marked)) in plan.files.iter().enumerate() {
            let mut kept = match shelf.bytes(digest) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                kept => kept?,
            };
            if write_copy(&mut kept, (ready, &number.to_string()), *marked, &mut written)? != *digest {
                return Ok(false);
            }
        }
        written.sync()?;
        let decided = serde_json::to_vec(&Decided { event, plan })?;
        faults::around(Point::RestorePlan, || {
            shelf::replace(ready, PLAN, &decided, Durable::Yes).and_then(|()| shelf::sync(&self.restoring))
        })?;
        Ok(true)
    }

    /// Brings the workspace back: it is decided.
    pub(crate) fn put_back(&self, session: SessionId, tree: &Tree) -> Result<(), NotKept> {
        let name = session.to_string();
        if let Some((ready, decided)) = self.ready(&name)? {
            tree.rewrite(|tree| {
                apply(tree, &ready, &decided.plan)
                    .and_then(|()| sync_all(tree, &decided.plan))
                    .map_err(FileError::from)
            })?;
        }
        // Without its plan it is being removed already: all of it is back.
        faults::around(Point::RestoreClear, || remove_all(&self.restoring, &name))?;
        // A plan that came back after a loss of power would undo what is written from now on.
        shelf::sync(&self.restoring)?;
        self.settled(session);
        Ok(())
    }

    /// Throws away what was made ready: it is not decided.
    pub(crate) fn discard(&self, session: SessionId) -> io::Result<()> {
        faults::around(Point::RestoreClear, || remove_all(&self.restoring, session.to_string()))?;
        self.settled(session);
        Ok(())
    }

    /// Something is ready to be put back, and nobody sees to it any more. What is known to be decided stays so.
    pub(crate) fn leave(&self, session: SessionId, left: Left) {
        let mut known = self.lock();
        let is = known.left.entry(session).or_insert(left);
        if left == Left::Decided {
            *is = left;
        }
    }

    /// What is left of going back and has to be ended before anything else.
    pub(crate) fn is_left(&self, session: SessionId) -> Option<Left> {
        self.lock().left.get(&session).copied()
    }

    fn settled(&self, session: SessionId) {
        self.lock().left.remove(&session);
    }

    /// The sessions of which an earlier process left something.
    pub(crate) fn left(&self) -> io::Result<Vec<SessionId>> {
        let mut left = Vec::new();
        for entry in self.restoring.entries()? {
            let name = entry?.file_name();
            match name.to_str().and_then(|name| name.parse().ok()) {
                Some(session) => left.push(session),
                None => remove_all(&self.restoring, &name)?,
            }
        }
        Ok(left)
    }

    /// The event that decides over what an earlier process left; `None`: it was not ready, or is back and being removed.
    ///
    /// # Errors
    /// Those of the system, and when the plan is none: what can't be read may have been decided.
    pub(crate) fn decided_by(&self, session: SessionId) -> io::Result<Option<EventId>> {
        Ok(self.ready(&session.to_string())?.map(|(_, decided)| decided.event))
    }

    /// What is ready, with its plan, which was written last.
    fn ready(&self, name: &str) -> io::Result<Option<(Dir, Decided)>> {
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            _ => Err(error),
        };
        let ready = match self.restoring.open_dir(name) {
            Err(error) => return missing(error),
            Ok(ready) => ready,
        };
        match ready.read(PLAN) {
            Err(error) => missing(error),
            Ok(plan) => Ok(Some((ready, serde_json::from_slice(&plan)?))),
        }
    }
}

/// Copies a file into a directory; what names what was copied. It is durable when `written` is.
pub(super) fn write_copy(
    from: &mut cap_std::fs::File,
    (to, name): (&Dir, &str),
    marked: Marked,
    written: &mut Written,
) -> io::Result<Digest> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut copied = to.open_with(name, &options)?;
    let (digest, _) = shelf::copy(from, &mut copied)?;
    if marked == Marked::ReadOnly {
        copied.set_permissions(Permissions::from_mode(0o400))?;
    }
    written.add(copied);
    if written.is_full() {
        written.sync()?;
    }
    Ok(digest)
}

// THREAT[T-box-snapshot-quota]: going back brings no more than the quota allows, or than there is.
fn fits(now: &Manifest, then: &Manifest, quota: Quota) -> bool {
    let ((bytes, longest), (bytes_now, longest_now)) = (then.sizes(), now.sizes());
    bytes <= quota.bytes.max(bytes_now)
        && longest <= quota.file_bytes.max(longest_now)
        && then.0.len() as u64 <= quota.entries.max(now.0.len() as u64)
}

fn prospect(plan: &Plan, seen: &[Seen], during: &[(Time, Time)]) -> Prospect {
    let replaced: BTreeSet<&str> = plan
        .remove
        .iter()
        .chain(plan.files.iter().map(|(path, ..)| path))
        .map(String::as_str)
        .collect();
    let by_others = seen
        .iter()
        .filter(|entry| matches!(entry.found, Found::File) && replaced.contains(entry.path.as_str()))
        .filter(|entry| !during.iter().any(|(from, to)| (*from..=*to).contains(&changed(entry))))
        .map(|entry| entry.path.clone());
    let mut lost: Vec<String> = by_others.collect();
    lost.sort_unstable();
    let lost_more = lost.len().saturating_sub(MOST_NAMED);
    lost.truncate(MOST_NAMED);
    Prospect {
        changed: plan.len(),
        lost,
        lost_more,
    }
}

/// When a file was changed last; unlike the time of its bytes, nobody can set it.
fn changed(entry: &Seen) -> Time {
    let nanos = u32::try_from(entry.metadata.ctime_nsec()).unwrap_or(0);
    Time::from_timestamp(entry.metadata.ctime(), nanos).unwrap_or_default()
}

/// Can be done again, from the beginning, after it was broken off anywhere.
fn apply(tree: &Rewriting<'_>, ready: &Dir, plan: &Plan) -> io::Result<()> {
    for path in &plan.remove {
        tree.remove(path)?;
    }
    for (path, _) in &plan.directories {
        tree.directory(path)?;
    }
    for (number, (path, ..)) in plan.files.iter().enumerate() {
        let name = number.to_string();
        // What is not there any more is back already; what can't be looked at is not.
        if ready.try_exists(&name)? {
            faults::around(Point::RestorePut, || tree.put((ready, &name), path))?;
        }
    }
    for (path, target) in &plan.links {
        tree.link(target, path)?;
    }
    for (path, marked) in &plan.directories {
        if *marked == Marked::ReadOnly {
            tree.fix_directory(path)?;
        }
    }
    Ok(())
}

/// Makes the names durable that were changed.
fn sync_all(tree: &Rewriting<'_>, plan: &Plan) -> io::Result<()> {
    let touched = plan
        .remove
        .iter()
        .chain(plan.files.iter().map(|(path, ..)| path))
        .chain(plan.directories.iter().map(|(path, _)| path))
        .chain(plan.links.iter().map(|(path, _)| path));
    let parents: BTreeSet<&str> = touched
        .map(|path| path.rsplit_once('/').map_or(".", |(parent, _)| parent))
        .collect();
    parents.into_iter().try_for_each(|parent| tree.sync(parent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::snapshots::manifest::What;
    use cap_std::ambient_authority;

    /// What is at a path of a workspace.
    #[derive(Clone, Copy)]
    enum Is {
        File(&'static str),
        Directory,
        Link(&'static str),
    }
    use Is::{Directory, File, Link};

    /// Each that may be in the place of another.
    const STATES: [&[(&str, Is)]; 8] = [
        &[],
        &[("a", File("one"))],
        &[("a", File("two")), ("b", File("two"))],
        &[("a", Directory)],
        &[("a", Directory), ("a/b", File("deep")), ("a/c", Link("b"))],
        &[("a", Directory), ("a/b", Directory), ("a/b/c", File("deeper"))],
        &[("a", Link("b")), ("b", File("one"))],
        &[("a", Link("b")), ("b", Directory), ("b/b", File("deep"))],
    ];

    fn make(root: &Dir, name: &str, entries: &[(&str, Is)]) -> Dir {
        remove_all(root, name).unwrap();
        let dir = shelf::made(root, name).unwrap();
        for (path, is) in entries {
            match is {
                File(text) => dir.write(path, text).unwrap(),
                Directory => dir.create_dir(path).unwrap(),
                Link(target) => dir.symlink_contents(target, path).unwrap(),
            }
        }
        dir
    }

    fn staged(root: &Dir, plan: &Plan, then: &[(&str, Is)]) -> Dir {
        let texts = plan.files.iter().map(|(path, ..)| {
            let is = then.iter().find(|(name, _)| name == path);
            match is {
                Some((_, File(text))) => *text,
                _ => panic!("{path} is no file"),
            }
        });
        let texts: Vec<_> = texts.enumerate().map(|(n, text)| (n.to_string(), text)).collect();
        let entries: Vec<_> = texts.iter().map(|(name, text)| (name.as_str(), File(text))).collect();
        make(root, "ready", &entries)
    }

    /// Its first steps, in the order in which they are done.
    fn begun(plan: &Plan, steps: usize) -> Plan {
        let mut plan = plan.clone();
        let mut left = steps;
        let mut take = |length: usize| {
            let some = length.min(left);
            left -= some;
            some
        };
        plan.remove.truncate(take(plan.remove.len()));
        plan.directories.truncate(take(plan.directories.len()));
        plan.files.truncate(take(plan.files.len()));
        plan.links.truncate(take(plan.links.len()));
        plan
    }

    #[test]
    fn what_was_broken_off_anywhere_leads_to_the_same_when_it_is_done_again() {
        let place = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient_dir(place.path(), ambient_authority()).unwrap();
        let shelf = Shelf::made(&root, "shelf").unwrap();
        let manifest = |dir: &Dir| shelf.look(dir).unwrap().0;
        for (from, now) in STATES.iter().enumerate() {
            for (to, then) in STATES.iter().enumerate() {
                let wanted = manifest(&make(&root, "then", then));
                let plan = Plan::new(&manifest(&make(&root, "tree", now)), &wanted);
                let steps = plan.remove.len() + plan.directories.len() + plan.files.len() + plan.links.len();
                for done in 0..=steps {
                    let tree = Tree::open(make(&root, "tree", now), Quota::default()).unwrap();
                    let ready = staged(&root, &plan, then);
                    for plan in [&begun(&plan, done), &plan] {
                        tree.rewrite(|tree| apply(tree, &ready, plan).map_err(FileError::from))
                            .unwrap();
                    }
                    assert_eq!(
                        manifest(tree.root()),
                        wanted,
                        "from {from} to {to}, after {done} of {steps}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_file_that_is_ready_and_can_not_be_looked_at_is_not_taken_for_one_that_is_back() {
        let place = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient_dir(place.path(), ambient_authority()).unwrap();
        let tree = Tree::open(make(&root, "tree", &[]), Quota::default()).unwrap();
        let ready = make(&root, "ready", &[("0", Link("0"))]);
        let then = What::File {
            digest: Digest::of(b""),
            size: 0,
            marked: Marked::Not,
        };
        let plan = Plan::new(&Manifest::default(), &Manifest([("a".to_owned(), then)].into()));
        let done = tree.rewrite(|tree| apply(tree, &ready, &plan).map_err(FileError::from));
        assert!(matches!(done, Err(FileError::Io(_))), "{done:?}");
    }
}
