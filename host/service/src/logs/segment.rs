//! The format of segments: one JSON object per line of the log, without what is its default.

use super::{LogRecord, LogSource};
use bytes::Bytes;
use kvasm_core::store::LogSegment;
use kvasm_core::{AppId, Cost, Level, Timestamp, TraceId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// A line in a segment.
#[derive(Serialize, Deserialize)]
struct StoredLine {
    seq: u64,
    at: i64,
    level: Level,
    source: LogSource,
    function: Arc<str>,
    request: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    message: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    discarded: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cost: Option<Box<Cost>>,
}

impl From<&LogRecord> for StoredLine {
    fn from(line: &LogRecord) -> StoredLine {
        StoredLine {
            seq: line.seq,
            at: line.at.0,
            level: line.level,
            source: line.source,
            function: Arc::clone(&line.function),
            request: line.request_id,
            trace: line.trace_id.map(|id| id.to_string()),
            message: line.message.clone(),
            discarded: line.discarded,
            cost: line.cost.clone(),
        }
    }
}

impl From<StoredLine> for LogRecord {
    fn from(line: StoredLine) -> LogRecord {
        LogRecord {
            seq: line.seq,
            at: Timestamp(line.at),
            level: line.level,
            source: line.source,
            function: line.function,
            request_id: line.request,
            trace_id: line.trace.and_then(|id| id.parse::<TraceId>().ok()),
            message: line.message,
            discarded: line.discarded,
            cost: line.cost,
        }
    }
}

/// Writes lines, which are in order, as a segment. Returns `None` for no lines.
pub(super) fn encode(app: AppId, host: Uuid, lines: &[Arc<LogRecord>]) -> Option<LogSegment> {
    let (first, last) = (lines.first()?.seq, lines.last()?.seq);
    let mut body = Vec::new();
    for line in lines {
        // Serialising a struct of numbers and strings cannot fail.
        if serde_json::to_writer(&mut body, &StoredLine::from(&**line)).is_ok() {
            body.push(b'\n');
        }
    }
    Some(LogSegment {
        id: Uuid::now_v7(),
        app,
        host,
        first,
        last,
        records: u32::try_from(lines.len()).unwrap_or(u32::MAX),
        body: Bytes::from(body),
    })
}

/// Reads the lines of a segment. Lines that this version cannot read are left out.
pub(super) fn decode(segment: &LogSegment) -> Vec<LogRecord> {
    let lines = segment.body.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| serde_json::from_slice::<StoredLine>(line).ok())
        .map(LogRecord::from)
        .collect()
}
