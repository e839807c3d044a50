//! Taking leave: nothing new begins, what is under way comes to the end of its step, and the rest is left where it is for the next
//! start of the host.

use super::Host;
use std::time::Duration;

impl Host {
    /// Takes no turns from now on and begins no step; what is under way may go on for `time` at most: a model's answer, and the calls
    /// that came with it. Then it closes: whoever waits for a turn is told that the host is shutting down.
    ///
    /// A turn that is left after a step is gone on with by the next start as if nothing had been. Of one that is cut off, the calls that
    /// ran are reported as interrupted. Dropped before its end, nothing is cut off, and nothing begins either.
    pub async fn drain(&self, time: Duration) {
        let inner = &self.inner;
        inner.draining.cancel();
        inner.working.close();
        if tokio::time::timeout(time, inner.working.wait()).await.is_err() {
            tracing::warn!(
                turns = inner.working.len(),
                "turns did not come to the end of their step in time; the next start goes on with them"
            );
        }
        inner.closing.cancel();
    }

    /// Whether it takes no more turns, and begins no more steps.
    pub(crate) fn is_draining(&self) -> bool {
        self.inner.draining.is_cancelled()
    }
}
