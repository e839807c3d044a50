//! Network rules and URLs. Input: a URL, a method, then rules, one a line.

use fumehood_policy::network::{Host, NetworkRule, Scheme, Target};
use std::net::IpAddr;

pub(crate) fn run(input: &[u8]) {
    let Some(mut lines) = crate::lines(input) else { return };
    let (url, method) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let target = Target::parse(method, url).ok();
    if let Some(target) = &target {
        reads_like_the_standard(target, url);
        let again = Target::parse(target.method(), &target.to_url());
        assert_eq!(again.as_ref(), Ok(target), "the normal form is read as something else");
    }
    let rules: Vec<NetworkRule> = lines.take(4).filter_map(|line| line.parse().ok()).collect();
    for rule in &rules {
        assert_eq!(
            rule.to_string().parse().as_ref(),
            Ok(rule),
            "a printed rule is another rule"
        );
        assert!(rule.covers(rule), "{rule} does not cover itself");
        for other in &rules {
            never_wider(rule, other, target.as_ref());
        }
    }
}

/// Whoever reads the same text by the URL standard arrives at the same host and port.
fn reads_like_the_standard(target: &Target, text: &str) {
    let standard = url::Url::parse(text).expect("accepted here, refused by the standard");
    let host = standard.host().map(|host| host.to_string()).unwrap_or_default();
    let ours = match target.host() {
        Host::Name(name) => name.as_str().to_owned(),
        Host::Ip(IpAddr::V4(address)) => url::Host::<&str>::Ipv4(*address).to_string(),
        Host::Ip(IpAddr::V6(address)) => url::Host::<&str>::Ipv6(*address).to_string(),
    };
    assert_eq!(ours, host.strip_suffix('.').unwrap_or(&host), "{text}");
    assert_eq!(Some(target.port()), standard.port_or_known_default(), "{text}");
    assert_eq!(
        standard.scheme(),
        match target.scheme() {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    );
    assert!(
        standard.username().is_empty() && standard.password().is_none(),
        "{text}"
    );
}

fn never_wider(wide: &NetworkRule, narrow: &NetworkRule, target: Option<&Target>) {
    let Some(target) = target else { return };
    if narrow.allows(target) {
        assert!(narrow.denies(target), "{narrow} as a denial lets pass what it allows");
        if wide.covers(narrow) {
            assert!(
                wide.allows(target),
                "{wide} covers {narrow} and refuses {}",
                target.to_url()
            );
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    crate::owned(&[
        "https://api.example.com/v1/x?q=1\nGET\nGET https://api.example.com/v1\n*.example.com\nhttps://*:*/",
        "http://127.0.0.1:8080/%2e%2e/a\nPOST\nhttp://127.0.0.1:8080\nGET,POST http://127.0.0.1:*/a",
        "https://EXAMPLE.com./a/../b\nGET\nexample.com/b\nexample.com./b",
        "https://user:pass@example.com/\nGET\nexample.com",
        "https://ex\u{3002}ample.com/\nGET\nb\u{fc}cher.example",
        "http://0x7f.1/\nGET\n*",
        "http://[::ffff:127.0.0.1]/\nGET\nhttp://[::1]:*",
        "http://[fe80::1%25eth0]/\nGET\n[64:ff9b::7f00:1]",
        "https://a.example.com:443/\\..\\b\nDELETE\nDELETE *.example.com:443",
        "https://example.com:/\t\nGET\nexample.com:*",
        "http://2130706433/\nGET\nhttp://017700000001",
    ])
}
