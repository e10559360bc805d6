//! The classes of addresses, as of the registries of special-purpose addresses of IANA.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not part of the public internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressClass {
    /// This machine.
    Loopback,
    /// A private network.
    Private,
    /// Addresses that are valid on one link only.
    LinkLocal,
    /// Addresses behind the NAT of a provider.
    Shared,
    /// Groups of receivers.
    Multicast,
    /// All hosts of a link.
    Broadcast,
    /// No address; systems connect to themselves.
    Unspecified,
    /// Benchmarks of network devices.
    Benchmarking,
    /// Examples in documents.
    Documentation,
    /// Services of a cloud that give out the credentials of the machine.
    Metadata,
    /// Addresses of IPv6 that stand for one of IPv4 behind a tunnel or a translator.
    Translated,
    /// Addresses of protocols, and those that are not assigned.
    Reserved,
}

impl AddressClass {
    /// Returns the class in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            AddressClass::Loopback => "loopback",
            AddressClass::Private => "private",
            AddressClass::LinkLocal => "link-local",
            AddressClass::Shared => "shared",
            AddressClass::Multicast => "multicast",
            AddressClass::Broadcast => "broadcast",
            AddressClass::Unspecified => "unspecified",
            AddressClass::Benchmarking => "benchmarking",
            AddressClass::Documentation => "documentation",
            AddressClass::Metadata => "metadata",
            AddressClass::Translated => "translated",
            AddressClass::Reserved => "reserved",
        }
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

use AddressClass::*;

/// Networks of IPv4: the first four bytes, the length of the prefix, and the class. The first
/// match counts.
const V4: &[([u8; 4], u32, AddressClass)] = &[
    // AWS, Azure, Google, Oracle and others; Azure's wire server; Oracle; Alibaba.
    ([169, 254, 169, 254], 32, Metadata),
    ([169, 254, 170, 2], 32, Metadata),
    ([168, 63, 129, 16], 32, Metadata),
    ([192, 0, 0, 192], 32, Metadata),
    ([100, 100, 100, 200], 32, Metadata),
    ([0, 0, 0, 0], 8, Unspecified),
    ([10, 0, 0, 0], 8, Private),
    ([100, 64, 0, 0], 10, Shared),
    ([127, 0, 0, 0], 8, Loopback),
    ([169, 254, 0, 0], 16, LinkLocal),
    ([172, 16, 0, 0], 12, Private),
    ([192, 0, 0, 0], 24, Reserved),
    ([192, 0, 2, 0], 24, Documentation),
    ([192, 88, 99, 0], 24, Reserved),
    ([192, 168, 0, 0], 16, Private),
    ([198, 18, 0, 0], 15, Benchmarking),
    ([198, 51, 100, 0], 24, Documentation),
    ([203, 0, 113, 0], 24, Documentation),
    ([224, 0, 0, 0], 4, Multicast),
    ([255, 255, 255, 255], 32, Broadcast),
    ([240, 0, 0, 0], 4, Reserved),
];

/// Networks of IPv6: the first eight groups, the length of the prefix, and the class; none if it is
/// public. The first match counts. What none matches is not assigned.
const V6: &[([u16; 8], u32, Option<AddressClass>)] = &[
    // AWS and Google.
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, Some(Metadata)),
    ([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, Some(Metadata)),
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, Some(Unspecified)),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, Some(Loopback)),
    // IPv4-mapped, IPv4-compatible, and IPv4-translated.
    ([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, Some(Translated)),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, Some(Translated)),
    ([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, Some(Translated)),
    // NAT64: how networks with IPv6 alone reach public addresses of IPv4, which are checked too.
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, None),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Some(Translated)),
    // Teredo.
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, Some(Translated)),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, Some(Benchmarking)),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Some(Reserved)),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Some(Documentation)),
    // 6to4.
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, Some(Translated)),
    ([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16, Some(Reserved)),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Some(Documentation)),
    ([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, None),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Some(Private)),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Some(Private)),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Some(LinkLocal)),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Some(Multicast)),
];

/// Returns the class of an address; none if it is public. Addresses of IPv4 within those of IPv6
/// are not classified: [`embedded_v4`] returns them.
pub fn address_class(address: IpAddr) -> Option<AddressClass> {
    match address {
        IpAddr::V4(address) => class_of_v4(address),
        IpAddr::V6(address) => class_of_v6(address),
    }
}

fn class_of_v4(address: Ipv4Addr) -> Option<AddressClass> {
    let bits = u32::from(address);
    let is_in = |network: [u8; 4], prefix| {
        let differing = bits ^ u32::from(Ipv4Addr::from(network));
        differing.leading_zeros() >= prefix
    };
    let mut all = V4.iter();
    all.find(|(network, prefix, _)| is_in(*network, *prefix))
        .map(|(_, _, class)| *class)
}

fn class_of_v6(address: Ipv6Addr) -> Option<AddressClass> {
    let bits = u128::from(address);
    let is_in = |network: [u16; 8], prefix| {
        let differing = bits ^ u128::from(Ipv6Addr::from(network));
        differing.leading_zeros() >= prefix
    };
    let mut all = V6.iter();
    all.find(|(network, prefix, _)| is_in(*network, *prefix))
        .map_or(Some(Reserved), |(_, _, class)| *class)
}

/// Returns the addresses of IPv4 that an address of IPv6 contains, in each of the standard forms.
pub fn embedded_v4(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    let last = of(g, h);
    let is_translated = matches!(
        (a, b, c, d, e, f),
        (0, 0, 0, 0, 0, 0 | 0xffff) | (0, 0, 0, 0, 0xffff, 0)
    );
    let is_nat64 = a == 0x64 && b == 0xff9b;
    // ISATAP has it in the lower half, below any prefix.
    let is_isatap = matches!(e, 0 | 0x200) && f == 0x5efe;
    let ends_with = is_translated || is_nat64 || is_isatap;
    let six_to_four = (a == 0x2002).then(|| of(b, c));
    let teredo = a == 0x2001 && b == 0;
    let teredo_server = teredo.then(|| of(c, d));
    let teredo_client = teredo.then(|| of(!g, !h));
    [
        ends_with.then_some(last),
        six_to_four,
        teredo_server,
        teredo_client,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
