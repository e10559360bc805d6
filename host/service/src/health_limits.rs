//! Limits beyond which a host is not ready although its tasks report no failure.

use super::health::HealthState;
use kvasm_core::Timestamp;
use std::time::Duration;

/// When a host counts as not ready although none of its tasks reports a failure. `None` means
/// never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthLimits {
    /// A background task has been working on the same item for longer than this. Default 5
    /// minutes.
    pub stalled: Option<Duration>,
    /// The oldest due delivery of all apps has been waiting for longer than this. Default none:
    /// one app's slow handlers would make every host unready.
    pub overdue: Option<Duration>,
    /// A schedule is late by more than this. Default none.
    pub late: Option<Duration>,
    /// The lines of apps' logs could not be stored for longer than this. Default none.
    pub unlogged: Option<Duration>,
}

impl Default for HealthLimits {
    fn default() -> HealthLimits {
        HealthLimits {
            stalled: Some(Duration::from_secs(5 * 60)),
            overdue: None,
            late: None,
            unlogged: None,
        }
    }
}

/// How far behind the background work of all hosts is, as this host has last seen it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delays {
    pub(super) overdue: Duration,
    pub(super) late: Duration,
}

impl HealthLimits {
    /// Which limit a task exceeds, since when, and by what.
    pub(super) fn exceeded(
        &self,
        task: &str,
        state: &HealthState,
        delays: Delays,
    ) -> Option<(Timestamp, String)> {
        let over = |took: Duration, limit: Option<Duration>, what: &str| {
            let limit = limit.filter(|limit| took > *limit)?;
            let ms = i64::try_from((took - limit).as_millis()).unwrap_or(i64::MAX);
            let since = Timestamp(Timestamp::now().0.saturating_sub(ms));
            let took = took.as_secs();
            Some((
                since,
                format!("{what} for {took} s; the limit is {limit:?}"),
            ))
        };
        let working = state
            .working_since
            .map_or(Duration::ZERO, |at| at.elapsed());
        over(
            working,
            self.stalled,
            "it has been working on the same item",
        )
        .or_else(|| match task {
            "claims" => over(
                delays.overdue,
                self.overdue,
                "the oldest due delivery has waited",
            ),
            "schedules" => over(delays.late, self.late, "a schedule has been late"),
            "logs" => {
                let unlogged = state.completed.elapsed();
                over(unlogged, self.unlogged, "logs of apps have not been stored")
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A task that has been working for `working`, and completed a round `completed` ago.
    fn state(working: Option<Duration>, completed: Duration) -> HealthState {
        let ago = |time| Instant::now().checked_sub(time).unwrap();
        let mut state = HealthState::default();
        state.working_since = working.map(ago);
        state.completed = ago(completed);
        state
    }

    fn cause(limits: HealthLimits, task: &str, state: &HealthState, delays: Delays) -> String {
        let exceeded = limits.exceeded(task, state, delays);
        exceeded.map_or_else(String::new, |(_, cause)| cause)
    }

    #[test]
    fn task_that_works_on_one_item_for_too_long_is_stalled() {
        let limits = HealthLimits::default();
        let cause_of = |working| {
            let state = state(working, 10 * MINUTE);
            cause(limits, "upkeep", &state, Delays::default())
        };
        assert_eq!(cause_of(Some(4 * MINUTE)), "");
        let stalled = cause_of(Some(6 * MINUTE));
        assert!(
            stalled.contains("same item for 360 s; the limit is 300s"),
            "{stalled}"
        );
        // It may wait for work as long as it likes.
        assert_eq!(cause_of(None), "");
    }

    #[test]
    fn delays_count_only_beyond_configured_limits() {
        let none = HealthLimits::default();
        let all = HealthLimits {
            overdue: Some(MINUTE),
            late: Some(MINUTE),
            unlogged: Some(MINUTE),
            ..none
        };
        let (short, long) = (MINUTE / 2, 2 * MINUTE);
        for task in ["claims", "schedules", "logs", "upkeep"] {
            for waited in [short, long] {
                let delays = Delays {
                    overdue: waited,
                    late: waited,
                };
                let state = state(None, waited);
                assert_eq!(cause(none, task, &state, delays), "");
                let exceeded = !cause(all, task, &state, delays).is_empty();
                assert_eq!(exceeded, waited == long && task != "upkeep", "{task}");
            }
        }
    }
}
