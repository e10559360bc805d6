//! Networks that the operator names.

use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use thiserror::Error;

/// A network: an address and the length of its prefix, such as `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EgressNetwork(IpNet);

impl EgressNetwork {
    /// Returns whether the address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Returns whether it is a single address.
    pub fn is_one_address(&self) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len()
    }
}

impl fmt::Display for EgressNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is not a network.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a network; it must be an address, or an address and a prefix length with no \
     bits set beyond it, such as 10.0.0.0/8 or fd00::/8"
)]
pub struct EgressNetworkError(String);

impl FromStr for EgressNetwork {
    type Err = EgressNetworkError;

    /// Parses a network. Bits beyond the prefix are an error: `10.0.0.1/8` may be a mistake for
    /// `10.0.0.1/32`. IPv4 addresses in IPv6 are those of IPv4, which the guard compares.
    fn from_str(text: &str) -> Result<EgressNetwork, EgressNetworkError> {
        let error = || EgressNetworkError(kvasm_core::truncate(text, 64).to_owned());
        let network: IpNet = match text.contains('/') {
            true => text.parse().map_err(|_| error())?,
            false => IpNet::from(text.parse::<IpAddr>().map_err(|_| error())?),
        };
        let IpAddr::V6(address) = network.addr() else {
            return match network.trunc() == network {
                true => Ok(EgressNetwork(network)),
                false => Err(error()),
            };
        };
        if network.trunc() != network {
            return Err(error());
        }
        match (
            address.to_ipv4_mapped(),
            network.prefix_len().checked_sub(96),
        ) {
            (Some(address), Some(prefix)) => IpNet::new(IpAddr::V4(address), prefix)
                .map(EgressNetwork)
                .map_err(|_| error()),
            _ => Ok(EgressNetwork(network)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_parsed() {
        for (text, canonical) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ] {
            let network: EgressNetwork = text.parse().unwrap();
            assert_eq!(network.to_string(), canonical);
        }
        for text in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10/8",
            "x",
            "fd00::1/8",
            "10.0.0.0/",
        ] {
            assert!(text.parse::<EgressNetwork>().is_err(), "{text}");
        }
        assert!(
            "10.0.0.1"
                .parse::<EgressNetwork>()
                .unwrap()
                .is_one_address()
        );
        assert!(
            !"10.0.0.0/31"
                .parse::<EgressNetwork>()
                .unwrap()
                .is_one_address()
        );
    }
}
