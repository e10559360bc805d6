//! The format of segments: one JSON object per line.

use super::segment_record::SegmentRecord;
use bytes::Bytes;
use kvasm_core::AppId;
use kvasm_core::store::LogSegment;
use std::sync::Arc;
use uuid::Uuid;

/// Writes records, which are in order, as a segment. Returns `None` for no records.
pub(super) fn encode<R: SegmentRecord>(
    app: AppId,
    host: Uuid,
    records: &[Arc<R>],
) -> Option<LogSegment> {
    let (first, last) = (records.first()?.seq(), records.last()?.seq());
    let mut body = Vec::new();
    for record in records {
        record.write(&mut body);
        body.push(b'\n');
    }
    Some(LogSegment {
        id: Uuid::now_v7(),
        kind: R::KIND,
        app,
        host,
        first,
        last,
        records: u32::try_from(records.len()).unwrap_or(u32::MAX),
        body: Bytes::from(body),
    })
}

/// Reads the records of a segment. Those that this version cannot read are left out.
pub(super) fn decode<R: SegmentRecord>(segment: &LogSegment) -> Vec<R> {
    let lines = segment.body.split(|byte| *byte == b'\n');
    lines.filter_map(R::read).collect()
}
