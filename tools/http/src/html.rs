//! HTML to readable text: headings, paragraphs, lists, links, preformatted text; no scripts, no styles.
//!
//! This is a reader, not a browser: it takes tags as they come, in one pass and linear time, and never
//! fails. What it makes of broken markup is some text, not the text that a browser would show.

use crate::entities;

/// Elements whose content is not for reading.
const HIDDEN: [&str; 9] = [
    "script", "style", "noscript", "template", "svg", "iframe", "object", "canvas", "select",
];
/// Elements that stand on lines of their own.
const BLOCKS: [&str; 34] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "center",
    "dd",
    "details",
    "dialog",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "header",
    "hr",
    "html",
    "main",
    "nav",
    "ol",
    "p",
    "section",
    "summary",
    "table",
    "tbody",
    "tfoot",
    "thead",
    "title",
    "tr",
    "ul",
    "head",
];
/// How deep a list is indented at most.
const DEEPEST_LIST: usize = 8;

/// The readable text of a page.
pub(crate) fn to_text(html: &str) -> String {
    let mut page = Page::default();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        page.text(&rest[..start]);
        rest = &rest[start..];
        let Some((markup, after)) = markup(rest) else {
            page.text("<");
            rest = &rest[1..];
            continue;
        };
        rest = match markup {
            Markup::Open(name, attributes) if HIDDEN.contains(&name.as_str()) => {
                let _ = attributes;
                after_closing(after, &name)
            }
            Markup::Open(name, attributes) => {
                page.open(&name, attributes);
                after
            }
            Markup::Close(name) => {
                page.close(&name);
                after
            }
            Markup::Nothing => after,
        };
    }
    page.text(rest);
    page.finish()
}

enum Markup<'a> {
    /// A tag's name, and the text of its attributes.
    Open(String, &'a str),
    Close(String),
    /// A comment, a declaration.
    Nothing,
}

/// Takes one piece of markup off a text that begins with `<`; none if it is a mere `<`.
fn markup(text: &str) -> Option<(Markup<'_>, &str)> {
    if let Some(comment) = text.strip_prefix("<!--") {
        let end = comment.find("-->").map_or(comment.len(), |end| end + 3);
        return Some((Markup::Nothing, &comment[end..]));
    }
    if text.starts_with("<!") || text.starts_with("<?") {
        let end = text.find('>').map_or(text.len(), |end| end + 1);
        return Some((Markup::Nothing, &text[end..]));
    }
    let (closing, inside) = match text.strip_prefix("</") {
        Some(inside) => (true, inside),
        None => (false, text.strip_prefix('<')?),
    };
    if !inside.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let name_end = inside
        .find(|c: char| c.is_ascii_whitespace() || matches!(c, '>' | '/'))
        .unwrap_or(inside.len());
    let name = inside[..name_end].to_ascii_lowercase();
    let attributes = &inside[name_end..];
    let end = tag_end(attributes);
    let after = &attributes[(end + 1).min(attributes.len())..];
    let markup = if closing {
        Markup::Close(name)
    } else {
        Markup::Open(name, &attributes[..end])
    };
    Some((markup, after))
}

/// Where a tag ends: the first `>` outside of quotes.
fn tag_end(attributes: &str) -> usize {
    let mut quote = None;
    for (at, byte) in attributes.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    attributes.len()
}

/// What follows the closing tag of an element; nothing if it is never closed.
fn after_closing<'a>(text: &'a str, name: &str) -> &'a str {
    let mut rest = text;
    while let Some(at) = rest.find("</") {
        rest = &rest[at + 2..];
        let is_it = rest
            .get(..name.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(name));
        if is_it {
            return rest.find('>').map_or("", |end| &rest[end + 1..]);
        }
    }
    ""
}

/// An attribute's value.
fn attribute(attributes: &str, wanted: &str) -> Option<String> {
    let mut rest = attributes;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        if rest.is_empty() {
            return None;
        }
        let end = rest
            .find(|c: char| c.is_ascii_whitespace() || c == '=')
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let after = after.trim_start();
        let Some(value) = after.strip_prefix('=') else {
            // Without a value; an empty name would never end.
            rest = if end == 0 { rest.get(1..).unwrap_or("") } else { after };
            continue;
        };
        let value = value.trim_start();
        let (value, next) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
            _ => value.split_at(value.find(|c: char| c.is_ascii_whitespace()).unwrap_or(value.len())),
        };
        if name.eq_ignore_ascii_case(wanted) {
            let mut decoded = String::new();
            entities::decode(value.trim(), &mut decoded);
            return Some(decoded);
        }
        rest = next;
    }
}

/// The text as it grows.
#[derive(Default)]
struct Page {
    text: String,
    /// White space that comes before the next word.
    space: Space,
    /// Each list that is open: the next number of an ordered one.
    lists: Vec<Option<u32>>,
    /// How many `pre` are open.
    preformatted: usize,
    /// The target of the link that is open, and where its text begins.
    link: Option<(String, usize)>,
}

/// White space, the widest last.
#[derive(Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    #[default]
    None,
    Word,
    Line,
    Paragraph,
}

impl Page {
    fn text(&mut self, raw: &str) {
        if raw.is_empty() {
            return;
        }
        let mut decoded = String::new();
        entities::decode(raw, &mut decoded);
        if self.preformatted > 0 {
            self.flush();
            self.text.push_str(&decoded);
            return;
        }
        if decoded.starts_with(char::is_whitespace) {
            self.want(Space::Word);
        }
        for word in decoded.split_whitespace() {
            self.flush();
            self.text.push_str(word);
            self.space = Space::Word;
        }
        if !decoded.ends_with(char::is_whitespace) && self.space == Space::Word {
            self.space = Space::None;
        }
    }

    fn want(&mut self, space: Space) {
        self.space = self.space.max(space);
    }

    fn flush(&mut self) {
        let space = std::mem::take(&mut self.space);
        if self.text.is_empty() {
            return;
        }
        let at_line_start = self.text.ends_with('\n');
        match space {
            Space::None => {}
            Space::Word if at_line_start || self.text.ends_with(' ') => {}
            Space::Word => self.text.push(' '),
            Space::Line | Space::Paragraph => {
                self.text.truncate(self.text.trim_end_matches([' ', '\n']).len());
                self.text.push_str(if space == Space::Line { "\n" } else { "\n\n" });
            }
        }
    }

    fn open(&mut self, name: &str, attributes: &str) {
        match name {
            "br" => self.want(Space::Line),
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                self.want(Space::Paragraph);
                self.flush();
                let level = usize::from(name.as_bytes()[1] - b'0');
                self.text.push_str(&"#".repeat(level));
                self.text.push(' ');
            }
            "ul" | "menu" | "ol" => {
                self.want(if self.lists.is_empty() {
                    Space::Paragraph
                } else {
                    Space::Line
                });
                self.lists.push((name == "ol").then_some(1));
            }
            "li" => self.item(),
            "pre" => {
                self.want(Space::Paragraph);
                self.flush();
                self.preformatted += 1;
            }
            // Not before the first cell of a row.
            "td" | "th" if self.text.ends_with('\n') || self.space >= Space::Line => {}
            "td" | "th" => {
                self.flush();
                self.text.push_str(" | ");
            }
            "tr" => self.want(Space::Line),
            "a" => {
                let target = attribute(attributes, "href").filter(|href| {
                    !href.is_empty() && !href.starts_with('#') && !href.to_ascii_lowercase().starts_with("javascript:")
                });
                if let Some(target) = target {
                    self.flush();
                    self.link = Some((target, self.text.len()));
                }
            }
            "img" => {
                if let Some(alt) = attribute(attributes, "alt").filter(|alt| !alt.trim().is_empty()) {
                    self.text(&format!("[{alt}]"));
                }
            }
            _ if BLOCKS.contains(&name) => self.want(Space::Paragraph),
            _ => {}
        }
    }

    fn item(&mut self) {
        self.want(Space::Line);
        self.flush();
        let depth = self.lists.len().saturating_sub(1).min(DEEPEST_LIST);
        self.text.push_str(&"  ".repeat(depth));
        match self.lists.last_mut() {
            Some(Some(number)) => {
                self.text.push_str(&format!("{number}. "));
                *number += 1;
            }
            _ => self.text.push_str("- "),
        }
    }

    fn close(&mut self, name: &str) {
        match name {
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => self.want(Space::Paragraph),
            "ul" | "menu" | "ol" => {
                self.lists.pop();
                self.want(if self.lists.is_empty() {
                    Space::Paragraph
                } else {
                    Space::Line
                });
            }
            "li" => self.want(Space::Line),
            "pre" => {
                self.preformatted = self.preformatted.saturating_sub(1);
                self.want(Space::Paragraph);
            }
            "a" => self.close_link(),
            _ if BLOCKS.contains(&name) => self.want(Space::Paragraph),
            _ => {}
        }
    }

    fn close_link(&mut self) {
        let Some((target, start)) = self.link.take() else {
            return;
        };
        let Some(text) = self.text.get(start..).map(str::trim) else {
            return;
        };
        if text.is_empty() || text == target {
            return;
        }
        self.text.push_str(&format!(" ({target})"));
    }

    fn finish(self) -> String {
        let lines: Vec<&str> = self.text.lines().map(str::trim_end).collect();
        let mut text = String::with_capacity(self.text.len());
        let mut blank = 0;
        for line in lines {
            blank = if line.is_empty() { blank + 1 } else { 0 };
            if blank < 2 {
                text.push_str(line);
                text.push('\n');
            }
        }
        text.trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_page_becomes_readable_text() {
        let html = r#"<!DOCTYPE html><html><head><title>The  page</title><style>p{}</style>
            <script>if (a < b) { "</p>" }</script></head>
            <body><h1>Hello</h1><p>One <b>bold</b>
            word &amp; a <a href="https://x.org/?a=1&amp;b=2">link</a>.</p>
            <ul><li>first<li>second <ol><li>inner</li></ol></ul><p>End<br>here"#;
        assert_eq!(
            to_text(html),
            "The page\n\n# Hello\n\nOne bold word & a link (https://x.org/?a=1&b=2).\n\n- first\n- second\n  1. inner\n\nEnd\nhere"
        );
    }

    #[test]
    fn preformatted_text_keeps_its_form() {
        assert_eq!(to_text("a<pre>x\n  y &lt;z&gt;\n</pre>b"), "a\n\nx\n  y <z>\n\nb");
    }

    #[test]
    fn tables_have_their_cells_side_by_side() {
        assert_eq!(
            to_text("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>"),
            "a | b\n\n1 | 2"
        );
    }

    #[test]
    fn scripts_never_show_even_when_they_are_not_closed() {
        assert_eq!(to_text("a<script>alert(1)"), "a");
        assert_eq!(to_text("a<SCRIPT src='>'>x</ScRiPt >b"), "ab");
        assert_eq!(to_text("a<!-- <p>x --> b"), "a b");
    }

    #[test]
    fn links_that_lead_nowhere_show_their_text_only() {
        assert_eq!(
            to_text(r##"<a href="#top">up</a> <a href="javascript:x()">run</a> <a>plain</a>"##),
            "up run plain"
        );
        assert_eq!(to_text("<a href=https://a.b/c>https://a.b/c</a>"), "https://a.b/c");
        assert_eq!(to_text("<img src=x alt='A cat'>"), "[A cat]");
    }

    #[test]
    fn what_only_looks_like_markup_is_text() {
        assert_eq!(to_text("1 < 2 <3 a<"), "1 < 2 <3 a<");
    }

    proptest! {
        #[test]
        fn any_text_is_taken(html in "(<[/!a-z]{0,6}|[ -~é\n]{0,8}|>|\"|'|&|-->|<a href=|<pre>|</pre>|<li>){0,40}") {
            to_text(&html);
        }
    }
}
