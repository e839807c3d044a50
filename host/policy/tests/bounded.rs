//! Lists have at most so many entries, and what is worked out about the longest of them stays small.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use fumehood_policy::{
    agent::AgentConfig,
    authority::{HostPolicy, SessionNarrowing},
    bounded::{MOST_CREDENTIALS, MOST_ENTRIES},
    explain::{Extent, explain},
    grant::{Difference, Grant, wider_than},
    lint,
    manifest::{MAX_MANIFEST, Manifest},
    network::NetworkList,
    refusal::Capability,
};

fn list(count: usize, entry: impl Fn(usize) -> String) -> String {
    let entries: Vec<_> = (0..count).map(|index| format!("{:?}", entry(index))).collect();
    format!("[{}]", entries.join(", "))
}

/// Rules each of which overlaps with each of [`paths`], and covers none.
fn ports(count: usize) -> String {
    list(count, |index| format!("https://*:{}", 1000 + index))
}

fn paths(count: usize) -> String {
    list(count, |index| format!("https://*:*/p{index}"))
}

fn manifest(rest: &str) -> Result<Manifest, String> {
    Manifest::parse_toml(&format!("name = \"t\"\nversion = \"1\"\n{rest}")).map_err(|error| error.to_string())
}

#[test]
fn a_list_above_the_cap_is_refused_with_its_count_and_the_cap() {
    let most = MOST_ENTRIES;
    for (section, key) in [("network", "allow"), ("network", "deny")] {
        assert!(manifest(&format!("[{section}]\n{key} = {}", ports(most))).is_ok());
        let error = manifest(&format!("[{section}]\n{key} = {}", ports(most + 2))).unwrap_err();
        assert!(
            error.contains("line 4") && error.contains("258") && error.contains("256"),
            "{error}"
        );
    }
    let names = |count| list(count, |index| format!("name{index}"));
    for section in ["secrets]\nsign", "tools]\ncall", "env]\nnames", "files]\npaths"] {
        let text = |count| {
            format!("[{section} = {}", names(count))
                .replace("name", if section.starts_with("secrets") { "NAME" } else { "name" })
        };
        assert!(Grant::parse_toml(&text(most)).is_ok(), "{section}");
        assert!(Grant::parse_toml(&text(most + 1)).is_err(), "{section}");
    }
    let credential = "[[credential]]\nsecret = \"A\"\n";
    assert!(Grant::parse_toml(&credential.repeat(MOST_CREDENTIALS)).is_ok());
    assert!(Grant::parse_toml(&credential.repeat(MOST_CREDENTIALS + 1)).is_err());
    assert!(toml::from_str::<AgentConfig>(&format!("tools = {}", names(most + 1))).is_err());
    let session = format!("{{\"network\": {{\"allow\": {}}}}}", ports(most + 1));
    assert!(serde_json::from_str::<SessionNarrowing>(&session).is_err());
    assert!(toml::from_str::<AgentConfig>(&format!("background = {}", names(most + 1))).is_err());
    let session = format!("{{\"background\": {}}}", names(most + 1));
    assert!(serde_json::from_str::<SessionNarrowing>(&session).is_err());
}

#[test]
fn a_manifest_above_its_size_is_refused_wherever_it_comes_from() {
    let error = manifest(&format!("# {}", "x".repeat(MAX_MANIFEST))).unwrap_err();
    assert!(error.contains("65536"), "{error}");
}

#[test]
fn the_longest_lists_are_explained_in_part_and_compared_to_the_end() {
    let request = manifest(&format!("[network]\nallow = {}", ports(MOST_ENTRIES))).unwrap();
    let grant = Grant::parse_toml(&format!("[network]\nallow = {}", paths(MOST_ENTRIES))).unwrap();
    let session = SessionNarrowing {
        network: Some(NetworkList {
            allow: request.network.allow.clone(),
            deny: Vec::new(),
        }),
        ..SessionNarrowing::default()
    };
    let host = HostPolicy::default();
    let explanation = explain(&request, &grant, &[], &session, &host, []);
    let network: Vec<_> = explanation
        .capabilities
        .iter()
        .filter(|one| one.capability == Capability::Network)
        .collect();
    assert_eq!(network.len(), MOST_ENTRIES);
    for one in network {
        assert!(
            one.more && one.extent == Extent::Part && one.has.len() <= 64,
            "{:?}",
            one.asked
        );
    }
    assert_eq!(wider_than(&request, &grant).len(), 1);
    assert!(!Difference::between(&request, &request).is_wider());
    assert!(lint::grant_for(&grant, &request).is_empty() && lint::manifest(&request, &host.ceilings).is_empty());
}

#[test]
fn a_limit_that_is_given_up_asks_for_more_and_one_that_is_set_is_not_given_up() {
    let limited = manifest("[limits]\nhttp_requests = 1\n").unwrap();
    let open = manifest("").unwrap();
    let wider = Difference::between(&limited, &open);
    assert_eq!(wider.added, ["no longer limit itself to: http_requests 1"]);
    assert!(Difference::between(&limited, &limited).added.is_empty());
    let set = Difference::between(&open, &limited);
    assert_eq!((set.added.len(), set.removed.len()), (1, 0), "{set:?}");
}

#[test]
fn a_secret_is_put_into_one_place_of_a_host_once() {
    let credential =
        |hosts: &str| format!("[[credential]]\nsecret = \"A\"\nhosts = {hosts}\ninject = {{ query = \"k\" }}\n");
    let request = manifest(&credential("[\"a.example.com\", \"b.example.com\"]")).unwrap();
    let twice = "[[credential]]\nsecret = \"A\"\nhosts = [\"a.example.com\"]\n[[credential]]\nsecret = \"A\"\n";
    let grant = Grant::parse_toml(twice).unwrap();
    let authority = fumehood_policy::authority::Authority::compute(
        &request,
        &grant,
        &[],
        &SessionNarrowing::default(),
        &HostPolicy::default(),
    );
    let hosts: Vec<String> = authority
        .credentials
        .iter()
        .flat_map(|credential| credential.hosts.iter().map(ToString::to_string))
        .collect();
    assert_eq!(hosts, ["a.example.com", "b.example.com"]);
}
