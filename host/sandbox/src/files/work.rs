//! Where work on files is done: on the executor's blocking threads, because a disk may be slow and must not stall other calls.
//!
//! A call uses few of them at a time, and so do all calls of one share together: what one waits for, such as a large file
//! that takes its place, keeps only its own share waiting. The time that the processor works there is on the account of the
//! call and of its share, like what the guest computes itself.

use crate::{
    meter::{CpuClock, processor_time},
    share::{Gate, ShareKey},
};
use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};

/// How much one call has done at a time.
const OF_A_CALL: usize = 4;
/// How much a share has done at a time, on a machine with fewer threads.
const OF_A_SHARE: usize = 4;
/// How much all calls have done at a time: half of the threads that the executor has for blocking, so that the store and clients
/// find one.
const OF_ALL: usize = 256;

/// The blocking threads that calls may use.
pub(crate) struct Threads {
    gate: Arc<Gate>,
    all: Arc<Semaphore>,
    of_a_share: usize,
    shares: Mutex<HashMap<ShareKey, Weak<Semaphore>>>,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads")
            .field("free", &self.all.available_permits())
            .finish_non_exhaustive()
    }
}

impl Threads {
    /// For guests that compute on `threads` threads, with permits of `gate`.
    pub(crate) fn new(gate: Arc<Gate>, threads: usize) -> Self {
        Self {
            gate,
            all: Arc::new(Semaphore::new(OF_ALL)),
            of_a_share: threads.clamp(OF_A_SHARE, OF_ALL / 4),
            shares: Mutex::default(),
        }
    }

    fn share(&self, key: ShareKey) -> Arc<Semaphore> {
        // Every change leaves it consistent.
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&key).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.of_a_share));
        shares.insert(key, Arc::downgrade(&share));
        share
    }
}

/// Who pays for a call's work.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    threads: Arc<Threads>,
    key: ShareKey,
    clock: Arc<CpuClock>,
}

impl Account {
    pub(crate) fn new(threads: &Arc<Threads>, key: ShareKey, clock: Arc<CpuClock>) -> Self {
        Self {
            threads: Arc::clone(threads),
            key,
            clock,
        }
    }

    /// Made once for a call: clones keep to its bounds.
    pub(super) fn worker(&self) -> Worker {
        Worker {
            turns: [
                Arc::new(Semaphore::new(OF_A_CALL)),
                self.threads.share(self.key),
                Arc::clone(&self.threads.all),
            ],
            account: self.clone(),
        }
    }

    // THREAT[T-box-cpu]: a guest does not dodge by having a blocking thread do its work.
    fn charged<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = processor_time();
        let done = work();
        let used = processor_time().saturating_sub(before);
        self.clock.add_elsewhere(used);
        self.threads.gate.charge(self.key, used);
        done
    }
}

/// Leave to use a blocking thread: of the call, of its share, of all.
type Turn = [OwnedSemaphorePermit; 3];

/// Has the work of one call done. Clones share its bounds.
// THREAT[T-box-file-threads]
#[derive(Debug, Clone)]
pub(super) struct Worker {
    /// Of the call, of its share, of all.
    turns: [Arc<Semaphore>; 3],
    account: Account,
}

impl Worker {
    /// Has `work` done as soon as it is its turn.
    pub(super) fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Blocking<T> {
        Blocking(self.begin(work))
    }

    /// The same, and nobody waits for it.
    pub(super) fn leave<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) {
        drop(self.begin(work));
    }

    fn begin<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<io::Result<T>> {
        if let Some(turn) = self.turn_now() {
            return self.begin_in(turn, work);
        }
        let worker = self.clone();
        tokio::spawn(async move {
            let turn = worker.turn().await.ok_or_else(shutting_down)?;
            Blocking(worker.begin_in(turn, work)).done().await
        })
    }

    fn begin_in<T: Send + 'static>(
        &self,
        turn: Turn,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<io::Result<T>> {
        let account = self.account.clone();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            Ok(account.charged(work))
        })
    }

    fn turn_now(&self) -> Option<Turn> {
        let [call, share, all] = &self.turns;
        let now = |turns: &Arc<Semaphore>| Arc::clone(turns).try_acquire_owned().ok();
        Some([now(call)?, now(share)?, now(all)?])
    }

    async fn turn(&self) -> Option<Turn> {
        let [call, share, all] = &self.turns;
        let next = |turns: &Arc<Semaphore>| Arc::clone(turns).acquire_owned();
        // In this order: who waits for its own call or share keeps no other's turn.
        Some([next(call).await.ok()?, next(share).await.ok()?, next(all).await.ok()?])
    }
}

/// Work that somebody waits for. Dropped before it began, it never begins.
pub(super) struct Blocking<T>(JoinHandle<io::Result<T>>);

impl<T> Blocking<T> {
    /// Waits for its end.
    ///
    /// # Errors
    /// When the host is shutting down.
    pub(super) async fn done(&mut self) -> io::Result<T> {
        (&mut self.0).await.unwrap_or_else(|_| Err(shutting_down()))
    }
}

impl<T> Drop for Blocking<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn shutting_down() -> io::Error {
    io::Error::other("the host is shutting down")
}

/// A worker of nobody's.
#[cfg(test)]
pub(super) fn idle_worker() -> Worker {
    let threads = Arc::new(Threads::new(Arc::new(Gate::new(1)), 1));
    let clock = Arc::new(CpuClock::new(std::time::Instant::now()));
    Account::new(&threads, ShareKey::default(), clock).worker()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering},
        },
        time::{Duration, Instant},
    };

    fn threads() -> Arc<Threads> {
        Arc::new(Threads::new(Arc::new(Gate::new(2)), 2))
    }

    fn worker(threads: &Arc<Threads>, org: &str) -> (Worker, Arc<CpuClock>) {
        let clock = Arc::new(CpuClock::new(Instant::now()));
        let account = Account::new(threads, ShareKey::of(org), Arc::clone(&clock));
        (account.worker(), clock)
    }

    /// Has much work done, all of which meets as many others as may work at a time. The most that were at it together.
    async fn most_together(workers: &[Worker], expected: usize) -> usize {
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let barrier = Arc::new(Barrier::new(expected));
        let mut started: Vec<_> = (0..expected * 20)
            .map(|piece| {
                let (inside, most, barrier) = (Arc::clone(&inside), Arc::clone(&most), Arc::clone(&barrier));
                workers[piece % workers.len()].start(move || {
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    barrier.wait();
                    inside.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for piece in &mut started {
            piece.done().await.unwrap();
        }
        most.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn a_call_uses_few_threads_however_much_it_starts() {
        let (worker, _) = worker(&threads(), "a");
        assert_eq!(most_together(&[worker], OF_A_CALL).await, OF_A_CALL);
    }

    #[tokio::test]
    async fn calls_of_one_share_that_wait_for_a_file_leave_threads_to_others() {
        let threads = threads();
        let calls: Vec<Worker> = (0..10).map(|_| worker(&threads, "a").0).collect();
        assert_eq!(most_together(&calls, OF_A_SHARE).await, OF_A_SHARE);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let stuck: Vec<_> = (0..100)
            .map(|piece| {
                let held = Arc::clone(&held);
                calls[piece % calls.len()].start(move || {
                    let _ = held.lock().unwrap().recv();
                })
            })
            .collect();
        let (other, _) = worker(&threads, "b");
        assert_eq!(other.start(|| 7).done().await.unwrap(), 7);
        drop(release);
        drop(stuck);
    }

    #[tokio::test]
    async fn what_the_processor_works_on_files_is_on_the_account_of_the_call() {
        let (worker, clock) = worker(&threads(), "a");
        let work = Duration::from_millis(20);
        let busy = move || {
            let since = processor_time();
            while processor_time().saturating_sub(since) < work {}
        };
        worker.start(busy).done().await.unwrap();
        assert!(clock.used() >= work, "{:?}", clock.used());
    }

    #[tokio::test]
    async fn shares_that_nobody_uses_any_more_are_forgotten() {
        let threads = threads();
        for org in 0..1000 {
            drop(worker(&threads, &org.to_string()));
        }
        assert!(threads.shares.lock().unwrap().len() <= 2);
    }
}
