//! The records that are not in the store yet: lines of logs, or calls.
//!
//! Each app has its own queue and its own gate, so that an app that writes too many displaces only
//! records of its own.

use super::flood_gate::FloodGate;
use super::lost::{Lost, Uncounted};
use super::segment_record::SegmentRecord;
use kvasm_core::AppId;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Maximum time between the first and the last record of a segment, in microseconds.
pub(crate) const SEGMENT_SPAN: u64 = 60_000_000;
/// Maximum size of the queue of one app, in bytes.
pub(crate) const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The queue of one app.
struct RecordQueue<R> {
    records: VecDeque<Arc<R>>,
    /// The records of the segment that is being written.
    in_flight: Vec<Arc<R>>,
    /// The size of both.
    bytes: usize,
    /// Since when it has records.
    since: Instant,
    gate: FloodGate,
    /// What was lost since it was last taken, besides what the gate has left out.
    uncounted: Uncounted,
    /// The notes among the records, by position, and what each says was lost.
    notes: VecDeque<(u64, Lost)>,
}

impl<R: SegmentRecord> RecordQueue<R> {
    fn new(now: Instant) -> RecordQueue<R> {
        RecordQueue {
            records: VecDeque::new(),
            in_flight: Vec::new(),
            bytes: 0,
            since: now,
            gate: FloodGate::new(&R::RATES, now),
            uncounted: Uncounted::default(),
            notes: VecDeque::new(),
        }
    }

    /// Adds a record.
    fn add(&mut self, record: Arc<R>, now: Instant) {
        if self.records.is_empty() {
            self.since = now;
        }
        self.bytes += record.bytes();
        self.records.push_back(record);
    }

    /// Drops the oldest records that are not being written, until the queue has `keep` bytes.
    /// Returns what was lost.
    fn shrink(&mut self, keep: usize) -> Lost {
        let mut lost = Lost::default();
        while self.bytes > keep {
            let Some(record) = self.records.pop_front() else {
                break;
            };
            self.bytes -= record.bytes();
            if !self.repeats(record.seq()) {
                lost.queue += 1;
            }
        }
        self.uncounted.new += lost;
        lost
    }

    /// Whether a record that is lost is a note. The next note then says what it says.
    fn repeats(&mut self, seq: u64) -> bool {
        let found = self.notes.binary_search_by_key(&seq, |(seq, _)| *seq);
        let note = found.ok().and_then(|place| self.notes.remove(place));
        if let Some((_, lost)) = note {
            self.uncounted.again += lost;
        }
        note.is_some()
    }

    /// Whether it can be forgotten.
    fn is_idle(&self) -> bool {
        let is_empty = self.records.is_empty() && self.in_flight.is_empty();
        is_empty && self.uncounted.is_empty() && self.gate.is_idle()
    }
}

/// The queues of all apps.
pub struct Unflushed<R> {
    apps: HashMap<AppId, RecordQueue<R>>,
    bytes: usize,
    /// Records that were left out or dropped, not yet counted.
    lost: Lost,
}

impl<R> Default for Unflushed<R> {
    fn default() -> Unflushed<R> {
        Unflushed {
            apps: HashMap::new(),
            bytes: 0,
            lost: Lost::default(),
        }
    }
}

impl<R: SegmentRecord> Unflushed<R> {
    /// Whether the records of a call are kept. Those that are not are counted.
    pub(crate) fn admits(
        &mut self,
        app: AppId,
        records: usize,
        has_failed: bool,
        now: Instant,
    ) -> bool {
        let queue = self
            .apps
            .entry(app)
            .or_insert_with(|| RecordQueue::new(now));
        let admits = queue.gate.admits(records, has_failed, now);
        if !admits {
            self.lost.flood += records as u64;
        }
        admits
    }

    /// Adds a record. Above the limits the oldest ones are dropped, of this app or of the one with
    /// the most.
    pub(crate) fn push(&mut self, app: AppId, record: Arc<R>) {
        self.enqueue(app, record);
        if let Some(queue) = self.apps.get_mut(&app) {
            self.bytes -= queue.bytes;
            self.lost += queue.shrink(QUEUE_BYTES_MAX);
            self.bytes += queue.bytes;
        }
        while self.bytes > R::QUEUES_BYTES_MAX {
            let largest = self.apps.values_mut().max_by_key(|queue| queue.bytes);
            let Some(queue) = largest else { return };
            let before = queue.bytes;
            self.lost += queue.shrink(before / 2);
            self.bytes -= before - queue.bytes;
            if queue.bytes == before {
                // All of it is being written.
                return;
            }
        }
    }

    /// Adds a note of the host that says what was lost. If the note is lost, the next one says it.
    /// A note displaces no record: there is at most one for each segment and reason.
    pub(crate) fn push_note(&mut self, app: AppId, note: Arc<R>, lost: Lost) {
        let seq = note.seq();
        self.enqueue(app, note);
        if let Some(queue) = self.apps.get_mut(&app) {
            queue.notes.push_back((seq, lost));
        }
    }

    fn enqueue(&mut self, app: AppId, record: Arc<R>) {
        let now = Instant::now();
        self.bytes += record.bytes();
        let queue = self
            .apps
            .entry(app)
            .or_insert_with(|| RecordQueue::new(now));
        queue.add(record, now);
    }

    /// Returns the records of an app.
    pub(crate) fn records(&self, app: AppId) -> impl Iterator<Item = &Arc<R>> {
        let queue = self.apps.get(&app);
        queue
            .into_iter()
            .flat_map(|queue| queue.in_flight.iter().chain(&queue.records))
    }

    /// Returns the apps whose records are due: they have waited for `age`, or have `bytes` bytes.
    /// Forgets those without records.
    pub(crate) fn due(&mut self, age: Duration, bytes: usize, now: Instant) -> Vec<AppId> {
        self.apps.retain(|_, queue| {
            queue.gate.refill(now);
            !queue.is_idle()
        });
        let due = self.apps.iter().filter(|(_, queue)| {
            let has_note = queue.gate.left_out() > 0 || !queue.uncounted.is_empty();
            let has_records = !queue.records.is_empty() || !queue.in_flight.is_empty() || has_note;
            let waited = now.saturating_duration_since(queue.since);
            has_records && (waited >= age || queue.bytes >= bytes)
        });
        due.map(|(app, _)| *app).collect()
    }

    /// Returns the numbers of an app's records that were lost and that no note says.
    pub(crate) fn take_lost_of(&mut self, app: AppId) -> Uncounted {
        let Some(queue) = self.apps.get_mut(&app) else {
            return Uncounted::default();
        };
        let mut uncounted = std::mem::take(&mut queue.uncounted);
        uncounted.new.flood += queue.gate.take_left_out();
        uncounted
    }

    /// Takes the next records of an app that are to be written, up to `bytes` bytes. They count as
    /// unwritten until `written`. Returns nothing while others are being written.
    pub(crate) fn take(&mut self, app: AppId, bytes: usize) -> Vec<Arc<R>> {
        let Some(queue) = self.apps.get_mut(&app) else {
            return Vec::new();
        };
        if !queue.in_flight.is_empty() {
            return Vec::new();
        }
        let mut taken = 0;
        while let Some(record) = queue.records.front() {
            taken += record.bytes();
            let first = queue.in_flight.first();
            let span = first.map_or(0, |first| record.seq() - first.seq());
            if first.is_some() && (taken > bytes || span > SEGMENT_SPAN) {
                break;
            }
            queue.in_flight.extend(queue.records.pop_front());
        }
        queue.in_flight.clone()
    }

    /// Ends the writing of an app's records, which are in the store or lost.
    pub(crate) fn written(&mut self, app: AppId, is_lost: bool) {
        let Some(queue) = self.apps.get_mut(&app) else {
            return;
        };
        let records = std::mem::take(&mut queue.in_flight);
        let bytes: usize = records.iter().map(|record| record.bytes()).sum();
        queue.bytes -= bytes;
        self.bytes -= bytes;
        let Some(last) = records.last().map(|record| record.seq()) else {
            return;
        };
        if is_lost {
            let mut lost = Lost::default();
            for record in &records {
                if !queue.repeats(record.seq()) {
                    lost.store += 1;
                }
            }
            queue.uncounted.new += lost;
            self.lost += lost;
        }
        while queue.notes.front().is_some_and(|(seq, _)| *seq <= last) {
            queue.notes.pop_front();
        }
    }

    /// Whether records of the app are being written.
    pub(crate) fn is_writing(&self, app: AppId) -> bool {
        let queue = self.apps.get(&app);
        queue.is_some_and(|queue| !queue.in_flight.is_empty())
    }

    /// Returns the numbers of lost records since the last call.
    pub(crate) fn take_lost(&mut self) -> Lost {
        std::mem::take(&mut self.lost)
    }

    /// Forgets a deleted app.
    pub(crate) fn remove(&mut self, app: AppId) {
        if let Some(queue) = self.apps.remove(&app) {
            self.bytes -= queue.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::CallEntry;
    use crate::{LogRecord, LogSource};
    use kvasm_core::{Level, Timestamp};
    use uuid::Uuid;

    type Lines = Unflushed<LogRecord>;

    fn line(seq: u64, bytes: usize) -> Arc<LogRecord> {
        Arc::new(LogRecord {
            seq,
            at: Timestamp(0),
            level: Level::Info,
            source: LogSource::Plugin,
            function: "f".into(),
            request_id: Uuid::nil(),
            trace_id: None,
            message: "x".repeat(bytes),
            discarded: false,
            cost: None,
        })
    }

    #[test]
    fn flood_is_sampled_by_call_and_ends() {
        let (mut all, app, other) = (Lines::default(), AppId::generate(), AppId::generate());
        let mut now = Instant::now();
        let kept = |all: &mut Lines, calls: u32, now| {
            let admitted = (0..calls).filter(|_| all.admits(app, 10, false, now));
            admitted.count()
        };
        // The burst, and one call in a hundred.
        assert_eq!(kept(&mut all, 2_000, now), 1_000 + 10);
        assert!(all.admits(other, 10, false, now));
        now += Duration::from_secs(1);
        assert_eq!(kept(&mut all, 1_100, now), 100 + 10);
        let left_out = 10 * (1_000 - 10 + 1_000 - 10);
        assert_eq!(all.take_lost_of(app).new.flood, left_out);
        assert!(all.take_lost_of(app).is_empty() && all.take_lost_of(other).is_empty());
        let lost = all.take_lost();
        assert_eq!((lost.flood, lost.all()), (left_out, left_out));
        now += Duration::from_secs(20);
        assert_eq!(kept(&mut all, 1_000, now), 1_000);
        // Forgotten once it has been quiet.
        now += Duration::from_secs(20);
        assert!(all.due(Duration::ZERO, 0, now).is_empty());
        assert!(all.apps.is_empty());
    }

    #[test]
    fn failures_are_kept_longer_than_other_calls() {
        let (mut all, app) = (Unflushed::<CallEntry>::default(), AppId::generate());
        let now = Instant::now();
        let mut kept = |calls: u32, has_failed| {
            let admitted = (0..calls).filter(|_| all.admits(app, 1, has_failed, now));
            admitted.count()
        };
        assert_eq!(kept(20_000, false), 10_000 + 100);
        assert_eq!(kept(900, true), 900);
        // Failures that flood are sampled as well.
        assert_eq!(kept(10_100, true), 100 + 100);
        assert_eq!(kept(1_000, false), 10);
    }

    #[test]
    fn full_queue_drops_its_oldest_lines_but_not_those_being_written() {
        let (mut all, app) = (Lines::default(), AppId::generate());
        all.push(app, line(1, 1_000));
        assert_eq!(all.take(app, 1).len(), 1);
        // Not again before it is written.
        assert!(all.take(app, 1).is_empty());
        for seq in 2..=100 {
            all.push(app, line(seq, QUEUE_BYTES_MAX / 50));
        }
        let seqs: Vec<_> = all.records(app).map(|line| line.seq).collect();
        assert_eq!((seqs[0], seqs[seqs.len() - 1]), (1, 100));
        assert!(seqs.len() < 52 && all.bytes <= QUEUE_BYTES_MAX);
        let dropped = 100 - seqs.len() as u64;
        assert_eq!(all.take_lost().queue, dropped);
        all.written(app, true);
        let lost = all.take_lost_of(app).new;
        assert_eq!((lost.queue, lost.store), (dropped, 1));
        while !all.take(app, QUEUE_BYTES_MAX).is_empty() {
            all.written(app, false);
        }
        assert_eq!(all.bytes, 0);
    }

    #[test]
    fn queues_together_are_bounded_at_the_cost_of_the_largest() {
        let (mut all, quiet) = (Lines::default(), AppId::generate());
        all.push(quiet, line(1, 10));
        for _ in 0..40 {
            let app = AppId::generate();
            for seq in 0..200 {
                all.push(app, line(seq, QUEUE_BYTES_MAX / 100));
            }
        }
        assert!(all.bytes <= LogRecord::QUEUES_BYTES_MAX);
        let sum: usize = all.apps.values().map(|queue| queue.bytes).sum();
        assert_eq!(sum, all.bytes);
        assert_eq!(all.records(quiet).count(), 1);
    }

    #[test]
    fn segment_spans_a_limited_time() {
        let (mut all, app) = (Lines::default(), AppId::generate());
        for seq in [0, SEGMENT_SPAN, SEGMENT_SPAN + 1] {
            all.push(app, line(seq, 1));
        }
        assert_eq!(all.take(app, usize::MAX).len(), 2);
        all.written(app, false);
        assert_eq!(all.take(app, usize::MAX).len(), 1);
    }
}
