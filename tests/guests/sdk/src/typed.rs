//! Typed collections on a real host.

use kvasm_guest::typed::Map;
use kvasm_guest::{Error, Json, kv};
use serde::Deserialize;
use std::hint::black_box;

kvasm_guest::collections! {
    TOTALS: Map<String, u64> = "typed-totals";
    ROWS: Map<(String, i32), String> = "typed-rows";
}

/// Adds one to a total, as an update.
#[kvasm_guest::function]
fn typed_update() -> Result<(), Error> {
    TOTALS.update("all", |total| *total = Some(total.unwrap_or(0) + 1))
}

/// Returns the total.
#[kvasm_guest::function]
fn typed_total() -> Result<Json<Option<u64>>, Error> {
    TOTALS.get("all").map(Json)
}

/// Writes rows of the numbers from the first to the last.
#[kvasm_guest::function]
fn typed_fill(Json((first, last)): Json<(i32, i32)>) -> Result<(), Error> {
    let value = "x".repeat(200);
    for n in first..=last {
        ROWS.set(("row", n), &value)?;
    }
    Ok(())
}

/// Returns the number of rows, the first, and whether they are in ascending order.
#[kvasm_guest::function]
fn typed_walk() -> Result<Json<(usize, Option<i32>, bool)>, Error> {
    let (mut count, mut first, mut last, mut ascending) = (0, None, None, true);
    for row in ROWS.list().prefix(("row",)).entries() {
        let ((_, n), _) = row?;
        ascending &= last.is_none_or(|last| last < n);
        first = first.or(Some(n));
        last = Some(n);
        count += 1;
    }
    Ok(Json((count, first, ascending)))
}

/// A value whose JSON has about 100 bytes.
#[derive(Deserialize)]
#[expect(dead_code, reason = "it is only read from JSON")]
struct Profile {
    name: String,
    email: String,
    age: u32,
    active: bool,
    roles: Vec<String>,
}

/// Reads the same profile as many times.
#[kvasm_guest::function]
fn read_profiles(Json(reads): Json<u32>) -> Result<(), Error> {
    let notes = kv::collection("notes");
    for _ in 0..reads {
        let profile: Option<Profile> = notes.get(black_box("00000007"))?;
        black_box(profile.ok_or(Error::NotFound("no profile".to_owned()))?);
    }
    Ok(())
}
