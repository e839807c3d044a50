//! Which addresses may be connected to.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use fumehood_policy::address::{PrivateNetworks, check_address};
use std::net::IpAddr;

fn is_refused(address: &str, private: &[&str]) -> bool {
    let private = PrivateNetworks(private.iter().map(|net| net.parse().unwrap()).collect());
    check_address(address.parse::<IpAddr>().unwrap(), &private).is_err()
}

#[test]
fn public_addresses_are_reached() {
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450:4001:80b::200e",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2003::1",
        "64:ff9b::808:808",
        "2002:808:808::1",
        "::ffff:8.8.8.8",
        "2606:4700::5efe:808:808",
    ] {
        assert!(!is_refused(address, &[]), "{address}");
    }
}

#[test]
fn addresses_that_are_not_globally_routable_are_refused() {
    for address in [
        "0.0.0.0",
        "0.255.255.255",
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.0.1",
        "169.254.169.254",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.0",
        "192.0.0.192",
        "192.0.0.255",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::2",
        "100::1",
        "2001::1",
        "2001:1::1",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:1ff:ffff::1",
        "2001:db8::1",
        "3fff::1",
        "3fff:fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fdff::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "ff02::1",
        "1::1",
    ] {
        assert!(is_refused(address, &[]), "{address}");
    }
}

#[test]
fn an_address_that_embeds_a_private_one_is_refused() {
    for address in [
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::8.8.8.8",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::10.0.0.1",
        "64:ff9b:1:808:8:800::",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2002:c0a8:101::1",
        "2002:a9fe:a9fe::",
        "2001:0:808:808:0:0:f7f7:f7f7",
        "2606:4700::5efe:10.0.0.1",
        "2606:4700::200:5efe:127.0.0.1",
        "fe80::5efe:8.8.8.8",
    ] {
        assert!(is_refused(address, &[]), "{address}");
    }
}

#[test]
fn the_operators_networks_are_reached_and_no_others() {
    assert!(!is_refused("127.0.0.1", &["127.0.0.0/8"]));
    assert!(!is_refused("::ffff:127.0.0.1", &["127.0.0.0/8"]));
    assert!(!is_refused("64:ff9b::10.1.2.3", &["10.1.0.0/16"]));
    assert!(!is_refused("2002:a01:203::1", &["10.1.0.0/16"]));
    assert!(!is_refused("fd12::1", &["fd12::/16"]));
    assert!(!is_refused("::1", &["::1/128"]));
    assert!(!is_refused("64:ff9b:1::1", &["64:ff9b:1::/48"]));
    assert!(is_refused("10.2.0.1", &["10.1.0.0/16"]));
    assert!(is_refused("::1", &["127.0.0.0/8"]));
    assert!(is_refused("fd13::1", &["fd12::/16"]));
    assert!(is_refused("64:ff9b::10.2.0.1", &["10.1.0.0/16"]));
}

#[test]
fn an_ipv6_network_does_not_open_ipv4_by_its_mapped_form() {
    assert!(is_refused("::ffff:127.0.0.1", &["::/0"]));
}

#[test]
fn a_refusal_says_what_kind_of_address_it_is_and_not_which() {
    let refusal = check_address("169.254.169.254".parse().unwrap(), &PrivateNetworks::default()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the host's address is not public (link-local and cloud metadata, RFC 3927); the operator can list its network under `private_networks` in fumehood.toml"
    );
}
