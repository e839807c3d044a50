//! Finds many texts in one: the leftmost, of those the longest.
//!
//! A sorted list behind a small filter, rather than an automaton: it is made in microseconds where an automaton
//! takes milliseconds, its speed hardly depends on how many texts there are, and everything it holds of them is
//! wiped on drop.

use super::forms::{Form, MIN_VALUE};

/// How many first bytes of a text the filter knows; no text is shorter.
const WINDOW: usize = MIN_VALUE;
/// The filter's size: 65,536 bits in 8 KiB, sparse up to thousands of texts.
const FILTER_WORDS: usize = 1024;

/// A text that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Its number in the sorted list.
    pub(super) number: usize,
}

pub(super) struct Matcher {
    sorted: Vec<Form>,
    longest: usize,
    /// Which windows, by their hash, begin a text.
    filter: Box<[u64; FILTER_WORDS]>,
    /// Which bytes begin a text.
    first: [bool; 256],
}

impl Matcher {
    /// Takes the texts sorted, each once, none shorter than [`MIN_VALUE`].
    pub(super) fn new(sorted: Vec<Form>) -> Self {
        let mut filter = Box::new([0_u64; FILTER_WORDS]);
        let mut first = [false; 256];
        for form in &sorted {
            let bit = bit_of(form.as_bytes());
            filter[bit / 64] |= 1 << (bit % 64);
            first[usize::from(form.as_bytes()[0])] = true;
        }
        let longest = sorted.iter().map(|form| form.len()).max().unwrap_or(0);
        Self {
            sorted,
            longest,
            filter,
            first,
        }
    }

    /// How many bytes of memory it takes, about.
    pub(super) fn size(&self) -> usize {
        let texts = self.sorted.iter().map(|form| form.capacity() + size_of::<Form>());
        texts.sum::<usize>() + size_of_val(&*self.filter) + size_of::<Self>()
    }

    /// The first text at or after `from`.
    pub(super) fn find(&self, bytes: &[u8], from: usize) -> Option<Found> {
        let rest = bytes.get(from..)?;
        for (at, window) in rest.windows(WINDOW).enumerate() {
            let bit = bit_of(window);
            if self.filter[bit / 64] & (1 << (bit % 64)) != 0
                && let Some(number) = self.longest_at(&rest[at..])
            {
                let start = from + at;
                return Some(Found {
                    start,
                    end: start + self.sorted[number].len(),
                    number,
                });
            }
        }
        None
    }

    /// The first position at or after `from` where the rest of `bytes` could be the beginning of a text.
    pub(super) fn open_end(&self, bytes: &[u8], from: usize) -> usize {
        let earliest = from.max((bytes.len() + 1).saturating_sub(self.longest));
        (earliest..bytes.len())
            .find(|&at| self.first[usize::from(bytes[at])] && self.begins_longer(&bytes[at..]))
            .unwrap_or(bytes.len())
    }

    /// Whether a text longer than `beginning` begins with it.
    fn begins_longer(&self, beginning: &[u8]) -> bool {
        let at = self.sorted.partition_point(|form| form.as_bytes() <= beginning);
        self.sorted
            .get(at)
            .is_some_and(|form| form.as_bytes().starts_with(beginning))
    }

    /// The longest text that `bytes` begin with.
    ///
    /// All strings between a prefix of `bytes` and `bytes` share that prefix. So the greatest text not above `bytes` is
    /// the answer, or the answer begins both and is found among what they have in common.
    fn longest_at(&self, bytes: &[u8]) -> Option<usize> {
        let mut bytes = &bytes[..bytes.len().min(self.longest)];
        while bytes.len() >= WINDOW {
            let number = self
                .sorted
                .partition_point(|form| form.as_bytes() <= bytes)
                .checked_sub(1)?;
            let text = self.sorted[number].as_bytes();
            let common = text.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            if common == text.len() {
                return Some(number);
            }
            bytes = &bytes[..common];
        }
        None
    }
}

/// The filter's bit for the first bytes of a text of at least [`WINDOW`] bytes.
fn bit_of(text: &[u8]) -> usize {
    let window = text
        .first_chunk::<WINDOW>()
        .map_or(0, |window| u32::from_le_bytes(*window));
    // The upper bits of a product by an odd constant mix all lower ones.
    (window.wrapping_mul(0x9e37_79b1) >> 16) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    fn matcher(texts: &[&str]) -> Matcher {
        let mut sorted: Vec<Form> = texts.iter().map(|text| Zeroizing::new((*text).to_owned())).collect();
        sorted.sort_unstable_by(|a, b| a.as_str().cmp(b));
        sorted.dedup();
        Matcher::new(sorted)
    }

    /// What the matcher promises, in the plainest way.
    fn plain(texts: &[&str], bytes: &[u8], from: usize) -> Option<(usize, usize)> {
        (from..bytes.len()).find_map(|start| {
            let here = texts.iter().filter(|text| bytes[start..].starts_with(text.as_bytes()));
            here.map(|text| (start, start + text.len())).max()
        })
    }

    proptest! {
        #[test]
        fn it_finds_the_leftmost_and_of_those_the_longest(
            texts in prop::collection::vec("[ab]{4,9}", 1..12), bytes in "[ab]{0,40}", from in 0_usize..4,
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let found = matcher(&texts).find(bytes.as_bytes(), from).map(|found| (found.start, found.end));
            prop_assert_eq!(found, plain(&texts, bytes.as_bytes(), from));
        }

        #[test]
        fn the_open_end_is_the_longest_beginning_at_the_end(
            texts in prop::collection::vec("[ab]{4,9}", 1..6), bytes in "[ab]{0,20}", from in 0_usize..4,
        ) {
            let open = (from..bytes.len())
                .find(|at| texts.iter().any(|text| text.len() > bytes.len() - at && text.starts_with(&bytes[*at..])));
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            prop_assert_eq!(matcher(&texts).open_end(bytes.as_bytes(), from), open.unwrap_or(bytes.len()));
        }
    }
}
