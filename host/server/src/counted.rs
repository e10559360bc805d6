//! Bodies whose bytes are counted in the [budget](super::budget).

use super::budget::{NoRoom, Reservation};
use axum::BoxError;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

/// Responses up to this size are not counted, so that they are never refused.
const SMALL: usize = 64 * 1024;
/// What a response of unknown length counts as until its first part is read: about what it sends at
/// once. After that each part counts as its size, so that an idle stream holds nothing.
const STREAM: usize = 512 * 1024;
/// A body is counted ahead of what has arrived, so that not every part changes the budget: as much
/// again, within these bounds, and never more than its length.
const AHEAD_MIN: usize = 64 * 1024;
const AHEAD_MAX: usize = 1024 * 1024;

/// A request's body, counted as it arrives. Once complete it counts as its size.
struct CountedRequestBody {
    inner: Body,
    kept: KeptBytes,
    waiting: Option<Waiting>,
}

/// The part of a body that its handler keeps: all that has arrived, unless the handler says
/// otherwise. In the extensions of a request with a large body.
#[derive(Clone)]
pub(super) struct KeptBytes(Arc<KeptCount>);

struct KeptCount {
    held: Arc<Reservation>,
    /// The bytes that are kept.
    bytes: AtomicUsize,
    /// The bytes that are counted for them.
    counted: AtomicUsize,
    /// The most that is counted: a handler that accepts longer bodies does not keep them.
    most: usize,
}

impl KeptBytes {
    /// Sets how many of the bytes that it has read the handler keeps.
    pub(super) fn set(&self, bytes: usize) {
        let count = &self.0;
        count.bytes.store(bytes, Ordering::Relaxed);
        let counts = bytes.next_multiple_of(AHEAD_MIN).min(count.most);
        if counts < count.counted.load(Ordering::Relaxed) {
            count.counted.store(counts, Ordering::Relaxed);
            count.held.shrink_to(counts);
        }
    }

    /// Adds bytes that have arrived. Returns the new count, if it has grown.
    fn add(&self, part: usize) -> Option<usize> {
        let count = &self.0;
        let bytes = count.bytes.load(Ordering::Relaxed).saturating_add(part);
        count.bytes.store(bytes, Ordering::Relaxed);
        let counted = count.counted.load(Ordering::Relaxed);
        if bytes <= counted || counted >= count.most {
            return None;
        }
        let ahead = counted.clamp(AHEAD_MIN, AHEAD_MAX);
        let counts = bytes.max(counted.saturating_add(ahead)).min(count.most);
        count.counted.store(counts, Ordering::Relaxed);
        Some(counts)
    }

    /// Marks the body as complete.
    fn end(&self) {
        let count = &self.0;
        count.held.complete();
        let bytes = count.bytes.load(Ordering::Relaxed).min(count.most);
        count.counted.store(bytes, Ordering::Relaxed);
        count.held.shrink_to(bytes);
    }
}

type Waiting = (
    Option<Bytes>,
    Pin<Box<dyn Future<Output = Result<(), NoRoom>> + Send>>,
);

/// Counts the bytes of the request's body, up to `most`.
pub(super) fn count_request(request: Request, held: Arc<Reservation>, most: usize) -> Request {
    let announced = request.body().size_hint();
    if announced.exact() == Some(0) {
        return request;
    }
    let announced = announced
        .upper()
        .and_then(|upper| usize::try_from(upper).ok());
    let most = most.min(announced.unwrap_or(most));
    let kept = KeptBytes(Arc::new(KeptCount {
        held,
        bytes: AtomicUsize::new(0),
        counted: AtomicUsize::new(0),
        most,
    }));
    let (mut parts, inner) = request.into_parts();
    if most > AHEAD_MIN {
        parts.extensions.insert(kept.clone());
    }
    let waiting = None;
    let body = CountedRequestBody {
        inner,
        kept,
        waiting,
    };
    Request::from_parts(parts, Body::new(body))
}

impl HttpBody for CountedRequestBody {
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
                self.kept.end();
                return Poll::Ready(None);
            }
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return Poll::Ready(Some(Ok(frame))),
        };
        let Some(bytes) = self.kept.add(data.len()) else {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        };
        let held = Arc::clone(&self.kept.0.held);
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

/// A response whose bytes are counted until the client has read them.
struct CountedResponseBody {
    inner: Body,
    /// The bytes of the whole response, or of its next part.
    held: Arc<Reservation>,
    by_part: bool,
}

/// Bytes with their count, which is released once the connection has written them.
struct CountedChunk {
    bytes: Bytes,
    _held: Arc<Reservation>,
}

impl AsRef<[u8]> for CountedChunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for CountedResponseBody {
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
                        held = std::mem::replace(&mut self.held, Arc::new(held.sibling()));
                    }
                    let _held = held;
                    Bytes::from_owner(CountedChunk { bytes, _held })
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

/// Counts the bytes of a response.
///
/// # Errors
/// [`NoRoom`], for a response that may be refused.
pub(super) fn count_response(
    response: Response,
    held: Arc<Reservation>,
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
        true => held.set_response(bytes)?,
        false => held.set_unchecked(bytes),
    }
    let by_part = hint.exact().is_none();
    Ok(response.map(|inner| {
        Body::new(CountedResponseBody {
            inner,
            held,
            by_part,
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Budget, BytesOwner};
    use futures_util::stream;
    use http_body_util::BodyExt;
    use kvasm_metrics::Metrics;
    use std::convert::Infallible;

    /// A body counts as what has arrived and little more, and as less once its handler says so.
    #[tokio::test]
    async fn body_charges_only_retained_bytes() {
        const PART: usize = 300 * 1024;
        const PARTS: usize = 30;
        let metrics = Metrics::default();
        let budget = Budget::new(1 << 30, metrics.clone());
        let of = |parts: usize| {
            let parts = (0..parts).map(|_| Ok::<_, Infallible>(vec![0u8; PART]));
            let request = Request::new(Body::from_stream(stream::iter(parts)));
            let held = Arc::new(budget.held(BytesOwner::Administration("a".into())));
            let request = count_request(request, held, 1 << 24);
            let kept = request.extensions().get::<KeptBytes>().unwrap().clone();
            (request.into_body(), kept)
        };
        let (mut body, kept) = of(PARTS);
        let mut arrived = 0;
        while let Some(part) = body.frame().await {
            arrived += part.unwrap().into_data().unwrap().len();
            let used = used(&metrics);
            assert!(used >= arrived && used <= arrived + AHEAD_MAX, "{used}");
        }
        // Once complete, it counts as its size.
        assert_eq!(used(&metrics), PARTS * PART);
        kept.set(PART);
        assert!(used(&metrics) <= PART + AHEAD_MIN);
        drop((body, kept));
        assert_eq!(used(&metrics), 0);

        let (mut body, kept) = of(PARTS);
        while body.frame().await.is_some() {
            assert!(used(&metrics) <= PART + AHEAD_MAX);
            kept.set(0);
            assert_eq!(used(&metrics), 0);
        }
        // Others do not wait for a body that holds nothing.
        let (mut body, kept) = of(2);
        body.frame().await.unwrap().unwrap();
        assert!(budget.has_arriving());
        kept.set(0);
        assert!(!budget.has_arriving());
    }

    fn used(metrics: &Metrics) -> usize {
        let text = metrics.encode();
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix("kvasm_http_bytes_in_flight "));
        line.unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn idle_stream_holds_no_budget() {
        let metrics = Metrics::default();
        let budget = Budget::new(1 << 20, metrics.clone());
        let used = || used(&metrics);
        let parts = [10, 300 * 1024].map(|len| Ok::<_, Infallible>(vec![0u8; len]));
        let response = Response::new(Body::from_stream(stream::iter(parts)));
        let held = Arc::new(budget.held(BytesOwner::Administration("a".into())));
        let mut body = count_response(response, held, true).unwrap().into_body();
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
