//! `wasi:filesystem`: the directories are opened late, what changes files goes through their tree, and
//! what only looks goes to wasmtime-wasi's own implementation, as far as the descriptor reaches.

use super::{
    FilesView, Home, IN_PLACE, Place,
    listing::Listing,
    seen::{answered, asked},
    stream::{Position, Reading, Refused, Writing},
};
use crate::witness::{Outcome, Question};
use cap_std::fs::Dir as CapDir;
use fumehood_files::{Create, FileError, Open, OpenFile, Opened, Tree};
use std::sync::Arc;
use wasmtime::component::{Resource, ResourceTable, ResourceTableError};
use wasmtime_wasi::{
    FsPerms, OpenMode,
    filesystem::{Descriptor, Dir, File, WasiFilesystemCtx, WasiFilesystemCtxView},
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult,
        bindings::filesystem::types::{
            self, DescriptorFlags, ErrorCode, HostDescriptor, HostDirectoryEntryStream, OpenFlags, PathFlags,
        },
    },
};

type Fd = Resource<Descriptor>;
type Entries = Resource<types::DirectoryEntryStream>;

/// The interface that tells a guest which directories there are. Bound by hand, because opening them takes a while.
pub(crate) const PREOPENS: &str = "wasi:filesystem/preopens@0.2.12";

/// The longest path, as on every system that the guest may have been written for.
const LONGEST_PATH: usize = 4096;

// THREAT[T-box-host-memory]: a path may be as long as the guest's memory.
fn check_length(path: &str) -> FsResult<()> {
    if path.len() > LONGEST_PATH {
        return Err(ErrorCode::NameTooLong.into());
    }
    Ok(())
}

/// A directory that something is to be changed in.
struct Target {
    dir: Dir,
    place: Place,
}

impl Target {
    /// Another handle of the directory, for the tree.
    fn handle(&self) -> std::io::Result<CapDir> {
        Ok(CapDir::from_std_file(self.dir.dir.try_clone()?))
    }
}

impl FilesView<'_> {
    fn place(&self, fd: &Fd) -> FsResult<&Place> {
        self.files
            .descriptors
            .get(&fd.rep())
            .ok_or_else(|| ErrorCode::BadDescriptor.into())
    }

    /// Whether `fd` reaches `path`.
    // THREAT[T-box-escape-files]
    fn reach(&self, fd: &Fd, path: &str) -> FsResult<()> {
        check_length(path)?;
        match &self.place(fd)?.names {
            Some(names) if !names.iter().any(|name| name == path) => Err(ErrorCode::Access.into()),
            _ => Ok(()),
        }
    }

    /// Whether `fd` reaches everything below it.
    fn unrestricted(&self, fd: &Fd) -> FsResult<()> {
        match self.place(fd)?.names {
            Some(_) => Err(ErrorCode::Access.into()),
            None => Ok(()),
        }
    }

    /// Below a restricted descriptor no link is followed: it may lead to what is not granted.
    fn follow(&self, fd: &Fd, flags: PathFlags) -> FsResult<PathFlags> {
        Ok(match self.place(fd)?.names {
            Some(_) => PathFlags::empty(),
            None => flags,
        })
    }

    fn dir(&self, fd: &Fd) -> FsResult<Target> {
        match self.wasi.table.get(fd)? {
            Descriptor::Dir(dir) => Ok(Target {
                dir: dir.clone(),
                place: self.place(fd)?.clone(),
            }),
            Descriptor::File(_) => Err(ErrorCode::NotDirectory.into()),
        }
    }

    /// A directory that the guest may change.
    fn writable(&self, fd: &Fd) -> FsResult<Target> {
        let target = self.dir(fd)?;
        if target.dir.perms.write_not_permitted() {
            return Err(self.files.not_to_be_changed());
        }
        Ok(target)
    }

    /// A file that the guest may change, if it opened it for that.
    fn writable_file(&self, fd: &Fd) -> FsResult<(OpenFile, Home)> {
        let place = self.place(fd)?;
        match self.wasi.table.get(fd)? {
            Descriptor::File(file) if file.perms.write_not_permitted() => Err(ErrorCode::NotPermitted.into()),
            Descriptor::File(_) => match &place.file {
                Some(file) => Ok((file.clone(), place.home)),
                None => Err(ErrorCode::BadDescriptor.into()),
            },
            Descriptor::Dir(_) => Err(ErrorCode::BadDescriptor.into()),
        }
    }

    /// For who explains the call: `verb` of `path`, in the directory `fd`.
    fn question(&self, fd: &Fd, verb: &str, path: &str) -> Question {
        asked(self.files.seen.as_ref(), Some(fd.rep()), |seen| {
            format!("{verb} {}", seen.path(fd.rep(), path))
        })
    }

    /// Runs a change where blocking is allowed.
    async fn change<T: Send + 'static>(
        &mut self,
        home: Home,
        change: impl FnOnce() -> Result<T, FileError> + Send + 'static,
    ) -> FsResult<T> {
        let refusals = self.files.refusals(home);
        let done = self.files.worker().start(change).done().await?;
        done.map_err(|error| refusals.code(error))
    }

    /// Runs a change of a name in a directory.
    async fn change_in<T: Send + 'static>(
        &mut self,
        target: Target,
        change: impl FnOnce(&Arc<Tree>, &CapDir) -> Result<T, FileError> + Send + 'static,
    ) -> FsResult<T> {
        self.change(target.place.home, move || change(&target.place.tree, &target.handle()?))
            .await
    }

    fn push(&mut self, descriptor: Descriptor, place: Place) -> Result<Fd, ResourceTableError> {
        let fd = self.wasi.table.push(descriptor)?;
        self.files.descriptors.insert(fd.rep(), place);
        Ok(fd)
    }

    fn stream(&mut self, fd: &Fd, position: Position) -> FsResult<Resource<DynOutputStream>> {
        let (file, home) = self.writable_file(fd)?;
        let (refusals, worker) = (self.files.refusals(home), self.files.worker().clone());
        let stream: DynOutputStream = Box::new(Writing::new(file, position, refusals, worker));
        Ok(self.wasi.table.push(stream)?)
    }

    /// Asks wasmtime-wasi's own implementation, on a blocking thread.
    async fn look<T: Send + 'static>(
        &mut self,
        fd: &Fd,
        look: impl AsyncFnOnce(WasiFilesystemCtxView<'_>, Fd) -> FsResult<T> + Send + 'static,
    ) -> FsResult<T> {
        let descriptor = self.wasi.table.get(fd)?.clone();
        let runtime = tokio::runtime::Handle::current();
        let look = move || {
            let (mut table, mut ctx) = (ResourceTable::new(), WasiFilesystemCtx::default());
            let fd = table.push(descriptor)?;
            let (table, ctx) = (&mut table, &mut ctx);
            runtime.block_on(look(WasiFilesystemCtxView { ctx, table }, fd))
        };
        self.files.worker().start(look).done().await?
    }

    /// The directories that the guest finds, with their paths.
    pub(crate) async fn preopens(&mut self) -> wasmtime::Result<Vec<(Fd, String)>> {
        let question = asked(self.files.seen.as_ref(), None, |_| "which folders there are".to_owned());
        let preopens = self.files.open().await?;
        let mut directories = Vec::with_capacity(preopens.len());
        for preopen in preopens {
            let fd = self.push(Descriptor::Dir(preopen.dir), preopen.place)?;
            if let Some(seen) = &mut self.files.seen {
                seen.opened(fd.rep(), preopen.guest_path.clone());
            }
            directories.push((fd, preopen.guest_path));
        }
        question.answer(|| {
            let paths: Vec<&str> = directories.iter().map(|(_, path)| &**path).collect();
            Outcome::Done(if paths.is_empty() {
                "none".to_owned()
            } else {
                paths.join(", ")
            })
        });
        Ok(directories)
    }

    async fn check_touchable(&mut self, fd: &Fd, flags: PathFlags, path: &str) -> FsResult<()> {
        let (target, path) = (self.writable(fd)?, path.to_owned());
        let follow = flags.contains(PathFlags::SYMLINK_FOLLOW);
        self.change_in(target, move |tree, dir| tree.check_touchable(dir, &path, follow))
            .await
    }
}

impl types::Host for FilesView<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.wasi.convert_error_code(error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        if let Some(Refused(code)) = self.wasi.table.get(&error)?.downcast_ref() {
            return Ok(Some(*code));
        }
        self.wasi.filesystem_error_code(error)
    }
}

/// What is asked of `open-at`, as the tree takes it.
fn open_how(path_flags: PathFlags, open: OpenFlags, flags: DescriptorFlags) -> FsResult<Open> {
    let sync = DescriptorFlags::FILE_INTEGRITY_SYNC
        | DescriptorFlags::DATA_INTEGRITY_SYNC
        | DescriptorFlags::REQUESTED_WRITE_SYNC;
    if flags.intersects(sync) {
        return Err(ErrorCode::Unsupported.into());
    }
    let directory = open.contains(OpenFlags::DIRECTORY);
    if directory && open.intersects(OpenFlags::CREATE | OpenFlags::EXCLUSIVE | OpenFlags::TRUNCATE) {
        return Err(ErrorCode::Invalid.into());
    }
    let create = match (open.contains(OpenFlags::CREATE), open.contains(OpenFlags::EXCLUSIVE)) {
        (false, _) => Create::Never,
        (true, false) => Create::IfAbsent,
        (true, true) => Create::Always,
    };
    Ok(Open {
        read: flags.contains(DescriptorFlags::READ),
        write: flags.contains(DescriptorFlags::WRITE),
        create,
        truncate: open.contains(OpenFlags::TRUNCATE),
        follow: path_flags.contains(PathFlags::SYMLINK_FOLLOW),
        directory,
    })
}

/// What is asked of `open-at`, in a word or two.
fn opening(open: OpenFlags, flags: DescriptorFlags) -> &'static str {
    let written = flags.contains(DescriptorFlags::WRITE) || open.contains(OpenFlags::TRUNCATE);
    match (open.contains(OpenFlags::CREATE), written) {
        (true, _) => "open or create",
        (false, true) => "open to write",
        (false, false) => "open",
    }
}

fn open_mode(how: &Open) -> OpenMode {
    let mut mode = OpenMode::empty();
    if how.read || !how.write {
        mode |= OpenMode::READ;
    }
    if how.write || how.truncate || how.create != Create::Never {
        mode |= OpenMode::WRITE;
    }
    mode
}

impl HostDescriptor for FilesView<'_> {
    async fn set_size(&mut self, fd: Fd, size: u64) -> FsResult<()> {
        let (file, home) = self.writable_file(&fd)?;
        self.change(home, move || file.set_len(size)).await
    }

    async fn write(&mut self, fd: Fd, buffer: Vec<u8>, offset: u64) -> FsResult<u64> {
        let (file, home) = self.writable_file(&fd)?;
        let written = self.change(home, move || file.write_at(offset, &buffer)).await?;
        Ok(written as u64)
    }

    fn write_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynOutputStream>> {
        self.stream(&fd, Position::At(offset))
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        self.stream(&fd, Position::End)
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let question = self.question(&fd, "create", &path);
        let result = async {
            check_length(&path)?;
            self.unrestricted(&fd)?;
            let target = self.writable(&fd)?;
            self.change_in(target, move |tree, dir| tree.create_dir(dir, &path))
                .await
        };
        answered(question, result.await)
    }

    async fn open_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        let question = self.question(&fd, opening(open_flags, flags), &path);
        let at = self.files.seen.as_ref().map(|seen| seen.path(fd.rep(), &path));
        let result = async {
            self.reach(&fd, &path)?;
            let how = open_how(self.follow(&fd, path_flags)?, open_flags, flags)?;
            let target = self.dir(&fd)?;
            let mode = open_mode(&how);
            let perms = target.dir.perms;
            if perms == FsPerms::ReadOnly && mode.contains(OpenMode::WRITE) {
                return Err(self.files.not_to_be_changed());
            }
            let mut place = Place {
                names: None,
                file: None,
                ..target.place.clone()
            };
            let opened = self
                .change_in(target, move |tree, dir| tree.open_at(dir, &path, &how))
                .await?;
            match opened {
                Opened::Directory(dir) => Ok(self.push(Descriptor::Dir(Dir::new(dir, perms, mode, IN_PLACE)), place)?),
                Opened::File(file) => {
                    let (file, wasi) = file.wrapped(|handle| {
                        let file = File::new(handle, perms, mode, IN_PLACE);
                        (Arc::clone(&file.file), file)
                    })?;
                    place.file = Some(file);
                    Ok(self.push(Descriptor::File(wasi), place)?)
                }
            }
        };
        let opened = answered(question, result.await)?;
        if let (Some(seen), Some(at)) = (&mut self.files.seen, at) {
            seen.opened(opened.rep(), at);
        }
        Ok(opened)
    }

    async fn symlink_at(&mut self, fd: Fd, old_path: String, new_path: String) -> FsResult<()> {
        let question = self.question(&fd, "link", &new_path);
        let result = async {
            check_length(&old_path)?;
            check_length(&new_path)?;
            self.unrestricted(&fd)?;
            let target = self.writable(&fd)?;
            self.change_in(target, move |tree, dir| tree.symlink(dir, &old_path, &new_path))
                .await
        };
        answered(question, result.await)
    }

    // THREAT[T-box-prefix-escape]: a second name for a file would pass every rule about the first.
    async fn link_at(&mut self, fd: Fd, _: PathFlags, path: String, _: Fd, _: String) -> FsResult<()> {
        let question = self.question(&fd, "link to", &path);
        let refused = self.dir(&fd).and(Err(ErrorCode::NotPermitted.into()));
        answered(question, refused)
    }

    async fn rename_at(&mut self, fd: Fd, old_path: String, new_fd: Fd, new_path: String) -> FsResult<()> {
        let question = asked(self.files.seen.as_ref(), Some(fd.rep()), |seen| {
            let (from, to) = (seen.path(fd.rep(), &old_path), seen.path(new_fd.rep(), &new_path));
            format!("rename {from} to {to}")
        });
        let result = async {
            self.reach(&fd, &old_path)?;
            self.reach(&new_fd, &new_path)?;
            let (from, to) = (self.writable(&fd)?, self.writable(&new_fd)?);
            if from.place.home != to.place.home {
                return Err(ErrorCode::CrossDevice.into());
            }
            self.change_in(from, move |tree, dir| {
                tree.rename(dir, &old_path, &to.handle()?, &new_path)
            })
            .await
        };
        answered(question, result.await)
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let question = self.question(&fd, "remove", &path);
        let result = async {
            self.reach(&fd, &path)?;
            let target = self.writable(&fd)?;
            self.change_in(target, move |tree, dir| tree.remove_dir(dir, &path))
                .await
        };
        answered(question, result.await)
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let question = self.question(&fd, "remove", &path);
        let result = async {
            self.reach(&fd, &path)?;
            let target = self.writable(&fd)?;
            self.change_in(target, move |tree, dir| tree.remove_file(dir, &path))
                .await
        };
        answered(question, result.await)
    }

    async fn set_times(
        &mut self,
        fd: Fd,
        access: types::NewTimestamp,
        modification: types::NewTimestamp,
    ) -> FsResult<()> {
        let place = self.place(&fd)?;
        if place.file.as_ref().is_some_and(OpenFile::is_read_only) {
            return Err(self.files.refusals(place.home).code(FileError::ReadOnly));
        }
        self.look(&fd, async move |mut wasi, fd| {
            wasi.set_times(fd, access, modification).await
        })
        .await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
        access: types::NewTimestamp,
        modification: types::NewTimestamp,
    ) -> FsResult<()> {
        let question = self.question(&fd, "set times of", &path);
        let result = async {
            self.reach(&fd, &path)?;
            let flags = self.follow(&fd, flags)?;
            self.check_touchable(&fd, flags, &path).await?;
            self.look(&fd, async move |mut wasi, fd| {
                wasi.set_times_at(fd, flags, path, access, modification).await
            })
            .await
        };
        answered(question, result.await)
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        self.files.descriptors.remove(&fd.rep());
        if let Some(seen) = &mut self.files.seen {
            seen.closed(fd.rep());
        }
        HostDescriptor::drop(&mut self.wasi, fd)
    }

    fn read_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynInputStream>> {
        let Some(file) = self.place(&fd)?.file.clone() else {
            return Err(ErrorCode::IsDirectory.into());
        };
        let stream: DynInputStream = Box::new(Reading::new(file, offset, self.files.worker().clone()));
        Ok(self.wasi.table.push(stream)?)
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Entries> {
        let question = self.question(&fd, "list", ".");
        let result = async {
            self.unrestricted(&fd)?;
            let target = self.dir(&fd)?;
            let begin = move || Listing::begin(&target.handle()?);
            let listing = self.files.worker().start(begin).done().await??;
            Ok(Resource::new_own(self.wasi.table.push(listing)?.rep()))
        };
        answered(question, result.await)
    }

    // From here on: passed on, as far as the descriptor reaches.

    async fn advise(&mut self, fd: Fd, offset: u64, len: u64, advice: types::Advice) -> FsResult<()> {
        self.look(&fd, async move |mut wasi, fd| {
            wasi.advise(fd, offset, len, advice).await
        })
        .await
    }

    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        self.look(&fd, async |mut wasi, fd| wasi.sync_data(fd).await).await
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        self.look(&fd, async |mut wasi, fd| wasi.sync(fd).await).await
    }

    async fn get_flags(&mut self, fd: Fd) -> FsResult<DescriptorFlags> {
        self.look(&fd, async |mut wasi, fd| wasi.get_flags(fd).await).await
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<types::DescriptorType> {
        self.look(&fd, async |mut wasi, fd| wasi.get_type(fd).await).await
    }

    async fn read(&mut self, fd: Fd, len: u64, offset: u64) -> FsResult<(Vec<u8>, bool)> {
        self.look(&fd, async move |mut wasi, fd| wasi.read(fd, len, offset).await)
            .await
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<types::DescriptorStat> {
        self.look(&fd, async |mut wasi, fd| wasi.stat(fd).await).await
    }

    async fn stat_at(&mut self, fd: Fd, flags: PathFlags, path: String) -> FsResult<types::DescriptorStat> {
        let question = self.question(&fd, "look at", &path);
        let result = async {
            self.reach(&fd, &path)?;
            let flags = self.follow(&fd, flags)?;
            self.look(&fd, async move |mut wasi, fd| wasi.stat_at(fd, flags, path).await)
                .await
        };
        answered(question, result.await)
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        let question = self.question(&fd, "read link", &path);
        let result = async {
            self.reach(&fd, &path)?;
            self.look(&fd, async move |mut wasi, fd| wasi.readlink_at(fd, path).await)
                .await
        };
        answered(question, result.await)
    }

    async fn is_same_object(&mut self, a: Fd, b: Fd) -> wasmtime::Result<bool> {
        let other = self.wasi.table.get(&b)?.clone();
        let same = self.look(&a, async move |mut wasi, a| {
            let b = wasi.table.push(other)?;
            wasi.is_same_object(a, b).await.map_err(FsError::trap)
        });
        same.await
            .map_err(|error| error.downcast().map_or_else(|trap| trap, Into::into))
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<types::MetadataHashValue> {
        self.look(&fd, async |mut wasi, fd| wasi.metadata_hash(fd).await).await
    }

    async fn metadata_hash_at(&mut self, fd: Fd, flags: PathFlags, path: String) -> FsResult<types::MetadataHashValue> {
        let question = self.question(&fd, "look at", &path);
        let result = async {
            self.reach(&fd, &path)?;
            let flags = self.follow(&fd, flags)?;
            self.look(&fd, async move |mut wasi, fd| {
                wasi.metadata_hash_at(fd, flags, path).await
            })
            .await
        };
        answered(question, result.await)
    }
}

/// A stream of entries is a [`Listing`] in the table, under the name that the bindings have for it.
fn listing(stream: &Entries) -> Resource<Listing> {
    Resource::new_own(stream.rep())
}

impl HostDirectoryEntryStream for FilesView<'_> {
    async fn read_directory_entry(&mut self, stream: Entries) -> FsResult<Option<types::DirectoryEntry>> {
        let stream = listing(&stream);
        let begun = self.wasi.table.get_mut(&stream)?;
        if let Some(entry) = begun.next() {
            return Ok(Some(entry?));
        }
        let Some(rest) = begun.take_rest() else {
            return Ok(None);
        };
        let read_on = move || Listing::read_on(rest);
        let mut read = self.files.worker().start(read_on).done().await?;
        let entry = read.next();
        *self.wasi.table.get_mut(&stream)? = read;
        Ok(entry.transpose()?)
    }

    fn drop(&mut self, stream: Entries) -> wasmtime::Result<()> {
        self.wasi.table.delete(listing(&stream))?;
        Ok(())
    }
}
