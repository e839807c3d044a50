//! Reading: lines of a text, within bounds; an image as it is; other files by their size.

use crate::workspace::{Place, Workspace};
use fumehood::{Content, Failure, Output};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
};

/// The most lines that one call returns.
pub(crate) const MOST_LINES: u64 = 2000;
/// The most bytes of text that one call returns.
const MOST_BYTES: usize = 64 * 1024;
/// The most bytes of one line that are shown.
const MOST_OF_LINE: usize = 4000;
/// The largest image that is returned.
const MOST_OF_IMAGE: u64 = 160 * 1024;
/// How much of a file decides whether it is text.
const SNIFF: usize = 8192;

/// The lines `offset..offset + limit` of a file, counted from 1.
pub(crate) fn read(workspace: &Workspace, path: &str, offset: u64, limit: u64) -> Result<Output, Failure> {
    if offset == 0 || limit == 0 {
        return Err(Failure::invalid_arguments("`offset` and `limit` are counted from 1"));
    }
    let place = workspace.place(path)?;
    let metadata = place.metadata()?;
    if metadata.is_dir() {
        return Err(Failure::invalid_arguments(format!(
            "`{}` is a directory: files_list shows what is in it",
            place.name
        )));
    }
    let failed = |error: &io::Error| place.failure("cannot be read", error);
    let mut reader = BufReader::with_capacity(SNIFF, File::open(&place.full).map_err(|error| failed(&error))?);
    let head = reader.fill_buf().map_err(|error| failed(&error))?;
    if looks_binary(head) {
        let kind = image_kind(head);
        return binary(&place, reader, kind, metadata.len());
    }
    let lines = lines(&mut reader, offset, limit.min(MOST_LINES)).map_err(|error| failed(&error))?;
    Ok(present(&place, lines, offset))
}

/// Some lines of a text.
#[derive(Debug, PartialEq, Eq)]
struct Lines {
    text: String,
    /// How many were taken.
    taken: u64,
    /// How many the file has.
    total: u64,
    shortened: bool,
}

fn lines(reader: &mut impl BufRead, offset: u64, limit: u64) -> io::Result<Lines> {
    let mut lines = Lines {
        text: String::new(),
        taken: 0,
        total: 0,
        shortened: false,
    };
    let mut line = Vec::new();
    let mut full = false;
    loop {
        line.clear();
        let wanted = !full && lines.total + 1 >= offset && lines.taken < limit;
        let size = next_line(reader, &mut line, wanted)?;
        if size == 0 {
            return Ok(lines);
        }
        lines.total += 1;
        if !wanted {
            continue;
        }
        if !lines.text.is_empty() && lines.text.len() + line.len() > MOST_BYTES {
            full = true;
            continue;
        }
        lines.text.push_str(&String::from_utf8_lossy(&line));
        if size > line.len() as u64 {
            lines.shortened = true;
            lines.text.push_str(&format!("… [{size} bytes in this line]\n"));
        }
        lines.taken += 1;
    }
}

/// Reads up to the end of the line; keeps its first bytes if `keep`. Returns its whole length.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>, keep: bool) -> io::Result<u64> {
    let mut size = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(size);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let length = end.unwrap_or(buffer.len());
        if keep {
            let room = MOST_OF_LINE.saturating_sub(line.len());
            line.extend_from_slice(&buffer[..length.min(room)]);
        }
        size += length as u64;
        reader.consume(length);
        if end.is_some() {
            return Ok(size);
        }
    }
}

fn present(place: &Place, lines: Lines, offset: u64) -> Output {
    let Lines {
        text,
        taken,
        total,
        shortened,
    } = lines;
    let name = &place.name;
    if taken == 0 {
        let note = if total == 0 {
            format!("[`{name}` is empty]")
        } else {
            format!("[`{name}` has only {total} lines: give a smaller `offset`]")
        };
        return Output::new(note);
    }
    let last = offset + taken - 1;
    let mut note = format!("[lines {offset} to {last} of {total} of `{name}`");
    if last < total {
        note.push_str(&format!("; to read on, give `offset` {}", last + 1));
    }
    if shortened {
        note.push_str("; long lines are cut short");
    }
    note.push(']');
    if offset == 1 && last == total && !shortened {
        Output::new(text)
    } else {
        Output::new(text).and(note)
    }
}

fn binary(place: &Place, reader: BufReader<File>, kind: Option<&str>, size: u64) -> Result<Output, Failure> {
    let name = &place.name;
    let Some(media_type) = kind else {
        return Ok(Output::new(format!(
            "[`{name}` is a binary file of {size} bytes, which cannot be shown as text]"
        )));
    };
    if size > MOST_OF_IMAGE {
        return Ok(Output::new(format!(
            "[`{name}` is an image ({media_type}) of {size} bytes, too large to show]"
        )));
    }
    let mut data = Vec::new();
    reader
        .take(MOST_OF_IMAGE)
        .read_to_end(&mut data)
        .map_err(|error| place.failure("cannot be read", &error))?;
    Ok(Output {
        content: vec![Content::Image {
            media_type: media_type.to_owned(),
            data,
        }],
        ..Output::default()
    })
}

/// Whether a file that begins like this is not text.
pub(crate) fn looks_binary(head: &[u8]) -> bool {
    if head.contains(&0) {
        return true;
    }
    match std::str::from_utf8(head) {
        Ok(_) => false,
        // A character may be cut at the end of the head. Other encodings are text of a kind.
        Err(error) => error.error_len().is_some() && image_kind(head).is_some(),
    }
}

fn image_kind(head: &[u8]) -> Option<&'static str> {
    match head {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn with(content: &[u8], offset: u64, limit: u64) -> Result<Output, Failure> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("f"), content).unwrap();
        read(&Workspace::at(directory.path()), "f", offset, limit)
    }

    #[test]
    fn a_whole_text_is_returned_without_a_note() {
        assert_eq!(with("a\nß\n".as_bytes(), 1, 10).unwrap().text(), "a\nß\n");
    }

    #[test]
    fn a_part_says_how_to_go_on() {
        let output = with(b"1\n2\n3\n4\n", 2, 2).unwrap().text();
        assert!(
            output.starts_with("2\n3\n") && output.contains("lines 2 to 3 of 4") && output.contains("`offset` 4"),
            "{output}"
        );
        assert!(with(b"1\n2\n", 9, 1).unwrap().text().contains("only 2 lines"));
        assert!(with(b"", 1, 1).unwrap().text().contains("empty"));
    }

    #[test]
    fn a_large_text_and_a_long_line_are_bounded() {
        let many = "0123456789\n".repeat(20_000);
        let output = with(many.as_bytes(), 1, 2000).unwrap().text();
        assert!(output.len() < 70_000 && output.contains("of 20000"), "{}", output.len());
        let long = "x".repeat(100_000);
        let output = with(long.as_bytes(), 1, 1).unwrap().text();
        assert!(output.len() < 5000 && output.contains("100000 bytes in this line"));
    }

    #[test]
    fn binary_files_are_described_and_small_images_shown() {
        assert!(with(b"a\0b", 1, 1).unwrap().text().contains("binary file of 3 bytes"));
        let image = with(b"\x89PNG\r\n\x1a\n\0\0", 1, 1).unwrap();
        assert!(
            matches!(&image.content[0], Content::Image { media_type, data } if media_type == "image/png" && data.len() == 10)
        );
    }

    #[test]
    fn what_is_not_there_or_a_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(directory.path());
        assert!(matches!(read(&workspace, "nope", 1, 1), Err(Failure::NotFound(_))));
        assert!(matches!(read(&workspace, ".", 1, 1), Err(Failure::InvalidArguments(_))));
        assert!(matches!(read(&workspace, "x", 0, 1), Err(Failure::InvalidArguments(_))));
    }
}
