//! Shapes of keys: texts that look like somebody's credential, although nobody told us of it.
//!
//! They are only noted, in the ledger: which kind, and where. Never blocked, because nobody knows whose they are and an example
//! in a document looks the same; never kept, because they may be real.
//!
//! Exact on each kind's beginning and on how much of its alphabet follows; a stream is searched across its chunks, as far as
//! [`LOOK`] bytes on both sides of a border reach.

use fumehood_core::ledger::{ShapeKind, ShapePlace, ShapeSeen};
use std::sync::atomic::{AtomicU64, Ordering};

/// How far a search looks over the border of two chunks.
const LOOK: usize = 512;
/// The longest first part of a JSON web token that is followed.
const LONGEST_JWT_HEAD: usize = 400;

/// What was seen in an exchange so far; a set of kinds and places.
#[derive(Debug, Default)]
pub(crate) struct Shapes(AtomicU64);

impl Shapes {
    /// Notes what a text holds.
    pub(crate) fn note(&self, place: ShapePlace, text: &[u8]) {
        self.add(place, kinds_in(text, 0));
    }

    /// All of it, in a fixed order.
    pub(crate) fn seen(&self) -> Vec<ShapeSeen> {
        let set = self.0.load(Ordering::Relaxed);
        let places = ShapePlace::ALL.into_iter().enumerate();
        places
            .flat_map(|(at, place)| {
                let kinds = ShapeKind::ALL.into_iter().enumerate();
                kinds
                    .filter(move |(kind, _)| (set >> (at * 8 + kind)) & 1 != 0)
                    .map(move |(_, kind)| ShapeSeen { kind, place })
            })
            .collect()
    }

    fn add(&self, place: ShapePlace, kinds: u8) {
        if kinds != 0 {
            let at = ShapePlace::ALL.iter().position(|known| *known == place).unwrap_or(0);
            self.0.fetch_or(u64::from(kinds) << (at * 8), Ordering::Relaxed);
        }
    }
}

/// Searches one body, chunk by chunk.
#[derive(Debug)]
pub(crate) struct ShapeScan {
    place: ShapePlace,
    found: u8,
    /// The end of what came.
    tail: Vec<u8>,
}

impl ShapeScan {
    pub(crate) const fn new(place: ShapePlace) -> Self {
        Self {
            place,
            found: 0,
            tail: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, chunk: &[u8], shapes: &Shapes) {
        if chunk.is_empty() {
            return;
        }
        let before = self.found;
        if !self.tail.is_empty() {
            let known = self.tail.len();
            self.tail.extend_from_slice(&chunk[..chunk.len().min(LOOK)]);
            self.found |= kinds_in(&self.tail, self.found);
            self.tail.truncate(known);
        }
        self.found |= kinds_after(self.tail.last().copied(), chunk, self.found);
        if self.found != before {
            shapes.add(self.place, self.found);
        }
        let keep = &chunk[chunk.len().saturating_sub(LOOK)..];
        let drop = (self.tail.len() + keep.len()).saturating_sub(LOOK).min(self.tail.len());
        self.tail.drain(..drop);
        self.tail.extend_from_slice(keep);
    }
}

/// Bytes at which to look closer. Every kind has one near its beginning, and all are rare in text.
const TRIGGERS: [bool; 256] = {
    let mut table = [false; 256];
    table[b'_' as usize] = true;
    table[b'-' as usize] = true;
    table[b'I' as usize] = true;
    table[b'J' as usize] = true;
    table
};

/// The kinds in a text beside those `known`, as a set.
fn kinds_in(text: &[u8], known: u8) -> u8 {
    kinds_after(None, text, known)
}

fn kinds_after(before: Option<u8>, text: &[u8], known: u8) -> u8 {
    let mut found = 0;
    for (at, byte) in text.iter().enumerate() {
        if TRIGGERS[usize::from(*byte)]
            && let Some((kind, start)) = kind_at(text, at)
        {
            let bit = 1 << ShapeKind::ALL.iter().position(|known| *known == kind).unwrap_or(0);
            let previous = start.checked_sub(1).map_or(before, |at| Some(text[at]));
            // In the middle of a longer word it is that word: `task-` ends in `sk-`.
            if (known | found) & bit == 0 && !previous.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            {
                found |= bit;
            }
        }
    }
    found
}

/// The kind whose telling byte stands at `at`, and where it begins.
fn kind_at(text: &[u8], at: usize) -> Option<(ShapeKind, usize)> {
    let (head, rest) = (&text[..at], &text[at + 1..]);
    let begins = |word: &[u8]| head.ends_with(word).then(|| at - word.len());
    match text[at] {
        b'_' => {
            let classic = head
                .last_chunk::<3>()
                .is_some_and(|word| word.starts_with(b"gh") && b"pousr".contains(&word[2]));
            if classic {
                return run(rest, |b| b.is_ascii_alphanumeric(), 36).then_some((ShapeKind::GithubToken, at - 3));
            }
            let start = begins(b"github_pat")?;
            run(rest, |b| b.is_ascii_alphanumeric() || b == b'_', 40).then_some((ShapeKind::GithubToken, start))
        }
        b'I' => {
            if let Some(start) = begins(b"AK").or_else(|| begins(b"AS")) {
                let id = rest.strip_prefix(b"A")?;
                let upper = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
                return run(id, upper, 16).then_some((ShapeKind::AwsAccessKey, start));
            }
            let start = begins(b"A")?;
            run(rest.strip_prefix(b"za")?, is_url_safe, 35).then_some((ShapeKind::GoogleApiKey, start))
        }
        b'J' => {
            let start = begins(b"ey")?;
            let length = rest
                .iter()
                .take(LONGEST_JWT_HEAD)
                .take_while(|b| is_url_safe(**b))
                .count();
            let payload = rest[length..].strip_prefix(b".eyJ")?;
            (length >= 10 && run(payload, is_url_safe, 8)).then_some((ShapeKind::JsonWebToken, start))
        }
        _ => dashed(text, at),
    }
}

/// The kinds whose telling byte is a dash.
fn dashed(text: &[u8], at: usize) -> Option<(ShapeKind, usize)> {
    let (head, rest) = (&text[..at], &text[at + 1..]);
    if head.ends_with(b"sk") {
        let key = rest.get(..20)?;
        // A name in kebab case has no digit or capital letter.
        let odd = key.iter().any(|b| b.is_ascii_digit()) && key.iter().any(|b| b.is_ascii_alphabetic());
        return (odd && run(key, is_url_safe, 20)).then_some((ShapeKind::SkKey, at - 2));
    }
    if let Some([b'x', b'o', b'x', which]) = head.last_chunk::<4>() {
        let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        return (b"abeprs".contains(which) && run(rest, token, 20)).then_some((ShapeKind::SlackToken, at - 4));
    }
    if head.ends_with(b"----") {
        let label = rest.strip_prefix(b"BEGIN ")?;
        let length = label
            .iter()
            .take(40)
            .take_while(|b| b.is_ascii_uppercase() || **b == b' ')
            .count();
        let (label, end) = label.split_at(length);
        return (label.ends_with(b"PRIVATE KEY") && end.starts_with(b"-----"))
            .then_some((ShapeKind::PrivateKey, at - 4));
    }
    None
}

/// Whether at least `count` bytes of an alphabet come first.
fn run(bytes: &[u8], alphabet: impl Fn(u8) -> bool, count: usize) -> bool {
    bytes
        .get(..count)
        .is_some_and(|bytes| bytes.iter().all(|b| alphabet(*b)))
}

const fn is_url_safe(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One text of each kind, put together so that no scanner of source code takes it for a key.
    fn examples() -> Vec<(ShapeKind, String)> {
        vec![
            (ShapeKind::GithubToken, format!("ghp{}{}", "_", "a1B2".repeat(9))),
            (
                ShapeKind::GithubToken,
                format!("github_pat{}{}", "_", "a1B2_".repeat(9)),
            ),
            (ShapeKind::AwsAccessKey, format!("AKI{}{}", "A", "A1B2".repeat(4))),
            (ShapeKind::SkKey, format!("sk{}ant-api03-{}", "-", "a1B2_".repeat(5))),
            (ShapeKind::SlackToken, format!("xoxb{}{}", "-", "12345-abcDE".repeat(3))),
            (ShapeKind::GoogleApiKey, format!("AI{}{}", "za", "Sy-_1".repeat(7))),
            (
                ShapeKind::JsonWebToken,
                format!("eyJ{}.eyJ{}.sig", "hbGciOiJIUzI1NiJ9", "zdWIiOiIxIn0"),
            ),
            (ShapeKind::PrivateKey, format!("-----BEGIN {} KEY-----", "RSA PRIVATE")),
            (ShapeKind::PrivateKey, format!("-----BEGIN {} KEY-----", "PRIVATE")),
        ]
    }

    fn seen(chunks: &[&[u8]]) -> Vec<ShapeKind> {
        let (shapes, mut scan) = (Shapes::default(), ShapeScan::new(ShapePlace::ResponseBody));
        for chunk in chunks {
            scan.push(chunk, &shapes);
        }
        shapes.seen().into_iter().map(|seen| seen.kind).collect()
    }

    #[test]
    fn each_kind_is_seen_wherever_it_is_cut() {
        for (kind, text) in examples() {
            let text = format!("a text, {text} and more").into_bytes();
            assert_eq!(seen(&[&text]), [kind]);
            for cut in 0..=text.len() {
                let (first, second) = text.split_at(cut);
                assert_eq!(seen(&[first, second]), [kind], "{kind:?} cut at {cut}");
            }
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            assert_eq!(seen(&bytes), [kind]);
        }
    }

    #[test]
    fn what_only_resembles_a_key_is_not_one() {
        for text in [
            "a task-management-system-for-everyone-1",
            "risk-a1B2a1B2a1B2a1B2a1B2a1B2",
            "sk-learn is a library for everybody who",
            "ghp_short",
            "myghp_a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2",
            "AKIAlowercaseisnotone",
            "eyJ alone, or eyJhbGciOiJIUzI1NiJ9 without the rest",
            "-----BEGIN CERTIFICATE-----",
            "-----BEGIN PUBLIC KEY-----",
            "xox is a noise, xoxo-the-end",
        ] {
            assert_eq!(seen(&[text.as_bytes()]), [], "{text}");
        }
    }

    #[test]
    fn each_place_is_told_apart() {
        let shapes = Shapes::default();
        let (kind, text) = examples().remove(0);
        shapes.note(ShapePlace::RequestUrl, text.as_bytes());
        shapes.note(ShapePlace::ResponseHeaders, text.as_bytes());
        let places: Vec<_> = shapes.seen().into_iter().map(|seen| (seen.kind, seen.place)).collect();
        assert_eq!(
            places,
            [(kind, ShapePlace::RequestUrl), (kind, ShapePlace::ResponseHeaders)]
        );
    }

    proptest! {
        #[test]
        fn a_stream_is_searched_as_one_text(
            pieces in prop::collection::vec((0_usize..12, "[ -~]{0,20}"), 0..6),
            cuts in prop::collection::vec(0_usize..600, 0..12),
        ) {
            let examples = examples();
            let text: String = pieces
                .iter()
                .map(|(which, between)| format!("{between} {} ", examples.get(*which).map_or("", |(_, text)| text)))
                .collect();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(seen(&chunks), seen(&[text.as_bytes()]));
        }
    }
}
