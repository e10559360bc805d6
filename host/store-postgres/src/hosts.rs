//! Hosts and their minutes.

use super::PostgresStore;
use super::classify::store_error;
use super::sql::hosts_sql;
use async_trait::async_trait;
use kvasm_core::Timestamp;
use kvasm_core::store::backend::signed;
use kvasm_core::store::{
    HostBeat, HostMinute, HostRecord, HostStore, KeptMinutes, MinuteRange, StoreError,
};
use sqlx::postgres::PgRow;
use sqlx::query::Query;
use sqlx::{Error, Row};
use uuid::Uuid;

fn host(row: &PgRow) -> Result<HostRecord, Error> {
    Ok(HostRecord {
        beat: HostBeat {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            version: row.try_get(2)?,
            stopped: row.try_get(3)?,
        },
        started_at: Timestamp(row.try_get(4)?),
        seen_at: Timestamp(row.try_get(5)?),
    })
}

/// A sum, after its first minute.
fn sum(row: &PgRow) -> Result<HostMinute, Error> {
    HostMinute::from_columns(
        row.try_get(0)?,
        |column| row.try_get(column + 1),
        |column| row.try_get(column + 1),
    )
}

impl PostgresStore {
    /// Writes one minute. Idempotent.
    async fn record_minute(&self, host: Uuid, minute: &HostMinute) -> Result<(), StoreError> {
        let statement = || {
            let statement = sqlx::query(hosts_sql::RECORD_MINUTE);
            let statement = statement.bind(minute.minute).bind(host);
            minute.columns().fold(statement, Query::bind)
        };
        self.pool.read(statement).await.map(drop)
    }
}

#[async_trait]
impl HostStore for PostgresStore {
    async fn beat(
        &self,
        host: &HostBeat,
        minutes: &[HostMinute],
        _now: Timestamp,
    ) -> Result<Timestamp, StoreError> {
        let statement = || {
            sqlx::query(hosts_sql::BEAT)
                .bind(host.id)
                .bind(&host.name)
                .bind(&host.version)
                .bind(host.stopped)
        };
        // It is idempotent.
        let rows = self.pool.read(statement).await?;
        let row = rows.first().ok_or(Error::RowNotFound);
        let at = row.and_then(|row| row.try_get(0)).map_err(store_error)?;
        for minute in minutes {
            self.record_minute(host.id, minute).await?;
        }
        Ok(Timestamp(at))
    }

    async fn hosts(&self, limit: u32) -> Result<Vec<HostRecord>, StoreError> {
        let statement = || sqlx::query(hosts_sql::HOSTS).bind(i64::from(limit));
        let rows = self.pool.read(statement).await?;
        let hosts = rows.iter().map(host);
        hosts.collect::<Result<_, _>>().map_err(store_error)
    }

    async fn history(&self, range: MinuteRange) -> Result<Vec<HostMinute>, StoreError> {
        let statement = || {
            let statement = sqlx::query(hosts_sql::HISTORY).bind(range.from);
            statement.bind(range.to).bind(range.width.max(1))
        };
        let rows = self.pool.read(statement).await?;
        let sums = rows.iter().map(sum);
        sums.collect::<Result<_, _>>().map_err(store_error)
    }

    async fn prune_history(&self, kept: KeptMinutes, limit: u32) -> Result<u64, StoreError> {
        let statement = |_| {
            sqlx::query(hosts_sql::PRUNE_HISTORY)
                .bind(kept.from)
                .bind(kept.to)
                .bind(signed(kept.rows_max))
                .bind(i64::from(limit))
        };
        let rows = self.pool.write(statement).await.map_err(store_error)?;
        Ok(rows.len() as u64)
    }

    async fn prune_hosts(
        &self,
        before: Timestamp,
        after: Timestamp,
        keep: u32,
    ) -> Result<u64, StoreError> {
        let statement = |_| {
            let statement = sqlx::query(hosts_sql::PRUNE_HOSTS).bind(before.0);
            statement.bind(after.0).bind(i64::from(keep))
        };
        let rows = self.pool.write(statement).await.map_err(store_error)?;
        Ok(rows.len() as u64)
    }
}
