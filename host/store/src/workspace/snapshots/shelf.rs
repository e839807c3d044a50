//! What is kept of one session: states by digest, and the bytes of files by digest, each once.
//!
//! A state names the files in it; it is written when they are all there, so it is whole or not there. Bytes are copied, never
//! linked: nobody who changes a file in the workspace changes what is kept. What no state names any more is removed when room is
//! needed, the oldest state first.
//!
//! Beside them lies a cache: by what each file was known when it was read last, so that only what changed is read again. It may be
//! lost at any time.

use super::{
    NotKept,
    durable::Written,
    manifest::{Found, Manifest, Seen, What, walk},
};
use crate::{
    faults::{self, Point},
    workspace::file::{Stamp, make_dir},
};
use cap_std::fs::{Dir, File, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use fumehood_core::{
    digest::{Digest, Digesting},
    id::EventId,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    io::{self, Read as _, Write as _},
    time::SystemTime,
};

pub(super) const BYTES: &str = "bytes";
pub(super) const STATES: &str = "states";
pub(super) const CACHE: &str = "cache.json";
/// What a file takes at least, however short it is.
const LEAST: u64 = 4096;

/// What is kept of one session.
pub(super) struct Shelf {
    dir: Dir,
    bytes: Dir,
    states: Dir,
}

/// What is remembered from one time to the next.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Cache {
    /// The files of the state that was kept last.
    files: BTreeMap<String, (Stamp, Digest)>,
    /// What is kept takes so much.
    used: u64,
}

/// A state that is kept.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    age: (i64, i64),
    name: String,
    takes: u64,
}

/// Bytes that states name.
#[derive(Debug, Default)]
struct Named {
    times: u32,
    takes: u64,
}

/// Bytes that were copied and are not durable yet: nobody finds them under their digest before they are. What does not get so far
/// goes.
struct Arriving<'a> {
    bytes: &'a Dir,
    written: Written,
    copies: Vec<Arrival>,
}

struct Arrival {
    /// Until it is durable.
    name: String,
    digest: Digest,
    size: u64,
}

impl Shelf {
    /// The shelf at `name`, if there is one.
    pub(super) fn open(root: &Dir, name: &str) -> io::Result<Option<Self>> {
        let dir = match root.open_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            dir => dir?,
        };
        Ok(Some(Self {
            bytes: made(&dir, BYTES)?,
            states: made(&dir, STATES)?,
            dir,
        }))
    }

    /// The shelf at `name`, made if it is missing.
    pub(super) fn made(root: &Dir, name: &str) -> io::Result<Self> {
        let dir = made(root, name)?;
        Ok(Self {
            bytes: made(&dir, BYTES)?,
            states: made(&dir, STATES)?,
            dir,
        })
    }

    /// A cache that can't be read is an empty one.
    pub(super) fn cache(&self) -> io::Result<Cache> {
        let read = self.dir.read(CACHE).ok();
        if let Some(cache) = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(cache);
        }
        Ok(Cache {
            files: BTreeMap::new(),
            used: self.count()?,
        })
    }

    /// Looks at a workspace and keeps what is in it, in at most `most` bytes with what is kept already. The state is not kept yet:
    /// [`Shelf::keep`] does that.
    pub(super) fn collect(&self, root: &Dir, cache: &mut Cache, most: u64) -> Result<Manifest, NotKept> {
        let seen = walk(root)?;
        let now = SystemTime::now();
        let (mut all, mut new) = (0_u64, 0_u64);
        for entry in seen.iter().filter(|entry| matches!(entry.found, Found::File)) {
            let size = entry.metadata.len().max(LEAST);
            all = all.saturating_add(size);
            if cache.known(entry, now).is_none() {
                new = new.saturating_add(size);
            }
        }
        // THREAT[T-box-snapshot-quota]: what would not fit is not even begun.
        if all > most {
            return Err(NotKept::TooLarge);
        }
        if cache.used.saturating_add(new) > most {
            self.make_room(cache, new, most)?;
        }
        let mut arriving = Arriving::on(&self.bytes);
        let manifest = read_all(root, &seen, cache, now, |file, cache| arriving.copy(file, cache))?;
        arriving.place(cache)?;
        Ok(manifest)
    }

    /// Looks at a workspace and keeps nothing; with it, what was found.
    pub(super) fn look(&self, root: &Dir) -> Result<(Manifest, Vec<Seen>), NotKept> {
        let seen = walk(root)?;
        let mut cache = self.cache()?;
        let read = |mut file: File, _: &mut Cache| copy(&mut file, &mut io::sink());
        let manifest = read_all(root, &seen, &mut cache, SystemTime::now(), read)?;
        Ok((manifest, seen))
    }

    /// Keeps a state whose files are all there, as the newest.
    pub(super) fn keep(&self, manifest: &Manifest, cache: &mut Cache) -> Result<Digest, NotKept> {
        let bytes = manifest.to_bytes()?;
        let digest = Digest::of(&bytes);
        sync(&self.bytes)?;
        let name = digest.to_hex();
        if !self.states.exists(&name) {
            cache.used = cache.used.saturating_add((bytes.len() as u64).max(LEAST));
        }
        // Written anew also where it is there: its age is that of its file.
        faults::around(Point::SnapshotState, || {
            replace(&self.states, &name, &bytes, Durable::Yes)
        })?;
        let cached = serde_json::to_vec(cache).map_err(|error| NotKept::Disk(error.into()))?;
        replace(&self.dir, CACHE, &cached, Durable::No)?;
        Ok(digest)
    }

    /// A state that is kept; `None` if it is not, or not any more.
    pub(super) fn manifest(&self, digest: &Digest) -> io::Result<Option<Manifest>> {
        let bytes = match self.states.read(digest.to_hex()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        if Digest::of(&bytes) != *digest {
            return Ok(None);
        }
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// The bytes of a file of a state.
    pub(super) fn bytes(&self, digest: &Digest) -> io::Result<File> {
        self.bytes.open(digest.to_hex())
    }

    /// Removes the oldest states, and the bytes that are only theirs, until `more` fits into `most`; all, if that is not enough.
    fn make_room(&self, cache: &mut Cache, more: u64, most: u64) -> Result<(), NotKept> {
        let mut states = self.by_age()?;
        let newest = states.pop();
        let mut names: HashMap<Digest, Named> = HashMap::new();
        // What is being kept just now, or was kept last.
        for (_, digest) in cache.files.values() {
            names.entry(*digest).or_default().times += 1;
        }
        for state in newest.iter().chain(&states) {
            for digest in self.files_of(&state.name) {
                names.entry(digest).or_default().times += 1;
            }
        }
        let of_states = newest.iter().chain(&states).map(|state| state.takes);
        cache.used = of_states.fold(self.sweep(&mut names)?, u64::saturating_add);
        // More than is needed, so that it is not needed again at once.
        let wanted = (most / 4 * 3).min(most.saturating_sub(more));
        for state in &states {
            if cache.used <= wanted {
                break;
            }
            let files = self.files_of(&state.name);
            // First, so that a state whose files are not all there is none.
            faults::around(Point::SnapshotRemove, || self.states.remove_file(&state.name))?;
            cache.used = cache.used.saturating_sub(state.takes);
            for digest in files {
                if let Entry::Occupied(mut named) = names.entry(digest) {
                    named.get_mut().times -= 1;
                    if named.get().times == 0 {
                        gone_is_fine(self.bytes.remove_file(digest.to_hex()))?;
                        cache.used = cache.used.saturating_sub(named.remove().takes);
                    }
                }
            }
        }
        if cache.used.saturating_add(more) > most {
            // First, so that nobody believes it when the bytes are gone.
            gone_is_fine(self.dir.remove_file(CACHE))?;
            sync(&self.dir)?;
            *cache = Cache::default();
            for state in newest.iter().chain(&states) {
                gone_is_fine(self.states.remove_file(&state.name))?;
            }
            self.sweep(&mut HashMap::new())?;
        }
        Ok(())
    }

    /// The states, the oldest first.
    fn by_age(&self) -> io::Result<Vec<State>> {
        let mut states = Vec::new();
        for entry in self.states.entries()? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let Ok(name) = entry.file_name().into_string() {
                states.push(State {
                    age: (metadata.mtime(), metadata.mtime_nsec()),
                    name,
                    takes: metadata.len().max(LEAST),
                });
            }
        }
        states.sort_unstable();
        Ok(states)
    }

    /// Of a state that can't be read nothing is kept.
    fn files_of(&self, state: &str) -> Vec<Digest> {
        let read = self.states.read(state).ok();
        let manifest: Option<Manifest> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        manifest.map(|manifest| manifest.files().collect()).unwrap_or_default()
    }

    /// Removes the bytes that nobody names; what the others take, each and together.
    fn sweep(&self, names: &mut HashMap<Digest, Named>) -> io::Result<u64> {
        let mut used = 0_u64;
        for entry in self.bytes.entries()? {
            let entry = entry?;
            let name = entry.file_name();
            let digest: Option<Digest> = name.to_str().and_then(|name| format!("sha256:{name}").parse().ok());
            match digest.and_then(|digest| names.get_mut(&digest)) {
                Some(named) => {
                    named.takes = entry.metadata()?.len().max(LEAST);
                    used = used.saturating_add(named.takes);
                }
                None => gone_is_fine(self.bytes.remove_file(&name))?,
            }
        }
        Ok(used)
    }

    fn count(&self) -> io::Result<u64> {
        let mut used = 0_u64;
        for dir in [&self.bytes, &self.states] {
            for entry in dir.entries()? {
                used = used.saturating_add(entry?.metadata()?.len().max(LEAST));
            }
        }
        Ok(used)
    }
}

impl<'a> Arriving<'a> {
    fn on(bytes: &'a Dir) -> Self {
        Self {
            bytes,
            written: Written::default(),
            copies: Vec::new(),
        }
    }

    /// Copies a file, unless its bytes are there already or on their way.
    fn copy(&mut self, mut file: File, cache: &mut Cache) -> io::Result<(Digest, u64)> {
        let name = EventId::new().uuid().simple().to_string();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o400);
        let mut copied = self.bytes.open_with(&name, &options)?;
        let (digest, size) = match copy(&mut file, &mut copied) {
            Ok((digest, size)) if !self.is_there(&digest) => (digest, size),
            done => {
                // An error of the copy counts; a leftover goes when room is made.
                let removed = self.bytes.remove_file(&name);
                let done = done?;
                removed?;
                return Ok(done);
            }
        };
        self.written.add(copied);
        self.copies.push(Arrival { name, digest, size });
        if self.written.is_full() {
            self.place(cache)?;
        }
        Ok((digest, size))
    }

    fn is_there(&self, digest: &Digest) -> bool {
        self.copies.iter().any(|copy| copy.digest == *digest) || self.bytes.exists(digest.to_hex())
    }

    /// Gives the copies their names, as soon as they are durable.
    fn place(&mut self, cache: &mut Cache) -> io::Result<()> {
        self.written.sync()?;
        while let Some(copy) = self.copies.last() {
            faults::around(Point::SnapshotBytes, || {
                self.bytes.rename(&copy.name, self.bytes, copy.digest.to_hex())
            })?;
            cache.used = cache.used.saturating_add(copy.size.max(LEAST));
            self.copies.pop();
        }
        Ok(())
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        for copy in &self.copies {
            // What can't be removed goes when room is made.
            let _ = self.bytes.remove_file(&copy.name);
        }
    }
}

/// The state of a workspace of which this was seen: what is not known of its files yet, `read` finds out.
fn read_all(
    root: &Dir,
    seen: &[Seen],
    cache: &mut Cache,
    now: SystemTime,
    mut read: impl FnMut(File, &mut Cache) -> io::Result<(Digest, u64)>,
) -> Result<Manifest, NotKept> {
    let mut files = BTreeMap::new();
    let mut manifest = Manifest::default();
    for entry in seen {
        let what = match &entry.found {
            Found::Directory => What::Directory { marked: entry.marked() },
            Found::Link(target) => What::Link { target: target.clone() },
            Found::File => {
                let (digest, size) = match cache.known(entry, now) {
                    Some(digest) => (digest, entry.metadata.len()),
                    None => match open(root, entry)? {
                        Some(file) => read(file, cache)?,
                        None => continue,
                    },
                };
                if let Some(stamp) = entry.stamp(now) {
                    files.insert(entry.path.clone(), (stamp, digest));
                }
                What::File {
                    digest,
                    size,
                    marked: entry.marked(),
                }
            }
        };
        manifest.0.insert(entry.path.clone(), what);
    }
    cache.files = files;
    Ok(manifest)
}

impl Cache {
    fn known(&self, entry: &Seen, now: SystemTime) -> Option<Digest> {
        let (stamp, digest) = self.files.get(&entry.path)?;
        (entry.stamp(now).as_ref() == Some(stamp)).then_some(*digest)
    }
}

/// The file that was seen, if it is still there.
fn open(root: &Dir, entry: &Seen) -> io::Result<Option<File>> {
    let file = match root.open(&entry.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let opened = file.metadata()?;
    if (opened.dev(), opened.ino()) == (entry.metadata.dev(), entry.metadata.ino()) {
        return Ok(Some(file));
    }
    // Somebody put another in its place: whoever looks finds that something changed, and looks again.
    Ok(None)
}

/// Copies all of a file; its digest and length.
pub(super) fn copy(from: &mut File, to: &mut impl io::Write) -> io::Result<(Digest, u64)> {
    let (mut seen, mut size) = (Digesting::default(), 0);
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = match from.read(&mut piece) {
            Ok(0) => return Ok((seen.finish(), size)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        seen.update(&piece[..count]);
        to.write_all(&piece[..count])?;
        size += count as u64;
    }
}

/// Whether what is written outlives a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durable {
    Yes,
    No,
}

/// Writes a file whole, in the place of whatever is there.
pub(super) fn replace(dir: &Dir, name: &str, bytes: &[u8], durable: Durable) -> io::Result<()> {
    let temporary = format!("{name}.new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = dir.open_with(&temporary, &options)?;
    file.write_all(bytes)?;
    if durable == Durable::Yes {
        file.sync_all()?;
    }
    dir.rename(&temporary, dir, name)?;
    if durable == Durable::Yes {
        sync(dir)?;
    }
    Ok(())
}

/// Makes the names in a directory durable.
pub(super) fn sync(dir: &Dir) -> io::Result<()> {
    dir.open(".")?.sync_all()
}

/// The directory `name`, made if it is missing.
pub(super) fn made(parent: &Dir, name: &str) -> io::Result<Dir> {
    match make_dir(parent, name) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => parent.open_dir(name),
    }
}

pub(super) fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cap_std::ambient_authority;
    use std::time::Duration;

    /// A shelf, and a workspace.
    fn fixture() -> (tempfile::TempDir, Shelf, Dir) {
        let place = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient_dir(place.path(), ambient_authority()).unwrap();
        let workspace = made(&root, "workspace").unwrap();
        (place, Shelf::made(&root, "shelf").unwrap(), workspace)
    }

    /// Keeps the workspace, as it would be if nobody had changed it for long.
    fn keep(shelf: &Shelf, workspace: &Dir) -> Manifest {
        let mut cache = shelf.cache().unwrap();
        let manifest = shelf.collect(workspace, &mut cache, u64::MAX).unwrap();
        let later = SystemTime::now() + Duration::from_secs(3600);
        for seen in walk(workspace).unwrap() {
            let Some(What::File { digest, .. }) = manifest.0.get(&seen.path) else {
                continue;
            };
            cache
                .files
                .insert(seen.path.clone(), (seen.stamp(later).unwrap(), *digest));
        }
        shelf.keep(&manifest, &mut cache).unwrap();
        manifest
    }

    #[test]
    fn what_is_not_needed_goes_oldest_first_and_what_others_name_stays() {
        let (place, shelf, workspace) = fixture();
        workspace.write("same", vec![b's'; 10_000]).unwrap();
        let mut manifests = Vec::new();
        for number in 0..6_u8 {
            workspace.write("own", vec![number; 10_000]).unwrap();
            let manifest = keep(&shelf, &workspace);
            let state = place
                .path()
                .join("shelf/states")
                .join(manifest.digest().unwrap().to_hex());
            let age = SystemTime::UNIX_EPOCH + Duration::from_secs(number.into());
            std::fs::File::open(state).unwrap().set_modified(age).unwrap();
            manifests.push(manifest);
        }
        let mut cache = shelf.cache().unwrap();
        let before = shelf.count().unwrap();
        // Two states and the bytes that are only theirs.
        let wanted = before - 2 * (10_000 + LEAST) + 100;
        shelf.make_room(&mut cache, 1, wanted * 4 / 3).unwrap();
        let there = |manifest: &Manifest| {
            let is_kept = shelf.manifest(&manifest.digest().unwrap()).unwrap().is_some();
            assert!(!is_kept || manifest.files().all(|digest| shelf.bytes(&digest).is_ok()));
            is_kept
        };
        let kept: Vec<bool> = manifests.iter().map(there).collect();
        assert_eq!(kept, [false, false, true, true, true, true]);
        assert!(shelf.bytes(&Digest::of(&[0; 10_000])).is_err(), "nobody names it");
        assert_eq!(cache.used, shelf.count().unwrap());
        assert_eq!(cache.used, before - 2 * (10_000 + LEAST));
    }

    #[test]
    fn bytes_have_their_name_only_when_they_are_durable_and_what_is_broken_off_leaves_none() {
        let (_place, shelf, workspace) = fixture();
        let mut cache = shelf.cache().unwrap();
        let mut arriving = Arriving::on(&shelf.bytes);
        for (name, text) in [("a", "one"), ("b", "two"), ("c", "one")] {
            workspace.write(name, text).unwrap();
            let copied = arriving.copy(workspace.open(name).unwrap(), &mut cache).unwrap();
            assert_eq!(copied, (Digest::of(text.as_bytes()), 3));
            assert!(shelf.bytes(&copied.0).is_err(), "not durable yet");
        }
        assert_eq!(shelf.bytes.entries().unwrap().count(), 2, "each once");
        drop(arriving);
        assert_eq!(shelf.bytes.entries().unwrap().count(), 0);
        assert_eq!(cache.used, 0);

        for number in 0..100 {
            workspace.write(format!("file {number}"), number.to_string()).unwrap();
        }
        let manifest = shelf.collect(&workspace, &mut cache, u64::MAX).unwrap();
        assert!(manifest.files().all(|digest| shelf.bytes(&digest).is_ok()));
        assert_eq!(shelf.bytes.entries().unwrap().count(), 102);
        assert_eq!(cache.used, shelf.count().unwrap());
    }

    #[test]
    fn what_was_removed_for_room_is_not_believed_to_be_there_wherever_that_was_broken_off() {
        let (place, shelf, workspace) = fixture();
        workspace.write("a", vec![b'a'; 10_000]).unwrap();
        keep(&shelf, &workspace);
        assert_eq!(shelf.cache().unwrap().files.len(), 1);
        // The newest: nothing else can be removed after it.
        std::fs::create_dir(place.path().join("shelf/states/z")).unwrap();
        let mut cache = shelf.cache().unwrap();
        let broken_off = shelf.make_room(&mut cache, 20_000, 20_000);
        assert!(matches!(broken_off, Err(NotKept::Disk(_))), "{broken_off:?}");
        assert!(shelf.cache().unwrap().files.is_empty(), "it began");

        std::fs::remove_dir(place.path().join("shelf/states/z")).unwrap();
        keep(&shelf, &workspace);
        let mut cache = shelf.cache().unwrap();
        shelf.make_room(&mut cache, 20_000, 20_000).unwrap();
        assert_eq!(shelf.count().unwrap(), 0);
        assert!(shelf.cache().unwrap().files.is_empty(), "it ended");
        let manifest = keep(&shelf, &workspace);
        assert!(manifest.files().all(|digest| shelf.bytes(&digest).is_ok()));
    }
}
