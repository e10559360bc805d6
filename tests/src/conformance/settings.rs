//! Settings: what an app may do and use, as its row says.

use super::Kit;
use super::kit::{Tenant, app, assert_app_not_found, bytes, set};
use kvasm::model::{App, AppId, AppSettings, Change, Changed, Quota};
use kvasm::store::StoreError;

/// Settings of which no two are the same.
fn all_set() -> AppSettings {
    AppSettings {
        public: true,
        quota: Quota {
            entries: Some(1_000),
            bytes: Some(5_000_000_000),
        },
        calls_per_second: Some(100),
        calls_at_once: Some(7),
    }
}

/// Asserts that an app's row says so, found by name and in the list.
async fn assert_settings(kit: &Kit, app: &App, settings: AppSettings) {
    let found = kit.store.app(&app.name).await.unwrap().expect("the app");
    assert_eq!(found.settings, settings);
    let rows = kit.store.apps(None, 100).await.unwrap();
    let listed: Vec<_> = rows.iter().filter(|row| row.id == app.id).collect();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].settings, settings);
    // Nothing else of the row has changed.
    for row in [&found, listed[0]] {
        assert_eq!((row.id, &row.name), (app.id, &app.name));
        assert_eq!(row.created_at, app.created_at);
        assert!(row.cursor_key == app.cursor_key);
        assert_eq!(row.active, None);
    }
}

async fn update(kit: &Kit, app: AppId, settings: AppSettings) {
    let changed = kit.change(Change::UpdateApp { app, settings }).await;
    assert_eq!(changed, Changed::Done);
}

pub async fn an_app_is_created_with_its_settings(kit: Kit) {
    for (name, settings) in [("plain", AppSettings::default()), ("all", all_set())] {
        // With an audit row and without.
        for audited in [false, true] {
            let mut row = app(&format!("{name}-{audited}"));
            row.settings = settings;
            if audited {
                let created = kit.change(Change::CreateApp(row.clone())).await;
                assert_eq!(created, Changed::Done);
            } else {
                kit.store.create_app(&row).await.unwrap();
            }
            assert_settings(&kit, &row, settings).await;
        }
    }
}

pub async fn a_taken_name_is_not_created(kit: Kit) {
    let first = app("shop");
    kit.change(Change::CreateApp(first.clone())).await;
    let mut second = app("shop");
    second.settings = all_set();
    let refused = kit.try_change(Change::CreateApp(second)).await;
    assert!(matches!(refused, Err(StoreError::AppExists)), "{refused:?}");
    assert_settings(&kit, &first, AppSettings::default()).await;
}

pub async fn an_update_replaces_all_settings(kit: Kit) {
    let row = app("shop");
    let other = app("other");
    for app in [&row, &other] {
        kit.store.create_app(app).await.unwrap();
    }
    let none = AppSettings::default();
    let mut steps = vec![all_set(), none, all_set(), all_set()];
    // Each alone, with all others taken away.
    let all = all_set();
    steps.push(AppSettings {
        public: true,
        ..none
    });
    steps.push(AppSettings {
        calls_per_second: all.calls_per_second,
        ..none
    });
    steps.push(AppSettings {
        calls_at_once: all.calls_at_once,
        ..none
    });
    for (entries, bytes) in [(all.quota.entries, None), (None, all.quota.bytes)] {
        let quota = Quota { entries, bytes };
        steps.push(AppSettings { quota, ..none });
    }
    for settings in steps {
        update(&kit, row.id, settings).await;
        assert_settings(&kit, &row, settings).await;
        assert_settings(&kit, &other, none).await;
    }
}

pub async fn zero_is_a_limit(kit: Kit) {
    let row = app("shop");
    kit.store.create_app(&row).await.unwrap();
    let settings = AppSettings {
        public: false,
        quota: Quota {
            entries: Some(0),
            bytes: Some(0),
        },
        calls_per_second: Some(0),
        calls_at_once: Some(0),
    };
    update(&kit, row.id, settings).await;
    assert_settings(&kit, &row, settings).await;
}

pub async fn settings_of_an_unknown_app(kit: Kit) {
    let gone = kit.app().await;
    assert!(kit.store.delete_app(gone.id).await.unwrap());
    for app in [gone.id, AppId::generate()] {
        let settings = all_set();
        assert_app_not_found(kit.try_change(Change::UpdateApp { app, settings }).await);
    }
    assert!(kit.store.apps(None, 10).await.unwrap().is_empty());
}

pub async fn the_largest_limits_are_as_good_as_none(kit: Kit) {
    const SIGNED_MAX: u64 = i64::MAX as u64;
    let mut row = app("largest");
    row.settings.calls_per_second = Some(u32::MAX);
    row.settings.calls_at_once = Some(u32::MAX);
    let create = [u64::MAX, SIGNED_MAX + 1, SIGNED_MAX, SIGNED_MAX - 1];
    for (at, limit) in create.into_iter().enumerate() {
        row.settings.quota = Quota {
            entries: Some(limit),
            bytes: Some(limit),
        };
        if at == 0 {
            kit.change(Change::CreateApp(row.clone())).await;
        } else {
            update(&kit, row.id, row.settings).await;
        }
        let app = Tenant {
            id: row.id,
            name: row.name.clone(),
            ..kit.app().await
        };
        let found = app.row().await.settings;
        // A signed column holds no more than this.
        let least = limit.min(SIGNED_MAX);
        assert!(found.quota.entries.is_none_or(|found| found >= least));
        assert!(found.quota.bytes.is_none_or(|found| found >= least));
        assert_eq!(found.calls_per_second, Some(u32::MAX));
        assert_eq!(found.calls_at_once, Some(u32::MAX));
        for k in ["a", "b"] {
            app.set("c", &format!("{k}{at}"), bytes([0; 100])).await;
        }
        let ops = vec![set("c", "a0", bytes("")), set("c", "b0", bytes([0; 500]))];
        app.commit(vec![], ops).await;
    }
}

pub async fn an_app_is_deleted_by_a_change(kit: Kit) {
    let (gone, kept) = (kit.app().await, kit.app().await);
    for app in [&gone, &kept] {
        app.set("c", "k", bytes("x")).await;
    }
    assert_eq!(kit.change(Change::DeleteApp(gone.id)).await, Changed::Done);
    assert!(kit.store.app(&gone.name).await.unwrap().is_none());
    assert_eq!(gone.get("c", "k").await, None);
    // It cannot be deleted twice.
    for app in [gone.id, AppId::generate()] {
        assert_eq!(kit.change(Change::DeleteApp(app)).await, Changed::Nothing);
    }
    assert_eq!(kept.row().await.id, kept.id);
    assert_eq!(kept.value("c", "k").await, Some(bytes("x")));
    // The name is free again.
    let again = app(gone.name.as_str());
    assert_eq!(kit.change(Change::CreateApp(again)).await, Changed::Done);
}
