//! Whether and when a delivery is tried again.

use kvasm_core::{DeadReason, Policy, Timestamp, Verdict, spread_by};
use std::time::Duration;

/// The longest time between two attempts, before it is spread.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60 * 60);
/// The longest time between two attempts, and the longest wait for a probe, spread.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(72 * 60);
/// Attempts after which a deterministic failure is given up.
pub const DETERMINISTIC_ATTEMPTS_MAX: u32 = 3;

const FIRST: Duration = Duration::from_secs(1);
const FACTOR: u32 = 3;

/// How long to wait after attempt `attempts` (from 1): a second, three times as
/// long after each, an hour at the most. `spread` from 0 to 1 makes it 20 %
/// shorter to 20 % longer, so that what failed together does not come back
/// together.
pub fn backoff(attempts: u32, spread: f64) -> Duration {
    let factor = FACTOR.saturating_pow(attempts.saturating_sub(1));
    let wait = FIRST.saturating_mul(factor).min(BACKOFF_MAX);
    spread_by(wait, spread)
}

/// What the failure of an attempt says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing: the next one may succeed.
    Passing,
    /// It would fail in the same way, as far as the host can say.
    Deterministic,
    /// The handler says that it would fail.
    Permanent,
}

/// What becomes of a delivery after a failed attempt.
///
/// - `attempts`: those so far, from 1.
/// - `queued_at`: the event, or the last replay.
/// - `failure`: what it says about the next attempt.
/// - `spread`: a random number from 0 to 1.
pub fn verdict(
    policy: Policy,
    attempts: u32,
    queued_at: Timestamp,
    now: Timestamp,
    failure: Failure,
    spread: f64,
) -> Verdict {
    let is_hopeless = match failure {
        Failure::Passing => false,
        Failure::Deterministic => attempts >= DETERMINISTIC_ATTEMPTS_MAX.min(policy.attempts_max),
        Failure::Permanent => true,
    };
    if is_hopeless {
        return Verdict::GiveUp(DeadReason::Deterministic);
    }
    if attempts >= policy.attempts_max {
        return Verdict::GiveUp(DeadReason::Attempts);
    }
    let at = now.plus_ms(super::millis(backoff(attempts, spread)));
    if at > queued_at.plus_ms(super::millis(policy.age_max)) {
        return Verdict::GiveUp(DeadReason::Age);
    }
    Verdict::RetryAt(at)
}
