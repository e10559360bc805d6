//! The imports of `kvasm_v1`, each wrapped in a safe function.
#![allow(unsafe_code)]

use super::buffer::{exactly, fill, length};
use super::{CommitFailure, Query};
use crate::Error;
use crate::error::message_of;
use kvasm_abi::{DeleteOptions, ListOptions, Range32, SetOptions, Status};
use std::ptr;

mod raw {
    #[link(wasm_import_module = "kvasm_v1")]
    // SAFETY: names and signatures are those of `kvasm_abi::IMPORTS`, which the
    // host links, which `tests/tests/layout/imports.rs` checks.
    unsafe extern "C" {
        #[rustfmt::skip]
        pub fn kv_get(
            collection: *const u8,
            collection_len: usize,
            key: *const u8,
            key_len: usize,
            format: i32,
            flags: i32,
            out: *mut u8,
            cap: usize,
        ) -> i64;
        #[rustfmt::skip]
        pub fn kv_set(
            collection: *const u8,
            collection_len: usize,
            key: *const u8,
            key_len: usize,
            value: *const u8,
            value_len: usize,
            format: i32,
            options: *const u8,
        ) -> i64;
        #[rustfmt::skip]
        pub fn kv_has(
            collection: *const u8,
            collection_len: usize,
            key: *const u8,
            key_len: usize,
        ) -> i64;
        #[rustfmt::skip]
        pub fn kv_delete(
            collection: *const u8,
            collection_len: usize,
            key: *const u8,
            key_len: usize,
            options: *const u8,
        ) -> i64;
        #[rustfmt::skip]
        pub fn kv_list(
            collection: *const u8,
            collection_len: usize,
            options: *const u8,
            out: *mut u8,
            cap: usize,
        ) -> i64;
        #[rustfmt::skip]
        pub fn kv_increment(
            collection: *const u8,
            collection_len: usize,
            key: *const u8,
            key_len: usize,
            delta: i64,
            result: *mut i64,
        ) -> i64;
        #[rustfmt::skip]
        pub fn kv_add(
            collection: *const u8,
            collection_len: usize,
            key: *const u8,
            key_len: usize,
            delta: i64,
        ) -> i64;
        #[rustfmt::skip]
        pub fn kv_get_many(keys: *const u8, keys_len: usize, out: *mut u8, cap: usize) -> i64;
        #[rustfmt::skip]
        pub fn kv_commit(batch: *const u8, batch_len: usize, out: *mut u8, cap: usize) -> i64;
        pub safe fn transaction_begin() -> i64;
        pub safe fn transaction_commit() -> i64;
        pub safe fn transaction_drop() -> i64;
        #[rustfmt::skip]
        pub fn timer_set(
            name: *const u8,
            name_len: usize,
            flags: i32,
            ms: i64,
            payload: *const u8,
            payload_len: usize,
        ) -> i64;
        pub fn timer_cancel(name: *const u8, name_len: usize) -> i64;
        #[rustfmt::skip]
        pub fn dead_letters(
            before: *const u8,
            before_len: usize,
            limit: i32,
            out: *mut u8,
            cap: usize,
        ) -> i64;
        pub fn dead_letter_replay(id: *const u8, id_len: usize) -> i64;
        pub fn config_get(name: *const u8, name_len: usize, out: *mut u8, cap: usize) -> i64;
        pub fn secret_get(name: *const u8, name_len: usize, out: *mut u8, cap: usize) -> i64;
        pub fn http_fetch(request: *const u8, request_len: usize, out: *mut u8, cap: usize) -> i64;
        pub fn result_read(offset: usize, out: *mut u8, len: usize) -> i64;
        pub fn error_message(out: *mut u8, cap: usize) -> i64;
        pub safe fn input_len() -> i64;
        pub fn input_read(offset: usize, out: *mut u8, len: usize) -> i64;
        pub fn output_write(bytes: *const u8, len: usize) -> i64;
        pub fn context(out: *mut u8, cap: usize) -> i64;
        pub fn log(level: i32, text: *const u8, len: usize) -> i64;
        pub safe fn now_ms() -> i64;
        pub fn random_fill(out: *mut u8, len: usize) -> i64;
    }
}

/// The initial buffer size for a value: most fit, and need one call.
const VALUE_GUESS_BYTES: usize = 1024;
/// The initial buffer size for a page of a list.
const PAGE_GUESS_BYTES: usize = 4096;
/// The initial buffer size for a message, a configuration value or a secret.
const TEXT_GUESS_BYTES: usize = 256;
/// The maximum number of random bytes in one host call.
const RANDOM_BYTES_MAX: usize = 64 * 1024;

pub(crate) fn kv_get(
    collection: &str,
    key: &str,
    format: i32,
    flags: i32,
) -> Result<Vec<u8>, Error> {
    fill(VALUE_GUESS_BYTES, |out, cap| {
        // SAFETY: the strings are borrowed, and `out` has `cap` bytes.
        unsafe {
            raw::kv_get(
                collection.as_ptr(),
                collection.len(),
                key.as_ptr(),
                key.len(),
                format,
                flags,
                out,
                cap,
            )
        }
    })
    .map_err(error)
}

pub(crate) fn kv_set(
    collection: &str,
    key: &str,
    value: &[u8],
    format: i32,
    options: &SetOptions,
) -> Result<u64, Error> {
    let encoded = options.encode();
    let options = if *options == SetOptions::default() {
        ptr::null()
    } else {
        encoded.as_ptr()
    };
    // SAFETY: the strings and bytes are borrowed; `options` is null or points to
    // `encoded`, which lives until the call is over.
    let answer = unsafe {
        raw::kv_set(
            collection.as_ptr(),
            collection.len(),
            key.as_ptr(),
            key.len(),
            value.as_ptr(),
            value.len(),
            format,
            options,
        )
    };
    u64::try_from(answer).map_err(|_| error(answer))
}

pub(crate) fn kv_has(collection: &str, key: &str) -> Result<bool, Error> {
    // SAFETY: the strings are borrowed.
    let answer = unsafe {
        raw::kv_has(
            collection.as_ptr(),
            collection.len(),
            key.as_ptr(),
            key.len(),
        )
    };
    yes_or_no(answer)
}

pub(crate) fn timer_set(name: &str, flags: i32, ms: i64, payload: &[u8]) -> Result<(), Error> {
    // SAFETY: the string and the bytes are borrowed.
    let answer = unsafe {
        raw::timer_set(
            name.as_ptr(),
            name.len(),
            flags,
            ms,
            payload.as_ptr(),
            payload.len(),
        )
    };
    yes_or_no(answer).map(drop)
}

pub(crate) fn timer_cancel(name: &str) -> Result<bool, Error> {
    // SAFETY: the string is borrowed.
    let answer = unsafe { raw::timer_cancel(name.as_ptr(), name.len()) };
    yes_or_no(answer)
}

pub(crate) fn transaction_begin() -> Result<usize, Error> {
    let open = raw::transaction_begin();
    usize::try_from(open).map_err(|_| error(open))
}

pub(crate) fn transaction_commit() -> Result<(), Error> {
    yes_or_no(raw::transaction_commit()).map(drop)
}

pub(crate) fn transaction_drop() -> Result<(), Error> {
    yes_or_no(raw::transaction_drop()).map(drop)
}

pub(crate) fn kv_delete(
    collection: &str,
    key: &str,
    if_version: Option<u64>,
) -> Result<bool, Error> {
    let encoded = DeleteOptions { if_version }.encode();
    let options = if if_version.is_none() {
        ptr::null()
    } else {
        encoded.as_ptr()
    };
    // SAFETY: the strings are borrowed; `options` is null or points to
    // `encoded`, which lives until the call is over.
    let answer = unsafe {
        raw::kv_delete(
            collection.as_ptr(),
            collection.len(),
            key.as_ptr(),
            key.len(),
            options,
        )
    };
    yes_or_no(answer)
}

pub(crate) fn kv_list(collection: &str, query: &Query<'_>) -> Result<Vec<u8>, Error> {
    let text = |text: Option<&str>| text.map(|text| range(text.as_bytes()));
    let options = ListOptions {
        prefix: text(query.prefix),
        start: text(query.start),
        end: text(query.end),
        cursor: query.cursor.map(range),
        limit: query.limit,
        reverse: query.reverse,
        values: query.values,
    }
    .encode();
    fill(PAGE_GUESS_BYTES, |out, cap| {
        // SAFETY: the name, the options and what they point to are borrowed, and
        // `out` has `cap` bytes.
        unsafe {
            raw::kv_list(
                collection.as_ptr(),
                collection.len(),
                options.as_ptr(),
                out,
                cap,
            )
        }
    })
    .map_err(error)
}

pub(crate) fn kv_increment(collection: &str, key: &str, delta: i64) -> Result<i64, Error> {
    let mut value = 0;
    // SAFETY: the strings are borrowed, and `value` has the 8 bytes that are written.
    let answer = unsafe {
        raw::kv_increment(
            collection.as_ptr(),
            collection.len(),
            key.as_ptr(),
            key.len(),
            delta,
            &raw mut value,
        )
    };
    // A version; in a transaction it exceeds the address range of wasm32.
    match answer {
        0.. => Ok(value),
        _ => Err(error(answer)),
    }
}

pub(crate) fn kv_add(collection: &str, key: &str, delta: i64) -> Result<(), Error> {
    // SAFETY: the strings are borrowed.
    let answer = unsafe {
        raw::kv_add(
            collection.as_ptr(),
            collection.len(),
            key.as_ptr(),
            key.len(),
            delta,
        )
    };
    match answer {
        0.. => Ok(()),
        _ => Err(error(answer)),
    }
}

pub(crate) fn kv_get_many(keys: &[u8]) -> Result<Vec<u8>, Error> {
    fill(PAGE_GUESS_BYTES, |out, cap| {
        // SAFETY: the keys are borrowed, and `out` has `cap` bytes.
        unsafe { raw::kv_get_many(keys.as_ptr(), keys.len(), out, cap) }
    })
    .map_err(error)
}

pub(crate) fn kv_commit(batch: &[u8], checks: usize) -> Result<Vec<u8>, CommitFailure> {
    let answer = fill(PAGE_GUESS_BYTES, |out, cap| {
        // SAFETY: the batch is borrowed, and `out` has `cap` bytes.
        unsafe { raw::kv_commit(batch.as_ptr(), batch.len(), out, cap) }
    });
    answer.map_err(|code| {
        if code != Status::Conflict.code() {
            return CommitFailure::Error(error(code));
        }
        // Read this before the message, which may replace it in the result slot.
        let failed = slot(4_usize.saturating_add(checks.saturating_mul(4)));
        CommitFailure::Conflict {
            failed,
            error: error(code),
        }
    })
}

pub(crate) fn dead_letters(before: &str, limit: i32) -> Result<Vec<u8>, Error> {
    fill(PAGE_GUESS_BYTES, |out, cap| {
        // SAFETY: the text is borrowed, and `out` has `cap` bytes.
        unsafe { raw::dead_letters(before.as_ptr(), before.len(), limit, out, cap) }
    })
    .map_err(error)
}

pub(crate) fn dead_letter_replay(id: &str) -> Result<bool, Error> {
    // SAFETY: the string is borrowed.
    let answer = unsafe { raw::dead_letter_replay(id.as_ptr(), id.len()) };
    yes_or_no(answer)
}

pub(crate) fn config_get(name: &str) -> Result<Vec<u8>, Error> {
    fill(TEXT_GUESS_BYTES, |out, cap| {
        // SAFETY: the name is borrowed, and `out` has `cap` bytes.
        unsafe { raw::config_get(name.as_ptr(), name.len(), out, cap) }
    })
    .map_err(error)
}

pub(crate) fn secret_get(name: &str) -> Result<Vec<u8>, Error> {
    fill(TEXT_GUESS_BYTES, |out, cap| {
        // SAFETY: the name is borrowed, and `out` has `cap` bytes.
        unsafe { raw::secret_get(name.as_ptr(), name.len(), out, cap) }
    })
    .map_err(error)
}

pub(crate) fn http_fetch(request: &[u8]) -> Result<Vec<u8>, Error> {
    fill(PAGE_GUESS_BYTES, |out, cap| {
        // SAFETY: the request is borrowed, and `out` has `cap` bytes.
        unsafe { raw::http_fetch(request.as_ptr(), request.len(), out, cap) }
    })
    .map_err(error)
}

/// Returns the input, or the message of an error. Every plugin has this function, so it must not need
/// the code of an `Error`.
pub(crate) fn input() -> Result<Vec<u8>, String> {
    let read = |len| {
        exactly(len, |out| {
            // SAFETY: `out` has `len` bytes.
            unsafe { raw::input_read(0, out, len) }
        })
    };
    length(raw::input_len()).and_then(read).map_err(message)
}

/// Writes the output. For the error see [`input`].
pub(crate) fn output(bytes: &[u8]) -> Result<(), String> {
    // SAFETY: the bytes are borrowed.
    let answer = unsafe { raw::output_write(bytes.as_ptr(), bytes.len()) };
    length(answer).map(drop).map_err(message)
}

pub(crate) fn context() -> Result<Vec<u8>, Error> {
    fill(VALUE_GUESS_BYTES, |out, cap| {
        // SAFETY: `out` has `cap` bytes.
        unsafe { raw::context(out, cap) }
    })
    .map_err(error)
}

/// Writes a line to the app's log. A line that the host rejects is lost, as the error cannot be
/// logged either.
pub(crate) fn log(level: i32, text: &str) {
    // SAFETY: the text is borrowed.
    unsafe { raw::log(level, text.as_ptr(), text.len()) };
}

pub(crate) fn now_ms() -> i64 {
    raw::now_ms()
}

pub(crate) fn random_fill(bytes: &mut [u8]) -> Result<(), Error> {
    try_random_fill(bytes).map_err(error)
}

/// As [`random_fill`], but for the status of an error.
pub(super) fn try_random_fill(bytes: &mut [u8]) -> Result<(), i64> {
    for chunk in bytes.chunks_mut(RANDOM_BYTES_MAX) {
        // SAFETY: the chunk is borrowed for writing.
        let answer = unsafe { raw::random_fill(chunk.as_mut_ptr(), chunk.len()) };
        length(answer)?;
    }
    Ok(())
}

/// Reads the host's result slot, which has `len` bytes.
pub(super) fn result(len: usize) -> Result<Vec<u8>, i64> {
    exactly(len, |out| {
        // SAFETY: `out` has `len` bytes.
        unsafe { raw::result_read(0, out, len) }
    })
}

/// Returns the contents of the host's result slot, up to this many bytes.
fn slot(bytes_max: usize) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(bytes_max);
    // SAFETY: `buffer` has room for `bytes_max` bytes.
    let answer = unsafe { raw::result_read(0, buffer.as_mut_ptr(), bytes_max) };
    let copied = length(answer).unwrap_or(0).min(bytes_max);
    // SAFETY: the capacity is at least `copied`, and the host has written `copied` bytes.
    unsafe { buffer.set_len(copied) };
    buffer
}

fn yes_or_no(answer: i64) -> Result<bool, Error> {
    length(answer).map(|answer| answer != 0).map_err(error)
}

/// Returns the error of a status. It must be called before the next host call.
fn error(code: i64) -> Error {
    let message = message(code);
    match Status::from_code(code) {
        Some(status) => Error::from_status(status, message),
        None => Error::Internal(message),
    }
}

/// Returns the message of an error. It must be called before the next host call.
fn message(code: i64) -> String {
    let message = fill(TEXT_GUESS_BYTES, |out, cap| {
        // SAFETY: `out` has `cap` bytes.
        unsafe { raw::error_message(out, cap) }
    });
    // A host's messages are UTF-8. Without `from_utf8_lossy`, whose code is large.
    let message = String::from_utf8(message.unwrap_or_default()).unwrap_or_default();
    match Status::from_code(code) {
        Some(status) => message_of(status, message),
        None => format!("the host returned the unknown status {code}: {message}"),
    }
}

fn range(bytes: &[u8]) -> Range32 {
    // Pointers and lengths are 32-bit on wasm32.
    Range32 {
        ptr: bytes.as_ptr() as usize as u32,
        len: bytes.len() as u32,
    }
}
