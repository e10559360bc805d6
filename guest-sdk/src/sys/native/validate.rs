//! The host's validation of names, sizes and options, with the host's messages.

use crate::Error;
use kvasm_abi::json::{self, JsonError};
use kvasm_abi::limits::{OUTPUT_BYTES, PAGE_ENTRIES, SETTING_BYTES, VALUE_BYTES};
use kvasm_abi::names::{self, SETTING_CHARACTERS, SettingNameError, TextError};
use kvasm_abi::{
    Address, BATCH_BYTES_MAX, BATCH_OPS_MAX, CURSOR_BYTES_MAX, FORMAT_BYTES, FORMAT_JSON, KEYS_MAX,
    LETTERS_DEFAULT, LETTERS_MAX, MANY_BYTES_MAX, TimerTime, TimerTimeError,
};

pub(super) fn collection(name: &str) -> Result<(), Error> {
    named("collection", names::collection(name.as_bytes())).map(drop)
}

pub(super) fn key(key: &str) -> Result<(), Error> {
    named("key", names::key(key.as_bytes())).map(drop)
}

/// Checks the packed names of an entry.
pub(super) fn address(address: Address<'_>) -> Result<(&str, &str), Error> {
    let collection = named("collection", names::collection(address.collection))?;
    Ok((collection, named("key", names::key(address.key))?))
}

pub(super) fn timer_name(name: &[u8]) -> Result<&str, Error> {
    named("timer name", names::timer(name))
}

/// Checks the time and the payload of a timer.
pub(super) fn timer(flags: i32, ms: i64, payload: &[u8]) -> Result<TimerTime, Error> {
    size("payload", payload.len(), VALUE_BYTES)?;
    TimerTime::parse(flags, ms).map_err(|error| match error {
        TimerTimeError::Flags(_) => Error::Unsupported(error.to_string()),
        TimerTimeError::Range { .. } => Error::Invalid(error.to_string()),
    })
}

pub(super) fn prefix(prefix: &str) -> Result<(), Error> {
    named("prefix", names::bound(prefix.as_bytes())).map(drop)
}

pub(super) fn bound(bound: &str) -> Result<(), Error> {
    named("range bound", names::bound(bound.as_bytes())).map(drop)
}

pub(super) fn cursor(cursor: &[u8]) -> Result<(), Error> {
    size("cursor", cursor.len(), CURSOR_BYTES_MAX)
}

pub(super) fn output(len: usize) -> Result<(), Error> {
    size("output", len, OUTPUT_BYTES)
}

pub(super) fn value(value: &[u8], format: i32) -> Result<(), Error> {
    size("value", value.len(), VALUE_BYTES)?;
    match format {
        FORMAT_JSON => match json::storable(value.to_vec(), VALUE_BYTES) {
            Ok(_) => Ok(()),
            Err(JsonError::Text(error)) => named("value", Err(error)),
            Err(error @ JsonError::Malformed(_)) => Err(Error::Invalid(error.to_string())),
        },
        FORMAT_BYTES => Ok(()),
        other => Err(Error::Unsupported(format!(
            "the format {other} is not known"
        ))),
    }
}

pub(super) fn page_limit(limit: Option<u32>) -> Result<u32, Error> {
    let limit = limit.unwrap_or(PAGE_ENTRIES);
    if (1..=PAGE_ENTRIES).contains(&limit) {
        return Ok(limit);
    }
    Err(Error::Invalid(format!(
        "the page limit is {limit}; it must be from 1 to {PAGE_ENTRIES}"
    )))
}

/// The limits of a packed batch: its size, and its checks and operations together.
pub(super) fn batch_bytes(len: usize) -> Result<(), Error> {
    size("batch", len, BATCH_BYTES_MAX)
}

pub(super) fn batch_len(len: usize) -> Result<(), Error> {
    count("batch", len, BATCH_OPS_MAX)
}

/// The limits of a transaction: what it reads and writes together, and the size of its writes.
pub(super) fn transaction_len(len: usize) -> Result<(), Error> {
    count("transaction", len, BATCH_OPS_MAX)
}

pub(super) fn transaction_bytes(len: usize) -> Result<(), Error> {
    size("transaction", len, BATCH_BYTES_MAX)
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

/// Returns an error unless this is a UUID.
pub(super) fn letter_id(id: &str) -> Result<(), Error> {
    let is_at_dash = |at| matches!(at, 8 | 13 | 18 | 23);
    let mut bytes = id.bytes().enumerate();
    let is_uuid = bytes.all(|(at, byte)| match is_at_dash(at) {
        true => byte == b'-',
        false => byte.is_ascii_hexdigit(),
    });
    match is_uuid && id.len() == 36 {
        true => Ok(()),
        false => Err(Error::Invalid(
            "the dead letter ID is malformed: it is not a UUID".to_owned(),
        )),
    }
}

/// Returns the number of dead letters in a page.
pub(super) fn dead_letters_limit(limit: i32) -> Result<usize, Error> {
    match usize::try_from(limit) {
        Ok(0) => Ok(LETTERS_DEFAULT.unsigned_abs() as usize),
        Ok(some) if limit <= LETTERS_MAX => Ok(some),
        _ => Err(Error::Invalid(format!(
            "the page limit is {limit}; it must be from 1 to {LETTERS_MAX}"
        ))),
    }
}

pub(super) fn setting(name: &str) -> Result<(), Error> {
    match names::setting(name.as_bytes()) {
        Ok(_) => Ok(()),
        Err(SettingNameError::Text(error)) => named("name of the setting", Err(error)),
        Err(SettingNameError::Character(found)) => Err(Error::Invalid(format!(
            "the name of the setting contains {found:?}; allowed: {SETTING_CHARACTERS}"
        ))),
    }
}

pub(super) fn config_value(value: &str) -> Result<(), Error> {
    named(
        "configuration value",
        names::text(value.as_bytes(), SETTING_BYTES),
    )
    .map(drop)
}

pub(super) fn secret(secret: &[u8]) -> Result<(), Error> {
    size("secret", secret.len(), SETTING_BYTES)
}

fn size(subject: &str, len: usize, limit: usize) -> Result<(), Error> {
    named(subject, names::size(len as u64, limit))
}

/// Turns the error of a check into that of a call, with its subject.
fn named<T>(subject: &str, checked: Result<T, TextError>) -> Result<T, Error> {
    checked.map_err(|error| {
        let message = error.about(subject).to_string();
        match error {
            TextError::TooLarge { .. } => Error::TooLarge(message),
            TextError::Empty | TextError::NotUtf8 { .. } | TextError::Nul => {
                Error::Invalid(message)
            }
        }
    })
}

fn count(subject: &str, count: usize, limit: usize) -> Result<(), Error> {
    if count > limit {
        return Err(Error::TooLarge(format!(
            "the {subject} has {count} parts; the limit is {limit}"
        )));
    }
    Ok(())
}
