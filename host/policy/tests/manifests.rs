//! Manifests and grants: what they read, refuse, say in words, and how a wider request is noticed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_policy::{
    files::Access,
    grant::{Grant, describe, wider_than},
    limits::{LimitError, Limits, LimitsRequest},
    manifest::Manifest,
    quantity::{ByteSize, Span},
};

const FULL: &str = r#"
name = "github"
version = "0.1.0"
description = "Reads repositories"
[network]
allow = ["https://api.github.com/repos/", "GET https://raw.githubusercontent.com"]
[[credential]]
secret = "GITHUB_TOKEN"
hosts  = ["api.github.com"]
inject = { header = "Authorization", format = "Bearer {}" }
[[credential]]
secret = "MAPS"
hosts  = ["*.maps.example"]
inject = { query = "key" }
[[credential]]
secret = "BASIC"
hosts  = ["basic.example"]
inject = { basic_user = "x" }
[files]
workspace = "read-write"
paths = ["src/"]
[kv]
access = "read"
[secrets]
sign = ["WEBHOOK_KEY"]
[tools]
call = ["files_*"]
[env]
names = ["TZ"]
[limits]
memory = "64MiB"
cpu = "2s"
time = "30s"
output = "256KiB"
tmp = "16MiB"
http_body = "4MiB"
http_requests = 20
[rate]
calls = "60/min"
"#;

fn manifest(body: &str) -> Manifest {
    Manifest::parse_toml(&format!("name = \"t\"\nversion = \"1\"\n{body}")).unwrap()
}

#[test]
fn the_manifest_of_the_contract_is_read_whole() {
    let manifest = Manifest::parse_toml(FULL).unwrap();
    assert_eq!(manifest.name.as_str(), "github");
    assert_eq!(manifest.network.allow.as_ref().unwrap().len(), 2);
    assert_eq!(manifest.credentials.len(), 3);
    assert_eq!(manifest.files.access, Access::ReadWrite);
    assert_eq!(manifest.files.paths.as_ref().unwrap()[0].as_str(), "src");
    assert_eq!(manifest.limits.memory, Some(ByteSize::mib(64)));
    assert_eq!(manifest.limits.http_requests, Some(20));
    assert_eq!(manifest.rate.calls.unwrap().to_string(), "60/min");
}

#[test]
fn a_manifest_says_in_words_what_it_asks_for() {
    assert_eq!(
        describe(&Manifest::parse_toml(FULL).unwrap()),
        [
            "reach over the network: https://api.github.com/repos, GET https://raw.githubusercontent.com",
            "have the host send the secret GITHUB_TOKEN to api.github.com in the header `authorization: Bearer {}` (it never sees the value)",
            "have the host send the secret MAPS to *.maps.example in the query parameter `key` (it never sees the value)",
            "have the host send the secret BASIC to basic.example in HTTP Basic as the user `x` (it never sees the value)",
            "read and change workspace files in: src",
            "read the session's key-values",
            "sign messages with: WEBHOOK_KEY (it never sees the key)",
            "call other tools: files_*",
            "read environment variables: TZ",
            "use up to: memory 64MiB, cpu 2s, time 30s, output 256KiB, tmp 16MiB, http_body 4MiB, http_requests 20",
            "be called at most 60/min",
        ]
    );
    assert!(describe(&manifest("")).is_empty());
}

#[test]
fn a_fault_in_a_manifest_is_named_with_its_line_and_the_fix() {
    let cases = [
        (
            "name = \"t\"\nversion = \"1\"\nnetwrk = 1\n",
            "line 3: ",
            "unknown field `netwrk`, expected one of `name`",
        ),
        ("name = \"T\"\nversion = \"1\"\n", "line 1: ", "starting with a letter"),
        ("name = \"t\"\n", "", "missing field `version`"),
        ("name = \"t\"\nversion = \"\"\n", "line 2: ", "1 to 64 characters"),
        (
            "name = \"t\"\nversion = \"1\"\n[network]\nallow = [\n  \"ftp://x\",\n]\n",
            "line 5: ",
            "can be reached",
        ),
        (
            "name = \"t\"\nversion = \"1\"\n[network]\nalow = []\n",
            "line 4: ",
            "expected `allow` or `deny`",
        ),
        (
            "name = \"t\"\nversion = \"1\"\n[limits]\nmemory = \"64 megs\"\n",
            "line 4: ",
            "64MiB",
        ),
        (
            "name = \"t\"\nversion = \"1\"\n[limits]\ncpu = \"0s\"\n",
            "line 4: ",
            "zero",
        ),
        (
            "name = \"t\"\nversion = \"1\"\n[limits]\nhttp_requests = 0\n",
            "line 4: ",
            "zero",
        ),
        (
            "name = \"t\"\nversion = \"1\"\n[limits]\nthreads = 2\n",
            "line 4: ",
            "unknown field `threads`",
        ),
        (
            "name = \"t\"\nversion = \"1\"\n[files]\nworkspace = \"write\"\n",
            "line 4: ",
            "read-write",
        ),
        (
            "name = \"t\"\nversion = \"1\"\n[files]\npaths = [\"../x\"]\n",
            "line 4: ",
            "without `.` and `..`",
        ),
        (
            "name = \"t\"\nversion = \"1\"\n[env]\nnames = [\"A=B\"]\n",
            "line 4: ",
            "environment variable",
        ),
        (
            "name = \"t\"\nversion = \"1\"\n[tools]\ncall = [\"Files\"]\n",
            "line 4: ",
            "files_*",
        ),
        (
            "name = \"t\"\nversion = \"1\"\n[rate]\ncalls = \"0/min\"\n",
            "line 4: ",
            "above zero",
        ),
        ("name = \"t\"\nversion = \n", "line 2: ", ""),
    ];
    for (text, line, fix) in cases {
        let message = Manifest::parse_toml(text).unwrap_err().to_string();
        assert!(message.starts_with(line) && message.contains(fix), "{text}: {message}");
    }
}

#[test]
fn a_credential_goes_to_named_hosts_in_one_harmless_place() {
    let credential = |hosts: &str, inject: &str| {
        Manifest::parse_toml(&format!(
            "name = \"t\"\nversion = \"1\"\n[[credential]]\nsecret = \"S\"\nhosts = {hosts}\ninject = {inject}\n"
        ))
    };
    let fine = r#"{ header = "x-key", format = "{}" }"#;
    assert!(credential(r#"["a.example"]"#, fine).is_ok());
    for (hosts, inject, fix) in [
        (r#"["*"]"#, fine, "name the hosts"),
        ("[]", fine, "at least one host"),
        (r#"["https://a.example"]"#, fine, "not a host name"),
        (
            r#"["a.example"]"#,
            r#"{ header = "Host", format = "{}" }"#,
            "can't go there",
        ),
        (
            r#"["a.example"]"#,
            r#"{ header = "Transfer-Encoding", format = "{}" }"#,
            "can't go there",
        ),
        (
            r#"["a.example"]"#,
            r#"{ header = "connection", format = "{}" }"#,
            "can't go there",
        ),
        (
            r#"["a.example"]"#,
            r#"{ header = "content-length", format = "{}" }"#,
            "can't go there",
        ),
        (
            r#"["a.example"]"#,
            r#"{ header = "a b", format = "{}" }"#,
            "not a header name",
        ),
        (
            r#"["a.example"]"#,
            r#"{ header = "x", format = "Bearer" }"#,
            "exactly one",
        ),
        (
            r#"["a.example"]"#,
            r#"{ header = "x", format = "{} {}" }"#,
            "exactly one",
        ),
        (
            r#"["a.example"]"#,
            r#"{ header = "x", format = "a\r\nb: {}" }"#,
            "exactly one",
        ),
        (
            r#"["a.example"]"#,
            r#"{ header = "x", format = "{}", query = "k" }"#,
            "one place",
        ),
        (r#"["a.example"]"#, r#"{ format = "{}" }"#, "one place"),
        (r#"["a.example"]"#, r#"{ query = "a&b" }"#, "query parameter"),
        (r#"["a.example"]"#, r#"{ basic_user = "a:b" }"#, "without a colon"),
        (r#"["a.example"]"#, r#"{ cookie = "x" }"#, "unknown field"),
    ] {
        let message = credential(hosts, inject).unwrap_err().to_string();
        assert!(message.contains(fix), "{hosts} {inject}: {message}");
    }
}

#[test]
fn a_grant_has_the_manifests_keys_and_no_name() {
    let body = FULL.split_once("[network]").unwrap().1;
    let grant = Grant::parse_toml(&format!("[network]{body}")).unwrap();
    assert_eq!(grant, Grant::everything_requested(&Manifest::parse_toml(FULL).unwrap()));
    let json = serde_json::to_string(&grant).unwrap();
    assert_eq!(serde_json::from_str::<Grant>(&json).unwrap(), grant);
    assert!(Grant::parse_toml("name = \"github\"").is_err());
    assert_eq!(Grant::parse_toml("").unwrap(), Grant::none());
    assert_eq!(serde_json::to_string(&Grant::none()).unwrap(), "{}");
}

#[test]
fn a_manifest_survives_json() {
    let manifest = Manifest::parse_toml(FULL).unwrap();
    let json = serde_json::to_string(&manifest).unwrap();
    assert_eq!(serde_json::from_str::<Manifest>(&json).unwrap(), manifest);
}

#[test]
fn a_grant_of_everything_covers_the_request_and_a_grant_of_nothing_covers_none_of_it() {
    let manifest = Manifest::parse_toml(FULL).unwrap();
    assert_eq!(wider_than(&manifest, &Grant::everything_requested(&manifest)), [""; 0]);
    let wider = wider_than(&manifest, &Grant::none());
    assert_eq!(wider.len(), 9, "{wider:#?}");
    assert!(wider_than(&self::manifest(""), &Grant::none()).is_empty());
}

#[test]
fn only_what_is_beyond_the_grant_is_named() {
    let request = manifest(
        r#"
        [network]
        allow = ["https://a.example/v1", "https://b.example", "http://a.example"]
        [files]
        workspace = "read-write"
        [kv]
        access = "read"
        [tools]
        call = ["files_read", "http_*"]
        [limits]
        memory = "128MiB"
        cpu = "1s"
        [rate]
        calls = "60/min"
        "#,
    );
    let grant = Grant::parse_toml(
        r#"
        [network]
        allow = ["*.example", "https://a.example"]
        [files]
        workspace = "read"
        [kv]
        access = "read-write"
        [tools]
        call = ["files_*", "http_get"]
        [limits]
        memory = "64MiB"
        cpu = "2s"
        [rate]
        calls = "10/min"
        "#,
    )
    .unwrap();
    assert_eq!(
        wider_than(&request, &grant),
        [
            "reach over the network: http://a.example",
            "read-write access to the whole workspace",
            "call other tools: http_*",
            "a higher limit: memory 128MiB",
            "be called 60/min, more often than 10/min",
        ]
    );
}

#[test]
fn a_limit_is_the_smallest_of_what_is_asked_granted_and_possible() {
    let ask = |text: &str| -> LimitsRequest { toml::from_str(text).unwrap() };
    let effective = |request: &str, grant: &str| {
        Limits::effective(
            &Limits::default(),
            &ask(request),
            &ask(grant),
            &Limits {
                memory: ByteSize::mib(256),
                ..Limits::default_ceilings()
            },
        )
    };
    assert_eq!(effective("", ""), Limits::default());
    assert_eq!(effective("memory = \"16MiB\"", "").memory, ByteSize::mib(16));
    assert_eq!(effective("memory = \"128MiB\"", "").memory, ByteSize::mib(128));
    assert_eq!(effective("memory = \"1GiB\"", "").memory, ByteSize::mib(256));
    assert_eq!(
        effective("memory = \"128MiB\"", "memory = \"32MiB\"").memory,
        ByteSize::mib(32)
    );
    assert_eq!(
        effective("memory = \"16MiB\"", "memory = \"128MiB\"").memory,
        ByteSize::mib(16)
    );
    assert_eq!(effective("", "cpu = \"10s\"").cpu, Span::from_secs(10));
    let low = Limits {
        tables: 5,
        time: Span::from_secs(1),
        ..Limits::default_ceilings()
    };
    let capped = Limits::effective(&Limits::default(), &ask(""), &ask(""), &low);
    assert_eq!((capped.tables, capped.time), (5, Span::from_secs(1)));
}

#[test]
fn a_limit_is_set_by_key_and_value() {
    let mut limits = LimitsRequest::default();
    for (key, value) in [
        ("memory", "64MiB"),
        ("cpu", "2s"),
        ("time", "30s"),
        ("output", "1KiB"),
        ("tmp", "1MiB"),
        ("http_body", "1MiB"),
        ("http_requests", "3"),
        ("host_calls", "100"),
        ("stdout", "1KiB"),
        ("http_concurrent", "4"),
        ("http_bytes", "8MiB"),
        ("handles", "16"),
        ("log_lines", "10"),
        ("progress", "5/s"),
        ("tables", "100"),
        ("instances", "8"),
    ] {
        limits.set(key, value).unwrap();
        assert!(limits.entries().contains(&(key, value.to_owned())), "{key}");
    }
    assert!(matches!(limits.set("cpu", "0s"), Err(LimitError::Zero(_))));
    assert!(matches!(limits.set("cpu", "2"), Err(LimitError::Value { .. })));
    assert!(matches!(
        limits.set("http_requests", "-1"),
        Err(LimitError::Value { .. })
    ));
    let message = limits.set("threads", "1").unwrap_err().to_string();
    for doc in Limits::catalogue() {
        assert!(message.contains(doc.key), "{message}");
    }
}

#[test]
fn what_is_above_a_ceiling_is_told_in_words_and_narrowed() {
    let asked: LimitsRequest = toml::from_str("memory = \"1GiB\"\nprogress = \"1000/s\"\ncpu = \"60s\"").unwrap();
    let ceilings = Limits::default_ceilings();
    let above: Vec<String> = asked
        .above_ceilings(&ceilings)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        above,
        [
            "memory = \"1GiB\" is above the host's ceiling of 512MiB",
            "progress = \"1000/s\" is above the host's ceiling of 200/s"
        ]
    );
    let effective = Limits::effective(&Limits::default(), &asked, &LimitsRequest::default(), &ceilings);
    assert_eq!(
        (effective.memory, effective.progress),
        (ceilings.memory, ceilings.progress)
    );
}

#[test]
fn no_default_is_above_its_ceiling() {
    let defaults = Limits::default();
    let mut all = LimitsRequest::default();
    for doc in Limits::catalogue() {
        all.set(doc.key, &doc.default).unwrap();
    }
    assert_eq!(Limits::default_ceilings().overridden(&all), defaults);
    assert_eq!(all.above_ceilings(&Limits::default_ceilings()), []);
}
