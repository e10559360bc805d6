//! The times of schedules, as the host computes them.

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// How many days are searched for the next time: a cycle of leap years, twice.
const DAYS_MAX: i64 = 8 * 366 + 1;

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A schedule: the values that each field allows, as bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Calendar {
    minutes: u64,
    hours: u64,
    days: u64,
    is_any_day: bool,
    last_day: bool,
    months: u64,
    weekdays: u64,
    is_any_weekday: bool,
    /// Weekdays and their occurrence in the month, from 1; 0 stands for the last one.
    nth_weekdays: Vec<(u32, u32)>,
}

impl Calendar {
    /// Parses a schedule of five fields.
    ///
    /// # Errors
    /// What it does not support.
    pub(super) fn parse(text: &str) -> Result<Calendar, String> {
        kvasm_abi::schedule::check(text).map_err(|error| error.to_string())?;
        let text = text.to_ascii_lowercase();
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("the schedule {text:?} does not have five fields"));
        };
        let mut last_day = false;
        let mut nth_weekdays = Vec::new();
        let is_any = |field: &str| field == "*" || field == "?";
        let mut day = 0;
        for part in days.split(',') {
            match part {
                "l" => last_day = true,
                part => day |= range(part, 1, 31, &[])?,
            }
        }
        let mut weekday = 0;
        for part in weekdays.split(',') {
            let (of, nth) = match part.split_once('#') {
                Some((of, "l")) => (of, Some(0)),
                Some((of, nth)) => (of, Some(number(nth, 1, 5, &[])?)),
                None => match part.strip_suffix('l') {
                    Some(of) => (of, Some(0)),
                    None => (part, None),
                },
            };
            let bits = range(of, 0, 7, &WEEKDAYS)?;
            // Sunday is 0 and 7.
            let bits = (bits | (bits >> 7)) & 0x7f;
            match nth {
                Some(nth) => {
                    nth_weekdays.extend((0..7).filter(|d| has(bits, *d)).map(|d| (d, nth)))
                }
                None => weekday |= bits,
            }
        }
        Ok(Calendar {
            minutes: list(minutes, 0, 59, &[])?,
            hours: list(hours, 0, 23, &[])?,
            days: day,
            is_any_day: is_any(days),
            last_day,
            months: list(months, 1, 12, &MONTHS)?,
            weekdays: weekday,
            is_any_weekday: is_any(weekdays),
            nth_weekdays,
        })
    }

    /// Returns the first time after this one, in milliseconds since the Unix epoch.
    pub(super) fn next_after(&self, at_ms: i64) -> Option<i64> {
        let first = at_ms.div_euclid(MINUTE_MS) + 1;
        let first_day = (first * MINUTE_MS).div_euclid(DAY_MS);
        for day in first_day..first_day + DAYS_MAX {
            if !self.has_day(day) {
                continue;
            }
            let minutes = (0..24 * 60).filter(|minute| {
                let (hour, minute) = (minute / 60, minute % 60);
                has(self.hours, hour) && has(self.minutes, minute)
            });
            let mut times = minutes.map(|minute| day * DAY_MS + i64::from(minute) * MINUTE_MS);
            if let Some(time) = times.find(|time| *time > at_ms) {
                return Some(time);
            }
        }
        None
    }

    fn has_day(&self, days: i64) -> bool {
        let (year, month, day) = civil(days);
        if !has(self.months, month) {
            return false;
        }
        let length = days_of_month(year, month);
        // The first of January 1970 was a Thursday.
        let weekday = u32::try_from((days + 4).rem_euclid(7)).unwrap_or(0);
        let day_matches = has(self.days, day) || (self.last_day && day == length);
        let is_nth = |(of, nth): &(u32, u32)| {
            let matches = match nth {
                0 => day + 7 > length,
                nth => (day - 1) / 7 + 1 == *nth,
            };
            *of == weekday && matches
        };
        let weekday_matches = has(self.weekdays, weekday) || self.nth_weekdays.iter().any(is_nth);
        match (self.is_any_day, self.is_any_weekday) {
            (_, true) => day_matches,
            (true, false) => weekday_matches,
            // As in every cron: a day that matches either.
            (false, false) => day_matches || weekday_matches,
        }
    }
}

fn has(bits: u64, value: u32) -> bool {
    bits & (1 << value) != 0
}

fn list(field: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, String> {
    let mut parts = field.split(',').map(|part| range(part, min, max, names));
    parts.try_fold(0, |all, bits| Ok(all | bits?))
}

/// Returns the bits of `*`, `a`, `a-b`, and each with `/step`.
fn range(part: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, String> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(number(step, 1, max, &[])?)),
        None => (part, None),
    };
    let (first, last) = match range.split_once('-') {
        _ if range == "*" || range == "?" => (min, max),
        Some((first, last)) => (
            number(first, min, max, names)?,
            number(last, min, max, names)?,
        ),
        // The host allows no step after a single number.
        None if step.is_some() => return Err(unsupported(part)),
        None => {
            let only = number(range, min, max, names)?;
            (only, only)
        }
    };
    if first > last {
        return Err(unsupported(part));
    }
    let step = usize::try_from(step.unwrap_or(1)).unwrap_or(1);
    let values = (first..=last).step_by(step);
    Ok(values.fold(0, |bits, value| bits | 1 << value))
}

fn number(text: &str, min: u32, max: u32, names: &[&str]) -> Result<u32, String> {
    let named = names.iter().position(|name| *name == text);
    let named = named.and_then(|at| u32::try_from(at).ok());
    // Months begin at 1, weekdays at 0.
    let value = named.map(|at| at + min).or_else(|| text.parse().ok());
    value
        .filter(|value| (min..=max).contains(value))
        .ok_or_else(|| unsupported(text))
}

fn unsupported(part: &str) -> String {
    format!("the harness does not support {part:?} in a schedule")
}

/// Returns year, month and day of a number of days since the Unix epoch (Hinnant's algorithm).
fn civil(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + i64::from(month <= 2);
    let small = |value: i64| u32::try_from(value).unwrap_or(1);
    (year, small(month), small(day))
}

fn days_of_month(year: i64, month: u32) -> u32 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + u32::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-01-01T00:00:00Z, a Thursday.
    const NEW_YEAR: i64 = 1_767_225_600_000;

    fn next(schedule: &str) -> i64 {
        let calendar = Calendar::parse(schedule).unwrap();
        (calendar.next_after(NEW_YEAR).unwrap() - NEW_YEAR) / MINUTE_MS
    }

    #[test]
    fn next_time_is_after_the_given_one() {
        const DAY: i64 = 24 * 60;
        for (schedule, minutes) in [
            ("* * * * *", 1),
            ("0 0 * * *", DAY),
            ("*/15 * * * *", 15),
            ("7-59/20 1 * * *", 67),
            ("30 2 1 * *", 150),
            ("0 0 1 feb *", 31 * DAY),
            ("0 0 * * mon", 4 * DAY),
            ("0 0 * * 7", 3 * DAY),
            ("0 0 l * *", 30 * DAY),
            ("0 0 * * fri#2", 8 * DAY),
            ("0 0 * * fril", 29 * DAY),
            // Either the 5th or a Monday.
            ("0 0 3 * mon", 2 * DAY),
            ("0 0 29 2 *", (365 + 365 + 31 + 28) * DAY),
        ] {
            assert_eq!(next(schedule), minutes, "{schedule}");
        }
    }

    fn field(min: u32, max: u32) -> impl Strategy<Value = String> {
        let number = min..=max;
        let range = (number.clone(), number.clone())
            .prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
        let step = (prop_oneof![Just("*".to_owned()), range.clone()], 1..=max)
            .prop_map(|(range, step)| format!("{range}/{step}"));
        let part = prop_oneof![number.prop_map(|n| n.to_string()), range, step];
        let list = proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join(","));
        prop_oneof![2 => Just("*".to_owned()), 3 => list]
    }

    fn schedule() -> impl Strategy<Value = String> {
        let days = prop_oneof![
            8 => field(1, 31),
            1 => Just("L".to_owned()),
            1 => Just("?".to_owned())
        ];
        let weekdays = prop_oneof![
            6 => field(0, 7),
            1 => Just("mon-fri".to_owned()),
            1 => (0..8_u32, 1..6_u32).prop_map(|(day, nth)| format!("{day}#{nth}")),
            1 => Just("friL".to_owned())
        ];
        let months = prop_oneof![8 => field(1, 12), 1 => Just("feb,APR".to_owned())];
        (field(0, 59), field(0, 23), days, months, weekdays)
            .prop_map(|(m, h, d, mo, w)| format!("{m} {h} {d} {mo} {w}"))
    }

    proptest! {
        #[test]
        fn times_are_those_of_the_host(text in schedule(), at_ms in 0..2_500_000_000_000_i64) {
            let ours = Calendar::parse(&text);
            if let Ok(host) = kvasm_core::Schedule::parse(&text) {
                let ours = ours.map_err(TestCaseError::fail)?;
                let at = kvasm_core::Timestamp(at_ms);
                let expected = host.next_after(at).map(|at| at.0);
                prop_assert_eq!(ours.next_after(at_ms), expected);
            }
        }
    }

    fn any_field(
        min: u32,
        max: u32,
        names: &'static [&'static str],
    ) -> impl Strategy<Value = String> {
        let number = move || min.saturating_sub(1)..=max + 1;
        let name = proptest::sample::select(names).prop_map(str::to_owned);
        let value = prop_oneof![number().prop_map(|n| n.to_string()), name];
        let value = value.boxed();
        let range = (value.clone(), value.clone()).prop_map(|(a, b)| format!("{a}-{b}"));
        let any = prop_oneof![Just("*".to_owned()), Just("?".to_owned())];
        let range = prop_oneof![any, value, range];
        let part = (range, prop_oneof![Just(None), (0..4_u32).prop_map(Some)]);
        let part = part.prop_map(|(range, step)| match step {
            Some(step) => format!("{range}/{step}"),
            None => range,
        });
        proptest::collection::vec(part, 1..3).prop_map(|parts| parts.join(","))
    }

    proptest! {
        /// What the macros of the SDK refuse when a plugin is compiled, the host refuses too.
        #[test]
        fn sdk_refuses_nothing_that_the_host_accepts(
            minute in any_field(0, 59, &["0"]),
            day in prop_oneof![3 => any_field(1, 31, &["L", "29", "30", "31"]),
                1 => proptest::sample::select(&["29", "30", "31", "31,30"][..]).prop_map(str::to_owned)],
            month in any_field(1, 12, &["feb", "APR", "jun", "2", "11"]),
            weekday in prop_oneof![Just("*".to_owned()), any_field(0, 7, &["sun", "FRI", "5#2", "friL"])],
        ) {
            let text = format!("{minute} 0 {day} {month} {weekday}");
            if kvasm_abi::schedule::check(&text).is_err() {
                prop_assert!(kvasm_core::Schedule::parse(&text).is_err(), "{}", text);
            }
        }

        /// A schedule of numbers that never matches is one that the SDK refuses.
        #[test]
        fn sdk_refuses_days_that_no_month_has(day in 1..=31_u32, months in 1..4096_u32) {
            let months = (1..=12).filter(|month| months >> (month - 1) & 1 == 1);
            let months: Vec<_> = months.map(|month: u32| month.to_string()).collect();
            let text = format!("0 0 {day} {} *", months.join(","));
            prop_assert_eq!(kvasm_abi::schedule::check(&text).is_ok(), kvasm_core::Schedule::parse(&text).is_ok(), "{}", text);
        }
    }

    #[test]
    fn what_is_not_supported_is_an_error() {
        for schedule in [
            "* * * *",
            "0 0 15W * *",
            "60 * * * *",
            "x * * * *",
            "5/2 * * * *",
            "*/0 * * * *",
            "0 0 31 2 *",
        ] {
            assert!(Calendar::parse(schedule).is_err(), "{schedule}");
        }
    }
}
