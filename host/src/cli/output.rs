//! Printing: tables for people, JSON for machines.

use super::failure::Failure;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use std::io::{IsTerminal, Write};
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

/// Prints a value as JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(std::io::Error::from)?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// Prints a line as it is.
pub(super) fn line(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.write_all(b"\n")?;
    Ok(())
}

/// Prints names and their values.
pub(super) fn rows(rows: &[[String; 2]]) -> Result<(), Failure> {
    let width = rows.iter().map(|[name, _]| name.len()).max().unwrap_or(0);
    let mut stdout = std::io::stdout().lock();
    for [name, value] in rows {
        writeln!(stdout, "{name:width$}  {}", clean(value))?;
    }
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

/// Writes bytes of a plugin or an entry: to the letter into a file or a pipe,
/// and to a terminal as text that cannot drive it.
pub(super) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    if stdout.is_terminal() {
        writeln!(stdout, "{}", clean_lines(&String::from_utf8_lossy(bytes)))?;
    } else {
        stdout.write_all(bytes)?;
    }
    stdout.flush()?;
    Ok(())
}

/// Text of several lines that cannot drive a terminal.
pub(super) fn clean_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(clean).collect();
    lines.join("\n")
}

/// Text that cannot drive a terminal.
pub(super) fn clean(text: &str) -> String {
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
pub(super) fn time(at_ms: i64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(at_ms).unwrap_or(0));
    humantime::format_rfc3339_millis(at).to_string()
}
