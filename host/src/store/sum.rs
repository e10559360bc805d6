//! What an increment makes of a value, the same on every store.

use super::StoreError;
use crate::model::{Integer, Value};

/// What an entry holds after something was added to it; an absent one counts as
/// 0. `at` is the operation's position, for the error.
pub(super) fn sum(value: Option<&Value>, delta: i64, at: usize) -> Result<i64, StoreError> {
    let before = match value {
        None => Integer::Value(0),
        Some(Value::Json(text)) => text.as_integer(),
        Some(Value::Bytes(_)) => Integer::Not,
    };
    match before {
        Integer::Value(before) => before.checked_add(delta).ok_or(StoreError::Overflow { at }),
        Integer::TooLarge => Err(StoreError::Overflow { at }),
        Integer::Not => Err(StoreError::NotInteger { at }),
    }
}
