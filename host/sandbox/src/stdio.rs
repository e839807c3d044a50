//! What a call says while it runs: stdout, stderr, progress and named channels, under one limit of
//! bytes and one of pieces; and what it was refused.
//!
//! Progress beyond its rate is dropped and counted: a loop that reports each round should not fail
//! for it, and nobody reads it.

use crate::{
    call::Denial,
    meter::LimitReached,
    ports::{Channel, Observer},
};
use async_trait::async_trait;
use bytes::Bytes;
use fumehood_policy::{limits::Limits, quantity::Rate};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
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

struct Said {
    bytes_left: u64,
    lines_left: u32,
    progress: Progress,
    stdout: Captured,
    stderr: Captured,
    denials: Vec<Denial>,
}

/// What becomes of a report of progress.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Passed,
    /// It came faster than this.
    Dropped(Rate),
}

/// How often progress was reported, in windows of the rate's span.
struct Progress {
    rate: Rate,
    window: Option<Instant>,
    left: u32,
    dropped: u64,
}

impl Progress {
    const fn new(rate: Rate) -> Self {
        Self {
            rate,
            window: None,
            left: 0,
            dropped: 0,
        }
    }

    /// Whether one more report passes.
    fn admit(&mut self, now: Instant) -> bool {
        let current = self
            .window
            .is_some_and(|start| now.duration_since(start) < self.rate.per().as_duration());
        if !current {
            self.window = Some(now);
            self.left = self.rate.count();
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => {
                self.dropped += 1;
                false
            }
        }
    }
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
    pub(crate) dropped_reports: u64,
}

impl CallLog {
    pub(crate) fn new(observer: Arc<dyn Observer>, limits: &Limits) -> Self {
        Self {
            observer,
            said: Mutex::new(Said {
                bytes_left: limits.stdout.bytes(),
                lines_left: limits.log_lines,
                progress: Progress::new(limits.progress),
                stdout: Captured::default(),
                stderr: Captured::default(),
                denials: Vec::new(),
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
        said.bytes_left = said.bytes_left.checked_sub(len as u64).ok_or(LimitReached::Output)?;
        Ok(())
    }

    /// Takes the lines of a piece, and one for a piece without any, from those that the call may still say.
    // THREAT[T-box-output]
    fn spend_lines(said: &mut Said, piece: &[u8]) -> Result<(), LimitReached> {
        let lines = piece.iter().filter(|byte| **byte == b'\n').count().max(1);
        let lines = u32::try_from(lines).unwrap_or(u32::MAX);
        said.lines_left = said.lines_left.checked_sub(lines).ok_or(LimitReached::LogLines)?;
        Ok(())
    }

    pub(crate) fn progress(&self, message: &str, fraction: Option<f32>) -> Result<Report, LimitReached> {
        {
            let mut said = self.said();
            // THREAT[T-box-output]: what is dropped costs the guest nothing but host calls.
            if !said.progress.admit(Instant::now()) {
                return Ok(Report::Dropped(said.progress.rate));
            }
            Self::spend(&mut said, message.len())?;
        }
        self.observer.progress(message, fraction);
        Ok(Report::Passed)
    }

    pub(crate) fn emit(&self, channel: &str, chunk: &str) -> Result<(), LimitReached> {
        {
            let mut said = self.said();
            Self::spend(&mut said, chunk.len())?;
            Self::spend_lines(&mut said, chunk.as_bytes())?;
        }
        self.observer.output(Channel::Named(channel), chunk);
        Ok(())
    }

    fn write(&self, stream: Stream, bytes: &[u8]) -> Result<(), LimitReached> {
        let new = {
            let mut said = self.said();
            Self::spend(&mut said, bytes.len())?;
            Self::spend_lines(&mut said, bytes)?;
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
        if said.denials.len() < MAX_DENIALS && !said.denials.contains(&denial) {
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
            dropped_reports: said.progress.dropped,
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
    const fn channel(self) -> Channel<'static> {
        match self {
            Self::Stdout => Channel::Stdout,
            Self::Stderr => Channel::Stderr,
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
    use fumehood_policy::quantity::ByteSize;

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

    fn log(limits: Limits) -> CallLog {
        CallLog::new(Arc::new(NoObserver), &limits)
    }

    #[test]
    fn stdout_stderr_and_channels_share_one_limit() {
        let log = log(Limits {
            stdout: ByteSize(10),
            ..Limits::default()
        });
        assert_eq!(log.write(Stream::Stdout, b"1234"), Ok(()));
        assert_eq!(log.write(Stream::Stderr, b"1234"), Ok(()));
        assert_eq!(log.emit("x", "123"), Err(LimitReached::Output));
        assert_eq!(log.progress("12", None), Ok(Report::Passed));
        assert_eq!(log.take().stdout, "1234");
    }

    #[test]
    fn lines_count_and_so_does_a_piece_without_one() {
        let log = log(Limits {
            log_lines: 5,
            ..Limits::default()
        });
        assert_eq!(log.write(Stream::Stdout, b"1\n2\n3\n"), Ok(()));
        assert_eq!(log.write(Stream::Stderr, b"4"), Ok(()));
        assert_eq!(log.emit("x", ""), Ok(()));
        assert_eq!(log.emit("x", ""), Err(LimitReached::LogLines));
    }

    #[test]
    fn progress_beyond_its_rate_is_dropped_until_the_next_window() {
        let mut progress = Progress::new(Rate::per_second(2));
        let start = Instant::now();
        let at = |millis| start + std::time::Duration::from_millis(millis);
        let admitted: Vec<bool> = [0, 0, 0, 999, 1000, 1001, 1002]
            .map(|millis| progress.admit(at(millis)))
            .into();
        assert_eq!(admitted, [true, true, false, false, true, true, false]);
        assert_eq!(progress.dropped, 3);
    }
}
