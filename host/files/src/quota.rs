//! How much a directory may hold.

/// What a directory may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Bytes in all files, by length: a hole counts like what fills it. With [`Quota::entry_bytes`] for each entry.
    pub bytes: u64,
    /// Bytes in one file.
    pub file_bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// What an entry costs of `bytes`, however small it is.
    pub entry_bytes: u64,
}

impl Quota {
    /// No limit at all.
    pub const UNLIMITED: Self = Self {
        bytes: u64::MAX,
        file_bytes: u64::MAX,
        entries: u64::MAX,
        entry_bytes: 0,
    };
}

impl Default for Quota {
    /// 500 MiB, 100 MiB in one file, 10,000 entries.
    fn default() -> Self {
        Self {
            bytes: 500 << 20,
            file_bytes: 100 << 20,
            entries: 10_000,
            entry_bytes: 0,
        }
    }
}

/// What a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes in all files; with what entries cost, where they cost any.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Usage {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            entries: self.entries.saturating_add(other.entries),
        }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            entries: self.entries.saturating_sub(other.entries),
        }
    }
}

/// Which part of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// [`Quota::bytes`].
    Bytes,
    /// [`Quota::file_bytes`].
    FileBytes,
    /// [`Quota::entries`].
    Entries,
}

impl Limit {
    /// What it counts, in words that follow a number.
    #[must_use]
    pub const fn counts(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::FileBytes => "bytes in one file",
            Self::Entries => "files",
        }
    }
}

/// A change that the quota does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {most} {} would be passed", limit.counts())]
pub struct Full {
    /// Which part of the quota.
    pub limit: Limit,
    /// How much that is.
    pub most: u64,
}

impl Quota {
    /// Whether `used` leaves room for `more`. What does not grow is never too much.
    pub(crate) fn has_room(&self, used: Usage, more: Usage) -> Result<(), Full> {
        let after = used.plus(more);
        if more.bytes > 0 && after.bytes > self.bytes {
            return Err(Full {
                limit: Limit::Bytes,
                most: self.bytes,
            });
        }
        if more.entries > 0 && after.entries > self.entries {
            return Err(Full {
                limit: Limit::Entries,
                most: self.entries,
            });
        }
        Ok(())
    }

    /// Whether one file may grow to this length.
    pub(crate) fn has_room_in_file(&self, len: u64) -> Result<(), Full> {
        if len <= self.file_bytes {
            return Ok(());
        }
        Err(Full {
            limit: Limit::FileBytes,
            most: self.file_bytes,
        })
    }

    /// What `entries` new entries cost.
    pub(crate) fn of_entries(&self, entries: u64) -> Usage {
        Usage {
            bytes: self.entry_bytes.saturating_mul(entries),
            entries,
        }
    }
}
