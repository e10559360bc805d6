//! Counters, and single values.

use super::{AsKey, TypedKey};
use crate::Error;
use crate::kv::{self, Collection};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// The key of an [`Item`].
const KEY: &str = "value";

/// A collection of integers that are added to atomically.
pub struct Counter<K> {
    name: &'static str,
    types: PhantomData<fn() -> K>,
}

impl<K: TypedKey> Counter<K> {
    /// Declares counters. [`collections!`](crate::collections) also checks that the name is
    /// unique.
    pub const fn new(name: &'static str) -> Counter<K> {
        Counter {
            name,
            types: PhantomData,
        }
    }

    /// Adds `delta` and returns the new value. An absent counter is 0.
    ///
    /// # Errors
    /// As [`Collection::increment`].
    pub fn increment(&self, key: impl AsKey<K>, delta: i64) -> Result<i64, Error> {
        kv::collection(self.name).increment(&key.to_text(), delta)
    }

    /// Adds `delta` without reading the sum: transactions that add to one counter do not conflict.
    ///
    /// # Errors
    /// As [`Collection::add`].
    pub fn add(&self, key: impl AsKey<K>, delta: i64) -> Result<(), Error> {
        kv::collection(self.name).add(&key.to_text(), delta)
    }

    /// Returns the value; 0 if the counter is absent.
    ///
    /// # Errors
    /// As [`Collection::get`].
    pub fn get(&self, key: impl AsKey<K>) -> Result<i64, Error> {
        let value = kv::collection(self.name).get(&key.to_text())?;
        Ok(value.unwrap_or(0))
    }
}

/// One JSON value: the entry `value` of a collection of its own.
pub struct Item<V> {
    name: &'static str,
    types: PhantomData<fn() -> V>,
}

impl<V: Serialize + DeserializeOwned> Item<V> {
    /// Declares an item. [`collections!`](crate::collections) also checks that the name is
    /// unique.
    pub const fn new(name: &'static str) -> Item<V> {
        Item {
            name,
            types: PhantomData,
        }
    }

    fn collection(&self) -> Collection {
        kv::collection(self.name)
    }

    /// Returns the value, if it is set.
    ///
    /// # Errors
    /// As [`Collection::get`].
    pub fn get(&self) -> Result<Option<V>, Error> {
        self.collection().get(KEY)
    }

    /// Writes the value and returns its version.
    ///
    /// # Errors
    /// As [`Collection::set`].
    pub fn set(&self, value: impl Into<V>) -> Result<u64, Error> {
        self.collection().set(KEY, &value.into())
    }

    /// Deletes the value. Returns whether it was set.
    ///
    /// # Errors
    /// As [`Collection::delete`].
    pub fn delete(&self) -> Result<bool, Error> {
        self.collection().delete(KEY)
    }

    /// Like [`Map::update`](super::Map::update).
    ///
    /// # Errors
    /// As [`Map::update`](super::Map::update).
    pub fn update<R>(&self, change: impl FnMut(&mut Option<V>) -> R) -> Result<R, Error> {
        self.collection().update(KEY, change)
    }
}
