//! Lists of typed collections.

use super::{AsKey, Leading, TypedKey};
use crate::Error;
use crate::kv::{Cursor, Entry, Items, List, Page};
use kvasm_abi::limits::PAGE_ENTRIES;
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;

/// A key and its entry.
pub type Found<K, V> = (K, Entry<V>);

/// A list of a [`Map`](super::Map). Nothing is read until its entries are requested.
#[must_use = "a list reads nothing until it is asked for entries"]
pub struct Query<K, V> {
    list: List,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Query<K, V> {
    fn clone(&self) -> Query<K, V> {
        Query::new(self.list.clone())
    }
}

impl<K, V> Query<K, V> {
    pub(super) fn new(list: List) -> Query<K, V> {
        Query {
            list,
            types: PhantomData,
        }
    }

    fn map(self, change: impl FnOnce(List) -> List) -> Query<K, V> {
        Query::new(change(self.list))
    }

    /// Only tuples that begin with these parts.
    pub fn prefix(self, parts: impl Leading<K>) -> Query<K, V> {
        self.map(|list| list.prefix(parts.to_prefix()))
    }

    /// Only keys at or after this one, in either direction.
    pub fn start(self, key: impl AsKey<K>) -> Query<K, V> {
        self.map(|list| list.start(key.to_text()))
    }

    /// Only keys before this one, in either direction.
    pub fn end(self, key: impl AsKey<K>) -> Query<K, V> {
        self.map(|list| list.end(key.to_text()))
    }

    /// Only tuples that begin with these parts or sort after them.
    pub fn start_parts(self, parts: impl Leading<K>) -> Query<K, V> {
        self.map(|list| list.start(parts.to_prefix()))
    }

    /// Only tuples that sort before all that begin with these parts.
    pub fn end_parts(self, parts: impl Leading<K>) -> Query<K, V> {
        self.map(|list| list.end(parts.to_prefix()))
    }

    /// Descending order of the keys.
    pub fn reverse(self) -> Query<K, V> {
        self.map(List::reverse)
    }

    /// At most this many entries, for [`entries`](Query::entries), [`count`](Query::count) and [`delete_all`](Query::delete_all):
    /// further ones are not read.
    pub fn limit(self, entries: usize) -> Query<K, V> {
        self.map(|list| list.limit(entries))
    }
}

impl<K: TypedKey, V: DeserializeOwned> Query<K, V> {
    /// Iterates over the entries. Fetches pages as needed, and holds one of them.
    pub fn entries(self) -> TypedEntries<K, V> {
        TypedEntries {
            items: self.list.entries(),
            types: PhantomData,
        }
    }

    /// Returns the first entry, in the direction of the list.
    ///
    /// # Errors
    /// As [`List::page`]; [`Error::Decode`] if the key is not of type `K`.
    pub fn first(&self) -> Result<Option<Found<K, V>>, Error> {
        let list = self.list.clone().limit(1);
        list.entries().next().map(typed).transpose()
    }

    /// Returns the last entry, in the direction of the list.
    ///
    /// # Errors
    /// As [`Query::first`].
    pub fn last(&self) -> Result<Option<Found<K, V>>, Error> {
        let list = self.list.clone().turn().limit(1);
        list.entries().next().map(typed).transpose()
    }

    /// Counts the entries. It reads all their keys, page by page.
    ///
    /// # Errors
    /// As [`List::page_keys`].
    pub fn count(&self) -> Result<usize, Error> {
        self.list.clone().count()
    }

    /// Deletes the entries, at most the limit, and returns how many there were. It works page by page,
    /// so it is atomic only in a transaction: see [`List::delete_all`].
    ///
    /// # Errors
    /// As [`List::delete_all`].
    pub fn delete_all(self) -> Result<usize, Error> {
        self.list.delete_all()
    }

    /// Returns a page of at most `limit` entries, from a cursor or the start. The limit is
    /// clamped to 1 to 1,000.
    ///
    /// # Errors
    /// As [`List::page`]; [`Error::Decode`] if a key is not of type `K`.
    pub fn page(&self, limit: usize, cursor: Option<Cursor>) -> Result<Page<Found<K, V>>, Error> {
        let limit = limit.clamp(1, PAGE_ENTRIES as usize);
        let page = self.list.clone().limit(limit).cursor(cursor).page()?;
        let items: Result<Vec<_>, Error> = page.items.into_iter().map(|e| typed(Ok(e))).collect();
        Ok(Page {
            items: items?,
            cursor: page.cursor,
        })
    }
}

fn typed<K: TypedKey, V>(entry: Result<Entry<V>, Error>) -> Result<Found<K, V>, Error> {
    let entry = entry?;
    let key = K::from_text(&entry.key).ok_or_else(|| {
        Error::Decode(format!(
            "the key {:?} does not fit the type of the collection's keys",
            entry.key
        ))
    })?;
    Ok((key, entry))
}

/// An iterator over the entries of a [`Query`], which fetches pages as needed.
///
/// An entry whose key or value does not fit its type yields an error in its place.
#[must_use = "iterators do nothing unless they are consumed"]
pub struct TypedEntries<K, V> {
    items: Items<Entry<V>>,
    types: PhantomData<fn() -> K>,
}

impl<K: TypedKey, V> Iterator for TypedEntries<K, V> {
    type Item = Result<Found<K, V>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.items.next().map(typed)
    }
}

impl<K, V> fmt::Debug for Query<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Query").field(&self.list).finish()
    }
}
