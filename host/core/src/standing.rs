//! How a trigger stands: its failures in a row, the pause that they cause, and the
//! probes by which it ends.
//!
//! Every store keeps these values and changes them by the functions here, so that
//! they mean the same everywhere.

use super::{Failed, Returned, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

/// Deliveries that fail deterministically in a row, before one succeeds, and pause
/// their trigger.
pub const FAILURES_MAX: u32 = 10;
/// How long after the pause a probe is let through, before it is spread.
pub const PROBE_AFTER: Duration = Duration::from_secs(60);
/// The longest wait for a probe, before it is spread.
pub const PROBE_WAIT_MAX: Duration = Duration::from_secs(60 * 60);

/// Why a trigger's deliveries wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// An operator has paused it. Only an operator resumes it.
    Operator,
    /// Too many deliveries have failed deterministically in a row. A probe that
    /// succeeds resumes it, and so does the next activation of a plugin version.
    Failures,
}

/// How long a trigger that failures have paused waits for a probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeWait {
    /// The wait for the first one. Default [`PROBE_AFTER`].
    pub first: Duration,
    /// A random number from 0 to 1, so that what was paused together is not probed
    /// together.
    pub spread: f64,
}

impl Default for ProbeWait {
    fn default() -> ProbeWait {
        ProbeWait {
            first: PROBE_AFTER,
            spread: 0.5,
        }
    }
}

impl ProbeWait {
    /// The wait after so many probes have failed: twice as long after each, at most
    /// [`PROBE_WAIT_MAX`], 20 % less to 20 % more.
    pub fn after(self, failed: u32) -> Duration {
        let factor = 2u32.saturating_pow(failed);
        let wait = self.first.saturating_mul(factor).min(PROBE_WAIT_MAX);
        spread_by(wait, self.spread)
    }

    fn from(self, now: Timestamp, failed: u32) -> Timestamp {
        now.plus_ms(u64::try_from(self.after(failed).as_millis()).unwrap_or(u64::MAX))
    }
}

/// A wait that is 20 % shorter to 20 % longer, by a random number from 0 to 1.
pub fn spread_by(wait: Duration, spread: f64) -> Duration {
    wait.mul_f64(0.8 + 0.4 * spread.clamp(0.0, 1.0))
}

/// How a trigger stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Why its deliveries wait, if they do. Changes are recorded all the same.
    pub paused: Option<Pause>,
    /// Deliveries that have failed deterministically since the last success. Each
    /// counts once, however often it is tried.
    pub failures: u32,
    /// The number of this series of failures. A delivery that counts in it keeps the
    /// number, and so does not count in it again.
    pub series: i64,
    /// When a probe may be claimed, if failures have paused the trigger. While one is
    /// leased, the end of its lease, which its host renews.
    pub probe_at: Option<Timestamp>,
    /// The lease of the last probe.
    pub probe: Option<Uuid>,
    /// Probes that have failed since the pause.
    pub probes_failed: u32,
}

/// What of a trigger's queue may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Everything that is due.
    All,
    /// One delivery, which is the probe.
    Probe,
    /// Nothing.
    Nothing,
}

impl Standing {
    /// Returns what may be claimed at a time.
    pub fn open(&self, now: Timestamp) -> Open {
        match self.paused {
            None => Open::All,
            Some(Pause::Failures) if self.probe_at.is_none_or(|at| at <= now) => Open::Probe,
            Some(Pause::Failures | Pause::Operator) => Open::Nothing,
        }
    }

    /// Notes that a probe was claimed. No other one is until its lease runs out.
    pub fn probe(&mut self, lease: Uuid, until: Timestamp) {
        self.probe = Some(lease);
        self.probe_at = Some(until);
    }

    /// Notes that a lease was renewed: if it is that of a probe, no other one is let
    /// through before its new end.
    pub fn renew(&mut self, lease: Uuid, until: Timestamp) {
        if self.probe == Some(lease) {
            self.probe_at = Some(until);
        }
    }

    /// Notes that a probe's host has given it back without a result; another one may
    /// follow at a time.
    pub fn release(&mut self, lease: Uuid, at: Timestamp) {
        if self.probe == Some(lease) {
            self.probe = None;
            self.probe_at = Some(at);
        }
    }

    /// Makes a probe due that waits for longer than any does; whether that changes
    /// anything.
    pub fn rescue(&mut self, beyond: Timestamp, now: Timestamp) -> bool {
        let waits = self.paused == Some(Pause::Failures);
        let is_late = waits && self.probe_at.is_some_and(|at| at > beyond);
        if is_late {
            self.probe_at = Some(now);
        }
        is_late
    }

    /// Begins a new series of failures, and ends a pause by failures. So do a success,
    /// a new version, and an operator.
    pub fn reset(&mut self) {
        *self = Standing {
            paused: self.paused.filter(|pause| *pause == Pause::Operator),
            series: self.series.saturating_add(1),
            ..Standing::default()
        };
    }

    /// Pauses or resumes for an operator.
    pub fn set_paused(&mut self, paused: bool) {
        self.reset();
        self.paused = paused.then_some(Pause::Operator);
    }

    /// Notes a success; whether that changes anything.
    pub fn succeed(&mut self) -> bool {
        let changes = self.failures > 0 || self.paused == Some(Pause::Failures);
        if changes {
            self.reset();
        }
        changes
    }

    /// Notes the failure of a delivery that has counted in series `counted`. Returns
    /// what became of the trigger; the delivery counts in this series from then on if
    /// the failure is deterministic.
    pub fn fail(&mut self, counted: Option<i64>, failed: &Failed) -> Returned {
        if failed.deterministic && counted != Some(self.series) {
            self.failures = self.failures.saturating_add(1);
        }
        let is_probe = self.probe == Some(failed.receipt.lease);
        match self.paused {
            None if failed.deterministic && self.failures >= FAILURES_MAX => {
                let probe_at = failed.probe.from(failed.now, 0);
                self.paused = Some(Pause::Failures);
                self.probe_at = Some(probe_at);
                Returned::Paused {
                    failures: self.failures,
                    probe_at,
                }
            }
            Some(Pause::Failures) if is_probe => {
                // A passing failure says nothing about the handler.
                self.probes_failed += u32::from(failed.deterministic);
                let probe_at = failed.probe.from(failed.now, self.probes_failed);
                self.probe = None;
                self.probe_at = Some(probe_at);
                Returned::ProbeFailed { probe_at }
            }
            _ => Returned::Kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_probes_double_up_to_an_hour() {
        let at = |spread, failed| {
            let first = PROBE_AFTER;
            ProbeWait { first, spread }.after(failed).as_secs()
        };
        let waits: Vec<_> = (0..9).map(|failed| at(0.5, failed)).collect();
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        assert_eq!([at(0.0, 0), at(1.0, 0)], [48, 72]);
        assert_eq!([at(0.0, u32::MAX), at(1.0, u32::MAX)], [2880, 4320]);
    }

    #[test]
    fn a_pause_of_an_operator_is_never_probed() {
        let mut standing = Standing::default();
        standing.set_paused(true);
        assert_eq!(standing.open(Timestamp(i64::MAX)), Open::Nothing);
        assert!(!standing.succeed());
        standing.reset();
        assert_eq!(standing.paused, Some(Pause::Operator));
    }
}
