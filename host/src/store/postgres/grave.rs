//! Deleted apps: the tombstone, and the removal of their rows in small steps.

use super::lease::Lease;
use super::pool::Pool;
use super::transaction::{Stop, Work, transact};
use super::{classify::store_error, plugins, sql};
use crate::model::{AppId, Timestamp};
use crate::store::StoreError;
use async_trait::async_trait;
use sqlx::{Error, Row};

/// Deletes an app for all who ask; whether there was one. Its rows stay until they
/// are reaped.
pub(super) async fn bury(lease: &mut Lease, app: AppId, at: Timestamp) -> Result<bool, Error> {
    let of_app = |text| sqlx::query(text).bind(app.uuid());
    let found = lease.run(of_app(sql::registry::LOCK_APP_ALONE)).await?;
    if found.is_empty() {
        return Ok(false);
    }
    lease.run(of_app(sql::registry::BURY).bind(at.0)).await?;
    for text in [
        sql::registry::DELETE_TOKENS,
        sql::triggers::PAUSE_ALL,
        sql::usage::FORGET,
    ] {
        lease.run(of_app(text)).await?;
    }
    Ok(true)
}

/// One step: rows of one table, or the app if none is left. How many rows.
pub(super) async fn reap(pool: &Pool, limit: u32) -> Result<u64, StoreError> {
    let rows = pool.read(|| sqlx::query(sql::registry::BURIED)).await?;
    let Some(row) = rows.first() else {
        return Ok(0);
    };
    let app = AppId::from(row.try_get::<uuid::Uuid, _>(0).map_err(store_error)?);
    for text in [
        sql::outbox::REAP_DELIVERIES,
        sql::REAP_ENTRIES,
        sql::letters::REAP_LETTERS,
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

/// The end of an app that has no more rows, but for a few.
struct Removal {
    app: AppId,
}

#[async_trait]
impl Work for Removal {
    type Done = ();

    async fn run(&self, lease: &mut Lease) -> Result<(), Stop> {
        let of_app = |text| sqlx::query(text).bind(self.app.uuid());
        let rows = lease.run(of_app(sql::registry::DIGESTS)).await?;
        let digests = rows.iter().map(|row| row.try_get(0));
        let digests = digests.collect::<Result<Vec<Vec<u8>>, _>>()?;
        lease.run(of_app(sql::registry::DELETE_APP)).await?;
        Ok(plugins::forget_modules(lease, digests).await?)
    }
}
