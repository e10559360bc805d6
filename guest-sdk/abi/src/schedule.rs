//! The rules of schedules that need no calendar, for messages about a schedule: five fields, as in
//! cron. What the host's parser accepts is not refused here, except characters that a schedule in a
//! plugin's source does not need, and empty parts, such as that of `1,,2`.

use core::fmt;
use core::num::NonZero;

/// The maximum length of a schedule, in bytes.
pub const SCHEDULE_BYTES_MAX: usize = 128;

/// A field of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleField {
    name: &'static str,
    min: u32,
    max: u32,
    /// The names of its values, from the value `first_named`.
    names: &'static [&'static str],
    first_named: u32,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [ScheduleField; 5] = [
    ScheduleField::numbers("minute", 0, 59),
    ScheduleField::numbers("hour", 0, 23),
    ScheduleField::numbers("day of the month", 1, 31),
    ScheduleField {
        names: &MONTHS,
        first_named: 1,
        ..ScheduleField::numbers("month", 1, 12)
    },
    ScheduleField {
        names: &WEEKDAYS,
        ..ScheduleField::numbers("day of the week", 0, 7)
    },
];
const MONTH: ScheduleField = FIELDS[3];

/// Why a text is not a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleError<'t> {
    /// It has more than [`SCHEDULE_BYTES_MAX`] bytes.
    TooLong,
    /// It has another number of fields.
    Fields {
        /// Their number.
        found: usize,
    },
    /// It contains a character that no field has.
    Character(char),
    /// A list has an empty part.
    EmptyPart(ScheduleField),
    /// A number is out of range.
    OutOfRange(ScheduleField, u32),
    /// A step is 0.
    StepOfZero(ScheduleField),
    /// A step does not follow `*` or a range.
    StepOfNumber(ScheduleField, &'t str),
    /// A range ends before it begins.
    Reversed(ScheduleField, &'t str),
    /// No month that it names has a day that it names.
    NoSuchDay,
}

impl fmt::Display for ScheduleError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ScheduleError::TooLong => {
                write!(f, "a schedule can have at most {SCHEDULE_BYTES_MAX} bytes")
            }
            ScheduleError::Fields { found } => {
                f.write_str("a schedule needs 5 fields (")?;
                for (at, field) in FIELDS.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", field.name)?;
                }
                write!(f, "); this one has {found}")
            }
            ScheduleError::Character(found) => write!(f, "a schedule cannot contain {found:?}"),
            ScheduleError::EmptyPart(ScheduleField { name, .. }) => {
                write!(f, "the {name} of the schedule has an empty part")
            }
            ScheduleError::OutOfRange(ScheduleField { name, min, max, .. }, found) => {
                write!(f, "the {name} must be {min} to {max}, not {found}")
            }
            ScheduleError::StepOfZero(ScheduleField { name, .. }) => {
                write!(f, "the {name} has a step of 0; a step is at least 1")
            }
            ScheduleError::StepOfNumber(ScheduleField { name, .. }, part) => write!(
                f,
                "the {name} has the step {part}; a step follows * or a range, as in 0-30/5"
            ),
            ScheduleError::Reversed(ScheduleField { name, .. }, range) => {
                write!(
                    f,
                    "the {name} has the range {range}, which ends before it begins"
                )
            }
            ScheduleError::NoSuchDay => {
                f.write_str("it never matches: its months do not have its days")
            }
        }
    }
}

impl ScheduleField {
    const fn numbers(name: &'static str, min: u32, max: u32) -> ScheduleField {
        ScheduleField {
            name,
            min,
            max,
            names: &[],
            first_named: 0,
        }
    }

    /// Returns the value of a number or a name; `None` for anything else, such as `L`.
    fn value(self, text: &str) -> Option<u32> {
        let mut names = self.names.iter();
        let named = names.position(|name| name.eq_ignore_ascii_case(text));
        let named = named.and_then(|at| u32::try_from(at).ok());
        named
            .map(|at| at + self.first_named)
            .or_else(|| text.parse().ok())
    }

    /// Returns the bounds of `*`, `a` or `a-b`; `None` if one is something else.
    fn bounds(self, range: &str) -> Option<(u32, u32)> {
        if matches!(range, "*" | "?") {
            return Some((self.min, self.max));
        }
        let Some((first, last)) = range.split_once('-') else {
            return self.value(range).map(|only| (only, only));
        };
        // Sunday is 0, and 7 at the end of a range.
        let is_sunday = self.names == WEEKDAYS && last.eq_ignore_ascii_case("sun");
        let last = match is_sunday {
            true => Some(self.max),
            false => self.value(last),
        };
        self.value(first).zip(last)
    }

    fn check_part(self, part: &str) -> Result<(), ScheduleError<'_>> {
        // After the occurrence of a weekday in the month, as in `5#2`.
        let counted = part.split('#').next().unwrap_or_default();
        let (range, step) = match counted.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (counted, None),
        };
        if range.is_empty() {
            return Err(ScheduleError::EmptyPart(self));
        }
        let numbers = range.split('-').filter_map(|bound| bound.parse().ok());
        for number in numbers {
            if !(self.min..=self.max).contains(&number) {
                return Err(ScheduleError::OutOfRange(self, number));
            }
        }
        if let Some((first, last)) = self.bounds(range)
            && first > last
        {
            return Err(ScheduleError::Reversed(self, range));
        }
        match step {
            Some(step) if step.parse() == Ok(0_u32) => Err(ScheduleError::StepOfZero(self)),
            Some(_) if self.value(range).is_some() => {
                Err(ScheduleError::StepOfNumber(self, counted))
            }
            _ => Ok(()),
        }
    }
}

/// Checks a schedule. `Ok` does not mean that the host accepts it.
///
/// # Errors
/// [`ScheduleError`], whose message is for the author of the schedule.
pub fn check(text: &str) -> Result<(), ScheduleError<'_>> {
    if text.len() > SCHEDULE_BYTES_MAX {
        return Err(ScheduleError::TooLong);
    }
    let mut fields = [""; FIELDS.len()];
    let mut found = 0;
    for field in text.split_whitespace() {
        if let Some(slot) = fields.get_mut(found) {
            *slot = field;
        }
        found += 1;
    }
    if found != FIELDS.len() {
        return Err(ScheduleError::Fields { found });
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "*,-/#? ".contains(c);
    if let Some(found) = text.chars().find(|c| !is_allowed(*c)) {
        return Err(ScheduleError::Character(found));
    }
    for (field, rules) in fields.into_iter().zip(FIELDS) {
        for part in field.split(',') {
            rules.check_part(part)?;
        }
    }
    let [_, _, days, months, weekdays] = fields;
    // With a weekday, a day matches if either does.
    let is_any_weekday = matches!(weekdays, "*" | "?");
    match is_any_weekday && has_no_such_day(days, months) {
        true => Err(ScheduleError::NoSuchDay),
        false => Ok(()),
    }
}

/// Whether the first of the days is later than the last day of each month. Not for days that are not
/// numbers, such as `L`.
fn has_no_such_day(days: &str, months: &str) -> bool {
    let first = |part: &str| {
        let range = part.split('/').next().unwrap_or_default();
        FIELDS[2].bounds(range).map(|(first, _)| first)
    };
    let Some(first) = days
        .split(',')
        .map(first)
        .try_fold(u32::MAX, |least, first| Some(least.min(first?)))
    else {
        return false;
    };
    let mut longest = months.split(',').map(longest_month);
    let longest = longest.try_fold(0, |most, length| Some(most.max(length?)));
    longest.is_some_and(|longest| first > longest)
}

/// Returns the number of days of the longest month of a part of a list, in a leap year.
fn longest_month(part: &str) -> Option<u32> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, step.parse::<NonZero<usize>>().ok()?.get()),
        None => (part, 1),
    };
    let (first, last) = MONTH.bounds(range)?;
    let lengths = (first..=last).step_by(step).map(|month| match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    });
    lengths.max()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString as _;

    #[test]
    fn valid_cron_expressions_are_accepted() {
        for good in [
            "* * * * *",
            "*/5 0-23/2 1,15,31 jan-DEC mon-fri",
            "0 3 L * 5#2",
            "0  0 1 1 7",
            "59 23 ? 12 0",
            "0 0 * * sat-sun",
            "0 0 29 2 *",
            "0 0 31,1 feb *",
            "0 0 31 2 mon",
            "0 0 31 */2 ?",
            "0 0 30-31 2,4 ?",
            "0 0 L 2 *",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn invalid_cron_expressions_are_rejected_with_a_reason() {
        let long = "* ".repeat(100);
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
            (&long, "at most 128 bytes"),
            ("*/0 * * * *", "the minute has a step of 0"),
            ("5/2 * * * *", "the minute has the step 5/2"),
            ("30-10 * * * *", "the minute has the range 30-10"),
            ("0 0 * dec-jan *", "the month has the range dec-jan"),
            ("0 0 * * fri-mon", "which ends before it begins"),
            ("0 0 31 2 *", "it never matches"),
            ("0 0 30-31/1 FEB ?", "it never matches"),
            ("0 0 31 4,6,9,11 *", "it never matches"),
            ("0 0 31 4-6/2 *", "it never matches"),
        ] {
            let found = check(bad).unwrap_err().to_string();
            assert!(found.contains(why), "{bad}: {found}");
        }
    }
}
