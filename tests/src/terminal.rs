//! A terminal with a command of the binary in it: keys go in, and what a person sees is looked at.

use crate::{PATIENCE, POLL, Place, until};
use nix::pty::{Winsize, openpty};
use std::{
    fs::File,
    io::{Read as _, Write as _},
    num::NonZeroU16,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::process::{Child, Command};

/// More rows than a test fills, so that nothing leaves the screen.
const ROWS: u16 = 200;

/// A terminal and the command that it belongs to, which ends with it.
pub struct Terminal {
    process: Child,
    keyboard: File,
    seen: Arc<Mutex<Seen>>,
}

/// What the command wrote to its terminal.
struct Seen {
    bytes: Vec<u8>,
    screen: vt100::Parser,
}

/// Where the command's standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// To the terminal, as all else.
    Shown,
    /// Into a pipe.
    Piped,
}

impl Place {
    /// Runs a command in a terminal of so many columns.
    #[must_use]
    pub fn terminal(&self, args: &[&str], columns: u16) -> Terminal {
        Terminal::open(&self.command(args), columns, Answer::Shown)
    }
}

impl Terminal {
    /// A terminal of so many columns, in which this command runs.
    #[must_use]
    pub fn open(command: &Command, columns: u16, answer: Answer) -> Self {
        let size = Winsize {
            ws_row: ROWS,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let terminal = openpty(Some(&size), None).unwrap();
        // The command has its three of the terminal's ends. Others would keep the terminal open after it: in what it starts, and in
        // what another test starts.
        for end in [&terminal.master, &terminal.slave] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC).unwrap();
        }
        let process = spawn(command, terminal.slave, answer);
        let [rows, columns] = [ROWS, columns].map(|side| NonZeroU16::new(side).unwrap());
        let seen = Arc::new(Mutex::new(Seen {
            bytes: Vec::new(),
            screen: vt100::Parser::new(rows, columns, 0),
        }));
        let keyboard = File::from(terminal.master);
        let (written, watched) = (keyboard.try_clone().unwrap(), Arc::clone(&seen));
        std::thread::spawn(move || watch(written, &watched));
        Self {
            process,
            keyboard,
            seen,
        }
    }

    /// Types these keys.
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// What a person sees now.
    #[must_use]
    pub fn screen(&self) -> String {
        self.look(|seen| seen.screen.screen().contents())
    }

    /// All that was ever written to the terminal.
    #[must_use]
    pub fn written(&self) -> String {
        self.look(|seen| String::from_utf8_lossy(&seen.bytes).into_owned())
    }

    /// Waits until a person sees these words so many times.
    pub async fn shows(&self, words: &str, times: usize) {
        self.until(words, |terminal| terminal.screen().matches(words).count() >= times)
            .await;
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let looking = async {
            while !is(self) {
                tokio::time::sleep(POLL).await;
            }
        };
        if tokio::time::timeout(PATIENCE, looking).await.is_err() {
            panic!("{what} never came:\n{}", self.screen());
        }
    }

    /// Waits for the command's end; how it ended, what went into the pipe, and what a person sees then.
    pub async fn ended(mut self) -> (ExitStatus, String, String) {
        let mut piped = String::new();
        let ending = async {
            if let Some(mut answer) = self.process.stdout.take() {
                tokio::io::AsyncReadExt::read_to_string(&mut answer, &mut piped)
                    .await
                    .unwrap();
            }
            self.process.wait().await.unwrap()
        };
        let Ok(status) = tokio::time::timeout(PATIENCE, ending).await else {
            panic!("the command did not end:\n{}", self.screen());
        };
        // The reader has the other hold on what is seen, and lets go of it at the terminal's end.
        until("the terminal's end", async || {
            (Arc::strong_count(&self.seen) == 1).then_some(())
        })
        .await;
        (status, piped, self.screen())
    }

    fn look<T>(&self, at: impl FnOnce(&Seen) -> T) -> T {
        at(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Starts the command in a session of its own, whose terminal this is: without that no Ctrl-C reaches it.
fn spawn(command: &Command, terminal: OwnedFd, answer: Answer) -> Child {
    let command = command.as_std();
    let mut session = Command::new("setsid");
    session
        .arg("--ctty")
        .arg(command.get_program())
        .args(command.get_args())
        .env("TERM", "xterm-256color")
        .kill_on_drop(true);
    if let Some(dir) = command.get_current_dir() {
        session.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => session.env(name, value),
            None => session.env_remove(name),
        };
    }
    let stdout = match answer {
        Answer::Shown => terminal.try_clone().unwrap().into(),
        Answer::Piped => Stdio::piped(),
    };
    session
        .stdin(terminal.try_clone().unwrap())
        .stdout(stdout)
        .stderr(terminal)
        .spawn()
        .expect("there is no `setsid`; it is in util-linux")
}

/// Sees all that is written, until nobody has the terminal open.
fn watch(mut written: File, seen: &Mutex<Seen>) {
    let mut part = [0; 4096];
    while let Ok(length @ 1..) = written.read(&mut part) {
        let part = part.get(..length).unwrap_or_default();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.bytes.extend_from_slice(part);
        seen.screen.process(part);
    }
}
