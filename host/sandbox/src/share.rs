//! Who computes next: running permits, as many as the runtime has threads, handed out so that calls of one share (an org)
//! can't crowd out those of another.
//!
//! A guest computes only while its call holds a permit: for one poll of the call, which ends when the guest waits in the host or when
//! the clock interrupts it. While permits are free, entering and leaving are a short lock each and nothing else. When they are not,
//! calls wait in a queue per share, first come first served, and the share that computed least lately goes first.
//!
//! A call that has computed for longer than a slice is *busy*. Busy calls of one share never hold all permits, while there is more
//! than one: whoever comes new finds a thread. On one thread, a newcomer waits for the end of a slice.
//!
//! Work on a call's files is done elsewhere, without a permit, and charged to the share afterwards. What computes besides (HTTP,
//! compiling, the store) is not counted here.

use crate::ticker::TICK;
use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    future::poll_fn,
    hash::{DefaultHasher, Hash, Hasher},
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// What a call may compute before it counts as busy.
const SLICE: Duration = TICK;
/// After this long, what a share has computed counts half.
const HALF_LIFE: Duration = Duration::from_millis(100);

/// On whose account a call computes. Opaque: calls with equal keys share, whatever the key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ShareKey(u64);

impl ShareKey {
    /// The key of whatever names the account, such as an org's name.
    #[must_use]
    pub fn of(account: &(impl Hash + ?Sized)) -> Self {
        let mut hasher = DefaultHasher::new();
        account.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Hands out the permits.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

thread_local! {
    /// A call that a guest makes is polled inside that guest's poll, and computes with its permit.
    static COMPUTING: Cell<bool> = const { Cell::new(false) };
}

impl Gate {
    /// As many permits as threads; at least one.
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            state: Mutex::new(State::new(threads.max(1))),
        }
    }

    /// Does work on a share's account, a permit held whenever it is polled. Cancel-safe as far as the work is: dropping it gives the
    /// permit or the place in the queue back.
    // THREAT[T-org-starve] THREAT[T-box-stall-executor]
    pub(crate) async fn run<F: Future>(&self, key: ShareKey, mut work: Pin<&mut F>) -> F::Output {
        let mut member = self.join(key);
        poll_fn(move |context| {
            if COMPUTING.get() {
                member.withdraw();
                return work.as_mut().poll(context);
            }
            if !member.enter(context) {
                return Poll::Pending;
            }
            let _computing = Computing::begin(&mut member);
            work.as_mut().poll(context)
        })
        .await
    }

    /// Charges a share for what was computed for it elsewhere.
    pub(crate) fn charge(&self, key: ShareKey, computed: Duration) {
        let mut state = self.state();
        if let Some(share) = state.by_key.get(&key).copied() {
            state.charge(share, computed, Instant::now());
        }
    }

    fn join(&self, key: ShareKey) -> Member<'_> {
        Member {
            gate: self,
            share: self.state().join(key),
            used: Duration::ZERO,
            place: Place::Outside,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who have been handed a permit.
    fn hand_out(&self, mut next: Option<Waker>) {
        while let Some(waker) = next {
            // Not under the lock: waking runs code of the executor's.
            waker.wake();
            next = self.state().grant_next();
        }
    }
}

/// One poll of a guest. Its end, a panic included, gives the permit back.
struct Computing<'m, 'g> {
    member: &'m mut Member<'g>,
    since: Instant,
}

impl<'m, 'g> Computing<'m, 'g> {
    fn begin(member: &'m mut Member<'g>) -> Self {
        COMPUTING.set(true);
        Self {
            member,
            since: Instant::now(),
        }
    }
}

impl Drop for Computing<'_, '_> {
    fn drop(&mut self) {
        COMPUTING.set(false);
        let now = Instant::now();
        self.member.leave(now.duration_since(self.since), now);
    }
}

/// A call in its share.
#[derive(Debug)]
struct Member<'g> {
    gate: &'g Gate,
    /// Its share's place among the shares.
    share: usize,
    used: Duration,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fresh,
    Busy,
}

/// Where a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    /// Waits, or has been handed a permit since.
    Queued(u64, Kind),
    Inside(Kind),
}

impl Member<'_> {
    /// Whether it holds a permit now. If not, it waits, and `context` is woken when a permit is there.
    fn enter(&mut self, context: &Context<'_>) -> bool {
        let mut state = self.gate.state();
        self.place = match self.place {
            Place::Outside => {
                let kind = if self.used < SLICE { Kind::Fresh } else { Kind::Busy };
                if state.take(self.share, kind) {
                    Place::Inside(kind)
                } else {
                    Place::Queued(state.queue(self.share, kind, context.waker()), kind)
                }
            }
            Place::Queued(ticket, kind) if state.redeem(ticket) => Place::Inside(kind),
            Place::Queued(ticket, kind) => {
                state.rewake(self.share, kind, ticket, context.waker());
                Place::Queued(ticket, kind)
            }
            inside @ Place::Inside(_) => inside,
        };
        matches!(self.place, Place::Inside(_))
    }

    /// Gives the permit back.
    fn leave(&mut self, computed: Duration, now: Instant) {
        if let Place::Inside(kind) = self.place {
            self.place = Place::Outside;
            self.used = self.used.saturating_add(computed);
            let next = {
                let mut state = self.gate.state();
                state.charge(self.share, computed, now);
                state.release(self.share, kind);
                state.grant_next()
            };
            self.gate.hand_out(next);
        }
    }

    /// Leaves the queue.
    fn withdraw(&mut self) {
        if let Place::Queued(ticket, kind) = self.place {
            self.place = Place::Outside;
            let next = {
                let mut state = self.gate.state();
                if state.redeem(ticket) {
                    state.release(self.share, kind);
                } else {
                    state.unqueue(self.share, kind, ticket);
                }
                state.grant_next()
            };
            self.gate.hand_out(next);
        }
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.withdraw();
        self.leave(Duration::ZERO, Instant::now());
        self.gate.state().shares[self.share].members -= 1;
    }
}

#[derive(Debug)]
struct State {
    permits: usize,
    free: usize,
    /// Calls in all queues.
    waiting: usize,
    next_ticket: u64,
    /// Those who were handed a permit and have not come for it; never more than there are permits.
    granted: Vec<u64>,
    shares: Vec<Share>,
    by_key: HashMap<ShareKey, usize>,
    halved: Instant,
}

#[derive(Debug, Default)]
struct Share {
    key: ShareKey,
    members: usize,
    /// Busy calls that hold a permit.
    busy: usize,
    /// Nanoseconds computed lately.
    usage: u64,
    fresh_queue: VecDeque<Waiter>,
    busy_queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    waker: Waker,
}

impl Share {
    fn queue(&mut self, kind: Kind) -> &mut VecDeque<Waiter> {
        match kind {
            Kind::Fresh => &mut self.fresh_queue,
            Kind::Busy => &mut self.busy_queue,
        }
    }

    /// The kind and ticket of the call that goes next in this share: the one that came first, among those that may run.
    fn next(&self, busy_permits: usize) -> Option<(Kind, u64)> {
        let fresh = self.fresh_queue.front().map(|waiter| (Kind::Fresh, waiter.ticket));
        let busy = self.busy_queue.front().map(|waiter| (Kind::Busy, waiter.ticket));
        let busy = busy.filter(|_| self.busy < busy_permits);
        fresh.into_iter().chain(busy).min_by_key(|(_, ticket)| *ticket)
    }

    /// Nobody needs it, and it starts anew without being treated any better.
    fn is_forgettable(&self) -> bool {
        self.members == 0 && self.usage == 0
    }
}

impl State {
    fn new(permits: usize) -> Self {
        Self {
            permits,
            free: permits,
            waiting: 0,
            next_ticket: 0,
            granted: Vec::with_capacity(permits),
            shares: Vec::new(),
            by_key: HashMap::new(),
            halved: Instant::now(),
        }
    }

    fn join(&mut self, key: ShareKey) -> usize {
        let share = self.by_key.get(&key).copied().unwrap_or_else(|| {
            let forgotten = self.shares.iter().position(Share::is_forgettable);
            let place = forgotten.unwrap_or_else(|| {
                self.shares.push(Share::default());
                self.shares.len() - 1
            });
            if forgotten.is_some() {
                self.by_key.remove(&self.shares[place].key);
            }
            self.shares[place].key = key;
            self.by_key.insert(key, place);
            place
        });
        self.shares[share].members += 1;
        share
    }

    /// How many permits busy calls of one share may hold.
    fn busy_permits(&self) -> usize {
        (self.permits - 1).max(1)
    }

    fn take(&mut self, share: usize, kind: Kind) -> bool {
        let allowed = kind == Kind::Fresh || self.shares[share].busy < self.busy_permits();
        // A free permit means that nobody waits who could use it.
        if self.free == 0 || !allowed {
            return false;
        }
        self.free -= 1;
        self.shares[share].busy += usize::from(kind == Kind::Busy);
        true
    }

    fn release(&mut self, share: usize, kind: Kind) {
        self.free += 1;
        self.shares[share].busy -= usize::from(kind == Kind::Busy);
    }

    fn queue(&mut self, share: usize, kind: Kind, waker: &Waker) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting += 1;
        self.shares[share].queue(kind).push_back(Waiter {
            ticket,
            waker: waker.clone(),
        });
        ticket
    }

    fn unqueue(&mut self, share: usize, kind: Kind, ticket: u64) {
        let queue = self.shares[share].queue(kind);
        // Tickets ascend.
        if let Ok(place) = queue.binary_search_by_key(&ticket, |waiter| waiter.ticket) {
            queue.remove(place);
            self.waiting -= 1;
        }
    }

    fn rewake(&mut self, share: usize, kind: Kind, ticket: u64, waker: &Waker) {
        let queue = self.shares[share].queue(kind);
        if let Ok(place) = queue.binary_search_by_key(&ticket, |waiter| waiter.ticket) {
            queue[place].waker.clone_from(waker);
        }
    }

    /// Takes the permit that was handed to a ticket, if one was.
    fn redeem(&mut self, ticket: u64) -> bool {
        let place = self.granted.iter().position(|granted| *granted == ticket);
        place.map(|place| self.granted.swap_remove(place)).is_some()
    }

    /// Hands a free permit to who goes next: of the shares with a call that may run, the one that computed least.
    fn grant_next(&mut self) -> Option<Waker> {
        if self.free == 0 || self.waiting == 0 {
            return None;
        }
        let busy_permits = self.busy_permits();
        let candidates = self.shares.iter_mut().filter_map(|share| {
            let (kind, ticket) = share.next(busy_permits)?;
            Some((share.usage, ticket, kind, share))
        });
        let (_, _, kind, share) = candidates.min_by_key(|(usage, ticket, _, _)| (*usage, *ticket))?;
        let waiter = share.queue(kind).pop_front()?;
        share.busy += usize::from(kind == Kind::Busy);
        self.waiting -= 1;
        self.free -= 1;
        self.granted.push(waiter.ticket);
        Some(waiter.waker)
    }

    fn charge(&mut self, share: usize, computed: Duration, now: Instant) {
        let nanos = u64::try_from(computed.as_nanos()).unwrap_or(u64::MAX);
        let share = &mut self.shares[share];
        share.usage = share.usage.saturating_add(nanos);
        let since = now.saturating_duration_since(self.halved);
        if since >= HALF_LIFE {
            self.halved = now;
            let halvings = u32::try_from(since.as_nanos() / HALF_LIFE.as_nanos()).unwrap_or(u32::MAX);
            for share in &mut self.shares {
                share.usage = share.usage.checked_shr(halvings).unwrap_or(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };
    use std::task::Wake;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Bell(AtomicU32);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn join<'g>(gate: &'g Gate, org: &str) -> Member<'g> {
        gate.join(ShareKey::of(org))
    }

    /// A call that has computed for a slice already.
    fn busy<'g>(gate: &'g Gate, org: &str) -> Member<'g> {
        let mut member = join(gate, org);
        member.used = SLICE;
        member
    }

    fn enters(member: &mut Member<'_>) -> bool {
        member.enter(&Context::from_waker(Waker::noop()))
    }

    fn leaves_after(member: &mut Member<'_>, computed: Duration) {
        member.leave(computed, Instant::now());
    }

    /// Whether every permit is free and nobody waits.
    fn is_idle(gate: &Gate) -> bool {
        let state = gate.state();
        let nobody = state.shares.iter().all(|share| share.members == 0 && share.busy == 0);
        state.free == state.permits && state.waiting == 0 && state.granted.is_empty() && nobody
    }

    #[test]
    fn busy_calls_of_one_share_leave_a_thread_to_others() {
        let gate = Gate::new(2);
        let mut spinning: Vec<_> = (0..64).map(|_| busy(&gate, "a")).collect();
        let inside: Vec<bool> = spinning.iter_mut().map(enters).collect();
        assert_eq!(inside.iter().filter(|inside| **inside).count(), 1);
        assert!(enters(&mut join(&gate, "b")), "the newcomer waits");
        assert!(enters(&mut join(&gate, "a")), "so does one of the same share");
        drop(spinning);
        assert!(is_idle(&gate));
    }

    #[test]
    fn busy_calls_of_several_shares_use_every_thread() {
        let gate = Gate::new(2);
        let (mut a, mut b) = (busy(&gate, "a"), busy(&gate, "b"));
        assert!(enters(&mut a) && enters(&mut b));
    }

    #[test]
    fn short_calls_of_one_share_use_every_thread() {
        let gate = Gate::new(2);
        let (mut one, mut other) = (join(&gate, "a"), join(&gate, "a"));
        assert!(enters(&mut one) && enters(&mut other));
    }

    #[test]
    fn the_share_that_computed_least_goes_first() {
        let gate = Gate::new(1);
        let mut running = join(&gate, "a");
        assert!(enters(&mut running));
        let mut waiting: Vec<_> = ["a", "a", "b"].map(|org| join(&gate, org)).into();
        assert!(!waiting.iter_mut().any(enters));
        leaves_after(&mut running, Duration::from_millis(5));
        assert!(!enters(&mut running), "it went before those who wait");
        let inside: Vec<bool> = waiting.iter_mut().map(enters).collect();
        assert_eq!(inside, [false, false, true]);
    }

    #[test]
    fn what_is_done_for_a_share_elsewhere_counts_like_what_it_computes() {
        let gate = Gate::new(1);
        let mut running = join(&gate, "c");
        assert!(enters(&mut running));
        let mut waiting: Vec<_> = ["a", "b"].map(|org| join(&gate, org)).into();
        assert!(!waiting.iter_mut().any(enters));
        gate.charge(ShareKey::of("a"), Duration::from_millis(5));
        leaves_after(&mut running, SLICE);
        let inside: Vec<bool> = waiting.iter_mut().map(enters).collect();
        assert_eq!(inside, [false, true]);
    }

    #[test]
    fn shares_that_always_have_work_compute_alike() {
        let gate = Gate::new(1);
        let mut calls: Vec<_> = (0..20).map(|n| busy(&gate, if n < 19 { "a" } else { "b" })).collect();
        let mut turns = [0_u32; 20];
        calls.iter_mut().for_each(|call| {
            enters(call);
        });
        for _ in 0..400 {
            let running = calls.iter_mut().position(enters).unwrap();
            turns[running] += 1;
            leaves_after(&mut calls[running], SLICE);
            enters(&mut calls[running]);
        }
        let of_b = turns[19];
        assert!((150..=250).contains(&of_b), "{turns:?}");
        // And no call of a share before another: each has had its turn equally often.
        let (least, most) = (turns[..19].iter().min().unwrap(), turns[..19].iter().max().unwrap());
        assert!(most - least <= 1, "{turns:?}");
    }

    #[test]
    fn who_is_handed_a_permit_is_woken() {
        let gate = Gate::new(1);
        let mut running = join(&gate, "a");
        assert!(enters(&mut running));
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut waiting = join(&gate, "b");
        // Polled again from elsewhere: the last waker counts.
        assert!(!enters(&mut waiting));
        assert!(!waiting.enter(&Context::from_waker(&waker)));
        leaves_after(&mut running, SLICE);
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
        assert!(enters(&mut waiting));
    }

    #[test]
    fn a_call_that_is_dropped_gives_back_what_it_has() {
        let gate = Gate::new(1);
        let mut running = join(&gate, "a");
        let (mut handed, mut waiting) = (join(&gate, "b"), join(&gate, "b"));
        assert!(enters(&mut running) && !enters(&mut handed) && !enters(&mut waiting));
        // Inside: the next gets it. Handed and not come for: so does the next. Waiting: leaves the queue.
        drop(running);
        drop(handed);
        assert!(enters(&mut waiting));
        let mut queued = join(&gate, "a");
        assert!(!enters(&mut queued));
        drop(queued);
        drop(waiting);
        assert!(is_idle(&gate));
    }

    #[test]
    fn a_share_is_forgotten_when_nobody_needs_it_and_its_use_has_faded() {
        let gate = Gate::new(1);
        for number in 0..1000 {
            let mut call = join(&gate, &number.to_string());
            assert!(enters(&mut call));
            let late = Instant::now() + HALF_LIFE * 64 * (number + 1);
            call.leave(Duration::from_millis(1), late);
        }
        let state = gate.state();
        assert!(state.shares.len() <= 2, "{}", state.shares.len());
        assert_eq!(state.by_key.len(), state.shares.len());
    }

    #[tokio::test]
    async fn a_call_within_a_call_computes_with_the_permit_of_the_outer() {
        let gate = Gate::new(1);
        let inner = async {
            tokio::task::yield_now().await;
            1
        };
        let outer = async { gate.run(ShareKey::of("a"), pin!(inner)).await + 1 };
        assert_eq!(gate.run(ShareKey::of("a"), pin!(outer)).await, 2);
        assert!(is_idle(&gate));
    }

    #[tokio::test]
    async fn a_panic_gives_the_permit_back() {
        let gate = Arc::new(Gate::new(1));
        let breaks = Arc::clone(&gate);
        let broken = tokio::spawn(async move {
            let breaking = pin!(async { panic!("boom") });
            breaks.run(ShareKey::default(), breaking).await
        });
        assert!(broken.await.is_err());
        assert!(is_idle(&gate) && !COMPUTING.get());
    }
}
