//! The retry schedule.

use kvasm::dispatch::{BACKOFF_MAX, DETERMINISTIC_ATTEMPTS_MAX, FailureKind, backoff, verdict};
use kvasm::model::{DeadReason, Policy, Timestamp, Verdict};
use proptest::prelude::*;
use std::time::Duration;

/// The documented delays, without jitter.
#[test]
fn retry_schedule_is_as_documented() {
    let seconds: Vec<_> = (1..=10).map(|n| backoff(n, 0.5).as_secs()).collect();
    assert_eq!(seconds, [1, 3, 9, 27, 81, 243, 729, 2187, 3600, 3600]);
}

/// From a fifth shorter to a fifth longer, so that deliveries that failed together are not
/// retried together.
#[test]
fn retry_jitter_is_one_fifth_either_way() {
    for (n, shortest, middle, longest) in [
        (1, 800, 1_000, 1_200),
        (2, 2_400, 3_000, 3_600),
        (10, 2_880_000, 3_600_000, 4_320_000),
    ] {
        let spread = [0.0, 0.5, 1.0].map(|spread| backoff(n, spread).as_millis());
        assert_eq!(spread, [shortest, middle, longest], "attempt {n}");
    }
}

fn failures() -> impl Strategy<Value = FailureKind> {
    prop_oneof![
        Just(FailureKind::Transient),
        Just(FailureKind::Deterministic),
        Just(FailureKind::Permanent),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    (1u32..=100, 1u64..=30 * 24 * 3600).prop_map(|(attempts_max, age)| Policy {
        attempts_max,
        age_max: Duration::from_secs(age),
    })
}

proptest! {
    #[test]
    fn retry_delays_grow_within_their_jitter(n in 1u32..=1_000_000, spread in 0.0f64..=1.0) {
        let wait = backoff(n, spread);
        prop_assert!(wait >= Duration::from_millis(800) && wait <= BACKOFF_MAX.mul_f64(1.2));
        prop_assert!(backoff(n + 1, spread) >= wait);
        prop_assert!(backoff(n, 0.0) <= wait && wait <= backoff(n, 1.0));
    }

    /// A retry is in the future and within the policy's attempts and age; a delivery that
    /// always fails ends.
    #[test]
    fn retries_of_every_delivery_end(
        policy in policies(),
        start in 0i64..=4_000_000_000_000,
        failure in failures(),
        spread in 0.0f64..=1.0,
    ) {
        let queued = Timestamp(start);
        let (mut now, mut attempts) = (queued, 1);
        let reason = loop {
            match verdict(policy, attempts, queued, now, failure, backoff(attempts, spread)) {
                Verdict::RetryAt(at) => {
                    prop_assert!(at > now);
                    prop_assert!(at.0 - queued.0 <= policy.age_max.as_millis() as i64);
                    now = at;
                    attempts += 1;
                }
                Verdict::DeadLetter(reason) => break reason,
            }
            prop_assert!(attempts <= policy.attempts_max);
        };
        match reason {
            DeadReason::Deterministic => {
                let most = match failure {
                    FailureKind::Permanent => 1,
                    _ => DETERMINISTIC_ATTEMPTS_MAX.min(policy.attempts_max),
                };
                prop_assert!(failure != FailureKind::Transient);
                prop_assert_eq!(attempts, most);
            }
            DeadReason::Attempts => prop_assert_eq!(attempts, policy.attempts_max),
            DeadReason::Age => prop_assert!(attempts < policy.attempts_max),
            DeadReason::Depth => prop_assert!(false, "not a result of an attempt"),
        }
    }

    /// With any clock there is a verdict, and no retry is in the past.
    #[test]
    fn wrong_clock_schedules_no_retry_in_the_past(
        policy in policies(),
        queued: i64,
        now in i64::MIN..i64::MAX - 10_000_000,
        attempts in 1u32..50,
    ) {
        let verdict = verdict(policy, attempts, Timestamp(queued), Timestamp(now), FailureKind::Transient, backoff(attempts, 0.3));
        if let Verdict::RetryAt(at) = verdict {
            prop_assert!(at.0 > now);
        }
    }
}
