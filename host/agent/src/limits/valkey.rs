//! Rates kept in Valkey or Redis, for hosts that share them.
//!
//! One script does each operation in one step, by the server's clock, so hosts need no clock in common. Keys expire when what they
//! hold has drained. All limits of an org have the org's name as their hash tag, so that they stay together in a cluster.

use super::rate::{RateStore, StoreDown, Taken, Want};
use async_trait::async_trait;
use redis::{
    Client, RedisError, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use std::time::Duration;

/// How long one attempt to connect, or one answer, may take in the background. Callers wait less: see
/// [`Guarded`](super::guarded::Guarded).
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a URL names no store of limits. The text holds nothing of the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("it must begin with redis://, rediss:// (TLS), valkey:// or valkeys://, as in redis://127.0.0.1:6379/0")]
    Scheme,
    /// Not a URL that a server could be reached at.
    #[error("it is not a URL of the form redis://[user:password@]host[:port][/database]: {0}")]
    Form(String),
}

/// A server that keeps rates.
pub struct ValkeyRates {
    connection: ConnectionManager,
    script: Script,
    /// Begins every key.
    prefix: String,
}

impl ValkeyRates {
    /// Prepares a connection, which is made when it is first needed and made again whenever it breaks. Call it within a Tokio
    /// runtime.
    ///
    /// # Errors
    /// When the URL is not one of a server.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        let client = client(url)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            // The next operation tries again anyway.
            .set_number_of_retries(1);
        let connection = ConnectionManager::new_lazy_with_config(client, config).map_err(|error| form(&error))?;
        Ok(Self {
            connection,
            script: Script::new(include_str!("take.lua")),
            prefix: "fumehood:limits:".to_owned(),
        })
    }

    /// Whether a URL is one of a server; whether the server answers is another question.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(url: &str) -> Result<(), UrlError> {
        client(url).map(|_| ())
    }

    /// The same with keys of its own, beside those of others on the same server.
    #[must_use]
    pub fn with_prefix(self, prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            ..self
        }
    }

    async fn run(
        &self,
        mode: &str,
        wants: &[Want<'_>],
        cost: impl Fn(&Want<'_>) -> i128,
    ) -> Result<(usize, u64), StoreDown> {
        let costs = wants.iter().map(|want| (want.key, cost(want), want.quota.period_ns()));
        self.invoke(mode, costs).await
    }

    /// Runs the script on keys with their costs and periods.
    async fn invoke<'a>(
        &self,
        mode: &str,
        costs: impl Iterator<Item = (&'a str, i128, u64)>,
    ) -> Result<(usize, u64), StoreDown> {
        let mut invocation = self.script.prepare_invoke();
        invocation.arg(mode);
        for (key, cost, period) in costs {
            invocation.key(format!("{}{key}", self.prefix));
            invocation.arg(cost.to_string()).arg(period);
        }
        let mut connection = self.connection.clone();
        let (place, backlog): (usize, String) = invocation
            .invoke_async(&mut connection)
            .await
            .map_err(|error| down(&error))?;
        let backlog = backlog
            .parse()
            .map_err(|_| StoreDown("the server answered with what is not a number".into()))?;
        Ok((place, backlog))
    }
}

fn client(url: &str) -> Result<Client, UrlError> {
    let (scheme, _) = url.split_once("://").ok_or(UrlError::Scheme)?;
    if !matches!(scheme, "redis" | "rediss" | "valkey" | "valkeys") {
        return Err(UrlError::Scheme);
    }
    Client::open(url).map_err(|error| form(&error))
}

fn form(error: &RedisError) -> UrlError {
    UrlError::Form(error.category().to_owned())
}

/// The category is the library's own words; the detail is the server's or the system's. Neither holds the URL.
fn down(error: &RedisError) -> StoreDown {
    StoreDown(match error.detail() {
        Some(detail) => format!("{}: {detail}", error.category()),
        None => error.to_string(),
    })
}

#[async_trait]
impl RateStore for ValkeyRates {
    async fn take(&self, wants: &[Want<'_>]) -> Result<Taken, StoreDown> {
        let cost = |want: &Want<'_>| i128::from(want.quota.take_ns(want.units));
        let (place, backlog) = self.run("take", wants, cost).await?;
        let index = place.saturating_sub(1);
        let want = wants
            .get(index)
            .ok_or_else(|| StoreDown("the server named a limit that was not asked for".into()))?;
        let standing = want.quota.standing(backlog);
        if place == 0 {
            return Ok(Taken::All { standing });
        }
        let wait = want.quota.wait(backlog, want.quota.take_ns(want.units));
        Ok(Taken::Nothing {
            index,
            standing,
            // The server counts in floating point: never say "now" to who was refused.
            retry_after: wait.max(Duration::from_millis(1)),
        })
    }

    async fn charge(&self, want: Want<'_>) -> Result<(), StoreDown> {
        let cost = |want: &Want<'_>| i128::from(want.quota.cost_ns(want.units));
        self.run("charge", &[want], cost).await.map(|_| ())
    }

    async fn give_back(&self, want: Want<'_>) -> Result<(), StoreDown> {
        let cost = |want: &Want<'_>| -i128::from(want.quota.cost_ns(want.units));
        self.run("charge", &[want], cost).await.map(|_| ())
    }

    async fn ping(&self) -> Result<(), StoreDown> {
        // What every check does, at no cost: a server that is there may still refuse to write.
        self.invoke("charge", [("ping", 0, 1)].into_iter()).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_something_else_is_refused_without_repeating_it() {
        for url in [
            "",
            "localhost:6379",
            "http://u:hunter2@localhost",
            "redis://",
            "redis://u:hunter2@h:99999999",
        ] {
            let error = ValkeyRates::check(url).unwrap_err().to_string();
            assert!(
                error.contains("redis://") && !error.contains("hunter2"),
                "{url}: {error}"
            );
        }
    }
}
