//! Triggers and deliveries: what changes leave to be done.
//!
//! A commit writes a delivery for each trigger that one of its changes fires, in
//! its own transaction. A dispatcher claims deliveries for a while, and the
//! commit of a handler's writes takes its delivery along
//! ([`WriteBatch::acknowledge`](crate::WriteBatch::acknowledge)). What
//! fails goes back with [`fail`](Outbox::fail); what nobody gives back in time can
//! be claimed again.
//!
//! Deliveries of one trigger and one key are claimed one after another, in the
//! order of the changes. Those of different keys wait for nobody.

use super::StoreError;
use crate::{
    AppId, Claim, DeadLetter, Delivery, DueSchedule, Failed, Letters, Outstanding, Place, Queue,
    Receipt, Returned, SchedulePlace, Tick, Timestamp, Trigger, TriggerName,
};
use async_trait::async_trait;
use uuid::Uuid;

/// The part of a store that triggers and dispatchers use.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// All triggers of an app, in the order of their names.
    async fn triggers(&self, app: AppId) -> Result<Vec<Trigger>, StoreError>;

    /// Up to `limit` queues that have something to claim, in their order, after one if
    /// given. Of a queue that failures have paused, a probe can be claimed once its
    /// time has come; of one that an operator has paused, nothing. The cost grows with the
    /// queues that have deliveries, not with the deliveries.
    async fn due(
        &self,
        after: Option<&Queue>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Queue>, StoreError>;

    /// Claims deliveries that are due, those first that have been so for longest:
    /// counts an attempt of each and lends it until the claim runs out. Of each
    /// chain the first alone can be claimed. Of a queue that failures have paused it
    /// claims one delivery as the probe, if its time has come: one that does not count
    /// among the failures, if it finds one early in the queue. That nothing is claimed does not say
    /// that nothing is due: ask [`due`](Outbox::due) again.
    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError>;

    /// Lends a delivery for longer; whether the lease still held.
    async fn renew(&self, receipt: &Receipt, until: Timestamp) -> Result<bool, StoreError>;

    /// Gives back a delivery whose attempt has failed, or makes it a dead letter
    /// and lets the next of its chain go on. A delivery that fails deterministically
    /// counts once against its trigger, which is paused when there were
    /// [`FAILURES_MAX`](crate::FAILURES_MAX) in a row. If the delivery was the
    /// probe of a paused trigger, the next probe waits longer. If the lease did not
    /// hold, nothing happens.
    async fn fail(&self, failed: &Failed) -> Result<Returned, StoreError>;

    /// Gives back a delivery whose attempt the host itself has cut off, or could not begin:
    /// it is due at a time, and the attempt does not count. Whether the lease still held.
    async fn release(&self, receipt: &Receipt, at: Timestamp) -> Result<bool, StoreError>;

    /// Makes due at `now` what a wrong clock has put off in a queue: up to `limit`
    /// deliveries that are due, or whose lease ends, after `beyond`, and the probe of a
    /// paused trigger that waits for longer. Returns how many deliveries. A handler whose
    /// lease is cut short can still commit until the delivery is claimed again.
    async fn rescue(
        &self,
        queue: &Queue,
        beyond: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Up to `limit` outstanding deliveries of an app, in the order of triggers, chains
    /// and numbers, after one if given.
    async fn outstanding(
        &self,
        app: AppId,
        which: &Outstanding,
        after: Option<&Place>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// The first outstanding deliveries of an app, or of one trigger of it.
    async fn deliveries(
        &self,
        app: AppId,
        trigger: Option<&TriggerName>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let which = Outstanding {
            trigger: trigger.cloned(),
            ..Outstanding::default()
        };
        self.outstanding(app, &which, None, limit).await
    }

    /// How many outstanding deliveries of an app there are, counted up to `limit`.
    async fn count_deliveries(
        &self,
        app: AppId,
        which: &Outstanding,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Up to `limit` schedules that are due, or not planned yet, in the order of their
    /// places, after one if given. A row that cannot be decoded is returned as such
    /// and does not fail the others.
    async fn schedules(
        &self,
        after: Option<&SchedulePlace>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<DueSchedule>, StoreError>;

    /// Makes the run of a schedule and plans the next one. Unless it is planned
    /// as the tick says, nothing happens. Whether a run was made: none is while an
    /// earlier one is outstanding. Does not wait for an app that a long transaction
    /// holds, such as its deletion.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also if the app is held.
    async fn tick(&self, tick: &Tick) -> Result<bool, StoreError>;

    /// Up to `limit` dead letters of an app, newest first, below one if given.
    async fn dead_letters(
        &self,
        app: AppId,
        letters: &Letters,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError>;

    /// How many dead letters of an app there are, counted up to `limit`.
    async fn count_dead_letters(
        &self,
        app: AppId,
        letters: &Letters,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Removes up to `limit` dead letters of an app that were given up before a
    /// time, or that are older than the newest `keep`; how many.
    async fn prune(
        &self,
        app: AppId,
        before: Timestamp,
        keep: u32,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Removes up to `limit` entries of an app that have expired; how many.
    async fn sweep(&self, app: AppId, now: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
