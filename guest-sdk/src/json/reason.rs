//! Why JSON of a client does not fit, in words for the client: nothing of the plugin but the names of
//! required members is in them.

use serde_json::error::Category;

/// The maximum length of the place in a reason, in characters: clients choose the keys.
const PLACE_CHARS_MAX: usize = 200;
/// The maximum length of a member's name in a reason.
const NAME_BYTES_MAX: usize = 100;

/// Returns the reason for an error at a place.
///
/// The text of `error` is not passed on: it has the names of types, and what the plugin's own
/// implementations of `Deserialize` say. Only known beginnings and types are translated.
#[cold]
pub(super) fn reason(place: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    if error.classify() != Category::Data {
        // Said by the parser alone.
        return ["not JSON: ", &text].concat();
    }
    let suffix = format!(" at line {} column {}", error.line(), error.column());
    let why = translated(text.strip_suffix(&suffix).unwrap_or(&text));
    let is_short = place.chars().nth(PLACE_CHARS_MAX).is_none();
    let start: String = place.chars().take(PLACE_CHARS_MAX).collect();
    match (place.is_empty(), is_short) {
        (true, _) => why,
        (false, true) => ["at ", place, ": ", &why].concat(),
        (false, false) => ["at ", &start, "...: ", &why].concat(),
    }
}

fn translated(text: &str) -> String {
    let is_of = |kind: &str| text.starts_with(kind);
    if is_of("invalid type: ") || is_of("invalid value: ") {
        let expected = text
            .rsplit_once(", expected ")
            .map(|(_, expected)| expected);
        if let Some(wanted) = expected.and_then(wanted) {
            return ["expected ", wanted].concat();
        }
    }
    if let Some(name) = missing(text) {
        return ["the member ", name, " is missing"].concat();
    }
    let why = match text {
        _ if is_of("unknown field ") => "unknown member",
        _ if is_of("duplicate field ") => "the member occurs twice",
        _ if is_of("unknown variant ") => "not one of the accepted values",
        _ if is_of("invalid length ") => "not the accepted number of elements",
        _ => "not accepted",
    };
    why.to_owned()
}

/// Returns the name of a missing member, if it is a plain one.
fn missing(text: &str) -> Option<&str> {
    let name = text.strip_prefix("missing field `")?.strip_suffix('`')?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.$@".contains(c);
    (name.len() <= NAME_BYTES_MAX && name.chars().all(is_plain)).then_some(name)
}

/// Returns a type in words of JSON, from its name in Rust or serde's words for it; `None` for those
/// that only the plugin knows.
pub(crate) fn wanted(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "u8" => "an integer from 0 to 255",
        "u16" => "an integer from 0 to 65535",
        "u32" => "an integer from 0 to 4294967295",
        "u64" | "usize" | "u128" => "an integer of at least 0",
        "i8" => "an integer from -128 to 127",
        "i16" => "an integer from -32768 to 32767",
        "i32" => "an integer from -2147483648 to 2147483647",
        "i64" | "isize" | "i128" => "an integer",
        "f32" | "f64" => "a number",
        "bool" => "true or false",
        "a boolean" => "a boolean",
        "char" | "a character" => "one character",
        "a string" | "a borrowed string" | "string" => "a string",
        "unit" => "null",
        "a map" => "an object",
        "a sequence" => "an array",
        _ if kind.starts_with("struct ") => "an object",
        _ if kind.starts_with("an array of length ") => "an array",
        _ if kind.starts_with("a tuple of size ") => "an array",
        _ if kind.starts_with("tuple struct ") => "an array",
        _ if kind.starts_with("a nonzero ") => "an integer other than 0",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use crate::json::decode_of_client;
    use serde::{Deserialize, Deserializer, de};
    use std::collections::BTreeMap;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Secretive {
        name: String,
        #[serde(default)]
        hidden: Option<u8>,
        #[serde(default)]
        scores: Vec<Score>,
        #[serde(default)]
        by_key: BTreeMap<String, bool>,
        #[serde(default)]
        odd: Odd,
    }

    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    struct Score {
        points: u16,
        at: Option<(f64, f64)>,
        level: Option<Level>,
    }

    #[derive(Deserialize, Debug)]
    enum Level {
        Internal,
    }

    #[derive(Debug, Default)]
    struct Odd;

    impl<'de> Deserialize<'de> for Odd {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Odd, D::Error> {
            let text = String::deserialize(deserializer)?;
            Err(de::Error::custom(format!("{text}: the password is 1234")))
        }
    }

    fn shown(json: &str) -> String {
        let (_, shown) = decode_of_client::<Secretive>(json.as_bytes()).unwrap_err();
        for secret in ["Secretive", "hidden", "Internal", "1234", "Level", "u16"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        shown
    }

    #[test]
    fn client_is_told_the_place_and_what_is_expected() {
        for (json, expected) in [
            (r#"{"name":7}"#, "at name: expected a string"),
            ("{}", "the member name is missing"),
            ("[1]", "at [0]: expected a string"),
            ("7", "expected an object"),
            (
                r#"{"name":"a","scores":[{"points":1},{"points":"x, expected u8"}]}"#,
                "at scores[1].points: expected an integer from 0 to 65535",
            ),
            (
                r#"{"name":"a","scores":[{"points":70000}]}"#,
                "at scores[0].points: expected an integer from 0 to 65535",
            ),
            (
                r#"{"name":"a","scores":[{}]}"#,
                "at scores[0]: the member points is missing",
            ),
            (
                r#"{"name":"a","scores":[{"points":1,"at":[1]}]}"#,
                "at scores[0].at: not the accepted number of elements",
            ),
            (
                r#"{"name":"a","scores":[{"points":1,"level":"Top"}]}"#,
                "at scores[0].level: not one of the accepted values",
            ),
            (
                r#"{"name":"a","by_key":{"x y":1}}"#,
                "at by_key[\"x y\"]: expected a boolean",
            ),
            (r#"{"name":"a","colour":1}"#, "at colour: unknown member"),
            (
                r#"{"name":"a","name":1}"#,
                "at name: the member occurs twice",
            ),
            (
                r#"{"name":"a","odd":"invalid type: x, expected u8"}"#,
                "not accepted",
            ),
        ] {
            assert_eq!(shown(json), expected, "{json}");
        }
        for (json, start) in [
            ("", "not JSON: EOF while parsing a value"),
            (r#"{"name":"a",}"#, "not JSON: trailing comma at line 1"),
            ("{\"name\":\"a\n\"}", "not JSON: control character"),
        ] {
            assert!(shown(json).starts_with(start), "{}", shown(json));
        }
    }

    #[test]
    fn reason_is_short_whatever_the_keys() {
        let json = format!(r#"{{"name":"a","by_key":{{"{}":1}}}}"#, "k".repeat(100_000));
        let shown = shown(&json);
        assert!(
            shown.len() < 300 && shown.ends_with("...: expected a boolean"),
            "{shown}"
        );
    }
}
