//! Increments in a batch: resolved here and written as sets, while the batch locks the entries.

use super::commit::address_of;
use super::plan::{Address, address};
use kvasm_core::store::StoreError;
use kvasm_core::store::backend::sum;
use kvasm_core::{Commit, JsonText, Op, Timestamp, Value};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use std::collections::BTreeMap;

/// The sums of increments, by the positions of their operations.
pub(super) type Sums = BTreeMap<usize, i64>;

/// A batch whose increments are resolved.
#[derive(Default)]
pub(super) struct Integers {
    /// The operations with increments replaced by sets; `None` if there were none.
    pub(super) ops: Option<Vec<Op>>,
    pub(super) sums: Sums,
}

/// The value of a live entry, and its expiry.
#[derive(Clone)]
pub(super) struct Current {
    value: Value,
    expires_at: Option<Timestamp>,
}

/// Returns the key that an operation increments, if it does.
pub(super) fn added_to(op: &Op) -> Option<Address<'_>> {
    matches!(op, Op::Increment { .. }).then(|| address(op))
}

/// Decodes the rows of `NUMBERS`.
pub(super) fn held(rows: &[PgRow]) -> Result<BTreeMap<Address<'_>, Current>, Error> {
    let held = |row: &PgRow| -> Result<Current, Error> {
        let expires_at: Option<i64> = row.try_get(2)?;
        let number: Option<String> = row.try_get(3)?;
        // A value that is not a number is not an integer either, like bytes.
        let value = match number {
            Some(number) => Value::Json(JsonText::stored(number)),
            None => Value::Bytes(Vec::new()),
        };
        let expires_at = expires_at.map(Timestamp);
        Ok(Current { value, expires_at })
    };
    rows.iter()
        .map(|row| Ok((address_of(row)?, held(row)?)))
        .collect()
}

/// Replaces each increment with a set of its sum, after the effects of the operations before it.
pub(super) fn lower(
    write: &Commit,
    held: &BTreeMap<Address<'_>, Current>,
) -> Result<Integers, StoreError> {
    let mut left: BTreeMap<Address<'_>, Option<Current>> = BTreeMap::new();
    let mut ops = Vec::with_capacity(write.batch.ops.len());
    let mut sums = Sums::new();
    for (at, op) in write.batch.ops.iter().enumerate() {
        let address = address(op);
        let op = match op {
            Op::Set { .. } | Op::Delete { .. } => op.clone(),
            Op::Increment {
                collection,
                key,
                delta,
            } => {
                let before = left.get(&address);
                let before = before.map_or_else(|| held.get(&address), Option::as_ref);
                let value = sum(before.map(|before| &before.value), *delta, at)?;
                sums.insert(at, value);
                Op::Set {
                    collection: collection.clone(),
                    key: key.clone(),
                    value: Value::Json(JsonText::integer(value)),
                    expires_at: before.and_then(|before| before.expires_at),
                }
            }
        };
        left.insert(address, leaves(&op, write.now));
        ops.push(op);
    }
    let ops = Some(ops);
    Ok(Integers { ops, sums })
}

/// Returns the live entry after an operation.
fn leaves(op: &Op, now: Timestamp) -> Option<Current> {
    match op {
        Op::Set {
            value, expires_at, ..
        } => expires_at.is_none_or(|at| at > now).then(|| Current {
            value: value.clone(),
            expires_at: *expires_at,
        }),
        Op::Delete { .. } | Op::Increment { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{AppId, Batch, Collection, Key};

    const NOW: Timestamp = Timestamp(100);

    fn add(key: &str, delta: i64) -> Op {
        Op::Increment {
            collection: Collection::parse("c").unwrap(),
            key: Key::parse(key).unwrap(),
            delta,
        }
    }

    fn set(key: &str, text: &str, expires_at: Option<Timestamp>) -> Op {
        Op::Set {
            collection: Collection::parse("c").unwrap(),
            key: Key::parse(key).unwrap(),
            value: Value::json(text, 100).unwrap(),
            expires_at,
        }
    }

    fn lowered(ops: Vec<Op>) -> Result<Integers, StoreError> {
        let number = |text: &str| Current {
            value: Value::json(text, 100).unwrap(),
            expires_at: Some(Timestamp(200)),
        };
        let held = BTreeMap::from([(("c", "five"), number("5")), (("c", "half"), number("0.5"))]);
        let batch = Commit::new(AppId::generate(), NOW, Batch::of(ops));
        lower(&batch, &held)
    }

    #[test]
    fn increments_apply_to_earlier_operations_of_the_batch() {
        let done = lowered(vec![
            add("five", 1),
            add("five", 2),
            add("none", -3),
            set("half", "7", Some(Timestamp(300))),
            add("half", 1),
            set("gone", "9", Some(NOW)),
            add("gone", 1),
        ])
        .unwrap();
        let ops = done.ops.unwrap();
        let until = |at| Some(Timestamp(at));
        assert_eq!(ops[1], set("five", "8", until(200)));
        assert_eq!(ops[2], set("none", "-3", None));
        assert_eq!(ops[4], set("half", "8", until(300)));
        assert_eq!(ops[6], set("gone", "1", None));
        assert_eq!(done.sums.into_keys().collect::<Vec<_>>(), [0, 1, 2, 4, 6]);
    }

    #[test]
    fn failed_increment_reports_its_position() {
        let refusal = |ops| lowered(ops).err().unwrap();
        assert!(matches!(
            refusal(vec![add("five", 1), add("half", 1)]),
            StoreError::NotInteger { at: 1 }
        ));
        assert!(matches!(
            refusal(vec![add("five", i64::MAX)]),
            StoreError::Overflow { at: 0 }
        ));
    }
}
