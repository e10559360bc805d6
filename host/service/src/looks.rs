//! One question to the store for all who have the same question at the same time.

use parking_lot::Mutex;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use tokio::sync::Notify;

/// Looks at something that changes. At most one look is under way; all who come
/// meanwhile share the next one. So each caller gets the answer of a look that has
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
    /// Their look has ended without an answer: it has panicked, its caller has left, or
    /// the runtime is shutting down.
    broken: AtomicBool,
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
        let mut group = self.join();
        let mut place = Place::Anywhere;
        loop {
            if group.broken.load(Ordering::Acquire) {
                // Its members are woken once. They join those who will be woken again.
                place = Place::Here;
                group = self.join();
            }
            let mut woken = pin!(group.woken.notified());
            // From here on: nothing that happens after the checks below is missed.
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

/// Where a look goes on that has to wait.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Anywhere,
    /// Where it was asked for, as a look has ended without an answer before: a runtime
    /// that is shutting down drops each new task at once.
    Here,
}

/// A look. Dropped, with an answer or without, it lets the next begin.
struct Underway<T> {
    state: Arc<Mutex<State<T>>>,
    group: Arc<Group<T>>,
}

impl<T: Send + Sync + 'static> Underway<T> {
    /// Looks here if the answer is there at once, and else in a task of its own, which
    /// does not end with the one who asked.
    async fn run(self, mut look: Pin<Box<dyn Future<Output = T> + Send>>, place: Place) {
        if place == Place::Here {
            return self.end(look.await);
        }
        match poll_fn(|context| Poll::Ready(look.as_mut().poll(context))).await {
            Poll::Ready(answer) => self.end(answer),
            Poll::Pending => drop(tokio::spawn(async move { self.end(look.await) })),
        }
    }

    fn end(self, answer: T) {
        // No other look has set it: a group has one at a time.
        let _ = self.group.answer.set(answer);
    }
}

impl<T> Drop for Underway<T> {
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
            // If this one has gone, the next of them is woken.
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

    /// Looks that end when they are let go, with what is then sent.
    struct Held {
        looks: Arc<Looks<u32>>,
        /// Says that a look has begun.
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

        /// One who asks, and has joined a group.
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
            begins.await.expect("a look begins").unwrap();
        }
    }

    async fn answer(caller: JoinHandle<u32>) -> u32 {
        let answer = timeout(PATIENCE, caller).await;
        answer.expect("an answer").unwrap()
    }

    #[tokio::test]
    async fn a_look_that_has_begun_is_not_used_for_who_comes_later() {
        let mut held = Held::new();
        let first = held.caller().await;
        held.begins().await;
        let mut later = Vec::new();
        for _ in 0..100 {
            later.push(held.caller().await);
        }
        held.let_go.send(1).unwrap();
        assert_eq!(answer(first).await, 1);
        // All who came meanwhile share the next.
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
        assert!(held.begins.try_recv().is_err(), "a look too many");
    }

    #[tokio::test]
    async fn a_look_goes_on_when_its_caller_has_gone() {
        let mut held = Held::new();
        let first = held.caller().await;
        held.begins().await;
        let (gone, second) = (held.caller().await, held.caller().await);
        for caller in [first, gone] {
            caller.abort();
            assert!(caller.await.unwrap_err().is_cancelled());
        }
        held.let_go.send(1).unwrap();
        // Of those who wait, one that is still there begins.
        held.begins().await;
        held.let_go.send(2).unwrap();
        assert_eq!(answer(second).await, 2);
    }

    #[tokio::test]
    async fn a_group_that_has_gone_leaves_its_look_to_the_next() {
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
    async fn a_look_that_panics_is_made_again() {
        let looks = Looks::default();
        let tries = Arc::new(AtomicU32::new(0));
        let ask = || {
            let tries = Arc::clone(&tries);
            async move {
                tokio::task::yield_now().await;
                let tried = tries.fetch_add(1, Ordering::SeqCst);
                assert!(tried > 0, "the first look fails, as this test wants");
                tried
            }
        };
        let look = timeout(PATIENCE, looks.look(ask));
        assert_eq!(look.await.unwrap(), 1);
    }

    /// While those who waited for it have not run yet, the next look has begun.
    #[tokio::test]
    async fn who_waited_for_a_look_that_panics_waits_for_the_next() {
        let looks = Looks::default();
        let (fails, failing) = tokio::sync::oneshot::channel::<u32>();
        let failing = Arc::new(tokio::sync::Mutex::new(Some(failing)));
        let mut first = pin!(looks.look(|| {
            let failing = Arc::clone(&failing);
            async move {
                match failing.lock().await.take() {
                    Some(failing) => failing.await.expect("it fails, as this test wants"),
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
        assert!(looks.0.lock().busy, "the second look is under way");
        assert!(first.as_mut().poll(&mut context).is_pending());
        ends.send(2).unwrap();
        assert_eq!(timeout(PATIENCE, second).await.unwrap(), 2);
        let first = timeout(Duration::from_secs(10), first).await;
        assert_eq!(first.expect("an answer"), 1);
    }

    /// Then no task is started any more, and a caller must not try without end.
    #[test]
    fn a_runtime_can_shut_down_while_somebody_asks() {
        struct AskAtTheEnd(Arc<Looks<u32>>);
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

    /// Callers on several threads: each sees what was so when it asked, or later.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_sees_what_was_so_before_they_asked() {
        for at_once in [true, false] {
            let looks = Arc::new(Looks::default());
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
                        assert!(seen >= before, "{seen} was so before {before}");
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
