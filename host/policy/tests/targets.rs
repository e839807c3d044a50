//! What a request's target is, and which texts are none.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_policy::network::{Host, NetworkRule, Target, TargetError};
use proptest::prelude::*;

fn get(url: &str) -> Result<Target, TargetError> {
    Target::parse("GET", url)
}

#[test]
fn a_url_is_brought_to_one_normal_form() {
    for (url, sent) in [
        ("https://Example.COM", "https://example.com/"),
        ("HTTPS://example.com.", "https://example.com/"),
        ("https://example.com。/a", "https://example.com/a"),
        ("https://example.com:443/", "https://example.com/"),
        ("http://example.com:80/", "http://example.com/"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("https://example.com:08443/", "https://example.com:8443/"),
        ("https://Bücher.example/ä", "https://xn--bcher-kva.example/%C3%A4"),
        ("https://exa\u{ad}mple.com/", "https://example.com/"),
        ("https://ｅxample．com/", "https://example.com/"),
        ("https://example.com/a/./b/../c", "https://example.com/a/c"),
        ("https://example.com/../../x", "https://example.com/x"),
        ("https://example.com/a/%2e%2E/b", "https://example.com/b"),
        ("https://example.com/a/.%2e", "https://example.com/"),
        ("https://example.com/a/.", "https://example.com/a/"),
        ("https://example.com/%76%31/%7Ex", "https://example.com/v1/~x"),
        ("https://example.com/a%2fb%5cc", "https://example.com/a%2Fb%5Cc"),
        ("https://example.com/%252e%252ea/x", "https://example.com/%252e%252ea/x"),
        ("https://example.com/a//b", "https://example.com/a//b"),
        ("https://example.com/a\"<b>", "https://example.com/a%22%3Cb%3E"),
        ("https://example.com?a=b@c:1/..", "https://example.com/?a=b@c:1/.."),
        (
            "https://example.com/?q=100%&r='ü'",
            "https://example.com/?q=100%&r='%C3%BC'",
        ),
        (
            "https://example.com/?k={{secret:KEY}}",
            "https://example.com/?k={{secret:KEY}}",
        ),
        ("https://example.com/?", "https://example.com/?"),
        ("https://example.com/a#b@c", "https://example.com/a"),
        ("https://example.com#/..", "https://example.com/"),
        ("https://example.com/@evil.example", "https://example.com/@evil.example"),
        ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/x"),
        ("http://[2606:4700::0001]/", "http://[2606:4700::1]/"),
    ] {
        assert_eq!(get(url).map(|t| t.to_url()), Ok(sent.to_owned()), "{url}");
    }
}

#[test]
fn every_dot_that_means_a_dot_is_one() {
    // U+3002, U+FF0E, U+FF61: what IDNA reads as a full stop (UTS 46, 2.3).
    for dot in ['.', '\u{3002}', '\u{ff0e}', '\u{ff61}'] {
        for url in [
            format!("https://api{dot}example{dot}com/"),
            format!("https://API{dot}Example.com{dot}/"),
            format!("https://api.example{dot}com{dot}:443/"),
        ] {
            assert_eq!(
                get(&url).map(|t| t.to_url()),
                Ok("https://api.example.com/".to_owned()),
                "{url}"
            );
        }
        for url in [
            format!("https://api{dot}{dot}example.com/"),
            format!("https://{dot}example.com/"),
            format!("https://example.com{dot}{dot}/"),
            format!("https://{dot}/"),
        ] {
            assert!(get(&url).is_err(), "{url}");
        }
        for url in [
            format!("http://127{dot}0{dot}0{dot}1/"),
            format!("http://127.0.0.1{dot}/"),
        ] {
            let ours = get(&url);
            assert!(
                ours.is_err() || ours.is_ok_and(|t| t.to_url() == "http://127.0.0.1/"),
                "{url}"
            );
        }
    }
    // Not a full stop to anybody, whatever it looks like.
    for dot in [
        '\u{2024}',
        '\u{fe52}',
        '\u{0701}',
        '\u{06d4}',
        '\u{a4f8}',
        '\u{10a50}',
        '\u{2e}',
    ] {
        if let Ok(target) = get(&format!("https://api{dot}example{dot}com/")) {
            let host = target.host().to_string();
            assert!(
                dot == '.' || host == "api.example.com" || host.starts_with("xn--"),
                "{dot:?}: {host}"
            );
        }
    }
}

#[test]
fn a_whole_url_in_a_path_is_a_path() {
    for (url, path) in [
        ("https://example.com/https://evil.example/x", "/https://evil.example/x"),
        ("https://example.com//evil.example/x", "//evil.example/x"),
        ("https://example.com/%68ttp://u@evil.example", "/http://u@evil.example"),
        ("https://example.com/..//evil.example/", "//evil.example/"),
    ] {
        let target = get(url).unwrap();
        assert_eq!(
            (target.host().to_string().as_str(), target.path()),
            ("example.com", path),
            "{url}"
        );
    }
}

#[test]
fn a_user_name_before_the_host_is_refused() {
    for url in [
        "https://user@example.com/",
        "https://user:pass@example.com/",
        "https://example.com@evil.example/",
        "https://@example.com/",
        "https://:@example.com/",
        "https://a@b@example.com/",
        "https://example.com:443@evil.example",
    ] {
        assert_eq!(get(url), Err(TargetError::Userinfo), "{url}");
    }
    assert!(get("https://example.com%40evil.example/").is_err());
}

#[test]
fn only_http_and_https_with_two_slashes_are_requests() {
    for url in [
        "",
        "example.com",
        "//example.com",
        "/path",
        "https:example.com",
        "https:/example.com",
        "https:///example.com",
        "https://",
        "https://?x",
        "https:////example.com",
        "ftp://example.com",
        "file:///etc/passwd",
        "data:text/plain,x",
        "javascript://example.com",
        "ws://example.com",
        "blob:https://example.com/x",
        "view-source:https://example.com",
    ] {
        assert_eq!(get(url), Err(TargetError::Scheme), "{url}");
    }
}

#[test]
fn characters_that_parsers_read_differently_are_refused() {
    for url in [
        " https://example.com",
        "https://example.com ",
        "https://example.com\\@evil.example/",
        "https:\\\\example.com",
        "https://example.com/a\\..\\b",
        "https://exa\tmple.com/",
        "https://example.com/\r\nHost: evil.example",
        "https://example.com/a b",
        "https://example.com/\0",
        "https://example.com/\u{a0}",
        "\u{feff}https://example.com/",
    ] {
        assert_eq!(get(url), Err(TargetError::Character), "{url:?}");
    }
}

#[test]
fn hosts_that_are_none_are_refused() {
    for host in [
        "a..b",
        ".example.com",
        "example.com..",
        ".",
        "exa%6dple.com",
        "exam ple.com",
        "ex_ample.com:x",
        "a<b",
        "example.com:",
        "example.com:0",
        "example.com:00",
        "example.com:65536",
        "example.com:-1",
        "example.com:+80",
        "example.com:80:80",
        "[::1",
        "::1",
        "[::1]x",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[1.2.3.4]",
        "*.example.com",
        "xn--a",
        "example.com!",
        &"a".repeat(64),
        &format!("{}com", "abcdefgh.".repeat(30)),
    ] {
        assert!(get(&format!("https://{host}/")).is_err(), "{host}");
    }
}

#[test]
fn an_address_has_one_way_to_be_written() {
    for (host, means) in [
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("127.000.000.001", "127.0.0.1"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("[::ffff:a00:1]", "10.0.0.1"),
        ("[::7f00:1]", "127.0.0.1"),
        ("[64:ff9b::7f00:1]", "127.0.0.1"),
        ("[64:ff9b:1:a00:0:100::]", "10.0.0.1"),
        ("[2002:7f00:1::]", "127.0.0.1"),
        ("[2001:0:1:2:3:4:80ff:fffe]", "127.0.0.1"),
        ("[2606:4700::5efe:a00:1]", "10.0.0.1"),
        ("[2606:4700::200:5efe:a00:1]", "10.0.0.1"),
    ] {
        let error = get(&format!("http://{host}/")).unwrap_err().to_string();
        assert!(error.contains(&format!("write `{means}`")), "{host}: {error}");
    }
    assert!(matches!(get("http://127.0.0.1./").unwrap().host(), Host::Ip(_)));
    for host in ["256.1.1.1", "1.2.3.4.5", "0x100000000", "1.2.3.0x", "1.2.3.08"] {
        assert!(get(&format!("http://{host}/")).is_err(), "{host}");
    }
}

#[test]
fn a_path_that_only_some_servers_read_as_another_is_refused() {
    for path in ["/%zz", "/%", "/%4", "/a%00b", "/a%0d%0ab", "/%7f", "/%+1", "/%1g"] {
        let url = format!("https://example.com{path}");
        assert_eq!(get(&url), Err(TargetError::PathEncoding), "{path}");
    }
    for path in [
        "/v1/..%2fadmin",
        "/v1/x%2f..%2f..%2fadmin",
        "/v1/%2e%2e%5cadmin",
        "/v1/..;/admin",
        "/v1/..;x=1/admin",
        "/v1/%2e%2e%3bx%2fadmin",
        "/v1/a%2F.",
        "/v1/..%3B/admin",
        "/v1/..%3bx=1/admin",
        "/v1/%252e%252e/admin",
        "/v1/..%252Fadmin",
        "/v1/.%252e%255cadmin",
        "/v1/..%253Bx/admin",
    ] {
        let url = format!("https://example.com{path}");
        assert_eq!(get(&url), Err(TargetError::HiddenDotSegment), "{path}");
    }
    assert!(get("https://gitlab.example/api/group%2Fproject;v=1/x").is_ok());
}

#[test]
fn a_tunnel_or_an_echo_may_not_be_asked_for() {
    for method in ["CONNECT", "connect", "TRACE", "Trace", "TRACK"] {
        let error = Target::parse(method, "https://example.com/").unwrap_err();
        assert!(matches!(error, TargetError::ForbiddenMethod(_)), "{method}");
    }
    for method in ["", "GET ", "G\nT", "GÉT", "GET,POST", &"X".repeat(33)] {
        assert!(Target::parse(method, "https://example.com/").is_err(), "{method:?}");
    }
    assert_eq!(
        Target::parse("patch", "https://example.com/").unwrap().method(),
        "PATCH"
    );
}

#[test]
fn an_endless_url_is_refused() {
    let url = format!("https://example.com/{}", "a".repeat(16 * 1024));
    assert_eq!(get(&url), Err(TargetError::TooLong));
}

#[test]
fn the_parts_are_those_of_the_url_that_is_sent() {
    let target = Target::parse("post", "http://example.com:8080/a/../b?q=secret#f").unwrap();
    assert_eq!(target.method(), "POST");
    assert_eq!(target.scheme().as_str(), "http");
    assert_eq!(target.authority(), "example.com:8080");
    assert_eq!(target.port(), 8080);
    assert_eq!(target.path(), "/b");
    assert_eq!(target.query(), Some("q=secret"));
    assert_eq!(target.query_bytes(), 8);
    assert_eq!(target.path_and_query(), "/b?q=secret");
    assert_eq!(target.to_url(), "http://example.com:8080/b?q=secret");
}

#[test]
fn an_error_does_not_repeat_a_password() {
    let error = get("https://user:hunter2@example.com/").unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
}

/// Texts near a URL: the pieces on which parsers differ, in any order.
fn url_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("https://"),
        Just("http://"),
        Just("//"),
        Just("/"),
        Just("example.com"),
        Just("evil.example"),
        Just("@"),
        Just(":"),
        Just(":80"),
        Just(":443"),
        Just("."),
        Just(".."),
        Just("%2e"),
        Just("%2F"),
        Just("%5c"),
        Just("%25"),
        Just("?"),
        Just("#"),
        Just("[::1]"),
        Just("127.0.0.1"),
        Just("0x7f.1"),
        Just("\\"),
        Just("ü"),
        Just("。"),
        Just(";"),
        Just("*"),
        Just("a"),
        Just("%"),
        Just("%41"),
        Just("\t"),
        Just("xn--"),
        Just("["),
        Just("]"),
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| format!("https://{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_spelling_is_let_through_where_its_normal_form_is_not(
        url in url_like(),
        rule in prop_oneof![
            Just("https://example.com"), Just("https://example.com/a"), Just("*.example.com"), Just("https://evil.example:*"),
            Just("http://127.0.0.1"), Just("*"), Just("https://[::1]"), Just("GET https://a:80/a"),
        ],
    ) {
        let rule: NetworkRule = rule.parse().unwrap();
        if let Ok(target) = get(&url) {
            let sent = get(&target.to_url()).unwrap();
            prop_assert_eq!(rule.allows(&target), rule.allows(&sent));
            prop_assert_eq!(rule.denies(&target), rule.denies(&sent));
            // The standard's reading of the text that was asked for has the host that the rule was matched with.
            if let Ok(other) = url::Url::parse(&url) && rule.allows(&target) {
                let host: Host = other.host_str().unwrap().parse().unwrap();
                prop_assert_eq!(&host, target.host());
            }
        }
    }

    #[test]
    fn what_is_sent_parses_to_what_was_checked(url in url_like()) {
        if let Ok(target) = get(&url) {
            prop_assert_eq!(get(&target.to_url()), Ok(target));
        }
    }

    #[test]
    fn the_url_standard_reads_what_is_sent_as_we_do(url in url_like()) {
        if let Ok(target) = get(&url) {
            let other = url::Url::parse(&target.to_url()).unwrap();
            prop_assert_eq!(other.host_str().unwrap(), target.host().to_string());
            prop_assert_eq!(other.port_or_known_default(), Some(target.port()));
            prop_assert_eq!(other.path(), target.path());
            prop_assert_eq!(other.query(), target.query());
            prop_assert_eq!(other.scheme(), target.scheme().as_str());
            prop_assert!(other.username().is_empty() && other.password().is_none());
        }
    }

    #[test]
    fn the_url_standard_finds_the_same_host_in_what_was_asked(url in url_like()) {
        if let (Ok(target), Ok(other)) = (get(&url), url::Url::parse(&url)) {
            let host = other.host_str().unwrap();
            prop_assert_eq!(host.strip_suffix('.').unwrap_or(host), target.host().to_string());
            prop_assert_eq!(other.port_or_known_default(), Some(target.port()));
        }
    }

    #[test]
    fn no_accepted_url_has_userinfo_or_dot_segments(url in url_like()) {
        if let Ok(target) = get(&url) {
            let sent = target.to_url();
            let authority = sent.split('/').nth(2).unwrap();
            prop_assert!(!authority.contains('@'));
            prop_assert!(!target.path().split('/').any(|s| s == "." || s == ".."));
            prop_assert!(sent.is_ascii());
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(method in ".{0,8}", url in ".{0,60}") {
        let _ = Target::parse(&method, &url);
        let _ = Target::parse("GET", &format!("https://{url}"));
    }
}
