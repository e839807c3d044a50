//! Where a turn is drawn.

use super::{Draw, Line, Running, frame::Frame};
use crate::out::{Out, moves_its_cursor, tell};
use console::Term;
use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

/// How often what runs is drawn anew.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// The moving mark.
const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// What is assumed of a terminal that does not say how large it is: rows and columns.
const USUAL: (u16, u16) = (24, 80);

/// The narrowest terminal that is drawn for.
const NARROWEST: usize = 10;

/// Standard output with the answer, and standard error with all else.
pub(crate) struct Screen {
    out: Out,
    running: Vec<Run>,
    errors: Errors,
    /// Whether the answer's last line is not at its end.
    in_answer: bool,
    /// Whether the answer stands on the terminal.
    answer_shows: bool,
}

/// What standard error is.
enum Errors {
    /// A file, a pipe, or a terminal that obeys no control sequences.
    Plain,
    /// A terminal.
    Terminal { term: Term, frame: Frame, ticks: usize },
}

struct Run {
    what: Running,
    line: Line,
    since: Instant,
    says: String,
}

impl Screen {
    /// The terminal, or what stands in its place.
    pub(crate) fn new(out: Out) -> Self {
        let draws = std::io::stderr().is_terminal() && moves_its_cursor(std::env::var_os("TERM").as_deref());
        let errors = if draws {
            Errors::Terminal {
                term: Term::stderr(),
                frame: Frame::default(),
                ticks: 0,
            }
        } else {
            Errors::Plain
        };
        Self {
            out,
            running: Vec::new(),
            errors,
            in_answer: false,
            answer_shows: std::io::stdout().is_terminal(),
        }
    }

    /// Whether something moves, and `tick` is to be called.
    pub(crate) const fn moves(&self) -> bool {
        matches!(self.errors, Errors::Terminal { .. }) && !self.running.is_empty()
    }

    /// Draws anew what runs.
    pub(crate) fn tick(&mut self) {
        if let Errors::Terminal { ticks, .. } = &mut self.errors {
            *ticks = ticks.wrapping_add(1);
        }
        self.redraw("");
    }

    /// Draws a change.
    pub(crate) fn draw(&mut self, draw: Draw) {
        match draw {
            Draw::Answer(text) => self.answer(&text),
            Draw::AnswerEnds => self.answer_ends(),
            Draw::Settled(line) => self.settle(&line),
            Draw::Begins(what, line) => self.begin(what, line),
            Draw::Says(what, says) => self.say(what, says),
            Draw::Ends(what) => {
                self.running.retain(|run| run.what != what);
                self.redraw("");
            }
            Draw::AllEnd => {
                self.running.clear();
                self.redraw("");
            }
        }
    }

    fn answer(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        // What runs is not drawn while a line of the answer is open.
        self.in_answer = true;
        self.redraw("");
        self.out.write(format_args!("{text}"));
    }

    fn answer_ends(&mut self) {
        if self.in_answer {
            self.out.line("");
            self.in_answer = false;
            self.redraw("");
        }
    }

    fn settle(&mut self, line: &Line) {
        if self.in_answer && self.answer_shows {
            self.answer_ends();
        }
        let out = self.out.on_errors();
        match &self.errors {
            Errors::Plain => tell(&format!("{}\n", line.settled(out, None))),
            Errors::Terminal { term, .. } => {
                let settled = line.settled(out, Some(columns(term)));
                self.redraw(&settled);
            }
        }
    }

    fn begin(&mut self, what: Running, line: Line) {
        if matches!((&self.errors, what), (Errors::Plain, Running::Call(_))) {
            self.settle(&line);
        }
        self.running.retain(|run| run.what != what);
        self.running.push(Run {
            what,
            line,
            since: Instant::now(),
            says: String::new(),
        });
        self.redraw("");
    }

    fn say(&mut self, what: Running, says: String) {
        let plain = matches!((&self.errors, what), (Errors::Plain, Running::Call(_)));
        let Some(run) = self.running.iter_mut().find(|run| run.what == what) else {
            return;
        };
        if plain {
            let line = run.line.with_words(&says);
            self.settle(&line);
        } else {
            run.says = says;
        }
    }

    /// Draws what runs, below what is settled now.
    fn redraw(&mut self, settled: &str) {
        let Errors::Terminal { term, frame, ticks } = &mut self.errors else {
            return;
        };
        let (columns, rows) = (columns(term), rows(term));
        let lines = if self.in_answer && self.answer_shows {
            Vec::new()
        } else {
            let mark = SPINNER[*ticks % SPINNER.len()];
            rows_of(&self.running, rows, |run| {
                let time = seconds(run.since.elapsed());
                // A row that fills the terminal would be parted by some.
                run.line
                    .running(self.out.on_errors(), columns - 1, mark, &time, &run.says)
            })
        };
        let drawn = frame.draw(columns, settled, &lines);
        tell(&drawn);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.draw(Draw::AllEnd);
    }
}

/// As many rows as there is room for, with the cursor's below them; of more, how many they are.
fn rows_of(running: &[Run], rows: usize, row: impl Fn(&Run) -> String) -> Vec<String> {
    let room = rows.saturating_sub(1).max(1);
    if running.len() <= room {
        return running.iter().map(row).collect();
    }
    let shown = room - 1;
    let mut lines: Vec<_> = running.iter().take(shown).map(row).collect();
    lines.push(format!("… {} more", running.len() - shown));
    lines
}

fn columns(term: &Term) -> usize {
    let (_, columns) = term.size_checked().unwrap_or(USUAL);
    usize::from(columns).max(NARROWEST)
}

fn rows(term: &Term) -> usize {
    let (rows, _) = term.size_checked().unwrap_or(USUAL);
    usize::from(rows)
}

/// The time that something has taken: in whole seconds, as it is read while it grows.
fn seconds(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        0 => String::new(),
        seconds @ 1..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Mark;

    fn runs(count: usize) -> Vec<Run> {
        let run = |at: usize| Run {
            what: Running::Model,
            line: Line::words(Mark::Quiet, at.to_string()),
            since: Instant::now(),
            says: at.to_string(),
        };
        (0..count).map(run).collect()
    }

    #[test]
    fn more_than_the_terminal_has_rows_for_is_counted() {
        let row = |run: &Run| run.says.clone();
        assert_eq!(rows_of(&runs(3), 4, row), ["0", "1", "2"]);
        assert_eq!(rows_of(&runs(9), 4, row), ["0", "1", "… 7 more"]);
        assert_eq!(rows_of(&runs(9), 0, row), ["… 9 more"]);
        assert!(rows_of(&[], 4, row).is_empty());
    }

    #[test]
    fn a_time_that_grows_is_told_in_seconds() {
        assert_eq!(
            [300, 1_900, 75_000].map(|ms| seconds(Duration::from_millis(ms))),
            ["", "1 s", "1 min 15 s"]
        );
    }
}
