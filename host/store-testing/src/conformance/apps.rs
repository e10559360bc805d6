//! Apps: created, found, listed, and deleted with their data.

use super::Kit;
use super::kit::{absent, app, assert_app_not_found, at_version, bytes, delete, list, set};
use super::loop_guard::LoopGuard;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, AppName, CursorKey, Timestamp, Version};

fn name(text: &str) -> AppName {
    AppName::parse(text).expect("a name")
}

pub async fn created_app_is_found_by_name(kit: Kit) {
    let mut created = app("shop");
    created.created_at = Timestamp(12_345);
    created.cursor_key = CursorKey::new(std::array::from_fn(|at| at as u8));
    assert!(kit.store.app(&created.name).await.unwrap().is_none());
    kit.create(&created).await.unwrap();
    let found = kit.store.app(&created.name).await.unwrap().unwrap();
    assert_eq!(found.id, created.id);
    assert_eq!(found.name, created.name);
    assert_eq!(found.created_at, created.created_at);
    assert!(found.cursor_key == created.cursor_key);
    assert!(kit.store.app(&name("sho")).await.unwrap().is_none());
}

pub async fn app_names_are_unique(kit: Kit) {
    let first = app("shop");
    kit.create(&first).await.unwrap();
    let second = kit.create(&app("shop")).await;
    assert!(matches!(second, Err(StoreError::AppExists)), "{second:?}");
    assert_eq!(
        kit.store.app(&name("shop")).await.unwrap().unwrap().id,
        first.id
    );
}

pub async fn apps_are_listed_by_name_in_pages(kit: Kit) {
    // In bytewise order, not in that of a locale.
    let sorted = ["-", "0", "a", "a-b", "a_b", "ab", "b", "b0"];
    for text in ["b", "a_b", "0", "b0", "ab", "-", "a-b", "a"] {
        kit.create(&app(text)).await.unwrap();
    }
    let mut found = Vec::new();
    let mut after = None;
    let mut rounds = LoopGuard::new();
    loop {
        rounds.next();
        let page = kit.store.apps(after.as_ref(), 3).await.unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        found.extend(page.into_iter().map(|app| app.name.as_str().to_owned()));
    }
    assert_eq!(found, sorted);
    // The start need not be an existing app.
    let page = kit.store.apps(Some(&name("a0")), 100).await.unwrap();
    assert_eq!(page.first().unwrap().name.as_str(), "a_b");
    assert!(kit.store.apps(None, 0).await.unwrap().is_empty());
}

pub async fn deleting_an_app_deletes_its_data(kit: Kit) {
    let app = kit.app().await;
    for number in 0..50 {
        app.set(
            &format!("c{}", number % 3),
            &format!("k{number}"),
            bytes("x"),
        )
        .await;
    }
    assert!(kit.delete_app(app.id).await.unwrap());
    for c in ["c0", "c1", "c2"] {
        assert_eq!(app.keys(c).await, Vec::<String>::new());
    }
    assert_eq!(app.get("c0", "k0").await, None);
    assert!(!app.has("c1", "k1").await);
    assert!(!kit.delete_app(app.id).await.unwrap());
    assert!(kit.store.apps(None, 10).await.unwrap().is_empty());
}

pub async fn operations_on_an_unknown_app_fail(kit: Kit) {
    let mut app = kit.app().await;
    let version = app.set("c", "k", bytes("x")).await;
    for never_there in [false, true] {
        if never_there {
            app.id = AppId::generate();
        } else {
            kit.delete_app(app.id).await.unwrap();
        }
        // Reads find nothing.
        assert_eq!(app.get("c", "k").await, None);
        assert!(!app.has("c", "k").await);
        let page = app.page(&list("c")).await;
        assert!(page.entries.is_empty() && !page.more);
        // Every kind of write reports it.
        let ops = [set("c", "k", bytes("x")), delete("c", "k")];
        let checks = [
            absent("c", "k"),
            at_version("c", "k", version),
            absent("c", "other"),
        ];
        assert_app_not_found(app.try_commit(vec![], vec![]).await);
        for op in &ops {
            assert_app_not_found(app.try_commit(vec![], vec![op.clone()]).await);
        }
        for check in &checks {
            assert_app_not_found(app.try_commit(vec![check.clone()], vec![]).await);
            for op in &ops {
                assert_app_not_found(app.try_commit(vec![check.clone()], vec![op.clone()]).await);
            }
        }
        let two = vec![set("c", "k", bytes("x")), set("c", "l", bytes("x"))];
        assert_app_not_found(app.try_commit(vec![], two).await);
        assert_app_not_found(app.try_commit(checks.to_vec(), ops.to_vec()).await);
        assert_app_not_found(app.try_commit(vec![], ops.to_vec()).await);
        assert_app_not_found(
            app.try_commit(vec![], vec![ops[1].clone(), ops[1].clone()])
                .await,
        );
    }
}

pub async fn name_of_a_deleted_app_can_be_reused(kit: Kit) {
    let first = app("shop");
    kit.create(&first).await.unwrap();
    let tenant = kit.app().await;
    let old = super::kit::Tenant {
        id: first.id,
        ..tenant.clone()
    };
    let version = old.set("c", "k", bytes("old")).await;
    assert!(kit.delete_app(first.id).await.unwrap());

    let second = app("shop");
    kit.create(&second).await.unwrap();
    let new = super::kit::Tenant {
        id: second.id,
        ..tenant
    };
    assert_eq!(new.get("c", "k").await, None);
    let Version(again) = new.set("c", "k", bytes("new")).await;
    assert!(again > version.0, "a version of the deleted app was reused");
    assert_app_not_found(
        old.try_commit(vec![], vec![set("c", "k", bytes("x"))])
            .await,
    );
    assert_eq!(new.value("c", "k").await, Some(bytes("new")));
}

pub async fn deleting_an_app_does_not_affect_other_apps(kit: Kit) {
    let (one, two) = (kit.app().await, kit.app().await);
    one.set("c", "k", bytes("one")).await;
    two.set("c", "k", bytes("two")).await;
    assert!(kit.delete_app(one.id).await.unwrap());
    assert_eq!(one.get("c", "k").await, None);
    assert_eq!(two.value("c", "k").await, Some(bytes("two")));
    two.set("c", "l", bytes("more")).await;
}
