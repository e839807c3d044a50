//! One socket, from its first message to its goodbye.
//!
//! One task does all of it: reads messages, works operations side by side, and passes on the events of each subscription. When it is
//! dropped, nothing of it is left.

use super::{
    frame::{self, Goodbye, Misread, Operation, Reason, Request},
    operations,
    writer::{Letter, Written, write},
};
use crate::{
    app::App,
    auth::Client,
    connections::Line,
    feed::{End, Feed, Next},
    input::session_id,
    problem::{Answer, Problem, ProblemCode},
};
use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use fumehood_core::id::SessionId;
use fumehood_store::StoreError;
use futures::{
    FutureExt as _, SinkExt as _, StreamExt as _,
    future::{AbortHandle, BoxFuture, abortable},
    stream::FuturesUnordered,
};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_tungstenite::tungstenite;

/// Messages that wait to be sent; whoever has more to say waits.
const OUTBOX: usize = 16;
/// Sessions that a socket listens to.
const MOST_SUBSCRIPTIONS: usize = 64;
/// Operations of a client that are worked at a time; more are not read.
const MOST_OPERATIONS: usize = 16;
/// How long a goodbye may take, and the client's answer to it.
const GOODBYE_TIME: Duration = Duration::from_secs(2);

/// What a socket is made of.
pub(super) struct Socket {
    desk: Desk,
    /// Where the client is connected over a line of the server.
    line: Option<Arc<Line>>,
    letters: mpsc::Receiver<Letter>,
}

/// What a socket is at work on.
struct Desk {
    app: Arc<App>,
    client: Client,
    outbox: mpsc::Sender<Letter>,
    subscriptions: HashMap<SessionId, Subscription>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    operations: usize,
    /// When something came from the client last.
    heard: Instant,
}

enum Subscription {
    /// Being made.
    Asked,
    Open(AbortHandle),
}

/// Work that has ended.
enum Done {
    Operation,
    /// An operation whose subscription is to begin, or was refused.
    Listen(SessionId, Option<Box<Feed>>),
    /// The client ended the subscription.
    Unsubscribed,
    /// The subscription ended by itself.
    Ended(SessionId, End),
    /// Whether the key is still a live one.
    Looked(Result<bool, StoreError>),
    /// An operation was asked for with a key that is none any more.
    Unwelcome,
}

/// How a socket ends.
enum Ending {
    /// The host closes it.
    Goodbye(Goodbye),
    /// The client did.
    ByClient,
    /// There is nobody to say anything to.
    Broken,
}

impl Socket {
    pub(super) fn new(app: Arc<App>, client: Client, line: Option<Arc<Line>>) -> Self {
        let (outbox, letters) = mpsc::channel(OUTBOX);
        let desk = Desk {
            app,
            client,
            outbox,
            subscriptions: HashMap::new(),
            work: FuturesUnordered::new(),
            operations: 0,
            heard: Instant::now(),
        };
        Self { desk, line, letters }
    }

    /// Works the socket to its end. The line is held until then.
    // THREAT[T-org-connections]: a connection that became a socket counts as one, and ends with the server.
    pub(super) async fn run(self, connection: WebSocket, session: SessionId, feed: Feed) {
        let Self {
            mut desk,
            line,
            letters,
        } = self;
        desk.open(session, Box::new(feed));
        let served = desk.serve(connection, letters);
        match &line {
            None => served.await,
            Some(line) => tokio::select! {
                () = line.cut() => {}
                () = served => {}
            },
        }
    }
}

impl Desk {
    async fn serve(mut self, connection: WebSocket, letters: mpsc::Receiver<Letter>) {
        let (quiet_time, unread_time) = (self.app.config.quiet_time, self.app.config.unread_time);
        let closing = self.app.closing.clone();
        let (sink, mut incoming) = connection.split();
        // Before the connection itself gives the client up, so that there is a goodbye.
        let mut writer = std::pin::pin!(write(sink, letters, unread_time / 2));
        let mut ticks = interval_at(Instant::now() + quiet_time, quiet_time);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (ending, mut written) = loop {
            let ending = tokio::select! {
                () = closing.cancelled() => Some(Ending::Goodbye(Goodbye::Closing)),
                written = &mut writer => break (Ending::Goodbye(Goodbye::Slow), Some(written)),
                message = incoming.next(), if self.operations < MOST_OPERATIONS => self.take(message),
                Some(done) = self.work.next() => self.finish(done),
                _ = ticks.tick() => self.tick(quiet_time + unread_time),
            };
            if let Some(ending) = ending {
                break (ending, None);
            }
        };
        // With it the last senders go, and what they have sent is written.
        drop(self);
        if written.is_none() {
            written = timeout(GOODBYE_TIME, writer).await.ok();
        }
        let (Some(Written::All(mut sink) | Written::Slow(mut sink)), false) =
            (written, matches!(ending, Ending::Broken))
        else {
            return;
        };
        let is_slow = matches!(ending, Ending::Goodbye(Goodbye::Slow));
        let parting = async {
            let parted = match ending {
                Ending::Goodbye(goodbye) => {
                    tracing::debug!(?goodbye, "a socket is closed");
                    sink.send(Message::Close(Some(goodbye.frame()))).await
                }
                Ending::ByClient | Ending::Broken => sink.close().await,
            };
            // Unread messages would take the goodbye from the client.
            while parted.is_ok() && matches!(incoming.next().await, Some(Ok(_))) {}
        };
        // Whoever reads slowly is given what is left of its time to come to the goodbye.
        let patience = if is_slow { unread_time / 2 } else { GOODBYE_TIME };
        if timeout(patience, parting).await.is_err() {
            tracing::debug!("a socket's client did not answer its goodbye");
        }
    }

    /// A message of the client.
    fn take(&mut self, message: Option<Result<Message, axum::Error>>) -> Option<Ending> {
        self.heard = Instant::now();
        match message {
            Some(Ok(Message::Text(text))) => {
                self.begin(&text);
                None
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => None,
            Some(Ok(Message::Binary(_))) => Some(Ending::Goodbye(Goodbye::Binary)),
            Some(Ok(Message::Close(_))) => Some(Ending::ByClient),
            Some(Err(error)) => Some(unreadable(error)),
            None => Some(Ending::Broken),
        }
    }

    /// Begins what a message asks for.
    fn begin(&mut self, text: &str) {
        let Request { id, operation } = match frame::read(text) {
            Ok(request) => request,
            Err(Misread { id, problem }) => return self.refuse(id, problem),
        };
        let (app, client) = (Arc::clone(&self.app), self.client.clone());
        match operation {
            Operation::Subscribe(asked) => self.subscribe(id, &asked),
            Operation::Unsubscribe(asked) => {
                let answer = self.unsubscribe(&asked.session);
                self.operate(id, async { answer });
            }
            Operation::Turn(asked) => self.operate(id, async move { operations::turn(&app, &client, *asked).await }),
            Operation::Approvals(asked) => {
                self.operate(id, async move { operations::approvals(&app, &client, asked).await });
            }
            Operation::Results(asked) => {
                self.operate(id, async move { operations::results(&app, &client, asked).await });
            }
            Operation::Cancel(asked) => {
                self.operate(id, async move { operations::cancel_turn(&app, &client, asked).await });
            }
        }
    }

    fn subscribe(&mut self, id: String, asked: &frame::Subscribe) {
        let session = match self.reserve(&asked.session) {
            Ok(session) => session,
            Err(problem) => return self.refuse(Some(id), problem),
        };
        let (app, client, outbox) = (Arc::clone(&self.app), self.client.clone(), self.outbox.clone());
        let after = asked.after;
        self.employ(async move {
            let listening = operations::listen(&app, &client, session, after);
            let Some(listening) = if_welcome(&app, &client, listening).await else {
                return Done::Unwelcome;
            };
            let (answer, feed) = match listening {
                Ok(feed) => (Ok(json!({"session": session, "after": after})), Some(Box::new(feed))),
                Err(problem) => (Err(problem), None),
            };
            // The reply comes before the first event.
            send(&outbox, frame::reply(&id, answer)).await;
            Done::Listen(session, feed)
        });
    }

    /// Keeps a subscription's place while it is made.
    fn reserve(&mut self, session: &str) -> Answer<SessionId> {
        let session = session_id(session)?;
        let is_full = self.subscriptions.len() >= MOST_SUBSCRIPTIONS;
        match self.subscriptions.entry(session) {
            Entry::Occupied(_) => Err(Problem::new(
                ProblemCode::Conflict,
                "the socket listens to the session already; unsubscribe first to go on from another place",
            )),
            // THREAT[T-org-connections]
            Entry::Vacant(_) if is_full => {
                let detail = format!(
                    "the socket listens to {MOST_SUBSCRIPTIONS} sessions, as many as one may; unsubscribe from some, or open another"
                );
                Err(Problem::new(ProblemCode::RateLimited, detail).with("limit", "subscriptions"))
            }
            Entry::Vacant(place) => {
                place.insert(Subscription::Asked);
                Ok(session)
            }
        }
    }

    fn unsubscribe(&mut self, session: &str) -> Answer<Value> {
        let session = session_id(session)?;
        match self.subscriptions.remove(&session) {
            Some(Subscription::Open(handle)) => {
                handle.abort();
                Ok(json!({"session": session}))
            }
            Some(Subscription::Asked) => {
                self.subscriptions.insert(session, Subscription::Asked);
                let detail = "the subscription is being made; wait for its reply, then unsubscribe";
                Err(Problem::new(ProblemCode::Conflict, detail))
            }
            None => Err(Problem::not_found("subscription")),
        }
    }

    /// Does what the client asks for, and replies.
    fn operate(&mut self, id: String, work: impl Future<Output = Answer<Value>> + Send + 'static) {
        let (app, client, outbox) = (Arc::clone(&self.app), self.client.clone(), self.outbox.clone());
        self.employ(async move {
            let work = AssertUnwindSafe(if_welcome(&app, &client, work)).catch_unwind().await;
            let Some(answer) = work.unwrap_or_else(|_| {
                tracing::error!("an operation of a socket panicked");
                Some(Err(Problem::fault()))
            }) else {
                return Done::Unwelcome;
            };
            send(&outbox, frame::reply(&id, answer)).await;
            Done::Operation
        });
    }

    fn refuse(&mut self, id: Option<String>, problem: Problem) {
        let outbox = self.outbox.clone();
        self.employ(async move {
            send(&outbox, frame::refusal(id.as_deref(), &problem)).await;
            Done::Operation
        });
    }

    fn employ(&mut self, operation: impl Future<Output = Done> + Send + 'static) {
        self.operations += 1;
        self.work.push(operation.boxed());
    }

    /// Passes on the events of a session from now on.
    fn open(&mut self, session: SessionId, feed: Box<Feed>) {
        let outbox = self.outbox.clone();
        let (passing, handle) = abortable(pass_on(session, feed, outbox));
        self.subscriptions.insert(session, Subscription::Open(handle));
        self.work
            .push(passing.map(|ended| ended.unwrap_or(Done::Unsubscribed)).boxed());
    }

    fn finish(&mut self, done: Done) -> Option<Ending> {
        match done {
            Done::Operation => self.operations -= 1,
            Done::Unwelcome => return Some(Ending::Goodbye(Goodbye::KeyGone)),
            Done::Listen(session, feed) => {
                self.operations -= 1;
                self.subscriptions.remove(&session);
                if let Some(feed) = feed {
                    self.open(session, feed);
                }
            }
            Done::Unsubscribed | Done::Looked(Ok(true)) => {}
            Done::Ended(session, end) => {
                self.subscriptions.remove(&session);
                if end == End::Gone {
                    self.look();
                }
            }
            Done::Looked(Ok(false)) => return Some(Ending::Goodbye(Goodbye::KeyGone)),
            Done::Looked(Err(error)) => {
                tracing::error!(%error, "a socket is closed because the store can't say whether its key is a live one");
                return Some(Ending::Goodbye(Goodbye::Fault));
            }
        }
        None
    }

    /// Asks the client for a sign, and looks whether it may be here.
    fn tick(&mut self, patience: Duration) -> Option<Ending> {
        // While no messages are read, none can be missed.
        if self.operations < MOST_OPERATIONS && self.heard.elapsed() > patience {
            return Some(Ending::Goodbye(Goodbye::Slow));
        }
        // A full outbox is as good a sign of life.
        let _ = self.outbox.try_send(Letter::Ping);
        self.look();
        None
    }

    // THREAT[T-org-key-theft]: a revoked key's socket ends, one that listens to nothing as well.
    fn look(&self) {
        let (app, client) = (Arc::clone(&self.app), self.client.clone());
        self.work
            .push(async move { Done::Looked(client.is_still_welcome(&app).await) }.boxed());
    }
}

/// Passes on the events of a session until there are no more.
async fn pass_on(session: SessionId, mut feed: Box<Feed>, outbox: mpsc::Sender<Letter>) -> Done {
    loop {
        match feed.next().await {
            Next::Event(event) => send(&outbox, frame::event(&event)).await,
            // The socket gives signs of its own.
            Next::Quiet => {}
            Next::End(end) => {
                let reason = match end {
                    End::Gone => Some(Reason::Gone),
                    End::Store => Some(Reason::Unavailable),
                    // The goodbye says it.
                    End::Closing | End::Turn => None,
                };
                if let Some(reason) = reason {
                    send(&outbox, frame::ended(session, reason)).await;
                }
                return Done::Ended(session, end);
            }
        }
    }
}

/// What comes of the work, which is done only for a client whose key is a live one.
async fn if_welcome<T>(app: &App, client: &Client, work: impl Future<Output = Answer<T>>) -> Option<Answer<T>> {
    match client.is_still_welcome(app).await {
        Ok(true) => Some(work.await),
        Ok(false) => None,
        Err(error) => Some(Err(error.into())),
    }
}

/// Waits for room in the outbox. When nobody sends any more, the socket ends anyway.
async fn send(outbox: &mpsc::Sender<Letter>, text: Utf8Bytes) {
    let _ = outbox.send(Letter::Text(text)).await;
}

/// Why the client's next message can't be read.
fn unreadable(error: axum::Error) -> Ending {
    use tungstenite::Error;
    let error = error.into_inner();
    match error.downcast_ref::<Error>() {
        Some(Error::Capacity(_)) => Ending::Goodbye(Goodbye::TooLarge),
        Some(Error::Utf8(_)) => Ending::Goodbye(Goodbye::NotText),
        Some(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => Ending::Broken,
        Some(Error::Protocol(_)) => Ending::Goodbye(Goodbye::Malformed),
        _ => {
            tracing::debug!(%error, "a socket broke");
            Ending::Broken
        }
    }
}
