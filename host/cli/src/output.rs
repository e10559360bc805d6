//! Printing of results: tables for people, JSON for machines.

use super::client;
use super::failure::Failure;
use axum::body::Body;
use axum::http::Response;
use comfy_table::{ContentArrangement, Table, presets};
use kvasm::model::Timestamp;
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::time::{Duration, UNIX_EPOCH};

/// Prints an object as JSON, or a line for people.
pub(super) fn object(
    json: bool,
    value: &Value,
    line: impl FnOnce() -> String,
) -> Result<(), Failure> {
    if json {
        return self::json(value);
    }
    writeln!(std::io::stdout(), "{}", escape_lines(&line()))?;
    Ok(())
}

/// Prints a line for people.
pub(super) fn text(line: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{}", escape_line(line))?;
    Ok(())
}

/// Prints a line for people to standard error; errors are ignored.
pub(super) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", escape_line(line));
}

/// Like [`note`], for text of several lines.
pub(super) fn note_item(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", escape_item(text));
}

/// Prints text that is escaped already to standard error; errors are ignored.
pub(super) fn note_block(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Like [`note`], for JSON.
pub(super) fn note_json(value: &Value) {
    let _ = writeln!(std::io::stderr(), "{}", escape_json(&value.to_string()));
}

/// Prints a value as JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_vec(value).map_err(std::io::Error::from)?;
    json_line(&text)
}

/// Prints the server's JSON unchanged, followed by a line break. On a terminal its control
/// characters are escaped.
pub(super) fn json_line(bytes: &[u8]) -> Result<(), Failure> {
    if std::io::stdout().is_terminal() {
        return line(escape_json(&String::from_utf8_lossy(bytes)).as_bytes());
    }
    line(bytes)
}

/// Prints a line unchanged.
pub(super) fn line(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.write_all(b"\n")?;
    Ok(())
}

/// Escapes what could control a terminal, without changing the JSON's meaning: such characters are
/// only in strings.
fn escape_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if controls_terminal(c) && !c.is_ascii_whitespace() {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Prints names and their values.
pub(super) fn rows(rows: &[[String; 2]]) -> Result<(), Failure> {
    let width = rows.iter().map(|[name, _]| name.len()).max().unwrap_or(0);
    let mut stdout = std::io::stdout().lock();
    for [name, value] in rows {
        writeln!(stdout, "{name:width$}  {}", escape_line(value))?;
    }
    Ok(())
}

/// Prints rows as a table; control characters in them are escaped.
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
        table.add_row(row.map(|cell| escape_line(&cell)));
    }
    writeln!(std::io::stdout(), "{table}")?;
    Ok(())
}

/// Writes bytes of a plugin or an entry: unchanged into a file or a pipe, and escaped to a
/// terminal.
pub(super) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    if stdout.is_terminal() {
        writeln!(stdout, "{}", escape_lines(&String::from_utf8_lossy(bytes)))?;
    } else {
        stdout.write_all(bytes)?;
    }
    stdout.flush()?;
    Ok(())
}

/// Like [`raw`], for a response, as it arrives, followed by `end`: it may be larger than this
/// process's memory.
pub(super) async fn stream(answer: Response<Body>, end: &[u8]) -> Result<(), Failure> {
    if std::io::stdout().is_terminal() {
        return raw(&client::bytes(answer).await?);
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    client::stream(answer, |part| Ok(out.write_all(part)?)).await?;
    out.write_all(end)?;
    Ok(out.flush()?)
}

/// Escapes what could control a terminal, except line breaks.
pub(super) fn escape_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(escape_line).collect();
    lines.join("\n")
}

/// Like [`clean_lines`], with lines after the first indented, so that they cannot look like another
/// item of a list.
pub(super) fn escape_item(text: &str) -> String {
    escape_lines(text).replace('\n', "\n    ")
}

/// Escapes what could control a terminal.
pub(super) fn escape_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if controls_terminal(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a character can control a terminal: control characters, line separators, and characters
/// that change the direction of text.
fn controls_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Formats a time. One beyond the range of dates is shown in milliseconds.
pub(super) fn time(at_ms: i64) -> String {
    match u64::try_from(at_ms) {
        Ok(ms) if at_ms < Timestamp::END.0 => {
            humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
        }
        Ok(_) | Err(_) => format!("{at_ms} ms since 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timestamp_can_be_formatted() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        let end = Timestamp::END.0;
        assert_eq!(time(end - 1), "9999-12-31T23:59:59.999Z");
        for at in [i64::MIN, -1, end, i64::MAX] {
            assert_eq!(time(at), format!("{at} ms since 1970"));
        }
    }

    #[test]
    fn terminal_control_characters_are_escaped() {
        assert_eq!(
            escape_line("a\u{1b}[2J\u{9b}b\u{202e}\u{61c}"),
            "a\\u{1b}[2J\\u{9b}b\\u{202e}\\u{61c}"
        );
        assert_eq!(escape_lines("a\r\nb\u{7}"), "a\nb\\u{7}");
        assert_eq!(escape_item("a\n[host] b"), "a\n    [host] b");
        let json = "{\"a\": \"\u{9b}\u{202e}\"}";
        let cleaned = escape_json(json);
        assert_eq!(cleaned, "{\"a\": \"\\u009b\\u202e\"}");
        let same = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(same(&cleaned), same(json));
    }
}
