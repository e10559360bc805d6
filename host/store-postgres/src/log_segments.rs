//! Logs of apps and records of their calls.

use super::classify::store_error;
use super::sql::{calls_sql, logs_sql};
use super::{PostgresStore, pool::Pool};
use async_trait::async_trait;
use kvasm_core::AppId;
use kvasm_core::store::backend::signed;
use kvasm_core::store::{LogSegment, LogStore, SegmentKind, SegmentQuery, StoreError};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use uuid::Uuid;

fn segment(kind: SegmentKind, app: AppId, row: &PgRow) -> Result<LogSegment, Error> {
    Ok(LogSegment {
        kind,
        app,
        last: row.try_get::<i64, _>(0)?.unsigned_abs(),
        id: row.try_get(1)?,
        first: row.try_get::<i64, _>(2)?.unsigned_abs(),
        host: row.try_get(3)?,
        records: row.try_get::<i32, _>(4)?.unsigned_abs(),
        body: row.try_get::<Vec<u8>, _>(5)?.into(),
    })
}

/// The statements about the segments of one kind, which have a table of their own.
struct SegmentStatements {
    append: &'static str,
    page: &'static str,
    prune_old: &'static str,
    prune_excess: &'static str,
    apps: &'static str,
}

fn about(kind: SegmentKind) -> SegmentStatements {
    match kind {
        SegmentKind::Lines => SegmentStatements {
            append: logs_sql::APPEND_LOG,
            page: logs_sql::LOG_PAGE,
            prune_old: logs_sql::PRUNE_OLD_LOG,
            prune_excess: logs_sql::PRUNE_EXCESS_LOG,
            apps: logs_sql::APPS_WITH_LOG,
        },
        SegmentKind::Calls => SegmentStatements {
            append: calls_sql::APPEND_CALLS,
            page: calls_sql::CALL_PAGE,
            prune_old: calls_sql::PRUNE_OLD_CALLS,
            prune_excess: calls_sql::PRUNE_EXCESS_CALLS,
            apps: calls_sql::APPS_WITH_CALLS,
        },
    }
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
        let statement = sqlx::query(sql).bind(app.uuid()).bind(signed(bound));
        statement.bind(signed(limit))
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
            sqlx::query(about(segment.kind).append)
                .bind(segment.app.uuid())
                .bind(signed(segment.last))
                .bind(segment.id)
                .bind(signed(segment.first))
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
            sqlx::query(about(query.kind).page)
                .bind(app.uuid())
                .bind(signed(query.from))
                .bind(signed(last))
                .bind(id)
                .bind(signed(query.to))
                .bind(query.not_of)
                .bind(i64::from(query.limit))
        };
        let rows = self.pool.read(statement).await?;
        let segments = rows.iter().map(|row| segment(query.kind, app, row));
        segments.collect::<Result<_, _>>().map_err(store_error)
    }

    async fn prune_log(
        &self,
        app: AppId,
        kind: SegmentKind,
        before: u64,
        bytes_max: u64,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let (about, limit) = (about(kind), u64::from(limit));
        let old = prune(&self.pool, about.prune_old, app, before, limit).await?;
        if bytes_max == u64::MAX || old >= limit {
            return Ok(old);
        }
        let (sql, limit) = (about.prune_excess, limit - old);
        Ok(old + prune(&self.pool, sql, app, bytes_max, limit).await?)
    }

    async fn apps_with_log(
        &self,
        kind: SegmentKind,
        after: Option<AppId>,
        limit: u32,
    ) -> Result<Vec<AppId>, StoreError> {
        app_ids(&self.pool, about(kind).apps, after, limit).await
    }
}
