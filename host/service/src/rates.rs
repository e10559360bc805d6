//! Rate limits per app: calls, which `admission` counts, and writes of entries by
//! administrators.
//!
//! An administrator's write adds an audit row in addition to the entry, which no quota counts.
//! So it is limited to the app's call rate, but counted separately: an app's callers cannot
//! block its administrators.

use super::Refusal;
use kvasm_core::{App, AppId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Number of apps after which idle ones are removed.
const APPS_MAX: usize = 1_024;

/// The recent events of an app, as a leaky bucket.
#[derive(Default)]
pub(super) struct Rate {
    recent: f64,
    /// When `recent` was last updated.
    at: Option<Instant>,
}

impl Rate {
    /// Whether one more event is within `limit` per second. If the limit was lowered, earlier
    /// events count only up to the new limit.
    ///
    /// # Errors
    /// [`Refusal::Rate`].
    pub(super) fn check(&mut self, limit: u32, now: Instant) -> Result<(), Refusal> {
        let rate = f64::from(limit);
        let since = self
            .at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.recent = (self.recent - since.as_secs_f64() * rate).clamp(0.0, rate);
        self.at = Some(now);
        let excess = self.recent + 1.0 - rate;
        if excess <= 0.0 {
            return Ok(());
        }
        let retry_after = match limit {
            0 => Duration::from_secs(60),
            _ => Duration::from_secs_f64(excess / rate),
        };
        Err(Refusal::Rate { limit, retry_after })
    }

    /// Counts an event that was admitted.
    pub(super) fn count(&mut self) {
        self.recent += 1.0;
    }

    /// Whether the bucket is empty, whatever the limit.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let second = Duration::from_secs(1);
        self.at
            .is_none_or(|at| now.saturating_duration_since(at) > second)
    }
}

/// The write rates of all apps.
#[derive(Default)]
pub struct WriteRates {
    by_app: Mutex<HashMap<AppId, Rate>>,
}

impl WriteRates {
    /// Counts a write, unless the app's writes in the last second have reached its call rate.
    ///
    /// # Errors
    /// [`Refusal::Rate`].
    pub fn admit(&self, app: &App, now: Instant) -> Result<(), Refusal> {
        let Some(limit) = app.limits.calls_per_second else {
            return Ok(());
        };
        let mut by_app = self.by_app.lock();
        if by_app.len() >= APPS_MAX && !by_app.contains_key(&app.id) {
            by_app.retain(|_, rate| !rate.is_idle(now));
        }
        let rate = by_app.entry(app.id).or_default();
        rate.check(limit, now)?;
        rate.count();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{AppLimits, AppName, CursorKey, Timestamp};

    fn app(per_second: Option<u32>) -> App {
        App {
            id: AppId::generate(),
            name: AppName::parse("app").unwrap(),
            created_at: Timestamp(0),
            cursor_key: CursorKey::new([0; CursorKey::BYTES]),
            public: false,
            limits: AppLimits {
                calls_per_second: per_second,
                ..AppLimits::default()
            },
            active: None,
            settings: None,
        }
    }

    #[test]
    fn writes_are_limited_to_call_rate() {
        let (rates, start) = (WriteRates::default(), Instant::now());
        let (one, other) = (app(Some(10)), app(Some(10)));
        let taken = |app: &App, now| (0..100).filter(|_| rates.admit(app, now).is_ok()).count();
        assert_eq!(taken(&one, start), 10);
        let refused = rates.admit(&one, start).unwrap_err();
        assert!(
            refused.retry_after() <= Duration::from_millis(101),
            "{refused:?}"
        );
        assert_eq!(taken(&other, start), 10);
        assert_eq!(taken(&one, start + Duration::from_millis(500)), 5);
        assert_eq!(taken(&one, start + Duration::from_secs(100)), 10);
        assert_eq!(taken(&app(None), start), 100);
        assert_eq!(taken(&app(Some(0)), start), 0);
    }

    #[test]
    fn idle_apps_are_removed_from_write_rates() {
        let (rates, start) = (WriteRates::default(), Instant::now());
        for at in 0..5_000 {
            let now = start + Duration::from_millis(10 * at);
            rates.admit(&app(Some(1)), now).unwrap();
        }
        assert!(rates.by_app.lock().len() <= APPS_MAX);
    }
}
