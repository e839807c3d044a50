//! What one call may do at the door. Made per call; cloning shares everything.

use crate::guard::LeakGuard;
use fumehood_core::ledger::EgressScope;
use fumehood_policy::{credential::Credential, network::NetworkPolicy};
use secrecy::SecretString;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// One call's authority to send requests.
#[derive(Debug, Clone)]
pub struct EgressGrant {
    /// On whose behalf.
    pub scope: EgressScope,
    /// The rules of every layer.
    pub policy: Arc<NetworkPolicy>,
    /// What the host injects, and what placeholders may name.
    pub credentials: Arc<[BoundCredential]>,
    /// Must know every secret that the call could come by, those of `credentials` included: one that it doesn't know
    /// is not injected.
    pub guard: LeakGuard,
    /// How much.
    pub limits: EgressLimits,
}

/// A credential and the value it injects. White space around the value is not part of it.
#[derive(Debug, Clone)]
pub struct BoundCredential {
    /// Which secret, towards which hosts, in which place.
    pub credential: Credential,
    /// The secret's value.
    pub value: SecretString,
}

/// How much one call may send and receive.
#[derive(Debug, Clone)]
pub struct EgressLimits {
    /// The largest body of one answer, in bytes.
    pub body_in: u64,
    /// The largest body of one request, in bytes.
    pub body_out: u64,
    /// How many requests, refused ones included; shared by all that the call sends.
    pub requests: Arc<RequestBudget>,
}

/// Counts a call's requests against its limit.
#[derive(Debug)]
pub struct RequestBudget {
    limit: u32,
    asked: AtomicU32,
}

impl RequestBudget {
    /// A budget of `limit` requests.
    #[must_use]
    pub const fn new(limit: u32) -> Self {
        Self {
            limit,
            asked: AtomicU32::new(0),
        }
    }

    /// The limit.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// How many requests were asked for, those beyond the limit included.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self) -> Taken {
        let before = self
            .asked
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |asked| asked.checked_add(1));
        match before.unwrap_or(u32::MAX) {
            before if before < self.limit => Taken::Within,
            before if before == self.limit => Taken::FirstBeyond,
            _ => Taken::Beyond,
        }
    }
}

/// Where a request stands against the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Within,
    /// The one that shows in the ledger that the limit was reached.
    FirstBeyond,
    /// Not recorded, lest an endless loop in a tool fill the ledger.
    Beyond,
}
