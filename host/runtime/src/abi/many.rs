//! `kv_increment`, `kv_add`, `kv_get_many`, `kv_commit`.

use super::fault::Fault;
use super::kv::{async_function, at, format, header};
use super::memory::Guest;
use super::state::{GuestView, HostCalls};
use super::timers;
use kvasm_abi::{
    Address, BatchCheck, BatchOp, KEYS_MAX, MODULE, Records, Slot, Status, encode_records,
};
use kvasm_core::{
    Applied, Batch, COLLECTION_BYTES_MAX, Check, Collection, Expect, Invalid, KEY_BYTES_MAX, Key,
    Op, Subject, TimerName, TimerOp, Timestamp,
};
use kvasm_service::ServiceError;
use wasmtime::{Caller, Linker};

/// Maximum size of a packed list of keys, all of maximum length.
const KEYS_BYTES_MAX: usize = 4 + KEYS_MAX * (8 + COLLECTION_BYTES_MAX + KEY_BYTES_MAX);

pub(super) fn link<T: GuestView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    async_function!(
        linker,
        "kv_increment",
        increment,
        (c, c_len, k, k_len, delta: i64, result)
    );
    async_function!(linker, "kv_add", add, (c, c_len, k, k_len, delta: i64));
    async_function!(linker, "kv_get_many", get_many, (keys, len, out, cap));
    async_function!(linker, "kv_commit", commit, (batch, len, out, cap));
    Ok(())
}

async fn increment<T: GuestView>(
    guest: &mut Guest<'_, T>,
    c: i32,
    c_len: i32,
    k: i32,
    k_len: i32,
    delta: i64,
    result: i32,
) -> Result<i64, Fault> {
    let result = at(result, size_of::<i64>() as i32);
    guest.check("result", result)?;
    let collection = guest.collection(c, c_len)?;
    let key = guest.key(k, k_len)?;
    let state = guest.state();
    let caller = &state.context.caller;
    let increment = state
        .services
        .kv
        .increment(caller, (collection, key), delta);
    let (version, value) = state.meter.exclude(increment).await?;
    state.used.write(1, 0);
    let buffer = guest.bytes_mut("result", result)?;
    buffer.copy_from_slice(&value.to_le_bytes());
    Ok(version.0.cast_signed())
}

async fn add<T: GuestView>(
    guest: &mut Guest<'_, T>,
    c: i32,
    c_len: i32,
    k: i32,
    k_len: i32,
    delta: i64,
) -> Result<i64, Fault> {
    let at = (guest.collection(c, c_len)?, guest.key(k, k_len)?);
    let state = guest.state();
    let add = state.services.kv.add(&state.context.caller, at, delta);
    state.meter.exclude(add).await?;
    state.used.write(1, 0);
    Ok(0)
}

fn malformed(subject: Subject) -> Fault {
    Fault::from(Invalid::Malformed {
        subject,
        why: "its lengths and counts do not match its size",
    })
}

fn names(address: Address<'_>) -> Result<(Collection, Key), Invalid> {
    Ok((
        Collection::parse(address.collection)?,
        Key::parse(address.key)?,
    ))
}

async fn get_many<T: GuestView>(
    guest: &mut Guest<'_, T>,
    keys: i32,
    len: i32,
    out: i32,
    cap: i32,
) -> Result<i64, Fault> {
    let out = at(out, cap);
    guest.check("out", out)?;
    let packed = guest.read("keys", Subject::Keys, at(keys, len), KEYS_BYTES_MAX)?;
    let keys = Records::<Address<'_>>::decode(&packed).map_err(|_| malformed(Subject::Keys))?;
    Invalid::check_count(Subject::Keys, keys.len(), KEYS_MAX)?;
    let keys = keys.map(names).collect::<Result<Vec<_>, _>>()?;
    let state = guest.state();
    let get = state.services.kv.get_many(&state.context.caller, &keys);
    let entries = state.meter.exclude(get).await?;
    let bytes = entries
        .iter()
        .flatten()
        .map(|entry| entry.value.as_bytes().len());
    let bytes = bytes.sum();
    state.used.read(entries.len(), bytes);
    guest.acquire_cpu_permit(bytes).await;
    let slots = entries.iter().map(|entry| {
        let entry = entry.as_ref();
        Slot(entry.map(|entry| (header(entry), entry.value.as_bytes())))
    });
    let slots: Vec<_> = slots.collect();
    guest.answer(out, packed_records(&slots))
}

fn packed_records<'a, R: kvasm_abi::Record<'a>>(records: &[R]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_records(records, &mut |piece: &[u8]| bytes.extend_from_slice(piece));
    bytes
}

async fn commit<T: GuestView>(
    guest: &mut Guest<'_, T>,
    batch: i32,
    len: i32,
    out: i32,
    cap: i32,
) -> Result<i64, Fault> {
    let out = at(out, cap);
    guest.check("out", out)?;
    let limits = &guest.state().limits;
    let (batch_limit, value_limit) = (limits.batch_bytes(), limits.value_bytes);
    let range = at(batch, len);
    let packed = guest.read_large("batch", Subject::Batch, range, batch_limit);
    let packed = packed.await?;
    let (batch, order) = decode(&packed, value_limit)?;
    if !batch.timers.is_empty() {
        timers::require_timers(guest).await?;
    }
    // A copy of the checked keys, for the message.
    let checked: Vec<_> = batch.checks.iter().map(named).collect();
    let payloads = batch.timers.iter().map(TimerOp::payload_bytes);
    let written = batch.ops.iter().map(value_bytes).chain(payloads).sum();
    let state = guest.state();
    let commit = state.services.kv.commit(&state.context.caller, batch);
    match state.meter.exclude(commit).await {
        Ok(applied) => {
            state.used.write(applied.len(), written);
            let answers = in_order(&order, &applied).map(answer_of);
            let answers: Vec<_> = answers.collect();
            guest.answer(out, packed_records(&answers))
        }
        Err(ServiceError::Conflict { failed }) => {
            let positions = failed
                .iter()
                .map(|at| u32::try_from(*at).unwrap_or(u32::MAX));
            let positions: Vec<u32> = positions.collect();
            state.slot = packed_records(&positions).into();
            Err(Fault::Status(Status::Conflict, conflict(&failed, &checked)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether an operation of a packed batch changes a timer. Results have those of timers last.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Entry,
    Timer,
}

/// Returns the results in the order of the packed batch.
fn in_order<'a>(order: &'a [Place], applied: &'a [Applied]) -> impl Iterator<Item = &'a Applied> {
    let entries = order.iter().filter(|place| **place == Place::Entry).count();
    let (entries, timers) = applied.split_at(entries.min(applied.len()));
    let (mut entries, mut timers) = (entries.iter(), timers.iter());
    order.iter().filter_map(move |place| match place {
        Place::Entry => entries.next(),
        Place::Timer => timers.next(),
    })
}

/// Decodes a batch, and the places of its operations.
fn decode(packed: &[u8], value_limit: usize) -> Result<(Batch, Vec<Place>), Fault> {
    let batch = kvasm_abi::Batch::decode(packed).map_err(|_| malformed(Subject::Batch))?;
    Invalid::check_count(Subject::Batch, batch.len(), kvasm_abi::BATCH_OPS_MAX)?;
    let check = |BatchCheck { address, version }: BatchCheck<'_>| {
        let (collection, key) = names(address)?;
        Ok::<_, Invalid>(Check {
            collection,
            key,
            expect: Expect::of_version(version),
        })
    };
    let now = Timestamp::now();
    let mut decoded = Batch {
        checks: batch.checks.map(check).collect::<Result<_, _>>()?,
        ..Batch::default()
    };
    let mut order = Vec::with_capacity(batch.ops.len());
    for packed in batch.ops {
        match op(packed, now, value_limit)? {
            Change::Entry(op) => {
                decoded.ops.push(op);
                order.push(Place::Entry);
            }
            Change::Timer(op) => {
                decoded.timers.push(op);
                order.push(Place::Timer);
            }
        }
    }
    Ok((decoded, order))
}

/// Decodes a batch of `kv_commit`, or returns the status of the error.
#[cfg(feature = "fuzzing")]
pub fn fuzz_batch(packed: &[u8], value_limit: usize) -> Result<Batch, Option<Status>> {
    let decoded = decode(packed, value_limit).map(|(batch, _)| batch);
    decoded.map_err(|fault| match fault {
        Fault::Status(status, _) => Some(status),
        Fault::Host(..) | Fault::Trap(_) => None,
    })
}

/// An operation of a packed batch.
enum Change {
    Entry(Op),
    Timer(TimerOp),
}

fn op(packed: BatchOp<'_>, now: Timestamp, value_limit: usize) -> Result<Change, Fault> {
    match packed {
        BatchOp::TimerSet {
            address,
            flags,
            ms,
            payload,
        } => {
            let name = TimerName::parse(address.key)?;
            let flags = flags.cast_signed();
            let op = timers::timer(name, flags, ms, payload.to_vec(), value_limit)?;
            Ok(Change::Timer(op))
        }
        BatchOp::TimerCancel { address } => Ok(Change::Timer(TimerOp::Cancel {
            name: TimerName::parse(address.key)?,
            expect: None,
        })),
        entry => Ok(Change::Entry(entry_op(entry, now, value_limit)?)),
    }
}

fn entry_op(packed: BatchOp<'_>, now: Timestamp, value_limit: usize) -> Result<Op, Fault> {
    let (collection, key) = names(packed.address())?;
    Ok(match packed {
        BatchOp::Set {
            format: code,
            ttl_ms,
            value,
            ..
        } => Op::Set {
            collection,
            key,
            value: format(code.cast_signed())?.value(value.to_vec(), value_limit)?,
            expires_at: now.expiry((ttl_ms != 0).then_some(ttl_ms))?,
        },
        BatchOp::Delete { .. } | BatchOp::TimerSet { .. } | BatchOp::TimerCancel { .. } => {
            Op::Delete { collection, key }
        }
        BatchOp::Increment { delta, .. } => Op::Increment {
            collection,
            key,
            delta,
        },
    })
}

fn value_bytes(op: &Op) -> usize {
    match op {
        Op::Set { value, .. } => value.as_bytes().len(),
        Op::Delete { .. } | Op::Increment { .. } => 0,
    }
}

fn answer_of(applied: &Applied) -> kvasm_abi::Applied {
    let (result, value) = match applied {
        Applied::Set(version) => (version.0, 0),
        Applied::Deleted { existed } => (u64::from(*existed), 0),
        Applied::Incremented { version, value } => (version.0, *value),
        Applied::TimerSet => (0, 0),
        Applied::TimerCancelled { existed } | Applied::Replayed { existed } => {
            (u64::from(*existed), 0)
        }
    };
    kvasm_abi::Applied { result, value }
}

fn named(check: &Check) -> String {
    format!("{:?} {:?}", check.collection.as_str(), check.key.as_str())
}

/// Names the keys whose checks failed, up to a limit.
fn conflict(failed: &[usize], checked: &[String]) -> String {
    const NAMED_MAX: usize = 10;
    let names = failed.iter().filter_map(|at| checked.get(*at));
    let names: Vec<_> = names.take(NAMED_MAX).map(String::as_str).collect();
    let more = match failed.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "version conflict: {}{more}; nothing was written",
        names.join(", ")
    )
}
