//! `http_fetch`.

use super::fault::Fault;
use super::kv::{async_function, at};
use super::memory::Guest;
use super::state::{GuestState, GuestView, HostCalls};
use bytes::Bytes;
use kvasm_abi::{MODULE, Status, http};
use kvasm_core::{HttpUrl, Subject, TraceContext, display_truncated};
use kvasm_service::{
    OutboundCaller, OutboundError, OutboundRequest, OutboundResponse, OutboundSpan, Stage,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use wasmtime::{Caller, Linker};

/// How much of the reason of a malformed head an error shows, in bytes.
const SHOWN_BYTES_MAX: usize = 256;

pub(super) fn link<T: GuestView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    async_function!(linker, "http_fetch", http_fetch, (request, len, out, cap));
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FetchHead {
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    timeout_ms: Option<u64>,
}

#[derive(Serialize)]
struct FetchedHead<'r> {
    status: u16,
    headers: &'r [(String, String)],
}

async fn http_fetch<T: GuestView>(
    guest: &mut Guest<'_, T>,
    request: i32,
    len: i32,
    out: i32,
    cap: i32,
) -> Result<i64, Fault> {
    let out = at(out, cap);
    guest.check("out", out)?;
    let limit = guest.state().limits.output_bytes;
    let frame = guest.read_large("request", Subject::Request, at(request, len), limit);
    let frame = frame.await?;
    let mut request = decode(frame)?;
    let state = guest.state();
    count(state)?;
    let recorder = state.context.caller.recorder();
    let span = OutboundSpan::start(recorder, &request.method, request.url.origin());
    let trace = span.as_ref().and_then(OutboundSpan::trace);
    let trace = trace.as_ref().or(state.context.caller.trace());
    add_headers(state, trace, &mut request.headers);
    let (outbound, permissions) = (state.services.outbound.clone(), state.settings.clone());
    let (app, app_name) = (state.context.caller.app(), state.app_name.clone());
    let caller = OutboundCaller {
        app,
        app_name: &app_name,
        permissions: &permissions,
        deadline: state.context.deadline.at(),
    };
    let fetch = outbound.fetch(caller, request);
    let response = state.meter.exclude_in(Stage::Fetching, fetch).await;
    if let Some(span) = span {
        span.end(&response);
    }
    let answer = encode(&response?)?;
    guest.acquire_cpu_permit(answer.len()).await;
    guest.answer(out, answer)
}

/// Counts a request, unless the run may not send another one.
fn count(state: &mut GuestState) -> Result<(), Fault> {
    if state
        .transactions
        .forbids_requests(state.delivery.is_some())
    {
        return Err(Fault::Status(
            Status::Invalid,
            "http_fetch cannot be called in a transactional function: its run may be discarded \
             and repeated, but a request cannot be taken back; write an entry, and send the \
             request in a handler of that change"
                .to_owned(),
        ));
    }
    let limit = state.limits.fetches;
    if state.used.fetches >= u64::from(limit) {
        return Err(Fault::Status(
            Status::RateLimited,
            format!("too many outbound requests: the limit is {limit} per run"),
        ));
    }
    state.used.fetches += 1;
    Ok(())
}

fn malformed(why: &dyn std::fmt::Display) -> Fault {
    Fault::Status(
        Status::Invalid,
        format!(
            "the request is malformed: {}",
            display_truncated(why, SHOWN_BYTES_MAX)
        ),
    )
}

/// Decodes the frame of a request.
fn decode(frame: Vec<u8>) -> Result<OutboundRequest, Fault> {
    let frame = Bytes::from(frame);
    let (head, body) = http::split(&frame).map_err(|_| malformed(&"it ends within its head"))?;
    let body = frame.slice_ref(body);
    let head: FetchHead = serde_json::from_slice(head).map_err(|error| malformed(&error))?;
    Ok(OutboundRequest {
        method: head.method,
        url: HttpUrl::parse(&head.url)?,
        headers: head.headers,
        body,
        timeout: head.timeout_ms.map(Duration::from_millis),
    })
}

/// Decodes the frame of a request, or returns the status of the error.
#[cfg(feature = "fuzzing")]
pub fn fuzz_fetch(frame: Vec<u8>) -> Result<OutboundRequest, Option<Status>> {
    decode(frame).map_err(|fault| match fault {
        Fault::Status(status, _) => Some(status),
        Fault::Host(..) | Fault::Trap(_) => None,
    })
}

/// Adds the headers that a plugin may set itself: the trace, and, in a handler, a key by
/// which the receiver can recognise a repetition.
fn add_headers(
    state: &GuestState,
    trace: Option<&TraceContext>,
    headers: &mut Vec<(String, String)>,
) {
    let has = |headers: &[(String, String)], name: &str| {
        let mut names = headers.iter().map(|(name, _)| name);
        names.any(|found| found.eq_ignore_ascii_case(name))
    };
    if let Some(delivery) = &state.delivery
        && !has(headers, "idempotency-key")
    {
        headers.push(("idempotency-key".to_owned(), delivery.event_id.to_string()));
    }
    // A state belongs to its parent, so a plugin that sets one has to set both.
    if let Some(trace) = trace
        && !has(headers, "traceparent")
        && !has(headers, "tracestate")
    {
        headers.push(("traceparent".to_owned(), trace.parent()));
        let trace_state = trace.state().map(str::to_owned);
        headers.extend(trace_state.map(|state| ("tracestate".to_owned(), state)));
    }
}

/// Encodes the frame of a response.
fn encode(response: &OutboundResponse) -> Result<Vec<u8>, Fault> {
    let head = FetchedHead {
        status: response.status,
        headers: &response.headers,
    };
    let internal = || {
        Fault::Status(
            Status::Internal,
            "the response cannot be encoded".to_owned(),
        )
    };
    let head = serde_json::to_vec(&head).map_err(|_| internal())?;
    let prefix = http::prefix(head.len()).ok_or_else(internal)?;
    Ok([&prefix, head.as_slice(), &response.body].concat())
}

impl From<OutboundError> for Fault {
    fn from(error: OutboundError) -> Fault {
        let status = match error {
            OutboundError::Invalid(_) => Status::Invalid,
            OutboundError::RequestTooLarge { .. } | OutboundError::ResponseTooLarge { .. } => {
                Status::TooLarge
            }
            OutboundError::Denied(_) | OutboundError::Off | OutboundError::Refused { .. } => {
                Status::Denied
            }
            OutboundError::Rate { .. } | OutboundError::Busy => Status::RateLimited,
            OutboundError::Name { .. }
            | OutboundError::Connect { .. }
            | OutboundError::Tls { .. }
            | OutboundError::Timeout { .. }
            | OutboundError::Broken { .. } => Status::Remote,
            OutboundError::Permissions(error) => return Fault::from(error),
        };
        Fault::Status(status, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(head: &str, body: &str) -> Vec<u8> {
        let prefix = http::prefix(head.len()).unwrap();
        [&prefix, head.as_bytes(), body.as_bytes()].concat()
    }

    #[test]
    fn request_frame_is_decoded() {
        let head =
            r#"{"method":"PUT","url":"https://a.test/b?c","headers":[["x","1"]],"timeout_ms":5}"#;
        let request = decode(frame(head, "body")).unwrap();
        assert_eq!(request.method, "PUT");
        assert_eq!(request.url.to_string(), "https://a.test/b?c");
        assert_eq!(request.headers, [("x".to_owned(), "1".to_owned())]);
        assert_eq!(request.body, "body");
        assert_eq!(request.timeout, Some(Duration::from_millis(5)));
        let least = r#"{"method":"GET","url":"http://a.test"}"#;
        let request = decode(frame(least, "")).unwrap();
        assert_eq!((request.headers.len(), request.timeout), (0, None));
    }

    #[test]
    fn malformed_request_frame_is_invalid() {
        for frame in [
            Vec::new(),
            b"\x09\0\0\0{}".to_vec(),
            frame("", ""),
            frame("[]", ""),
            frame("{}", ""),
            frame(r#"{"method":"GET"}"#, ""),
            frame(r#"{"method":"GET","url":"/a"}"#, ""),
            frame(r#"{"method":"GET","url":"https://u@a.test"}"#, ""),
            frame(
                r#"{"method":"GET","url":"https://a.test","redirect":true}"#,
                "",
            ),
            frame(
                r#"{"method":"GET","url":"https://a.test","timeout_ms":-1}"#,
                "",
            ),
            frame(
                r#"{"method":"GET","url":"https://a.test","headers":[["a"]]}"#,
                "",
            ),
        ] {
            let fault = decode(frame.clone()).unwrap_err();
            assert!(
                matches!(fault, Fault::Status(Status::Invalid, _)),
                "{frame:?}"
            );
        }
    }

    #[test]
    fn response_frame_has_its_head_and_body() {
        let response = OutboundResponse {
            status: 404,
            headers: vec![("a".to_owned(), "é\"".to_owned())],
            body: Bytes::from_static(b"\xff"),
        };
        let frame = encode(&response).unwrap();
        let (head, body) = http::split(&frame).unwrap();
        let expected = r#"{"status":404,"headers":[["a","é\""]]}"#;
        assert_eq!((head, body), (expected.as_bytes(), &b"\xff"[..]));
    }
}
