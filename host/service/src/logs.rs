//! The logs of apps: recent lines of their plugins, and of the host about them.

use kvasm_core::{AppId, Cost, Level, Timestamp, TraceId, truncate};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Notify;
use uuid::Uuid;

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

/// The source of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    /// The plugin.
    Plugin,
    /// The host, about the plugin.
    Host,
}

impl std::fmt::Display for LogSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LogSource::Plugin => "plugin",
            LogSource::Host => "host",
        })
    }
}

/// A line of an app's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Its number on this host; later lines have larger ones.
    pub seq: u64,
    /// When the invocation that wrote it ended.
    pub at: Timestamp,
    /// Its severity.
    pub level: Level,
    /// Its source.
    pub source: LogSource,
    /// The function that was called.
    pub function: Arc<str>,
    /// The request.
    pub request_id: Uuid,
    /// The trace of the request, if it belongs to one.
    pub trace_id: Option<TraceId>,
    /// Its text, without control characters.
    pub message: String,
    /// Whether the run that wrote it was discarded and rerun.
    pub discarded: bool,
    /// What the call used, in its last line.
    pub cost: Option<Box<Cost>>,
}

impl LogRecord {
    fn bytes(&self) -> usize {
        let cost = self.cost.as_ref().map_or(0, |_| size_of::<Cost>());
        self.message.len() + self.function.len() + cost + LINE_OVERHEAD
    }
}

/// A filter of log lines. All given conditions must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogFilter {
    /// Lines of this request.
    pub request: Option<Uuid>,
    /// Lines of this trace.
    pub trace: Option<TraceId>,
    /// Lines at least as severe as this.
    pub level: Option<Level>,
    /// Lines written at this time or later.
    pub since: Option<Timestamp>,
}

impl LogFilter {
    fn covers(&self, line: &LogRecord) -> bool {
        self.request
            .is_none_or(|request| request == line.request_id)
            && self.trace.is_none_or(|trace| Some(trace) == line.trace_id)
            && self.level.is_none_or(|level| line.level <= level)
            && self.since.is_none_or(|since| since <= line.at)
    }
}

/// The logs of all apps on this host, in memory. Only the newest lines are kept.
#[derive(Default)]
pub struct Logs {
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

#[derive(Default)]
struct LogState {
    rings: HashMap<AppId, Ring>,
    bytes: usize,
    seq: u64,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<LogRecord>,
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

    /// Adds lines, and assigns their numbers. The oldest lines are removed above the limits of
    /// the app or of all apps.
    pub fn push(&self, app: AppId, lines: impl IntoIterator<Item = LogRecord>) {
        let mut lines = lines.into_iter().peekable();
        if lines.peek().is_none() {
            return;
        }
        let mut state = self.state.lock();
        let LogState { rings, bytes, seq } = &mut *state;
        let ring = rings.entry(app).or_default();
        for mut line in lines {
            if line.message.len() > LINE_BYTES_MAX {
                let kept = truncate(&line.message, LINE_BYTES_MAX);
                line.message = format!("{kept}...");
            }
            *seq += 1;
            line.seq = *seq;
            *bytes += line.bytes();
            ring.bytes += line.bytes();
            ring.lines.push_back(line);
            while ring.lines.len() > LINES_MAX || ring.bytes > APP_BYTES_MAX {
                *bytes -= ring.pop();
            }
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

    /// Returns the last `limit` lines of the app after a number, oldest first.
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
            .cloned()
            .collect();
        lines.reverse();
        lines
    }

    /// Returns the apps that have lines.
    pub fn apps(&self) -> Vec<AppId> {
        self.state.lock().rings.keys().copied().collect()
    }

    /// Returns the number of the newest line of all apps.
    pub fn newest(&self) -> u64 {
        self.state.lock().seq
    }

    /// Removes the log of a deleted app. Its followers are notified, and find nothing more.
    pub fn remove(&self, app: AppId) {
        let mut state = self.state.lock();
        if let Some(ring) = state.rings.remove(&app) {
            state.bytes -= ring.bytes;
        }
        drop(state);
        self.notify(app);
    }
}

impl LogState {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> LogRecord {
        LogRecord {
            seq: 0,
            at: Timestamp(0),
            level: Level::Info,
            source: LogSource::Plugin,
            function: "f".into(),
            request_id: Uuid::nil(),
            trace_id: None,
            message: message.to_owned(),
            discarded: false,
            cost: None,
        }
    }

    #[test]
    fn log_followers_are_bounded() {
        let logs = Arc::new(Logs::default());
        let app = AppId::generate();
        let mut following: Vec<_> = (0..FOLLOWERS_OF_APP_MAX)
            .map(|_| logs.follow(app).unwrap())
            .collect();
        assert!(logs.follow(app).is_none());
        assert!(logs.follow(AppId::generate()).is_some());
        following.pop();
        assert!(logs.follow(app).is_some());
        drop(following);
        assert!(logs.followers.lock().is_empty());
    }

    #[test]
    fn follower_creates_no_log_and_is_notified_of_deletion() {
        let logs = Arc::new(Logs::default());
        let app = AppId::generate();
        let following = logs.follow(app).unwrap();
        let hears = |act: &dyn Fn()| {
            let grown = following.grown();
            let mut grown = std::pin::pin!(grown.notified());
            assert!(!grown.as_mut().enable());
            act();
            grown.enable()
        };
        assert!(hears(&|| logs.push(app, [line("one")])));
        assert!(!hears(&|| logs.push(AppId::generate(), [line("another's")])));
        assert!(hears(&|| logs.remove(app)));
        assert!(hears(&|| logs.remove(app)));
        assert!(!logs.apps().contains(&app));
    }

    #[test]
    fn log_keeps_newest_lines_of_each_app() {
        let (logs, app, other) = (Logs::default(), AppId::generate(), AppId::generate());
        logs.push(other, [line("quiet")]);
        for n in 0..LINES_MAX + 10 {
            logs.push(app, [line(&n.to_string())]);
        }
        let lines = logs.read(app, 0, usize::MAX);
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines[0].message, "10");
        let last = lines[LINES_MAX - 1].seq;
        assert_eq!(logs.read(app, last - 2, 10).len(), 2);
        assert_eq!(logs.read(app, 0, 3)[0].seq, last - 2);
        assert_eq!(logs.read(other, 0, 10).len(), 1);
        logs.remove(app);
        assert!(logs.read(app, 0, 10).is_empty());
    }

    #[test]
    fn log_filter_combines_conditions() {
        let (logs, app) = (Logs::default(), AppId::generate());
        let request = Uuid::from_u128(7);
        let trace = TraceId::of_uuid(Uuid::from_u128(8));
        let lines = [
            (1, Level::Error, Uuid::nil()),
            (2, Level::Info, request),
            (3, Level::Warn, request),
            (4, Level::Debug, Uuid::nil()),
        ];
        logs.push(
            app,
            lines.map(|(at, level, request_id)| LogRecord {
                at: Timestamp(at),
                level,
                request_id,
                trace_id: trace.filter(|_| at > 2),
                ..line(&at.to_string())
            }),
        );
        let found = |filter: LogFilter| {
            let found = logs.find(app, 0, 10, &filter);
            let found = found.iter().map(|line| line.message.as_str());
            found.collect::<Vec<_>>().join(" ")
        };
        let all = LogFilter::default();
        let request = Some(request);
        assert_eq!(found(all), "1 2 3 4");
        assert_eq!(found(LogFilter { request, ..all }), "2 3");
        let level = Some(Level::Warn);
        assert_eq!(found(LogFilter { level, ..all }), "1 3");
        let since = Some(Timestamp(3));
        assert_eq!(found(LogFilter { since, ..all }), "3 4");
        assert_eq!(found(LogFilter { trace, ..all }), "3 4");
        let both = LogFilter {
            request,
            trace,
            level,
            since: None,
        };
        assert_eq!(found(both), "3");
    }

    #[test]
    fn long_log_line_is_truncated() {
        let (logs, app) = (Logs::default(), AppId::generate());
        logs.push(
            app,
            [line("first"), line(&"x".repeat(8 << 20)), line("last")],
        );
        let lines = logs.read(app, 0, 10);
        let lengths: Vec<_> = lines.iter().map(|line| line.message.len()).collect();
        assert_eq!(lengths, [5, LINE_BYTES_MAX + 3, 4]);
    }

    #[test]
    fn function_names_count_toward_log_size() {
        let (logs, app) = (Logs::default(), AppId::generate());
        for _ in 0..100 {
            let function = "f".repeat(APP_BYTES_MAX / 4).into();
            logs.push(
                app,
                [LogRecord {
                    function,
                    ..line("short")
                }],
            );
        }
        assert_eq!(logs.read(app, 0, 100).len(), 3);
    }

    #[test]
    fn log_bytes_are_bounded_per_app_and_in_total() {
        let logs = Logs::default();
        let quiet = AppId::generate();
        logs.push(quiet, [line("quiet")]);
        let text = "x".repeat(APP_BYTES_MAX / 4);
        let mut loud = Vec::new();
        for _ in 0..BYTES_MAX / APP_BYTES_MAX + 100 {
            let app = AppId::generate();
            logs.push(app, (0..40).map(|_| line(&text)));
            loud.push(app);
        }
        let state = logs.state.lock();
        assert!(state.bytes <= BYTES_MAX);
        let sum: usize = state.rings.values().map(|ring| ring.bytes).sum();
        assert_eq!(sum, state.bytes);
        assert!(state.rings.values().all(|ring| ring.bytes <= APP_BYTES_MAX));
        drop(state);
        assert_eq!(logs.read(quiet, 0, 10).len(), 1);
    }
}
