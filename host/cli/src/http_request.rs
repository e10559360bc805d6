//! The request of `kvasm run --http`, and how its response is printed.

use super::failure::Failure;
use super::{output, run::output_as_json};
use axum::body::to_bytes;
use axum::http::header::HOST;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use kvasm::server::{handler_input, handler_response};
use serde_json::{Value, json};
use std::io::Write;
use std::str::FromStr;

/// A method and a path, such as `GET /notes?limit=5`, or a path alone for GET.
#[derive(Clone, Debug)]
pub(super) struct RequestLine {
    method: Method,
    uri: Uri,
}

impl FromStr for RequestLine {
    type Err = String;

    fn from_str(text: &str) -> Result<RequestLine, String> {
        let (method, path) = match text.trim().split_once(char::is_whitespace) {
            Some((method, path)) => (method, path.trim_start()),
            None => ("GET", text.trim()),
        };
        let method = Method::from_str(method).map_err(|_| format!("{method:?} is not a method"))?;
        if !path.starts_with('/') {
            return Err("expected a method and a path, such as \"GET /notes?limit=5\"".to_owned());
        }
        // A fragment stays in the browser.
        let path = PathAndQuery::from_str(path)
            .ok()
            .filter(|_| !path.contains('#'));
        let path = path.ok_or("the path has characters that must be percent-encoded")?;
        Ok(RequestLine {
            method,
            uri: Uri::from(path),
        })
    }
}

/// A header: `Name: value`.
#[derive(Clone, Debug)]
pub(super) struct HeaderLine(HeaderName, HeaderValue);

impl FromStr for HeaderLine {
    type Err = String;

    fn from_str(text: &str) -> Result<HeaderLine, String> {
        let (name, value) = text.split_once(':').ok_or("expected \"Name: value\"")?;
        let name = HeaderName::from_str(name.trim()).map_err(|e| e.to_string())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|e| e.to_string())?;
        Ok(HeaderLine(name, value))
    }
}

/// Returns the input of a plugin's HTTP handler.
///
/// # Errors
/// A user error: it is too large.
pub(super) fn frame(
    line: &RequestLine,
    headers: Vec<HeaderLine>,
    body: &[u8],
) -> Result<Vec<u8>, Failure> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = line.method.clone();
    parts.uri = line.uri.clone();
    for HeaderLine(name, value) in headers {
        parts.headers.append(name, value);
    }
    let host = parts.headers.entry(HOST);
    host.or_insert(HeaderValue::from_static("localhost"));
    handler_input(&parts, body).ok_or_else(|| Failure::user("the headers are too large"))
}

/// A response to print.
pub(super) struct ShownResponse {
    status: StatusCode,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl ShownResponse {
    /// Reads the output of a plugin's HTTP handler.
    ///
    /// # Errors
    /// The plugin's fault: it is not a response.
    pub(super) async fn read(
        line: &RequestLine,
        output: Vec<u8>,
    ) -> Result<ShownResponse, Failure> {
        let response = handler_response(output).map_err(|why| {
            Failure::plugin(format!(
                "the plugin returned an invalid HTTP response: {why}"
            ))
        })?;
        let (parts, body) = response.into_parts();
        let headers = parts.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), value.into_owned())
        });
        let headers = headers.collect();
        let body = to_bytes(body, usize::MAX).await;
        let body = body.map_err(|e| Failure::host(e.to_string()))?;
        Ok(ShownResponse {
            status: parts.status,
            headers,
            // A server sends none.
            body: match line.method == Method::HEAD {
                true => Vec::new(),
                false => body.into(),
            },
        })
    }

    /// The members of the JSON form.
    pub(super) fn members(&self) -> [(&'static str, Value); 3] {
        [
            ("status", json!(self.status.as_u16())),
            ("headers", json!(self.headers)),
            ("body", output_as_json(&self.body)),
        ]
    }

    /// Prints the status, the headers, and after an empty line the body.
    pub(super) fn print(&self) -> Result<(), Failure> {
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{}", output::escape_line(&self.status.to_string()))?;
        for (name, value) in &self.headers {
            writeln!(stdout, "{name}: {}", output::escape_line(value))?;
        }
        writeln!(stdout)?;
        if self.body.is_empty() {
            return Ok(());
        }
        output::raw(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_line_is_a_method_and_a_path() {
        for (text, method, uri) in [
            ("GET /", "GET", "/"),
            ("/a?b=1", "GET", "/a?b=1"),
            (" PUT  /a%20b ", "PUT", "/a%20b"),
            ("PURGE /x", "PURGE", "/x"),
        ] {
            let line: RequestLine = text.parse().unwrap();
            assert_eq!(
                (line.method.as_str(), line.uri.to_string().as_str()),
                (method, uri)
            );
        }
        for bad in [
            "",
            "GET",
            "notes",
            "GET notes",
            "GET http://x/",
            "G,T /",
            "/a b",
            "/a#b",
            "GET /a b",
        ] {
            assert!(bad.parse::<RequestLine>().is_err(), "{bad}");
        }
    }

    #[test]
    fn header_is_a_name_and_a_value() {
        let header: HeaderLine = "Content-Type:  text/plain ".parse().unwrap();
        assert_eq!(
            (header.0.as_str(), header.1.to_str().unwrap()),
            ("content-type", "text/plain")
        );
        for bad in ["", "x", "a b: c", ": c", "a: \n"] {
            assert_eq!(bad.parse::<HeaderLine>().is_err(), bad != "a: \n", "{bad}");
        }
        assert!("a: b\nc".parse::<HeaderLine>().is_err());
    }
}
