//! Schedules, as cron expressions.

use super::{Invalid, Timestamp};
use chrono::{DateTime, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use kvasm_abi::schedule::{SCHEDULE_BYTES_MAX, ScheduleError, check};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A cron expression of five fields: minute, hour, day of the month, month, day of the week. Times
/// are in UTC, so that no hour is skipped or repeated.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule {
    text: String,
    cron: Box<Cron>,
}

impl Schedule {
    /// Parses an expression.
    ///
    /// # Errors
    /// [`Invalid::Schedule`] if it is not a cron expression, or never matches.
    pub fn parse(text: &str) -> Result<Schedule, Invalid> {
        let refuse = |why: String| Invalid::Schedule {
            text: text.chars().take(SCHEDULE_BYTES_MAX).collect(),
            why,
        };
        if text.len() > SCHEDULE_BYTES_MAX {
            return Err(refuse(format!(
                "it is longer than {SCHEDULE_BYTES_MAX} bytes"
            )));
        }
        if text.split_whitespace().count() != 5 {
            return Err(refuse("it must have five fields".to_owned()));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(text).map_err(|_| refuse(reason(text)))?;
        let schedule = Schedule {
            text: text.to_owned(),
            cron: Box::new(cron),
        };
        match schedule.next_after(Timestamp(0)) {
            Some(_) => Ok(schedule),
            None => Err(refuse(match check(text) {
                Err(error @ ScheduleError::NoSuchDay) => error.to_string(),
                _ => "it never matches".to_owned(),
            })),
        }
    }

    /// Returns the expression.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the first matching time after `at`; none past the end of the calendar.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let at = DateTime::<Utc>::from_timestamp_millis(at.0)?;
        let next = self.cron.find_next_occurrence(&at, false).ok()?;
        Some(Timestamp(next.timestamp_millis()))
    }

    /// Returns the last matching time at or before `until`, searching from the matching time
    /// `from`. Runs that were missed during a pause are merged into one.
    pub fn last_until(&self, from: Timestamp, until: Timestamp) -> Timestamp {
        let until = DateTime::<Utc>::from_timestamp_millis(until.0);
        let last = until.and_then(|until| self.cron.find_previous_occurrence(&until, true).ok());
        last.map_or(from, |last| Timestamp(last.timestamp_millis()).max(from))
    }
}

/// Returns why the parser refuses an expression, in the words that the SDK's macros use: those of the
/// parser are about its own code.
fn reason(text: &str) -> String {
    match check(text) {
        Err(error) => error.to_string(),
        Ok(()) => "a field is not in the form of cron".to_owned(),
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Schedule) -> bool {
        self.text == other.text
    }
}

impl Eq for Schedule {}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schedule").field(&self.text).finish()
    }
}

impl TryFrom<String> for Schedule {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Schedule, Invalid> {
        Schedule::parse(&text)
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> String {
        schedule.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01T00:00:00Z.
    const NEW_YEAR: Timestamp = Timestamp(1_767_225_600_000);
    const MINUTE: i64 = 60_000;

    #[test]
    fn next_run_is_after_the_given_time() {
        let schedule = Schedule::parse("*/5 * * * *").unwrap();
        let next = |at| schedule.next_after(Timestamp(at)).unwrap().0;
        assert_eq!(next(NEW_YEAR.0), NEW_YEAR.0 + 5 * MINUTE);
        assert_eq!(next(NEW_YEAR.0 - 1), NEW_YEAR.0);
        assert_eq!(next(NEW_YEAR.0 + 1), NEW_YEAR.0 + 5 * MINUTE);
    }

    #[test]
    fn last_missed_run_is_found() {
        let schedule = Schedule::parse("0 * * * *").unwrap();
        let hour = 60 * MINUTE;
        let until = |at| schedule.last_until(NEW_YEAR, Timestamp(at)).0;
        assert_eq!(until(NEW_YEAR.0), NEW_YEAR.0);
        assert_eq!(until(NEW_YEAR.0 + hour - 1), NEW_YEAR.0);
        assert_eq!(until(NEW_YEAR.0 + 7 * hour + 5), NEW_YEAR.0 + 7 * hour);
        assert_eq!(until(NEW_YEAR.0 - 5 * hour), NEW_YEAR.0);
    }

    #[test]
    fn invalid_schedule_is_rejected_with_a_reason() {
        for (bad, why) in [
            ("", "it must have five fields"),
            ("* * * *", "it must have five fields"),
            ("* * * * * *", "it must have five fields"),
            ("61 * * * *", "the minute must be 0 to 59, not 61"),
            ("a b c d e", "a field is not in the form of cron"),
            (
                "0 0 31 2 *",
                "it never matches: its months do not have its days",
            ),
            (
                "*/0 * * * *",
                "the minute has a step of 0; a step is at least 1",
            ),
            ("0 0 1 * 3#9", "a field is not in the form of cron"),
        ] {
            let refusal = Schedule::parse(bad).unwrap_err().to_string();
            let expected = format!("{bad:?} is not a schedule: {why}; example: \"*/5 * * * *\"");
            assert_eq!(refusal, expected);
        }
        assert!(Schedule::parse(&"* ".repeat(200)).is_err());
    }
}
