//! What the commands print: text for people, with colour only where it is wanted, or JSON for machines.

use crate::args::Color;
use serde_json::Value;
use std::{
    ffi::OsStr,
    io::{IsTerminal as _, Write as _},
};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    pub(crate) json: bool,
    /// Whether `style` makes colours.
    color: bool,
    /// Whether it would on standard error.
    color_of_errors: bool,
}

/// A way to stand out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Style {
    /// Less important.
    Dim,
    /// More important.
    Bold,
    /// It went well.
    Good,
    /// It was refused or failed.
    Bad,
    /// A name.
    Name,
}

impl Out {
    pub(crate) fn new(json: bool, color: Color) -> Self {
        let wanted = |is_terminal: bool| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let (no_color, term) = (std::env::var_os("NO_COLOR"), std::env::var_os("TERM"));
                is_terminal && takes_colours(no_color.as_deref(), term.as_deref())
            }
        };
        Self {
            json,
            color: wanted(std::io::stdout().is_terminal()),
            color_of_errors: wanted(std::io::stderr().is_terminal()),
        }
    }

    /// The same, for what goes to standard error.
    pub(crate) const fn on_errors(self) -> Self {
        Self {
            color: self.color_of_errors,
            ..self
        }
    }

    /// The same, for people in any case.
    pub(crate) const fn as_text(self) -> Self {
        Self { json: false, ..self }
    }

    /// `text` in a style, where there are colours.
    pub(crate) fn style(self, style: Style, text: impl std::fmt::Display) -> String {
        if !self.color {
            return text.to_string();
        }
        let code = match style {
            Style::Dim => "2",
            Style::Bold => "1",
            Style::Good => "32",
            Style::Bad => "31",
            Style::Name => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A line.
    pub(crate) fn line(self, text: impl std::fmt::Display) {
        self.write(format_args!("{text}\n"));
    }

    /// A part of a line, shown at once.
    pub(crate) fn write(self, text: std::fmt::Arguments<'_>) {
        let mut stdout = std::io::stdout().lock();
        // A reader that went away (`| head`) is no fault worth a message.
        if stdout.write_fmt(text).and_then(|()| stdout.flush()).is_err() {
            std::process::exit(0);
        }
    }

    /// A JSON value, on a line of its own.
    pub(crate) fn value(self, value: &Value) {
        self.line(value);
    }

    /// JSON for machines, or what `text` makes of it for people.
    pub(crate) fn either(self, value: &Value, text: impl FnOnce(&Value)) {
        if self.json { self.value(value) } else { text(value) }
    }

    /// A table with a head; nothing but `empty` where there are no rows.
    pub(crate) fn table(self, head: &[&str], rows: Vec<Vec<String>>, empty: &str) {
        if rows.is_empty() {
            return self.line(self.style(Style::Dim, empty));
        }
        let mut table = comfy_table::Table::new();
        table
            .load_preset(comfy_table::presets::NOTHING)
            .set_header(head.iter().map(|cell| self.style(Style::Bold, cell)));
        table.add_rows(rows);
        self.line(table.to_string().trim_end());
    }
}

/// Writes to standard error. Where whoever reads it has gone, nothing ends because of it: the answer may still be wanted.
pub(crate) fn tell(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Whether a terminal is to have colours, by `NO_COLOR` and `TERM`.
fn takes_colours(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && moves_its_cursor(term)
}

/// Whether a terminal obeys control sequences, by `TERM`.
pub(crate) fn moves_its_cursor(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Text from outside, made safe for a terminal: control characters are shown, not obeyed.
// THREAT[T-term-control]: whatever a model, a tool or a server says passes this or `plain` before it is printed.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c.to_string(),
            c if c.is_control() => c.escape_default().to_string(),
            c => c.to_string(),
        })
        .collect()
}

/// A text that reads as what it is: what moves the cursor, hides, or turns the direction of reading is written out.
// THREAT[T-appr-deception]: a person approves what they see.
pub(crate) fn plain(said: &str) -> String {
    let shown = |c: char| {
        let misleads = matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
        match c {
            '\n' => c.to_string(),
            c if c.is_control() || misleads => c.escape_unicode().to_string(),
            c => c.to_string(),
        }
    };
    said.chars().map(shown).collect()
}

/// A text from outside on one line, with at most so many characters.
pub(crate) fn one_line(text: &str, longest: usize) -> String {
    // Whatever is cut off need not be looked at; one more character tells that something is.
    let begin: String = text.chars().take(longest + 1).collect();
    let mut line = plain(&begin.replace(['\n', '\t'], " "));
    if let Some((end, _)) = line.char_indices().nth(longest) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// A number with its thousands apart.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of things: `1 secret`, `2 secrets`, `1,000 secrets`.
pub(crate) fn count(of: u64, thing: &str) -> String {
    format!("{} {thing}{}", number(of), if of == 1 { "" } else { "s" })
}

/// The text at a key, or nothing.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a key, or an empty one.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\nc\u{9b}"), "a\\u{1b}[2Jb\\r\nc\\u{9b}");
    }

    #[test]
    fn what_is_shown_reads_as_what_it_is() {
        assert_eq!(
            plain("a\u{202e}b\u{200b}c\u{1b}[2J\rd\u{e0041}"),
            r"a\u{202e}b\u{200b}c\u{1b}[2J\u{d}d\u{e0041}"
        );
        assert_eq!(plain("naïve ünïcode 日本\n"), "naïve ünïcode 日本\n");
    }

    #[test]
    fn a_text_of_any_length_becomes_one_bounded_line() {
        let text = one_line(&"é\n".repeat(500), 160);
        assert_eq!(text.chars().count(), 161);
        assert!(!text.contains('\n'));
        assert_eq!(one_line("a\tb\nc", 5), "a b c");
        assert_eq!(one_line(&"\u{1b}".repeat(500), 10).chars().count(), 11);
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        let of = [0, 12, 999, 1000, 123_456, 1_234_567];
        assert_eq!(of.map(number), ["0", "12", "999", "1,000", "123,456", "1,234,567"]);
        assert_eq!([1, 0, 2].map(|of| count(of, "call")), ["1 call", "0 calls", "2 calls"]);
    }

    #[test]
    fn a_terminal_has_colours_unless_it_or_its_user_does_not_want_them() {
        let takes =
            |no_color: Option<&str>, term: Option<&str>| takes_colours(no_color.map(OsStr::new), term.map(OsStr::new));
        assert!(takes(None, Some("xterm-256color")));
        assert!(takes(Some(""), Some("xterm")), "an empty NO_COLOR says nothing");
        assert!(!takes(Some("1"), Some("xterm")));
        assert!(!takes(None, Some("dumb")));
        assert!(!takes(None, None));
    }

    #[test]
    fn there_are_no_colours_unless_wanted() {
        assert_eq!(Out::new(false, Color::Never).style(Style::Bad, "x"), "x");
        assert_eq!(
            Out::new(false, Color::Always).style(Style::Bad, "x"),
            "\x1b[31mx\x1b[0m"
        );
    }
}
