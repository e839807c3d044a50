//! Streams into and out of files.

use super::{Noted, Refusals};
use async_trait::async_trait;
use bytes::Bytes;
use fumehood_files::{FileError, OpenFile};
use tokio::task::JoinHandle;
use wasmtime_wasi::p2::{
    DynInputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
    bindings::filesystem::types::ErrorCode,
};

/// How much a stream takes at once.
const CAPACITY: usize = 64 << 10;

/// Something that runs where blocking is allowed. Dropped before it began, it never begins.
pub(super) struct Blocking<T>(JoinHandle<T>);

impl<T: Send + 'static> Blocking<T> {
    pub(super) fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(tokio::task::spawn_blocking(work))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the host is shutting down.
    pub(super) async fn done(&mut self) -> std::io::Result<T> {
        (&mut self.0)
            .await
            .map_err(|_| std::io::Error::other("the host is shutting down"))
    }
}

impl<T> Drop for Blocking<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

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
    state: State,
}

enum State {
    Ready,
    Waiting(Blocking<Result<usize, FileError>>),
    Failed(FileError),
    Closed,
}

impl Writing {
    pub(super) fn new(file: OpenFile, position: Position, refusals: Refusals) -> Self {
        Self {
            file,
            position,
            refusals,
            state: State::Ready,
        }
    }

    /// Closes the stream if it failed.
    fn check(&mut self) -> Result<(), StreamError> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed => Err(StreamError::Closed),
            State::Failed(error) => Err(StreamError::LastOperationFailed(match self.refusals.note(error) {
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
        if matches!(self.state, State::Waiting(_)) {
            return Err(StreamError::trap(
                "write not permitted: check-write was not called first",
            ));
        }
        let (file, position) = (self.file.clone(), self.position);
        self.state = State::Waiting(Blocking::start(move || match position {
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
            State::Waiting(_) => 0,
            _ => CAPACITY,
        })
    }

    async fn cancel(&mut self) {
        // What has begun is waited for, so that a guest cannot pile up writes.
        if let State::Waiting(mut write) = std::mem::replace(&mut self.state, State::Closed) {
            let _ = write.done().await;
        }
    }
}

#[async_trait]
impl Pollable for Writing {
    async fn ready(&mut self) {
        let State::Waiting(write) = &mut self.state else {
            return;
        };
        let done = write.done().await;
        self.state = match done.map_err(FileError::Io).and_then(|written| written) {
            Ok(n) => {
                if let Position::At(offset) = &mut self.position {
                    *offset = offset.saturating_add(n as u64);
                }
                State::Ready
            }
            Err(error) => State::Failed(error),
        };
    }
}

/// A stream out of a file. Keeps the file's account open as long as the file is.
pub(super) struct Reading {
    // Dropped before the handle that the stream has.
    pub(super) _file: OpenFile,
    pub(super) stream: DynInputStream,
}

#[async_trait]
impl InputStream for Reading {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.stream.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.stream.blocking_read(size).await
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

#[async_trait]
impl Pollable for Reading {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}
