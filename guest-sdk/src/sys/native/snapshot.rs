//! Copies of the store.

use super::store::{Row, Store};
use super::timers::SetTimer;
use super::with;
use crate::dead_letters::DeadLetter;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::rc::Rc;

/// The store, the dead letters and the clock at one moment.
#[derive(Clone)]
pub(crate) struct HostSnapshot {
    store: Store,
    dead_letters: Vec<DeadLetter>,
    clock: super::clock::Clock,
    now_ms: i64,
    /// The copy of the store, if the host of the harness is another process.
    pub(crate) copy: Option<Rc<Path>>,
}

impl HostSnapshot {
    pub(crate) fn take() -> HostSnapshot {
        with(|host| HostSnapshot {
            store: host.store.clone(),
            dead_letters: host.dead_letters.clone(),
            clock: host.clock,
            now_ms: host.now_ms(),
            copy: None,
        })
    }

    pub(crate) fn restore(&self) {
        with(|host| {
            host.store = self.store.clone();
            host.dead_letters = self.dead_letters.clone();
            host.clock = self.clock;
        });
    }

    /// Returns collections, keys and values of the entries that have not expired.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &str, &[u8])> {
        let rows = self.store.rows();
        rows.filter(|(.., row)| row.is_live(self.now_ms))
            .map(|(collection, key, row)| (collection, key, row.value.as_slice()))
    }

    /// Returns what two snapshots are compared by: not the versions and ids, which a repetition
    /// changes.
    fn compared(&self) -> ComparedParts<'_> {
        let rows = self.store.rows();
        let rows = rows.filter(|(.., row)| row.is_live(self.now_ms));
        let rows = rows.map(|(collection, key, row)| {
            let Row {
                value,
                format,
                expires_at_ms,
                ..
            } = row;
            (collection, key, value.as_slice(), *format, *expires_at_ms)
        });
        let timers: &BTreeMap<String, SetTimer> = &self.store.timers;
        let timers = timers.values();
        let timers =
            timers.map(|timer| (timer.name.as_str(), timer.at_ms, timer.payload.as_slice()));
        let queue = self.store.outbox.queue.values();
        let queue = queue.map(|delivery| {
            let key = delivery.event.changed().map_or("", |changed| &changed.key);
            (delivery.handler.as_str(), key)
        });
        (rows.collect(), timers.collect(), queue.collect())
    }
}

/// Entries, timers, and the handlers and keys of deliveries.
type ComparedParts<'a> = (
    Vec<Compared<'a>>,
    Vec<ComparedTimer<'a>>,
    Vec<(&'a str, &'a str)>,
);

/// Collection, key, value, format and expiry of an entry.
type Compared<'a> = (&'a str, &'a str, &'a [u8], i32, Option<i64>);
/// Name, time and payload of a timer.
type ComparedTimer<'a> = (&'a str, i64, &'a [u8]);

impl PartialEq for HostSnapshot {
    fn eq(&self, other: &HostSnapshot) -> bool {
        self.compared() == other.compared()
    }
}

impl fmt::Debug for HostSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (entries, timers, queue) = self.compared();
        let entries = entries
            .into_iter()
            .map(|(collection, key, value, ..)| (format!("{collection}/{key}"), text(value)));
        let timers = timers
            .into_iter()
            .map(|(name, at_ms, payload)| (name, (at_ms, text(payload))));
        f.debug_struct("Snapshot")
            .field("entries", &entries.collect::<BTreeMap<_, _>>())
            .field("timers", &timers.collect::<BTreeMap<_, _>>())
            .field("deliveries", &queue)
            .finish()
    }
}
