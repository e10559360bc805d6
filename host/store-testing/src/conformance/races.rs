//! Concurrent callers: when only one may win, exactly one does.

use super::Kit;
use super::kit::{NOW, Tenant, absent, at_version, bytes, delete, list, set};
use kvasm_core::store::StoreError;
use kvasm_core::{Applied, Check, ListQuery, Op, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const CALLERS: usize = 8;

/// Makes callers commit at the same time, and counts those without a conflict.
async fn winners(app: &Tenant, batch: impl Fn(usize) -> (Vec<Check>, Vec<Op>)) -> usize {
    let start = Arc::new(Barrier::new(CALLERS));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (app, start, (checks, ops)) = (app.clone(), Arc::clone(&start), batch(caller));
        callers.spawn(async move {
            start.wait().await;
            match app.try_commit(checks, ops).await {
                Ok(_) => true,
                Err(StoreError::Conflict { .. }) => false,
                Err(error) => panic!("{error:?}"),
            }
        });
    }
    callers
        .join_all()
        .await
        .into_iter()
        .filter(|won| *won)
        .count()
}

/// The operation on `k`, in some rounds with another one, so that both the statement for one
/// operation and the transaction for several are tested.
fn with_another(round: usize, caller: usize, op: Op) -> Vec<Op> {
    let mut ops = vec![op];
    if round % 2 == 1 {
        ops.push(set("c", &format!("beside-{caller}"), bytes("x")));
    }
    if round % 4 == 3 {
        ops.reverse();
    }
    ops
}

pub async fn one_concurrent_update_of_a_version_wins(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "k", bytes("0")).await;
    for round in 0..30 {
        let version = app.get("c", "k").await.unwrap().version;
        let won = winners(&app, |caller| {
            let op = set("c", "k", bytes([caller as u8]));
            (
                vec![at_version("c", "k", version)],
                with_another(round, caller, op),
            )
        });
        assert_eq!(won.await, 1, "round {round}");
        assert!(app.get("c", "k").await.unwrap().version > version);
    }
}

pub async fn one_concurrent_create_wins(kit: Kit) {
    let app = kit.app().await;
    for round in 0..30 {
        let k = format!("k{round}");
        let won = winners(&app, |caller| {
            let op = set("c", &k, bytes([caller as u8]));
            (vec![absent("c", &k)], with_another(round, caller, op))
        });
        assert_eq!(won.await, 1, "round {round}");
        assert!(app.has("c", &k).await);
    }
}

pub async fn one_concurrent_recreate_of_an_expired_entry_wins(kit: Kit) {
    let app = kit.app().await;
    let after = app.later(10);
    for round in 0..20 {
        let k = format!("k{round}");
        let old = app.set_until("c", &k, bytes("old"), NOW.plus_ms(10)).await;
        let won = winners(&after, |caller| {
            let op = set("c", &k, bytes([caller as u8]));
            (vec![absent("c", &k)], with_another(round, caller, op))
        });
        assert_eq!(won.await, 1, "round {round}");
        assert!(after.get("c", &k).await.unwrap().version > old);
    }
}

pub async fn one_concurrent_delete_of_a_version_wins(kit: Kit) {
    let app = kit.app().await;
    for round in 0..20 {
        let version = app.set("c", "k", bytes("0")).await;
        // Half of them set instead.
        let won = winners(&app, |caller| {
            let op = match caller % 2 {
                0 => delete("c", "k"),
                _ => set("c", "k", bytes([caller as u8])),
            };
            (
                vec![at_version("c", "k", version)],
                with_another(round, caller, op),
            )
        });
        assert_eq!(won.await, 1, "round {round}");
    }
}

fn number(value: &Value) -> i64 {
    let text = String::from_utf8(value.as_bytes().to_vec()).expect("text");
    text.parse().expect("a number")
}

pub async fn concurrent_transfers_preserve_the_sum(kit: Kit) {
    const ACCOUNTS: usize = 5;
    let app = kit.app().await;
    for account in 0..ACCOUNTS {
        app.set("c", &format!("k{account}"), bytes("100")).await;
    }
    let mut rng = kit.rng();
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let (app, mut rng) = (app.clone(), rng.split());
        callers.spawn(async move {
            let mut done = 0;
            while done < 25 {
                let from = rng.below(ACCOUNTS);
                let to = (from + 1 + rng.below(ACCOUNTS - 1)) % ACCOUNTS;
                let [from, to] = [from, to].map(|account| format!("k{account}"));
                let a = app.get("c", &from).await.unwrap();
                let b = app.get("c", &to).await.unwrap();
                let checks = vec![
                    at_version("c", &from, a.version),
                    at_version("c", &to, b.version),
                ];
                let ops = vec![
                    set("c", &from, bytes((number(&a.value) - 1).to_string())),
                    set("c", &to, bytes((number(&b.value) + 1).to_string())),
                ];
                match app.try_commit(checks, ops).await {
                    Ok(_) => done += 1,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
    }
    // Every page is a snapshot in which the sum is right.
    let query = ListQuery {
        with_values: true,
        ..list("c")
    };
    let sum = async || {
        let page = app.page(&query).await;
        assert_eq!(page.entries.len(), ACCOUNTS);
        page.entries
            .iter()
            .map(|(_, entry)| number(&entry.as_ref().unwrap().value))
            .sum::<i64>()
    };
    while !callers.is_empty() {
        assert_eq!(sum().await, 100 * ACCOUNTS as i64);
        if let Some(Err(error)) = callers.try_join_next() {
            std::panic::resume_unwind(error.into_panic());
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(sum().await, 100 * ACCOUNTS as i64);
}

/// Batches over the same keys in opposite orders: none fails, and each is seen completely.
pub async fn batches_in_opposite_key_orders_do_not_deadlock(kit: Kit) {
    let app = kit.app().await;
    let keys: Vec<_> = (0..20).map(|at| format!("k{at:02}")).collect();
    let mut callers = JoinSet::new();
    for caller in 0..6_usize {
        let (app, mut keys) = (app.clone(), keys.clone());
        if caller % 2 == 1 {
            keys.reverse();
        }
        callers.spawn(async move {
            for round in 0..20 {
                let op = |(at, k): (usize, &String)| match (caller + round + at) % 5 {
                    0 if caller > 2 => delete("c", k),
                    _ => set("c", k, bytes([caller as u8])),
                };
                let mut ops: Vec<_> = keys.iter().enumerate().map(op).collect();
                if round % 3 == 0 {
                    // Forces a transaction on Postgres.
                    ops.push(delete("c", &keys[0]));
                }
                app.commit(vec![], ops).await;
            }
        });
    }
    callers.join_all().await;
}

/// Two absence checks that guard each other's keys: both cannot hold.
pub async fn crossed_absence_checks_prevent_write_skew(kit: Kit) {
    let app = kit.app().await;
    for round in 0..30 {
        let [a, b] = ["a", "b"].map(|name| format!("{name}{round}"));
        let won = winners(&app, |caller| {
            let (mine, other) = if caller % 2 == 0 { (&a, &b) } else { (&b, &a) };
            (
                vec![absent("c", other)],
                vec![set("c", mine, bytes([caller as u8]))],
            )
        });
        // All callers on one side may win, as they check only the other side.
        assert!(won.await >= 1, "round {round}: no caller won");
        let there = (app.has("c", &a).await, app.has("c", &b).await);
        assert!(
            there == (true, false) || there == (false, true),
            "round {round}: {there:?}"
        );
    }
}

pub async fn readers_never_see_half_a_batch(kit: Kit) {
    let app = kit.app().await;
    let stop = Arc::new(AtomicBool::new(false));
    let ops = |round: u32| {
        let value = bytes(round.to_string());
        let mut ops: Vec<_> = (0..10)
            .map(|at| set("c", &format!("k{at}"), value.clone()))
            .collect();
        if round % 2 == 1 {
            ops.push(delete("c", "not there"));
        }
        ops
    };
    app.commit(vec![], ops(0)).await;
    let reader = {
        let (app, stop) = (app.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let query = ListQuery {
                with_values: true,
                ..list("c")
            };
            while !stop.load(Ordering::Relaxed) {
                let page = app.page(&query).await;
                let value = |at: usize| page.entries[at].1.as_ref().unwrap().value.clone();
                assert_eq!(page.entries.len(), 10);
                assert!(
                    (1..10).all(|at| value(at) == value(0)),
                    "half a batch: {page:?}"
                );
            }
        })
    };
    for round in 1..100 {
        app.commit(vec![], ops(round)).await;
    }
    stop.store(true, Ordering::Relaxed);
    reader.await.expect("every batch was seen whole");
}

/// A key that batches delete and set again exists at every moment. So a deletion finds it, even
/// one that has waited for such a batch.
pub async fn delete_finds_an_entry_replaced_concurrently(kit: Kit) {
    let app = kit.app().await;
    for round in 0..100 {
        app.set("c", "k", bytes("0")).await;
        let start = Arc::new(Barrier::new(2));
        let replace = {
            let (app, start) = (app.clone(), Arc::clone(&start));
            tokio::spawn(async move {
                start.wait().await;
                let ops = vec![delete("c", "k"), set("c", "k", bytes("1"))];
                app.commit(vec![], ops).await
            })
        };
        start.wait().await;
        let existed = app.delete("c", "k").await;
        let replaced = replace.await.expect("the batch");
        assert!(existed, "round {round}: the deletion found nothing");
        // It came before the batch and found the first entry, or after it.
        let before = replaced[0] == Applied::Deleted { existed: false };
        assert_eq!(app.has("c", "k").await, before, "round {round}");
    }
}

pub async fn app_deletion_during_concurrent_writes(kit: Kit) {
    for round in 0..6 {
        let app = kit.app().await;
        let ops = (0..300)
            .map(|at| set("c", &format!("old{at}"), bytes("x")))
            .collect();
        app.commit(vec![], ops).await;
        let mut writers = JoinSet::new();
        for writer in 0..4_usize {
            let app = app.clone();
            writers.spawn(async move {
                let mut written = 0_usize;
                loop {
                    let k = format!("k{writer}-{}", written % 7);
                    let ops = match written % 4 {
                        0 => vec![set("c", &k, bytes("x"))],
                        1 => vec![set("c", &k, bytes("x")), set("c", "shared", bytes("x"))],
                        2 => vec![set("c", "shared", bytes("x")), delete("c", &k)],
                        _ => vec![set("c", &format!("old{written}"), bytes("x"))],
                    };
                    match app.try_commit(vec![], ops).await {
                        Ok(_) => written += 1,
                        Err(StoreError::AppNotFound) => return written,
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
        // Once all callers are running.
        while !app.has("c", "shared").await {
            tokio::task::yield_now().await;
        }
        assert!(kit.delete_app(app.id).await.unwrap(), "round {round}");
        assert!(!app.has("c", "shared").await, "an entry outlived its app");
        writers.join_all().await;
        assert_eq!(app.keys("c").await, Vec::<String>::new());
    }
}
