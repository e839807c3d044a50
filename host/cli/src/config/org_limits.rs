//! `[org.NAME.limits]` and `[limits_store]`: what orgs may use, and where that is kept.

use super::Config;
use anyhow::{Context as _, bail};
use fumehood_agent::limits::{self, Limits, OrgLimits, RateStore as _, StoreDown, ValkeyRates};
use fumehood_policy::quantity::{ByteRate, Rate};
use fumehood_sandbox::CALLS_AT_ONCE;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::{
    num::{NonZeroU32, NonZeroU64},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

/// `[org.NAME.limits]`; what is absent is at its default, for every org.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    /// Tool calls.
    #[serde(default)]
    tool_calls: Option<Setting<Rate>>,
    /// Requests through the door.
    #[serde(default)]
    egress_requests: Option<Setting<Rate>>,
    /// Bytes of bodies through the door, both ways.
    #[serde(default)]
    egress_bytes: Option<Setting<ByteRate>>,
    /// Turns.
    #[serde(default)]
    turns: Option<Setting<Rate>>,
    /// Calls at the same time.
    #[serde(default)]
    concurrent_calls: Option<NonZeroU32>,
    /// Clients that listen to events or wait for a turn at the same time.
    #[serde(default)]
    concurrent_streams: Option<NonZeroU32>,
    /// Sessions that are kept.
    #[serde(default)]
    sessions: Option<NonZeroU64>,
    /// What happens while the store of the rates does not answer.
    #[serde(default)]
    fail: FailMode,
}

/// A rate, or `unlimited`.
#[derive(Debug, Clone, Copy)]
enum Setting<T> {
    Unlimited,
    Limited(T),
}

impl<T> Setting<T> {
    fn limit(self) -> Option<T> {
        match self {
            Self::Unlimited => None,
            Self::Limited(rate) => Some(rate),
        }
    }
}

impl<'de, T: FromStr<Err: std::fmt::Display>> Deserialize<'de> for Setting<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let rate = text
            .parse()
            .map_err(|error| D::Error::custom(format!("{error}, or `unlimited`")))?;
        Ok(Self::Limited(rate))
    }
}

/// What a limit does when it can't be known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FailMode {
    /// Lets pass.
    #[default]
    Open,
    /// Refuses.
    Closed,
}

/// What an org may use, in words; without the rates that it has not.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    tool_calls: Option<String>,
    egress_requests: Option<String>,
    egress_bytes: Option<String>,
    turns: Option<String>,
    concurrent_calls: Option<u32>,
    concurrent_streams: Option<u32>,
    sessions: Option<u64>,
    fail: FailMode,
}

impl Section {
    pub(super) fn shown(&self) -> Shown {
        let OrgLimits {
            tool_calls,
            egress_requests,
            egress_bytes,
            turns,
            concurrent_calls,
            concurrent_streams,
            sessions,
            fail: _,
        } = self.in_effect();
        Shown {
            tool_calls: tool_calls.map(|rate| rate.to_string()),
            egress_requests: egress_requests.map(|rate| rate.to_string()),
            egress_bytes: egress_bytes.map(|rate| rate.to_string()),
            turns: turns.map(|rate| rate.to_string()),
            concurrent_calls,
            concurrent_streams,
            sessions,
            fail: self.fail,
        }
    }

    fn in_effect(&self) -> OrgLimits {
        let defaults = OrgLimits::default();
        OrgLimits {
            tool_calls: self.tool_calls.map_or(defaults.tool_calls, Setting::limit),
            egress_requests: self.egress_requests.map_or(defaults.egress_requests, Setting::limit),
            egress_bytes: self.egress_bytes.map_or(defaults.egress_bytes, Setting::limit),
            turns: self.turns.map_or(defaults.turns, Setting::limit),
            concurrent_calls: self
                .concurrent_calls
                .map_or(defaults.concurrent_calls, |calls| Some(calls.get())),
            concurrent_streams: self
                .concurrent_streams
                .map_or(defaults.concurrent_streams, |streams| Some(streams.get())),
            sessions: self.sessions.map(NonZeroU64::get),
            fail: match self.fail {
                FailMode::Open => limits::FailMode::Open,
                FailMode::Closed => limits::FailMode::Closed,
            },
        }
    }
}

impl Config {
    /// What the orgs may use. Call it within a Tokio runtime.
    pub(crate) fn limits(&self) -> anyhow::Result<Limits> {
        let orgs = self
            .org
            .iter()
            .map(|(name, org)| (name.clone(), org.limits.in_effect()))
            .collect();
        Ok(match self.shared_rates()? {
            None => Limits::new(orgs),
            Some(rates) => Limits::shared(orgs, Arc::new(rates)),
        })
    }

    /// Whether the store of the rates answers; `None` where they are kept in the process.
    pub(crate) async fn ping_limits_store(&self) -> anyhow::Result<Option<Result<(), StoreDown>>> {
        const PATIENCE: Duration = Duration::from_secs(3);
        let Some(rates) = self.shared_rates()? else {
            return Ok(None);
        };
        let answer = tokio::time::timeout(PATIENCE, rates.ping()).await;
        Ok(Some(answer.unwrap_or_else(|_| {
            Err(StoreDown(format!("no answer within {} s", PATIENCE.as_secs())))
        })))
    }

    fn shared_rates(&self) -> anyhow::Result<Option<ValkeyRates>> {
        match self.limits_store.url.as_str() {
            "" => Ok(None),
            url => Ok(Some(ValkeyRates::new(url).context("[limits_store] url can't be used")?)),
        }
    }
}

/// Refuses a URL that names no store of limits, and room for more calls than the host runs.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    let url = &config.limits_store.url;
    if !url.is_empty() {
        ValkeyRates::check(url).context("[limits_store] url can't be used")?;
    }
    for (name, org) in &config.org {
        if let Some(calls) = org.limits.concurrent_calls.filter(|calls| calls.get() > CALLS_AT_ONCE) {
            bail!(
                "[org.{name}.limits] concurrent_calls = {calls} is more than the {CALLS_AT_ONCE} calls that a host runs at once, of all orgs; lower it"
            );
        }
    }
    Ok(())
}
