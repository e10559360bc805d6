//! Triggers, deliveries and dead letters: `fire` creates deliveries, `queue` processes them,
//! `letters` keeps those that were given up, `triggers` manages what watches changes.

mod clock_repair;
mod dead_letters;
mod fire;
mod outstanding;
mod queue;
mod row;
mod schedules;
mod timers;
mod trigger_health;
mod triggers;

pub(super) use clock_repair::{needs_rescue, rescue};
pub(super) use dead_letters::{
    count, dead_letters, discard, has_letters, prune, replay, replay_in, spare,
};
pub(super) use fire::{Deliveries, Fired, Watchers};
pub(super) use outstanding::{
    count as count_deliveries, discard as discard_deliveries, outstanding,
};
pub(super) use queue::{acknowledge, claim, defer, due, fail, release, renew};
pub(super) use schedules::{schedules, tick};
pub(super) use timers::{change as change_timer, next_timer, run as run_timer, timer, timers};
pub(super) use triggers::{declare, delete, pause, set, triggers};

use crate::writer::{WriteCost, WriteTransaction};
use crate::{SHORT_PAGE, SqliteStore, commit};
use async_trait::async_trait;
use kvasm_core::store::{Outbox, StoreError};
use kvasm_core::{
    AppId, Claim, DeadLetter, DeadLetterFilter, Delivery, DeliveryFilter, DeliveryKey, DueSchedule,
    FailOutcome, FailedAttempt, LeaseToken, Queue, SchedulePosition, ScheduleTick, TimerName,
    Timestamp, Trigger,
};
use uuid::Uuid;

#[async_trait]
impl Outbox for SqliteStore {
    async fn triggers(&self, app: AppId) -> Result<Vec<Trigger>, StoreError> {
        let read = move |conn: &_| self::triggers(conn, app);
        self.read_short_of(app, Vec::new, read, || read).await
    }

    async fn due(
        &self,
        after: Option<&Queue>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Queue>, StoreError> {
        let read = |conn: &_| self::due(conn, after, now, limit);
        let later = || {
            let after = after.cloned();
            move |conn: &_| self::due(conn, after.as_ref(), now, limit)
        };
        self.read_short(None, read, later).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError> {
        let work = WriteCost::of(claim.queue.app);
        let claim = claim.clone();
        let run = move |transaction: &mut WriteTransaction<'_>| self::claim(transaction, &claim);
        self.writer.run(work, run).await
    }

    async fn renew(&self, receipt: &LeaseToken, until: Timestamp) -> Result<bool, StoreError> {
        let work = WriteCost::of(receipt.app).freeing_space();
        let receipt = receipt.clone();
        let run = move |transaction: &mut WriteTransaction<'_>| {
            self::renew(transaction.connection, &receipt, until)
        };
        self.writer.run(work, run).await
    }

    async fn fail(&self, failed: &FailedAttempt) -> Result<FailOutcome, StoreError> {
        let work = WriteCost::of(failed.receipt.app).freeing_space();
        let failed = failed.clone();
        let run = move |transaction: &mut WriteTransaction<'_>| self::fail(transaction, &failed);
        self.writer.run(work, run).await
    }

    async fn release(&self, receipt: &LeaseToken, now: Timestamp) -> Result<bool, StoreError> {
        let work = WriteCost::of(receipt.app).freeing_space();
        let receipt = receipt.clone();
        let run =
            move |transaction: &mut WriteTransaction<'_>| self::release(transaction, &receipt, now);
        self.writer.run(work, run).await
    }

    async fn defer(
        &self,
        receipt: &LeaseToken,
        wait_ms: u64,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let work = WriteCost::of(receipt.app).freeing_space();
        let receipt = receipt.clone();
        let run = move |transaction: &mut WriteTransaction<'_>| {
            self::defer(transaction, &receipt, wait_ms, now)
        };
        self.writer.run(work, run).await
    }

    async fn rescue(
        &self,
        queue: &Queue,
        beyond: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        // Readers check first, so that the writer is rarely involved.
        let needed = |conn: &_| self::needs_rescue(conn, queue, beyond);
        let later = || {
            let queue = queue.clone();
            move |conn: &_| self::needs_rescue(conn, &queue, beyond)
        };
        if !self
            .read_short_of(queue.app, || false, needed, later)
            .await?
        {
            return Ok(0);
        }
        let work = WriteCost::of(queue.app).freeing_space();
        let queue = queue.clone();
        let run = move |transaction: &mut WriteTransaction<'_>| {
            self::rescue(transaction, &queue, beyond, now, limit)
        };
        self.writer.run(work, run).await
    }

    async fn outstanding(
        &self,
        app: AppId,
        which: &DeliveryFilter,
        after: Option<&DeliveryKey>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let (which, after) = (which.clone(), after.cloned());
        let read = move |conn: &_| self::outstanding(conn, app, &which, after.as_ref(), limit);
        // Like pages, they include values.
        match limit {
            0..=SHORT_PAGE => {
                self.read_short_of(app, Vec::new, &read, || read.clone())
                    .await
            }
            _ => self.read_long(app, Vec::new, read).await,
        }
    }

    async fn count_deliveries(
        &self,
        app: AppId,
        which: &DeliveryFilter,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let which = which.clone();
        let read = move |conn: &_| self::count_deliveries(conn, app, &which, limit);
        // It may scan all of them for the few that match.
        self.read_long(app, || 0, read).await
    }

    async fn timer(&self, app: AppId, name: &TimerName) -> Result<Option<Delivery>, StoreError> {
        let read = |conn: &_| self::timer(conn, app, name);
        let later = || {
            let name = name.clone();
            move |conn: &_| self::timer(conn, app, &name)
        };
        self.read_short_of(app, || None, read, later).await
    }

    async fn timers(
        &self,
        app: AppId,
        after: Option<&TimerName>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let after = after.cloned();
        let read = move |conn: &_| self::timers(conn, app, after.as_ref(), limit);
        // With their payloads.
        self.read_long(app, Vec::new, read).await
    }

    async fn next_timer(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let read = move |conn: &_| self::next_timer(conn, now);
        self.read_short(None, read, || read).await
    }

    async fn schedules(
        &self,
        after: Option<&SchedulePosition>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<DueSchedule>, StoreError> {
        let read = |conn: &_| self::schedules(conn, after, now, limit);
        let later = || {
            let after = after.cloned();
            move |conn: &_| self::schedules(conn, after.as_ref(), now, limit)
        };
        self.read_short(None, read, later).await
    }

    async fn tick(&self, tick: &ScheduleTick) -> Result<bool, StoreError> {
        let work = WriteCost::of(tick.queue.app);
        let tick = tick.clone();
        let run = move |transaction: &mut WriteTransaction<'_>| self::tick(transaction, &tick);
        self.writer.run(work, run).await
    }

    async fn dead_letters(
        &self,
        app: AppId,
        letters: &DeadLetterFilter,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let letters = letters.clone();
        let read = move |conn: &_| self::dead_letters(conn, app, &letters, before, limit);
        match limit {
            0..=1 => {
                self.read_short_of(app, Vec::new, &read, || read.clone())
                    .await
            }
            _ => self.read_long(app, Vec::new, read).await,
        }
    }

    async fn count_dead_letters(
        &self,
        app: AppId,
        letters: &DeadLetterFilter,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let letters = letters.clone();
        let read = move |conn: &_| self::count(conn, app, &letters, limit);
        self.read_long(app, || 0, read).await
    }

    async fn prune(
        &self,
        app: AppId,
        before: Timestamp,
        keep: u32,
        limit: u32,
    ) -> Result<u64, StoreError> {
        // Readers check first, so that the writer is rarely involved.
        let has_letters = move |conn: &_| self::has_letters(conn, app);
        let has_letters = self.read_short_of(app, || false, has_letters, || has_letters);
        if !has_letters.await? {
            return Ok(0);
        }
        let spare = move |conn: &_| self::spare(conn, app, before, keep, limit);
        let spare = self.read_long(app, Vec::new, spare).await?;
        if spare.is_empty() {
            return Ok(0);
        }
        let work = WriteCost::of(app).freeing_space();
        let run =
            move |transaction: &mut WriteTransaction<'_>| self::prune(transaction, app, &spare);
        self.writer.run(work, run).await
    }

    async fn sweep(&self, app: AppId, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let has_expired = move |conn: &_| commit::has_expired(conn, app, now);
        let has_expired = self.read_short_of(app, || false, has_expired, || has_expired);
        if !has_expired.await? {
            return Ok(0);
        }
        let work = WriteCost::of(app).freeing_space();
        let run = move |transaction: &mut WriteTransaction<'_>| {
            commit::sweep(transaction, app, now, limit)
        };
        self.writer.run(work, run).await
    }
}
