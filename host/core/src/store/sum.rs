//! What an increment makes of a value, as a store's answer.

use super::StoreError;
use crate::{NoSum, Value};

/// What an entry holds after something was added to it; `at` is the operation's
/// position, for the error.
pub fn sum(value: Option<&Value>, delta: i64, at: usize) -> Result<i64, StoreError> {
    crate::sum(value, delta).map_err(|why| match why {
        NoSum::NotInteger => StoreError::NotInteger { at },
        NoSum::Overflow => StoreError::Overflow { at },
    })
}
