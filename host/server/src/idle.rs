//! Timeouts of a connection that waits for a request.

use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// What a connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The rest of a request's head. A new connection starts in this phase.
    Head,
    /// Nothing: the last response was sent, and another request may follow.
    Idle,
    /// A request is being handled. Its body and its response have their own timeouts.
    Request,
}

/// The phase of a connection, as updated by its requests.
#[derive(Debug, Clone)]
pub(super) struct Phases(Arc<AtomicU8>);

impl Phases {
    fn new() -> Phases {
        Phases(Arc::new(AtomicU8::new(Phase::Head as u8)))
    }

    fn get(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            phase if phase == Phase::Head as u8 => Phase::Head,
            phase if phase == Phase::Idle as u8 => Phase::Idle,
            _ => Phase::Request,
        }
    }

    fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    /// A head has arrived.
    pub(super) fn request(&self) {
        self.set(Phase::Request);
    }

    /// Wraps the body of the response: when it is dropped, the connection is idle.
    pub(super) fn answer<B: Body>(&self, inner: B) -> IdleTracked<B> {
        let phases = self.clone();
        IdleTracked { inner, phases }
    }
}

/// The timer of a connection that waits for a request.
pub(super) struct HeadTimer {
    phases: Phases,
    head_timeout: Duration,
    idle_timeout: Duration,
    /// The timed phase, and when it started.
    started: Option<(Phase, Instant)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl HeadTimer {
    pub(super) fn new(head_timeout: Duration, idle_timeout: Duration) -> HeadTimer {
        HeadTimer {
            phases: Phases::new(),
            head_timeout,
            idle_timeout,
            started: None,
            timer: None,
        }
    }

    pub(super) fn phases(&self) -> Phases {
        self.phases.clone()
    }

    /// Bytes were read. Unless a request is being handled they belong to a head.
    pub(super) fn read(&mut self) {
        if self.phases.get() == Phase::Idle {
            self.phases.set(Phase::Head);
        }
    }

    /// Bytes of a response were written: the idle timeout starts when the client has read the end
    /// of the response.
    pub(super) fn wrote(&mut self) {
        if self.phases.get() == Phase::Idle {
            self.started = None;
        }
    }

    /// Ready when the timeout for a request or its head has expired.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until(Instant::now()) else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(context)
    }

    /// When the connection will be closed if it stays in its current phase.
    fn until(&mut self, now: Instant) -> Option<Instant> {
        let phase = self.phases.get();
        let time = match phase {
            Phase::Request => {
                self.started = None;
                return None;
            }
            Phase::Head => self.head_timeout,
            Phase::Idle => self.idle_timeout,
        };
        let since = match self.started {
            Some((timed, since)) if timed == phase => since,
            _ => now,
        };
        self.started = Some((phase, since));
        since.checked_add(time)
    }
}

/// The body of a response.
pub(super) struct IdleTracked<B> {
    inner: B,
    phases: Phases,
}

impl<B: Body + Unpin> Body for IdleTracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> Drop for IdleTracked<B> {
    fn drop(&mut self) {
        self.phases.set(Phase::Idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;

    const SECOND: Duration = Duration::from_secs(1);

    fn timer() -> HeadTimer {
        HeadTimer::new(10 * SECOND, 60 * SECOND)
    }

    /// Handles one request.
    fn serve_one(timer: &HeadTimer) {
        timer.phases().request();
        drop(timer.phases().answer(Empty::<&[u8]>::new()));
    }

    #[test]
    fn head_and_idle_timeouts_are_separate() {
        let start = Instant::now();
        let mut timer = timer();
        assert_eq!(timer.until(start), Some(start + 10 * SECOND));
        timer.read();
        let later = start + 3 * SECOND;
        assert_eq!(timer.until(later), Some(start + 10 * SECOND));

        timer.phases().request();
        timer.read();
        assert_eq!(timer.until(later), None, "a request has no idle timeout");
        let answer = timer.phases().answer(Empty::<&[u8]>::new());
        assert_eq!(timer.until(later), None, "neither has its response");
        drop(answer);
        assert_eq!(timer.until(later), Some(later + 60 * SECOND));

        // The first byte of the next head starts its timeout, and further bytes do not extend it.
        let last = start + 50 * SECOND;
        for seconds in 0..3 {
            timer.read();
            let until = timer.until(last + seconds * SECOND);
            assert_eq!(until, Some(last + 10 * SECOND));
        }
    }

    #[test]
    fn slowly_read_response_is_not_idle() {
        let mut now = Instant::now();
        let mut timer = timer();
        serve_one(&timer);
        for _ in 0..3 {
            assert_eq!(timer.until(now), Some(now + 60 * SECOND));
            now += 50 * SECOND;
            timer.wrote();
        }
    }

    #[test]
    fn idle_timeout_restarts_with_each_idle_period() {
        let start = Instant::now();
        let mut timer = timer();
        for requests in 1..4 {
            let now = start + requests * SECOND;
            serve_one(&timer);
            timer.wrote();
            assert_eq!(timer.until(now), Some(now + 60 * SECOND));
        }
    }
}
