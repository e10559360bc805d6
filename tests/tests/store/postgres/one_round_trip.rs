//! Batches of one round trip, concurrent with all other changes of the same rows.

use super::usage::{quota, two_hosts, used};
use super::{connect, deadlocks, options, psql};
use kvasm::model::{Applied, Check, Expect, Op, Resource, Value, Version};
use kvasm::store::StoreError;
use kvasm_store_testing::conformance::kit::{
    Tenant, absent, at_version, bytes, check, cost, delete, set,
};
use kvasm_store_testing::conformance::rng::Rng;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

const ACCOUNTS: usize = 6;
const EACH: u64 = 100;
const STEPS: usize = 150;

/// The versions that each account's entries had. None is reused.
type Seen = Arc<Mutex<BTreeSet<(String, Version)>>>;

struct BankClient {
    app: Tenant,
    rng: Rng,
    seen: Seen,
}

fn account(at: usize) -> String {
    format!("account-{at}")
}

/// An account without money has no entry.
fn put(key: &str, amount: u64) -> Op {
    match amount {
        0 => delete("a", key),
        amount => set("a", key, bytes(amount.to_string())),
    }
}

impl BankClient {
    async fn look(&self, key: &str) -> (Expect, u64) {
        let Some(entry) = self.app.get("a", key).await else {
            return (Expect::Absent, 0);
        };
        let Value::Bytes(text) = entry.value else {
            panic!("{:?} is not an amount", entry.value)
        };
        let amount = String::from_utf8(text).unwrap().parse().unwrap();
        (Expect::Version(entry.version), amount)
    }

    /// Commits unless there is a conflict. Returns whether it did.
    async fn try_commit(&self, checks: Vec<Check>, ops: Vec<Op>) -> bool {
        let applied = match self.app.try_commit(checks.clone(), ops.clone()).await {
            Ok(applied) => applied,
            Err(StoreError::Conflict { .. }) => return false,
            Err(error) => panic!("{error:?}"),
        };
        for (op, applied) in ops.iter().zip(applied) {
            let key = op.address().1;
            let before = checks.iter().find(|check| check.key == *key);
            let before = before.map(|check| check.expect);
            match applied {
                Applied::Set(version) => {
                    if let Some(Expect::Version(before)) = before {
                        assert!(version > before, "{key:?}: {version:?} after {before:?}");
                    }
                    let is_new = self
                        .seen
                        .lock()
                        .unwrap()
                        .insert((key.as_str().to_owned(), version));
                    assert!(is_new, "{key:?} had {version:?} before");
                }
                Applied::Deleted { existed } => {
                    assert_eq!(existed, before != Some(Expect::Absent), "{key:?}");
                }
                other => panic!("not sent: {other:?}"),
            }
        }
        true
    }

    /// Transfers money. A redundant check forces the transaction path; an absent entry that is
    /// only checked is locked by a placeholder row.
    async fn transfer(&mut self) {
        let (from, to) = (self.rng.below(ACCOUNTS), self.rng.below(ACCOUNTS - 1));
        let to = if to >= from { to + 1 } else { to };
        let (from, to) = (account(from), account(to));
        let ((from_was, has), (to_was, gets)) = (self.look(&from).await, self.look(&to).await);
        let amount = match self.rng.chance(1, 3) {
            true => has,
            false => self.rng.below(has as usize + 1) as u64,
        };
        let mut checks = vec![check("a", &from, from_was), check("a", &to, to_was)];
        match self.rng.below(4) {
            0 => checks.push(check("a", &to, to_was)),
            1 => checks.push(absent("a", "account-0-frozen")),
            _ => {}
        }
        let ops = vec![put(&from, has - amount), put(&to, gets + amount)];
        self.try_commit(checks, ops).await;
    }

    /// Rewrites the current value in a statement of its own.
    async fn touch(&mut self) {
        let key = account(self.rng.below(ACCOUNTS));
        let (was, has) = self.look(&key).await;
        self.try_commit(vec![check("a", &key, was)], vec![put(&key, has)])
            .await;
    }

    /// Deletes an account, then recreates it or adds to what another caller created.
    async fn recreate(&mut self) {
        let key = account(self.rng.below(ACCOUNTS));
        let (was, has) = self.look(&key).await;
        let gone = self.try_commit(vec![check("a", &key, was)], vec![delete("a", &key)]);
        if !gone.await {
            return;
        }
        loop {
            let (was, now) = self.look(&key).await;
            let ops = vec![put(&key, now + has)];
            if self.try_commit(vec![check("a", &key, was)], ops).await {
                return;
            }
        }
    }

    /// Sets and deletes other keys, without checks.
    async fn write_other_keys(&mut self) {
        let key = |rng: &mut Rng| format!("account-{}-note", rng.below(ACCOUNTS));
        let (one, two) = (key(&mut self.rng), key(&mut self.rng));
        let mut ops = vec![set("a", &one, bytes("note"))];
        if one != two {
            ops.push(match self.rng.chance(1, 2) {
                true => delete("a", &two),
                false => set("a", &two, bytes("note")),
            });
        }
        self.app.commit(vec![], ops).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_on_three_hosts_preserve_the_sum() {
    let options = options().await;
    let mut kits = Vec::new();
    for _ in 0..3 {
        kits.push(connect(options.clone()).await);
    }
    let mut rng = kits[0].rng();
    let app = kits[0].app().await;
    let seen = Seen::default();
    for at in 0..ACCOUNTS {
        let version = app.set("a", &account(at), bytes(EACH.to_string())).await;
        seen.lock().unwrap().insert((account(at), version));
    }
    let mut tellers = JoinSet::new();
    for at in 0..12 {
        let store = Arc::clone(&kits[at % 3].store);
        let mut teller = BankClient {
            app: Tenant {
                store,
                ..app.clone()
            },
            rng: rng.split(),
            seen: Arc::clone(&seen),
        };
        tellers.spawn(async move {
            for _ in 0..STEPS {
                match teller.rng.below(8) {
                    0 => teller.touch().await,
                    1 => teller.recreate().await,
                    2 => teller.write_other_keys().await,
                    _ => teller.transfer().await,
                }
            }
        });
    }
    while let Some(ended) = tellers.join_next().await {
        ended.expect("a teller");
    }
    let teller = BankClient {
        app: app.clone(),
        rng,
        seen,
    };
    let mut sum = 0;
    for at in 0..ACCOUNTS {
        sum += teller.look(&account(at)).await.1;
    }
    assert_eq!(sum, ACCOUNTS as u64 * EACH);
    assert!(!app.has("a", "account-0-frozen").await);
    let there = format!(
        "SELECT count(*), coalesce(sum(size + 192), 0), min(version) > 0 FROM kv_entries \
         WHERE app_id = '{}'",
        app.id
    );
    let usage = used(&app).await;
    let counted = format!("{}|{}|t", usage.entries, usage.bytes);
    assert_eq!(psql(&options.url, there).await.trim(), counted);
    drop((teller, app, kits));
    assert_eq!(
        deadlocks(&options.url).await,
        0,
        "no deadlocks, as keys are locked in order"
    );
}

/// Two runs each read the absence of an entry that the other writes: one of them fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_skew_on_absent_keys_is_prevented() {
    let options = options().await;
    let kits = [
        connect(options.clone()).await,
        connect(options.clone()).await,
    ];
    let app = kits[0].app().await;
    for round in 0..100 {
        let (a, b) = (format!("{round}-a"), format!("{round}-b"));
        let commit = |host: usize, own: &str, other: &str| {
            let store = Arc::clone(&kits[host].store);
            let checks = vec![absent("c", own), absent("c", other)];
            let batch = app.batch(checks, vec![set("c", own, bytes("x"))]);
            async move { store.commit(batch).await }
        };
        let (one, two) = tokio::join!(commit(0, &a, &b), commit(1, &b, &a));
        let failed = [one, two].into_iter().filter_map(Result::err);
        let failed: Vec<_> = failed.collect();
        let [StoreError::Conflict { .. }] = failed.as_slice() else {
            panic!("{failed:?}")
        };
        assert_ne!(app.has("c", &a).await, app.has("c", &b).await);
    }
    // A failed run leaves no placeholder row.
    let placeholders = "SELECT count(*) FROM kv_entries WHERE version = 0";
    assert_eq!(psql(&options.url, placeholders).await.trim(), "0");
}

/// Version 0 and versions beyond the range of Postgres match no entry, not even an absent one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_range_versions_match_no_entry() {
    let app = connect(options().await).await.app().await;
    app.set("c", "there", bytes("x")).await;
    for version in [0, 1, u64::MAX].map(Version) {
        for key in ["there", "absent"] {
            let checks = || vec![absent("c", "z"), at_version("c", key, version)];
            let ops = vec![set("c", "d", bytes("x"))];
            assert_eq!(app.expect_conflict(checks(), ops).await, [1], "{version:?}");
            assert_eq!(
                app.expect_conflict(checks(), vec![]).await,
                [1],
                "{version:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn byte_quota_of_guarded_batches_is_exact() {
    let fits = cost(2, 0, 2 * (1 + 1 + 10));
    let options = options().await;
    let [app, _] = two_hosts(&options, quota(None, fits)).await;
    let pair = |len: usize| {
        let value = || bytes(vec![7; len]);
        (
            vec![absent("c", "a"), absent("c", "b")],
            vec![set("c", "a", value()), set("c", "b", value())],
        )
    };
    let (checks, ops) = pair(11);
    let refused = app.try_commit(checks, ops).await;
    let Err(StoreError::Quota { resource, limit }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((resource, limit), (Resource::Bytes, fits));
    assert_eq!((used(&app).await.entries, used(&app).await.bytes), (0, 0));
    let (checks, ops) = pair(10);
    app.commit(checks, ops).await;
    assert_eq!(used(&app).await.bytes, fits);
    // One entry grows by what the other frees, but no further.
    let version = app.get("c", "a").await.unwrap().version;
    let grow = |len: usize| {
        vec![
            set("c", "a", bytes(vec![7; 10 + len])),
            set("c", "b", bytes(vec![7; 10 - 1])),
        ]
    };
    let checks = || vec![at_version("c", "a", version)];
    assert!(matches!(
        app.try_commit(checks(), grow(2)).await,
        Err(StoreError::Quota { .. })
    ));
    app.commit(checks(), grow(1)).await;
    assert_eq!(used(&app).await.bytes, fits);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn app_deletion_stops_concurrent_batches() {
    let options = options().await;
    let kits = [
        connect(options.clone()).await,
        connect(options.clone()).await,
    ];
    for _ in 0..15 {
        let app = kits[0].app().await;
        let (begun, mut writers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for writer in 0..8 {
            let app = Tenant {
                store: Arc::clone(&kits[writer % 2].store),
                ..app.clone()
            };
            let begun = Arc::clone(&begun);
            writers.spawn(async move {
                for at in 0.. {
                    let key = format!("{writer}-{at}");
                    let ops = vec![set("c", &key, bytes("x")), delete("c", "shared")];
                    match app.try_commit(vec![absent("c", &key)], ops).await {
                        Ok(_) => begun.store(true, Ordering::SeqCst),
                        Err(StoreError::AppNotFound) => return,
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
        while !begun.load(Ordering::SeqCst) {
            if let Some(ended) = writers.try_join_next() {
                ended.expect("a writer");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(kits[1].delete_app(app.id).await.expect("a deletion"));
        let left = format!(
            "SELECT count(*) FROM kv_entries WHERE app_id = '{}'",
            app.id
        );
        let before = psql(&options.url, left.clone()).await;
        while let Some(ended) = writers.join_next().await {
            ended.expect("a writer");
        }
        assert_eq!(
            psql(&options.url, left).await,
            before,
            "written after the deletion"
        );
        let checks_alone = app.try_commit(vec![absent("c", "k")], vec![]).await;
        assert!(matches!(checks_alone, Err(StoreError::AppNotFound)));
    }
    drop(kits);
    assert_eq!(deadlocks(&options.url).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrently_created_trigger_is_not_missed() {
    const WRITERS: usize = 6;
    let options = options().await;
    let kits = [
        connect(options.clone()).await,
        connect(options.clone()).await,
    ];
    for _ in 0..10 {
        let app = kits[0].app().await;
        let watched = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let app = Tenant {
                store: Arc::clone(&kits[writer % 2].store),
                ..app.clone()
            };
            let watched = Arc::clone(&watched);
            writers.spawn(async move {
                let (mut fired, mut after) = (0, 0);
                for at in 0.. {
                    let must_fire = watched.load(Ordering::SeqCst);
                    let key = format!("{writer}-{at}");
                    let ops = vec![set("c", &key, bytes("x")), set("d", &key, bytes("x"))];
                    let batch = app.batch(vec![absent("c", &key)], ops);
                    let deliveries = app.store.commit(batch).await.expect("commit").deliveries;
                    assert!(deliveries == 1 || !must_fire, "a change was missed");
                    fired += deliveries;
                    after += usize::from(must_fire);
                    if after == 5 {
                        break;
                    }
                }
                fired
            });
        }
        app.watch("t", "c").await;
        watched.store(true, Ordering::SeqCst);
        let mut fired = 0;
        while let Some(ended) = writers.join_next().await {
            fired += ended.expect("a writer");
        }
        assert!(fired >= 5 * WRITERS as u64);
        assert_eq!(app.outstanding().await.len() as u64, fired);
    }
}
