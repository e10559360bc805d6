//! Starting points for queues whose scan from the beginning is slow.
//!
//! While any session holds a snapshot, deleted deliveries stay in the index before the live ones,
//! and each scan steps over all of them. So for a queue whose claims take long, a host remembers
//! the first due time that it found, and scans from there. Newer deliveries are due later.
//! Exceptions, such as the delivery of another host whose clock is behind or an expired lease, are
//! found by the next scan from the beginning, which comes the sooner the faster it is.

use kvasm_core::{Queue, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A claim that takes longer stepped over many deleted rows.
const SLOW: Duration = Duration::from_millis(4);
/// This many in a row, because on a busy machine any claim is slow now and then.
const SLOW_CLAIMS: u32 = 16;
/// A scan from the beginning is repeated after this many times its duration, within bounds, so it
/// takes at most a twentieth of the time.
const REST: u32 = 20;
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);
/// New deliveries may be due this much before the existing ones.
const SLACK_MS: i64 = 2_000;
/// The maximum number of remembered queues.
const QUEUES_MAX: usize = 256;

/// Before every time.
const BEGINNING: i64 = i64::MIN;

#[derive(Debug, Clone, Copy)]
struct Horizon {
    from: i64,
    /// When the queue is scanned from its beginning again.
    until: Instant,
    /// Consecutive slow claims. The horizon applies after `SLOW_CLAIMS` of them.
    slow: u32,
}

impl Horizon {
    /// Does not hold if the clock has stepped back behind it.
    fn holds(&self, now: Timestamp) -> bool {
        self.slow >= SLOW_CLAIMS && self.from <= now.0 && self.until > Instant::now()
    }
}

/// The queues of a store that are slow to scan.
#[derive(Default)]
pub(super) struct Horizons(Mutex<BTreeMap<(Uuid, String), Horizon>>);

/// The queues as parameters of a statement, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct QueueParams {
    pub(super) apps: Vec<Uuid>,
    pub(super) names: Vec<String>,
    pub(super) from: Vec<i64>,
}

impl Horizons {
    /// Returns the time from which to scan a queue.
    pub(super) fn from(&self, queue: &Queue, now: Timestamp) -> i64 {
        let horizons = self.0.lock();
        if horizons.is_empty() {
            return BEGINNING;
        }
        let horizon = horizons.get(&place(queue));
        let horizon = horizon.filter(|horizon| horizon.holds(now));
        horizon.map_or(BEGINNING, |horizon| horizon.from)
    }

    /// Returns all remembered queues.
    pub(super) fn known(&self, now: Timestamp) -> QueueParams {
        let mut known = QueueParams::default();
        for ((app, name), horizon) in &*self.0.lock() {
            if horizon.holds(now) {
                known.apps.push(*app);
                known.names.push(name.clone());
                known.from.push(horizon.from);
            }
        }
        known
    }

    /// Records a claim that scanned a queue from a time on and found the first delivery due at
    /// `first`.
    pub(super) fn learn(&self, queue: &Queue, from: i64, first: Timestamp, took: Duration) {
        let first = first.0.saturating_sub(SLACK_MS);
        let whole = from == BEGINNING;
        let mut horizons = self.0.lock();
        if horizons.is_empty() && took < SLOW {
            return;
        }
        let place = place(queue);
        match horizons.get_mut(&place) {
            Some(horizon) if !whole => horizon.from = horizon.from.max(first),
            Some(_) if took < SLOW => drop(horizons.remove(&place)),
            found => {
                let now = Instant::now();
                if found.is_none() && (!whole || took < SLOW) {
                    return;
                }
                if horizons.len() >= QUEUES_MAX {
                    horizons.retain(|_, horizon| horizon.until > now);
                }
                if horizons.len() < QUEUES_MAX || horizons.contains_key(&place) {
                    let rest = (took * REST).clamp(REST_MIN, REST_MAX);
                    let before = horizons.get(&place).map_or(0, |horizon| horizon.slow);
                    let horizon = Horizon {
                        from: first,
                        until: now + rest,
                        slow: before.saturating_add(1),
                    };
                    horizons.insert(place, horizon);
                }
            }
        }
    }
}

fn place(queue: &Queue) -> (Uuid, String) {
    (queue.app.uuid(), queue.trigger.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{AppId, TriggerName};

    fn queue(name: &str) -> Queue {
        Queue {
            app: AppId::from(Uuid::from_u128(7)),
            trigger: TriggerName::stored(name.to_owned()),
        }
    }

    const NOW: Timestamp = Timestamp(100_000);
    const LONG: Duration = Duration::from_millis(40);
    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn horizon_is_kept_while_the_queue_is_slow() {
        let horizons = Horizons::default();
        let one = queue("one");
        horizons.learn(&one, BEGINNING, Timestamp(10_000), SHORT);
        assert_eq!(horizons.from(&one, NOW), BEGINNING);
        for _ in 0..SLOW_CLAIMS {
            assert_eq!(horizons.from(&one, NOW), BEGINNING);
            horizons.learn(&one, BEGINNING, Timestamp(10_000), LONG);
        }
        assert_eq!(horizons.from(&one, NOW), 8_000);
        assert_eq!(horizons.from(&one, Timestamp(7_999)), BEGINNING);
        // It moves forward with each claim, and never back.
        horizons.learn(&one, 8_000, Timestamp(20_000), SHORT);
        horizons.learn(&one, 8_000, Timestamp(15_000), SHORT);
        assert_eq!(horizons.from(&one, NOW), 18_000);
        assert_eq!(horizons.from(&queue("two"), NOW), BEGINNING);
        // Scanned from its beginning, it was fast.
        horizons.learn(&one, BEGINNING, Timestamp(30_000), SHORT);
        assert_eq!(horizons.from(&one, NOW), BEGINNING);
    }

    #[test]
    fn known_horizons_are_ordered_and_bounded() {
        let horizons = Horizons::default();
        for n in (0..QUEUES_MAX * 2).rev() {
            for _ in 0..SLOW_CLAIMS {
                let queue = queue(&format!("{n:05}"));
                horizons.learn(&queue, BEGINNING, Timestamp(10_000), LONG);
            }
        }
        let known = horizons.known(NOW);
        assert_eq!(known.names.len(), QUEUES_MAX);
        assert!(known.names.is_sorted());
        assert_eq!(
            (known.apps.len(), known.from.len()),
            (QUEUES_MAX, QUEUES_MAX)
        );
    }
}
