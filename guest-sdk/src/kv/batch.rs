//! Batches: several checks and writes that are committed atomically.

use super::{Collection, SetOptions};
use crate::Error;
use crate::sys::{self, CommitFailure};
use kvasm_abi::{
    Address, Applied, BatchCheck, BatchOp, FORMAT_BYTES, FORMAT_JSON, OP_DELETE, OP_SET,
    OP_TIMER_CANCEL, OP_TIMER_SET, Record, Records, TIMER_AFTER, TIMER_AT,
};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Writes of several entries that take effect together, if all checks hold.
///
/// The checks apply to the state before the batch. The operations then run in the order in
/// which they were added, each on the result of those before it. If a check or an operation
/// fails, nothing is written.
///
/// An error in building the batch, such as a value that cannot be serialised, is returned by
/// [`Batch::commit`].
///
/// At most 1,000 checks and operations, and 4 MiB.
///
/// ```
/// use kvasm_guest::kv::{self, Batch, CommitError, Outcome};
///
/// let accounts = kv::collection("accounts");
/// let log = kv::collection("log");
/// let outcomes = Batch::new()
///     .check_absent(&log, "transfer-1")
///     .increment(&accounts, "ada", -5)
///     .increment(&accounts, "brian", 5)
///     .set(&log, "transfer-1", &5)
///     .commit()?;
/// assert!(matches!(outcomes[1], Outcome::Incremented { value: 5, .. }));
///
/// // The second time the transfer is in the log, so no money moves.
/// let again = Batch::new()
///     .check_absent(&log, "transfer-1")
///     .increment(&accounts, "ada", -5)
///     .commit();
/// match again {
///     Err(CommitError::Conflict(failed)) => assert_eq!(failed[0].key, "transfer-1"),
///     other => panic!("{other:?}"),
/// }
/// assert_eq!(accounts.get("ada")?, Some(-5));
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    checks: Packed,
    ops: Packed,
    /// The first error in building the batch.
    error: Option<Error>,
}

/// Packed records, and their number.
#[derive(Debug, Clone, Default)]
struct Packed {
    count: u32,
    bytes: Vec<u8>,
}

impl Packed {
    fn add<'a>(&mut self, record: &impl Record<'a>) {
        record.encode(&mut |piece: &[u8]| self.bytes.extend_from_slice(piece));
        // Memory runs out long before 4 Gi records.
        self.count = self.count.saturating_add(1);
    }
}

/// The result of one operation of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// A set.
    Set {
        /// The entry's new version.
        version: u64,
    },
    /// A delete.
    Deleted {
        /// Whether the entry existed.
        existed: bool,
    },
    /// A timer was set.
    TimerSet,
    /// A timer was cancelled.
    TimerCancelled {
        /// Whether it was set.
        existed: bool,
    },
    /// An increment.
    Incremented {
        /// The entry's new version.
        version: u64,
        /// The entry's new value.
        value: i64,
    },
}

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FailedCheck {
    /// The entry's collection.
    pub collection: String,
    /// The entry's key.
    pub key: String,
}

/// Why a batch was not committed. `?` converts it to an [`Error`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitError {
    /// These checks failed, in the order in which they were added.
    Conflict(Vec<FailedCheck>),
    /// Any other error.
    Error(Error),
}

impl From<Error> for CommitError {
    fn from(error: Error) -> CommitError {
        CommitError::Error(error)
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Error {
        match error {
            CommitError::Error(error) => error,
            conflict => Error::Conflict(conflict.to_string()),
        }
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = match self {
            CommitError::Error(error) => return error.fmt(f),
            CommitError::Conflict(failed) => failed,
        };
        f.write_str("entries do not have the versions that the batch expects")?;
        for (at, FailedCheck { collection, key }) in failed.iter().enumerate() {
            let before = if at == 0 { ": " } else { ", " };
            write!(f, "{before}{key:?} of {collection:?}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CommitError {}

impl Batch {
    /// Creates an empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Commits only if the entry has this version.
    pub fn check_version(mut self, collection: &Collection, key: &str, version: u64) -> Batch {
        self.checks.add(&BatchCheck {
            address: address(collection, key),
            version,
        });
        self
    }

    /// Commits only if the entry does not exist.
    pub fn check_absent(self, collection: &Collection, key: &str) -> Batch {
        // No entry has version 0; in the ABI it stands for an absent entry.
        self.check_version(collection, key, 0)
    }

    /// Writes `value` as JSON.
    pub fn set<T: Serialize + ?Sized>(
        self,
        collection: &Collection,
        key: &str,
        value: &T,
    ) -> Batch {
        self.set_with(collection, key, value, SetOptions::new())
    }

    /// Writes `value` as JSON, with options. A version that they expect becomes a check of the
    /// batch.
    pub fn set_with<T: Serialize + ?Sized>(
        mut self,
        collection: &Collection,
        key: &str,
        value: &T,
        options: SetOptions,
    ) -> Batch {
        match super::encode(key, value) {
            Ok(json) => self.write(collection, key, &json, FORMAT_JSON, options),
            Err(error) => {
                self.error.get_or_insert(error);
                self
            }
        }
    }

    /// Writes bytes.
    pub fn set_bytes(self, collection: &Collection, key: &str, value: impl AsRef<[u8]>) -> Batch {
        self.set_bytes_with(collection, key, value, SetOptions::new())
    }

    /// Writes bytes, with options. A version that they expect becomes a check of the batch.
    pub fn set_bytes_with(
        self,
        collection: &Collection,
        key: &str,
        value: impl AsRef<[u8]>,
        options: SetOptions,
    ) -> Batch {
        self.write(collection, key, value.as_ref(), FORMAT_BYTES, options)
    }

    fn write(
        mut self,
        collection: &Collection,
        key: &str,
        value: &[u8],
        format: i32,
        options: SetOptions,
    ) -> Batch {
        let kvasm_abi::SetOptions { ttl_ms, if_version } = options.wire;
        // In a batch, 0 stands for no TTL.
        if ttl_ms == Some(0) {
            self.error.get_or_insert_with(|| {
                Error::Invalid(format!(
                    "the time to live of {key:?} is 0 ms; it must be at least 1"
                ))
            });
            return self;
        }
        self.ops.add(&BatchOp::Set {
            address: address(collection, key),
            format: format.unsigned_abs(),
            ttl_ms: ttl_ms.unwrap_or(0),
            value,
        });
        match if_version {
            Some(version) => self.check_version(collection, key, version),
            None => self,
        }
    }

    /// Deletes an entry, if it exists.
    pub fn delete(mut self, collection: &Collection, key: &str) -> Batch {
        self.ops.add(&BatchOp::Delete {
            address: address(collection, key),
        });
        self
    }

    /// Sets a [timer](crate::timer) for a time, with a payload of JSON.
    pub fn timer_at<T: Serialize + ?Sized>(self, name: &str, at_ms: i64, payload: &T) -> Batch {
        self.timer(name, TIMER_AT, at_ms, crate::timer::encode(name, payload))
    }

    /// Sets a [timer](crate::timer) for a duration from the commit on, with a payload of JSON.
    pub fn timer_after<T: Serialize + ?Sized>(
        self,
        name: &str,
        after: Duration,
        payload: &T,
    ) -> Batch {
        let ms = crate::timer::millis(after);
        self.timer(name, TIMER_AFTER, ms, crate::timer::encode(name, payload))
    }

    fn timer(mut self, name: &str, flags: i32, ms: i64, payload: Result<Vec<u8>, Error>) -> Batch {
        match payload {
            Ok(payload) => self.ops.add(&BatchOp::TimerSet {
                address: timer_address(name),
                flags: flags.unsigned_abs(),
                ms,
                payload: &payload,
            }),
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
        self
    }

    /// Cancels a [timer](crate::timer), if it is set.
    pub fn timer_cancel(mut self, name: &str) -> Batch {
        self.ops.add(&BatchOp::TimerCancel {
            address: timer_address(name),
        });
        self
    }

    /// Adds to an integer, like [`Collection::increment`].
    pub fn increment(mut self, collection: &Collection, key: &str, delta: i64) -> Batch {
        self.ops.add(&BatchOp::Increment {
            address: address(collection, key),
            delta,
        });
        self
    }

    /// Commits the batch, and returns the result of each operation, in order.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] with the failed checks; otherwise [`CommitError::Error`] with
    /// the error that the write alone would return, or [`Error::TooLarge`] for a batch over its
    /// limits. On an error nothing is written.
    pub fn commit(self) -> Result<Vec<Outcome>, CommitError> {
        if let Some(error) = self.error {
            return Err(error.into());
        }
        let Packed { count, bytes } = &self.checks;
        let packed = [
            &count.to_le_bytes(),
            bytes.as_slice(),
            &self.ops.count.to_le_bytes(),
            &self.ops.bytes,
        ]
        .concat();
        let checks = usize::try_from(*count).unwrap_or(usize::MAX);
        match sys::kv_commit(&packed, checks) {
            Ok(answer) => Ok(outcomes(&packed, &answer)?),
            Err(CommitFailure::Error(error)) => Err(error.into()),
            Err(CommitFailure::Conflict { failed, error }) => {
                // If the host does not report which checks failed, return the conflict without
                // them.
                Err(failed_checks(&packed, &failed).map_or(error.into(), CommitError::Conflict))
            }
        }
    }
}

fn address<'a>(collection: &'a Collection, key: &'a str) -> Address<'a> {
    Address {
        collection: collection.name.as_bytes(),
        key: key.as_bytes(),
    }
}

/// A timer is addressed by its name alone.
fn timer_address(name: &str) -> Address<'_> {
    Address {
        collection: b"",
        key: name.as_bytes(),
    }
}

fn outcomes(batch: &[u8], answer: &[u8]) -> Result<Vec<Outcome>, Error> {
    let malformed = |_| Error::malformed("kv_commit");
    let ops = kvasm_abi::Batch::decode(batch).map_err(malformed)?.ops;
    let applied = Records::<Applied>::decode(answer).map_err(malformed)?;
    if applied.len() != ops.len() {
        return Err(Error::malformed("kv_commit"));
    }
    let outcome = |(op, Applied { result, value }): (BatchOp<'_>, Applied)| match op.kind() {
        OP_SET => Outcome::Set { version: result },
        OP_DELETE => Outcome::Deleted {
            existed: result != 0,
        },
        OP_TIMER_SET => Outcome::TimerSet,
        OP_TIMER_CANCEL => Outcome::TimerCancelled {
            existed: result != 0,
        },
        _ => Outcome::Incremented {
            version: result,
            value,
        },
    };
    Ok(ops.zip(applied).map(outcome).collect())
}

/// Returns the checks at these positions; `None` if a position is out of range.
fn failed_checks(batch: &[u8], positions: &[u8]) -> Option<Vec<FailedCheck>> {
    let checks = kvasm_abi::Batch::decode(batch).ok()?.checks;
    let checks: Vec<BatchCheck<'_>> = checks.collect();
    let positions = Records::<u32>::decode(positions).ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let failed: Option<Vec<FailedCheck>> = positions
        .map(|position| {
            let check = checks.get(usize::try_from(position).ok()?)?;
            Some(FailedCheck {
                collection: text(check.address.collection),
                key: text(check.address.key),
            })
        })
        .collect();
    failed.filter(|failed| !failed.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv;

    #[test]
    fn batch_result_of_wrong_length_is_an_error() {
        let c = kv::collection("c");
        let batch = Batch::new().check_absent(&c, "k").delete(&c, "k");
        let packed = [
            &1u32.to_le_bytes(),
            batch.checks.bytes.as_slice(),
            &1u32.to_le_bytes(),
            &batch.ops.bytes,
        ]
        .concat();
        let answer =
            |count: u32| [&count.to_le_bytes()[..], &vec![0; count as usize * 16]].concat();
        assert_eq!(
            outcomes(&packed, &answer(1)),
            Ok(vec![Outcome::Deleted { existed: false }])
        );
        assert!(outcomes(&packed, &answer(2)).is_err());
        assert!(outcomes(&packed, b"").is_err());
        let failed = |position: u32| {
            let positions = [1u32.to_le_bytes(), position.to_le_bytes()].concat();
            failed_checks(&packed, &positions)
        };
        assert_eq!(failed(0).unwrap()[0].key, "k");
        assert_eq!(failed(1), None);
        assert_eq!(failed_checks(&packed, b""), None);
        assert_eq!(failed_checks(&packed, &0u32.to_le_bytes()), None);
    }
}
