//! What the sandbox counts and measures.

use fumehood_core::metric;
use metrics::{Gauge, counter, gauge, histogram};
use std::{sync::LazyLock, time::Duration};

static INSTANCES: LazyLock<Gauge> = LazyLock::new(|| gauge!(metric::SANDBOX_INSTANCES.name));

/// A guest that exists, for as long as this does.
pub(crate) struct Living(());

impl Living {
    pub(crate) fn new() -> Self {
        INSTANCES.increment(1.0);
        Self(())
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        INSTANCES.decrement(1.0);
    }
}

/// A component's code came from the cache.
pub(crate) fn loaded_from_cache() {
    counter!(metric::COMPONENT_LOADS.name, "from" => "cache").increment(1);
}

/// A component was compiled.
pub(crate) fn compiled(took: Duration) {
    counter!(metric::COMPONENT_LOADS.name, "from" => "compiler").increment(1);
    histogram!(metric::COMPONENT_COMPILE.name).record(took);
}
