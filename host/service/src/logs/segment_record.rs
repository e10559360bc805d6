//! What the kinds of records have in common: lines of logs, and calls.

use super::flood_gate::FloodRates;
use super::lost::Lost;
use super::unflushed::Unflushed;
use kvasm_core::store::SegmentKind;
use kvasm_core::{AppId, Timestamp};
use kvasm_metrics::Metrics;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A record that is stored in segments.
pub trait SegmentRecord: Clone + Send + Sync + Sized + 'static {
    /// Conditions that select records.
    type Filter: Clone + Send + Sync;

    /// The kind of its segments.
    const KIND: SegmentKind;
    /// Maximum size of the queues of all apps, in bytes.
    const QUEUES_BYTES_MAX: usize;
    /// How many of them an app may write.
    const RATES: FloodRates;

    /// Its position.
    fn seq(&self) -> u64;

    /// Its size in memory.
    fn bytes(&self) -> usize;

    /// Writes it as one JSON object, without line breaks.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads it; `None` if this version cannot.
    fn read(line: &[u8]) -> Option<Self>;

    /// Whether it meets all conditions.
    fn meets(&self, filter: &Self::Filter) -> bool;

    /// The times of a filter: at or after the first, and before the second.
    fn times(filter: &Self::Filter) -> (Option<Timestamp>, Option<Timestamp>);

    /// The number of records that were left out before it, if it is only a note about them.
    fn left_out(&self) -> u64;
}

/// Where the records of a host come from.
pub trait RecordSource: Send + Sync + 'static {
    /// Its records.
    type Record: SegmentRecord;

    /// The name of removed segments in the metrics.
    const PRUNED: &'static str;

    /// The identity of this host process.
    fn host(&self) -> Uuid;

    /// Returns the records of an app that are in memory, and at least those that are not in the
    /// store, by position.
    fn in_memory(&self, app: AppId) -> Vec<Arc<Self::Record>>;

    /// From now on records are kept until they are written.
    fn open_queue(&self);

    /// Uses the queue of records that are not in the store yet, if there is one.
    fn with_queue<T>(&self, act: impl FnOnce(&mut Unflushed<Self::Record>) -> T) -> Option<T>;

    /// Returns the apps whose records are due: they have waited for `age`, or have `bytes` bytes.
    fn due(&self, age: Duration, bytes: usize) -> Vec<AppId>;

    /// Takes the records of an app's next segment, among them notes about what was left out.
    fn take(&self, app: AppId, bytes: usize) -> Vec<Arc<Self::Record>>;

    /// Counts records that are lost.
    fn count_lost(metrics: &Metrics, lost: Lost);
}
