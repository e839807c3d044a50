//! Who goes first where there is room for only so many: slots, handed out so that one share (an org) can't hold them all.
//!
//! How many a share may hold depends on how many are free. For calls that is four times as many: so a share that is alone gets
//! four fifths of the slots, two get four ninths each, and whoever comes new finds a free one. Who finds none for its share
//! waits; the next goes to the share that holds the fewest, and among those to who came first.
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

/// For each slot, so many of a share may wait.
const WAITING_PER_SLOT: usize = 4;

/// So many slots.
pub(crate) struct Slots {
    state: Mutex<State>,
    /// How many a share may hold, by how many are free.
    most: Most,
    /// The most of one share that wait.
    may_wait: usize,
}

type Most = fn(usize) -> usize;

/// What a share may hold of the slots for calls.
pub(crate) fn four_times_the_free(free: usize) -> usize {
    free.saturating_mul(4)
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
    waiting: HashMap<ShareKey, VecDeque<Waiter>>,
    /// How many ever waited.
    waited: u64,
}

struct Waiter {
    number: u64,
    given: oneshot::Sender<Slot>,
}

impl Slots {
    pub(crate) fn new(slots: usize, most: Most) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                free: slots,
                ..State::default()
            }),
            most,
            may_wait: slots.saturating_mul(WAITING_PER_SLOT),
        })
    }

    /// A slot, if the share can have one now.
    // THREAT[T-org-slots]
    pub(crate) fn try_take(self: &Arc<Self>, share: ShareKey) -> Option<Slot> {
        self.lock().take(share, self.most).then(|| self.slot(share))
    }

    /// A slot, if there is one by then and not too many wait for it. Cancel-safe.
    pub(crate) async fn take(self: &Arc<Self>, share: ShareKey, deadline: Instant) -> Option<Slot> {
        let given = {
            let mut state = self.lock();
            if state.take(share, self.most) {
                return Some(self.slot(share));
            }
            state.waited += 1;
            let number = state.waited;
            let waiting = state.waiting.entry(share).or_default();
            if waiting.len() >= self.may_wait {
                waiting.retain(|waiter| !waiter.given.is_closed());
            }
            // THREAT[T-org-flood]: what waits holds memory.
            if waiting.len() >= self.may_wait {
                return None;
            }
            let (sender, given) = oneshot::channel();
            waiting.push_back(Waiter { number, given: sender });
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
        while let Some((share, waiter)) = state.next(self.most) {
            if let Err(mut slot) = waiter.given.send(self.slot(share)) {
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
    fn may_take(&self, share: ShareKey, most: Most) -> bool {
        self.free > 0 && self.held(share) < most(self.free)
    }

    fn held(&self, share: ShareKey) -> usize {
        self.held.get(&share).copied().unwrap_or_default()
    }

    fn take(&mut self, share: ShareKey, most: Most) -> bool {
        let may = self.may_take(share, most);
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

    /// Who gets a slot now, which is taken for it.
    fn next(&mut self, most: Most) -> Option<(ShareKey, Waiter)> {
        let fronts = self
            .waiting
            .iter()
            .filter(|(share, _)| self.may_take(**share, most))
            .filter_map(|(share, waiting)| Some((*share, waiting.front()?.number)));
        let (share, _) = fronts.min_by_key(|(share, number)| (self.held(*share), *number))?;
        let waiting = self.waiting.get_mut(&share)?;
        let waiter = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&share);
        }
        let waiter = waiter?;
        self.take(share, most).then_some((share, waiter))
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
        let slots = Slots::new(1250, four_times_the_free);
        assert_eq!(take_all(&slots, "a").len(), 1000);
    }

    #[test]
    fn whoever_comes_new_finds_a_slot_beside_shares_that_take_all_they_can() {
        let slots = Slots::new(1250, four_times_the_free);
        let _first = take_all(&slots, "a");
        let _second = take_all(&slots, "b");
        let third = take_all(&slots, "c");
        assert!(third.len() > 10, "{}", third.len());
    }

    #[test]
    fn the_only_slot_can_be_taken() {
        assert_eq!(take_all(&Slots::new(1, four_times_the_free), "a").len(), 1);
    }

    #[tokio::test]
    async fn the_next_slot_goes_to_the_share_that_holds_the_fewest() {
        let slots = Slots::new(4, four_times_the_free);
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
        let slots = Slots::new(1, four_times_the_free);
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
        let slots = Slots::new(1, four_times_the_free);
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
        let slots = Slots::new(1, four_times_the_free);
        let _slot = slots.try_take(share("a"));
        let mut waiting: Vec<_> = (0..WAITING_PER_SLOT).map(|_| waits(&slots, "a")).collect();
        let soon = Instant::now() + Duration::from_secs(600);
        assert!(slots.take(share("a"), soon).await.is_none());
        waiting.pop();
        let _last = waits(&slots, "a");
    }

    #[tokio::test]
    async fn shares_that_may_hold_one_each_take_turns() {
        let slots = Slots::new(2, |_| 1);
        let first = slots.try_take(share("a"));
        let mut again = waits(&slots, "a");
        // The second slot is for another share.
        let _other = slots.try_take(share("b")).unwrap();
        let mut third = waits(&slots, "c");
        drop(first);
        let Poll::Ready(Some(slot)) = poll(&mut again) else {
            panic!("it came first");
        };
        assert!(poll(&mut third).is_pending());
        drop(slot);
        assert!(matches!(poll(&mut third), Poll::Ready(Some(_))));
    }
}
