//! Percent-decoding.

/// The meaning of `+`.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Plus {
    /// A literal plus, as in paths.
    Plus,
    /// A space, as in queries.
    Space,
}

/// Decodes escapes such as `%20`. A `%` without two hexadecimal digits is unchanged. Returns
/// `None` if the escaped bytes are not UTF-8.
pub(super) fn decode(text: &str, plus: Plus) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match byte {
            b'%' => escape(after).unwrap_or((byte, after)),
            b'+' if plus == Plus::Space => (b' ', after),
            _ => (byte, after),
        };
        decoded.push(byte);
        rest = after;
    }
    String::from_utf8(decoded).ok()
}

/// Decodes escapes. Returns `None` for a `%` without two hexadecimal digits, or if the escaped bytes
/// are not UTF-8.
pub(super) fn decode_strictly(text: &str) -> Option<String> {
    let mut escapes = text.split('%').skip(1);
    let is_whole = escapes.all(|after| escape(after.as_bytes()).is_some());
    is_whole.then(|| decode(text, Plus::Plus)).flatten()
}

/// Returns the byte whose digits `text` begins with, and the rest.
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let (&[high, low], after) = text.split_first_chunk()?;
    let digit = |ascii: u8| char::from(ascii).to_digit(16);
    let byte = u8::try_from(digit(high)? << 4 | digit(low)?).ok()?;
    Some((byte, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_decoding_leaves_other_text_unchanged() {
        for (text, path, query) in [
            ("", "", ""),
            ("a%20b%2Fc%2f", "a b/c/", "a b/c/"),
            ("a+b%2B", "a+b+", "a b+"),
            ("%C3%A9t%c3%a9", "été", "été"),
            ("100%", "100%", "100%"),
            ("%4", "%4", "%4"),
            ("%zz%+1", "%zz%+1", "%zz% 1"),
            ("%25%32%30", "%20", "%20"),
        ] {
            assert_eq!(decode(text, Plus::Plus).as_deref(), Some(path), "{text}");
            assert_eq!(decode(text, Plus::Space).as_deref(), Some(query), "{text}");
        }
        for (text, strict) in [
            ("", Some("")),
            ("a%20%25b+", Some("a %b+")),
            ("%", None),
            ("a%4", None),
            ("%zz", None),
            ("%%20", None),
            ("%ff", None),
        ] {
            assert_eq!(decode_strictly(text).as_deref(), strict, "{text}");
        }
        for text in ["%ff", "a%C3", "%C3%28", "%ed%a0%80", "%c0%80"] {
            assert_eq!(decode(text, Plus::Plus), None, "{text}");
            assert_eq!(decode(text, Plus::Space), None, "{text}");
        }
    }
}
