//! What every handler shares.

use crate::config::ServerConfig;
use bytes::Bytes;
use fumehood_agent::host::Host;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Bodies above the JSON limit that are read into memory at a time; others wait for their turn.
const LARGE_BODIES: usize = 8;

/// What every handler shares.
pub(crate) struct App {
    pub(crate) host: Host,
    pub(crate) config: ServerConfig,
    /// Cancelled when the server begins to close: streams end, waits give up, new turns are refused.
    pub(crate) closing: CancellationToken,
    pub(crate) large_bodies: Semaphore,
    /// The API's description, as JSON.
    pub(crate) openapi: Bytes,
}

impl App {
    pub(crate) fn new(host: Host, config: ServerConfig, closing: CancellationToken, openapi: Bytes) -> Self {
        Self {
            host,
            config,
            closing,
            large_bodies: Semaphore::new(LARGE_BODIES),
            openapi,
        }
    }
}
