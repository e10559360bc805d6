//! The overview of a store: its hosts, what they did, and what needs a person.

use super::{HostHistory, MINUTE_MS, StoreSample};
use crate::logs::within;
use crate::{Actor, ServiceError};
use kvasm_core::store::{HostRecord, MinuteCounts, MinuteRange, StoreClock, StoreGauges};
use kvasm_core::{AppId, Capability, Timestamp};
use std::sync::Arc;

/// The maximum number of hosts in an overview.
pub const HOSTS_SHOWN_MAX: usize = 50;
/// The maximum number of hosts that are read. No more than this are kept.
const HOSTS_READ: u32 = 1_000;
/// A host that has been silent for longer than this is gone, in ms.
const GONE_MS: i64 = 60_000;

/// How far back an overview goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverviewWindow {
    /// An hour, in minutes.
    Hour,
    /// A day, in quarters of an hour.
    Day,
}

impl OverviewWindow {
    /// Returns the number of sums.
    pub fn sums(self) -> usize {
        match self {
            OverviewWindow::Hour => 60,
            OverviewWindow::Day => 96,
        }
    }

    /// Returns the minutes of a sum.
    pub fn width(self) -> i64 {
        match self {
            OverviewWindow::Hour => 1,
            OverviewWindow::Day => 15,
        }
    }
}

/// Whether a host lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostState {
    /// It has been seen within the last minute.
    Alive,
    /// It has been silent for longer.
    Gone,
    /// It has ended in an orderly way.
    Stopped,
}

impl HostState {
    /// Returns the state as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            HostState::Alive => "alive",
            HostState::Gone => "gone",
            HostState::Stopped => "stopped",
        }
    }

    fn of(host: &HostRecord, now: Timestamp) -> HostState {
        match host.beat.stopped {
            true => HostState::Stopped,
            false if now.0.saturating_sub(host.seen_at.0) > GONE_MS => HostState::Gone,
            false => HostState::Alive,
        }
    }
}

/// A host in an overview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverviewHost {
    /// The host.
    pub record: HostRecord,
    /// Whether it lives.
    pub state: HostState,
}

/// What all hosts did in a part of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverviewSum {
    /// When it begins.
    pub at: Timestamp,
    /// The sum over the hosts.
    pub counts: MinuteCounts,
    /// The maximum over the hosts; `None` if no host has sampled the store.
    pub gauges: Option<StoreGauges>,
}

/// An overview.
#[derive(Debug, Clone)]
pub struct Overview {
    /// The time of the store.
    pub now: Timestamp,
    /// How far back it goes.
    pub window: OverviewWindow,
    /// Hosts that were seen within a day: those that are gone, those that live by name, and those
    /// that have stopped. At most [`HOSTS_SHOWN_MAX`].
    pub hosts: Vec<OverviewHost>,
    /// The number of hosts that are alive, gone and stopped.
    pub hosts_total: [u64; 3],
    /// All sums of the window in the order of time. The last one is not over yet.
    pub sums: Vec<OverviewSum>,
    /// The last sample of the store by the host that answers; `None` before the first.
    pub sample: Option<Arc<StoreSample>>,
}

impl Overview {
    /// Returns the sum of all.
    pub fn total(&self) -> MinuteCounts {
        let mut total = MinuteCounts::default();
        for sum in &self.sums {
            total.add(&sum.counts);
        }
        total
    }
}

impl HostHistory {
    /// Returns an overview of all hosts and apps. The cost does not depend on the number of apps.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read` for all apps, or an error of the store.
    pub async fn overview(
        &self,
        actor: &Actor,
        window: OverviewWindow,
    ) -> Result<Overview, ServiceError> {
        actor.require(Capability::AppRead(AppId::NONE))?;
        let now = match within(self.store.clock()).await? {
            StoreClock::Database(now) => now,
            StoreClock::Recorded(_) | StoreClock::None => Timestamp::now(),
        };
        let (hosts, hosts_total) = states(self.store.hosts(HOSTS_READ).await?, now);
        let range = range(window, now);
        let found = self.store.history(range).await?;
        let mut found = found.into_iter().peekable();
        let mut sums = Vec::with_capacity(window.sums());
        let mut minute = range.from;
        while minute < range.to {
            let sum = found.next_if(|sum| sum.minute == minute);
            sums.push(OverviewSum {
                at: Timestamp(minute.saturating_mul(MINUTE_MS)),
                counts: sum.map(|sum| sum.counts).unwrap_or_default(),
                gauges: sum.and_then(|sum| sum.gauges),
            });
            minute += range.width;
        }
        Ok(Overview {
            now,
            window,
            hosts,
            hosts_total,
            sums,
            sample: self.sample(),
        })
    }
}

/// The minutes of a window that ends now.
fn range(window: OverviewWindow, now: Timestamp) -> MinuteRange {
    let width = window.width();
    let to = (now.0.div_euclid(MINUTE_MS * width) + 1) * width;
    let sums = i64::try_from(window.sums()).unwrap_or(i64::MAX);
    MinuteRange {
        from: to - sums * width,
        to,
        width,
    }
}

/// The hosts to show, and the number of each state.
fn states(hosts: Vec<HostRecord>, now: Timestamp) -> (Vec<OverviewHost>, [u64; 3]) {
    let mut total = [0; 3];
    let mut hosts: Vec<OverviewHost> = hosts
        .into_iter()
        .map(|record| OverviewHost {
            state: HostState::of(&record, now),
            record,
        })
        .collect();
    for host in &hosts {
        let [alive, gone, stopped] = &mut total;
        *match host.state {
            HostState::Alive => alive,
            HostState::Gone => gone,
            HostState::Stopped => stopped,
        } += 1;
    }
    // Stable: hosts of the same rank and name remain in the order in which they were last seen.
    hosts.sort_by(|a, b| {
        let rank = |host: &OverviewHost| match host.state {
            HostState::Gone => 0,
            HostState::Alive => 1,
            HostState::Stopped => 2,
        };
        let alive = a.state == HostState::Alive && b.state == HostState::Alive;
        let names = || a.record.beat.name.cmp(&b.record.beat.name);
        rank(a).cmp(&rank(b)).then_with(|| match alive {
            true => names(),
            false => std::cmp::Ordering::Equal,
        })
    });
    // A host that crashes all the time must not hide those that live.
    if let Some(excess) = hosts.len().checked_sub(HOSTS_SHOWN_MAX) {
        let mut spare = excess;
        let mut kept: Vec<_> = hosts
            .into_iter()
            .rev()
            .filter(|host| {
                let is_spare = spare > 0 && host.state != HostState::Alive;
                spare -= usize::from(is_spare);
                !is_spare
            })
            .collect();
        kept.reverse();
        kept.truncate(HOSTS_SHOWN_MAX);
        hosts = kept;
    }
    (hosts, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::store::HostBeat;
    use uuid::Uuid;

    fn host(name: &str, seen: i64, stopped: bool) -> HostRecord {
        HostRecord {
            beat: HostBeat {
                id: Uuid::now_v7(),
                name: name.to_owned(),
                version: String::new(),
                stopped,
            },
            started_at: Timestamp(0),
            seen_at: Timestamp(seen),
        }
    }

    #[test]
    fn silent_host_is_gone_unless_it_said_goodbye() {
        let now = Timestamp(1_000_000);
        let hosts = vec![
            host("b", 999_000, false),
            host("a", 940_000, false),
            host("c", 939_999, false),
            host("d", 0, true),
            // The clock of another process.
            host("e", 2_000_000, false),
        ];
        let (shown, total) = states(hosts, now);
        let shown: Vec<_> = shown
            .iter()
            .map(|host| (host.record.beat.name.as_str(), host.state))
            .collect();
        let expected = [
            ("c", HostState::Gone),
            ("a", HostState::Alive),
            ("b", HostState::Alive),
            ("e", HostState::Alive),
            ("d", HostState::Stopped),
        ];
        assert_eq!((shown, total), (expected.to_vec(), [3, 1, 1]));
    }

    #[test]
    fn crashing_host_does_not_hide_the_living() {
        let mut hosts: Vec<_> = (0..200).map(|at| host("crash", at, false)).collect();
        hosts.extend((0..30).map(|_| host("fine", 1_000_000, false)));
        let (shown, total) = states(hosts, Timestamp(1_000_000));
        let alive = shown.iter().filter(|host| host.state == HostState::Alive);
        assert_eq!((shown.len(), alive.count()), (HOSTS_SHOWN_MAX, 30));
        assert_eq!(total, [30, 200, 0]);
    }

    #[test]
    fn window_ends_with_the_current_sum() {
        // Minute 100.
        let now = Timestamp(100 * MINUTE_MS + 59_999);
        let hour = range(OverviewWindow::Hour, now);
        assert_eq!((hour.from, hour.to, hour.width), (41, 101, 1));
        let day = range(OverviewWindow::Day, now);
        assert_eq!((day.from, day.to, day.width), (105 - 1_440, 105, 15));
    }
}
