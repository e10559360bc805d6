//! Maps from typed keys to JSON values.

use super::query::Query;
use super::{AsKey, TypedKey};
use crate::Error;
use crate::kv::{self, Collection, Entry, SetOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// The most keys of one read of many.
const GET_MANY_KEYS: usize = 1_000;

/// A collection of JSON values of type `V` under keys of type `K`, in the order of the keys.
///
/// Errors are those of [`Collection`]. The text of a key is at most 1 KiB and not empty.
pub struct Map<K, V> {
    name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Map<K, V> {
    /// Declares a map. [`collections!`](crate::collections) also checks that the name is unique.
    pub const fn new(name: &'static str) -> Map<K, V> {
        Map {
            name,
            types: PhantomData,
        }
    }

    /// Returns the untyped collection, for batches and bytes.
    pub fn untyped(&self) -> Collection {
        kv::collection(self.name)
    }
}

impl<K: TypedKey, V: Serialize + DeserializeOwned> Map<K, V> {
    /// Returns the value under `key`, if there is one.
    ///
    /// # Errors
    /// As [`Collection::get`].
    pub fn get(&self, key: impl AsKey<K>) -> Result<Option<V>, Error> {
        self.untyped().get(&key.to_text())
    }

    /// Returns the value under `key` with its version, if there is one.
    ///
    /// # Errors
    /// As [`Collection::get`].
    pub fn get_entry(&self, key: impl AsKey<K>) -> Result<Option<Entry<V>>, Error> {
        self.untyped().get_entry(&key.to_text())
    }

    /// Returns the values of any number of keys, in order. Splits them into several reads over
    /// 1,000 keys or 4 MiB, which may then see different states of the store.
    ///
    /// # Errors
    /// As [`Collection::get`], for any of the keys.
    pub fn get_many<Q: AsKey<K>>(
        &self,
        keys: impl IntoIterator<Item = Q>,
    ) -> Result<Vec<Option<V>>, Error> {
        let keys: Vec<String> = keys.into_iter().map(|key| key.to_text()).collect();
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(GET_MANY_KEYS) {
            self.read_many(keys, &mut values)?;
        }
        Ok(values)
    }

    /// Reads keys, in halves if they or their values are too large for one read.
    fn read_many(&self, keys: &[String], values: &mut Vec<Option<V>>) -> Result<(), Error> {
        match self.untyped().get_many(keys) {
            Ok(found) => values.extend(found),
            Err(Error::TooLarge(_)) if keys.len() > 1 => {
                let (first, second) = keys.split_at(keys.len() / 2);
                self.read_many(first, values)?;
                self.read_many(second, values)?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Returns whether there is an entry under `key`.
    ///
    /// # Errors
    /// As [`Collection::has`].
    pub fn has(&self, key: impl AsKey<K>) -> Result<bool, Error> {
        self.untyped().has(&key.to_text())
    }

    /// Writes a value and returns its version.
    ///
    /// # Errors
    /// As [`Collection::set`].
    pub fn set(&self, key: impl AsKey<K>, value: &V) -> Result<u64, Error> {
        self.untyped().set(&key.to_text(), value)
    }

    /// Like [`Map::set`], with options.
    ///
    /// # Errors
    /// As [`Collection::set_with`].
    pub fn set_with(
        &self,
        key: impl AsKey<K>,
        value: &V,
        options: SetOptions,
    ) -> Result<u64, Error> {
        self.untyped().set_with(&key.to_text(), value, options)
    }

    /// Deletes an entry. Returns whether it existed.
    ///
    /// # Errors
    /// As [`Collection::delete`].
    pub fn delete(&self, key: impl AsKey<K>) -> Result<bool, Error> {
        self.untyped().delete(&key.to_text())
    }

    /// Changes an entry. See [`Collection::update`].
    ///
    /// # Errors
    /// As [`Collection::update`].
    pub fn update<R>(
        &self,
        key: impl AsKey<K>,
        change: impl FnMut(&mut Option<V>) -> R,
    ) -> Result<R, Error> {
        self.untyped().update(&key.to_text(), change)
    }

    /// Lists the entries in the order of their keys.
    pub fn list(&self) -> Query<K, V> {
        Query::new(self.untyped().list())
    }
}
