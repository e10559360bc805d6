//! Named counters: `add` changes a counter, `read` returns its value.

use kvasm_guest::kv::{self, SetOptions};
use kvasm_guest::{Error, Json};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Add {
    name: String,
    by: i64,
}

#[derive(Deserialize)]
struct Read {
    name: String,
}

#[derive(Debug, PartialEq, Serialize)]
struct Counter {
    value: i64,
}

/// Adds to a counter. A new counter starts at 0.
#[kvasm_guest::function]
fn add(Json(add): Json<Add>) -> Result<Json<Counter>, String> {
    loop {
        match try_add(&add.name, add.by) {
            // Another call has changed the counter in between: retry.
            Err(Failure::Store(Error::Conflict(_))) => {}
            Err(Failure::Store(error)) => return Err(error.to_string()),
            Err(Failure::Overflow) => {
                return Err(format!("the counter {:?} would overflow", add.name));
            }
            Ok(value) => return Ok(Json(Counter { value })),
        }
    }
}

/// Returns the value of a counter.
#[kvasm_guest::function]
fn read(Json(read): Json<Read>) -> Result<Json<Counter>, Error> {
    let value = kv::collection("counters").get(&read.name)?.unwrap_or(0);
    Ok(Json(Counter { value }))
}

enum Failure {
    Store(Error),
    Overflow,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Store(error)
    }
}

/// Adds to the counter unless another call changes it meanwhile.
fn try_add(name: &str, by: i64) -> Result<i64, Failure> {
    let counters = kv::collection("counters");
    let entry = counters.get_entry::<i64>(name)?;
    let (old, options) = match entry {
        Some(entry) => (entry.value, SetOptions::new().if_version(entry.version)),
        None => (0, SetOptions::new().if_absent()),
    };
    let new = old.checked_add(by).ok_or(Failure::Overflow)?;
    counters.set_with(name, &new, options)?;
    kvasm_guest::log::debug!("{name}: {old} -> {new}");
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add_to(name: &str, by: i64) -> Result<i64, String> {
        let name = name.to_owned();
        add(Json(Add { name, by })).map(|Json(counter)| counter.value)
    }

    #[test]
    fn counters_are_independent() {
        assert_eq!(add_to("apples", 2), Ok(2));
        assert_eq!(add_to("pears", 1), Ok(1));
        assert_eq!(add_to("apples", -5), Ok(-3));
        let name = "apples".to_owned();
        assert_eq!(read(Json(Read { name })), Ok(Json(Counter { value: -3 })));
    }

    #[test]
    fn overflowing_increment_leaves_the_counter_unchanged() {
        assert_eq!(add_to("a", i64::MAX), Ok(i64::MAX));
        assert!(add_to("a", 1).unwrap_err().contains("overflow"));
        assert_eq!(add_to("a", -1), Ok(i64::MAX - 1));
    }
}
