use super::*;
use fumehood_core::call::{CallError, CallErrorCode};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

fn limits(limits: OrgLimits) -> Limits {
    Limits::new([(OrgName::default_org(), limits)].into())
}

fn rate(text: &str) -> Option<Rate> {
    Some(text.parse().unwrap())
}

#[tokio::test]
async fn what_goes_beyond_the_rate_is_told_when_to_come_back() {
    let limits = limits(OrgLimits {
        turns: rate("2/hour"),
        ..OrgLimits::none()
    });
    let org = OrgName::default_org();
    let counted = limits.turn(&org).await.unwrap().unwrap();
    assert_eq!(counted.limit, "turns");
    assert_eq!((counted.standing.limit, counted.standing.remaining), (2, 1));
    limits.turn(&org).await.unwrap();
    let limited = limits.turn(&org).await.unwrap_err();
    let wait = limited.retry_after();
    assert!(wait > Duration::from_secs(1700) && wait <= Duration::from_secs(1800));
    assert!(limited.to_string().contains("`turns = 2/hour`"), "{limited}");
    let error = CallError::from(limited);
    assert_eq!(error.code, CallErrorCode::RateLimited);
    assert!(error.retry_after_ms.is_some());
}

#[tokio::test]
async fn orgs_do_not_share_a_limit() {
    let turns = || OrgLimits {
        turns: rate("1/hour"),
        ..OrgLimits::none()
    };
    let other = OrgName::new("acme").unwrap();
    let limits = Limits::new([(OrgName::default_org(), turns()), (other.clone(), turns())].into());
    assert!(limits.turn(&OrgName::default_org()).await.is_ok());
    assert!(limits.turn(&OrgName::default_org()).await.is_err());
    assert!(limits.turn(&other).await.is_ok());
}

#[tokio::test]
async fn an_org_without_a_section_has_the_default_limits() {
    let limits = Limits::default();
    let org = OrgName::new("acme").unwrap();
    assert_eq!(limits.turn(&org).await.unwrap(), None, "no rate is assumed");
    let mut places = Vec::new();
    for _ in 0..1000 {
        places.push(limits.place(&org, None).await.unwrap());
    }
    let mut next = Box::pin(limits.place(&org, None));
    assert!(
        futures::poll!(&mut next).is_pending(),
        "calls at the same time are bounded"
    );
}

#[tokio::test]
async fn a_component_keeps_to_its_own_rate() {
    let limits = Limits::default();
    let org = OrgName::default_org();
    let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
    assert!(limits.call(&org, one, rate("1/hour")).await.is_ok());
    let limited = limits.call(&org, one, rate("1/hour")).await.unwrap_err();
    assert_eq!(limited.limit(), "rate.calls");
    assert!(limits.call(&org, other, rate("1/hour")).await.is_ok());
}

#[tokio::test]
async fn a_call_that_its_component_may_not_make_costs_the_org_nothing() {
    let limits = limits(OrgLimits {
        tool_calls: rate("2/hour"),
        ..OrgLimits::none()
    });
    let org = OrgName::default_org();
    let component = Digest::of(b"one");
    assert!(limits.call(&org, component, rate("1/hour")).await.is_ok());
    for _ in 0..5 {
        assert!(limits.call(&org, component, rate("1/hour")).await.is_err());
    }
    assert!(limits.call(&org, Digest::of(b"other"), None).await.is_ok());
}

#[tokio::test]
async fn a_turn_that_was_given_back_can_be_taken_again() {
    let limits = limits(OrgLimits {
        turns: rate("1/hour"),
        ..OrgLimits::none()
    });
    let org = OrgName::default_org();
    limits.turn(&org).await.unwrap();
    limits.give_back_turn(&org).await;
    assert!(limits.turn(&org).await.is_ok());
}

#[tokio::test]
async fn an_org_in_debt_for_its_bytes_sends_nothing_until_it_is_paid() {
    let limits = limits(OrgLimits {
        egress_bytes: Some("1KiB/hour".parse().unwrap()),
        ..OrgLimits::none()
    });
    let org = OrgName::default_org();
    limits.egress_request(&org).await.unwrap();
    limits.egress_bytes(&org, 4096).await;
    let limited = limits.egress_request(&org).await.unwrap_err();
    assert_eq!(limited.limit(), "egress_bytes");
    assert!(limited.retry_after() > Duration::from_secs(3 * 3600 - 60), "{limited}");
}

/// A store that never answers rightly.
struct Gone;

#[async_trait::async_trait]
impl RateStore for Gone {
    async fn take(&self, _: &[Want<'_>]) -> Result<Taken, StoreDown> {
        self.ping().await?;
        Err(StoreDown("gone".into()))
    }
    async fn charge(&self, _: Want<'_>) -> Result<(), StoreDown> {
        self.ping().await
    }
    async fn give_back(&self, _: Want<'_>) -> Result<(), StoreDown> {
        self.ping().await
    }
    async fn ping(&self) -> Result<(), StoreDown> {
        Err(StoreDown("gone".into()))
    }
}

#[tokio::test]
async fn while_the_store_is_down_an_org_is_admitted_or_refused_as_it_is_configured() {
    let (open, closed) = (OrgName::default_org(), OrgName::new("closed").unwrap());
    let limited = |fail| OrgLimits {
        turns: rate("120/min"),
        fail,
        ..OrgLimits::none()
    };
    let orgs = [
        (open.clone(), limited(FailMode::Open)),
        (closed.clone(), limited(FailMode::Closed)),
    ];
    let limits = Limits::shared(orgs.into(), Arc::new(Gone));
    for _ in 0..10 {
        assert_eq!(limits.turn(&open).await, Ok(None));
        let limited = limits.turn(&closed).await.unwrap_err();
        assert_eq!(limited, Limited::Unknown { limit: "turns" });
        assert!(limited.to_string().contains("does not answer"), "{limited}");
    }
    limits.egress_bytes(&open, 1).await;
}

/// A busy store: right, but each answer takes longer than a healthy one's.
#[derive(Default)]
struct Slow {
    rates: MemoryRates,
    asked: AtomicU32,
}

impl Slow {
    async fn dawdle(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

#[async_trait::async_trait]
impl RateStore for Slow {
    async fn take(&self, wants: &[Want<'_>]) -> Result<Taken, StoreDown> {
        self.dawdle().await;
        self.rates.take(wants).await
    }
    async fn charge(&self, want: Want<'_>) -> Result<(), StoreDown> {
        self.dawdle().await;
        self.rates.charge(want).await
    }
    async fn give_back(&self, want: Want<'_>) -> Result<(), StoreDown> {
        self.dawdle().await;
        self.rates.give_back(want).await
    }
    async fn ping(&self) -> Result<(), StoreDown> {
        self.dawdle().await;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_of_one_org_does_not_switch_the_limits_off() {
    let org = OrgName::default_org();
    let limited = OrgLimits {
        turns: rate("60/hour"),
        ..OrgLimits::none()
    };
    let limits = Arc::new(Limits::shared(
        [(org.clone(), limited)].into(),
        Arc::new(Slow::default()),
    ));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let (limits, org) = (Arc::clone(&limits), org.clone());
        asking.spawn(async move { limits.turn(&org).await });
    }
    let counted = asking.join_all().await.iter().filter(|asked| asked.is_ok()).count();
    assert_eq!(counted, 60);
}

#[tokio::test]
async fn who_listens_takes_a_place_of_the_org_and_no_more_than_there_are() {
    let limits = limits(OrgLimits {
        concurrent_streams: Some(1),
        ..OrgLimits::none()
    });
    let (org, other) = (OrgName::default_org(), OrgName::new("acme").unwrap());
    let first = limits.stream(&org).await.unwrap();
    assert_eq!(limits.stream(&org).await.unwrap_err().limit(), "concurrent_streams");
    assert!(limits.stream(&other).await.is_ok());
    drop(first);
    assert!(limits.stream(&org).await.is_ok());
}
