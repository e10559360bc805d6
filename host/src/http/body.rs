//! Bodies: bounded, in time, parsed once.

use super::budget::NoRoom;
use super::problem::{Kind, Problem};
use super::stream::Pace;
use super::{ServerOptions, Shared};
use crate::model::shown_start;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

/// The most bytes of a JSON body that is not a value.
const JSON_BYTES_MAX: usize = 64 * 1024;
/// The part of the time of a body for which its sender may be behind the minimum rate.
const GRACE: u32 = 3;

/// All of a body, within its limit and the server's time.
pub(super) async fn read(shared: &Shared, body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    read_after(shared, Vec::new(), body, limit).await
}

/// The same behind a head that does not count.
pub(super) async fn read_after(
    shared: &Shared,
    head: Vec<u8>,
    mut body: Body,
    limit: usize,
) -> Result<Vec<u8>, Problem> {
    let too_large = |found: String| {
        let detail = format!("it is {found} bytes; the limit is {limit} bytes");
        Problem::new(Kind::BodyTooLarge, detail)
    };
    // What the head announces is refused before anything is read.
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(too_large(announced.to_string()));
    }
    let mut sender = Sender::new(&shared.options, Instant::now());
    // Of a large body no more room is made than what arrives.
    let before = head.len();
    let mut bytes = head;
    bytes.reserve((announced as usize).min(64 * 1024));
    loop {
        let until = sender.until(Instant::now());
        let Some(part) = next(shared, &mut body, until).await? else {
            return Ok(bytes);
        };
        sender.pace.moved(part.len(), Instant::now());
        if part.len() > limit - (bytes.len() - before) {
            return Err(too_large(format!("more than {limit}")));
        }
        bytes.extend_from_slice(&part);
    }
}

/// How long the sender of a body is waited for: until it is too far behind the minimum
/// rate, and not beyond the time of the body.
struct Sender {
    deadline: Instant,
    pace: Pace,
}

impl Sender {
    fn new(options: &ServerOptions, now: Instant) -> Sender {
        Sender {
            deadline: now + options.body_timeout,
            pace: Pace::new(options.body_timeout / GRACE, options.min_rate, now),
        }
    }

    fn until(&mut self, now: Instant) -> Instant {
        self.deadline.min(self.pace.wait(now))
    }
}

/// The next part of a body, until its end.
pub(super) async fn next(
    shared: &Shared,
    body: &mut Body,
    deadline: Instant,
) -> Result<Option<Bytes>, Problem> {
    let options = &shared.options;
    loop {
        let frame = timeout_at(deadline, body.frame()).await.map_err(|_| {
            let (seconds, rate) = (options.body_timeout.as_secs(), options.min_rate);
            let detail = format!("the limits are {seconds} s and {rate} bytes per second");
            Problem::new(Kind::BodyTimeout, detail)
        })?;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                // Trailers say nothing to us.
                Err(_) => continue,
            },
            Some(Err(error)) => return Err(broken(error)),
        }
    }
}

fn broken(error: axum::Error) -> Problem {
    // Each layer of bodies wraps the error again.
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if error.is::<NoRoom>() {
            return NoRoom.into();
        }
        cause = error.source();
    }
    Problem::new(
        Kind::BodyBroken,
        "the connection ended, or the body's form is not HTTP",
    )
}

/// A body that is a JSON object.
pub(super) async fn json<T: DeserializeOwned>(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Problem> {
    json_within(shared, headers, body, JSON_BYTES_MAX).await
}

/// A body that is a JSON object of up to `limit` bytes.
pub(super) async fn json_within<T: DeserializeOwned>(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<T, Problem> {
    require_type(headers, &["application/json"])?;
    let bytes = read(shared, body, limit).await?;
    // Serde would take an array for an object, and its members by their places.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        let detail = "the body is not a JSON object";
        return Err(Problem::new(Kind::MalformedJson, detail));
    }
    // The error can hold a string of the body, however long.
    serde_json::from_slice(&bytes)
        .map_err(|e| Problem::new(Kind::MalformedJson, shown_start(&e, 1024)))
}

/// The content type without its parameters; empty if there is none.
pub(super) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let essence = value.unwrap_or_default().split(';').next();
    essence.unwrap_or_default().trim().to_ascii_lowercase()
}

/// Refuses a body that says to be something else.
pub(super) fn require_type(headers: &HeaderMap, allowed: &[&str]) -> Result<(), Problem> {
    let found = content_type(headers);
    if allowed.contains(&found.as_str()) {
        return Ok(());
    }
    let found = match found.as_str() {
        "" => "there is no Content-Type".to_owned(),
        found => format!("the Content-Type is {found:?}"),
    };
    let detail = format!("{found}; this route takes {}", allowed.join(" or "));
    Err(Problem::new(Kind::UnsupportedMediaType, detail))
}

/// A JSON answer.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_sender_that_is_too_slow_is_not_waited_for_until_the_time_of_the_body() {
        let start = Instant::now();
        let options = ServerOptions::default();
        // When a sender of so many bytes a second is cut off.
        let cut = |rate: usize| {
            let mut sender = Sender::new(&options, start);
            let seconds = (1..).map(|second| start + Duration::from_secs(second));
            for now in seconds {
                let until = sender.until(now - Duration::from_secs(1));
                if until < now {
                    return until - start;
                }
                sender.pace.moved(rate, now);
            }
            unreachable!()
        };
        assert_eq!(cut(0), options.body_timeout / GRACE);
        let slow = cut(options.min_rate / 2);
        assert!(slow > options.body_timeout / GRACE && slow < options.body_timeout);
        assert_eq!(cut(options.min_rate), options.body_timeout);
    }
}
