//! Keeps the metrics of a serving host in order.

use ::metrics::gauge;
use fumehood_core::metric;
use fumehood_server::Metrics;
use std::{path::PathBuf, time::Duration};
use tokio::task::JoinHandle;

/// How often.
const PAUSE: Duration = Duration::from_secs(5);

/// Tidies metrics and looks at the size of the database, until dropped.
pub(crate) struct MetricsKeeper(JoinHandle<()>);

impl MetricsKeeper {
    /// Starts the task. `database` is a URL of the store.
    pub(crate) fn start(metrics: Metrics, database: &str) -> Self {
        let file = database
            .strip_prefix("sqlite:")
            .map(|path| PathBuf::from(path.trim_start_matches("//")));
        Self(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(PAUSE);
            loop {
                ticks.tick().await;
                metrics.tidy();
                if let Some(file) = &file {
                    gauge!(metric::STORE_DATABASE.name).set(size(file).await);
                }
            }
        }))
    }
}

impl Drop for MetricsKeeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// With the write-ahead log beside it.
#[expect(
    clippy::cast_precision_loss,
    reason = "nobody needs the last byte of a database beyond 8 PiB"
)]
async fn size(file: &std::path::Path) -> f64 {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    let mut bytes = 0;
    for path in [file.as_os_str(), &log] {
        bytes += tokio::fs::metadata(path).await.map_or(0, |about| about.len());
    }
    bytes as f64
}
