//! Outbound requests, which a function of the test answers.

use super::faults::{Check, operate};
use super::{cost, declared, with};
use crate::Error;
use crate::http::{Request, Response};
use std::time::Duration;

/// The maximum number of requests of a run. As on the host by default.
const FETCHES_MAX: u32 = 32;

/// Answers requests.
pub(crate) type Responder = Box<dyn FnMut(&Request) -> Result<Response, Error>>;

#[derive(serde::Deserialize)]
struct Head {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    timeout_ms: Option<u64>,
}

pub(crate) fn http_fetch(frame: &[u8]) -> Result<Vec<u8>, Error> {
    operate(Check::Nothing, || send(frame))
}

fn send(frame: &[u8]) -> Result<Vec<u8>, Error> {
    let context = super::current_context();
    if context.transaction && context.trigger.is_none() {
        return Err(Error::Invalid(
            "http_fetch cannot be called in a transactional function: its run may be discarded \
             and repeated, but a request cannot be taken back; write an entry, and send the \
             request in a handler of that change"
                .to_owned(),
        ));
    }
    if with(|host| host.requests.1) >= FETCHES_MAX {
        return Err(Error::RateLimited(format!(
            "too many outbound requests: the limit is {FETCHES_MAX} per run"
        )));
    }
    with(|host| host.requests.1 += 1);
    let malformed = |why: String| Error::Invalid(format!("the request is malformed: {why}"));
    let (head, body) = kvasm_abi::http::split(frame)
        .map_err(|_| malformed("it ends within its head".to_owned()))?;
    let head: Head = serde_json::from_slice(head).map_err(|e| malformed(e.to_string()))?;
    declared::require_origin(&head.url)?;
    let mut request = Request::builder(&head.method, &head.url).body(body);
    let has = |name: &str| head.headers.iter().any(|(found, _)| found == name);
    let (has_key, has_trace) = (
        has("idempotency-key"),
        has("traceparent") || has("tracestate"),
    );
    for (name, value) in head.headers {
        request = request.header(&name, value);
    }
    if let Some(trigger) = context.trigger.filter(|_| !has_key) {
        request = request.header("idempotency-key", trigger.event_id);
    }
    if let Some(parent) = context.traceparent.filter(|_| !has_trace) {
        request = request.header("traceparent", parent);
        if let Some(state) = context.tracestate {
            request = request.header("tracestate", state);
        }
    }
    if let Some(ms) = head.timeout_ms {
        request = request.timeout(Duration::from_millis(ms));
    }
    cost::count_fetch();
    answer(request.build())?.encode().map_err(Error::Internal)
}

/// Returns the test's answer to a request.
pub(super) fn answer(request: Request) -> Result<Response, Error> {
    with(|host| host.requests.0.push(request.clone()));
    // Taken out while it runs: it may use the host itself.
    let Some(mut responder) = with(|host| host.responder.take()) else {
        return Err(Error::Denied(
            "not permitted: no requests are expected; set a responder with \
             kvasm_guest::testing::on_fetch"
                .to_owned(),
        ));
    };
    let response = responder(&request);
    with(|host| {
        host.responder.get_or_insert(responder);
    });
    response
}

/// Sets the function that answers requests.
pub(crate) fn on_fetch(responder: Responder) {
    with(|host| host.responder = Some(responder));
}

/// Begins a run, which may send as many requests as the limit allows.
pub(crate) fn begin_fetches() {
    with(|host| host.requests.1 = 0);
}

/// Returns the requests that were sent, the earliest first.
pub(crate) fn requests() -> Vec<Request> {
    with(|host| host.requests.0.clone())
}
