//! The format of lines in segments: JSON objects, without what is their default.

use super::{LogRecord, LogSource};
use kvasm_core::{Cost, Level, Timestamp, TraceId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// A line in a segment.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredLine {
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
