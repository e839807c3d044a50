//! What of a test file can be told to be wrong before anything runs: all of it that does not depend on the component.

use super::{
    case::{Answer, Case, CaseError, Exchange, RequestPattern, TestFile},
    snapshot::slug,
};
use fumehood_core::{
    Time,
    name::{SecretName, ToolName},
};
use fumehood_policy::{limits::LimitsRequest, network::Target};
use fumehood_store::WorkspacePath;
use http::{HeaderName, HeaderValue};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path},
};

/// What begins a secret's place in a text.
const PLACEHOLDER: &str = "{{secret:";
/// What a store keeps of a key-value, in bytes.
const LONGEST_KEY: usize = 255;
const LARGEST_VALUE: usize = 1 << 20;

/// The first mistake in a file whose answers have their files below `dir`.
pub(super) fn check(file: &TestFile, dir: &Path) -> Result<(), CaseError> {
    if file.tests.is_empty() {
        return Err(CaseError::Empty);
    }
    let (mut names, mut slugs) = (BTreeSet::new(), BTreeSet::new());
    for case in &file.tests {
        if !names.insert(&case.name) {
            return Err(CaseError::SameName(case.name.clone()));
        }
        if case.expect.snapshot && !slugs.insert(slug(&case.name)) {
            return Err(CaseError::SameSnapshot(case.name.clone()));
        }
        let Some(tool) = file.tool_of(case) else {
            return Err(CaseError::NoTool(case.name.clone()));
        };
        test(case, tool, dir).map_err(|why| CaseError::Mistake {
            test: case.name.clone(),
            why,
        })?;
    }
    Ok(())
}

/// What is wrong, in words.
type Found = Result<(), String>;

fn test(case: &Case, tool: &str, dir: &Path) -> Found {
    ToolName::new(tool).map_err(|error| format!("`tool`: {error}"))?;
    for (key, value) in &case.limits {
        let set = LimitsRequest::default().set(key, value);
        set.map_err(|error| format!("`limits`: {error}"))?;
    }
    if case.clock.is_some_and(|clock| clock < Time::UNIX_EPOCH) {
        return Err("`clock` is before 1970, which no clock of a tool shows".to_owned());
    }
    for (key, files) in [("files", &case.files), ("expect.files", &case.expect.files)] {
        for path in files.keys() {
            WorkspacePath::new(path).map_err(|error| format!("`{key}`: the path {path:?}: {error}"))?;
        }
        below_a_file(files).map_err(|why| format!("`{key}`: {why}"))?;
    }
    for (table, kv) in [("kv", &case.kv), ("expect.kv", &case.expect.kv)] {
        for (key, value) in kv {
            key_value(key, value).map_err(|why| format!("`{table}`: {why}"))?;
        }
    }
    for (at, exchange) in case.exchanges.iter().enumerate() {
        let of_exchange = |why| format!("exchange {}: {why}", at + 1);
        one_body(exchange).map_err(of_exchange)?;
        request(&exchange.request).map_err(of_exchange)?;
        response(&exchange.response, dir).map_err(of_exchange)?;
    }
    Ok(())
}

/// A file in the place of another's folder.
fn below_a_file(files: &BTreeMap<String, String>) -> Found {
    for path in files.keys() {
        let above = path.match_indices('/').map(|(slash, _)| &path[..slash]);
        if let Some(file) = above.into_iter().find(|above| files.contains_key(*above)) {
            return Err(format!("{path:?} can't be there, as {file:?} is a file and no folder"));
        }
    }
    Ok(())
}

/// As every store has it.
fn key_value(key: &str, value: &str) -> Found {
    if !(1..=LONGEST_KEY).contains(&key.len()) {
        return Err(format!(
            "a key has 1 to {LONGEST_KEY} bytes, and {key:?} has {}",
            key.len()
        ));
    }
    if value.len() > LARGEST_VALUE {
        return Err(format!(
            "a value has at most {LARGEST_VALUE} bytes, and that of {key:?} has {}",
            value.len()
        ));
    }
    Ok(())
}

fn one_body(exchange: &Exchange) -> Found {
    let answer = &exchange.response;
    let bodies = [
        answer.body.is_some(),
        answer.json.is_some(),
        answer.file.is_some(),
        answer.size.is_some(),
    ];
    if bodies.into_iter().filter(|has| *has).count() > 1 {
        return Err("its response has several of `body`, `json`, `file` and `size`; one is enough".to_owned());
    }
    if exchange.request.body.is_some() && exchange.request.json.is_some() {
        return Err("its request has several of `body` and `json`; one is enough".to_owned());
    }
    Ok(())
}

fn request(request: &RequestPattern) -> Found {
    let url = filled(&request.url).map_err(|why| format!("`request.url`: {why}"))?;
    Target::parse(&request.method, &url)
        .map_err(|error| format!("`request`: {:?} {:?}: {error}", request.method, request.url))?;
    for (name, value) in &request.headers {
        let value = filled(value).map_err(|why| format!("`request.headers`, `{name}`: {why}"))?;
        header(name, &value).map_err(|why| format!("`request.headers`: {why}"))?;
    }
    Ok(())
}

fn response(answer: &Answer, dir: &Path) -> Found {
    if let Some(status) = answer.status
        && !(200..=599).contains(&status)
    {
        return Err(format!(
            "`response.status` is {status}; an answer has one from 200 to 599"
        ));
    }
    for (name, value) in &answer.headers {
        header(name, value).map_err(|why| format!("`response.headers`: {why}"))?;
    }
    let Some(file) = &answer.file else { return Ok(()) };
    let inside = file.components().all(|part| matches!(part, Component::Normal(_)));
    if !inside {
        return Err(format!(
            "`response.file` is {}; write a path below the test file's own folder",
            file.display()
        ));
    }
    if !dir.join(file).is_file() {
        return Err(format!(
            "`response.file`: there is no file {}",
            dir.join(file).display()
        ));
    }
    Ok(())
}

fn header(name: &str, value: &str) -> Found {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no name of a header"))?;
    let legal = HeaderValue::from_str(value);
    legal.map_err(|_| format!("the value of `{name}` has characters that no header has"))?;
    Ok(())
}

/// A text with something in the place of each secret.
fn filled(text: &str) -> Result<String, String> {
    let (mut filled, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(PLACEHOLDER) {
        let Some((name, after)) = after.split_once("}}") else {
            return Err(format!("`{PLACEHOLDER}` has no end; write {PLACEHOLDER}NAME}}}}"));
        };
        SecretName::new(name).map_err(|error| format!("{PLACEHOLDER}{name}}}}}: {error}"))?;
        filled.push_str(before);
        filled.push('x');
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a file with one test that has this in it.
    fn said(more: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("body.json"), "{}").unwrap();
        let text = format!("tool = \"a\"\n[[test]]\nname = \"the one\"\n{more}\n");
        TestFile::parse(&text, dir.path())
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    fn of_exchange(request: &str, response: &str) -> String {
        said(&format!(
            "exchange = [{{ request = {{ {request} }}, response = {{ {response} }} }}]"
        ))
    }

    const URL: &str = "url = \"https://a.example/\"";

    #[test]
    fn an_exchange_that_can_not_be_is_refused_with_its_test() {
        for (request, response, words) in [
            ("url = \"a.example/x\"", "", "request"),
            ("url = \"ftp://a.example/x\"", "", "request"),
            ("url = \"https://a.example/{{secret:a b}}\"", "", "secret"),
            ("url = \"https://a.example/{{secret:A\"", "", "no end"),
            ("url = \"https://a.example/\", method = \"G T\"", "", "request"),
            (
                "url = \"https://a.example/\", headers = { \"a b\" = \"1\" }",
                "",
                "\"a b\" is no name",
            ),
            (
                "url = \"https://a.example/\", headers = { a = \"1\\n2\" }",
                "",
                "the value of `a`",
            ),
            (
                "url = \"https://a.example/\", body = \"1\", json = 1",
                "",
                "several of `body`",
            ),
            (URL, "status = 1000", "1000"),
            (URL, "status = 101", "from 200 to 599"),
            (URL, "headers = { \"\" = \"1\" }", "no name"),
            (URL, "file = \"missing.json\"", "missing.json"),
            (URL, "file = \"../body.json\"", "own folder"),
            (URL, "file = \"/etc/hostname\"", "own folder"),
            (URL, "body = \"1\", size = \"1KiB\"", "several of `body`"),
        ] {
            let said = of_exchange(request, response);
            let named = said.contains("\"the one\"") && said.contains("exchange 1");
            assert!(named && said.contains(words), "{request} {response}: {said}");
        }
        let url = "url = \"https://a.example/?key={{secret:API_KEY}}\", method = \"post\"";
        assert_eq!(of_exchange(url, "file = \"body.json\""), "");
    }

    #[test]
    fn a_limit_a_path_or_a_tool_that_can_not_be_is_refused_with_its_test() {
        for (more, words) in [
            ("limits = { tine = \"1s\" }", "tine"),
            ("limits = { time = \"soon\" }", "time"),
            ("limits = { time = \"0s\" }", "time"),
            ("files = { \"../x\" = \"\" }", "`files`"),
            ("expect.files = { \"/x\" = \"\" }", "`expect.files`"),
            ("tool = \"A tool\"", "`tool`"),
            ("clock = \"1969-12-31T23:59:59Z\"", "before 1970"),
            ("files = { \"a/b/c\" = \"\", a = \"\" }", "\"a\" is a file"),
            (
                "expect.files = { \"a/b\" = \"\", \"a/b/c\" = \"\" }",
                "\"a/b\" is a file",
            ),
            ("kv = { \"\" = \"x\" }", "1 to 255 bytes"),
        ] {
            let said = said(more);
            assert!(said.contains("\"the one\"") && said.contains(words), "{more}: {said}");
        }
        for (more, words) in [
            (format!("kv = {{ {} = \"\" }}", "k".repeat(256)), "1 to 255 bytes"),
            (format!("expect.kv = {{ {} = \"\" }}", "k".repeat(256)), "`expect.kv`"),
            (
                format!("kv = {{ k = \"{}\" }}", "v".repeat((1 << 20) + 1)),
                "at most 1048576 bytes",
            ),
        ] {
            let said = said(&more);
            assert!(said.contains("\"the one\"") && said.contains(words), "{said}");
        }
        let most = format!(
            "clock = \"1970-01-01T00:00:00Z\"\nfiles = {{ \"a/b\" = \"\", \"a.b\" = \"\", \"a/c\" = \"\" }}\nkv = {{ {} = \"\" }}",
            "k".repeat(255)
        );
        assert_eq!(said(&most), "");
    }

    #[test]
    fn two_tests_whose_results_would_be_kept_in_one_file_are_refused() {
        let kept = "expect.snapshot = true\n";
        let two = |more: &str| said(&format!("{kept}[[test]]\nname = \"The one!\"\n{more}"));
        assert!(two(kept).contains("\"The one!\""), "{}", two(kept));
        assert_eq!(two(""), "", "only one of them is kept");
    }
}
