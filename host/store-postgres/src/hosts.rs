//! Hosts and their minutes.

use super::PostgresStore;
use super::classify::store_error;
use super::sql::hosts_sql;
use async_trait::async_trait;
use kvasm_core::Timestamp;
use kvasm_core::store::{
    DURATION_BUCKETS, HostBeat, HostMinute, HostRecord, HostStore, KeptMinutes, MinuteCounts,
    MinuteRange, StoreError, StoreGauges,
};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use uuid::Uuid;

/// A count as Postgres' integer.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

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

/// A sum: its first minute, the durations, the other counts, the gauges.
fn sum(row: &PgRow) -> Result<HostMinute, Error> {
    let count = |column| Ok::<_, Error>(row.try_get::<i64, _>(column)?.unsigned_abs());
    let gauge = |column| {
        let value = row.try_get::<Option<i64>, _>(column)?;
        Ok::<_, Error>(value.map(i64::unsigned_abs))
    };
    let mut durations = [0; DURATION_BUCKETS];
    for (column, bucket) in durations.iter_mut().enumerate() {
        *bucket = count(column + 1)?;
    }
    let rest = DURATION_BUCKETS + 1;
    Ok(HostMinute {
        minute: row.try_get(0)?,
        counts: MinuteCounts {
            durations,
            failed: count(rest)?,
            delivered: count(rest + 1)?,
            undelivered: count(rest + 2)?,
            lag_ms: count(rest + 3)?,
        },
        gauges: match gauge(rest + 4)? {
            None => None,
            Some(apps) => Some(StoreGauges {
                apps,
                pending: gauge(rest + 5)?.unwrap_or(0),
                dead_letters: gauge(rest + 6)?.unwrap_or(0),
                paused_triggers: gauge(rest + 7)?.unwrap_or(0),
                store_bytes: gauge(rest + 8)?,
            }),
        },
    })
}

impl PostgresStore {
    /// Writes one minute. Idempotent.
    async fn record_minute(&self, host: Uuid, minute: &HostMinute) -> Result<(), StoreError> {
        let (counts, gauges) = (&minute.counts, minute.gauges.as_ref());
        let statement = || {
            let mut statement = sqlx::query(hosts_sql::RECORD_MINUTE)
                .bind(minute.minute)
                .bind(host);
            for bucket in counts.durations {
                statement = statement.bind(number(bucket));
            }
            statement
                .bind(number(counts.failed))
                .bind(number(counts.delivered))
                .bind(number(counts.undelivered))
                .bind(number(counts.lag_ms))
                .bind(gauges.map(|gauges| number(gauges.apps)))
                .bind(gauges.map(|gauges| number(gauges.pending)))
                .bind(gauges.map(|gauges| number(gauges.dead_letters)))
                .bind(gauges.map(|gauges| number(gauges.paused_triggers)))
                .bind(gauges.and_then(|gauges| gauges.store_bytes).map(number))
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
                .bind(number(kept.rows_max))
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
