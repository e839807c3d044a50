//! What a tool asked of the real outside, as the exchanges of its test: written into the test file, with large bodies beside it.
//!
//! A request is written as the tool made it, before the host put a secret in, and an answer as the tool got it, after the door took
//! secrets out. What would hold a secret's value all the same is not written.

use super::{
    case::{Case, Exchange},
    files::Located,
    judge::Finding,
    snapshot::slug,
};
use anyhow::{Context as _, anyhow, bail};
use fumehood_agent::recording::{HttpAnswer, HttpSeen, TooMuch};
use fumehood_core::name::SecretName;
use fumehood_egress::LeakGuard;
use fumehood_policy::{
    credential::{Credential, Injection},
    network::Target,
};
use fumehood_sandbox::ports::DoorError;
use secrecy::SecretString;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value, value};

/// The largest body that stands in the test file itself, in bytes.
const INLINE: usize = 2048;
/// Where larger ones are, beside the test file.
const FOLDER: &str = "recorded";
/// Headers of an answer that are not written: they are the connection's, change with each answer, or let somebody in.
const LEFT_OUT: [&str; 12] = [
    "age",
    "alt-svc",
    "connection",
    "content-length",
    "date",
    "expires",
    "keep-alive",
    "set-cookie",
    "set-cookie2",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What may go into a request, and what must not come into a file.
pub(super) struct Secrets<'a> {
    pub(super) values: &'a BTreeMap<SecretName, String>,
    /// What the host puts into the requests.
    pub(super) credentials: Vec<Credential>,
}

/// The exchanges of one test, to be written.
#[derive(Debug)]
pub(crate) struct Recorded {
    test: String,
    exchanges: Vec<Table>,
    /// Bodies that go beside the test file, by their path there.
    bodies: BTreeMap<PathBuf, Vec<u8>>,
}

impl Recorded {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.exchanges.len()
    }
}

/// Whether a test's exchanges are to be recorded: it has none, or those of a recording.
pub(crate) fn may_be_recorded(exchanges: &[Exchange]) -> bool {
    exchanges.iter().all(|exchange| exchange.recorded)
}

/// Refuses a test file into which nothing could be written, before anybody is asked for what would be.
///
/// # Errors
/// When its text can't be edited, or two of its tests would have their bodies in the same files.
pub(crate) fn can_be_written(located: &Located) -> anyhow::Result<()> {
    let refused = || format!("cannot record into {}", located.path.display());
    let text = fs::read_to_string(&located.path).with_context(|| format!("cannot read {}", located.path.display()))?;
    edited(&text, &[]).with_context(refused)?;
    let mut slugs = BTreeMap::new();
    for case in located
        .file
        .tests
        .iter()
        .filter(|case| may_be_recorded(&case.exchanges))
    {
        if let Some(other) = slugs.insert(slug(&case.name), &case.name) {
            return Err(anyhow!(
                "the bodies of the tests {other:?} and {:?} would be in the same files; give one of them another name",
                case.name
            ))
            .with_context(refused);
        }
    }
    Ok(())
}

/// What there is to say of a test that asked for more than is recorded.
pub(super) fn too_much(error: &TooMuch, most: u64) -> Finding {
    Finding {
        about: "recording".to_owned(),
        expected: format!("at most {most} bytes, with all requests and answers"),
        found: error.to_string(),
    }
}

/// The exchanges of a test, or why they can't be written.
pub(super) fn recorded(
    stem: &str,
    test: &str,
    seen: Vec<HttpSeen>,
    secrets: &Secrets<'_>,
) -> Result<Recorded, Finding> {
    let mut recorded = Recorded {
        test: test.to_owned(),
        exchanges: Vec::new(),
        bodies: BTreeMap::new(),
    };
    let values: Vec<(SecretName, SecretString)> = secrets
        .values
        .iter()
        .map(|(name, value)| (name.clone(), SecretString::from(value.clone())))
        .collect();
    let guard = LeakGuard::new(values.iter().map(|(name, value)| (name.clone(), value)));
    for seen in seen {
        let shown = format!("{} {}", seen.method, seen.url);
        let not_written = |why: String| Finding {
            about: "recording".to_owned(),
            expected: format!("an answer to {}", guard.redact_str(&shown)),
            found: why,
        };
        let answer = match &seen.answer {
            // It did not leave here, and does not leave where the test is run again.
            HttpAnswer::Failed(error) if is_refusal(error) => continue,
            HttpAnswer::Failed(error) => return Err(not_written(error.to_string())),
            HttpAnswer::None => return Err(not_written("there was none before the call ended".to_owned())),
            HttpAnswer::Broken(error) => return Err(not_written(format!("it broke off: {error}"))),
            HttpAnswer::Came { status, headers, body } => (*status, headers, body),
        };
        let file = format!("{stem}--{}-{}", slug(test), recorded.exchanges.len() + 1);
        let (exchange, body) = exchange(&seen, answer, secrets, &file).map_err(not_written)?;
        let written = exchange.to_string();
        let sent = seen.body.as_deref().unwrap_or_default();
        let texts: [&[u8]; 4] = [written.as_bytes(), seen.url.as_bytes(), sent, answer.2];
        // THREAT[T-sec-recording]: whatever the door did, no value comes into a file.
        if let Some(secret) = texts.into_iter().find_map(|text| guard.find(text)) {
            return Err(not_written(format!(
                "it would hold the value of the secret {secret}, so nothing is written"
            )));
        }
        recorded.exchanges.push(exchange);
        recorded.bodies.extend(body);
    }
    Ok(recorded)
}

/// Whether a request was refused here, rather than lost outside.
fn is_refusal(error: &DoorError) -> bool {
    matches!(
        error,
        DoorError::Denied(_)
            | DoorError::AddressProhibited(_)
            | DoorError::UriInvalid
            | DoorError::MethodInvalid
            | DoorError::RequestTooLarge(_)
    )
}

type Head<'a> = (u16, &'a Vec<(String, bytes::Bytes)>, &'a bytes::Bytes);

/// A body beside the test file, and its path there.
type Beside = (PathBuf, Vec<u8>);

/// A `[[test.exchange]]`, and the body that goes beside it.
fn exchange(
    seen: &HttpSeen,
    (status, headers, body): Head<'_>,
    secrets: &Secrets<'_>,
    file: &str,
) -> Result<(Table, Option<Beside>), String> {
    let mut request = dotted();
    if seen.method != "GET" {
        request["method"] = value(&seen.method);
    }
    request["url"] = value(url(seen, secrets)?);
    let named = seen.headers.iter().filter(|(_, text)| text.contains("{{secret:"));
    let named: InlineTable = named
        .map(|(name, text)| (name.clone(), Value::from(text.clone())))
        .collect();
    if !named.is_empty() {
        request["headers"] = value(named);
    }
    if let Some(text) = seen.body.as_ref().and_then(|body| std::str::from_utf8(body).ok())
        && !text.is_empty()
    {
        match serde_json::from_str(text).ok().as_ref().and_then(as_toml) {
            Some(json) => request["json"] = Item::Value(json),
            None => request["body"] = value(text),
        }
    }
    let mut response = dotted();
    response["status"] = value(i64::from(status));
    let kept: InlineTable = listed(headers)
        .into_iter()
        .map(|(name, text)| (name.to_owned(), Value::from(text)))
        .collect();
    if !kept.is_empty() {
        response["headers"] = value(kept);
    }
    let mut beside = None;
    match std::str::from_utf8(body) {
        Ok("") => {}
        Ok(text) if text.len() <= INLINE => response["body"] = value(text),
        _ => {
            let path = PathBuf::from(FOLDER).join(format!("{file}.{}", extension(headers)));
            response["file"] = value(path.display().to_string());
            beside = Some((path, body.to_vec()));
        }
    }
    let mut exchange = Table::new();
    exchange["recorded"] = value(true);
    exchange["request"] = Item::Table(request);
    exchange["response"] = Item::Table(response);
    Ok((exchange, beside))
}

/// The headers that are written, each once: several of one name are the list that they stand for.
fn listed(headers: &[(String, bytes::Bytes)]) -> BTreeMap<&str, String> {
    let mut listed = BTreeMap::<&str, String>::new();
    for (name, text) in headers.iter().filter(|(name, _)| !LEFT_OUT.contains(&&**name)) {
        let Ok(text) = std::str::from_utf8(text) else { continue };
        listed
            .entry(name)
            .and_modify(|before| {
                before.push_str(", ");
                before.push_str(text);
            })
            .or_insert_with(|| text.to_owned());
    }
    listed
}

fn dotted() -> Table {
    let mut table = Table::new();
    table.set_dotted(true);
    table
}

/// The URL as the door sends it, with the names of secrets in the places of their values.
fn url(seen: &HttpSeen, secrets: &Secrets<'_>) -> Result<String, String> {
    let target = Target::parse(&seen.method, &seen.url).map_err(|error| error.to_string())?;
    let mut url = format!("{}{}", super::outside::origin(&target), target.path_and_query());
    for name in secrets.values.keys() {
        url = with_plain_placeholder(&url, name);
    }
    for credential in &secrets.credentials {
        let placeholder = format!("{{{{secret:{}}}}}", credential.secret);
        if let Injection::Query(name) = &credential.inject
            && credential.applies_to(target.host())
            && !url.contains(&placeholder)
        {
            let separator = if url.contains('?') { '&' } else { '?' };
            url.push_str(&format!("{separator}{name}={placeholder}"));
        }
    }
    Ok(url)
}

/// A secret's placeholder as it is written in tests, where a URL library has encoded it.
fn with_plain_placeholder(url: &str, name: &SecretName) -> String {
    let plain = format!("{{{{secret:{name}}}}}");
    ["%3a", ":"].into_iter().fold(url.to_owned(), |url, colon| {
        let encoded = format!("%7b%7bsecret{colon}{name}%7d%7d").to_ascii_lowercase();
        let (mut plainly, mut rest) = (String::new(), &*url);
        while let Some(at) = rest.to_ascii_lowercase().find(&encoded) {
            let (before, after) = rest.split_at(at);
            plainly.push_str(before);
            plainly.push_str(&plain);
            rest = after.split_at(encoded.len()).1;
        }
        plainly + rest
    })
}

/// JSON as TOML has it; nothing for what it has not, such as `null`.
fn as_toml(json: &serde_json::Value) -> Option<Value> {
    Some(match json {
        serde_json::Value::Null => return None,
        serde_json::Value::Bool(flag) => (*flag).into(),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().filter(|_| number.is_f64())?.into(),
        },
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(items) => items.iter().map(as_toml).collect::<Option<Array>>()?.into(),
        serde_json::Value::Object(entries) => {
            let entries = entries.iter().map(|(key, item)| Some((key.clone(), as_toml(item)?)));
            entries.collect::<Option<InlineTable>>()?.into()
        }
    })
}

/// The ending of a file with a body of this media type.
fn extension(headers: &[(String, bytes::Bytes)]) -> &'static str {
    let of_type = headers.iter().find(|(name, _)| name == "content-type");
    let text = of_type
        .map(|(_, text)| String::from_utf8_lossy(text).to_ascii_lowercase())
        .unwrap_or_default();
    ["json", "html", "xml", "csv"]
        .into_iter()
        .find(|kind| text.contains(kind))
        .unwrap_or(if text.starts_with("text/") { "txt" } else { "bin" })
}

/// Writes what was recorded into a test file: whole, or not at all. The bodies come first, and those of earlier recordings go last.
pub(crate) fn write(located: &Located, recorded: &[Recorded]) -> anyhow::Result<()> {
    let before =
        fs::read_to_string(&located.path).with_context(|| format!("cannot read {}", located.path.display()))?;
    let after = edited(&before, recorded).with_context(|| format!("cannot record into {}", located.path.display()))?;
    let mut taken = kept_by_others(located, recorded);
    if let Some(path) = recorded
        .iter()
        .flat_map(|recorded| recorded.bodies.keys())
        .find(|path| !taken.insert(*path))
    {
        bail!(
            "the bodies of two tests would be in {}; give one of the tests another name",
            path.display()
        );
    }
    let bodies = recorded.iter().flat_map(|recorded| &recorded.bodies);
    for (path, body) in bodies {
        replace(&located.dir().join(path), body)?;
    }
    replace(&located.path, after.as_bytes())?;
    for stale in stale(located, recorded) {
        // What is left of it does no harm.
        let _ = fs::remove_file(located.dir().join(stale));
    }
    Ok(())
}

/// A test file with other exchanges.
fn edited(text: &str, recorded: &[Recorded]) -> anyhow::Result<String> {
    let mut document: DocumentMut = text.parse()?;
    let tests = document.get_mut("test").and_then(Item::as_array_of_tables_mut);
    let Some(tests) = tests else {
        bail!("its tests are no [[test]] tables; write them so");
    };
    for test in tests.iter_mut() {
        let name = test.get("name").and_then(Item::as_str).unwrap_or_default();
        let Some(recorded) = recorded.iter().find(|recorded| recorded.test == name) else {
            continue;
        };
        test.remove("exchange");
        if !recorded.exchanges.is_empty() {
            let exchanges: ArrayOfTables = recorded.exchanges.iter().cloned().collect();
            test.insert("exchange", Item::ArrayOfTables(exchanges));
        }
    }
    Ok(document.to_string())
}

/// Bodies beside the file that its tests had before and have no more.
fn stale<'a>(located: &'a Located, recorded: &'a [Recorded]) -> BTreeSet<&'a PathBuf> {
    let mut used = kept_by_others(located, recorded);
    used.extend(recorded.iter().flat_map(|recorded| recorded.bodies.keys()));
    let anew = located.file.tests.iter().filter(|case| is_anew(case, recorded));
    let before = anew.flat_map(bodies).filter(|file| file.starts_with(FOLDER));
    before.filter(|file| !used.contains(file)).collect()
}

/// Bodies of tests that are not recorded anew.
fn kept_by_others<'a>(located: &'a Located, recorded: &[Recorded]) -> BTreeSet<&'a PathBuf> {
    let others = located.file.tests.iter().filter(|case| !is_anew(case, recorded));
    others.flat_map(bodies).collect()
}

fn is_anew(case: &Case, recorded: &[Recorded]) -> bool {
    recorded.iter().any(|recorded| recorded.test == case.name)
}

fn bodies(case: &Case) -> impl Iterator<Item = &PathBuf> {
    case.exchanges
        .iter()
        .filter_map(|exchange| exchange.response.file.as_ref())
}

fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    let written = || -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        let unfinished = path.with_extension("partial");
        fs::write(&unfinished, bytes)?;
        fs::rename(&unfinished, path)
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn seen(url: &str, answer: HttpAnswer) -> HttpSeen {
        HttpSeen {
            method: "GET".into(),
            url: url.into(),
            headers: Vec::new(),
            body: None,
            answer,
        }
    }

    fn came(headers: &[(&str, &str)], body: impl Into<Bytes>) -> HttpAnswer {
        let header = |(name, text): &(&str, &str)| ((*name).to_owned(), Bytes::copy_from_slice(text.as_bytes()));
        HttpAnswer::Came {
            status: 200,
            headers: headers.iter().map(header).collect(),
            body: body.into(),
        }
    }

    fn values() -> BTreeMap<SecretName, String> {
        BTreeMap::from([("API_KEY".parse().unwrap(), "sk-0123456789".to_owned())])
    }

    fn recorded(seen: HttpSeen) -> Result<Recorded, Finding> {
        let values = values();
        let secrets = Secrets {
            values: &values,
            credentials: Vec::new(),
        };
        super::recorded("some", "A test!", vec![seen], &secrets)
    }

    const URL: &str = "https://api.example.com/v1";
    const TESTS: &str = "# Mine.\ntool = \"a\"\n\n[[test]]\nname = \"A test!\" # what it shows\nexpect = { status = \"ok\" }\n\n[[test]]\nname = \"other\"\n";

    #[test]
    fn what_would_hold_a_secret_is_not_written() {
        let key = "sk-0123456789";
        let found = [
            seen(&format!("{URL}?a={key}"), came(&[], "")),
            seen(URL, came(&[("x-echo", key)], "")),
            seen(URL, came(&[], format!("it is {key}"))),
            seen(URL, came(&[], [b"\xff".as_slice(), key.as_bytes()].concat())),
            HttpSeen {
                body: Some(Bytes::from(format!("{{\"key\": \"{key}\"}}"))),
                ..seen(URL, came(&[], ""))
            },
        ];
        for seen in found {
            let finding = recorded(seen).unwrap_err();
            assert!(
                finding.found.contains("API_KEY") && !finding.expected.contains(key),
                "{finding:?}"
            );
        }
    }

    #[test]
    fn an_exchange_is_put_into_its_test_and_the_rest_of_the_file_stays() {
        let headers = [
            ("content-type", "application/json"),
            ("set-cookie", "a=b"),
            ("date", "now"),
        ];
        let mut asked = seen(
            "HTTPS://API.example.com:443/v1/../v1?k=%7B%7bsecret%3aAPI_KEY%7D%7D",
            came(&headers, "{\"a\": null}\n"),
        );
        asked.method = "POST".into();
        asked.headers = vec![
            ("accept".into(), "*/*".into()),
            ("x-key".into(), "Key {{secret:API_KEY}}".into()),
        ];
        asked.body = Some(Bytes::from_static(b"{\"b\": [1, 2.5, \"x\"]}"));
        let edited = edited(TESTS, &[recorded(asked).unwrap()]).unwrap();
        assert!(
            edited.contains("# Mine.") && edited.contains("# what it shows"),
            "{edited}"
        );
        assert!(!edited.contains("set-cookie") && !edited.contains("accept"), "{edited}");
        let file = super::super::case::TestFile::parse(&edited, Path::new("")).unwrap();
        let exchange = &file.tests[0].exchanges[0];
        assert_eq!(exchange.request.url, "https://api.example.com/v1?k={{secret:API_KEY}}");
        assert_eq!(exchange.request.json, Some(serde_json::json!({"b": [1, 2.5, "x"]})));
        assert_eq!(exchange.request.headers["x-key"], "Key {{secret:API_KEY}}");
        assert_eq!(exchange.response.body.as_deref(), Some("{\"a\": null}\n"));
        assert!(exchange.recorded && file.tests[1].exchanges.is_empty());
        let again = super::edited(&edited, &[recorded(seen(URL, came(&[], ""))).unwrap()]).unwrap();
        assert_eq!(again.matches("recorded = true").count(), 1, "{again}");
    }

    #[test]
    fn headers_of_one_name_are_written_as_the_list_that_they_are() {
        let headers = [
            ("link", "</a>; rel=next"),
            ("x-one", "1"),
            ("link", "</b>; rel=last"),
            ("set-cookie", "a=b"),
        ];
        let edited = edited(TESTS, &[recorded(seen(URL, came(&headers, ""))).unwrap()]).unwrap();
        let file = super::super::case::TestFile::parse(&edited, Path::new("")).unwrap();
        let written = &file.tests[0].exchanges[0].response.headers;
        assert_eq!(written["link"], "</a>; rel=next, </b>; rel=last");
        assert_eq!((written.len(), &*written["x-one"]), (2, "1"));
    }

    #[test]
    fn a_file_into_which_nothing_can_be_written_is_told_before_anything_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.toml");
        let said = |text: &str| {
            fs::write(&path, text).unwrap();
            let file = super::super::case::TestFile::parse(text, dir.path()).unwrap();
            let located = Located {
                path: path.clone(),
                file,
            };
            can_be_written(&located)
                .err()
                .map(|error| format!("{error:#}"))
                .unwrap_or_default()
        };
        assert_eq!(said(TESTS), "");
        let inline = said("tool = \"a\"\ntest = [{ name = \"x\" }]\n");
        assert!(inline.contains("[[test]]"), "{inline}");
        let two = |more: &str| said(&format!("{TESTS}{more}[[test]]\nname = \"A test?\"\n"));
        assert!(two("").contains("\"A test!\" and \"A test?\""), "{}", two(""));
        let by_hand = format!(
            "{TESTS}[[test]]\nname = \"A test?\"\nexchange = [{{ request = {{ url = \"{URL}\" }}, response = {{ }} }}]\n"
        );
        assert_eq!(said(&by_hand), "", "it is left alone");
    }

    #[test]
    fn a_large_body_goes_beside_the_file_and_goes_with_its_exchange() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.toml");
        fs::write(&path, TESTS).unwrap();
        let located = |text: &str| Located {
            path: path.clone(),
            file: super::super::case::TestFile::parse(text, dir.path()).unwrap(),
        };
        let large = came(&[("content-type", "text/html; charset=utf-8")], "x".repeat(INLINE + 1));
        write(&located(TESTS), &[recorded(seen(URL, large)).unwrap()]).unwrap();
        let body = dir.path().join("recorded/some--a-test-1.html");
        assert_eq!(fs::read(&body).unwrap().len(), INLINE + 1);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("response.file = \"recorded/some--a-test-1.html\""),
            "{text}"
        );
        write(&located(&text), &[recorded(seen(URL, came(&[], "small"))).unwrap()]).unwrap();
        assert!(!body.exists());
    }

    #[test]
    fn what_was_refused_here_is_left_out_and_what_got_lost_outside_is_told() {
        let refused = recorded(seen(URL, HttpAnswer::Failed(DoorError::Denied("no".into())))).unwrap();
        assert_eq!(refused.len(), 0);
        for answer in [
            HttpAnswer::Failed(DoorError::DnsFailed),
            HttpAnswer::Broken(DoorError::ResponseIncomplete),
            HttpAnswer::None,
        ] {
            assert_eq!(recorded(seen(URL, answer)).unwrap_err().about, "recording");
        }
    }
}
