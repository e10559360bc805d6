//! The configuration keys of OpenTelemetry.

use super::keys::{Key, key};
use super::text::*;

/// The keys, in the order of the docs.
pub(super) const OTEL_KEYS: &[Key] = &[
    key!(
        "otel.endpoint",
        "base URL of an OpenTelemetry collector that gets traces and metrics by OTLP over HTTP; or none",
        otlp_url,
        show_limit,
        otel.endpoint
    ),
    key!(
        "otel.spans_per_second",
        "rate of spans beyond which no further trace is recorded; half of it is shared equally among apps",
        at_least_1,
        to_string,
        otel.spans_per_second
    ),
];
