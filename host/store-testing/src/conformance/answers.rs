//! Kept answers of idempotent calls: one for each identity, with its commit or not at all.

use super::Kit;
use super::kit::{
    NOW, Tenant, absent, at_version, bytes, collection, delete, key, reap, set, set_version,
};
use super::loop_guard::LoopGuard;
use bytes::Bytes;
use kvasm_core::store::StoreError;
use kvasm_core::{
    ANSWER_BYTES, ANSWER_OUTPUT_BYTES_MAX, ANSWERS_MAX, ANSWERS_OF_RANGE_MAX, AnswerId, Check,
    Commit, Committed, KeptAnswer, Op, RequestHash, Resource, Timestamp,
};
use std::sync::Arc;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const CALLERS: u8 = 8;

fn id(n: u8) -> AnswerId {
    AnswerId([n; 32])
}

/// An answer that expires 1,000 ms after [`NOW`].
fn answer(n: u8, output: impl Into<Vec<u8>>) -> KeptAnswer {
    KeptAnswer {
        id: id(n),
        request: RequestHash([n; 32]),
        output: Some(Bytes::from(output.into())),
        expires_at: NOW.plus_ms(1_000),
    }
}

fn keeping(app: &Tenant, answer: KeptAnswer, checks: Vec<Check>, ops: Vec<Op>) -> Commit {
    let mut commit = app.batch(checks, ops);
    commit.batch.keep = Some(Box::new(answer));
    commit
}

async fn keep(app: &Tenant, answer: KeptAnswer, ops: Vec<Op>) -> Result<Committed, StoreError> {
    app.store.commit(keeping(app, answer, vec![], ops)).await
}

async fn kept(app: &Tenant, n: u8) -> Option<KeptAnswer> {
    let answer = app.store.answer(app.id, id(n), app.now);
    answer.await.expect("an answer")
}

fn is_answered(result: Result<Committed, StoreError>) -> bool {
    match result {
        Ok(_) => false,
        Err(StoreError::AlreadyAnswered) => true,
        Err(error) => panic!("{error:?}"),
    }
}

pub async fn answer_is_kept_with_its_commit(kit: Kit) {
    let (app, other) = (kit.app().await, kit.app().await);
    assert_eq!(kept(&app, 1).await, None);
    // Without an entry, with one, and with several.
    for (n, ops) in [
        (1, vec![]),
        (2, vec![set("c", "a", bytes("1"))]),
        (3, vec![set("c", "b", bytes("1")), delete("c", "a")]),
    ] {
        let count = ops.len();
        let done = keep(&app, answer(n, vec![n; 3]), ops).await.expect("kept");
        assert_eq!(done.applied.len(), count);
        assert_eq!(kept(&app, n).await, Some(answer(n, vec![n; 3])));
        assert_eq!(kept(&other, n).await, None);
    }
    assert_eq!(app.keys("c").await, ["b"]);
    // As large as it may be, empty, and without an output.
    let largest = vec![7; ANSWER_OUTPUT_BYTES_MAX];
    for (n, output) in [(4, Some(largest)), (5, Some(vec![])), (6, None)] {
        let output = output.map(Bytes::from);
        let answer = KeptAnswer {
            output,
            ..answer(n, "")
        };
        keep(&app, answer.clone(), vec![]).await.expect("kept");
        assert_eq!(kept(&app, n).await, Some(answer));
    }
    // Two apps have different answers of one identity.
    keep(&other, answer(1, "theirs"), vec![])
        .await
        .expect("kept");
    assert_eq!(kept(&other, 1).await, Some(answer(1, "theirs")));
    assert_eq!(kept(&app, 1).await, Some(answer(1, vec![1; 3])));
}

pub async fn second_commit_of_an_answer_writes_nothing(kit: Kit) {
    let app = kit.app().await;
    let version = app.set("c", "k", bytes("0")).await;
    let first = vec![set("c", "k", bytes("1"))];
    keep(&app, answer(1, "first"), first).await.expect("kept");
    let usage = app.quota_usage().await;
    for ops in [
        vec![],
        vec![set("c", "k", bytes("2"))],
        vec![set("c", "k", bytes("2")), set("c", "more", bytes("2"))],
        vec![delete("c", "k")],
    ] {
        // The answer decides, even if the checks fail too: the call must not run again.
        for checks in [vec![], vec![at_version("c", "k", version)]] {
            let second = keeping(&app, answer(1, "second"), checks, ops.clone());
            assert!(is_answered(app.store.commit(second).await), "{ops:?}");
        }
    }
    assert_eq!(kept(&app, 1).await, Some(answer(1, "first")));
    assert_eq!(app.value("c", "k").await, Some(bytes("1")));
    assert_eq!(app.keys("c").await, ["k"]);
    assert_eq!(app.quota_usage().await, usage);
}

pub async fn failed_commit_keeps_no_answer(kit: Kit) {
    let app = kit.app().await;
    let used = app.quota_usage().await;
    let fails = keeping(
        &app,
        answer(1, "lost"),
        vec![at_version("c", "k", kvasm_core::Version(1))],
        vec![set("c", "other", bytes("1"))],
    );
    let failed = app.store.commit(fails).await;
    assert!(matches!(failed, Err(StoreError::Conflict { .. })));
    let fails = keeping(
        &app,
        answer(1, "lost"),
        vec![absent("c", "k")],
        vec![
            set("c", "text", bytes("x")),
            Op::Increment {
                collection: collection("c"),
                key: key("text"),
                delta: 1,
            },
        ],
    );
    let failed = app.store.commit(fails).await;
    assert!(matches!(failed, Err(StoreError::NotInteger { at: 1 })));
    assert_eq!(kept(&app, 1).await, None);
    assert_eq!(app.quota_usage().await, used);
    keep(&app, answer(1, "kept"), vec![]).await.expect("kept");
    let nobody = Commit::new(kvasm_core::AppId::generate(), NOW, kept_batch());
    let failed = app.store.commit(nobody).await;
    assert!(matches!(failed, Err(StoreError::AppNotFound)));
}

fn kept_batch() -> kvasm_core::Batch {
    kvasm_core::Batch {
        keep: Some(Box::new(answer(1, ""))),
        ..kvasm_core::Batch::default()
    }
}

/// The same call at once: one commit takes effect, and all others find its answer.
pub async fn one_concurrent_commit_of_an_answer_wins(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "shared", bytes("0")).await;
    for round in 0..20u8 {
        let start = Arc::new(Barrier::new(CALLERS.into()));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let mut ops = vec![set("c", &format!("{round}-{caller}"), bytes("1"))];
            if round % 2 == 1 {
                // They wait for each other's locks, too.
                ops.push(set("c", "shared", bytes([round, caller])));
            }
            if round % 4 == 0 {
                ops.clear();
            }
            let commit = keeping(&app, answer(round, vec![caller]), vec![], ops);
            let (store, start) = (Arc::clone(&app.store), Arc::clone(&start));
            callers.spawn(async move {
                start.wait().await;
                (!is_answered(store.commit(commit).await)).then_some(caller)
            });
        }
        let winners: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
        let [winner] = winners.as_slice() else {
            panic!("{} commits of one answer took effect", winners.len());
        };
        assert_eq!(kept(&app, round).await, Some(answer(round, vec![*winner])));
        if round % 4 != 0 {
            assert!(app.has("c", &format!("{round}-{winner}")).await);
        }
    }
    let rounds = (0..20).filter(|round| round % 4 != 0).count();
    assert_eq!(app.keys("c").await.len(), rounds + 1);
    let used = app.quota_usage().await;
    let names: usize = app.keys("c").await.iter().map(|key| 1 + key.len()).sum();
    let values = rounds + 2;
    let entries = super::kit::cost(used.entries, 0, (names + values) as u64);
    assert_eq!(used.bytes, entries + 20 * (ANSWER_BYTES + 1));
}

pub async fn expired_answer_is_absent_and_replaced(kit: Kit) {
    let app = kit.app().await;
    let unused = app.quota_usage().await.bytes;
    keep(&app, answer(1, "old"), vec![]).await.expect("kept");
    assert!(kept(&app.later(999), 1).await.is_some());
    assert_eq!(kept(&app.later(1_000), 1).await, None);
    let later = app.later(1_000);
    let new = KeptAnswer {
        expires_at: NOW.plus_ms(2_000),
        ..answer(1, "the new one")
    };
    let still = keep(&app.later(999), new.clone(), vec![]).await;
    assert!(is_answered(still));
    keep(&later, new.clone(), vec![]).await.expect("kept");
    assert_eq!(kept(&later, 1).await, Some(new));
    let used = app.quota_usage().await.bytes;
    assert_eq!(used, unused + ANSWER_BYTES + "the new one".len() as u64);
}

pub async fn expired_answers_are_swept_in_steps(kit: Kit) {
    let app = kit.app().await;
    for n in 1..=5 {
        let answer = KeptAnswer {
            expires_at: NOW.plus_ms(n.into()),
            ..answer(n, vec![n; 10])
        };
        keep(&app, answer, vec![]).await.expect("kept");
    }
    app.set_until("c", "k", bytes("1"), NOW.plus_ms(1)).await;
    let sweep = |ms: u64, limit| app.store.sweep(app.id, NOW.plus_ms(ms), limit);
    assert_eq!(sweep(0, 10).await.expect("none"), 0);
    // The entry and two answers.
    assert_eq!(sweep(3, 3).await.expect("three"), 3);
    assert_eq!(sweep(3, 3).await.expect("one"), 1);
    assert_eq!(sweep(3, 3).await.expect("none"), 0);
    assert_eq!(app.quota_usage().await.bytes, 2 * (ANSWER_BYTES + 10));
    assert!(kept(&app, 4).await.is_some());
    assert_eq!(sweep(9, 3).await.expect("two"), 2);
    assert_eq!(app.quota_usage().await.bytes, 0);
    assert_eq!(kept(&app, 4).await, None);
}

pub async fn answers_count_against_the_quota(kit: Kit) {
    let app = kit.app().await;
    app.set_quota(None, Some(2 * ANSWER_BYTES + 20)).await;
    keep(&app, answer(1, vec![1; 15]), vec![])
        .await
        .expect("kept");
    let refused = keep(&app, answer(2, vec![1; 6]), vec![]).await;
    let Err(StoreError::Quota { resource, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(resource, Resource::Bytes);
    assert_eq!(kept(&app, 2).await, None);
    keep(&app, answer(2, vec![1; 5]), vec![])
        .await
        .expect("kept");
    assert_eq!(app.quota_usage().await.bytes, 2 * ANSWER_BYTES + 20);
    // A smaller one in place of an expired one fits.
    let new = KeptAnswer {
        expires_at: Timestamp(i64::MAX),
        ..answer(1, vec![1; 14])
    };
    keep(&app.later(2_000), new, vec![]).await.expect("kept");
    assert_eq!(app.quota_usage().await.bytes, 2 * ANSWER_BYTES + 19);
}

pub async fn number_of_answers_is_bounded(kit: Kit) {
    let app = kit.app().await;
    let in_range = |n: u64| {
        let mut id = [0; 32];
        id[24..].copy_from_slice(&n.to_be_bytes());
        KeptAnswer {
            id: AnswerId(id),
            ..answer(0, "")
        }
    };
    for n in 0..ANSWERS_OF_RANGE_MAX {
        keep(&app, in_range(n), vec![]).await.expect("kept");
    }
    let one_more = in_range(ANSWERS_OF_RANGE_MAX);
    let write = || vec![set("c", "k", bytes("1"))];
    let refused = keep(&app, one_more.clone(), write()).await;
    let Err(StoreError::Quota { resource, limit }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((resource, limit), (Resource::Answers, ANSWERS_MAX));
    assert!(!app.has("c", "k").await);
    // Other ranges have room, and writes without an answer do not need it.
    keep(&app, answer(0xFF, ""), vec![]).await.expect("kept");
    set_version(app.commit(vec![], write()).await);
    let swept = app.store.sweep(app.id, NOW.plus_ms(1_000), 1).await;
    assert_eq!(swept.expect("one"), 1);
    keep(&app, one_more, vec![]).await.expect("kept");
}

pub async fn answers_of_a_deleted_app_are_absent_and_reaped(kit: Kit) {
    let app = kit.app().await;
    keep(&app, answer(1, "1"), vec![]).await.expect("kept");
    keep(&app, answer(2, "2"), vec![]).await.expect("kept");
    assert!(app.delete_app().await.expect("deleted"));
    assert_eq!(kept(&app, 1).await, None);
    let again = keep(&app, answer(1, "1"), vec![]).await;
    assert!(matches!(again, Err(StoreError::AppNotFound)), "{again:?}");
    let swept = app.store.sweep(app.id, NOW.plus_ms(9_000), 10).await;
    assert_eq!(swept.expect("nothing"), 0);
    let mut rounds = LoopGuard::new();
    while !kit
        .store
        .tombstones(None, 1)
        .await
        .expect("tombstones")
        .is_empty()
    {
        rounds.next();
        reap(&*kit.store).await;
    }
}
