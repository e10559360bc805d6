//! The return types of HTTP handlers, and the code that runs a handler.

use super::{HttpError, Request, Response};
use crate::{Bytes, Json};
use serde::Serialize;

/// A type that an HTTP handler can return.
///
/// | type | response |
/// |---|---|
/// | [`Response`], [`Problem`](super::Problem) | itself |
/// | `String`, `&'static str` | 200, `text/plain; charset=utf-8` |
/// | [`Json<T>`](Json) | 200, `application/json` |
/// | [`Bytes`] | 200, `application/octet-stream` |
/// | `()` | 204 |
/// | `(u16, T)` | that of `T` with this status |
/// | `Option<T>` | that of `T`, or 404 |
/// | `Result<T, E>` | that of `T`; an `Err` as [`HttpError`] describes |
#[diagnostic::on_unimplemented(
    message = "an HTTP handler cannot return `{Self}`",
    label = "not a response",
    note = "return `kvasm_guest::http::Response`, `String`, `Json<T>` where `T: serde::Serialize`, `Bytes`, `()`, `(u16, T)` or an `Option<T>` of one of them, or a `Result` of one of them and a `Response`, an `HttpError` or a `std::fmt::Display`"
)]
pub trait IntoResponse {
    /// Returns the response, or the failure.
    ///
    /// # Errors
    /// Why the handler failed.
    fn into_response(self) -> Result<Response, HttpError>;

    /// Returns whether it is an error, after which a transaction is undone.
    #[doc(hidden)]
    fn is_failure(&self) -> bool {
        false
    }
}

impl IntoResponse for Response {
    fn into_response(self) -> Result<Response, HttpError> {
        Ok(self)
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Result<Response, HttpError> {
        Ok(Response::text(self))
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Result<Response, HttpError> {
        Ok(Response::text(self))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Result<Response, HttpError> {
        Ok(Response::json(&self.0)?)
    }
}

impl IntoResponse for Bytes {
    fn into_response(self) -> Result<Response, HttpError> {
        let response = Response::new(200).header("content-type", "application/octet-stream");
        Ok(response.body(self.0))
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Result<Response, HttpError> {
        Ok(Response::no_content())
    }
}

impl<T: IntoResponse> IntoResponse for (u16, T) {
    fn into_response(self) -> Result<Response, HttpError> {
        Ok(self.1.into_response()?.status(self.0))
    }

    fn is_failure(&self) -> bool {
        self.1.is_failure()
    }
}

impl<T: IntoResponse> IntoResponse for Option<T> {
    fn into_response(self) -> Result<Response, HttpError> {
        match self {
            Some(found) => found.into_response(),
            None => super::Problem::new(404).into_response(),
        }
    }

    fn is_failure(&self) -> bool {
        self.as_ref().is_some_and(T::is_failure)
    }
}

impl<T: IntoResponse, E: Into<HttpError>> IntoResponse for Result<T, E> {
    fn into_response(self) -> Result<Response, HttpError> {
        self.map_err(Into::into)?.into_response()
    }

    fn is_failure(&self) -> bool {
        self.as_ref().map_or(true, T::is_failure)
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
        let is_conditional = request.is_conditional();
        let result = handler(A::from(request)).into_response();
        respond(result, is_conditional)
    })
}

/// Returns the frame of the response. A failure that has no response is an error, whose message the
/// host logs.
fn respond(result: Result<Response, HttpError>, is_conditional: bool) -> Result<Vec<u8>, String> {
    let response = match result {
        Ok(response) => response,
        Err(error) => error.respond(is_conditional)?,
    };
    response.encode()
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
