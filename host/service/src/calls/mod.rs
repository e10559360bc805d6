//! Records of the calls of apps' plugins.
//!
//! A host adds a record when a call has ended. While a keeper runs, it writes the records to the
//! store, in the same way as lines of logs (the module `logs`), in segments of their own and behind a
//! gate of their own. Without one nothing is recorded.

mod call_record;
mod stored_call;

pub use call_record::{
    CALL_OUTCOMES, CallEntry, CallFilter, CallPage, CallQuery, CallRecord, DeliveredCall,
};

use crate::Logs;
use crate::logs::lost::Lost;
use crate::logs::now_us;
use crate::logs::segment_record::{RecordSource, SegmentRecord};
use crate::logs::unflushed::{QUEUE_BYTES_MAX, Unflushed};
use kvasm_core::AppId;
use kvasm_metrics::Metrics;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How often an app's log tells that calls are not recorded.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The records of calls on this host that are not in the store yet.
pub struct CallRecords {
    logs: Arc<Logs>,
    /// Whether there is a queue. So a host without one does not create records.
    is_open: AtomicBool,
    state: Mutex<CallState>,
}

#[derive(Default)]
struct CallState {
    /// The position of the newest record.
    seq: u64,
    unflushed: Option<Unflushed<CallEntry>>,
    /// What the logs of apps do not say yet.
    untold: HashMap<AppId, Untold>,
}

/// Calls of an app that were not recorded.
struct Untold {
    /// Since the log said so, which it has.
    lost: Lost,
    /// When it did.
    told: Instant,
}

impl CallRecords {
    /// Creates an empty queue, which is closed.
    pub fn new(logs: Arc<Logs>) -> CallRecords {
        CallRecords {
            logs,
            is_open: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Whether records are kept.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Adds a record, and assigns its position. Of the calls of an app that makes too many, only a
    /// sample is recorded, and failures longer than other calls.
    pub fn push(&self, app: AppId, record: CallRecord) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(unflushed) = &mut state.unflushed else {
            return;
        };
        if !unflushed.admits(app, 1, record.has_failed(), Instant::now()) {
            return;
        }
        state.seq = now_us().max(state.seq + 1);
        let entry = CallEntry::Call(CallRecord {
            seq: state.seq,
            ..record
        });
        unflushed.push(app, Arc::new(entry));
    }

    /// Forgets the records of a deleted app.
    pub fn remove(&self, app: AppId) {
        let mut state = self.state.lock();
        state.untold.remove(&app);
        if let Some(unflushed) = &mut state.unflushed {
            unflushed.remove(app);
        }
    }

    /// Writes to the logs what they have not said for a while, or at all.
    fn tell(&self, at_once: bool) {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut state = self.state.lock();
        state.untold.retain(|app, untold| {
            if !at_once && now.saturating_duration_since(untold.told) < TOLD_EVERY {
                return true;
            }
            let lost = std::mem::take(&mut untold.lost);
            untold.told = now;
            due.push((*app, lost));
            lost != Lost::default()
        });
        drop(state);
        for (app, lost) in due {
            for lost in lost.by_reason() {
                self.logs.note(app, message(lost));
            }
        }
    }
}

/// Returns the text of a line about calls that were not recorded for one reason.
fn message(lost: Lost) -> String {
    let (rates, calls) = (CallEntry::RATES, lost.all());
    if lost.flood > 0 {
        return format!(
            "{calls} calls were not recorded: the app makes more than {} calls per second, so \
             one in {} is recorded",
            rates.per_second, rates.sample
        );
    }
    if lost.queue > 0 {
        return format!(
            "{calls} records of calls were dropped: more than {} MiB of this app's records, or {} \
             MiB of all apps', were waiting to be stored",
            QUEUE_BYTES_MAX >> 20,
            CallEntry::QUEUES_BYTES_MAX >> 20
        );
    }
    format!("{calls} records of calls were dropped: the store failed")
}

impl RecordSource for CallRecords {
    type Record = CallEntry;

    const PRUNED: &'static str = "call_segments";

    fn host(&self) -> Uuid {
        self.logs.host()
    }

    fn in_memory(&self, app: AppId) -> Vec<Arc<CallEntry>> {
        let entries = self.with_queue(|all| all.records(app).map(Arc::clone).collect());
        entries.unwrap_or_default()
    }

    fn open_queue(&self) {
        let mut state = self.state.lock();
        state.unflushed.get_or_insert_with(Unflushed::default);
        self.is_open.store(true, Ordering::Relaxed);
    }

    fn with_queue<T>(&self, act: impl FnOnce(&mut Unflushed<CallEntry>) -> T) -> Option<T> {
        self.state.lock().unflushed.as_mut().map(act)
    }

    fn due(&self, age: Duration, bytes: usize) -> Vec<AppId> {
        self.tell(age.is_zero());
        let due = self.with_queue(|all| all.due(age, bytes, Instant::now()));
        due.unwrap_or_default()
    }

    fn take(&self, app: AppId, bytes: usize) -> Vec<Arc<CallEntry>> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(unflushed) = &mut state.unflushed else {
            return Vec::new();
        };
        let lost = unflushed.take_lost_of(app);
        if !lost.is_empty() {
            state.seq = now_us().max(state.seq + 1);
            let gap = CallEntry::Gap {
                seq: state.seq,
                calls: lost.all().all(),
            };
            unflushed.push_note(app, Arc::new(gap), lost.all());
            let long_ago = Instant::now().checked_sub(TOLD_EVERY);
            let untold = state.untold.entry(app).or_insert_with(|| Untold {
                lost: Lost::default(),
                told: long_ago.unwrap_or_else(Instant::now),
            });
            // The log says once what was lost, also if the gap itself is lost.
            untold.lost += lost.new;
        }
        unflushed.take(app, bytes)
    }

    fn count_lost(metrics: &Metrics, lost: Lost) {
        metrics.call_records_lost("flood", lost.flood);
        metrics.call_records_lost("queue", lost.queue);
        metrics.call_records_lost("store", lost.store);
    }
}

#[cfg(test)]
mod tests;
