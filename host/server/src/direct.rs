//! Requests to a plugin that no server receives: for programs that run its HTTP handler themselves.

use super::calls::{RequestHead, encode_request_head, parse_response};
use super::plugin_headers::{self, PageOrigin};
use axum::http::header::HOST;
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;

/// Returns the input of a plugin's HTTP handler for a request, as it would be at a host name of the
/// app: the path is the plugin's own. `None` if the head is over 4 GiB.
pub fn handler_input(request: &Parts, body: &[u8]) -> Option<Vec<u8>> {
    let authority = request.headers.get(HOST);
    let head = RequestHead {
        method: request.method.as_str(),
        path: request.uri.path(),
        query: request.uri.query().unwrap_or_default(),
        headers: plugin_headers::of_request(&request.headers, None),
        mount: String::new(),
        scheme: "http",
        authority: authority.and_then(|host| host.to_str().ok().map(str::to_owned)),
        client: None,
    };
    let mut input = encode_request_head(&head).ok()?;
    input.extend_from_slice(body);
    Some(input)
}

/// Returns the response in the output of a plugin's HTTP handler, with the headers that a server would
/// send from a host name of the app.
///
/// # Errors
/// Why it is not a valid response.
pub fn handler_response(output: Vec<u8>) -> Result<Response, String> {
    parse_response(Bytes::from(output), &PageOrigin::Own)
}
