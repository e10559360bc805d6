//! One question to the store for all who have the same question at the same time.

use parking_lot::Mutex;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use tokio::sync::Notify;

/// Looks at something that changes. At most one look is under way; all who come
/// meanwhile share the next one. So whoever asks gets the answer of a look that has
/// begun after they asked, and waits for two at most.
pub(super) struct Looks<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    /// A look is under way.
    busy: bool,
    /// Those who have come since it began.
    next: Option<Arc<Group<T>>>,
}

/// Those who share a look.
struct Group<T> {
    answer: OnceLock<T>,
    /// There is an answer, or one of the group has to begin.
    woken: Notify,
}

impl<T> Default for Looks<T> {
    fn default() -> Looks<T> {
        let (busy, next) = (false, None);
        Looks(Arc::new(Mutex::new(State { busy, next })))
    }
}

impl<T: Clone + Send + Sync + 'static> Looks<T> {
    /// The answer of a look that begins now or later. Of a group, one calls `ask`. If
    /// that has to wait, the look goes on when its caller has gone.
    pub(super) async fn look<F>(&self, ask: impl Fn() -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let group = self.join();
        loop {
            let mut woken = pin!(group.woken.notified());
            // From here on: nothing that happens after the checks below is missed.
            woken.as_mut().enable();
            if let Some(answer) = group.answer.get() {
                return answer.clone();
            }
            if let Some(underway) = self.begin(&group) {
                underway.run(Box::pin(ask())).await;
            } else {
                woken.await;
            }
        }
    }

    fn join(&self) -> Arc<Group<T>> {
        let mut state = self.0.lock();
        let group = state.next.get_or_insert_with(|| {
            Arc::new(Group {
                answer: OnceLock::new(),
                woken: Notify::new(),
            })
        });
        Arc::clone(group)
    }

    /// Closes the group and begins its look, if none is under way.
    fn begin(&self, group: &Arc<Group<T>>) -> Option<Underway<T>> {
        let mut state = self.0.lock();
        // The answer is there before the next may begin.
        if state.busy || group.answer.get().is_some() {
            return None;
        }
        state.busy = true;
        // It is not the next one if its first look came to no end.
        state.next.take_if(|next| Arc::ptr_eq(next, group));
        Some(Underway {
            state: Arc::clone(&self.0),
            group: Arc::clone(group),
        })
    }
}

/// A look. Dropped, with an answer or without, it lets the next begin.
struct Underway<T> {
    state: Arc<Mutex<State<T>>>,
    group: Arc<Group<T>>,
}

impl<T: Send + Sync + 'static> Underway<T> {
    /// Looks here if the answer is there at once, and else in a task of its own, which
    /// does not end with the one who asked.
    async fn run(self, mut look: Pin<Box<dyn Future<Output = T> + Send>>) {
        match poll_fn(|context| Poll::Ready(look.as_mut().poll(context))).await {
            Poll::Ready(answer) => self.end(answer),
            Poll::Pending => drop(tokio::spawn(async move { self.end(look.await) })),
        }
    }

    fn end(self, answer: T) {
        // Nobody else has set it: a group has one look at a time.
        let _ = self.group.answer.set(answer);
    }
}

impl<T> Drop for Underway<T> {
    fn drop(&mut self) {
        let next = {
            let mut state = self.state.lock();
            state.busy = false;
            state.next.clone()
        };
        self.group.woken.notify_waiters();
        if let Some(next) = next {
            // If this one has gone, the next of them is woken.
            next.woken.notify_one();
        }
    }
}
