//! Fair sharing of a scarce resource, first among apps, then among calls.
//!
//! Waiters are served in this order: first the app that holds the fewest units; among equals,
//! the app whose last unit was released longest ago, or that arrived first if it has had none
//! since it was last idle. Within an app the lowest rank is served first; among equals, the
//! first to arrive. So an app with a thousand waiting calls precedes an app with one at most
//! once.

use kvasm_core::AppId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The maximum share of one app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All units, while no other app waits.
    All,
    /// At most as many units as remain free afterwards, so that one app cannot starve another:
    /// one app gets a half, the next a quarter, and so on. The first request of an app that
    /// holds nothing is always granted if there are enough units. (Dynamic thresholds: Choudhury
    /// and Hahne, 1998, with a factor of 1.)
    Half,
}

/// A semaphore whose units are shared fairly among apps.
pub struct FairSemaphore {
    share: Share,
    state: Mutex<FairState>,
}

#[derive(Default)]
struct FairState {
    free: u32,
    apps: HashMap<AppId, AppQueue>,
    /// Apps with waiters, in the order in which they are served.
    order: BTreeSet<(u32, u64, AppId)>,
    clock: u64,
}

#[derive(Default)]
struct AppQueue {
    units: u32,
    /// When it last released a unit, or arrived.
    turn: u64,
    waiting: BTreeMap<(u64, u64), Waiter>,
}

struct Waiter {
    units: u32,
    sender: oneshot::Sender<FairPermit>,
}

impl FairSemaphore {
    /// Creates a resource of this many units, shared as `share` says.
    pub fn new(units: u32, share: Share) -> Arc<FairSemaphore> {
        Arc::new(FairSemaphore {
            share,
            state: Mutex::new(FairState {
                free: units,
                ..FairState::default()
            }),
        })
    }

    /// Acquires `units` units, waiting if necessary. Within an app, the lowest `rank` is served
    /// first.
    pub async fn acquire(
        self: &Arc<FairSemaphore>,
        app: AppId,
        units: u32,
        rank: u64,
    ) -> Option<FairPermit> {
        {
            let mut state = self.state.lock();
            if state.order.is_empty() && state.may_take(self.share, app, units) {
                state.give(app, units);
                return Some(self.place(app, units));
            }
        }
        self.enqueue(None, app, units, rank).await
    }

    /// Joins the queue immediately and releases `held`, if any, in one step: so a holder that
    /// yields keeps its units unless another waiter precedes it. The returned future waits.
    pub fn enqueue(
        self: &Arc<FairSemaphore>,
        held: Option<FairPermit>,
        app: AppId,
        units: u32,
        rank: u64,
    ) -> impl Future<Output = Option<FairPermit>> + use<> {
        let mut state = self.state.lock();
        state.clock += 1;
        let at = (rank, state.clock);
        let (sender, receiver) = oneshot::channel();
        state.reorder(app, |held| {
            // An arriving app queues behind all waiting ones: apps with frequent short calls
            // must not overtake one that waits.
            if held.units == 0 && held.waiting.is_empty() {
                held.turn = at.1;
            }
            held.waiting.insert(at, Waiter { units, sender });
        });
        // After queueing, so that the app's entry, which orders it, is not removed.
        if let Some(held) = held {
            state.take_back(held.app, held.units);
            held.forget();
        }
        // Earlier waiters may want more units than are free, and this one fewer.
        self.serve(&mut state);
        drop(state);
        let fair = Arc::clone(self);
        let ticket = QueuePosition { fair, app, at };
        async move {
            let place = receiver.await.ok();
            drop(ticket);
            place
        }
    }

    fn place(self: &Arc<FairSemaphore>, app: AppId, units: u32) -> FairPermit {
        FairPermit {
            fair: Some(Arc::clone(self)),
            app,
            units,
        }
    }

    /// Grants free units to waiters.
    fn serve(self: &Arc<FairSemaphore>, state: &mut FairState) {
        while let Some((app, at, units)) = state.next(self.share) {
            let mut sender = None;
            state.reorder(app, |held| {
                sender = held.waiting.remove(&at).map(|waiter| waiter.sender);
            });
            state.give(app, units);
            let Some(sender) = sender else { return };
            if let Err(place) = sender.send(self.place(app, units)) {
                // The waiter was cancelled. Dropping the place would deadlock on the state.
                place.forget();
                state.take_back(app, units);
            }
        }
    }

    fn release(self: &Arc<FairSemaphore>, app: AppId, units: u32) {
        let mut state = self.state.lock();
        state.take_back(app, units);
        self.serve(&mut state);
    }
}

impl FairState {
    fn may_take(&self, share: Share, app: AppId, units: u32) -> bool {
        if units > self.free {
            return false;
        }
        let held = self.apps.get(&app).map_or(0, |held| held.units);
        match share {
            Share::All => true,
            Share::Half => held == 0 || held.saturating_add(units) <= self.free - units,
        }
    }

    /// Returns the next waiter that can be served.
    fn next(&self, share: Share) -> Option<(AppId, (u64, u64), u32)> {
        if self.free == 0 {
            return None;
        }
        self.order.iter().find_map(|(_, _, app)| {
            let (at, waiter) = self.apps.get(app)?.waiting.first_key_value()?;
            let fits = self.may_take(share, *app, waiter.units);
            fits.then_some((*app, *at, waiter.units))
        })
    }

    /// Changes an app's entry and updates its position in the order.
    fn reorder(&mut self, app: AppId, change: impl FnOnce(&mut AppQueue)) {
        let held = self.apps.entry(app).or_default();
        self.order.remove(&(held.units, held.turn, app));
        change(held);
        if !held.waiting.is_empty() {
            self.order.insert((held.units, held.turn, app));
        } else if held.units == 0 {
            self.apps.remove(&app);
        }
    }

    fn give(&mut self, app: AppId, units: u32) {
        self.free = self.free.saturating_sub(units);
        self.reorder(app, |held| held.units += units);
    }

    fn take_back(&mut self, app: AppId, units: u32) {
        self.clock += 1;
        let turn = self.clock;
        self.free += units;
        self.reorder(app, |held| {
            held.units = held.units.saturating_sub(units);
            held.turn = turn;
        });
    }
}

/// Acquired units, released on drop.
pub struct FairPermit {
    fair: Option<Arc<FairSemaphore>>,
    app: AppId,
    units: u32,
}

impl FairPermit {
    fn forget(mut self) {
        self.fair = None;
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        if let Some(fair) = self.fair.take() {
            fair.release(self.app, self.units);
        }
    }
}

/// A position in the queue, given up on drop.
struct QueuePosition {
    fair: Arc<FairSemaphore>,
    app: AppId,
    at: (u64, u64),
}

impl Drop for QueuePosition {
    fn drop(&mut self) {
        let mut state = self.fair.state.lock();
        if state.apps.contains_key(&self.app) {
            let at = self.at;
            state.reorder(self.app, |held| drop(held.waiting.remove(&at)));
            // Waiters behind it may want fewer units.
            self.fair.serve(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn app() -> AppId {
        AppId::generate()
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn fair_queue_alternates_between_apps() {
        let fair = FairSemaphore::new(1, Share::All);
        let (loud, quiet) = (app(), app());
        let mut first = pin!(fair.acquire(loud, 1, 0));
        let mut held = poll(first.as_mut()).unwrap();
        let mut queue: Vec<_> = (1..10)
            .map(|n| Box::pin(fair.acquire(loud, 1, n)))
            .collect();
        for waiting in &mut queue {
            assert!(poll(waiting.as_mut()).is_none());
        }
        let mut other = pin!(fair.acquire(quiet, 1, 0));
        assert!(poll(other.as_mut()).is_none());
        // The quiet app is next, although nine calls arrived before it.
        drop(held);
        held = poll(other.as_mut()).unwrap();
        drop(held);
        // Then the oldest call of the loud app.
        assert!(poll(queue[0].as_mut()).is_some());
    }

    #[test]
    fn fair_queue_serves_lowest_rank_first_within_app() {
        let fair = FairSemaphore::new(1, Share::All);
        let app = app();
        let held = poll(pin!(fair.acquire(app, 1, 5)).as_mut()).unwrap();
        let mut late = pin!(fair.acquire(app, 1, 9));
        let mut early = pin!(fair.acquire(app, 1, 7));
        assert!(poll(late.as_mut()).is_none() && poll(early.as_mut()).is_none());
        drop(held);
        assert!(poll(late.as_mut()).is_none());
        assert!(poll(early.as_mut()).is_some());
    }

    #[test]
    fn holder_keeps_units_unless_another_waiter_precedes() {
        let fair = FairSemaphore::new(1, Share::All);
        let (mine, other) = (app(), app());
        let held = poll(pin!(fair.acquire(mine, 1, 5)).as_mut()).flatten();
        let mut younger = pin!(fair.acquire(mine, 1, 7));
        assert!(poll(younger.as_mut()).is_none());
        // The oldest of its app continues.
        let held = poll(pin!(fair.enqueue(held, mine, 1, 5)).as_mut()).flatten();
        assert!(held.is_some());
        assert!(poll(younger.as_mut()).is_none());
        // Another app is served first, then the oldest again.
        let mut guest = pin!(fair.acquire(other, 1, 9));
        assert!(poll(guest.as_mut()).is_none());
        let mut again = pin!(fair.enqueue(held, mine, 1, 5));
        assert!(poll(again.as_mut()).is_none());
        let held = poll(guest.as_mut()).flatten();
        assert!(held.is_some());
        drop(held);
        assert!(poll(younger.as_mut()).is_none());
        let held = poll(again.as_mut()).flatten();
        // An older call of its own app precedes it too.
        let mut older = pin!(fair.acquire(mine, 1, 3));
        assert!(poll(older.as_mut()).is_none());
        let mut later = pin!(fair.enqueue(held, mine, 1, 5));
        assert!(poll(later.as_mut()).is_none());
        assert!(poll(older.as_mut()).is_some());
    }

    #[test]
    fn yielding_call_does_not_overtake_another_app() {
        let (first, second) = (app(), app());
        for (endless, other) in [(first, second), (second, first)] {
            let fair = FairSemaphore::new(1, Share::All);
            let held = poll(pin!(fair.acquire(endless, 1, 0)).as_mut()).flatten();
            let mut waits = pin!(fair.acquire(other, 1, 1));
            assert!(poll(waits.as_mut()).is_none());
            let mut again = pin!(fair.enqueue(held, endless, 1, 0));
            assert!(poll(again.as_mut()).is_none());
            assert!(poll(waits.as_mut()).flatten().is_some());
        }
    }

    #[test]
    fn short_calls_do_not_overtake_a_waiting_app() {
        let (first, second, third) = (app(), app(), app());
        for (long, short, others) in [(first, second, third), (third, second, first)] {
            let fair = FairSemaphore::new(1, Share::All);
            let held = poll(pin!(fair.acquire(long, 1, 0)).as_mut()).flatten();
            let mut next = pin!(fair.acquire(short, 1, 1));
            assert!(poll(next.as_mut()).is_none());
            let mut waits = pin!(fair.enqueue(held, long, 1, 0));
            let held = poll(next.as_mut()).flatten();
            assert!(poll(waits.as_mut()).is_none());
            let mut comes = pin!(fair.acquire(others, 1, 2));
            assert!(poll(comes.as_mut()).is_none());
            drop(held);
            assert!(poll(comes.as_mut()).is_none());
            assert!(poll(waits.as_mut()).flatten().is_some());
        }
    }

    #[test]
    fn half_share_leaves_units_for_other_apps() {
        let fair = FairSemaphore::new(16, Share::Half);
        let mut held = Vec::new();
        let mut take_all = |app| {
            let mut count = 0;
            while let Some(place) = poll(pin!(fair.acquire(app, 1, 0)).as_mut()) {
                held.push(place);
                count += 1;
            }
            count
        };
        assert_eq!(take_all(app()), 8);
        assert_eq!(take_all(app()), 4);
        assert_eq!(take_all(app()), 2);
        assert_eq!(take_all(app()), 1);
        // An app that holds nothing gets a unit while there is one.
        assert_eq!(take_all(app()), 1);
        assert_eq!(take_all(app()), 0);
    }

    #[test]
    fn cancelled_waiter_leaves_no_state_and_returns_units() {
        let fair = FairSemaphore::new(1, Share::Half);
        let (a, b) = (app(), app());
        let held = poll(pin!(fair.acquire(a, 1, 0)).as_mut()).unwrap();
        {
            let mut gone = pin!(fair.acquire(b, 1, 0));
            assert!(poll(gone.as_mut()).is_none());
        }
        {
            let mut given = pin!(fair.acquire(b, 1, 0));
            assert!(poll(given.as_mut()).is_none());
            drop(held);
            // It was granted a unit that it never polled for.
        }
        let state = fair.state.lock();
        assert_eq!((state.free, state.apps.len(), state.order.len()), (1, 0, 0));
    }

    #[test]
    fn large_request_does_not_block_small_one() {
        let fair = FairSemaphore::new(4, Share::Half);
        let (a, b) = (app(), app());
        let _held = poll(pin!(fair.acquire(a, 3, 0)).as_mut()).unwrap();
        let mut large = pin!(fair.acquire(b, 2, 0));
        assert!(poll(large.as_mut()).is_none());
        let small = poll(pin!(fair.acquire(app(), 1, 0)).as_mut());
        assert!(small.is_some());
    }
}
