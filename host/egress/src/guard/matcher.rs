//! Finds many texts in one: the leftmost, of those the longest.
//!
//! A sorted list behind a small filter, rather than an automaton: it is made in microseconds where an automaton
//! takes milliseconds, its speed hardly depends on how many texts there are, and everything it holds of them is
//! wiped on drop.
//!
//! A text of letters, digits and what else base64 has is found also when it is broken into lines, as MIME (RFC 2045) and
//! PEM (RFC 7468) break it, wherever the breaks fall.

use super::forms::{Form, MIN_VALUE};
use zeroize::Zeroizing;

/// How many first bytes of a text the filter knows; no text is shorter.
const WINDOW: usize = MIN_VALUE;
/// The filter has this many bits for each window it knows, so that few others pass.
const BITS_PER_WINDOW: usize = 64;
/// The filter's size in 64-bit words: from 8 KiB to 128 KiB.
const FILTER_WORDS: std::ops::RangeInclusive<usize> = 1024..=16 * 1024;
/// The shortest text that is searched for across line breaks.
const MIN_FOLDED: usize = 16;
/// The longest one. Beyond it a search over breaks would cost too much at each place.
const MAX_FOLDED: usize = 4096;

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
    /// Of those that are searched for across line breaks.
    longest_folded: usize,
    filter: Filter,
    /// Which bytes begin a text.
    first: [bool; 256],
}

impl Matcher {
    /// Takes the texts sorted, each once, none shorter than [`MIN_VALUE`].
    pub(super) fn new(sorted: Vec<Form>) -> Self {
        let folded = || sorted.iter().filter(|form| is_folded(form));
        let longest_folded = folded().map(|form| form.len()).max().unwrap_or(0);
        let mut filter = Filter::for_windows(sorted.len() + 6 * folded().count());
        let mut first = [false; 256];
        for form in &sorted {
            filter.add(form.as_bytes());
            first[usize::from(form.as_bytes()[0])] = true;
        }
        for form in folded() {
            for at in 1..WINDOW {
                let (before, after) = form.as_bytes().split_at(at);
                for line_break in [&b"\n"[..], b"\r\n"] {
                    let broken = Zeroizing::new([before, line_break, &after[..WINDOW]].concat());
                    filter.add(&broken);
                }
            }
        }
        let longest = sorted.iter().map(|form| form.len()).max().unwrap_or(0);
        Self {
            longest,
            longest_folded,
            filter,
            first,
            sorted,
        }
    }

    /// How many bytes of memory it takes, about.
    pub(super) fn size(&self) -> usize {
        let texts = self.sorted.iter().map(|form| form.capacity() + size_of::<Form>());
        texts.sum::<usize>() + size_of_val(&*self.filter.words) + size_of::<Self>()
    }

    /// The first text at or after `from`.
    pub(super) fn find(&self, bytes: &[u8], from: usize) -> Option<Found> {
        let rest = bytes.get(from..)?;
        for (at, window) in rest.windows(WINDOW).enumerate() {
            if self.filter.passes(window)
                && let Some((number, length)) = self.at(&rest[at..])
            {
                let start = from + at;
                return Some(Found {
                    start,
                    end: start + length,
                    number,
                });
            }
        }
        None
    }

    /// The first position at or after `from` where the rest of `bytes` could be the beginning of a text.
    pub(super) fn open_end(&self, bytes: &[u8], from: usize) -> usize {
        let reach = self.longest.max(self.longest_folded + most_breaks(self.longest_folded));
        let earliest = from.max((bytes.len() + 1).saturating_sub(reach));
        (earliest..bytes.len())
            .find(|&at| {
                let tail = &bytes[at..];
                self.first[usize::from(tail[0])] && (self.begins_longer(tail) || self.begins_folded(tail))
            })
            .unwrap_or(bytes.len())
    }

    /// The longest text that `bytes` begin with, broken into lines or not, and how many of the bytes it takes.
    fn at(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let whole = self.longest_at(bytes).map(|number| (number, self.sorted[number].len()));
        let folded = self.folded_at(bytes);
        whole.into_iter().chain(folded).max_by_key(|(_, length)| *length)
    }

    /// The longest text that `bytes` begin with when their line breaks are left out, if there are any.
    fn folded_at(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        if !self.may_be_folded(bytes) {
            return None;
        }
        let unfolded = Unfolded::of(bytes, self.longest_folded);
        if unfolded.breaks == 0 {
            return None;
        }
        let number = self.longest_at(&unfolded.text)?;
        let form = &self.sorted[number];
        let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let mut left = form.len();
        let length = bytes.iter().take_while(|byte| {
            let goes_on = left > 0;
            left -= usize::from(goes_on && !is_break(byte));
            goes_on
        });
        let length = length.count();
        is_folded(form).then_some((number, length))
    }

    /// Whether `tail`, its line breaks left out, is the beginning of a text.
    fn begins_folded(&self, tail: &[u8]) -> bool {
        if tail.len() >= WINDOW && !self.filter.passes(tail) || tail.len() >= MIN_FOLDED && !self.may_be_folded(tail) {
            return false;
        }
        let unfolded = Unfolded::of(tail, self.longest_folded);
        unfolded.to_end && unfolded.breaks > 0 && self.begins_longer(&unfolded.text)
    }

    /// A cheap look at the first bytes, which only whoever knows a value gets past.
    fn may_be_folded(&self, bytes: &[u8]) -> bool {
        let mut head = [0; MIN_FOLDED];
        let mut length = 0;
        for byte in bytes.iter().take(MIN_FOLDED + most_breaks(MIN_FOLDED)) {
            if is_foldable(*byte) {
                head[length] = *byte;
                length += 1;
            } else if !matches!(byte, b'\n' | b'\r') {
                break;
            }
            if length == MIN_FOLDED {
                break;
            }
        }
        let head = &head[..length];
        let at = self.sorted.partition_point(|form| form.as_bytes() < head);
        let begins = |form: &Form| form.as_bytes().starts_with(head);
        self.longest_folded > 0 && self.sorted.get(at).is_some_and(begins)
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

/// Whether a text is searched for across line breaks.
fn is_folded(form: &str) -> bool {
    (MIN_FOLDED..=MAX_FOLDED).contains(&form.len()) && form.bytes().all(is_foldable)
}

const fn is_foldable(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_')
}

/// How many bytes of line breaks may stand among so many others.
const fn most_breaks(bytes: usize) -> usize {
    bytes / 8 + 2
}

/// Bytes without their line breaks, up to the first that could not belong to a folded text.
struct Unfolded {
    text: Zeroizing<Vec<u8>>,
    breaks: usize,
    /// Whether it went to the end of the bytes.
    to_end: bool,
}

impl Unfolded {
    fn of(bytes: &[u8], most: usize) -> Self {
        let mut unfolded = Self {
            text: Zeroizing::new(Vec::with_capacity(bytes.len().min(most))),
            breaks: 0,
            to_end: false,
        };
        for byte in bytes {
            if unfolded.text.len() == most {
                return unfolded;
            }
            match byte {
                b'\n' | b'\r' if unfolded.breaks < most_breaks(unfolded.text.len()) => unfolded.breaks += 1,
                byte if is_foldable(*byte) => unfolded.text.push(*byte),
                _ => return unfolded,
            }
        }
        unfolded.to_end = true;
        unfolded
    }
}

/// Which windows, by their hash, begin a text.
struct Filter {
    words: Box<[u64]>,
    shift: u32,
}

impl Filter {
    fn for_windows(count: usize) -> Self {
        let words = (count * BITS_PER_WINDOW / 64)
            .clamp(*FILTER_WORDS.start(), *FILTER_WORDS.end())
            .next_power_of_two();
        Self {
            words: vec![0; words].into_boxed_slice(),
            shift: 32 - (words * 64).trailing_zeros(),
        }
    }

    fn add(&mut self, text: &[u8]) {
        let bit = self.bit_of(text);
        self.words[bit / 64] |= 1 << (bit % 64);
    }

    /// Whether a text may begin like this. Never `false` for one that does.
    fn passes(&self, text: &[u8]) -> bool {
        let bit = self.bit_of(text);
        self.words[bit / 64] & (1 << (bit % 64)) != 0
    }

    /// The bit for the first bytes of a text of at least [`WINDOW`] bytes.
    fn bit_of(&self, text: &[u8]) -> usize {
        let window = text
            .first_chunk::<WINDOW>()
            .map_or(0, |window| u32::from_le_bytes(*window));
        // The upper bits of a product by an odd constant mix all lower ones.
        (window.wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
