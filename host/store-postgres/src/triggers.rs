//! Changes of an app's triggers. Each first locks the app, like changes of its plugins, so that
//! they run one at a time.

use super::lease::Lease;
use super::pool::Statement;
use super::rows::{self, origin_word, pause_word};
use super::sql::{registry_sql::ACTIVE, triggers_sql as sql};
use super::transaction::Abort;
use kvasm_core::store::StoreError;
use kvasm_core::store::backend::check_triggers;
use kvasm_core::{
    AppId, Changes, DeclaredTrigger, Exports, NewTrigger, Policy, Timestamp, Trigger,
    TriggerDeletion, TriggerHealth, TriggerName, Watch,
};
use sqlx::{Error, Row};
use std::collections::BTreeMap;

async fn hold_app(lease: &mut Lease, app: AppId) -> Result<(), Abort> {
    let rows = lease.run(sqlx::query(ACTIVE).bind(app.uuid())).await?;
    match rows.is_empty() {
        true => Err(StoreError::AppNotFound)?,
        false => Ok(()),
    }
}

/// What a trigger watches, as columns.
#[derive(Default)]
struct Columns<'t> {
    collection: Option<&'t str>,
    prefix: &'t str,
    on_set: bool,
    on_delete: bool,
    schedule: Option<&'t str>,
}

impl Columns<'_> {
    fn of(watch: &Watch) -> Columns<'_> {
        match watch {
            Watch::Changes(Changes {
                collection,
                prefix,
                set,
                delete,
            }) => Columns {
                collection: Some(collection.as_str()),
                prefix,
                on_set: *set,
                on_delete: *delete,
                schedule: None,
            },
            Watch::Schedule(schedule) => Columns {
                schedule: Some(schedule.as_str()),
                ..Columns::default()
            },
            Watch::Timers => Columns::default(),
        }
    }
}

fn age_ms(policy: Policy) -> i64 {
    i64::try_from(policy.age_max.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the number of triggers of an app, which is locked.
async fn count(lease: &mut Lease, app: AppId) -> Result<usize, Error> {
    let rows = lease.run(sqlx::query(sql::COUNT_TRIGGERS).bind(app.uuid()));
    let count: Option<i64> = rows.await?.first().map(|row| row.try_get(0)).transpose()?;
    Ok(usize::try_from(count.unwrap_or(0)).unwrap_or(usize::MAX))
}

pub(super) async fn set(
    lease: &mut Lease,
    app: AppId,
    trigger: NewTrigger,
    at: Timestamp,
) -> Result<Trigger, Abort> {
    hold_app(lease, app).await?;
    let rows = lease.run(on_trigger(sql::TRIGGER, app, &trigger.name));
    let before = rows.await?.first().map(|row| rows::trigger(row, 0));
    let before = before.transpose()?;
    let others = count(lease, app).await?;
    check_triggers(others, others + usize::from(before.is_none()))?;
    let trigger = trigger.replacing(before.as_ref(), at);
    write(lease, app, &trigger).await?;
    Ok(trigger)
}

async fn write(lease: &mut Lease, app: AppId, trigger: &Trigger) -> Result<(), Error> {
    let watch = Columns::of(&trigger.watch);
    let statement = sqlx::query(sql::SET_TRIGGER)
        .bind(app.uuid())
        .bind(trigger.name.as_str())
        .bind(origin_word(trigger.origin))
        .bind(trigger.target.of_delivery().column().to_owned())
        .bind(watch.collection)
        .bind(watch.prefix)
        .bind(watch.on_set)
        .bind(watch.on_delete)
        .bind(watch.schedule)
        .bind(trigger.next_at.map(|at| at.0))
        .bind(i64::from(trigger.policy.attempts_max))
        .bind(age_ms(trigger.policy))
        .bind(trigger.created_at.0);
    let webhook = trigger.target.webhook();
    let statement = bind_standing(statement, &trigger.standing)
        .bind(webhook.map(|webhook| webhook.url.to_string()))
        .bind(webhook.map(|webhook| webhook.secret.as_str()));
    lease.run(statement).await.map(drop)
}

fn bind_standing<'q>(statement: Statement<'q>, standing: &TriggerHealth) -> Statement<'q> {
    statement
        .bind(standing.paused.map(pause_word))
        .bind(i64::from(standing.failures))
        .bind(standing.series)
        .bind(standing.probe_at.map(|at| at.0))
        .bind(standing.probe)
        .bind(i64::from(standing.probes_failed))
}

/// Returns the health of a trigger, if it exists, and locks it until the transaction ends.
pub(super) async fn hold_standing(
    lease: &mut Lease,
    app: AppId,
    trigger: &TriggerName,
) -> Result<Option<TriggerHealth>, Error> {
    let rows = lease.run(on_trigger(sql::HOLD_STANDING, app, trigger));
    let rows = rows.await?;
    rows.first().map(|row| rows::standing(row, 0)).transpose()
}

/// Writes the health of a trigger. Returns whether it exists.
pub(super) async fn set_standing(
    lease: &mut Lease,
    app: AppId,
    trigger: &TriggerName,
    standing: &TriggerHealth,
) -> Result<bool, Error> {
    let statement = on_trigger(sql::SET_STANDING, app, trigger);
    let rows = lease.run(bind_standing(statement, standing)).await?;
    Ok(!rows.is_empty())
}

fn on_trigger<'q>(text: &'static str, app: AppId, trigger: &'q TriggerName) -> Statement<'q> {
    sqlx::query(text).bind(app.uuid()).bind(trigger.as_str())
}

pub(super) async fn delete(
    lease: &mut Lease,
    app: AppId,
    trigger: &TriggerName,
    must_be_idle: bool,
) -> Result<TriggerDeletion, Abort> {
    hold_app(lease, app).await?;
    if must_be_idle {
        let rows = lease.run(on_trigger(sql::HAS_DELIVERIES, app, trigger));
        let has: Option<bool> = rows.await?.first().map(|row| row.try_get(0)).transpose()?;
        if has == Some(true) {
            return Ok(TriggerDeletion::Outstanding);
        }
    }
    let rows = lease.run(on_trigger(sql::DELETE_TRIGGER, app, trigger));
    Ok(match rows.await?.is_empty() {
        true => TriggerDeletion::Absent,
        false => TriggerDeletion::Deleted,
    })
}

pub(super) async fn pause(
    lease: &mut Lease,
    app: AppId,
    trigger: &TriggerName,
    paused: bool,
) -> Result<bool, Abort> {
    hold_app(lease, app).await?;
    let Some(mut standing) = hold_standing(lease, app, trigger).await? else {
        return Ok(false);
    };
    standing.set_paused(paused);
    Ok(set_standing(lease, app, trigger, &standing).await?)
}

/// Replaces the triggers of the previous version with those of the active one. The app is locked.
pub(super) async fn declare(
    lease: &mut Lease,
    app: AppId,
    exports: &Exports,
    at: Timestamp,
) -> Result<(), Abort> {
    let before = count(lease, app).await?;
    // One statement writes a name once; its last declaration counts.
    let declared = exports.triggers.iter().map(|d| (d.name.as_str(), d));
    let declared: BTreeMap<&str, &DeclaredTrigger> = declared.collect();
    let names: Vec<_> = declared.keys().copied().collect();
    let statement = sqlx::query(sql::UNDECLARE).bind(app.uuid());
    lease.run(statement.bind(&names)).await?;
    if !names.is_empty() {
        let watches = declared
            .values()
            .map(|declared| Columns::of(&declared.watch));
        let watches: Vec<_> = watches.collect();
        let column = |of: fn(&Columns<'_>) -> bool| watches.iter().map(of).collect::<Vec<_>>();
        let policies: Vec<Policy> = declared
            .values()
            .map(|declared| declared.policy())
            .collect();
        let attempts = policies.iter().map(|policy| i64::from(policy.attempts_max));
        let statement = sqlx::query(sql::DECLARE)
            .bind(app.uuid())
            .bind(&names)
            .bind(watches.iter().map(|w| w.collection).collect::<Vec<_>>())
            .bind(watches.iter().map(|w| w.prefix).collect::<Vec<_>>())
            .bind(column(|watch| watch.on_set))
            .bind(column(|watch| watch.on_delete))
            .bind(watches.iter().map(|w| w.schedule).collect::<Vec<_>>())
            .bind(attempts.collect::<Vec<i64>>())
            .bind(policies.iter().map(|p| age_ms(*p)).collect::<Vec<i64>>())
            .bind(at.0);
        lease.run(statement).await?;
    }
    let statement = sqlx::query(sql::RESUME).bind(app.uuid());
    lease.run(statement).await?;
    let after = count(lease, app).await?;
    Ok(check_triggers(before, after)?)
}
