//! The manifest line of an export.

use crate::args::Args;
use crate::export::Kind;
use crate::retries::age_ms;
use std::fmt::Write;
use syn::LitStr;

/// Returns the line, including the newline.
pub fn line(kind: Kind, name: &str, args: &Args) -> String {
    let mut line = format!("{{\"kind\":\"{}\"", kind.name());
    member(&mut line, "name", name);
    if args.transaction {
        line.push_str(",\"transaction\":true");
    }
    optional(&mut line, "collection", args.collection.as_ref());
    optional(&mut line, "prefix", args.prefix.as_ref());
    if let Some(on) = &args.on {
        line.push_str(",\"on\":[");
        string(&mut line, &on.value());
        line.push(']');
    }
    if let Some(attempts) = &args.attempts {
        number(&mut line, "attempts_max", attempts.base10_digits());
    }
    if let Some(ms) = args.max_age.as_ref().and_then(|age| age_ms(&age.value())) {
        number(&mut line, "age_max_ms", &ms.to_string());
    }
    optional(&mut line, "schedule", args.schedule.as_ref());
    line.push_str("}\n");
    line
}

fn optional(line: &mut String, name: &str, value: Option<&LitStr>) {
    if let Some(value) = value {
        member(line, name, &value.value());
    }
}

/// Appends a member whose value is a number.
fn number(line: &mut String, name: &str, digits: &str) {
    line.push(',');
    string(line, name);
    line.push(':');
    line.push_str(digits);
}

/// Appends a member whose value is a string.
pub fn member(line: &mut String, name: &str, value: &str) {
    line.push(',');
    string(line, name);
    line.push(':');
    string(line, value);
}

/// Appends a JSON string.
pub fn string(line: &mut String, text: &str) {
    line.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            // Writing to a string cannot fail.
            c if c < ' ' => drop(write!(line, "\\u{:04x}", u32::from(c))),
            c => line.push(c),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proc_macro2::Span;

    #[test]
    fn manifest_line_escapes_json() {
        let literal = |text: &str| Some(LitStr::new(text, Span::call_site()));
        let args = Args {
            collection: literal("a\"b\\c\n\u{1f}é"),
            on: literal("set"),
            ..Args::default()
        };
        assert_eq!(
            line(Kind::Change, "f", &args),
            "{\"kind\":\"on_change\",\"name\":\"f\",\"collection\":\"a\\\"b\\\\c\\u000a\\u001fé\",\"on\":[\"set\"]}\n"
        );
    }
}
