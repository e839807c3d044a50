//! What the commands print: text for people, with colour only where it is wanted, or JSON for machines.

use crate::args::Color;
use serde_json::Value;
use std::io::{IsTerminal as _, Write as _};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    pub(crate) json: bool,
    color: bool,
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
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => std::env::var_os("NO_COLOR").is_none() && std::io::stdout().is_terminal(),
        };
        Self { json, color }
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

/// Text from outside, made safe for a terminal: control characters are shown, not obeyed.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c.to_string(),
            c if c.is_control() => c.escape_default().to_string(),
            c => c.to_string(),
        })
        .collect()
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
    fn there_are_no_colours_unless_wanted() {
        assert_eq!(Out::new(false, Color::Never).style(Style::Bad, "x"), "x");
        assert_eq!(
            Out::new(false, Color::Always).style(Style::Bad, "x"),
            "\x1b[31mx\x1b[0m"
        );
    }
}
