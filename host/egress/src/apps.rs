//! The limits of each app.

use kvasm_core::AppId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Number of apps after which idle ones are removed.
const APPS_MAX: usize = 1_024;
/// Name resolutions of an app at once. One that takes longer than its request continues: the
/// operating system cannot stop it.
const LOOKUPS_PER_APP: usize = 4;

/// The requests of one app.
pub(crate) struct AppRequests {
    /// Requests at once.
    pub(crate) at_once: Arc<Semaphore>,
    /// Name resolutions at once.
    pub(crate) lookups: Arc<Semaphore>,
    recent: Mutex<Recent>,
}

/// The recent requests of an app, as a leaky bucket.
struct Recent {
    count: f64,
    at: Instant,
}

impl AppRequests {
    /// Counts a request, unless the app has sent `limit` requests within a second.
    pub(crate) fn admit(&self, limit: u32, now: Instant) -> bool {
        let limit = f64::from(limit);
        let mut recent = self.recent.lock();
        let since = now.saturating_duration_since(recent.at);
        recent.count = (recent.count - since.as_secs_f64() * limit).max(0.0);
        recent.at = now;
        let admitted = recent.count + 1.0 <= limit;
        if admitted {
            recent.count += 1.0;
        }
        admitted
    }

    fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.recent.lock().at) > Duration::from_secs(1)
    }
}

/// The apps with recent requests.
#[derive(Default)]
pub(crate) struct FetchingApps(Mutex<HashMap<AppId, Arc<AppRequests>>>);

impl FetchingApps {
    /// Returns the requests of an app.
    pub(crate) fn of(&self, app: AppId, at_once: u32, now: Instant) -> Arc<AppRequests> {
        let mut apps = self.0.lock();
        if apps.len() >= APPS_MAX && !apps.contains_key(&app) {
            // One with requests, or with lookups that continue, is held by others.
            apps.retain(|_, app| {
                let lookups = app.lookups.available_permits();
                Arc::strong_count(app) > 1 || lookups < LOOKUPS_PER_APP || !app.is_idle(now)
            });
        }
        let at_once = usize::try_from(at_once).unwrap_or(Semaphore::MAX_PERMITS);
        let requests = apps.entry(app).or_insert_with(|| {
            Arc::new(AppRequests {
                at_once: Arc::new(Semaphore::new(at_once.min(Semaphore::MAX_PERMITS))),
                lookups: Arc::new(Semaphore::new(LOOKUPS_PER_APP)),
                recent: Mutex::new(Recent {
                    count: 0.0,
                    at: now,
                }),
            })
        });
        Arc::clone(requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_limited_per_second_and_app() {
        let (apps, start) = (FetchingApps::default(), Instant::now());
        let sent = |app, now| {
            let requests = apps.of(app, 1, now);
            (0..100).filter(|_| requests.admit(10, now)).count()
        };
        let (one, other) = (AppId::generate(), AppId::generate());
        assert_eq!(sent(one, start), 10);
        assert_eq!(sent(one, start), 0);
        assert_eq!(sent(other, start), 10);
        assert_eq!(sent(one, start + Duration::from_millis(500)), 5);
        assert_eq!(sent(one, start + Duration::from_secs(100)), 10);
    }

    #[test]
    fn idle_apps_are_removed() {
        let (apps, start) = (FetchingApps::default(), Instant::now());
        let held = apps.of(AppId::generate(), 1, start);
        for n in 0..5_000 {
            let now = start + Duration::from_millis(10 * n);
            apps.of(AppId::generate(), 1, now).admit(1, now);
        }
        let apps = apps.0.lock();
        assert!(apps.len() <= APPS_MAX);
        assert!(apps.values().any(|app| Arc::ptr_eq(app, &held)));
    }
}
