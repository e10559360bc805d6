//! Finds queues with due deliveries, claims a few deliveries of each, and starts their handlers.

use super::leases::LeaseGuard;
use super::supervisor::{Stop, working};
use super::{DispatchContext, HandlerPermit, millis, worker};
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Claim, Queue};
use kvasm_service::{TaskHandle, error_chain};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OnceCell, OwnedSemaphorePermit};
use uuid::Uuid;

/// Number of queues read per page.
const QUEUES: u32 = 64;
/// Maximum number of deliveries claimed from a queue before the next queue is served.
const CLAIM_MAX: usize = 8;
/// Delay after a permit was released, so that a claim takes more than one delivery when there
/// are many.
const GATHER: Duration = Duration::from_millis(1);
/// A pass over very many queues takes longer than this. It is followed by a rest of three times
/// its duration, so that passes do not take all the time.
const LONG_PASS: Duration = Duration::from_millis(5);
/// Number of consecutive apps with failing claims that counts as a failure of the store.
const FAILING_APPS: usize = 3;

/// The result of a pass.
#[derive(Default)]
pub(super) struct QueuePass {
    /// Time spent reading queues.
    took: Duration,
    /// Whether a claim got as many deliveries as it requested.
    full: bool,
    /// Apps whose claims have failed since the last successful one.
    failing: Vec<AppId>,
}

/// Runs passes repeatedly.
pub(super) async fn run(
    shared: Arc<DispatchContext>,
    task: TaskHandle,
    mut stop: Stop,
) -> Result<(), StoreError> {
    let mut after = shared.claims_position.lock().take();
    loop {
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            () = shared.clock.wait_until_trusted() => {}
        }
        let looked = working(&task, look(&shared, &task, &mut after, &mut stop)).await;
        shared.claims_position.lock().clone_from(&after);
        let look = looked?;
        task.report_ok();
        shared.reap();
        let rest = if look.took > LONG_PASS {
            look.took * 3
        } else {
            Duration::ZERO
        };
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            () = wait(&shared, rest, look.full) => {}
        }
    }
}

/// Waits until there may be something to do, but at least for `rest`. Returns at once if a claim
/// was `full`.
async fn wait(shared: &DispatchContext, rest: Duration, full: bool) {
    if !rest.is_zero() {
        tokio::time::sleep(rest).await;
    }
    if full {
        return tokio::task::yield_now().await;
    }
    tokio::select! {
        () = shared.host.notifier().wait() => {}
        () = shared.changed.notified() => tokio::time::sleep(GATHER).await,
        () = tokio::time::sleep(shared.options.poll) => {}
    }
}

/// Runs one pass over the queues with due deliveries, or until a stop is requested. A claim is
/// never interrupted: claimed deliveries are run, rather than left until their lease expires.
/// After an error, `after` is the current position.
pub(super) async fn look(
    shared: &Arc<DispatchContext>,
    task: &TaskHandle,
    after: &mut Option<Queue>,
    stop: &mut Stop,
) -> Result<QueuePass, StoreError> {
    let mut look = QueuePass::default();
    // From the end of the last pass to the last queue, then from the first.
    let mut wrapped = after.is_none();
    loop {
        if shared.permits.available_permits() == 0 {
            return Ok(look);
        }
        let now = shared.clock.now();
        let start = Instant::now();
        let queues = tokio::select! {
            biased;
            () = stop.requested() => return Ok(look),
            queues = shared.host.store().due(after.as_ref(), now, QUEUES) => queues?,
        };
        look.took += start.elapsed();
        if queues.is_empty() {
            *after = None;
            if wrapped {
                return Ok(look);
            }
            wrapped = true;
            continue;
        }
        for queue in queues {
            let places = acquire_permits(shared, queue.app);
            if places.as_ref().is_some_and(Vec::is_empty) {
                // The next pass starts with it.
                return Ok(look);
            }
            if stop.is_requested() {
                return Ok(look);
            }
            // Before the claim: the pass continues with the next queue, even if the app is at
            // its limit or the claim fails.
            *after = Some(queue.clone());
            task.progress();
            if let Some(places) = places
                && !look.failing.contains(&queue.app)
            {
                match claim(shared, &queue, places).await {
                    Ok(full) => {
                        look.full |= full;
                        look.failing.clear();
                    }
                    Err(error) => {
                        task.report_skip(
                            &format_args!("deliveries of app {}", queue.app),
                            &error_chain(&error),
                        );
                        look.failing.push(queue.app);
                        if look.failing.len() >= FAILING_APPS {
                            return Err(error);
                        }
                    }
                }
            }
        }
    }
}

/// Acquires permits for deliveries of an app. Returns `None` if the app is at its limit, and an
/// empty list if no permit is free.
fn acquire_permits(shared: &DispatchContext, app: AppId) -> Option<Vec<OwnedSemaphorePermit>> {
    let running = shared.running.lock().get(&app).copied().unwrap_or(0);
    let free = shared.permits.available_permits();
    let share = share(shared.options.handlers_of_app, free, running);
    if share == 0 && free > 0 {
        return None;
    }
    let places = std::iter::from_fn(|| Arc::clone(&shared.permits).try_acquire_owned().ok());
    Some(places.take(share.min(CLAIM_MAX)).collect())
}

/// Returns how many more handlers an app may run: it may hold as many permits as remain free,
/// but always one. So a few apps with a backlog leave permits for others, and a single app gets
/// up to half of all.
fn share(of_app: usize, free: usize, running: usize) -> usize {
    let fair = free.saturating_sub(running).div_ceil(2);
    let least = usize::from(running == 0).min(free);
    fair.max(least).min(of_app.saturating_sub(running))
}

/// Claims deliveries for these permits and starts their handlers. Returns whether all permits
/// were used, so that there may be more deliveries.
async fn claim(
    shared: &Arc<DispatchContext>,
    queue: &Queue,
    places: Vec<OwnedSemaphorePermit>,
) -> Result<bool, StoreError> {
    let now = shared.clock.now();
    let claim = Claim {
        queue: queue.clone(),
        now,
        until: now.plus_ms(millis(shared.lease())),
        lease: Uuid::new_v4(),
        limit: u32::try_from(places.len()).unwrap_or(u32::MAX),
    };
    let claimed = shared.host.store().claim(&claim).await?;
    if claimed.is_empty() {
        // The due delivery is blocked by an earlier one of its ordering key; later ones may not
        // be.
        shared.changed.notify_one();
    }
    let full = claimed.len() == places.len();
    // Read by the first handler, for all of them.
    let app = Arc::new(OnceCell::new());
    let mut handlers = shared.handlers.lock();
    for (delivery, place) in claimed.into_iter().zip(places) {
        let held = HandlerPermit::new(shared, queue.app, place);
        let loan = LeaseGuard::new(shared, queue.app, &delivery, claim.lease);
        let claimed = worker::Claimed {
            id: queue.app,
            app: Arc::clone(&app),
            delivery: Arc::new(delivery),
            lease: claim.lease,
        };
        let shared = Arc::clone(shared);
        handlers.spawn(async move {
            worker::work(&shared, claimed).await;
            drop(loan);
            drop(held);
        });
    }
    Ok(full)
}

#[cfg(test)]
mod tests {
    use super::share;

    /// Returns how many of `all` permits each of many apps with a backlog gets.
    fn shared_out(all: usize, of_app: usize, apps: usize) -> Vec<usize> {
        let (mut free, mut held) = (all, vec![0; apps]);
        for _ in 0..100 {
            for running in &mut held {
                // A claim takes at most 8.
                let more = share(of_app, free, *running).min(8).min(free);
                *running += more;
                free -= more;
            }
        }
        held
    }

    #[test]
    fn two_apps_with_a_backlog_leave_slots_for_others() {
        assert_eq!(shared_out(32, 16, 1), [16]);
        let two = shared_out(32, 16, 2);
        let left = 32 - two.iter().sum::<usize>();
        assert!(left >= 8, "{two:?}");
        assert!(shared_out(32, 16, 6).iter().all(|held| *held > 0));
    }

    #[test]
    fn all_slots_are_used_when_there_are_few() {
        assert_eq!(shared_out(1, 16, 1), [1]);
        assert_eq!(shared_out(2, 16, 2), [1, 1]);
        assert_eq!(share(16, 0, 0), 0);
        assert_eq!(share(16, 1, 0), 1);
        assert_eq!(share(16, 1, 1), 0);
        assert_eq!(share(1, 30, 1), 0);
    }
}
