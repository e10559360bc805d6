//! Parsing and printing of networks and ports.

use kvasm::egress::EgressNetwork;

/// Networks, separated by commas.
pub(super) fn egress_networks(text: &str) -> Result<Vec<EgressNetwork>, String> {
    list(text)
}

pub(super) fn show_egress_networks(networks: &[EgressNetwork]) -> String {
    show_list(networks)
}

/// Ports, separated by commas.
pub(super) fn ports(text: &str) -> Result<Vec<u16>, String> {
    list(text)
}

pub(super) fn show_ports(ports: &[u16]) -> String {
    show_list(ports)
}

fn list<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Vec<T>, String> {
    match text {
        "none" => Ok(Vec::new()),
        text => text
            .split(',')
            .map(|part| super::text::from_str(part.trim()))
            .collect(),
    }
}

fn show_list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "none".to_owned(),
        some => {
            let texts: Vec<_> = some.iter().map(T::to_string).collect();
            texts.join(", ")
        }
    }
}
