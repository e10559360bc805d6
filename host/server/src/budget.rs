//! A budget for the bytes of requests and responses in memory, shared between apps.
//!
//! A body is counted as it arrives, and a response before it is sent. The bytes are released when
//! the handler is done with the body, and when the client has read the end of the response. All
//! calls of an app together may hold as many bytes as are free, and always one body: the more apps
//! are active, the less each may hold, and none can use up what the next one needs.

use kvasm_core::AppName;
use kvasm_metrics::{InUse, Metrics};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How long a request waits for bytes.
const WAIT: Duration = Duration::from_secs(5);

/// Maximum number of requests of a share that wait for bytes. Each is woken whenever bytes are
/// released, so the number bounds that cost.
const WAITING_MAX: usize = 256;

/// The budget had no room for the bytes, after waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("too many bytes of requests and responses are in flight; try again later")]
pub(super) struct NoRoom;

/// The owner of bytes: an app's calls, its administration, or other requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum BytesOwner {
    Calls(Arc<str>),
    Administration(Arc<str>),
    Others,
}

impl BytesOwner {
    /// The share of a request, by its path.
    pub(super) fn of(path: &str) -> BytesOwner {
        let mut parts = path.split('/').skip(1);
        let (first, second, third) = (parts.next(), parts.next(), parts.next());
        // A percent-encoded name would otherwise have a separate share for each encoding.
        let named = |app| AppName::parse(app).map_or("".into(), |name| name.as_str().into());
        match (first, second, third, parts.next()) {
            (Some("a"), Some(app), _, _) => BytesOwner::Calls(named(app)),
            (Some("v1"), Some("apps"), Some(app), Some("call")) => BytesOwner::Calls(named(app)),
            (Some("v1"), Some("apps"), Some(app), Some(_)) => {
                BytesOwner::Administration(named(app))
            }
            _ => BytesOwner::Others,
        }
    }
}

/// The bytes of all requests and responses.
pub(super) struct Budget {
    limit: usize,
    state: Mutex<BudgetState>,
    freed: Notify,
    tickets: AtomicU64,
    metrics: Metrics,
}

#[derive(Default)]
struct BudgetState {
    used: usize,
    shares: HashMap<BytesOwner, InShare>,
}

#[derive(Default)]
struct InShare {
    bytes: usize,
    /// The bodies that hold bytes and are incomplete, oldest first.
    arriving: BTreeSet<u64>,
    /// The number of requests that wait for bytes.
    waiting: usize,
}

impl BudgetState {
    /// Removes a share that holds nothing.
    fn tidy(&mut self, share: &BytesOwner) {
        let is_empty =
            |share: &InShare| share.bytes == 0 && share.arriving.is_empty() && share.waiting == 0;
        if self.shares.get(share).is_some_and(is_empty) {
            self.shares.remove(share);
        }
    }
}

/// The result of requesting more bytes.
#[derive(Debug, PartialEq, Eq)]
enum GrowResult {
    Yes,
    /// There may be room later.
    Wait,
    /// Waiting would block other requests of the share.
    No,
}

impl Budget {
    pub(super) fn new(limit: usize, metrics: Metrics) -> Arc<Budget> {
        Arc::new(Budget {
            limit,
            state: Mutex::default(),
            freed: Notify::new(),
            tickets: AtomicU64::new(0),
            metrics,
        })
    }

    /// Whether a body that holds bytes is arriving.
    #[cfg(test)]
    pub(super) fn has_arriving(&self) -> bool {
        let state = self.state.lock();
        let mut shares = state.shares.values();
        shares.any(|share| !share.arriving.is_empty())
    }

    /// The bytes of a new request of this share: none yet.
    pub(super) fn held(self: &Arc<Budget>, share: BytesOwner) -> Reservation {
        Reservation {
            ticket: self.tickets.fetch_add(1, Ordering::Relaxed),
            budget: Arc::clone(self),
            share,
            bytes: Mutex::default(),
        }
    }
}

/// The bytes that one request holds. They are released on drop.
pub(super) struct Reservation {
    budget: Arc<Budget>,
    share: BytesOwner,
    ticket: u64,
    bytes: Mutex<CountedBytes>,
}

#[derive(Default)]
struct CountedBytes {
    count: usize,
    gauge: Option<InUse>,
}

impl Reservation {
    /// Waits until the share has room for more, without taking it.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub(super) async fn wait_for_room(&self) -> Result<(), NoRoom> {
        self.retry(|| {
            let state = self.budget.state.lock();
            let held = state.shares.get(&self.share).map_or(0, |share| share.bytes);
            match held == 0 || held <= self.budget.limit.saturating_sub(state.used) {
                true => GrowResult::Yes,
                false => GrowResult::Wait,
            }
        })
        .await
    }

    /// Sets the number of bytes, for an arriving body.
    ///
    /// # Errors
    /// [`NoRoom`]. Of the bodies that cannot continue, only the oldest of the share waits with the
    /// bytes that it holds; the others release theirs.
    pub(super) async fn grow(&self, bytes: usize) -> Result<(), NoRoom> {
        self.retry(|| self.try_grow(bytes, true)).await
    }

    /// Sets the number of bytes, for a response, without waiting.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub(super) fn set_response(&self, bytes: usize) -> Result<(), NoRoom> {
        // The body was dropped with its handler.
        self.complete();
        self.shrink(bytes);
        match self.try_grow(bytes, false) {
            GrowResult::Yes => Ok(()),
            GrowResult::Wait | GrowResult::No => Err(NoRoom),
        }
    }

    /// Sets the number of bytes whether or not there is room.
    pub(super) fn set_unchecked(&self, bytes: usize) {
        let mut own = self.bytes.lock();
        let mut state = self.budget.state.lock();
        self.set(&mut own, &mut state, bytes);
    }

    /// Raises the number of bytes to at least this, whether or not there is room.
    pub(super) fn cover(&self, bytes: usize) {
        let mut own = self.bytes.lock();
        if bytes > own.count {
            let mut state = self.budget.state.lock();
            self.set(&mut own, &mut state, bytes);
        }
    }

    /// The bytes of another part of the same response: none yet.
    pub(super) fn sibling(&self) -> Reservation {
        self.budget.held(self.share.clone())
    }

    /// Lowers the number of bytes to at most this, for a body that is still arriving. Others of its
    /// share do not wait for one that holds nothing.
    pub(super) fn shrink_to(&self, bytes: usize) {
        if bytes == 0 {
            self.complete();
        }
        self.shrink(bytes);
    }

    /// Marks the body as complete.
    pub(super) fn complete(&self) {
        let mut state = self.budget.state.lock();
        if let Some(share) = state.shares.get_mut(&self.share) {
            share.arriving.remove(&self.ticket);
        }
        state.tidy(&self.share);
    }

    async fn retry(&self, mut grow: impl FnMut() -> GrowResult) -> Result<(), NoRoom> {
        let mut waiting = None;
        loop {
            let freed = self.budget.freed.notified();
            tokio::pin!(freed);
            // From here on no release is missed.
            freed.as_mut().enable();
            match grow() {
                GrowResult::Yes => return Ok(()),
                GrowResult::No => return Err(NoRoom),
                GrowResult::Wait => {}
            }
            let (_, until) = match &mut waiting {
                Some(waiting) => waiting,
                none => none.insert((self.start_waiting()?, Instant::now() + WAIT)),
            };
            timeout_at(*until, freed).await.map_err(|_| NoRoom)?;
        }
    }

    /// Counts a waiting request, until the guard is dropped.
    fn start_waiting(&self) -> Result<BudgetWaiter<'_>, NoRoom> {
        let own = self.bytes.lock();
        let mut state = self.budget.state.lock();
        let share = state.shares.entry(self.share.clone()).or_default();
        // A request that holds bytes is the oldest of its share: the others wait for it.
        if share.waiting >= WAITING_MAX && own.count == 0 {
            return Err(NoRoom);
        }
        share.waiting += 1;
        Ok(BudgetWaiter(self))
    }

    fn try_grow(&self, bytes: usize, arriving: bool) -> GrowResult {
        let mut own = self.bytes.lock();
        let Some(more) = bytes.checked_sub(own.count).filter(|more| *more > 0) else {
            return GrowResult::Yes;
        };
        let mut state = self.budget.state.lock();
        let free = self.budget.limit.saturating_sub(state.used);
        let share = state.shares.entry(self.share.clone()).or_default();
        let alone = share.bytes == own.count;
        let fits = more <= free && (alone || share.bytes + more <= free - more);
        if fits {
            if arriving {
                share.arriving.insert(self.ticket);
            }
            self.set(&mut own, &mut state, bytes);
            return GrowResult::Yes;
        }
        let oldest = share
            .arriving
            .first()
            .is_none_or(|first| *first >= self.ticket);
        let grown = match own.count == 0 || oldest {
            true => GrowResult::Wait,
            false => GrowResult::No,
        };
        state.tidy(&self.share);
        grown
    }

    fn shrink(&self, bytes: usize) {
        let mut own = self.bytes.lock();
        if own.count > bytes {
            let mut state = self.budget.state.lock();
            self.set(&mut own, &mut state, bytes);
        }
    }

    fn set(&self, own: &mut CountedBytes, state: &mut BudgetState, bytes: usize) {
        let share = state.shares.entry(self.share.clone()).or_default();
        share.bytes = share.bytes - own.count + bytes;
        state.used = state.used - own.count + bytes;
        state.tidy(&self.share);
        let less = bytes < own.count;
        own.count = bytes;
        own.gauge = Some(self.budget.metrics.bytes_in_flight(bytes));
        if less {
            self.budget.freed.notify_waiters();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.complete();
        self.shrink(0);
    }
}

/// A request that waits for bytes.
struct BudgetWaiter<'h>(&'h Reservation);

impl Drop for BudgetWaiter<'_> {
    fn drop(&mut self) {
        let held = self.0;
        let mut state = held.budget.state.lock();
        if let Some(share) = state.shares.get_mut(&held.share) {
            share.waiting -= 1;
        }
        state.tidy(&held.share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn calls(budget: &Arc<Budget>, app: &str) -> Reservation {
        budget.held(BytesOwner::Calls(app.into()))
    }

    fn count(budget: &Arc<Budget>, app: &str, bytes: usize) -> Vec<Reservation> {
        let all = std::iter::repeat_with(|| calls(budget, app));
        all.take_while(|held| held.try_grow(bytes, true) == GrowResult::Yes)
            .collect()
    }

    #[test]
    fn each_app_gets_half_of_the_free_budget() {
        let budget = Budget::new(256 * MIB, Metrics::default());
        let (a, b) = (count(&budget, "a", 8 * MIB), count(&budget, "b", 8 * MIB));
        assert_eq!((a.len(), b.len()), (16, 8));
        drop(a);
        assert_eq!(count(&budget, "c", 8 * MIB).len(), 12);
        drop(b);
        let state = budget.state.lock();
        assert!(state.used == 0 && state.shares.is_empty());
    }

    #[test]
    fn first_body_is_admitted_if_it_fits() {
        let budget = Budget::new(10 * MIB, Metrics::default());
        let held = calls(&budget, "a");
        assert_eq!(held.try_grow(8 * MIB, true), GrowResult::Yes);
        assert_eq!(calls(&budget, "a").try_grow(1, true), GrowResult::Wait);
        assert_eq!(
            calls(&budget, "a").try_grow(2 * MIB, true),
            GrowResult::Wait
        );
        assert_eq!(calls(&budget, "b").try_grow(2 * MIB, true), GrowResult::Yes);
        assert_eq!(
            calls(&budget, "b").try_grow(3 * MIB, true),
            GrowResult::Wait
        );
    }

    #[test]
    fn oldest_body_waits_and_others_release_bytes() {
        let budget = Budget::new(8 * MIB, Metrics::default());
        let (old, young) = (calls(&budget, "a"), calls(&budget, "a"));
        for held in [&young, &old] {
            assert_eq!(held.try_grow(MIB, true), GrowResult::Yes);
        }
        assert_eq!(young.try_grow(8 * MIB, true), GrowResult::No);
        assert_eq!(old.try_grow(8 * MIB, true), GrowResult::Wait);
        drop(young);
        assert_eq!(old.try_grow(8 * MIB, true), GrowResult::Yes);
        assert_eq!(old.set_response(MIB), Ok(()));
        assert_eq!(budget.state.lock().used, MIB);
        old.set_unchecked(100 * MIB);
        assert_eq!(calls(&budget, "b").set_response(MIB), Err(NoRoom));
    }

    #[tokio::test]
    async fn waiter_is_admitted_when_budget_is_freed() {
        let budget = Budget::new(8 * MIB, Metrics::default());
        let (first, second) = (calls(&budget, "a"), calls(&budget, "a"));
        let third = calls(&budget, "b");
        first.grow(8 * MIB).await.unwrap();
        let (room, grown, ()) = tokio::join!(second.wait_for_room(), third.grow(1), async {
            tokio::task::yield_now().await;
            drop(first);
        });
        assert_eq!((room, grown), (Ok(()), Ok(())));
    }

    #[tokio::test]
    async fn waiting_requests_per_share_are_limited() {
        let budget = Budget::new(8 * MIB, Metrics::default());
        let first = calls(&budget, "a");
        first.grow(8 * MIB).await.unwrap();
        let held: Vec<_> = (0..=WAITING_MAX).map(|_| calls(&budget, "a")).collect();
        let mut waits: Vec<_> = held
            .iter()
            .map(|held| Box::pin(held.wait_for_room()))
            .collect();
        let mut last = waits.pop().unwrap();
        for wait in &mut waits {
            assert!(futures_util::poll!(wait).is_pending());
        }
        assert_eq!((&mut last).await, Err(NoRoom));
        // Other shares wait independently, and a request that stops waiting frees its slot.
        let other = calls(&budget, "b");
        let mut other = Box::pin(other.wait_for_room());
        assert!(futures_util::poll!(&mut other).is_ready());
        waits.pop();
        let held = calls(&budget, "a");
        let mut again = Box::pin(held.wait_for_room());
        assert!(futures_util::poll!(&mut again).is_pending());
        drop((waits, again, other, first));
        assert!(budget.state.lock().shares.is_empty());
    }

    #[test]
    fn budget_share_is_derived_from_the_path() {
        let calls = BytesOwner::Calls("x".into());
        for path in ["/a/x", "/a/x/", "/a/x/y/z", "/v1/apps/x/call/f"] {
            assert_eq!(BytesOwner::of(path), calls, "{path}");
        }
        for path in ["/v1/apps/%78/call/f", "/v1/apps/%58/call/f", "/a/%78"] {
            assert_eq!(BytesOwner::of(path), BytesOwner::Calls("".into()), "{path}");
        }
        let kv = BytesOwner::of("/v1/apps/x/kv/entry");
        assert_eq!(kv, BytesOwner::Administration("x".into()));
        for path in ["/healthz", "/v1/apps", "/v1/tokens", "/", "", "*"] {
            assert_eq!(BytesOwner::of(path), BytesOwner::Others, "{path}");
        }
    }
}
