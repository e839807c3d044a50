//! Which calls run: slots for instances, handed out so that calls of one share (an org) can't hold them all.
//!
//! A share may take one more slot while it holds fewer than four times as many as are free. So a share that is alone gets four
//! fifths, two get four ninths each, and whoever comes new finds a free one. A call that finds none for its share waits; the
//! next goes to the share that holds the fewest, and in it to the call that came first.
//!
//! A call that another call makes never waits: what it would wait for might be its caller's to give back.

use crate::share::ShareKey;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::oneshot;

/// For each that is free, a share may hold so many.
const HELD_PER_FREE: usize = 4;

/// For each slot, so many calls of a share may wait.
const WAITING_PER_SLOT: usize = 4;

/// The slots of a sandbox.
pub(crate) struct Slots {
    state: Mutex<State>,
    /// The most calls of one share that wait.
    may_wait: usize,
}

/// Holds a slot until dropped.
pub(crate) struct Slot {
    home: Option<Arc<Slots>>,
    share: ShareKey,
}

#[derive(Default)]
struct State {
    free: usize,
    /// By those that hold any.
    held: HashMap<ShareKey, usize>,
    /// By those of which any wait. Who gave up stays until its turn, or until the queue is full.
    waiting: HashMap<ShareKey, VecDeque<oneshot::Sender<Slot>>>,
}

impl Slots {
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                free: slots,
                ..State::default()
            }),
            may_wait: slots.saturating_mul(WAITING_PER_SLOT),
        })
    }

    /// A slot, if the share can have one now.
    // THREAT[T-org-slots]
    pub(crate) fn try_take(self: &Arc<Self>, share: ShareKey) -> Option<Slot> {
        self.lock().take(share).then(|| self.slot(share))
    }

    /// A slot, if there is one by then and not too many wait for it. Cancel-safe.
    pub(crate) async fn take(self: &Arc<Self>, share: ShareKey, deadline: Instant) -> Option<Slot> {
        let given = {
            let mut state = self.lock();
            if state.take(share) {
                return Some(self.slot(share));
            }
            let waiting = state.waiting.entry(share).or_default();
            if waiting.len() >= self.may_wait {
                waiting.retain(|waiter| !waiter.is_closed());
            }
            // THREAT[T-org-flood]: what waits holds memory.
            if waiting.len() >= self.may_wait {
                return None;
            }
            let (waiter, given) = oneshot::channel();
            waiting.push_back(waiter);
            given
        };
        tokio::time::timeout_at(deadline.into(), given).await.ok()?.ok()
    }

    fn slot(self: &Arc<Self>, share: ShareKey) -> Slot {
        Slot {
            home: Some(Arc::clone(self)),
            share,
        }
    }

    /// Takes a slot back and hands out what can be.
    fn give_back(self: &Arc<Self>, share: ShareKey) {
        let mut state = self.lock();
        state.give_back(share);
        while let Some((share, waiter)) = state.next() {
            if let Err(mut slot) = waiter.send(self.slot(share)) {
                // It gave up.
                slot.home = None;
                state.give_back(share);
            }
        }
    }

    /// How many are free.
    pub(crate) fn free(&self) -> usize {
        self.lock().free
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_take(&self, share: ShareKey) -> bool {
        self.held(share) < self.free.saturating_mul(HELD_PER_FREE)
    }

    fn held(&self, share: ShareKey) -> usize {
        self.held.get(&share).copied().unwrap_or_default()
    }

    fn take(&mut self, share: ShareKey) -> bool {
        let may = self.may_take(share);
        if may {
            self.free -= 1;
            *self.held.entry(share).or_default() += 1;
        }
        may
    }

    fn give_back(&mut self, share: ShareKey) {
        self.free += 1;
        if let Some(held) = self.held.get_mut(&share) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&share);
            }
        }
    }

    /// The call that gets a slot now, which is taken for it.
    fn next(&mut self) -> Option<(ShareKey, oneshot::Sender<Slot>)> {
        let shares = self.waiting.keys().copied();
        let share = shares
            .filter(|share| self.may_take(*share))
            .min_by_key(|share| self.held(*share))?;
        let waiting = self.waiting.get_mut(&share)?;
        let waiter = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&share);
        }
        let waiter = waiter?;
        self.take(share).then_some((share, waiter))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give_back(self.share);
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots")
            .field("free", &self.free())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        pin::Pin,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    fn share(name: &str) -> ShareKey {
        ShareKey::of(name)
    }

    fn take_all(slots: &Arc<Slots>, name: &str) -> Vec<Slot> {
        std::iter::from_fn(|| slots.try_take(share(name))).collect()
    }

    type Waits<'a> = Pin<Box<dyn Future<Output = Option<Slot>> + 'a>>;

    fn poll(waits: &mut Waits<'_>) -> Poll<Option<Slot>> {
        waits.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Waits for a slot, and is in the queue already.
    fn waits<'a>(slots: &'a Arc<Slots>, name: &str) -> Waits<'a> {
        let mut waits: Waits<'a> = Box::pin(slots.take(share(name), Instant::now() + Duration::from_secs(600)));
        assert!(poll(&mut waits).is_pending());
        waits
    }

    #[test]
    fn a_share_that_is_alone_leaves_a_fifth_of_the_slots() {
        let slots = Slots::new(1250);
        assert_eq!(take_all(&slots, "a").len(), 1000);
    }

    #[test]
    fn whoever_comes_new_finds_a_slot_beside_shares_that_take_all_they_can() {
        let slots = Slots::new(1250);
        let _first = take_all(&slots, "a");
        let _second = take_all(&slots, "b");
        let third = take_all(&slots, "c");
        assert!(third.len() > 10, "{}", third.len());
    }

    #[test]
    fn the_only_slot_can_be_taken() {
        assert_eq!(take_all(&Slots::new(1), "a").len(), 1);
    }

    #[tokio::test]
    async fn the_next_slot_goes_to_the_share_that_holds_the_fewest() {
        let slots = Slots::new(4);
        let mut many = take_all(&slots, "a");
        assert_eq!(many.len(), 4);
        let mut same = waits(&slots, "a");
        let mut other = waits(&slots, "b");
        many.pop();
        assert!(poll(&mut same).is_pending());
        let Poll::Ready(Some(_slot)) = poll(&mut other) else {
            panic!("it should have been given the slot");
        };
    }

    #[tokio::test]
    async fn calls_of_a_share_are_served_in_the_order_they_came() {
        let slots = Slots::new(1);
        let slot = slots.try_take(share("a"));
        let mut first = waits(&slots, "a");
        let mut second = waits(&slots, "a");
        drop(slot);
        let Poll::Ready(Some(slot)) = poll(&mut first) else {
            panic!("it should have been given the slot");
        };
        assert!(poll(&mut second).is_pending());
        drop(slot);
        assert!(matches!(poll(&mut second), Poll::Ready(Some(_))));
    }

    #[tokio::test]
    async fn who_gives_up_takes_no_slot_along() {
        let slots = Slots::new(1);
        let slot = slots.try_take(share("a"));
        drop(waits(&slots, "a"));
        let given = waits(&slots, "a");
        let mut last = waits(&slots, "a");
        drop(slot);
        // It was given the slot and goes before it looks.
        drop(given);
        assert!(matches!(poll(&mut last), Poll::Ready(Some(_))));
        drop(last);
        let state = slots.lock();
        assert!(state.free == 1 && state.waiting.is_empty() && state.held.is_empty());
    }

    #[tokio::test]
    async fn only_so_many_wait_for_a_slot_and_who_gives_up_makes_room() {
        let slots = Slots::new(1);
        let _slot = slots.try_take(share("a"));
        let mut waiting: Vec<_> = (0..WAITING_PER_SLOT).map(|_| waits(&slots, "a")).collect();
        let soon = Instant::now() + Duration::from_secs(600);
        assert!(slots.take(share("a"), soon).await.is_none());
        waiting.pop();
        let _last = waits(&slots, "a");
    }
}
