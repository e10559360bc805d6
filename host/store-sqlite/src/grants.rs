//! The grants of apps.

use super::entries::damaged;
use super::{error, settings};
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Audit, Grant, Granted, Needs, Timestamp, room_for_grants};
use rusqlite::{Connection, Row};

/// Adds grants. Returns the number added.
pub(super) fn add(
    connection: &Connection,
    app: AppId,
    grants: &[Grant],
    audit: &Audit,
) -> Result<u64, StoreError> {
    settings::require(connection, app)?;
    let id = app.uuid().into_bytes();
    let mut added = 0;
    for grant in grants {
        added += connection
            .prepare_cached(
                "INSERT INTO app_grants (app_id, kind, subject, granted_at)
                 VALUES (?1, ?2, ?3, ?4) ON CONFLICT (app_id, kind, subject) DO NOTHING",
            )
            .and_then(|mut statement| {
                statement.execute((id, grant.kind(), grant.subject(), audit.at.0))
            })
            .map_err(error::store)? as u64;
    }
    if added == 0 {
        return Ok(0);
    }
    let count: i64 = connection
        .prepare_cached("SELECT count(*) FROM app_grants WHERE app_id = ?1")
        .and_then(|mut statement| statement.query_row([id], |row| row.get(0)))
        .map_err(error::store)?;
    room_for_grants(count.unsigned_abs())
        .map_err(|(resource, limit)| StoreError::Quota { resource, limit })?;
    settings::touch(connection, app, audit)?;
    Ok(added)
}

/// Removes grants. Returns the number removed.
pub(super) fn remove(
    connection: &Connection,
    app: AppId,
    grants: &[Grant],
    audit: &Audit,
) -> Result<u64, StoreError> {
    settings::require(connection, app)?;
    let id = app.uuid().into_bytes();
    let mut removed = 0;
    for grant in grants {
        removed += connection
            .prepare_cached(
                "DELETE FROM app_grants WHERE app_id = ?1 AND kind = ?2 AND subject = ?3",
            )
            .and_then(|mut statement| statement.execute((id, grant.kind(), grant.subject())))
            .map_err(error::store)? as u64;
    }
    if removed > 0 {
        settings::touch(connection, app, audit)?;
    }
    Ok(removed)
}

/// Returns the grants of an app, in order.
pub(super) fn all(connection: &Connection, app: AppId) -> rusqlite::Result<Vec<Granted>> {
    connection
        .prepare_cached(
            "SELECT kind, subject, granted_at FROM app_grants WHERE app_id = ?1
             ORDER BY kind, subject",
        )?
        .query_map([app.uuid().as_bytes()], row)?
        .collect()
}

fn row(row: &Row<'_>) -> rusqlite::Result<Granted> {
    let (kind, subject): (String, String) = (row.get(0)?, row.get(1)?);
    Ok(Granted {
        grant: Grant::from_stored(&kind, &subject).map_err(|why| damaged(1, why))?,
        granted_at: Timestamp(row.get(2)?),
    })
}

/// Refuses the activation of a version whose needs the app does not meet in this transaction.
pub(super) fn check_needs(
    connection: &Connection,
    app: AppId,
    needs: &Needs,
) -> Result<(), StoreError> {
    if needs.is_empty() {
        return Ok(());
    }
    let settings = settings::read(connection, app).map_err(error::store)?;
    needs.check(&settings).map_err(StoreError::NeedsUnmet)
}
