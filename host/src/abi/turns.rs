//! Turns on the CPU.

use super::Meter;
use crate::model::AppId;
use crate::service::{Fair, Place, Stage};
use parking_lot::Mutex;
use std::sync::Arc;

/// The turns of one guest among those that compute for long, or move much memory.
pub(crate) struct Turns {
    app: AppId,
    /// The older of two calls of an app computes first.
    rank: u64,
    /// Held until the guest waits for anything.
    place: Mutex<Option<Place>>,
    places: Arc<Fair>,
}

impl Turns {
    pub(crate) fn new(app: AppId, rank: u64, places: Arc<Fair>) -> Turns {
        Turns {
            app,
            rank,
            place: Mutex::new(None),
            places,
        }
    }

    /// Lets other tasks of this thread run, then waits for a turn.
    pub(crate) async fn take(self: Arc<Turns>, meter: Arc<Meter>) {
        let _timed = meter.deadline().timed(Stage::Cpu);
        tokio::task::yield_now().await;
        let place = self.places.take(self.app, 1, self.rank).await;
        *self.place.lock() = place;
    }

    /// A poll of the guest has ended, and its turn with it.
    pub(crate) fn end(&self) {
        *self.place.lock() = None;
    }
}
