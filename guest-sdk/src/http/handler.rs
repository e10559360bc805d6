//! The return types of HTTP handlers, and the code that runs a handler.

use super::{Request, Response};
use serde::Serialize;
use std::fmt::Display;

/// A type that an HTTP handler can return: a [`Response`], or a `Result` of one and a
/// displayable error, or of two responses, of which the client receives the one that there is.
#[diagnostic::on_unimplemented(
    message = "an HTTP handler cannot return `{Self}`",
    label = "not a response",
    note = "return `kvasm_guest::http::Response`, or a `Result<Response, E>` where `E` is a `Response` or `std::fmt::Display`"
)]
pub trait IntoResponse {
    /// Returns the response, or the message of a failure.
    ///
    /// # Errors
    /// A message, which the client does not receive.
    fn into_response(self) -> Result<Response, String>;
}

impl IntoResponse for Response {
    fn into_response(self) -> Result<Response, String> {
        Ok(self)
    }
}

impl<T: IntoResponse, E: Display> IntoResponse for Result<T, E> {
    fn into_response(self) -> Result<Response, String> {
        self.map_err(|e| e.to_string())?.into_response()
    }
}

impl IntoResponse for Result<Response, Response> {
    fn into_response(self) -> Result<Response, String> {
        Ok(self.unwrap_or_else(|response| response))
    }
}

/// A type that an HTTP handler can take: a [`Request`]. It exists only for the compiler's
/// message.
#[diagnostic::on_unimplemented(
    message = "an HTTP handler cannot take `{Self}`",
    label = "not a request",
    note = "take `kvasm_guest::http::Request`"
)]
pub trait HandlerArgument: From<Request> {}

impl HandlerArgument for Request {}

/// Runs the handler on the input.
pub fn run_http<A: HandlerArgument, R: IntoResponse>(handler: impl FnOnce(A) -> R) -> i32 {
    crate::function::run_on_input(|input| {
        let request = Request::decode(input)?;
        handler(A::from(request)).into_response()?.encode()
    })
}

/// Encodes a head and a body as a frame.
pub(crate) fn frame(head: &impl Serialize, body: &[u8]) -> Result<Vec<u8>, String> {
    let head = serde_json::to_vec(head).map_err(|e| e.to_string())?;
    let prefix = kvasm_abi::http::prefix(head.len()).ok_or("the headers are too large")?;
    Ok([&prefix, head.as_slice(), body].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn http_handler_response_is_framed() {
        let handler = |request: Request| {
            Response::text(format!("{} {}", request.method(), request.path()))
                .header("x-echo", request.header("x-echo").unwrap_or("none"))
        };
        let request = Request::put("/a?b").header("X-Echo", "é").build();
        let expected = Response::text("PUT /a").header("x-echo", "é");
        assert_eq!(testing::call_http(handler, request), Ok(expected));
    }

    #[test]
    fn http_handler_may_fail_with_a_response() {
        let handler = |request: Request| {
            let name = request.header("x-name");
            let name = name.ok_or_else(|| Response::text("who?").status(400))?;
            Ok::<_, Response>(Response::text(name))
        };
        let get = Request::get("/").build();
        let expected = Response::text("who?").status(400);
        assert_eq!(testing::call_http(handler, get), Ok(expected));
        let named = Request::get("/").header("x-name", "Ada").build();
        let answer = testing::call_http(handler, named);
        assert_eq!(answer, Ok(Response::text("Ada")));
    }

    #[test]
    fn http_handler_error_fails_the_call_with_its_message() {
        let get = || Request::get("/").build();
        let fail = |_: Request| Err::<Response, _>("no more paper");
        assert_eq!(testing::call_http(fail, get()), Err("no more paper".into()));
        let odd = |_: Request| Ok::<_, String>(Response::new(99));
        let message = testing::call_http(odd, get()).unwrap_err();
        assert_eq!(message, "a response's status is 200 to 599, not 99");
    }
}
