//! Lines that fit where they are shown.

use crate::out::{Out, Style};
use console::{measure_text_width, truncate_str};

/// What a line tells at the first glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It went well.
    Good,
    /// It did not.
    Bad,
    /// Something to know.
    Quiet,
    /// It belongs to the line above.
    Under,
}

/// A line. Its texts are safe for a terminal already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    mark: Mark,
    body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    /// A call. The arguments give way where it is narrow.
    Call {
        tool: String,
        arguments: String,
        after: String,
    },
    /// Words. They are wrapped where it is narrow; while they run, they give way.
    Words(String),
}

/// The least of the arguments that is worth showing, in columns.
const LEAST: usize = 4;

impl Line {
    /// A call, and what to say after it.
    pub(crate) fn call(mark: Mark, tool: &str, arguments: &str, after: impl Into<String>) -> Self {
        let body = Body::Call {
            tool: tool.to_owned(),
            arguments: arguments.to_owned(),
            after: after.into(),
        };
        Self { mark, body }
    }

    /// Words.
    pub(crate) fn words(mark: Mark, words: impl Into<String>) -> Self {
        let body = Body::Words(words.into());
        Self { mark, body }
    }

    /// What is said about it while it runs, as a line of its own.
    pub(crate) fn with_words(&self, words: &str) -> Self {
        match &self.body {
            Body::Call { tool, .. } => Self::words(Mark::Under, format!("{tool}: {words}")),
            Body::Words(_) => Self::words(Mark::Under, words),
        }
    }

    /// As it stays, in one or more rows of so many columns; in one row, where there is no such bound.
    pub(crate) fn settled(&self, out: Out, columns: Option<usize>) -> String {
        let mark = match self.mark {
            Mark::Good => out.style(Style::Good, "✓"),
            Mark::Bad => out.style(Style::Bad, "✗"),
            Mark::Quiet => out.style(Style::Dim, "·"),
            Mark::Under => " ".to_owned(),
        };
        // The mark and a space come first.
        let columns = columns.map(|columns| columns.saturating_sub(2));
        let shown = match &self.body {
            Body::Call { tool, arguments, after } => call(out, tool, arguments, after, columns),
            Body::Words(words) => {
                let style = |row: String| match self.mark {
                    Mark::Good | Mark::Bad => row,
                    Mark::Quiet | Mark::Under => out.style(Style::Dim, row),
                };
                let rows: Vec<_> = wrapped(words, columns).into_iter().map(style).collect();
                rows.join("\n  ")
            }
        };
        format!("{mark} {shown}")
    }

    /// As it is while it runs, in one row of so many columns: behind a moving mark, with the time it has taken and what it says.
    pub(crate) fn running(&self, out: Out, columns: usize, mark: char, time: &str, says: &str) -> String {
        let mut after = format!("{time} {says}");
        after.truncate(after.trim_end().len());
        let room = columns.saturating_sub(2);
        let shown = match &self.body {
            Body::Call { tool, arguments, .. } => call(out, tool, arguments, &after, Some(room)),
            Body::Words(words) => out.style(Style::Dim, beside(words, &after, room)),
        };
        let row = format!("{} {shown}", out.style(Style::Name, mark));
        truncate_str(&row, columns, "…").into_owned()
    }
}

fn call(out: Out, tool: &str, arguments: &str, after: &str, columns: Option<usize>) -> String {
    let around = measure_text_width(tool) + measure_text_width(after) + "() ".len();
    let arguments = match columns.map(|columns| columns.saturating_sub(around)) {
        None => arguments.into(),
        Some(room) if measure_text_width(arguments) <= room => arguments.into(),
        Some(room) => truncate_str(arguments, room.max(LEAST), "…"),
    };
    let tool = out.style(Style::Name, tool);
    match after {
        "" => format!("{tool}({arguments})"),
        after => format!("{tool}({arguments}) {}", out.style(Style::Dim, after)),
    }
}

/// Words, and what stays whole beside them where it is narrow.
fn beside(words: &str, after: &str, columns: usize) -> String {
    let room = columns.saturating_sub(measure_text_width(after) + 1).max(LEAST);
    let words = truncate_str(words, room, "…");
    format!("{words} {after}").trim_end().to_owned()
}

/// Words in rows of at most so many columns. A word that is longer than a row is parted.
fn wrapped(words: &str, columns: Option<usize>) -> Vec<String> {
    let Some(columns) = columns else {
        return vec![words.to_owned()];
    };
    let mut rows: Vec<String> = Vec::new();
    for word in words.split(' ') {
        match rows.last_mut() {
            Some(row) if measure_text_width(row) + 1 + measure_text_width(word) <= columns => {
                row.push(' ');
                row.push_str(word);
            }
            _ => rows.extend(parts(word, columns)),
        }
    }
    rows
}

/// A word in parts of at most so many columns.
fn parts(word: &str, columns: usize) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut width = 0;
    for c in word.chars() {
        let wide = measure_text_width(c.encode_utf8(&mut [0; 4]));
        match parts.last_mut() {
            Some(part) if width + wide <= columns || part.is_empty() => part.push(c),
            _ => {
                parts.push(c.to_string());
                width = 0;
            }
        }
        width += wide;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Color;

    const PLAIN: fn() -> Out = || Out::new(false, Color::Never);

    fn widest(text: &str) -> usize {
        text.lines().map(measure_text_width).max().unwrap_or_default()
    }

    #[test]
    fn where_it_is_narrow_the_arguments_give_way_and_the_outcome_stays() {
        let line = Line::call(
            Mark::Bad,
            "http_fetch",
            r#"{"url":"https://example.com/a/b/c"}"#,
            "denied, 3 ms",
        );
        assert_eq!(
            line.settled(PLAIN(), None),
            r#"✗ http_fetch({"url":"https://example.com/a/b/c"}) denied, 3 ms"#
        );
        assert_eq!(
            line.settled(PLAIN(), Some(40)),
            r#"✗ http_fetch({"url":"http…) denied, 3 ms"#
        );
        assert_eq!(widest(&line.settled(PLAIN(), Some(40))), 40);
    }

    #[test]
    fn wide_characters_count_as_wide_as_they_are() {
        let line = Line::call(Mark::Good, "say", &"日本語".repeat(20), "1 ms");
        for columns in 20..60 {
            assert!(widest(&line.settled(PLAIN(), Some(columns))) <= columns);
            assert!(widest(&line.running(PLAIN(), columns, '⠋', "1 s", "日本語日本語")) <= columns);
        }
    }

    #[test]
    fn what_runs_is_one_row_however_narrow_it_is() {
        let line = Line::call(Mark::Quiet, "data_query", r#"{"sql":"select 1"}"#, "");
        let row = |columns| line.running(PLAIN(), columns, '⠋', "12.0 s", "row 5,000 (50 %)");
        assert_eq!(row(80), r#"⠋ data_query({"sql":"select 1"}) 12.0 s row 5,000 (50 %)"#);
        assert_eq!(row(40), r#"⠋ data_query({"s…) 12.0 s row 5,000 (50…"#);
        for columns in 1..80 {
            assert!(widest(&row(columns)) <= columns, "{columns}");
        }
    }

    #[test]
    fn of_words_that_run_the_time_stays_where_it_is_narrow() {
        let line = Line::words(Mark::Quiet, "waiting for the model");
        let row = |columns, says| line.running(PLAIN(), columns, '⠋', "3 s", says);
        assert_eq!(row(80, "thinking"), "⠋ waiting for the model 3 s thinking");
        assert_eq!(row(24, ""), "⠋ waiting for the m… 3 s");
        assert_eq!(row(24, "thinking"), "⠋ waiting … 3 s thinking");
        assert_eq!(row(27, ""), "⠋ waiting for the model 3 s");
        for columns in 1..40 {
            assert!(widest(&row(columns, "thinking")) <= columns, "{columns}");
        }
    }

    #[test]
    fn words_are_wrapped_below_each_other() {
        let line = Line::words(Mark::Quiet, "the model call failed; retry 1 of 4 in 500 ms");
        assert_eq!(
            line.settled(PLAIN(), Some(24)),
            "· the model call failed;\n  retry 1 of 4 in 500 ms"
        );
        assert_eq!(
            line.settled(PLAIN(), None),
            "· the model call failed; retry 1 of 4 in 500 ms"
        );
        let long = Line::words(Mark::Under, "at 日本語日本語日本語 and https://example.com/a");
        assert_eq!(
            long.settled(PLAIN(), Some(12)),
            "  at\n  日本語日本\n  語日本語\n  and\n  https://ex\n  ample.com/\n  a"
        );
    }

    #[test]
    fn colours_take_no_room() {
        let line = Line::call(Mark::Good, "add", &"x".repeat(100), "1 ms");
        let coloured = line.settled(Out::new(false, Color::Always), Some(40));
        assert!(coloured.contains("\x1b[32m✓\x1b[0m"), "{coloured:?}");
        assert_eq!(console::strip_ansi_codes(&coloured), line.settled(PLAIN(), Some(40)));
    }
}
