//! The packed batch of `kv_commit`, and its result.
//!
//! A batch is two sequences, one after the other: the checks and the operations. Each is
//! `count: u32` followed by its records. Nothing follows the second.

use crate::bytes::{Bytes, Malformed, put_sized};
use crate::{Address, Record, Records, encode_records};

/// The maximum number of checks and operations of a batch, together.
pub const BATCH_OPS_MAX: usize = 1000;
/// The maximum depth of nested transactions, including that of the run.
pub const TRANSACTIONS_MAX: usize = 4;

/// What an addition counts as in the size of a transaction, besides its names: the size of the longest
/// sum in bytes.
pub const SUM_BYTES_MAX: usize = 20;

/// The maximum size of a packed batch in bytes.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The kind of an operation that writes an entry.
pub const OP_SET: u32 = 0;
/// The kind of an operation that deletes one.
pub const OP_DELETE: u32 = 1;
/// The kind of an operation that adds to an integer.
pub const OP_INCREMENT: u32 = 2;

/// The kind of an operation that sets a timer.
pub const OP_TIMER_SET: u32 = 3;
/// The kind of an operation that cancels a timer.
pub const OP_TIMER_CANCEL: u32 = 4;

/// A precondition: an [`Address`], then `version: u64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchCheck<'a> {
    /// The entry.
    pub address: Address<'a>,
    /// The version that the entry must have before the batch; 0 if it must not exist.
    pub version: u64,
}

impl<'a> Record<'a> for BatchCheck<'a> {
    fn decode(bytes: &'a [u8]) -> Result<(BatchCheck<'a>, &'a [u8]), Malformed> {
        let (address, rest) = Address::decode(bytes)?;
        let mut reader = Bytes(rest);
        let version = reader.u64()?;
        Ok((BatchCheck { address, version }, reader.0))
    }

    fn encode(&self, sink: &mut impl FnMut(&[u8])) {
        self.address.encode(sink);
        sink(&self.version.to_le_bytes());
    }
}

/// One change: `kind: u32`, an [`Address`], and the fields of the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchOp<'a> {
    /// [`OP_SET`]: `format: u32`, `ttl_ms: u64`, `value_len: u32`, the value.
    Set {
        /// The entry.
        address: Address<'a>,
        /// [`FORMAT_JSON`](crate::FORMAT_JSON), [`FORMAT_BYTES`](crate::FORMAT_BYTES),
        /// or a number that the reader must reject.
        format: u32,
        /// Time to live in milliseconds; 0 if the entry does not expire.
        ttl_ms: u64,
        /// The value.
        value: &'a [u8],
    },
    /// [`OP_DELETE`]: no further fields.
    Delete {
        /// The entry.
        address: Address<'a>,
    },
    /// [`OP_INCREMENT`]: `delta: i64`.
    Increment {
        /// The entry.
        address: Address<'a>,
        /// The number to add.
        delta: i64,
    },
    /// [`OP_TIMER_SET`]: `flags: u32`, `ms: i64`, `payload_len: u32`, the payload.
    TimerSet {
        /// An empty collection, and the timer's name as the key.
        address: Address<'a>,
        /// [`TIMER_AT`](crate::TIMER_AT), [`TIMER_AFTER`](crate::TIMER_AFTER), or a number that the
        /// reader must reject.
        flags: u32,
        /// The time.
        ms: i64,
        /// What the handler receives.
        payload: &'a [u8],
    },
    /// [`OP_TIMER_CANCEL`]: no further fields.
    TimerCancel {
        /// An empty collection, and the timer's name as the key.
        address: Address<'a>,
    },
}

impl<'a> BatchOp<'a> {
    /// Returns the number of the operation's kind.
    pub fn kind(&self) -> u32 {
        match self {
            BatchOp::Set { .. } => OP_SET,
            BatchOp::Delete { .. } => OP_DELETE,
            BatchOp::Increment { .. } => OP_INCREMENT,
            BatchOp::TimerSet { .. } => OP_TIMER_SET,
            BatchOp::TimerCancel { .. } => OP_TIMER_CANCEL,
        }
    }

    /// Returns the entry or the timer that the operation changes.
    pub fn address(&self) -> Address<'a> {
        match self {
            BatchOp::Set { address, .. }
            | BatchOp::Delete { address }
            | BatchOp::Increment { address, .. }
            | BatchOp::TimerSet { address, .. }
            | BatchOp::TimerCancel { address } => *address,
        }
    }
}

impl<'a> Record<'a> for BatchOp<'a> {
    fn decode(bytes: &'a [u8]) -> Result<(BatchOp<'a>, &'a [u8]), Malformed> {
        let mut reader = Bytes(bytes);
        let kind = reader.u32()?;
        let (address, rest) = Address::decode(reader.0)?;
        reader.0 = rest;
        let op = match kind {
            OP_SET => BatchOp::Set {
                address,
                format: reader.u32()?,
                ttl_ms: reader.u64()?,
                value: reader.sized()?,
            },
            OP_DELETE => BatchOp::Delete { address },
            OP_INCREMENT => BatchOp::Increment {
                address,
                delta: reader.i64()?,
            },
            // Only entries have a collection.
            OP_TIMER_SET | OP_TIMER_CANCEL if !address.collection.is_empty() => {
                return Err(Malformed);
            }
            OP_TIMER_SET => BatchOp::TimerSet {
                address,
                flags: reader.u32()?,
                ms: reader.i64()?,
                payload: reader.sized()?,
            },
            OP_TIMER_CANCEL => BatchOp::TimerCancel { address },
            _ => return Err(Malformed),
        };
        Ok((op, reader.0))
    }

    fn encode(&self, sink: &mut impl FnMut(&[u8])) {
        sink(&self.kind().to_le_bytes());
        self.address().encode(sink);
        match self {
            BatchOp::Set {
                format,
                ttl_ms,
                value,
                ..
            } => {
                sink(&format.to_le_bytes());
                sink(&ttl_ms.to_le_bytes());
                put_sized(value, sink);
            }
            BatchOp::Delete { .. } | BatchOp::TimerCancel { .. } => {}
            BatchOp::Increment { delta, .. } => sink(&delta.to_le_bytes()),
            BatchOp::TimerSet {
                flags, ms, payload, ..
            } => {
                sink(&flags.to_le_bytes());
                sink(&ms.to_le_bytes());
                put_sized(payload, sink);
            }
        }
    }
}

/// A packed batch that was validated completely: none of it is malformed.
///
/// ```
/// use kvasm_abi::{Address, Batch, BatchCheck, BatchOp};
///
/// let address = Address { collection: b"notes", key: b"today" };
/// let checks = [BatchCheck { address, version: 7 }];
/// let ops = [BatchOp::Delete { address }];
/// let mut packed = Vec::new();
/// Batch::encode(&checks, &ops, &mut |bytes: &[u8]| packed.extend_from_slice(bytes));
///
/// let batch = Batch::decode(&packed).unwrap();
/// assert_eq!(batch.len(), 2);
/// assert!(batch.checks.eq(checks) && batch.ops.eq(ops));
/// ```
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// The checks.
    pub checks: Records<'a, BatchCheck<'a>>,
    /// The operations.
    pub ops: Records<'a, BatchOp<'a>>,
}

impl<'a> Batch<'a> {
    /// Decodes and validates a batch.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes end too early or too late, or an operation's kind is unknown.
    /// The reader must check sizes and numbers against its limits.
    pub fn decode(bytes: &'a [u8]) -> Result<Batch<'a>, Malformed> {
        let (checks, rest) = Records::split(bytes)?;
        let ops = Records::decode(rest)?;
        Ok(Batch { checks, ops })
    }

    /// Passes a batch to `sink`.
    pub fn encode(checks: &[BatchCheck<'_>], ops: &[BatchOp<'_>], sink: &mut impl FnMut(&[u8])) {
        encode_records(checks, sink);
        encode_records(ops, sink);
    }

    /// Returns the number of checks and operations.
    pub fn len(&self) -> usize {
        self.checks.len().saturating_add(self.ops.len())
    }

    /// Returns whether there are no checks and no operations.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The result of one operation of a committed batch, in 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// For a set and an increment, the new version; for a delete, 1 if the entry existed, else
    /// 0; for a timer, 1 if it was set and is cancelled, else 0.
    pub result: u64,
    /// For an increment, the new value; else 0.
    pub value: i64,
}

impl<'a> Record<'a> for Applied {
    fn decode(bytes: &'a [u8]) -> Result<(Applied, &'a [u8]), Malformed> {
        let mut reader = Bytes(bytes);
        let applied = Applied {
            result: reader.u64()?,
            value: reader.i64()?,
        };
        Ok((applied, reader.0))
    }

    fn encode(&self, sink: &mut impl FnMut(&[u8])) {
        sink(&self.result.to_le_bytes());
        sink(&self.value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::tests::{assert_only_whole, packed};
    extern crate std;
    use std::vec::Vec;

    fn address<'a>(collection: &'a str, key: &'a str) -> Address<'a> {
        Address {
            collection: collection.as_bytes(),
            key: key.as_bytes(),
        }
    }

    fn batch(checks: &[BatchCheck<'_>], ops: &[BatchOp<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Batch::encode(checks, ops, &mut |piece: &[u8]| {
            bytes.extend_from_slice(piece);
        });
        bytes
    }

    #[test]
    fn batch_round_trips() {
        let checks = [
            BatchCheck {
                address: address("a", "k"),
                version: u64::MAX,
            },
            BatchCheck {
                address: address("", "é"),
                version: 0,
            },
        ];
        let ops = [
            BatchOp::Set {
                address: address("a", "k"),
                format: 1,
                ttl_ms: 60_000,
                value: b"\0value",
            },
            BatchOp::Delete {
                address: address("b", "k"),
            },
            BatchOp::Increment {
                address: address("c", "k"),
                delta: i64::MIN,
            },
            BatchOp::TimerSet {
                address: address("", "t"),
                flags: 1,
                ms: -5,
                payload: b"\0",
            },
            BatchOp::TimerCancel {
                address: address("", "t"),
            },
        ];
        let bytes = batch(&checks, &ops);
        let read = Batch::decode(&bytes).unwrap();
        assert_eq!((read.len(), read.is_empty()), (7, false));
        assert!(read.checks.clone().eq(checks));
        assert!(read.ops.clone().eq(ops));
        assert_only_whole(&bytes, |bytes| Batch::decode(bytes).is_ok());
        assert!(Batch::decode(&[0; 8]).unwrap().is_empty());
    }

    #[test]
    fn batch_encoding_matches_the_documented_layout() {
        let ops = [BatchOp::Increment {
            address: address("c", "k"),
            delta: -1,
        }];
        let head = [0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0];
        let names = [1, 0, 0, 0, b'c', 1, 0, 0, 0, b'k'];
        assert_eq!(batch(&[], &ops), [&head[..], &names, &[0xff; 8]].concat());
    }

    #[test]
    fn unknown_batch_kind_is_malformed() {
        let mut bytes = batch(
            &[],
            &[BatchOp::Delete {
                address: address("c", "k"),
            }],
        );
        for kind in [3, 4, 5] {
            // A timer has no collection.
            bytes[8] = kind;
            assert!(Batch::decode(&bytes).is_err());
        }
    }

    #[test]
    fn batch_result_round_trips() {
        let answer = [
            Applied {
                result: 1 << 62,
                value: 0,
            },
            Applied {
                result: 9,
                value: -5,
            },
        ];
        let bytes = packed(&answer);
        assert_eq!(bytes.len(), 4 + 2 * 16);
        assert!(Records::<Applied>::decode(&bytes).unwrap().eq(answer));
        assert_only_whole(&bytes, |bytes| Records::<Applied>::decode(bytes).is_ok());
    }
}
