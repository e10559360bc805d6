//! Output: for people or for programs, and never the terminal's control
//! characters from a plugin or an entry.

use super::error::OutputError;
use comfy_table::{Table, presets};
use kvasm::model::Timestamp;
use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::time::{Duration, SystemTime};

/// Stdout, and what kind of reader it has.
pub(super) struct Output {
    json: bool,
    terminal: bool,
    out: BufWriter<Stdout>,
}

impl Output {
    pub(super) fn new(json: bool) -> Output {
        let stdout = io::stdout();
        Output {
            json,
            terminal: stdout.is_terminal(),
            out: BufWriter::with_capacity(64 * 1024, stdout),
        }
    }

    /// Whether a program reads it.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a terminal shows it.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes a line of this program's own words, or of text that is clean.
    pub(super) fn line(&mut self, line: &str) -> Result<(), OutputError> {
        writeln!(self.out, "{line}")?;
        Ok(())
    }

    /// Writes one JSON document as a line.
    pub(super) fn json(&mut self, document: &impl serde::Serialize) -> Result<(), OutputError> {
        let text = serde_json::to_string(document).map_err(io::Error::from)?;
        let text = self.json_text(&text);
        writeln!(self.out, "{text}")?;
        Ok(())
    }

    /// JSON as it may be shown: on a terminal with its control characters escaped.
    fn json_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.terminal { escape_json(text) } else { Cow::Borrowed(text) }
    }

    /// Writes a value's JSON to the letter, and ends the line.
    pub(super) fn json_value(&mut self, text: &str) -> Result<(), OutputError> {
        let text = self.json_text(text);
        writeln!(self.out, "{text}")?;
        Ok(())
    }

    /// Writes bytes to the letter. A terminal gets them as clean text that ends
    /// its line, because it would obey what else is in them.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        if !self.terminal {
            self.out.write_all(bytes)?;
            return Ok(());
        }
        let text = String::from_utf8_lossy(bytes);
        self.out.write_all(clean_lines(&text).as_bytes())?;
        if !bytes.is_empty() && !bytes.ends_with(b"\n") {
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Writes rows under their headings. The cells are cleaned here.
    pub(super) fn table(
        &mut self,
        head: &[&str],
        rows: impl IntoIterator<Item = Vec<String>>,
    ) -> Result<(), OutputError> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(head.to_vec());
        for row in rows {
            table.add_row(row.iter().map(|cell| clean(cell).into_owned()));
        }
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim())?;
        }
        Ok(())
    }

    /// Hands everything on to stdout.
    pub(super) fn flush(&mut self) -> Result<(), OutputError> {
        self.out.flush()?;
        Ok(())
    }
}

/// Characters that a terminal obeys rather than shows: controls, and those that
/// reorder the text around them.
fn obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape<'a>(
    text: &'a str,
    obeyed: impl Fn(char) -> bool,
    write: impl Fn(&mut String, char),
) -> Cow<'a, str> {
    if !text.contains(&obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if obeyed(c) {
            write(&mut out, c);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Text for one cell or line: escapes line breaks too.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    escape(text, obeyed, |out, c| out.extend(c.escape_default()))
}

/// Text that may have lines of its own.
pub(super) fn clean_lines(text: &str) -> Cow<'_, str> {
    let obeyed = |c| obeyed(c) && c != '\n' && c != '\t';
    escape(text, obeyed, |out, c| out.extend(c.escape_default()))
}

/// JSON whose strings hold no control characters in the raw. Line breaks and
/// tabs stand between values only, and stay.
fn escape_json(text: &str) -> Cow<'_, str> {
    let obeyed = |c| obeyed(c) && c != '\n' && c != '\t' && c != '\r';
    escape(text, obeyed, |out, c| out.push_str(&format!("\\u{:04x}", u32::from(c))))
}

/// A time for people: RFC 3339 in UTC.
pub(super) fn time(at: Timestamp) -> String {
    let ms = at.0.unsigned_abs();
    // The end of what the format can say; "never" in all but name.
    const LAST_MS: u64 = 253_402_300_799_999;
    if at.0 < 0 || ms > LAST_MS {
        return format!("{} ms", at.0);
    }
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    humantime::format_rfc3339_millis(at).to_string()
}

/// `1 entry`, `2 entries`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(clean("a\x1b[2J\n\u{9b}x\u{202e}"), "a\\u{1b}[2J\\n\\u{9b}x\\u{202e}");
        assert_eq!(clean_lines("a\n\tb\r\x07"), "a\n\tb\\r\\u{7}");
        assert_eq!(escape_json("{\"a\":\n\"\u{9b}\u{7f}\"}"), "{\"a\":\n\"\\u009b\\u007f\"}");
        assert!(matches!(clean("plain ä"), Cow::Borrowed(_)));
    }

    #[test]
    fn times_are_shown_as_far_as_the_format_goes() {
        assert_eq!(time(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(Timestamp(1_700_000_000_123)), "2023-11-14T22:13:20.123Z");
        assert_eq!(time(Timestamp(i64::MAX)), "9223372036854775807 ms");
        assert_eq!(time(Timestamp(-5)), "-5 ms");
    }
}
