//! Lists: a builder, pages, and an iterator that fetches pages automatically.

use super::{Batch, Cursor, Entry, Outcome, decode};
use crate::sys::{self, Query};
use crate::{Error, kv};
use kvasm_abi::limits::PAGE_ENTRIES;
use kvasm_abi::{BATCH_OPS_MAX, EntryHeader, FORMAT_JSON, Malformed, PageEntry};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::{fmt, str, vec};

/// A list query. Nothing is read until its keys, entries or a page are requested.
///
/// ```
/// use kvasm_guest::kv;
///
/// let notes = kv::collection("notes");
/// for day in ["2026-01-30", "2026-02-01", "2026-02-02"] {
///     notes.set(day, &day.len())?;
/// }
/// let february: Result<Vec<String>, _> = notes.list().prefix("2026-02").reverse().keys().collect();
/// assert_eq!(february?, ["2026-02-02", "2026-02-01"]);
///
/// let first = notes.list().limit(2).page::<usize>()?;
/// assert_eq!(first.items.len(), 2);
/// let cursor = first.cursor.expect("there is one more");
/// let second = notes.list().limit(2).cursor(cursor).page::<usize>()?;
/// assert_eq!(second.items[0].key, "2026-02-02");
/// assert_eq!(second.cursor, None);
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a list reads nothing until it is asked for keys, entries or a page"]
pub struct List {
    collection: String,
    prefix: Option<String>,
    start: Option<String>,
    end: Option<String>,
    cursor: Option<Cursor>,
    limit: Option<usize>,
    reverse: bool,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Page<I> {
    /// The keys or entries.
    pub items: Vec<I>,
    /// Pass it to [`List::cursor`] for the next page; `None` at the end.
    pub cursor: Option<Cursor>,
}

type Decode<I> = fn(PageEntry<'_>) -> Result<I, Error>;

impl List {
    pub(super) fn new(collection: String) -> List {
        List {
            collection,
            prefix: None,
            start: None,
            end: None,
            cursor: None,
            limit: None,
            reverse: false,
        }
    }

    /// Only keys that start with this.
    pub fn prefix(mut self, prefix: impl Into<String>) -> List {
        self.prefix = Some(prefix.into());
        self
    }

    /// Only keys at or after this one, in either direction.
    pub fn start(mut self, start: impl Into<String>) -> List {
        self.start = Some(start.into());
        self
    }

    /// Only keys before this one, in either direction.
    pub fn end(mut self, end: impl Into<String>) -> List {
        self.end = Some(end.into());
        self
    }

    /// Descending key order.
    pub fn reverse(mut self) -> List {
        self.reverse = true;
        self
    }

    /// The maximum number of items: in total for an iterator, in the page for a page. Without
    /// it an iterator runs to the end, and a page is as large as the host allows: 1,000 entries
    /// or 1 MiB.
    pub fn limit(mut self, limit: usize) -> List {
        self.limit = Some(limit);
        self
    }

    /// Resumes after the page that returned this cursor; from the start without one.
    pub fn cursor(mut self, cursor: impl Into<Option<Cursor>>) -> List {
        self.cursor = cursor.into();
        self
    }

    /// The same list in the other direction.
    pub(crate) fn turn(mut self) -> List {
        self.reverse = !self.reverse;
        self
    }

    /// Returns the first entry, if there is one; with [`List::reverse`] the last one.
    ///
    /// # Errors
    /// As [`List::page`].
    ///
    /// ```
    /// use kvasm_guest::kv;
    ///
    /// let scores = kv::collection("scores");
    /// for (key, name) in [("0120", "Ada"), ("0370", "Bob")] {
    ///     scores.set(key, &name)?;
    /// }
    /// let best = scores.list().reverse().first::<String>()?;
    /// assert_eq!(best.map(|entry| entry.value), Some("Bob".to_owned()));
    /// assert_eq!(scores.list().prefix("03").count()?, 1);
    /// assert_eq!(scores.list().prefix("04").first::<String>()?, None);
    /// # Ok::<(), kvasm_guest::Error>(())
    /// ```
    pub fn first<T: DeserializeOwned>(self) -> Result<Option<Entry<T>>, Error> {
        Ok(self.limit(1).page()?.items.pop())
    }

    /// Counts the keys, at most the limit. It reads all of them, a page at a time: keep the number
    /// of a large collection in an entry of its own.
    ///
    /// # Errors
    /// As [`List::page_keys`].
    pub fn count(mut self) -> Result<usize, Error> {
        // Without `keys`, whose code is large, and which copies each key.
        let (mut count, mut left) = (0, self.limit);
        while left != Some(0) {
            let packed = self.packed(page_limit(left), false)?;
            let page = unpacked(&packed, false)?;
            let mut fetched = 0;
            for entry in page.entries {
                entry.map_err(malformed)?;
                fetched += 1;
            }
            if let Some(left) = &mut left {
                fetched = fetched.min(*left);
                *left -= fetched;
            }
            count += fetched;
            self.cursor = page.cursor.map(Cursor::from_bytes);
            if self.cursor.is_none() {
                break;
            }
        }
        Ok(count)
    }

    /// Deletes the entries of the list, at most the limit, whatever their values. Returns how many
    /// there were; if that is the limit, there may be more.
    ///
    /// It works page by page: each page of up to 1,000 entries is read, and deleted in one commit.
    /// So it is not atomic beyond a page: after an error, or the end of the call's time, earlier pages
    /// are deleted and the rest is not. Entries that others write meanwhile are deleted if their keys
    /// are ahead. In a transaction everything is deleted or nothing, up to 500 entries, since each is
    /// read and written.
    ///
    /// # Errors
    /// As [`List::page_keys`]; [`Error::Denied`] if the caller may not write; in a transaction
    /// [`Error::TooLarge`].
    ///
    /// ```
    /// use kvasm_guest::kv;
    ///
    /// let visits = kv::collection("visits");
    /// for day in ["2025-12-30", "2025-12-31", "2026-01-01"] {
    ///     visits.set(day, &1)?;
    /// }
    /// // A call deletes as much as fits its time.
    /// assert_eq!(visits.list().prefix("2025-").limit(10_000).delete_all()?, 2);
    /// assert_eq!(visits.list().count()?, 1);
    /// # Ok::<(), kvasm_guest::Error>(())
    /// ```
    pub fn delete_all(mut self) -> Result<usize, Error> {
        let collection = kv::collection(self.collection.as_str());
        let (mut deleted, mut left) = (0, self.limit.unwrap_or(usize::MAX));
        while left > 0 {
            // For more than a page, use the host's limit, which may be lower than the default.
            self.limit = Some(left).filter(|left| *left <= PAGE_ENTRIES as usize);
            let page = self.clone().page_keys()?;
            left = left.saturating_sub(page.items.len());
            for keys in page.items.chunks(BATCH_OPS_MAX) {
                let delete = |batch: Batch, key: &String| batch.delete(&collection, key);
                let outcomes = keys.iter().fold(Batch::new(), delete).commit()?;
                let existed = |outcome: &&Outcome| **outcome == Outcome::Deleted { existed: true };
                deleted += outcomes.iter().filter(existed).count();
            }
            self.cursor = page.cursor;
            if self.cursor.is_none() {
                break;
            }
        }
        Ok(deleted)
    }

    /// Iterates over the keys.
    ///
    /// Pages are fetched as needed. An error while fetching ends the iteration.
    pub fn keys(self) -> Items<String> {
        Items::new(self, false, key)
    }

    /// Iterates over the entries. An entry that holds bytes, or whose JSON does not fit `T`,
    /// yields an error in its place, and the iteration continues after it.
    pub fn entries<T: DeserializeOwned>(self) -> Items<Entry<T>> {
        Items::new(self, true, json_entry)
    }

    /// Iterates over the entries as bytes; a JSON value is returned as its text.
    pub fn entries_bytes(self) -> Items<Entry<Vec<u8>>> {
        Items::new(self, true, bytes_entry)
    }

    /// Returns one page of keys.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a cursor of another list, a limit of 0 or over the host's, or a
    /// prefix or bound with a NUL; [`Error::TooLarge`] for a prefix or bound over the size
    /// limit.
    pub fn page_keys(self) -> Result<Page<String>, Error> {
        self.one_page(false, key)
    }

    /// Returns one page of entries.
    ///
    /// # Errors
    /// As [`List::page_keys`]; [`Error::Type`] or [`Error::Decode`] if any entry of the page is
    /// not JSON or does not fit `T`.
    pub fn page<T: DeserializeOwned>(self) -> Result<Page<Entry<T>>, Error> {
        self.one_page(true, json_entry)
    }

    /// Returns one page of entries as bytes; a JSON value is returned as its text.
    ///
    /// # Errors
    /// As [`List::page_keys`].
    pub fn page_bytes(self) -> Result<Page<Entry<Vec<u8>>>, Error> {
        self.one_page(true, bytes_entry)
    }

    fn one_page<I>(self, values: bool, decode: Decode<I>) -> Result<Page<I>, Error> {
        // A limit over u32 exceeds every host's limit; the host reports that.
        let limit = self
            .limit
            .map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
        let packed = self.packed(limit, values)?;
        let page = unpacked(&packed, values)?;
        let mut items = Vec::new();
        for entry in page.entries {
            items.push(decode(entry.map_err(malformed)?)?);
        }
        Ok(Page {
            items,
            cursor: page.cursor.map(Cursor::from_bytes),
        })
    }

    /// Fetches a page as the host packs it.
    fn packed(&self, limit: Option<u32>, values: bool) -> Result<Vec<u8>, Error> {
        sys::kv_list(
            &self.collection,
            &Query {
                prefix: self.prefix.as_deref(),
                start: self.start.as_deref(),
                end: self.end.as_deref(),
                cursor: self.cursor.as_ref().map(Cursor::as_bytes),
                limit,
                reverse: self.reverse,
                values,
            },
        )
    }
}

/// Returns the limit of a page if this many items are left. For more than a page, it is the host's,
/// which may be lower than the default.
fn page_limit(left: Option<usize>) -> Option<u32> {
    let few = left.filter(|left| *left <= PAGE_ENTRIES as usize);
    few.and_then(|left| u32::try_from(left).ok())
}

fn unpacked(packed: &[u8], values: bool) -> Result<kvasm_abi::Page<'_>, Error> {
    kvasm_abi::Page::decode(packed, values).map_err(malformed)
}

#[cold]
fn malformed(_: Malformed) -> Error {
    Error::malformed("kv_list")
}

fn key(entry: PageEntry<'_>) -> Result<String, Error> {
    text(entry.key).map(str::to_owned)
}

fn json_entry<T: DeserializeOwned>(entry: PageEntry<'_>) -> Result<Entry<T>, Error> {
    let (key, header, value) = json_parts(entry)?;
    let value = decode(key, value)?;
    Ok(Entry::new(key, header, value))
}

fn bytes_entry(entry: PageEntry<'_>) -> Result<kv::Entry<Vec<u8>>, Error> {
    let (key, header, value) = parts(entry)?;
    Ok(Entry::new(key, header, value.to_vec()))
}

fn json_parts(entry: PageEntry<'_>) -> Result<(&str, EntryHeader, &[u8]), Error> {
    let (key, header, value) = parts(entry)?;
    if i32::try_from(header.format) != Ok(FORMAT_JSON) {
        return Err(Error::Type(format!(
            "the entry {key:?} holds bytes, not JSON"
        )));
    }
    Ok((key, header, value))
}

fn parts(entry: PageEntry<'_>) -> Result<(&str, EntryHeader, &[u8]), Error> {
    let (header, value) = entry.value.ok_or(Malformed).map_err(malformed)?;
    Ok((text(entry.key)?, header, value))
}

fn text(key: &[u8]) -> Result<&str, Error> {
    str::from_utf8(key).map_err(|_| malformed(Malformed))
}

/// An iterator over the keys or entries of a list that fetches them page by page.
///
/// Concurrent writes cause no repeated or skipped entries, except for the entries that they
/// write.
#[must_use = "iterators do nothing unless they are consumed"]
pub struct Items<I> {
    list: List,
    values: bool,
    decode: Decode<I>,
    page: vec::IntoIter<Result<I, Error>>,
    /// The number of items that may still be fetched; `None` for no limit.
    left: Option<usize>,
    ended: bool,
}

impl<I> Items<I> {
    fn new(list: List, values: bool, decode: Decode<I>) -> Items<I> {
        Items {
            left: list.limit,
            ended: list.limit == Some(0),
            list,
            values,
            decode,
            page: Vec::new().into_iter(),
        }
    }

    fn fetch(&mut self) -> Result<(), Error> {
        let packed = self.list.packed(page_limit(self.left), self.values)?;
        let page = unpacked(&packed, self.values)?;
        let decode = self.decode;
        let item = |entry: Result<_, _>| entry.map_err(malformed).and_then(decode);
        let mut items: Vec<_> = page.entries.map(item).collect();
        if let Some(left) = &mut self.left {
            items.truncate(*left);
            *left -= items.len();
        }
        self.ended = page.cursor.is_none() || self.left == Some(0);
        self.list.cursor = page.cursor.map(Cursor::from_bytes);
        self.page = items.into_iter();
        Ok(())
    }
}

impl<I> Iterator for Items<I> {
    type Item = Result<I, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.page.next() {
                return Some(item);
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.fetch() {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }
}

impl<I> std::iter::FusedIterator for Items<I> {}

impl<I> fmt::Debug for Items<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items")
            .field("list", &self.list)
            .field("buffered", &self.page.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
