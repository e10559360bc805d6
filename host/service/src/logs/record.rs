//! Lines of logs, and filters of them.

use super::flood_gate::FloodRates;
use super::segment_record::SegmentRecord;
use super::stored_line::StoredLine;
use super::{BYTES_MAX, LINE_OVERHEAD};
use kvasm_core::store::SegmentKind;
use kvasm_core::{Cost, Level, Timestamp, TraceId};
use std::sync::Arc;
use uuid::Uuid;

/// The source of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// Its position in the log: microseconds since 1970, or more where that is needed for the lines
    /// of one host to have increasing positions.
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
    pub(super) fn bytes(&self) -> usize {
        let cost = self.cost.as_ref().map_or(0, |_| size_of::<Cost>());
        self.message.len() + self.function.len() + cost + LINE_OVERHEAD
    }
}

impl SegmentRecord for LogRecord {
    type Filter = LogFilter;

    const KIND: SegmentKind = SegmentKind::Lines;
    const QUEUES_BYTES_MAX: usize = BYTES_MAX;
    const RATES: FloodRates = FloodRates {
        per_second: 1_000.0,
        burst: 10_000.0,
        sample: 100,
        for_failures: 0.0,
    };

    fn seq(&self) -> u64 {
        self.seq
    }

    fn bytes(&self) -> usize {
        LogRecord::bytes(self)
    }

    fn write(&self, out: &mut Vec<u8>) {
        // Serialising a struct of numbers and strings cannot fail.
        let _ = serde_json::to_writer(out, &StoredLine::from(self));
    }

    fn read(line: &[u8]) -> Option<LogRecord> {
        let line = serde_json::from_slice::<StoredLine>(line);
        line.ok().map(LogRecord::from)
    }

    fn meets(&self, filter: &LogFilter) -> bool {
        filter.covers(self)
    }

    fn times(filter: &LogFilter) -> (Option<Timestamp>, Option<Timestamp>) {
        (filter.since, None)
    }

    fn left_out(&self) -> u64 {
        0
    }
}

/// A filter of log lines. All given conditions must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogFilter {
    /// Lines of this request.
    pub request: Option<Uuid>,
    /// Lines of this trace.
    pub trace: Option<TraceId>,
    /// Lines at least as severe as this.
    pub level: Option<Level>,
    /// Lines written at this time or later.
    pub since: Option<Timestamp>,
    /// Lines of calls of this function.
    pub function: Option<String>,
    /// Lines whose text contains this text.
    pub text: Option<String>,
}

impl LogFilter {
    pub(super) fn covers(&self, line: &LogRecord) -> bool {
        self.request
            .is_none_or(|request| request == line.request_id)
            && self.trace.is_none_or(|trace| Some(trace) == line.trace_id)
            && self.level.is_none_or(|level| line.level <= level)
            && self.since.is_none_or(|since| since <= line.at)
            && (self.function.as_deref()).is_none_or(|function| function == &*line.function)
            && (self.text.as_deref()).is_none_or(|text| line.message.contains(text))
    }
}
