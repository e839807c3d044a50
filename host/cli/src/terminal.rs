//! What a person types at the terminal, line by line, where a question is asked while other things happen.
//!
//! Nothing is read before a line is waited for, so a wait that is given up takes no line from the next one, and a line that was
//! typed before a question can be told from its answer.

use crate::out::tell;
use anyhow::{Context as _, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::{QueueSelector, tcflush},
};
use std::{
    io::{Stdin, stdin},
    time::Duration,
};

/// The most of one line that a terminal hands on, in bytes: what is typed or pasted after it is lost.
pub(crate) const LONGEST_LINE: usize = 4095;

/// The most that is read until a line ends, in bytes: a terminal that does not edit lines has no such bound.
const LONGEST: usize = 1 << 20;

/// Between two looks whether there is input: shorter than a person notices.
const LOOK: Duration = Duration::from_millis(30);

/// Forgets what was typed and not read yet.
pub(crate) fn forget_typed() -> anyhow::Result<()> {
    tcflush(stdin(), QueueSelector::IFlush).context("cannot read the terminal")
}

/// The next line, after this prompt; `None` at the end of what is typed.
///
/// Cancel-safe, but for the part of a line that was ended with Ctrl-D.
pub(crate) async fn line(prompt: &str) -> anyhow::Result<Option<String>> {
    tell(prompt);
    next_line().await.context("cannot read the terminal")
}

async fn next_line() -> anyhow::Result<Option<String>> {
    let terminal = stdin();
    let mut line = Vec::new();
    loop {
        // The terminal is the parent's as well, so it can't be told not to block; and a thread that reads could not be told to stop.
        while !has_input(&terminal)? {
            tokio::time::sleep(LOOK).await;
        }
        let mut part = [0; LONGEST_LINE + 1];
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&terminal, &mut part))?;
        line.extend(part.iter().take(read));
        if read == 0 && line.is_empty() {
            return Ok(None);
        }
        if read == 0 || line.ends_with(b"\n") {
            return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
        }
        if line.len() > LONGEST {
            bail!("a line is longer than {LONGEST} bytes");
        }
    }
}

/// Whether a read would return at once.
fn has_input(terminal: &Stdin) -> rustix::io::Result<bool> {
    let mut look = [PollFd::new(terminal, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut look, Some(&Timespec::default()))).map(|ready| ready > 0)
}
