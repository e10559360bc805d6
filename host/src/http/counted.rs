//! Bodies whose bytes are counted in the [budget](super::budget).

use super::budget::{Held, NoRoom};
use axum::BoxError;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Answers up to this size are not counted, so that they are never refused.
const SMALL: usize = 64 * 1024;
/// What an answer without a known length counts as until its first part is taken:
/// about what it sends at once. Then each part counts what it is, so that a stream that
/// has nothing to send holds nothing.
const STREAM: usize = 512 * 1024;
/// What a body counts as when its first bytes arrive, if it is not shorter.
const FIRST: usize = 64 * 1024;

/// A request's body, counted as it arrives. The count grows as a buffer does that is
/// filled with it.
struct Arriving {
    inner: Body,
    held: Arc<Held>,
    arrived: usize,
    counted: usize,
    /// The most that is counted: a handler that takes longer bodies does not keep them.
    most: usize,
    waiting: Option<Waiting>,
}

type Waiting = (
    Option<Bytes>,
    Pin<Box<dyn Future<Output = Result<(), NoRoom>> + Send>>,
);

/// The body with its bytes counted, up to `most` of them.
pub(super) fn arriving(inner: Body, held: Arc<Held>, most: usize) -> Body {
    let announced = inner.size_hint();
    if announced.exact() == Some(0) {
        return inner;
    }
    let announced = announced
        .upper()
        .and_then(|upper| usize::try_from(upper).ok());
    Body::new(Arriving {
        inner,
        held,
        arrived: 0,
        counted: 0,
        most: most.min(announced.unwrap_or(most)),
        waiting: None,
    })
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some((_, room)) = &mut self.waiting {
            let room = ready!(room.as_mut().poll(context));
            let data = self.waiting.take().and_then(|(data, _)| data);
            return Poll::Ready(match room {
                Ok(()) => data.map(|data| Ok(Frame::data(data))),
                Err(no_room) => Some(Err(no_room.into())),
            });
        }
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => {
                self.held.complete();
                return Poll::Ready(None);
            }
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return Poll::Ready(Some(Ok(frame))),
        };
        self.arrived = self.arrived.saturating_add(data.len());
        if self.arrived <= self.counted || self.counted >= self.most {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let buffer = self.arrived.max(2 * self.counted).max(FIRST);
        self.counted = buffer.min(self.most);
        let (held, bytes) = (Arc::clone(&self.held), self.counted);
        let room = Box::pin(async move { held.grow(bytes).await });
        self.waiting = Some((Some(data), room));
        self.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer whose bytes are counted until the client has taken them.
struct Leaving {
    inner: Body,
    /// Of all of it, or of its next part.
    held: Arc<Held>,
    by_part: bool,
}

/// Bytes with their count: it ends when the connection has written them.
struct Counted {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| {
                    let mut held = Arc::clone(&self.held);
                    if self.by_part {
                        held.cover(bytes.len());
                        held = std::mem::replace(&mut self.held, Arc::new(held.another()));
                    }
                    let _held = held;
                    Bytes::from_owner(Counted { bytes, _held })
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The answer with its bytes counted.
///
/// # Errors
/// [`NoRoom`], of an answer that may be refused.
pub(super) fn leaving(
    response: Response,
    held: Arc<Held>,
    may_refuse: bool,
) -> Result<Response, NoRoom> {
    let hint = response.body().size_hint();
    let bytes = match hint.exact() {
        Some(exact) => usize::try_from(exact).unwrap_or(usize::MAX),
        None => STREAM,
    };
    if bytes <= SMALL {
        return Ok(response);
    }
    match may_refuse {
        true => held.become_answer(bytes)?,
        false => held.force(bytes),
    }
    let by_part = hint.exact().is_none();
    Ok(response.map(|inner| {
        Body::new(Leaving {
            inner,
            held,
            by_part,
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::budget::{Budget, Share};
    use crate::metrics::Metrics;
    use futures_util::stream;
    use http_body_util::BodyExt;
    use std::convert::Infallible;

    #[tokio::test]
    async fn a_stream_that_has_nothing_to_send_holds_nothing() {
        let metrics = Metrics::default();
        let budget = Budget::new(1 << 20, metrics.clone());
        let used = || {
            let text = metrics.encode();
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.strip_prefix("kvasm_http_bytes_in_flight "));
            line.unwrap().parse::<usize>().unwrap()
        };
        let parts = [10, 300 * 1024].map(|len| Ok::<_, Infallible>(vec![0u8; len]));
        let response = Response::new(Body::from_stream(stream::iter(parts)));
        let held = Arc::new(budget.held(Share::Administration("a".into())));
        let mut body = leaving(response, held, true).unwrap().into_body();
        assert_eq!(used(), STREAM);
        let first = body.frame().await.unwrap().unwrap();
        assert_eq!(used(), STREAM);
        drop(first);
        assert_eq!(used(), 0);
        let second = body.frame().await.unwrap().unwrap();
        assert_eq!(used(), 300 * 1024);
        drop((second, body));
        assert_eq!(used(), 0);
    }
}
