//! Saying what is being done: named steps with their elapsed time.
//!
//! On a terminal the running step is one line that updates itself; elsewhere each step
//! prints a line when it starts, a sign of life every ten seconds, and a line when it
//! ends. What a step's children print goes to `target/xtask-logs/STEP.log`; its end is
//! shown only when the step fails.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process::{self, Ending};
use crate::workspace::Workspace;

/// What a step came to, when it did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Done, with something worth saying in a few words.
    Noted(String),
    /// Left out, and why. Always shown: a check that did not run must be seen.
    Skipped(String),
}

/// The steps of one developer command.
pub(crate) struct Progress {
    logs: PathBuf,
    started: Instant,
    terminal: bool,
    finished: Vec<Finished>,
}

struct Finished {
    name: String,
    result: Ended,
    elapsed: Duration,
}

enum Ended {
    Ok(Outcome),
    Failed,
}

/// One running step.
pub(crate) struct Step {
    name: String,
    log: PathBuf,
    started: Instant,
    terminal: bool,
    last_sign: Instant,
    frame: usize,
}

const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
const FRAME_TIME: Duration = Duration::from_millis(100);
const FRAMES: [&str; 4] = ["-", "\\", "|", "/"];
const LINE_WIDTH: usize = 78;
const TAIL_LINES: usize = 150;
const TAIL_BYTES: u64 = 32 * 1024;

impl Progress {
    pub(crate) fn new(workspace: &Workspace) -> Self {
        Self {
            logs: workspace.logs(),
            started: Instant::now(),
            terminal: io::stderr().is_terminal(),
            finished: Vec::new(),
        }
    }

    /// Runs one step. A failure is shown with the end of the step's log, and returned.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce(&mut Step) -> Result<Outcome>) -> Result<()> {
        let log = self.logs.join(format!("{}.log", name.replace(' ', "-")));
        let _ = fs::remove_file(&log);
        let mut step = Step {
            name: name.to_owned(),
            log,
            started: Instant::now(),
            terminal: self.terminal,
            last_sign: Instant::now(),
            frame: 0,
        };
        step.begin();
        let result = work(&mut step);
        let elapsed = step.started.elapsed();
        step.finish(&result, elapsed);
        let (ended, result) = match result {
            Ok(outcome) => (Ended::Ok(outcome), Ok(())),
            Err(error) => (Ended::Failed, Err(error.context(format!("{name} failed")))),
        };
        self.finished.push(Finished {
            name: name.to_owned(),
            result: ended,
            elapsed,
        });
        result
    }

    /// A table of every step so far.
    pub(crate) fn summary(&self) -> String {
        let width = self.finished.iter().map(|step| step.name.len()).max().unwrap_or(0);
        let mut table = String::from("\n");
        for step in &self.finished {
            let (mark, note) = match &step.result {
                Ended::Ok(Outcome::Done) => ("ok", String::new()),
                Ended::Ok(Outcome::Noted(note)) => ("ok", format!("  {note}")),
                Ended::Ok(Outcome::Skipped(why)) => ("SKIPPED", format!("  {why}")),
                Ended::Failed => ("FAILED", String::new()),
            };
            let line = format!("  {:width$}  {:>8}  {mark:7}{note}", step.name, clock(step.elapsed));
            table.push_str(line.trim_end());
            table.push('\n');
        }
        table.push_str(&format!("  {:width$}  {:>8}\n", "all", clock(self.started.elapsed())));
        table
    }
}

impl Step {
    /// Runs a child of this step; anything but success is an error.
    pub(crate) fn run(&mut self, command: &mut Command, limit: Duration) -> Result<()> {
        match self.attempt(command, limit)? {
            Ending::Exited(status) if status.success() => Ok(()),
            Ending::Exited(status) => bail!("`{}` ended with {status}", process::line(command)),
            Ending::TimedOut => bail!(
                "`{}` was stopped: it took longer than {}",
                process::line(command),
                clock(limit)
            ),
        }
    }

    /// Runs a child of this step whose failure is an answer too.
    pub(crate) fn attempt(&mut self, command: &mut Command, limit: Duration) -> Result<Ending> {
        let log = self.log.clone();
        process::run_logged(command, &log, limit, || self.alive())
    }

    /// Says something that the reader should not miss.
    pub(crate) fn say(&mut self, text: &str) {
        self.clear();
        eprintln!("      {text}");
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    fn begin(&mut self) {
        if self.terminal {
            self.draw();
        } else {
            eprintln!("....  {}", self.name);
        }
    }

    fn alive(&mut self) {
        let interval = if self.terminal { FRAME_TIME } else { SIGN_OF_LIFE };
        if self.last_sign.elapsed() < interval {
            return;
        }
        self.last_sign = Instant::now();
        if self.terminal {
            self.draw();
        } else {
            eprintln!(
                "{}",
                fit(&format!(
                    "      {} {}  {}",
                    self.name,
                    clock(self.started.elapsed()),
                    self.latest_line()
                ))
            );
        }
    }

    fn draw(&mut self) {
        self.frame = (self.frame + 1) % FRAMES.len();
        let line = format!(
            " {}    {} {}  {}",
            FRAMES[self.frame],
            self.name,
            clock(self.started.elapsed()),
            self.latest_line()
        );
        eprint!("\r\x1b[2K{}", fit(&line));
        let _ = io::stderr().flush();
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
    }

    fn latest_line(&self) -> String {
        process::tail(&self.log, 1, 512)
            .pop()
            .unwrap_or_default()
            .trim()
            .replace(|c: char| c.is_control(), " ")
    }

    fn finish(&self, result: &Result<Outcome>, elapsed: Duration) {
        self.clear();
        let (name, time) = (&self.name, clock(elapsed));
        match result {
            Ok(Outcome::Done) => eprintln!("ok    {name}  {time}"),
            Ok(Outcome::Noted(note)) => eprintln!("ok    {name}  {time}  {note}"),
            Ok(Outcome::Skipped(why)) => eprintln!("SKIP  {name}  {time}  {why}"),
            Err(error) => {
                eprintln!("FAIL  {name}  {time}  {error:#}");
                for line in process::tail(&self.log, TAIL_LINES, TAIL_BYTES) {
                    eprintln!("      | {line}");
                }
                if self.log.is_file() {
                    eprintln!("      all of it: {}", self.log.display());
                }
            }
        }
    }
}

/// `0.4s`, `12.0s`, `3:05`.
pub(crate) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1}s", time.as_secs_f64())
    } else {
        format!("{}:{:02}", seconds / 60, seconds % 60)
    }
}

fn fit(line: &str) -> String {
    line.trim_end().chars().take(LINE_WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    fn progress(name: &str) -> Progress {
        Progress {
            logs: std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id())),
            started: Instant::now(),
            terminal: false,
            finished: Vec::new(),
        }
    }

    #[test]
    fn times_read_as_seconds_then_minutes() {
        assert_eq!(clock(Duration::from_millis(420)), "0.4s");
        assert_eq!(clock(Duration::from_secs(185)), "3:05");
    }

    #[test]
    fn a_long_line_is_cut_to_the_width_of_a_terminal() {
        assert_eq!(fit(&"é".repeat(500)).chars().count(), LINE_WIDTH);
    }

    #[test]
    fn the_summary_shows_what_was_skipped_and_what_failed() {
        let mut progress = progress("summary");
        progress.step("one", |_| Ok(Outcome::Noted("7 files".into()))).unwrap();
        progress
            .step("two", |_| Ok(Outcome::Skipped("no network".into())))
            .unwrap();
        let error = progress.step("three", |_| Err(anyhow!("broken"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "three failed: broken");
        let summary = progress.summary();
        assert!(summary.contains("ok       7 files"), "{summary}");
        assert!(summary.contains("SKIPPED  no network"), "{summary}");
        assert!(summary.contains("FAILED"), "{summary}");
    }

    #[test]
    #[cfg(unix)]
    fn a_step_fails_when_its_child_does() {
        let mut progress = progress("child");
        let error = progress
            .step("false", |step| {
                step.run(&mut Command::new("false"), Duration::from_secs(30))?;
                Ok(Outcome::Done)
            })
            .unwrap_err();
        assert!(format!("{error:#}").contains("`false` ended with"), "{error:#}");
        let _ = fs::remove_dir_all(&progress.logs);
    }
}
