//! Places for reads that are not over at once: long ones, such as pages with values, modules,
//! and what upkeep looks for; and short ones that wait for the disk (`nowait`).
//!
//! A point read is over in microseconds and runs on the thread that asks. A page of
//! a megabyte takes milliseconds, and a few clients that export would keep every
//! thread that serves. So such reads run on threads of their own, few at once, and of
//! one app only a part of those: so apps take turns.

use super::error;
use kvasm_core::AppId;
use kvasm_core::store::StoreError;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::thread::available_parallelism;
use tokio::sync::Semaphore;

/// The fewest long reads at once, of all apps.
const PLACES_MIN: usize = 2;
/// The most reads at once that wait for the disk, of all apps. They take no CPU.
const COLD_PLACES: usize = 16;
/// Apps that are remembered before those without a reader are forgotten.
const APPS_MAX: usize = 1_024;

/// The places.
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// The most that one app may have.
    of_app: usize,
    apps: Mutex<HashMap<Option<AppId>, Weak<Semaphore>>>,
}

impl Places {
    /// Places for long reads.
    pub(super) fn long() -> Places {
        let processors = available_parallelism().map_or(1, usize::from);
        Places::of(PLACES_MIN.max(processors / 2))
    }

    /// Places for short reads of what is not in memory.
    pub(super) fn cold() -> Places {
        Places::of(COLD_PLACES)
    }

    fn of(all: usize) -> Places {
        Places {
            all: Arc::new(Semaphore::new(all)),
            of_app: all / 2,
            apps: Mutex::default(),
        }
    }

    /// Runs a read of an app, or of what belongs to no app, when it has a place. The
    /// place is held until the read ends, even if nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        app: Option<AppId>,
        read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        // An app waits for its own first, so it has few among those that wait for all.
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
impl Places {
    /// Takes all places of an app, until the result is dropped.
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
    use kvasm_core::Letters;
    use kvasm_core::store::Outbox;
    use std::sync::mpsc;
    use tokio::sync::oneshot;

    /// A read that says that it runs, and ends when it is let go.
    fn held(
        places: &Arc<Places>,
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
    async fn one_app_never_has_all_places() {
        let places = Arc::new(Places::long());
        let (one, other) = (AppId::generate(), AppId::generate());
        let mut of_one: Vec<_> = (0..100).map(|_| held(&places, one)).collect();
        // As many as may run do.
        for (running, ..) in of_one.iter_mut().take(places.of_app) {
            let _ = running.await;
        }
        assert_eq!(
            places.all.available_permits(),
            places.all_places() - places.of_app
        );
        // Another app's read runs though a hundred wait.
        places.run(Some(other), || Ok(())).await.unwrap();
        for (_, let_go, _) in &of_one {
            let _ = let_go.send(());
        }
        for (.., task) in of_one {
            task.await.unwrap();
        }
    }

    impl Places {
        fn all_places(&self) -> usize {
            PLACES_MIN.max(available_parallelism().map_or(1, usize::from) / 2)
        }
    }

    /// They come with their values: many at once are read on other threads.
    #[tokio::test]
    async fn pages_of_deliveries_and_letters_wait_for_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(folder.path().join("kvasm.db"));
        let store = SqliteStore::open(options).await.unwrap();
        let app = AppId::generate();
        let held = store.places.hold_all_of(app).await;
        let letters = Letters::default();
        let mut deliveries = store.deliveries(app, None, 101);
        let mut dead_letters = store.dead_letters(app, &letters, None, 16);
        tokio::select! {
            biased;
            _ = &mut deliveries => panic!("deliveries were read on this thread"),
            _ = &mut dead_letters => panic!("letters were read on this thread"),
            () = std::future::ready(()) => {}
        }
        // One is over at once.
        assert!(store.deliveries(app, None, 1).await.unwrap().is_empty());
        let one = store.dead_letters(app, &letters, None, 1).await;
        assert!(one.unwrap().is_empty());
        drop(held);
        assert!(deliveries.await.unwrap().is_empty());
        assert!(dead_letters.await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn apps_without_readers_are_forgotten() {
        let places = Places::long();
        for _ in 0..3 * APPS_MAX {
            let app = AppId::generate();
            places.run(Some(app), || Ok(())).await.unwrap();
        }
        assert!(places.apps.lock().len() <= APPS_MAX);
    }
}
