//! Decides whether this host's clock can be trusted.
//!
//! On Postgres the database's clock decides. Hosts of one store whose clocks are within the
//! bound of it differ by less than the remaining time of a lease at its renewal. On SQLite there
//! is one machine and no other clock: after a step, or a start that does not match the last time
//! recorded in the store, the clock is in doubt until it matches again or has run evenly for an
//! hour.

use super::millis;
use kvasm_core::Timestamp;
use kvasm_core::store::StoreClock;
use std::time::{Duration, Instant};

/// How far a host's clock may be from the database's: a third of the shortest lease. At its
/// renewal a lease has two thirds left, and two hosts may differ by twice this.
pub(super) const BOUND: Duration = Duration::from_secs(10);
/// Difference between the wall clock and the monotonic clock that counts as a step.
pub(super) const STEP: Duration = Duration::from_secs(60);
/// How far the clock may be ahead of the last recorded time at the start. Hosts may be off for a
/// night; after a longer time, an hour without deletions by age does no harm.
pub(super) const OFF_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A clock that has run without a step for this long is trusted.
pub(super) const SETTLED: Duration = Duration::from_secs(60 * 60);
/// 2025-01-01T00:00:00Z. A correct clock never shows an earlier time: a machine without a
/// battery starts in 1970.
pub(super) const EARLIEST: Timestamp = Timestamp(1_735_689_600_000);

/// A simultaneous reading of both clocks of this host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) system: Timestamp,
    pub(super) instant: Instant,
}

impl Reading {
    /// Returns the system time at an instant if the clock runs evenly from here on.
    pub(super) fn at(self, instant: Instant) -> Timestamp {
        let passed = instant.saturating_duration_since(self.instant);
        self.system.plus_ms(millis(passed))
    }

    /// Returns by how many milliseconds a later reading is ahead of that.
    fn off(self, later: Reading) -> i64 {
        later.system.0.saturating_sub(self.at(later.instant).0)
    }
}

/// Why a clock is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It is this many ms ahead of the database's, or behind if negative.
    Database(i64),
    /// At the start it was this many ms ahead of the last recorded time.
    RecordedTime(i64),
    /// It has stepped by this many ms.
    Stepped(i64),
}

/// The state of trust in the clock.
#[derive(Debug, Default)]
pub(super) struct ClockTrust {
    /// Whether a database decides.
    by_database: bool,
    /// The last trusted time. `None` before the first comparison.
    last_trusted: Option<Reading>,
    /// The last comparison.
    last: Option<Reading>,
    /// Why it is in doubt, and since when it has run evenly.
    doubt: Option<(Doubt, Instant)>,
}

fn signed(duration: Duration) -> i64 {
    i64::try_from(millis(duration)).unwrap_or(i64::MAX)
}

impl ClockTrust {
    /// Compares the clock with the store's, which was queried between two readings. Returns
    /// whether something has changed: trust, or the time by a step.
    pub(super) fn compare(&mut self, store: StoreClock, before: Reading, after: Reading) -> bool {
        let (was, first) = (self.doubt, self.last_trusted.is_none());
        let off = self.last.map_or(0, |last| last.off(after));
        let stepped = off.saturating_abs() > signed(STEP);
        match store {
            StoreClock::Database(database) => self.by_database(database, before, after),
            StoreClock::Recorded(seen) if first => self.begin(Some(seen), after),
            StoreClock::None if first => self.begin(None, after),
            StoreClock::Recorded(_) | StoreClock::None => self.go_on(off, stepped, after),
        }
        self.last = Some(after);
        first || stepped || was.is_some() != self.doubt.is_some()
    }

    fn by_database(&mut self, database: Timestamp, before: Reading, after: Reading) {
        self.by_database = true;
        // The query ran at some time between the two readings, unless the clock stepped there.
        let even = before.off(after).saturating_abs() <= signed(BOUND);
        let earliest = if even { before.system } else { after.system };
        let ahead = earliest.0.saturating_sub(database.0);
        let behind = database.0.saturating_sub(after.system.0);
        let off = if ahead > 0 { ahead } else { -behind.max(0) };
        let is_wrong = off.saturating_abs() > signed(BOUND);
        self.doubt = is_wrong.then_some((Doubt::Database(off), after.instant));
        self.last_trusted = Some(match is_wrong {
            false => after,
            true => Reading {
                system: database,
                instant: after.instant,
            },
        });
    }

    fn begin(&mut self, seen: Option<Timestamp>, after: Reading) {
        let seen = seen.filter(|seen| *seen >= EARLIEST);
        let seen = seen.unwrap_or(after.system).max(EARLIEST);
        let ahead = after.system.0.saturating_sub(seen.0);
        if ahead < -signed(STEP) || ahead > signed(OFF_MAX) {
            self.doubt = Some((Doubt::RecordedTime(ahead), after.instant));
            self.last_trusted = Some(Reading {
                system: seen,
                instant: after.instant,
            });
        } else {
            self.last_trusted = Some(after);
        }
    }

    fn go_on(&mut self, off: i64, stepped: bool, after: Reading) {
        let Some((doubt, since)) = self.doubt else {
            if stepped {
                self.doubt = Some((Doubt::Stepped(off), after.instant));
            } else {
                self.last_trusted = Some(after);
            }
            return;
        };
        let ahead = self.last_trusted.map_or(0, |line| line.off(after));
        let ahead_max = match doubt {
            Doubt::RecordedTime(_) => OFF_MAX,
            Doubt::Database(_) | Doubt::Stepped(_) => STEP,
        };
        let fits = ahead >= -signed(STEP) && ahead <= signed(ahead_max);
        let even_for = after.instant.saturating_duration_since(since);
        let has_settled = !stepped && even_for >= SETTLED && after.system >= EARLIEST;
        if fits || has_settled {
            self.doubt = None;
            self.last_trusted = Some(after);
        } else if stepped {
            self.doubt = Some((doubt, after.instant));
        }
    }

    /// Returns why it is in doubt.
    pub(super) fn doubt(&self) -> Option<Doubt> {
        self.doubt.map(|(doubt, _)| doubt)
    }

    /// Whether there was a comparison.
    pub(super) fn is_judged(&self) -> bool {
        self.last_trusted.is_some()
    }

    /// Whether the clock is trusted now: it may have stepped since the last comparison.
    pub(super) fn is_trusted(&self, now: Reading) -> bool {
        let even = |line: Reading| line.off(now).saturating_abs() <= signed(self.bound());
        self.doubt.is_none() && self.last_trusted.is_some_and(even)
    }

    /// Whether deliveries and schedules may run.
    pub(super) fn acts(&self, now: Reading) -> bool {
        self.is_judged() && (!self.by_database || self.is_trusted(now))
    }

    /// Whether this clock may be used to change the plans of other hosts. On SQLite also while
    /// it is in doubt: the other's clock may have been the wrong one.
    pub(super) fn plans(&self, now: Reading) -> bool {
        self.acts(now) && now.system >= EARLIEST
    }

    /// Returns the time to use: an estimate of the database's, if the system's is wrong.
    pub(super) fn time(&self, now: Reading) -> Timestamp {
        match self.last_trusted {
            Some(line) if self.by_database && !self.is_trusted(now) => line.at(now.instant),
            _ => now.system,
        }
    }

    /// Returns how far the dispatcher's time may be ahead of that before it is set back.
    pub(super) fn ahead_max(&self) -> Duration {
        match self.by_database {
            true => BOUND * 2,
            false => super::retry::WAIT_MAX,
        }
    }

    fn bound(&self) -> Duration {
        match self.by_database {
            true => BOUND,
            false => STEP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAYS_400: i64 = 400 * 86_400_000;
    /// The time at which these tests start.
    const START: i64 = EARLIEST.0 + 500 * 86_400_000;

    struct Stage {
        trust: ClockTrust,
        start: Instant,
    }

    impl Stage {
        fn new() -> Stage {
            Stage {
                trust: ClockTrust::default(),
                start: Instant::now(),
            }
        }

        fn reading(&self, seconds: u64, off: i64) -> Reading {
            let passed = Duration::from_secs(seconds);
            Reading {
                system: Timestamp(START + off).plus_ms(millis(passed)),
                instant: self.start + passed,
            }
        }

        /// Compares the clock after `seconds`, when it is off by `off` ms. Returns whether it is
        /// trusted then.
        fn look(&mut self, store: StoreClock, seconds: u64, off: i64) -> bool {
            let reading = self.reading(seconds, off);
            self.trust.compare(store, reading, reading);
            self.trust.is_trusted(reading)
        }
    }

    fn seen(at: i64) -> StoreClock {
        StoreClock::Recorded(Timestamp(at))
    }

    #[test]
    fn database_clock_decides_immediately() {
        let mut stage = Stage::new();
        let now = |seconds: i64| StoreClock::Database(Timestamp(START + seconds * 1_000));
        assert!(!stage.trust.acts(stage.reading(0, 0)), "no comparison yet");
        assert!(stage.look(now(0), 0, 9_999));
        assert!(!stage.look(now(10), 10, 10_001));
        assert!(!stage.look(now(20), 20, -10_001));
        assert_eq!(stage.trust.doubt(), Some(Doubt::Database(-10_001)));
        assert!(!stage.trust.acts(stage.reading(20, -10_001)));
        assert!(stage.look(now(30), 30, -9_999));
        assert!(stage.look(now(40), 40, 0));
        // It steps between two comparisons: it is not used, and the estimated time continues.
        let wrong = stage.reading(45, DAYS_400);
        assert!(!stage.trust.acts(wrong));
        assert_eq!(stage.trust.time(wrong), Timestamp(START + 45_000));
        assert!(!stage.look(now(50), 50, DAYS_400));
        assert_eq!(
            stage.trust.time(stage.reading(55, DAYS_400)),
            Timestamp(START + 55_000)
        );
        // The query took 30 s: the host's clock may be right.
        let (before, after) = (stage.reading(60, 0), stage.reading(90, 0));
        stage.trust.compare(now(75), before, after);
        assert!(stage.trust.is_trusted(after));
        // It stepped during the query.
        let (before, after) = (stage.reading(100, 0), stage.reading(101, DAYS_400));
        stage.trust.compare(now(100), before, after);
        assert!(!stage.trust.is_trusted(after));
    }

    #[test]
    fn clock_step_is_distrusted_until_undone_or_one_hour() {
        let mut stage = Stage::new();
        let saw = seen(START - 5_000);
        assert!(stage.look(saw, 0, 0));
        assert!(stage.look(saw, 10, 59_000));
        assert!(stage.look(saw, 20, 59_000));
        assert!(!stage.trust.is_trusted(stage.reading(25, DAYS_400)));
        assert!(!stage.look(saw, 30, DAYS_400));
        // Deliveries and schedules continue.
        assert!(stage.trust.acts(stage.reading(31, DAYS_400)));
        assert!(stage.look(saw, 90, 0), "it is back");
        assert!(!stage.look(saw, 100, DAYS_400));
        assert!(!stage.look(saw, 3_000, DAYS_400));
        // Another step: the hour starts again.
        assert!(!stage.look(saw, 3_010, DAYS_400 + 100_000));
        assert!(!stage.look(saw, 6_600, DAYS_400 + 100_000));
        assert!(stage.look(saw, 6_611, DAYS_400 + 100_000));
    }

    #[test]
    fn startup_clock_is_compared_with_the_last_stored_time() {
        let day = 86_400_000;
        for (off, is_believed) in [
            (0, true),
            (day - 1, true),
            (day + 1, false),
            (DAYS_400, false),
            (-59_000, true),
            (-61_000, false),
            (-DAYS_400, false),
        ] {
            let mut stage = Stage::new();
            assert_eq!(stage.look(seen(START), 0, off), is_believed, "{off}");
            if !is_believed {
                assert!(stage.look(seen(START), 10, 0), "{off}: it is back");
            }
        }
        // A host that was off for a month.
        let mut stage = Stage::new();
        assert!(!stage.look(seen(START - 30 * day), 0, 0));
        assert!(!stage.look(seen(START - 30 * day), 3_590, 0));
        assert!(stage.look(seen(START - 30 * day), 3_600, 0));
        // No battery, and no recorded time in the store.
        let mut stage = Stage::new();
        assert!(!stage.look(seen(0), 0, -START));
        assert!(!stage.trust.plans(stage.reading(0, -START)));
        assert!(!stage.look(seen(0), 4_000, -START));
        assert!(!stage.look(seen(0), 4_010, 0), "it has been set");
        assert!(stage.look(seen(0), 7_610, 0));
        let mut stage = Stage::new();
        assert!(stage.look(StoreClock::None, 0, 0));
    }
}
