//! What is removed and given back as time goes by.

use super::writer::{Transaction, Work};
use super::{SqliteStore, error, grave};
use crate::model::{AppId, Timestamp};
use crate::store::StoreError;
use crate::store::upkeep::{Upkeep, first_id};
use async_trait::async_trait;
use rusqlite::Connection;

/// Free pages that stay in the file, for what is written next: this many, and a
/// tenth of the file.
const FREE_PAGES_KEPT: i64 = 1_024;
/// Pages that are given back in one step: 1 MiB.
const PAGES_OF_A_STEP: i64 = 256;

#[async_trait]
impl Upkeep for SqliteStore {
    async fn prune_audit(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let before = first_id(before).into_bytes();
        let prune = move |transaction: &mut Transaction<'_>| {
            grave::execute(
                transaction.connection,
                "DELETE FROM audit WHERE id IN
                   (SELECT id FROM audit WHERE id < ?1 ORDER BY id LIMIT ?2)",
                (before, limit),
            )
        };
        self.writer.run(Work::NONE.that_frees(), prune).await
    }

    async fn prune_audit_of(&self, app: AppId, keep: u32, limit: u32) -> Result<u64, StoreError> {
        let app = app.uuid().into_bytes();
        let prune = move |transaction: &mut Transaction<'_>| {
            grave::execute(
                transaction.connection,
                "DELETE FROM audit WHERE id IN
                   (SELECT id FROM audit WHERE app_id = ?1
                      AND id <= (SELECT id FROM audit WHERE app_id = ?1
                                 ORDER BY id DESC LIMIT 1 OFFSET ?2)
                    ORDER BY id LIMIT ?3)",
                (app, keep, limit),
            )
        };
        self.writer.run(Work::NONE.that_frees(), prune).await
    }

    async fn give_back(&self) -> Result<bool, StoreError> {
        // Asked by a reader first, so that the writer is left alone as a rule.
        let spare = |connection: &_| spare_pages(connection, kept_pages(connection)?);
        if self.readers.with(spare)? == 0 {
            return Ok(false);
        }
        let give_back = |transaction: &mut Transaction<'_>| {
            let connection = transaction.connection;
            let kept = kept_pages(connection).map_err(error::store)?;
            vacuum(connection, kept).map_err(error::store)
        };
        self.writer.run(Work::NONE.that_frees(), give_back).await
    }

    async fn graves(&self, after: Option<AppId>, limit: u32) -> Result<Vec<AppId>, StoreError> {
        self.readers.with(|conn| grave::graves(conn, after, limit))
    }

    async fn reap(&self, app: AppId, limit: u32) -> Result<u64, StoreError> {
        let reap = move |transaction: &mut Transaction<'_>| {
            transaction.whole(|transaction| grave::reap(transaction.connection, app, limit))
        };
        self.writer.run(Work::of(app).that_frees(), reap).await
    }
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, pragma, |row| row.get(0))
}

/// Whether a file can give back what is freed. One that was made by an earlier version
/// cannot, until it is rewritten (`shrink`).
pub(super) fn is_incremental(connection: &Connection) -> rusqlite::Result<bool> {
    const INCREMENTAL: i64 = 2;
    Ok(number(connection, "auto_vacuum")? == INCREMENTAL)
}

/// Free pages that stay in the file as a rule.
fn kept_pages(connection: &Connection) -> rusqlite::Result<i64> {
    Ok(FREE_PAGES_KEPT + number(connection, "page_count")? / 10)
}

/// Pages that could be given back now, so that `kept` stay.
fn spare_pages(connection: &Connection, kept: i64) -> rusqlite::Result<i64> {
    if !is_incremental(connection)? {
        return Ok(0);
    }
    Ok((number(connection, "freelist_count")? - kept).max(0))
}

/// Moves a few pages from the end of the file into free ones, of which `kept` stay;
/// whether more are to spare.
pub(super) fn vacuum(connection: &Connection, kept: i64) -> rusqlite::Result<bool> {
    let pages = spare_pages(connection, kept)?.min(PAGES_OF_A_STEP);
    if pages > 0 {
        let sql = format!("PRAGMA incremental_vacuum({pages})");
        // Each row that it answers is a page: it goes on only while it is asked.
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(spare_pages(connection, kept)? > 0)
}
