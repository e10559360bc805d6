//! The settings of apps.

use super::classify::store_error;
use super::lease::Lease;
use super::registry::damaged;
use super::sql::settings_sql as sql;
use super::transaction::Abort;
use super::{PostgresStore, change, grants};
use async_trait::async_trait;
use kvasm_core::store::{SettingsStore, StoreError};
use kvasm_core::{
    AppId, Audit, ConfigValue, Generation, Grant, KeyId, Resealed, SealedSecret, Setting,
    SettingKind, SettingName, SettingValue, Settings, Timestamp, room_for_settings,
};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use uuid::Uuid;

fn is_secret(kind: SettingKind) -> bool {
    kind == SettingKind::Secret
}

/// Records the operation as the last change of the app's settings or grants, and locks the app, so
/// that their changes run one at a time.
pub(super) async fn touch(lease: &mut Lease, app: AppId, audit: &Audit) -> Result<(), Abort> {
    let statement = sqlx::query(sql::TOUCH_SETTINGS).bind(app.uuid());
    match change::done(lease, statement.bind(audit.id)).await? {
        true => Ok(()),
        false => Err(StoreError::AppNotFound.into()),
    }
}

/// Locks the app.
pub(super) async fn hold(lease: &mut Lease, app: AppId) -> Result<(), Abort> {
    let statement = sqlx::query(sql::HOLD_APP).bind(app.uuid());
    match change::done(lease, statement).await? {
        true => Ok(()),
        false => Err(StoreError::AppNotFound.into()),
    }
}

async fn set(
    lease: &mut Lease,
    app: AppId,
    name: &SettingName,
    value: &SettingValue,
    audit: &Audit,
) -> Result<(), Abort> {
    touch(lease, app, audit).await?;
    let (text, sealed) = match value {
        SettingValue::Config(value) => (Some(value.as_str()), None),
        SettingValue::Secret(sealed) => (None, Some(sealed)),
    };
    let statement = sqlx::query(sql::SET_SETTING)
        .bind(app.uuid())
        .bind(is_secret(value.kind()))
        .bind(name.as_str())
        .bind(text)
        .bind(sealed.map(|sealed| &*sealed.bytes))
        .bind(sealed.map(|sealed| sealed.key.0.to_vec()))
        .bind(audit.at.0);
    lease.run(statement).await?;
    let statement = sqlx::query(sql::SETTINGS_USED).bind(app.uuid());
    let rows = lease.run(statement).await?;
    let row = rows.first().ok_or(StoreError::AppNotFound)?;
    let used = |at: usize| row.try_get::<i64, _>(at).map(i64::unsigned_abs);
    room_for_settings(used(0)?, used(1)?)
        .map_err(|(resource, limit)| StoreError::Quota { resource, limit })?;
    if let Some(sealed) = sealed {
        check_key(lease, sealed.key).await?;
    }
    Ok(())
}

/// Checks that a key is the current one, and locks it until the transaction ends. The first key
/// becomes it.
async fn check_key(lease: &mut Lease, given: KeyId) -> Result<(), Abort> {
    let first = sqlx::query(sql::FIRST_SECRETS_KEY).bind(given.0.to_vec());
    lease.run(first).await?;
    let rows = lease.run(sqlx::query(sql::HOLD_SECRETS_KEY)).await?;
    match rows.first().map(key_row).transpose()?.flatten() {
        Some(current) if current != given => {
            Err(StoreError::OtherSecretsKey { given, current }.into())
        }
        Some(_) | None => Ok(()),
    }
}

fn key_row(row: &PgRow) -> Result<Option<KeyId>, Error> {
    let key: Option<[u8; KeyId::BYTES]> = row.try_get(0)?;
    Ok(key.map(KeyId))
}

async fn unset(
    lease: &mut Lease,
    app: AppId,
    kind: SettingKind,
    name: &SettingName,
    audit: &Audit,
) -> Result<bool, Abort> {
    hold(lease, app).await?;
    let statement = sqlx::query(sql::UNSET_SETTING)
        .bind(app.uuid())
        .bind(is_secret(kind))
        .bind(name.as_str());
    let removed = change::done(lease, statement).await?;
    if removed {
        touch(lease, app, audit).await?;
    }
    Ok(removed)
}

async fn reseal(
    lease: &mut Lease,
    app: AppId,
    secrets: &[Resealed],
    audit: &Audit,
) -> Result<u64, Abort> {
    hold(lease, app).await?;
    let mut replaced = 0;
    for Resealed {
        name,
        before,
        after,
    } in secrets
    {
        let statement = sqlx::query(sql::RESEAL)
            .bind(app.uuid())
            .bind(name.as_str())
            .bind(&**before)
            .bind(&*after.bytes)
            .bind(after.key.0.to_vec());
        replaced += u64::from(change::done(lease, statement).await?);
    }
    if replaced > 0 {
        touch(lease, app, audit).await?;
    }
    for secret in secrets {
        check_key(lease, secret.after.key).await?;
    }
    Ok(replaced)
}

/// Decodes a row of `SETTINGS` that is a setting.
fn row(row: &PgRow, is_secret: bool) -> Result<Setting, Error> {
    let name: &str = row.try_get(2)?;
    let value = match is_secret {
        true => {
            let sealed: Vec<u8> = row.try_get(4)?;
            SettingValue::Secret(SealedSecret {
                key: KeyId(row.try_get(5)?),
                bytes: sealed.into(),
            })
        }
        false => {
            let text: &str = row.try_get(3)?;
            SettingValue::Config(ConfigValue::parse(text.as_bytes()).map_err(damaged)?)
        }
    };
    Ok(Setting {
        name: SettingName::parse(name).map_err(damaged)?,
        value,
        updated_at: Timestamp(row.try_get(6)?),
    })
}

/// Decodes the rows of `SETTINGS`.
pub(super) fn decode(rows: &[PgRow]) -> Result<Settings, Error> {
    let mut settings = Settings::default();
    for found in rows {
        let version: Option<Uuid> = found.try_get(0)?;
        settings.version = version.map(Generation);
        match found.try_get::<Option<&str>, _>(1)? {
            None => {}
            Some("grant") => settings.grants.push(grants::row(found)?),
            Some(kind) => settings.rows.push(row(found, kind == "secret")?),
        }
    }
    Ok(settings)
}

#[async_trait]
impl SettingsStore for PostgresStore {
    async fn settings(&self, app: AppId) -> Result<Settings, StoreError> {
        let statement = || sqlx::query(sql::SETTINGS).bind(app.uuid());
        decode(&self.pool.read(statement).await?).map_err(store_error)
    }

    async fn set_setting(
        &self,
        app: AppId,
        name: SettingName,
        value: SettingValue,
        audit: Audit,
    ) -> Result<(), StoreError> {
        self.audited(audit, move |lease, audit| {
            let (name, value) = (name.clone(), value.clone());
            Box::pin(async move { set(lease, app, &name, &value, audit).await })
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
        self.audited(audit, move |lease, audit| {
            let name = name.clone();
            Box::pin(async move { unset(lease, app, kind, &name, audit).await })
        })
        .await
    }

    async fn add_grants(
        &self,
        app: AppId,
        grants: Vec<Grant>,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(audit, move |lease, audit| {
            let grants = grants.clone();
            Box::pin(async move { grants::add(lease, app, &grants, audit).await })
        })
        .await
    }

    async fn remove_grants(
        &self,
        app: AppId,
        grants: Vec<Grant>,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(audit, move |lease, audit| {
            let grants = grants.clone();
            Box::pin(async move { grants::remove(lease, app, &grants, audit).await })
        })
        .await
    }

    async fn reseal_secrets(
        &self,
        app: AppId,
        secrets: Vec<Resealed>,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(audit, move |lease, audit| {
            let secrets = secrets.clone();
            Box::pin(async move { reseal(lease, app, &secrets, audit).await })
        })
        .await
    }

    async fn set_secrets_key(&self, key: KeyId, audit: Audit) -> Result<bool, StoreError> {
        self.audited(audit, move |lease, _| {
            Box::pin(async move {
                let statement = sqlx::query(sql::SET_SECRETS_KEY).bind(key.0.to_vec());
                change::done(lease, statement).await
            })
        })
        .await
    }

    async fn secrets_key(&self) -> Result<Option<KeyId>, StoreError> {
        let rows = self.pool.read(|| sqlx::query(sql::SECRETS_KEY)).await?;
        let key = rows.first().map(key_row).transpose();
        Ok(key.map_err(store_error)?.flatten())
    }
}
