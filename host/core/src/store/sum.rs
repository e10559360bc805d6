//! Increments, with the errors of a store.

use super::StoreError;
use crate::{IncrementError, Value};

/// Returns the value of an entry after an increment. `at` is the position of the operation, for the
/// error.
pub fn sum(value: Option<&Value>, delta: i64, at: usize) -> Result<i64, StoreError> {
    crate::increment(value, delta).map_err(|why| match why {
        IncrementError::NotInteger => StoreError::NotInteger { at },
        IncrementError::Overflow => StoreError::Overflow { at },
    })
}
