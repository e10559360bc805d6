//! A list that takes a while, under concurrent writes.

use super::Kit;
use super::kit::{Tenant, bytes, delete, keys_of, list, set};
use super::loop_guard::LoopGuard;
use super::rng::Rng;
use kvasm_core::ListQuery;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

const KEYS: usize = 100_000;

/// Every tenth key belongs to the writers, which set and delete it all the time.
fn volatile(at: usize) -> bool {
    at % 10 == 3
}

fn name(at: usize) -> String {
    format!("k{at:06}")
}

async fn load(app: &Tenant) {
    for first in (0..KEYS).step_by(1000) {
        let ops = (first..first + 1000)
            .map(|at| set("c", &name(at), bytes("v")))
            .collect();
        app.commit(vec![], ops).await;
    }
}

async fn write_concurrently(app: Tenant, mut rng: Rng, stop: Arc<AtomicBool>) -> usize {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let k = name(rng.below(KEYS / 10) * 10 + 3);
        let op = match rng.below(3) {
            0 => set("c", &k, bytes("other")),
            // New keys between the old ones.
            1 => set("c", &format!("{k}-{}", rng.below(3)), bytes("new")),
            _ => delete("c", &k),
        };
        app.commit(vec![], vec![op]).await;
        written += 1;
    }
    written
}

/// Lists everything, and returns how often each of the stable keys was returned.
async fn walk(app: &Tenant, reverse: bool, with_values: bool) -> HashMap<String, u32> {
    let mut query = ListQuery {
        reverse,
        with_values,
        ..list("c")
    };
    let mut told = HashMap::with_capacity(KEYS);
    let mut last: Option<String> = None;
    let mut rounds = LoopGuard::new();
    loop {
        rounds.next();
        let page = app.page(&query).await;
        for key in keys_of(&page) {
            let in_order = last.as_deref().is_none_or(|last| (last < key) != reverse);
            assert!(in_order, "{key} came after {last:?}");
            last = Some(key.to_owned());
            *told.entry(key.to_owned()).or_default() += 1;
        }
        if !page.more {
            return told;
        }
        query.range = query
            .range
            .after(&page.entries.last().expect("a key").0, reverse);
    }
}

pub async fn long_list_is_complete_under_concurrent_writes(kit: Kit) {
    let app = kit.app().await;
    load(&app).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut rng = kit.rng();
    let mut writers = JoinSet::new();
    for _ in 0..4 {
        writers.spawn(write_concurrently(
            app.clone(),
            rng.split(),
            Arc::clone(&stop),
        ));
    }
    for (reverse, with_values) in [(false, false), (true, true)] {
        let told = walk(&app, reverse, with_values).await;
        for at in (0..KEYS).filter(|at| !volatile(*at)) {
            assert_eq!(
                told.get(&name(at)),
                Some(&1),
                "{} was missed or returned twice",
                name(at)
            );
        }
        assert!(
            told.values().all(|times| *times == 1),
            "a key was returned twice"
        );
    }
    stop.store(true, Ordering::Relaxed);
    let written: usize = writers.join_all().await.into_iter().sum();
    assert!(written > 0, "no writes happened during the lists");
}
