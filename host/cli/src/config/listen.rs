//! The address that the server listens on.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// An address or a host name, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen(String);

impl Listen {
    /// Where plugins answer by default.
    pub(crate) fn public() -> Listen {
        Listen("127.0.0.1:7180".to_owned())
    }

    /// The administration address by default.
    pub(crate) fn admin() -> Listen {
        Listen("127.0.0.1:7181".to_owned())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        if text.parse::<SocketAddr>().is_ok() {
            return Ok(Listen(text.to_owned()));
        }
        let why = match text.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_err() => {
                "the port must be a number from 0 to 65535"
            }
            Some(("", _)) => "the address is empty; use 0.0.0.0 for all addresses",
            Some((name, _)) if name.contains("//") => {
                "expected an address or a host name, and a port, like 127.0.0.1:7180"
            }
            Some((name, _)) if name.contains([':', '[', ']']) => {
                "write an IPv6 address like [::1]:7180"
            }
            Some((name, _)) if name.contains(|c: char| c.is_whitespace() || c == '/') => {
                "expected an address or a host name, and a port, like 127.0.0.1:7180"
            }
            Some(_) => return Ok(Listen(text.to_owned())),
            None => "expected an address or a host name, and a port, like 127.0.0.1:7180",
        };
        Err(why.to_owned())
    }
}

impl Listen {
    /// Resolves the address. Of the addresses of a host name it returns the first, IPv4 before
    /// IPv6.
    ///
    /// # Errors
    /// If the name cannot be resolved.
    pub(crate) async fn resolve(&self) -> std::io::Result<SocketAddr> {
        let addresses = tokio::net::lookup_host(&self.0).await?;
        // So that clients of 127.0.0.1 find a server on `localhost`.
        let first = addresses.min_by_key(SocketAddr::is_ipv6);
        first.ok_or_else(|| std::io::Error::other("the name has no address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_listen_addresses_are_explained() {
        for good in ["127.0.0.1:0", "[::1]:7180", "localhost:7180"] {
            assert_eq!(good.parse::<Listen>().unwrap().to_string(), good);
        }
        for (bad, words) in [
            ("7180", "and a port"),
            ("localhost", "and a port"),
            (":7180", "0.0.0.0"),
            ("localhost:70000", "65535"),
            ("localhost:", "65535"),
            ("::1:7180", "[::1]:7180"),
            ("http://localhost:7180", "a host name"),
            ("local host:1", "a host name"),
        ] {
            let error = bad.parse::<Listen>().unwrap_err();
            assert!(error.contains(words), "{bad}: {error}");
        }
    }

    #[tokio::test]
    async fn host_name_resolution_prefers_ipv4() {
        let listen: Listen = "localhost:7180".parse().unwrap();
        let address = listen.resolve().await.unwrap();
        assert!(address.is_ipv4() && address.port() == 7180, "{address}");
    }
}
