//! Periodic removal of old data.

use super::writer::{WriteCost, WriteTransaction};
use super::{SqliteStore, error, tombstone};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use kvasm_core::store::Upkeep;
use kvasm_core::store::backend::first_id;
use kvasm_core::{AppId, Timestamp};
use rusqlite::Connection;
use std::sync::Arc;

/// Free pages that stay in the file for later writes: this many, and a tenth of the file.
const FREE_PAGES_KEPT: i64 = 1_024;
/// The maximum number of audit rows that are counted on the calling thread.
const SHORT_LOOK: u32 = 500;
/// Pages that are vacuumed in one step: 1 MiB.
const PAGES_OF_A_STEP: i64 = 256;

#[async_trait]
impl Upkeep for SqliteStore {
    async fn prune_audit(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let before = first_id(before).into_bytes();
        // Readers check first, so that the writer is rarely involved.
        let has_some = move |conn: &_| has_audit_before(conn, before);
        if !self.read_short(None, has_some, || has_some).await? {
            return Ok(0);
        }
        let prune = move |transaction: &mut WriteTransaction<'_>| {
            tombstone::execute(
                transaction.connection,
                "DELETE FROM audit WHERE id IN
                   (SELECT id FROM audit WHERE id < ?1 ORDER BY id LIMIT ?2)",
                (before, limit),
            )
        };
        self.writer
            .run(WriteCost::NONE.freeing_space(), prune)
            .await
    }

    async fn prune_audit_of(&self, app: AppId, keep: u32, limit: u32) -> Result<u64, StoreError> {
        let look = keep.min(SHORT_LOOK);
        let has_more = move |conn: &_| has_more_audit(conn, app, look);
        if !self.read_short(Some(app), has_more, || has_more).await? {
            return Ok(0);
        }
        let readers = Arc::clone(&self.readers);
        let spare = move || readers.with(|conn| spare_audit(conn, app, keep, limit));
        let spare = self.places.run(Some(app), spare).await?;
        if spare.is_empty() {
            return Ok(0);
        }
        let prune = move |transaction: &mut WriteTransaction<'_>| {
            transaction.atomically(|transaction| {
                let remove = "DELETE FROM audit WHERE id = ?1";
                let remove =
                    |id: &[u8; 16]| tombstone::execute(transaction.connection, remove, [id]);
                spare.iter().map(remove).sum()
            })
        };
        self.writer
            .run(WriteCost::of(app).freeing_space(), prune)
            .await
    }

    async fn reclaim_space(&self) -> Result<bool, StoreError> {
        // A reader checks first, so that the writer is rarely involved.
        let spare = |connection: &_| spare_pages(connection, kept_pages(connection)?);
        if self.read_short(None, spare, || spare).await? == 0 {
            return Ok(false);
        }
        let reclaim = |transaction: &mut WriteTransaction<'_>| {
            let connection = transaction.connection;
            let kept = kept_pages(connection).map_err(error::store)?;
            vacuum(connection, kept).map_err(error::store)
        };
        self.writer
            .run(WriteCost::NONE.freeing_space(), reclaim)
            .await
    }

    async fn tombstones(&self, after: Option<AppId>, limit: u32) -> Result<Vec<AppId>, StoreError> {
        let read = move |conn: &_| tombstone::tombstones(conn, after, limit);
        self.read_short(None, read, || read).await
    }

    async fn reap(&self, app: AppId, limit: u32) -> Result<u64, StoreError> {
        let reap = move |transaction: &mut WriteTransaction<'_>| {
            transaction
                .atomically(|transaction| tombstone::reap(transaction.connection, app, limit))
        };
        self.writer
            .run(WriteCost::of(app).freeing_space(), reap)
            .await
    }

    async fn record_time(&self, now: Timestamp) -> Result<(), StoreError> {
        let note = move |transaction: &mut WriteTransaction<'_>| {
            let update = "UPDATE health SET at = ?1 WHERE id = 1";
            tombstone::execute(transaction.connection, update, [now.0])
        };
        self.writer.run(WriteCost::NONE, note).await.map(drop)
    }
}

fn has_audit_before(connection: &Connection, before: [u8; 16]) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM audit WHERE id < ?1 LIMIT 1")?
        .exists([before])
}

/// The newest row of an app behind `?2` newer ones.
const AUDIT_BEHIND: &str =
    "SELECT id FROM audit WHERE app_id = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2";

/// Returns whether an app has more than `rows` rows.
fn has_more_audit(connection: &Connection, app: AppId, rows: u32) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(AUDIT_BEHIND)?
        .exists((app.uuid().as_bytes(), rows))
}

/// Returns the oldest rows of an app, up to `limit`, of those behind the newest `keep`. Scans
/// `keep` entries of the index.
fn spare_audit(
    connection: &Connection,
    app: AppId,
    keep: u32,
    limit: u32,
) -> rusqlite::Result<Vec<[u8; 16]>> {
    connection
        .prepare_cached(&spare_audit_sql())?
        .query_map((app.uuid().as_bytes(), keep, limit), |row| row.get(0))?
        .collect()
}

fn spare_audit_sql() -> String {
    format!(
        "SELECT id FROM audit WHERE app_id = ?1 AND id <= ({AUDIT_BEHIND}) ORDER BY id LIMIT ?3"
    )
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, pragma, |row| row.get(0))
}

/// Returns whether a file can return freed space. A file from an earlier version cannot until it is
/// rewritten (`shrink`).
pub(super) fn is_incremental(connection: &Connection) -> rusqlite::Result<bool> {
    const INCREMENTAL: i64 = 2;
    Ok(number(connection, "auto_vacuum")? == INCREMENTAL)
}

/// Returns the number of free pages that normally stay in the file.
fn kept_pages(connection: &Connection) -> rusqlite::Result<i64> {
    Ok(FREE_PAGES_KEPT + number(connection, "page_count")? / 10)
}

/// Returns the number of pages that can be vacuumed so that `kept` stay.
fn spare_pages(connection: &Connection, kept: i64) -> rusqlite::Result<i64> {
    if !is_incremental(connection)? {
        return Ok(0);
    }
    Ok((number(connection, "freelist_count")? - kept).max(0))
}

/// Moves a few pages from the end of the file into free ones, of which `kept` stay. Returns whether
/// more can be vacuumed.
pub(super) fn vacuum(connection: &Connection, kept: i64) -> rusqlite::Result<bool> {
    let pages = spare_pages(connection, kept)?.min(PAGES_OF_A_STEP);
    if pages > 0 {
        let sql = format!("PRAGMA incremental_vacuum({pages})");
        // Each result row is a page: it continues only while rows are read.
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(spare_pages(connection, kept)? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SqliteOptions, plan};

    /// It runs for each app in each round.
    #[tokio::test]
    async fn audit_prune_query_uses_a_covering_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvasm.db");
        let _store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
        let connection = Connection::open(&path).unwrap();
        let app = "SEARCH audit USING COVERING INDEX audit_by_app (app_id=?)";
        assert_eq!(plan(&connection, AUDIT_BEHIND, &[b"a", &0]), [app]);
        let steps = plan(&connection, &spare_audit_sql(), &[b"a", &0, &0]);
        let range = "SEARCH audit USING COVERING INDEX audit_by_app (app_id=? AND id<?)";
        assert_eq!(steps, [range, "SCALAR SUBQUERY 1", app]);
        let steps = plan(
            &connection,
            "SELECT 1 FROM audit WHERE id < ?1 LIMIT 1",
            &[b"a"],
        );
        assert_eq!(steps, ["SEARCH audit USING PRIMARY KEY (id<?)"]);
    }
}
