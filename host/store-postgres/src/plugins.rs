//! Changes of an app's plugins. Each first locks the app, so that they run one at a time.

use super::lease::Lease;
use super::sql::registry_sql as sql;
use super::transaction::Abort;
use super::{grants, registry, triggers};
use kvasm_core::store::StoreError;
use kvasm_core::store::backend::signed;
use kvasm_core::{AppId, Audit, NewPlugin, PluginVersion, Timestamp, room_for_version};
use sqlx::{Error, Row};

pub(super) async fn add(
    lease: &mut Lease,
    plugin: &NewPlugin,
    audit: &Audit,
) -> Result<PluginVersion, Abort> {
    let at = audit.at;
    let app = plugin.app.uuid();
    let rows = lease.run(sqlx::query(sql::NEXT_VERSION).bind(app)).await?;
    let row = rows.first().ok_or(StoreError::AppNotFound)?;
    let version = registry::version(row, 0)?;
    // The app's row is locked, so no other version can be added in between.
    let rows = lease.run(sqlx::query(sql::VERSIONS_USED).bind(app)).await?;
    let row = rows.first().ok_or(StoreError::AppNotFound)?;
    let used = |at: usize| row.try_get::<i64, _>(at).map(i64::unsigned_abs);
    let used = used(0).and_then(|versions| Ok((versions, used(1)?)));
    let (versions, bytes) = used.map_err(|error| StoreError::Failed(error.into()))?;
    room_for_version(versions, bytes, plugin.wasm.len() as u64)
        .map_err(|(resource, limit)| StoreError::Quota { resource, limit })?;
    let digest = plugin.digest.0.as_slice();
    let statement = sqlx::query(sql::ADD_MODULE).bind(digest);
    lease.run(statement.bind(&*plugin.wasm).bind(at.0)).await?;
    let exports = serde_json::to_string(&plugin.exports);
    let exports = exports.map_err(|error| StoreError::Failed(error.into()))?;
    let statement = sqlx::query(sql::ADD_PLUGIN)
        .bind(app)
        .bind(i64::from(version.0))
        .bind(digest)
        .bind(signed(plugin.wasm.len() as u64))
        .bind(exports)
        .bind(at.0)
        .bind(&audit.actor);
    lease.run(statement).await?;
    if plugin.activate {
        activate(lease, plugin.app, version, at).await?;
    }
    Ok(version)
}

/// Locks the app. Returns its active version, if any.
async fn active(lease: &mut Lease, app: AppId) -> Result<Option<PluginVersion>, Abort> {
    let rows = lease.run(sqlx::query(sql::ACTIVE).bind(app.uuid())).await?;
    let row = rows.first().ok_or(StoreError::AppNotFound)?;
    Ok(registry::optional_version(row, 0)?)
}

pub(super) async fn activate(
    lease: &mut Lease,
    app: AppId,
    version: PluginVersion,
    at: Timestamp,
) -> Result<(), Abort> {
    let before = active(lease, app).await?;
    if !switch_to(lease, app, version, at).await? {
        Err(StoreError::PluginNotFound(version))?;
    }
    // Reactivating the active version keeps the version that it replaced.
    if before != Some(version) {
        let statement = sqlx::query(sql::REPLACED)
            .bind(app.uuid())
            .bind(i64::from(version.0))
            .bind(before.map(|before| i64::from(before.0)));
        lease.run(statement).await?;
    }
    Ok(())
}

/// Activates a version, with its triggers. Returns whether it exists.
async fn switch_to(
    lease: &mut Lease,
    app: AppId,
    version: PluginVersion,
    at: Timestamp,
) -> Result<bool, Abort> {
    let number = i64::from(version.0);
    let statement = sqlx::query(sql::OFFERED).bind(app.uuid()).bind(number);
    let rows = lease.run(statement).await?;
    let Some(row) = rows.first() else {
        return Ok(false);
    };
    let module: Vec<u8> = row.try_get(0)?;
    let statement = sqlx::query(sql::SWITCH).bind(app.uuid()).bind(number);
    lease.run(statement.bind(module)).await?;
    let exports = registry::exports(row, 1)?;
    grants::check_needs(lease, app, &exports.needs).await?;
    triggers::declare(lease, app, &exports, at).await?;
    Ok(true)
}

pub(super) async fn roll_back(
    lease: &mut Lease,
    app: AppId,
    at: Timestamp,
) -> Result<PluginVersion, Abort> {
    let active = active(lease, app).await?;
    let active = active.ok_or(StoreError::NothingToRollBackTo)?;
    let statement = sqlx::query(sql::PLUGIN).bind(app.uuid());
    let rows = lease.run(statement.bind(i64::from(active.0))).await?;
    let plugin = rows.first().map(registry::plugin_row).transpose()?;
    let before = plugin.and_then(|plugin| plugin.replaced);
    let before = before.ok_or(StoreError::NothingToRollBackTo)?;
    // It may have been deleted meanwhile.
    if !switch_to(lease, app, before, at).await? {
        Err(StoreError::NothingToRollBackTo)?;
    }
    Ok(before)
}

pub(super) async fn delete(
    lease: &mut Lease,
    app: AppId,
    version: PluginVersion,
) -> Result<bool, Abort> {
    if active(lease, app).await? == Some(version) {
        Err(StoreError::PluginActive(version))?;
    }
    let statement = sqlx::query(sql::DELETE_PLUGIN).bind(app.uuid());
    let rows = lease.run(statement.bind(i64::from(version.0))).await?;
    let Some(row) = rows.first() else {
        return Ok(false);
    };
    forget_modules(lease, vec![row.try_get(0)?]).await?;
    Ok(true)
}

/// Deletes those of the modules to which no version refers any more.
pub(super) async fn forget_modules(
    lease: &mut Lease,
    mut digests: Vec<Vec<u8>>,
) -> Result<(), Error> {
    if digests.is_empty() {
        return Ok(());
    }
    let statement = sqlx::query(sql::HOLD_MODULES).bind(&digests);
    lease.run(statement).await?;
    let statement = sqlx::query(sql::USED_MODULES).bind(&digests);
    for row in lease.run(statement).await? {
        let used: Vec<u8> = row.try_get(0)?;
        digests.retain(|digest| *digest != used);
    }
    let statement = sqlx::query(sql::FORGET_MODULES).bind(&digests);
    lease.run(statement).await.map(drop)
}
