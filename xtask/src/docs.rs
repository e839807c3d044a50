//! The documentation's own checks: links within the book, and rustdoc without warnings.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::progress::{Outcome, Step};
use crate::workspace::Workspace;

const RUSTDOC_LIMIT: Duration = Duration::from_secs(25 * 60);

/// Pages outside `docs/` that link into it.
const FRONT_PAGES: [&str; 4] = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];

/// Every relative link of the book leads to a file and, if it names one, to a heading.
pub(crate) fn book(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let root = workspace.root();
    let mut pages: Vec<PathBuf> = FRONT_PAGES.iter().map(PathBuf::from).collect();
    find_pages(root, Path::new("docs"), &mut pages)?;
    let mut links = 0;
    let mut broken = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(root.join(page)).with_context(|| format!("cannot read {}", page.display()))?;
        for link in relative_links(&text) {
            links += 1;
            if let Err(why) = follow(root, page, &link.target) {
                broken.push(format!("{}:{}: {why}", page.display(), link.line));
            }
        }
    }
    for line in &broken {
        step.say(line);
    }
    if !broken.is_empty() {
        bail!("{} broken links", broken.len());
    }
    Ok(Outcome::Noted(format!("{links} links on {} pages", pages.len())))
}

/// Builds the API documentation of the workspace; a warning is an error.
pub(crate) fn rustdoc(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let mut cargo = workspace.cargo(["doc", "--no-deps", "--workspace"]);
    cargo.env("RUSTDOCFLAGS", "-Dwarnings");
    step.run(&mut cargo, RUSTDOC_LIMIT)?;
    let index = workspace.target().join("doc");
    Ok(Outcome::Noted(workspace.shown(&index).to_string()))
}

fn find_pages(root: &Path, dir: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    let full = root.join(dir);
    let mut names: Vec<_> = fs::read_dir(&full)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect())
        .with_context(|| format!("cannot list {}", full.display()))?;
    names.sort();
    for name in names {
        let path = dir.join(name);
        if root.join(&path).is_dir() {
            find_pages(root, &path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    Ok(())
}

/// One link as written, and the line it is on.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    line: usize,
    target: String,
}

/// The inline links and images of a Markdown text that stay inside the repository.
/// Code blocks and code spans hold no links.
fn relative_links(markdown: &str) -> Vec<Link> {
    let mut links = Vec::new();
    let mut in_code = false;
    for (index, line) in markdown.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            for target in link_targets(&without_code_spans(line)) {
                if !is_elsewhere(&target) {
                    links.push(Link {
                        line: index + 1,
                        target,
                    });
                }
            }
        }
    }
    links
}

fn without_code_spans(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

fn link_targets(line: &str) -> Vec<String> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split_whitespace().next().unwrap_or("").to_owned())
        .collect()
}

fn is_elsewhere(target: &str) -> bool {
    target.contains("://") || target.starts_with("mailto:")
}

/// Says why a link written on `page` leads nowhere.
fn follow(root: &Path, page: &Path, target: &str) -> Result<(), String> {
    let (path, heading) = match target.split_once('#') {
        Some((path, heading)) => (path, Some(heading)),
        None => (target, None),
    };
    let file = if path.is_empty() {
        page.to_path_buf()
    } else {
        resolve(page, path).ok_or_else(|| format!("`{target}` leaves the repository"))?
    };
    let full = root.join(&file);
    if !full.exists() {
        return Err(format!("`{target}`: there is no {}", file.display()));
    }
    let Some(heading) = heading else { return Ok(()) };
    let text = fs::read_to_string(&full).map_err(|_| format!("`{target}`: {} is no page", file.display()))?;
    if anchors(&text).contains(heading) {
        Ok(())
    } else {
        Err(format!("`{target}`: {} has no heading `#{heading}`", file.display()))
    }
}

/// The file that a link on `page` names, from the root of the repository.
fn resolve(page: &Path, link: &str) -> Option<PathBuf> {
    let mut path = page.parent().unwrap_or(Path::new("")).to_path_buf();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// The anchors of a page's headings, as code hosts make them, and of its `<a id="…">`.
fn anchors(markdown: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut in_code = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code && line.starts_with('#') {
            anchors.insert(anchor(line.trim_start_matches('#').trim()));
        }
        for part in line.split("<a id=\"").skip(1) {
            if let Some((id, _)) = part.split_once('"') {
                anchors.insert(id.to_owned());
            }
        }
    }
    anchors
}

fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(markdown: &str) -> Vec<String> {
        relative_links(markdown).into_iter().map(|link| link.target).collect()
    }

    #[test]
    fn links_of_the_repository_are_found_with_their_line() {
        assert_eq!(
            relative_links("first\n[a](x.md) and ![b](../pic.png \"title\")"),
            [
                Link {
                    line: 2,
                    target: "x.md".into()
                },
                Link {
                    line: 2,
                    target: "../pic.png".into()
                },
            ]
        );
    }

    #[test]
    fn links_elsewhere_and_in_code_are_left_alone() {
        assert!(targets("[a](https://example.com) [b](mailto:a@example.com)").is_empty());
        assert!(targets("```\n[a](nowhere.md)\n```\nand `[b](nowhere.md)`").is_empty());
    }

    #[test]
    fn a_link_is_resolved_from_its_page_and_may_not_leave() {
        let page = Path::new("docs/operators/start.md");
        assert_eq!(resolve(page, "../threats.md"), Some("docs/threats.md".into()));
        assert_eq!(resolve(page, "../../../etc/passwd"), None);
        assert_eq!(resolve(page, "/etc/passwd"), None);
    }

    #[test]
    fn a_link_to_a_missing_page_or_heading_says_which() {
        let root = std::env::temp_dir().join(format!("xtask-docs-{}", std::process::id()));
        fs::create_dir_all(root.join("docs")).unwrap();
        fs::write(root.join("docs/a.md"), "# One heading, *two* words\n```\n# no\n```\n").unwrap();
        let page = Path::new("docs/a.md");
        assert_eq!(follow(&root, page, "a.md#one-heading-two-words"), Ok(()));
        assert_eq!(follow(&root, page, "#one-heading-two-words"), Ok(()));
        assert_eq!(follow(&root, page, "b.md"), Err("`b.md`: there is no docs/b.md".into()));
        assert_eq!(
            follow(&root, page, "#no"),
            Err("`#no`: docs/a.md has no heading `#no`".into())
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn anchors_are_made_as_code_hosts_make_them() {
        assert_eq!(anchor("What T-net-ssrf is: `a` & b"), "what-t-net-ssrf-is-a--b");
        assert!(anchors("<a id=\"T-x\"></a> text").contains("T-x"));
    }
}
