//! Outbound requests, which a function of the test answers.

use super::faults::{Check, operate};
use super::urls::{url_origin, without_dots};
use super::{cost, declared, with};
use crate::Error;
use crate::http::{Request, Response};
use kvasm_abi::{limits, outbound};
use std::time::Duration;

/// Answers requests.
pub(crate) type Responder = Box<dyn FnMut(&Request) -> Result<Response, Error>>;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    timeout_ms: Option<u64>,
}

pub(crate) fn http_fetch(frame: &[u8]) -> Result<Vec<u8>, Error> {
    operate(Check::Nothing, || send(frame))
}

fn send(frame: &[u8]) -> Result<Vec<u8>, Error> {
    let malformed = |why: String| Error::Invalid(format!("the request is malformed: {why}"));
    let (head, body) = kvasm_abi::http::split(frame)
        .map_err(|_| malformed("it ends within its head".to_owned()))?;
    let head: Head = serde_json::from_slice(head).map_err(|e| malformed(e.to_string()))?;
    let origin = url_origin(&head.url)?;
    count()?;
    let mut headers = head.headers;
    headers.extend(headers_of_host(&headers));
    check(&head.method, &headers, body)?;
    declared::require_origin(&origin)?;
    let mut request = Request::builder(&head.method, &without_dots(&head.url)).body(body);
    for (name, value) in headers {
        request = request.header(&name, value);
    }
    if let Some(ms) = head.timeout_ms {
        request = request.timeout(Duration::from_millis(ms));
    }
    answer(request.build())?.encode().map_err(Error::Internal)
}

/// Counts a request, unless the run may not send another one.
fn count() -> Result<(), Error> {
    let context = super::current_context();
    if context.transaction && context.trigger.is_none() {
        return Err(Error::Invalid(
            "http_fetch cannot be called in a transactional function: its run may be discarded \
             and repeated, but a request cannot be taken back; write an entry, and send the \
             request in a handler of that change"
                .to_owned(),
        ));
    }
    if with(|host| host.requests.1) >= limits::FETCHES {
        let limit = limits::FETCHES;
        return Err(Error::RateLimited(format!(
            "too many outbound requests: the limit is {limit} per run"
        )));
    }
    with(|host| host.requests.1 += 1);
    cost::count_fetch();
    Ok(())
}

/// Returns the headers that the host adds to those of the plugin.
fn headers_of_host(given: &[(String, String)]) -> Vec<(String, String)> {
    let has = |name: &str| {
        let mut names = given.iter().map(|(found, _)| found);
        names.any(|found| found.eq_ignore_ascii_case(name))
    };
    let context = super::current_context();
    let mut added = Vec::new();
    if let Some(trigger) = context.trigger.filter(|_| !has("idempotency-key")) {
        added.push(("idempotency-key".to_owned(), trigger.event_id));
    }
    if let Some(parent) = context.traceparent
        && !has("traceparent")
        && !has("tracestate")
    {
        added.push(("traceparent".to_owned(), parent));
        let state = context.tracestate;
        added.extend(state.map(|state| ("tracestate".to_owned(), state)));
    }
    added
}

/// Checks a request as the host does, with its default limits.
fn check(method: &str, headers: &[(String, String)], body: &[u8]) -> Result<(), Error> {
    check_size("body", body.len(), limits::FETCH_BODY_BYTES)?;
    let sizes = headers.iter().map(|(name, value)| name.len() + value.len());
    check_size("list of headers", sizes.sum(), limits::FETCH_HEADER_BYTES)?;
    if headers.len() > limits::FETCH_HEADERS {
        return Err(Error::Invalid(format!(
            "the request has {} headers; the limit is {}",
            headers.len(),
            limits::FETCH_HEADERS
        )));
    }
    let invalid = |why: outbound::OutboundHeadError<'_>| Error::Invalid(why.to_string());
    for (name, value) in headers {
        outbound::check_header(name, value).map_err(invalid)?;
    }
    outbound::check_method(method).map_err(invalid)
}

fn check_size(what: &str, len: usize, limit: usize) -> Result<(), Error> {
    match len > limit {
        true => Err(Error::TooLarge(format!(
            "the request's {what} has {len} bytes; the limit is {limit} bytes"
        ))),
        false => Ok(()),
    }
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
