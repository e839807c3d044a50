//! Finds many texts in one: the leftmost, of those the longest.
//!
//! A sorted list behind a small filter, rather than an automaton: it is made in microseconds where an automaton
//! takes milliseconds, its speed hardly depends on how many texts there are, and everything it holds of them is
//! wiped on drop.
//!
//! A text of letters, digits and what else base64 has is found also when it is broken into lines, as MIME (RFC 2045) and
//! PEM (RFC 7468) break it, wherever the breaks fall.
//!
//! What is done at one place is bounded by the length of a text, which is a [`PIECE`] at most, and by the logarithm of how
//! many there are: whatever the texts, a search takes time in proportion to what is searched.

use super::forms::{Form, MIN_VALUE, PIECE};
use std::cmp::Ordering;
use zeroize::Zeroizing;

/// How many first bytes of a text the filter knows; no text is shorter.
const WINDOW: usize = MIN_VALUE;
/// The filter has this many bits for each window it knows, so that few others pass.
const BITS_PER_WINDOW: usize = 64;
/// The filter's size in 64-bit words: from 8 KiB to 128 KiB.
const FILTER_WORDS: std::ops::RangeInclusive<usize> = 1024..=16 * 1024;
/// The shortest text that is searched for across line breaks.
const MIN_FOLDED: usize = 16;

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
    /// For each text the longest other one that it begins with.
    parents: Vec<Option<u32>>,
    longest: usize,
    /// Of those that are searched for across line breaks.
    longest_folded: usize,
    filter: Filter,
    /// Which bytes begin a text.
    first: [bool; 256],
}

impl Matcher {
    /// Takes the texts sorted, each once, none shorter than [`MIN_VALUE`] or longer than [`PIECE`].
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
            parents: parents(&sorted),
            longest,
            longest_folded,
            filter,
            first,
            sorted,
        }
    }

    /// The texts, sorted.
    pub(super) fn forms(&self) -> &[Form] {
        &self.sorted
    }

    /// How many bytes of memory it takes, about.
    pub(super) fn size(&self) -> usize {
        let texts = self.sorted.iter().map(|form| form.capacity() + size_of::<Form>());
        texts.sum::<usize>() + size_of_val(&*self.parents) + size_of_val(&*self.filter.words) + size_of::<Self>()
    }

    /// The first text that begins at or after `from`, and before `until`.
    // THREAT[T-org-scan]: no text and no set of values makes a place cost more than a bounded amount of work.
    pub(super) fn find(&self, bytes: &[u8], from: usize, until: usize) -> Option<Found> {
        let rest = bytes.get(from..)?;
        for (at, window) in rest.windows(WINDOW).take(until.saturating_sub(from)).enumerate() {
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

    /// The first position where the rest of `bytes` could be the beginning of a text.
    pub(super) fn open_end(&self, bytes: &[u8]) -> usize {
        let reach = self.longest.max(self.longest_folded + most_breaks(self.longest_folded));
        let earliest = (bytes.len() + 1).saturating_sub(reach);
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
        if !self.is_broken(bytes) || !self.may_be_folded(bytes) {
            return None;
        }
        let unfolded = Unfolded::of(bytes, self.longest_folded);
        let number = self.longest_at(unfolded.text())?;
        let form = &self.sorted[number];
        let mut left = form.len();
        let length = bytes.iter().take_while(|byte| {
            let goes_on = left > 0;
            left -= usize::from(goes_on && !is_break(**byte));
            goes_on
        });
        let length = length.count();
        is_folded(form).then_some((number, length))
    }

    /// Whether `tail`, its line breaks left out, is the beginning of a text.
    fn begins_folded(&self, tail: &[u8]) -> bool {
        if !self.is_broken(tail)
            || tail.len() >= WINDOW && !self.filter.passes(tail)
            || tail.len() >= MIN_FOLDED && !self.may_be_folded(tail)
        {
            return false;
        }
        let unfolded = Unfolded::of(tail, self.longest_folded);
        unfolded.to_end && self.begins_longer(unfolded.text())
    }

    /// Whether a line break stands where it could break the text that `bytes` begin with.
    fn is_broken(&self, bytes: &[u8]) -> bool {
        let reach = self.longest_folded + most_breaks(self.longest_folded);
        self.longest_folded > 0 && bytes.iter().take(reach).any(|byte| is_break(*byte))
    }

    /// A cheap look at the first bytes, which only whoever knows a value gets past.
    fn may_be_folded(&self, bytes: &[u8]) -> bool {
        let mut head = [0; MIN_FOLDED];
        let mut length = 0;
        for byte in bytes.iter().take(MIN_FOLDED + most_breaks(MIN_FOLDED)) {
            if is_foldable(*byte) {
                head[length] = *byte;
                length += 1;
            } else if !is_break(*byte) {
                break;
            }
            if length == MIN_FOLDED {
                break;
            }
        }
        let head = &head[..length];
        let at = self.sorted.partition_point(|form| order(form, head).is_lt());
        let begins = |form: &Form| form.as_bytes().starts_with(head);
        self.sorted.get(at).is_some_and(begins)
    }

    /// Whether a text longer than `beginning` begins with it.
    fn begins_longer(&self, beginning: &[u8]) -> bool {
        let at = self.sorted.partition_point(|form| order(form, beginning).is_le());
        self.sorted
            .get(at)
            .is_some_and(|form| form.as_bytes().starts_with(beginning))
    }

    /// The longest text that `bytes` begin with.
    ///
    /// All strings between a prefix of `bytes` and `bytes` share that prefix. So the greatest text not above `bytes` is
    /// the answer or begins with it.
    fn longest_at(&self, bytes: &[u8]) -> Option<usize> {
        let bytes = &bytes[..bytes.len().min(self.longest)];
        let below = self.sorted.partition_point(|form| order(form, bytes).is_le());
        let mut number = below.checked_sub(1)?;
        let text = self.sorted[number].as_bytes();
        let common = text.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        while self.sorted[number].len() > common {
            number = self.parents[number]? as usize;
        }
        Some(number)
    }
}

/// Of each text the number of the longest other one that it begins with.
fn parents(sorted: &[Form]) -> Vec<Option<u32>> {
    let mut begun: Vec<usize> = Vec::new();
    let numbered = sorted.iter().enumerate();
    let parent = numbered.map(|(number, form)| {
        while begun.pop_if(|last| !form.starts_with(sorted[*last].as_str())).is_some() {}
        let parent = begun.last().and_then(|last| u32::try_from(*last).ok());
        begun.push(number);
        parent
    });
    parent.collect()
}

/// How a text compares with the beginning of what is searched.
fn order(form: &Form, bytes: &[u8]) -> Ordering {
    #[cfg(test)]
    tests::COMPARED.with(|compared| compared.set(compared.get() + form.len().min(bytes.len())));
    form.as_bytes().cmp(bytes)
}

/// Whether a text is searched for across line breaks.
fn is_folded(form: &str) -> bool {
    form.len() >= MIN_FOLDED && form.bytes().all(is_foldable)
}

const fn is_break(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
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
    bytes: Zeroizing<[u8; PIECE]>,
    length: usize,
    /// Whether it went to the end of the bytes.
    to_end: bool,
}

impl Unfolded {
    fn of(bytes: &[u8], most: usize) -> Self {
        let mut unfolded = Self {
            bytes: Zeroizing::new([0; PIECE]),
            length: 0,
            to_end: false,
        };
        let most = most.min(PIECE);
        let mut breaks = 0;
        for byte in bytes {
            if unfolded.length == most {
                return unfolded;
            }
            match *byte {
                byte if is_break(byte) && breaks < most_breaks(unfolded.length) => breaks += 1,
                byte if is_foldable(byte) => {
                    unfolded.bytes[unfolded.length] = byte;
                    unfolded.length += 1;
                }
                _ => return unfolded,
            }
        }
        unfolded.to_end = true;
        unfolded
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..self.length]
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
    use std::cell::Cell;

    thread_local! {
        /// How many bytes were compared.
        pub(super) static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

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

    /// The forms of values, as the guard searches for them.
    fn of_values(values: &[String]) -> Matcher {
        let mut sorted: Vec<Form> = values.iter().flat_map(|value| super::super::forms::of(value)).collect();
        sorted.sort_unstable_by(|a, b| a.as_str().cmp(b));
        sorted.dedup();
        Matcher::new(sorted)
    }

    #[test]
    fn no_value_makes_a_search_cost_more_than_the_length_of_the_text() {
        let a = |count: usize| "a".repeat(count);
        let text = a(16 << 10).into_bytes();
        let in_lines: Vec<u8> = text.chunks(9).collect::<Vec<_>>().join(&b'\n');
        for values in [
            vec![format!("{}b", a(4095))],
            vec![format!("{}b", a(60_000))],
            vec![format!("{}b", a(PIECE - 1))],
            vec!["ab".repeat(10_000)],
            // Each begins with the ones before, and a lesser one stands between.
            (16..250)
                .flat_map(|count| [format!("{}b", a(count)), format!("{}!", a(count))])
                .collect(),
        ] {
            let matcher = of_values(&values);
            let most = (usize::BITS - matcher.sorted.len().leading_zeros()) as usize * 4 * PIECE;
            for text in [&text, &in_lines] {
                COMPARED.set(0);
                let mut from = 0;
                while let Some(found) = matcher.find(text, from, usize::MAX) {
                    from = found.start + 1;
                }
                assert!(
                    COMPARED.get() <= most * text.len(),
                    "{} at each place",
                    COMPARED.get() / text.len()
                );
            }
        }
    }

    #[test]
    fn a_stream_of_single_bytes_is_not_compared_anew_with_each() {
        let matcher = of_values(&[format!("{}b", "a".repeat(PIECE - 1))]);
        let held = vec![b'a'; PIECE - 1];
        COMPARED.set(0);
        assert_eq!(matcher.open_end(&held), 0);
        assert_eq!(matcher.find(&held, 0, 0), None);
        assert!(COMPARED.get() <= 16 * PIECE, "{}", COMPARED.get());
    }

    proptest! {
        #[test]
        fn it_finds_the_leftmost_and_of_those_the_longest(
            texts in prop::collection::vec("[ab]{4,9}", 1..12), bytes in "[ab]{0,40}", from in 0_usize..4,
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let found = matcher(&texts).find(bytes.as_bytes(), from, usize::MAX).map(|found| (found.start, found.end));
            prop_assert_eq!(found, plain(&texts, bytes.as_bytes(), from));
        }

        #[test]
        fn the_open_end_is_the_longest_beginning_at_the_end(
            texts in prop::collection::vec("[ab]{4,9}", 1..6), bytes in "[ab]{0,20}",
        ) {
            let open = (0..bytes.len())
                .find(|at| texts.iter().any(|text| text.len() > bytes.len() - at && text.starts_with(&bytes[*at..])));
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            prop_assert_eq!(matcher(&texts).open_end(bytes.as_bytes()), open.unwrap_or(bytes.len()));
        }
    }
}
