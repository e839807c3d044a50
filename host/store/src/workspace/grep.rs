//! Searching files by line. The pattern comes from a model or a client, so everything is bounded: the pattern's length and
//! compiled size, each file, the bytes read in all, the matches and the size of the answer. Matching takes time linear in what is read.

use super::{Kind, Result, WorkspaceError, WorkspacePath, file, list};
use cap_std::fs::Dir;
use globset::{GlobBuilder, GlobMatcher};
use regex::bytes::{Regex, RegexBuilder};

const LONGEST_PATTERN: usize = 1000;
const LARGEST_COMPILED: usize = 512 * 1024;
const LARGEST_FILE: u64 = 512 * 1024;
const LARGEST_SCAN: u64 = 5 * 1024 * 1024;
const LARGEST_ANSWER: usize = 64 * 1024;
const LONGEST_LINE: usize = 1024;
const MOST_MATCHES: usize = 1000;
const MOST_CONTEXT: usize = 20;
/// A file with a NUL this early is not text.
const SNIFFED: usize = 8 * 1024;

/// What to search for. Files larger than 512 KiB and binary files are skipped; the search stops after 5 MiB read, 64 KiB of answer
/// or the matches asked for, and says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrepRequest {
    /// A regular expression (Rust syntax, no look-around) of at most 1000 bytes; matched against each line.
    pub pattern: String,
    /// Only files whose path matches this glob, at most 1000 bytes; `*` stays within a directory, `**` does not.
    pub glob: Option<String>,
    /// Only files below this directory.
    pub directory: Option<WorkspacePath>,
    /// How many lines around each match to show, at most 20.
    pub context: usize,
    /// How many matches to pass over first.
    pub offset: usize,
    /// How many matches to show, from 1 to 1000.
    pub limit: usize,
}

/// A line of the answer. Bytes that are not UTF-8 are shown as `U+FFFD`; a long line is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrepLine {
    /// The file.
    pub path: WorkspacePath,
    /// Counts from 1.
    pub number: u64,
    /// The line without its end.
    pub text: String,
    /// Lines before it, oldest first.
    pub before: Vec<String>,
    /// Lines after it.
    pub after: Vec<String>,
}

/// Why not everything was searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skipped {
    /// The matches asked for were found; more may follow: ask with a larger `offset`.
    MoreMatches,
    /// The answer is as large as it may be; ask with a larger `offset`.
    AnswerFull,
    /// As much was read as may be; narrow the glob or the directory.
    ScanLimit,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The matches, in order of path and line.
    pub matches: Vec<GrepLine>,
    /// Why the search stopped early; `None` if it saw every file.
    pub stopped: Option<Skipped>,
    /// Files passed over because they are large or not text.
    pub skipped_files: u64,
}

/// A request whose patterns are compiled.
pub(super) struct Search {
    pattern: Regex,
    glob: Option<GlobMatcher>,
    directory: Option<WorkspacePath>,
    context: usize,
    offset: usize,
    limit: usize,
}

struct Progress {
    found: Found,
    passed: usize,
    scanned: u64,
    answer: usize,
}

impl Search {
    pub(super) fn new(request: &GrepRequest) -> Result<Self> {
        let glob = request.glob.as_deref().map(glob).transpose()?;
        Ok(Self {
            pattern: pattern(&request.pattern)?,
            glob,
            directory: request.directory.clone(),
            context: request.context.min(MOST_CONTEXT),
            offset: request.offset,
            limit: request.limit.clamp(1, MOST_MATCHES),
        })
    }

    pub(super) fn run(&self, dir: &Dir, clean: &dyn Fn(Vec<u8>) -> Vec<u8>) -> Result<Found> {
        let mut entries = list::entries(dir, self.directory.as_ref(), list::Depth::Below)?;
        entries.retain(|entry| {
            entry.kind == Kind::File && self.glob.as_ref().is_none_or(|glob| glob.is_match(entry.path.as_str()))
        });
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut progress = Progress {
            found: Found::default(),
            passed: 0,
            scanned: 0,
            answer: 0,
        };
        for entry in entries {
            if entry.size > LARGEST_FILE {
                progress.found.skipped_files += 1;
                continue;
            }
            if progress.scanned + entry.size > LARGEST_SCAN {
                progress.found.stopped = Some(Skipped::ScanLimit);
                break;
            }
            let bytes = match file::read(dir, &entry.path, LARGEST_FILE) {
                Ok(Some(content)) => content.bytes,
                Ok(None) => continue,
                // It grew, or became something else, since it was listed.
                Err(
                    WorkspaceError::Quota { .. } | WorkspaceError::IsDirectory { .. } | WorkspaceError::Blocked { .. },
                ) => {
                    progress.found.skipped_files += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            progress.scanned += bytes.len() as u64;
            if bytes.iter().take(SNIFFED).any(|byte| *byte == 0) {
                progress.found.skipped_files += 1;
                continue;
            }
            // The whole file, before it is split into lines and these are cut: a part of what is to be cleaned away is not found.
            progress.found.stopped = self.search(&entry.path, &clean(bytes), &mut progress);
            if progress.found.stopped.is_some() {
                break;
            }
        }
        Ok(progress.found)
    }

    /// Searches one file; says why if the search is over.
    fn search(&self, path: &WorkspacePath, bytes: &[u8], progress: &mut Progress) -> Option<Skipped> {
        let lines: Vec<&[u8]> = bytes
            .strip_suffix(b"\n")
            .unwrap_or(bytes)
            .split(|byte| *byte == b'\n')
            .collect();
        for (index, line) in lines.iter().enumerate() {
            if bytes.is_empty() || !self.pattern.is_match(line) {
                continue;
            }
            if progress.passed < self.offset {
                progress.passed += 1;
                continue;
            }
            if progress.found.matches.len() == self.limit {
                return Some(Skipped::MoreMatches);
            }
            let end = (index + 1 + self.context).min(lines.len());
            let shown = GrepLine {
                path: path.clone(),
                number: index as u64 + 1,
                text: show(line),
                before: lines[index.saturating_sub(self.context)..index]
                    .iter()
                    .map(|line| show(line))
                    .collect(),
                after: lines[index + 1..end].iter().map(|line| show(line)).collect(),
            };
            let size = shown.size();
            if progress.answer + size > LARGEST_ANSWER && !progress.found.matches.is_empty() {
                return Some(Skipped::AnswerFull);
            }
            progress.answer += size;
            progress.found.matches.push(shown);
        }
        None
    }
}

impl GrepLine {
    fn size(&self) -> usize {
        let context: usize = self.before.iter().chain(&self.after).map(String::len).sum();
        self.path.as_str().len() + self.text.len() + context
    }
}

fn show(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let cut = &line[..line.len().min(LONGEST_LINE)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if cut.len() < line.len() {
        text.push('…');
    }
    text
}

fn pattern(text: &str) -> Result<Regex> {
    bounded("pattern", text)?;
    RegexBuilder::new(text)
        .size_limit(LARGEST_COMPILED)
        .dfa_size_limit(LARGEST_COMPILED)
        .build()
        .map_err(|error| {
            let reason = match error {
                regex::Error::CompiledTooBig(_) => {
                    "the pattern is too large when compiled: use smaller repetitions".into()
                }
                other => format!("the pattern is not a regular expression: {other}"),
            };
            WorkspaceError::BadRequest { reason }
        })
}

fn glob(text: &str) -> Result<GlobMatcher> {
    bounded("glob", text)?;
    GlobBuilder::new(text)
        .literal_separator(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| WorkspaceError::BadRequest {
            reason: format!("the glob is not valid: {error}"),
        })
}

fn bounded(what: &str, text: &str) -> Result<()> {
    if text.len() <= LONGEST_PATTERN {
        return Ok(());
    }
    Err(WorkspaceError::BadRequest {
        reason: format!("the {what} is longer than {LONGEST_PATTERN} bytes"),
    })
}
