//! How the layers decide on a request together, and the words of a denial.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_policy::network::{Denial, Layer, NetworkList, NetworkPolicy, NetworkRule, Target, Verdict, least_rule};
use proptest::prelude::*;

fn list(allow: &[&str], deny: &[&str]) -> NetworkList {
    NetworkList {
        allow: Some(allow.iter().map(|rule| rule.parse().unwrap()).collect()),
        deny: deny.iter().map(|rule| rule.parse().unwrap()).collect(),
    }
}

fn only_denies(deny: &[&str]) -> NetworkList {
    NetworkList {
        allow: None,
        ..list(&[], deny)
    }
}

fn agent(name: &str) -> Layer {
    Layer::Agent(name.parse().unwrap())
}

fn decide(layers: Vec<(Layer, NetworkList)>, request: &str) -> Verdict {
    let (method, url) = request.split_once(' ').unwrap_or(("GET", request));
    NetworkPolicy { layers }.decide(&Target::parse(method, url).unwrap())
}

fn denial(layers: Vec<(Layer, NetworkList)>, request: &str) -> Denial {
    match decide(layers, request) {
        Verdict::Denied(denial) => denial,
        Verdict::Allowed { rule } => panic!("allowed by {rule}"),
    }
}

fn open() -> Vec<(Layer, NetworkList)> {
    vec![
        (Layer::Request, list(&["*"], &[])),
        (Layer::Grant, list(&["https://*.example.com"], &[])),
    ]
}

#[test]
fn nothing_is_reached_without_a_grant() {
    let url = "https://example.com/";
    assert_eq!(denial(vec![], url).layer, Layer::Grant);
    assert_eq!(
        denial(vec![(Layer::Request, list(&["*"], &[]))], url).layer,
        Layer::Grant
    );
    assert_eq!(denial(vec![(Layer::Host, list(&["*"], &[]))], url).layer, Layer::Grant);
    let silent = vec![
        (Layer::Request, list(&["*"], &[])),
        (Layer::Grant, NetworkList::default()),
    ];
    assert_eq!(denial(silent.clone(), url).layer, Layer::Grant);
    assert!(NetworkPolicy { layers: silent }.is_closed());
    let unasked = vec![
        (Layer::Request, NetworkList::default()),
        (Layer::Grant, list(&["*"], &[])),
    ];
    assert_eq!(denial(unasked, url).layer, Layer::Request);
    assert!(NetworkPolicy::deny_all().is_closed());
    assert!(!NetworkPolicy { layers: open() }.is_closed());
}

#[test]
fn the_ledger_gets_the_narrowest_layers_rule() {
    let mut layers = open();
    let allowed = |rule: &str| Verdict::Allowed { rule: rule.to_owned() };
    let url = "https://api.example.com/v1/x";
    assert_eq!(decide(layers.clone(), url), allowed("grant: https://*.example.com"));
    layers.push((agent("base"), list(&["api.example.com"], &[])));
    layers.push((agent("leaf"), NetworkList::default()));
    layers.push((Layer::Host, list(&["*"], &[])));
    assert_eq!(decide(layers.clone(), url), allowed("agent base: api.example.com"));
    layers.push((
        Layer::Session,
        list(&["other.example.com", "GET api.example.com/v1"], &[]),
    ));
    assert_eq!(decide(layers, url), allowed("session: GET api.example.com/v1"));
}

#[test]
fn every_layer_must_let_a_request_through() {
    for layer in [Layer::Request, agent("base"), Layer::Session, Layer::Host] {
        let mut layers = open();
        layers.push((layer.clone(), list(&["https://a.example.com"], &[])));
        assert!(matches!(
            decide(layers.clone(), "https://a.example.com/"),
            Verdict::Allowed { .. }
        ));
        assert_eq!(denial(layers, "https://b.example.com/").layer, layer);
    }
}

#[test]
fn a_layer_without_a_list_does_not_narrow_and_an_empty_list_allows_nothing() {
    let url = "https://a.example.com/";
    let mut layers = open();
    layers.push((Layer::Session, NetworkList::default()));
    assert!(matches!(decide(layers.clone(), url), Verdict::Allowed { .. }));
    layers.push((agent("mute"), NetworkList::nothing()));
    assert_eq!(denial(layers, url).layer, agent("mute"));
}

#[test]
fn a_denial_wins_over_every_allowance_in_every_layer() {
    for layer in [Layer::Request, Layer::Grant, agent("base"), Layer::Session, Layer::Host] {
        let mut layers = open();
        layers.push((layer.clone(), list(&["*"], &["POST https://a.example.com"])));
        let denial = denial(layers.clone(), "POST https://a.example.com/");
        assert_eq!(denial.layer, layer);
        assert_eq!(denial.rule.as_deref(), Some("POST https://a.example.com"));
        assert!(matches!(
            decide(layers, "https://a.example.com/"),
            Verdict::Allowed { .. }
        ));
    }
}

#[test]
fn a_denied_address_is_denied_once_a_name_has_resolved_to_it() {
    let mut layers = open();
    layers.push((Layer::Session, only_denies(&["93.184.216.34"])));
    let policy = NetworkPolicy { layers };
    let target = Target::parse("GET", "https://a.example.com/").unwrap();
    assert!(matches!(policy.decide(&target), Verdict::Allowed { .. }));
    for address in ["93.184.216.34", "::ffff:93.184.216.34", "64:ff9b::93.184.216.34"] {
        let denial = policy.check_resolved(&target, address.parse().unwrap()).unwrap_err();
        assert_eq!(denial.layer, Layer::Session, "{address}");
    }
    assert!(policy.check_resolved(&target, "93.184.216.35".parse().unwrap()).is_ok());
}

#[test]
fn a_denial_says_which_layer_decided_and_how_to_change_it() {
    let url = "POST https://evil.example:8443/collect?secret=hunter2";
    let cases = [
        (
            vec![],
            "POST https://evil.example:8443/collect is not allowed: the component's grant does not allow it; to allow it, add `POST https://evil.example:8443/collect` to `allow` under `[network]` of the grant (`fumehood tool grant`)",
            "grant: no rule allows it",
        ),
        (
            vec![(Layer::Request, list(&["https://private.example/rule"], &[]))],
            "POST https://evil.example:8443/collect is not allowed: the component's manifest does not request it; to have it, the component's author would add `POST https://evil.example:8443/collect` to `allow` under `[network]` in tool.toml",
            "request: no rule allows it",
        ),
        (
            vec![(agent("base"), list(&[], &[]))],
            "POST https://evil.example:8443/collect is not allowed: the network list of the agent `base` does not allow it; to allow it, add `POST https://evil.example:8443/collect` to `allow` under `[agent.base.network]` in fumehood.toml",
            "agent base: no rule allows it",
        ),
        (
            vec![(Layer::Session, list(&[], &[]))],
            "POST https://evil.example:8443/collect is not allowed: the session's network list does not allow it; to allow it, add `POST https://evil.example:8443/collect` to the session's `network.allow` (`PATCH /v1/sessions/…`)",
            "session: no rule allows it",
        ),
        (
            vec![(
                Layer::Host,
                only_denies(&["other.example", "*.example", "evil.example"]),
            )],
            "POST https://evil.example:8443/collect is denied by the rule `*.example` of the host-wide list; the operator can remove it from `deny` under `[network]` in fumehood.toml",
            "host: deny *.example",
        ),
    ];
    for (layers, message, ledger) in cases {
        let denial = denial(layers, url);
        assert_eq!(denial.to_string(), message);
        assert_eq!(denial.ledger_rule(), ledger);
        assert!(!denial.message.contains("hunter2") && !denial.message.contains("private.example"));
    }
}

#[test]
fn a_denial_advises_the_least_that_would_let_the_request_through() {
    let least = |request: &str| {
        let (method, url) = request.split_once(' ').unwrap();
        least_rule(&Target::parse(method, url).unwrap())
    };
    assert_eq!(
        least("DELETE https://a.example/v1/x?key=hunter2"),
        "DELETE https://a.example/v1/x"
    );
    assert_eq!(least("GET http://a.example:80/"), "GET http://a.example");
    assert_eq!(least("GET https://a.example:8443/x"), "GET https://a.example:8443/x");
    // No rule can name this path, and a long one is cut where a segment ends.
    assert_eq!(least("GET https://a.example/a*b"), "GET https://a.example");
    let long = format!("https://a.example/{}/{}", "a".repeat(150), "b".repeat(150));
    assert_eq!(
        least(&format!("GET {long}")),
        format!("GET https://a.example/{}", "a".repeat(150))
    );
    // What is advised is taken as it stands.
    for request in ["POST https://a.example/%7Ex/y", "GET https://[2001:db8::1]/x"] {
        let rule: NetworkRule = least(request).parse().unwrap();
        let list = NetworkList {
            allow: Some(vec![rule]),
            deny: Vec::new(),
        };
        assert!(
            matches!(decide(vec![(Layer::Grant, list)], request), Verdict::Allowed { .. }),
            "{request}"
        );
    }
}

#[test]
fn a_long_path_is_cut_in_a_denial() {
    let denial = denial(vec![], &format!("https://example.com/{}", "a".repeat(5_000)));
    assert!(denial.message.len() < 400, "{}", denial.message);
}

#[test]
fn a_list_reads_its_two_keys_and_no_others() {
    let read = |text: &str| serde_json::from_str::<NetworkList>(text);
    assert_eq!(read("{}").unwrap(), NetworkList::default());
    assert_eq!(read(r#"{"allow": []}"#).unwrap(), NetworkList::nothing());
    assert_eq!(
        read(r#"{"allow":["a.b"],"deny":["c.d"]}"#).unwrap(),
        list(&["a.b"], &["c.d"])
    );
    assert!(read(r#"{"allowed":["a.b"]}"#).is_err());
    assert!(read(r#"{"allow":["ftp://a.b"]}"#).is_err());
    assert_eq!(
        serde_json::to_string(&NetworkList::nothing()).unwrap(),
        r#"{"allow":[]}"#
    );
}

fn any_list() -> impl Strategy<Value = NetworkList> {
    let rule = || {
        prop_oneof![
            Just("*"),
            Just("example.com"),
            Just("*.example.com"),
            Just("example.com/v1"),
            Just("GET example.com"),
            Just("http://example.com:*"),
            Just("a.example.com:8443"),
            Just("POST *.example.com/v1"),
            Just("127.0.0.1"),
        ]
    };
    (
        prop::option::of(prop::collection::vec(rule(), 0..4)),
        prop::collection::vec(rule(), 0..2),
    )
        .prop_map(|(allow, deny)| NetworkList {
            allow: allow.map(|rules| list(&rules, &[]).allow.unwrap()),
            deny: list(&[], &deny).deny,
        })
}

fn any_layers() -> impl Strategy<Value = Vec<(Layer, NetworkList)>> {
    let layer = prop_oneof![
        Just(Layer::Request),
        Just(Layer::Grant),
        Just(agent("a")),
        Just(Layer::Session),
        Just(Layer::Host)
    ];
    prop::collection::vec((layer, any_list()), 0..4).prop_map(|more| {
        let mut layers = vec![
            (Layer::Request, list(&["*", "http://*:*"], &[])),
            (
                Layer::Grant,
                list(&["*", "http://example.com:*", "a.example.com:8443"], &[]),
            ),
        ];
        layers.extend(more);
        layers
    })
}

fn any_target() -> impl Strategy<Value = Target> {
    (
        prop_oneof![Just("GET"), Just("POST")],
        prop_oneof![
            Just("https://example.com/v1/x"),
            Just("https://example.com/v1evil"),
            Just("https://a.example.com/v1"),
            Just("https://a.example.com:8443/"),
            Just("http://example.com:81/"),
            Just("https://127.0.0.1/"),
            Just("https://example.com/%76%31"),
            Just("https://other.example/"),
        ],
    )
        .prop_map(|(method, url)| Target::parse(method, url).unwrap())
}

fn is_allowed(layers: &[(Layer, NetworkList)], target: &Target) -> bool {
    let policy = NetworkPolicy {
        layers: layers.to_vec(),
    };
    matches!(policy.decide(target), Verdict::Allowed { .. })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    // Adding a first grant is giving, not narrowing; `any_layers` always has one.
    #[test]
    fn a_further_layer_never_allows_more(
        layers in any_layers(), extra in any_list(), at in 0usize..6, target in any_target()
    ) {
        let mut narrowed = layers.clone();
        let layer = [Layer::Request, Layer::Grant, agent("b"), Layer::Session, Layer::Host][at % 5].clone();
        narrowed.insert(at.min(layers.len()), (layer, extra));
        if is_allowed(&narrowed, &target) {
            prop_assert!(is_allowed(&layers, &target));
        }
    }

    #[test]
    fn a_further_denial_never_allows_more(
        layers in any_layers(), extra in any_list(), at in 0usize..6, target in any_target()
    ) {
        let mut narrowed = layers.clone();
        let at = at % layers.len();
        narrowed[at].1.deny.extend(extra.deny);
        if is_allowed(&narrowed, &target) {
            prop_assert!(is_allowed(&layers, &target));
        }
    }

    #[test]
    fn one_rule_fewer_never_allows_more(layers in any_layers(), at in 0usize..6, target in any_target()) {
        let mut narrowed = layers.clone();
        let at = at % layers.len();
        if let Some(allow) = &mut narrowed[at].1.allow {
            allow.pop();
        }
        if is_allowed(&narrowed, &target) {
            prop_assert!(is_allowed(&layers, &target));
        }
    }

    #[test]
    fn printing_and_reading_a_list_changes_no_decision(layers in any_layers(), target in any_target()) {
        let again: Vec<(Layer, NetworkList)> =
            serde_json::from_str(&serde_json::to_string(&layers).unwrap()).unwrap();
        prop_assert_eq!(is_allowed(&again, &target), is_allowed(&layers, &target));
    }
}
