//! Deleted apps: the tombstone, and the removal of their rows in small steps.

use super::lease::Lease;
use super::pool::Pool;
use super::transaction::{Abort, TransactionWork, transact};
use super::{PostgresStore, classify::store_error, plugins, sql};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Audit, Timestamp};
use sqlx::{Error, Row};
use uuid::Uuid;

/// Deletes an app, and returns whether it existed. Its rows stay until they are reaped.
///
/// In two transactions. An exclusive lock on the row of the app alone would starve: Postgres grants
/// shared locks, which all writers take, past one who waits for an exclusive one. So the first
/// transaction, which waits for no writer, keeps new ones out, and the second waits for the rest.
pub(super) async fn delete_app(
    store: &PostgresStore,
    app: AppId,
    audit: Audit,
) -> Result<bool, StoreError> {
    let existed = store
        .audited(audit, move |lease, audit| {
            Box::pin(async move { Ok(bury(lease, app, audit.at).await?) })
        })
        .await?;
    if existed {
        transact(&store.pool, &Settling { app }).await?;
    }
    Ok(existed)
}

/// Marks an app as deleted: no write that begins later finds it.
async fn bury(lease: &mut Lease, app: AppId, at: Timestamp) -> Result<bool, Error> {
    let of_app = |text| sqlx::query(text).bind(app.uuid());
    let found = lease.run(of_app(sql::registry_sql::HOLD_APP)).await?;
    if found.is_empty() {
        return Ok(false);
    }
    lease
        .run(of_app(sql::registry_sql::BURY).bind(at.0))
        .await?;
    forget_access(lease, app).await?;
    Ok(true)
}

async fn forget_access(lease: &mut Lease, app: AppId) -> Result<(), Error> {
    for text in [
        sql::registry_sql::DELETE_TOKENS,
        sql::settings_sql::UNSET_ALL,
        sql::settings_sql::REVOKE_ALL,
    ] {
        lease.run(sqlx::query(text).bind(app.uuid())).await?;
    }
    Ok(())
}

/// Waits for the writers of a deleted app, frees its name, and removes what they added meanwhile.
/// Changes nothing if that is done.
struct Settling {
    app: AppId,
}

#[async_trait]
impl TransactionWork for Settling {
    type Done = ();

    async fn run(&self, lease: &mut Lease) -> Result<(), Abort> {
        let of_app = |text| sqlx::query(text).bind(self.app.uuid());
        let found = lease.run(of_app(sql::registry_sql::FREE_NAME)).await?;
        if found.is_empty() {
            return Ok(());
        }
        lease.run(of_app(sql::triggers_sql::PAUSE_ALL)).await?;
        lease.run(of_app(sql::usage_sql::FORGET)).await?;
        Ok(forget_access(lease, self.app).await?)
    }
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
    let rows = pool.read(is_buried).await?;
    let Some(row) = rows.first() else {
        return Ok(0);
    };
    if !row.try_get::<bool, _>(0).map_err(store_error)? {
        // The host that deleted it ended between the two steps.
        transact(pool, &Settling { app }).await?;
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
