//! The end of a delivery's attempt: success or failure.

use super::lease::Lease;
use super::pool::{Pool, Statement};
use super::sql::{LOCK_APP, outbox_sql, triggers_sql};
use super::transaction::{Abort, TransactionWork, transact};
use super::usage::{SlotDelta, count_always};
use super::{classify::store_error, triggers};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, DeadReason, DeliveryKey, FailOutcome, FailedAttempt, LeaseToken, Timestamp, TriggerName,
    Verdict,
};
use sqlx::{Error, Row};
use uuid::Uuid;

/// Binds a delivery as the first parameters of a statement.
pub(super) fn on_delivery(text: &'static str, receipt: &LeaseToken) -> Statement<'static> {
    let DeliveryKey {
        trigger,
        ordering_key: chain,
        seq,
    } = &receipt.place;
    let statement = sqlx::query(text).bind(receipt.app.uuid());
    let statement = statement.bind(trigger.as_str().to_owned());
    statement.bind(*chain).bind(*seq)
}

/// Locks a delivery until the transaction ends. Returns its size, if the lease holds.
pub(super) async fn hold(lease: &mut Lease, receipt: &LeaseToken) -> Result<Option<i32>, Error> {
    let held = hold_failed(lease, receipt).await?;
    Ok(held.map(|(size, _)| size))
}

/// As above, and returns the series of failures in which the delivery counts.
async fn hold_failed(
    lease: &mut Lease,
    receipt: &LeaseToken,
) -> Result<Option<(i32, Option<i64>)>, Error> {
    let statement = on_delivery(outbox_sql::HOLD_DELIVERY, receipt).bind(receipt.lease);
    let rows = lease.run(statement).await?;
    let held = rows.first();
    held.map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .transpose()
}

/// Deletes a locked delivery that succeeded, and makes the next one due.
pub(super) async fn finish(
    lease: &mut Lease,
    receipt: &LeaseToken,
    now: Timestamp,
) -> Result<(), Error> {
    let statement = on_delivery(outbox_sql::FINISH, receipt).bind(now.0);
    lease.run(statement).await.map(drop)
}

pub(super) async fn renew(
    pool: &Pool,
    receipt: &LeaseToken,
    until: Timestamp,
) -> Result<bool, StoreError> {
    // Idempotent.
    let statement = || {
        let statement = on_delivery(outbox_sql::RENEW, receipt);
        statement.bind(receipt.lease).bind(until.0)
    };
    let rows = pool.read(statement).await?;
    Ok(!rows.is_empty())
}

pub(super) async fn release(
    pool: &Pool,
    receipt: &LeaseToken,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let statement = |_| {
        let statement = on_delivery(outbox_sql::RELEASE, receipt);
        statement.bind(receipt.lease).bind(now.0)
    };
    let released = pool.write(statement).await.map_err(store_error)?;
    release_probe(
        pool,
        receipt.app,
        &receipt.place.trigger,
        receipt.lease,
        now,
    )
    .await?;
    Ok(!released.is_empty())
}

/// Allows another probe of a trigger, if the last one has this lease.
pub(super) async fn release_probe(
    pool: &Pool,
    app: AppId,
    trigger: &TriggerName,
    lease: Uuid,
    now: Timestamp,
) -> Result<(), StoreError> {
    let statement = |_| {
        let statement = sqlx::query(triggers_sql::RELEASE_PROBE).bind(app.uuid());
        let statement = statement.bind(trigger.as_str());
        statement.bind(lease).bind(now.0)
    };
    let released = pool.write(statement).await;
    released.map(drop).map_err(store_error)
}

pub(super) async fn fail(pool: &Pool, failed: &FailedAttempt) -> Result<FailOutcome, StoreError> {
    Ok(transact(pool, &Failing { failed }).await?)
}

struct Failing<'f> {
    failed: &'f FailedAttempt,
}

#[async_trait]
impl TransactionWork for Failing<'_> {
    type Done = FailOutcome;

    async fn run(&self, lease: &mut Lease) -> Result<FailOutcome, Abort> {
        let FailedAttempt {
            receipt, verdict, ..
        } = self.failed;
        let app = sqlx::query(LOCK_APP).bind(receipt.app.uuid());
        if lease.run(app).await?.is_empty() {
            return Ok(FailOutcome::LeaseLost);
        }
        let Some((size, counted)) = hold_failed(lease, receipt).await? else {
            return Ok(FailOutcome::LeaseLost);
        };
        let (returned, series) = self.note(lease, counted).await?;
        match verdict {
            Verdict::RetryAt(at) => {
                let statement = on_delivery(outbox_sql::RETRY, receipt).bind(at.0);
                let statement = statement.bind(self.failed.truncated_error()).bind(series);
                lease.run(statement).await?;
            }
            Verdict::DeadLetter(reason) => self.give_up(lease, *reason, size).await?,
        }
        Ok(returned)
    }
}

impl Failing<'_> {
    /// Records the failure with the trigger. Returns what happened to it, and the series of
    /// failures in which the delivery now counts.
    async fn note(
        &self,
        lease: &mut Lease,
        counted: Option<i64>,
    ) -> Result<(FailOutcome, Option<i64>), Error> {
        let LeaseToken { app, place, .. } = &self.failed.receipt;
        let before = triggers::hold_standing(lease, *app, &place.trigger).await?;
        let Some(before) = before else {
            return Ok((FailOutcome::Recorded, counted));
        };
        let mut standing = before;
        let returned = standing.fail(counted, self.failed);
        if standing != before {
            triggers::set_standing(lease, *app, &place.trigger, &standing).await?;
        }
        let series = match self.failed.deterministic {
            true => Some(standing.series),
            false => counted,
        };
        Ok((returned, series))
    }

    async fn give_up(&self, lease: &mut Lease, reason: DeadReason, size: i32) -> Result<(), Error> {
        let FailedAttempt {
            receipt,
            now,
            error,
            trace,
            plugin,
            ..
        } = self.failed;
        let statement = on_delivery(outbox_sql::GIVE_UP, receipt)
            .bind(now.0)
            .bind(Uuid::now_v7())
            .bind(reason.as_str())
            .bind(error)
            .bind(trace)
            .bind(plugin.map(|(version, _)| i64::from(version.0)))
            .bind(plugin.map(|(_, digest)| digest.0.to_vec()));
        lease.run(statement).await?;
        let mut delta = SlotDelta::default();
        delta.remove_delivery(size);
        delta.add_dead_letter(size, error.len() + trace.as_ref().map_or(0, String::len));
        // Never refused: a failed delivery must be stored somewhere.
        count_always(lease, receipt.app, delta).await
    }
}
