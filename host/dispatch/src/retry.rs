//! Decides whether and when a delivery is retried.

use kvasm_core::{DeadReason, Policy, Timestamp, Verdict, with_jitter};
use std::time::Duration;

/// The longest time between two attempts, before jitter.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60 * 60);
/// The longest time between two attempts, and the longest wait for a probe, including jitter.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(72 * 60);
/// Number of attempts after which a deterministic failure becomes a dead letter.
pub const DETERMINISTIC_ATTEMPTS_MAX: u32 = 3;

const FIRST: Duration = Duration::from_secs(1);
const FACTOR: u32 = 3;

/// Returns the wait after attempt `attempts` (from 1): a second, tripled after each attempt, at
/// most an hour. `spread`, from 0 to 1, changes it by -20 % to +20 %, so that deliveries that
/// failed together are not retried together.
pub fn backoff(attempts: u32, spread: f64) -> Duration {
    let factor = FACTOR.saturating_pow(attempts.saturating_sub(1));
    let wait = FIRST.saturating_mul(factor).min(BACKOFF_MAX);
    with_jitter(wait, spread)
}

/// What a failed attempt says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The next attempt may succeed.
    Transient,
    /// The next attempt would presumably fail the same way.
    Deterministic,
    /// The handler reported that a retry would fail.
    Permanent,
}

/// Decides what to do with a delivery after a failed attempt.
///
/// - `attempts`: the number of attempts so far, from 1.
/// - `queued_at`: the time of the event, or of the last replay.
/// - `failure`: what the attempt says about the next one.
/// - `wait`: the wait before the next attempt, such as [`backoff`].
pub fn verdict(
    policy: Policy,
    attempts: u32,
    queued_at: Timestamp,
    now: Timestamp,
    failure: FailureKind,
    wait: Duration,
) -> Verdict {
    let is_hopeless = match failure {
        FailureKind::Transient => false,
        FailureKind::Deterministic => {
            attempts >= DETERMINISTIC_ATTEMPTS_MAX.min(policy.attempts_max)
        }
        FailureKind::Permanent => true,
    };
    if is_hopeless {
        return Verdict::DeadLetter(DeadReason::Deterministic);
    }
    if attempts >= policy.attempts_max {
        return Verdict::DeadLetter(DeadReason::Attempts);
    }
    let at = now.plus_ms(super::millis(wait));
    if at > queued_at.plus_ms(super::millis(policy.age_max)) {
        return Verdict::DeadLetter(DeadReason::Age);
    }
    Verdict::RetryAt(at)
}
