//! The headers with the cost of a call, for callers who ask for it and may see it.

use super::call_problem::Audience;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use kvasm_api::CostView;
use kvasm_core::Cost;

/// The cost except for times. In a request, `?1` asks for both headers.
pub(super) const KVASM_COST: HeaderName = HeaderName::from_static("kvasm-cost");
/// The CPU time.
pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Whether a request asks for the cost, and its caller may see it: those who may read the app's log,
/// which has the cost too. It must be asked for, so that a service that relays responses to its own
/// users does not disclose it by accident.
pub(super) fn is_shown(headers: &HeaderMap, audience: Audience) -> bool {
    is_asked_for(headers) && audience == Audience::LogReader
}

/// Whether the request has `Kvasm-Cost: ?1`. As RFC 9651 requires, a field that is not a single
/// boolean is ignored, and so are parameters.
fn is_asked_for(headers: &HeaderMap) -> bool {
    let mut given = headers.get_all(KVASM_COST).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return false;
    };
    let value = value.to_str().unwrap_or_default();
    value
        .split(';')
        .next()
        .is_some_and(|item| item.trim() == "?1")
}

/// Adds the headers of a call's cost.
pub(super) fn add(headers: &mut HeaderMap, cost: &Cost) {
    let cost = CostView::from(cost);
    let values = [
        (KVASM_COST, cost.field()),
        (SERVER_TIMING, cost.server_timing()),
    ];
    for (name, value) in values {
        // Names and numbers are valid in a header.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_asked_for_by_a_single_true() {
        let asks = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(KVASM_COST, value.parse().unwrap());
            }
            is_asked_for(&headers)
        };
        assert!(asks(&["?1"]));
        assert!(asks(&[" ?1;why=x"]));
        for other in [&[][..], &["?0"], &["1"], &["true"], &[""], &["?1", "?1"]] {
            assert!(!asks(other), "{other:?}");
        }
    }
}
