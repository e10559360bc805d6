//! The health of a trigger: its consecutive failures, the pause that they cause, and the probes
//! that end it.
//!
//! Every store keeps these values and changes them with these functions, so that all stores behave
//! the same.

use super::{FailOutcome, FailedAttempt, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

/// The number of consecutive deliveries that fail deterministically before their trigger is paused.
pub const FAILURES_MAX: u32 = 10;
/// The delay between a pause and its first probe, before jitter.
pub const PROBE_AFTER: Duration = Duration::from_secs(60);
/// The maximum delay of a probe, before jitter.
pub const PROBE_WAIT_MAX: Duration = Duration::from_secs(60 * 60);

/// Why a trigger is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// Paused by an operator. Only an operator resumes it.
    Operator,
    /// Too many consecutive deliveries failed deterministically. A successful probe resumes it, as
    /// does the next activation of a plugin version.
    Failures,
}

/// The delay of the probes of a trigger that was paused by failures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeDelay {
    /// The delay of the first probe. Default [`PROBE_AFTER`].
    pub first: Duration,
    /// Jitter: a random number from 0 to 1, so that triggers that were paused together are not
    /// probed together.
    pub jitter: f64,
}

impl Default for ProbeDelay {
    fn default() -> ProbeDelay {
        ProbeDelay {
            first: PROBE_AFTER,
            jitter: 0.5,
        }
    }
}

impl ProbeDelay {
    /// Returns the delay after `failed` failed probes: it doubles after each, up to
    /// [`PROBE_WAIT_MAX`], with ±20 % of jitter.
    pub fn after(self, failed: u32) -> Duration {
        let factor = 2u32.saturating_pow(failed);
        let wait = self.first.saturating_mul(factor).min(PROBE_WAIT_MAX);
        with_jitter(wait, self.jitter)
    }

    fn from(self, now: Timestamp, failed: u32) -> Timestamp {
        now.plus_ms(u64::try_from(self.after(failed).as_millis()).unwrap_or(u64::MAX))
    }
}

/// Applies ±20 % of jitter to a delay, given a random number from 0 to 1.
pub fn with_jitter(wait: Duration, spread: f64) -> Duration {
    wait.mul_f64(0.8 + 0.4 * spread.clamp(0.0, 1.0))
}

/// The health of a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TriggerHealth {
    /// Why it is paused, if it is. Changes are still recorded.
    pub paused: Option<Pause>,
    /// Deliveries that have failed deterministically since the last success. Each counts once,
    /// however often it is tried.
    pub failures: u32,
    /// The number of this series of failures. A delivery that has counted in it keeps the number,
    /// and so does not count again.
    pub series: i64,
    /// When a probe may be claimed, if the trigger is paused by failures. While a probe is leased,
    /// the end of its lease, which its host renews.
    pub probe_at: Option<Timestamp>,
    /// The lease of the last probe.
    pub probe: Option<Uuid>,
    /// Probes that have failed since the pause.
    pub probes_failed: u32,
}

/// What may be claimed from a trigger's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimable {
    /// Every delivery that is due.
    All,
    /// One delivery, as a probe.
    Probe,
    /// Nothing.
    None,
}

impl TriggerHealth {
    /// Returns what may be claimed at `now`.
    pub fn open(&self, now: Timestamp) -> Claimable {
        match self.paused {
            None => Claimable::All,
            Some(Pause::Failures) if self.probe_at.is_none_or(|at| at <= now) => Claimable::Probe,
            Some(Pause::Failures | Pause::Operator) => Claimable::None,
        }
    }

    /// Records that a probe was claimed. No other probe is until its lease expires.
    pub fn probe(&mut self, lease: Uuid, until: Timestamp) {
        self.probe = Some(lease);
        self.probe_at = Some(until);
    }

    /// Records that a lease was renewed. If it is that of a probe, no other probe is let through
    /// before its new end.
    pub fn renew(&mut self, lease: Uuid, until: Timestamp) {
        if self.probe == Some(lease) {
            self.probe_at = Some(until);
        }
    }

    /// Records that a probe's host released it without a result. Another one may follow at `at`.
    pub fn release(&mut self, lease: Uuid, at: Timestamp) {
        if self.probe == Some(lease) {
            self.probe = None;
            self.probe_at = Some(at);
        }
    }

    /// Makes a probe due that is postponed beyond `beyond`, and returns whether anything changed.
    pub fn rescue(&mut self, beyond: Timestamp, now: Timestamp) -> bool {
        let waits = self.paused == Some(Pause::Failures);
        let is_late = waits && self.probe_at.is_some_and(|at| at > beyond);
        if is_late {
            self.probe_at = Some(now);
        }
        is_late
    }

    /// Starts a new series of failures, and ends a pause by failures. A success, a new version and
    /// an operator do this.
    pub fn reset(&mut self) {
        *self = TriggerHealth {
            paused: self.paused.filter(|pause| *pause == Pause::Operator),
            series: self.series.saturating_add(1),
            ..TriggerHealth::default()
        };
    }

    /// Pauses or resumes the trigger for an operator.
    pub fn set_paused(&mut self, paused: bool) {
        self.reset();
        self.paused = paused.then_some(Pause::Operator);
    }

    /// Records a success, and returns whether anything changed.
    pub fn succeed(&mut self) -> bool {
        let changes = self.failures > 0 || self.paused == Some(Pause::Failures);
        if changes {
            self.reset();
        }
        changes
    }

    /// Records the failure of a delivery that last counted in the series `counted`. Returns what
    /// happened to the trigger. If the failure is deterministic, the delivery counts in this series
    /// from then on.
    pub fn fail(&mut self, counted: Option<i64>, failed: &FailedAttempt) -> FailOutcome {
        if failed.deterministic && counted != Some(self.series) {
            self.failures = self.failures.saturating_add(1);
        }
        let is_probe = self.probe == Some(failed.receipt.lease);
        match self.paused {
            None if failed.deterministic && self.failures >= FAILURES_MAX => {
                let probe_at = failed.probe.from(failed.now, 0);
                self.paused = Some(Pause::Failures);
                self.probe_at = Some(probe_at);
                FailOutcome::Paused {
                    failures: self.failures,
                    probe_at,
                }
            }
            Some(Pause::Failures) if is_probe => {
                // A transient failure says nothing about the handler.
                self.probes_failed += u32::from(failed.deterministic);
                let probe_at = failed.probe.from(failed.now, self.probes_failed);
                self.probe = None;
                self.probe_at = Some(probe_at);
                FailOutcome::ProbeFailed { probe_at }
            }
            _ => FailOutcome::Recorded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_delay_doubles_up_to_an_hour() {
        let at = |spread, failed| {
            let first = PROBE_AFTER;
            ProbeDelay {
                first,
                jitter: spread,
            }
            .after(failed)
            .as_secs()
        };
        let waits: Vec<_> = (0..9).map(|failed| at(0.5, failed)).collect();
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        assert_eq!([at(0.0, 0), at(1.0, 0)], [48, 72]);
        assert_eq!([at(0.0, u32::MAX), at(1.0, u32::MAX)], [2880, 4320]);
    }

    #[test]
    fn operator_pause_is_never_probed() {
        let mut standing = TriggerHealth::default();
        standing.set_paused(true);
        assert_eq!(standing.open(Timestamp(i64::MAX)), Claimable::None);
        assert!(!standing.succeed());
        standing.reset();
        assert_eq!(standing.paused, Some(Pause::Operator));
    }
}
