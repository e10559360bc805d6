//! Changes that administrators make, each with its audit row.

use super::lease::Lease;
use super::pool::Statement;
use super::transaction::{Stop, Work};
use super::{classify, grave, letters, plugins, sql, triggers, usage};
use crate::model::{App, AppId, AppSettings, Audit, Change, Changed, Timestamp, Token, TokenId};
use crate::store::StoreError;
use async_trait::async_trait;
use sqlx::Error;

/// A change, and its audit row if there is one.
pub(super) struct Changing<'c> {
    pub(super) change: &'c Change,
    pub(super) audit: Option<&'c Audit>,
}

#[async_trait]
impl Work for Changing<'_> {
    type Done = Changed;

    async fn run(&self, lease: &mut Lease) -> Result<Changed, Stop> {
        let at = self.audit.map_or_else(Timestamp::now, |audit| audit.at);
        let by = self.audit.map_or("", |audit| audit.actor.as_str());
        let changed = match self.change {
            Change::CreateApp(app) => create_app(lease, app).await,
            Change::UpdateApp { app, settings } => update_app(lease, *app, settings).await,
            Change::DeleteApp(app) => Ok(match grave::bury(lease, *app, at).await? {
                true => Changed::Done,
                false => Changed::Nothing,
            }),
            Change::AddPlugin(plugin) => plugins::add(lease, plugin, at, by).await,
            Change::ActivatePlugin { app, version } => {
                plugins::activate(lease, *app, *version, at).await
            }
            Change::RollBackPlugin(app) => plugins::roll_back(lease, *app, at).await,
            Change::DeletePlugin { app, version } => plugins::delete(lease, *app, *version).await,
            Change::CreateToken(token) => create_token(lease, token).await,
            Change::RevokeToken { app, token } => revoke_token(lease, *app, *token, at).await,
            Change::SetTrigger { app, trigger } => triggers::set(lease, *app, trigger).await,
            Change::DeleteTrigger { app, trigger } => triggers::delete(lease, *app, trigger).await,
            Change::PauseTrigger {
                app,
                trigger,
                paused,
            } => triggers::pause(lease, *app, trigger, *paused).await,
            Change::Replay {
                app,
                letters,
                limit,
            } => letters::replay(lease, *app, letters, *limit, at).await,
            Change::Discard {
                app,
                letters,
                limit,
            } => letters::discard(lease, *app, letters, *limit).await,
        }?;
        if let (Some(audit), false) = (self.audit, changed == Changed::Nothing) {
            write_audit(lease, audit).await?;
        }
        Ok(changed)
    }
}

/// Runs a statement that returns a row if it does something.
async fn done(lease: &mut Lease, statement: Statement<'_>) -> Result<Changed, Stop> {
    let rows = lease.run(statement).await?;
    Ok(match rows.is_empty() {
        true => Changed::Nothing,
        false => Changed::Done,
    })
}

async fn create_app(lease: &mut Lease, app: &App) -> Result<Changed, Stop> {
    let statement = sqlx::query(sql::registry::CREATE_APP).bind(app.id.uuid());
    let statement = bind_settings(statement, &app.settings)
        .bind(app.name.as_str())
        .bind(app.cursor_key.as_bytes())
        .bind(app.created_at.0);
    match lease.run(statement).await {
        Err(error) if classify::unique_violation(&error) => Err(StoreError::AppExists)?,
        other => other?,
    };
    usage::create(lease, app.id, app.settings.quota).await?;
    Ok(Changed::Done)
}

fn bind_settings<'q>(statement: Statement<'q>, settings: &AppSettings) -> Statement<'q> {
    let AppSettings {
        public,
        quota,
        calls_per_second,
        calls_at_once,
    } = *settings;
    statement
        .bind(public)
        .bind(quota.entries.map(signed))
        .bind(quota.bytes.map(signed))
        .bind(calls_per_second.map(i64::from))
        .bind(calls_at_once.map(i64::from))
}

/// The columns are signed; a number above what they hold is as good as that.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

async fn update_app(
    lease: &mut Lease,
    app: AppId,
    settings: &AppSettings,
) -> Result<Changed, Stop> {
    let statement = sqlx::query(sql::registry::UPDATE_APP).bind(app.uuid());
    let changed = done(lease, bind_settings(statement, settings)).await?;
    if changed == Changed::Nothing {
        Err(StoreError::AppNotFound)?;
    }
    usage::deal_anew(lease, app).await?;
    Ok(changed)
}

async fn create_token(lease: &mut Lease, token: &Token) -> Result<Changed, Stop> {
    if let Some(app) = token.app {
        let held = lease.run(sqlx::query(sql::LOCK_APP).bind(app.uuid())).await?;
        if held.is_empty() {
            Err(StoreError::AppNotFound)?;
        }
    }
    let scopes: Vec<_> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    let statement = sqlx::query(sql::registry::CREATE_TOKEN)
        .bind(token.id.0)
        .bind(token.secret_hash.0.as_slice())
        .bind(&token.name)
        .bind(scopes.join(" "))
        .bind(token.app.map(AppId::uuid))
        .bind(token.created_at.0)
        .bind(token.expires_at.map(|at| at.0))
        .bind(token.revoked_at.map(|at| at.0));
    done(lease, statement).await
}

async fn revoke_token(
    lease: &mut Lease,
    app: Option<AppId>,
    token: TokenId,
    at: Timestamp,
) -> Result<Changed, Stop> {
    let statement = sqlx::query(sql::registry::REVOKE_TOKEN)
        .bind(token.0)
        .bind(at.0)
        .bind(app.map(AppId::uuid));
    done(lease, statement).await
}

pub(super) async fn write_audit(lease: &mut Lease, audit: &Audit) -> Result<(), Error> {
    let app = audit.app.as_ref();
    let statement = sqlx::query(sql::registry::WRITE_AUDIT)
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
