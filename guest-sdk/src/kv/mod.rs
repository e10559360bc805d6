//! The app's key-value store.
//!
//! A [`Collection`] holds entries by key. A value is bytes, or JSON of any type that serde
//! supports. An absent entry is `None`, never an error, and distinct from an empty value.
//!
//! ```
//! use kvasm_guest::kv;
//!
//! let notes = kv::collection("notes");
//! assert_eq!(notes.get::<String>("today")?, None);
//! notes.set("today", "buy paper")?;
//! assert_eq!(notes.get::<String>("today")?.as_deref(), Some("buy paper"));
//! assert!(notes.delete("today")?);
//! assert!(!notes.has("today")?);
//! # Ok::<(), kvasm_guest::Error>(())
//! ```

mod batch;
mod cursor;
mod list;
mod many;
pub(crate) mod transaction;
mod unique;

pub use batch::{Batch, CommitError, FailedCheck, Outcome};
pub(crate) use cursor::CURSOR_DETAIL;
pub use cursor::{Cursor, CursorError};
pub use list::{Items, List, Page};
pub use many::{get_many, get_many_bytes};
pub use transaction::transaction;
pub use unique::unique_key;

use crate::{Error, json, sys};
use kvasm_abi::{EntryHeader, FORMAT_BYTES, FORMAT_JSON, GET_WITH_HEADER};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How often the closure of an update is run.
const UPDATE_RUNS_MAX: u32 = 1_000;

/// Returns a collection of the app's store, by name.
///
/// This makes no host call and creates nothing. The name is 1 to 128 bytes without NUL; calls
/// on a collection with an invalid name return [`Error::Invalid`] or [`Error::TooLarge`].
pub fn collection(name: impl Into<String>) -> Collection {
    Collection { name: name.into() }
}

/// A collection of the app's store. Keys are 1 byte to 1 KiB of text without NUL, values up to
/// 1 MiB, unless the operator has set other limits.
///
/// # Errors
/// Every call may also return [`Error::Denied`], [`Error::RateLimited`], [`Error::Unavailable`]
/// or [`Error::Internal`]; a write also [`Error::Quota`].
/// [`Error::Unavailable`] or [`Error::Internal`]; a write, [`Error::Quota`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Collection {
    name: String,
}

/// An entry with its metadata.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Entry<T> {
    /// The key.
    pub key: String,
    /// The value.
    pub value: T,
    /// Increases with each write of the key; a version is never reused.
    pub version: u64,
    /// The expiry time, in milliseconds since the Unix epoch, if any.
    pub expires_at_ms: Option<i64>,
}

impl<T> Entry<T> {
    fn new(key: &str, header: EntryHeader, value: T) -> Entry<T> {
        Entry {
            key: key.to_owned(),
            value,
            version: header.version,
            expires_at_ms: (header.expires_at_ms != 0).then_some(header.expires_at_ms),
        }
    }
}

/// Options of a write.
///
/// ```
/// use kvasm_guest::kv::{self, SetOptions};
/// use std::time::Duration;
///
/// let sessions = kv::collection("sessions");
/// let options = SetOptions::new().ttl(Duration::from_secs(60)).if_absent();
/// sessions.set_with("s1", &"alice", options)?;
/// assert!(matches!(
///     sessions.set_with("s1", &"bob", options),
///     Err(kvasm_guest::Error::Conflict(_))
/// ));
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetOptions {
    wire: kvasm_abi::SetOptions,
}

impl SetOptions {
    /// Writes unconditionally, without an expiry.
    pub fn new() -> SetOptions {
        SetOptions::default()
    }

    /// The entry expires after this time. Truncated to whole milliseconds; at least one.
    pub fn ttl(mut self, ttl: Duration) -> SetOptions {
        self.wire.ttl_ms = Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Writes only if the entry has this version; otherwise returns [`Error::Conflict`].
    pub fn if_version(mut self, version: u64) -> SetOptions {
        self.wire.if_version = Some(version);
        self
    }

    /// Writes only if the entry does not exist; otherwise returns [`Error::Conflict`].
    pub fn if_absent(self) -> SetOptions {
        // No entry has version 0; in the ABI it stands for an absent entry.
        self.if_version(0)
    }
}

impl Collection {
    /// Returns the collection's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the value under `key`, or `None` if there is no entry.
    ///
    /// # Errors
    /// [`Error::Type`] if the entry holds bytes, [`Error::Decode`] if its JSON
    /// does not fit `T`, [`Error::Invalid`] and [`Error::TooLarge`] for the key.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let json = found(sys::kv_get(&self.name, key, FORMAT_JSON, 0))?;
        json.map(|json| decode(key, &json)).transpose()
    }

    /// Returns the entry under `key` with its version, or `None` if there is none.
    ///
    /// # Errors
    /// As [`Collection::get`].
    pub fn get_entry<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Entry<T>>, Error> {
        self.with_header(key, FORMAT_JSON, |json| decode(key, json))
    }

    /// Returns the bytes under `key`, or `None` if there is no entry. A JSON value is returned
    /// as its text.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::TooLarge`] for the key.
    pub fn get_bytes(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        found(sys::kv_get(&self.name, key, FORMAT_BYTES, 0))
    }

    /// Returns the entry under `key` as bytes, with its version, or `None` if there is none.
    ///
    /// # Errors
    /// As [`Collection::get_bytes`].
    pub fn get_entry_bytes(&self, key: &str) -> Result<Option<Entry<Vec<u8>>>, Error> {
        self.with_header(key, FORMAT_BYTES, |bytes| Ok(bytes.to_vec()))
    }

    fn with_header<T>(
        &self,
        key: &str,
        format: i32,
        value: impl FnOnce(&[u8]) -> Result<T, Error>,
    ) -> Result<Option<Entry<T>>, Error> {
        let Some(bytes) = found(sys::kv_get(&self.name, key, format, GET_WITH_HEADER))? else {
            return Ok(None);
        };
        let (header, rest) = EntryHeader::decode(&bytes).map_err(|_| Error::malformed("kv_get"))?;
        Ok(Some(Entry::new(key, header, value(rest)?)))
    }

    /// Returns whether there is an entry under `key`.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::TooLarge`] for the key.
    pub fn has(&self, key: &str) -> Result<bool, Error> {
        sys::kv_has(&self.name, key)
    }

    /// Writes `value` as JSON under `key` and returns the new version.
    ///
    /// # Errors
    /// [`Error::Encode`] if serde cannot serialise the value, [`Error::Invalid`] for the key or
    /// JSON that cannot be stored (such as a NUL in a string), [`Error::TooLarge`] for the key
    /// or the value.
    pub fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<u64, Error> {
        self.set_with(key, value, SetOptions::new())
    }

    /// Like [`Collection::set`], with options.
    ///
    /// # Errors
    /// Also [`Error::Conflict`] if the precondition fails, and [`Error::Invalid`] for a TTL of
    /// less than a millisecond.
    pub fn set_with<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        options: SetOptions,
    ) -> Result<u64, Error> {
        let json = encode(key, value)?;
        sys::kv_set(&self.name, key, &json, FORMAT_JSON, &options.wire)
    }

    /// Writes bytes under `key` and returns the new version.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the key, [`Error::TooLarge`] for the key or the value.
    pub fn set_bytes(&self, key: &str, value: impl AsRef<[u8]>) -> Result<u64, Error> {
        self.set_bytes_with(key, value, SetOptions::new())
    }

    /// Like [`Collection::set_bytes`], with options.
    ///
    /// # Errors
    /// Also as [`Collection::set_with`].
    pub fn set_bytes_with(
        &self,
        key: &str,
        value: impl AsRef<[u8]>,
        options: SetOptions,
    ) -> Result<u64, Error> {
        sys::kv_set(&self.name, key, value.as_ref(), FORMAT_BYTES, &options.wire)
    }

    /// Deletes the entry under `key`. Returns whether it existed.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::TooLarge`] for the key.
    pub fn delete(&self, key: &str) -> Result<bool, Error> {
        sys::kv_delete(&self.name, key, None)
    }

    /// Deletes the entry under `key` if it has this version.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it has another version or is absent; otherwise as
    /// [`Collection::delete`].
    pub fn delete_if_version(&self, key: &str, version: u64) -> Result<(), Error> {
        sys::kv_delete(&self.name, key, Some(version)).map(|_| ())
    }

    /// Atomically adds `delta` to the integer under `key` and returns the new value. An absent
    /// entry counts as 0. An expiry time is kept.
    ///
    /// # Errors
    /// [`Error::Type`] unless the entry holds a JSON number that is an integer when written
    /// without an exponent: `1e2` is, `1.0` is not. [`Error::Invalid`] for the key, or if the
    /// result would be out of the range of an `i64`; the entry is then unchanged.
    ///
    /// ```
    /// use kvasm_guest::kv;
    ///
    /// let visits = kv::collection("visits");
    /// assert_eq!(visits.increment("home", 1)?, 1);
    /// assert_eq!(visits.increment("home", 2)?, 3);
    /// assert_eq!(visits.get("home")?, Some(3));
    /// # Ok::<(), kvasm_guest::Error>(())
    /// ```
    pub fn increment(&self, key: &str, delta: i64) -> Result<i64, Error> {
        sys::kv_increment(&self.name, key, delta)
    }

    /// Like [`increment`](Collection::increment), without the sum: in a transaction it depends on no
    /// read, so that transactions that add to one entry do not conflict. The commit makes the
    /// addition, and its errors are then those of the commit. A transaction that reads the entry
    /// afterwards sees the sum, and depends on the entry like any other reader.
    ///
    /// # Errors
    /// Outside of a transaction, as [`increment`](Collection::increment). Within one,
    /// [`Error::Invalid`] for the key, or if all that was added to the entry is out of the range of
    /// an `i64`.
    ///
    /// ```
    /// use kvasm_guest::kv;
    ///
    /// let visits = kv::collection("visits");
    /// kv::transaction(|| {
    ///     visits.set("last", "home")?;
    ///     visits.add("home", 1)
    /// })?;
    /// assert_eq!(visits.get("home")?, Some(1));
    /// # Ok::<(), kvasm_guest::Error>(())
    /// ```
    pub fn add(&self, key: &str, delta: i64) -> Result<(), Error> {
        sys::kv_add(&self.name, key, delta)
    }

    /// Changes the entry under `key`: `change` gets its value, or `None` if there is no entry, and
    /// leaves the new one in its place; `None` deletes the entry. An expiry time is kept. Returns
    /// what the last run of `change` returned.
    ///
    /// No update is lost: if another call writes the entry meanwhile, `change` is run again with
    /// that value, up to 1,000 times. For a sum, [`Collection::increment`] is faster; to change
    /// several entries together, use [`transaction`].
    ///
    /// # Errors
    /// [`Error::Conflict`] if others wrote the entry during each run; otherwise as
    /// [`Collection::get`] and [`Collection::set`].
    ///
    /// ```
    /// use kvasm_guest::kv;
    ///
    /// let guests = kv::collection("guests");
    /// let add = |name: &str| {
    ///     guests.update("dinner", |names: &mut Option<Vec<String>>| {
    ///         let names = names.get_or_insert_default();
    ///         names.push(name.to_owned());
    ///         names.len()
    ///     })
    /// };
    /// assert_eq!(add("Ada")?, 1);
    /// assert_eq!(add("Bob")?, 2);
    /// # Ok::<(), kvasm_guest::Error>(())
    /// ```
    pub fn update<T: Serialize + DeserializeOwned, R>(
        &self,
        key: &str,
        mut change: impl FnMut(&mut Option<T>) -> R,
    ) -> Result<R, Error> {
        let mut runs = 1;
        loop {
            let (mut value, version, expires_at_ms) = match self.get_entry::<T>(key)? {
                Some(entry) => (Some(entry.value), entry.version, entry.expires_at_ms),
                None => (None, 0, None),
            };
            let result = change(&mut value);
            let written = match value {
                Some(value) => {
                    let options = replacing(version, expires_at_ms);
                    self.set_with(key, &value, options).map(drop)
                }
                // There is nothing to delete.
                None if version == 0 => Ok(()),
                None => self.delete_if_version(key, version),
            };
            match written {
                Ok(()) => return Ok(result),
                Err(Error::Conflict(_)) if runs < UPDATE_RUNS_MAX => runs += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Lists the entries in bytewise order of their keys.
    pub fn list(&self) -> List {
        List::new(self.name.clone())
    }
}

/// Returns the options that replace an entry of this version, 0 if it is absent, and keep its expiry.
fn replacing(version: u64, expires_at_ms: Option<i64>) -> SetOptions {
    let options = SetOptions::new().if_version(version);
    match expires_at_ms {
        None => options,
        Some(at) => {
            let left = at.saturating_sub(crate::now_ms()).max(1);
            options.ttl(Duration::from_millis(left.unsigned_abs()))
        }
    }
}

fn found(answer: Result<Vec<u8>, Error>) -> Result<Option<Vec<u8>>, Error> {
    match answer {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn encode<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<Vec<u8>, Error> {
    json::encode(value).map_err(|why| {
        Error::Encode(format!(
            "the value for {key:?} cannot be written as JSON: {why}"
        ))
    })
}

fn decode<T: DeserializeOwned>(key: &str, json: &[u8]) -> Result<T, Error> {
    json::decode(json).map_err(|why| {
        let name = std::any::type_name::<T>();
        Error::Decode(format!("the value of {key:?} is no {name}: {why}"))
    })
}
