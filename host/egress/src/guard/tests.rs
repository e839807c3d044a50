use super::*;
use base64::{Engine as _, engine::general_purpose};
use proptest::prelude::*;

fn guard(secrets: &[(&str, &str)]) -> LeakGuard {
    let secrets: Vec<_> = secrets
        .iter()
        .map(|(name, value)| (SecretName::new(name).unwrap(), SecretString::from(*value)))
        .collect();
    LeakGuard::new(secrets.iter().map(|(name, value)| (name.clone(), value)))
}

fn streamed(guard: &LeakGuard, text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let (mut redactor, mut out, mut from) = (guard.redactor(), Vec::new(), 0);
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    cuts.sort_unstable();
    for cut in cuts.into_iter().chain([text.len()]) {
        out.extend_from_slice(&redactor.push(Bytes::copy_from_slice(&text[from..cut])));
        from = cut;
    }
    out.extend_from_slice(&redactor.finish());
    out
}

#[test]
fn each_encoding_of_a_value_is_replaced() {
    let value = "p@ss/w0rd \"quoted\" \u{fc}ber";
    let guard = guard(&[("KEY", value)]);
    let reversed: String = value.chars().rev().collect();
    for text in [
        value,
        &reversed,
        "p%40ss%2Fw0rd%20%22quoted%22%20%C3%BCber",
        "p%40ss%2fw0rd+%22quoted%22+%c3%bcber",
        r#"p@ss\/w0rd \"quoted\" \u00fcber"#,
    ] {
        assert_eq!(guard.redact_str(&format!("a{text}b")), "a[secret:KEY]b", "{text}");
    }
}

#[test]
fn base64_is_found_wherever_the_value_stands_in_it() {
    let value = "0123456789?>~";
    let guard = guard(&[("KEY", value)]);
    for engine in [general_purpose::STANDARD, general_purpose::URL_SAFE] {
        for before in 0..6 {
            for after in 0..4 {
                let text = engine.encode(format!("{}{value}{}", "x".repeat(before), "y".repeat(after)));
                let redacted = guard.redact_str(&text).into_owned();
                assert!(redacted.contains("[secret:KEY]"), "{text}");
                let left = redacted.replace("[secret:KEY]", "");
                assert!(left.len() <= (before + after + 5) * 4 / 3 + 4, "{redacted}");
            }
        }
    }
}

/// `text` broken after `first` characters and then after each `width`.
fn in_lines(text: &str, first: usize, width: usize, line_break: &str) -> String {
    let mut out = String::new();
    for (at, c) in text.chars().enumerate() {
        if at >= first && (at - first).is_multiple_of(width) {
            out.push_str(line_break);
        }
        out.push(c);
    }
    out
}

#[test]
fn base64_and_hex_are_found_in_lines_wherever_the_breaks_fall() {
    let value = "0123456789?>~0123456789?>~-and-some-more-so-that-two-lines-are-not-enough-for-it-in-base64";
    let guard = guard(&[("KEY", value)]);
    let hex: String = value.bytes().map(|b| format!("{b:02x}")).collect();
    let core = general_purpose::STANDARD_NO_PAD.encode(&value[..value.len() / 3 * 3]);
    for text in [hex, core] {
        for line_break in ["\n", "\r\n"] {
            for width in [20, 64, 76] {
                for first in 1..=width {
                    let folded = in_lines(&text, first, width, line_break);
                    let whole = format!("before {folded} after");
                    let redacted = guard.redact_str(&whole).into_owned();
                    assert!(redacted.starts_with("before [secret:KEY]"), "{whole}: {redacted}");
                    assert!(redacted.len() < 40, "{whole}: {redacted}");
                    let cut = (first * 7) % whole.len();
                    assert_eq!(streamed(&guard, whole.as_bytes(), &[cut, cut + 1]), redacted.as_bytes());
                }
            }
        }
    }
}

/// A value of so many bytes that no two pieces of it are alike.
fn long_value(length: usize) -> String {
    let mut state = 7_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + u8::try_from((state >> 16) % 90).unwrap())
    };
    (0..length).map(next).collect()
}

#[test]
fn a_long_value_becomes_one_mark_wherever_the_stream_is_cut() {
    let value = long_value(20_000);
    let guard = guard(&[("KEY", &value)]);
    for form in [value.clone(), general_purpose::STANDARD.encode(&value)] {
        let text = format!("before {form} after");
        let redacted = guard.redact_str(&text).into_owned();
        assert!(
            redacted.starts_with("before [secret:KEY]") && redacted.len() < 40,
            "{redacted}"
        );
        for size in [1, 7, 255, 256, 257, 4096] {
            let mut redactor = guard.redactor();
            let mut out = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                out.extend_from_slice(&redactor.push(Bytes::copy_from_slice(chunk)));
                assert!(redactor.held.len() < 300, "{} bytes are held back", redactor.held.len());
            }
            out.extend_from_slice(&redactor.finish());
            assert_eq!(out, redacted.as_bytes(), "in chunks of {size}");
        }
    }
}

#[test]
fn a_long_value_in_base64_is_found_in_lines() {
    let value = long_value(9_000);
    let guard = guard(&[("KEY", &value)]);
    let encoded = general_purpose::STANDARD.encode(&value);
    let redacted = guard.redact_str(&in_lines(&encoded, 76, 76, "\r\n")).into_owned();
    let left = redacted.replace("[secret:KEY]", "").replace(['\r', '\n'], "");
    assert!(left.len() < 8, "{left}");
}

#[test]
fn a_text_in_lines_is_not_delayed_for_what_can_not_be_a_value() {
    let guard = guard(&[("KEY", "0123456789abcdefghijklmnopqrstuvwxyz")]);
    let mut redactor = guard.redactor();
    assert_eq!(redactor.push("one line\nand 0123\n".into()), "one line\nand ");
    assert_eq!(redactor.push("and more\n".into()), "0123\nand more\n");
}

#[test]
fn all_of_overlapping_values_is_replaced() {
    let guard = guard(&[("SHORT", "abcdefgh"), ("LONG", "abcdefghijkl"), ("TAIL", "ijklmnop")]);
    assert_eq!(guard.redact_str("abcdefghijklmnop"), "[secret:LONG][secret:TAIL]");
    assert_eq!(
        streamed(&guard, b"abcdefghijklmnop", &[9, 12, 13]),
        b"[secret:LONG][secret:TAIL]"
    );
    assert_eq!(guard.redact_str("abcdefghijk_"), "[secret:SHORT]ijk_");
    assert_eq!(
        streamed(&guard, b"abcdefghijk_", &[8, 9, 10, 11]),
        b"[secret:SHORT]ijk_"
    );
}

#[test]
fn a_text_without_values_is_passed_on_without_a_copy() {
    let guard = guard(&[("KEY", "0123456789")]);
    assert!(matches!(guard.redact_str("nothing here"), Cow::Borrowed(_)));
    let chunk = Bytes::from_static(b"nothing here!");
    let mut redactor = guard.redactor();
    assert_eq!(redactor.push(chunk.clone()).as_ptr(), chunk.as_ptr());
    assert!(redactor.found().is_none());
}

#[test]
fn only_what_could_begin_a_value_is_held_back() {
    let guard = guard(&[("KEY", "0123456789")]);
    let mut redactor = guard.redactor();
    assert_eq!(redactor.push("text 0123".into()), "text ");
    assert_eq!(redactor.push("4x".into()), "01234x");
    assert_eq!(redactor.push("0123456789".into()), "[secret:KEY]");
    assert_eq!(redactor.push("01".into()), "");
    assert_eq!(redactor.finish(), "01");
    assert_eq!(redactor.found().map(SecretName::as_str), Some("KEY"));
}

#[test]
fn a_guard_without_secrets_passes_everything() {
    for guard in [
        LeakGuard::default(),
        guard(&[]),
        guard(&[("KEY", "abc"), ("EMPTY", "")]),
    ] {
        assert!(guard.is_empty());
        assert_eq!(guard.redact_str("abc"), "abc");
        assert_eq!(guard.redactor().push("abc".into()), "abc");
    }
}

#[test]
fn a_guard_shows_names_and_no_values() {
    let guard = guard(&[("KEY", "0123456789")]);
    let mut redactor = guard.redactor();
    let _ = redactor.push("01234".into());
    assert_eq!(format!("{guard:?}"), "{\"KEY\"}");
    assert!(!format!("{redactor:?}").contains("01234"), "{redactor:?}");
}

proptest! {
    #[test]
    fn a_stream_is_redacted_as_one_text_however_it_is_cut(
        pieces in prop::collection::vec(prop_oneof![
            Just("abcabcab"), Just("abcabcabcd"), Just("bcabc"), Just("a"), Just("b"), Just("c"), Just("d"), Just(" "),
            Just("YWJjYWJjYWI"), Just("6162636162636162"), Just("bacbacba"),
        ], 0..24),
        cuts in prop::collection::vec(0_usize..400, 0..24),
    ) {
        let guard = guard(&[("ONE", "abcabcab"), ("TWO", "abcabcabcd"), ("THREE", "bcab")]);
        let text = pieces.concat();
        let whole = guard.redact(text.as_bytes()).into_owned();
        prop_assert_eq!(&streamed(&guard, text.as_bytes(), &cuts), &whole);
        let redacted = guard.redact_str(&text).into_owned();
        prop_assert_eq!(redacted.into_bytes(), whole);
    }

    #[test]
    fn no_value_survives_in_any_text(before in ".{0,20}", after in ".{0,20}", value in "[!-~é]{8,40}") {
        let guard = guard(&[("KEY", &value)]);
        let redacted = guard.redact_str(&format!("{before}{value}{after}")).replace("[secret:KEY]", "\u{0}");
        prop_assert!(!redacted.contains(&value));
    }

    #[test]
    fn nothing_of_a_value_passes_in_any_form_at_any_place_in_any_chunks(
        before in ".{0,40}", after in ".{0,40}", value in "[!-~é]{8,40}", which in 0_usize..64,
        cuts in prop::collection::vec(0_usize..1000, 0..8),
    ) {
        let guard = guard(&[("KEY", &value)]);
        let forms = forms::of(&value);
        let form = forms[which % forms.len()].as_str();
        let text = format!("{before}{form}{after}");
        let passed = streamed(&guard, text.as_bytes(), &cuts);
        let rest = String::from_utf8(passed).unwrap().replace("[secret:KEY]", "\u{0}");
        prop_assert!(!rest.contains(form), "{}", rest);
        prop_assert!(rest.contains(char::from(0)), "{}", rest);
    }

    #[test]
    fn a_text_without_a_value_passes_unchanged(
        text in "[ -~\n]{0,400}", cuts in prop::collection::vec(0_usize..1000, 0..8),
    ) {
        // Of characters that the text has none of.
        let guard = guard(&[("ONE", "\u{e9}\u{e8}\u{ea}\u{eb}\u{e0}"), ("TWO", "\u{fc}\u{f6}\u{e4}\u{df}")]);
        prop_assume!(guard.find(text.as_bytes()).is_none());
        prop_assert_eq!(streamed(&guard, text.as_bytes(), &cuts), text.as_bytes());
    }
}
