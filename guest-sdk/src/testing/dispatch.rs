//! The deliveries of a harness, by the rules of the host's dispatcher.

use super::harness::Harness;
use super::plugin::Retries;
use super::remote;
use super::run::{self, Ended};
use crate::dead_letters::{DeadLetter, Kind};
use crate::sys::native::{self, Delivery, Event, EventKind, SetTimer};
use crate::{Caller, Context, Trigger, trigger};
use kvasm_abi::{
    EXIT_LATER, EXIT_OK, EXIT_PERMANENT, FORMAT_JSON, RETRY_MS_MIN, TIMER_HANDLER, retry_ms,
};
use serde_json::json;
use std::rc::Rc;

/// The maximum number of runs in one call of the harness, and of those at one time of the clock.
const RUNS_MAX: u32 = 100_000;
const RUNS_AT_ONCE_MAX: u32 = 10_000;
/// The maximum depth of an event.
const DEPTH_MAX: u32 = 8;
/// The number of attempts after which a delivery is given up if each would presumably fail in the
/// same way.
const DETERMINISTIC_ATTEMPTS_MAX: u32 = 3;
/// The longest wait between two attempts.
const BACKOFF_MS_MAX: i64 = 60 * 60 * 1_000;
/// How long a delivery stays with a host that has crashed.
const LEASE_MS: i64 = 30_000;

/// What the handlers did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Deliveries {
    /// The number of deliveries whose handler succeeded.
    pub succeeded: u32,
    /// Why attempts failed, in order, each with the handler's name.
    pub failures: Vec<String>,
    /// What was given up.
    pub dead: Vec<DeadLetter>,
}

impl Deliveries {
    /// Asserts that no attempt failed. Returns how many deliveries succeeded.
    ///
    /// # Panics
    /// If an attempt failed, or a delivery was given up.
    #[track_caller]
    pub fn assert_ok(&self) -> u32 {
        assert!(
            self.failures.is_empty() && self.dead.is_empty(),
            "handlers failed: {:#?}, dead letters: {:#?}",
            self.failures,
            self.dead
        );
        self.succeeded
    }
}

/// What is due.
enum Work {
    Delivery(u64, Delivery),
    Timer(SetTimer),
    Schedule(usize),
}

/// What to do after a failed attempt.
enum Verdict {
    RetryAt(i64),
    Dead(&'static str),
}

/// How an attempt failed.
struct Failure {
    is_permanent: bool,
    is_deterministic: bool,
    error: String,
}

impl Harness {
    /// Runs what is due now, without moving the clock: the deliveries of changes, schedules and
    /// timers, and what follows from them at once.
    ///
    /// # Panics
    /// If that does not end after 10,000 runs at one time of the clock, or 100,000 in all.
    #[track_caller]
    pub fn run_due(&mut self) -> Deliveries {
        self.run_until(self.now_ms())
    }

    /// Runs handlers until no delivery is outstanding: all have succeeded, or are dead letters.
    /// The clock moves to the times of retries; schedules and timers that become due meanwhile run
    /// too. Later ones are not waited for.
    ///
    /// A cycle of handlers that change what they watch ends with a dead letter, at depth 9 as on a
    /// host.
    ///
    /// # Panics
    /// If that does not end after 10,000 runs at one time of the clock, or 100,000 in all.
    #[track_caller]
    pub fn settle(&mut self) -> Deliveries {
        if let Some(remote) = remote::current() {
            return remote.deliver(None);
        }
        let mut done = Deliveries::default();
        let mut runs = Runs::default();
        loop {
            self.work_until(self.now_ms(), &mut done, &mut runs);
            let retries = native::timers()
                .into_iter()
                .filter(|timer| timer.attempts > 0)
                .map(|timer| timer.due_at_ms);
            let next = native::outbox(|outbox| Some(outbox.first_due()?.1.due_at_ms));
            match retries.chain(next).min() {
                Some(at_ms) => native::set_now_ms(at_ms.max(self.now_ms())),
                None => return done,
            }
        }
    }

    /// Runs what is due until a time, each at its time, and leaves the clock there.
    #[track_caller]
    pub(super) fn run_until(&mut self, until_ms: i64) -> Deliveries {
        if let Some(remote) = remote::current() {
            return remote.deliver(Some(until_ms));
        }
        let mut done = Deliveries::default();
        self.work_until(until_ms, &mut done, &mut Runs::default());
        native::set_now_ms(until_ms);
        done
    }

    fn work_until(&mut self, until_ms: i64, done: &mut Deliveries, runs: &mut Runs) {
        while let Some((at_ms, work)) = next_work().filter(|(at_ms, _)| *at_ms <= until_ms) {
            native::set_now_ms(at_ms.max(self.now_ms()));
            match work {
                Work::Schedule(at) => self.queue_schedule(at),
                Work::Delivery(seq, delivery) => {
                    runs.count(&delivery);
                    self.deliver(Place::Queue(seq), delivery, done);
                }
                Work::Timer(timer) => {
                    let delivery = delivery_of(&timer);
                    runs.count(&delivery);
                    self.deliver(Place::Timer(timer), delivery, done);
                }
            }
        }
    }

    /// Queues a run of a schedule for the last time that has passed, unless one is outstanding.
    fn queue_schedule(&self, at: usize) {
        let now_ms = self.now_ms();
        native::outbox(|outbox| {
            let Some(schedule) = outbox.schedules.get(at).cloned() else {
                return;
            };
            let calendar = self.plugin.schedules.get(&schedule.handler);
            let next_after = |at_ms| calendar.and_then(|calendar| calendar.next_after(at_ms));
            let (mut last, mut next) = (now_ms, schedule.next_ms);
            while let Some(time) = next.filter(|time| *time <= now_ms) {
                last = time;
                next = next_after(time);
            }
            let is_running = |delivery: &Delivery| {
                delivery.handler == schedule.handler && delivery.event.kind == EventKind::Schedule
            };
            if !outbox.queue.values().any(is_running) {
                let event = Rc::new(Event {
                    id: outbox.next_id(),
                    depth: 1,
                    at_ms: last,
                    kind: EventKind::Schedule,
                });
                outbox.enqueue(&schedule.handler, &event, now_ms);
            }
            if let Some(schedule) = outbox.schedules.get_mut(at) {
                schedule.next_ms = next;
            }
        });
    }

    fn deliver(&mut self, place: Place, mut delivery: Delivery, done: &mut Deliveries) {
        delivery.attempts += 1;
        let event = Rc::clone(&delivery.event);
        if event.depth > DEPTH_MAX {
            let error = format!(
                "trigger recursion limit exceeded (depth {}, limit {DEPTH_MAX}): handlers change \
                 what they watch",
                event.depth
            );
            return bury(&place, &delivery, "depth", error, done);
        }
        let retries = self.plugin.retries(&delivery.handler);
        if delivery.attempts > retries.attempts_max {
            let error = "every attempt was abandoned (host crash or expired lease)".to_owned();
            return bury(&place, &delivery, "attempts", error, done);
        }
        let ended = self.attempt(&place, &delivery);
        let now_ms = self.now_ms();
        let failure = match ended {
            Ended::Returned(EXIT_OK, _) => {
                done.succeeded += 1;
                return;
            }
            Ended::Crashed => {
                done.failures
                    .push(format!("{}: the host crashed", delivery.handler));
                delivery.due_at_ms = now_ms + LEASE_MS;
                return place.update(delivery);
            }
            Ended::Returned(EXIT_LATER, output) => {
                // It is no attempt, and the age counts from then.
                let wait_ms = retry_ms(&output).unwrap_or(RETRY_MS_MIN);
                delivery.attempts -= 1;
                delivery.due_at_ms = now_ms.saturating_add_unsigned(wait_ms);
                delivery.queued_at_ms = delivery.due_at_ms;
                return place.update(delivery);
            }
            Ended::Returned(code, output) => Failure {
                is_permanent: code == EXIT_PERMANENT,
                is_deterministic: false,
                error: format!(
                    "the function failed with code {code}: {}",
                    String::from_utf8_lossy(&output)
                ),
            },
            Ended::Panicked(message) => Failure {
                is_permanent: false,
                is_deterministic: true,
                error: format!("the plugin {message}"),
            },
            Ended::NotCommitted(error) => Failure {
                is_permanent: false,
                is_deterministic: false,
                error: format!("the transaction was not committed: {error}"),
            },
        };
        let text = format!("{}: {}", delivery.handler, failure.error);
        done.failures.push(text);
        match verdict(retries, &delivery, now_ms, &failure) {
            Verdict::RetryAt(at_ms) => {
                delivery.due_at_ms = at_ms;
                place.update(delivery);
            }
            Verdict::Dead(reason) => bury(&place, &delivery, reason, failure.error, done),
        }
    }

    /// Runs the handler once, as a transaction that also removes the delivery.
    fn attempt(&mut self, place: &Place, delivery: &Delivery) -> Ended {
        let Delivery {
            handler,
            event,
            attempts,
            ..
        } = delivery;
        let Some(export) = self.plugin.exports.get(handler).cloned() else {
            return Ended::Panicked(format!("has no handler {handler:?}"));
        };
        let frame = match frame(delivery) {
            Ok(frame) => frame,
            Err(why) => return Ended::Panicked(why),
        };
        let context = Context {
            function: handler.clone(),
            request_id: format!("{}-{attempts}", event.id),
            caller: Caller::Trigger,
            trigger: Some(Trigger::new(handler, &event.id, *attempts, event.depth)),
            ..native::current_context()
        };
        native::outbox(|outbox| outbox.depth = event.depth);
        let ended = run::run(context, &frame, true, || place.remove(), export.run);
        native::outbox(|outbox| outbox.depth = 0);
        ended
    }
}

/// Where a delivery is kept.
enum Place {
    Queue(u64),
    Timer(SetTimer),
}

impl Place {
    fn remove(&self) {
        match self {
            Place::Queue(seq) => native::outbox(|outbox| drop(outbox.queue.remove(seq))),
            Place::Timer(timer) => native::take_timer(timer),
        }
    }

    /// Keeps the delivery for another attempt.
    fn update(&self, delivery: Delivery) {
        match self {
            Place::Queue(seq) => {
                // If the host has crashed after the commit, it is done.
                native::outbox(|outbox| {
                    if let Some(kept) = outbox.queue.get_mut(seq) {
                        *kept = delivery;
                    }
                });
            }
            Place::Timer(timer) => native::update_timer(SetTimer {
                attempts: delivery.attempts,
                due_at_ms: delivery.due_at_ms,
                queued_at_ms: delivery.queued_at_ms,
                ..timer.clone()
            }),
        }
    }
}

/// Returns what is due first, and when.
fn next_work() -> Option<(i64, Work)> {
    let first = native::outbox(|outbox| {
        let (seq, delivery) = outbox.first_due()?;
        Some((delivery.due_at_ms, Work::Delivery(seq, delivery.clone())))
    });
    let schedules: Vec<_> = native::outbox(|outbox| {
        let all = outbox.schedules.iter().enumerate();
        all.filter_map(|(at, schedule)| Some((schedule.next_ms?, Work::Schedule(at))))
            .collect()
    });
    let timers = native::timers().into_iter();
    let timer = timers.min_by_key(|timer| (timer.due_at_ms, timer.number));
    let timer = timer.map(|timer| (timer.due_at_ms, Work::Timer(timer)));
    first
        .into_iter()
        .chain(schedules)
        .chain(timer)
        .min_by_key(|(at_ms, _)| *at_ms)
}

fn delivery_of(timer: &SetTimer) -> Delivery {
    let event = Event {
        id: format!("00000000-0000-7000-9000-{:012x}", timer.number),
        depth: 1,
        at_ms: timer.at_ms,
        kind: EventKind::Timer {
            name: timer.name.clone(),
            payload: timer.payload.clone(),
        },
    };
    Delivery {
        handler: TIMER_HANDLER.to_owned(),
        event: Rc::new(event),
        attempts: timer.attempts,
        queued_at_ms: timer.queued_at_ms,
        due_at_ms: timer.due_at_ms,
    }
}

/// How many handlers have run.
#[derive(Default)]
struct Runs {
    all: u32,
    /// Those at this time of the clock.
    at_once: (i64, u32),
}

impl Runs {
    /// Counts a run.
    ///
    /// # Panics
    /// If there are too many.
    fn count(&mut self, delivery: &Delivery) {
        let now_ms = crate::now_ms();
        self.all += 1;
        self.at_once = match self.at_once {
            (at_ms, count) if at_ms == now_ms => (at_ms, count + 1),
            _ => (now_ms, 1),
        };
        assert!(
            self.all <= RUNS_MAX && self.at_once.1 <= RUNS_AT_ONCE_MAX,
            "the handlers do not come to an end after {} runs, {} of them at {now_ms} ms; the last \
             is {:?} for {:?}",
            self.all - 1,
            self.at_once.1 - 1,
            delivery.handler,
            delivery.event.kind
        );
    }
}

/// Decides as the dispatcher of a host does.
fn verdict(retries: Retries, delivery: &Delivery, now_ms: i64, failure: &Failure) -> Verdict {
    let Retries {
        attempts_max,
        age_max_ms,
    } = retries;
    let attempts = delivery.attempts;
    let is_hopeless =
        failure.is_deterministic && attempts >= DETERMINISTIC_ATTEMPTS_MAX.min(attempts_max);
    if failure.is_permanent || is_hopeless {
        return Verdict::Dead("deterministic");
    }
    if attempts >= attempts_max {
        return Verdict::Dead("attempts");
    }
    let wait_ms = 3_i64.saturating_pow(attempts - 1).saturating_mul(1_000);
    let at_ms = now_ms + wait_ms.min(BACKOFF_MS_MAX);
    match at_ms > delivery.queued_at_ms.saturating_add(age_max_ms) {
        true => Verdict::Dead("age"),
        false => Verdict::RetryAt(at_ms),
    }
}

/// Makes a delivery a dead letter.
fn bury(place: &Place, delivery: &Delivery, reason: &str, error: String, done: &mut Deliveries) {
    place.remove();
    let event = &delivery.event;
    let changed = event.changed();
    let letter = DeadLetter {
        id: native::outbox(|outbox| outbox.next_id()),
        event_id: event.id.clone(),
        trigger: delivery.handler.clone(),
        function: delivery.handler.clone(),
        kind: match &event.kind {
            EventKind::Set(..) => Kind::Set,
            EventKind::Delete(_) => Kind::Delete,
            EventKind::Schedule => Kind::Schedule,
            EventKind::Timer { .. } => Kind::Unknown,
        },
        collection: changed.map(|changed| changed.collection.clone()),
        key: changed.map(|changed| changed.key.clone()),
        version: changed.map(|changed| changed.version),
        reason: reason.to_owned(),
        error,
        attempts: delivery.attempts,
        at_ms: event.at_ms,
        dead_at_ms: crate::now_ms(),
    };
    native::outbox(|outbox| outbox.dead.insert(letter.id.clone(), delivery.clone()));
    native::add_dead_letter(letter.clone());
    done.dead.push(letter);
}

/// Encodes the handler's input as the host does.
fn frame(delivery: &Delivery) -> Result<Vec<u8>, String> {
    let Delivery {
        handler,
        event,
        attempts,
        ..
    } = delivery;
    let head = |kind: &str, format: i32| {
        let mut head = json!({
            "kind": kind,
            "event_id": event.id,
            "trigger": handler,
            "attempt": attempts,
            "depth": event.depth,
            "at_ms": event.at_ms,
            "format": format,
        });
        if let (Some(changed), Some(members)) = (event.changed(), head.as_object_mut()) {
            members.insert("collection".to_owned(), json!(changed.collection));
            members.insert("key".to_owned(), json!(changed.key));
            members.insert("version".to_owned(), json!(changed.version));
        }
        head
    };
    match &event.kind {
        EventKind::Set(_, format, value) => {
            crate::http::handler::frame(&head("set", *format), value)
        }
        EventKind::Delete(_) => crate::http::handler::frame(&head("delete", FORMAT_JSON), &[]),
        EventKind::Schedule => crate::http::handler::frame(&head("schedule", FORMAT_JSON), &[]),
        EventKind::Timer { name, payload } => {
            trigger::encode_timer(name, payload, event.at_ms, &event.id, *attempts)
        }
    }
}
