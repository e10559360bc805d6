//! Requests to other servers.

use super::{Request, Response};
use crate::{Error, sys};
use serde::Serialize;

#[derive(Serialize)]
struct Head<'r> {
    method: &'r str,
    url: &'r str,
    headers: &'r [(String, String)],
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
}

/// Sends a request to another server, and returns its response, whatever its status. Redirects are
/// not followed: they are responses with a `location`.
///
/// The plugin must declare the origin of the URL, the app must grant it, and the operator of the
/// host must have enabled outbound HTTP. The URL is absolute, without a user or password. The host
/// sets `host`, `content-length` and the headers of the connection; others are the plugin's. It
/// adds `traceparent` and, in a handler of changes, schedules or timers, `idempotency-key` with the
/// id of the event, unless the plugin sets them. Bodies are sent and returned as they are, so do
/// not ask for a compressed response unless the plugin can read it.
///
/// A handler may run more than once for an event, and so may send the same request more than once:
/// after a failure, after a conflict with other writes, and if a host ends before the commit. A
/// receiver that knows the `idempotency-key` can ignore the repetition.
///
/// # Errors
/// [`Error::Denied`] if the origin is not permitted; [`Error::Invalid`] if the request is
/// malformed, or in a transactional function; [`Error::TooLarge`] if a body is over its limit;
/// [`Error::RateLimited`] if the run or the app has sent too many; [`Error::Remote`] if the server
/// cannot be reached or does not answer in time.
///
/// ```
/// use kvasm_guest::http::{self, Request, Response};
/// use kvasm_guest::{Error, testing};
/// use std::time::Duration;
///
/// fn notify(text: &str) -> Result<bool, Error> {
///     let request = Request::post("https://api.example.com/messages")
///         .header("content-type", "text/plain")
///         .timeout(Duration::from_secs(2))
///         .body(text)
///         .build();
///     Ok(http::fetch(request)?.status == 201)
/// }
///
/// testing::on_fetch(|request| {
///     assert_eq!(request.body(), b"hello");
///     Ok(Response::new(201))
/// });
/// assert_eq!(notify("hello"), Ok(true));
/// ```
pub fn fetch(request: Request) -> Result<Response, Error> {
    let Some(url) = request.url() else {
        return Err(Error::Invalid(format!(
            "the request has no server; build it with a URL such as https://api.example.com{}",
            request.path()
        )));
    };
    let head = Head {
        method: request.method(),
        url: &url,
        headers: request.header_list(),
        timeout_ms: request.timeout_ms(),
    };
    let frame = super::handler::frame(&head, request.body()).map_err(Error::Encode)?;
    drop(request);
    let answer = sys::http_fetch(&frame)?;
    Response::decode(answer).map_err(|_| Error::malformed("http_fetch"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Caller, Trigger, kv, testing};
    use std::time::Duration;

    /// Returns what the server gets for a request.
    fn seen(request: Request) -> Request {
        let (sender, receiver) = std::sync::mpsc::channel();
        testing::on_fetch(move |request| {
            sender.send(request.clone()).unwrap();
            Ok(Response::new(204))
        });
        assert_eq!(fetch(request).unwrap().status, 204);
        receiver.recv().unwrap()
    }

    #[test]
    fn request_reaches_the_responder_with_the_trace() {
        let request = Request::put("https://a.test:8443/b/c?d=e#f")
            .header("X-A", "1")
            .timeout(Duration::from_millis(1_500))
            .body("body")
            .build();
        let seen = seen(request);
        assert_eq!(
            (seen.method(), seen.path(), seen.query()),
            ("PUT", "/b/c", "d=e")
        );
        assert_eq!(seen.url().as_deref(), Some("https://a.test:8443/b/c?d=e"));
        assert_eq!((seen.header("x-a"), seen.body()), (Some("1"), &b"body"[..]));
        assert!(seen.header("traceparent").is_some());
        assert_eq!(seen.header("idempotency-key"), None);
    }

    #[test]
    fn handler_adds_the_event_unless_the_plugin_has_a_key() {
        let mut context = crate::context().unwrap();
        context.caller = Caller::Trigger;
        context.transaction = true;
        context.trigger = Some(Trigger {
            name: "t".to_owned(),
            event_id: "event".to_owned(),
            attempt: 1,
            depth: 1,
        });
        testing::set_context(context);
        let with_key = seen(Request::get("https://a.test").build());
        assert_eq!(with_key.header("idempotency-key"), Some("event"));
        let own = Request::get("https://a.test")
            .header("Idempotency-Key", "own")
            .header("tracestate", "a=b")
            .build();
        let own = seen(own);
        assert_eq!(own.header("idempotency-key"), Some("own"));
        assert_eq!(own.header("traceparent"), None);
    }

    #[test]
    fn transactional_function_cannot_fetch() {
        let mut context = crate::context().unwrap();
        context.transaction = true;
        testing::set_context(context);
        testing::on_fetch(|_| panic!("it was sent"));
        let error = fetch(Request::get("https://a.test").build()).unwrap_err();
        assert!(
            error.to_string().contains("transactional function"),
            "{error}"
        );
    }

    #[test]
    fn request_without_a_server_or_a_responder_is_an_error() {
        let error = fetch(Request::get("/a").build()).unwrap_err();
        assert!(
            error.to_string().contains("https://api.example.com/a"),
            "{error}"
        );
        let error = fetch(Request::get("https://a.test/").build()).unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{error}");
    }

    #[test]
    fn responder_may_use_the_store_and_is_counted() {
        testing::on_fetch(|request| {
            kv::collection("seen").increment(request.path(), 1)?;
            Ok(Response::new(200))
        });
        let get = || fetch(Request::get("https://a.test/x").build());
        let (_, cost) = testing::cost_of(|| (get().unwrap(), get().unwrap()));
        assert_eq!(cost.fetches, 2);
        assert_eq!(kv::collection("seen").get("/x"), Ok(Some(2)));
    }
}
