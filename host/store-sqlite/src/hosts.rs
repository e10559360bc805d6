//! Hosts and their minutes.

use super::writer::{WriteCost, WriteTransaction};
use super::{SqliteStore, error};
use async_trait::async_trait;
use kvasm_core::Timestamp;
use kvasm_core::store::backend::signed;
use kvasm_core::store::{
    HostBeat, HostMinute, HostRecord, HostStore, KeptMinutes, MinuteRange, StoreError,
};
use rusqlite::{Connection, OptionalExtension, Row};
use std::sync::Arc;
use uuid::Uuid;

const BEAT: &str = "INSERT INTO hosts (id, name, version, stopped, started_at, seen_at)
     VALUES (?1, ?2, ?3, ?4, ?5, ?5)
     ON CONFLICT (id) DO UPDATE SET name = excluded.name, version = excluded.version,
     stopped = excluded.stopped, seen_at = excluded.seen_at";

/// The columns in the order of the schema.
const RECORD_MINUTE: &str = "INSERT OR REPLACE INTO host_minutes VALUES
     (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
      ?21, ?22, ?23, ?24, ?25, ?26, ?27)";

const HISTORY: &str = "SELECT (minute / ?3) * ?3 AS first,
     sum(d00), sum(d01), sum(d02), sum(d03), sum(d04), sum(d05), sum(d06), sum(d07), sum(d08),
     sum(d09), sum(d10), sum(d11), sum(d12), sum(d13), sum(d14), sum(d15), sum(failed),
     sum(delivered), sum(undelivered), max(lag_ms), max(apps), max(pending), max(letters),
     max(paused), max(store_bytes)
     FROM host_minutes WHERE minute >= ?1 AND minute < ?2 GROUP BY first ORDER BY first";

/// The minute of the row behind the newest `?1`.
const EXCESS: &str = "SELECT minute FROM host_minutes ORDER BY minute DESC LIMIT 1 OFFSET ?1";

/// Hosts to remove.
const PRUNED_HOSTS: &str = "FROM hosts WHERE seen_at < ?1 OR seen_at > ?2 OR id NOT IN
     (SELECT id FROM hosts ORDER BY seen_at DESC, id LIMIT ?3)";

fn host(row: &Row<'_>) -> rusqlite::Result<HostRecord> {
    Ok(HostRecord {
        beat: HostBeat {
            id: Uuid::from_bytes(row.get(0)?),
            name: row.get(1)?,
            version: row.get(2)?,
            stopped: row.get(3)?,
        },
        started_at: Timestamp(row.get(4)?),
        seen_at: Timestamp(row.get(5)?),
    })
}

/// A sum, after its first minute.
fn sum(row: &Row<'_>) -> rusqlite::Result<HostMinute> {
    HostMinute::from_columns(
        row.get(0)?,
        |column| row.get(column + 1),
        |column| row.get(column + 1),
    )
}

fn record_minute(connection: &Connection, host: Uuid, minute: &HostMinute) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(RECORD_MINUTE)?;
    statement.raw_bind_parameter(1, minute.minute)?;
    statement.raw_bind_parameter(2, host.as_bytes())?;
    for (place, value) in minute.columns().enumerate() {
        statement.raw_bind_parameter(place + 3, value)?;
    }
    statement.raw_execute().map(drop)
}

fn write(
    connection: &Connection,
    host: &HostBeat,
    minutes: &[HostMinute],
    now: Timestamp,
) -> rusqlite::Result<()> {
    let row = (
        host.id.as_bytes(),
        &host.name,
        &host.version,
        host.stopped,
        now.0,
    );
    connection.prepare_cached(BEAT)?.execute(row)?;
    let mut minutes = minutes.iter();
    minutes.try_for_each(|minute| record_minute(connection, host.id, minute))
}

fn history(connection: &Connection, range: MinuteRange) -> rusqlite::Result<Vec<HostMinute>> {
    let bounds = (range.from, range.to, range.width.max(1));
    let mut statement = connection.prepare_cached(HISTORY)?;
    statement.query_map(bounds, sum)?.collect()
}

/// Returns the last minute of those to remove, apart from those of the future; `None` if there is
/// nothing to remove.
fn cut(connection: &Connection, kept: KeptMinutes) -> rusqlite::Result<Option<i64>> {
    let mut excess = connection.prepare_cached(EXCESS)?;
    let excess = excess.query_row([signed(kept.rows_max)], |row| row.get::<_, i64>(0));
    let excess = excess.optional()?.unwrap_or(i64::MIN);
    let cut = excess.max(kept.from.saturating_sub(1));
    let some = "SELECT 1 FROM host_minutes WHERE minute <= ?1 UNION ALL
         SELECT 1 FROM host_minutes WHERE minute > ?2 LIMIT 1";
    let exists = connection.prepare_cached(some)?.exists((cut, kept.to))?;
    Ok(exists.then_some(cut))
}

#[async_trait]
impl HostStore for SqliteStore {
    async fn beat(
        &self,
        host: &HostBeat,
        minutes: &[HostMinute],
        now: Timestamp,
    ) -> Result<Timestamp, StoreError> {
        let (host, minutes) = (host.clone(), minutes.to_vec());
        let beat = move |transaction: &mut WriteTransaction<'_>| {
            transaction.atomically(|transaction| {
                write(transaction.connection, &host, &minutes, now).map_err(error::store)
            })
        };
        self.writer.run(WriteCost::NONE, beat).await?;
        Ok(now)
    }

    async fn hosts(&self, limit: u32) -> Result<Vec<HostRecord>, StoreError> {
        let read = move |connection: &Connection| {
            let sql = "SELECT id, name, version, stopped, started_at, seen_at FROM hosts
                 ORDER BY seen_at DESC, id LIMIT ?1";
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_map([limit], host)?.collect()
        };
        self.read_short(None, read, || read).await
    }

    async fn history(&self, range: MinuteRange) -> Result<Vec<HostMinute>, StoreError> {
        let readers = Arc::clone(&self.readers);
        // There may be many rows.
        let read = move || readers.with(|connection| history(connection, range));
        self.places.run(None, read).await
    }

    async fn prune_history(&self, kept: KeptMinutes, limit: u32) -> Result<u64, StoreError> {
        let readers = Arc::clone(&self.readers);
        // Readers check first, so that the writer is rarely involved.
        let look = move || readers.with(|connection| cut(connection, kept));
        let Some(cut) = self.places.run(None, look).await? else {
            return Ok(0);
        };
        let prune = move |transaction: &mut WriteTransaction<'_>| {
            super::tombstone::execute(
                transaction.connection,
                "DELETE FROM host_minutes WHERE (minute, host) IN
                   (SELECT minute, host FROM host_minutes WHERE minute <= ?1 OR minute > ?2
                    ORDER BY minute, host LIMIT ?3)",
                (cut, kept.to, limit),
            )
        };
        let cost = WriteCost::NONE.freeing_space();
        self.writer.run(cost, prune).await
    }

    async fn prune_hosts(
        &self,
        before: Timestamp,
        after: Timestamp,
        keep: u32,
    ) -> Result<u64, StoreError> {
        let bounds = (before.0, after.0, keep);
        let some = move |connection: &Connection| {
            let sql = format!("SELECT 1 {PRUNED_HOSTS}");
            connection.prepare_cached(&sql)?.exists(bounds)
        };
        if !self.read_short(None, some, || some).await? {
            return Ok(0);
        }
        let prune = move |transaction: &mut WriteTransaction<'_>| {
            let sql = format!("DELETE {PRUNED_HOSTS}");
            super::tombstone::execute(transaction.connection, &sql, bounds)
        };
        let cost = WriteCost::NONE.freeing_space();
        self.writer.run(cost, prune).await
    }
}
