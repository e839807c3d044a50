//! The leak guard: wherever a stream is cut, it is redacted as if it were one text, and no value passes.
//! Input: a byte that says how long the chunks are, then the text. Once with values that stay, so that the text can be steered
//! towards them, and once with a value made of the input: repeating, nearly repeating, longer than what is searched for as one.

use base64::Engine as _;
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
    check(&GUARD, *cut, text);
    for (name, value) in VALUES {
        let there = text.windows(value.len()).any(|window| window == value.as_bytes());
        assert!(!there || GUARD.find(text).is_some(), "the value of {name} passes");
    }
    if cut & 0x80 != 0 {
        made_of(*cut, text);
    }
}

/// A value of the first bytes, and a text of the others with the value in it, in an encoding.
fn made_of(cut: u8, input: &[u8]) {
    let Some(([period, long, encoding, end], rest)) = input.split_first_chunk::<4>() else {
        return;
    };
    let (pattern, text) = rest.split_at(usize::from(*period).min(rest.len()));
    // White space around a value is not part of it.
    let printable = |byte: u8| char::from(b'!' + byte % 94);
    // Seldom longer than what is searched for as one: making such a guard takes its time.
    let length = if *long < 250 { 8 + usize::from(*long) } else { 5000 };
    let value: String = pattern
        .iter()
        .chain([end])
        .cycle()
        .take(length)
        .map(|byte| printable(*byte))
        .collect();
    let value = format!("{value}{}", printable(*end));
    let encoded = encodings(&value).swap_remove(usize::from(*encoding) % ENCODINGS);
    let guard = LeakGuard::new([(SecretName::new("MADE").expect("a name"), &SecretString::from(value))]);
    let (before, after) = text.split_at(text.len() / 2);
    let text = [before, encoded.as_bytes(), after].concat();
    let clean = check(&guard, cut, &text);
    let whole = clean.windows(encoded.len()).any(|window| window == encoded.as_bytes());
    assert!(!whole, "a value made of the input passes");
}

const ENCODINGS: usize = 7;

/// Encodings of a value, written anew here: what the guard derives itself is no witness.
fn encodings(value: &str) -> Vec<String> {
    let bytes = |write: fn(u8) -> String| value.bytes().map(write).collect::<String>();
    let encodings: [String; ENCODINGS] = [
        value.to_owned(),
        base64::engine::general_purpose::STANDARD.encode(value),
        value.chars().rev().collect(),
        bytes(|byte| format!("{byte:02x}")),
        bytes(|byte| format!("%{byte:02X}")),
        value.replace('\\', "\\\\").replace('"', "\\\""),
        value
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;")
            .replace('\'', "&#39;"),
    ];
    encodings.into()
}

/// That a text is redacted the same way whole and in chunks.
fn check(guard: &LeakGuard, cut: u8, text: &[u8]) -> Vec<u8> {
    let whole = guard.redact(text);
    let mut redactor = guard.redactor();
    let mut streamed = Vec::with_capacity(whole.len());
    for chunk in chunks(text, cut) {
        streamed.extend_from_slice(&redactor.push(Bytes::copy_from_slice(chunk)));
    }
    streamed.extend_from_slice(&redactor.finish());
    assert!(streamed == *whole, "cut into chunks it is redacted otherwise");
    assert_eq!(
        redactor.found(),
        guard.find(text),
        "the stream and the text disagree on whose value is there"
    );
    if guard.find(text).is_none() {
        assert!(*whole == *text, "what holds no value is changed");
    }
    streamed
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
    let made = |period, long, encoding| {
        let pattern = b"0123456789abcdef<>&+/ and some more of it, so that it does not repeat";
        [&[0x85, period, long, encoding, 65], pattern.as_slice()].concat()
    };
    for encoding in 0..7 {
        seeds.extend([(0, 200), (1, 200), (2, 90), (40, 3)].map(|(period, long)| made(period, long, encoding)));
    }
    // One is enough: such a value is looked at from its beginning with each chunk.
    seeds.push(made(7, 255, 0));
    seeds
}
