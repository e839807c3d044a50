//! What keeps rates: the contract of every store of them.

use super::gcra::{Quota, Standing};
use async_trait::async_trait;
use std::time::Duration;

/// Some units of one limit.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// The limit's name in the store. Limits of different names do not know of each other.
    pub key: &'a str,
    /// The rate. A key is always used with the same one.
    pub quota: Quota,
    /// How many units.
    pub units: u64,
}

/// What came of taking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// All was taken.
    All {
        /// Where the first of the limits stands now.
        standing: Standing,
    },
    /// Nothing was taken, because one does not fit.
    Nothing {
        /// The place of the one that does not fit; of several, of the one that does not for longest.
        index: usize,
        /// Where that limit stands.
        standing: Standing,
        /// How long until it fits, if nobody else takes. More than zero.
        retry_after: Duration,
    },
}

/// The store does not answer rightly. For the log, never for a tool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreDown(pub String);

/// Where rates are kept.
///
/// Time is the store's own: callers on machines whose clocks differ see one rate. What is not used for as long as its
/// backlog needs to drain is forgotten, which changes nothing.
#[async_trait]
pub trait RateStore: Send + Sync + 'static {
    /// Takes what is wanted, all of it or nothing, in one step: of those who take at the same time, only as many succeed as fit.
    /// Wanting more units than a quota has is wanting all of them. `wants` is not empty.
    ///
    /// A dropped future may have taken or not.
    async fn take(&self, wants: &[Want<'_>]) -> Result<Taken, StoreDown>;

    /// Adds units that were used already, fitting or not: the limit goes into debt and admits nothing until that has drained.
    async fn charge(&self, want: Want<'_>) -> Result<(), StoreDown>;

    /// Gives units back that were taken and not used.
    async fn give_back(&self, want: Want<'_>) -> Result<(), StoreDown>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreDown>;
}
