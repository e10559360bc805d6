//! How the deliveries of a handler's trigger are retried: `attempts = 4, max_age = "1h"`.

use crate::args::{Args, error};

/// Checks how the deliveries of the trigger are retried.
pub fn check(args: &Args) -> syn::Result<()> {
    const WITHOUT: &str = "without `collection` the handler has no trigger of its own; the \
                           operator's has its own limits";
    if let Some(attempts) = &args.attempts {
        if args.collection.is_none() {
            return Err(syn::Error::new(attempts.span(), WITHOUT));
        }
        if !attempts
            .base10_parse::<u32>()
            .is_ok_and(|attempts| (1..=100).contains(&attempts))
        {
            return Err(syn::Error::new(
                attempts.span(),
                "`attempts` must be 1 to 100",
            ));
        }
    }
    if let Some(max_age) = &args.max_age {
        if args.collection.is_none() {
            return error(max_age, WITHOUT);
        }
        if age_ms(&max_age.value()).is_none() {
            return error(
                max_age,
                "`max_age` must be 1 second to 30 days, such as \"90s\", \"15m\", \"1h\" or \"7d\"",
            );
        }
    }
    Ok(())
}

/// Returns the milliseconds of an age such as `1h`, if it is one.
pub fn age_ms(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    let ms = number.parse::<u64>().ok()?.checked_mul(seconds * 1_000)?;
    (1_000..=30 * 24 * 60 * 60 * 1_000)
        .contains(&ms)
        .then_some(ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::Kind;
    use crate::export::tests::{assert_refused, expanded};

    const HANDLER: &str = "fn f(c: Change<u8>) {}";

    #[test]
    fn retries_are_in_the_manifest_line() {
        let args = "collection = \"c\", attempts = 4, max_age = \"1h\"";
        let code = expanded(Kind::Change, args, HANDLER);
        let line = r#"\"collection\":\"c\",\"attempts_max\":4,\"age_max_ms\":3600000}"#;
        assert!(code.contains(line), "{code}");
        for (text, ms) in [("1s", 1_000), ("15m", 900_000), ("30d", 2_592_000_000)] {
            assert_eq!(age_ms(text), Some(ms), "{text}");
        }
    }

    #[test]
    fn invalid_retries_are_a_compile_error_with_a_reason() {
        let ages = [
            "1",
            "h",
            "",
            "0s",
            "31d",
            "-1s",
            "1.5h",
            "1 h",
            "99999999999999999d",
        ];
        for age in ages {
            let args = format!("collection = \"c\", max_age = \"{age}\"");
            assert_refused(Kind::Change, &[(&args, HANDLER, "1 second to 30 days")]);
        }
        assert_refused(
            Kind::Change,
            &[
                ("attempts = 4", HANDLER, "no trigger of its own"),
                ("max_age = \"1h\"", HANDLER, "no trigger of its own"),
                (
                    "collection = \"c\", attempts = 0",
                    HANDLER,
                    "must be 1 to 100",
                ),
                (
                    "collection = \"c\", attempts = 101",
                    HANDLER,
                    "must be 1 to 100",
                ),
                (
                    "collection = \"c\", attempts = \"4\"",
                    HANDLER,
                    "expected integer",
                ),
                ("attempts = 4, attempts = 4", HANDLER, "given twice"),
            ],
        );
    }
}
