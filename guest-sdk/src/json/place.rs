//! The place where a JSON text ends, such as `users[3].name`.

/// An array or object that has begun and not ended.
enum Open<'j> {
    /// The index of the current element.
    Array(usize),
    /// The current key, as it is written, once it is known.
    Object(Option<&'j [u8]>),
}

/// Returns the place of the last value in the start of a JSON text, empty for the whole value. The
/// text may end anywhere. What is not JSON is ignored.
pub(super) fn place(json: &[u8]) -> String {
    let mut open = Vec::new();
    let mut rest = json;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'[' => open.push(Open::Array(0)),
            b'{' => open.push(Open::Object(None)),
            b']' | b'}' => drop(open.pop()),
            b',' => match open.last_mut() {
                Some(Open::Array(index)) => *index += 1,
                Some(Open::Object(key)) => *key = None,
                None => {}
            },
            b'"' => {
                let (string, after) = rest.split_at(string_len(rest));
                rest = after.get(1..).unwrap_or_default();
                if let Some(Open::Object(key @ None)) = open.last_mut() {
                    *key = Some(string);
                }
            }
            _ => {}
        }
    }
    let mut place = String::new();
    for part in open {
        match part {
            Open::Array(index) => place.extend(["[", &index.to_string(), "]"]),
            Open::Object(None) => {}
            Open::Object(Some(key)) => push_key(&mut place, &String::from_utf8_lossy(key)),
        }
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

/// Adds a key as it is written in JSON: after a dot if it is a word, else in brackets.
fn push_key(place: &mut String, key: &str) {
    let is_word = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match (is_word, place.is_empty()) {
        (true, true) => place.push_str(key),
        (true, false) => place.extend([".", key]),
        (false, _) => place.extend(["[\"", key, "\"]"]),
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
    }
}
