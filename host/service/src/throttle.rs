//! Rate limits of the host's own log: lines about one app, and about failed requests.

mod requests;

use kvasm_core::AppId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

pub use requests::{RequestOutcome, admit_failed_request_line, admit_request_line};

/// Maximum number of apps with their own limit.
const APPS_MAX: usize = 1_024;

/// A rate limit of log lines.
#[derive(Debug, Clone, Copy)]
struct RateLimit {
    /// Number of lines at once.
    burst: u32,
    /// Interval after which another line is allowed.
    refill: Duration,
}

/// The limit for warnings.
const WARNINGS: RateLimit = RateLimit {
    burst: 10,
    refill: Duration::from_secs(1),
};
/// Static, because the log is per process.
static HOST_LOG: Throttle = Throttle::new(WARNINGS);

/// Admits a log line about an app, for events that the app's plugin or callers can trigger at
/// will.
///
/// # Returns
/// If admitted, the number of lines suppressed since the last one.
pub fn admit_app_line(app: AppId) -> Option<u64> {
    HOST_LOG.line_about(Some(app), Instant::now())
}

struct Throttle {
    pace: RateLimit,
    /// Created with the first line.
    apps: Mutex<Option<Apps>>,
}

#[derive(Default)]
struct Apps {
    by_app: HashMap<AppId, Bucket>,
    /// For lines that belong to no app.
    no_app: Bucket,
    /// Shared by all apps beyond the maximum.
    others: Bucket,
}

struct Bucket {
    /// When the full burst is available again; `None` before the first line.
    full_at: Option<Instant>,
    suppressed: u64,
}

impl Default for Bucket {
    fn default() -> Bucket {
        Bucket::EMPTY
    }
}

impl Bucket {
    const EMPTY: Bucket = Bucket {
        full_at: None,
        suppressed: 0,
    };

    fn take(&mut self, now: Instant, pace: RateLimit) -> Option<u64> {
        let next = self.full_at.unwrap_or(now).max(now) + pace.refill;
        if next > now + pace.refill * pace.burst {
            self.suppressed += 1;
            return None;
        }
        self.full_at = Some(next);
        Some(std::mem::take(&mut self.suppressed))
    }

    fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

impl Throttle {
    const fn new(pace: RateLimit) -> Throttle {
        Throttle {
            pace,
            apps: Mutex::new(None),
        }
    }

    fn line_about(&self, app: Option<AppId>, now: Instant) -> Option<u64> {
        let mut apps = self.apps.lock();
        let Apps {
            by_app,
            no_app,
            others,
        } = apps.get_or_insert_default();
        let Some(app) = app else {
            return no_app.take(now, self.pace);
        };
        if by_app.len() >= APPS_MAX && !by_app.contains_key(&app) {
            by_app.retain(|_, bucket| !bucket.is_full(now));
            if by_app.len() >= APPS_MAX {
                return others.take(now, self.pace);
            }
        }
        by_app.entry(app).or_default().take(now, self.pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_log_lines_are_limited_after_a_burst() {
        let (throttle, app, start) = (Throttle::new(WARNINGS), AppId::generate(), Instant::now());
        let app = Some(app);
        let lines = |seconds, count| {
            let now = start + Duration::from_secs(seconds);
            let lines = (0..count).filter_map(|_| throttle.line_about(app, now));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(lines(0, 5_000), [0; WARNINGS.burst as usize]);
        assert_eq!(lines(1, 100), [5_000 - u64::from(WARNINGS.burst)]);
        assert_eq!(lines(3, 100), [99, 0]);
        assert_eq!(throttle.line_about(Some(AppId::generate()), start), Some(0));
        assert_eq!(throttle.line_about(None, start), Some(0));
    }

    #[test]
    fn throttled_apps_are_bounded() {
        let (throttle, start) = (Throttle::new(WARNINGS), Instant::now());
        let of_all = |now| {
            let lines =
                (0..2 * APPS_MAX).filter_map(|_| throttle.line_about(Some(AppId::generate()), now));
            lines.count()
        };
        assert_eq!(of_all(start), APPS_MAX + WARNINGS.burst as usize);
        assert_eq!(
            throttle.apps.lock().as_ref().unwrap().by_app.len(),
            APPS_MAX
        );
        assert!(of_all(start + Duration::from_secs(60)) >= APPS_MAX);
        assert_eq!(
            throttle.apps.lock().as_ref().unwrap().by_app.len(),
            APPS_MAX
        );
    }
}
