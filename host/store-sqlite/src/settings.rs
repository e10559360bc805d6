//! The settings of apps.

use super::entries::{app_by_id, damaged, uuid_of};
use super::writer::WriteCost;
use super::{SqliteStore, error, grants};
use async_trait::async_trait;
use kvasm_core::store::{SettingsStore, StoreError};
use kvasm_core::{
    AppId, Audit, ConfigValue, Generation, Grant, KeyId, Resealed, SealedSecret, Setting,
    SettingKind, SettingName, SettingValue, Settings, Timestamp, room_for_settings,
};
use rusqlite::{Connection, OptionalExtension, Row};

fn is_secret(kind: SettingKind) -> bool {
    kind == SettingKind::Secret
}

/// Records the operation as the last change of the app's settings or grants.
pub(super) fn touch(connection: &Connection, app: AppId, audit: &Audit) -> Result<(), StoreError> {
    let touched = connection
        .prepare_cached("UPDATE apps SET settings = ?2 WHERE id = ?1 AND deleted_at IS NULL")
        .and_then(|mut statement| statement.execute((app.uuid().as_bytes(), audit.id.as_bytes())))
        .map_err(error::store)?;
    match touched {
        0 => Err(StoreError::AppNotFound),
        _ => Ok(()),
    }
}

/// Checks that the app exists.
pub(super) fn require(connection: &Connection, app: AppId) -> Result<(), StoreError> {
    let row = app_by_id(connection, app).map_err(error::store)?;
    row.map(drop).ok_or(StoreError::AppNotFound)
}

fn set(
    connection: &Connection,
    app: AppId,
    name: &SettingName,
    value: &SettingValue,
    audit: &Audit,
) -> Result<(), StoreError> {
    touch(connection, app, audit)?;
    let (text, sealed) = match value {
        SettingValue::Config(value) => (Some(value.as_str()), None),
        SettingValue::Secret(sealed) => (None, Some(sealed)),
    };
    if let Some(sealed) = sealed {
        check_key(connection, sealed.key)?;
    }
    let id = app.uuid().into_bytes();
    connection
        .prepare_cached(
            "INSERT INTO app_settings (app_id, secret, name, value, sealed, key_id, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (app_id, secret, name) DO UPDATE SET value = excluded.value,
                 sealed = excluded.sealed, key_id = excluded.key_id,
                 updated_at = excluded.updated_at",
        )
        .and_then(|mut statement| {
            statement.execute((
                id,
                is_secret(value.kind()),
                name.as_str(),
                text,
                sealed.map(|sealed| &*sealed.bytes),
                sealed.map(|sealed| sealed.key.0),
                audit.at.0,
            ))
        })
        .map_err(error::store)?;
    let (count, bytes): (i64, i64) = connection
        .prepare_cached(
            "SELECT count(*), coalesce(sum(octet_length(name) + coalesce(octet_length(value), 0)
                 + coalesce(octet_length(sealed), 0)), 0)
             FROM app_settings WHERE app_id = ?1",
        )
        .and_then(|mut statement| statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))))
        .map_err(error::store)?;
    room_for_settings(count.unsigned_abs(), bytes.unsigned_abs())
        .map_err(|(resource, limit)| StoreError::Quota { resource, limit })
}

/// Checks that a key is the current one. The first key becomes it.
fn check_key(connection: &Connection, given: KeyId) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE registry SET secrets_key = ?1 WHERE id = 1 AND secrets_key IS NULL")
        .and_then(|mut statement| statement.execute([given.0]))
        .map_err(error::store)?;
    match key(connection).map_err(error::store)? {
        Some(current) if current != given => Err(StoreError::OtherSecretsKey { given, current }),
        Some(_) | None => Ok(()),
    }
}

fn key(connection: &Connection) -> rusqlite::Result<Option<KeyId>> {
    let key: Option<Option<[u8; KeyId::BYTES]>> = connection
        .prepare_cached("SELECT secrets_key FROM registry WHERE id = 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(key.flatten().map(KeyId))
}

fn unset(
    connection: &Connection,
    app: AppId,
    kind: SettingKind,
    name: &SettingName,
    audit: &Audit,
) -> Result<bool, StoreError> {
    let removed = connection
        .prepare_cached("DELETE FROM app_settings WHERE app_id = ?1 AND secret = ?2 AND name = ?3")
        .and_then(|mut statement| {
            statement.execute((app.uuid().as_bytes(), is_secret(kind), name.as_str()))
        })
        .map_err(error::store)?;
    if removed == 0 {
        require(connection, app)?;
        return Ok(false);
    }
    touch(connection, app, audit)?;
    Ok(true)
}

fn reseal(
    connection: &Connection,
    app: AppId,
    secrets: &[Resealed],
    audit: &Audit,
) -> Result<u64, StoreError> {
    require(connection, app)?;
    let mut replaced = 0;
    for Resealed {
        name,
        before,
        after,
    } in secrets
    {
        check_key(connection, after.key)?;
        replaced += connection
            .prepare_cached(
                "UPDATE app_settings SET sealed = ?4, key_id = ?5
                 WHERE app_id = ?1 AND secret = 1 AND name = ?2 AND sealed = ?3",
            )
            .and_then(|mut statement| {
                statement.execute((
                    app.uuid().as_bytes(),
                    name.as_str(),
                    &**before,
                    &*after.bytes,
                    after.key.0,
                ))
            })
            .map_err(error::store)? as u64;
    }
    if replaced > 0 {
        touch(connection, app, audit)?;
    }
    Ok(replaced)
}

fn row(row: &Row<'_>) -> rusqlite::Result<Setting> {
    let name: String = row.get(1)?;
    let value = match row.get(0)? {
        true => {
            let sealed: Vec<u8> = row.get(3)?;
            SettingValue::Secret(SealedSecret {
                key: KeyId(row.get(4)?),
                bytes: sealed.into(),
            })
        }
        false => {
            let text: String = row.get(2)?;
            let value = ConfigValue::parse(text.as_bytes());
            SettingValue::Config(value.map_err(|e| damaged(2, e.to_string()))?)
        }
    };
    Ok(Setting {
        name: SettingName::parse(&name).map_err(|e| damaged(1, e.to_string()))?,
        value,
        updated_at: Timestamp(row.get(5)?),
    })
}

/// Returns the settings and grants of an app, from one snapshot.
fn settings(connection: &Connection, app: AppId) -> rusqlite::Result<Settings> {
    let transaction = connection.unchecked_transaction()?;
    read(&transaction, app)
}

/// Returns the settings and grants of an app, within a transaction.
pub(super) fn read(connection: &Connection, app: AppId) -> rusqlite::Result<Settings> {
    let id = app.uuid().into_bytes();
    let version = connection
        .prepare_cached(
            "SELECT settings FROM apps WHERE id = ?1 AND deleted_at IS NULL
             AND settings IS NOT NULL",
        )?
        .query_row([id], |row| uuid_of(row, 0))
        .optional()?;
    let Some(version) = version else {
        return Ok(Settings::default());
    };
    let rows = connection
        .prepare_cached(
            "SELECT secret, name, value, sealed, key_id, updated_at FROM app_settings
             WHERE app_id = ?1 ORDER BY secret, name",
        )?
        .query_map([id], row)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Settings {
        version: Some(Generation(version)),
        rows,
        grants: grants::all(connection, app)?,
    })
}

#[async_trait]
impl SettingsStore for SqliteStore {
    async fn settings(&self, app: AppId) -> Result<Settings, StoreError> {
        let read = move |conn: &_| settings(conn, app);
        self.read_short(Some(app), read, || read).await
    }

    async fn set_setting(
        &self,
        app: AppId,
        name: SettingName,
        value: SettingValue,
        audit: Audit,
    ) -> Result<(), StoreError> {
        let work = WriteCost::of(app).with_bytes(value.size() as usize);
        self.audited(work, audit, move |transaction, audit| {
            set(transaction.connection, app, &name, &value, audit)
        })
        .await
    }

    async fn unset_setting(
        &self,
        app: AppId,
        kind: SettingKind,
        name: SettingName,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        let work = WriteCost::of(app).freeing_space();
        self.audited(work, audit, move |transaction, audit| {
            unset(transaction.connection, app, kind, &name, audit)
        })
        .await
    }

    async fn add_grants(
        &self,
        app: AppId,
        grants: Vec<Grant>,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(WriteCost::of(app), audit, move |transaction, audit| {
            grants::add(transaction.connection, app, &grants, audit)
        })
        .await
    }

    async fn remove_grants(
        &self,
        app: AppId,
        grants: Vec<Grant>,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        let work = WriteCost::of(app).freeing_space();
        self.audited(work, audit, move |transaction, audit| {
            grants::remove(transaction.connection, app, &grants, audit)
        })
        .await
    }

    async fn reseal_secrets(
        &self,
        app: AppId,
        secrets: Vec<Resealed>,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(WriteCost::of(app), audit, move |transaction, audit| {
            reseal(transaction.connection, app, &secrets, audit)
        })
        .await
    }

    async fn set_secrets_key(&self, given: KeyId, audit: Audit) -> Result<bool, StoreError> {
        self.audited(WriteCost::NONE, audit, move |transaction, _| {
            let set = "UPDATE registry SET secrets_key = ?1
                       WHERE id = 1 AND secrets_key IS NOT ?1";
            let changed = transaction
                .connection
                .prepare_cached(set)
                .and_then(|mut statement| statement.execute([given.0]));
            Ok(changed.map_err(error::store)? > 0)
        })
        .await
    }

    async fn secrets_key(&self) -> Result<Option<KeyId>, StoreError> {
        self.read_short(None, key, || key).await
    }
}
