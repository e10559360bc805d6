//! Usage counters of apps, and their quotas.
//!
//! An app's usage is the sum over its slots. Each write counts in one of them, so that writers do
//! not wait for each other's commits. Each slot has a grant, and accepts writes within it. The
//! grants add up to the quota, so no slot needs to read another. The bytes of deliveries, dead
//! letters and kept answers count too.
//!
//! A write that exceeds the grant of its slot is rolled back by a constraint of the schema, and
//! repeated in a transaction that locks all slots: there the quota as a whole decides, and the free
//! part is redistributed. This is O'Neil's escrow method (1986).

use super::lease::Lease;
use super::sql;
use super::transaction::Abort;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, DELIVERIES_MAX, DELIVERY_BYTES, ENTRY_BYTES, Quota, Resource};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};

/// The slots of each app. Changing the number requires a migration that creates the rows: a write
/// that counts in a slot without a row is not counted.
pub(super) const SLOTS: i16 = 8;

/// The change that a write makes to its app's usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SlotDelta {
    entries: i64,
    bytes: i64,
    deliveries: i64,
}

impl SlotDelta {
    /// Counts an entry whose size changes from `replaced` to `size`; 0 means none, or a placeholder
    /// row.
    pub(super) fn replace(&mut self, size: i32, replaced: i32) {
        let entries = i64::from(size != 0) - i64::from(replaced != 0);
        self.entries += entries;
        self.bytes += i64::from(size) - i64::from(replaced) + entries * ENTRY_BYTES as i64;
    }

    /// Counts created deliveries.
    pub(super) fn queue(&mut self, deliveries: i64, bytes: i64) {
        self.deliveries += deliveries;
        self.bytes += bytes;
    }

    /// Subtracts a delivery. A run of a schedule has size 0 and is not counted.
    pub(super) fn remove_delivery(&mut self, size: i32) {
        self.deliveries -= i64::from(size != 0);
        self.bytes -= i64::from(size);
    }

    /// Counts a dead letter of `bytes` bytes that becomes a delivery of `size` bytes again.
    pub(super) fn replay(&mut self, size: i32, bytes: i64) {
        self.deliveries += i64::from(size != 0);
        self.bytes += i64::from(size) - bytes;
    }

    /// Counts a kept answer of `size` bytes, which replaces an expired one of `replaced` bytes, 0 if
    /// none.
    pub(super) fn keep_answer(&mut self, size: i32, replaced: i32) {
        self.bytes += i64::from(size) - i64::from(replaced);
    }

    /// Adds another change.
    pub(super) fn add(&mut self, other: SlotDelta) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.deliveries += other.deliveries;
    }

    /// Counts a dead letter, from the size of its delivery and the bytes of the texts of its
    /// failure.
    pub(super) fn add_dead_letter(&mut self, size: i32, texts: usize) {
        self.bytes += i64::from(size).max(DELIVERY_BYTES as i64) + texts as i64;
    }
}

/// The slots in which a transaction counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counting {
    /// That of its connection, which may be exhausted although the quota is not.
    OneSlot,
    /// All of them, locked until it ends.
    AllSlots,
}

/// Counts a change, last in its transaction.
pub(super) async fn count(
    lease: &mut Lease,
    app: AppId,
    delta: SlotDelta,
    counting: Counting,
) -> Result<(), Abort> {
    if delta == SlotDelta::default() {
        return Ok(());
    }
    if counting == Counting::AllSlots {
        let total = hold(lease, app).await?;
        total.check(delta)?;
        return Ok(redistribute(lease, app, &total, delta).await?);
    }
    Ok(add(lease, sql::usage_sql::COUNT, app, delta).await?)
}

/// Counts a change unconditionally, last in its transaction.
pub(super) async fn count_always(
    lease: &mut Lease,
    app: AppId,
    delta: SlotDelta,
) -> Result<(), Error> {
    add(lease, sql::usage_sql::COUNT_ALWAYS, app, delta).await
}

async fn add(
    lease: &mut Lease,
    text: &'static str,
    app: AppId,
    delta: SlotDelta,
) -> Result<(), Error> {
    let statement = sqlx::query(text).bind(app.uuid()).bind(lease.slot());
    let statement = statement.bind(delta.entries).bind(delta.bytes);
    lease.run(statement.bind(delta.deliveries)).await.map(drop)
}

/// Creates the slots of a new app.
pub(super) async fn create(lease: &mut Lease, app: AppId, quota: Quota) -> Result<(), Error> {
    let statement = sqlx::query(sql::usage_sql::CREATE).bind(app.uuid());
    lease.run(statement.bind(i32::from(SLOTS))).await?;
    if quota == Quota::default() {
        return Ok(());
    }
    redistribute_quota(lease, app).await
}

/// Distributes a quota that has changed.
pub(super) async fn redistribute_quota(lease: &mut Lease, app: AppId) -> Result<(), Error> {
    let total = hold(lease, app).await?;
    redistribute(lease, app, &total, SlotDelta::default()).await
}

/// Locks all slots, and returns their sum.
async fn hold(lease: &mut Lease, app: AppId) -> Result<Total, Error> {
    let statement = sqlx::query(sql::usage_sql::HOLD).bind(app.uuid());
    lease.run(statement).await?;
    let statement = sqlx::query(sql::usage_sql::TOTAL).bind(app.uuid());
    let rows = lease.run(statement).await?;
    let row = rows.first().ok_or(Error::RowNotFound)?;
    Ok(Total {
        entries: ResourceUse::of(row, 0)?,
        bytes: ResourceUse::of(row, 2)?,
        deliveries: ResourceUse {
            used: row.try_get(4)?,
            max: Some(DELIVERIES_MAX as i64),
        },
    })
}

async fn redistribute(
    lease: &mut Lease,
    app: AppId,
    total: &Total,
    delta: SlotDelta,
) -> Result<(), Error> {
    let entries = total.entries.shares(delta.entries);
    let bytes = total.bytes.shares(delta.bytes);
    let deliveries = total.deliveries.shares(delta.deliveries);
    let statement = sqlx::query(sql::usage_sql::DEAL)
        .bind(app.uuid())
        .bind(lease.slot())
        .bind(delta.entries)
        .bind(delta.bytes)
        .bind(entries.map(|shares| shares.here))
        .bind(entries.map(|shares| shares.elsewhere))
        .bind(bytes.map(|shares| shares.here))
        .bind(bytes.map(|shares| shares.elsewhere))
        .bind(delta.deliveries)
        .bind(deliveries.map(|shares| shares.here))
        .bind(deliveries.map(|shares| shares.elsewhere));
    lease.run(statement).await.map(drop)
}

/// What an app uses, and its limits.
struct Total {
    entries: ResourceUse,
    bytes: ResourceUse,
    deliveries: ResourceUse,
}

impl Total {
    /// Checks a change against the quota.
    fn check(&self, delta: SlotDelta) -> Result<(), StoreError> {
        let fits = |account: &ResourceUse, delta, resource| match account.max {
            // A change that adds nothing is always allowed, so that an app over its quota can free
            // space.
            Some(max) if delta > 0 && account.free(max, delta) < 0 => Err(StoreError::Quota {
                resource,
                limit: max.unsigned_abs(),
            }),
            _ => Ok(()),
        };
        fits(&self.entries, delta.entries, Resource::Entries)?;
        fits(&self.bytes, delta.bytes, Resource::Bytes)?;
        fits(&self.deliveries, delta.deliveries, Resource::Deliveries)
    }
}

/// One resource of an app.
struct ResourceUse {
    used: i64,
    max: Option<i64>,
}

/// How much more the slots may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shares {
    /// The writer's slot.
    here: i64,
    /// Each of the others.
    elsewhere: i64,
}

impl ResourceUse {
    fn of(row: &PgRow, first: usize) -> Result<ResourceUse, Error> {
        Ok(ResourceUse {
            used: row.try_get(first)?,
            max: row.try_get(first + 1)?,
        })
    }

    /// Returns what is left after a change.
    fn free(&self, max: i64, delta: i64) -> i64 {
        max.saturating_sub(self.used).saturating_sub(delta)
    }

    /// Distributes what is left after a change; `None` without a limit.
    ///
    /// While an app is over its quota, no slot may use more before that slot alone has freed the
    /// excess: then no slot can increase the sum while it is above the quota, whatever the others
    /// free. If a slot refuses although others have freed enough, the shares are redistributed.
    fn shares(&self, delta: i64) -> Option<Shares> {
        let free = self.free(self.max?, delta);
        let even = free / i64::from(SLOTS);
        Some(if free < 0 {
            Shares {
                here: free,
                elsewhere: free,
            }
        } else if even < delta {
            // Too little for another write of this size in each slot. The rest goes where it was
            // requested, and the next request moves it.
            Shares {
                here: free,
                elsewhere: 0,
            }
        } else {
            Shares {
                here: free - even * i64::from(SLOTS - 1),
                elsewhere: even,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_shares_distribute_the_free_quota() {
        let shares = |used, max, delta| {
            let shares = ResourceUse { used, max }.shares(delta)?;
            Some((shares.here, shares.elsewhere))
        };
        assert_eq!(shares(5, None, 1), None);
        assert_eq!(shares(0, Some(100), 0), Some((16, 12)));
        assert_eq!(shares(20, Some(101), 1), Some((10, 10)));
        assert_eq!(shares(20, Some(100), 20), Some((60, 0)));
        assert_eq!(shares(20, Some(40), 20), Some((0, 0)));
        assert_eq!(shares(50, Some(40), 0), Some((-10, -10)));
        assert_eq!(shares(50, Some(40), -20), Some((10 - 7, 1)));
        assert_eq!(
            shares(0, Some(i64::MAX), 0),
            Some((i64::MAX / 8 + 7, i64::MAX / 8))
        );
    }

    #[test]
    fn change_that_adds_nothing_is_never_refused() {
        let account = |used, max| ResourceUse {
            used,
            max: Some(max),
        };
        let check = |entries, bytes| {
            let total = Total {
                entries: account(3, 2),
                bytes: account(10, 12),
                deliveries: account(0, 1),
            };
            total.check(SlotDelta {
                entries,
                bytes,
                deliveries: 0,
            })
        };
        assert!(check(0, 2).is_ok() && check(-1, -5).is_ok() && check(0, -1).is_ok());
        for (entries, bytes, short, most) in [
            (1, -5, Resource::Entries, 2),
            (1, 3, Resource::Entries, 2),
            (-1, 3, Resource::Bytes, 12),
        ] {
            let refusal = check(entries, bytes);
            let Err(StoreError::Quota { resource, limit }) = refusal else {
                panic!("{refusal:?}")
            };
            assert_eq!((resource, limit), (short, most));
        }
    }

    #[test]
    fn delta_of_a_replacement_counts_both_sizes() {
        let mut delta = SlotDelta::default();
        for (size, replaced) in [(10, 0), (7, 9), (0, 4), (0, 0), (5, 0)] {
            delta.replace(size, replaced);
        }
        let entry = ENTRY_BYTES as i64;
        assert_eq!((delta.entries, delta.bytes), (1, 9 + entry));
        delta.queue(2, 20);
        delta.remove_delivery(4);
        assert_eq!((delta.bytes, delta.deliveries), (25 + entry, 1));
        // A run of a schedule.
        delta.remove_delivery(0);
        assert_eq!((delta.bytes, delta.deliveries), (25 + entry, 1));
    }
}
