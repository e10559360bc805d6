//! The registry. `change`, `plugins`, `triggers` and `letters` have the operations; reads are one
//! statement each.

use super::classify::store_error;
use super::sql::{registry_sql as sql, usage_sql};
use super::{
    PostgresStore, change, dead_letters, outstanding, plugins, timers, tombstone, triggers,
};
use async_trait::async_trait;
use bytes::Bytes;
use kvasm_core::store::{Registry, StoreError};
use kvasm_core::{
    App, AppId, AppLimits, AppName, Audit, DeadLetterFilter, DeliveryFilter, Digest, Exports,
    Generation, LimitsPatch, NewPlugin, NewTrigger, PluginRecord, PluginVersion, SecretHash,
    TimerName, Timestamp, Token, TokenId, Trigger, TriggerDeletion, TriggerName, Usage,
};
use sqlx::error::BoxDynError;
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use uuid::Uuid;

#[async_trait]
impl Registry for PostgresStore {
    async fn create_app(&self, app: App, audit: Audit) -> Result<(), StoreError> {
        self.audited(audit, move |lease, _| {
            let app = app.clone();
            Box::pin(async move { change::create_app(lease, &app).await })
        })
        .await
    }

    async fn set_public(&self, app: AppId, public: bool, audit: Audit) -> Result<App, StoreError> {
        self.audited(audit, move |lease, _| {
            Box::pin(change::set_public(lease, app, public))
        })
        .await
    }

    async fn set_limits(
        &self,
        app: AppId,
        patch: LimitsPatch,
        expected: Option<AppLimits>,
        audit: Audit,
    ) -> Result<App, StoreError> {
        self.audited(audit, move |lease, _| {
            Box::pin(change::set_limits(lease, app, patch, expected))
        })
        .await
    }

    async fn delete_app(&self, app: AppId, audit: Audit) -> Result<bool, StoreError> {
        tombstone::delete_app(self, app, audit).await
    }

    async fn add_plugin(
        &self,
        plugin: NewPlugin,
        audit: Audit,
    ) -> Result<PluginVersion, StoreError> {
        self.audited(audit, move |lease, audit| {
            let plugin = plugin.clone();
            Box::pin(async move { plugins::add(lease, &plugin, audit).await })
        })
        .await
    }

    async fn activate_plugin(
        &self,
        app: AppId,
        version: PluginVersion,
        audit: Audit,
    ) -> Result<(), StoreError> {
        self.audited(audit, move |lease, audit| {
            Box::pin(plugins::activate(lease, app, version, audit.at))
        })
        .await
    }

    async fn roll_back_plugin(
        &self,
        app: AppId,
        audit: Audit,
    ) -> Result<PluginVersion, StoreError> {
        self.audited(audit, move |lease, audit| {
            Box::pin(plugins::roll_back(lease, app, audit.at))
        })
        .await
    }

    async fn delete_plugin(
        &self,
        app: AppId,
        version: PluginVersion,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(audit, move |lease, _| {
            Box::pin(plugins::delete(lease, app, version))
        })
        .await
    }

    async fn create_token(&self, token: Token, audit: Audit) -> Result<bool, StoreError> {
        self.audited(audit, move |lease, audit| {
            let token = token.clone();
            Box::pin(async move { change::create_token(lease, &token, audit.at).await })
        })
        .await
    }

    async fn revoke_token(
        &self,
        app: Option<AppId>,
        token: TokenId,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(audit, move |lease, audit| {
            Box::pin(change::revoke_token(lease, app, token, audit.at))
        })
        .await
    }

    async fn set_trigger(
        &self,
        app: AppId,
        trigger: NewTrigger,
        audit: Audit,
    ) -> Result<Trigger, StoreError> {
        self.audited(audit, move |lease, audit| {
            let trigger = trigger.clone();
            Box::pin(async move { triggers::set(lease, app, trigger, audit.at).await })
        })
        .await
    }

    async fn delete_trigger(
        &self,
        app: AppId,
        trigger: TriggerName,
        must_be_idle: bool,
        audit: Audit,
    ) -> Result<TriggerDeletion, StoreError> {
        self.audited(audit, move |lease, _| {
            let trigger = trigger.clone();
            Box::pin(async move { triggers::delete(lease, app, &trigger, must_be_idle).await })
        })
        .await
    }

    async fn discard_deliveries(
        &self,
        app: AppId,
        which: DeliveryFilter,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(audit, move |lease, audit| {
            let which = which.clone();
            Box::pin(async move { outstanding::discard(lease, app, &which, limit, audit.at).await })
        })
        .await
    }

    async fn pause_trigger(
        &self,
        app: AppId,
        trigger: TriggerName,
        paused: bool,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(audit, move |lease, _| {
            let trigger = trigger.clone();
            Box::pin(async move { triggers::pause(lease, app, &trigger, paused).await })
        })
        .await
    }

    async fn run_timer(
        &self,
        app: AppId,
        name: TimerName,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(audit, move |lease, audit| {
            let name = name.clone();
            Box::pin(async move { timers::run(lease, app, &name, audit.at).await })
        })
        .await
    }

    async fn replay(
        &self,
        app: AppId,
        letters: DeadLetterFilter,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(audit, move |lease, audit| {
            let letters = letters.clone();
            Box::pin(
                async move { dead_letters::replay(lease, app, &letters, limit, audit.at).await },
            )
        })
        .await
    }

    async fn discard(
        &self,
        app: AppId,
        letters: DeadLetterFilter,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(audit, move |lease, _| {
            let letters = letters.clone();
            Box::pin(async move { dead_letters::discard(lease, app, &letters, limit).await })
        })
        .await
    }

    async fn generation(&self) -> Result<Generation, StoreError> {
        let rows = self.pool.read(|| sqlx::query(sql::GENERATION)).await?;
        let row = first(&rows, |row| row.try_get(0))?;
        row.map(Generation)
            .ok_or_else(|| store_error(Error::RowNotFound))
    }

    async fn usage(&self, app: AppId) -> Result<Usage, StoreError> {
        let statement = || sqlx::query(usage_sql::USED).bind(app.uuid());
        let rows = self.pool.read(statement).await?;
        let usage = rows.first().map(usage_row).transpose();
        Ok(usage.map_err(store_error)?.unwrap_or_default())
    }

    async fn plugins(
        &self,
        app: AppId,
        before: Option<PluginVersion>,
        limit: u32,
    ) -> Result<Vec<PluginRecord>, StoreError> {
        let before = before.map_or(i64::MAX, |version| i64::from(version.0));
        let statement = || {
            let statement = sqlx::query(sql::PLUGINS).bind(app.uuid());
            statement.bind(before).bind(i64::from(limit))
        };
        all(&self.pool.read(statement).await?, plugin_row)
    }

    async fn plugin(
        &self,
        app: AppId,
        version: PluginVersion,
    ) -> Result<Option<PluginRecord>, StoreError> {
        let statement = || {
            let statement = sqlx::query(sql::PLUGIN).bind(app.uuid());
            statement.bind(i64::from(version.0))
        };
        first(&self.pool.read(statement).await?, plugin_row)
    }

    async fn module(&self, digest: Digest) -> Result<Option<Bytes>, StoreError> {
        let statement = || sqlx::query(sql::MODULE).bind(digest.0.to_vec());
        let wasm = |row: &_| Row::try_get::<Vec<u8>, _>(row, 0);
        let wasm = first(&self.pool.read(statement).await?, wasm)?;
        Ok(wasm.map(Bytes::from))
    }

    async fn token(&self, id: TokenId) -> Result<Option<Token>, StoreError> {
        let statement = || sqlx::query(sql::TOKEN).bind(id.0);
        first(&self.pool.read(statement).await?, token_row)
    }

    async fn tokens(
        &self,
        app: Option<AppId>,
        after: Option<TokenId>,
        limit: u32,
    ) -> Result<Vec<Token>, StoreError> {
        // The lowest identity is one that a token can have.
        let from = match after {
            None => Some(0),
            Some(after) => after.0.as_u128().checked_add(1),
        };
        let Some(from) = from.map(Uuid::from_u128) else {
            return Ok(Vec::new());
        };
        let statement = || match app {
            None => page(sql::TOKENS, from, limit),
            Some(app) => page(sql::TOKENS_OF_APP, from, limit).bind(app.uuid()),
        };
        all(&self.pool.read(statement).await?, token_row)
    }

    async fn audit(
        &self,
        app: Option<AppId>,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Audit>, StoreError> {
        let before = before.unwrap_or(Uuid::max());
        let statement = || match app {
            None => page(sql::AUDIT, before, limit),
            Some(app) => page(sql::AUDIT_OF_APP, before, limit).bind(app.uuid()),
        };
        all(&self.pool.read(statement).await?, audit_row)
    }
}

fn page(text: &'static str, bound: Uuid, limit: u32) -> super::pool::Statement<'static> {
    sqlx::query(text).bind(bound).bind(i64::from(limit))
}

fn first<T>(
    rows: &[PgRow],
    decode: impl Fn(&PgRow) -> Result<T, Error>,
) -> Result<Option<T>, StoreError> {
    rows.first().map(decode).transpose().map_err(store_error)
}

fn all<T>(
    rows: &[PgRow],
    decode: impl Fn(&PgRow) -> Result<T, Error>,
) -> Result<Vec<T>, StoreError> {
    let decoded = rows.iter().map(decode).collect::<Result<_, _>>();
    decoded.map_err(store_error)
}

/// An error for a column with a value that this store does not write.
pub(super) fn damaged(why: impl Into<BoxDynError>) -> Error {
    Error::Decode(why.into())
}

fn usage_row(row: &PgRow) -> Result<Usage, Error> {
    Ok(Usage {
        entries: row.try_get::<i64, _>(0)?.unsigned_abs(),
        bytes: row.try_get::<i64, _>(1)?.unsigned_abs(),
        deliveries: row.try_get::<i64, _>(2)?.unsigned_abs(),
    })
}

/// Converts a number that the model holds in 32 bits.
pub(super) fn narrow(number: i64) -> Result<u32, Error> {
    u32::try_from(number).map_err(damaged)
}

pub(super) fn version(row: &PgRow, column: usize) -> Result<PluginVersion, Error> {
    narrow(row.try_get(column)?).map(PluginVersion)
}

pub(super) fn optional_version(row: &PgRow, column: usize) -> Result<Option<PluginVersion>, Error> {
    let version: Option<i64> = row.try_get(column)?;
    Ok(version.map(narrow).transpose()?.map(PluginVersion))
}

/// Decodes what a version exports.
pub(super) fn exports(row: &PgRow, column: usize) -> Result<Exports, Error> {
    let exports: &str = row.try_get(column)?;
    serde_json::from_str(exports).map_err(damaged)
}

pub(super) fn plugin_row(row: &PgRow) -> Result<PluginRecord, Error> {
    Ok(PluginRecord {
        version: version(row, 0)?,
        digest: Digest(row.try_get(1)?),
        size: row.try_get::<i64, _>(2)?.unsigned_abs(),
        exports: exports(row, 3)?,
        replaced: optional_version(row, 4)?,
        created_at: Timestamp(row.try_get(5)?),
        created_by: row.try_get(6)?,
    })
}

fn token_row(row: &PgRow) -> Result<Token, Error> {
    let scopes: &str = row.try_get(3)?;
    let scopes = scopes.split_ascii_whitespace().map(str::parse);
    let scopes = scopes.collect::<Result<_, kvasm_core::UnknownScope>>();
    let app: Option<Uuid> = row.try_get(4)?;
    let expires_at: Option<i64> = row.try_get(6)?;
    let revoked_at: Option<i64> = row.try_get(7)?;
    Ok(Token {
        id: TokenId(row.try_get(0)?),
        secret_hash: SecretHash(row.try_get(1)?),
        name: row.try_get(2)?,
        scopes: scopes.map_err(damaged)?,
        app: app.map(AppId::from),
        created_at: Timestamp(row.try_get(5)?),
        expires_at: expires_at.map(Timestamp),
        revoked_at: revoked_at.map(Timestamp),
    })
}

fn audit_row(row: &PgRow) -> Result<Audit, Error> {
    let token: Option<Uuid> = row.try_get(2)?;
    let action: String = row.try_get(4)?;
    let app_id: Option<Uuid> = row.try_get(5)?;
    let app_name: Option<&str> = row.try_get(6)?;
    let detail: &str = row.try_get(7)?;
    let app = match app_id.zip(app_name) {
        Some((id, name)) => Some((AppId::from(id), AppName::parse(name).map_err(damaged)?)),
        None => None,
    };
    Ok(Audit {
        id: row.try_get(0)?,
        at: Timestamp(row.try_get(1)?),
        token: token.map(TokenId),
        actor: row.try_get(3)?,
        action: action.into(),
        app,
        detail: serde_json::from_str(detail).map_err(damaged)?,
        request_id: row.try_get(8)?,
    })
}
