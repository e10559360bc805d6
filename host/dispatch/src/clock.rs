//! The dispatcher's clock: the system's as far as it can be trusted, and it does not go
//! back by a little. `trust` says what can be trusted.

use super::Shared;
use super::supervisor::Stop;
use super::trust::{Doubt, Reading, Trust};
use kvasm_core::Timestamp;
use kvasm_core::store::StoreError;
use kvasm_service::{Task, chain};
use parking_lot::Mutex;
use std::fmt;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often the store is asked. Sooner if the clock has stepped.
const LOOK: Duration = Duration::from_secs(10);
/// How often the two clocks of this host are compared.
const COMPARE: Duration = Duration::from_secs(1);
/// How often the store is given the time to keep.
const NOTE: Duration = Duration::from_secs(60);
/// How often it is said that the clock is in doubt.
const SAY: Duration = Duration::from_secs(600);

/// Where a dispatcher takes the time from. Default: the system's clock.
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

/// When the system's clock is set back by up to the longest wait between two attempts,
/// this one goes on from where it was, so that no lease and no retry waits for hours
/// that have been already. Set back by more, it follows, and `rescue` makes due what was
/// put off.
#[derive(Default)]
pub(super) struct Clock {
    source: TimeSource,
    state: Mutex<State>,
    judged: Notify,
}

#[derive(Default)]
struct State {
    last: Option<Reading>,
    trust: Trust,
}

impl State {
    fn now(&mut self, now: Reading) -> Timestamp {
        let time = self.trust.time(now);
        let ahead_max = super::millis(self.trust.ahead_max());
        let kept = self.last.map(|last| last.at(now.instant));
        let kept = kept.filter(|kept| *kept > time && *kept <= time.plus_ms(ahead_max));
        let system = kept.unwrap_or(time);
        // Kept only when it moves, so that parts of milliseconds add up.
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

    /// The time of deliveries and schedules.
    pub(super) fn now(&self) -> Timestamp {
        let now = self.reading();
        self.state.lock().now(now)
    }

    /// The system's time, as reads of entries see it, to delete by. `None` while it is
    /// in doubt.
    pub(super) fn for_deletion(&self) -> Option<Timestamp> {
        let now = self.reading();
        self.state.lock().trust.holds(now).then_some(now.system)
    }

    /// Whether the clock is believed now.
    pub(super) fn is_trusted(&self) -> bool {
        self.for_deletion().is_some()
    }

    /// Whether what others have planned may be changed by it now.
    pub(super) fn plans(&self) -> bool {
        let now = self.reading();
        self.state.lock().trust.plans(now)
    }

    /// Waits until deliveries and schedules may be carried out.
    pub(super) async fn acts(&self) {
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

    /// Asks the store, and judges. Whether something has changed, and why the clock is in
    /// doubt.
    async fn look(&self, shared: &Shared) -> Result<(bool, Option<Doubt>), StoreError> {
        let before = self.reading();
        let store = shared.host.store().clock().await?;
        let after = self.reading();
        let (changed, doubt) = {
            let trust = &mut self.state.lock().trust;
            (trust.judge(store, before, after), trust.doubt())
        };
        self.judged.notify_waiters();
        Ok((changed, doubt))
    }
}

/// Compares the clock again and again, and says when it is in doubt.
pub(super) async fn run(
    shared: std::sync::Arc<Shared>,
    task: Task,
    mut stop: Stop,
) -> Result<(), StoreError> {
    let (mut said, mut noted) = (None::<Instant>, None::<Instant>);
    loop {
        let (changed, doubt) = tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            looked = shared.clock.look(&shared) => looked?,
        };
        shared.host.metrics().clock_trusted(doubt.is_none());
        if changed {
            shared.stepped.notify_one();
        }
        match doubt {
            Some(doubt @ Doubt::Database(_)) => task.fails(doubt.to_string()),
            doubt => {
                task.works();
                say(doubt, &mut said);
            }
        }
        if noted.is_none_or(|at| at.elapsed() >= NOTE)
            && let Some(now) = shared.clock.for_deletion()
        {
            noted = Some(Instant::now());
            if let Err(error) = shared.host.store().note_time(now).await {
                task.skips(&"a note of the time", &chain(&error));
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

/// Says that the clock is in doubt, at most every ten minutes, and when it no longer is.
fn say(doubt: Option<Doubt>, said: &mut Option<Instant>) {
    match doubt {
        Some(doubt) if said.is_none_or(|at| at.elapsed() >= SAY) => {
            *said = Some(Instant::now());
            tracing::warn!(
                "{doubt}: nothing is deleted for its age until the clock fits again or has run \
                 without a step for an hour"
            );
        }
        None if said.take().is_some() => {
            tracing::info!("the clock is trusted again: what is too old is deleted");
        }
        _ => {}
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Doubt::Database(ms) | Doubt::Seen(ms) | Doubt::Stepped(ms)) = *self;
        let seconds = ms.unsigned_abs() / 1_000;
        let side = if ms > 0 { "ahead of" } else { "behind" };
        match self {
            Doubt::Database(_) => write!(
                f,
                "this host's clock is {seconds} s {side} the database's, and may differ by {} s: \
                 deliveries, schedules and deletions rest until it is set right",
                super::trust::BOUND.as_secs()
            ),
            Doubt::Seen(_) => write!(
                f,
                "this host's clock is {seconds} s {side} what the store saw last"
            ),
            Doubt::Stepped(_) => write!(
                f,
                "this host's clock has stepped to {seconds} s {side} where it was"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_when_the_system_is_set_back_a_little_and_follows_it_forward() {
        let mut state = State::default();
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
