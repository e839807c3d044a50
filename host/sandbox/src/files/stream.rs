//! Streams into and out of files.

use super::{
    Noted, Refusals,
    work::{Blocking, Worker},
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use fumehood_files::{FileError, OpenFile};
use std::{io, os::unix::fs::FileExt as _};
use wasmtime_wasi::p2::{
    InputStream, OutputStream, Pollable, StreamError, StreamResult, bindings::filesystem::types::ErrorCode,
};

/// How much a stream takes at once.
const CAPACITY: usize = 64 << 10;

/// A refusal that `filesystem-error-code` turns back into its code.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
pub(super) struct Refused(pub(super) ErrorCode);

#[derive(Debug, Clone, Copy)]
pub(super) enum Position {
    At(u64),
    End,
}

/// A stream into a file: one write at a time, each charged before it happens.
pub(super) struct Writing {
    file: OpenFile,
    position: Position,
    refusals: Refusals,
    worker: Worker,
    state: WriteState,
}

enum WriteState {
    Ready,
    Waiting(Blocking<Result<usize, FileError>>),
    Failed(FileError),
    Closed,
}

impl Writing {
    pub(super) fn new(file: OpenFile, position: Position, refusals: Refusals, worker: Worker) -> Self {
        Self {
            file,
            position,
            refusals,
            worker,
            state: WriteState::Ready,
        }
    }

    /// Closes the stream if it failed.
    fn check(&mut self) -> Result<(), StreamError> {
        match std::mem::replace(&mut self.state, WriteState::Closed) {
            WriteState::Closed => Err(StreamError::Closed),
            WriteState::Failed(error) => Err(StreamError::LastOperationFailed(match self.refusals.note(error) {
                Noted::Code(code) => Refused(code).into(),
                Noted::Io(error) => error.into(),
            })),
            state => {
                self.state = state;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl OutputStream for Writing {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.check()?;
        if matches!(self.state, WriteState::Waiting(_)) {
            return Err(StreamError::trap(
                "write not permitted: check-write was not called first",
            ));
        }
        let (file, position) = (self.file.clone(), self.position);
        self.state = WriteState::Waiting(self.worker.start(move || match position {
            Position::At(offset) => file.write_at(offset, &bytes),
            Position::End => file.append(&bytes),
        }));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        // Nothing is held back.
        self.check()
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        self.check()?;
        Ok(match self.state {
            WriteState::Waiting(_) => 0,
            _ => CAPACITY,
        })
    }

    async fn cancel(&mut self) {
        // What has begun is waited for, so that a guest cannot pile up writes.
        if let WriteState::Waiting(mut write) = std::mem::replace(&mut self.state, WriteState::Closed) {
            let _ = write.done().await;
        }
    }
}

#[async_trait]
impl Pollable for Writing {
    async fn ready(&mut self) {
        let WriteState::Waiting(write) = &mut self.state else {
            return;
        };
        let done = write.done().await;
        self.state = match done.map_err(FileError::Io).and_then(|written| written) {
            Ok(n) => {
                if let Position::At(offset) = &mut self.position {
                    *offset = offset.saturating_add(n as u64);
                }
                WriteState::Ready
            }
            Err(error) => WriteState::Failed(error),
        };
    }
}

/// A stream out of a file: one read at a time. Keeps the file's account open as long as the file is.
pub(super) struct Reading {
    file: OpenFile,
    position: u64,
    worker: Worker,
    state: ReadState,
}

enum ReadState {
    Idle,
    Waiting(Blocking<io::Result<Bytes>>),
    Ready(Bytes),
    Failed(io::Error),
    Closed,
}

/// What is read when a guest waits without saying for how much.
const UNASKED: usize = 4096;

impl Reading {
    pub(super) fn new(file: OpenFile, position: u64, worker: Worker) -> Self {
        Self {
            file,
            position,
            worker,
            state: ReadState::Idle,
        }
    }

    fn start(&mut self, size: usize) {
        let (file, position) = (self.file.clone(), self.position);
        let read = self.worker.start(move || read_at(&file, position, size.min(CAPACITY)));
        self.state = ReadState::Waiting(read);
    }

    async fn wait(&mut self) {
        if let ReadState::Waiting(read) = &mut self.state {
            self.state = match read.done().await.and_then(|read| read) {
                Ok(bytes) if bytes.is_empty() => ReadState::Closed,
                Ok(bytes) => ReadState::Ready(bytes),
                Err(error) => ReadState::Failed(error),
            };
        }
    }
}

/// Up to `size` bytes; none at the end.
fn read_at(file: &OpenFile, position: u64, size: usize) -> io::Result<Bytes> {
    let mut bytes = BytesMut::zeroed(size);
    loop {
        match file.handle().read_at(&mut bytes, position) {
            Ok(n) => {
                bytes.truncate(n);
                return Ok(bytes.freeze());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[async_trait]
impl InputStream for Reading {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        match std::mem::replace(&mut self.state, ReadState::Closed) {
            ReadState::Idle if size > 0 => self.start(size),
            ReadState::Ready(mut bytes) => {
                let asked = bytes.split_to(size.min(bytes.len()));
                self.position = self.position.saturating_add(asked.len() as u64);
                self.state = if bytes.is_empty() {
                    ReadState::Idle
                } else {
                    ReadState::Ready(bytes)
                };
                return Ok(asked);
            }
            ReadState::Failed(error) => return Err(StreamError::LastOperationFailed(error.into())),
            ReadState::Closed => return Err(StreamError::Closed),
            waiting => self.state = waiting,
        }
        Ok(Bytes::new())
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        if matches!(self.state, ReadState::Idle) && size > 0 {
            self.start(size);
        }
        self.wait().await;
        self.read(size)
    }

    async fn cancel(&mut self) {
        // What has begun is waited for, so that a guest cannot pile up reads.
        self.wait().await;
        self.state = ReadState::Closed;
    }
}

#[async_trait]
impl Pollable for Reading {
    async fn ready(&mut self) {
        if matches!(self.state, ReadState::Idle) {
            self.start(UNASKED);
        }
        self.wait().await;
    }
}
