//! Whose turn it is to compile.
//!
//! There are two lanes. A module is compiled in the quick lane first. One that
//! takes long moves to the slow lane, so that modules made to be slow wait for
//! each other and not in front of everybody else's. At most one module of an app
//! is compiled at once, over both lanes; among those that wait, the app that has
//! waited longest since its last turn comes first.

use super::error::LoadError;
use kvasm_core::AppId;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Modules that may wait for their turn, over all apps.
const WAITING_MAX: usize = 256;
/// Modules of one app that may wait for their turn.
const WAITING_OF_APP_MAX: usize = 16;

/// Where a module is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// For the first part of each compilation.
    Quick,
    /// For those that take longer.
    Slow,
}

/// The apps that want one module. Others may join while it waits.
pub(super) type Apps = Arc<Mutex<Vec<AppId>>>;

/// Gives out lanes. Cheap to clone; clones give out the same lanes.
#[derive(Clone)]
pub(super) struct Lanes(Arc<Mutex<State>>);

struct State {
    quick: usize,
    slow: usize,
    running: HashSet<AppId>,
    waiting: Vec<Waiting>,
    /// When an app had its last turn, while it waits for another.
    last: HashMap<AppId, u64>,
    clock: u64,
}

struct Waiting {
    apps: Apps,
    lane: Lane,
    since: u64,
    ready: oneshot::Sender<Turn>,
}

/// The right to compile one module. It ends when it is dropped.
pub(super) struct Turn {
    lanes: Lanes,
    app: AppId,
    lane: Mutex<Lane>,
}

impl Lanes {
    /// With `places` in each lane.
    pub(super) fn new(places: usize) -> Lanes {
        Lanes(Arc::new(Mutex::new(State {
            quick: places,
            slow: places,
            running: HashSet::new(),
            waiting: Vec::new(),
            last: HashMap::new(),
            clock: 0,
        })))
    }

    /// Waits for a turn. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`LoadError::Busy`] if too many wait already.
    pub(super) async fn take(&self, lane: Lane, apps: &Apps) -> Result<Turn, LoadError> {
        let (ready, turn) = oneshot::channel();
        {
            let mut state = self.0.lock();
            state.waiting.retain(|waiting| !waiting.ready.is_closed());
            let first = apps.lock().first().copied();
            let of_app = |waiting: &&Waiting| waiting.apps.lock().first().copied() == first;
            // What was stopped in the quick lane was let in already.
            let is_new = lane == Lane::Quick;
            if is_new
                && (state.waiting.len() >= WAITING_MAX
                    || state.waiting.iter().filter(of_app).count() >= WAITING_OF_APP_MAX)
            {
                return Err(LoadError::Busy);
            }
            state.clock += 1;
            let since = state.clock;
            state.waiting.push(Waiting {
                apps: Arc::clone(apps),
                lane,
                since,
                ready,
            });
        }
        self.give();
        turn.await.map_err(LoadError::host)
    }

    /// Gives free places to those that wait.
    pub(super) fn give(&self) {
        let mut given = Vec::new();
        {
            let mut state = self.0.lock();
            while let Some((at, app)) = state.next() {
                let waiting = state.waiting.swap_remove(at);
                *state.places(waiting.lane) -= 1;
                state.running.insert(app);
                let turn = Turn {
                    lanes: self.clone(),
                    app,
                    lane: Mutex::new(waiting.lane),
                };
                given.push((waiting.ready, turn));
            }
        }
        // Not under the lock: a turn that nobody takes any more is given back here.
        for (ready, turn) in given {
            drop(ready.send(turn));
        }
    }
}

impl State {
    fn places(&mut self, lane: Lane) -> &mut usize {
        match lane {
            Lane::Quick => &mut self.quick,
            Lane::Slow => &mut self.slow,
        }
    }

    /// When the app that waits began to wait, if it may compile now.
    fn claim(&self, waiting: &Waiting) -> Option<(u64, AppId)> {
        let apps = waiting.apps.lock();
        let idle = apps.iter().filter(|app| !self.running.contains(app));
        let claims = idle.map(|app| {
            let last = self.last.get(app).copied().unwrap_or(0);
            (last.max(waiting.since), *app)
        });
        claims.min_by_key(|(since, _)| *since)
    }

    /// Who comes next, if anybody can.
    fn next(&self) -> Option<(usize, AppId)> {
        let waiting = self.waiting.iter().enumerate();
        let claims = waiting.filter_map(|(at, waiting)| {
            let places = match waiting.lane {
                Lane::Quick => self.quick,
                Lane::Slow => self.slow,
            };
            let (since, app) = self.claim(waiting).filter(|_| places > 0)?;
            Some((since, waiting.since, at, app))
        });
        let (_, _, at, app) = claims.min_by_key(|(since, queued, ..)| (*since, *queued))?;
        Some((at, app))
    }
}

impl Turn {
    /// Moves to the slow lane, if there is a place in it.
    pub(super) fn slow_down(&self) -> bool {
        {
            let mut lane = self.lane.lock();
            let mut state = self.lanes.0.lock();
            if *lane == Lane::Slow {
                return true;
            }
            if state.slow == 0 {
                return false;
            }
            state.slow -= 1;
            state.quick += 1;
            *lane = Lane::Slow;
        }
        self.lanes.give();
        true
    }

    pub(super) fn is_quick(&self) -> bool {
        *self.lane.lock() == Lane::Quick
    }

    /// Whether another app waits for the quick lane and nothing but a place is in
    /// its way.
    pub(super) fn holds_up_others(&self) -> bool {
        let state = self.lanes.0.lock();
        let mut quick = state.waiting.iter().filter(|w| w.lane == Lane::Quick);
        quick.any(|waiting| state.claim(waiting).is_some())
    }
}

impl Drop for Turn {
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
            let State { last, waiting, .. } = &mut *state;
            last.retain(|app, _| waiting.iter().any(|w| w.apps.lock().contains(app)));
        }
        self.lanes.give();
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

    /// Starts to wait, and lets the runtime run until it does.
    async fn wait(
        lanes: &Lanes,
        lane: Lane,
        apps: Apps,
    ) -> tokio::task::JoinHandle<Result<Turn, LoadError>> {
        let lanes = lanes.clone();
        let task = tokio::spawn(async move { lanes.take(lane, &apps).await });
        tokio::task::yield_now().await;
        task
    }

    async fn settled() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_app_has_one_turn_at_once_and_then_waits_behind_others() {
        let lanes = Lanes::new(1);
        let first = lanes.take(Lane::Quick, &apps(1)).await.unwrap();
        let mut again = Vec::new();
        for _ in 0..3 {
            again.push(wait(&lanes, Lane::Quick, apps(1)).await);
        }
        let other = wait(&lanes, Lane::Quick, apps(2)).await;
        assert!(first.holds_up_others());
        drop(first);
        settled().await;
        assert!(other.is_finished());
        assert!(again.iter().all(|task| !task.is_finished()));
        // Moved on, the other's turn leaves the place and not the app.
        let other = other.await.unwrap().unwrap();
        assert!(other.slow_down());
        let more = wait(&lanes, Lane::Quick, apps(2)).await;
        settled().await;
        assert_eq!(again.iter().filter(|task| task.is_finished()).count(), 1);
        assert!(!more.is_finished());
        let turn = again.remove(0).await.unwrap().unwrap();
        assert!(!turn.slow_down(), "the slow lane is taken");
        drop(other);
        settled().await;
        assert!(!more.is_finished(), "the quick place is not free");
        drop(turn);
        settled().await;
        assert!(more.is_finished(), "it had waited longest");
    }

    #[tokio::test]
    async fn who_joins_a_module_lends_it_its_turn() {
        let lanes = Lanes::new(2);
        let _first = lanes.take(Lane::Quick, &apps(1)).await.unwrap();
        let shared = apps(1);
        let task = wait(&lanes, Lane::Quick, Arc::clone(&shared)).await;
        assert!(!task.is_finished());
        shared.lock().push(app(2));
        lanes.give();
        settled().await;
        assert!(task.is_finished());
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_those_who_leave_leave() {
        let lanes = Lanes::new(1);
        let first = lanes.take(Lane::Quick, &apps(1)).await.unwrap();
        let mut tasks = Vec::new();
        for _ in 0..WAITING_OF_APP_MAX {
            tasks.push(wait(&lanes, Lane::Quick, apps(1)).await);
        }
        assert!(matches!(
            lanes.take(Lane::Quick, &apps(1)).await,
            Err(LoadError::Busy)
        ));
        let other = wait(&lanes, Lane::Quick, apps(2)).await;
        for task in tasks.drain(..) {
            task.abort();
            assert!(task.await.is_err());
        }
        drop(first);
        drop(other.await.unwrap().unwrap());
        drop(lanes.take(Lane::Quick, &apps(1)).await.unwrap());
        let state = lanes.0.lock();
        assert!(state.waiting.is_empty() && state.running.is_empty() && state.last.is_empty());
        assert_eq!((state.quick, state.slow), (1, 1));
    }
}
