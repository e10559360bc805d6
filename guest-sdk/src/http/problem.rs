//! Problem documents (RFC 9457).

use super::{HttpError, IntoResponse, Response};
use crate::json;
use serde::Serialize;

/// An error for the client, as `application/problem+json` (RFC 9457).
///
/// ```
/// use kvasm_guest::http::{Problem, Response};
///
/// let problem = Problem::new(403)
///     .kind("https://example.com/problems/out-of-credit")
///     .title("You do not have enough credit.")
///     .detail("Your balance is 30, but that costs 50.")
///     .with("balance", 30);
/// let response = Response::from(problem);
/// assert_eq!(response.status, 403);
/// assert_eq!(response.header_value("content-type"), Some("application/problem+json"));
///
/// let brief = Response::from(Problem::new(404));
/// assert_eq!(brief.body, br#"{"title":"Not Found","status":404}"#);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a problem does nothing until the handler returns it"]
pub struct Problem {
    status: u16,
    kind: Option<String>,
    title: Option<String>,
    detail: Option<String>,
    /// Further members, as JSON.
    members: String,
}

/// The members that the methods set.
const STANDARD_MEMBERS: [&str; 4] = ["type", "title", "status", "detail"];

impl Problem {
    /// Returns a problem of this status, 200 to 599, whose title is the status's phrase.
    pub fn new(status: u16) -> Problem {
        Problem {
            status,
            kind: None,
            title: None,
            detail: None,
            members: String::new(),
        }
    }

    /// Sets the `type`: a URI that identifies the kind of problem.
    pub fn kind(mut self, uri: impl Into<String>) -> Problem {
        self.kind = Some(uri.into());
        self
    }

    /// Sets the `title`: a summary that is the same for all problems of this kind.
    pub fn title(mut self, title: impl Into<String>) -> Problem {
        self.title = Some(title.into());
        self
    }

    /// Sets the `detail`: what is wrong with this request.
    pub fn detail(mut self, detail: impl Into<String>) -> Problem {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a member of any other name. A standard one, or a value that cannot be JSON, such as NaN, is
    /// left out, and logged with the place in the value.
    pub fn with(mut self, member: &str, value: impl Serialize) -> Problem {
        if STANDARD_MEMBERS.contains(&member) {
            log::error!("`Problem::with` cannot set {member:?}; use the method for it");
            return self;
        }
        match json::encode_text(&value) {
            Ok(json) => self.members.extend([",", &quoted(member), ":", &json]),
            Err(why) => log::error!("the member {member:?} of a problem is left out: {why}"),
        }
        self
    }
}

fn quoted(text: &str) -> String {
    // A string is always JSON.
    serde_json::to_string(text).unwrap_or_default()
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Response {
        let mut body = String::from("{");
        if let Some(kind) = &problem.kind {
            body.push_str("\"type\":");
            body.push_str(&quoted(kind));
            body.push(',');
        }
        let title = problem.title.as_deref();
        body.push_str("\"title\":");
        body.push_str(&quoted(title.unwrap_or(phrase(problem.status))));
        body.push_str(",\"status\":");
        body.push_str(&problem.status.to_string());
        if let Some(detail) = &problem.detail {
            body.push_str(",\"detail\":");
            body.push_str(&quoted(detail));
        }
        body.push_str(&problem.members);
        body.push('}');
        Response::new(problem.status)
            .header("content-type", "application/problem+json")
            .body(body)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Result<Response, HttpError> {
        Ok(self.into())
    }
}

/// Returns the phrase of a status that problems have.
fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        507 => "Insufficient Storage",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_is_one_json_object() {
        let problem = Problem::new(409)
            .kind("https://a.test/\"b\"")
            .title("Tïtle\n")
            .detail("x")
            .with("a \"b\"", [1, 2])
            .with("status", 200)
            .with("nan", [1.0, f64::NAN])
            .with("none", std::collections::BTreeMap::from([((1, 2), 3)]));
        let body = Response::from(problem).body;
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({"type": "https://a.test/\"b\"", "title": "Tïtle\n",
            "status": 409, "detail": "x", "a \"b\"": [1, 2]});
        assert_eq!(body, expected);
    }
}
