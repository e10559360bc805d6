//! Deleted apps: the tombstone, and the removal of their rows in small steps.

use super::lease::Lease;
use super::pool::Pool;
use super::transaction::{Abort, TransactionWork, transact};
use super::{classify::store_error, plugins, sql};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Timestamp};
use sqlx::{Error, Row};
use uuid::Uuid;

/// Marks an app as deleted, and returns whether it existed. Its rows stay until they are reaped.
pub(super) async fn bury(lease: &mut Lease, app: AppId, at: Timestamp) -> Result<bool, Error> {
    let of_app = |text| sqlx::query(text).bind(app.uuid());
    let found = lease.run(of_app(sql::registry_sql::LOCK_APP_ALONE)).await?;
    if found.is_empty() {
        return Ok(false);
    }
    lease
        .run(of_app(sql::registry_sql::BURY).bind(at.0))
        .await?;
    for text in [
        sql::registry_sql::DELETE_TOKENS,
        sql::triggers_sql::PAUSE_ALL,
        sql::usage_sql::FORGET,
        sql::settings_sql::UNSET_ALL,
        sql::settings_sql::REVOKE_ALL,
    ] {
        lease.run(of_app(text)).await?;
    }
    Ok(true)
}

/// Returns deleted apps, by identity.
pub(super) async fn graves(
    pool: &Pool,
    after: Option<AppId>,
    limit: u32,
) -> Result<Vec<AppId>, StoreError> {
    let after = after.map_or(Uuid::nil(), |app| app.uuid());
    let statement = || {
        let statement = sqlx::query(sql::registry_sql::GRAVES).bind(after);
        statement.bind(i64::from(limit))
    };
    let rows = pool.read(statement).await?;
    let ids = rows.iter().map(|row| row.try_get::<Uuid, _>(0));
    let ids = ids.collect::<Result<Vec<_>, _>>().map_err(store_error)?;
    Ok(ids.into_iter().map(AppId::from).collect())
}

/// Runs one step: removes rows of one table, or the tombstone if none are left. Returns the number
/// of rows.
pub(super) async fn reap(pool: &Pool, app: AppId, limit: u32) -> Result<u64, StoreError> {
    // A deletion is never undone, so this stays true.
    let is_buried = || sqlx::query(sql::registry_sql::IS_BURIED).bind(app.uuid());
    if pool.read(is_buried).await?.is_empty() {
        return Ok(0);
    }
    for text in [
        sql::outbox_sql::REAP_DELIVERIES,
        sql::REAP_ENTRIES,
        sql::dead_letters_sql::REAP_LETTERS,
        sql::answers_sql::REAP_ANSWERS,
    ] {
        let statement = |_| sqlx::query(text).bind(app.uuid()).bind(i64::from(limit));
        let removed = pool.write(statement).await.map_err(store_error)?;
        if !removed.is_empty() {
            return Ok(removed.len() as u64);
        }
    }
    transact(pool, &Removal { app }).await?;
    Ok(1)
}

/// The removal of the tombstone of an app that has no more rows.
struct Removal {
    app: AppId,
}

#[async_trait]
impl TransactionWork for Removal {
    type Done = ();

    async fn run(&self, lease: &mut Lease) -> Result<(), Abort> {
        let of_app = |text| sqlx::query(text).bind(self.app.uuid());
        let rows = lease.run(of_app(sql::registry_sql::DIGESTS)).await?;
        let digests = rows.iter().map(|row| row.try_get(0));
        let digests = digests.collect::<Result<Vec<Vec<u8>>, _>>()?;
        lease.run(of_app(sql::registry_sql::DELETE_APP)).await?;
        Ok(plugins::forget_modules(lease, digests).await?)
    }
}
