//! Values of gauges.

use super::{PostgresStore, classify::store_error, sql};
use async_trait::async_trait;
use kvasm_core::store::backend::LETTERS_COUNTED_MAX;
use kvasm_core::store::{AppSurvey, StoreClock, StoreSize, Survey};
use kvasm_core::store::{Registry, StoreError};
use kvasm_core::{AppId, Timestamp};
use sqlx::{Error, Row};

#[async_trait]
impl Survey for PostgresStore {
    async fn survey(&self, app: AppId) -> Result<AppSurvey, StoreError> {
        let statement = || {
            let statement = sqlx::query(sql::outbox_sql::SURVEY).bind(app.uuid());
            statement.bind(i64::from(LETTERS_COUNTED_MAX))
        };
        let rows = self.pool.read(statement).await?;
        // A deleted app has rows until they are reaped.
        let Some(row) = rows.first() else {
            return Ok(AppSurvey::default());
        };
        let usage = self.usage(app).await?;
        let read = |row: &sqlx::postgres::PgRow| {
            Ok(AppSurvey {
                usage,
                dead_letters: row.try_get::<i64, _>(0)?.unsigned_abs(),
                paused_triggers: row.try_get::<i64, _>(1)?.unsigned_abs(),
                oldest_due: row.try_get::<Option<i64>, _>(2)?.map(Timestamp),
            })
        };
        read(row).map_err(store_error)
    }

    async fn size(&self) -> Result<StoreSize, StoreError> {
        let rows = self.pool.read(|| sqlx::query(sql::usage_sql::SIZE)).await?;
        let row = rows.first().ok_or(Error::RowNotFound);
        let bytes = row.and_then(|row| row.try_get::<i64, _>(0));
        Ok(StoreSize {
            database: Some(bytes.map_err(store_error)?.unsigned_abs()),
            log: None,
        })
    }

    async fn clock(&self) -> Result<StoreClock, StoreError> {
        let rows = self
            .pool
            .read(|| sqlx::query(sql::server_sql::CLOCK))
            .await?;
        let row = rows.first().ok_or(Error::RowNotFound);
        let ms = row.and_then(|row| row.try_get(0)).map_err(store_error)?;
        Ok(StoreClock::Database(Timestamp(ms)))
    }
}
