//! Work on megabytes of text, in pieces and off the threads that serve.

use crate::model::AppId;
use crate::service::{Fair, Share};
use std::num::NonZero;
use std::sync::Arc;
use tokio::task::{JoinError, spawn_blocking};

/// Where pieces of work run. So many run at once as there are cores, but for one; one app
/// has half of these places at the most, and those of all apps take turns.
pub(super) struct Aside {
    places: Arc<Fair>,
}

impl Aside {
    pub(super) fn new() -> Aside {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let places = u32::try_from(cores.saturating_sub(1).max(1)).unwrap_or(u32::MAX);
        Aside {
            places: Fair::new(places, Share::Half),
        }
    }

    /// Runs a piece of work for an app, once there is a place for it. It runs to its end
    /// even if nobody waits for it any more.
    ///
    /// # Errors
    /// If it panics, or the runtime ends.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        app: AppId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let place = self.places.take(app, 1, 0).await;
        spawn_blocking(move || {
            let _place = place;
            work()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    /// The thread that serves goes on while a piece of work runs, and pieces of one app do
    /// not keep out another's.
    #[tokio::test]
    async fn work_runs_elsewhere_and_by_turns() {
        let aside = Arc::new(Aside {
            places: Fair::new(1, Share::Half),
        });
        let (app, other) = (AppId::generate(), AppId::generate());
        let serving = thread::current().id();
        let (go, gone) = mpsc::channel::<()>();
        let (done, order) = mpsc::channel();
        let mut tasks = Vec::new();
        let begin = |app, name: &'static str, first: Option<mpsc::Receiver<()>>| {
            let (aside, done) = (Arc::clone(&aside), done.clone());
            tokio::spawn(async move {
                let work = move || {
                    assert_ne!(thread::current().id(), serving);
                    if let Some(gone) = first {
                        gone.recv_timeout(Duration::from_secs(60)).unwrap();
                    }
                    done.send(name).unwrap();
                };
                aside.run(app, work).await.unwrap();
            })
        };
        tasks.push(begin(app, "first", Some(gone)));
        tokio::task::yield_now().await;
        for _ in 0..20 {
            tasks.push(begin(app, "app", None));
        }
        tokio::task::yield_now().await;
        tasks.push(begin(other, "other", None));
        for _ in 0..30 {
            tokio::task::yield_now().await;
        }
        assert!(order.try_recv().is_err());
        go.send(()).unwrap();
        for task in tasks {
            task.await.unwrap();
        }
        let order: Vec<_> = order.try_iter().collect();
        assert_eq!(order.len(), 22);
        assert!(order[..3].contains(&"other"), "{order:?}");
    }
}
