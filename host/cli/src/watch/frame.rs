//! The rows below what is settled: drawn, and drawn over.

use console::measure_text_width;
use std::fmt::Write as _;

/// What is drawn now.
#[derive(Debug, Default)]
pub(super) struct Frame {
    /// The width of each line.
    widths: Vec<usize>,
}

impl Frame {
    /// What draws these lines in the place of those that are drawn, on a terminal of this many columns, with `settled` above them.
    ///
    /// A terminal that became narrower has parted the lines: they take more rows than were drawn. Every line has to be narrower
    /// than the terminal, or it would part them itself.
    pub(super) fn draw(&mut self, columns: usize, settled: &str, lines: &[String]) -> String {
        let rows: usize = self
            .widths
            .iter()
            .map(|width| width.div_ceil(columns.max(1)).max(1))
            .sum();
        let mut drawn = String::new();
        // The cursor stands behind the last line.
        if rows > 1 {
            let _ = write!(drawn, "\x1b[{}A", rows - 1);
        }
        if rows > 0 {
            drawn.push_str("\r\x1b[J");
        }
        if !settled.is_empty() {
            drawn.push_str(settled);
            drawn.push('\n');
        }
        drawn.push_str(&lines.join("\n"));
        self.widths = lines.iter().map(|line| measure_text_width(line)).collect();
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(of: &[&str]) -> Vec<String> {
        of.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn what_is_drawn_takes_the_place_of_what_was() {
        let mut frame = Frame::default();
        assert_eq!(frame.draw(80, "", &lines(&["one", "two"])), "one\ntwo");
        assert_eq!(frame.draw(80, "", &lines(&["One", "Two"])), "\x1b[1A\r\x1b[JOne\nTwo");
        assert_eq!(
            frame.draw(80, "one ended", &lines(&["Two"])),
            "\x1b[1A\r\x1b[Jone ended\nTwo"
        );
        assert_eq!(frame.draw(80, "two ended", &[]), "\r\x1b[Jtwo ended\n");
        assert_eq!(
            frame.draw(80, "", &[]),
            "",
            "where nothing is drawn there is nothing to draw over"
        );
    }

    #[test]
    fn lines_that_a_narrower_terminal_has_parted_are_drawn_over_whole() {
        let mut frame = Frame::default();
        frame.draw(80, "", &[("x".repeat(70)), ("y".repeat(30))]);
        assert_eq!(frame.draw(40, "", &lines(&["x"])), "\x1b[2A\r\x1b[Jx");
        frame.draw(80, "", &["日".repeat(30)]);
        assert_eq!(frame.draw(40, "", &[]), "\x1b[1A\r\x1b[J");
    }
}
