//! Reaching for files.

use fumehood::Failure;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Seek as _, Write as _},
};

/// Reads a file anywhere.
#[fumehood::tool(effect = "pure", read_only)]
pub fn read_file(
    /// As the operating system takes it.
    path: String,
) -> Result<String, Failure> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// Writes a file anywhere.
#[fumehood::tool(effect = "idempotent", destructive)]
pub fn write_file(
    /// As the operating system takes it.
    path: String,
    /// How much, in KiB.
    kib: u64,
) -> Result<String, Failure> {
    fill(&path, kib)?;
    Ok(format!("wrote {kib} KiB"))
}

/// Lists a directory anywhere.
#[fumehood::tool(effect = "pure", read_only)]
pub fn list_dir(
    /// As the operating system takes it.
    path: String,
) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Fills the temporary directory.
#[fumehood::tool(effect = "idempotent")]
pub fn tmp_fill(
    /// How much, in KiB.
    kib: u64,
) -> Result<String, Failure> {
    fill("/tmp/fill", kib)?;
    Ok(format!("wrote {kib} KiB"))
}

/// Makes a hard link, to reach a file by another name, and reads through it.
#[fumehood::tool(effect = "idempotent", destructive)]
pub fn link_file(
    /// What the link names.
    from: String,
    /// The link.
    to: String,
) -> Result<String, Failure> {
    fs::hard_link(from, &to)?;
    Ok(String::from_utf8_lossy(&fs::read(to)?).into_owned())
}

fn fill(path: &str, kib: u64) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    let block = [b'z'; 1024];
    for _ in 0..kib {
        file.write_all(&block)?;
    }
    file.flush()
}

/// One thing to try with files.
#[allow(missing_docs, reason = "each says what it does, and its fields go without saying")]
#[derive(Deserialize, JsonSchema)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum FileOp {
    /// Writes a file anew.
    Write { path: String, bytes: usize },
    /// Opens a file for writing and adds to its end.
    Append { path: String, bytes: usize },
    /// Writes at a place in a file.
    WriteAt { path: String, offset: u64, bytes: usize },
    /// Cuts or extends a file.
    SetLen { path: String, len: u64 },
    /// Makes a file, deletes it, and goes on writing to it.
    WriteDeleted { path: String, bytes: usize },
    /// Reads a file.
    Read { path: String },
    /// Lists a directory.
    List { path: String },
    /// Says how long a file is.
    Len { path: String },
    /// Makes a directory.
    Mkdir { path: String },
    /// Makes directories in each other.
    Nest { path: String, depth: usize },
    /// Makes many files in a directory, until one fails.
    MakeMany { path: String, files: usize },
    /// Moves.
    Rename { path: String, to: String },
    /// Makes a hard link.
    Link { path: String, to: String },
    /// Makes a symbolic link.
    Symlink { target: String, path: String },
    /// Removes a file.
    Remove { path: String },
    /// Removes a directory with everything in it.
    RemoveAll { path: String },
    /// Sets the time of the last change.
    Touch { path: String },
    /// Makes a link to one place and to another, over and over, and reads through it each time.
    SwapAndRead {
        link: String,
        first: String,
        second: String,
        times: usize,
    },
}

/// Tries things with files, one after the other, and says what became of each: `ok`, what was read, or the kind of error.
#[fumehood::tool(effect = "idempotent", destructive)]
pub fn file_ops(
    /// What to try.
    ops: Vec<FileOp>,
    /// Fail if the last one fails, so that the caller sees why.
    fail: Option<bool>,
) -> Result<Vec<String>, Failure> {
    let mut outcomes = Vec::new();
    let mut last = None;
    for op in ops {
        let outcome = op.run();
        outcomes.push(match &outcome {
            Ok(text) if text.is_empty() => "ok".to_owned(),
            Ok(text) => text.clone(),
            Err(error) => format!("{:?}", error.kind()),
        });
        last = outcome.err();
    }
    match last {
        Some(error) if fail == Some(true) => Err(error.into()),
        _ => Ok(outcomes),
    }
}

impl FileOp {
    fn run(self) -> io::Result<String> {
        let nothing = |()| String::new();
        match self {
            Self::Write { path, bytes } => fs::write(path, vec![b'w'; bytes]).map(nothing),
            Self::Append { path, bytes } => {
                let mut file = fs::OpenOptions::new().append(true).open(path)?;
                file.write_all(&vec![b'a'; bytes])?;
                file.flush().map(nothing)
            }
            Self::WriteAt { path, offset, bytes } => {
                let mut file = fs::OpenOptions::new().write(true).open(path)?;
                file.seek(io::SeekFrom::Start(offset))?;
                file.write_all(&vec![b'p'; bytes])?;
                file.flush().map(nothing)
            }
            Self::SetLen { path, len } => fs::OpenOptions::new().write(true).open(path)?.set_len(len).map(nothing),
            Self::WriteDeleted { path, bytes } => write_deleted(&path, bytes).map(nothing),
            Self::Read { path } => Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned()),
            Self::List { path } => list(&path),
            Self::Len { path } => Ok(fs::metadata(path)?.len().to_string()),
            Self::Mkdir { path } => fs::create_dir(path).map(nothing),
            Self::Nest { path, depth } => nest(&path, depth).map(nothing),
            Self::MakeMany { path, files } => {
                for number in 0..files {
                    fs::write(format!("{path}/{number}"), [])?;
                }
                Ok(String::new())
            }
            Self::Rename { path, to } => fs::rename(path, to).map(nothing),
            Self::Link { path, to } => fs::hard_link(path, to).map(nothing),
            #[expect(deprecated, reason = "the only name that std has for it on every platform")]
            Self::Symlink { target, path } => fs::soft_link(target, path).map(nothing),
            Self::Remove { path } => fs::remove_file(path).map(nothing),
            Self::RemoveAll { path } => fs::remove_dir_all(path).map(nothing),
            Self::Touch { path } => fs::OpenOptions::new()
                .read(true)
                .open(path)?
                .set_modified(std::time::SystemTime::UNIX_EPOCH)
                .map(nothing),
            Self::SwapAndRead {
                link,
                first,
                second,
                times,
            } => swap_and_read(&link, [&first, &second], times),
        }
    }
}

fn write_deleted(path: &str, bytes: usize) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    fs::remove_file(path)?;
    for _ in 0..bytes.div_ceil(1024) {
        file.write_all(&[b'd'; 1024])?;
    }
    file.flush()
}

fn list(path: &str) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.join(" "))
}

/// Moves what was made into a new directory, again and again: no path gets long.
fn nest(path: &str, depth: usize) -> io::Result<()> {
    fs::create_dir(path)?;
    for _ in 0..depth {
        let outer = format!("{path}-outer");
        fs::create_dir(&outer)?;
        fs::rename(path, format!("{outer}/in"))?;
        fs::rename(&outer, path)?;
    }
    Ok(())
}

#[expect(deprecated, reason = "the only name that std has for it on every platform")]
fn swap_and_read(link: &str, targets: [&str; 2], times: usize) -> io::Result<String> {
    let mut seen = BTreeSet::new();
    for round in 0..times {
        let _ = fs::remove_file(link);
        let _ = fs::soft_link(targets[round % 2], link);
        if let Ok(bytes) = fs::read(link) {
            seen.insert(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    Ok(seen.into_iter().collect::<Vec<_>>().join(" "))
}
