//! What a test can make a [`FaultyStore`] do.

use kvasm::model::{App, Batch, Collection, Commit, Key, Op, Timestamp, Value};
use kvasm::store::{MemoryStore, Store, StoreError};
use kvasm_store_testing::conformance::Kit;
use kvasm_store_testing::faulty::{Faults, FaultyStore, Operation, failed, full, unavailable};
use std::sync::Arc;

/// A store with two apps, and its faults.
async fn with_two_apps() -> (Arc<FaultyStore>, Faults, [App; 2]) {
    let (store, faults) = FaultyStore::over(Arc::new(MemoryStore::new()));
    let kit = Kit::new(store.clone(), 1);
    let mut apps = Vec::new();
    for _ in 0..2 {
        apps.push(kit.app().await.app_row().await);
    }
    faults.reset_counts();
    (store, faults, apps.try_into().unwrap())
}

fn collection() -> Collection {
    Collection::parse("c").unwrap()
}

fn key() -> Key {
    Key::parse("k").unwrap()
}

fn write(app: &App) -> Commit {
    let op = Op::Set {
        collection: collection(),
        key: key(),
        value: Value::json("1", 10).unwrap(),
        expires_at: None,
    };
    Commit::new(app.id, Timestamp::now(), Batch::of(vec![op]))
}

async fn has(store: &FaultyStore, app: &App) -> Result<bool, StoreError> {
    let now = Timestamp::now();
    store.has(app.id, &collection(), &key(), now).await
}

#[tokio::test]
async fn faults_apply_to_the_given_operation_app_and_number_of_calls() {
    let (store, faults, [one, two]) = with_two_apps().await;
    faults.on(Operation::Has).of(one.id).times(2).fail(failed);
    for is_failing in [true, true, false] {
        let failed = matches!(has(&store, &one).await, Err(StoreError::Failed(_)));
        assert_eq!(failed, is_failing);
        has(&store, &two).await.unwrap();
        store.ping().await.unwrap();
    }
    assert_eq!(faults.calls(Operation::Has), 6);
    assert_eq!(faults.calls_of(Operation::Has, one.id), 3);
    assert_eq!(faults.met(Operation::Has), 2);
    assert_eq!(faults.called(), [Operation::Has, Operation::Ping]);
}

#[tokio::test]
async fn failing_call_has_no_effect() {
    let (store, faults, [one, _]) = with_two_apps().await;
    faults.on(Operation::Commit).fail(full);
    for _ in 0..3 {
        let failed = store.commit(write(&one)).await;
        assert!(matches!(failed, Err(StoreError::Full(_))));
    }
    assert!(!has(&store, &one).await.unwrap());
    faults.clear();
    store.commit(write(&one)).await.unwrap();
}

#[tokio::test]
async fn lost_answer_hides_a_call_that_took_effect() {
    let (store, faults, [one, _]) = with_two_apps().await;
    faults.on(Operation::Commit).times(1).lose_the_answer();
    let lost = store.commit(write(&one)).await;
    assert!(matches!(lost, Err(StoreError::Unavailable(_))));
    assert!(has(&store, &one).await.unwrap());
}

#[tokio::test]
async fn hanging_call_is_made_once_released() {
    let (store, faults, [one, two]) = with_two_apps().await;
    faults.on(Operation::Commit).of(one.id).times(1).hang();
    let (of_task, batch) = (store.clone(), write(&one));
    let task = tokio::spawn(async move { of_task.commit(batch).await });
    faults
        .until("the commit hangs", |faults| {
            faults.met(Operation::Commit) == 1
        })
        .await;
    store.commit(write(&two)).await.unwrap();
    assert!(!has(&store, &one).await.unwrap());
    faults.clear();
    task.await.unwrap().unwrap();
    assert!(has(&store, &one).await.unwrap());
}

#[tokio::test]
async fn first_rule_that_applies_decides() {
    let (store, faults, [one, _]) = with_two_apps().await;
    faults.on(Operation::Has).times(1).fail(unavailable);
    faults
        .on_any([Operation::Has, Operation::Ping])
        .fail(failed);
    let errors = [
        has(&store, &one).await.unwrap_err(),
        has(&store, &one).await.unwrap_err(),
        store.ping().await.unwrap_err(),
    ];
    assert!(matches!(
        errors,
        [
            StoreError::Unavailable(_),
            StoreError::Failed(_),
            StoreError::Failed(_)
        ]
    ));
}
