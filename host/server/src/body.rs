//! Bodies that are read into memory whole: how large each may be and how fast it must come, and how many large ones there are at
//! once, so that neither a client nor an org keeps others from sending theirs.

use crate::{
    app::App,
    auth::Client,
    problem::{Answer, Problem, ProblemCode},
};
use axum::body::Body;
use fumehood_core::name::OrgName;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

/// Large bodies in memory at a time; others wait for their turn.
const AT_ONCE: usize = 8;
/// Of one org.
const OF_ONE_ORG: usize = 2;
/// What is read of a body that is refused, at most, and for how long.
const PASSED_OVER: usize = 4 << 20;
const PASSED_OVER_IN: Duration = Duration::from_secs(2);
/// What has to come of a large body in each such span.
const SLOWEST: usize = 64 << 10;
const SPAN: Duration = Duration::from_secs(5);

/// A body that came whole. A large one keeps its place until it is dropped: drop it when its bytes are not held any more.
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) place: Option<UploadPlace>,
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body of a client whole.
///
/// # Errors
/// A problem when it is larger than `limit` bytes, late, too slow or cut off, or when there are too many large ones.
pub(crate) async fn read_body(
    app: &App,
    client: &Client,
    headers: HeaderMap,
    body: Body,
    limit: usize,
) -> Answer<Received> {
    read(app, Some(&client.org), headers, body, limit).await
}

/// Reads a body whole that is never large.
///
/// # Errors
/// A problem when it is larger than `limit` bytes, or large at all, late or cut off.
pub(crate) async fn read_small(app: &App, headers: HeaderMap, body: Body, limit: usize) -> Answer<Received> {
    read(app, None, headers, body, limit.min(app.config.json_body)).await
}

// By value: a future that holds a `Body` by reference is not `Send`.
async fn read(app: &App, org: Option<&OrgName>, headers: HeaderMap, mut body: Body, limit: usize) -> Answer<Received> {
    // THREAT[T-api-oversize]: refused by its own claim where it makes one, and counted while it is read.
    let claimed = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if claimed.is_some_and(|claimed| claimed > limit) {
        pass_over(&headers, body).await;
        return Err(too_large(limit));
    }
    let mut received = Received {
        bytes: Vec::new(),
        place: None,
    };
    // THREAT[T-net-slow-drip]: a body has a time to arrive in, and a large one a pace to keep.
    let mut due = Instant::now() + app.config.body_time;
    let mut pace: Option<Pace> = None;
    loop {
        let wait = pace.as_ref().map_or(due, |pace| pace.until.min(due));
        match timeout_at(wait, body.frame()).await {
            Ok(None) => return Ok(received),
            Ok(Some(Err(_))) => return Err(broken_off()),
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                if received.bytes.len().saturating_add(data.len()) > limit {
                    drop(received);
                    pass_over(&headers, body).await;
                    return Err(too_large(limit));
                }
                received.bytes.extend_from_slice(&data);
                if let Some(pace) = &mut pace {
                    pace.came += data.len();
                }
            }
            Err(_) if Instant::now() >= due => return Err(late(app.config.body_time)),
            Err(_) => {}
        }
        if let Some(pace) = &mut pace
            && !pace.is_kept(Instant::now())
        {
            return Err(too_slow());
        }
        // THREAT[T-org-connections]: a place is for bytes that came, so that a claim alone holds none.
        if let Some(org) = org
            && received.place.is_none()
            && received.bytes.len() > app.config.json_body
        {
            received.place = Some(app.uploads.place(org, app.config.upload_wait).await?);
            received
                .bytes
                .reserve_exact(claimed.unwrap_or(0).saturating_sub(received.bytes.len()));
            due = Instant::now() + app.config.body_time;
            pace = Some(Pace::from(Instant::now()));
        }
    }
}

/// Reads on for a while without keeping anything, unless the client waits to be told whether it may send: one that sends all before it
/// reads would find its connection reset, and never the reason.
async fn pass_over(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let reading = async {
        let mut left = PASSED_OVER;
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len()));
        }
    };
    let _ = timeout(PASSED_OVER_IN, reading).await;
}

/// How fast a body comes.
struct Pace {
    until: Instant,
    came: usize,
}

impl From<Instant> for Pace {
    fn from(now: Instant) -> Self {
        Self {
            until: now + SPAN,
            came: 0,
        }
    }
}

impl Pace {
    /// Whether enough came in the span that is over; one that isn't says nothing yet.
    fn is_kept(&mut self, now: Instant) -> bool {
        if now < self.until {
            return true;
        }
        let came = std::mem::replace(self, Self::from(now)).came;
        came >= SLOWEST
    }
}

/// The places of large bodies.
#[derive(Debug)]
pub(crate) struct Uploads {
    all: Arc<Semaphore>,
    /// Of those orgs that have or want one.
    orgs: Mutex<HashMap<OrgName, Arc<Semaphore>>>,
}

/// Holds a large body's place until dropped.
#[derive(Debug)]
pub(crate) struct UploadPlace {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(AT_ONCE)),
            orgs: Mutex::default(),
        }
    }
}

impl Uploads {
    // THREAT[T-org-connections]: an org waits for its own places first, so that it never fills the queue for those of all.
    async fn place(&self, org: &OrgName, patience: Duration) -> Answer<UploadPlace> {
        let own = timeout(patience, self.of(org).acquire_owned()).await;
        let Ok(Ok(own)) = own else {
            let detail = format!(
                "the org sends {OF_ONE_ORG} large bodies already, as many as may at a time; wait for one of them, then try again"
            );
            let problem = Problem::new(ProblemCode::RateLimited, detail).with("limit", "large_bodies");
            return Err(problem.with_header(header::RETRY_AFTER, patience.as_secs().max(1)));
        };
        let all = timeout(patience, Arc::clone(&self.all).acquire_owned()).await;
        let Ok(Ok(all)) = all else {
            let detail = format!("the host takes {AT_ONCE} large bodies at a time, and has as many; try again later");
            return Err(Problem::new(ProblemCode::Overloaded, detail));
        };
        Ok(UploadPlace { _own: own, _all: all })
    }

    fn of(&self, org: &OrgName) -> Arc<Semaphore> {
        let mut orgs = self.orgs.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever holds or awaits a place holds its semaphore.
        orgs.retain(|_, places| Arc::strong_count(places) > 1);
        let places = orgs
            .entry(org.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(OF_ONE_ORG)));
        Arc::clone(places)
    }
}

fn too_large(limit: usize) -> Problem {
    let detail = format!("the body is larger than the {limit} bytes that the route takes");
    Problem::new(ProblemCode::BodyTooLarge, detail).with("limit", limit as u64)
}

fn broken_off() -> Problem {
    Problem::new(ProblemCode::BodyIncomplete, "the body ended before it was whole")
}

fn late(time: Duration) -> Problem {
    let detail = format!("the body did not arrive within {} s", time.as_secs());
    Problem::new(ProblemCode::BodyTimeout, detail)
}

fn too_slow() -> Problem {
    let (kib, seconds) = (SLOWEST >> 10, SPAN.as_secs());
    let detail = format!("less than {kib} KiB of the body arrived in {seconds} s; a large body has to come faster");
    Problem::new(ProblemCode::BodyTimeout, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_body_that_drips_is_too_slow_and_one_that_comes_in_bursts_is_not() {
        let now = Instant::now();
        let mut pace = Pace::from(now);
        assert!(pace.is_kept(now + SPAN / 2), "its span is not over");
        pace.came = SLOWEST;
        assert!(pace.is_kept(now + SPAN));
        pace.came = SLOWEST - 1;
        assert!(pace.is_kept(now + SPAN + SPAN / 2));
        assert!(!pace.is_kept(now + SPAN * 2));
    }

    #[tokio::test]
    async fn an_org_has_its_own_places_and_forgets_those_it_left() {
        let uploads = Uploads::default();
        let moment = Duration::from_millis(1);
        let (one, other) = (OrgName::new("one").unwrap(), OrgName::new("other").unwrap());
        let held = [
            uploads.place(&one, moment).await.unwrap(),
            uploads.place(&one, moment).await.unwrap(),
        ];
        let refused = uploads.place(&one, moment).await.unwrap_err();
        assert_eq!(refused.code(), ProblemCode::RateLimited);
        assert!(uploads.place(&other, moment).await.is_ok());
        drop(held);
        assert!(uploads.place(&one, moment).await.is_ok());
        assert!(uploads.place(&other, moment).await.is_ok());
        assert!(uploads.orgs.lock().unwrap().len() <= 2);
    }

    #[tokio::test]
    async fn beyond_the_places_of_all_the_host_is_busy() {
        let uploads = Uploads::default();
        let moment = Duration::from_millis(1);
        let mut held = Vec::new();
        for number in 0..AT_ONCE {
            let org = OrgName::new(format!("org{number}")).unwrap();
            held.push(uploads.place(&org, moment).await.unwrap());
        }
        let late = uploads.place(&OrgName::new("late").unwrap(), moment).await.unwrap_err();
        assert_eq!(late.code(), ProblemCode::Overloaded);
    }
}
