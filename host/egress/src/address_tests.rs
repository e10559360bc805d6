use super::*;
use proptest::prelude::*;

fn class_of(text: &str) -> Option<AddressClass> {
    address_class(text.parse().unwrap())
}

#[test]
fn addresses_are_classified() {
    for (class, addresses) in [
        (Some(Loopback), &["127.0.0.1", "127.255.255.255", "::1"][..]),
        (
            Some(Private),
            &[
                "10.0.0.0",
                "10.255.255.255",
                "172.16.0.1",
                "172.31.255.255",
                "192.168.0.1",
                "fc00::1",
                "fdff::1",
                "fec0::1",
            ],
        ),
        (
            Some(LinkLocal),
            &["169.254.0.1", "169.254.255.255", "fe80::1", "febf::1"],
        ),
        (Some(Shared), &["100.64.0.1", "100.127.255.255"]),
        (
            Some(Multicast),
            &["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
        ),
        (Some(Broadcast), &["255.255.255.255"]),
        (Some(Unspecified), &["0.0.0.0", "0.1.2.3", "::"]),
        (
            Some(Benchmarking),
            &["198.18.0.1", "198.19.255.255", "2001:2::1"],
        ),
        (
            Some(Documentation),
            &[
                "192.0.2.1",
                "198.51.100.1",
                "203.0.113.255",
                "2001:db8::1",
                "3fff::1",
            ],
        ),
        (
            Some(Metadata),
            &[
                "169.254.169.254",
                "169.254.170.2",
                "168.63.129.16",
                "192.0.0.192",
                "100.100.100.200",
                "fd00:ec2::254",
                "fd20:ce::254",
            ],
        ),
        (
            Some(Translated),
            &[
                "::ffff:8.8.8.8",
                "::8.8.8.8",
                "::ffff:0:8.8.8.8",
                "64:ff9b:1::8.8.8.8",
                "2002:808:808::1",
                "2001:0:808:808::1",
            ],
        ),
        (
            Some(Reserved),
            &[
                "240.0.0.1",
                "255.255.255.254",
                "192.0.0.1",
                "192.88.99.1",
                "100::1",
                "64:ff9c::1",
                "2001:10::1",
                "2001:1ff::1",
                "3ffe::1",
                "4000::1",
                "5f00::1",
                "fe00::1",
            ],
        ),
        (
            None,
            &[
                "1.1.1.1",
                "9.255.255.255",
                "11.0.0.0",
                "100.63.255.255",
                "100.128.0.0",
                "126.255.255.255",
                "128.0.0.0",
                "169.253.255.255",
                "172.15.255.255",
                "172.32.0.0",
                "192.0.1.0",
                "192.167.255.255",
                "192.169.0.0",
                "198.17.255.255",
                "198.20.0.0",
                "223.255.255.255",
                "2001:200::1",
                "2606:4700::1111",
                "2a00:1450::1",
                "3ffd::1",
                "64:ff9b::8.8.8.8",
            ],
        ),
    ] {
        for address in addresses {
            assert_eq!(class_of(address), class, "{address}");
        }
    }
}

#[test]
fn addresses_within_addresses_are_found() {
    for (outer, inner) in [
        ("::ffff:127.0.0.1", &["127.0.0.1"][..]),
        ("::127.0.0.1", &["127.0.0.1"]),
        ("::ffff:0:10.0.0.1", &["10.0.0.1"]),
        ("64:ff9b::169.254.169.254", &["169.254.169.254"]),
        ("64:ff9b:1:2:3:4:10.0.0.1", &["10.0.0.1"]),
        ("2002:7f00:1::1", &["127.0.0.1"]),
        ("2001:0:a00:1::f5ff:fffe", &["10.0.0.1", "10.0.0.1"]),
        ("2606:4700::5efe:10.0.0.1", &["10.0.0.1"]),
        ("2606:4700::200:5efe:10.0.0.1", &["10.0.0.1"]),
        ("2606:4700::1111", &[]),
    ] {
        let found: Vec<String> = embedded_v4(outer.parse().unwrap())
            .map(|address| address.to_string())
            .collect();
        assert_eq!(found, inner, "{outer}");
    }
}

proptest! {
    /// What the standard library knows to be special has a class, and the same one.
    #[test]
    fn classes_of_ipv4_agree_with_the_standard_library(bits: u32, special in 0usize..V4.len()) {
        // Uniform addresses hit few networks, so half of them are within one.
        let (network, prefix, _) = V4[special];
        let mask = u32::MAX.checked_shr(prefix).unwrap_or(0);
        let within = u32::from(Ipv4Addr::from(network)) | (bits & mask);
        for address in [Ipv4Addr::from(bits), Ipv4Addr::from(within)] {
            let class = class_of_v4(address);
            let known = [
                (address.is_loopback(), Loopback),
                (address.is_private(), Private),
                (address.is_link_local(), LinkLocal),
                (address.is_multicast(), Multicast),
                (address.is_broadcast(), Broadcast),
                (address.is_unspecified(), Unspecified),
                (address.is_documentation(), Documentation),
            ];
            for (is, expected) in known {
                if is && class != Some(Metadata) {
                    prop_assert_eq!(class, Some(expected), "{}", address);
                }
                if class == Some(expected) && expected != Unspecified {
                    prop_assert!(is, "{}", address);
                }
            }
            if class.is_none() {
                prop_assert!(known.iter().all(|(is, _)| !is), "{}", address);
                prop_assert!(!matches!(address.octets(), [0 | 240.., ..]));
            }
        }
    }

    #[test]
    fn classes_of_ipv6_agree_with_the_standard_library(bits: u128, special in 0usize..V6.len()) {
        let (network, prefix, _) = V6[special];
        let mask = u128::MAX.checked_shr(prefix).unwrap_or(0);
        let within = u128::from(Ipv6Addr::from(network)) | (bits & mask);
        for address in [Ipv6Addr::from(bits), Ipv6Addr::from(within)] {
            let class = class_of_v6(address);
            let known = [
                (address.is_loopback(), Loopback),
                (address.is_unspecified(), Unspecified),
                (address.is_multicast(), Multicast),
                (address.is_unique_local(), Private),
                (address.is_unicast_link_local(), LinkLocal),
            ];
            for (is, expected) in known {
                if is && class != Some(Metadata) {
                    prop_assert_eq!(class, Some(expected), "{}", address);
                }
            }
            if class.is_none() {
                prop_assert!(known.iter().all(|(is, _)| !is), "{}", address);
            }
        }
    }
}
