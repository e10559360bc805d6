//! Reads of plugins, tokens, usage and the audit log.

use crate::entries::{damaged, uuid_of};
use bytes::Bytes;
use kvasm_core::{
    AppId, AppName, Audit, Digest, Generation, PluginRecord, PluginVersion, SecretHash, Timestamp,
    Token, TokenId, Usage,
};
use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

pub(super) fn generation(connection: &Connection) -> rusqlite::Result<Generation> {
    connection
        .prepare_cached("SELECT generation FROM registry WHERE id = 1")?
        .query_row([], |row| uuid_of(row, 0).map(Generation))
}

pub(crate) fn usage(connection: &Connection, app: AppId) -> rusqlite::Result<Usage> {
    let usage = connection
        .prepare_cached("SELECT entries, bytes, queued FROM app_usage WHERE app_id = ?1")?
        .query_row([app.uuid().as_bytes()], |row| {
            Ok(Usage {
                entries: row.get::<_, i64>(0)?.unsigned_abs(),
                bytes: row.get::<_, i64>(1)?.unsigned_abs(),
                deliveries: row.get::<_, i64>(2)?.unsigned_abs(),
            })
        })
        .optional()?;
    Ok(usage.unwrap_or_default())
}

const PLUGIN_COLUMNS: &str =
    "version, digest, size, exports, replaced, created_at, created_by FROM plugins";

fn plugin_row(row: &Row<'_>) -> rusqlite::Result<PluginRecord> {
    let exports: String = row.get(3)?;
    let replaced: Option<u32> = row.get(4)?;
    Ok(PluginRecord {
        version: PluginVersion(row.get(0)?),
        digest: Digest(row.get(1)?),
        size: row.get::<_, i64>(2)?.unsigned_abs(),
        exports: serde_json::from_str(&exports).map_err(|e| damaged(3, e.to_string()))?,
        replaced: replaced.map(PluginVersion),
        created_at: Timestamp(row.get(5)?),
        created_by: row.get(6)?,
    })
}

pub(crate) fn plugins(
    connection: &Connection,
    app: AppId,
    before: Option<PluginVersion>,
    limit: u32,
) -> rusqlite::Result<Vec<PluginRecord>> {
    let before = before.map_or(i64::MAX, |version| i64::from(version.0));
    connection
        .prepare_cached(&format!(
            "SELECT {PLUGIN_COLUMNS} WHERE app_id = ?1 AND version < ?2
             ORDER BY version DESC LIMIT ?3"
        ))?
        .query_map((app.uuid().as_bytes(), before, limit), plugin_row)?
        .collect()
}

pub(crate) fn plugin(
    connection: &Connection,
    app: AppId,
    version: PluginVersion,
) -> rusqlite::Result<Option<PluginRecord>> {
    connection
        .prepare_cached(&format!(
            "SELECT {PLUGIN_COLUMNS} WHERE app_id = ?1 AND version = ?2"
        ))?
        .query_row((app.uuid().as_bytes(), version.0), plugin_row)
        .optional()
}

pub(crate) fn module(connection: &Connection, digest: Digest) -> rusqlite::Result<Option<Bytes>> {
    let wasm: Option<Vec<u8>> = connection
        .prepare_cached(
            "SELECT wasm FROM modules WHERE digest = ?1
               AND EXISTS (SELECT 1 FROM plugins AS p JOIN apps AS a ON a.id = p.app_id
                           WHERE p.digest = ?1 AND a.deleted_at IS NULL)",
        )?
        .query_row([digest.0], |row| row.get(0))
        .optional()?;
    Ok(wasm.map(Bytes::from))
}

const TOKEN_COLUMNS: &str =
    "id, secret_hash, name, scopes, app_id, created_at, expires_at, revoked_at FROM tokens";

fn token_row(row: &Row<'_>) -> rusqlite::Result<Token> {
    let scopes: String = row.get(3)?;
    let scopes = scopes.split_ascii_whitespace().map(str::parse);
    let app: Option<uuid::Bytes> = row.get(4)?;
    let expires_at: Option<i64> = row.get(6)?;
    let revoked_at: Option<i64> = row.get(7)?;
    Ok(Token {
        id: TokenId(uuid_of(row, 0)?),
        secret_hash: SecretHash(row.get(1)?),
        name: row.get(2)?,
        scopes: scopes
            .collect::<Result<_, kvasm_core::UnknownScope>>()
            .map_err(|e| damaged(3, e.to_string()))?,
        app: app.map(|id| AppId::from(Uuid::from_bytes(id))),
        created_at: Timestamp(row.get(5)?),
        expires_at: expires_at.map(Timestamp),
        revoked_at: revoked_at.map(Timestamp),
    })
}

pub(crate) fn token(connection: &Connection, id: TokenId) -> rusqlite::Result<Option<Token>> {
    connection
        .prepare_cached(&format!("SELECT {TOKEN_COLUMNS} WHERE id = ?1"))?
        .query_row([id.0.as_bytes()], token_row)
        .optional()
}

pub(crate) fn tokens(
    connection: &Connection,
    app: Option<AppId>,
    after: Option<TokenId>,
    limit: u32,
) -> rusqlite::Result<Vec<Token>> {
    // Every identity is above the empty blob.
    let after = after.map_or_else(Vec::new, |id| id.0.as_bytes().to_vec());
    let app = app.map(|app| app.uuid().into_bytes());
    let of_app = if app.is_some() {
        "app_id = ?1"
    } else {
        "?1 IS NULL"
    };
    connection
        .prepare_cached(&format!(
            "SELECT {TOKEN_COLUMNS} WHERE {of_app} AND id > ?2 ORDER BY id LIMIT ?3"
        ))?
        .query_map((app, after, limit), token_row)?
        .collect()
}

fn audit_row(row: &Row<'_>) -> rusqlite::Result<Audit> {
    let token: Option<uuid::Bytes> = row.get(2)?;
    let app_id: Option<uuid::Bytes> = row.get(5)?;
    let app_name: Option<String> = row.get(6)?;
    let action: String = row.get(4)?;
    let detail: String = row.get(7)?;
    let app = match (app_id, app_name) {
        (Some(id), Some(name)) => Some((
            AppId::from(Uuid::from_bytes(id)),
            AppName::parse(&name).map_err(|e| damaged(6, e.to_string()))?,
        )),
        _ => None,
    };
    Ok(Audit {
        id: uuid_of(row, 0)?,
        at: Timestamp(row.get(1)?),
        token: token.map(|id| TokenId(Uuid::from_bytes(id))),
        actor: row.get(3)?,
        action: action.into(),
        app,
        detail: serde_json::from_str(&detail).map_err(|e| damaged(7, e.to_string()))?,
        request_id: uuid_of(row, 8)?,
    })
}

pub(crate) fn audit(
    connection: &Connection,
    app: Option<AppId>,
    before: Option<Uuid>,
    limit: u32,
) -> rusqlite::Result<Vec<Audit>> {
    let before = before.map_or([u8::MAX; 16], Uuid::into_bytes);
    let app = app.map(|app| app.uuid().into_bytes());
    let of_app = if app.is_some() {
        "app_id = ?1"
    } else {
        "?1 IS NULL"
    };
    connection
        .prepare_cached(&format!(
            "SELECT id, at, token_id, actor, action, app_id, app_name, detail, request_id
             FROM audit WHERE {of_app} AND id < ?2 ORDER BY id DESC LIMIT ?3"
        ))?
        .query_map((app, before, limit), audit_row)?
        .collect()
}
