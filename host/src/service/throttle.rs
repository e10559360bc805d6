//! How many lines of the host's own log are about one app, or about requests that fail.

use crate::model::AppId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Lines about an app that may come at once.
const BURST: u32 = 10;
/// When one line more may come.
const REFILL: Duration = Duration::from_secs(1);
/// The most apps that have a count of their own.
const APPS_MAX: usize = 1_024;

/// The log is one for the process, and so is this.
static HOST_LOG: LazyLock<Throttle> = LazyLock::new(Throttle::default);

/// Whether the host's own log may have one more line about an app now, for events
/// that the app's plugin or callers can cause as often as they like.
///
/// # Returns
/// How many lines were suppressed since the last one, if it may.
pub(crate) fn line_about(app: AppId) -> Option<u64> {
    HOST_LOG.line_about(app, Instant::now())
}

/// Lines about requests that the host could not answer. Their app is not known where
/// they are written.
static REQUESTS: Mutex<Bucket> = Mutex::new(Bucket {
    full_at: None,
    suppressed: 0,
});

/// Whether the host's own log may have one more line about a request that failed.
///
/// # Returns
/// How many lines were suppressed since the last one, if it may.
pub(crate) fn line_about_request() -> Option<u64> {
    REQUESTS.lock().take(Instant::now())
}

#[derive(Default)]
struct Throttle(Mutex<Apps>);

#[derive(Default)]
struct Apps {
    by_app: HashMap<AppId, Bucket>,
    /// Of all apps for which there is no room.
    others: Bucket,
}

#[derive(Default)]
struct Bucket {
    /// When as many lines may come at once as ever; none before the first line.
    full_at: Option<Instant>,
    suppressed: u64,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> Option<u64> {
        let next = self.full_at.unwrap_or(now).max(now) + REFILL;
        if next > now + REFILL * BURST {
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
    fn line_about(&self, app: AppId, now: Instant) -> Option<u64> {
        let mut apps = self.0.lock();
        let Apps { by_app, others } = &mut *apps;
        if by_app.len() >= APPS_MAX && !by_app.contains_key(&app) {
            by_app.retain(|_, bucket| !bucket.is_full(now));
            if by_app.len() >= APPS_MAX {
                return others.take(now);
            }
        }
        by_app.entry(app).or_default().take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_has_a_burst_and_then_a_line_a_second() {
        let (throttle, app, start) = (Throttle::default(), AppId::generate(), Instant::now());
        let lines = |seconds, count| {
            let now = start + Duration::from_secs(seconds);
            let lines = (0..count).filter_map(|_| throttle.line_about(app, now));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(lines(0, 5_000), [0; BURST as usize]);
        assert_eq!(lines(1, 100), [5_000 - u64::from(BURST)]);
        assert_eq!(lines(3, 100), [99, 0]);
        assert_eq!(throttle.line_about(AppId::generate(), start), Some(0));
    }

    #[test]
    fn the_number_of_apps_is_bounded() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let of_all = |now| {
            let lines =
                (0..2 * APPS_MAX).filter_map(|_| throttle.line_about(AppId::generate(), now));
            lines.count()
        };
        assert_eq!(of_all(start), APPS_MAX + BURST as usize);
        assert_eq!(throttle.0.lock().by_app.len(), APPS_MAX);
        assert!(of_all(start + Duration::from_secs(60)) >= APPS_MAX);
        assert_eq!(throttle.0.lock().by_app.len(), APPS_MAX);
    }
}
