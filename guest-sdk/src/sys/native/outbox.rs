//! Deliveries of changes: part of the store, so that they are rolled back with it.

use std::collections::BTreeMap;
use std::rc::Rc;

/// The changes that a handler is called for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watch {
    /// The name of the trigger and of the handler.
    pub(crate) handler: String,
    pub(crate) collection: String,
    pub(crate) prefix: String,
    pub(crate) on_set: bool,
    pub(crate) on_delete: bool,
}

/// An event that a handler is called for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) depth: u32,
    pub(crate) at_ms: i64,
    pub(crate) kind: EventKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventKind {
    Set(Changed, i32, Vec<u8>),
    Delete(Changed),
    Schedule,
    Timer { name: String, payload: Vec<u8> },
}

/// The entry that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) collection: String,
    pub(crate) key: String,
    pub(crate) version: u64,
}

impl Event {
    /// Returns the entry that has changed, if it is a change.
    pub(crate) fn changed(&self) -> Option<&Changed> {
        match &self.kind {
            EventKind::Set(changed, ..) | EventKind::Delete(changed) => Some(changed),
            EventKind::Schedule | EventKind::Timer { .. } => None,
        }
    }

    /// Returns the key in whose order the deliveries of a handler run; the events of timers have
    /// one each.
    fn ordering_key(&self) -> &str {
        match &self.kind {
            EventKind::Timer { .. } => &self.id,
            _ => self.changed().map_or("", |changed| &changed.key),
        }
    }

    /// Returns the bytes that a delivery counts against the quota.
    pub(super) fn bytes(&self) -> usize {
        match &self.kind {
            EventKind::Set(changed, _, value) => changed.bytes() + value.len(),
            EventKind::Delete(changed) => changed.bytes(),
            EventKind::Schedule => 0,
            EventKind::Timer { name, payload } => name.len() + payload.len(),
        }
    }
}

impl Changed {
    fn bytes(&self) -> usize {
        self.collection.len() + self.key.len()
    }
}

/// An event on its way to a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) handler: String,
    pub(crate) event: Rc<Event>,
    /// The number of attempts so far.
    pub(crate) attempts: u32,
    pub(crate) queued_at_ms: i64,
    pub(crate) due_at_ms: i64,
}

/// A handler's schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DueSchedule {
    pub(crate) handler: String,
    /// The next time; `None` past the end of the calendar.
    pub(crate) next_ms: Option<i64>,
}

/// What handlers have to do.
#[derive(Clone, Default)]
pub(crate) struct Outbox {
    pub(crate) watches: Rc<[Watch]>,
    pub(crate) schedules: Vec<DueSchedule>,
    /// The deliveries that are not done, in the order in which they were queued.
    pub(crate) queue: BTreeMap<u64, Delivery>,
    /// Those that were given up, by the ids of their dead letters.
    pub(crate) dead: BTreeMap<String, Delivery>,
    /// The dead letters that were replayed, until the host removes them.
    pub(super) replayed: Vec<String>,
    /// The depth of the event that is being handled; 0 in a call.
    pub(crate) depth: u32,
    last_seq: u64,
    last_id: u64,
}

impl Outbox {
    /// Returns the id of a new event.
    pub(crate) fn next_id(&mut self) -> String {
        self.last_id += 1;
        format!("00000000-0000-7000-8000-{:012x}", self.last_id)
    }

    /// Queues the deliveries of a change.
    pub(super) fn fire(&mut self, kind: EventKind, now_ms: i64) {
        let (changed, is_set) = match &kind {
            EventKind::Set(changed, ..) => (changed, true),
            EventKind::Delete(changed) => (changed, false),
            EventKind::Schedule | EventKind::Timer { .. } => return,
        };
        let watches = Rc::clone(&self.watches);
        let is_called = |watch: &&Watch| {
            watch.collection == changed.collection
                && changed.key.starts_with(&watch.prefix)
                && if is_set {
                    watch.on_set
                } else {
                    watch.on_delete
                }
        };
        let called: Vec<&Watch> = watches.iter().filter(is_called).collect();
        if called.is_empty() {
            return;
        }
        let event = Rc::new(Event {
            id: self.next_id(),
            depth: self.depth + 1,
            at_ms: now_ms,
            kind,
        });
        for watch in called {
            self.enqueue(&watch.handler, &event, now_ms);
        }
    }

    /// Queues a delivery behind all others.
    pub(crate) fn enqueue(&mut self, handler: &str, event: &Rc<Event>, now_ms: i64) {
        self.last_seq += 1;
        let delivery = Delivery {
            handler: handler.to_owned(),
            event: Rc::clone(event),
            attempts: 0,
            queued_at_ms: now_ms,
            due_at_ms: now_ms,
        };
        self.queue.insert(self.last_seq, delivery);
    }

    /// Returns the delivery that is due first, and its number: the first of its handler and key.
    pub(crate) fn first_due(&self) -> Option<(u64, &Delivery)> {
        let mut seen = std::collections::BTreeSet::new();
        let heads = self.queue.iter().filter(|(_, delivery)| {
            seen.insert((delivery.handler.as_str(), delivery.event.ordering_key()))
        });
        heads
            .map(|(seq, delivery)| (*seq, delivery))
            .min_by_key(|(seq, delivery)| (delivery.due_at_ms, *seq))
    }
}
