//! Restores the compact form of JSON that Postgres has reformatted.

/// This many consecutive zeros are replaced by an exponent.
const ZEROS: &str = "00000000000000000000000000000000";

/// Removes what Postgres adds to JSON.
///
/// White space outside strings: it writes `{"a": [1, 2]}` for `{"a":[1,2]}`, so a value could come
/// back larger than its limit allowed when it was written.
///
/// The zeros of large and small numbers, which it writes out in full: serde_json rejects the
/// largest `f64` as "out of range" when it has 309 digits, although it accepts it with an exponent.
pub(super) fn compact(mut json: String) -> String {
    let mut outside = Outside::default();
    json.retain(|c| !(outside.next(c) && matches!(c, ' ' | '\t' | '\n' | '\r')));
    if json.contains(ZEROS) {
        json = with_exponents(&json);
    }
    json
}

/// Detects which parts of a JSON text are outside strings.
#[derive(Default)]
struct Outside {
    in_string: bool,
    escaped: bool,
}

impl Outside {
    /// Advances by one character, and returns whether it is outside strings.
    fn next(&mut self, c: char) -> bool {
        if !self.in_string {
            self.in_string = c == '"';
            return true;
        }
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' => self.escaped = true,
            '"' => self.in_string = false,
            _ => {}
        }
        false
    }
}

fn with_exponents(json: &str) -> String {
    let mut outside = Outside::default();
    let mut out = String::with_capacity(json.len());
    let mut number = String::new();
    for c in json.chars() {
        if outside.next(c) && matches!(c, '0'..='9' | '-' | '.') {
            number.push(c);
            continue;
        }
        push_number(&mut out, &mut number);
        out.push(c);
    }
    push_number(&mut out, &mut number);
    out
}

fn push_number(out: &mut String, number: &mut String) {
    match short(number) {
        Some(short) => out.push_str(&short),
        None => out.push_str(number),
    }
    number.clear();
}

/// Returns a number with many zeros in the form `d.ddde±n`; `None` if it has few.
fn short(number: &str) -> Option<String> {
    let (sign, digits) = match number.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", number),
    };
    let (significant, exponent) = match digits.split_once('.') {
        None if digits.ends_with(ZEROS) => (digits.trim_end_matches('0'), digits.len() - 1),
        Some(("0", fraction)) if fraction.starts_with(ZEROS) => {
            let significant = fraction.trim_start_matches('0');
            (significant, fraction.len() - significant.len() + 1)
        }
        None | Some(_) => return None,
    };
    let mut rest = significant.chars();
    let first = rest.next()?;
    let rest = rest.as_str();
    let point = if rest.is_empty() { "" } else { "." };
    let minus = if digits.contains('.') { "-" } else { "" };
    Some(format!("{sign}{first}{point}{rest}e{minus}{exponent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_white_space_outside_strings_is_removed() {
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

    #[test]
    fn long_runs_of_zeros_become_an_exponent() {
        let zeros = |count: usize| "0".repeat(count);
        for (from, to) in [
            (format!("1{}", zeros(300)), "1e300".to_owned()),
            (format!("-17{}", zeros(40)), "-1.7e41".to_owned()),
            (format!("0.{}15", zeros(40)), "1.5e-41".to_owned()),
            (format!("-0.{}5", zeros(323)), "-5e-324".to_owned()),
            (
                format!("[1, {{\"a{0}\": 1{0}}}, \"{0}\", 0.{0}7]", zeros(32)),
                format!("[1,{{\"a{0}\":1e32}},\"{0}\",7e-33]", zeros(32)),
            ),
            (format!("1{}", zeros(31)), format!("1{}", zeros(31))),
            (format!("0.{}", zeros(40)), format!("0.{}", zeros(40))),
            (format!("1.{}", zeros(40)), format!("1.{}", zeros(40))),
            (format!("10.{}1", zeros(40)), format!("10.{}1", zeros(40))),
            (format!("1{}.5", zeros(40)), format!("1{}.5", zeros(40))),
        ] {
            assert_eq!(compact(from), to);
        }
    }
}
