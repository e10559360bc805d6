//! The logs of apps: lines of their plugins, and of the host about them.
//!
//! Recent lines are in memory (`Logs`). While a keeper runs (`keeper`), it writes them to the store
//! in segments (`segment`); lines that it has not written yet are in `unflushed`, behind a gate
//! (`flood_gate`) that lets only a sample of the calls of a flooding app through. `page` reads both.
//! All of that works for each `SegmentRecord`; the other kind is in the module `calls`.

pub(crate) mod flood_gate;
mod keeper;
pub(crate) mod lost;
mod page;
mod record;
mod segment;
pub(crate) mod segment_record;
mod stored_line;
pub(crate) mod unflushed;

use kvasm_core::{AppId, Level, Timestamp, display_truncated};
use kvasm_metrics::Metrics;
use lost::Lost;
use parking_lot::Mutex;
use segment_record::RecordSource;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use unflushed::{QUEUE_BYTES_MAX, Unflushed};
use uuid::Uuid;

pub(crate) use keeper::within;
pub use keeper::{CallKeeper, LogKeeper, LogRetention, SegmentKeeper};
pub use page::{LogCursor, LogPage, LogQuery, LogTail, RecordPage, RecordQuery};
pub use record::{LogFilter, LogRecord, LogSource};

/// Maximum number of lines kept per app.
const LINES_MAX: usize = 1_000;
/// Maximum size of the lines kept per app, in bytes.
const APP_BYTES_MAX: usize = 256 * 1024;
/// Maximum size of the lines kept for all apps, in bytes.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Maximum length of a line, in bytes: small enough that an app keeps several.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// Maximum number of followers of an app's log: each new line is sent to each of them.
pub const FOLLOWERS_OF_APP_MAX: usize = 16;
/// Maximum number of followers of all logs.
const FOLLOWERS_MAX: usize = 512;
/// Size of a line in addition to its text and function name.
const LINE_OVERHEAD: usize = 128;

/// The logs of all apps on this host, in memory. Only the newest lines are kept.
pub struct Logs {
    /// The identity of this host process.
    host: Uuid,
    state: Mutex<LogState>,
    followers: Mutex<HashMap<AppId, Followers>>,
}

/// The followers of one app's log.
#[derive(Default)]
struct Followers {
    count: usize,
    grown: Arc<Notify>,
}

/// A follower of an app's log.
pub struct Following {
    logs: Arc<Logs>,
    app: AppId,
    grown: Arc<Notify>,
}

impl Following {
    /// Notified when lines of the app arrive, or the app is deleted. Register before reading.
    pub fn grown(&self) -> Arc<Notify> {
        Arc::clone(&self.grown)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut followers = self.logs.followers.lock();
        if let Some(of_app) = followers.get_mut(&self.app) {
            of_app.count -= 1;
            if of_app.count == 0 {
                followers.remove(&self.app);
            }
        }
    }
}

impl Default for Logs {
    fn default() -> Logs {
        Logs {
            host: Uuid::now_v7(),
            state: Mutex::default(),
            followers: Mutex::default(),
        }
    }
}

impl Logs {
    /// Returns the identity of this host process, which is also that of its segments.
    pub fn host(&self) -> Uuid {
        self.host
    }
}

#[derive(Default)]
struct LogState {
    rings: HashMap<AppId, Ring>,
    bytes: usize,
    seq: u64,
    /// The lines that are not in the store yet; `None` if no keeper writes them.
    unflushed: Option<Unflushed<LogRecord>>,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<Arc<LogRecord>>,
    bytes: usize,
}

impl Ring {
    /// Removes the oldest line, and returns its size.
    fn pop(&mut self) -> usize {
        let bytes = self.lines.pop_front().map_or(0, |line| line.bytes());
        self.bytes -= bytes;
        bytes
    }
}

impl Logs {
    /// Registers a follower of the app's log, until the guard is dropped. Returns `None` at the
    /// limit of followers, of the app or in total.
    pub fn follow(self: &Arc<Self>, app: AppId) -> Option<Following> {
        let mut followers = self.followers.lock();
        let all: usize = followers.values().map(|of_app| of_app.count).sum();
        let own = followers.get(&app).map_or(0, |of_app| of_app.count);
        if own >= FOLLOWERS_OF_APP_MAX || all >= FOLLOWERS_MAX {
            return None;
        }
        let of_app = followers.entry(app).or_default();
        of_app.count += 1;
        Some(Following {
            logs: Arc::clone(self),
            app,
            grown: Arc::clone(&of_app.grown),
        })
    }

    /// Adds lines of one call, and assigns their positions. The oldest lines are removed above the
    /// limits of the app or of all apps. While a keeper runs, lines of an app that floods its log
    /// are left out, and counted in a line of the host.
    pub fn push(&self, app: AppId, lines: impl IntoIterator<Item = LogRecord>) {
        let mut lines: Vec<_> = lines.into_iter().collect();
        if lines.is_empty() {
            return;
        }
        for line in &mut lines {
            if line.message.len() > LINE_BYTES_MAX {
                line.message = display_truncated(&line.message, LINE_BYTES_MAX);
            }
        }
        let mut state = self.state.lock();
        let admitted = match &mut state.unflushed {
            Some(unflushed) => unflushed.admits(app, lines.len(), false, Instant::now()),
            None => true,
        };
        if !admitted {
            return;
        }
        for line in lines {
            state.add(app, line, None);
        }
        state.make_room();
        drop(state);
        self.notify(app);
    }

    /// Notifies the followers of an app's log.
    fn notify(&self, app: AppId) {
        if let Some(of_app) = self.followers.lock().get(&app) {
            of_app.grown.notify_waiters();
        }
    }

    /// Returns the last `limit` lines of the app in memory after a position, oldest first.
    pub fn read(&self, app: AppId, after: u64, limit: usize) -> Vec<LogRecord> {
        self.find(app, after, limit, &LogFilter::default())
    }

    /// Like `read`, for lines that match a filter.
    pub fn find(&self, app: AppId, after: u64, limit: usize, filter: &LogFilter) -> Vec<LogRecord> {
        let state = self.state.lock();
        let Some(ring) = state.rings.get(&app) else {
            return Vec::new();
        };
        let newer = ring.lines.iter().rev();
        let mut lines: Vec<_> = newer
            .take_while(|line| line.seq > after)
            .filter(|line| filter.covers(line))
            .take(limit)
            .map(|line| LogRecord::clone(line))
            .collect();
        lines.reverse();
        lines
    }

    /// Returns the apps that have lines.
    pub fn apps(&self) -> Vec<AppId> {
        self.state.lock().rings.keys().copied().collect()
    }

    /// Returns the position of the newest line of all apps.
    pub fn newest(&self) -> u64 {
        self.state.lock().seq
    }

    /// Removes the log of a deleted app from memory. Its followers are notified, and find nothing
    /// more.
    pub fn remove(&self, app: AppId) {
        let mut state = self.state.lock();
        if let Some(ring) = state.rings.remove(&app) {
            state.bytes -= ring.bytes;
        }
        if let Some(unflushed) = &mut state.unflushed {
            unflushed.remove(app);
        }
        drop(state);
        self.notify(app);
    }

    /// Adds a line of the host about the app's log.
    pub(crate) fn note(&self, app: AppId, message: String) {
        self.state.lock().add(app, host_line(message), None);
        self.notify(app);
    }
}

impl RecordSource for Logs {
    type Record = LogRecord;

    const PRUNED: &'static str = "log_segments";

    fn host(&self) -> Uuid {
        self.host
    }

    fn open_queue(&self) {
        let mut state = self.state.lock();
        state.unflushed.get_or_insert_with(Unflushed::default);
    }

    fn with_queue<T>(&self, act: impl FnOnce(&mut Unflushed<LogRecord>) -> T) -> Option<T> {
        self.state.lock().unflushed.as_mut().map(act)
    }

    fn due(&self, age: Duration, bytes: usize) -> Vec<AppId> {
        let due = self.with_queue(|all| all.due(age, bytes, Instant::now()));
        due.unwrap_or_default()
    }

    fn take(&self, app: AppId, bytes: usize) -> Vec<Arc<LogRecord>> {
        let mut state = self.state.lock();
        let unflushed = state.unflushed.as_mut();
        let lost = unflushed.map_or_else(Lost::default, |all| all.take_lost_of(app).all());
        for lost in lost.by_reason() {
            state.add(app, host_line(message(lost)), Some(lost));
        }
        let unflushed = state.unflushed.as_mut();
        let lines = unflushed.map_or_else(Vec::new, |all| all.take(app, bytes));
        drop(state);
        if lost.all() > 0 {
            self.notify(app);
        }
        lines
    }

    fn count_lost(metrics: &Metrics, lost: Lost) {
        metrics.app_log_lines_lost("flood", lost.flood);
        metrics.app_log_lines_lost("queue", lost.queue);
        metrics.app_log_lines_lost("store", lost.store);
    }

    fn in_memory(&self, app: AppId) -> Vec<Arc<LogRecord>> {
        let state = self.state.lock();
        let ring = state.rings.get(&app);
        let recent = ring.iter().flat_map(|ring| &ring.lines);
        let unflushed = state.unflushed.iter().flat_map(|all| all.records(app));
        let mut lines: Vec<_> = recent.chain(unflushed).map(Arc::clone).collect();
        drop(state);
        lines.sort_unstable_by_key(|line| line.seq);
        lines.dedup_by_key(|line| line.seq);
        lines
    }
}

/// Returns the text of a line about lines that were lost for one reason.
fn message(lost: Lost) -> String {
    use segment_record::SegmentRecord;
    let (rates, lines) = (LogRecord::RATES, lost.all());
    if lost.flood > 0 {
        return format!(
            "{lines} lines were left out: the app writes more than {} lines per second, so the \
             lines of one call in {} are kept",
            rates.per_second, rates.sample
        );
    }
    if lost.queue > 0 {
        return format!(
            "{lines} lines were dropped: more than {} MiB of this app's lines, or {} MiB of all \
             apps', were waiting to be stored",
            QUEUE_BYTES_MAX >> 20,
            LogRecord::QUEUES_BYTES_MAX >> 20
        );
    }
    format!("{lines} lines were dropped: the store failed")
}

/// Returns a line of the host about an app's log.
fn host_line(message: String) -> LogRecord {
    LogRecord {
        seq: 0,
        at: Timestamp::now(),
        level: Level::Warn,
        source: LogSource::Host,
        function: "log".into(),
        request_id: Uuid::nil(),
        trace_id: None,
        message,
        discarded: false,
        cost: None,
    }
}

impl LogState {
    /// Adds a line, with the next position. `lost` is what a note about lost lines counts.
    fn add(&mut self, app: AppId, mut line: LogRecord, lost: Option<Lost>) {
        self.seq = now_us().max(self.seq + 1);
        line.seq = self.seq;
        let line = Arc::new(line);
        match (&mut self.unflushed, lost) {
            (Some(unflushed), Some(lost)) => unflushed.push_note(app, Arc::clone(&line), lost),
            (Some(unflushed), None) => unflushed.push(app, Arc::clone(&line)),
            (None, _) => {}
        }
        let ring = self.rings.entry(app).or_default();
        self.bytes += line.bytes();
        ring.bytes += line.bytes();
        ring.lines.push_back(line);
        while ring.lines.len() > LINES_MAX || ring.bytes > APP_BYTES_MAX {
            self.bytes -= ring.pop();
        }
    }

    /// Shrinks the largest logs, so that no app's lines displace those of an app that writes
    /// little.
    fn make_room(&mut self) {
        while self.bytes > BYTES_MAX {
            let largest = self.rings.values_mut().max_by_key(|ring| ring.bytes);
            let Some(ring) = largest else { return };
            let keep = ring.bytes / 2;
            while ring.bytes > keep {
                self.bytes -= ring.pop();
            }
        }
    }
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or(Duration::ZERO).as_micros();
    u64::try_from(since).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
