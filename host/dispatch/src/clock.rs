//! The dispatcher's clock: the system's clock while it is trusted (see `trust`), and monotonic
//! across small steps back.

use super::DispatchContext;
use super::supervisor::{Stop, working};
use super::trust::{ClockTrust, Doubt, Reading};
use kvasm_core::Timestamp;
use kvasm_core::store::StoreError;
use kvasm_service::{TaskHandle, error_chain};
use parking_lot::Mutex;
use std::fmt;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Interval between queries of the store's clock. Sooner if the clock has stepped.
const LOOK: Duration = Duration::from_secs(10);
/// Interval between comparisons of this host's two clocks.
const COMPARE: Duration = Duration::from_secs(1);
/// Interval between records of the time in the store.
const NOTE: Duration = Duration::from_secs(60);
/// Minimum interval between log lines about a clock in doubt.
const SAY: Duration = Duration::from_secs(600);

/// The time source of a dispatcher. Default: the system's clock.
#[derive(Clone, Copy)]
pub struct TimeSource(pub fn() -> Timestamp);

impl Default for TimeSource {
    fn default() -> TimeSource {
        TimeSource(Timestamp::now)
    }
}

impl fmt::Debug for TimeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TimeSource")
    }
}

impl PartialEq for TimeSource {
    fn eq(&self, other: &TimeSource) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for TimeSource {}

/// When the system's clock is set back by up to the longest wait between two attempts, this
/// clock continues from its last value, so that no lease or retry waits for hours that have
/// already passed. When it is set back further, this clock follows, and `rescue` makes due what
/// was postponed.
#[derive(Default)]
pub(super) struct Clock {
    source: TimeSource,
    /// Whether it has the time of its source, which a test sets, and is always trusted.
    is_exact: bool,
    state: Mutex<ClockState>,
    judged: Notify,
}

#[derive(Default)]
struct ClockState {
    last: Option<Reading>,
    trust: ClockTrust,
}

impl ClockState {
    fn now(&mut self, now: Reading) -> Timestamp {
        let time = self.trust.time(now);
        let ahead_max = super::millis(self.trust.ahead_max());
        let kept = self.last.map(|last| last.at(now.instant));
        let kept = kept.filter(|kept| *kept > time && *kept <= time.plus_ms(ahead_max));
        let system = kept.unwrap_or(time);
        // Updated only when it moves, so that fractions of milliseconds add up.
        if self.last.is_none_or(|last| last.system != system) {
            let instant = now.instant;
            self.last = Some(Reading { system, instant });
        }
        system
    }
}

impl Clock {
    pub(super) fn new(source: TimeSource) -> Clock {
        Clock {
            source,
            ..Clock::default()
        }
    }

    /// Creates a clock that has the time of its source, also when that steps.
    pub(super) fn exact(source: TimeSource) -> Clock {
        Clock {
            is_exact: true,
            ..Clock::new(source)
        }
    }

    /// Returns the time for deliveries and schedules.
    pub(super) fn now(&self) -> Timestamp {
        if self.is_exact {
            return (self.source.0)();
        }
        let now = self.reading();
        self.state.lock().now(now)
    }

    /// Returns the system's time, which reads of entries also use, for deletions by age. `None`
    /// while it is in doubt.
    pub(super) fn for_deletion(&self) -> Option<Timestamp> {
        if self.is_exact {
            return Some((self.source.0)());
        }
        let now = self.reading();
        self.state
            .lock()
            .trust
            .is_trusted(now)
            .then_some(now.system)
    }

    /// Whether the clock is trusted now.
    pub(super) fn is_trusted(&self) -> bool {
        self.for_deletion().is_some()
    }

    /// Whether it may be used to change the plans of other hosts.
    pub(super) fn may_replan(&self) -> bool {
        let now = self.reading();
        self.state.lock().trust.plans(now)
    }

    /// Waits until deliveries and schedules may run.
    pub(super) async fn wait_until_trusted(&self) {
        loop {
            let judged = self.judged.notified();
            let now = self.reading();
            if self.state.lock().trust.acts(now) {
                return;
            }
            tokio::select! {
                () = judged => {}
                () = tokio::time::sleep(COMPARE) => {}
            }
        }
    }

    fn reading(&self) -> Reading {
        Reading {
            system: (self.source.0)(),
            instant: Instant::now(),
        }
    }

    /// Compares the clock with the store's. Returns whether something has changed, and why the
    /// clock is in doubt.
    async fn look(&self, shared: &DispatchContext) -> Result<(bool, Option<Doubt>), StoreError> {
        let before = self.reading();
        let store = shared.host.store().clock().await?;
        let after = self.reading();
        let (changed, doubt) = {
            let trust = &mut self.state.lock().trust;
            (trust.compare(store, before, after), trust.doubt())
        };
        self.judged.notify_waiters();
        Ok((changed, doubt))
    }
}

/// Repeatedly compares the clock, and logs when it is in doubt.
pub(super) async fn run(
    shared: std::sync::Arc<DispatchContext>,
    task: TaskHandle,
    mut stop: Stop,
) -> Result<(), StoreError> {
    let (mut said, mut noted) = (None::<Instant>, None::<Instant>);
    loop {
        let (changed, doubt) = tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            looked = working(&task, shared.clock.look(&shared)) => looked?,
        };
        shared.host.metrics().clock_trusted(doubt.is_none());
        if changed {
            shared.stepped.notify_one();
        }
        match doubt {
            Some(doubt @ Doubt::Database(_)) => task.report_failure(doubt.to_string()),
            doubt => {
                task.report_ok();
                log_doubt(doubt, &mut said);
            }
        }
        if noted.is_none_or(|at| at.elapsed() >= NOTE)
            && let Some(now) = shared.clock.for_deletion()
        {
            noted = Some(Instant::now());
            if let Err(error) = shared.host.store().record_time(now).await {
                task.report_skip(&"recording the time", &error_chain(&error));
            }
        }
        let looked = Instant::now();
        while looked.elapsed() < LOOK {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                () = tokio::time::sleep(COMPARE) => {}
            }
            if !shared.clock.is_trusted() {
                break;
            }
        }
    }
}

/// Logs that the clock is in doubt, at most every ten minutes, and when it is trusted again.
fn log_doubt(doubt: Option<Doubt>, said: &mut Option<Instant>) {
    match doubt {
        Some(doubt) if said.is_none_or(|at| at.elapsed() >= SAY) => {
            *said = Some(Instant::now());
            tracing::warn!(
                "{doubt}: deletions by age are suspended until the clock is right again or has run \
                 without a step for an hour"
            );
        }
        None if said.take().is_some() => {
            tracing::info!("the clock is trusted again: deletions by age have resumed");
        }
        _ => {}
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Doubt::Database(ms) | Doubt::RecordedTime(ms) | Doubt::Stepped(ms)) = *self;
        let seconds = ms.unsigned_abs() / 1_000;
        let side = if ms > 0 { "ahead of" } else { "behind" };
        match self {
            Doubt::Database(_) => write!(
                f,
                "this host's clock is {seconds} s {side} the database's; the limit is {} s: \
                 deliveries, schedules and deletions are suspended until it is corrected",
                super::trust::BOUND.as_secs()
            ),
            Doubt::RecordedTime(_) => write!(
                f,
                "this host's clock is {seconds} s {side} the last time recorded in the store"
            ),
            Doubt::Stepped(_) => write!(
                f,
                "this host's clock has stepped to {seconds} s {side} its previous time"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_stays_monotonic_and_follows_forward_steps() {
        let mut state = ClockState::default();
        let start = Instant::now();
        let mut at = |system, ms| {
            let instant = start + Duration::from_millis(ms);
            let system = Timestamp(system);
            state.now(Reading { system, instant }).0
        };
        assert_eq!(at(1_000_000, 0), 1_000_000);
        assert_eq!(at(1_000_010, 10), 1_000_010);
        assert_eq!(at(500_020, 20), 1_000_020);
        assert_eq!(at(500_025, 25), 1_000_025);
        assert_eq!(at(2_000_000, 30), 2_000_000);
        assert_eq!(at(2_000_000, 31), 2_000_001);
        let days = 400 * 86_400_000;
        assert_eq!(at(days, 40), days);
        assert_eq!(at(2_000_050, 50), 2_000_050, "it was wrong");
    }
}
