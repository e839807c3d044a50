use super::*;
use crate::limits::{Taken, Want};
use async_trait::async_trait;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store whose ping does what a test says.
#[derive(Default)]
struct Pinged {
    is_there: AtomicBool,
    pings: AtomicU32,
}

#[async_trait]
impl RateStore for Pinged {
    async fn take(&self, _: &[Want<'_>]) -> Result<Taken, StoreDown> {
        Err(StoreDown("not asked here".into()))
    }
    async fn charge(&self, _: Want<'_>) -> Result<(), StoreDown> {
        Ok(())
    }
    async fn give_back(&self, _: Want<'_>) -> Result<(), StoreDown> {
        Ok(())
    }
    async fn ping(&self) -> Result<(), StoreDown> {
        self.pings.fetch_add(1, Ordering::SeqCst);
        match self.is_there.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(StoreDown("gone".into())),
        }
    }
}

fn there() -> Arc<Pinged> {
    let store = Pinged::default();
    store.is_there.store(true, Ordering::SeqCst);
    Arc::new(store)
}

async fn gone() -> Result<(), StoreDown> {
    Err(StoreDown("gone".into()))
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_store_that_failed_is_left_alone() {
    let guard = Guard::new(there());
    let asked = Arc::new(AtomicU32::new(0));
    for _ in 0..100 {
        let asked = Arc::clone(&asked);
        let check = async move {
            asked.fetch_add(1, Ordering::Relaxed);
            gone().await
        };
        assert!(guard.ask(check).await.is_err());
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_late_check_is_missed_without_switching_the_store_off() {
    let guard = Guard::new(there());
    let hang = std::future::pending::<Result<(), StoreDown>>;
    for _ in 0..LATE_IN_A_ROW - 1 {
        let error = guard.ask(hang()).await.unwrap_err();
        assert!(error.to_string().contains("250 ms"), "{error}");
    }
    let many: Vec<_> = (0..100).map(|_| guard.ask(hang())).collect();
    assert!(futures::future::join_all(many).await.iter().all(Result::is_err));
    assert_eq!(guard.ask(async { Ok(7) }).await, Ok(7));
    assert!(guard.watch.known().outage.is_none());
}

#[test]
fn a_store_that_answers_nobody_for_a_while_is_left_alone() {
    let watch = Watch::default();
    for _ in 0..100 {
        watch.late(watch.era());
    }
    assert!(watch.known().outage.is_none(), "all were late at one time");
    watch.known().late_since = Some(Instant::now().checked_sub(LATE_FOR).unwrap());
    watch.late(watch.era());
    assert!(watch.known().outage.is_some());
}

#[test]
fn an_answer_between_late_checks_keeps_the_store_in_use() {
    let watch = Watch::default();
    for _ in 0..100 {
        watch.late(watch.era());
        watch.known().late_since = Some(Instant::now().checked_sub(LATE_FOR).unwrap());
        watch.answered(watch.era());
    }
    watch.late(watch.era());
    assert!(watch.known().outage.is_none());
}

#[test]
fn what_began_before_an_outage_neither_ends_it_nor_begins_another() {
    let watch = Watch::default();
    let before = watch.era();
    watch.failed(before, &StoreDown("gone".into()));
    watch.answered(before);
    assert!(watch.known().outage.is_some(), "only a ping ends it");
    assert!(!watch.pinged((before, Instant::now()), Ok(())), "that ping is older");
    assert!(watch.pinged((watch.era(), Instant::now()), Ok(())));
    watch.failed(before, &StoreDown("gone".into()));
    watch.late(before);
    assert!(watch.known().outage.is_none());
    assert_eq!(watch.known().late, 0);
}

#[test]
fn a_ping_that_hung_while_checks_were_answered_begins_no_outage() {
    let watch = Watch::default();
    let begun = (watch.era(), Instant::now());
    watch.answered(watch.era());
    assert!(watch.pinged(begun, Err(no_answer(PING_LIMIT))));
    assert!(!watch.pinged((watch.era(), Instant::now()), Err(no_answer(PING_LIMIT))));
}

#[tokio::test]
async fn a_store_that_is_gone_from_the_start_is_known_before_the_first_check() {
    let store = Arc::<Pinged>::default();
    let guard = Guard::new(Arc::clone(&store) as Arc<_>);
    until("nobody looked", || guard.watch.known().outage.is_some()).await;
    assert!(guard.ask(async { Ok(()) }).await.is_err(), "it was asked all the same");
    store.is_there.store(true, Ordering::SeqCst);
    until("its return was not noticed", || guard.watch.known().outage.is_none()).await;
    assert!(guard.ask(async { Ok(()) }).await.is_ok());
}

#[tokio::test]
async fn the_ping_ends_with_the_guard() {
    let store = there();
    let guard = Guard::new(Arc::clone(&store) as Arc<_>);
    until("no ping", || store.pings.load(Ordering::SeqCst) > 0).await;
    drop(guard);
    until("the ping goes on", || Arc::strong_count(&store) == 1).await;
}
