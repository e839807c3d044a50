//! What the server is told: how much it takes, how long it waits.

use crate::{
    auth::KeyCache,
    signatures::SignatureCheck,
    telemetry::{AdoptTrace, MetricsPage},
};
use std::{fmt, sync::Arc, time::Duration};

/// Limits of the HTTP surface. `Default` is right for a host behind nothing; every number is per process.
#[derive(Clone)]
pub struct ServerConfig {
    /// Bytes of a JSON body.
    pub json_body: usize,
    /// Bytes of a turn's input with its images and sounds (`POST …/turns`); all besides them has at most `json_body`.
    pub turn_body: usize,
    /// Bytes of a component (`POST /v1/tools`).
    pub component_body: usize,
    /// Bytes of one file (`PUT …/files/{path}`); the session's quota applies besides.
    pub file_body: usize,
    /// How long a request's head may take, from the moment the connection is idle.
    pub head_time: Duration,
    /// How long a request's body may take.
    pub body_time: Duration,
    /// How long a large body waits for a place among those that are read at a time.
    pub upload_wait: Duration,
    /// How long a client may leave what it is sent unread before its connection is closed.
    pub unread_time: Duration,
    /// After so long without an event a stream says that it is still there, having looked whether it may be.
    pub quiet_time: Duration,
    /// Connections at a time; more wait in the system's queue.
    pub connections: usize,
    /// Of them from one address over which no valid key came yet; one more is closed at once.
    pub connections_of_stranger: usize,
    /// Of them of one org; a request over one more is refused.
    pub connections_of_org: usize,
    /// How long a shutdown waits for requests under way.
    pub drain_time: Duration,
    /// Keys looked up lately. Share it to make a revocation take effect at once.
    pub keys: KeyCache,
    /// The metrics of the process; none in one that keeps none.
    pub metrics: Option<MetricsPage>,
    /// Who looks at the signatures of components that are added; none where nobody asks for them.
    pub signatures: Option<Arc<dyn SignatureCheck>>,
    /// What gives a request its place in a trace that began elsewhere.
    pub adopt_trace: Option<AdoptTrace>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            json_body: 1 << 20,
            turn_body: 20 << 20,
            component_body: 64 << 20,
            file_body: 100 << 20,
            head_time: Duration::from_secs(30),
            body_time: Duration::from_secs(60),
            upload_wait: Duration::from_secs(5),
            unread_time: Duration::from_secs(60),
            quiet_time: Duration::from_secs(15),
            connections: 4096,
            connections_of_stranger: 1024,
            connections_of_org: 2048,
            drain_time: Duration::from_secs(10),
            keys: KeyCache::default(),
            metrics: None,
            signatures: None,
            adopt_trace: None,
        }
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig").finish_non_exhaustive()
    }
}
