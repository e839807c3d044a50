//! Running a child process that may be slow, noisy or stuck: its output goes to a log
//! file, somebody is told that it lives, and it ends when its time is over.
//!
//! The child stays in this process's group, so Ctrl-C reaches it too.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Exited(ExitStatus),
    /// It was stopped because its time was over.
    TimedOut,
}

/// How often a running child is looked at.
const TICK: Duration = Duration::from_millis(50);

/// How long a child has to clean up after it was asked to end.
const GRACE: Duration = Duration::from_secs(3);

/// Runs `command` to its end or for at most `limit`, with its output appended to `log`.
/// `alive` is called about twenty times a second.
pub(crate) fn run_logged(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    mut alive: impl FnMut(),
) -> Result<Ending> {
    let mut file = open_log(log)?;
    writeln!(file, "$ {}", line(command))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut child = spawn(command)?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ending::Exited(status));
        }
        if started.elapsed() >= limit {
            end(&mut child)?;
            return Ok(Ending::TimedOut);
        }
        alive();
        thread::sleep(TICK);
    }
}

/// Runs `command` and returns what it printed, or `None` if it failed or could not start.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.spawn().with_context(|| {
        let program = command.get_program().to_string_lossy();
        format!("cannot start `{program}`: is it installed and on PATH?")
    })
}

/// Asks a child to end, and ends it if it does not.
fn end(child: &mut Child) -> Result<()> {
    // Cargo and apt leave locks and half-written files behind when killed outright.
    if cfg!(unix) {
        let pid = child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let asked = Instant::now();
        while asked.elapsed() < GRACE {
            if child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(TICK);
        }
    }
    child.kill().context("cannot end a child process")?;
    child.wait()?;
    Ok(())
}

fn open_log(log: &Path) -> Result<File> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))
}

/// A command as one would type it, environment left out.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        line.push(' ');
        if arg.is_empty() || arg.contains([' ', '"', '\'']) {
            line.push('\'');
            line.push_str(&arg);
            line.push('\'');
        } else {
            line.push_str(&arg);
        }
    }
    line
}

/// The last lines of a log, at most `lines` of its last `bytes`.
pub(crate) fn tail(log: &Path, lines: usize, bytes: u64) -> Vec<String> {
    let Some(text) = last_bytes(log, bytes) else {
        return Vec::new();
    };
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

fn last_bytes(log: &Path, bytes: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes))).ok()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn log(name: &str) -> std::path::PathBuf {
        let log = std::env::temp_dir().join(format!("xtask-process-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&log);
        log
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_output_and_the_command_line_of_a_child_are_kept() {
        let log = log("kept");
        let ending = run_logged(
            &mut shell("echo out; echo err >&2; exit 3"),
            &log,
            Duration::from_secs(30),
            || {},
        )
        .unwrap();
        assert!(matches!(ending, Ending::Exited(status) if status.code() == Some(3)));
        assert_eq!(
            tail(&log, 9, 4096),
            ["$ sh -c 'echo out; echo err >&2; exit 3'", "out", "err"]
        );
        assert_eq!(tail(&log, 1, 4096), ["err"]);
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_child_that_passes_its_limit_is_stopped() {
        let log = log("limit");
        let ending = run_logged(&mut shell("exec sleep 600"), &log, Duration::from_millis(10), || {}).unwrap();
        assert_eq!(ending, Ending::TimedOut);
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_missing_program_is_named() {
        let log = log("missing");
        let error = run_logged(
            &mut Command::new("no-such-program"),
            &log,
            Duration::from_secs(1),
            || {},
        )
        .unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
        fs::remove_file(log).unwrap();
    }
}
