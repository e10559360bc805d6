//! Batches: several checks and writes that happen together or not at all.

use super::{Collection, SetOptions};
use crate::Error;
use crate::sys::{self, CommitFailure};
use kvasm_abi::{
    Address, Applied, BatchCheck, BatchOp, FORMAT_BYTES, FORMAT_JSON, OP_DELETE, OP_SET, Record,
    Records,
};
use serde::Serialize;
use std::fmt;

/// Writes of several entries that take effect together, if all checks hold.
///
/// The checks look at the store as it is before the batch. The operations then
/// run in the order in which they were added, each on what those before it have
/// left. If a check fails, or an operation cannot be, nothing is written.
///
/// A mistake that shows while the batch is made, such as a value that is no
/// JSON, is the answer of [`Batch::commit`].
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
/// // The same again: it is in the log, so no money moves.
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
    /// The first mistake that was made in it.
    error: Option<Error>,
}

/// Packed records, and how many.
#[derive(Debug, Clone, Default)]
struct Packed {
    count: u32,
    bytes: Vec<u8>,
}

impl Packed {
    fn add<'a>(&mut self, record: &impl Record<'a>) {
        record.encode(&mut |piece: &[u8]| self.bytes.extend_from_slice(piece));
        // Past 4 Gi records memory is long gone.
        self.count = self.count.saturating_add(1);
    }
}

/// What one operation of a batch did.
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
        /// Whether there was an entry.
        existed: bool,
    },
    /// An increment.
    Incremented {
        /// The entry's new version.
        version: u64,
        /// Its new value.
        value: i64,
    },
}

/// A check that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FailedCheck {
    /// The entry's collection.
    pub collection: String,
    /// Its key.
    pub key: String,
}

/// Why a batch has written nothing. `?` turns it into an [`Error`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitError {
    /// These checks did not hold, in the order in which they were added.
    Conflict(Vec<FailedCheck>),
    /// Anything else.
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
    /// Begins a batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Commit only if the entry has this version.
    pub fn check_version(mut self, collection: &Collection, key: &str, version: u64) -> Batch {
        self.checks.add(&BatchCheck {
            address: address(collection, key),
            version,
        });
        self
    }

    /// Commit only if there is no such entry.
    pub fn check_absent(self, collection: &Collection, key: &str) -> Batch {
        // No entry has version 0; in the ABI it stands for none.
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

    /// Writes `value` as JSON, with options. A version that they expect becomes a
    /// check of the batch.
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

    /// Writes bytes, with options. A version that they expect becomes a check of
    /// the batch.
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
        // In a batch 0 stands for no time to live.
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

    /// Deletes an entry, if there is one.
    pub fn delete(mut self, collection: &Collection, key: &str) -> Batch {
        self.ops.add(&BatchOp::Delete {
            address: address(collection, key),
        });
        self
    }

    /// Adds to a whole number, as [`Collection::increment`] does.
    pub fn increment(mut self, collection: &Collection, key: &str, delta: i64) -> Batch {
        self.ops.add(&BatchOp::Increment {
            address: address(collection, key),
            delta,
        });
        self
    }

    /// Commits the batch, and says what each operation did, in their order.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] with the checks that did not hold. Else
    /// [`CommitError::Error`] with what the same write alone would answer, or
    /// [`Error::TooLarge`] for a batch over its limits. Nothing is written then.
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
                // A host that does not say which still says that there are some.
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
        _ => Outcome::Incremented {
            version: result,
            value,
        },
    };
    Ok(ops.zip(applied).map(outcome).collect())
}

/// The checks at these positions; `None` if there is no such check.
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
    fn an_answer_that_does_not_fit_the_batch_is_an_error() {
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
