//! How long a connection waits for a request.

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
    /// The rest of a request's head. A new connection owes one at once.
    Head,
    /// Nothing: the last request was answered, and the next may come.
    Idle,
    /// A request is being handled. Its body and its answer have bounds of their own.
    Request,
}

/// The phase of a connection, which its requests change.
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

    /// The body of the answer to that request: when it is dropped, the connection is
    /// idle.
    pub(super) fn answer<B: Body>(&self, inner: B) -> Answer<B> {
        let phases = self.clone();
        Answer { inner, phases }
    }
}

/// The timer of a connection that waits for a request.
pub(super) struct HeadTimer {
    phases: Phases,
    head_timeout: Duration,
    idle_timeout: Duration,
    /// The phase that is timed, and since when.
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

    /// Bytes were read: those of a head, unless a request is being handled.
    pub(super) fn read(&mut self) {
        if self.phases.get() == Phase::Idle {
            self.phases.set(Phase::Head);
        }
    }

    /// Bytes of an answer were written: the time of an idle connection begins when the
    /// client has taken the last of them.
    pub(super) fn wrote(&mut self) {
        if self.phases.get() == Phase::Idle {
            self.started = None;
        }
    }

    /// Ready when the client has sent nothing, or no whole head, for too long.
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

    /// When the connection is closed, if it goes on waiting.
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

/// The body of an answer.
pub(super) struct Answer<B> {
    inner: B,
    phases: Phases,
}

impl<B: Body + Unpin> Body for Answer<B> {
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

impl<B> Drop for Answer<B> {
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

    /// One request comes and is answered.
    fn serve_one(timer: &HeadTimer) {
        timer.phases().request();
        drop(timer.phases().answer(Empty::<&[u8]>::new()));
    }

    #[test]
    fn a_head_and_an_idle_connection_have_times_of_their_own() {
        let start = Instant::now();
        let mut timer = timer();
        assert_eq!(timer.until(start), Some(start + 10 * SECOND));
        timer.read();
        let later = start + 3 * SECOND;
        assert_eq!(timer.until(later), Some(start + 10 * SECOND));

        timer.phases().request();
        timer.read();
        assert_eq!(timer.until(later), None, "a request has no such time");
        let answer = timer.phases().answer(Empty::<&[u8]>::new());
        assert_eq!(timer.until(later), None, "nor has its answer");
        drop(answer);
        assert_eq!(timer.until(later), Some(later + 60 * SECOND));

        // With the first byte of the next head its time begins, and no byte extends it.
        let last = start + 50 * SECOND;
        for seconds in 0..3 {
            timer.read();
            let until = timer.until(last + seconds * SECOND);
            assert_eq!(until, Some(last + 10 * SECOND));
        }
    }

    #[test]
    fn an_answer_that_is_taken_slowly_does_not_count_as_idle() {
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
    fn each_idle_time_is_counted_from_its_own_begin() {
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
