//! The one writer: a task that owns the writing connection and commits whatever jobs are waiting in one transaction.
//!
//! While one transaction is made durable, the next jobs gather, so the cost of the disk is shared by as many tasks as wait.
//! One that fails is undone alone: the first with the transaction, which then begins anew, each other to its savepoint. A job's result is
//! told only after the commit.
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

const BEGIN: Statement = Statement::new("BEGIN IMMEDIATE");
const SAVEPOINT: Statement = Statement::new("SAVEPOINT job");
const RELEASE: Statement = Statement::new("RELEASE job");
/// Undoes a job and leaves its savepoint to the next.
const UNDO: Statement = Statement::new("ROLLBACK TO job");
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
    /// Runs the batch and does the write, inside the transaction.
    fn run<'c>(self: Box<Self>, batch: Batch, connection: &'c mut SqliteConnection) -> BoxFuture<'c, Done>;
    /// Answers without doing it.
    fn refuse(self: Box<Self>, error: StoreError);
}

/// A job done inside a transaction that isn't committed yet.
struct Done {
    /// Why it is to be undone.
    failed: Option<StoreError>,
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
    F: for<'c> FnOnce(Batch, &'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
{
    fn is_abandoned(&self) -> bool {
        self.caller.is_closed()
    }

    fn run<'c>(self: Box<Self>, batch: Batch, connection: &'c mut SqliteConnection) -> BoxFuture<'c, Done> {
        Box::pin(async move {
            let result = (self.job)(batch, connection).await;
            let caller = self.caller;
            Done {
                failed: result.as_ref().err().map(copy),
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

    /// Has a job done, which runs the batch that it gets before anything else: its own statements may go with it.
    pub(super) async fn write<T, F>(&self, passage: Option<Passage>, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(Batch, &'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
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
    let mut done = Vec::with_capacity(jobs.len());
    let outcome = match in_transaction(connection, jobs, &mut done).await {
        Ok(Transaction::None) => Ok(()),
        Ok(Transaction::Open) => {
            let written = done.iter_mut().filter(|one| one.failed.is_none());
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

/// Whether something was written that is to be committed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    /// With a savepoint for the next job, if there is one.
    Open,
}

/// Does each job, the first with the beginning of the transaction. An error means that the transaction itself is lost; jobs not begun are
/// left in `jobs`.
async fn in_transaction(
    connection: &mut SqliteConnection,
    jobs: &mut Vec<Box<dyn Job>>,
    done: &mut Vec<Done>,
) -> Result<Transaction> {
    let mut transaction = Transaction::None;
    let mut rest = std::mem::take(jobs).into_iter();
    while let Some(job) = rest.next() {
        let begins = match transaction {
            Transaction::None => Batch::of(&[BEGIN]),
            Transaction::Open => Batch::default(),
        };
        let one = job.run(begins, connection).await;
        let settled = settle(connection, transaction, one.failed.as_ref(), rest.len()).await;
        done.push(one);
        match settled {
            Ok(now) => transaction = now,
            Err(error) => {
                *jobs = rest.collect();
                return Err(error);
            }
        }
    }
    Ok(transaction)
}

/// Undoes a job that failed, and makes the place for the next of so many.
async fn settle(
    connection: &mut SqliteConnection,
    transaction: Transaction,
    failed: Option<&StoreError>,
    next: usize,
) -> Result<Transaction> {
    match (failed, transaction) {
        (Some(failed), Transaction::None) => match run(connection, &[ROLLBACK]).await {
            // It could not begin, and so could not the others.
            Err(_) if matches!(failed, StoreError::Unavailable { .. }) => return Err(copy(failed)),
            // Where there was none to undo, the job was refused before it began one.
            Ok(()) | Err(_) => {}
        },
        (Some(_), Transaction::Open) => run(connection, &[UNDO]).await?,
        // The commit releases the last one.
        (None, _) if next == 0 => {}
        (None, Transaction::None) => run(connection, &[SAVEPOINT]).await?,
        (None, Transaction::Open) => run(connection, &[RELEASE, SAVEPOINT]).await?,
    }
    Ok(match failed {
        Some(_) => transaction,
        None => Transaction::Open,
    })
}

async fn run(connection: &mut SqliteConnection, statements: &[Statement]) -> Result<()> {
    Batch::of(statements).run(connection).await.map(drop)
}

/// One failure, told to several callers.
fn copy(error: &StoreError) -> StoreError {
    match error {
        StoreError::Exists { what } => StoreError::Exists { what: what.clone() },
        StoreError::Gone { what } => StoreError::Gone { what },
        StoreError::Invalid { reason } => StoreError::Invalid { reason: reason.clone() },
        StoreError::Archived => StoreError::Archived,
        StoreError::Busy(turn) => StoreError::Busy(*turn),
        StoreError::BusyWithJob(job) => StoreError::BusyWithJob(*job),
        StoreError::Lost => StoreError::Lost,
        StoreError::KeyReused => StoreError::KeyReused,
        StoreError::Full { of, limit } => StoreError::Full { of, limit: *limit },
        StoreError::BadCursor => StoreError::BadCursor,
        StoreError::Unavailable { reason } => StoreError::Unavailable { reason: reason.clone() },
        StoreError::TooMany { what, limit } => StoreError::TooMany { what, limit: *limit },
        StoreError::Corrupt { reason } => StoreError::Corrupt { reason: reason.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::{Batch, BoxFuture, Job, Statement, Waiting, commit};
    use crate::api::{Result, StoreError};
    use sqlx::{Connection as _, SqliteConnection};
    use tokio::sync::oneshot;

    const INSERT: Statement = Statement::new("INSERT INTO t (n) VALUES (?)");

    type Answer = oneshot::Receiver<Result<()>>;

    fn job<F>(job: F) -> (Box<dyn Job>, Answer)
    where
        F: for<'c> FnOnce(Batch, &'c mut SqliteConnection) -> BoxFuture<'c, Result<()>> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let passage = None;
        (Box::new(Waiting { passage, job, caller }), answer)
    }

    /// What a job does.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Do {
        Write,
        /// Refuses before anything was run.
        Refuse,
        /// Writes, and fails then.
        Fail,
    }

    async fn outcome(jobs: &[Do]) -> (Vec<bool>, Vec<i64>) {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::query("CREATE TABLE t (n INTEGER)")
            .execute(&mut connection)
            .await
            .unwrap();
        let mut callers = Vec::new();
        let mut together: Vec<Box<dyn Job>> = Vec::new();
        for (n, what) in (0_i64..).zip(jobs.iter().copied()) {
            let (job, answer) = job(move |mut batch, connection| {
                Box::pin(async move {
                    let failed = || StoreError::Gone { what: "row" };
                    if what == Do::Refuse {
                        return Err(failed());
                    }
                    batch.add(INSERT);
                    batch.bind(n);
                    batch.run(connection).await?;
                    (what == Do::Write).then_some(()).ok_or_else(failed)
                })
            });
            together.push(job);
            callers.push(answer);
        }
        commit(&mut connection, &mut together).await;
        let mut told = Vec::new();
        for caller in callers {
            let answer = caller.await.unwrap();
            assert!(
                matches!(answer, Ok(()) | Err(StoreError::Gone { what: "row" })),
                "{answer:?}"
            );
            told.push(answer.is_ok());
        }
        // Nothing is left open: the next transaction begins.
        sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
        let rows = sqlx::query_scalar("SELECT n FROM t ORDER BY n")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        (told, rows)
    }

    #[tokio::test]
    async fn a_job_that_fails_is_undone_alone_wherever_it_stands() {
        const EACH: [Do; 3] = [Do::Write, Do::Refuse, Do::Fail];
        for first in EACH {
            for second in EACH {
                for third in EACH {
                    for fourth in EACH {
                        let jobs = [first, second, third, fourth];
                        let written: Vec<bool> = jobs.iter().map(|what| *what == Do::Write).collect();
                        let rows = (0..).zip(&written).filter_map(|(n, written)| written.then_some(n));
                        let rows: Vec<i64> = rows.collect();
                        assert_eq!(outcome(&jobs).await, (written, rows), "{jobs:?}");
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_job_hears_why_the_transaction_could_not_begin() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        // A transaction that is open already is a beginning that the database refuses.
        sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
        let (job, answer) = job(|batch, connection| Box::pin(async move { batch.run(connection).await.map(drop) }));
        commit(&mut connection, &mut vec![job]).await;
        assert!(matches!(answer.await.unwrap(), Err(StoreError::Unavailable { .. })));
    }
}
