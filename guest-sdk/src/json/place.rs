//! The place where a JSON text ends, such as `users[3].name`.

/// An array or object that has begun and not ended.
struct Open<'j> {
    is_array: bool,
    /// The number of commas so far, which is the index of the current element.
    index: usize,
    /// The current key of an object, as it is written, once it is known.
    key: Option<&'j [u8]>,
}

/// Returns the place of the last value in the start of a JSON text, empty for the whole value. The
/// text may end anywhere. What is not JSON is ignored.
pub(super) fn place(json: &[u8]) -> String {
    let mut open = Vec::new();
    let mut rest = json;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'[' | b'{' => open.push(Open {
                is_array: *byte == b'[',
                index: 0,
                key: None,
            }),
            b']' | b'}' => drop(open.pop()),
            b',' => {
                if let Some(inner) = open.last_mut() {
                    inner.index += 1;
                    inner.key = None;
                }
            }
            b'"' => {
                let len = string_len(rest);
                if let Some(inner) = open.last_mut().filter(|o| !o.is_array && o.key.is_none()) {
                    inner.key = rest.get(..len);
                }
                rest = rest.get(len + 1..).unwrap_or_default();
            }
            _ => {}
        }
    }
    let mut place = String::new();
    for part in open {
        push_part(&mut place, &part);
    }
    place
}

/// Returns the length of a string up to its closing quotation mark.
fn string_len(text: &[u8]) -> usize {
    let mut escaped = false;
    let end = text.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.unwrap_or(text.len())
}

/// Adds the index in an array, or the key in an object as it is written: after a dot if it is a word,
/// else in brackets.
fn push_part(place: &mut String, part: &Open<'_>) {
    let index = format!("{}", part.index);
    let (before, text, after) = match part.key {
        None if part.is_array => ("[", index.as_str(), "]"),
        None => return,
        Some(key) => {
            // Without `from_utf8_lossy`, whose code is large.
            let text = str::from_utf8(key).unwrap_or("\u{FFFD}");
            let is_word = |key: &[u8]| key.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_');
            match !key.is_empty() && is_word(key) {
                true if place.is_empty() => ("", text, ""),
                true => (".", text, ""),
                false => ("[\"", text, "\"]"),
            }
        }
    };
    for text in [before, text, after] {
        place.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_that_of_the_last_value() {
        for (json, expected) in [
            ("", ""),
            ("7", ""),
            ("[", "[0]"),
            ("[1,2,", "[2]"),
            ("[[1],[", "[1][0]"),
            (r#"{"a"#, "a"),
            (r#"{"a":{"b":[1,{"c":"#, "a.b[1].c"),
            (r#"{"a":"x,[{","b":"#, "b"),
            (r#"{"a\"]":"#, r#"["a\"]"]"#),
            (r#"{"a\\":1,"b":"#, "b"),
            (r#"{"a":1}"#, ""),
            ("]]}}", ""),
        ] {
            assert_eq!(place(json.as_bytes()), expected, "{json}");
        }
        assert_eq!(place(b"{\"a\":{\"\xff\":"), "a[\"\u{FFFD}\"]");
    }
}
