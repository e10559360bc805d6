//! `kv_get_many` and `kv_commit` of the in-process host, from their packed bytes.

use super::store::Store;
use super::{declared, validate};
use crate::Error;
use crate::sys::CommitFailure;
use kvasm_abi::{
    Address, Applied, Batch, BatchCheck, BatchOp, Record, Records, SetOptions, Slot, encode_records,
};

/// The maximum number of keys in the message of a conflict.
const NAMED_MAX: usize = 10;

pub(super) fn get_many(store: &mut Store, keys: &[u8], now_ms: i64) -> Result<Vec<u8>, Error> {
    let keys = Records::<Address<'_>>::decode(keys).map_err(|_| malformed("list of keys"))?;
    validate::keys_len(keys.len())?;
    let mut addresses = Vec::with_capacity(keys.len());
    for address in keys {
        let (collection, key) = validate::address(address)?;
        store.note_read(collection, key, now_ms)?;
        addresses.push((collection, key));
    }
    let store = &*store;
    let mut slots = Vec::with_capacity(addresses.len());
    let mut value_bytes = 0;
    for (collection, key) in addresses {
        let row = store.live(collection, key, now_ms);
        let slot = row.map(|row| (row.header(), row.value.as_slice()));
        value_bytes += slot.map_or(0, |(_, value)| value.len());
        slots.push(Slot(slot));
    }
    validate::many_bytes(value_bytes)?;
    Ok(packed(&slots))
}

/// Commits a batch atomically.
pub(super) fn commit(
    store: &mut Store,
    batch: &[u8],
    now_ms: i64,
) -> Result<Vec<u8>, CommitFailure> {
    validate::batch_bytes(batch.len())?;
    let batch = Batch::decode(batch).map_err(|_| malformed("batch"))?;
    validate::batch_len(batch.len())?;
    batch.ops.clone().try_for_each(validate_op)?;
    // The last operation may fail, in which case none takes effect. A single one writes last.
    let before = (batch.ops.clone().count() > 1).then(|| store.clone());
    let applied = apply_all(store, batch, now_ms);
    if let (Err(_), Some(before)) = (&applied, before) {
        store.roll_back(before);
    }
    let applied = applied?;
    Ok(packed(&applied))
}

fn apply_all(
    store: &mut Store,
    batch: Batch<'_>,
    now_ms: i64,
) -> Result<Vec<Applied>, CommitFailure> {
    check(store, batch.checks, now_ms)?;
    let applied: Result<Vec<Applied>, Error> =
        batch.ops.map(|op| apply(store, op, now_ms)).collect();
    Ok(applied?)
}

/// Rejects invalid operations, whatever the store holds.
fn validate_op(op: BatchOp<'_>) -> Result<(), Error> {
    if let BatchOp::TimerSet { address, .. } | BatchOp::TimerCancel { address } = op {
        declared::require_timers()?;
        validate::timer_name(address.key)?;
    } else {
        validate::address(op.address())?;
    }
    match op {
        BatchOp::TimerSet {
            flags, ms, payload, ..
        } => validate::timer(flags.cast_signed(), ms, payload).map(drop),
        BatchOp::TimerCancel { .. } => Ok(()),
        BatchOp::Set { format, value, .. } => validate::value(value, wire_format(format)),
        BatchOp::Delete { .. } | BatchOp::Increment { .. } => Ok(()),
    }
}

fn check<'a>(
    store: &mut Store,
    checks: Records<'a, BatchCheck<'a>>,
    now_ms: i64,
) -> Result<(), CommitFailure> {
    let mut failed = Vec::new();
    let mut named = Vec::new();
    for (position, check) in (0u32..).zip(checks) {
        let (collection, key) = validate::address(check.address)?;
        store.note_read(collection, key, now_ms)?;
        if !store.has_version(collection, key, check.version, now_ms) {
            failed.push(position);
            named.push(format!("{key:?} of {collection:?}"));
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let more = named.len().saturating_sub(NAMED_MAX);
    named.truncate(NAMED_MAX);
    if more > 0 {
        named.push(format!("{more} more"));
    }
    Err(CommitFailure::Conflict {
        failed: packed(&failed),
        error: Error::Conflict(format!(
            "entries do not have the versions that the batch expects; nothing was written: {}",
            named.join(", ")
        )),
    })
}

fn apply(store: &mut Store, op: BatchOp<'_>, now_ms: i64) -> Result<Applied, Error> {
    match op {
        BatchOp::TimerSet {
            address,
            flags,
            ms,
            payload,
        } => {
            let name = validate::timer_name(address.key)?;
            let time = validate::timer(flags.cast_signed(), ms, payload)?;
            store.set_timer(name, time, payload, now_ms)?;
            Ok(Applied {
                result: 0,
                value: 0,
            })
        }
        BatchOp::TimerCancel { address } => {
            let existed = store.cancel_timer(validate::timer_name(address.key)?)?;
            Ok(Applied {
                result: existed.into(),
                value: 0,
            })
        }
        entry => apply_entry(store, entry, now_ms),
    }
}

fn apply_entry(store: &mut Store, op: BatchOp<'_>, now_ms: i64) -> Result<Applied, Error> {
    let (collection, key) = validate::address(op.address())?;
    let (result, value) = match op {
        BatchOp::Set {
            format,
            ttl_ms,
            value,
            ..
        } => {
            let options = SetOptions {
                ttl_ms: (ttl_ms != 0).then_some(ttl_ms),
                if_version: None,
            };
            let format = wire_format(format);
            (
                store.set(collection, key, value, format, &options, now_ms)?,
                0,
            )
        }
        BatchOp::Delete { .. } | BatchOp::TimerSet { .. } | BatchOp::TimerCancel { .. } => {
            let existed = store.delete(collection, key, None, now_ms)?;
            (u64::from(existed), 0)
        }
        BatchOp::Increment { delta, .. } => store.increment(collection, key, delta, now_ms)?,
    };
    Ok(Applied { result, value })
}

/// A format over `i32` is unknown too.
fn wire_format(format: u32) -> i32 {
    i32::try_from(format).unwrap_or(i32::MAX)
}

/// Returns what a batch has applied, with the versions that the entries have now.
pub(super) fn with_versions_now(batch: &[u8], applied: Vec<u8>) -> Vec<u8> {
    let (Ok(batch), Ok(records)) = (Batch::decode(batch), Records::<Applied>::decode(&applied))
    else {
        return applied;
    };
    let records: Vec<Applied> = batch
        .ops
        .zip(records)
        .map(|(op, record)| match (op, validate::address(op.address())) {
            (BatchOp::Set { .. } | BatchOp::Increment { .. }, Ok((collection, key))) => Applied {
                result: super::version_now(collection, key, record.result),
                ..record
            },
            _ => record,
        })
        .collect();
    packed(&records)
}

/// Returns a conflict of all checks, for one that a test asks for.
pub(super) fn conflict(error: Error, batch: &[u8]) -> CommitFailure {
    let checks = Batch::decode(batch).map_or(0, |batch| batch.checks.len());
    let all: Vec<u32> = (0u32..).take(checks).collect();
    CommitFailure::Conflict {
        failed: packed(&all),
        error,
    }
}

fn malformed(subject: &str) -> Error {
    Error::Invalid(format!(
        "the {subject} is malformed: it is not what its lengths and counts promise"
    ))
}

fn packed<'a, T: Record<'a>>(records: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_records(records, &mut |piece: &[u8]| bytes.extend_from_slice(piece));
    bytes
}
