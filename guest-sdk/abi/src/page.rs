//! The packed page that `kv_list` returns, and the entry header.
//!
//! A page is `count: u32`, `cursor_len: u32`, the cursor (empty at the end of the list), then
//! `count` entries: `key_len: u32`, the key, and, if values were requested, an [`EntryHeader`],
//! `value_len: u32` and the value.

use crate::bytes::{Bytes, Malformed};
use crate::names::KEY_BYTES_MAX;

/// The size of an [`EntryHeader`] on the wire.
pub const ENTRY_HEADER_BYTES: usize = 24;
/// The maximum size of a cursor, in bytes: a format byte, a tag of 16 bytes, and a key.
pub const CURSOR_BYTES_MAX: usize = 1 + 16 + KEY_BYTES_MAX;

/// The metadata of an entry: `version: u64`, `expires_at_ms: i64` (0: never), `format: u32`,
/// and four zero bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// Increases with each write of the key; a version is never reused.
    pub version: u64,
    /// Milliseconds since the Unix epoch; 0 if the entry does not expire.
    pub expires_at_ms: i64,
    /// [`FORMAT_JSON`](crate::FORMAT_JSON) or [`FORMAT_BYTES`](crate::FORMAT_BYTES).
    pub format: u32,
}

impl EntryHeader {
    /// Returns the header's bytes.
    pub fn encode(&self) -> [u8; ENTRY_HEADER_BYTES] {
        let mut out = [0; ENTRY_HEADER_BYTES];
        let (version, rest) = out.split_at_mut(8);
        let (expires, rest) = rest.split_at_mut(8);
        let (format, _reserved) = rest.split_at_mut(4);
        version.copy_from_slice(&self.version.to_le_bytes());
        expires.copy_from_slice(&self.expires_at_ms.to_le_bytes());
        format.copy_from_slice(&self.format.to_le_bytes());
        out
    }

    /// Splits a header off the front of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<(EntryHeader, &[u8]), Malformed> {
        let mut reader = Bytes(bytes);
        let version = u64::from_le_bytes(reader.array()?);
        let expires_at_ms = i64::from_le_bytes(reader.array()?);
        let format = reader.u32()?;
        reader.u32()?;
        let header = EntryHeader {
            version,
            expires_at_ms,
            format,
        };
        Ok((header, reader.0))
    }
}

/// One entry of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageEntry<'a> {
    /// The key, UTF-8.
    pub key: &'a [u8],
    /// The header and the value, if values were requested.
    pub value: Option<(EntryHeader, &'a [u8])>,
}

/// The header of a packed page, and a reader of its entries.
#[derive(Debug, Clone)]
pub struct Page<'a> {
    /// The cursor of the next page; `None` at the end of the list.
    pub cursor: Option<&'a [u8]>,
    /// The entries.
    pub entries: PageReader<'a>,
}

impl<'a> Page<'a> {
    /// Decodes the header of a page, whose entries have values if `values` is set.
    pub fn decode(bytes: &'a [u8], values: bool) -> Result<Page<'a>, Malformed> {
        let mut reader = Bytes(bytes);
        let count = reader.u32()?;
        let cursor = reader.sized()?;
        Ok(Page {
            cursor: (!cursor.is_empty()).then_some(cursor),
            entries: PageReader {
                left: count,
                rest: reader.0,
                values,
            },
        })
    }
}

/// An iterator over the entries of a packed page. It stops after a malformed entry.
#[derive(Debug, Clone)]
pub struct PageReader<'a> {
    left: u32,
    rest: &'a [u8],
    values: bool,
}

impl<'a> PageReader<'a> {
    fn entry(&mut self) -> Result<PageEntry<'a>, Malformed> {
        let mut reader = Bytes(self.rest);
        let key = reader.sized()?;
        let value = if self.values {
            let (header, rest) = EntryHeader::decode(reader.0)?;
            reader.0 = rest;
            Some((header, reader.sized()?))
        } else {
            None
        };
        self.rest = reader.0;
        Ok(PageEntry { key, value })
    }
}

impl<'a> Iterator for PageReader<'a> {
    type Item = Result<PageEntry<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let entry = self.entry();
        if entry.is_err() {
            self.left = 0;
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_header_round_trips() {
        let header = EntryHeader {
            version: u64::MAX - 1,
            expires_at_ms: -5,
            format: 1,
        };
        let bytes = header.encode();
        assert_eq!(EntryHeader::decode(&bytes), Ok((header, &[][..])));
        assert_eq!(EntryHeader::decode(&bytes[..23]), Err(Malformed));
    }

    #[test]
    fn page_with_wrong_lengths_is_malformed() {
        // The page announces one entry, with a key of 4 GiB.
        let bytes = [1, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, b'a'];
        let page = Page::decode(&bytes, false).unwrap();
        assert_eq!(page.cursor, None);
        let entries: [_; 1] = {
            let mut entries = page.entries;
            let first = entries.next().unwrap();
            assert_eq!(entries.next(), None);
            [first]
        };
        assert_eq!(entries, [Err(Malformed)]);
        assert!(Page::decode(&bytes[..7], false).is_err());
    }
}
