//! What each session may keep.

use crate::workspace;

/// What each session may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// In its files.
    pub files: workspace::Quota,
    /// In earlier states of its files, in bytes.
    pub snapshots: u64,
    /// In its key-values.
    pub key_values: KvQuota,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            files: workspace::Quota::default(),
            snapshots: workspace::DEFAULT_SNAPSHOTS,
            key_values: KvQuota::default(),
        }
    }
}

/// What the key-values of a session may take. What belongs to a whole org is the host's own, and has no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvQuota {
    /// Keys.
    pub entries: u64,
    /// Bytes of all keys and values.
    pub bytes: u64,
}

impl Default for KvQuota {
    /// 10,000 keys, 64 MiB.
    fn default() -> Self {
        Self {
            entries: 10_000,
            bytes: 64 << 20,
        }
    }
}
