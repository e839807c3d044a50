//! The sandbox's way out, answered by the egress door.

use super::CallEvents;
use crate::{limits::Limits, secrets::SecretsInUse, telemetry};
use async_trait::async_trait;
use fumehood_core::{
    call::CallError,
    id::CallId,
    ledger::{EgressScope, LedgerEntry},
};
use fumehood_egress::{
    BoundCredential, Direction, Egress, EgressError, EgressGrant, EgressLimits, Ledger, LedgerError, RequestBudget,
    Settlement, Wait,
};
use fumehood_policy::authority::Authority;
use fumehood_sandbox::ports::{Body, Door, DoorError, Timeouts};
use fumehood_store::{Settlement as Settled, Store};
use http_body_util::BodyExt as _;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// One call's way out. A credential whose secret isn't set injects nothing.
///
/// # Errors
/// When a secret of a credential is set and can't be read.
pub(crate) fn door(
    egress: &Egress,
    limits: &Arc<Limits>,
    scope: EgressScope,
    authority: &Authority,
    secrets: &SecretsInUse,
    watcher: Option<(&Arc<StoreLedger>, Arc<CallEvents>)>,
) -> Result<Arc<dyn Door>, CallError> {
    let mut credentials = Vec::with_capacity(authority.credentials.len());
    for credential in &authority.credentials {
        if let Some(value) = secrets.value(&credential.secret)? {
            credentials.push(BoundCredential {
                value: value.clone(),
                credential: credential.clone(),
            });
        }
    }
    let size = &authority.limits;
    let events = watcher.as_ref().map(|(_, events)| Arc::clone(events));
    Ok(Arc::new(CallDoor {
        events,
        egress: egress.clone(),
        limits: Arc::clone(limits),
        _watched: watcher.map(|(ledger, events)| ledger.watch(scope.call, events)),
        grant: EgressGrant {
            scope,
            policy: Arc::new(authority.network.clone()),
            credentials: credentials.into(),
            guard: secrets.guard().clone(),
            limits: EgressLimits {
                body_in: size.http_body.0,
                body_out: size.http_body.0,
                requests: Arc::new(RequestBudget::new(size.http_requests)),
            },
        },
    }))
}

struct CallDoor {
    egress: Egress,
    limits: Arc<Limits>,
    grant: EgressGrant,
    events: Option<Arc<CallEvents>>,
    _watched: Option<Watched>,
}

#[async_trait]
impl Door for CallDoor {
    /// The stages' timeouts are the door's own, which no guest can lengthen; a guest that wants shorter ones stops waiting.
    async fn send(&self, request: http::Request<Body>, _: Timeouts) -> Result<http::Response<Body>, DoorError> {
        let request = for_door(request);
        // What the call's own number of requests refuses is not charged to its org.
        let budget = &self.grant.limits.requests;
        if budget.asked() < budget.limit()
            && let Err(limited) = self.limits.egress_request(&self.grant.scope.org).await
        {
            if let Some(events) = &self.events {
                events.limit_reached(&limited).await;
            }
            let refused = self
                .egress
                .refuse(&self.grant, request, limited.limit(), limited.to_string())
                .await;
            return Err(for_guest(refused));
        }
        let response = self.egress.send(&self.grant, request).await.map_err(for_guest)?;
        Ok(response.map(|body| body.map_err(for_guest).boxed_unsync()))
    }

    async fn refuse(&self, request: http::Request<Body>, limit: &'static str, reason: String) {
        self.egress.refuse(&self.grant, for_door(request), limit, reason).await;
    }
}

fn for_door(request: http::Request<Body>) -> http::Request<fumehood_egress::Body> {
    let aborted = |error: DoorError| EgressError::RequestBody {
        reason: error.to_string(),
    };
    request.map(|body| body.map_err(aborted).boxed_unsync())
}

/// What a guest is told. `wasi:http` has codes, not words; the words of a refusal travel with the call's report.
fn for_guest(error: EgressError) -> DoorError {
    match error {
        EgressError::InvalidUrl { .. } => DoorError::UriInvalid,
        EgressError::PrivateAddress { .. } => DoorError::AddressProhibited(error.to_string()),
        error if error.is_refusal() => DoorError::Denied(error.to_string()),
        EgressError::Busy { .. } => DoorError::ConnectionLimit,
        EgressError::Resolve { .. } => DoorError::DnsFailed,
        EgressError::Connect { .. } => DoorError::ConnectionRefused,
        EgressError::Certificate { .. } => DoorError::TlsCertificate,
        EgressError::Tls { .. } => DoorError::Tls,
        EgressError::Timeout { wait, .. } => match wait {
            Wait::Resolve => DoorError::DnsTimeout,
            Wait::Connect => DoorError::ConnectTimeout,
            Wait::FirstByte => DoorError::ResponseTimeout,
            Wait::NextBytes | Wait::Total => DoorError::ReadTimeout,
        },
        EgressError::BodyTooLarge {
            direction: Direction::Request,
            limit,
        } => DoorError::RequestTooLarge(limit),
        EgressError::BodyTooLarge {
            direction: Direction::Response,
            limit,
        } => DoorError::ResponseTooLarge(limit),
        EgressError::Protocol { .. } | EgressError::EncodedResponse => DoorError::Protocol,
        EgressError::LengthMismatch | EgressError::RequestBody { .. } => DoorError::Aborted,
        _ => DoorError::Internal,
    }
}

/// The ledger in the store. Every decision of a call in a turn is also an event of that turn, and what passed counts for its org.
pub struct StoreLedger {
    store: Arc<dyn Store>,
    limits: Arc<Limits>,
    watchers: Mutex<HashMap<CallId, Arc<CallEvents>>>,
}

impl StoreLedger {
    /// A ledger kept in `store`, whose bytes count towards `limits`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, limits: Arc<Limits>) -> Arc<Self> {
        Arc::new(Self {
            store,
            limits,
            watchers: Mutex::default(),
        })
    }

    fn watch(self: &Arc<Self>, call: CallId, events: Arc<CallEvents>) -> Watched {
        self.watchers().insert(call, events);
        Watched {
            ledger: Arc::clone(self),
            call,
        }
    }

    fn watchers(&self) -> std::sync::MutexGuard<'_, HashMap<CallId, Arc<CallEvents>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever wants to know of a call's decisions.
    fn watcher(&self, call: CallId) -> Option<Arc<CallEvents>> {
        self.watchers().get(&call).cloned()
    }
}

/// Ends the watch of a call's decisions when dropped.
struct Watched {
    ledger: Arc<StoreLedger>,
    call: CallId,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.ledger.watchers().remove(&self.call);
    }
}

#[async_trait]
impl Ledger for StoreLedger {
    async fn open(&self, entry: &LedgerEntry) -> Result<(), LedgerError> {
        let failed = |error: fumehood_store::StoreError| LedgerError(error.to_string());
        let Some(events) = self.watcher(entry.scope.call) else {
            self.store.ledger_open(entry).await.map_err(failed)?;
            telemetry::egress_decided(entry);
            return Ok(());
        };
        let entry = events.hidden_entry(entry);
        // A place for the events before the entry is there: no entry is without them.
        let places = events.places(1 + entry.secrets.len()).await;
        self.store.ledger_open(&entry).await.map_err(failed)?;
        events.decided(places, &entry);
        telemetry::egress_decided(&entry);
        Ok(())
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), LedgerError> {
        for settlement in settlements {
            let settled = Settled {
                outcome: settlement.outcome.clone(),
                address: settlement.address,
                bytes_sent: settlement.bytes_sent,
                bytes_received: settlement.bytes_received,
                duration_ms: settlement.duration_ms,
                shapes: settlement.shapes.clone(),
            };
            let written = self.store.ledger_settle(settlement.id, &settled).await;
            written.map_err(|error| LedgerError(error.to_string()))?;
        }
        // After the last that can fail: a batch that is tried again is counted and charged once.
        for settlement in settlements {
            telemetry::egress_settled(settlement);
            let bytes = settlement.bytes_sent.saturating_add(settlement.bytes_received);
            self.limits.egress_bytes(&settlement.scope.org, bytes).await;
        }
        Ok(())
    }
}
