//! Times as text.

use kvasm_core::Timestamp;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

/// Formats a time by RFC 3339, in UTC and with milliseconds; `None` before 1970 and after 9999.
pub fn rfc3339(at: Timestamp) -> Option<String> {
    let since = Duration::from_millis(u64::try_from(at.0).ok()?);
    let mut text = String::new();
    let time = humantime::format_rfc3339_millis(UNIX_EPOCH.checked_add(since)?);
    write!(text, "{time}").ok()?;
    Some(text)
}
