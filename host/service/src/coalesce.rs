//! Coalesces concurrent checks of the store into one.

use parking_lot::Mutex;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use tokio::sync::Notify;

/// Coalesces checks of a changing value. At most one check is in progress; all callers that
/// arrive meanwhile share the next one. So each caller gets the result of a check that started
/// after its call, and waits for two checks at most.
pub(super) struct Coalescer<T>(Arc<Mutex<CoalescerState<T>>>);

struct CoalescerState<T> {
    /// A check is in progress.
    busy: bool,
    /// Callers that have arrived since it started.
    next: Option<Arc<Group<T>>>,
}

/// Callers that share a check.
struct Group<T> {
    answer: OnceLock<T>,
    /// The check has ended without a result: it panicked, its caller was cancelled, or the
    /// runtime is shutting down.
    broken: AtomicBool,
    /// There is a result, or a member of the group has to start the check.
    woken: Notify,
}

impl<T> Default for Coalescer<T> {
    fn default() -> Coalescer<T> {
        let (busy, next) = (false, None);
        Coalescer(Arc::new(Mutex::new(CoalescerState { busy, next })))
    }
}

impl<T: Clone + Send + Sync + 'static> Coalescer<T> {
    /// Returns the result of a check that starts now or later. One caller of a group calls
    /// `ask`. If that does not complete at once, the check survives the cancellation of its
    /// caller.
    pub(super) async fn look<F>(&self, ask: impl Fn() -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut group = self.join();
        let mut place = RunIn::Task;
        loop {
            if group.broken.load(Ordering::Acquire) {
                // Its members are notified only once. Join a group that will be notified again.
                place = RunIn::Caller;
                group = self.join();
            }
            let mut woken = pin!(group.woken.notified());
            // Register before the checks below, so that no notification is missed.
            woken.as_mut().enable();
            if let Some(answer) = group.answer.get() {
                return answer.clone();
            }
            if group.broken.load(Ordering::Acquire) {
                continue;
            }
            if let Some(underway) = self.begin(&group) {
                underway.run(Box::pin(ask()), place).await;
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
                broken: AtomicBool::new(false),
                woken: Notify::new(),
            })
        });
        Arc::clone(group)
    }

    /// Closes the group and starts its check, unless one is in progress.
    fn begin(&self, group: &Arc<Group<T>>) -> Option<CheckInProgress<T>> {
        let mut state = self.0.lock();
        // The result is set before the next check may start.
        if state.busy || group.answer.get().is_some() {
            return None;
        }
        state.busy = true;
        // It is no longer the next group if its first check was broken.
        state.next.take_if(|next| Arc::ptr_eq(next, group));
        Some(CheckInProgress {
            state: Arc::clone(&self.0),
            group: Arc::clone(group),
        })
    }
}

/// Where a check that has to wait continues.
#[derive(Clone, Copy, PartialEq)]
enum RunIn {
    Task,
    /// In the caller, because an earlier check ended without a result: a runtime that is
    /// shutting down drops new tasks immediately.
    Caller,
}

/// A check in progress. Dropping it, with a result or without, lets the next one start.
struct CheckInProgress<T> {
    state: Arc<Mutex<CoalescerState<T>>>,
    group: Arc<Group<T>>,
}

impl<T: Send + Sync + 'static> CheckInProgress<T> {
    /// Completes in the caller if the result is ready at once, otherwise in its own task, which
    /// survives the caller.
    async fn run(self, mut look: Pin<Box<dyn Future<Output = T> + Send>>, place: RunIn) {
        if place == RunIn::Caller {
            return self.end(look.await);
        }
        match poll_fn(|context| Poll::Ready(look.as_mut().poll(context))).await {
            Poll::Ready(answer) => self.end(answer),
            Poll::Pending => drop(tokio::spawn(async move { self.end(look.await) })),
        }
    }

    fn end(self, answer: T) {
        // Not set yet: a group has one check at a time.
        let _ = self.group.answer.set(answer);
    }
}

impl<T> Drop for CheckInProgress<T> {
    fn drop(&mut self) {
        if self.group.answer.get().is_none() {
            self.group.broken.store(true, Ordering::Release);
        }
        let next = {
            let mut state = self.state.lock();
            state.busy = false;
            state.next.clone()
        };
        self.group.woken.notify_waiters();
        if let Some(next) = next {
            // If that member is cancelled, `Notify` passes the notification to another.
            next.woken.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Checks that complete when released, with the value sent.
    struct Held {
        looks: Arc<Coalescer<u32>>,
        /// Signals that a check has started.
        begun: UnboundedSender<()>,
        begins: UnboundedReceiver<()>,
        let_go: UnboundedSender<u32>,
        held: Arc<tokio::sync::Mutex<UnboundedReceiver<u32>>>,
    }

    impl Held {
        fn new() -> Held {
            let (begun, begins) = unbounded_channel();
            let (let_go, held) = unbounded_channel();
            Held {
                looks: Arc::default(),
                begun,
                begins,
                let_go,
                held: Arc::new(tokio::sync::Mutex::new(held)),
            }
        }

        fn ask(&self) -> impl Fn() -> Pin<Box<dyn Future<Output = u32> + Send>> + Send + 'static {
            let (begun, held) = (self.begun.clone(), Arc::clone(&self.held));
            move || {
                begun.send(()).unwrap();
                let held = Arc::clone(&held);
                Box::pin(async move { held.lock().await.recv().await.unwrap() })
            }
        }

        /// A caller that has joined a group.
        async fn caller(&self) -> JoinHandle<u32> {
            let (looks, ask) = (Arc::clone(&self.looks), self.ask());
            let joined = Arc::new(Notify::new());
            let has_joined = Arc::clone(&joined);
            let caller = tokio::spawn(async move {
                let mut look = pin!(looks.look(ask));
                poll_fn(|context| {
                    let polled = look.as_mut().poll(context);
                    has_joined.notify_one();
                    polled
                })
                .await
            });
            timeout(PATIENCE, joined.notified()).await.unwrap();
            caller
        }

        async fn begins(&mut self) {
            let begins = timeout(PATIENCE, self.begins.recv());
            begins.await.expect("a check starts").unwrap();
        }
    }

    async fn answer(caller: JoinHandle<u32>) -> u32 {
        let answer = timeout(PATIENCE, caller).await;
        answer.expect("a result").unwrap()
    }

    #[tokio::test]
    async fn check_in_progress_is_not_shared_with_later_callers() {
        let mut held = Held::new();
        let first = held.caller().await;
        held.begins().await;
        let mut later = Vec::new();
        for _ in 0..100 {
            later.push(held.caller().await);
        }
        held.let_go.send(1).unwrap();
        assert_eq!(answer(first).await, 1);
        // All who arrived meanwhile share the next check.
        held.begins().await;
        assert!(later.iter().all(|caller| !caller.is_finished()));
        let last = held.caller().await;
        held.let_go.send(2).unwrap();
        for caller in later {
            assert_eq!(answer(caller).await, 2);
        }
        held.begins().await;
        held.let_go.send(3).unwrap();
        assert_eq!(answer(last).await, 3);
        assert!(held.begins.try_recv().is_err(), "one check too many");
    }

    #[tokio::test]
    async fn check_survives_cancellation_of_its_caller() {
        let mut held = Held::new();
        let first = held.caller().await;
        held.begins().await;
        let (gone, second) = (held.caller().await, held.caller().await);
        for caller in [first, gone] {
            caller.abort();
            assert!(caller.await.unwrap_err().is_cancelled());
        }
        held.let_go.send(1).unwrap();
        // One of the remaining callers starts the next check.
        held.begins().await;
        held.let_go.send(2).unwrap();
        assert_eq!(answer(second).await, 2);
    }

    #[tokio::test]
    async fn cancelled_group_does_not_block_later_checks() {
        let mut held = Held::new();
        let first = held.caller().await;
        held.begins().await;
        let gone = held.caller().await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        held.let_go.send(1).unwrap();
        assert_eq!(answer(first).await, 1);
        let next = held.caller().await;
        held.begins().await;
        held.let_go.send(2).unwrap();
        assert_eq!(answer(next).await, 2);
    }

    #[tokio::test]
    async fn panicking_check_is_retried() {
        let looks = Coalescer::default();
        let tries = Arc::new(AtomicU32::new(0));
        let ask = || {
            let tries = Arc::clone(&tries);
            async move {
                tokio::task::yield_now().await;
                let tried = tries.fetch_add(1, Ordering::SeqCst);
                assert!(tried > 0, "the first check fails intentionally");
                tried
            }
        };
        let look = timeout(PATIENCE, looks.look(ask));
        assert_eq!(look.await.unwrap(), 1);
    }

    /// The next check starts before those that waited for the broken one run again.
    #[tokio::test]
    async fn waiters_of_panicking_check_join_the_next() {
        let looks = Coalescer::default();
        let (fails, failing) = tokio::sync::oneshot::channel::<u32>();
        let failing = Arc::new(tokio::sync::Mutex::new(Some(failing)));
        let mut first = pin!(looks.look(|| {
            let failing = Arc::clone(&failing);
            async move {
                match failing.lock().await.take() {
                    Some(failing) => failing.await.expect("it fails intentionally"),
                    None => 1,
                }
            }
        }));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(first.as_mut().poll(&mut context).is_pending());
        let (ends, end) = tokio::sync::oneshot::channel();
        let end = Arc::new(tokio::sync::Mutex::new(end));
        let mut second = pin!(looks.look(|| {
            let end = Arc::clone(&end);
            async move { (&mut *end.lock().await).await.unwrap() }
        }));
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(fails);
        while looks.0.lock().busy {
            tokio::task::yield_now().await;
        }
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(looks.0.lock().busy, "the second check is in progress");
        assert!(first.as_mut().poll(&mut context).is_pending());
        ends.send(2).unwrap();
        assert_eq!(timeout(PATIENCE, second).await.unwrap(), 2);
        let first = timeout(Duration::from_secs(10), first).await;
        assert_eq!(first.expect("a result"), 1);
    }

    /// No new tasks start then, and a caller must not retry endlessly.
    #[test]
    fn runtime_shuts_down_during_a_check() {
        struct AskAtTheEnd(Arc<Coalescer<u32>>);
        impl Drop for AskAtTheEnd {
            fn drop(&mut self) {
                let look = self.0.look(std::future::pending);
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                assert!(pin!(look).poll(&mut context).is_pending());
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap();
        runtime.spawn(async {
            let _at_the_end = AskAtTheEnd(Arc::default());
            std::future::pending::<()>().await;
        });
        runtime.block_on(tokio::task::yield_now());
        drop(runtime);
    }

    /// Callers on several threads: each sees the value at the time of its call, or a later one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn coalesced_check_is_never_older_than_its_call() {
        for at_once in [true, false] {
            let looks = Arc::new(Coalescer::default());
            let (now, over) = (
                Arc::new(AtomicU32::new(0)),
                Arc::new(AtomicBool::new(false)),
            );
            let mut callers = Vec::new();
            for _ in 0..16 {
                let (looks, now) = (Arc::clone(&looks), Arc::clone(&now));
                let over = Arc::clone(&over);
                callers.push(tokio::spawn(async move {
                    let mut count = 0;
                    while !over.load(Ordering::SeqCst) || count == 0 {
                        let before = now.load(Ordering::SeqCst);
                        let ask = || {
                            let now = Arc::clone(&now);
                            async move {
                                let seen = now.load(Ordering::SeqCst);
                                if !at_once {
                                    tokio::task::yield_now().await;
                                }
                                seen
                            }
                        };
                        let seen = looks.look(ask).await;
                        assert!(seen >= before, "{seen} is older than {before}");
                        count += 1;
                        tokio::task::yield_now().await;
                    }
                    count
                }));
            }
            for _ in 0..20_000 {
                now.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
            over.store(true, Ordering::SeqCst);
            for caller in callers {
                assert!(timeout(PATIENCE, caller).await.unwrap().unwrap() > 0);
            }
        }
    }
}
