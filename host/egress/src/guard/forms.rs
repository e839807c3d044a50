//! The texts by which a secret's value gives itself away: the value and its common encodings.

use base64::{Engine as _, alphabet, engine::general_purpose};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt::Write as _;
use zeroize::Zeroizing;

/// The shortest value that is searched for.
pub(super) const MIN_VALUE: usize = 4;
/// The shortest encoded form that is searched for; shorter ones turn up by chance.
const MIN_FORM: usize = 6;
/// The shortest line of a multi-line value (a PEM key) that is searched for on its own.
const MIN_LINE: usize = 16;

/// RFC 3986 unreserved characters stay as they are.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What JavaScript's `encodeURIComponent` leaves.
const URI_COMPONENT: &AsciiSet = &UNRESERVED
    .remove(b'!')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*');
/// What JavaScript's `encodeURI` leaves.
const URI: &AsciiSet = &URI_COMPONENT
    .remove(b';')
    .remove(b'/')
    .remove(b'?')
    .remove(b':')
    .remove(b'@')
    .remove(b'&')
    .remove(b'=')
    .remove(b'+')
    .remove(b'$')
    .remove(b',')
    .remove(b'#');
/// What the URL standard leaves in a query.
const QUERY: &AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\'');

/// A text that must not pass, wiped when dropped.
pub(super) type Form = Zeroizing<String>;

/// Every form of one value, sorted, each once. Empty for a value that is too short to search for.
///
/// White space around a value is not part of it: a value read from a file often ends in a line break that no echo
/// repeats.
pub(super) fn of(value: &str) -> Vec<Form> {
    let value = value.trim();
    if value.len() < MIN_VALUE {
        return Vec::new();
    }
    let mut forms = Vec::with_capacity(32);
    add_base64(&mut forms, value);
    add_hex(&mut forms, value);
    add_percent(&mut forms, value);
    add_numbered(&mut forms, value);
    if !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)) {
        add_json(&mut forms, value);
        add_html(&mut forms, value);
    }
    forms.push(Zeroizing::new(value.chars().rev().collect()));
    add_lines(&mut forms, value);
    forms.retain(|form| form.len() >= MIN_FORM);
    forms.push(Zeroizing::new(value.to_owned()));
    forms.sort_unstable_by(|a, b| a.as_str().cmp(b));
    forms.dedup();
    forms
}

/// Base64 in both alphabets, wherever the value begins within a group of three bytes.
///
/// Only the characters that depend on nothing but the value are searched for, so the
/// form is found whatever stands before or after it (`user:` in basic authentication).
fn add_base64(forms: &mut Vec<Form>, value: &str) {
    for engine in [
        general_purpose::STANDARD_NO_PAD,
        general_purpose::GeneralPurpose::new(&alphabet::URL_SAFE, general_purpose::NO_PAD),
    ] {
        for offset in 0..3_usize {
            let mut shifted = Zeroizing::new(vec![0_u8; offset]);
            shifted.extend_from_slice(value.as_bytes());
            let encoded = Zeroizing::new(engine.encode(&*shifted));
            let first = (offset * 8).div_ceil(6);
            let end = shifted.len() * 8 / 6;
            if let Some(core) = encoded.get(first..end) {
                // As it stands in a JSON string that escapes slashes, and in a form or query.
                for (slash, plus) in [("/", "+"), ("\\/", "+"), ("%2F", "%2B"), ("%2f", "%2b")] {
                    forms.push(Zeroizing::new(core.replace('/', slash).replace('+', plus)));
                }
            }
        }
    }
}

/// Every character by its number, as those write it who escape everything.
fn add_numbered(forms: &mut Vec<Form>, value: &str) {
    let mut add = |write: &mut dyn FnMut(&mut Form, char)| {
        let mut out = Form::default();
        value.chars().for_each(|c| write(&mut out, c));
        forms.push(out);
    };
    // Writing to a text does not fail.
    add(&mut |out, c| {
        let _ = write!(out, "&#{};", u32::from(c));
    });
    add(&mut |out, c| {
        let _ = write!(out, "&#x{:x};", u32::from(c));
    });
    add(&mut |out, c| {
        let _ = write!(out, "&#x{:X};", u32::from(c));
    });
    add(&mut |out, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    });
    add(&mut |out, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04X}");
        }
    });
    forms.push(each_byte(value, "%", HEX_LOWER));
    forms.push(each_byte(value, "%", HEX_UPPER));
}

fn add_hex(forms: &mut Vec<Form>, value: &str) {
    forms.push(each_byte(value, "", HEX_LOWER));
    forms.push(each_byte(value, "", HEX_UPPER));
    forms.push(each_byte(value, " ", HEX_LOWER));
}

const HEX_LOWER: &[u8; 16] = b"0123456789abcdef";
const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// Every byte in two digits, `before` in front of each.
fn each_byte(value: &str, before: &str, digits: &[u8; 16]) -> Form {
    let mut out = Zeroizing::new(String::with_capacity(value.len() * (2 + before.len())));
    for byte in value.bytes() {
        out.push_str(before);
        out.push(char::from(digits[usize::from(byte >> 4)]));
        out.push(char::from(digits[usize::from(byte & 15)]));
    }
    Zeroizing::new(out.trim_start().to_owned())
}

fn add_percent(forms: &mut Vec<Form>, value: &str) {
    forms.push(each_byte(value, "%", HEX_LOWER));
    forms.push(each_byte(value, "%", HEX_UPPER));
    for set in [UNRESERVED, URI_COMPONENT, URI, QUERY] {
        let upper = Zeroizing::new(utf8_percent_encode(value, set).to_string());
        if *upper == value {
            continue;
        }
        let lower = lower_escapes(&upper);
        forms.push(Zeroizing::new(upper.replace("%20", "+")));
        forms.push(Zeroizing::new(lower.replace("%20", "+")));
        forms.push(lower);
        forms.push(upper);
    }
}

/// The same text with `%2F` written `%2f`.
fn lower_escapes(text: &str) -> Form {
    let mut digits = 0;
    Zeroizing::new(
        text.chars()
            .map(|c| {
                if c == '%' {
                    digits = 2;
                } else if digits > 0 {
                    digits -= 1;
                    return c.to_ascii_lowercase();
                }
                c
            })
            .collect(),
    )
}

/// The value inside a JSON string, as the common encoders write it.
fn add_json(forms: &mut Vec<Form>, value: &str) {
    /// Which characters an encoder escapes although JSON does not ask for it.
    #[derive(Clone, Copy)]
    struct Style {
        slash: bool,
        html: bool,
        non_ascii: bool,
        upper: bool,
    }
    fn unicode(out: &mut Form, c: char, upper: bool) {
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            let _ = if upper {
                write!(out, "\\u{unit:04X}")
            } else {
                write!(out, "\\u{unit:04x}")
            };
        }
    }
    fn escaped(value: &str, style: Style) -> Form {
        let mut out = Form::default();
        for c in value.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '/' if style.slash => out.push_str("\\/"),
                '<' | '>' | '&' | '\'' | '+' if style.html => unicode(&mut out, c, style.upper),
                c if c < ' ' || (style.non_ascii && !c.is_ascii()) => unicode(&mut out, c, style.upper),
                c => out.push(c),
            }
        }
        out
    }
    for bits in 0..16_u8 {
        let style = Style {
            slash: bits & 1 != 0,
            html: bits & 2 != 0,
            non_ascii: bits & 4 != 0,
            upper: bits & 8 != 0,
        };
        let form = escaped(value, style);
        if !forms.contains(&form) {
            forms.push(form);
        }
    }
    // The encoders that escape `<`, `>` and `&` differ on quotes and plus signs.
    let mut some = escaped(
        value,
        Style {
            slash: false,
            html: false,
            non_ascii: false,
            upper: false,
        },
    );
    for (from, to) in [("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")] {
        some = Zeroizing::new(some.replace(from, to));
    }
    forms.push(some);
}

fn add_html(forms: &mut Vec<Form>, value: &str) {
    for (quote, apostrophe) in [
        ("&quot;", "&#39;"),
        ("&#34;", "&#x27;"),
        ("\"", "'"),
        ("&quot;", "&apos;"),
    ] {
        let mut out = Form::default();
        for c in value.chars() {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str(quote),
                '\'' => out.push_str(apostrophe),
                c => out.push(c),
            }
        }
        forms.push(out);
    }
}

/// Each telling line of a value of several lines; the frame of a PEM file is no secret.
fn add_lines(forms: &mut Vec<Form>, value: &str) {
    if value.contains('\n') {
        let telling = |line: &&str| line.len() >= MIN_LINE && !line.starts_with("-----");
        let lines = value.lines().map(str::trim).filter(telling);
        forms.extend(lines.map(|line| Zeroizing::new(line.to_owned())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(value: &str, form: &str) -> bool {
        of(value).iter().any(|f| **f == form)
    }

    #[test]
    fn a_value_that_needs_no_escape_has_few_forms() {
        assert!(of("abcdefghijklmnop").len() < 28, "{}", of("abcdefghijklmnop").len());
    }

    #[test]
    fn escapes_are_written_the_way_encoders_write_them() {
        let value = "p@ss/w\"ö rd&1";
        for form in [
            "p%40ss%2Fw%22%C3%B6%20rd%261",
            "p%40ss%2fw%22%c3%b6%20rd%261",
            "p%40ss%2Fw%22%C3%B6+rd%261",
            "p@ss/w\\\"ö rd&1",
            "p@ss\\/w\\\"\\u00f6 rd&1",
            "p@ss/w\\\"ö rd\\u00261",
            "p@ss/w&quot;ö rd&amp;1",
            "1&dr ö\"w/ss@p",
        ] {
            assert!(has(value, form), "{form}");
        }
    }

    #[test]
    fn a_value_under_four_bytes_has_no_forms() {
        assert!(of("abc").is_empty());
        assert!(of(" abc\n").is_empty());
        assert!(has("abcd", "abcd"));
    }

    #[test]
    fn the_frame_of_a_key_file_is_not_a_form_but_its_lines_are() {
        let key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nshort\n-----END PRIVATE KEY-----\n";
        assert!(has(key, "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"));
        assert!(!has(key, "-----BEGIN PRIVATE KEY-----"));
        assert!(!has(key, "short"));
    }
}
