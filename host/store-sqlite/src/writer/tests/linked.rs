//! Commits that follow other commits.

use super::*;
use crate::commit;
use kvasm_core::{
    AppId, Applied, Batch, Check, Collection, Commit, CommitId, Expect, Follow, Key, Link, Op,
    Value,
};
use std::sync::atomic::AtomicU32;

fn names() -> (Collection, Key) {
    (Collection::parse("c").unwrap(), Key::parse("k").unwrap())
}

/// A batch that sets or deletes the entry, following others.
fn batch_after(app: AppId, id: CommitId, follows: &[CommitId], deletes: bool) -> Commit {
    let (collection, key) = names();
    let follow = |commit: &CommitId| Follow {
        collection: collection.clone(),
        key: key.clone(),
        commit: *commit,
    };
    let follows = follows.iter().map(follow).collect();
    let op = match deletes {
        true => Op::Delete { collection, key },
        false => Op::Set {
            collection,
            key,
            value: Value::json("1", 10).unwrap(),
            expires_at: None,
        },
    };
    let batch = Batch {
        link: Some(Link::new(id, follows, None)),
        ..Batch::of(vec![op])
    };
    Commit::new(app, Timestamp(1), batch)
}

#[tokio::test]
async fn commit_can_follow_only_the_latest_applied_commit() {
    let stage = stage().await;
    let app = stage.app("app").await;
    let [one, two, three, four] = [(); 4].map(|()| CommitId::next());
    let commit = |id, follows: &[CommitId], deletes| {
        stage.store.commit(batch_after(app, id, follows, deletes))
    };
    commit(one, &[], false).await.unwrap();
    commit(two, &[one], true).await.unwrap();
    // It follows the deletion of the entry.
    commit(three, &[two], false).await.unwrap();
    // The first and the second are not the last any more; the fourth never was.
    for stale in [one, two, four] {
        let refused = commit(CommitId::next(), &[stale], false).await;
        let failed = match refused {
            Err(StoreError::Conflict { failed }) => failed,
            other => panic!("{other:?}"),
        };
        assert_eq!(failed, [0]);
    }
    // Its position is counted after the checks.
    let (collection, key) = names();
    let mut commit = batch_after(app, CommitId::next(), &[four], false);
    commit.batch.checks.push(Check {
        collection,
        key,
        expect: Expect::Absent,
    });
    let refused = stage.store.commit(commit).await;
    assert!(matches!(refused, Err(StoreError::Conflict { failed }) if failed == [0, 1]));
}

/// The versions of a group that was rolled back are reused for other writes.
#[tokio::test]
async fn rolled_back_commit_cannot_be_followed() {
    let stage = stage().await;
    let app = stage.app("app").await;
    let undone = CommitId::next();
    let given = Arc::new(std::sync::Mutex::new(None));
    let seen = Arc::clone(&given);
    let run = move |transaction: &mut WriteTransaction<'_>| {
        let done = commit::apply(transaction, &batch_after(app, undone, &[], false))?;
        *seen.lock().unwrap() = Some(done.applied);
        transaction.poisoned = true;
        Ok(())
    };
    stage
        .store
        .writer
        .run(WriteCost::of(app), run)
        .await
        .unwrap_err();
    let other = batch_after(app, CommitId::next(), &[], false);
    let other = stage.store.commit(other).await.unwrap();
    assert!(matches!(other.applied.as_slice(), [Applied::Set(_)]));
    assert_eq!(given.lock().unwrap().as_ref(), Some(&other.applied));
    let follower = batch_after(app, CommitId::next(), &[undone], false);
    let refused = stage.store.commit(follower).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict { .. })),
        "{refused:?}"
    );
}

/// Once a batch is queued, a batch that follows it may be submitted.
#[tokio::test]
async fn batch_is_reported_queued_before_commit() {
    let stage = patient(Duration::from_secs(60)).await;
    let app = stage.app("app").await;
    let lock = stage.other_process();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let queued = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&queued);
    let (told, heard) = oneshot::channel();
    let tell = Box::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let _ = told.send(());
    });
    let id = CommitId::next();
    let mut commit = batch_after(app, id, &[], false);
    commit.batch.link = Some(Link::new(id, Vec::new(), Some(tell)));
    let store = Arc::clone(&stage.store);
    let first = tokio::spawn(async move { store.commit(commit).await });
    heard.await.unwrap();
    let follower = batch_after(app, CommitId::next(), &[id], false);
    let store = Arc::clone(&stage.store);
    let second = tokio::spawn(async move { store.commit(follower).await });
    assert!(!first.is_finished());
    lock.execute_batch("COMMIT").unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(queued.load(Ordering::Relaxed), 1);
}
