//! `[files]`: what the files of each session may take.

use anyhow::bail;
use fumehood_policy::quantity::ByteSize;
use fumehood_store::workspace::{DEFAULT_SNAPSHOTS, Quota};
use serde::{Deserialize, Serialize};

/// `[files]`; what is absent is as by default.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilesSection {
    /// Bytes of all files of a session.
    #[serde(default)]
    quota: Option<ByteSize>,
    /// Bytes of one file.
    #[serde(default)]
    file: Option<ByteSize>,
    /// Files, directories and links of a session.
    #[serde(default)]
    entries: Option<u64>,
    /// Bytes of earlier states of a session's files, kept for undo; 0 keeps none.
    #[serde(default)]
    snapshots: Option<ByteSize>,
}

impl FilesSection {
    /// The quota of each session.
    pub(crate) fn in_effect(&self) -> Quota {
        let default = Quota::default();
        let bytes = self.quota.map_or(default.bytes, ByteSize::bytes);
        Quota {
            bytes,
            // A smaller quota makes the default of one file smaller, too.
            file_bytes: self.file.map_or(default.file_bytes.min(bytes), ByteSize::bytes),
            entries: self.entries.unwrap_or(default.entries),
            entry_bytes: 0,
        }
    }

    /// Bytes kept of the earlier states of each session's files.
    pub(crate) fn snapshots(&self) -> u64 {
        self.snapshots.map_or(DEFAULT_SNAPSHOTS, ByteSize::bytes)
    }

    /// Refuses what contradicts itself or could not be kept.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let quota = self.in_effect();
        if quota.bytes == 0 || quota.file_bytes == 0 || quota.entries == 0 {
            bail!("[files]: zero would forbid every file; use a value above zero, or leave the key out");
        }
        if quota.file_bytes > quota.bytes {
            bail!(
                "[files] file = \"{}\" is more than quota = \"{}\", so no file could be that large; raise `quota` or lower `file`",
                ByteSize(quota.file_bytes),
                ByteSize(quota.bytes)
            );
        }
        // Lists and counts go through all entries of a session at once.
        if quota.entries > MOST_ENTRIES {
            bail!(
                "[files] entries = {} is more than the {MOST_ENTRIES} that a list of files can show; lower it",
                quota.entries
            );
        }
        Ok(())
    }
}

pub(super) const MOST_ENTRIES: u64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> FilesSection {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_is_absent_is_as_by_default() {
        assert_eq!(section("").in_effect(), Quota::default());
        let small = section("quota = \"1MiB\"").in_effect();
        assert_eq!(
            (small.bytes, small.file_bytes, small.entries),
            (1 << 20, 1 << 20, 10_000)
        );
        let all = section("quota = \"2MiB\"\nfile = \"1KiB\"\nentries = 7").in_effect();
        assert_eq!((all.bytes, all.file_bytes, all.entries), (2 << 20, 1 << 10, 7));
    }

    #[test]
    fn a_quota_that_contradicts_itself_is_refused_with_the_way_out() {
        let error = section("quota = \"1MiB\"\nfile = \"2MiB\"")
            .check()
            .unwrap_err()
            .to_string();
        assert!(error.contains("raise `quota` or lower `file`"), "{error}");
        assert!(section("entries = 100001").check().is_err());
        assert!(toml::from_str::<FilesSection>("quota = \"lots\"").is_err());
        assert!(toml::from_str::<FilesSection>("quotas = \"1MiB\"").is_err());
    }
}
