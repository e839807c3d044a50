//! The texts by which a secret's value gives itself away: the value and its common encodings.

use base64::{Engine as _, alphabet, engine::general_purpose};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt::{self, Write};
use zeroize::Zeroizing;

/// The shortest value that is searched for.
pub(super) const MIN_VALUE: usize = 4;
/// The shortest encoded form that is searched for; shorter ones turn up by chance.
const MIN_FORM: usize = 6;
/// The shortest line of a multi-line value (a PEM key) that is searched for on its own.
const MIN_LINE: usize = 16;
/// The longest text that is searched for as one. A longer form is cut into pieces, each of which gives the value away: so
/// what a search costs at one place, and what a stream holds back, does not grow with the values.
pub(super) const PIECE: usize = 256;
/// A piece with fewer different bytes (a run of zeros, of padding) turns up by chance.
const TELLING_BYTES: usize = 6;
/// The longest value of which also the rare forms are searched for; a longer one would take hundreds of times its memory.
const MAX_RARE: usize = 4096;

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

/// Every form of one value, sorted, each once, the long ones in pieces. Empty for a value that is too short to search for.
///
/// White space around a value is not part of it: a value read from a file often ends in a line break that no echo
/// repeats.
pub(super) fn of(value: &str) -> Vec<Form> {
    let value = value.trim();
    if value.len() < MIN_VALUE {
        return Vec::new();
    }
    let mut forms = Vec::with_capacity(64);
    add_base64(&mut forms, value);
    add_hex(&mut forms, value);
    add_percent(&mut forms, value);
    add_numbered(&mut forms, value);
    if !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)) {
        add_json(&mut forms, value);
        add_html(&mut forms, value);
    }
    forms.push(mapped(value.chars().rev(), |out, c| out.write_char(c)));
    add_lines(&mut forms, value);
    forms.retain(|form| form.len() >= MIN_FORM);
    forms.push(copy(value));
    sort(&mut forms);
    let mut pieces = Vec::with_capacity(forms.len());
    forms.into_iter().for_each(|form| cut(form, &mut pieces));
    sort(&mut pieces);
    pieces
}

fn sort(forms: &mut Vec<Form>) {
    forms.sort_unstable_by(|a, b| a.as_str().cmp(b));
    forms.dedup();
}

/// A form as it is, or cut into pieces of about the same length.
fn cut(form: Form, pieces: &mut Vec<Form>) {
    if form.len() <= PIECE {
        return pieces.push(form);
    }
    // A character that lies over a border is left to the piece before it; so it is a little shorter than it might be.
    let count = form.len().div_ceil(PIECE - 4);
    let border = |at: usize| form.ceil_char_boundary(form.len() * at / count);
    let all = || (0..count).map(|at| &form[border(at)..border(at + 1)]);
    let before = pieces.len();
    pieces.extend(all().filter(|piece| is_telling(piece)).map(copy));
    if pieces.len() == before {
        pieces.extend(all().map(copy));
    }
}

fn is_telling(piece: &str) -> bool {
    let mut seen = [false; 256];
    piece.bytes().for_each(|byte| seen[usize::from(byte)] = true);
    seen.into_iter().filter(|seen| *seen).count() >= TELLING_BYTES
}

fn copy(text: &str) -> Form {
    Zeroizing::new(text.to_owned())
}

/// What `write` makes of all `parts`. It is written twice, the first time to measure it: a text that grew would leave
/// copies of its beginning behind.
fn mapped<T>(parts: impl Iterator<Item = T> + Clone, write: impl Fn(&mut dyn Write, T) -> fmt::Result) -> Form {
    struct Length(usize);

    impl Write for Length {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }

    let mut length = Length(0);
    // Writing to a text does not fail.
    let _ = parts.clone().try_for_each(|part| write(&mut length, part));
    let mut out = Zeroizing::new(String::with_capacity(length.0));
    let mut parts = parts;
    let _ = parts.try_for_each(|part| write(&mut *out, part));
    out
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
            let mut shifted = Zeroizing::new(Vec::with_capacity(offset + value.len()));
            shifted.resize(offset, 0);
            shifted.extend_from_slice(value.as_bytes());
            let encoded = Zeroizing::new(engine.encode(&*shifted));
            let first = (offset * 8).div_ceil(6);
            let end = shifted.len() * 8 / 6;
            let Some(core) = encoded.get(first..end) else { continue };
            forms.push(copy(core));
            if !core.contains(['/', '+']) {
                continue;
            }
            // As it stands in a JSON string that escapes slashes, and in a form or query.
            for (slash, plus) in [("\\/", "+"), ("%2F", "%2B"), ("%2f", "%2b")] {
                forms.push(mapped(core.chars(), |out, c| match c {
                    '/' => out.write_str(slash),
                    '+' => out.write_str(plus),
                    c => out.write_char(c),
                }));
            }
        }
    }
}

/// Every character by its number, as those write it who escape everything.
fn add_numbered(forms: &mut Vec<Form>, value: &str) {
    forms.push(each_byte(value, "%", HEX_LOWER));
    forms.push(each_byte(value, "%", HEX_UPPER));
    if value.len() > MAX_RARE {
        return;
    }
    let all = || value.chars();
    forms.push(mapped(all(), |out, c| write!(out, "&#{};", u32::from(c))));
    forms.push(mapped(all(), |out, c| write!(out, "&#x{:x};", u32::from(c))));
    forms.push(mapped(all(), |out, c| write!(out, "&#x{:X};", u32::from(c))));
    forms.push(mapped(all(), |out, c| unicode(out, c, false)));
    forms.push(mapped(all(), |out, c| unicode(out, c, true)));
}

/// A character as JSON writes it by number.
fn unicode(out: &mut dyn Write, c: char, upper: bool) -> fmt::Result {
    c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| {
        if upper {
            write!(out, "\\u{unit:04X}")
        } else {
            write!(out, "\\u{unit:04x}")
        }
    })
}

fn add_hex(forms: &mut Vec<Form>, value: &str) {
    forms.push(each_byte(value, "", HEX_LOWER));
    forms.push(each_byte(value, "", HEX_UPPER));
    forms.push(copy(each_byte(value, " ", HEX_LOWER).trim_start()));
}

const HEX_LOWER: &[u8; 16] = b"0123456789abcdef";
const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// Every byte in two digits, `before` in front of each.
fn each_byte(value: &str, before: &str, digits: &[u8; 16]) -> Form {
    mapped(value.bytes(), |out, byte| {
        out.write_str(before)?;
        out.write_char(char::from(digits[usize::from(byte >> 4)]))?;
        out.write_char(char::from(digits[usize::from(byte & 15)]))
    })
}

fn add_percent(forms: &mut Vec<Form>, value: &str) {
    for set in [UNRESERVED, URI_COMPONENT, URI, QUERY] {
        for (lower, space) in [(false, "%20"), (true, "%20"), (false, "+"), (true, "+")] {
            forms.push(mapped(utf8_percent_encode(value, set), |out, part| match part {
                "%20" => out.write_str(space),
                escape if lower && escape.len() == 3 && escape.starts_with('%') => {
                    escape.chars().try_for_each(|c| out.write_char(c.to_ascii_lowercase()))
                }
                part => out.write_str(part),
            }));
        }
    }
}

/// Which characters an encoder of JSON escapes although JSON does not ask for it.
#[derive(Clone, Copy)]
struct Style {
    slash: bool,
    /// By number.
    html: &'static str,
    non_ascii: bool,
    upper: bool,
}

/// The value inside a JSON string, as the common encoders write it, and inside a JSON string within a JSON string.
fn add_json(forms: &mut Vec<Form>, value: &str) {
    for (number, (html, slash, non_ascii, upper)) in STYLES.into_iter().enumerate() {
        let style = Style {
            slash,
            html,
            non_ascii,
            upper,
        };
        if value.len() > MAX_RARE && number >= COMMON_STYLES {
            break;
        }
        let once = mapped(value.chars(), |out, c| escape(out, c, style));
        if value.len() <= MAX_RARE {
            let again = Style { html: "", ..style };
            forms.push(mapped(once.chars(), |out, c| escape(out, c, again)));
        }
        forms.push(once);
    }
}

/// What encoders escape: for HTML, slashes, what is not ASCII, and whether in upper case.
const STYLES: [(&str, bool, bool, bool); 14] = [
    ("", false, false, false),
    ("", true, false, false),
    ("", false, true, false),
    ("", true, true, false),
    ("", false, true, true),
    // Go, Ruby on Rails.
    ("<>&", false, false, false),
    ("<>&", true, false, false),
    ("<>&", false, true, false),
    // Gson.
    ("<>&'=", false, false, false),
    ("<>&'", false, true, false),
    ("<>&'+", false, false, false),
    ("<>&'+", false, false, true),
    // .NET.
    ("<>&'+\"`", false, true, true),
    // PHP with all its flags.
    ("<>&'\"", true, true, true),
];
/// The first of them, which a long value is searched for in as well.
const COMMON_STYLES: usize = 4;

fn escape(out: &mut dyn Write, c: char, style: Style) -> fmt::Result {
    match c {
        c if style.html.contains(c) => unicode(out, c, style.upper),
        '"' => out.write_str("\\\""),
        '\\' => out.write_str("\\\\"),
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        '\u{8}' => out.write_str("\\b"),
        '\u{c}' => out.write_str("\\f"),
        '/' if style.slash => out.write_str("\\/"),
        c if c < ' ' || (style.non_ascii && !c.is_ascii()) => unicode(out, c, style.upper),
        c => out.write_char(c),
    }
}

fn add_html(forms: &mut Vec<Form>, value: &str) {
    for (quote, apostrophe) in [
        ("&quot;", "&#39;"),
        ("&#34;", "&#x27;"),
        ("\"", "'"),
        ("&quot;", "&apos;"),
    ] {
        forms.push(mapped(value.chars(), |out, c| match c {
            '&' => out.write_str("&amp;"),
            '<' => out.write_str("&lt;"),
            '>' => out.write_str("&gt;"),
            '"' => out.write_str(quote),
            '\'' => out.write_str(apostrophe),
            c => out.write_char(c),
        }));
    }
}

/// Each telling line of a value of several lines; the frame of a PEM file is no secret.
fn add_lines(forms: &mut Vec<Form>, value: &str) {
    if value.contains('\n') {
        let telling = |line: &&str| line.len() >= MIN_LINE && !line.starts_with("-----");
        let lines = value.lines().map(str::trim).filter(telling);
        forms.extend(lines.map(copy));
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
    fn a_quote_by_its_number_and_an_escape_within_an_escape_are_forms() {
        let value = "say \"key/one\" & go";
        for form in [
            "say \\u0022key/one\\u0022 \\u0026 go",
            "say \\u0022key\\/one\\u0022 \\u0026 go",
            "say \\\\\\\"key/one\\\\\\\" & go",
            "say \\\\u0022key/one\\\\u0022 \\\\u0026 go",
        ] {
            assert!(has(value, form), "{form}");
        }
    }

    #[test]
    fn no_form_is_longer_than_a_piece_and_the_pieces_of_one_leave_nothing_out() {
        let value: String = (0..9000_u32)
            .map(|n| char::from(b'!' + u8::try_from(n * n % 89).unwrap()))
            .collect();
        let forms = of(&value);
        assert!(forms.iter().all(|form| form.len() <= PIECE));
        let mut rest = value.as_str();
        while !rest.is_empty() {
            let piece = forms
                .iter()
                .filter(|form| rest.starts_with(form.as_str()))
                .map(|form| form.len());
            rest = &rest[piece.max().expect("a piece goes on where the one before ended")..];
        }
    }

    #[test]
    fn a_run_of_one_byte_within_a_long_value_is_not_a_form() {
        let value = format!("{}{}", "0".repeat(2000), "a key that is long enough to tell 1234567890");
        assert!(!of(&value).iter().any(|form| form.bytes().all(|b| b == b'0')));
        assert!(of(&value).iter().any(|form| form.contains("a key that")));
        assert!(!of(&"0".repeat(2000)).is_empty());
    }

    #[test]
    fn the_forms_of_a_value_take_a_few_hundred_times_its_memory_at_most() {
        for (length, most) in [(4096, 250), (64 << 10, 80)] {
            let value: String = "\"<>&'+/?\\`\u{1}ö".chars().cycle().take(length).collect();
            let bytes: usize = of(&value).iter().map(|form| form.capacity() + size_of::<Form>()).sum();
            assert!(bytes < most * value.len(), "{} times", bytes / value.len());
        }
    }

    #[test]
    fn no_form_has_room_that_it_does_not_fill() {
        for form in of("p@ss/w\"ö rd&1") {
            assert_eq!(form.capacity(), form.len(), "it grew, and left a copy behind");
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
