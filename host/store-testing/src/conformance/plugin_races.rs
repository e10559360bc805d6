//! Concurrent changes of plugins: each change sees the ones before it completely.

use super::Kit;
use super::kit::{Tenant, digest};
use kvasm_core::PluginVersion;
use kvasm_core::store::StoreError;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// Runs two calls that start at the same time.
async fn both<A: Send + 'static, B: Send + 'static>(
    one: impl Future<Output = A> + Send + 'static,
    two: impl Future<Output = B> + Send + 'static,
) -> (A, B) {
    let start = Arc::new(Barrier::new(2));
    let there = Arc::clone(&start);
    let one = tokio::spawn(async move {
        start.wait().await;
        one.await
    });
    let two = tokio::spawn(async move {
        there.wait().await;
        two.await
    });
    (one.await.expect("one"), two.await.expect("two"))
}

pub async fn concurrent_deploys_get_distinct_version_numbers(kit: Kit) {
    const CALLERS: u32 = 12;
    const EACH: u32 = 5;
    let app = kit.app().await;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let app = app.clone();
        callers.spawn(async move {
            let mut added = Vec::new();
            for round in 0..EACH {
                // Some with the same module, some with different ones.
                let wasm = format!("m{}", caller * round % 7);
                let activate = (caller + round) % 2 == 0;
                added.push((app.add(&wasm, activate).await, wasm, activate));
            }
            assert!(added.is_sorted_by(|a, b| a.0 < b.0));
            added
        });
    }
    let mut added = callers.join_all().await.concat();
    added.sort_unstable();
    let numbers: Vec<_> = added.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=CALLERS * EACH).collect::<Vec<_>>());
    for (number, wasm, _) in &added {
        let found = kit.store.plugin(app.id, PluginVersion(*number)).await;
        assert_eq!(found.unwrap().unwrap().digest, digest(wasm));
        assert!(kit.store.module(digest(wasm)).await.unwrap().is_some());
    }
    assert_replaced_in_order(&app, &added).await;
}

/// Asserts that the versions, each activated once, replaced one another in some order.
async fn assert_replaced_in_order(app: &Tenant, added: &[(u32, String, bool)]) {
    let activated = added.iter().filter(|(_, _, activate)| *activate);
    let activated: BTreeSet<_> = activated.map(|(number, ..)| *number).collect();
    let mut seen = BTreeSet::from([app.active().await.expect("an active version")]);
    for _ in 1..activated.len() {
        let back = app.try_roll_back().await.expect("a version before");
        assert!(seen.insert(back), "{back} was replaced twice");
    }
    assert_eq!(seen, activated);
    let end = app.try_roll_back().await;
    assert!(
        matches!(end, Err(StoreError::NothingToRollBackTo)),
        "{end:?}"
    );
}

pub async fn concurrent_rollbacks_go_back_one_step_each(kit: Kit) {
    for _ in 0..15 {
        let app = kit.app().await;
        for wasm in ["one", "two", "three"] {
            app.add(wasm, true).await;
        }
        let (one, two) = (app.clone(), app.clone());
        let (one, two) = both(
            async move { one.try_roll_back().await.unwrap() },
            async move { two.try_roll_back().await.unwrap() },
        )
        .await;
        assert_eq!(BTreeSet::from([one, two]), BTreeSet::from([1, 2]));
        assert_eq!(app.active().await, Some(1));
    }
}

/// One app adds a module while another removes the last version that uses it.
pub async fn concurrent_deletion_does_not_remove_a_module_being_added(kit: Kit) {
    for round in 0..30 {
        let (old, new) = (kit.app().await, kit.app().await);
        let wasm = format!("module {round}");
        old.add(&wasm, false).await;
        let (there, here, added) = (old.clone(), new.clone(), wasm.clone());
        both(
            async move {
                if round % 2 == 0 {
                    let deleted = there.try_delete_plugin(1).await;
                    assert!(deleted.unwrap());
                } else {
                    assert!(there.delete_app().await.unwrap());
                }
            },
            async move { here.add(&added, true).await },
        )
        .await;
        super::kit::reap(&*kit.store).await;
        let module = kit.store.module(digest(&wasm)).await.unwrap();
        assert_eq!(module.as_deref(), Some(wasm.as_bytes()), "round {round}");
        // The module is not left behind either.
        assert!(kit.delete_app(new.id).await.unwrap());
        super::kit::reap(&*kit.store).await;
        let module = kit.store.module(digest(&wasm)).await.unwrap();
        assert_eq!(module, None, "round {round}");
    }
}

/// Two apps delete a module's last two versions: one of the deletions removes the module.
pub async fn concurrent_deletions_remove_an_unused_module(kit: Kit) {
    for round in 0..30 {
        let (one, two) = (kit.app().await, kit.app().await);
        let wasm = format!("module {round}");
        for app in [&one, &two] {
            app.add(&wasm, false).await;
        }
        let delete = |app: Tenant, whole: bool| async move {
            if whole {
                assert!(app.delete_app().await.unwrap());
            } else {
                let deleted = app.try_delete_plugin(1).await;
                assert!(deleted.unwrap());
            }
        };
        both(delete(one, round % 2 == 0), delete(two, round % 3 == 0)).await;
        super::kit::reap(&*kit.store).await;
        let module = kit.store.module(digest(&wasm)).await.unwrap();
        assert_eq!(module, None, "round {round}");
    }
}

/// A version is activated while it is deleted: one of the two comes first.
pub async fn concurrent_deletion_never_removes_the_active_version(kit: Kit) {
    let app = kit.app().await;
    app.add("one", true).await;
    for round in 0..30 {
        let number = app.add("other", false).await;
        let (there, here) = (app.clone(), app.clone());
        let (activated, deleted) = both(
            async move { there.try_activate(number).await },
            async move { here.try_delete_plugin(number).await },
        )
        .await;
        match (&activated, &deleted) {
            (Ok(_), Err(StoreError::PluginActive(_))) => {
                assert_eq!(app.active().await, Some(number), "round {round}");
                assert_eq!(app.try_roll_back().await.unwrap(), 1);
            }
            (Err(StoreError::PluginNotFound(_)), Ok(true)) => {
                assert_eq!(app.active().await, Some(1), "round {round}");
            }
            _ => panic!("round {round}: {activated:?}, {deleted:?}"),
        }
    }
}

/// One caller rolls back to versions while another deletes them.
pub async fn rollback_target_exists_despite_concurrent_deletion(kit: Kit) {
    for round in 0..30 {
        let app = kit.app().await;
        for wasm in ["one", "two"] {
            app.add(wasm, true).await;
        }
        let (there, here) = (app.clone(), app.clone());
        let (back, deleted) = both(async move { there.try_roll_back().await }, async move {
            here.try_delete_plugin(1).await
        })
        .await;
        match (&back, &deleted) {
            (Ok(1), Err(StoreError::PluginActive(_))) => {
                assert_eq!(app.active().await, Some(1), "round {round}");
            }
            (Err(StoreError::NothingToRollBackTo), Ok(true)) => {
                assert_eq!(app.active().await, Some(2), "round {round}");
            }
            _ => panic!("round {round}: {back:?}, {deleted:?}"),
        }
    }
}

/// Adds versions of a module until the app is deleted.
async fn add_until_gone(app: Tenant) {
    for round in 0.. {
        match app.try_add("module", round % 2 == 0).await {
            Ok(_) => {}
            Err(StoreError::AppNotFound) => return,
            // The version limit is reached until the app is deleted.
            Err(StoreError::Quota { .. }) => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    }
}

pub async fn app_deletion_during_concurrent_deploys(kit: Kit) {
    for round in 0..6 {
        let app = kit.app().await;
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            callers.spawn(add_until_gone(app.clone()));
        }
        let versions = async || kit.store.plugins(app.id, None, 5).await.unwrap().len();
        while versions().await < 5 {
            tokio::task::yield_now().await;
        }
        assert!(kit.delete_app(app.id).await.unwrap());
        callers.join_all().await;
        assert_eq!(versions().await, 0, "round {round}");
        super::kit::reap(&*kit.store).await;
        let module = kit.store.module(digest("module")).await.unwrap();
        assert_eq!(module, None, "round {round}");
    }
}
