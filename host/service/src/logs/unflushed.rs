//! The lines that are not in the store yet.
//!
//! Each app has its own queue and its own gate, so that an app that floods its log displaces only
//! lines of its own.

use super::LogRecord;
use kvasm_core::AppId;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lines per second that an app may write for long.
const LINES_PER_SECOND: f64 = 1_000.0;
/// Lines that an app may write at once.
const BURST: f64 = 10_000.0;
/// Of the calls of an app that writes more, the lines of one in this many are kept.
const SAMPLE: u64 = 100;
/// Maximum time between the first and the last line of a segment, in microseconds.
pub(super) const SEGMENT_SPAN: u64 = 60_000_000;
/// Maximum size of the queue of one app, in bytes.
pub(super) const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Maximum size of the queues of all apps, in bytes.
const QUEUES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Decides which calls' lines are kept: all, or a sample while the app writes too many.
struct FloodGate {
    tokens: f64,
    refilled: Instant,
    /// Calls since the flood began.
    calls: u64,
    /// Lines left out since the last note.
    left_out: u64,
}

impl FloodGate {
    fn new(now: Instant) -> FloodGate {
        FloodGate {
            tokens: BURST,
            refilled: now,
            calls: 0,
            left_out: 0,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + passed * LINES_PER_SECOND).min(BURST);
        self.refilled = now;
    }

    /// Whether a call's lines are kept.
    fn admits(&mut self, lines: usize, now: Instant) -> bool {
        self.refill(now);
        if self.tokens > 0.0 {
            self.calls = 0;
            // The lines of a call are kept or left out together, so the last call may overdraw.
            self.tokens -= lines as f64;
            return true;
        }
        self.calls += 1;
        let is_sampled = self.calls % SAMPLE == 1;
        if !is_sampled {
            self.left_out += lines as u64;
        }
        is_sampled
    }
}

/// The queue of one app.
struct LineQueue {
    lines: VecDeque<Arc<LogRecord>>,
    /// The lines of the segment that is being written.
    in_flight: Vec<Arc<LogRecord>>,
    /// The size of both.
    bytes: usize,
    /// Since when it has lines.
    since: Instant,
    gate: FloodGate,
    /// Lines dropped since the last note.
    dropped: u64,
}

impl LineQueue {
    fn new(now: Instant) -> LineQueue {
        LineQueue {
            lines: VecDeque::new(),
            in_flight: Vec::new(),
            bytes: 0,
            since: now,
            gate: FloodGate::new(now),
            dropped: 0,
        }
    }

    /// Drops the oldest line that is not being written. Returns its size, 0 if there is none.
    fn drop_oldest(&mut self) -> usize {
        let Some(line) = self.lines.pop_front() else {
            return 0;
        };
        self.bytes -= line.bytes();
        self.dropped += 1;
        line.bytes()
    }

    /// Whether it can be forgotten.
    fn is_idle(&self) -> bool {
        let is_empty = self.lines.is_empty() && self.in_flight.is_empty();
        is_empty && self.dropped == 0 && self.gate.left_out == 0 && self.gate.tokens >= BURST
    }
}

/// The queues of all apps.
#[derive(Default)]
pub(super) struct Unflushed {
    apps: HashMap<AppId, LineQueue>,
    bytes: usize,
    /// Lines that were left out or dropped, not yet counted.
    lost: Lost,
}

/// Numbers of lines that do not reach the store, by reason.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost {
    /// The app wrote too many.
    pub(super) flood: u64,
    /// The queue was full, or the store failed.
    pub(super) store: u64,
}

impl Unflushed {
    /// Whether the lines of a call are kept. Those that are not are counted.
    pub(super) fn admits(&mut self, app: AppId, lines: usize, now: Instant) -> bool {
        let queue = self.apps.entry(app).or_insert_with(|| LineQueue::new(now));
        let admits = queue.gate.admits(lines, now);
        if !admits {
            self.lost.flood += lines as u64;
        }
        admits
    }

    /// Adds a line. Above the limits the oldest lines are dropped, of this app or of the one with
    /// the most.
    pub(super) fn push(&mut self, app: AppId, line: Arc<LogRecord>) {
        let now = Instant::now();
        let queue = self.apps.entry(app).or_insert_with(|| LineQueue::new(now));
        if queue.lines.is_empty() {
            queue.since = now;
        }
        let bytes = line.bytes();
        queue.lines.push_back(line);
        queue.bytes += bytes;
        self.bytes += bytes;
        while queue.bytes > QUEUE_BYTES_MAX {
            match queue.drop_oldest() {
                0 => break,
                freed => {
                    self.bytes -= freed;
                    self.lost.store += 1;
                }
            }
        }
        while self.bytes > QUEUES_BYTES_MAX {
            let largest = self.apps.values_mut().max_by_key(|queue| queue.bytes);
            let Some(queue) = largest else { return };
            let keep = queue.bytes / 2;
            let before = self.bytes;
            while queue.bytes > keep {
                match queue.drop_oldest() {
                    0 => break,
                    freed => {
                        self.bytes -= freed;
                        self.lost.store += 1;
                    }
                }
            }
            if self.bytes == before {
                // All of it is being written.
                return;
            }
        }
    }

    /// Returns the lines of an app.
    pub(super) fn lines(&self, app: AppId) -> impl Iterator<Item = &Arc<LogRecord>> {
        let queue = self.apps.get(&app);
        queue
            .into_iter()
            .flat_map(|queue| queue.in_flight.iter().chain(&queue.lines))
    }

    /// Returns the apps whose lines are due: they have waited for `age`, or have `bytes` bytes.
    /// Forgets those without lines.
    pub(super) fn due(&mut self, age: Duration, bytes: usize, now: Instant) -> Vec<AppId> {
        self.apps.retain(|_, queue| {
            queue.gate.refill(now);
            !queue.is_idle()
        });
        let due = self.apps.iter().filter(|(_, queue)| {
            let has_note = queue.gate.left_out > 0 || queue.dropped > 0;
            let has_lines = !queue.lines.is_empty() || !queue.in_flight.is_empty() || has_note;
            let waited = now.saturating_duration_since(queue.since);
            has_lines && (waited >= age || queue.bytes >= bytes)
        });
        due.map(|(app, _)| *app).collect()
    }

    /// Returns the text of the notes that are due about an app's log: what was left out since the
    /// last ones.
    pub(super) fn notes(&mut self, app: AppId) -> Vec<String> {
        let Some(queue) = self.apps.get_mut(&app) else {
            return Vec::new();
        };
        let left_out = std::mem::take(&mut queue.gate.left_out);
        let dropped = std::mem::take(&mut queue.dropped);
        let flood = (left_out > 0).then(|| {
            format!(
                "{left_out} lines were left out: the app writes more than {LINES_PER_SECOND} lines \
                 per second, so the lines of one call in {SAMPLE} are kept"
            )
        });
        let dropped = (dropped > 0)
            .then(|| format!("{dropped} lines were dropped: the store did not take them in time"));
        flood.into_iter().chain(dropped).collect()
    }

    /// Takes the next lines of an app that are to be written, up to `bytes` bytes. They count as
    /// unwritten until `written`. Returns nothing while others are being written.
    pub(super) fn take(&mut self, app: AppId, bytes: usize) -> Vec<Arc<LogRecord>> {
        let Some(queue) = self.apps.get_mut(&app) else {
            return Vec::new();
        };
        if !queue.in_flight.is_empty() {
            return Vec::new();
        }
        let mut taken = 0;
        while let Some(line) = queue.lines.front() {
            taken += line.bytes();
            let first = queue.in_flight.first();
            let span = first.map_or(0, |first| line.seq - first.seq);
            if first.is_some() && (taken > bytes || span > SEGMENT_SPAN) {
                break;
            }
            queue.in_flight.extend(queue.lines.pop_front());
        }
        queue.in_flight.clone()
    }

    /// Ends the writing of an app's lines, which are in the store or lost.
    pub(super) fn written(&mut self, app: AppId, is_lost: bool) {
        let Some(queue) = self.apps.get_mut(&app) else {
            return;
        };
        let lines = std::mem::take(&mut queue.in_flight);
        let bytes: usize = lines.iter().map(|line| line.bytes()).sum();
        queue.bytes -= bytes;
        self.bytes -= bytes;
        if is_lost {
            queue.dropped += lines.len() as u64;
            self.lost.store += lines.len() as u64;
        }
    }

    /// Whether lines of the app are being written.
    pub(super) fn is_writing(&self, app: AppId) -> bool {
        let queue = self.apps.get(&app);
        queue.is_some_and(|queue| !queue.in_flight.is_empty())
    }

    /// Returns the numbers of lost lines since the last call.
    pub(super) fn take_lost(&mut self) -> Lost {
        std::mem::take(&mut self.lost)
    }

    /// Forgets a deleted app.
    pub(super) fn remove(&mut self, app: AppId) {
        if let Some(queue) = self.apps.remove(&app) {
            self.bytes -= queue.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogSource;
    use kvasm_core::{Level, Timestamp};
    use uuid::Uuid;

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
        let (mut all, app, other) = (Unflushed::default(), AppId::generate(), AppId::generate());
        let mut now = Instant::now();
        let kept = |all: &mut Unflushed, calls: u32, now| {
            let admitted = (0..calls).filter(|_| all.admits(app, 10, now));
            admitted.count()
        };
        // The burst, and one call in a hundred.
        assert_eq!(kept(&mut all, 2_000, now), 1_000 + 10);
        assert!(all.admits(other, 10, now));
        now += Duration::from_secs(1);
        assert_eq!(kept(&mut all, 1_100, now), 100 + 10);
        let left_out = 10 * (1_000 - 10 + 1_000 - 10);
        assert_eq!(all.notes(app).len(), 1);
        assert!(all.notes(app).is_empty() && all.notes(other).is_empty());
        let lost = all.take_lost();
        assert_eq!((lost.flood, lost.store), (left_out, 0));
        now += Duration::from_secs(20);
        assert_eq!(kept(&mut all, 1_000, now), 1_000);
        // Forgotten once it has been quiet.
        now += Duration::from_secs(20);
        assert!(all.due(Duration::ZERO, 0, now).is_empty());
        assert!(all.apps.is_empty());
    }

    #[test]
    fn full_queue_drops_its_oldest_lines_but_not_those_being_written() {
        let (mut all, app) = (Unflushed::default(), AppId::generate());
        all.push(app, line(1, 1_000));
        assert_eq!(all.take(app, 1).len(), 1);
        // Not again before it is written.
        assert!(all.take(app, 1).is_empty());
        for seq in 2..=100 {
            all.push(app, line(seq, QUEUE_BYTES_MAX / 50));
        }
        let seqs: Vec<_> = all.lines(app).map(|line| line.seq).collect();
        assert_eq!((seqs[0], seqs[seqs.len() - 1]), (1, 100));
        assert!(seqs.len() < 52 && all.bytes <= QUEUE_BYTES_MAX);
        let dropped = 100 - seqs.len() as u64;
        assert_eq!(all.take_lost().store, dropped);
        all.written(app, true);
        let note = all.notes(app).remove(0);
        assert!(
            note.starts_with(&format!("{} lines were dropped", dropped + 1)),
            "{note}"
        );
        while !all.take(app, QUEUE_BYTES_MAX).is_empty() {
            all.written(app, false);
        }
        assert_eq!(all.bytes, 0);
    }

    #[test]
    fn queues_together_are_bounded_at_the_cost_of_the_largest() {
        let (mut all, quiet) = (Unflushed::default(), AppId::generate());
        all.push(quiet, line(1, 10));
        for _ in 0..40 {
            let app = AppId::generate();
            for seq in 0..200 {
                all.push(app, line(seq, QUEUE_BYTES_MAX / 100));
            }
        }
        assert!(all.bytes <= QUEUES_BYTES_MAX);
        let sum: usize = all.apps.values().map(|queue| queue.bytes).sum();
        assert_eq!(sum, all.bytes);
        assert_eq!(all.lines(quiet).count(), 1);
    }

    #[test]
    fn segment_spans_a_limited_time() {
        let (mut all, app) = (Unflushed::default(), AppId::generate());
        for seq in [0, SEGMENT_SPAN, SEGMENT_SPAN + 1] {
            all.push(app, line(seq, 1));
        }
        assert_eq!(all.take(app, usize::MAX).len(), 2);
        all.written(app, false);
        assert_eq!(all.take(app, usize::MAX).len(), 1);
    }
}
