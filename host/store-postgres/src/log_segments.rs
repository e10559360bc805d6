//! Logs of apps.

use super::classify::store_error;
use super::sql::logs_sql;
use super::{PostgresStore, pool::Pool};
use async_trait::async_trait;
use kvasm_core::AppId;
use kvasm_core::store::{LogSegment, LogStore, SegmentQuery, StoreError};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use uuid::Uuid;

/// A position as Postgres' integer.
fn number(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

fn segment(app: AppId, row: &PgRow) -> Result<LogSegment, Error> {
    Ok(LogSegment {
        app,
        last: row.try_get::<i64, _>(0)?.unsigned_abs(),
        id: row.try_get(1)?,
        first: row.try_get::<i64, _>(2)?.unsigned_abs(),
        host: row.try_get(3)?,
        records: row.try_get::<i32, _>(4)?.unsigned_abs(),
        body: row.try_get::<Vec<u8>, _>(5)?.into(),
    })
}

/// Runs one of the two removals. Returns the number of segments.
async fn prune(
    pool: &Pool,
    sql: &'static str,
    app: AppId,
    bound: u64,
    limit: u64,
) -> Result<u64, StoreError> {
    let statement = |_| {
        let statement = sqlx::query(sql).bind(app.uuid()).bind(number(bound));
        statement.bind(number(limit))
    };
    let rows = pool.write(statement).await.map_err(store_error)?;
    Ok(rows.len() as u64)
}

/// Runs a statement that lists identities of apps, by identity, after one if given.
pub(super) async fn app_ids(
    pool: &Pool,
    sql: &'static str,
    after: Option<AppId>,
    limit: u32,
) -> Result<Vec<AppId>, StoreError> {
    let after = after.map_or(Uuid::nil(), |app| app.uuid());
    let statement = || sqlx::query(sql).bind(after).bind(i64::from(limit));
    let rows = pool.read(statement).await?;
    let ids = rows.iter().map(|row| row.try_get::<Uuid, _>(0));
    let ids = ids.collect::<Result<Vec<_>, _>>().map_err(store_error)?;
    Ok(ids.into_iter().map(AppId::from).collect())
}

#[async_trait]
impl LogStore for PostgresStore {
    async fn append_log(&self, segment: &LogSegment) -> Result<(), StoreError> {
        let statement = || {
            sqlx::query(logs_sql::APPEND_LOG)
                .bind(segment.app.uuid())
                .bind(number(segment.last))
                .bind(segment.id)
                .bind(number(segment.first))
                .bind(segment.host)
                .bind(i32::try_from(segment.records).unwrap_or(i32::MAX))
                .bind(&segment.body[..])
        };
        // It is idempotent.
        self.pool.read(statement).await.map(drop)
    }

    async fn log_segments(
        &self,
        app: AppId,
        query: &SegmentQuery,
    ) -> Result<Vec<LogSegment>, StoreError> {
        let (last, id) = query.before.unwrap_or((u64::MAX, Uuid::max()));
        let statement = || {
            sqlx::query(logs_sql::LOG_PAGE)
                .bind(app.uuid())
                .bind(number(query.from))
                .bind(number(last))
                .bind(id)
                .bind(number(query.to))
                .bind(query.not_of)
                .bind(i64::from(query.limit))
        };
        let rows = self.pool.read(statement).await?;
        let segments = rows.iter().map(|row| segment(app, row));
        segments.collect::<Result<_, _>>().map_err(store_error)
    }

    async fn prune_log(
        &self,
        app: AppId,
        before: u64,
        bytes_max: u64,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let limit = u64::from(limit);
        let old = prune(&self.pool, logs_sql::PRUNE_OLD_LOG, app, before, limit).await?;
        if bytes_max == u64::MAX || old >= limit {
            return Ok(old);
        }
        let (sql, limit) = (logs_sql::PRUNE_EXCESS_LOG, limit - old);
        Ok(old + prune(&self.pool, sql, app, bytes_max, limit).await?)
    }

    async fn apps_with_log(
        &self,
        after: Option<AppId>,
        limit: u32,
    ) -> Result<Vec<AppId>, StoreError> {
        app_ids(&self.pool, logs_sql::APPS_WITH_LOG, after, limit).await
    }
}
