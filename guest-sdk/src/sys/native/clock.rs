//! The clock: the system's, with an offset, or one that stands still.

use super::{cost, with};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clock {
    /// The time of a clock that stands still.
    fixed_ms: Option<i64>,
    /// How far a test has advanced the system's clock, in milliseconds.
    ahead_ms: i64,
}

impl Clock {
    pub(super) fn now_ms(&self) -> i64 {
        self.fixed_ms.unwrap_or_else(|| {
            let since_epoch = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            millis(since_epoch).saturating_add(self.ahead_ms)
        })
    }
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn now_ms() -> i64 {
    cost::count_call();
    with(|host| host.now_ms())
}

pub(crate) fn advance(duration: Duration) {
    with(|host| {
        let clock = &mut host.clock;
        match &mut clock.fixed_ms {
            Some(fixed_ms) => *fixed_ms = fixed_ms.saturating_add(millis(duration)),
            None => clock.ahead_ms = clock.ahead_ms.saturating_add(millis(duration)),
        }
    });
}

/// Stops the clock at this time.
pub(crate) fn set_now_ms(at_ms: i64) {
    with(|host| host.clock.fixed_ms = Some(at_ms));
}
