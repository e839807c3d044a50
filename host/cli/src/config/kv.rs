//! `[kv]`: what the key-values of each session may take.

use fumehood_policy::quantity::ByteSize;
use fumehood_store::KvQuota;
use serde::{Deserialize, Serialize};

/// `[kv]`; what is absent is as by default.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KvSection {
    /// Keys of a session.
    #[serde(default)]
    entries: Option<u64>,
    /// Bytes of all keys and values of a session.
    #[serde(default)]
    bytes: Option<ByteSize>,
}

impl KvSection {
    /// The quota of each session.
    pub(crate) fn in_effect(&self) -> KvQuota {
        let default = KvQuota::default();
        KvQuota {
            entries: self.entries.unwrap_or(default.entries),
            bytes: self.bytes.map_or(default.bytes, ByteSize::bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_as_by_default() {
        let section = |text: &str| toml::from_str::<KvSection>(text);
        assert_eq!(section("").unwrap().in_effect(), KvQuota::default());
        let all = section("entries = 7\nbytes = \"1KiB\"").unwrap().in_effect();
        assert_eq!((all.entries, all.bytes), (7, 1024));
        assert!(section("byte = \"1KiB\"").is_err());
    }
}
