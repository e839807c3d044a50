//! Running the life under `strace`, and reading what it says.

use crate::life::Told;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    process::Command,
};

/// Says to this binary, started anew, where it lives.
pub(crate) const VARIABLE: &str = "TESTS_DISK_LIFE";
/// Says to it that it ends with the first refusal.
pub(crate) const UNTIL_REFUSED: &str = "TESTS_DISK_UNTIL_REFUSED";
/// Says to it that a life before this one did a part of it.
pub(crate) const AGAIN: &str = "TESTS_DISK_AGAIN";
/// The file in which it says what became of its steps.
pub(crate) const TOLD: &str = "told";

const CALLS: &str = "trace=write,pwrite64,lseek,ftruncate,fsync,fdatasync,openat,unlink";
/// Longer than anything that the store writes at once.
const LONGEST: &str = "1000000";

/// Whether there is a `strace` that may trace; says so where there is none.
pub(crate) fn is_possible() -> bool {
    let tried = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    let is_possible = tried.is_ok_and(|status| status.success());
    if !is_possible {
        assert!(
            std::env::var_os("TESTS_REQUIRE_STRACE").is_none(),
            "it is required here"
        );
        eprintln!("skipped: there is no strace here that may trace (apt-get install strace)");
    }
    is_possible
}

/// A life to be lived.
pub(crate) struct Run {
    dir: PathBuf,
    fails: Option<String>,
    until_refused: bool,
    again: bool,
    kibibytes: Option<u64>,
}

impl Run {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.canonicalize().unwrap(),
            fails: None,
            until_refused: false,
            again: false,
            kibibytes: None,
        }
    }

    /// Makes calls fail, as `strace` takes it for `inject=`. Calls are counted for each thread.
    pub(crate) fn failing(mut self, what: &str) -> Self {
        self.fails = Some(format!("inject={what}"));
        self
    }

    /// Ends the process with the first step that is refused.
    pub(crate) fn ending_when_refused(mut self) -> Self {
        self.until_refused = true;
        self
    }

    /// Lives on in what an earlier life left.
    pub(crate) fn again(mut self) -> Self {
        self.again = true;
        self
    }

    /// No file may be larger.
    pub(crate) fn with_files_of_at_most(mut self, kibibytes: u64) -> Self {
        self.kibibytes = Some(kibibytes);
        self
    }

    /// Lives, and gives what was called and said.
    pub(crate) fn live(self) -> Lived {
        let (log, told) = (self.dir.join("calls"), self.dir.join(TOLD));
        let data = self.dir.join("data");
        let _ = std::fs::remove_file(&told);
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-qq", "-xx", "-s", LONGEST, "-o"]).arg(&log);
        for path in [&data, &data.join("fumehood.db"), &data.join("fumehood.db-wal")] {
            command.arg("-P").arg(path);
        }
        // What is said is no call that may fail.
        let fails_writes = self.fails.as_ref().is_some_and(|fails| fails.contains("write"));
        if !fails_writes {
            command.arg("-P").arg(&told);
        }
        command.args(["-e", CALLS]);
        if let Some(fails) = &self.fails {
            command.args(["-e", fails]);
        }
        if let Some(kibibytes) = self.kibibytes {
            // The signal that comes with the limit is ignored: the write fails instead.
            let limited = format!("trap '' XFSZ; ulimit -S -f {kibibytes}; exec \"$@\"");
            command.args(["bash", "-c", &limited, "bash"]);
        }
        command
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "life_in_a_process_of_its_own"])
            .env(VARIABLE, &self.dir);
        if self.again {
            command.env(AGAIN, "1");
        }
        if self.until_refused {
            command.env(UNTIL_REFUSED, "1");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = std::fs::read_to_string(&log).unwrap();
        let said = std::fs::read_to_string(&told).unwrap();
        Lived {
            calls: read(&text, &told),
            told: said.lines().map(|line| Told::read(line).unwrap()).collect(),
        }
    }
}

/// What a life left.
pub(crate) struct Lived {
    pub(crate) calls: Vec<Call>,
    pub(crate) told: Vec<Told>,
}

impl Lived {
    pub(crate) fn refused(&self) -> usize {
        let refused = |told: &&Told| matches!(told, Told::Refused(_) | Told::Unopened);
        self.told.iter().filter(refused).count()
    }

    pub(crate) fn half(&self) -> usize {
        self.told.iter().filter(|told| matches!(told, Told::Half(_))).count()
    }

    /// How many such calls the thread made that made most of them.
    pub(crate) fn most_by_one_thread(&self, is_such: impl Fn(&Call) -> bool) -> usize {
        let mut by_thread: BTreeMap<&str, usize> = BTreeMap::new();
        for call in self.calls.iter().filter(|call| is_such(call) && call.said().is_none()) {
            *by_thread.entry(&call.thread).or_default() += 1;
        }
        by_thread.into_values().max().unwrap_or(0)
    }
}

/// A call that is over.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    thread: String,
    pub(crate) path: PathBuf,
    pub(crate) what: What,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Write {
        at: u64,
        bytes: Vec<u8>,
    },
    Truncate(u64),
    Sync,
    FailedSync,
    /// The file is there if it was not.
    Open,
    Remove,
    /// The process said something to those outside.
    Say(String),
}

impl Call {
    pub(crate) fn is_write(&self) -> bool {
        matches!(self.what, What::Write { .. })
    }

    pub(crate) fn is_sync(&self) -> bool {
        matches!(self.what, What::Sync | What::FailedSync)
    }

    pub(crate) fn is_failed_sync(&self) -> bool {
        matches!(self.what, What::FailedSync)
    }

    pub(crate) fn said(&self) -> Option<&str> {
        match &self.what {
            What::Say(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn name(&self) -> String {
        let what = match &self.what {
            What::Write { at, bytes } => format!("write of {} bytes at {at}", bytes.len()),
            What::Say(text) => format!("`{}`", text.trim_end()),
            what => format!("{what:?}"),
        };
        format!("{what}, {}", self.path.file_name().unwrap_or_default().display())
    }
}

/// The calls of a trace, each where it ended.
fn read(text: &str, told: &Path) -> Vec<Call> {
    let mut begun: HashMap<&str, String> = HashMap::new();
    let mut places: HashMap<String, u64> = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, start.to_owned());
            continue;
        }
        let whole = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let end = resumed.split_once(" resumed>").map_or("", |(_, end)| end);
                begun.remove(thread).unwrap_or_default() + end
            }
            None => rest.to_owned(),
        };
        let Some((path, what)) = call(&whole, &mut places) else {
            continue;
        };
        let what = match what {
            What::Write { bytes, .. } if path == told => What::Say(String::from_utf8(bytes).unwrap()),
            what => what,
        };
        let thread = thread.to_owned();
        calls.push(Call { thread, path, what });
    }
    calls
}

/// One call, with the places in files that calls without one go by.
fn call(text: &str, places: &mut HashMap<String, u64>) -> Option<(PathBuf, What)> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(") = ")?;
    let result: i64 = result.split([' ', '<']).next()?.parse().ok()?;
    let arguments: Vec<&str> = arguments.split(", ").collect();
    match name {
        "openat" if result >= 0 => {
            // The number may have been another file's.
            places.remove(&result.to_string());
            return Some((PathBuf::from(unhex(arguments.get(1)?)), What::Open));
        }
        "unlink" if result == 0 => return Some((PathBuf::from(unhex(arguments.first()?)), What::Remove)),
        _ => {}
    }
    let (number, path) = arguments.first()?.split_once('<')?;
    let path = PathBuf::from(unhex(path));
    let what = match name {
        "fsync" | "fdatasync" if result == 0 => What::Sync,
        "fsync" | "fdatasync" => What::FailedSync,
        _ if result < 0 => return None,
        "lseek" => {
            places.insert(number.into(), result.unsigned_abs());
            return None;
        }
        "ftruncate" => What::Truncate(arguments.get(1)?.parse().ok()?),
        "write" | "pwrite64" => {
            let mut bytes = unhex_bytes(arguments.get(1)?);
            // A write may be done in part.
            bytes.truncate(usize::try_from(result).ok()?);
            let place = places.entry(number.into()).or_default();
            let at = match arguments.get(3) {
                Some(at) => at.parse().ok()?,
                None => *place,
            };
            *place = at + bytes.len() as u64;
            What::Write { at, bytes }
        }
        _ => return None,
    };
    Some((path, what))
}

/// The bytes of `\x61\x62`, whatever stands around them.
fn unhex_bytes(text: &str) -> Vec<u8> {
    let digits = text.split("\\x").skip(1).filter_map(|part| part.get(..2));
    digits
        .filter_map(|digits| u8::from_str_radix(digits, 16).ok())
        .collect()
}

fn unhex(text: &str) -> String {
    String::from_utf8(unhex_bytes(text)).unwrap()
}
