//! The end of a delivery that is carried out: it is done, or has failed.

use super::lease::Lease;
use super::pool::{Pool, Statement};
use super::sql::{LOCK_APP, outbox, triggers};
use super::transaction::{Stop, Work, transact};
use super::usage::{Delta, count_always};
use crate::model::{FAILURES_MAX, Failed, Place, Receipt, Timestamp, Verdict};
use crate::store::StoreError;
use async_trait::async_trait;
use sqlx::{Error, Row};
use uuid::Uuid;

/// A statement whose first parameters are a delivery.
fn on_delivery(text: &'static str, receipt: &Receipt) -> Statement<'static> {
    let Place {
        trigger,
        chain,
        seq,
    } = &receipt.place;
    let statement = sqlx::query(text).bind(receipt.app.uuid());
    let statement = statement.bind(trigger.as_str().to_owned());
    statement.bind(*chain).bind(*seq)
}

/// Holds a delivery until the transaction ends: its size, if the lease holds.
pub(super) async fn hold(lease: &mut Lease, receipt: &Receipt) -> Result<Option<i32>, Error> {
    let statement = on_delivery(outbox::HOLD_DELIVERY, receipt).bind(receipt.lease);
    let rows = lease.run(statement).await?;
    rows.first().map(|row| row.try_get(0)).transpose()
}

/// Removes a delivery that is held and done, and lets the next one go on.
pub(super) async fn finish(
    lease: &mut Lease,
    receipt: &Receipt,
    now: Timestamp,
) -> Result<(), Error> {
    let statement = on_delivery(outbox::FINISH, receipt).bind(now.0);
    lease.run(statement).await.map(drop)
}

pub(super) async fn renew(
    pool: &Pool,
    receipt: &Receipt,
    until: Timestamp,
) -> Result<bool, StoreError> {
    // As good twice as once.
    let statement = || {
        let statement = on_delivery(outbox::RENEW, receipt);
        statement.bind(receipt.lease).bind(until.0)
    };
    let rows = pool.read(statement).await?;
    Ok(!rows.is_empty())
}

pub(super) async fn fail(pool: &Pool, failed: &Failed) -> Result<bool, StoreError> {
    Ok(transact(pool, &Failing { failed }).await?)
}

struct Failing<'f> {
    failed: &'f Failed,
}

#[async_trait]
impl Work for Failing<'_> {
    type Done = bool;

    async fn run(&self, lease: &mut Lease) -> Result<bool, Stop> {
        let Failed {
            receipt,
            now,
            verdict,
            deterministic,
            error,
            trace,
            plugin,
        } = self.failed;
        let app = sqlx::query(LOCK_APP).bind(receipt.app.uuid());
        if lease.run(app).await?.is_empty() {
            return Ok(false);
        }
        let Some(size) = hold(lease, receipt).await? else {
            return Ok(false);
        };
        if *deterministic {
            let statement = sqlx::query(triggers::FAILED).bind(receipt.app.uuid());
            let statement = statement.bind(receipt.place.trigger.as_str());
            lease.run(statement.bind(i64::from(FAILURES_MAX))).await?;
        }
        let statement = match verdict {
            Verdict::RetryAt(at) => {
                let note = self.failed.note();
                on_delivery(outbox::RETRY, receipt).bind(at.0).bind(note)
            }
            Verdict::GiveUp(reason) => on_delivery(outbox::GIVE_UP, receipt)
                .bind(now.0)
                .bind(Uuid::now_v7())
                .bind(reason.as_str())
                .bind(error)
                .bind(trace)
                .bind(plugin.map(|(version, _)| i64::from(version.0)))
                .bind(plugin.map(|(_, digest)| digest.0.to_vec())),
        };
        lease.run(statement).await?;
        if let Verdict::GiveUp(_) = verdict {
            let mut delta = Delta::default();
            delta.give_back(size);
            delta.bury(size, error.len() + trace.as_ref().map_or(0, String::len));
            // Never refused: what has failed must go somewhere.
            count_always(lease, receipt.app, delta).await?;
        }
        Ok(true)
    }
}
