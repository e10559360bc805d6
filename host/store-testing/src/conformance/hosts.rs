//! Hosts of a store: heartbeats, minutes that add up, and what is pruned.

use super::Kit;
use super::kit::NOW;
use kvasm_core::Timestamp;
use kvasm_core::store::{
    HostBeat, HostMinute, KeptMinutes, MinuteCounts, MinuteRange, StoreClock, StoreGauges,
};
use uuid::Uuid;

fn host(id: u128) -> HostBeat {
    HostBeat {
        id: Uuid::from_u128(id),
        name: "a \u{202e}host".to_owned(),
        version: "1.2.3".to_owned(),
        stopped: false,
    }
}

/// A minute with other numbers for each `seed`.
fn minute(minute: i64, seed: u64) -> HostMinute {
    let mut durations = [0; kvasm_core::store::DURATION_BUCKETS];
    for (place, bucket) in durations.iter_mut().enumerate() {
        *bucket = seed * place as u64;
    }
    HostMinute {
        minute,
        counts: MinuteCounts {
            durations,
            failed: seed + 1,
            delivered: seed + 2,
            undelivered: seed + 3,
            lag_ms: seed + 4,
        },
        gauges: Some(StoreGauges {
            apps: seed + 5,
            pending: seed + 6,
            dead_letters: seed + 7,
            paused_triggers: seed + 8,
            store_bytes: Some(1 << 40 | seed),
        }),
    }
}

async fn beat(kit: &Kit, id: u128, minutes: &[HostMinute], now: Timestamp) -> Timestamp {
    let beat = kit.store.beat(&host(id), minutes, now).await;
    beat.expect("a heartbeat")
}

async fn history(kit: &Kit, from: i64, to: i64, width: i64) -> Vec<HostMinute> {
    let range = MinuteRange { from, to, width };
    kit.store.history(range).await.expect("a history")
}

async fn minutes(kit: &Kit) -> Vec<i64> {
    let all = history(kit, 0, i64::MAX / 2, 1).await.into_iter();
    all.map(|sum| sum.minute).collect()
}

async fn ids(kit: &Kit) -> Vec<u128> {
    let hosts = kit.store.hosts(100).await.expect("the hosts").into_iter();
    hosts.map(|host| host.beat.id.as_u128()).collect()
}

pub async fn host_is_seen_by_the_clock_of_the_store(kit: Kit) {
    let clock = kit.store.clock().await.expect("a clock");
    let first = beat(&kit, 1, &[], NOW).await;
    match clock {
        StoreClock::Database(at) => assert!(first >= at, "{first:?} {at:?}"),
        _ => assert_eq!(first, NOW),
    }
    let second = beat(&kit, 1, &[], NOW.plus_ms(10)).await;
    assert!(second >= first);
    beat(&kit, 2, &[], NOW.plus_ms(20)).await;
    let last = HostBeat {
        stopped: true,
        ..host(2)
    };
    let third = kit.store.beat(&last, &[], NOW.plus_ms(30)).await;
    let mut hosts = kit.store.hosts(9).await.expect("the hosts");
    assert_eq!(kit.store.hosts(1).await.expect("one"), hosts[..1]);
    assert!(hosts.is_sorted_by(|a, b| a.seen_at >= b.seen_at));
    // A clock of the store may not have moved in between.
    hosts.sort_by_key(|host| std::cmp::Reverse(host.beat.id));
    assert_eq!(hosts.len(), 2);
    assert_eq!(hosts[0].beat, last);
    assert_eq!(hosts[0].seen_at, third.expect("a heartbeat"));
    assert_eq!(hosts[1].beat, host(1));
    assert_eq!((hosts[1].started_at, hosts[1].seen_at), (first, second));
}

/// The numbers of hosts and minutes are added up, except for maxima; a repetition replaces.
pub async fn minutes_of_hosts_add_up(kit: Kit) {
    assert_eq!(history(&kit, 0, 100, 1).await, []);
    let unsampled = HostMinute {
        gauges: None,
        ..minute(32, 7)
    };
    beat(&kit, 1, &[minute(30, 1), minute(31, 9)], NOW).await;
    beat(&kit, 1, &[minute(31, 2), unsampled], NOW).await;
    beat(&kit, 2, &[minute(31, 3), minute(45, 4)], NOW).await;
    assert_eq!(history(&kit, 30, 31, 1).await, [minute(30, 1)]);
    assert_eq!(history(&kit, 32, 33, 1).await, [unsampled]);
    let mut both = minute(31, 2);
    both.counts.add(&minute(31, 3).counts);
    both.gauges = minute(31, 3).gauges;
    assert_eq!(both.counts.calls(), 5 * 120);
    assert_eq!(history(&kit, 31, 32, 1).await, [both]);
    let mut quarter = minute(30, 1);
    quarter.counts.add(&both.counts);
    quarter.counts.add(&unsampled.counts);
    quarter.gauges = minute(31, 3).gauges;
    assert_eq!(history(&kit, 0, 100, 15).await, [quarter, minute(45, 4)]);
    assert_eq!(history(&kit, 30, 45, 15).await, [quarter]);
    let no_disk = HostMinute {
        gauges: Some(StoreGauges::default()),
        ..minute(60, 5)
    };
    beat(&kit, 1, &[no_disk], NOW).await;
    assert_eq!(history(&kit, 60, 61, 1).await, [no_disk]);
}

pub async fn history_is_pruned_by_age_and_number(kit: Kit) {
    for id in [1, 2] {
        let rows: Vec<_> = (10..20).map(|at| minute(at, 1)).collect();
        beat(&kit, id, &rows, NOW).await;
    }
    let prune = async |from, to, rows_max, limit| {
        let kept = KeptMinutes { from, to, rows_max };
        let pruned = kit.store.prune_history(kept, limit).await;
        pruned.expect("a removal")
    };
    assert_eq!(prune(0, 100, 20, 100).await, 0);
    assert_eq!(prune(12, 100, 100, 3).await, 3);
    assert_eq!(prune(12, 100, 100, 100).await, 1);
    assert_eq!(minutes(&kit).await, (12..20).collect::<Vec<_>>());
    // Of a wrong clock.
    assert_eq!(prune(12, 18, 100, 100).await, 2);
    // Seven minutes of two hosts are left.
    assert_eq!(prune(0, 100, 11, 100).await, 4);
    assert_eq!(minutes(&kit).await, (14..19).collect::<Vec<_>>());
    assert_eq!(prune(0, 100, 0, 100).await, 10);
    assert_eq!(minutes(&kit).await, [0_i64; 0]);
}

pub async fn hosts_are_pruned_by_age_and_number(kit: Kit) {
    let mut seen = Vec::new();
    for id in 1..=6 {
        seen.push(beat(&kit, id, &[], NOW.plus_ms(id as u64 * 1_000)).await);
        // So that the times differ also by a clock of the store.
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    let prune = async |before, after, keep| {
        let pruned = kit.store.prune_hosts(before, after, keep).await;
        pruned.expect("a removal")
    };
    assert_eq!(prune(seen[0], seen[5], 6).await, 0);
    assert_eq!(prune(seen[1], seen[5], 6).await, 1);
    assert_eq!(prune(seen[1], seen[4], 6).await, 1);
    assert_eq!(ids(&kit).await, [5, 4, 3, 2]);
    assert_eq!(prune(seen[0], seen[5], 2).await, 2);
    assert_eq!(ids(&kit).await, [5, 4]);
}
