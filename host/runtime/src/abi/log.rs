//! A guest's log: a bounded list of bounded lines.

use kvasm_core::{Level, truncate};

/// Converts a level of the ABI.
pub(super) fn level(code: i32) -> Option<Level> {
    use kvasm_abi::level;
    match code {
        level::ERROR => Some(Level::Error),
        level::WARN => Some(Level::Warn),
        level::INFO => Some(Level::Info),
        level::DEBUG => Some(Level::Debug),
        level::TRACE => Some(Level::Trace),
        _ => None,
    }
}

/// One line that a guest wrote.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LogLine {
    /// Its severity.
    pub level: Level,
    /// Its text, with control characters escaped, so that a guest cannot control the reader's
    /// terminal.
    pub message: String,
}

impl std::fmt::Display for LogLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<5} {}", self.level, self.message)
    }
}

/// The lines of one invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLog {
    lines: Vec<LogLine>,
    dropped: u64,
    panic: Option<String>,
    lines_max: usize,
    line_bytes: usize,
}

/// Prefix of the error line in which an SDK reports a panic before the trap.
const PANIC: &[u8] = b"panicked";

impl GuestLog {
    /// An empty log with these limits.
    pub fn new(lines_max: usize, line_bytes: usize) -> GuestLog {
        GuestLog {
            lines: Vec::new(),
            dropped: 0,
            panic: None,
            lines_max,
            line_bytes,
        }
    }

    /// Moves the lines out; later ones are dropped and not counted.
    pub fn take(&mut self) -> GuestLog {
        std::mem::replace(self, GuestLog::new(0, 0))
    }

    /// Returns the lines, oldest first.
    pub fn lines(&self) -> &[LogLine] {
        &self.lines
    }

    /// Returns the number of lines dropped because of the limit.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns the last error that begins with "panicked": why a guest trapped. It is kept even
    /// beyond the limit of lines.
    pub fn panic(&self) -> Option<&str> {
        self.panic.as_deref()
    }

    /// Adds a line, truncated to the limit.
    pub fn push(&mut self, level: Level, bytes: &[u8]) {
        if level == Level::Error && bytes.starts_with(PANIC) {
            let kept = bytes.get(..self.line_bytes).unwrap_or(bytes);
            self.panic = Some(printable(&String::from_utf8_lossy(kept)));
        }
        if self.lines.len() >= self.lines_max {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        let cut = bytes.len() > self.line_bytes;
        let kept = bytes.get(..self.line_bytes).unwrap_or(bytes);
        let mut message = printable(&String::from_utf8_lossy(kept));
        if cut {
            message.push_str("...");
        }
        self.lines.push(LogLine { level, message });
    }
}

/// Escapes control characters other than newline and tab.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Returns the start of a guest's bytes as text: at most `limit` bytes, escapes and replacement
/// characters included, with "..." appended if truncated.
pub(crate) fn printable_start(bytes: &[u8], limit: usize) -> String {
    // Text is never shorter than its bytes, except for invalid UTF-8, where up to 3 bytes become
    // one character of 3 bytes.
    let start = bytes.get(..limit).unwrap_or(bytes);
    let text = printable(&String::from_utf8_lossy(start));
    let kept = truncate(&text, limit);
    match kept.len() == text.len() && start.len() == bytes.len() {
        true => text,
        false => format!("{kept}..."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_line_size_and_count_are_limited() {
        let mut log = GuestLog::new(2, 4);
        log.push(Level::Info, b"abcd");
        log.push(Level::Warn, b"abcde");
        log.push(Level::Error, b"late");
        let texts: Vec<_> = log.lines().iter().map(|l| l.message.as_str()).collect();
        assert_eq!(texts, ["abcd", "abcd..."]);
        assert_eq!(log.dropped(), 1);
    }

    #[test]
    fn log_text_is_limited_after_escaping() {
        for byte in [0, b'x', 0xff, 0xc3] {
            let text = printable_start(&vec![byte; 8 << 20], 4096);
            assert!((4000..=4096 + 3).contains(&text.len()), "{}", text.len());
            assert!(text.ends_with("..."));
        }
        assert_eq!(printable_start("éé".as_bytes(), 3), "é...");
        assert_eq!(printable_start(b"\0", 5), "\\u{0}");
        assert_eq!(printable_start(b"\0", 4), "\\u{0...");
    }

    #[test]
    fn control_characters_are_escaped() {
        let mut log = GuestLog::new(2, 64);
        log.push(Level::Info, b"\x1b[2Jgone\tx\ny\xff");
        assert_eq!(log.lines()[0].message, "\\u{1b}[2Jgone\tx\ny\u{fffd}");
    }
}
