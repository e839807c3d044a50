//! Who asks: `Authorization: Bearer KEY`, looked up by the key's digest.

use crate::{
    app::App,
    connections::Line,
    problem::{Answer, Problem, ProblemCode},
};
use axum::extract::FromRequestParts;
use fumehood_core::{digest::Digest, id::KeyId, name::OrgName};
use fumehood_store::{Store, StoreError};
use http::{HeaderMap, HeaderValue, header, request::Parts};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// How long a key that was found stays known without asking the store: the most a revocation by another process takes.
const KNOWN_FOR: Duration = Duration::from_secs(5);
/// What every key of a host begins with.
const KEY_PREFIX: &str = "fh_";
/// Look-ups at a time: strangers with keys that nobody knows leave the store to others.
const LOOK_UPS: usize = 16;
/// Keys known at a time.
const MOST_KEYS: usize = 1024;

/// The client of a request: which org it acts for.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) org: OrgName,
    token: Digest,
}

impl Client {
    /// Whether the key still is a live one; for what outlasts a request's beginning.
    pub(crate) async fn is_still_welcome(&self, app: &App) -> Result<bool, StoreError> {
        Ok(app.config.keys.find(&**app.host.store(), &self.token).await?.is_some())
    }
}

impl FromRequestParts<Arc<App>> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Answer<Self> {
        // THREAT[T-org-key-theft]: only the digest of a token is compared, kept or looked up.
        let token = bearer(&parts.headers)?;
        if !token.starts_with(KEY_PREFIX) {
            return Err(unknown_key());
        }
        let token = Digest::of(token.as_bytes());
        let org = app.config.keys.find(&**app.host.store(), &token).await?;
        let org = org.ok_or_else(unknown_key)?;
        tracing::Span::current().record("org", tracing::field::display(&org));
        // THREAT[T-org-connections]
        if let Some(line) = parts.extensions.get::<Arc<Line>>()
            && !line.member().belongs_to(&org)
        {
            return Err(too_many_connections(app.config.connections_of_org));
        }
        Ok(Self { org, token })
    }
}

fn unknown_key() -> Problem {
    Problem::new(
        ProblemCode::Unauthorized,
        "the key is not a live one of this host; make one with `fumehood key create`",
    )
}

fn too_many_connections(most: usize) -> Problem {
    let detail =
        format!("the org has {most} connections to this host, as many as may be; close some, or use them again");
    Problem::new(ProblemCode::RateLimited, detail)
        .with("limit", "connections")
        .with_header(header::RETRY_AFTER, 1)
        .with_header(header::CONNECTION, HeaderValue::from_static("close"))
}

/// The token of the one `Authorization` header: exactly a scheme and a token.
fn bearer(headers: &HeaderMap) -> Answer<&str> {
    let refuse = |why: &str| {
        Err(Problem::new(
            ProblemCode::Unauthorized,
            format!("{why}; send `Authorization: Bearer KEY`"),
        ))
    };
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return refuse("the request has no Authorization header, or several");
    };
    let Ok(value) = value.to_str() else {
        return refuse("the Authorization header is not plain text");
    };
    match value.split_once(' ') {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && !token.contains([' ', '\t', ',']) =>
        {
            Ok(token)
        }
        _ => refuse("the Authorization header is not a bearer key"),
    }
}

/// Keys looked up lately, so that a call costs no query. Clones share one cache.
#[derive(Debug, Clone)]
pub struct KeyCache {
    known: Arc<Mutex<Known>>,
    look_ups: Arc<Semaphore>,
}

impl Default for KeyCache {
    fn default() -> Self {
        Self {
            known: Arc::default(),
            look_ups: Arc::new(Semaphore::new(LOOK_UPS)),
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    keys: HashMap<Digest, KnownKey>,
    /// Counts what was forgotten, so that a look-up that began before is not remembered after.
    forgotten: u64,
}

#[derive(Debug)]
struct KnownKey {
    id: KeyId,
    org: OrgName,
    since: Instant,
}

impl KeyCache {
    /// Forgets a key: its next request asks the store. Call it after revoking the key.
    pub fn forget(&self, id: KeyId) {
        let mut known = self.lock();
        known.forgotten += 1;
        known.keys.retain(|_, key| key.id != id);
    }

    /// The org of the key with this token.
    async fn find(&self, store: &dyn Store, token: &Digest) -> Result<Option<OrgName>, StoreError> {
        let before = {
            let known = self.lock();
            match known.keys.get(token) {
                Some(key) if key.since.elapsed() < KNOWN_FOR => return Ok(Some(key.org.clone())),
                _ => known.forgotten,
            }
        };
        // THREAT[T-api-busy]: never closed, so there is always a place to wait for.
        let _place = self.look_ups.acquire().await.ok();
        let since = Instant::now();
        let found = store.key_by_token(token).await?;
        let mut known = self.lock();
        match found {
            Some(key) => {
                let org = key.org.clone();
                if known.forgotten == before {
                    known.remember(
                        *token,
                        KnownKey {
                            id: key.id,
                            org: key.org,
                            since,
                        },
                    );
                }
                Ok(Some(org))
            }
            None => {
                known.keys.remove(token);
                Ok(None)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Unknown tokens are never kept, so strangers can't fill it.
    fn remember(&mut self, token: Digest, key: KnownKey) {
        if self.keys.len() >= MOST_KEYS {
            self.keys.retain(|_, key| key.since.elapsed() < KNOWN_FOR);
        }
        if self.keys.len() < MOST_KEYS {
            self.keys.insert(token, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value)))
            .collect()
    }

    #[tokio::test]
    async fn only_so_many_unknown_keys_are_looked_up_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let url = fumehood_store::StoreUrl::Sqlite(dir.path().join("keys.db"));
        let opened = fumehood_store::open(dir.path(), &url).await.unwrap();
        let keys = KeyCache::default();
        let places = Arc::clone(&keys.look_ups);
        let others = places.acquire_many(u32::try_from(LOOK_UPS).unwrap()).await.unwrap();
        let token = Digest::of(b"fh_unknown");
        let mut asked = Box::pin(keys.find(&*opened.store, &token));
        let moment = Duration::from_millis(50);
        assert!(
            tokio::time::timeout(moment, &mut asked).await.is_err(),
            "the store was asked"
        );
        drop(others);
        assert_eq!(asked.await.unwrap(), None);
    }

    #[test]
    fn the_scheme_is_read_in_any_case() {
        for value in ["Bearer abc", "bearer abc", "BEARER abc"] {
            assert_eq!(bearer(&headers(&[value])).unwrap(), "abc");
        }
    }

    #[test]
    fn anything_but_one_scheme_and_one_token_is_refused() {
        for value in [
            "",
            "abc",
            "Bearer",
            "Bearer ",
            "Bearer  abc",
            "Bearer a b",
            "Basic abc",
            "Bearer abc,Bearer d",
            " Bearer abc",
        ] {
            assert!(bearer(&headers(&[value])).is_err(), "{value:?}");
        }
        assert!(bearer(&HeaderMap::new()).is_err());
        assert!(bearer(&headers(&["Bearer abc", "Bearer abc"])).is_err());
    }

    #[test]
    fn the_refusal_does_not_repeat_the_token() {
        let problem = bearer(&headers(&["Token hunter2"])).unwrap_err();
        assert!(!problem.detail().contains("hunter2"));
    }
}
