//! What every handler shares.

use crate::{body::Uploads, config::ServerConfig};
use bytes::Bytes;
use fumehood_agent::host::Host;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Look-ups of calls by who has no key, at a time.
const CALLBACKS: usize = 16;

/// What every handler shares.
pub(crate) struct App {
    pub(crate) host: Host,
    pub(crate) config: ServerConfig,
    /// Cancelled when the server begins to close: streams end, waits give up, new turns are refused.
    pub(crate) closing: CancellationToken,
    /// The places of large bodies.
    pub(crate) uploads: Uploads,
    /// The places of those who look for a call.
    pub(crate) callbacks: Semaphore,
    /// The API's description, as JSON.
    pub(crate) openapi: Bytes,
}

impl App {
    pub(crate) fn new(host: Host, config: ServerConfig, closing: CancellationToken, openapi: Bytes) -> Self {
        Self {
            host,
            config,
            closing,
            uploads: Uploads::default(),
            callbacks: Semaphore::new(CALLBACKS),
            openapi,
        }
    }
}
