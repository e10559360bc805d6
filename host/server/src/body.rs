//! Reads request bodies, within limits and timeouts, and parses them once.

use super::budget::NoRoom;
use super::problem::{Kind, Problem};
use super::stream::RateCredit;
use super::{ServerOptions, SharedServer};
use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;
use kvasm_core::{AppId, Pieces, display_truncated};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

/// Maximum size of a JSON body that is not a value.
const JSON_BYTES_MAX: usize = 64 * 1024;
/// The smallest and the largest piece of a body that is kept in pieces, unless the body is shorter.
const PIECE_MIN: usize = 64 * 1024;
const PIECE_MAX: usize = 1024 * 1024;
/// The fraction of the body timeout for which a sender may be behind the minimum rate.
const GRACE: u32 = 3;

/// Reads a whole body into one buffer, within its limit and the timeout.
pub(super) async fn read(
    shared: &SharedServer,
    body: Body,
    limit: usize,
) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    receive(shared, body, limit, |part, announced| {
        let needed = bytes.len() + part.len();
        if needed > bytes.capacity() {
            let room = buffer_capacity(needed, bytes.capacity(), announced);
            bytes.reserve_exact(room - bytes.len());
        }
        bytes.extend_from_slice(part);
    })
    .await?;
    Ok(bytes)
}

/// The new size of a buffer for `needed` bytes of a body of at least `announced`, when it now has
/// `before`. Once a sixteenth of the body has arrived the buffer has its full size, so that little
/// is copied again, and not much is allocated ahead of what arrives. The buffer of a body without a
/// length grows in steps.
fn buffer_capacity(needed: usize, before: usize, announced: usize) -> usize {
    const PART: usize = 16;
    let part = (announced / PART).clamp(PIECE_MIN, PIECE_MAX);
    match announced >= needed {
        true if needed > announced / PART => announced,
        true => needed.max(2 * before).max(part).min(announced),
        false => needed.max(2 * before),
    }
}

/// Reads a whole body in pieces, after a head that does not count towards the limit. It is copied
/// once, whereas a growing buffer would be copied several times.
pub(super) async fn read_pieces(
    shared: &SharedServer,
    head: Vec<u8>,
    body: Body,
    limit: usize,
) -> Result<Pieces, Problem> {
    let mut arrived = Arrived::after(head);
    receive(shared, body, limit, |part, announced| {
        arrived.put(part, announced);
    })
    .await?;
    Ok(arrived.end())
}

/// The part of a body that has arrived, in pieces as large as all before them. No more than that,
/// or [`PIECE_MIN`], is allocated ahead of what arrives.
struct Arrived {
    full: Pieces,
    open: Vec<u8>,
    bytes: usize,
}

impl Arrived {
    fn after(head: Vec<u8>) -> Arrived {
        Arrived {
            full: head.into(),
            open: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds a part of a body of at least `announced` bytes.
    fn put(&mut self, mut part: &[u8], announced: usize) {
        while !part.is_empty() {
            let room = self.open.capacity() - self.open.len();
            if room == 0 {
                self.full.push(std::mem::take(&mut self.open));
                self.open = Vec::with_capacity(self.next(part.len(), announced));
                continue;
            }
            let (now, later) = part.split_at(room.min(part.len()));
            self.open.extend_from_slice(now);
            self.bytes += now.len();
            part = later;
        }
    }

    /// The size of the next piece, of which `part` bytes have arrived.
    fn next(&self, part: usize, announced: usize) -> usize {
        let size = self.bytes.clamp(PIECE_MIN, PIECE_MAX);
        match announced.checked_sub(self.bytes) {
            // The first part of a body without a length may be the whole body.
            None | Some(0) if self.bytes == 0 => part.min(PIECE_MAX),
            None | Some(0) => size,
            Some(rest) => size.min(rest),
        }
    }

    fn end(mut self) -> Pieces {
        self.full.push(self.open);
        self.full
    }
}

/// Reads a body to its end, within its limit and the timeout. `put` is called with each part and
/// the known minimum length of the body.
async fn receive(
    shared: &SharedServer,
    mut body: Body,
    limit: usize,
    mut put: impl FnMut(&[u8], usize),
) -> Result<(), Problem> {
    let too_large = |found: String| {
        let detail = format!("the body is {found} bytes; the limit is {limit} bytes");
        Problem::new(Kind::BodyTooLarge, detail)
    };
    // A body whose announced length exceeds the limit is refused before anything is read.
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(too_large(announced.to_string()));
    }
    let mut sender = SenderDeadline::new(&shared.options, Instant::now());
    let mut arrived = 0;
    loop {
        let until = sender.until(Instant::now());
        let Some(part) = next(shared, &mut body, until).await? else {
            return Ok(());
        };
        sender.pace.moved(part.len(), Instant::now());
        if part.len() > limit - arrived {
            return Err(too_large(format!("more than {limit}")));
        }
        arrived += part.len();
        put(&part, announced as usize);
    }
}

/// The deadline of a sender: it must not fall too far behind the minimum rate, nor exceed the body
/// timeout.
struct SenderDeadline {
    deadline: Instant,
    pace: RateCredit,
}

impl SenderDeadline {
    fn new(options: &ServerOptions, now: Instant) -> SenderDeadline {
        SenderDeadline {
            deadline: now + options.body_timeout,
            pace: RateCredit::new(options.body_timeout / GRACE, options.min_rate, now),
        }
    }

    fn until(&mut self, now: Instant) -> Instant {
        self.deadline.min(self.pace.wait(now))
    }
}

/// Returns the next part of a body, or `None` at its end.
pub(super) async fn next(
    shared: &SharedServer,
    body: &mut Body,
    deadline: Instant,
) -> Result<Option<Bytes>, Problem> {
    let options = &shared.options;
    timeout_at(deadline, next_part(body)).await.map_err(|_| {
        let (seconds, rate) = (options.body_timeout.as_secs(), options.min_rate);
        let detail = format!("the limits are {seconds} s and {rate} bytes per second");
        Problem::new(Kind::BodyTimeout, detail)
    })?
}

/// Returns the next part of a body, without a timeout. Cancellation safe.
pub(super) async fn next_part(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                // Trailers are ignored.
                Err(_) => continue,
            },
            Some(Err(error)) => return Err(broken(error)),
        }
    }
}

fn broken(error: axum::Error) -> Problem {
    // Each body layer wraps the error again.
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if error.is::<NoRoom>() {
            return NoRoom.into();
        }
        cause = error.source();
    }
    Problem::new(
        Kind::BodyBroken,
        "the connection was closed, or the body is not valid HTTP",
    )
}

/// Reads a body that is a JSON object.
pub(super) async fn json<T: DeserializeOwned>(
    shared: &SharedServer,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Problem> {
    require_type(headers, &["application/json"])?;
    object(&read(shared, body, JSON_BYTES_MAX).await?)
}

/// Reads a body that is a JSON object of up to `limit` bytes and converts it by `take`. If it is
/// large, both are done off the server threads.
pub(super) async fn large_json<T: DeserializeOwned, U: Send + 'static>(
    shared: &SharedServer,
    app: AppId,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    take: impl FnOnce(T) -> Result<U, Problem> + Send + 'static,
) -> Result<U, Problem> {
    require_type(headers, &["application/json"])?;
    let bytes = read(shared, body, limit).await?;
    let len = bytes.len();
    let parse = move || take(object(&bytes)?);
    shared.aside.by_size(app, len, parse).await
}

fn object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Serde would also accept an array, with the fields in order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        let detail = "the body is not a JSON object";
        return Err(Problem::new(Kind::MalformedJson, detail));
    }
    // The error can contain a string of the body, of any length.
    serde_json::from_slice(bytes)
        .map_err(|e| Problem::new(Kind::MalformedJson, display_truncated(&e, 1024)))
}

/// A JSON response of about this size. If it is large, it is built and serialised off the server
/// threads.
pub(super) async fn large_answer<T: Serialize>(
    shared: &SharedServer,
    app: AppId,
    bytes: usize,
    make: impl FnOnce() -> Result<T, serde_json::Error> + Send + 'static,
) -> Result<Response, Problem> {
    let write = move || {
        let text = make().and_then(|answer| serde_json::to_vec(&answer));
        text.map_err(|error| Problem::internal(&error))
    };
    let text = shared.aside.by_size(app, bytes, write).await?;
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}

/// Lines of JSON of about this size together, made as `large_answer` is.
pub(super) async fn json_lines<R: Send + 'static, T: Serialize>(
    shared: &SharedServer,
    app: AppId,
    bytes: usize,
    records: Vec<R>,
    view: impl Fn(&R) -> T + Send + 'static,
) -> Result<Bytes, Problem> {
    let write = move || {
        let mut out = Vec::new();
        for record in &records {
            // Serialising a struct of numbers and strings cannot fail.
            if serde_json::to_writer(&mut out, &view(record)).is_ok() {
                out.push(b'\n');
            }
        }
        Ok::<_, Problem>(Bytes::from(out))
    };
    shared.aside.by_size(app, bytes, write).await
}

/// The content type without its parameters; empty if absent.
pub(super) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let essence = value.unwrap_or_default().split(';').next();
    essence.unwrap_or_default().trim().to_ascii_lowercase()
}

/// Refuses a body of another content type.
pub(super) fn require_type(headers: &HeaderMap, allowed: &[&str]) -> Result<(), Problem> {
    let found = content_type(headers);
    if allowed.contains(&found.as_str()) {
        return Ok(());
    }
    let found = match found.as_str() {
        "" => "the Content-Type is missing".to_owned(),
        found => format!("the Content-Type is {found:?}"),
    };
    let detail = format!("{found}; this route accepts {}", allowed.join(" or "));
    Err(Problem::new(Kind::UnsupportedMediaType, detail))
}

/// A JSON response.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: Serialize> IntoResponse for JsonBody<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MIB: usize = 1 << 20;

    #[test]
    fn slow_sender_is_rejected_before_the_body_timeout() {
        let start = Instant::now();
        let options = ServerOptions::default();
        // When a sender of this rate is cut off.
        let cut = |rate: usize| {
            let mut sender = SenderDeadline::new(&options, start);
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

    #[test]
    fn body_buffer_growth_is_limited() {
        // The length of the body, its announced length, and the size of its parts.
        for (len, announced, size) in [
            (16 * MIB, 16 * MIB, 8 * 1024),
            (16 * MIB, 16 * MIB, 1),
            (256 * MIB, 256 * MIB, 50_000),
            (5 * MIB, 5 * MIB, 3 * MIB),
            (70_000, 70_000, 1_000),
            (3, 3, 1),
        ] {
            let (mut capacity, mut copied) = (0, 0);
            for arrived in (0..len).step_by(size) {
                let needed = (arrived + size).min(len);
                if needed > capacity {
                    copied += arrived;
                    capacity = buffer_capacity(needed, capacity, announced);
                    assert!(capacity >= needed);
                    let ahead = (16 * needed).max(PIECE_MAX);
                    assert!(capacity <= announced.min(ahead), "{capacity} for {needed}");
                }
            }
            assert_eq!(capacity, len);
            assert!(
                copied <= (len / 8).max(PIECE_MIN),
                "{copied} of {len} by {size}"
            );
        }
        assert_eq!(buffer_capacity(10, 0, 0), 10);
        assert_eq!(buffer_capacity(11, 10, 0), 20);
    }

    #[test]
    fn chunk_allocation_follows_received_bytes() {
        // The length of the body, its announced length, and the size of its parts.
        for (len, announced, size) in [
            (8 * MIB, 8 * MIB, 8 * 1024),
            (8 * MIB, 8 * MIB, 300_000),
            (8 * MIB, 0, 1_000),
            (8 * MIB, 0, 5 * MIB),
            (1 << 16, 1 << 16, 1),
            (3, 3, 1),
            (3, 0, 3),
            (0, 0, 1),
        ] {
            let body: Vec<u8> = (0..len).map(|at| (at / 1_000) as u8).collect();
            let mut arrived = Arrived::after(b"head".to_vec());
            let mut sent = 0;
            for part in body.chunks(size) {
                arrived.put(part, announced);
                sent += part.len();
                assert!(arrived.open.capacity() <= sent.clamp(PIECE_MIN, PIECE_MAX));
            }
            let pieces = arrived.end();
            assert_eq!(pieces.len(), 4 + len);
            let mut whole = vec![0; 4 + len];
            pieces.copy_to(0, &mut whole);
            assert!(whole == [b"head", &body[..]].concat(), "{len} by {size}");
            assert!(pieces.iter().count() <= 16, "{len} by {size}");
        }
    }
}
