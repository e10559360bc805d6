//! The configuration keys of outbound HTTP.

use super::egress_text::*;
use super::keys::{Key, key};
use super::text::*;

/// The keys, in the order of the docs.
pub(super) const EGRESS_KEYS: &[Key] = &[
    key!(
        "egress.enabled",
        "true: plugins may send HTTP requests to the origins that their app grants",
        from_str,
        to_string,
        egress.enabled
    ),
    key!(
        "egress.deny",
        "addresses and networks that plugins never reach, in addition to those that are not public",
        egress_networks,
        show_egress_networks,
        egress.client.deny
    ),
    key!(
        "egress.allow_networks",
        "addresses and networks that plugins may reach although they are not public",
        egress_networks,
        show_egress_networks,
        egress.client.allow_networks
    ),
    key!(
        "egress.deny_ports",
        "ports that plugins never reach, or none",
        ports,
        show_ports,
        egress.client.deny_ports
    ),
    key!(
        "egress.roots_file",
        "PEM file of authorities that are trusted in addition to those of the web",
        path,
        show_path,
        egress.roots_file
    ),
    key!(
        "egress.request",
        "size of the body of a request",
        size,
        show_size,
        egress.client.request_bytes
    ),
    key!(
        "egress.response",
        "size of the body of a response",
        size,
        show_size,
        egress.client.response_bytes
    ),
    key!(
        "egress.connect_timeout",
        "timeout for finding the address, connecting and TLS",
        duration,
        show_duration,
        egress.client.connect_timeout
    ),
    key!(
        "egress.timeout",
        "timeout of a request, which also ends with its call",
        duration,
        show_duration,
        egress.client.timeout
    ),
    key!(
        "egress.at_once",
        "concurrent requests; further ones wait",
        at_least_1,
        to_string,
        egress.client.at_once
    ),
    key!(
        "egress.at_once_of_app",
        "concurrent requests of one app",
        at_least_1,
        to_string,
        egress.client.at_once_per_app
    ),
    key!(
        "egress.per_second",
        "requests per second of one app",
        at_least_1,
        to_string,
        egress.client.per_second
    ),
    key!(
        "egress.idle",
        "idle connections that are kept; 0 keeps none",
        from_str,
        to_string,
        egress.client.idle
    ),
    key!(
        "egress.idle_of_app",
        "idle connections that are kept for one app",
        from_str,
        to_string,
        egress.client.idle_per_app
    ),
    key!(
        "egress.idle_timeout",
        "how long an idle connection is kept",
        duration,
        show_duration,
        egress.client.idle_timeout
    ),
];
