//! What files say in vain, and where they say it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_core::name::AgentName;
use fumehood_policy::{
    agent::AgentConfig,
    authority::{Authority, HostPolicy, SessionNarrowing},
    grant::Grant,
    limits::Limits,
    lint::{self, Finding},
    manifest::Manifest,
    network::{NetworkList, Target, Verdict},
};
use proptest::{prelude::*, sample::subsequence};
use std::collections::BTreeMap;

fn lines(findings: &[Finding], text: &str) -> Vec<(usize, String)> {
    findings
        .iter()
        .map(|finding| (finding.line_in(text).unwrap(), finding.to_string()))
        .collect()
}

fn grant(text: &str) -> Vec<(usize, String)> {
    let parsed = Grant::parse_toml(text).unwrap();
    lines(&lint::grant(&parsed, &Limits::default_ceilings()), text)
}

#[test]
fn a_rule_without_effect_is_told_with_its_line_and_the_other_rule() {
    let text = r#"
[network]
allow = [
  "https://a.example.com/v1",
  "GET a.example.com",
  "https://b.example.com",
  "GET https://a.example.com/v1",
  "https://c.example.com",
  "c.example.com",
]
deny = [
  "*.b.example.com",
  "b.example.com",
  "93.184.216.34",
  "b.example.com",
]
"#;
    let found = grant(text);
    let expected = [
        (
            6,
            "`https://b.example.com` can never allow anything: the rule `b.example.com`",
        ),
        (
            7,
            "`GET https://a.example.com/v1` has no effect: the rule `https://a.example.com/v1`",
        ),
        (9, "`c.example.com` has no effect"),
        (
            12,
            "`*.b.example.com` has no effect: `allow` of the same list allows none of it",
        ),
        (15, "`b.example.com` stands twice in `deny`"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((line, message), (at, words)) in found.iter().zip(expected) {
        assert!(*line == at && message.contains(words), "{line}: {message}");
    }
    assert!(grant("[network]\nallow = [\"*.example.com\"]\ndeny = [\"a.example.com\"]\n").is_empty());
}

#[test]
fn a_grant_of_what_nobody_asks_for_is_told() {
    let request = Manifest::parse_toml(
        "name = \"t\"\nversion = \"1\"\n[network]\nallow = [\"https://a.example.com/v1\"]\n[secrets]\nsign = [\"K\"]\n",
    )
    .unwrap();
    let text = r#"
[network]
allow = ["a.example.com", "https://b.example.com"]
[[credential]]
secret = "TOKEN"
[files]
workspace = "read"
[kv]
access = "read"
[secrets]
sign = ["K", "L"]
[tools]
call = ["files"]
[env]
names = ["TZ"]
"#;
    let found = lines(&lint::grant_for(&Grant::parse_toml(text).unwrap(), &request), text);
    let at: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(at, [3, 4, 6, 9, 11, 13, 15], "{found:#?}");
    for (_, message) in &found {
        assert!(
            message.contains("t does not ask for") && message.contains("grants nothing"),
            "{message}"
        );
    }
    assert!(found[0].1.contains("https://b.example.com"), "{found:#?}");
    let all = Grant::everything_requested(&request);
    assert!(lint::grant_for(&all, &request).is_empty());
}

#[test]
fn a_limit_above_its_ceiling_is_told_with_both() {
    let found = grant("[limits]\ncpu = \"1s\"\nmemory = \"64GiB\"\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].0 == 3 && found[0].1.contains("64GiB") && found[0].1.contains("512MiB"),
        "{found:?}"
    );
    assert!(found[0].1.contains("[limits.ceiling]"), "{found:?}");
}

#[test]
fn a_credential_for_hosts_that_are_not_requested_is_told() {
    let text = "name = \"t\"\nversion = \"1\"\n[network]\nallow = [\"*.example.com\"]\n[[credential]]\nsecret = \"A\"\nhosts = [\"a.example.com\"]\ninject = { query = \"k\" }\n[[credential]]\nsecret = \"B\"\nhosts = [\"example.org\"]\ninject = { query = \"k\" }\n";
    let manifest = Manifest::parse_toml(text).unwrap();
    let found = lines(&lint::manifest(&manifest, &Limits::default_ceilings()), text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == 9 && found[0].1.contains("credential B"), "{found:?}");
}

#[test]
fn an_agent_that_leaves_nothing_of_the_lists_above_it_is_told() {
    let text = r#"
[agent.base.network]
allow = ["*.example.com"]
[agent.leaf]
extends = "base"
[agent.leaf.network]
allow = ["a.example.com", "example.org"]
[agent.circle]
extends = "circle"
[agent.circle.network]
allow = ["x.example.net"]
"#;
    #[derive(serde::Deserialize)]
    struct File {
        agent: BTreeMap<AgentName, AgentConfig>,
    }
    let file: File = toml::from_str(text).unwrap();
    let found = lines(&lint::agents(&file.agent, &NetworkList::default()), text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].0 == 7 && found[0].1.contains("`example.org`") && found[0].1.contains("agent `base`"),
        "{found:?}"
    );
    let host: NetworkList = toml::from_str("allow = [\"*.example.com\", \"example.org\"]").unwrap();
    let found = lint::agents(&file.agent, &host);
    assert!(
        found
            .iter()
            .any(|one| one.message.contains("x.example.net") && one.message.contains("host-wide")),
        "{found:?}"
    );
    let host: NetworkList = toml::from_str("allow = [\"*\"]").unwrap();
    assert_eq!(lint::agents(&file.agent, &host).len(), 1);
}

#[test]
fn opening_every_private_address_is_told() {
    let table: toml::Table = toml::from_str("n = [\"10.0.0.0/8\", \"0.0.0.0/0\", \"::/0\"]").unwrap();
    let private = table["n"].clone().try_into().unwrap();
    let found = lint::host_network(&NetworkList::default(), &private);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].message.contains("cloud metadata"), "{found:?}");
}

#[test]
fn an_unknown_key_is_told_with_the_one_that_was_meant() {
    for (text, line, near) in [
        ("[netwrok]\nallow = []\n", "line 1", "did you mean `network`"),
        ("[network]\nalow = []\n", "line 2", "did you mean `allow`"),
        ("[files]\nworkspace = \"raed\"\n", "line 2", "did you mean `read`"),
        ("[limits]\nmemroy = \"1MiB\"\n", "line 2", "did you mean `memory`"),
        ("[limits]\nmemory = \"64 mega\"\n", "line 2", "64MiB"),
        ("[rate]\ncalls = \"60/fortnight\"\n", "line 2", "60/min"),
        (
            "[[credential]]\nsecret = \"K\"\nhosts = []\n",
            "line 3",
            "at least one host",
        ),
    ] {
        let message = Grant::parse_toml(text).unwrap_err().to_string();
        assert!(message.starts_with(line) && message.contains(near), "{message}");
    }
}

const RULES: [&str; 10] = [
    "*",
    "a.example.com",
    "https://a.example.com/v1",
    "GET a.example.com",
    "POST,GET a.example.com/v1",
    "http://a.example.com",
    "*.example.com",
    "a.example.com:*",
    "b.example.com/v1",
    "example.org",
];

proptest! {
    #[test]
    fn a_rule_that_is_told_to_have_no_effect_has_none(
        allow in subsequence(RULES.to_vec(), 0..6),
        deny in subsequence(RULES.to_vec(), 0..3),
        url in prop_oneof![
            Just("https://a.example.com/v1/x"), Just("https://a.example.com/"), Just("http://a.example.com/v1"),
            Just("https://a.example.com:8443/v1"), Just("https://b.example.com/v1"), Just("https://example.org/"), Just("https://c.example.com/"),
        ],
        method in prop_oneof![Just("GET"), Just("POST"), Just("PUT")],
    ) {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let mut grant = Grant { network: NetworkList { allow: Some(parse(&allow)), deny: parse(&deny) }, ..Grant::none() };
        let request = Manifest::parse_toml("name = \"t\"\nversion = \"1\"\n[network]\nallow = [\"*:*\", \"http://*:*\"]").unwrap();
        let decide = |grant: &Grant| {
            let authority = Authority::compute(&request, grant, &[], &SessionNarrowing::default(), &HostPolicy::default());
            matches!(authority.network.decide(&Target::parse(method, url).unwrap()), Verdict::Allowed { .. })
        };
        let before = decide(&grant);
        // One at a time: of two that make each other superfluous only one may go.
        let Some(finding) = lint::grant(&grant, &Limits::default_ceilings()).into_iter().next() else { return Ok(()) };
        let (lint::Step::Key(list), lint::Step::Item(index)) = (&finding.place[1], &finding.place[2]) else { panic!("{finding:?}") };
        if list == "allow" {
            grant.network.allow.as_mut().unwrap().remove(*index);
        } else {
            grant.network.deny.remove(*index);
        }
        prop_assert_eq!(decide(&grant), before, "{:?}", finding);
    }
}
