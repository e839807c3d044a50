//! What a socket sends, one message after the other, each within a time.

use axum::{
    Error,
    extract::ws::{Message, Utf8Bytes},
};
use bytes::Bytes;
use futures::{Sink, SinkExt as _};
use std::time::Duration;
use tokio::{sync::mpsc, time::timeout};

/// Something to send.
pub(super) enum Letter {
    Text(Utf8Bytes),
    Ping,
}

impl From<Letter> for Message {
    fn from(letter: Letter) -> Self {
        match letter {
            Letter::Text(text) => Self::Text(text),
            Letter::Ping => Self::Ping(Bytes::new()),
        }
    }
}

/// How sending ended.
pub(super) enum Written<S> {
    /// Everything is sent.
    All(S),
    /// One message was not taken in time; a goodbye can be tried.
    Slow(S),
    /// Nothing can be sent any more.
    Broken,
}

/// Sends the letters until there are no more senders.
// THREAT[T-net-slow-drip]: a client that does not read is not waited for without end.
pub(super) async fn write<S: Sink<Message, Error = Error> + Unpin>(
    mut sink: S,
    mut letters: mpsc::Receiver<Letter>,
    patience: Duration,
) -> Written<S> {
    while let Some(letter) = letters.recv().await {
        match timeout(patience, sink.send(letter.into())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "a socket broke");
                return Written::Broken;
            }
            Err(_) => return Written::Slow(sink),
        }
    }
    Written::All(sink)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::sink;
    use std::future::pending;

    #[tokio::test]
    async fn a_message_that_is_not_taken_in_time_ends_the_sending_and_leaves_room_for_a_goodbye() {
        let stuck = sink::unfold((), |(), _: Message| pending::<Result<(), Error>>());
        let (outbox, letters) = mpsc::channel(1);
        outbox.send(Letter::Ping).await.unwrap();
        let written = write(Box::pin(stuck), letters, Duration::from_millis(5)).await;
        assert!(matches!(written, Written::Slow(_)));
    }

    #[tokio::test]
    async fn what_was_to_be_sent_is_sent_before_the_sending_ends() {
        let (seen, mut kept) = mpsc::unbounded_channel();
        let sink = sink::unfold(seen, |seen, message: Message| async move {
            seen.send(message).map_err(Error::new)?;
            Ok(seen)
        });
        let (outbox, letters) = mpsc::channel(2);
        outbox.send(Letter::Text("a".into())).await.unwrap();
        outbox.send(Letter::Ping).await.unwrap();
        drop(outbox);
        let written = write(Box::pin(sink), letters, Duration::from_secs(60)).await;
        assert!(matches!(written, Written::All(_)));
        assert_eq!(kept.recv().await, Some(Message::Text("a".into())));
        assert_eq!(kept.recv().await, Some(Message::Ping(Bytes::new())));
    }
}
