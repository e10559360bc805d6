//! Triggers and deliveries: reads, claims and sweeps, one statement each. `handling` ends a
//! delivery; `triggers` and `letters` have the operations of administrators.

use super::sql::{answers_sql, dead_letters_sql, outbox_sql as sql, triggers_sql};
use super::{
    PostgresStore, classify::store_error, clock_repair, dead_letters, handling, outstanding, rows,
    timers,
};
use async_trait::async_trait;
use kvasm_core::store::{Outbox, StoreError};
use kvasm_core::{
    AppId, Claim, DeadLetter, DeadLetterFilter, Delivery, DeliveryFilter, DeliveryKey, DueSchedule,
    FailOutcome, FailedAttempt, LeaseToken, Queue, SchedulePosition, ScheduleTick, TimerName,
    Timestamp, Trigger, TriggerName, ordering_key_of,
};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use std::time::Instant;
use uuid::Uuid;

/// The minimum number of deliveries that a claim scans: those behind others of their ordering key
/// are not claimed.
const LOOKED_AT_MIN: u32 = 64;

/// The column of a claim with the due time of the first delivery that it scanned.
const CLAIM_FIRST: usize = 23;

#[async_trait]
impl Outbox for PostgresStore {
    async fn triggers(&self, app: AppId) -> Result<Vec<Trigger>, StoreError> {
        let statement = || sqlx::query(triggers_sql::TRIGGERS).bind(app.uuid());
        all(&self.pool.read(statement).await?, |row| {
            rows::trigger(row, 0)
        })
    }

    async fn due(
        &self,
        after: Option<&Queue>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Queue>, StoreError> {
        // Below every queue: no trigger has an empty name.
        let (app, trigger) = after.map_or((Uuid::nil(), ""), |after| {
            (after.app.uuid(), after.trigger.as_str())
        });
        let known = self.horizons.known(now);
        let statement = || {
            let statement = sqlx::query(sql::DUE).bind(app).bind(trigger);
            let statement = statement.bind(now.0).bind(i64::from(limit));
            statement
                .bind(&known.apps)
                .bind(&known.names)
                .bind(&known.from)
        };
        let queue = |row: &PgRow| {
            Ok(Queue {
                app: AppId::from(row.try_get::<Uuid, _>(0)?),
                trigger: TriggerName::stored(row.try_get(1)?),
            })
        };
        all(&self.pool.read(statement).await?, queue)
    }

    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError> {
        let claimed = self.claim_some(claim, None).await?;
        match claimed.is_empty() {
            true => self.claim_probe(claim).await,
            false => Ok(claimed),
        }
    }

    async fn renew(&self, receipt: &LeaseToken, until: Timestamp) -> Result<bool, StoreError> {
        handling::renew(&self.pool, receipt, until).await
    }

    async fn fail(&self, failed: &FailedAttempt) -> Result<FailOutcome, StoreError> {
        handling::fail(&self.pool, failed).await
    }

    async fn release(&self, receipt: &LeaseToken, now: Timestamp) -> Result<bool, StoreError> {
        handling::release(&self.pool, receipt, now).await
    }

    async fn defer(
        &self,
        receipt: &LeaseToken,
        wait_ms: u64,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        timers::defer(&self.pool, receipt, wait_ms, now).await
    }

    async fn rescue(
        &self,
        queue: &Queue,
        beyond: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        clock_repair::rescue(&self.pool, queue, beyond, now, limit).await
    }

    async fn outstanding(
        &self,
        app: AppId,
        which: &DeliveryFilter,
        after: Option<&DeliveryKey>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        // Below every delivery key: no trigger has an empty name.
        let (trigger, chain, seq) = after.map_or(("", 0, 0), |place| {
            (place.trigger.as_str(), place.ordering_key, place.seq)
        });
        let statement = || {
            let statement = outstanding::these(sql::OUTSTANDING, app, which);
            let statement = statement.bind(trigger.to_owned()).bind(chain);
            statement.bind(seq).bind(i64::from(limit))
        };
        all(&self.pool.read(statement).await?, rows::delivery)
    }

    async fn count_deliveries(
        &self,
        app: AppId,
        which: &DeliveryFilter,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let statement =
            || outstanding::these(sql::COUNT_DELIVERIES, app, which).bind(i64::from(limit));
        count(&self.pool.read(statement).await?)
    }

    async fn timer(&self, app: AppId, name: &TimerName) -> Result<Option<Delivery>, StoreError> {
        timers::timer(&self.pool, app, name).await
    }

    async fn timers(
        &self,
        app: AppId,
        after: Option<&TimerName>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        timers::timers(&self.pool, app, after, limit).await
    }

    async fn next_timer(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        timers::next_timer(&self.pool, now).await
    }

    async fn schedules(
        &self,
        after: Option<&SchedulePosition>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<DueSchedule>, StoreError> {
        // Below every position: no trigger has an empty name.
        let (at, app, name) = after.map_or((0, Uuid::nil(), ""), |after| {
            let at = after.next_at.map_or(0, |at| at.0);
            (at, after.queue.app.uuid(), after.queue.trigger.as_str())
        });
        let statement = || {
            let statement = sqlx::query(triggers_sql::SCHEDULES).bind(now.0);
            let statement = statement.bind(i64::from(limit));
            statement.bind(at).bind(app).bind(name)
        };
        all(&self.pool.read(statement).await?, rows::schedule)
    }

    async fn tick(&self, tick: &ScheduleTick) -> Result<bool, StoreError> {
        let statement = |_| {
            let statement = sqlx::query(triggers_sql::TICK).bind(tick.queue.app.uuid());
            statement
                .bind(tick.queue.trigger.as_str())
                .bind(tick.planned.map(|at| at.0))
                .bind(tick.next.map(|at| at.0))
                .bind(tick.run.map(|at| at.0))
                .bind(tick.now.0)
                .bind(ordering_key_of(""))
                .bind(Uuid::now_v7())
        };
        let rows = self.pool.write(statement).await.map_err(store_error)?;
        one(&rows)
    }

    async fn dead_letters(
        &self,
        app: AppId,
        letters: &DeadLetterFilter,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let statement = || {
            let statement = dead_letters::these(dead_letters_sql::DEAD_LETTERS, app, letters);
            let statement = statement.bind(before.unwrap_or(Uuid::max()));
            statement.bind(i64::from(limit))
        };
        all(&self.pool.read(statement).await?, rows::letter)
    }

    async fn count_dead_letters(
        &self,
        app: AppId,
        letters: &DeadLetterFilter,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let statement =
            || dead_letters::these(dead_letters_sql::COUNT, app, letters).bind(i64::from(limit));
        count(&self.pool.read(statement).await?)
    }

    async fn prune(
        &self,
        app: AppId,
        before: Timestamp,
        keep: u32,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let look = || {
            let statement = sqlx::query(dead_letters_sql::SPARE).bind(app.uuid());
            let statement = statement.bind(before.0).bind(i64::from(keep));
            statement.bind(i64::from(limit))
        };
        let id = |row: &PgRow| row.try_get::<Uuid, _>(0);
        let spare = all(&self.pool.read(look).await?, id)?;
        if spare.is_empty() {
            return Ok(0);
        }
        let statement = |slot: i16| {
            let statement = sqlx::query(dead_letters_sql::PRUNE).bind(app.uuid());
            statement.bind(spare.clone()).bind(slot)
        };
        count(&self.pool.write(statement).await.map_err(store_error)?)
    }

    async fn sweep(&self, app: AppId, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let statement = |slot: i16| {
            let statement = sqlx::query(answers_sql::SWEEP).bind(app.uuid());
            statement.bind(now.0).bind(i64::from(limit)).bind(slot)
        };
        count(&self.pool.write(statement).await.map_err(store_error)?)
    }
}

impl PostgresStore {
    /// Claims due deliveries, unless the trigger is paused. As the probe of a series of failures,
    /// even if it is.
    async fn claim_some(
        &self,
        claim: &Claim,
        probe_of: Option<i64>,
    ) -> Result<Vec<Delivery>, StoreError> {
        let Claim {
            queue,
            now,
            until,
            lease,
            limit,
        } = claim;
        let limit = probe_of.map_or(*limit, |_| 1);
        let from = self.horizons.from(queue, *now);
        let statement = |_| {
            let statement = sqlx::query(sql::CLAIM).bind(queue.app.uuid());
            let statement = statement.bind(queue.trigger.as_str());
            let statement = statement.bind(now.0).bind(until.0).bind(lease);
            statement
                .bind(i64::from(limit))
                .bind(i64::from(limit.max(LOOKED_AT_MIN)))
                .bind(probe_of)
                .bind(from)
        };
        let start = Instant::now();
        // Not `read`: a retry would not find what the first attempt claimed.
        let rows = self.pool.write(statement).await.map_err(store_error)?;
        let first = rows.first().map(|row| row.try_get(CLAIM_FIRST)).transpose();
        let first = first.map_err(store_error)?.map_or(*now, Timestamp);
        self.horizons.learn(queue, from, first, start.elapsed());
        all(&rows, rows::delivery)
    }

    /// Claims one delivery if the trigger is paused by failures and its probe is due. The trigger
    /// is changed in a separate statement before the claim, which would otherwise wait for it while
    /// it locks deliveries.
    async fn claim_probe(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError> {
        let Queue { app, trigger } = &claim.queue;
        let statement = |_| {
            let statement = sqlx::query(triggers_sql::PROBE).bind(app.uuid());
            let statement = statement.bind(trigger.as_str()).bind(claim.now.0);
            statement.bind(claim.until.0).bind(claim.lease)
        };
        let rows = self.pool.write(statement).await.map_err(store_error)?;
        let Some(row) = rows.first() else {
            return Ok(Vec::new());
        };
        let series = row.try_get(0).map_err(store_error)?;
        let mut claimed = self.claim_some(claim, Some(series)).await?;
        if claimed.is_empty() {
            handling::release_probe(&self.pool, *app, trigger, claim.lease, claim.now).await?;
        }
        for delivery in &mut claimed {
            delivery.is_probe = true;
        }
        Ok(claimed)
    }
}

fn all<T>(
    rows: &[PgRow],
    decode: impl Fn(&PgRow) -> Result<T, Error>,
) -> Result<Vec<T>, StoreError> {
    let decoded = rows.iter().map(decode).collect::<Result<_, _>>();
    decoded.map_err(store_error)
}

/// Returns the only column of the only row.
fn one<T>(rows: &[PgRow]) -> Result<T, StoreError>
where
    for<'r> T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let row = rows.first().ok_or(Error::RowNotFound);
    row.and_then(|row| row.try_get(0)).map_err(store_error)
}

fn count(rows: &[PgRow]) -> Result<u64, StoreError> {
    one(rows).map(i64::unsigned_abs)
}
