//! Why an HTTP handler failed, and what its client receives.

use super::{Problem, Response};
use crate::Error;
use crate::kv::CURSOR_DETAIL;
use kvasm_abi::FOREIGN_CURSOR;
use std::any::Any;
use std::fmt::Display;

/// Why an HTTP handler failed. `?` converts to it a [`Response`] or a [`Problem`], which the client
/// receives, an [`Error`], which has a status, and anything that can be displayed. The text of an
/// error is logged, and never sent to the client. What the client itself did wrong is in the response: the
/// [`detail`](super::BadRequest::detail) of a [`BadRequest`](Error::BadRequest).
///
/// | error | status |
/// |---|---|
/// | a `Response` or a `Problem` | its own |
/// | [`Error::BadRequest`], [`Error::Invalid`] | 400 |
/// | [`Error::Denied`] | 403 |
/// | [`Error::NotFound`] | 404 |
/// | [`Error::Conflict`] | 412 if the request has `If-Match` or `If-None-Match`, else 409 |
/// | [`Error::TooLarge`] | 413 |
/// | [`Error::RateLimited`] | 429 |
/// | [`Error::Remote`] | 502 |
/// | [`Error::Unavailable`] | 503 |
/// | [`Error::Quota`] | 507 |
/// | other variants of `Error`, and other errors | 500 |
///
/// A `Result<_, E>` of a handler has the same statuses if `E` is one of these types. Native tests
/// see them with `testing::call_http`.
///
/// ```
/// use kvasm_guest::http::{HttpError, Problem, Request};
/// use kvasm_guest::{Json, kv, testing};
///
/// #[kvasm_guest::http]
/// fn handle(request: Request) -> Result<Json<u32>, HttpError> {
///     let by: u32 = request.json()?;
///     let stock = kv::collection("stock").get::<u32>("paper")?;
///     let stock = stock.ok_or(Problem::new(404).detail("there is no paper"))?;
///     Ok(Json(stock.checked_sub(by).ok_or("too little paper")?))
/// }
///
/// let post = |body| testing::call_http(handle, Request::post("/").body(body).build());
/// assert_eq!(post("{}").map(|response| response.status), Ok(400));
/// assert_eq!(post("1").map(|response| response.status), Ok(404));
/// kv::collection("stock").set("paper", &1)?;
/// assert_eq!(post("1").map(|response| response.body), Ok(b"0".to_vec()));
/// // The host answers with 500, without the text.
/// assert_eq!(post("2"), Err("too little paper".to_owned()));
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
// It must not implement `Display`: the implementations of `From` would overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpError(Reason);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reason {
    /// The client receives it.
    Response(Box<Response>),
    /// Has a status.
    Host(Error),
    /// The plugin's failure.
    Failed(String),
}

impl HttpError {
    /// Returns the status that the client receives, if its request has no precondition.
    pub fn status(&self) -> u16 {
        match &self.0 {
            Reason::Response(response) => response.status,
            Reason::Host(error) => status_of(error, false),
            Reason::Failed(_) => 500,
        }
    }

    /// Returns the message for the log; empty for a response.
    pub fn message(&self) -> &str {
        match &self.0 {
            Reason::Response(_) => "",
            Reason::Host(error) => error.message(),
            Reason::Failed(message) => message,
        }
    }

    /// Returns the response, or the message of a failure, which the host logs.
    pub(super) fn respond(self, is_conditional: bool) -> Result<Response, String> {
        match self.0 {
            Reason::Response(response) => Ok(*response),
            Reason::Failed(message) => Err(message),
            Reason::Host(error) => match status_of(&error, is_conditional) {
                500 => Err(error.to_string()),
                status => Ok(response_of(&error, status)),
            },
        }
    }
}

impl<E: Display + 'static> From<E> for HttpError {
    fn from(error: E) -> HttpError {
        // An `Error` has a status, but what it is here is known only to the compiler.
        let mut error = Some(error);
        let any: &mut dyn Any = &mut error;
        if let Some(host) = any.downcast_mut::<Option<Error>>().and_then(Option::take) {
            return HttpError(Reason::Host(host));
        }
        if let Some(cursor) = any.downcast_mut::<Option<crate::kv::CursorError>>() {
            return HttpError(Reason::Host(Error::from(
                cursor.take().unwrap_or(crate::kv::CursorError),
            )));
        }
        HttpError(Reason::Failed(message(error.as_ref())))
    }
}

fn message(error: Option<&impl Display>) -> String {
    error.map(ToString::to_string).unwrap_or_default()
}

impl From<Response> for HttpError {
    fn from(response: Response) -> HttpError {
        HttpError(Reason::Response(Box::new(response)))
    }
}

impl From<Problem> for HttpError {
    fn from(problem: Problem) -> HttpError {
        Response::from(problem).into()
    }
}

/// The response that a client receives for an error: its status as in [`HttpError`], as a problem
/// without the error's text, which is logged, and with the detail of a [`BadRequest`](Error::BadRequest).
impl From<Error> for Response {
    fn from(error: Error) -> Response {
        response_of(&error, status_of(&error, false))
    }
}

/// As for a [`Response`].
impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        problem_of(&error, status_of(&error, false))
    }
}

fn response_of(error: &Error, status: u16) -> Response {
    let response = Response::from(problem_of(error, status));
    match status {
        429 | 503 => response.header("retry-after", "1"),
        _ => response,
    }
}

fn problem_of(error: &Error, status: u16) -> Problem {
    let level = match status {
        500 => log::Level::Error,
        501.. => log::Level::Warn,
        _ => log::Level::Info,
    };
    log::log!(level, "answered with {status}: {error}");
    let problem = Problem::new(status);
    match detail_of(error) {
        Some(detail) => problem.detail(detail),
        None => problem,
    }
}

/// Returns what a client receives besides the status.
fn detail_of(error: &Error) -> Option<&str> {
    match error {
        Error::BadRequest(bad) => bad.detail(),
        // As any other text that is no cursor.
        Error::Invalid(text) if text == FOREIGN_CURSOR => Some(CURSOR_DETAIL),
        _ => None,
    }
}

fn status_of(error: &Error, is_conditional: bool) -> u16 {
    match error {
        Error::BadRequest(_) | Error::Invalid(_) => 400,
        Error::Denied(_) => 403,
        Error::NotFound(_) => 404,
        Error::Conflict(_) if is_conditional => 412,
        Error::Conflict(_) => 409,
        Error::TooLarge(_) => 413,
        Error::RateLimited(_) => 429,
        Error::Remote(_) => 502,
        Error::Unavailable(_) => 503,
        Error::Quota(_) => 507,
        Error::Type(_)
        | Error::Internal(_)
        | Error::Unsupported(_)
        | Error::Encode(_)
        | Error::Decode(_) => 500,
    }
}
