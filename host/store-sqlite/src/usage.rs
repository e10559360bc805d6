//! Usage counters of apps, kept during one transaction.
//!
//! The writer is the only one that counts. It reads an app's row once in a transaction, counts in
//! memory, and writes the row once before the commit. The counters always match the transaction: a
//! savepoint that is rolled back undoes what was counted and read since ([`WriteTransaction::atomically`] has
//! the only one), and counters that could not be written are kept and written again.
//!
//! [`WriteTransaction::atomically`]: super::writer::WriteTransaction::atomically

use super::error;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, DELIVERIES_MAX, ENTRY_BYTES, Resource};
use rusqlite::{Connection, OptionalExtension};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// The change that a write makes to its app's usage.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct UsageDelta {
    pub(super) entries: i64,
    pub(super) bytes: i64,
    pub(super) deliveries: i64,
}

impl UsageDelta {
    /// The delta of an entry that is written or removed, from its sizes after and before; `None`
    /// where it does not exist.
    pub(super) fn entry(after: Option<i64>, before: Option<i64>) -> UsageDelta {
        let entries = i64::from(after.is_some()) - i64::from(before.is_some());
        let bytes = after.unwrap_or(0) - before.unwrap_or(0);
        UsageDelta {
            entries,
            bytes: bytes + entries * ENTRY_BYTES as i64,
            deliveries: 0,
        }
    }

    /// The delta of a delivery that is queued, from its size. A run of a schedule has size 0 and is
    /// not counted.
    pub(super) fn queued(size: i64) -> UsageDelta {
        UsageDelta {
            entries: 0,
            bytes: size,
            deliveries: i64::from(size > 0),
        }
    }

    /// The delta of bytes that belong to no entry or delivery: of dead letters and kept answers.
    pub(super) fn of_bytes(bytes: i64) -> UsageDelta {
        UsageDelta {
            bytes,
            ..UsageDelta::default()
        }
    }
}

impl std::ops::Neg for UsageDelta {
    type Output = UsageDelta;

    fn neg(self) -> UsageDelta {
        UsageDelta {
            entries: -self.entries,
            bytes: -self.bytes,
            deliveries: -self.deliveries,
        }
    }
}

impl std::ops::AddAssign for UsageDelta {
    fn add_assign(&mut self, other: UsageDelta) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.deliveries += other.deliveries;
    }
}

/// The counters and limits of one app.
struct AppCounters {
    entries: i64,
    bytes: i64,
    deliveries: i64,
    entries_max: Option<i64>,
    bytes_max: Option<i64>,
    /// Increases with each change of its triggers; 0 if it never had one.
    triggers: i64,
    changed: bool,
}

/// The apps that the open transaction has touched.
#[derive(Default)]
pub(super) struct UsageCounters {
    accounts: HashMap<AppId, AppCounters>,
    since_savepoint: Option<Savepoint>,
}

/// The changes since the open savepoint.
#[derive(Default)]
struct Savepoint {
    counted: Vec<(AppId, UsageDelta)>,
    /// The apps that were read: the row may be rolled back.
    opened: Vec<AppId>,
}

impl UsageCounters {
    /// Reads an app's row unless it was already read.
    pub(super) fn open(&mut self, connection: &Connection, app: AppId) -> Result<(), StoreError> {
        if let Entry::Vacant(place) = self.accounts.entry(app) {
            let account = read(connection, app).map_err(error::store)?;
            place.insert(account.ok_or(StoreError::AppNotFound)?);
            if let Some(since) = &mut self.since_savepoint {
                since.opened.push(app);
            }
        }
        Ok(())
    }

    /// Returns the generation of the app's triggers, as of this transaction.
    pub(super) fn triggers(&self, app: AppId) -> i64 {
        self.accounts
            .get(&app)
            .map_or(0, |account| account.triggers)
    }

    /// Checks a write against the app's quota. A write that does not increase the usage of an
    /// exhausted resource is always allowed, so that an app over its quota can free space.
    pub(super) fn check(&self, app: AppId, delta: UsageDelta) -> Result<(), StoreError> {
        let Some(account) = self.accounts.get(&app) else {
            return Ok(());
        };
        let fits = |resource, used: i64, delta: i64, max: Option<i64>| match max {
            Some(max) if delta > 0 && used.saturating_add(delta) > max => Err(StoreError::Quota {
                resource,
                limit: max.unsigned_abs(),
            }),
            _ => Ok(()),
        };
        let AppCounters {
            entries,
            bytes,
            deliveries,
            entries_max,
            bytes_max,
            ..
        } = *account;
        fits(Resource::Entries, entries, delta.entries, entries_max)?;
        fits(Resource::Bytes, bytes, delta.bytes, bytes_max)?;
        let max = Some(DELIVERIES_MAX as i64);
        fits(Resource::Deliveries, deliveries, delta.deliveries, max)
    }

    /// Counts a write that took effect.
    pub(super) fn add(&mut self, app: AppId, delta: UsageDelta) {
        if delta == UsageDelta::default() {
            return;
        }
        if let Some(account) = self.accounts.get_mut(&app) {
            account.entries += delta.entries;
            account.bytes += delta.bytes;
            account.deliveries += delta.deliveries;
            account.changed = true;
            if let Some(since) = &mut self.since_savepoint {
                since.counted.push((app, delta));
            }
        }
    }

    /// Starts a savepoint: later counts can be undone.
    pub(super) fn save(&mut self) {
        self.since_savepoint = Some(Savepoint::default());
    }

    /// Ends the savepoint and keeps its counts.
    pub(super) fn release(&mut self) {
        self.since_savepoint = None;
    }

    /// Ends the savepoint, undoes its counts and forgets what was read since.
    pub(super) fn roll_back(&mut self) {
        let since = self.since_savepoint.take().unwrap_or_default();
        for (app, delta) in since.counted {
            if let Some(account) = self.accounts.get_mut(&app) {
                account.entries -= delta.entries;
                account.bytes -= delta.bytes;
                account.deliveries -= delta.deliveries;
            }
        }
        for app in since.opened {
            self.accounts.remove(&app);
        }
    }

    /// Writes the changed counters, and forgets everything. After an error nothing is forgotten:
    /// rows that were written are written again with the others.
    pub(super) fn write(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for (app, account) in &self.accounts {
            if account.changed {
                connection
                    .prepare_cached(
                        "UPDATE app_usage SET entries = ?2, bytes = ?3, queued = ?4
                         WHERE app_id = ?1",
                    )?
                    .execute((
                        app.uuid().as_bytes(),
                        account.entries,
                        account.bytes,
                        account.deliveries,
                    ))?;
            }
        }
        self.accounts.clear();
        Ok(())
    }
}

fn read(connection: &Connection, app: AppId) -> rusqlite::Result<Option<AppCounters>> {
    connection
        .prepare_cached(
            "SELECT u.entries, u.bytes, a.entries_max, a.bytes_max, a.triggers,
                    u.queued
             FROM apps AS a JOIN app_usage AS u ON u.app_id = a.id WHERE a.id = ?1",
        )?
        .query_row([app.uuid().as_bytes()], |row| {
            Ok(AppCounters {
                entries: row.get(0)?,
                bytes: row.get(1)?,
                entries_max: row.get(2)?,
                bytes_max: row.get(3)?,
                triggers: row.get(4)?,
                deliveries: row.get(5)?,
                changed: false,
            })
        })
        .optional()
}
