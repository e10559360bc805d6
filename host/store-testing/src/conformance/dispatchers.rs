//! Many dispatchers on one store.

use super::Kit;
use super::deliveries::{key_of, value_of, watched};
use super::kit::{Tenant, absent, json, key, set};
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Claim, Delivery, LeaseToken, Queue, Verdict};
use std::time::Duration;
use tokio::task::JoinSet;

/// Writers, several dispatchers whose leases sometimes expire, and failures: each change is
/// delivered in the order of its key and takes effect once.
pub async fn concurrent_dispatchers_deliver_in_order_exactly_once(kit: Kit) {
    const KEYS: u64 = 5;
    const WRITES: u64 = 60;
    let app = watched(&kit).await;
    let mut tasks = JoinSet::new();
    for k in 0..KEYS {
        let app = app.clone();
        tasks.spawn(async move {
            for n in 0..WRITES {
                app.set("c", &format!("k{k}"), json(&n.to_string())).await;
                if n % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    for dispatcher in 0..4 {
        let app = app.clone();
        let mut rng = super::rng::Rng::new(kit.seed ^ dispatcher);
        tasks.spawn(async move {
            let mut idle = 0;
            while idle < 200 {
                let claimed = claim_for(&app, 4).await;
                idle = if claimed.is_empty() { idle + 1 } else { 0 };
                for (delivery, receipt) in claimed {
                    deliver(&app, &mut rng, &delivery, &receipt).await;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    tasks.join_all().await;
    // Deliveries that dispatchers abandoned are still there and take the same path.
    let mut rng = super::rng::Rng::new(kit.seed);
    let mut round = 0;
    while !app.outstanding().await.is_empty() {
        round += 1;
        assert!(round < 10_000, "no progress");
        let later = app.later(100_000 + round * 1_000);
        for (delivery, receipt) in claim_for(&later, 100).await {
            deliver(&later, &mut rng, &delivery, &receipt).await;
        }
    }
    for k in 0..KEYS {
        let told = app.value("seen", &format!("k{k}")).await;
        let all = (0..WRITES).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(told, Some(json(&format!("[{}]", all.join(",")))), "k{k}");
    }
}

async fn claim_for(app: &Tenant, limit: u32) -> Vec<(Delivery, LeaseToken)> {
    let lease = AppId::generate().uuid();
    let queue = Queue {
        app: app.id,
        trigger: super::event_kit::trigger_name("t"),
    };
    let claim = Claim {
        queue,
        now: app.now,
        until: app.now.plus_ms(50),
        lease,
        limit,
    };
    let claimed = app.store.claim(&claim).await.expect("claim");
    let receipt = |d: &Delivery| LeaseToken {
        app: app.id,
        place: d.place.clone(),
        lease,
    };
    claimed.iter().map(|d| (d.clone(), receipt(d))).collect()
}

/// Appends the event to a list, as a handler would; or fails, or is late.
async fn deliver(
    app: &Tenant,
    rng: &mut super::rng::Rng,
    delivery: &Delivery,
    receipt: &LeaseToken,
) {
    match rng.below(10) {
        0 => drop(app.fail(receipt, Verdict::RetryAt(app.now), false).await),
        // Its lease expires: every other clock is ahead.
        1 => drop(claim_for(&app.later(60), 1).await),
        _ => {
            let told = key(&key_of(delivery));
            let before = app.get("seen", told.as_str()).await;
            let list = before.as_ref().map_or_else(
                || "[]".to_owned(),
                |entry| String::from_utf8_lossy(entry.value.as_bytes()).replace(' ', ""),
            );
            let separator = if list == "[]" { "" } else { "," };
            let list = format!(
                "{}{separator}{}]",
                &list[..list.len() - 1],
                value_of(delivery)
            );
            let batch = app.acknowledging(
                receipt,
                vec![match before {
                    None => absent("seen", told.as_str()),
                    Some(entry) => super::kit::at_version("seen", told.as_str(), entry.version),
                }],
                vec![set("seen", told.as_str(), json(&list))],
            );
            match app.store.commit(batch).await {
                Ok(_) | Err(StoreError::LeaseLost | StoreError::Conflict { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}
