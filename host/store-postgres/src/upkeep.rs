//! Periodic removal of old data.

use super::{PostgresStore, classify::store_error, sql, tombstone};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use kvasm_core::store::Upkeep;
use kvasm_core::store::backend::first_id;
use kvasm_core::{AppId, Timestamp};

#[async_trait]
impl Upkeep for PostgresStore {
    async fn prune_audit(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let statement = |_| {
            let statement = sqlx::query(sql::registry_sql::PRUNE_AUDIT).bind(first_id(before));
            statement.bind(i64::from(limit))
        };
        let rows = self.pool.write(statement).await.map_err(store_error)?;
        Ok(rows.len() as u64)
    }

    async fn prune_audit_of(&self, app: AppId, keep: u32, limit: u32) -> Result<u64, StoreError> {
        let statement = |_| {
            let statement = sqlx::query(sql::registry_sql::PRUNE_AUDIT_OF_APP).bind(app.uuid());
            statement.bind(i64::from(keep)).bind(i64::from(limit))
        };
        let rows = self.pool.write(statement).await.map_err(store_error)?;
        Ok(rows.len() as u64)
    }

    /// The database's own vacuum does this.
    async fn reclaim_space(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn tombstones(&self, after: Option<AppId>, limit: u32) -> Result<Vec<AppId>, StoreError> {
        tombstone::graves(&self.pool, after, limit).await
    }

    async fn reap(&self, app: AppId, limit: u32) -> Result<u64, StoreError> {
        tombstone::reap(&self.pool, app, limit).await
    }

    async fn record_time(&self, _now: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }
}
