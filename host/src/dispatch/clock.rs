//! The dispatcher's clock: the system's, but it never goes back.

use crate::model::Timestamp;
use parking_lot::Mutex;
use std::time::Instant;

/// Never behind the system's clock, and never back. When that one is set back,
/// this one goes on from where it was, so that no lease and no retry waits for
/// hours that have been already.
#[derive(Default)]
pub(super) struct Clock(Mutex<Option<(Timestamp, Instant)>>);

impl Clock {
    pub(super) fn now(&self) -> Timestamp {
        self.at(Timestamp::now(), Instant::now())
    }

    fn at(&self, system: Timestamp, instant: Instant) -> Timestamp {
        let mut last = self.0.lock();
        let now = match *last {
            None => system,
            Some((time, then)) => {
                let passed = instant.saturating_duration_since(then);
                system.max(time.plus_ms(super::millis(passed)))
            }
        };
        // Kept only when it moves on, so that parts of milliseconds add up.
        if last.is_none_or(|(time, _)| now > time) {
            *last = Some((now, instant));
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_goes_on_when_the_system_is_set_back_and_follows_it_forward() {
        let clock = Clock::default();
        let start = Instant::now();
        let at = |system, ms| {
            clock
                .at(Timestamp(system), start + Duration::from_millis(ms))
                .0
        };
        assert_eq!(at(1_000_000, 0), 1_000_000);
        assert_eq!(at(1_000_010, 10), 1_000_010);
        assert_eq!(at(500_020, 20), 1_000_020);
        assert_eq!(at(500_025, 25), 1_000_025);
        assert_eq!(at(2_000_000, 30), 2_000_000);
        assert_eq!(at(2_000_000, 31), 2_000_001);
    }
}
