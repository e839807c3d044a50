//! `[recordings]`: what is kept of calls so that they can be replayed, where an agent or a turn asks for it.

use fumehood_agent::recording::RECORDING_BYTES;
use fumehood_policy::quantity::ByteSize;
use serde::Deserialize;

/// `[recordings]`; what is absent is as by default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordingsSection {
    /// Of one call; none: nothing is recorded, whoever asks for it.
    #[serde(default)]
    bytes: Option<ByteSize>,
}

impl RecordingsSection {
    /// Bytes of one call.
    pub(crate) fn in_effect(&self) -> u64 {
        self.bytes.map_or(RECORDING_BYTES, ByteSize::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_as_by_default() {
        let section = |text: &str| toml::from_str::<RecordingsSection>(text);
        assert_eq!(section("").unwrap().in_effect(), RECORDING_BYTES);
        assert_eq!(section("bytes = \"64KiB\"").unwrap().in_effect(), 64 << 10);
        assert_eq!(section("bytes = \"0B\"").unwrap().in_effect(), 0);
        assert!(section("byte = \"1KiB\"").is_err());
    }
}
