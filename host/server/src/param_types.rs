//! The values that path and query parameters accept, according to the OpenAPI document.

use super::params::refused;
use super::problem::Problem;
use kvasm_core::truncate;
use serde_json::Value;
use uuid::Uuid;

/// Maximum bytes of a value that a message repeats.
const SHOWN_BYTES_MAX: usize = 100;

/// A query or path parameter of a route.
pub(super) struct Parameter {
    pub(super) required: bool,
    takes: ParamType,
}

enum ParamType {
    Text,
    Id,
    Flag,
    OneOf(Vec<String>),
    Integer {
        /// The range of the handler's type. Values outside `shown` are refused by the handler.
        min: i128,
        max: i128,
        shown: (String, String),
    },
}

impl Parameter {
    /// Creates a parameter from the description generated from its Rust type, and from that in the
    /// document, where the bounds of numbers can be narrower.
    pub(super) fn new(of_type: &Value, documented: &Value) -> Parameter {
        let schema = documented.get("schema").unwrap_or(&Value::Null);
        let text = |member: &str| schema.get(member).and_then(Value::as_str);
        let words = schema.get("enum").and_then(Value::as_array);
        let takes = match words {
            Some(words) => ParamType::OneOf(
                words
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
            ),
            None if text("format") == Some("uuid") => ParamType::Id,
            None if is_of(schema, "boolean") => ParamType::Flag,
            None if is_of(schema, "integer") => integer(of_type, schema),
            None => ParamType::Text,
        };
        let required = documented.get("required") == Some(&Value::Bool(true));
        Parameter { required, takes }
    }

    /// Validates a percent-decoded value.
    ///
    /// # Errors
    /// A problem that names the parameter, the value and the accepted values.
    pub(super) fn check(&self, name: &str, value: &str) -> Result<(), Problem> {
        let is_good = match &self.takes {
            ParamType::Text => true,
            ParamType::Id => Uuid::try_parse(value).is_ok(),
            ParamType::Flag => value.parse::<bool>().is_ok(),
            ParamType::OneOf(words) => words.iter().any(|word| word == value),
            ParamType::Integer { min, max, .. } => value
                .parse::<i128>()
                .is_ok_and(|value| (min..=max).contains(&&value)),
        };
        match is_good {
            true => Ok(()),
            false => Err(invalid_parameter(name, value, &self.accepts())),
        }
    }

    fn accepts(&self) -> String {
        match &self.takes {
            ParamType::Text => "text".to_owned(),
            ParamType::Id => "a UUID".to_owned(),
            ParamType::Flag => "true or false".to_owned(),
            ParamType::OneOf(words) => format!("one of {}", words.join(", ")),
            ParamType::Integer {
                shown: (min, max), ..
            } => format!("an integer from {min} to {max}"),
        }
    }
}

/// The problem of a parameter with an invalid value.
pub(super) fn invalid_parameter(name: &str, value: &str, accepts: &str) -> Problem {
    let start = truncate(value, SHOWN_BYTES_MAX);
    let rest = match start.len() < value.len() {
        true => "...",
        false => "",
    };
    refused(format!(
        "the parameter {name:?} is {start:?}{rest}; it must be {accepts}"
    ))
}

/// Whether a schema is of this type, possibly nullable.
fn is_of(schema: &Value, name: &str) -> bool {
    match schema.get("type") {
        Some(Value::Array(types)) => types.iter().any(|found| found == name),
        found => found.is_some_and(|found| found == name),
    }
}

fn integer(of_type: &Value, documented: &Value) -> ParamType {
    let of_type = of_type.get("schema").unwrap_or(&Value::Null);
    let is_short = of_type
        .get("format")
        .is_some_and(|format| format == "int32");
    let (min, max): (i128, i128) = match (of_type.get("minimum").is_some(), is_short) {
        (true, true) => (0, u32::MAX.into()),
        (true, false) => (0, u64::MAX.into()),
        (false, true) => (i32::MIN.into(), i32::MAX.into()),
        (false, false) => (i64::MIN.into(), i64::MAX.into()),
    };
    let bound = |member, of_type: i128| match documented.get(member) {
        Some(documented) => documented.to_string(),
        None => of_type.to_string(),
    };
    ParamType::Integer {
        min,
        max,
        shown: (bound("minimum", min), bound("maximum", max)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parameter(of_type: Value, documented: Value) -> Parameter {
        Parameter::new(
            &json!({ "schema": of_type }),
            &json!({ "schema": documented }),
        )
    }

    #[test]
    fn integer_parameters_are_checked_against_their_type() {
        let u64s = json!({ "type": ["integer", "null"], "format": "int64", "minimum": 0 });
        let u64s = parameter(u64s.clone(), u64s);
        assert_eq!(u64s.accepts(), format!("an integer from 0 to {}", u64::MAX));
        let i64s = json!({ "type": "integer", "format": "int64" });
        let i64s = parameter(i64s.clone(), i64s);
        let u32s = json!({ "type": "integer", "format": "int32", "minimum": 0 });
        let pages = json!({ "type": "integer", "minimum": 1, "maximum": 1_000 });
        let u32s = parameter(u32s, pages);
        assert_eq!(u32s.accepts(), "an integer from 1 to 1000");
        for (value, taken) in [
            ("0", [true, true, true]),
            ("-1", [false, true, false]),
            ("4294967296", [true, true, false]),
            ("9223372036854775808", [true, false, false]),
            ("18446744073709551616", [false, false, false]),
            ("", [false, false, false]),
            ("abc", [false, false, false]),
            ("1.0", [false, false, false]),
            (" 1", [false, false, false]),
        ] {
            let all = [&u64s, &i64s, &u32s];
            let found = all.map(|parameter| parameter.check("n", value).is_ok());
            assert_eq!(found, taken, "{value:?}");
        }
    }

    #[test]
    fn quoted_parameter_value_is_truncated() {
        let problem = invalid_parameter("since", &"x".repeat(9_000), "an integer");
        let shown = format!("{problem:?}");
        assert!(shown.len() < 500, "{shown}");
    }
}
