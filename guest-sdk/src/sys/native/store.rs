//! The entries of the in-process host.

use super::additions::sum;
use super::copy;
use super::outbox::{Changed, EventKind, Outbox};
use super::timers::SetTimer;
use super::validate;
use super::view::{TransactionView, Written};
use crate::Error;
use crate::sys::Query;
use kvasm_abi::json::Integer;
use kvasm_abi::limits::PAGE_BYTES;
use kvasm_abi::names;
use kvasm_abi::{
    EntryHeader, FOREIGN_CURSOR, FORMAT_BYTES, FORMAT_JSON, GET_WITH_HEADER, SetOptions,
};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Entries ordered by key: `String` compares bytewise, as every store does.
#[derive(Clone, Default)]
pub(super) struct Store {
    pub(super) collections: BTreeMap<String, BTreeMap<String, Row>>,
    /// The last version assigned. All keys share one counter, so none is reused.
    pub(super) last_version: u64,
    /// The timers that are set, by name.
    pub(super) timers: BTreeMap<String, SetTimer>,
    /// How many were ever set.
    pub(super) timers_set: u64,
    /// Deliveries, and what creates them.
    pub(super) outbox: Outbox,
    /// Within a transaction, what it has done.
    pub(super) view: Option<TransactionView>,
    /// What was written and is not in the host's store yet, of which this is a copy.
    pub(super) written: Option<Vec<copy::Written>>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) value: Vec<u8>,
    pub(super) format: i32,
    pub(super) version: u64,
    pub(super) expires_at_ms: Option<i64>,
}

impl Row {
    pub(super) fn is_live(&self, now_ms: i64) -> bool {
        self.expires_at_ms
            .is_none_or(|expires_at_ms| expires_at_ms > now_ms)
    }

    pub(super) fn as_integer(&self) -> Integer {
        match str::from_utf8(&self.value) {
            Ok(json) if self.format == FORMAT_JSON => Integer::parse(json),
            _ => Integer::Not,
        }
    }

    pub(super) fn header(&self) -> EntryHeader {
        EntryHeader {
            version: self.version,
            expires_at_ms: self.expires_at_ms.unwrap_or(0),
            format: self.format.unsigned_abs(),
        }
    }
}

impl Store {
    pub(super) fn get(
        &mut self,
        collection: &str,
        key: &str,
        format: i32,
        flags: i32,
        now_ms: i64,
    ) -> Result<Vec<u8>, Error> {
        validate::collection(collection)?;
        validate::key(key)?;
        self.note_read(collection, key, now_ms)?;
        let Some(row) = self.live(collection, key, now_ms) else {
            return Err(Error::NotFound("there is no such entry".to_owned()));
        };
        if format == FORMAT_JSON && row.format == FORMAT_BYTES {
            return Err(Error::Type(kvasm_abi::HOLDS_BYTES.to_owned()));
        }
        let mut answer = Vec::new();
        if flags & GET_WITH_HEADER != 0 {
            answer.extend(row.header().encode());
        }
        answer.extend_from_slice(&row.value);
        Ok(answer)
    }

    pub(super) fn set(
        &mut self,
        collection: &str,
        key: &str,
        value: &[u8],
        format: i32,
        options: &SetOptions,
        now_ms: i64,
    ) -> Result<u64, Error> {
        validate::collection(collection)?;
        validate::key(key)?;
        validate::value(value, format)?;
        if options.ttl_ms == Some(0) {
            return Err(Error::Invalid(
                "the time to live in milliseconds is 0; it must be from 1 to 18446744073709551615"
                    .to_owned(),
            ));
        }
        self.check(collection, key, options.if_version, now_ms)?;
        let expires_at_ms = options
            .ttl_ms
            .map(|ttl_ms| now_ms.saturating_add_unsigned(ttl_ms));
        self.put(
            collection,
            key,
            value.to_vec(),
            format,
            expires_at_ms,
            now_ms,
        )
    }

    fn put(
        &mut self,
        collection: &str,
        key: &str,
        value: Vec<u8>,
        format: i32,
        expires_at_ms: Option<i64>,
        now_ms: i64,
    ) -> Result<u64, Error> {
        self.note_write(collection, key, Some(value.len()), now_ms)?;
        let version = self.next_version();
        let row = Row {
            value,
            format,
            version,
            expires_at_ms,
        };
        if self.view.is_none() {
            self.fire_set(collection, key, &row, now_ms);
            self.record(|| copy::Written::Set {
                collection: collection.to_owned(),
                key: key.to_owned(),
                row: row.clone(),
            });
        }
        let rows = self.collections.entry(collection.to_owned()).or_default();
        rows.insert(key.to_owned(), row);
        Ok(version)
    }

    /// Adds to an integer; an absent entry counts as 0. Returns the new version and the new
    /// value.
    pub(super) fn increment(
        &mut self,
        collection: &str,
        key: &str,
        delta: i64,
        now_ms: i64,
    ) -> Result<(u64, i64), Error> {
        validate::collection(collection)?;
        validate::key(key)?;
        self.note_read(collection, key, now_ms)?;
        let row = self.live(collection, key, now_ms);
        let expires_at_ms = row.and_then(|row| row.expires_at_ms);
        let value = sum((collection, key), row, delta)?;
        let json = value.to_string().into_bytes();
        let version = self.put(collection, key, json, FORMAT_JSON, expires_at_ms, now_ms)?;
        Ok((version, value))
    }

    /// Begins a transaction. Returns whether it is nested in another one.
    pub(super) fn begin(&mut self) -> bool {
        let is_within = self.view.is_some();
        self.view.get_or_insert_with(TransactionView::new);
        is_within
    }

    /// Restores an earlier state.
    pub(super) fn roll_back(&mut self, before: Store) {
        let view = self.view.take();
        let view_before = before.view.clone();
        *self = before;
        self.view = match (view, view_before) {
            (Some(view), Some(before)) => Some(view.rolled_back(before)),
            _ => None,
        };
    }

    /// Ends the outermost transaction: assigns final versions to its writes, in the order of their
    /// keys, and queues the deliveries of the changes.
    pub(super) fn end(&mut self, now_ms: i64) {
        let Some(view) = self.view.take() else {
            return;
        };
        for ((collection, key), Written { version_before, .. }) in view.written {
            let rows = self.collections.get_mut(&collection);
            match rows.and_then(|rows| rows.get_mut(&key)) {
                Some(row) => {
                    self.last_version += 1;
                    row.version = self.last_version;
                    let row = row.clone();
                    self.fire_set(&collection, &key, &row, now_ms);
                    self.record(|| copy::Written::Set {
                        collection,
                        key,
                        row,
                    });
                }
                None => {
                    self.fire_delete(&collection, &key, version_before, now_ms);
                    self.record(|| copy::Written::Delete { collection, key });
                }
            }
        }
        for name in view.timers.into_keys() {
            let timer = self.timers.get(&name).cloned();
            self.record(|| match timer {
                Some(timer) => copy::Written::TimerSet(timer),
                None => copy::Written::TimerCancel(name),
            });
        }
        for id in view.replays {
            self.end_replay(id, now_ms);
        }
    }

    fn fire_set(&mut self, collection: &str, key: &str, row: &Row, now_ms: i64) {
        if !self.outbox.watches.is_empty() {
            let changed = changed(collection, key, row.version);
            let kind = EventKind::Set(changed, row.format, row.value.clone());
            self.outbox.fire(kind, now_ms);
        }
    }

    /// The deletion of an entry that did not exist is not a change.
    fn fire_delete(&mut self, collection: &str, key: &str, version: Option<u64>, now_ms: i64) {
        if let Some(version) = version {
            let kind = EventKind::Delete(changed(collection, key, version));
            self.outbox.fire(kind, now_ms);
        }
    }

    pub(super) fn next_version(&mut self) -> u64 {
        match &mut self.view {
            Some(view) => view.next_version(),
            None => {
                self.last_version += 1;
                self.last_version
            }
        }
    }

    /// Iterates over all rows, also those that have expired.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&str, &str, &Row)> {
        self.collections.iter().flat_map(|(collection, rows)| {
            let rows = rows.iter();
            rows.map(|(key, row)| (collection.as_str(), key.as_str(), row))
        })
    }

    pub(super) fn has(&mut self, collection: &str, key: &str, now_ms: i64) -> Result<bool, Error> {
        validate::collection(collection)?;
        validate::key(key)?;
        self.note_read(collection, key, now_ms)?;
        Ok(self.live(collection, key, now_ms).is_some())
    }

    pub(super) fn delete(
        &mut self,
        collection: &str,
        key: &str,
        if_version: Option<u64>,
        now_ms: i64,
    ) -> Result<bool, Error> {
        validate::collection(collection)?;
        validate::key(key)?;
        self.check(collection, key, if_version, now_ms)?;
        self.note_read(collection, key, now_ms)?;
        self.note_write(collection, key, None, now_ms)?;
        let rows = self.collections.get_mut(collection);
        let row = rows.and_then(|rows| rows.remove(key));
        let version = row.filter(|row| row.is_live(now_ms)).map(|row| row.version);
        if self.view.is_none() {
            self.fire_delete(collection, key, version, now_ms);
            if version.is_some() {
                self.record(|| copy::Written::Delete {
                    collection: collection.to_owned(),
                    key: key.to_owned(),
                });
            }
        }
        Ok(version.is_some())
    }

    /// One packed page.
    pub(super) fn list(
        &self,
        collection: &str,
        query: &Query<'_>,
        now_ms: i64,
    ) -> Result<Vec<u8>, Error> {
        validate::collection(collection)?;
        query.prefix.map_or(Ok(()), validate::prefix)?;
        query.start.map_or(Ok(()), validate::bound)?;
        query.end.map_or(Ok(()), validate::bound)?;
        let limit = validate::page_limit(query.limit)?;
        query.cursor.map_or(Ok(()), validate::cursor)?;
        let after = query
            .cursor
            .map(|cursor| decode_cursor(cursor, collection, query))
            .transpose()?;
        let selected = |(key, row): &(&String, &Row)| {
            row.is_live(now_ms)
                && in_range(key, query)
                && after.is_none_or(|after| is_past(key, after, query))
        };
        let rows = self.collections.get(collection).into_iter().flatten();
        // A test's store is small: each page scans the whole collection.
        let mut rows: Vec<(&String, &Row)> = rows.filter(selected).collect();
        if query.reverse {
            rows.reverse();
        }
        let end = page_end(&rows, limit, query.values);
        let more = end < rows.len();
        rows.truncate(end);
        if query.values {
            let listed = |of: &str, key: &str| {
                of == collection && rows.iter().any(|(listed, _)| *listed == key)
            };
            self.check_additions(listed)?;
        }
        let last = rows.last().filter(|_| more);
        let cursor = last.map(|(key, _)| encode_cursor(collection, query, key));
        Ok(pack(&rows, &cursor.unwrap_or_default(), query.values))
    }

    pub(super) fn row_mut(&mut self, collection: &str, key: &str) -> Option<&mut Row> {
        self.collections.get_mut(collection)?.get_mut(key)
    }

    /// Puts a row in place of another, or removes it.
    pub(super) fn replace(&mut self, collection: &str, key: &str, row: Option<Row>) {
        let rows = self.collections.entry(collection.to_owned()).or_default();
        match row {
            Some(row) => rows.insert(key.to_owned(), row),
            None => rows.remove(key),
        };
    }

    pub(super) fn live(&self, collection: &str, key: &str, now_ms: i64) -> Option<&Row> {
        let row = self.collections.get(collection)?.get(key)?;
        row.is_live(now_ms).then_some(row)
    }

    /// Whether the entry has this version; 0 stands for an absent entry.
    pub(super) fn has_version(
        &self,
        collection: &str,
        key: &str,
        expected: u64,
        now_ms: i64,
    ) -> bool {
        let found = self.live(collection, key, now_ms);
        found.map_or(0, |row| row.version) == expected
    }

    fn check(
        &mut self,
        collection: &str,
        key: &str,
        expected: Option<u64>,
        now_ms: i64,
    ) -> Result<(), Error> {
        if expected.is_some() {
            self.note_read(collection, key, now_ms)?;
        }
        if expected.is_none_or(|expected| self.has_version(collection, key, expected, now_ms)) {
            return Ok(());
        }
        Err(Error::Conflict(
            "version conflict: the entry is not as the write expects; nothing was written"
                .to_owned(),
        ))
    }
}

fn changed(collection: &str, key: &str, version: u64) -> Changed {
    Changed {
        collection: collection.to_owned(),
        key: key.to_owned(),
        version,
    }
}

fn in_range(key: &str, query: &Query<'_>) -> bool {
    query.prefix.is_none_or(|prefix| key.starts_with(prefix))
        && query.start.is_none_or(|start| key >= start)
        && query.end.is_none_or(|end| key < end)
}

fn is_past(key: &str, after: &str, query: &Query<'_>) -> bool {
    if query.reverse {
        key < after
    } else {
        key > after
    }
}

/// The number of rows in the page: up to the limit, and up to the row that reaches the size
/// limit.
fn page_end(rows: &[(&String, &Row)], limit: u32, values: bool) -> usize {
    let mut bytes = 0;
    let mut end = 0;
    for (key, row) in rows {
        if end >= limit as usize || bytes >= PAGE_BYTES {
            break;
        }
        bytes += key.len() + if values { row.value.len() } else { 0 };
        end += 1;
    }
    end
}

fn pack(rows: &[(&String, &Row)], cursor: &[u8], values: bool) -> Vec<u8> {
    let mut page = Vec::new();
    page.extend(wire_len(rows.len()));
    put_sized(&mut page, cursor);
    for (key, row) in rows {
        put_sized(&mut page, key.as_bytes());
        if values {
            page.extend(row.header().encode());
            put_sized(&mut page, &row.value);
        }
    }
    page
}

fn put_sized(page: &mut Vec<u8>, bytes: &[u8]) {
    page.extend(wire_len(bytes.len()));
    page.extend_from_slice(bytes);
}

/// Lengths here are far below the 4 GiB limit of the wire format.
fn wire_len(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

/// A cursor is a tag over the list and the last key, followed by that key. The host's tag is a
/// real signature; this one only has to detect mistakes.
fn encode_cursor(collection: &str, query: &Query<'_>, key: &str) -> Vec<u8> {
    let mut cursor = tag(collection, query, key).to_vec();
    cursor.extend_from_slice(key.as_bytes());
    cursor
}

fn decode_cursor<'a>(
    cursor: &'a [u8],
    collection: &str,
    query: &Query<'_>,
) -> Result<&'a str, Error> {
    cursor
        .split_first_chunk()
        .and_then(|(tag, key)| Some((tag, std::str::from_utf8(key).ok()?)))
        .filter(|(found, key)| **found == tag(collection, query, key))
        .map(|(_, key)| key)
        .ok_or_else(|| Error::Invalid(FOREIGN_CURSOR.to_owned()))
}

fn tag(collection: &str, query: &Query<'_>, key: &str) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    // As on a host, other options for the same range of keys make the same list.
    let lower = query.prefix.max(query.start);
    let after_prefix = query.prefix.and_then(names::after_prefix);
    let after_prefix = after_prefix.map(|(head, last)| format!("{head}{last}"));
    let ends = [after_prefix.as_deref(), query.end];
    let upper = ends.into_iter().flatten().min();
    (collection, lower, upper, query.reverse, key).hash(&mut hasher);
    hasher.finish().to_le_bytes()
}
