//! Lists of at most so many entries. Every call is decided by going through them, and explanations compare each with each.

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, SeqAccess, Visitor},
};
use std::{fmt, marker::PhantomData};

/// The most entries of a list of rules, paths, patterns or names.
pub const MOST_ENTRIES: usize = 256;
/// The most credentials.
pub const MOST_CREDENTIALS: usize = 64;

/// A list that was read with at most `MOST` entries.
struct List<T, const MOST: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Entries::<T, MOST>(PhantomData)).map(Self)
    }
}

struct Entries<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Entries<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    // THREAT[T-box-rules]: refused before it is kept, so that nobody has to go through it.
    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while list.len() < MOST {
            match entries.next_element()? {
                Some(entry) => list.push(entry),
                None => return Ok(list),
            }
        }
        let mut more: usize = 0;
        while entries.next_element::<IgnoredAny>()?.is_some() {
            more += 1;
        }
        if more == 0 {
            return Ok(list);
        }
        let all = MOST + more;
        Err(A::Error::custom(format!(
            "a list of {all} entries, where at most {MOST} are accepted; write fewer that say the same, with `*` or a shorter path"
        )))
    }
}

/// Rules, paths, patterns or names.
///
/// # Errors
/// When there are more than [`MOST_ENTRIES`].
pub fn entries<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    List::<T, MOST_ENTRIES>::deserialize(deserializer).map(|list| list.0)
}

/// The same, where the list may be absent.
///
/// # Errors
/// As [`entries`].
pub fn some_entries<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    let list = Option::<List<T, MOST_ENTRIES>>::deserialize(deserializer)?;
    Ok(list.map(|list| list.0))
}

/// Credentials.
///
/// # Errors
/// When there are more than [`MOST_CREDENTIALS`].
pub(crate) fn credentials<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    List::<T, MOST_CREDENTIALS>::deserialize(deserializer).map(|list| list.0)
}
