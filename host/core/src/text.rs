//! Truncation of text from outside.

use std::fmt::{self, Display, Write};

/// Returns the longest prefix of at most `limit` bytes that ends at a character boundary.
pub fn short(text: &str, limit: usize) -> &str {
    let end = text.floor_char_boundary(limit);
    text.get(..end).unwrap_or_default()
}

/// Formats a value, truncated to `limit` bytes and "...". No more than that is ever formatted.
pub fn shown_start(value: &dyn Display, limit: usize) -> String {
    struct Start {
        text: String,
        limit: usize,
    }

    impl Write for Start {
        fn write_str(&mut self, more: &str) -> fmt::Result {
            let kept = short(more, self.limit - self.text.len());
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
        assert_eq!(short("éé", 3), "é");
        assert_eq!(short("éé", 4), "éé");
        assert_eq!(shown_start(&"éé", 3), "é...");
        assert_eq!(
            shown_start(&format_args!("{:?}", "\0".repeat(9)), 4),
            "\"\\0\\..."
        );
        assert_eq!(shown_start(&7, 1), "7");
    }
}
