//! Creation of deliveries for a transaction's changes.

use super::commit::{event_depth, size};
use super::lease::Lease;
use super::plan::{Address, PlannedResult, address};
use super::sql;
use super::transaction::Abort;
use super::usage::SlotDelta;
use kvasm_core::store::StoreError;
use kvasm_core::{Commit, DELIVERY_BYTES, Op, TraceContext, Value, ordering_key_of};
use sqlx::{Error, Row};
use std::collections::BTreeSet;
use uuid::Uuid;

/// The events, one column per field.
#[derive(Default)]
struct EventColumns<'b> {
    collections: Vec<&'b str>,
    keys: Vec<&'b str>,
    kinds: Vec<&'static str>,
    versions: Vec<i64>,
    sizes: Vec<i32>,
    json: Vec<Option<&'b str>>,
    bytes: Vec<Option<&'b [u8]>>,
    chains: Vec<i64>,
    ids: Vec<Uuid>,
    /// The trace context of all of them.
    trace: Option<Vec<u8>>,
}

impl<'b> EventColumns<'b> {
    /// Adds the event of an operation, if it changed something.
    fn push(&mut self, op: &'b Op, done: &PlannedResult) {
        let Some(version) = done.version else {
            return;
        };
        let address = address(op);
        let (kind, json, bytes) = match op {
            Op::Set { value, .. } => match value {
                Value::Json(text) => ("set", Some(text.as_str()), None),
                Value::Bytes(bytes) => ("set", None, Some(bytes.as_slice())),
            },
            Op::Delete { .. } | Op::Increment { .. } => ("delete", None, None),
        };
        let len = json.map_or(0, str::len) + bytes.map_or(0, <[u8]>::len);
        self.collections.push(address.0);
        self.keys.push(address.1);
        self.kinds.push(kind);
        self.versions.push(super::commit::version_number(version));
        let trace = self.trace.as_ref().map_or(0, Vec::len);
        self.sizes.push(delivery_size(address, len + trace));
        self.json.push(json);
        self.bytes.push(bytes);
        self.chains.push(ordering_key_of(address.1));
        self.ids.push(Uuid::now_v7());
    }
}

/// Returns what a delivery counts against the quota, with the bytes of its value and its trace
/// context.
fn delivery_size(address: Address<'_>, bytes: usize) -> i32 {
    size(address, bytes).saturating_add(DELIVERY_BYTES as i32)
}

/// Creates the deliveries of operations, in order. Returns their number. Only watched collections
/// have some.
pub(super) async fn fire(
    lease: &mut Lease,
    write: &Commit,
    ops: &[Op],
    done: &[PlannedResult],
    watched: &BTreeSet<String>,
    delta: &mut SlotDelta,
) -> Result<u64, Abort> {
    if watched.is_empty() {
        return Ok(0);
    }
    let mut events = EventColumns {
        trace: write.trace.as_ref().map(TraceContext::encode),
        ..EventColumns::default()
    };
    for (op, done) in ops.iter().zip(done) {
        if watched.contains(address(op).0) {
            events.push(op, done);
        }
    }
    if events.ids.is_empty() {
        return Ok(0);
    }
    let statement = sqlx::query(sql::outbox_sql::FIRE)
        .bind(write.app_id.uuid())
        .bind(write.now.0)
        .bind(event_depth(write))
        .bind(events.collections)
        .bind(events.keys)
        .bind(events.kinds)
        .bind(events.versions)
        .bind(events.sizes)
        .bind(events.json)
        .bind(events.bytes)
        .bind(events.chains)
        .bind(events.ids);
    let limit = write.deliveries_max();
    let statement = statement.bind(i64::from(write.shared_budget()));
    let statement = statement.bind(i64::from(limit)).bind(events.trace);
    let rows = lease.run(statement).await?;
    let row = rows.first().ok_or(Error::RowNotFound)?;
    let (deliveries, bytes): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if deliveries > i64::from(limit) {
        Err(StoreError::Deliveries { limit })?;
    }
    delta.queue(deliveries, bytes);
    Ok(deliveries.unsigned_abs())
}
