//! `wasi:filesystem` on top of wasmtime-wasi's own implementation: the directories are opened late,
//! and what happens in `/tmp` is charged to its quota. Everything else is passed on.

use super::{
    FilesView, Reach, push,
    tmp::{ENTRY, Quota},
};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use wasmtime::component::Resource;
use wasmtime_wasi::{
    filesystem::Descriptor,
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult, OutputStream, Pollable, StreamError,
        bindings::filesystem::{
            preopens,
            types::{self, ErrorCode, HostDescriptor, HostDirectoryEntryStream, OpenFlags, PathFlags},
        },
    },
};

type Fd = Resource<Descriptor>;
type Entries = Resource<types::DirectoryEntryStream>;

impl FilesView<'_> {
    /// The quota that writing to `fd` is charged to, if it has one.
    fn quota(&mut self, fd: &Fd) -> Option<Arc<Quota>> {
        let tmp = self.files.tmp()?;
        tmp.contains(fd.rep()).then(|| Arc::clone(tmp.quota()))
    }

    /// Whether `fd` reaches `path`.
    // THREAT[T-box-escape-files]
    fn reach(&self, fd: &Fd, path: &str) -> FsResult<()> {
        match self.files.names(fd.rep()) {
            Some(names) if !names.iter().any(|name| name == path) => Err(ErrorCode::Access.into()),
            _ => Ok(()),
        }
    }

    /// Whether `fd` reaches everything below it.
    fn unrestricted(&self, fd: &Fd) -> FsResult<()> {
        match self.files.names(fd.rep()) {
            Some(_) => Err(ErrorCode::Access.into()),
            None => Ok(()),
        }
    }

    /// Below a restricted descriptor no link is followed: it may lead to what is not granted.
    fn follow(&self, fd: &Fd, flags: PathFlags) -> PathFlags {
        match self.files.names(fd.rep()) {
            Some(_) => PathFlags::empty(),
            None => flags,
        }
    }

    fn charge(&mut self, fd: &Fd, bytes: u64) -> FsResult<()> {
        match self.quota(fd) {
            Some(quota) if !quota.charge(bytes) => Err(ErrorCode::InsufficientSpace.into()),
            _ => Ok(()),
        }
    }

    /// `/workspace` and `/tmp` are two file systems: nothing is linked or moved between them, so
    /// nothing gets around the quota.
    fn same_file_system(&mut self, a: &Fd, b: &Fd) -> FsResult<()> {
        if self.quota(a).is_some() == self.quota(b).is_some() {
            Ok(())
        } else {
            Err(ErrorCode::CrossDevice.into())
        }
    }

    fn charged(&mut self, fd: &Fd, stream: Resource<DynOutputStream>) -> FsResult<Resource<DynOutputStream>> {
        let Some(quota) = self.quota(fd) else {
            return Ok(stream);
        };
        let stream = self.wasi.table.delete(stream)?;
        let charged: DynOutputStream = Box::new(Charged { stream, quota });
        Ok(self.wasi.table.push(charged)?)
    }
}

impl preopens::Host for FilesView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Fd, String)>> {
        let opened = self.files.open()?;
        let mut directories = Vec::with_capacity(opened.preopens.len() + 1);
        for preopen in &opened.preopens {
            let fd = push(self.wasi.table, preopen.dir.clone())?;
            if let Reach::Names(names) = &preopen.reach {
                opened.restricted.insert(fd.rep(), Arc::clone(names));
            }
            directories.push((fd, preopen.guest_path.clone()));
        }
        if let Some(tmp) = &mut opened.tmp {
            let fd = push(self.wasi.table, tmp.root())?;
            tmp.add(fd.rep());
            directories.push((fd, "/tmp".to_owned()));
        }
        Ok(directories)
    }
}

impl types::Host for FilesView<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.wasi.convert_error_code(error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        if let Ok(error) = self.wasi.table.get(&error)
            && error.is::<NoSpace>()
        {
            return Ok(Some(ErrorCode::InsufficientSpace));
        }
        self.wasi.filesystem_error_code(error)
    }
}

impl HostDescriptor for FilesView<'_> {
    async fn set_size(&mut self, fd: Fd, size: u64) -> FsResult<()> {
        // Shrinking is charged as well; the next count puts it right.
        self.charge(&fd, size)?;
        self.wasi.set_size(fd, size).await
    }

    async fn write(&mut self, fd: Fd, buffer: Vec<u8>, offset: u64) -> FsResult<u64> {
        self.charge(&fd, buffer.len() as u64)?;
        self.wasi.write(fd, buffer, offset).await
    }

    fn write_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynOutputStream>> {
        let stream = self.wasi.write_via_stream(Resource::new_borrow(fd.rep()), offset)?;
        self.charged(&fd, stream)
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        let stream = self.wasi.append_via_stream(Resource::new_borrow(fd.rep()))?;
        self.charged(&fd, stream)
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.unrestricted(&fd)?;
        self.charge(&fd, ENTRY)?;
        self.wasi.create_directory_at(fd, path).await
    }

    async fn open_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: types::DescriptorFlags,
    ) -> FsResult<Fd> {
        self.reach(&fd, &path)?;
        let path_flags = self.follow(&fd, path_flags);
        if open_flags.contains(OpenFlags::CREATE) {
            self.charge(&fd, ENTRY)?;
        }
        let in_tmp = self.quota(&fd).is_some();
        let opened = self.wasi.open_at(fd, path_flags, path, open_flags, flags).await?;
        if in_tmp && let Some(tmp) = self.files.tmp() {
            tmp.add(opened.rep());
        }
        Ok(opened)
    }

    async fn symlink_at(&mut self, fd: Fd, old_path: String, new_path: String) -> FsResult<()> {
        self.unrestricted(&fd)?;
        self.charge(&fd, ENTRY + old_path.len() as u64)?;
        self.wasi.symlink_at(fd, old_path, new_path).await
    }

    async fn link_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        old_path: String,
        new_fd: Fd,
        new_path: String,
    ) -> FsResult<()> {
        self.unrestricted(&fd)?;
        self.unrestricted(&new_fd)?;
        self.same_file_system(&fd, &new_fd)?;
        self.charge(&new_fd, ENTRY)?;
        self.wasi.link_at(fd, flags, old_path, new_fd, new_path).await
    }

    async fn rename_at(&mut self, fd: Fd, old_path: String, new_fd: Fd, new_path: String) -> FsResult<()> {
        self.reach(&fd, &old_path)?;
        self.reach(&new_fd, &new_path)?;
        self.same_file_system(&fd, &new_fd)?;
        self.wasi.rename_at(fd, old_path, new_fd, new_path).await
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        self.files.forget(fd.rep());
        HostDescriptor::drop(&mut self.wasi, fd)
    }

    // From here on: passed on, as far as the descriptor reaches.

    fn read_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynInputStream>> {
        self.wasi.read_via_stream(fd, offset)
    }

    async fn advise(&mut self, fd: Fd, offset: u64, len: u64, advice: types::Advice) -> FsResult<()> {
        self.wasi.advise(fd, offset, len, advice).await
    }

    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        self.wasi.sync_data(fd).await
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        self.wasi.sync(fd).await
    }

    async fn get_flags(&mut self, fd: Fd) -> FsResult<types::DescriptorFlags> {
        self.wasi.get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<types::DescriptorType> {
        self.wasi.get_type(fd).await
    }

    async fn set_times(
        &mut self,
        fd: Fd,
        access: types::NewTimestamp,
        modification: types::NewTimestamp,
    ) -> FsResult<()> {
        self.wasi.set_times(fd, access, modification).await
    }

    async fn read(&mut self, fd: Fd, len: u64, offset: u64) -> FsResult<(Vec<u8>, bool)> {
        self.wasi.read(fd, len, offset).await
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Entries> {
        self.unrestricted(&fd)?;
        self.wasi.read_directory(fd).await
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<types::DescriptorStat> {
        self.wasi.stat(fd).await
    }

    async fn stat_at(&mut self, fd: Fd, flags: PathFlags, path: String) -> FsResult<types::DescriptorStat> {
        self.reach(&fd, &path)?;
        let flags = self.follow(&fd, flags);
        self.wasi.stat_at(fd, flags, path).await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
        access: types::NewTimestamp,
        modification: types::NewTimestamp,
    ) -> FsResult<()> {
        self.reach(&fd, &path)?;
        let flags = self.follow(&fd, flags);
        self.wasi.set_times_at(fd, flags, path, access, modification).await
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        self.reach(&fd, &path)?;
        self.wasi.readlink_at(fd, path).await
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.reach(&fd, &path)?;
        self.wasi.remove_directory_at(fd, path).await
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.reach(&fd, &path)?;
        self.wasi.unlink_file_at(fd, path).await
    }

    async fn is_same_object(&mut self, a: Fd, b: Fd) -> wasmtime::Result<bool> {
        self.wasi.is_same_object(a, b).await
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<types::MetadataHashValue> {
        self.wasi.metadata_hash(fd).await
    }

    async fn metadata_hash_at(&mut self, fd: Fd, flags: PathFlags, path: String) -> FsResult<types::MetadataHashValue> {
        self.reach(&fd, &path)?;
        let flags = self.follow(&fd, flags);
        self.wasi.metadata_hash_at(fd, flags, path).await
    }
}

impl HostDirectoryEntryStream for FilesView<'_> {
    async fn read_directory_entry(&mut self, stream: Entries) -> FsResult<Option<types::DirectoryEntry>> {
        self.wasi.read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Entries) -> wasmtime::Result<()> {
        HostDirectoryEntryStream::drop(&mut self.wasi, stream)
    }
}

/// `/tmp` is full.
#[derive(Debug, thiserror::Error)]
#[error("no space left in /tmp; raise `tmp` in `[limits]`")]
struct NoSpace;

/// A stream into a file below `/tmp`.
struct Charged {
    stream: DynOutputStream,
    quota: Arc<Quota>,
}

impl Charged {
    fn charge(&self, bytes: usize) -> Result<(), StreamError> {
        if self.quota.charge(bytes as u64) {
            Ok(())
        } else {
            Err(StreamError::LastOperationFailed(NoSpace.into()))
        }
    }
}

#[async_trait]
impl OutputStream for Charged {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.charge(bytes.len())?;
        self.stream.write(bytes)
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.charge(bytes.len())?;
        self.stream.blocking_write_and_flush(bytes).await
    }

    fn write_zeroes(&mut self, len: usize) -> Result<(), StreamError> {
        self.charge(len)?;
        self.stream.write_zeroes(len)
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        self.stream.check_write()
    }

    async fn write_ready(&mut self) -> Result<usize, StreamError> {
        self.stream.write_ready().await
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

#[async_trait]
impl Pollable for Charged {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}
