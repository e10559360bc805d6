//! Operations of administrators: the statements of each.

use super::super::entries::app_by_id;
use super::super::{error, grants, outbox};
use super::plugin;
use crate::tombstone::is_tombstone;
use kvasm_core::store::StoreError;
use kvasm_core::store::backend::signed;
use kvasm_core::{
    App, AppId, AppLimits, Audit, Digest, LimitsPatch, NewPlugin, PluginVersion, Resource,
    TOKENS_MAX, Timestamp, Token, TokenId, room_for_version,
};
use rusqlite::{Connection, OptionalExtension};

/// Runs one statement. Returns the number of rows that it changed.
fn execute(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<usize, StoreError> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(parameters))
        .map_err(error::store)
}

pub(super) fn create_app(connection: &Connection, app: &App) -> Result<(), StoreError> {
    let AppLimits {
        quota,
        calls_per_second,
        calls_at_once,
    } = app.limits;
    execute(
        connection,
        "INSERT INTO apps (id, name, cursor_key, created_at, public, entries_max, bytes_max,
                           calls_per_second, calls_at_once)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        (
            app.id.uuid().as_bytes(),
            app.name.as_str(),
            app.cursor_key.as_bytes(),
            app.created_at.0,
            app.public,
            quota.entries.map(signed),
            quota.bytes.map(signed),
            calls_per_second,
            calls_at_once,
        ),
    )?;
    execute(
        connection,
        "INSERT INTO app_usage (app_id) VALUES (?1)",
        [app.id.uuid().as_bytes()],
    )
    .map(drop)
}

/// Returns the app, as of this transaction.
fn find(connection: &Connection, app: AppId) -> Result<App, StoreError> {
    let row = app_by_id(connection, app).map_err(error::store)?;
    row.ok_or(StoreError::AppNotFound)
}

pub(super) fn set_public(
    connection: &Connection,
    app: AppId,
    public: bool,
) -> Result<App, StoreError> {
    execute(
        connection,
        "UPDATE apps SET public = ?2 WHERE id = ?1 AND deleted_at IS NULL",
        (app.uuid().as_bytes(), public),
    )?;
    find(connection, app)
}

pub(super) fn set_limits(
    connection: &Connection,
    app: AppId,
    patch: LimitsPatch,
    expected: Option<AppLimits>,
) -> Result<App, StoreError> {
    let before = find(connection, app)?.limits;
    if expected.is_some_and(|expected| expected != before) {
        return Err(StoreError::LimitsChanged);
    }
    let limits = patch.apply(before);
    execute(
        connection,
        "UPDATE apps SET entries_max = ?2, bytes_max = ?3, calls_per_second = ?4,
                calls_at_once = ?5
         WHERE id = ?1 AND deleted_at IS NULL",
        (
            app.uuid().as_bytes(),
            limits.quota.entries.map(signed),
            limits.quota.bytes.map(signed),
            limits.calls_per_second,
            limits.calls_at_once,
        ),
    )?;
    find(connection, app)
}

/// Deletes a module unless a version still refers to it.
pub(crate) fn forget_module(connection: &Connection, digest: Digest) -> Result<(), StoreError> {
    execute(
        connection,
        "DELETE FROM modules WHERE digest = ?1
           AND NOT EXISTS (SELECT 1 FROM plugins WHERE plugins.digest = ?1)",
        [digest.0],
    )
    .map(drop)
}

pub(super) fn add_plugin(
    connection: &Connection,
    plugin: &NewPlugin,
    audit: &Audit,
) -> Result<PluginVersion, StoreError> {
    let at = audit.at;
    let app_id = plugin.app.uuid();
    let version: Option<u32> = connection
        .prepare_cached(
            "UPDATE apps SET last_plugin = last_plugin + 1 WHERE id = ?1 AND deleted_at IS NULL RETURNING last_plugin",
        )
        .and_then(|mut statement| {
            statement
                .query_row([app_id.as_bytes()], |row| row.get(0))
                .optional()
        })
        .map_err(error::store)?;
    let version = PluginVersion(version.ok_or(StoreError::AppNotFound)?);
    let (versions, bytes): (i64, i64) = connection
        .prepare_cached("SELECT count(*), coalesce(sum(size), 0) FROM plugins WHERE app_id = ?1")
        .and_then(|mut statement| {
            statement.query_row([app_id.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .map_err(error::store)?;
    room_for_version(
        versions.unsigned_abs(),
        bytes.unsigned_abs(),
        plugin.wasm.len() as u64,
    )
    .map_err(|(resource, limit)| StoreError::Quota { resource, limit })?;
    execute(
        connection,
        "INSERT INTO modules (digest, wasm, created_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (digest) DO NOTHING",
        (plugin.digest.0, &*plugin.wasm, at.0),
    )?;
    let exports = serde_json::to_string(&plugin.exports).map_err(error::host)?;
    execute(
        connection,
        "INSERT INTO plugins (app_id, version, digest, size, exports, created_at, created_by)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (
            app_id.as_bytes(),
            version.0,
            plugin.digest.0,
            signed(plugin.wasm.len() as u64),
            exports,
            at.0,
            &audit.actor,
        ),
    )?;
    if plugin.activate {
        activate(connection, plugin.app, version, at)?;
    }
    Ok(version)
}

/// Returns the active version of an app, if any.
fn active(connection: &Connection, app: AppId) -> Result<Option<PluginVersion>, StoreError> {
    let row: Option<Option<u32>> = connection
        .prepare_cached("SELECT active_plugin FROM apps WHERE id = ?1 AND deleted_at IS NULL")
        .and_then(|mut statement| {
            statement
                .query_row([app.uuid().as_bytes()], |row| row.get(0))
                .optional()
        })
        .map_err(error::store)?;
    Ok(row.ok_or(StoreError::AppNotFound)?.map(PluginVersion))
}

pub(super) fn activate(
    connection: &Connection,
    app: AppId,
    version: PluginVersion,
    at: Timestamp,
) -> Result<(), StoreError> {
    let before = active(connection, app)?;
    switch_to(connection, app, version, at)?;
    // Reactivating the active version keeps the version that it replaced.
    if before != Some(version) {
        execute(
            connection,
            "UPDATE plugins SET replaced = ?3 WHERE app_id = ?1 AND version = ?2",
            (app.uuid().as_bytes(), version.0, before.map(|v| v.0)),
        )?;
    }
    Ok(())
}

fn switch_to(
    connection: &Connection,
    app: AppId,
    version: PluginVersion,
    at: Timestamp,
) -> Result<(), StoreError> {
    let switched = execute(
        connection,
        "UPDATE apps SET active_plugin = ?2, active_module = p.digest
         FROM (SELECT digest FROM plugins WHERE app_id = ?1 AND version = ?2) AS p
         WHERE id = ?1 AND deleted_at IS NULL",
        (app.uuid().as_bytes(), version.0),
    )?;
    let row = plugin(connection, app, version).map_err(error::store)?;
    match (switched, row) {
        (1.., Some(row)) => {
            grants::check_needs(connection, app, &row.exports.needs)?;
            outbox::declare(connection, app, &row.exports, at)
        }
        _ => Err(StoreError::PluginNotFound(version)),
    }
}

pub(super) fn roll_back(
    connection: &Connection,
    app: AppId,
    at: Timestamp,
) -> Result<PluginVersion, StoreError> {
    let active = active(connection, app)?.ok_or(StoreError::NothingToRollBackTo)?;
    let row = plugin(connection, app, active).map_err(error::store)?;
    let before = row.and_then(|row| row.replaced);
    let before = before.ok_or(StoreError::NothingToRollBackTo)?;
    match switch_to(connection, app, before, at) {
        Ok(()) => Ok(before),
        // It was deleted meanwhile.
        Err(StoreError::PluginNotFound(_)) => Err(StoreError::NothingToRollBackTo),
        Err(error) => Err(error),
    }
}

pub(super) fn delete_plugin(
    connection: &Connection,
    app: AppId,
    version: PluginVersion,
) -> Result<bool, StoreError> {
    if active(connection, app)? == Some(version) {
        return Err(StoreError::PluginActive(version));
    }
    let digest: Option<[u8; 32]> = connection
        .prepare_cached("DELETE FROM plugins WHERE app_id = ?1 AND version = ?2 RETURNING digest")
        .and_then(|mut statement| {
            let parameters = (app.uuid().into_bytes(), version.0);
            let mut rows = statement.query(parameters)?;
            let mut digest = None;
            while let Some(row) = rows.next()? {
                digest = Some(row.get(0)?);
            }
            Ok(digest)
        })
        .map_err(error::store)?;
    let Some(digest) = digest else {
        return Ok(false);
    };
    forget_module(connection, Digest(digest))?;
    Ok(true)
}

pub(super) fn create_token(
    connection: &Connection,
    token: &Token,
    at: Timestamp,
) -> Result<bool, StoreError> {
    if let Some(app) = token.app
        && is_tombstone(connection, app).map_err(error::store)?
    {
        return Err(StoreError::AppNotFound);
    }
    let scopes: Vec<_> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    let created = execute(
        connection,
        "INSERT INTO tokens (id, secret_hash, name, scopes, app_id, created_at, expires_at, revoked_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO NOTHING",
        (
            token.id.0.as_bytes(),
            token.secret_hash.0,
            &token.name,
            scopes.join(" "),
            token.app.map(|app| app.uuid().into_bytes()),
            token.created_at.0,
            token.expires_at.map(|at| at.0),
            token.revoked_at.map(|at| at.0),
        ),
    )?;
    if let Some(app) = token.app
        && created > 0
    {
        make_room_for_token(connection, app, token.id, at)?;
    }
    Ok(created > 0)
}

/// Deletes revoked and expired tokens of an app that has too many with the new one, and refuses the
/// new one if there are still too many.
fn make_room_for_token(
    connection: &Connection,
    app: AppId,
    added: TokenId,
    at: Timestamp,
) -> Result<(), StoreError> {
    let app = app.uuid().into_bytes();
    let too_many = || -> Result<bool, StoreError> {
        let count: i64 = connection
            .prepare_cached("SELECT count(*) FROM tokens WHERE app_id = ?1")
            .and_then(|mut statement| statement.query_row([app], |row| row.get(0)))
            .map_err(error::store)?;
        Ok(count.unsigned_abs() > TOKENS_MAX)
    };
    if !too_many()? {
        return Ok(());
    }
    execute(
        connection,
        "DELETE FROM tokens WHERE app_id = ?1 AND id <> ?2
         AND (revoked_at IS NOT NULL OR expires_at <= ?3)",
        (app, added.0.as_bytes(), at.0),
    )?;
    if too_many()? {
        return Err(StoreError::Quota {
            resource: Resource::Tokens,
            limit: TOKENS_MAX,
        });
    }
    Ok(())
}

pub(super) fn revoke_token(
    connection: &Connection,
    app: Option<AppId>,
    token: TokenId,
    at: Timestamp,
) -> Result<bool, StoreError> {
    if app.is_none() && is_last_admin(connection, token, at)? {
        return Err(StoreError::LastAdmin);
    }
    let revoked = execute(
        connection,
        "UPDATE tokens SET revoked_at = ?2
         WHERE id = ?1 AND revoked_at IS NULL AND (?3 IS NULL OR app_id = ?3)",
        (
            token.0.as_bytes(),
            at.0,
            app.map(|app| app.uuid().into_bytes()),
        ),
    )?;
    Ok(revoked > 0)
}

/// Returns whether a token is the only one that administers the instance.
fn is_last_admin(
    connection: &Connection,
    token: TokenId,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let mut statement = connection
        .prepare_cached(
            "SELECT id FROM tokens WHERE app_id IS NULL AND revoked_at IS NULL
             AND (expires_at IS NULL OR expires_at > ?1)
             AND ' ' || scopes || ' ' LIKE '% instance:admin %' LIMIT 2",
        )
        .map_err(error::store)?;
    let admins = statement.query_map((at.0,), |row| row.get(0));
    let admins = admins.and_then(Iterator::collect::<Result<Vec<[u8; 16]>, _>>);
    Ok(admins.map_err(error::store)? == [*token.0.as_bytes()])
}

/// Makes an operation the generation of the registry. Fails if the row is missing: otherwise the
/// caches of others would count as current indefinitely.
pub(super) fn raise(connection: &Connection, audit: &Audit) -> rusqlite::Result<()> {
    let raised = connection
        .prepare_cached("UPDATE registry SET generation = ?1 WHERE id = 1")?
        .execute([audit.id.as_bytes()])?;
    match raised {
        1 => Ok(()),
        _ => Err(rusqlite::Error::QueryReturnedNoRows),
    }
}

pub(crate) fn write_audit(connection: &Connection, audit: &Audit) -> rusqlite::Result<()> {
    let (app_id, app_name) = match &audit.app {
        Some((id, name)) => (Some(id.uuid().into_bytes()), Some(name.as_str())),
        None => (None, None),
    };
    connection
        .prepare_cached(
            "INSERT INTO audit (id, at, token_id, actor, action, app_id, app_name, detail, request_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute((
            audit.id.as_bytes(),
            audit.at.0,
            audit.token.map(|token| token.0.into_bytes()),
            &audit.actor,
            &*audit.action,
            app_id,
            app_name,
            audit.detail.to_string(),
            audit.request_id.as_bytes(),
        ))
        .map(drop)
}
