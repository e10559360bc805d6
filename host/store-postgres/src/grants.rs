//! The grants of apps.

use super::change;
use super::lease::Lease;
use super::registry::damaged;
use super::settings;
use super::sql::settings_sql as sql;
use super::transaction::Abort;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Audit, Grant, Granted, Needs, Timestamp, room_for_grants};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};

/// Adds grants. Returns the number added.
pub(super) async fn add(
    lease: &mut Lease,
    app: AppId,
    grants: &[Grant],
    audit: &Audit,
) -> Result<u64, Abort> {
    settings::hold(lease, app).await?;
    let mut added = 0;
    for grant in grants {
        let statement = sqlx::query(sql::ADD_GRANT)
            .bind(app.uuid())
            .bind(grant.kind())
            .bind(grant.subject())
            .bind(audit.at.0);
        added += u64::from(change::done(lease, statement).await?);
    }
    if added == 0 {
        return Ok(0);
    }
    let rows = lease
        .run(sqlx::query(sql::GRANTS_USED).bind(app.uuid()))
        .await?;
    let row = rows.first().ok_or(StoreError::AppNotFound)?;
    let count: i64 = row.try_get(0)?;
    room_for_grants(count.unsigned_abs())
        .map_err(|(resource, limit)| StoreError::Quota { resource, limit })?;
    settings::touch(lease, app, audit).await?;
    Ok(added)
}

/// Removes grants. Returns the number removed.
pub(super) async fn remove(
    lease: &mut Lease,
    app: AppId,
    grants: &[Grant],
    audit: &Audit,
) -> Result<u64, Abort> {
    settings::hold(lease, app).await?;
    let mut removed = 0;
    for grant in grants {
        let statement = sqlx::query(sql::REMOVE_GRANT)
            .bind(app.uuid())
            .bind(grant.kind())
            .bind(grant.subject());
        removed += u64::from(change::done(lease, statement).await?);
    }
    if removed > 0 {
        settings::touch(lease, app, audit).await?;
    }
    Ok(removed)
}

/// Decodes a row of `SETTINGS` that is a grant.
pub(super) fn row(row: &PgRow) -> Result<Granted, Error> {
    let grant = Grant::from_stored(row.try_get(2)?, row.try_get(3)?);
    Ok(Granted {
        grant: grant.map_err(damaged)?,
        granted_at: Timestamp(row.try_get(6)?),
    })
}

/// Refuses the activation of a version whose needs the app does not meet. The app is locked, so
/// that they are not changed before the transaction ends.
pub(super) async fn check_needs(lease: &mut Lease, app: AppId, needs: &Needs) -> Result<(), Abort> {
    if needs.is_empty() {
        return Ok(());
    }
    let statement = sqlx::query(sql::SETTINGS).bind(app.uuid());
    let settings = settings::decode(&lease.run(statement).await?)?;
    let met = needs.check(&settings).map_err(StoreError::NeedsUnmet);
    Ok(met?)
}
