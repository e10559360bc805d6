//! Deleted apps: the tombstone, and the removal of rows in small steps.

use super::{error, registry};
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Digest, Timestamp};
use rusqlite::Connection;
use uuid::Uuid;

/// A step ends after this many bytes of rows, or after its number of rows.
const BYTES_OF_A_STEP: i64 = 4 * 1024 * 1024;

/// Marks an app as deleted, and returns whether it existed. Its rows stay until they are reaped. No
/// app can have the name that its tombstone gets.
pub(super) fn mark_deleted(
    connection: &Connection,
    app: AppId,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let id = app.uuid().into_bytes();
    let buried = execute(
        connection,
        "UPDATE apps SET name = '~' || hex(id), deleted_at = ?2, active_plugin = NULL,
                active_module = NULL
         WHERE id = ?1 AND deleted_at IS NULL",
        (id, at.0),
    )?;
    if buried == 0 {
        return Ok(false);
    }
    // Without a row of usage, no write is accepted.
    execute(connection, "DELETE FROM app_usage WHERE app_id = ?1", [id])?;
    execute(connection, "DELETE FROM tokens WHERE app_id = ?1", [id])?;
    // No secret outlives its app.
    let unset = "DELETE FROM app_settings WHERE app_id = ?1";
    execute(connection, unset, [id])?;
    execute(connection, "DELETE FROM app_grants WHERE app_id = ?1", [id])?;
    // Paused deliveries are not claimed.
    let pause = "UPDATE triggers SET paused = 'operator' WHERE app_id = ?1";
    execute(connection, pause, [id])?;
    Ok(true)
}

/// Returns whether an app was deleted and still has rows.
pub(super) fn is_tombstone(connection: &Connection, app: AppId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM apps WHERE id = ?1 AND deleted_at IS NOT NULL")?
        .exists([app.uuid().as_bytes()])
}

/// Returns deleted apps, by identity.
pub(super) fn tombstones(
    connection: &Connection,
    after: Option<AppId>,
    limit: u32,
) -> rusqlite::Result<Vec<AppId>> {
    // Every identity is above the empty blob.
    let after = after.map_or_else(Vec::new, |app| app.uuid().into_bytes().to_vec());
    connection
        .prepare_cached(
            "SELECT id FROM apps WHERE deleted_at IS NOT NULL AND id > ?1 ORDER BY id LIMIT ?2",
        )?
        .query_map((after, limit), |row| row.get(0).map(Uuid::from_bytes))?
        .map(|id| id.map(AppId::from))
        .collect()
}

/// Runs one step: removes rows of one table, or the tombstone if none are left. Returns the number
/// of rows.
pub(super) fn reap(connection: &Connection, app: AppId, limit: u32) -> Result<u64, StoreError> {
    if !is_tombstone(connection, app).map_err(error::store)? {
        return Ok(0);
    }
    for (find, remove) in [
        (
            "SELECT rowid, size FROM deliveries WHERE app_id = ?1 LIMIT ?2",
            "DELETE FROM deliveries WHERE app_id = ?1 AND rowid = ?2",
        ),
        (
            "SELECT rowid, size FROM kv_entries WHERE app_id = ?1 LIMIT ?2",
            "DELETE FROM kv_entries WHERE app_id = ?1 AND rowid = ?2",
        ),
        (
            "SELECT id, size FROM dead_letters WHERE app_id = ?1 LIMIT ?2",
            "DELETE FROM dead_letters WHERE app_id = ?1 AND id = ?2",
        ),
        (
            "SELECT id, size FROM kept_answers WHERE app_id = ?1 LIMIT ?2",
            "DELETE FROM kept_answers WHERE app_id = ?1 AND id = ?2",
        ),
    ] {
        let removed = remove_some(connection, app, find, remove, limit).map_err(error::store)?;
        if removed > 0 {
            return Ok(removed);
        }
    }
    if let Some(digest) = remove_plugin(connection, app).map_err(error::store)? {
        registry::forget_module(connection, digest)?;
        return Ok(1);
    }
    // The few triggers go with it.
    let id = app.uuid().into_bytes();
    execute(connection, "DELETE FROM apps WHERE id = ?1", [id])
}

fn remove_some(
    connection: &Connection,
    app: AppId,
    find: &str,
    remove: &str,
    limit: u32,
) -> rusqlite::Result<u64> {
    let id = app.uuid().into_bytes();
    let mut find = connection.prepare_cached(find)?;
    let mut rows = find.query((id, limit))?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let place: rusqlite::types::Value = row.get(0)?;
        found.push(place);
        bytes += row.get::<_, i64>(1)?;
        if bytes >= BYTES_OF_A_STEP {
            break;
        }
    }
    drop(rows);
    let mut remove = connection.prepare_cached(remove)?;
    for place in &found {
        remove.execute((id, place))?;
    }
    Ok(found.len() as u64)
}

/// Removes one plugin version. Returns its module.
fn remove_plugin(connection: &Connection, app: AppId) -> rusqlite::Result<Option<Digest>> {
    let id = app.uuid().into_bytes();
    let mut statement = connection.prepare_cached(
        "DELETE FROM plugins WHERE app_id = ?1
           AND version = (SELECT min(version) FROM plugins WHERE app_id = ?1)
         RETURNING digest",
    )?;
    let mut rows = statement.query([id])?;
    let mut digest = None;
    while let Some(row) = rows.next()? {
        digest = Some(Digest(row.get(0)?));
    }
    Ok(digest)
}

/// Runs one statement. Returns the number of rows that it changed.
pub(super) fn execute(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<u64, StoreError> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(parameters))
        .map(|rows| rows as u64)
        .map_err(error::store)
}
