//! Triggers and deliveries.
//!
//! A commit writes a delivery for each trigger that one of its changes fires, in its own
//! transaction. A dispatcher leases deliveries, and the commit of a handler's writes acknowledges
//! its delivery ([`Batch::acknowledge`](crate::Batch::acknowledge)). Failed
//! deliveries are returned with [`fail`](Outbox::fail); those whose lease expires can be claimed
//! again.
//!
//! Deliveries of one trigger and key are claimed one after another, in the order of the changes.
//! Those of different keys are independent.

use super::StoreError;
use crate::{
    AppId, Claim, DeadLetter, DeadLetterFilter, Delivery, DeliveryFilter, DeliveryKey, DueSchedule,
    FailOutcome, FailedAttempt, LeaseToken, Queue, SchedulePosition, ScheduleTick, TimerName,
    Timestamp, Trigger, TriggerName,
};
use async_trait::async_trait;
use uuid::Uuid;

/// The methods of a store for triggers and dispatchers.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Returns all triggers of an app, by name.
    async fn triggers(&self, app: AppId) -> Result<Vec<Trigger>, StoreError>;

    /// Returns up to `limit` queues with claimable deliveries, in order, after one if given. A
    /// queue that is paused by failures is claimable once its probe is due; one that is paused by
    /// an operator is not. The cost grows with the number of queues that have deliveries, not of
    /// deliveries.
    async fn due(
        &self,
        after: Option<&Queue>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Queue>, StoreError>;

    /// Claims due deliveries, those that were due first first: leases each and counts an attempt.
    /// Only the first delivery of each ordering key can be claimed. From a queue that is paused by
    /// failures, one delivery is claimed as the probe once that is due, preferably one near the
    /// start of the queue that has not counted as a failure yet. An empty result does not mean that
    /// nothing is due: call [`due`](Outbox::due) again.
    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError>;

    /// Extends the lease of a delivery. Returns whether the lease still held.
    async fn renew(&self, receipt: &LeaseToken, until: Timestamp) -> Result<bool, StoreError>;

    /// Records a failed attempt: the delivery is retried or becomes a dead letter, and in the
    /// latter case the next one of its ordering key becomes claimable. A deterministic failure
    /// counts once against the trigger, which is paused after
    /// [`FAILURES_MAX`](crate::FAILURES_MAX) in a row. If the delivery was the probe of a
    /// paused trigger, the next probe waits longer. If the lease did not hold, nothing changes.
    async fn fail(&self, failed: &FailedAttempt) -> Result<FailOutcome, StoreError>;

    /// Nacks a delivery whose attempt the host interrupted or could not start. It is due at `at`,
    /// and the attempt does not count. Returns whether the lease still held.
    async fn release(&self, receipt: &LeaseToken, at: Timestamp) -> Result<bool, StoreError>;

    /// Nacks a delivery whose handler asked to be run again after `wait_ms`: as
    /// [`release`](Outbox::release) at that time from `now` on, and as if it were queued then.
    async fn defer(
        &self,
        receipt: &LeaseToken,
        wait_ms: u64,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Makes deliveries that a wrong clock has postponed due at `now`: up to `limit` deliveries of
    /// a queue whose due time or lease end is after `beyond`, and the probe of a paused trigger
    /// that waits for longer. Deliveries that were asked to wait, by
    /// [`defer`](Outbox::defer) or as a timer with a duration, wait for that from `now` on if they
    /// would wait for longer; those of timers with a time stay as they are. Returns the number of
    /// deliveries. A handler whose lease is shortened can still commit until the delivery is claimed
    /// again.
    async fn rescue(
        &self,
        queue: &Queue,
        beyond: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Returns up to `limit` outstanding deliveries of an app, by trigger, ordering key and
    /// sequence number, after one if given.
    async fn outstanding(
        &self,
        app: AppId,
        which: &DeliveryFilter,
        after: Option<&DeliveryKey>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// Returns the first outstanding deliveries of an app, or of one of its triggers.
    async fn deliveries(
        &self,
        app: AppId,
        trigger: Option<&TriggerName>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let which = DeliveryFilter {
            trigger: trigger.cloned(),
            ..DeliveryFilter::default()
        };
        self.outstanding(app, &which, None, limit).await
    }

    /// Returns the number of outstanding deliveries of an app, counted up to `limit`.
    async fn count_deliveries(
        &self,
        app: AppId,
        which: &DeliveryFilter,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Returns a timer of an app that is set. Those replayed from the dead letters are deliveries
    /// like others, which no name finds.
    async fn timer(&self, app: AppId, name: &TimerName) -> Result<Option<Delivery>, StoreError>;

    /// Returns up to `limit` timers of an app that are set, by name, after one if given.
    async fn timers(
        &self,
        app: AppId,
        after: Option<&TimerName>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// Returns the first time after `now` at which a timer of any app is due.
    async fn next_timer(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError>;

    /// Returns up to `limit` schedules that are due or not planned yet, in order, after one if
    /// given. A row that cannot be decoded is returned as an error and does not affect the others.
    async fn schedules(
        &self,
        after: Option<&SchedulePosition>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<DueSchedule>, StoreError>;

    /// Creates the run of a schedule and plans the next one, unless its planned time has changed
    /// since the tick was made. Returns whether a run was created: none is while an earlier one is
    /// outstanding. Does not wait for an app that a long transaction locks, such as its deletion.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also if the app is locked.
    async fn tick(&self, tick: &ScheduleTick) -> Result<bool, StoreError>;

    /// Returns up to `limit` dead letters of an app, newest first, below one if given.
    async fn dead_letters(
        &self,
        app: AppId,
        letters: &DeadLetterFilter,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError>;

    /// Returns the number of dead letters of an app, counted up to `limit`.
    async fn count_dead_letters(
        &self,
        app: AppId,
        letters: &DeadLetterFilter,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Removes up to `limit` dead letters of an app that were given up before a time, or are not
    /// among the newest `keep`. Returns the number removed.
    async fn prune(
        &self,
        app: AppId,
        before: Timestamp,
        keep: u32,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Removes up to `limit` expired entries and kept answers of an app. Returns the number removed.
    async fn sweep(&self, app: AppId, now: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
