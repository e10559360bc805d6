//! CPU permits.

use super::CpuMeter;
use kvasm_core::AppId;
use kvasm_service::{FairPermit, FairSemaphore, Stage};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A permit is released at the first tick after this much CPU time. Slightly less than a tick,
/// so that on an idle machine a permit lasts one tick.
const PERMIT_CPU_TIME: Duration = Duration::from_millis(8);
/// Maximum number of ticks for one permit, however little CPU time was used.
const TURN_TICKS_MAX: u32 = 5;

/// The CPU permit of one guest, shared with others that compute for long or copy much memory.
pub struct CpuPermit {
    app: AppId,
    /// The older of two calls of an app is served first.
    rank: u64,
    /// The permit, held until the guest waits for anything.
    place: Mutex<Option<FairPermit>>,
    places: Arc<FairSemaphore>,
    /// CPU time when the permit was acquired, in ns.
    began_at_ns: AtomicU64,
    /// Ticks since the permit was acquired.
    ticks: AtomicU32,
}

impl CpuPermit {
    pub fn new(app: AppId, rank: u64, places: Arc<FairSemaphore>) -> CpuPermit {
        CpuPermit {
            app,
            rank,
            place: Mutex::new(None),
            places,
            began_at_ns: AtomicU64::new(0),
            ticks: AtomicU32::new(0),
        }
    }

    /// Whether the guest keeps its permit at a tick, having used `computed` CPU time so far. It
    /// does while it had little CPU time since it acquired the permit, as on a machine that is
    /// busy with other processes: each yield gives up the rest of this thread's time slice.
    pub fn keeps_at_tick(&self, computed: Duration) -> bool {
        let computed_ns = u64::try_from(computed.as_nanos()).unwrap_or(u64::MAX);
        let began_at_ns = self.began_at_ns.load(Ordering::Relaxed);
        let of_turn = Duration::from_nanos(computed_ns.saturating_sub(began_at_ns));
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        if of_turn < PERMIT_CPU_TIME && ticks < TURN_TICKS_MAX && self.place.lock().is_some() {
            return true;
        }
        self.began_at_ns.store(computed_ns, Ordering::Relaxed);
        self.ticks.store(0, Ordering::Relaxed);
        false
    }

    /// Lets other tasks of this thread run, then acquires a permit. A permit that is already
    /// held is kept, unless another guest precedes.
    pub async fn acquire(self: Arc<CpuPermit>, meter: Arc<CpuMeter>) {
        meter.mark_awake();
        let _timed = meter.deadline().timed(Stage::Cpu);
        // Queue before yielding to other tasks, which may take long: the oldest call must not
        // lose its position because it could not queue in time.
        let held = self.place.lock().take();
        let next = self.places.enqueue(held, self.app, 1, self.rank);
        tokio::task::yield_now().await;
        let place = next.await;
        *self.place.lock() = place;
    }

    /// Called at the end of a poll of the guest. Releases the permit, unless the guest is
    /// waiting to renew it.
    pub fn release(&self) {
        *self.place.lock() = None;
    }
}
