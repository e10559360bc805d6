//! Schedules: the checks that are possible at compile time. The host parses them when the
//! plugin is loaded and rejects the remaining errors: nothing here is stricter.

/// The maximum length of a schedule in bytes.
const BYTES_MAX: usize = 128;

/// The names of the fields and their ranges.
const FIELDS: [(&str, u32, u32); 5] = [
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
];

/// Validates a schedule.
pub fn check(text: &str) -> Result<(), String> {
    if text.len() > BYTES_MAX {
        return Err(format!("a schedule can have at most {BYTES_MAX} bytes"));
    }
    let found = text.split_whitespace().count();
    if found != FIELDS.len() {
        let names = FIELDS.map(|(name, ..)| name).join(", ");
        return Err(format!(
            "a schedule needs 5 fields ({names}); this one has {found}"
        ));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "*,-/#? ".contains(c);
    if let Some(found) = text.chars().find(|c| !allowed(*c)) {
        return Err(format!("a schedule cannot contain {found:?}"));
    }
    let fields = text.split_whitespace().zip(FIELDS);
    fields
        .flat_map(|(field, bounds)| field.split(',').map(move |item| (item, bounds)))
        .try_for_each(|(item, bounds)| check_item(item, bounds))
}

/// Validates one item of a field, such as `1-5/2`.
fn check_item(item: &str, (name, min, max): (&str, u32, u32)) -> Result<(), String> {
    // The rest is a step or a count, which has its own limits.
    let range = item.split(['/', '#']).next().unwrap_or_default();
    if range.is_empty() {
        return Err(format!("the {name} of the schedule has an empty part"));
    }
    let numbers = range
        .split('-')
        .filter_map(|bound| bound.parse::<u32>().ok());
    for number in numbers {
        if !(min..=max).contains(&number) {
            return Err(format!("the {name} must be {min} to {max}, not {number}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_cron_expressions_are_accepted() {
        for good in [
            "* * * * *",
            "*/5 0-23/2 1,15,31 jan-DEC mon-fri",
            "0 3 L * 5#2",
            "0  0 1 1 7",
            "59 23 ? 12 0",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn invalid_cron_expressions_are_rejected_with_a_reason() {
        for (bad, why) in [
            ("", "this one has 0"),
            ("* * * *", "day of the week); this one has 4"),
            ("0 * * * * *", "this one has 6"),
            ("@daily", "this one has 1"),
            ("60 * * * *", "the minute must be 0 to 59, not 60"),
            ("* 1-24 * * *", "the hour must be 0 to 23, not 24"),
            ("* * 0 * *", "the day of the month must be 1 to 31, not 0"),
            ("* * * 1,13 *", "the month must be 1 to 12, not 13"),
            ("* * * * 8", "the day of the week must be 0 to 7, not 8"),
            ("1,, * * * *", "has an empty part"),
            ("/5 * * * *", "has an empty part"),
            ("\t* * * * *", "cannot contain '\\t'"),
            ("& * * * *", "cannot contain '&'"),
            (&"* ".repeat(100), "at most 128 bytes"),
        ] {
            let found = check(bad).unwrap_err();
            assert!(found.contains(why), "{bad}: {found}");
        }
    }
}
