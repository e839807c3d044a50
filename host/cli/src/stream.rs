//! The events of a turn, of which some are looked at before their time: while a question about its calls stands.

use crate::out::text;
use futures::{Stream, StreamExt as _, stream::Fuse};
use serde_json::Value;
use std::collections::VecDeque;

/// The most events that are read ahead. With more, a question stands until it is answered.
const MOST_AHEAD: usize = 1024;

/// The events of a turn, each of them once and in order.
pub(crate) struct Events<S> {
    stream: Fuse<S>,
    ahead: VecDeque<anyhow::Result<Value>>,
}

impl<S: Stream<Item = anyhow::Result<Value>> + Unpin> Events<S> {
    /// The events of a stream.
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream: stream.fuse(),
            ahead: VecDeque::new(),
        }
    }

    /// The next event; `None` after the last. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<anyhow::Result<Value>> {
        match self.ahead.pop_front() {
            Some(event) => Some(event),
            None => self.stream.next().await,
        }
    }

    /// Reads ahead until there is nothing left to decide about the turn's calls, and says why. Cancel-safe.
    pub(crate) async fn until_moot(&mut self) -> &'static str {
        while self.ahead.len() < MOST_AHEAD {
            let why = match self.stream.next().await {
                None => return GONE,
                Some(event) => {
                    let why = event.as_ref().map_or(Some(GONE), moot);
                    self.ahead.push_back(event);
                    why
                }
            };
            if let Some(why) = why {
                return why;
            }
        }
        std::future::pending().await
    }
}

const GONE: &str = "the host tells nothing any more, so nobody is asked here";

/// Why nothing is left to decide about a turn's calls, if this event says so.
fn moot(event: &Value) -> Option<&'static str> {
    match text(event, "type") {
        "approval.resolved" => {
            let decisions = event.pointer("/data/decisions").and_then(Value::as_array);
            let is = |decision| {
                decisions
                    .into_iter()
                    .flatten()
                    .any(|one| text(one, "decision") == decision)
            };
            Some(match (is("expired"), is("abandoned")) {
                (true, _) => "the time to decide was over",
                (_, true) => "a new input came instead of a decision",
                _ => "decided meanwhile by somebody else",
            })
        }
        "turn.completed" | "turn.failed" | "turn.cancelled" => Some("the turn has ended meanwhile"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use serde_json::json;

    fn resolved(decision: &str) -> Value {
        json!({"type": "approval.resolved", "data": {"decisions": [{"decision": decision}]}})
    }

    fn events(of: &[Value]) -> Events<impl Stream<Item = anyhow::Result<Value>> + Unpin + use<>> {
        let of: Vec<_> = of.iter().cloned().map(Ok).collect();
        Events::new(futures::stream::iter(of).chain(futures::stream::pending()))
    }

    #[tokio::test]
    async fn a_question_is_given_up_when_nothing_is_left_to_decide() {
        for (event, why) in [
            (resolved("approved"), "decided meanwhile by somebody else"),
            (resolved("rejected"), "decided meanwhile by somebody else"),
            (resolved("expired"), "the time to decide was over"),
            (resolved("abandoned"), "a new input came instead of a decision"),
            (json!({"type": "turn.cancelled"}), "the turn has ended meanwhile"),
        ] {
            let paused = json!({"type": "turn.paused"});
            let mut events = events(&[paused.clone(), event.clone()]);
            assert_eq!(events.until_moot().await, why);
            for expected in [paused, event] {
                assert_eq!(
                    events.next().await.unwrap().unwrap(),
                    expected,
                    "each is shown all the same"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_question_stands_while_its_turn_waits() {
        let paused = json!({"type": "turn.paused"});
        let mut events = events(std::slice::from_ref(&paused));
        assert!(events.until_moot().now_or_never().is_none());
        assert_eq!(events.next().await.unwrap().unwrap(), paused);
    }

    #[tokio::test]
    async fn a_stream_that_broke_off_is_told_after_what_came_before() {
        let broken = [Ok(json!({"type": "turn.paused"})), Err(anyhow::anyhow!("broken"))];
        let mut events = Events::new(futures::stream::iter(broken));
        assert_eq!(events.until_moot().await, GONE);
        assert!(events.next().await.unwrap().is_ok());
        assert!(events.next().await.unwrap().is_err());
        assert!(events.next().await.is_none());
        assert_eq!(events.until_moot().await, GONE);
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_bounded() {
        let many = vec![json!({"type": "turn.paused"}); MOST_AHEAD + 1];
        let mut events = events(&[many, vec![resolved("expired")]].concat());
        assert!(events.until_moot().now_or_never().is_none());
        assert_eq!(events.ahead.len(), MOST_AHEAD);
    }
}
