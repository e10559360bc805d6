//! Printing: tables for people, JSON for machines.

use super::failure::Failure;
use comfy_table::{ContentArrangement, Table, presets};
use kvasm::model::Timestamp;
use serde_json::Value;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

/// Prints an object as JSON, or a line for people.
pub(super) fn object(
    json: bool,
    value: &Value,
    line: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let text = if json { value.to_string() } else { line() };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// Prints rows as a table; control characters in them are written as escapes.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<(), Failure> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head);
    for row in rows {
        table.add_row(row.map(|cell| clean(&cell)));
    }
    writeln!(std::io::stdout(), "{table}")?;
    Ok(())
}

/// Text that cannot drive a terminal.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A time as people read it.
pub(super) fn time(at: Timestamp) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(at.0).unwrap_or(0));
    humantime::format_rfc3339_millis(at).to_string()
}
