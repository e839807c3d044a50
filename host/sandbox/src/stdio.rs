//! What a call says while it runs: stdout, stderr, progress and named channels, under one limit; and
//! what it was refused.

use crate::{call::Denial, meter::LimitReached, ports::Observer};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError},
};

/// More refusals than this are not worth reading; the ledger has them all.
const MAX_DENIALS: usize = 16;

/// How much a stream takes at once; what a guest's libc writes at a time is less.
const WRITE_SIZE: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Shared by the streams, the HTTP hooks and the report of one call.
pub(crate) struct CallLog {
    observer: Arc<dyn Observer>,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    left: u64,
    stdout: Captured,
    stderr: Captured,
    denials: Vec<Denial>,
}

#[derive(Default)]
struct Captured {
    text: String,
    /// The beginning of a character whose end was not written yet.
    partial: Vec<u8>,
}

/// The end of a call: what it said.
pub(crate) struct Transcript {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) denials: Vec<Denial>,
}

impl CallLog {
    pub(crate) fn new(observer: Arc<dyn Observer>, limit: u64) -> Self {
        Self {
            observer,
            said: Mutex::new(Said {
                left: limit,
                ..Said::default()
            }),
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // Every change leaves it consistent.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `len` bytes from what the call may still say.
    // THREAT[T-box-output]
    fn spend(said: &mut Said, len: usize) -> Result<(), LimitReached> {
        said.left = said.left.checked_sub(len as u64).ok_or(LimitReached::Output)?;
        Ok(())
    }

    pub(crate) fn progress(&self, message: &str, fraction: Option<f32>) -> Result<(), LimitReached> {
        Self::spend(&mut self.said(), message.len())?;
        self.observer.progress(message, fraction);
        Ok(())
    }

    pub(crate) fn emit(&self, channel: &str, chunk: &str) -> Result<(), LimitReached> {
        Self::spend(&mut self.said(), chunk.len())?;
        self.observer.output(channel, chunk);
        Ok(())
    }

    fn write(&self, stream: Stream, bytes: &[u8]) -> Result<(), LimitReached> {
        let new = {
            let mut said = self.said();
            Self::spend(&mut said, bytes.len())?;
            let captured = match stream {
                Stream::Stdout => &mut said.stdout,
                Stream::Stderr => &mut said.stderr,
            };
            captured.append(bytes).to_owned()
        };
        if !new.is_empty() {
            self.observer.output(stream.channel(), &new);
        }
        Ok(())
    }

    pub(crate) fn deny(&self, denial: Denial) {
        let mut said = self.said();
        if said.denials.len() < MAX_DENIALS {
            said.denials.push(denial);
        }
    }

    /// What was said so far, moved out.
    pub(crate) fn take(&self) -> Transcript {
        let mut said = self.said();
        Transcript {
            stdout: std::mem::take(&mut said.stdout).finish(),
            stderr: std::mem::take(&mut said.stderr).finish(),
            denials: std::mem::take(&mut said.denials),
        }
    }
}

impl Captured {
    /// Appends what is complete and returns it; bytes that are no UTF-8 become U+FFFD.
    fn append(&mut self, bytes: &[u8]) -> &str {
        let start = self.text.len();
        let joined;
        let mut rest = if self.partial.is_empty() {
            bytes
        } else {
            let mut all = std::mem::take(&mut self.partial);
            all.extend_from_slice(bytes);
            joined = all;
            &joined
        };
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.text.push_str(text);
                    break;
                }
                Err(error) => {
                    let (valid, tail) = rest.split_at(error.valid_up_to());
                    self.text.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad) = error.error_len() else {
                        self.partial = tail.to_vec();
                        break;
                    };
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    rest = &tail[bad..];
                }
            }
        }
        &self.text[start..]
    }

    fn finish(mut self) -> String {
        if !self.partial.is_empty() {
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        self.text
    }
}

impl Stream {
    const fn channel(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One of the two, as WASI sees it.
#[derive(Clone)]
pub(crate) struct Output {
    pub(crate) log: Arc<CallLog>,
    pub(crate) stream: Stream,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// Only WASI 0.3 asks for it, which is not linked.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.log
            .write(self.stream, &bytes)
            .map_err(|limit| StreamError::Trap(limit.into()))
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(WRITE_SIZE)
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::NoObserver;

    #[test]
    fn a_character_written_in_two_pieces_arrives_whole() {
        let mut captured = Captured::default();
        let bytes = "né".as_bytes();
        assert_eq!(captured.append(&bytes[..2]), "n");
        assert_eq!(captured.append(&bytes[2..]), "é");
        assert_eq!(captured.finish(), "né");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let mut captured = Captured::default();
        captured.append(b"a\xffb\xc3");
        assert_eq!(captured.finish(), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn stdout_stderr_and_channels_share_one_limit() {
        let log = CallLog::new(Arc::new(NoObserver), 10);
        assert_eq!(log.write(Stream::Stdout, b"1234"), Ok(()));
        assert_eq!(log.write(Stream::Stderr, b"1234"), Ok(()));
        assert_eq!(log.emit("x", "123"), Err(LimitReached::Output));
        assert_eq!(log.progress("12", None), Ok(()));
        assert_eq!(log.take().stdout, "1234");
    }
}
