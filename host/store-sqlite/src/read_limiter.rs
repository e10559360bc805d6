//! Permits for reads that take long (pages with values, modules, queries of upkeep), and for short
//! reads that wait for the disk (`nowait`).
//!
//! A point read takes microseconds and runs on the calling thread. A page of a megabyte takes
//! milliseconds, and a few exporting clients would occupy every serving thread. So such reads run
//! on separate threads, a limited number at once, of which one app gets only a part.

use super::error;
use kvasm_core::AppId;
use kvasm_core::store::StoreError;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::thread::available_parallelism;
use tokio::sync::Semaphore;

/// The minimum number of concurrent long reads, over all apps.
const LONG_READS_MIN: usize = 2;
/// The maximum number of concurrent reads that wait for the disk, over all apps. They use no CPU.
const COLD_READS_MAX: usize = 16;
/// When more apps are remembered, those without a reader are forgotten.
const APPS_MAX: usize = 1_024;

/// The permits.
pub(super) struct ReadLimiter {
    all: Arc<Semaphore>,
    /// The maximum of one app.
    of_app: usize,
    apps: Mutex<HashMap<Option<AppId>, Weak<Semaphore>>>,
}

impl ReadLimiter {
    /// Creates the permits for long reads.
    pub(super) fn long() -> ReadLimiter {
        let processors = available_parallelism().map_or(1, usize::from);
        ReadLimiter::of(LONG_READS_MIN.max(processors / 2))
    }

    /// Creates the permits for short reads of pages that are not in memory.
    pub(super) fn cold() -> ReadLimiter {
        ReadLimiter::of(COLD_READS_MAX)
    }

    fn of(all: usize) -> ReadLimiter {
        ReadLimiter {
            all: Arc::new(Semaphore::new(all)),
            of_app: all / 2,
            apps: Mutex::default(),
        }
    }

    /// Runs a read of an app, or of no app, once it gets a permit. The permit is held until the
    /// read ends, even if its caller has been cancelled.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        app: Option<AppId>,
        read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        // An app waits for its own permits first, so few of its reads wait for the shared ones.
        let own = self.gate(app).acquire_owned().await.map_err(error::host)?;
        let place = Arc::clone(&self.all).acquire_owned().await;
        let place = place.map_err(error::host)?;
        let run = move || {
            let result = read();
            drop((own, place));
            result
        };
        tokio::task::spawn_blocking(run)
            .await
            .map_err(error::host)?
    }

    fn gate(&self, app: Option<AppId>) -> Arc<Semaphore> {
        let mut apps = self.apps.lock();
        if let Some(gate) = apps.get(&app).and_then(Weak::upgrade) {
            return gate;
        }
        if apps.len() >= APPS_MAX {
            apps.retain(|_, gate| gate.strong_count() > 0);
        }
        let gate = Arc::new(Semaphore::new(self.of_app));
        apps.insert(app, Arc::downgrade(&gate));
        gate
    }
}

#[cfg(test)]
impl ReadLimiter {
    /// Acquires all permits of an app until the result is dropped.
    pub(super) async fn hold_all_of(&self, app: AppId) -> tokio::sync::OwnedSemaphorePermit {
        let all = u32::try_from(self.of_app).unwrap();
        let held = self.gate(Some(app)).acquire_many_owned(all).await;
        held.unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SqliteOptions, SqliteStore};
    use kvasm_core::DeadLetterFilter;
    use kvasm_core::store::Outbox;
    use std::sync::mpsc;
    use tokio::sync::oneshot;

    /// Starts a read that signals that it runs, and ends when released.
    fn held(
        places: &Arc<ReadLimiter>,
        app: AppId,
    ) -> (
        oneshot::Receiver<()>,
        mpsc::Sender<()>,
        tokio::task::JoinHandle<()>,
    ) {
        let (runs, running) = oneshot::channel();
        let (let_go, end) = mpsc::channel();
        let places = Arc::clone(places);
        let task = tokio::spawn(async move {
            let read = move || {
                let _ = runs.send(());
                let _ = end.recv();
                Ok(())
            };
            places.run(Some(app), read).await.unwrap();
        });
        (running, let_go, task)
    }

    #[tokio::test]
    async fn one_app_never_gets_all_read_permits() {
        let places = Arc::new(ReadLimiter::long());
        let (one, other) = (AppId::generate(), AppId::generate());
        let mut of_one: Vec<_> = (0..100).map(|_| held(&places, one)).collect();
        // As many as are allowed run.
        for (running, ..) in of_one.iter_mut().take(places.of_app) {
            let _ = running.await;
        }
        assert_eq!(
            places.all.available_permits(),
            places.all_places() - places.of_app
        );
        // Another app's read runs although a hundred are waiting.
        places.run(Some(other), || Ok(())).await.unwrap();
        for (_, let_go, _) in &of_one {
            let _ = let_go.send(());
        }
        for (.., task) in of_one {
            task.await.unwrap();
        }
    }

    impl ReadLimiter {
        fn all_places(&self) -> usize {
            LONG_READS_MIN.max(available_parallelism().map_or(1, usize::from) / 2)
        }
    }

    /// They include values, so large pages are read on other threads.
    #[tokio::test]
    async fn pages_of_deliveries_and_dead_letters_wait_for_a_permit() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(folder.path().join("kvasm.db"));
        let store = SqliteStore::open(options).await.unwrap();
        let app = AppId::generate();
        let held = store.places.hold_all_of(app).await;
        let letters = DeadLetterFilter::default();
        let mut deliveries = store.deliveries(app, None, 101);
        let mut dead_letters = store.dead_letters(app, &letters, None, 16);
        tokio::select! {
            biased;
            _ = &mut deliveries => panic!("deliveries were read on this thread"),
            _ = &mut dead_letters => panic!("dead letters were read on this thread"),
            () = std::future::ready(()) => {}
        }
        // A page of one runs inline.
        assert!(store.deliveries(app, None, 1).await.unwrap().is_empty());
        let one = store.dead_letters(app, &letters, None, 1).await;
        assert!(one.unwrap().is_empty());
        drop(held);
        assert!(deliveries.await.unwrap().is_empty());
        assert!(dead_letters.await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn idle_apps_are_removed_from_the_read_limiter() {
        let places = ReadLimiter::long();
        for _ in 0..3 * APPS_MAX {
            let app = AppId::generate();
            places.run(Some(app), || Ok(())).await.unwrap();
        }
        assert!(places.apps.lock().len() <= APPS_MAX);
    }
}
