//! Truncation of text from outside.

use std::fmt::{self, Display, Write};

/// Returns the longest prefix of at most `limit` bytes that ends at a character boundary.
pub fn truncate(text: &str, limit: usize) -> &str {
    let end = text.floor_char_boundary(limit);
    text.get(..end).unwrap_or_default()
}

/// Formats a value, truncated to `limit` bytes and "...". No more than that is ever formatted.
pub fn display_truncated(value: &dyn Display, limit: usize) -> String {
    struct Start {
        text: String,
        limit: usize,
    }

    impl Write for Start {
        fn write_str(&mut self, more: &str) -> fmt::Result {
            let kept = truncate(more, self.limit - self.text.len());
            self.text.push_str(kept);
            match kept.len() == more.len() {
                true => Ok(()),
                // Stops the formatting.
                false => Err(fmt::Error),
            }
        }
    }

    let text = String::new();
    let mut start = Start { text, limit };
    match write!(start, "{value}") {
        Ok(()) => start.text,
        Err(fmt::Error) => start.text + "...",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_truncated_at_a_character_boundary() {
        assert_eq!(truncate("éé", 3), "é");
        assert_eq!(truncate("éé", 4), "éé");
        assert_eq!(display_truncated(&"éé", 3), "é...");
        assert_eq!(
            display_truncated(&format_args!("{:?}", "\0".repeat(9)), 4),
            "\"\\0\\..."
        );
        assert_eq!(display_truncated(&7, 1), "7");
    }
}
