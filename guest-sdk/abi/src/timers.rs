//! The time of a timer, as `timer_set` takes it.

use core::fmt::{self, Display};

/// The flag of `timer_set` for a Unix time in milliseconds.
pub const TIMER_AT: i32 = 0;
/// The flag of `timer_set` for a duration in milliseconds, from the commit on.
pub const TIMER_AFTER: i32 = 1;
/// The last time at which a timer can be due: the end of the year 9999.
pub const TIMER_AT_MS_MAX: i64 = 253_402_300_799_999;
/// The longest duration of a timer, in milliseconds: 100 years.
pub const TIMER_AFTER_MS_MAX: i64 = 100 * 31_557_600_000;

/// When a timer is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerTime {
    /// At a Unix time, in milliseconds.
    At(i64),
    /// After a duration, in milliseconds.
    After(u64),
}

impl TimerTime {
    /// Checks the flags and the time of `timer_set`.
    ///
    /// # Errors
    /// [`TimerTimeError`] for unknown flags, and for a time that is negative or over its limit.
    pub fn parse(flags: i32, ms: i64) -> Result<TimerTime, TimerTimeError> {
        let limit = match flags {
            TIMER_AT => TIMER_AT_MS_MAX,
            TIMER_AFTER => TIMER_AFTER_MS_MAX,
            flags => return Err(TimerTimeError::Flags(flags)),
        };
        if !(0..=limit).contains(&ms) {
            return Err(TimerTimeError::Range { ms, limit });
        }
        Ok(match flags {
            TIMER_AFTER => TimerTime::After(ms.unsigned_abs()),
            _ => TimerTime::At(ms),
        })
    }
}

/// Why the time of a timer was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerTimeError {
    /// The flags are unknown.
    Flags(i32),
    /// The time is out of range.
    Range {
        /// The time.
        ms: i64,
        /// The maximum; the minimum is 0.
        limit: i64,
    },
}

impl Display for TimerTimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TimerTimeError::Flags(flags) => write!(f, "unknown flags of timer_set: {flags:#x}"),
            TimerTimeError::Range { ms, limit } => write!(
                f,
                "the time of the timer is {ms} ms; it must be from 0 to {limit}"
            ),
        }
    }
}

/// Parses the output of a run that ends with [`EXIT_LATER`](crate::EXIT_LATER): the wait in
/// milliseconds, within its limits.
pub fn retry_ms(output: &[u8]) -> Option<u64> {
    let ms: u64 = core::str::from_utf8(output).ok()?.parse().ok()?;
    (crate::RETRY_MS_MIN..=crate::RETRY_MS_MAX)
        .contains(&ms)
        .then_some(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_checked_against_the_limit_of_its_flag() {
        assert_eq!(TimerTime::parse(TIMER_AT, 0), Ok(TimerTime::At(0)));
        assert_eq!(TimerTime::parse(TIMER_AFTER, 5), Ok(TimerTime::After(5)));
        for (flags, limit) in [
            (TIMER_AT, TIMER_AT_MS_MAX),
            (TIMER_AFTER, TIMER_AFTER_MS_MAX),
        ] {
            assert!(TimerTime::parse(flags, limit).is_ok());
            for ms in [limit + 1, -1, i64::MIN, i64::MAX] {
                let error = TimerTimeError::Range { ms, limit };
                assert_eq!(TimerTime::parse(flags, ms), Err(error));
            }
        }
        for flags in [2, -1, i32::MAX] {
            let error = TimerTimeError::Flags(flags);
            assert_eq!(TimerTime::parse(flags, 1), Err(error));
        }
    }

    #[test]
    fn wait_of_a_deferred_delivery_is_decimal_and_bounded() {
        assert_eq!(retry_ms(b"1000"), Some(1_000));
        assert_eq!(retry_ms(b"2592000000"), Some(crate::RETRY_MS_MAX));
        for bad in [
            "",
            "999",
            "2592000001",
            "-1000",
            "1e4",
            "1000 ",
            "99999999999999999999",
        ] {
            assert_eq!(retry_ms(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(retry_ms(b"\xff"), None);
    }
}
