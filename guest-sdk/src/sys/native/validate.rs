//! The host's validation of names, sizes and options, with the host's messages.

use super::json;
use crate::Error;
use kvasm_abi::{
    BATCH_BYTES_MAX, BATCH_OPS_MAX, FORMAT_BYTES, FORMAT_JSON, KEYS_MAX, LETTERS_DEFAULT,
    LETTERS_MAX, MANY_BYTES_MAX,
};

const COLLECTION_BYTES_MAX: usize = 128;
const KEY_BYTES_MAX: usize = 1024;
const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// The maximum size of the host's cursors: a format byte, a signature of 16 bytes, and a key.
const CURSOR_BYTES_MAX: usize = 1 + 16 + KEY_BYTES_MAX;
const OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;
pub(super) const PAGE_ENTRIES_MAX: u32 = 1000;
pub(super) const PAGE_BYTES_MAX: usize = 1024 * 1024;

pub(super) fn collection(name: &str) -> Result<(), Error> {
    not_empty("collection", name)?;
    text("collection", name, COLLECTION_BYTES_MAX)
}

pub(super) fn key(key: &str) -> Result<(), Error> {
    not_empty("key", key)?;
    text("key", key, KEY_BYTES_MAX)
}

pub(super) fn prefix(prefix: &str) -> Result<(), Error> {
    text("prefix", prefix, KEY_BYTES_MAX)
}

pub(super) fn bound(bound: &str) -> Result<(), Error> {
    text("range bound", bound, KEY_BYTES_MAX)
}

pub(super) fn cursor(cursor: &[u8]) -> Result<(), Error> {
    size("cursor", cursor.len() as u64, CURSOR_BYTES_MAX)
}

pub(super) fn output(len: usize) -> Result<(), Error> {
    size("output", len as u64, OUTPUT_BYTES_MAX)
}

pub(super) fn value(value: &[u8], format: i32) -> Result<(), Error> {
    size("value", value.len() as u64, VALUE_BYTES_MAX)?;
    match format {
        FORMAT_JSON => {
            let expansion = json::check(value)?;
            let len = (value.len() as u64).saturating_add(expansion);
            size("value", len, VALUE_BYTES_MAX)
        }
        FORMAT_BYTES => Ok(()),
        other => Err(Error::Unsupported(format!(
            "the format {other} is not known"
        ))),
    }
}

pub(super) fn page_limit(limit: Option<u32>) -> Result<u32, Error> {
    let limit = limit.unwrap_or(PAGE_ENTRIES_MAX);
    if (1..=PAGE_ENTRIES_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Error::Invalid(format!(
        "the page limit is {limit}; it must be from 1 to {PAGE_ENTRIES_MAX}"
    )))
}

/// The limits of a packed batch: its size, and its checks and operations together.
pub(super) fn batch_bytes(len: usize) -> Result<(), Error> {
    size("batch", len as u64, BATCH_BYTES_MAX)
}

pub(super) fn batch_len(len: usize) -> Result<(), Error> {
    count("batch", len, BATCH_OPS_MAX)
}

pub(super) fn keys_len(len: usize) -> Result<(), Error> {
    count("list of keys", len, KEYS_MAX)
}

pub(super) fn many_bytes(len: usize) -> Result<(), Error> {
    if len > MANY_BYTES_MAX {
        return Err(Error::TooLarge(format!(
            "the answer exceeds the limit of {MANY_BYTES_MAX} bytes; request less at once"
        )));
    }
    Ok(())
}

/// Returns the number of dead letters in a page.
pub(super) fn letters_limit(limit: i32) -> Result<usize, Error> {
    match usize::try_from(limit) {
        Ok(0) => Ok(LETTERS_DEFAULT.unsigned_abs() as usize),
        Ok(some) if limit <= LETTERS_MAX => Ok(some),
        _ => Err(Error::Invalid(format!(
            "the limit is {limit}; it must be from 0 to {LETTERS_MAX}"
        ))),
    }
}

/// Decodes text from packed bytes.
pub(super) fn utf8<'a>(subject: &str, bytes: &'a [u8]) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::Invalid(format!("the {subject} is not UTF-8")))
}

fn not_empty(subject: &str, text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::Invalid(format!(
            "the {subject} is empty; it needs at least 1 byte"
        )));
    }
    Ok(())
}

fn text(subject: &str, text: &str, limit: usize) -> Result<(), Error> {
    size(subject, text.len() as u64, limit)?;
    if text.contains('\0') {
        return Err(Error::Invalid(format!(
            "the {subject} contains a NUL character, which cannot be stored in text"
        )));
    }
    Ok(())
}

fn size(subject: &str, len: u64, limit: usize) -> Result<(), Error> {
    if len > limit as u64 {
        return Err(Error::TooLarge(format!(
            "the {subject} is {len} bytes; the limit is {limit} bytes"
        )));
    }
    Ok(())
}

fn count(subject: &str, count: usize, limit: usize) -> Result<(), Error> {
    if count > limit {
        return Err(Error::TooLarge(format!(
            "the {subject} has {count} parts; the limit is {limit}"
        )));
    }
    Ok(())
}
