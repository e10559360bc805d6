//! JSON as Postgres writes it, without the spaces.

/// Removes the white space outside strings. Postgres writes `{"a": [1, 2]}` for
/// what came in as `{"a":[1,2]}`; without this a value could come back larger
/// than it was allowed to be when it was written.
pub(super) fn compact(mut json: String) -> String {
    let mut in_string = false;
    let mut escaped = false;
    json.retain(|c| {
        if in_string {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            return true;
        }
        in_string = c == '"';
        !matches!(c, ' ' | '\t' | '\n' | '\r')
    });
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_space_outside_strings_goes() {
        for (from, to) in [
            (
                r#"{"a": [1, 2, {"b c": null}]}"#,
                r#"{"a":[1,2,{"b c":null}]}"#,
            ),
            (r#""a, b: \" c, d""#, r#""a, b: \" c, d""#),
            (r#"{"\\": 1, "a b\\": "c d"}"#, r#"{"\\":1,"a b\\":"c d"}"#),
            (r#"["\\\" x", "ä ö",  true]"#, r#"["\\\" x","ä ö",true]"#),
            (" 1\t\r\n", "1"),
            ("", ""),
        ] {
            assert_eq!(compact(from.to_owned()), to);
        }
    }
}
