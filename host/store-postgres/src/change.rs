//! Operations of administrators, each with its audit row.

use super::entries::app_row;
use super::lease::Lease;
use super::pool::Statement;
use super::transaction::{Abort, TransactionWork, transact};
use super::{PostgresStore, classify, sql, usage};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use kvasm_core::store::backend::{Effect, signed};
use kvasm_core::{
    App, AppId, AppLimits, Audit, LimitsPatch, Resource, TOKENS_MAX, Timestamp, Token, TokenId,
};
use sqlx::{Error, Row as _};
use std::marker::PhantomData;
use std::pin::Pin;
use uuid::Uuid;

/// One attempt at an operation.
pub(super) type Attempt<'l, T> = Pin<Box<dyn Future<Output = Result<T, Abort>> + Send + 'l>>;

/// An operation of an administrator, and its audit row.
struct Audited<F, T> {
    operation: F,
    audit: Audit,
    done: PhantomData<fn() -> T>,
}

#[async_trait]
impl<F, T> TransactionWork for Audited<F, T>
where
    F: for<'l> Fn(&'l mut Lease, &'l Audit) -> Attempt<'l, T> + Sync,
    T: Effect + Send,
{
    type Done = T;

    async fn run(&self, lease: &mut Lease) -> Result<T, Abort> {
        let done = (self.operation)(lease, &self.audit).await?;
        if done.changed() {
            write_audit(lease, &self.audit).await?;
            set_generation(lease, &self.audit).await?;
        }
        Ok(done)
    }
}

impl PostgresStore {
    /// Runs an operation in a transaction. If it changes something, its audit row is written and
    /// becomes the generation. It may run several times, but takes effect once.
    pub(super) async fn audited<T, F>(&self, audit: Audit, operation: F) -> Result<T, StoreError>
    where
        F: for<'l> Fn(&'l mut Lease, &'l Audit) -> Attempt<'l, T> + Sync,
        T: Effect + Send,
    {
        let work = Audited {
            operation,
            audit,
            done: PhantomData,
        };
        Ok(transact(&self.pool, &work).await?)
    }
}

/// Runs a statement that returns a row if it changes something.
pub(super) async fn done(lease: &mut Lease, statement: Statement<'_>) -> Result<bool, Abort> {
    let rows = lease.run(statement).await?;
    Ok(!rows.is_empty())
}

pub(super) async fn create_app(lease: &mut Lease, app: &App) -> Result<(), Abort> {
    let statement = sqlx::query(sql::registry_sql::CREATE_APP).bind(app.id.uuid());
    let statement = bind_limits(statement, &app.limits)
        .bind(app.public)
        .bind(app.name.as_str())
        .bind(app.cursor_key.as_bytes())
        .bind(app.created_at.0);
    match lease.run(statement).await {
        Err(error) if classify::unique_violation(&error) => Err(StoreError::AppExists)?,
        other => other?,
    };
    Ok(usage::create(lease, app.id, app.limits.quota).await?)
}

fn bind_limits<'q>(statement: Statement<'q>, limits: &AppLimits) -> Statement<'q> {
    let AppLimits {
        quota,
        calls_per_second,
        calls_at_once,
    } = *limits;
    statement
        .bind(quota.entries.map(signed))
        .bind(quota.bytes.map(signed))
        .bind(calls_per_second.map(i64::from))
        .bind(calls_at_once.map(i64::from))
}

/// Runs a statement that returns the app, if it exists.
async fn returned(lease: &mut Lease, statement: Statement<'_>) -> Result<App, Abort> {
    let rows = lease.run(statement).await?;
    let row = rows.first().ok_or(StoreError::AppNotFound)?;
    Ok(app_row(row)?)
}

pub(super) async fn set_public(lease: &mut Lease, app: AppId, public: bool) -> Result<App, Abort> {
    let statement = sqlx::query(sql::registry_sql::SET_PUBLIC).bind(app.uuid());
    returned(lease, statement.bind(public)).await
}

pub(super) async fn set_limits(
    lease: &mut Lease,
    app: AppId,
    patch: LimitsPatch,
    expected: Option<AppLimits>,
) -> Result<App, Abort> {
    let statement = sqlx::query(sql::registry_sql::HOLD_APP).bind(app.uuid());
    let before = returned(lease, statement).await?.limits;
    if expected.is_some_and(|expected| expected != before) {
        Err(StoreError::LimitsChanged)?;
    }
    let statement = sqlx::query(sql::registry_sql::SET_LIMITS).bind(app.uuid());
    let statement = bind_limits(statement, &patch.apply(before));
    let row = returned(lease, statement).await?;
    usage::redistribute_quota(lease, app).await?;
    Ok(row)
}

pub(super) async fn create_token(
    lease: &mut Lease,
    token: &Token,
    at: Timestamp,
) -> Result<bool, Abort> {
    if let Some(app) = token.app {
        // Locked until the end, so tokens of an app are added and counted one at a time.
        let statement = sqlx::query(sql::registry_sql::HOLD_APP).bind(app.uuid());
        returned(lease, statement).await?;
    }
    let scopes: Vec<_> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    let statement = sqlx::query(sql::registry_sql::CREATE_TOKEN)
        .bind(token.id.0)
        .bind(token.secret_hash.0.as_slice())
        .bind(&token.name)
        .bind(scopes.join(" "))
        .bind(token.app.map(AppId::uuid))
        .bind(token.created_at.0)
        .bind(token.expires_at.map(|at| at.0))
        .bind(token.revoked_at.map(|at| at.0));
    let created = done(lease, statement).await?;
    if let Some(app) = token.app
        && created
    {
        make_room_for_token(lease, app, token.id, at).await?;
    }
    Ok(created)
}

/// Deletes revoked and expired tokens of an app that has too many with the new one, and refuses the
/// new one if there are still too many.
async fn make_room_for_token(
    lease: &mut Lease,
    app: AppId,
    added: TokenId,
    at: Timestamp,
) -> Result<(), Abort> {
    if !has_too_many_tokens(lease, app).await? {
        return Ok(());
    }
    let statement = sqlx::query(sql::registry_sql::DELETE_VOID_TOKENS).bind(app.uuid());
    lease.run(statement.bind(added.0).bind(at.0)).await?;
    if has_too_many_tokens(lease, app).await? {
        Err(StoreError::Quota {
            resource: Resource::Tokens,
            limit: TOKENS_MAX,
        })?;
    }
    Ok(())
}

async fn has_too_many_tokens(lease: &mut Lease, app: AppId) -> Result<bool, Abort> {
    let statement = sqlx::query(sql::registry_sql::HAS_MORE_TOKENS).bind(app.uuid());
    done(lease, statement.bind(signed(TOKENS_MAX))).await
}

pub(super) async fn revoke_token(
    lease: &mut Lease,
    app: Option<AppId>,
    token: TokenId,
    at: Timestamp,
) -> Result<bool, Abort> {
    if app.is_none() {
        // Locked until the end, so that of two admins who revoke each other's token the second
        // waits.
        let statement = sqlx::query(sql::registry_sql::HOLD_ADMINS).bind(at.0);
        if let [admin] = &lease.run(statement).await?[..]
            && admin.try_get::<Uuid, _>(0)? == token.0
        {
            Err(StoreError::LastAdmin)?;
        }
    }
    let statement = sqlx::query(sql::registry_sql::REVOKE_TOKEN)
        .bind(token.0)
        .bind(at.0)
        .bind(app.map(AppId::uuid));
    done(lease, statement).await
}

/// Makes an operation the generation of the registry. Last before the commit, because every other
/// operation waits for this row. Fails if the row is missing: otherwise the caches of others would
/// count as current indefinitely.
async fn set_generation(lease: &mut Lease, audit: &Audit) -> Result<(), Error> {
    let statement = sqlx::query(sql::registry_sql::RAISE).bind(audit.id);
    let raised = lease.run(statement).await?;
    raised.first().map(drop).ok_or(Error::RowNotFound)
}

pub(super) async fn write_audit(lease: &mut Lease, audit: &Audit) -> Result<(), Error> {
    let app = audit.app.as_ref();
    let statement = sqlx::query(sql::registry_sql::WRITE_AUDIT)
        .bind(audit.id)
        .bind(audit.at.0)
        .bind(audit.token.map(|token| token.0))
        .bind(&audit.actor)
        .bind(&*audit.action)
        .bind(app.map(|(id, _)| id.uuid()))
        .bind(app.map(|(_, name)| name.as_str()))
        .bind(audit.detail.to_string())
        .bind(audit.request_id);
    lease.run(statement).await.map(drop)
}
