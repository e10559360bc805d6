//! Versions: they increase with each write of a key and are never reused.

use super::Kit;
use super::kit::{Tenant, absent, at_version, bytes, delete, set};
use super::rng::Rng;
use kvasm_core::store::StoreError;
use kvasm_core::{Applied, Expect, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinSet;

pub async fn versions_increase_with_each_write(kit: Kit) {
    let app = kit.app().await;
    let mut last = Version(0);
    for at in 0..50_u8 {
        let ops = vec![set("c", "k", bytes([at]))];
        let checks = match at % 3 {
            0 => vec![],
            1 => vec![at_version("c", "k", last)],
            _ => vec![at_version("c", "k", last), absent("c", "nothing")],
        };
        let applied = app.commit(checks, ops).await;
        let [Applied::Set(version)] = applied.as_slice() else {
            panic!("{applied:?}")
        };
        assert!(*version > last);
        last = *version;
        assert_eq!(app.get("c", "k").await.unwrap().version, last);
    }
}

pub async fn versions_are_not_reused_after_delete(kit: Kit) {
    let app = kit.app().await;
    let mut last = Version(0);
    for round in 0..30 {
        let created = app.set("c", "k", bytes("1")).await;
        assert!(created > last, "a version was reused");
        last = created;
        // Writes that advance the version as little as possible.
        for _ in 0..round % 5 {
            let next = app.set("c", "k", bytes("2")).await;
            assert!(next > last);
            last = next;
        }
        if round % 2 == 0 {
            assert!(app.delete("c", "k").await);
        } else {
            let ops = vec![
                set("c", "k", bytes("3")),
                delete("c", "k"),
                delete("c", "k"),
            ];
            let applied = app.commit(vec![], ops).await;
            let Applied::Set(version) = applied[0] else {
                panic!("{applied:?}")
            };
            assert!(version > last);
            last = version;
        }
    }
}

/// An acknowledged write, between two ticks of a clock shared by all.
struct Written {
    key: usize,
    began: u64,
    ended: u64,
    version: Version,
}

/// Asserts that versions are distinct, and that a write that started after another one ended
/// has the greater version.
fn assert_increasing(mut writes: Vec<Written>) {
    let mut by_key: BTreeMap<usize, Vec<Written>> = BTreeMap::new();
    for write in writes.drain(..) {
        by_key.entry(write.key).or_default().push(write);
    }
    for (key, mut writes) in by_key {
        let versions: BTreeSet<_> = writes.iter().map(|write| write.version).collect();
        assert_eq!(
            versions.len(),
            writes.len(),
            "a version of key {key} was reused"
        );
        let mut ended: Vec<_> = writes
            .iter()
            .map(|write| (write.ended, write.version))
            .collect();
        ended.sort_unstable();
        writes.sort_unstable_by_key(|write| write.began);
        let mut before = ended.into_iter().peekable();
        let mut highest = Version(0);
        for write in &writes {
            while let Some((_, version)) = before.next_if(|(ended, _)| *ended < write.began) {
                highest = highest.max(version);
            }
            assert!(
                write.version > highest,
                "key {key}: {:?} was given after {highest:?}",
                write.version
            );
        }
    }
}

#[derive(Clone)]
struct Writer {
    app: Tenant,
    clock: Arc<AtomicU64>,
    keys: usize,
}

impl Writer {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// One random write of one key, alone or guarded by what was read.
    async fn single(&self, rng: &mut Rng, written: &mut Vec<Written>) {
        let key = rng.below(self.keys);
        let name = format!("k{key}");
        let expect = match rng.below(4) {
            0 => match self.app.get("c", &name).await {
                Some(entry) => Some(Expect::Version(entry.version)),
                None => Some(Expect::Absent),
            },
            _ => None,
        };
        let op = match rng.below(3) {
            0 => delete("c", &name),
            _ => set("c", &name, bytes(name.as_bytes())),
        };
        let checks = expect.map(|expect| super::kit::check("c", &name, expect));
        let began = self.tick();
        let result = self
            .app
            .try_commit(checks.into_iter().collect(), vec![op])
            .await;
        let ended = self.tick();
        match result.as_deref() {
            Ok([Applied::Set(version)]) => {
                written.push(Written {
                    key,
                    began,
                    ended,
                    version: *version,
                });
            }
            Ok([Applied::Deleted { .. }]) | Err(StoreError::Conflict { .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    /// A batch over several keys, some of them more than once.
    async fn batch(&self, rng: &mut Rng, written: &mut Vec<Written>) {
        let picks: Vec<_> = (0..1 + rng.below(5))
            .map(|_| rng.below(self.keys))
            .collect();
        let op = |key: &usize| match rng.below(3) {
            0 => delete("c", &format!("k{key}")),
            _ => set("c", &format!("k{key}"), bytes("b")),
        };
        let ops = picks.iter().map(op).collect();
        let began = self.tick();
        let applied = self.app.commit(vec![], ops).await;
        let ended = self.tick();
        for (key, applied) in picks.into_iter().zip(applied) {
            if let Applied::Set(version) = applied {
                written.push(Written {
                    key,
                    began,
                    ended,
                    version,
                });
            }
        }
    }
}

async fn write_at_once(kit: Kit, batches: bool) {
    let writer = Writer {
        app: kit.app().await,
        clock: Arc::default(),
        keys: 3,
    };
    let mut rng = kit.rng();
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (writer, mut rng) = (writer.clone(), rng.split());
        tasks.spawn(async move {
            let mut written = Vec::new();
            for _ in 0..150 {
                if batches && rng.chance(1, 2) {
                    writer.batch(&mut rng, &mut written).await;
                } else {
                    writer.single(&mut rng, &mut written).await;
                }
            }
            written
        });
    }
    let written: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(written.len() > 300, "only {} writes", written.len());
    assert_increasing(written);
}

pub async fn versions_increase_under_concurrent_writes_and_deletes(kit: Kit) {
    write_at_once(kit, false).await;
}

pub async fn versions_increase_under_concurrent_batches(kit: Kit) {
    write_at_once(kit, true).await;
}
