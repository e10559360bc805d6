//! Removes excess data of each app: expired entries, dead letters, audit rows.

use super::supervisor::Skips;
use super::{DispatchContext, millis};
use kvasm_core::store::StoreError;
use kvasm_core::{App, AppId, AppName, Timestamp};
use kvasm_service::{TaskHandle, error_chain};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Number of rows removed per transaction: few enough not to delay others.
pub(super) const ROWS: u32 = 500;
/// Pause between such transactions, to let others through.
pub(super) const REST: Duration = Duration::from_millis(10);
/// Number of apps read per page.
const APPS: u32 = 200;

/// Processes all apps once. One that fails is skipped until the next round.
pub(super) async fn round(
    shared: Arc<DispatchContext>,
    task: TaskHandle,
) -> Result<(), StoreError> {
    // Continues after the app at which the last round was aborted.
    let mut after = shared.upkeep_position.lock().take();
    let mut unseen = after.is_none().then(|| Unseen::new(&shared));
    let mut skips = Skips::new(&task);
    loop {
        let apps = shared.host.store().apps(after.as_ref(), APPS).await?;
        if let Some(unseen) = &mut unseen {
            unseen.see(&apps);
        }
        for app in &apps {
            // Each one, even if another has failed.
            let swept = sweep(&shared, &task, app).await;
            let pruned = prune(&shared, &task, app).await;
            let shortened = prune_audit(&shared, &task, app).await;
            let kept = swept.and(pruned).and(shortened);
            prune_log(&shared, &task, app).await;
            if let Err(error) = skips.take(format_args!("upkeep of app {}", app.name), kept) {
                *shared.upkeep_position.lock() = Some(app.name.clone());
                return Err(error);
            }
        }
        match apps.last() {
            Some(last) => after = Some(last.name.clone()),
            None => break,
        }
    }
    if let Some(unseen) = unseen {
        unseen.forget(&shared).await?;
    }
    let lines = shared.host.log_keeper().remove_deleted().await;
    let calls = shared.host.call_keeper().remove_deleted().await;
    if let Err(error) = lines.and(calls) {
        task.report_skip(&"the logs of deleted apps", &error_chain(&error));
    }
    prune_changes(&shared, &task).await;
    Ok(())
}

/// Removes changes that are not kept for watchers any more, unless the clock is in doubt.
async fn prune_changes(shared: &DispatchContext, task: &TaskHandle) {
    if shared.clock.for_deletion().is_none() {
        return;
    }
    if let Err(error) = shared.host.change_feeds().prune_all().await {
        task.report_skip(&"the changes for watchers", &error_chain(&error));
    }
}

/// Removes what is too old of an app's log and of the records of its calls, unless the clock is in
/// doubt. Logs that cannot be pruned do not make the host unready.
async fn prune_log(shared: &DispatchContext, task: &TaskHandle, app: &App) {
    if shared.clock.for_deletion().is_none() {
        return;
    }
    let (host, options) = (&shared.host, &shared.options);
    let lines = host.log_keeper().prune_old(app.id, &options.logs).await;
    let calls = host.call_keeper().prune_old(app.id, &options.calls).await;
    if let Err(error) = lines.and(calls) {
        let what = format_args!("the log of app {}", app.name);
        task.report_skip(&what, &error_chain(&error));
    }
}

/// Apps that this host has in memory and that the round has not seen yet. At the end only apps
/// that another host has deleted remain.
struct Unseen {
    logs: HashSet<AppId>,
    labels: HashSet<Arc<str>>,
}

impl Unseen {
    fn new(shared: &DispatchContext) -> Unseen {
        Unseen {
            logs: shared.host.logs().apps().into_iter().collect(),
            labels: shared.host.metrics().apps().into_iter().collect(),
        }
    }

    fn see(&mut self, apps: &[App]) {
        for app in apps {
            self.logs.remove(&app.id);
            self.labels.remove(app.name.as_str());
        }
    }

    /// Forgets those that are deleted. Some may have been created since.
    async fn forget(self, shared: &DispatchContext) -> Result<(), StoreError> {
        let store = shared.host.store();
        for app in self.logs {
            if store.app_by_id(app).await?.is_none() {
                shared.host.forget_log(app);
            }
        }
        for label in self.labels {
            let is_gone = match AppName::parse(&label) {
                Ok(name) => store.app(&name).await?.is_none(),
                Err(_) => true,
            };
            if is_gone {
                shared.host.metrics().forget_app(&label);
            }
        }
        Ok(())
    }
}

/// Removes entries that have expired by the system's clock, which reads also use, unless it is
/// in doubt.
async fn sweep(shared: &DispatchContext, task: &TaskHandle, app: &App) -> Result<(), StoreError> {
    let store = shared.host.store();
    loop {
        let Some(now) = shared.clock.for_deletion() else {
            return Ok(());
        };
        let swept = store.sweep(app.id, now, ROWS).await?;
        shared.host.metrics().upkeep("expired_entries", swept);
        if swept < u64::from(ROWS) {
            return Ok(());
        }
        task.progress();
        tokio::time::sleep(REST).await;
    }
}

/// Removes dead letters that are too old or too many, and logs it. While the clock is in doubt,
/// none is too old.
async fn prune(shared: &DispatchContext, task: &TaskHandle, app: &App) -> Result<(), StoreError> {
    let (store, options) = (shared.host.store(), &shared.options);
    let age = i64::try_from(millis(options.dead_letter_retention)).unwrap_or(i64::MAX);
    let mut total = 0;
    loop {
        let now = shared.clock.for_deletion();
        let before = Timestamp(now.map_or(i64::MIN, |now| now.0.saturating_sub(age)));
        let pruned = store
            .prune(app.id, before, options.dead_letters_per_app, ROWS)
            .await?;
        shared.host.metrics().upkeep("dead_letters", pruned);
        total += pruned;
        if pruned < u64::from(ROWS) {
            break;
        }
        task.progress();
        tokio::time::sleep(REST).await;
    }
    if total > 0 {
        tracing::warn!(app = %app.name, letters = total, "old dead letters were discarded");
    }
    Ok(())
}

/// Removes the oldest audit rows of an app beyond the maximum.
async fn prune_audit(
    shared: &DispatchContext,
    task: &TaskHandle,
    app: &App,
) -> Result<(), StoreError> {
    let (store, keep) = (shared.host.store(), shared.options.audit_of_app);
    loop {
        let pruned = store.prune_audit_of(app.id, keep, ROWS).await?;
        shared.host.metrics().upkeep("audit", pruned);
        if pruned < u64::from(ROWS) {
            return Ok(());
        }
        task.progress();
        tokio::time::sleep(REST).await;
    }
}
