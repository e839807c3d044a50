//! Which addresses may be connected to: globally routable ones, and what the operator lists.
//!
//! The table follows the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890) and adds what is
//! host-internal in practice. IPv6 is open only inside `2000::/3`, the one range assigned as global unicast.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks that are not public and may be reached all the same: the operator's `private_networks`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateNetworks(#[serde(deserialize_with = "networks")] pub Vec<IpNet>);

/// Each by its text, so that a fault names it and says what is accepted.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    struct Network(IpNet);
    impl<'de> Deserialize<'de> for Network {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            text.parse().map(Self).map_err(|_| {
                let text = crate::text_serde::shown(&text);
                D::Error::custom(format!(
                    "`{text}` is not a network; write an address and the length of its prefix, as in `10.0.0.0/8`"
                ))
            })
        }
    }
    let networks = Vec::<Network>::deserialize(deserializer)?;
    Ok(networks.into_iter().map(|Network(network)| network).collect())
}

impl PrivateNetworks {
    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&address))
    }
}

/// Why an address may not be connected to. The words leave the address out: a guest could map an internal
/// network by asking names and reading refusals.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the host's address is not public ({kind}); the operator can list its network under `private_networks` in fumehood.toml"
)]
pub struct AddressRefusal {
    /// The address, as it was resolved or written.
    pub address: IpAddr,
    /// What kind of address it is, in words.
    pub kind: &'static str,
}

/// Refuses every address that is not globally routable, unless `private` lists it.
///
/// An IPv6 address that embeds an IPv4 address (mapped, NAT64, 6to4) counts as that IPv4 address.
///
/// # Errors
/// When the address may not be connected to.
pub fn check_address(address: IpAddr, private: &PrivateNetworks) -> Result<(), AddressRefusal> {
    // THREAT[T-net-ssrf]: the address decides, not the name; THREAT[T-net-rebinding]: callers connect to
    // the very address that was checked here.
    let refusal = match address {
        IpAddr::V4(ip) => refused_v4(ip, private),
        IpAddr::V6(ip) => refused_v6(ip, private),
    };
    match refusal {
        Some(kind) => Err(AddressRefusal { address, kind }),
        None => Ok(()),
    }
}

fn refused_v4(ip: Ipv4Addr, private: &PrivateNetworks) -> Option<&'static str> {
    if private.contains(ip.into()) {
        return None;
    }
    NOT_PUBLIC_V4
        .iter()
        .find(|(net, _)| net.contains(&ip))
        .map(|(_, kind)| *kind)
}

fn refused_v6(ip: Ipv6Addr, private: &PrivateNetworks) -> Option<&'static str> {
    if let Some(v4) = ip.to_ipv4_mapped() {
        return refused_v4(v4, private);
    }
    if private.contains(ip.into()) {
        return None;
    }
    if NAT64.contains(&ip) || SIX_TO_FOUR.contains(&ip) {
        return embedded_ipv4(ip).map_or(Some("transition address"), |v4| refused_v4(v4, private));
    }
    if let Some((_, kind)) = NOT_PUBLIC_V6.iter().find(|(net, _)| net.contains(&ip)) {
        return Some(kind);
    }
    if !GLOBAL_UNICAST.contains(&ip) {
        return Some("outside the range assigned as global unicast, RFC 4291");
    }
    // An ISATAP address ends in the IPv4 address of the host behind the prefix's router.
    isatap(ip).and_then(|v4| refused_v4(v4, private))
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, NAT64, 6to4, Teredo (the client's),
/// ISATAP. `::` and `::1` stand for themselves.
#[must_use]
pub fn embedded_ipv4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let bytes = ip.octets();
    let v4_at = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
    if ip.to_ipv4_mapped().is_some() || NAT64.contains(&ip) {
        Some(v4_at(12))
    } else if NAT64_LOCAL.contains(&ip) {
        // RFC 6052 for a /48: two bytes, the `u` byte, two bytes.
        Some(Ipv4Addr::new(bytes[6], bytes[7], bytes[9], bytes[10]))
    } else if SIX_TO_FOUR.contains(&ip) {
        Some(v4_at(2))
    } else if TEREDO.contains(&ip) {
        Some(Ipv4Addr::from(!u32::from(v4_at(12))))
    } else if COMPATIBLE.contains(&ip) && !ip.is_unspecified() && !ip.is_loopback() {
        Some(v4_at(12))
    } else {
        isatap(ip)
    }
}

/// RFC 5214: the interface identifier is `0000:5efe` or `0200:5efe` and the IPv4 address.
fn isatap(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., s4, s5, high, low] = ip.segments();
    ((s4 & !0x0200) == 0 && s5 == 0x5efe).then(|| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(s0: u16, s1: u16, s2: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(s0, s1, s2, 0, 0, 0, 0, 0), prefix)
}

const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);
const NAT64_LOCAL: Ipv6Net = v6(0x64, 0xff9b, 1, 48);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 0, 16);
const TEREDO: Ipv6Net = v6(0x2001, 0, 0, 32);
const COMPATIBLE: Ipv6Net = v6(0, 0, 0, 96);
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);

const NOT_PUBLIC_V4: [(Ipv4Net, &str); 17] = [
    (v4(0, 0, 0, 0, 8), "this network, RFC 791"),
    (v4(10, 0, 0, 0, 8), "private, RFC 1918"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT, RFC 6598"),
    (v4(127, 0, 0, 0, 8), "loopback, RFC 1122"),
    // 168.63.129.16 is globally unique and yet always the virtual machine's own host on Azure.
    (v4(168, 63, 129, 16, 32), "metadata service of a cloud"),
    (v4(169, 254, 0, 0, 16), "link-local and cloud metadata, RFC 3927"),
    (v4(172, 16, 0, 0, 12), "private, RFC 1918"),
    (v4(192, 0, 0, 0, 24), "protocol assignments, RFC 6890"),
    (v4(192, 0, 2, 0, 24), "documentation, RFC 5737"),
    (v4(192, 88, 99, 0, 24), "6to4 relay anycast, RFC 7526"),
    (v4(192, 168, 0, 0, 16), "private, RFC 1918"),
    (v4(198, 18, 0, 0, 15), "benchmarking, RFC 2544"),
    (v4(198, 51, 100, 0, 24), "documentation, RFC 5737"),
    (v4(203, 0, 113, 0, 24), "documentation, RFC 5737"),
    (v4(224, 0, 0, 0, 4), "multicast, RFC 5771"),
    (v4(255, 255, 255, 255, 32), "broadcast, RFC 919"),
    (v4(240, 0, 0, 0, 4), "reserved, RFC 1112"),
];

const NOT_PUBLIC_V6: [(Ipv6Net, &str); 14] = [
    (v6(0, 0, 0, 96), "unspecified, loopback or IPv4-compatible, RFC 4291"),
    (NAT64_LOCAL, "local-use NAT64, RFC 8215"),
    (v6(0x100, 0, 0, 64), "discard-only, RFC 6666"),
    (TEREDO, "Teredo, RFC 4380"),
    (v6(0x2001, 2, 0, 48), "benchmarking, RFC 5180"),
    (v6(0x2001, 0x10, 0, 28), "ORCHID, RFC 4843"),
    (v6(0x2001, 0x20, 0, 28), "ORCHIDv2, RFC 7343"),
    (v6(0x2001, 0, 0, 23), "protocol assignments, RFC 2928"),
    (v6(0x2001, 0xdb8, 0, 32), "documentation, RFC 3849"),
    (v6(0x3fff, 0, 0, 20), "documentation, RFC 9637"),
    (v6(0x5f00, 0, 0, 16), "segment routing, RFC 9602"),
    (v6(0xfc00, 0, 0, 7), "unique local, RFC 4193"),
    (v6(0xfe80, 0, 0, 10), "link-local, RFC 4291"),
    (v6(0xff00, 0, 0, 8), "multicast, RFC 4291"),
];
