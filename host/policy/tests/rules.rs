//! What a network rule lets through, refuses, and how it is written.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_policy::network::{HostPattern, NetworkRule, Target};
use proptest::prelude::*;

fn rule(text: &str) -> NetworkRule {
    text.parse().unwrap()
}

fn target(request: &str) -> Target {
    let (method, url) = request.split_once(' ').unwrap_or(("GET", request));
    Target::parse(method, url).unwrap()
}

fn allows(text: &str, request: &str) -> bool {
    rule(text).allows(&target(request))
}

fn denies(text: &str, request: &str) -> bool {
    rule(text).denies(&target(request))
}

#[test]
fn a_rule_matches_what_it_says() {
    for (text, request) in [
        ("example.com", "https://example.com/"),
        ("example.com", "DELETE https://example.com/x?y"),
        ("Example.COM.", "https://example.com/"),
        ("https://bücher.example", "https://xn--bcher-kva.example/"),
        ("http://example.com", "http://example.com/"),
        ("example.com:8443", "https://example.com:8443/"),
        ("example.com:*", "https://example.com:1/"),
        ("http://example.com:*", "http://example.com/"),
        ("https://example.com:443", "https://example.com/"),
        ("*.example.com", "https://a.example.com/"),
        ("*.example.com", "https://a.b.example.com/"),
        ("*", "https://example.com/"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000/x"),
        ("http://[2606:4700::1]:9000", "http://[2606:4700:0::1]:9000/x"),
        ("GET https://example.com", "https://example.com/"),
        ("GET,HEAD example.com", "HEAD https://example.com/"),
        ("example.com/v1", "https://example.com/v1"),
        ("example.com/v1", "https://example.com/v1/"),
        ("example.com/v1", "https://example.com/v1/x"),
        ("example.com/v1/", "https://example.com/v1"),
        ("example.com/v1", "https://example.com/a/../v1/x"),
        ("example.com/%76%31", "https://example.com/v1"),
        ("example.com/a%2fb", "https://example.com/a%2Fb/c"),
        ("example.com/x/../v1", "https://example.com/v1"),
    ] {
        assert!(allows(text, request), "{text} allows {request}");
    }
}

#[test]
fn a_rule_does_not_match_what_it_does_not_say() {
    for (text, request) in [
        ("example.com", "http://example.com/"),
        ("example.com", "https://example.com:8443/"),
        ("example.com", "https://www.example.com/"),
        ("example.com", "https://example.com.evil.example/"),
        ("example.com", "https://notexample.com/"),
        ("http://example.com", "https://example.com/"),
        ("http://example.com", "http://example.com:8080/"),
        ("example.com:8443", "https://example.com/"),
        ("*.example.com", "https://example.com/"),
        ("*.example.com", "https://notexample.com/"),
        ("*.example.com", "https://a.example.com.evil.example/"),
        ("*", "http://example.com/"),
        ("*", "https://localhost/"),
        ("*", "https://intranet/"),
        ("*", "https://printer.local/"),
        ("*", "https://metadata.google.internal/"),
        ("*", "https://93.184.216.34/"),
        ("*", "https://[2606:4700::1]/"),
        ("GET example.com", "POST https://example.com/"),
        ("example.com/v1", "https://example.com/v1evil"),
        ("example.com/v1", "https://example.com/v"),
        ("example.com/v1", "https://example.com/"),
        ("example.com/v1", "https://example.com/v1%2Fx"),
        ("example.com/v1", "https://example.com/v1/../admin"),
        ("example.com/v1", "https://example.com/v1/%2e%2e/admin"),
        ("example.com/v1", "https://example.com//v1"),
        ("example.com/V1", "https://example.com/v1"),
        ("example.com/a/b", "https://example.com/a%2Fb"),
    ] {
        assert!(!allows(text, request), "{text} must not allow {request}");
    }
}

#[test]
fn a_denial_reads_what_is_left_out_as_everything() {
    for (text, request) in [
        ("example.com", "http://example.com/"),
        ("example.com", "https://example.com:8443/"),
        ("https://example.com", "https://example.com:8443/"),
        ("*", "http://localhost:1/"),
        ("*", "http://127.0.0.1/"),
        ("example.com/admin", "https://example.com//admin/x"),
        ("example.com/admin/users", "https://example.com/admin%2Fusers"),
        ("example.com/a%2Fb", "https://example.com/a/b"),
        ("example.com/users/@me", "https://example.com/users/%40me/x"),
        ("example.com/users/%40me", "https://example.com/users/@me"),
        ("example.com/a+b", "https://example.com/a%2Bb"),
        ("example.com/v1/x:go", "https://example.com/v1/x%3ago"),
        ("example.com/admin", "https://example.com/admin;x=1/secrets"),
        ("example.com/admin", "https://example.com/admin%3Bx/secrets"),
        ("example.com/admin/keys", "https://example.com/admin;a%2Fb/keys"),
        ("example.com/admin/b", "https://example.com/admin;a%2Fb/keys"),
        ("example.com/admin;v=1", "https://example.com/admin"),
        // A method in lower case is the same method: it is sent as it was checked.
        ("DELETE example.com", "delete https://example.com/"),
    ] {
        assert!(denies(text, request), "{text} denies {request}");
    }
    for (text, request) in [
        ("http://example.com", "https://example.com/"),
        ("example.com:8443", "https://example.com/"),
        ("POST example.com", "https://example.com/"),
        ("example.com/admin", "https://example.com/administrator"),
        ("*.example.com", "https://example.com/"),
    ] {
        assert!(!denies(text, request), "{text} must not deny {request}");
    }
}

proptest! {
    #[test]
    fn a_denied_path_stays_denied_however_it_is_encoded(
        segments in prop::collection::vec("[a-z0-9@:+!$&'()*,=~.é -]{1,6}", 1..4), encode in any::<u64>(), more in "(/[a-z]{0,3})?",
    ) {
        let path = segments.join("/");
        prop_assume!(segments.iter().all(|segment| !matches!(segment.trim(), "" | "." | "..") && !segment.contains('*')));
        let encoded: String = path
            .bytes()
            .enumerate()
            .map(|(at, byte)| if byte != b'/' && (encode >> (at % 64) & 1 == 1 || !byte.is_ascii_graphic()) {
                format!("%{byte:02x}")
            } else {
                char::from(byte).to_string()
            })
            .collect();
        let written = path.replace(' ', "%20");
        prop_assert!(
            denies(&format!("example.com/{written}"), &format!("https://example.com/{encoded}{more}")),
            "{} and {}", written, encoded
        );
    }
}

#[test]
fn a_denied_address_is_denied_for_names_that_resolve_to_it() {
    let denied = rule("93.184.216.34");
    let target = target("https://example.com/");
    assert!(denied.denies_at(&target, "93.184.216.34".parse().unwrap()));
    assert!(!denied.denies_at(&target, "93.184.216.35".parse().unwrap()));
    assert!(!denied.denies(&target));
}

#[test]
fn a_text_that_is_no_rule_is_refused_with_the_fix() {
    for (text, fix) in [
        ("", "write `[METHOD"),
        ("https://", "write `[METHOD"),
        ("https:///", "followed by a host"),
        ("ftp://example.com", "only `https://` and `http://`"),
        ("get example.com", "in capitals"),
        ("GET, POST example.com", "in capitals"),
        ("CONNECT example.com", "may not be sent"),
        ("user@example.com", "use a credential"),
        ("example.com?x", "no query"),
        ("example.com/a#b", "no query"),
        ("example.com/*", "leave out the `*`"),
        ("example.com/a//b", "empty segment"),
        ("example.com:0", "1 to 65535"),
        ("example.com:https", "1 to 65535"),
        ("a.*.com", "stands alone"),
        ("*example.com", "stands alone"),
        ("*.*", "stands alone"),
        ("*.1.2.3.4", "stands alone"),
        ("0x7f.1", "write `127.0.0.1`"),
        ("::1", "in brackets"),
        ("[::ffff:1.2.3.4]", "write `1.2.3.4`"),
        ("exa mple.com", "in capitals"),
        ("GET exa mple.com", "write `[METHOD"),
        ("example.com\\x", "write `[METHOD"),
        ("example..com", "empty part"),
        ("example.com/%zz", "two hexadecimal digits"),
    ] {
        let message = text
            .parse::<NetworkRule>()
            .map(|r| r.to_string())
            .unwrap_err()
            .to_string();
        assert!(message.contains(fix), "{text}: {message}");
    }
}

#[test]
fn a_rule_prints_in_one_form() {
    for (text, printed) in [
        ("  POST,GET   Example.com./v1/ ", "GET,POST example.com/v1"),
        ("HTTPS://EXAMPLE.com:443/%7ea/./b", "https://example.com:443/~a/b"),
        ("*.Bücher.example:*", "*.xn--bcher-kva.example:*"),
        ("http://[2606:4700:0:0::1]:80", "http://[2606:4700::1]:80"),
        ("*", "*"),
    ] {
        assert_eq!(rule(text).to_string(), printed);
    }
}

#[test]
fn one_host_pattern_covers_another_only_if_it_allows_all_of_it() {
    let pattern = |text: &str| text.parse::<HostPattern>().unwrap();
    for (wide, narrow) in [
        ("*", "example.com"),
        ("*", "*.example.com"),
        ("*", "*.com"),
        ("*.example.com", "a.example.com"),
        ("*.example.com", "*.a.example.com"),
        ("example.com", "example.com"),
    ] {
        assert!(pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
        assert_eq!(pattern(narrow).intersect(&pattern(wide)), Some(pattern(narrow)));
    }
    for (wide, narrow) in [
        ("example.com", "*.example.com"),
        ("*.example.com", "example.com"),
        ("*", "localhost"),
        ("*", "*.localhost"),
        ("*", "127.0.0.1"),
        ("a.example.com", "b.example.com"),
        ("*.example.com", "*"),
    ] {
        assert!(!pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
    }
    assert_eq!(pattern("a.example").intersect(&pattern("b.example")), None);
}

fn any_rule() -> impl Strategy<Value = NetworkRule> {
    (
        prop_oneof![Just(""), Just("GET "), Just("GET,POST "), Just("PROPFIND ")],
        prop_oneof![Just(""), Just("https://"), Just("http://")],
        prop_oneof![
            Just("*"),
            Just("example.com"),
            Just("*.example.com"),
            Just("a.example.com"),
            Just("127.0.0.1"),
            Just("[::1]"),
            Just("localhost"),
            Just("*.a.example.com"),
            Just("bücher.example"),
        ],
        prop_oneof![Just(""), Just(":443"), Just(":80"), Just(":8443"), Just(":*")],
        prop::collection::vec(
            prop_oneof![
                Just("v1"),
                Just("v1evil"),
                Just("a%2Fb"),
                Just("%76%31"),
                Just(".."),
                Just("."),
                Just("b")
            ],
            0..3,
        ),
        prop_oneof![Just(""), Just("/")],
    )
        .prop_map(|(method, scheme, host, port, path, end)| {
            let path: String = path.iter().map(|segment| format!("/{segment}")).collect();
            rule(&format!("{method}{scheme}{host}{port}{path}{end}"))
        })
}

fn any_target() -> impl Strategy<Value = Target> {
    (
        prop_oneof![Just("GET"), Just("POST"), Just("DELETE")],
        prop_oneof![Just("https"), Just("http")],
        prop_oneof![
            Just("example.com"),
            Just("a.example.com"),
            Just("b.a.example.com"),
            Just("127.0.0.1"),
            Just("localhost"),
            Just("evil.example"),
            Just("xn--bcher-kva.example"),
        ],
        prop_oneof![Just(""), Just(":443"), Just(":80"), Just(":8443")],
        prop::collection::vec(
            prop_oneof![
                Just("v1"),
                Just("v1evil"),
                Just("a%2Fb"),
                Just("b"),
                Just(""),
                Just("..")
            ],
            0..4,
        ),
    )
        .prop_map(|(method, scheme, host, port, path)| {
            let path: String = path.iter().map(|segment| format!("/{segment}")).collect();
            Target::parse(method, &format!("{scheme}://{host}{port}{path}")).unwrap()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_printed_rule_parses_to_the_same_rule(rule in any_rule()) {
        prop_assert_eq!(&rule.to_string().parse::<NetworkRule>().unwrap(), &rule);
        let json = serde_json::to_string(&rule).unwrap();
        prop_assert_eq!(serde_json::from_str::<NetworkRule>(&json).unwrap(), rule);
    }

    #[test]
    fn what_a_covered_rule_allows_the_wider_rule_allows(a in any_rule(), b in any_rule(), target in any_target()) {
        if a.covers(&b) && b.allows(&target) {
            prop_assert!(a.allows(&target), "{a} covers {b}, {}", target.to_url());
        }
    }

    #[test]
    fn a_rule_covers_itself_and_denies_what_it_would_allow(rule in any_rule(), target in any_target()) {
        prop_assert!(rule.covers(&rule));
        if rule.allows(&target) {
            prop_assert!(rule.denies(&target), "{rule}, {}", target.to_url());
        }
    }

    #[test]
    fn a_path_never_matches_a_longer_first_segment(segment in "[a-z0-9]{1,8}", more in "[a-z0-9._~%]{1,8}") {
        if let Ok(target) = Target::parse("GET", &format!("https://example.com/{segment}{more}")) {
            let rule = rule(&format!("example.com/{segment}"));
            prop_assert!(!rule.allows(&target), "{rule}, {}", target.to_url());
        }
    }

    #[test]
    fn any_text_is_a_rule_or_is_refused(text in ".{0,40}") {
        if let Ok(rule) = text.parse::<NetworkRule>() {
            prop_assert_eq!(rule.to_string().parse::<NetworkRule>().unwrap(), rule);
        }
    }
}
