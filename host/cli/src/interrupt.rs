//! Ctrl-C while a turn runs: the first is a wish, which whoever shows the turn fulfils; the second ends the process at once,
//! whatever it waits for.
//!
//! A host of this process is ended with it, as by a crash: its journal is whole, and the next start goes on from there.

use crate::out::tell;
use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a command that was left.
const LEFT: i32 = 1;

/// Begins to listen, to the end of the process. The token is cancelled by the first Ctrl-C.
pub(crate) fn listen() -> anyhow::Result<CancellationToken> {
    let signals = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let first = CancellationToken::new();
    tokio::spawn(obey(signals, first.clone()));
    Ok(first)
}

async fn obey(mut signals: Signal, first: CancellationToken) {
    signals.recv().await;
    first.cancel();
    signals.recv().await;
    // From a line of its own: the terminal may be in the midst of one.
    tell("\nleft; `fumehood turn show` tells how the turn ended\n");
    std::process::exit(LEFT);
}
