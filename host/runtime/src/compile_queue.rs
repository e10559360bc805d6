//! Permits to compile.
//!
//! There are two queues. A module is compiled in the quick queue first. If it takes long, it
//! moves to the slow queue, so that modules that are slow to compile wait for each other and do
//! not block others. At most one module of an app is compiled at a time, over both queues.
//! Waiters are served by app: the app whose last permit ended longest ago is next.

use super::error::LoadError;
use kvasm_core::AppId;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Maximum number of waiting modules, over all apps.
const WAITING_MAX: usize = 256;
/// Maximum number of waiting modules of one app.
const WAITING_OF_APP_MAX: usize = 16;

/// The queue in which a module is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CompileQueueKind {
    /// For the start of each compilation.
    Quick,
    /// For compilations that take longer.
    Slow,
}

/// The apps that wait for one module. Others may join while it is queued.
pub(super) type Apps = Arc<Mutex<Vec<AppId>>>;

/// The compile permits of both queues. Cheap to clone; clones share them.
#[derive(Clone)]
pub(super) struct CompileQueue(Arc<Mutex<CompileQueueState>>);

struct CompileQueueState {
    quick: usize,
    slow: usize,
    running: HashSet<AppId>,
    waiting: Vec<QueuedCompile>,
    /// When each waiting app last released a permit.
    last: HashMap<AppId, u64>,
    clock: u64,
}

struct QueuedCompile {
    apps: Apps,
    lane: CompileQueueKind,
    since: u64,
    ready: oneshot::Sender<CompilePermit>,
}

/// A permit to compile one module, released on drop.
pub(super) struct CompilePermit {
    lanes: CompileQueue,
    app: AppId,
    lane: Mutex<CompileQueueKind>,
}

impl CompileQueue {
    /// Creates `places` permits in each queue.
    pub(super) fn new(places: usize) -> CompileQueue {
        CompileQueue(Arc::new(Mutex::new(CompileQueueState {
            quick: places,
            slow: places,
            running: HashSet::new(),
            waiting: Vec::new(),
            last: HashMap::new(),
            clock: 0,
        })))
    }

    /// Waits for a permit. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`LoadError::Busy`] if too many are waiting.
    pub(super) async fn acquire(
        &self,
        lane: CompileQueueKind,
        apps: &Apps,
    ) -> Result<CompilePermit, LoadError> {
        let (ready, turn) = oneshot::channel();
        {
            let mut state = self.0.lock();
            state.waiting.retain(|waiting| !waiting.ready.is_closed());
            let first = apps.lock().first().copied();
            let of_app = |waiting: &&QueuedCompile| waiting.apps.lock().first().copied() == first;
            // A compilation that was stopped in the quick queue was admitted before.
            let is_new = lane == CompileQueueKind::Quick;
            if is_new
                && (state.waiting.len() >= WAITING_MAX
                    || state.waiting.iter().filter(of_app).count() >= WAITING_OF_APP_MAX)
            {
                return Err(LoadError::Busy);
            }
            state.clock += 1;
            let since = state.clock;
            state.waiting.push(QueuedCompile {
                apps: Arc::clone(apps),
                lane,
                since,
                ready,
            });
        }
        self.serve();
        turn.await.map_err(LoadError::host)
    }

    /// Grants free permits to waiters.
    pub(super) fn serve(&self) {
        let mut given = Vec::new();
        {
            let mut state = self.0.lock();
            while let Some((at, app)) = state.next() {
                let waiting = state.waiting.swap_remove(at);
                *state.places(waiting.lane) -= 1;
                state.running.insert(app);
                let turn = CompilePermit {
                    lanes: self.clone(),
                    app,
                    lane: Mutex::new(waiting.lane),
                };
                given.push((waiting.ready, turn));
            }
        }
        // Not under the lock: dropping the permit of a cancelled waiter locks.
        for (ready, turn) in given {
            drop(ready.send(turn));
        }
    }
}

impl CompileQueueState {
    fn places(&mut self, lane: CompileQueueKind) -> &mut usize {
        match lane {
            CompileQueueKind::Quick => &mut self.quick,
            CompileQueueKind::Slow => &mut self.slow,
        }
    }

    /// Returns since when the waiter's app has been waiting, if it may compile now.
    fn claim(&self, waiting: &QueuedCompile) -> Option<(u64, AppId)> {
        let apps = waiting.apps.lock();
        let idle = apps.iter().filter(|app| !self.running.contains(app));
        let claims = idle.map(|app| {
            let last = self.last.get(app).copied().unwrap_or(0);
            (last.max(waiting.since), *app)
        });
        claims.min_by_key(|(since, _)| *since)
    }

    /// Returns the next waiter, if there is one.
    fn next(&self) -> Option<(usize, AppId)> {
        let waiting = self.waiting.iter().enumerate();
        let claims = waiting.filter_map(|(at, waiting)| {
            let places = match waiting.lane {
                CompileQueueKind::Quick => self.quick,
                CompileQueueKind::Slow => self.slow,
            };
            let (since, app) = self.claim(waiting).filter(|_| places > 0)?;
            Some((since, waiting.since, at, app))
        });
        let (_, _, at, app) = claims.min_by_key(|(since, queued, ..)| (*since, *queued))?;
        Some((at, app))
    }
}

impl CompilePermit {
    /// Moves to the slow queue, if it has a free permit.
    pub(super) fn move_to_slow(&self) -> bool {
        {
            let mut lane = self.lane.lock();
            let mut state = self.lanes.0.lock();
            if *lane == CompileQueueKind::Slow {
                return true;
            }
            if state.slow == 0 {
                return false;
            }
            state.slow -= 1;
            state.quick += 1;
            *lane = CompileQueueKind::Slow;
        }
        self.lanes.serve();
        true
    }

    pub(super) fn is_quick(&self) -> bool {
        *self.lane.lock() == CompileQueueKind::Quick
    }

    /// Whether another app waits for the quick queue and lacks nothing but a permit.
    pub(super) fn blocks_others(&self) -> bool {
        let state = self.lanes.0.lock();
        let mut quick = state
            .waiting
            .iter()
            .filter(|w| w.lane == CompileQueueKind::Quick);
        quick.any(|waiting| state.claim(waiting).is_some())
    }
}

impl Drop for CompilePermit {
    fn drop(&mut self) {
        {
            let lane = *self.lane.lock();
            let mut state = self.lanes.0.lock();
            *state.places(lane) += 1;
            state.running.remove(&self.app);
            state.clock += 1;
            let now = state.clock;
            let app = self.app;
            state.last.insert(app, now);
            let CompileQueueState { last, waiting, .. } = &mut *state;
            last.retain(|app, _| waiting.iter().any(|w| w.apps.lock().contains(app)));
        }
        self.lanes.serve();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(number: u128) -> AppId {
        AppId::from(uuid::Uuid::from_u128(number))
    }

    fn apps(number: u128) -> Apps {
        Arc::new(Mutex::new(vec![app(number)]))
    }

    /// Joins the queue, and lets the runtime run until then.
    async fn wait(
        lanes: &CompileQueue,
        lane: CompileQueueKind,
        apps: Apps,
    ) -> tokio::task::JoinHandle<Result<CompilePermit, LoadError>> {
        let lanes = lanes.clone();
        let task = tokio::spawn(async move { lanes.acquire(lane, &apps).await });
        tokio::task::yield_now().await;
        task
    }

    async fn settled() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn app_holds_one_compile_slot_and_then_requeues() {
        let lanes = CompileQueue::new(1);
        let first = lanes
            .acquire(CompileQueueKind::Quick, &apps(1))
            .await
            .unwrap();
        let mut again = Vec::new();
        for _ in 0..3 {
            again.push(wait(&lanes, CompileQueueKind::Quick, apps(1)).await);
        }
        let other = wait(&lanes, CompileQueueKind::Quick, apps(2)).await;
        assert!(first.blocks_others());
        drop(first);
        settled().await;
        assert!(other.is_finished());
        assert!(again.iter().all(|task| !task.is_finished()));
        // After the move, the other app's permit frees the quick queue but not the app.
        let other = other.await.unwrap().unwrap();
        assert!(other.move_to_slow());
        let more = wait(&lanes, CompileQueueKind::Quick, apps(2)).await;
        settled().await;
        assert_eq!(again.iter().filter(|task| task.is_finished()).count(), 1);
        assert!(!more.is_finished());
        let turn = again.remove(0).await.unwrap().unwrap();
        assert!(!turn.move_to_slow(), "the slow queue is in use");
        drop(other);
        settled().await;
        assert!(!more.is_finished(), "the quick queue is in use");
        drop(turn);
        settled().await;
        assert!(more.is_finished(), "it had waited longest");
    }

    #[tokio::test]
    async fn joining_app_lends_its_queue_position() {
        let lanes = CompileQueue::new(2);
        let _first = lanes
            .acquire(CompileQueueKind::Quick, &apps(1))
            .await
            .unwrap();
        let shared = apps(1);
        let task = wait(&lanes, CompileQueueKind::Quick, Arc::clone(&shared)).await;
        assert!(!task.is_finished());
        shared.lock().push(app(2));
        lanes.serve();
        settled().await;
        assert!(task.is_finished());
    }

    #[tokio::test]
    async fn compile_queue_is_limited_and_drops_cancelled_waiters() {
        let lanes = CompileQueue::new(1);
        let first = lanes
            .acquire(CompileQueueKind::Quick, &apps(1))
            .await
            .unwrap();
        let mut tasks = Vec::new();
        for _ in 0..WAITING_OF_APP_MAX {
            tasks.push(wait(&lanes, CompileQueueKind::Quick, apps(1)).await);
        }
        assert!(matches!(
            lanes.acquire(CompileQueueKind::Quick, &apps(1)).await,
            Err(LoadError::Busy)
        ));
        let other = wait(&lanes, CompileQueueKind::Quick, apps(2)).await;
        for task in tasks.drain(..) {
            task.abort();
            assert!(task.await.is_err());
        }
        drop(first);
        drop(other.await.unwrap().unwrap());
        drop(
            lanes
                .acquire(CompileQueueKind::Quick, &apps(1))
                .await
                .unwrap(),
        );
        let state = lanes.0.lock();
        assert!(state.waiting.is_empty() && state.running.is_empty() && state.last.is_empty());
        assert_eq!((state.quick, state.slow), (1, 1));
    }
}
