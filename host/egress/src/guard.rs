//! The guard: which addresses and ports the host connects to.

use super::address::{AddressClass, address_class, embedded_v4};
use super::network::EgressNetwork;
use std::net::IpAddr;

/// Why an address or a port is refused. For the host's log, not for plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardRefusal {
    /// An address of this class, in no allowed network.
    Class(AddressClass),
    /// An address in a network that the operator denies.
    DeniedNetwork,
    /// A port that the operator denies.
    Port,
}

impl GuardRefusal {
    /// Returns the reason in a few words.
    pub fn as_str(self) -> &'static str {
        match self {
            GuardRefusal::Class(class) => class.as_str(),
            GuardRefusal::DeniedNetwork => "denied network",
            GuardRefusal::Port => "denied port",
        }
    }
}

/// Decides about addresses and ports.
#[derive(Debug, Clone, Default)]
pub struct AddressGuard {
    /// Networks that are refused, also if they are allowed.
    pub deny: Vec<EgressNetwork>,
    /// Networks that are allowed although their class is refused. A metadata address is only
    /// allowed by a network of that single address.
    pub allow: Vec<EgressNetwork>,
    /// Ports that are refused.
    pub deny_ports: Vec<u16>,
}

impl AddressGuard {
    /// Checks an address. Returns the address to connect to, which is the same one, in IPv4 if it
    /// is an IPv4-mapped one.
    ///
    /// # Errors
    /// [`GuardRefusal`] if the address, or one of IPv4 within it, is refused.
    pub fn check(&self, address: IpAddr) -> Result<IpAddr, GuardRefusal> {
        let address = address.to_canonical();
        self.check_one(address)?;
        if let IpAddr::V6(outer) = address {
            for inner in embedded_v4(outer) {
                // `::` and `::1` were checked as addresses of IPv6.
                if !outer.is_loopback() && !outer.is_unspecified() {
                    self.check_one(IpAddr::V4(inner))?;
                }
            }
        }
        Ok(address)
    }

    /// Checks a port.
    ///
    /// # Errors
    /// [`GuardRefusal::Port`].
    pub fn check_port(&self, port: u16) -> Result<(), GuardRefusal> {
        match self.deny_ports.contains(&port) {
            true => Err(GuardRefusal::Port),
            false => Ok(()),
        }
    }

    fn check_one(&self, address: IpAddr) -> Result<(), GuardRefusal> {
        let mut denied = self.deny.iter();
        if denied.any(|network| network.contains(address)) {
            return Err(GuardRefusal::DeniedNetwork);
        }
        let Some(class) = address_class(address) else {
            return Ok(());
        };
        let allows = |network: &EgressNetwork| {
            network.contains(address)
                && (class != AddressClass::Metadata || network.is_one_address())
        };
        match self.allow.iter().any(allows) {
            true => Ok(()),
            false => Err(GuardRefusal::Class(class)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(deny: &[&str], allow: &[&str]) -> AddressGuard {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        AddressGuard {
            deny: networks(deny),
            allow: networks(allow),
            deny_ports: vec![25],
        }
    }

    fn passes(guard: &AddressGuard, address: &str) -> bool {
        guard.check(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn only_public_addresses_pass_by_default() {
        let guard = guard(&[], &[]);
        for address in [
            "1.1.1.1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2606:4700::1",
        ] {
            assert!(passes(&guard, address), "{address}");
        }
        for address in [
            "127.0.0.1",
            "::1",
            "::",
            "0.0.0.0",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::1.1.1.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1.1.1.1",
            "2002:101:101::1",
            "2002:7f00:1::1",
            "2001:0:101:101::1",
            "2606:4700::5efe:10.0.0.1",
            "169.254.169.254",
            "fd00:ec2::254",
        ] {
            assert!(!passes(&guard, address), "{address}");
        }
        assert_eq!(guard.check_port(443), Ok(()));
        assert_eq!(guard.check_port(25), Err(GuardRefusal::Port));
    }

    #[test]
    fn mapped_address_is_connected_to_as_ipv4() {
        let mapped = "::ffff:1.1.1.1".parse().unwrap();
        let expected: IpAddr = "1.1.1.1".parse().unwrap();
        assert_eq!(guard(&[], &[]).check(mapped), Ok(expected));
    }

    #[test]
    fn allowed_network_passes_in_each_form() {
        let guard = guard(&[], &["10.0.0.0/8", "::1", "64:ff9b:1::/48"]);
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "::1"] {
            assert!(passes(&guard, address), "{address}");
        }
        assert!(passes(&guard, "64:ff9b:1::10.1.2.3"));
        for address in [
            "192.168.0.1",
            "127.0.0.1",
            "64:ff9b:1::127.0.0.1",
            "::10.1.2.3",
        ] {
            assert!(!passes(&guard, address), "{address}");
        }
    }

    #[test]
    fn denied_network_is_refused_although_it_is_public_or_allowed() {
        let guard = guard(&["1.1.1.0/24", "10.5.0.0/16"], &["10.0.0.0/8"]);
        for address in ["1.1.1.1", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "10.5.0.1"] {
            let refusal = guard.check(address.parse().unwrap());
            assert_eq!(refusal, Err(GuardRefusal::DeniedNetwork), "{address}");
        }
        assert!(passes(&guard, "10.4.0.1"));
    }

    #[test]
    fn metadata_address_is_allowed_alone_or_not_at_all() {
        let all = guard(&[], &["0.0.0.0/0", "::/0"]);
        for address in ["169.254.169.254", "100.100.100.200", "fd00:ec2::254"] {
            assert!(!passes(&all, address), "{address}");
        }
        assert!(passes(&all, "127.0.0.1") && passes(&all, "169.254.1.1"));
        let one = guard(&[], &["169.254.169.254/32"]);
        assert!(passes(&one, "169.254.169.254"));
    }
}
