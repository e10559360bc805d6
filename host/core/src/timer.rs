//! Timers: deliveries that a plugin sets for a later time.
//!
//! A timer is a delivery of the trigger [`TIMER_TRIGGER`] that is due at its time. It is the only
//! delivery of its ordering key. Its name identifies it within its app until it has run, became a
//! dead letter, or was cancelled.

use super::{DeclaredTrigger, Timestamp, TriggerName, Value, Watch};
use kvasm_abi::names;
use uuid::Uuid;

pub use super::key::TimerName;
pub use kvasm_abi::names::TIMER_BYTES_MAX;

/// The name of the trigger whose deliveries are the timers of an app, and of the export that it
/// calls.
pub const TIMER_TRIGGER: &str = kvasm_abi::TIMER_HANDLER;

/// The name of the trigger of timers.
pub fn timer_trigger() -> TriggerName {
    TriggerName::stored(TIMER_TRIGGER.to_owned())
}

/// The declaration of a plugin that handles timers.
pub fn timer_declaration() -> DeclaredTrigger {
    DeclaredTrigger::new(timer_trigger(), Watch::Timers)
}

/// When a timer is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerTime {
    /// At a time.
    At(Timestamp),
    /// After this many milliseconds from the commit.
    After(u64),
}

impl TimerTime {
    /// Returns the time, for a commit at `now`.
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            TimerTime::At(at) => at,
            TimerTime::After(ms) => now.plus_ms(ms),
        }
    }

    /// Returns how long a delivery may wait for it without a clock being wrong, in milliseconds:
    /// see [`Outbox::rescue`](crate::store::Outbox::rescue).
    pub fn wait_ms(self) -> i64 {
        match self {
            TimerTime::At(_) => WAITS_FOREVER,
            TimerTime::After(ms) => {
                i64::try_from(ms).map_or(WAITS_FOREVER, |ms| ms.min(WAITS_FOREVER))
            }
        }
    }
}

/// The wait of a delivery that is never too late, in milliseconds. Times minus this do not overflow.
const WAITS_FOREVER: i64 = 1 << 60;

/// A timer to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTimer {
    /// Its name, unique among the timers of its app.
    pub name: TimerName,
    /// When it is due.
    pub time: TimerTime,
    /// What its handler receives.
    pub payload: Value,
}

/// A change of a timer in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimerOp {
    /// Sets a timer. One of the same name that has not taken effect is replaced and never does,
    /// even if it is leased: its commit fails, as its lease is lost.
    Set(NewTimer),
    /// Cancels a timer, with the same effect on a leased one.
    Cancel {
        /// Its name.
        name: TimerName,
        /// Whether it must be set, or must not be. Otherwise the batch fails with
        /// [`StoreError::Conflict`](crate::store::StoreError::Conflict).
        expect: Option<bool>,
    },
}

impl TimerOp {
    /// Returns the name of its timer.
    pub fn name(&self) -> &TimerName {
        match self {
            TimerOp::Set(timer) => &timer.name,
            TimerOp::Cancel { name, .. } => name,
        }
    }

    /// Returns the bytes of its payload.
    pub fn payload_bytes(&self) -> usize {
        match self {
            TimerOp::Set(timer) => timer.payload.as_bytes().len(),
            TimerOp::Cancel { .. } => 0,
        }
    }
}

/// Returns the ordering key of a timer's delivery, which it shares with none.
pub fn timer_ordering_key(event: Uuid) -> i64 {
    super::ordering_key_of(&event.simple().to_string())
}

/// Returns whether the state of a timer is not the one that a batch expects.
pub fn is_unexpected(expect: Option<bool>, is_set: bool) -> bool {
    expect.is_some_and(|expect| expect != is_set)
}

const _: () = assert!(names::TIMER_BYTES_MAX <= names::KEY_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_of_a_time_is_unlimited_and_that_of_a_duration_is_the_duration() {
        let now = Timestamp(1_000);
        let (at, after) = (TimerTime::At(Timestamp(5)), TimerTime::After(30));
        assert_eq!(
            (at.at(now), after.at(now)),
            (Timestamp(5), Timestamp(1_030))
        );
        assert_eq!((at.wait_ms(), after.wait_ms()), (WAITS_FOREVER, 30));
        assert_eq!(TimerTime::After(u64::MAX).wait_ms(), WAITS_FOREVER);
        assert!(
            (i64::MIN + WAITS_FOREVER)
                .checked_sub(WAITS_FOREVER)
                .is_some()
        );
    }
}
