//! The one writer: a task that owns the writing connection and commits whatever jobs are waiting in one transaction.
//!
//! While one transaction is made durable, the next jobs gather, so the cost of the disk is shared by as many tasks as wait.
//! Each job has a savepoint: one that fails is undone alone. A job's result is told only after the commit.
//! A job whose caller has gone before it began is not done; once begun it is done whole.

use super::batch::{Batch, Statement};
use crate::{
    api::{Result, StoreError},
    data_dir::DataDir,
    faults::{self, Moment, Passage},
    lock::Lock,
    telemetry,
};
use sqlx::{Connection as _, sqlite::SqliteConnection};
use std::{future::Future, pin::Pin, time::Instant};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
};

const BEGIN: &[Statement] = &[Statement::new("BEGIN IMMEDIATE"), SAVEPOINT];
const SAVEPOINT: Statement = Statement::new("SAVEPOINT job");
const NEXT: &[Statement] = &[Statement::new("RELEASE job"), SAVEPOINT];
/// Undoes a job and leaves its savepoint to the next.
const UNDO: &[Statement] = &[Statement::new("ROLLBACK TO job")];
const COMMIT: Statement = Statement::new("COMMIT");
const ROLLBACK: Statement = Statement::new("ROLLBACK");

pub(super) type BoxFuture<'c, T> = Pin<Box<dyn Future<Output = T> + Send + 'c>>;

/// How many jobs may wait; whoever comes then waits to hand its job over.
const QUEUE: usize = 1024;
/// How many jobs one transaction takes: keeps the first of them from waiting long for the last.
const BATCH: usize = 256;

/// The way to the writing task. Dropping it lets the task finish what was taken, and end.
pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What the database needs for itself while it is open.
pub(super) struct Held {
    _data_dir: DataDir,
    _database: Lock,
}

impl Held {
    pub(super) fn new(data_dir: &DataDir, database: Lock) -> Self {
        Self {
            _data_dir: data_dir.clone(),
            _database: database,
        }
    }
}

enum Message {
    Write(Box<dyn Job>),
    Close,
}

/// A write and the caller that waits for it, with the type of its result erased.
trait Job: Send {
    /// Whether nobody waits any more.
    fn is_abandoned(&self) -> bool;
    /// Does the write inside the transaction.
    fn run<'c>(self: Box<Self>, connection: &'c mut SqliteConnection) -> BoxFuture<'c, Done>;
    /// Answers without doing it.
    fn refuse(self: Box<Self>, error: StoreError);
}

/// A job done inside a transaction that isn't committed yet.
struct Done {
    succeeded: bool,
    /// What becomes durable by it.
    passage: Option<Passage>,
    /// Tells the caller, given whether the transaction took effect.
    tell: Box<Tell>,
}

type Tell = dyn FnOnce(std::result::Result<(), &StoreError>) + Send;

struct Waiting<T, F> {
    passage: Option<Passage>,
    job: F,
    caller: oneshot::Sender<Result<T>>,
}

impl<T, F> Job for Waiting<T, F>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
{
    fn is_abandoned(&self) -> bool {
        self.caller.is_closed()
    }

    fn run<'c>(self: Box<Self>, connection: &'c mut SqliteConnection) -> BoxFuture<'c, Done> {
        Box::pin(async move {
            let result = (self.job)(connection).await;
            let caller = self.caller;
            Done {
                succeeded: result.is_ok(),
                passage: self.passage,
                // A caller that has gone meanwhile misses the answer; the write stands.
                tell: Box::new(move |committed| {
                    let _ = caller.send(match (result, committed) {
                        (Ok(_), Err(error)) => Err(copy(error)),
                        (result, _) => result,
                    });
                }),
            }
        })
    }

    fn refuse(self: Box<Self>, error: StoreError) {
        let _ = self.caller.send(Err(error));
    }
}

impl Writer {
    pub(super) fn start(connection: SqliteConnection, held: Held) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            work(connection, waiting).await;
            // Free for others only now.
            drop(held);
        });
        Self {
            queue,
            task: Mutex::new(Some(task)),
        }
    }

    pub(super) async fn write<T, F>(&self, passage: Option<Passage>, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let message = Message::Write(Box::new(Waiting { passage, job, caller }));
        self.queue.send(message).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Lets the task finish what was taken before, and waits for its end. Cancel-safe; a second call waits too.
    pub(super) async fn close(&self) {
        let _ = self.queue.send(Message::Close).await;
        let mut task = self.task.lock().await;
        if let Some(handle) = task.as_mut() {
            if let Err(error) = handle.await {
                tracing::error!(%error, "the writing task of the store broke");
            }
            *task = None;
        }
    }
}

fn closed() -> StoreError {
    super::unavailable("it was closed")
}

async fn work(mut connection: SqliteConnection, mut waiting: mpsc::Receiver<Message>) {
    let mut messages = Vec::with_capacity(BATCH);
    let mut jobs = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut messages, BATCH).await > 0 {
        for message in messages.drain(..) {
            match message {
                Message::Write(job) => jobs.push(job),
                // What came before is still taken out and done; nothing more comes in.
                Message::Close => waiting.close(),
            }
        }
        jobs.retain(|job| !job.is_abandoned());
        commit(&mut connection, &mut jobs).await;
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the database did not close cleanly; the next start recovers it");
    }
}

/// Does the jobs in one transaction, and tells each what became of it.
async fn commit(connection: &mut SqliteConnection, jobs: &mut Vec<Box<dyn Job>>) {
    if jobs.is_empty() {
        return;
    }
    let (begun, writes) = (Instant::now(), jobs.len());
    if let Err(error) = run(connection, BEGIN).await {
        // It may have begun, without the place for a job.
        let _ = run(connection, &[ROLLBACK]).await;
        for job in jobs.drain(..) {
            job.refuse(copy(&error));
        }
        return;
    }
    let mut done = Vec::with_capacity(jobs.len());
    let outcome = match in_transaction(connection, jobs, &mut done).await {
        Ok(()) => {
            let written = done.iter_mut().filter(|one| one.succeeded);
            let passages: Vec<_> = written.filter_map(|one| one.passage.take()).collect();
            durably(connection, &passages).await
        }
        Err(error) => Err(error),
    };
    telemetry::committed(begun, writes, &outcome);
    if outcome.is_err() {
        // Some errors have ended the transaction already; then this one fails, and that is well.
        let _ = run(connection, &[ROLLBACK]).await;
    }
    for one in done {
        (one.tell)(outcome.as_ref().copied());
    }
    if let Err(error) = &outcome {
        for job in jobs.drain(..) {
            job.refuse(copy(error));
        }
    }
}

/// Commits, past the points of what becomes durable by it.
async fn durably(connection: &mut SqliteConnection, passages: &[Passage]) -> Result<()> {
    let pass = |moment| passages.iter().for_each(|passage| faults::pass(passage, moment));
    pass(Moment::Before);
    run(connection, &[COMMIT]).await?;
    pass(Moment::After);
    Ok(())
}

/// Does each job behind a savepoint. An error means that the transaction itself is lost; jobs not begun are left in `jobs`.
async fn in_transaction(
    connection: &mut SqliteConnection,
    jobs: &mut Vec<Box<dyn Job>>,
    done: &mut Vec<Done>,
) -> Result<()> {
    let mut rest = std::mem::take(jobs).into_iter();
    while let Some(job) = rest.next() {
        let one = job.run(connection).await;
        let settled = match (one.succeeded, rest.len()) {
            (false, _) => run(connection, UNDO).await,
            // The commit releases the last one.
            (true, 0) => Ok(()),
            (true, _) => run(connection, NEXT).await,
        };
        done.push(one);
        if settled.is_err() {
            *jobs = rest.collect();
            return settled;
        }
    }
    Ok(())
}

async fn run(connection: &mut SqliteConnection, statements: &[Statement]) -> Result<()> {
    let mut batch = Batch::default();
    for statement in statements {
        batch.add(*statement);
    }
    batch.run(connection).await.map(drop)
}

/// One failure, told to several callers.
fn copy(error: &StoreError) -> StoreError {
    match error {
        StoreError::Exists { what } => StoreError::Exists { what: what.clone() },
        StoreError::Gone { what } => StoreError::Gone { what },
        StoreError::Invalid { reason } => StoreError::Invalid { reason: reason.clone() },
        StoreError::Archived => StoreError::Archived,
        StoreError::Busy(turn) => StoreError::Busy(*turn),
        StoreError::Lost => StoreError::Lost,
        StoreError::KeyReused => StoreError::KeyReused,
        StoreError::Full { of, limit } => StoreError::Full { of, limit: *limit },
        StoreError::BadCursor => StoreError::BadCursor,
        StoreError::Unavailable { reason } => StoreError::Unavailable { reason: reason.clone() },
        StoreError::TooMany { what, limit } => StoreError::TooMany { what, limit: *limit },
        StoreError::Corrupt { reason } => StoreError::Corrupt { reason: reason.clone() },
    }
}
