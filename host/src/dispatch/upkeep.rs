//! What grows old: expired entries, and dead letters past their time.

use super::{Shared, millis};
use crate::model::{App, Timestamp};
use crate::store::StoreError;
use std::sync::Arc;
use std::time::Duration;

/// Rows that are removed in one transaction: few enough that nobody waits for it.
const ROWS: u32 = 500;
/// Between two such transactions, so that others come between them.
const REST: Duration = Duration::from_millis(10);
/// Apps that are read in one go.
const APPS: u32 = 200;

/// Goes through all apps again and again.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(shared.options.upkeep).await;
        super::housekeeping::round(&shared).await;
        if let Err(error) = round(&shared).await {
            let cause = &error as &dyn std::error::Error;
            tracing::warn!(
                error = cause,
                "expired rows could not be removed; trying again later"
            );
        }
    }
}

async fn round(shared: &Shared) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let apps = shared.host.store().apps(after.as_ref(), APPS).await?;
        for app in &apps {
            sweep(shared, app).await?;
            prune(shared, app).await?;
        }
        match apps.last() {
            Some(last) => after = Some(last.name.clone()),
            None => return Ok(()),
        }
    }
}

/// Removes entries that have expired by the system's clock, as reads see it.
async fn sweep(shared: &Shared, app: &App) -> Result<(), StoreError> {
    let store = shared.host.store();
    loop {
        let swept = store.sweep(app.id, Timestamp::now(), ROWS).await?;
        shared.host.metrics().upkeep("expired_entries", swept);
        if swept < u64::from(ROWS) {
            return Ok(());
        }
        tokio::time::sleep(REST).await;
    }
}

/// Removes dead letters that are too old or too many, and says so.
async fn prune(shared: &Shared, app: &App) -> Result<(), StoreError> {
    let (store, options) = (shared.host.store(), &shared.options);
    let age = i64::try_from(millis(options.letter_age)).unwrap_or(i64::MAX);
    let before = Timestamp(Timestamp::now().0.saturating_sub(age));
    let mut total = 0;
    loop {
        let pruned = store
            .prune(app.id, before, options.letters_of_app, ROWS)
            .await?;
        shared.host.metrics().upkeep("dead_letters", pruned);
        total += pruned;
        if pruned < u64::from(ROWS) {
            break;
        }
        tokio::time::sleep(REST).await;
    }
    if total > 0 {
        tracing::warn!(app = %app.name, letters = total, "old dead letters were discarded");
    }
    Ok(())
}
