//! The store of a thread whose harness has a host of its own: a copy of the host's, and what the test
//! has written since.

use super::faults::Faults;
use super::outbox::{Changed, Event, EventKind, Outbox};
use super::store::{Row, Store};
use super::timers::SetTimer;
use super::{Host, fetch, letters, with};
use crate::http::{Request, Response};
use crate::testing::remote::{State, hex, kind};
use crate::{Context, Error};
use kvasm_abi::{FORMAT_BYTES, FORMAT_JSON};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A write of a test.
#[derive(Clone)]
pub(super) enum Written {
    Set {
        collection: String,
        key: String,
        row: Row,
    },
    Delete {
        collection: String,
        key: String,
    },
    TimerSet(SetTimer),
    TimerCancel(String),
    Replay(String),
}

impl Written {
    fn to_json(&self) -> Value {
        match self {
            Written::Set {
                collection,
                key,
                row,
            } => json!({ "set": {
                "collection": collection,
                "key": key,
                "value": hex(&row.value),
                "is_json": row.format == FORMAT_JSON,
                "expires_at_ms": row.expires_at_ms,
            } }),
            Written::Delete { collection, key } => {
                json!({ "delete": { "collection": collection, "key": key } })
            }
            Written::TimerSet(timer) => json!({ "timer_set": {
                "name": timer.name,
                "at_ms": timer.at_ms,
                "payload": hex(&timer.payload),
            } }),
            Written::TimerCancel(name) => json!({ "timer_cancel": { "name": name } }),
            Written::Replay(letter) => json!({ "replay": { "letter": letter } }),
        }
    }
}

/// What a test has written, each batch atomically.
#[derive(Default)]
pub(crate) struct WrittenBatches(Vec<Vec<Written>>);

impl WrittenBatches {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn to_json(&self) -> Value {
        let batch = |batch: &Vec<Written>| batch.iter().map(Written::to_json).collect::<Value>();
        self.0.iter().map(batch).collect()
    }
}

impl Store {
    /// Records a write outside of transactions, if this is a copy.
    pub(super) fn record(&mut self, write: impl FnOnce() -> Written) {
        if self.view.is_none()
            && let Some(written) = &mut self.written
        {
            written.push(write());
        }
    }

    /// Changes the version of an entry, if it exists, to that of the host's store.
    pub(super) fn set_version(&mut self, collection: &str, key: &str, version: u64) {
        self.last_version = self.last_version.max(version);
        if let Some(row) = self.row_mut(collection, key) {
            row.version = version;
        }
    }

    /// Adds an entry of the host's store.
    pub(super) fn load(&mut self, collection: String, key: String, row: Row) {
        self.last_version = self.last_version.max(row.version);
        self.replace(&collection, &key, Some(row));
    }
}

/// Makes the store a copy: writes are recorded, and trigger nothing here.
pub(crate) fn begin_copy() {
    with(|host| {
        host.store.written = Some(Vec::new());
        host.store.outbox = Outbox::default();
    });
}

/// Ends a write or a transaction. One of the test is what its host commits as one batch.
pub(super) fn end_write(host: &mut Host) {
    letters::remove_replayed(host);
    if host.store.view.is_none()
        && let Some(written) = host.store.written.as_mut().filter(|list| !list.is_empty())
    {
        let batch = std::mem::take(written);
        host.batches.0.push(batch);
    }
}

/// Returns what was written since this was called last.
pub(crate) fn take_written() -> WrittenBatches {
    with(|host| std::mem::take(&mut host.batches))
}

/// Gives entries that were written the versions that they have on the host.
pub(crate) fn set_versions(WrittenBatches(batches): &WrittenBatches, versions: &[Vec<u64>]) {
    with(|host| {
        for (batch, versions) in batches.iter().zip(versions) {
            let set = batch.iter().filter_map(|write| match write {
                Written::Set {
                    collection, key, ..
                } => Some((collection, key)),
                _ => None,
            });
            for ((collection, key), version) in set.zip(versions) {
                host.store.set_version(collection, key, *version);
            }
        }
    });
}

pub(crate) fn is_in_transaction() -> bool {
    with(|host| host.store.view.is_some())
}

/// Returns the time without counting a call.
pub(crate) fn time_ms() -> i64 {
    with(|host| host.now_ms())
}

/// Returns the context of a test that has not changed it.
pub(crate) fn first_context() -> Context {
    Host::new().context
}

/// Replaces the store by what the host has.
pub(crate) fn load(state: State) {
    with(|host| {
        let mut store = Store {
            written: Some(Vec::new()),
            ..Store::default()
        };
        for entry in state.entries {
            let row = Row {
                value: entry.value,
                format: match entry.is_json {
                    true => FORMAT_JSON,
                    false => FORMAT_BYTES,
                },
                version: entry.version,
                expires_at_ms: entry.expires_at_ms,
            };
            store.load(entry.collection, entry.key, row);
        }
        for timer in state.timers {
            store.timers_set += 1;
            let timer = SetTimer {
                name: timer.name,
                at_ms: timer.at_ms,
                payload: timer.payload,
                number: store.timers_set,
                attempts: timer.attempts,
                due_at_ms: timer.at_ms,
                queued_at_ms: timer.at_ms,
            };
            store.timers.insert(timer.name.clone(), timer);
        }
        for queued in state.queue {
            let kind = match queued.changed {
                Some((collection, key, version)) => EventKind::Delete(Changed {
                    collection,
                    key,
                    version,
                }),
                None => EventKind::Schedule,
            };
            let event = Rc::new(Event {
                id: queued.event_id,
                depth: 1,
                at_ms: 0,
                kind,
            });
            store.outbox.enqueue(&queued.handler, &event, 0);
        }
        host.store = store;
        host.dead_letters = state.dead;
    });
}

/// Returns the test's answer to a request of the plugin.
pub(crate) fn answer_fetch(request: Request) -> Result<Response, Error> {
    fetch::answer(request)
}

/// Returns the faults of the next action, by the numbers of its operations.
pub(crate) fn planned_faults() -> Value {
    with(|host| {
        let Faults {
            operations,
            failures,
            conflicts,
            crash_after,
            ..
        } = &host.faults;
        let relative = |at: u64| at.saturating_sub(*operations);
        let failures: BTreeMap<String, Value> = failures
            .iter()
            .map(|(at, error)| {
                let error = json!({ "kind": kind(error), "message": error.message() });
                (relative(*at).to_string(), error)
            })
            .collect();
        json!({
            "failures": failures,
            "conflicts": conflicts,
            "crash_after": crash_after.map(relative),
        })
    })
}

/// Counts the operations of an action, and forgets the faults that have occurred.
pub(crate) fn count_faults(operations: u64, conflicts: u32) {
    with(|host| {
        let faults = &mut host.faults;
        faults.operations += operations;
        let done = faults.operations;
        faults.failures.retain(|at, _| *at > done);
        faults.conflicts = faults.conflicts.saturating_sub(conflicts);
    });
}

/// Counts the operations before a crash.
pub(crate) fn count_crash() {
    let operations = with(|host| {
        let at = host.faults.crash_after.take();
        at.unwrap_or_default()
            .saturating_sub(host.faults.operations)
    });
    count_faults(operations, 0);
}
