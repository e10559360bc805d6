//! Turns on the CPU.

use super::Meter;
use kvasm_core::AppId;
use kvasm_service::{Fair, Place, Stage};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A turn ends with the tick after so much computing. A bit less than a tick, so that
/// on a machine that is not busy each turn is one tick.
const TURN: Duration = Duration::from_millis(8);
/// The most ticks of a turn, however little it has computed in them.
const TURN_TICKS_MAX: u32 = 5;

/// The turns of one guest among those that compute for long, or move much memory.
pub struct Turns {
    app: AppId,
    /// The older of two calls of an app computes first.
    rank: u64,
    /// Held until the guest waits for anything.
    place: Mutex<Option<Place>>,
    places: Arc<Fair>,
    /// What it had computed when its turn began, in ns.
    began_at_ns: AtomicU64,
    /// The ticks of its turn so far.
    ticks: AtomicU32,
}

impl Turns {
    pub fn new(app: AppId, rank: u64, places: Arc<Fair>) -> Turns {
        Turns {
            app,
            rank,
            place: Mutex::new(None),
            places,
            began_at_ns: AtomicU64::new(0),
            ticks: AtomicU32::new(0),
        }
    }

    /// Whether the turn goes on at a tick, with `computed` so far. It does while it
    /// had little of a CPU, as on a machine that others keep busy: each change of
    /// turns costs the rest of what the system gives this thread at once.
    pub fn goes_on(&self, computed: Duration) -> bool {
        let computed_ns = u64::try_from(computed.as_nanos()).unwrap_or(u64::MAX);
        let began_at_ns = self.began_at_ns.load(Ordering::Relaxed);
        let of_turn = Duration::from_nanos(computed_ns.saturating_sub(began_at_ns));
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        if of_turn < TURN && ticks < TURN_TICKS_MAX && self.place.lock().is_some() {
            return true;
        }
        self.began_at_ns.store(computed_ns, Ordering::Relaxed);
        self.ticks.store(0, Ordering::Relaxed);
        false
    }

    /// Lets other tasks of this thread run, then waits for a turn. One that has a turn
    /// keeps it, unless somebody comes before it.
    pub async fn take(self: Arc<Turns>, meter: Arc<Meter>) {
        meter.wakes();
        let _timed = meter.deadline().timed(Stage::Cpu);
        // In line before others run, which may take long: the oldest call must not
        // lose its turn because it could not ask for it.
        let held = self.place.lock().take();
        let next = self.places.line_up(held, self.app, 1, self.rank);
        tokio::task::yield_now().await;
        let place = next.await;
        *self.place.lock() = place;
    }

    /// A poll of the guest has ended. Its turn ends with it, unless it waits for the
    /// next one.
    pub fn end(&self) {
        *self.place.lock() = None;
    }
}
