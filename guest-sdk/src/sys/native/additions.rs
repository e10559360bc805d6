//! Additions of a transaction that it does not read: on the real host they are made by the commit,
//! so their errors are those of the commit, or of a later read.

use super::store::{Row, Store};
use super::validate;
use crate::Error;
use kvasm_abi::json::Integer;
use kvasm_abi::{FORMAT_JSON, SUM_BYTES_MAX};

/// What a transaction has added to an entry that it has not read or written otherwise.
#[derive(Clone)]
pub(super) struct Addition {
    delta: i64,
    /// The entry without the addition.
    before: Option<Row>,
}

impl Addition {
    fn sum(&self, collection: &str, key: &str) -> Result<i64, Error> {
        sum((collection, key), self.before.as_ref(), self.delta)
    }
}

impl Store {
    /// Adds to an integer; an absent entry counts as 0.
    pub(super) fn add(
        &mut self,
        collection: &str,
        key: &str,
        delta: i64,
        now_ms: i64,
    ) -> Result<(), Error> {
        validate::collection(collection)?;
        validate::key(key)?;
        let address = (collection.to_owned(), key.to_owned());
        let live = self.live(collection, key, now_ms).cloned();
        let earlier = match &self.view {
            None => return self.increment(collection, key, delta, now_ms).map(drop),
            Some(view) => view.added.get(&address).cloned(),
        };
        let addition = match earlier {
            Some(Addition {
                delta: earlier,
                before,
            }) => Addition {
                delta: earlier
                    .checked_add(delta)
                    .ok_or_else(|| overflow((collection, key)))?,
                before,
            },
            None if self.has_written(&address) => {
                return self.increment(collection, key, delta, now_ms).map(drop);
            }
            None => {
                self.note_write(collection, key, Some(SUM_BYTES_MAX), now_ms)?;
                Addition {
                    delta,
                    before: live,
                }
            }
        };
        let version = self.next_version();
        // An entry without a sum stays as it is until the commit fails.
        let row = match addition.sum(collection, key) {
            Ok(sum) => Some(Row {
                value: sum.to_string().into_bytes(),
                format: FORMAT_JSON,
                version,
                expires_at_ms: addition.before.as_ref().and_then(|row| row.expires_at_ms),
            }),
            Err(_) => addition.before.clone(),
        };
        self.replace(collection, key, row);
        if let Some(view) = &mut self.view {
            view.added.insert(address, addition);
        }
        Ok(())
    }

    /// Called before a transaction reads an entry: an addition to it becomes a write.
    pub(super) fn end_addition(
        &mut self,
        collection: &str,
        key: &str,
        now_ms: i64,
    ) -> Result<(), Error> {
        let Some(view) = &self.view else {
            return Ok(());
        };
        let address = (collection.to_owned(), key.to_owned());
        let Some(addition) = view.added.get(&address) else {
            return Ok(());
        };
        let sum = addition.sum(collection, key)?;
        self.record_read(address)?;
        self.note_write(collection, key, Some(sum.to_string().len()), now_ms)?;
        let version = self.next_version();
        if let Some(row) = self.row_mut(collection, key) {
            row.version = version;
        }
        Ok(())
    }

    /// Returns the error of the first addition in a range of keys that cannot be made.
    pub(super) fn check_additions(
        &self,
        selects: impl Fn(&str, &str) -> bool,
    ) -> Result<(), Error> {
        let Some(view) = &self.view else {
            return Ok(());
        };
        let mut added = view.added.iter();
        added.try_for_each(
            |((collection, key), addition)| match selects(collection, key) {
                true => addition.sum(collection, key).map(drop),
                false => Ok(()),
            },
        )
    }
}

/// Returns what an entry is after an addition; an absent entry counts as 0.
pub(super) fn sum(at: (&str, &str), row: Option<&Row>, delta: i64) -> Result<i64, Error> {
    let before = match row.map(Row::as_integer) {
        None => 0,
        Some(Integer::Value(value)) => value,
        Some(Integer::TooLarge) => return Err(overflow(at)),
        Some(Integer::Not) => {
            return Err(Error::Type(refused(at, "the value is not a JSON integer")));
        }
    };
    before.checked_add(delta).ok_or_else(|| overflow(at))
}

fn overflow(at: (&str, &str)) -> Error {
    Error::Invalid(refused(at, "the sum exceeds 64 bits"))
}

fn refused((collection, key): (&str, &str), why: &str) -> String {
    format!("cannot increment the entry {key:?} of {collection:?}: {why}; nothing was written")
}
