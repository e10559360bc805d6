//! The timeout for a silent server. Any data sent or received restarts it, so that large transfers
//! continue. Time spent reading this side's input does not count.

use super::failure::Failure;
use axum::body::Body;
use futures_util::{Stream, StreamExt};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// Maximum bytes of a body that are passed on at once. Progress is measured in parts of this size.
const PART_BYTES: usize = 64 * 1024;

/// The time since the server last made progress.
#[derive(Clone)]
pub(super) struct ServerTimeout {
    timeout: Option<Duration>,
    state: Arc<Mutex<TimeoutState>>,
}

struct TimeoutState {
    /// When data was last sent or received.
    moved: Instant,
    /// Whether the body is waiting for this side's input.
    is_reading: bool,
}

impl ServerTimeout {
    pub(super) fn new(timeout: Option<Duration>) -> ServerTimeout {
        let state = TimeoutState {
            moved: Instant::now(),
            is_reading: false,
        };
        ServerTimeout {
            timeout,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Waits for the head of a response.
    ///
    /// # Errors
    /// If the timeout expires.
    pub(super) async fn wait<T>(&self, answer: impl Future<Output = T>) -> Result<T, Failure> {
        let Some(timeout) = self.timeout else {
            return Ok(answer.await);
        };
        tokio::pin!(answer);
        loop {
            let until = match &*self.state.lock() {
                TimeoutState {
                    is_reading: true, ..
                } => Instant::now() + timeout,
                state => state.moved + timeout,
            };
            if let Ok(answer) = tokio::time::timeout_at(until, &mut answer).await {
                return Ok(answer);
            }
            let state = self.state.lock();
            if !state.is_reading && state.moved.elapsed() >= timeout {
                return Err(Failure::host(silent(timeout)));
            }
        }
    }

    /// The parts of a response, until the server is silent for too long.
    pub(super) fn parts<T: Send + 'static, E>(
        &self,
        parts: impl Stream<Item = Result<T, E>> + Send + Unpin + 'static,
    ) -> impl Stream<Item = Result<T, BoxError>> + Send + 'static
    where
        E: Into<BoxError> + Send + 'static,
    {
        let timeout = self.timeout;
        futures_util::stream::unfold(parts, move |mut parts| async move {
            let next = match timeout {
                None => parts.next().await,
                Some(timeout) => match tokio::time::timeout(timeout, parts.next()).await {
                    Ok(next) => next,
                    Err(_) => return Some((Err(silent(timeout).into()), parts)),
                },
            };
            Some((next?.map_err(Into::into), parts))
        })
    }

    /// A body that restarts the timeout with each part.
    pub(super) fn body(&self, body: Body) -> Watched {
        Watched {
            body: Mutex::new(body),
            rest: bytes::Bytes::new(),
            watch: self.clone(),
        }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn silent(timeout: Duration) -> String {
    let timeout = humantime::format_duration(timeout);
    format!("no data from the server for {timeout}; use --timeout TIME to wait longer")
}

pub(super) struct Watched {
    /// Only because the type is not `Sync`; it is never locked.
    body: Mutex<Body>,
    /// The remainder of a part that is sent in pieces.
    rest: bytes::Bytes,
    watch: ServerTimeout,
}

impl http_body::Body for Watched {
    type Data = bytes::Bytes;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Self::Error>>> {
        let this = &mut *self;
        {
            let mut state = this.watch.state.lock();
            state.moved = Instant::now();
            state.is_reading = true;
        }
        if this.rest.is_empty() {
            let next = ready!(Pin::new(this.body.get_mut()).poll_frame(context));
            this.watch.state.lock().is_reading = false;
            match next.map(|next| next.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => this.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let mut state = this.watch.state.lock();
        state.moved = Instant::now();
        state.is_reading = false;
        let part = this.rest.len().min(PART_BYTES);
        Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(part)))))
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let body = self.body.lock().size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    const TIMEOUT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn missing_response_times_out() {
        let watch = ServerTimeout::new(Some(TIMEOUT));
        assert!(watch.wait(std::future::pending::<()>()).await.is_err());
        let mut parts = Box::pin(watch.parts(Box::pin(futures_util::stream::pending::<
            Result<(), BoxError>,
        >())));
        assert!(parts.next().await.unwrap().is_err());
    }

    /// A sender that pauses does not count, and sending data restarts the timeout.
    #[tokio::test]
    async fn time_spent_reading_input_is_not_counted() {
        let watch = ServerTimeout::new(Some(TIMEOUT));
        let input = futures_util::stream::unfold(0, |count| async move {
            tokio::time::sleep(TIMEOUT * 3).await;
            (count < 3).then_some((Ok::<_, BoxError>("part"), count + 1))
        });
        let body = watch.body(Body::from_stream(input));
        let sent = watch.wait(body.collect()).await.ok().unwrap();
        assert_eq!(sent.unwrap().to_bytes().len(), 12);
        // The last part is sent, and nothing comes back.
        assert!(watch.wait(std::future::pending::<()>()).await.is_err());
    }

    #[tokio::test]
    async fn body_is_sent_in_chunks_with_its_size() {
        let watch = ServerTimeout::new(Some(TIMEOUT));
        let mut body = watch.body(Body::from(vec![7; 3 * PART_BYTES + 1]));
        let mut left = 3 * PART_BYTES + 1;
        while left > 0 {
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(left as u64));
            let part = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(part.len() <= PART_BYTES);
            left -= part.len();
        }
    }
}
