//! The reference page of the contract: what the comments in `wit/` say, in the order of who needs it.
//!
//! It reads the form that those files have, one item or field on a line, and no other.

use std::fmt::Write as _;

/// The files, in the order of the page.
const FILES: [&str; 8] = [
    include_str!("../../../../../wit/world.wit"),
    include_str!("../../../../../wit/tools.wit"),
    include_str!("../../../../../wit/types.wit"),
    include_str!("../../../../../wit/progress.wit"),
    include_str!("../../../../../wit/secrets.wit"),
    include_str!("../../../../../wit/peers.wit"),
    include_str!("../../../../../wit/jobs.wit"),
    include_str!("../../../../../wit/hooks.wit"),
];

/// What opens a block of its own within an interface.
const TYPES: [&str; 5] = ["record", "variant", "enum", "flags", "resource"];

/// The page.
pub(super) fn page() -> String {
    let mut page = Page::default();
    page.text
        .push_str("# The contract in WIT\n\nMade of [`wit/`](../../wit/world.wit); don't edit.\n");
    for file in FILES {
        for line in file.lines() {
            page.line(line.trim());
        }
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
    /// The comment above what comes next.
    docs: Vec<String>,
    /// A function that goes on.
    unfinished: String,
    /// Blocks that are open: a world or an interface, and a type in it.
    depth: usize,
    /// Fields or imports are listed, so that the next goes into the same table.
    listed: bool,
}

impl Page {
    fn line(&mut self, line: &str) {
        if let Some(comment) = line.strip_prefix("///") {
            let comment = comment.strip_prefix(' ').unwrap_or(comment);
            return self.docs.push(comment.to_owned());
        }
        if !self.unfinished.is_empty() {
            self.unfinished.push(' ');
            return self.function(line);
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] | ["//" | "use", ..] => {}
            ["package", ..] => {
                let docs = self.prose();
                let _ = write!(self.text, "\n```wit\n{line}\n```\n\n{docs}\n");
            }
            [kind @ ("world" | "interface"), name, "{"] => {
                let docs = self.prose();
                let _ = write!(self.text, "\n## {kind} `{name}`\n\n{docs}\n");
                self.depth = 1;
                self.listed = false;
            }
            [kind, name, "{"] if self.depth == 1 && TYPES.contains(kind) => {
                let docs = self.prose();
                let _ = write!(self.text, "\n### {kind} `{name}`\n\n{docs}\n");
                self.depth = 2;
                self.listed = false;
            }
            ["}"] => {
                self.depth = self.depth.saturating_sub(1);
                self.listed = false;
            }
            ["include" | "import" | "export", ..] => self.row(line.trim_end_matches(';')),
            _ if self.depth == 2 => self.row(line.trim_end_matches(',')),
            _ => self.function(line),
        }
    }

    /// A line of a table, of an item that has one.
    fn row(&mut self, item: &str) {
        if !self.listed {
            self.text.push_str("\n| | |\n|---|---|\n");
            self.listed = true;
        }
        let docs = std::mem::take(&mut self.docs).join(" ").replace('|', "\\|");
        let _ = writeln!(self.text, "| `{item}` | {docs} |");
    }

    fn function(&mut self, line: &str) {
        self.unfinished.push_str(line);
        if !line.ends_with(';') {
            return;
        }
        let whole = std::mem::take(&mut self.unfinished);
        let name = whole.split(':').next().unwrap_or_default();
        let docs = self.prose();
        let _ = write!(self.text, "\n### `{name}`\n\n```wit\n{whole}\n```\n\n{docs}\n");
        self.listed = false;
    }

    fn prose(&mut self) -> String {
        std::mem::take(&mut self.docs).join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_function_type_and_field_is_on_the_page_and_no_comment_is_lost() {
        let page = page();
        for file in FILES {
            for line in file.lines().map(str::trim) {
                if let Some(comment) = line.strip_prefix("///") {
                    let comment = comment.trim().replace('|', "\\|");
                    let plain = line.strip_prefix("///").unwrap_or_default().trim();
                    assert!(page.contains(&comment) || page.contains(plain), "{line}");
                    continue;
                }
                let name = line.split([':', '(', ',', ' ']).next().unwrap_or_default();
                let item = line.ends_with(',') || line.contains(": func(");
                assert!(!item || page.contains(&format!("`{name}")), "{line}");
            }
        }
        assert!(page.contains("## interface `jobs`") && page.contains("## world `tool`"));
        assert!(page.contains("### `decide`\n\n```wit\ndecide: func(occasion: occasion)"));
        assert!(page.contains("| `after-ms: option<u64>` |"), "{page}");
    }
}
