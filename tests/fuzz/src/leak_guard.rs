//! The leak guard: wherever a stream is cut, it is redacted as if it were one text, and no value passes.
//! Input: a byte that says how long the chunks are, then the text.

use bytes::Bytes;
use fumehood_core::name::SecretName;
use fumehood_egress::LeakGuard;
use secrecy::SecretString;
use std::sync::LazyLock;

const VALUES: [(&str, &str); 4] = [
    ("TOKEN", "s3cr3t/V4lue+with=odd&chars"),
    ("SHORT", "abcab"),
    ("LONGER", "abcabcabd"),
    ("KEY", "line one of the key 0123456789\nline two of the key 9876543210"),
];

static GUARD: LazyLock<LeakGuard> = LazyLock::new(|| {
    let values = VALUES.map(|(name, value)| (SecretName::new(name).expect("a name"), SecretString::from(value)));
    LeakGuard::new(values.iter().map(|(name, value)| (name.clone(), value)))
});

pub(crate) fn run(input: &[u8]) {
    let Some((cut, text)) = input.split_first() else { return };
    let whole = GUARD.redact(text);
    let mut redactor = GUARD.redactor();
    let mut streamed = Vec::with_capacity(whole.len());
    for chunk in chunks(text, *cut) {
        streamed.extend_from_slice(&redactor.push(Bytes::copy_from_slice(chunk)));
    }
    streamed.extend_from_slice(&redactor.finish());
    assert!(streamed == *whole, "cut into chunks it is redacted otherwise");
    assert_eq!(
        redactor.found(),
        GUARD.find(text),
        "the stream and the text disagree on whose value is there"
    );
    if GUARD.find(text).is_none() {
        assert!(*whole == *text, "what holds no value is changed");
    }
    for (name, value) in VALUES {
        let there = text.windows(value.len()).any(|window| window == value.as_bytes());
        assert!(!there || GUARD.find(text).is_some(), "the value of {name} passes");
    }
}

/// Pieces of the same length, or of lengths that change.
fn chunks(text: &[u8], cut: u8) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut length) = (text, usize::from(cut & 0x3f) + 1);
    std::iter::from_fn(move || {
        let (chunk, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        if cut & 0x40 != 0 {
            length = length % 7 + 1;
        }
        (!chunk.is_empty()).then_some(chunk)
    })
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (_, value) in VALUES {
        for cut in [0, 1, 2, 0x46, 63] {
            seeds.push([&[cut], b"before ".as_slice(), value.as_bytes(), b" after"].concat());
        }
    }
    seeds.extend(
        [
            "\u{1}abcabcabcabdabcab",
            "\u{0}czNjcjN0L1Y0bHVlK3dpdGg9b2RkJmNoYXJz",
            "\u{3}s3cr3t%2FV4lue%2Bwith%3Dodd%26chars",
            "\u{4}7333637233742f56346c75652b776974683d6f64642663686172",
            "\u{5}srahc&ddo=htiw+eul4V/t3rc3s",
            "\u{41}abcab\\nabca",
        ]
        .map(|text| text.as_bytes().to_vec()),
    );
    seeds
}
