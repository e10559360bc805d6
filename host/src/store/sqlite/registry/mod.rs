//! Apps, plugins, tokens and the audit log: changes. `read` has the reads.

mod read;

use super::writer::Transaction;
use super::{error, outbox};
use crate::model::{
    App, AppId, AppSettings, Audit, Change, Changed, Digest, NewPlugin, PluginVersion, Timestamp,
    Token, TokenId,
};
use crate::store::StoreError;
use rusqlite::{Connection, OptionalExtension};

pub(super) use read::{audit, module, plugin, plugins, token, tokens, usage};

/// Makes a change, and its audit row if there is one. On an error the caller
/// rolls back.
pub(super) fn change(
    transaction: &mut Transaction<'_>,
    change: &Change,
    audit: Option<&Audit>,
) -> Result<Changed, StoreError> {
    let connection = transaction.connection;
    let at = audit.map_or_else(Timestamp::now, |audit| audit.at);
    let by = audit.map_or("", |audit| audit.actor.as_str());
    let changed = match change {
        Change::CreateApp(app) => create_app(connection, app),
        Change::UpdateApp { app, settings } => update_app(connection, *app, settings),
        Change::DeleteApp(app) => {
            super::grave::bury(connection, *app, at).map(|buried| done(usize::from(buried)))
        }
        Change::AddPlugin(plugin) => add_plugin(connection, plugin, at, by),
        Change::ActivatePlugin { app, version } => activate(connection, *app, *version, at),
        Change::RollBackPlugin(app) => roll_back(connection, *app, at),
        Change::DeletePlugin { app, version } => delete_plugin(connection, *app, *version),
        Change::CreateToken(token) => create_token(connection, token),
        Change::RevokeToken { app, token } => revoke_token(connection, *app, *token, at),
        Change::SetTrigger { app, trigger } => outbox::set(connection, *app, trigger),
        Change::DeleteTrigger { app, trigger } => outbox::delete(connection, *app, trigger),
        Change::PauseTrigger {
            app,
            trigger,
            paused,
        } => outbox::pause(connection, *app, trigger, *paused),
        Change::Replay {
            app,
            letters,
            limit,
        } => outbox::replay(transaction, *app, letters, *limit, at),
        Change::Discard {
            app,
            letters,
            limit,
        } => outbox::discard(transaction, *app, letters, *limit),
    }?;
    if let (Some(audit), false) = (audit, changed == Changed::Nothing) {
        write_audit(connection, audit).map_err(error::store)?;
    }
    Ok(changed)
}

fn done(rows: usize) -> Changed {
    match rows {
        0 => Changed::Nothing,
        _ => Changed::Done,
    }
}

/// Runs one statement and counts the rows that it changed.
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

fn create_app(connection: &Connection, app: &App) -> Result<Changed, StoreError> {
    let AppSettings {
        public,
        quota,
        calls_per_second,
        calls_at_once,
    } = app.settings;
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
            public,
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
    )?;
    Ok(Changed::Done)
}

/// The column is signed; a limit above what it holds is as good as that.
fn signed(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn update_app(
    connection: &Connection,
    app: AppId,
    settings: &AppSettings,
) -> Result<Changed, StoreError> {
    let updated = execute(
        connection,
        "UPDATE apps SET public = ?2, entries_max = ?3, bytes_max = ?4, calls_per_second = ?5,
                calls_at_once = ?6
         WHERE id = ?1 AND deleted_at IS NULL",
        (
            app.uuid().as_bytes(),
            settings.public,
            settings.quota.entries.map(signed),
            settings.quota.bytes.map(signed),
            settings.calls_per_second,
            settings.calls_at_once,
        ),
    )?;
    match updated {
        0 => Err(StoreError::AppNotFound),
        _ => Ok(Changed::Done),
    }
}

/// Removes a module that no version refers to any more.
pub(super) fn forget_module(connection: &Connection, digest: Digest) -> Result<(), StoreError> {
    execute(
        connection,
        "DELETE FROM modules WHERE digest = ?1
           AND NOT EXISTS (SELECT 1 FROM plugins WHERE plugins.digest = ?1)",
        [digest.0],
    )
    .map(drop)
}

fn add_plugin(
    connection: &Connection,
    plugin: &NewPlugin,
    at: Timestamp,
    by: &str,
) -> Result<Changed, StoreError> {
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
            by,
        ),
    )?;
    if plugin.activate {
        activate(connection, plugin.app, version, at)?;
    }
    Ok(Changed::Plugin(version))
}

/// The active version of an app: none if it has none.
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

fn activate(
    connection: &Connection,
    app: AppId,
    version: PluginVersion,
    at: Timestamp,
) -> Result<Changed, StoreError> {
    let before = active(connection, app)?;
    switch_to(connection, app, version, at)?;
    // What is active already replaced what it replaced.
    if before != Some(version) {
        execute(
            connection,
            "UPDATE plugins SET replaced = ?3 WHERE app_id = ?1 AND version = ?2",
            (app.uuid().as_bytes(), version.0, before.map(|v| v.0)),
        )?;
    }
    Ok(Changed::Plugin(version))
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
        (1.., Some(row)) => outbox::declare(connection, app, &row.exports, at),
        _ => Err(StoreError::PluginNotFound(version)),
    }
}

fn roll_back(connection: &Connection, app: AppId, at: Timestamp) -> Result<Changed, StoreError> {
    let active = active(connection, app)?.ok_or(StoreError::NothingToRollBackTo)?;
    let row = plugin(connection, app, active).map_err(error::store)?;
    let before = row.and_then(|row| row.replaced);
    let before = before.ok_or(StoreError::NothingToRollBackTo)?;
    match switch_to(connection, app, before, at) {
        Ok(()) => Ok(Changed::Plugin(before)),
        // It was deleted since.
        Err(StoreError::PluginNotFound(_)) => Err(StoreError::NothingToRollBackTo),
        Err(error) => Err(error),
    }
}

fn delete_plugin(
    connection: &Connection,
    app: AppId,
    version: PluginVersion,
) -> Result<Changed, StoreError> {
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
        return Ok(Changed::Nothing);
    };
    forget_module(connection, Digest(digest))?;
    Ok(Changed::Done)
}

fn create_token(connection: &Connection, token: &Token) -> Result<Changed, StoreError> {
    if let Some(app) = token.app
        && super::grave::is_buried(connection, app).map_err(error::store)?
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
    Ok(done(created))
}

fn revoke_token(
    connection: &Connection,
    app: Option<AppId>,
    token: TokenId,
    at: Timestamp,
) -> Result<Changed, StoreError> {
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
    Ok(done(revoked))
}

pub(super) fn write_audit(connection: &Connection, audit: &Audit) -> rusqlite::Result<()> {
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
