//! Plugins: versions are numbered, activated, rolled back and deleted; modules are shared.

use super::Kit;
use super::kit::{NOW, Tenant, assert_app_not_found, digest, new_plugin};
use super::loop_guard::LoopGuard;
use bytes::Bytes;
use kvasm_core::store::StoreError;
use kvasm_core::{
    ActivePlugin, AppId, Audit, Exports, NewPlugin, PluginRecord, PluginVersion, Resource,
    Timestamp, VERSION_BYTES_MAX, VERSIONS_MAX,
};

/// The version numbers of an app, newest first, in small pages.
async fn numbers(app: &Tenant) -> Vec<u32> {
    let mut all: Vec<u32> = Vec::new();
    let mut rounds = LoopGuard::new();
    loop {
        rounds.next();
        let before = all.last().copied().map(PluginVersion);
        let page = app.store.plugins(app.id, before, 3).await.expect("plugins");
        assert!(page.len() <= 3);
        if page.is_empty() {
            return all;
        }
        all.extend(page.iter().map(|plugin| plugin.version.0));
    }
}

async fn find(app: &Tenant, version: u32) -> Option<PluginRecord> {
    let version = PluginVersion(version);
    app.store.plugin(app.id, version).await.expect("plugin")
}

/// The version that this one replaced.
async fn replaced(app: &Tenant, version: u32) -> Option<u32> {
    let plugin = find(app, version).await.expect("the version");
    plugin.replaced.map(|version| version.0)
}

/// Whether a module exists, once the rows of deleted apps are removed.
async fn has_module(kit: &Kit, wasm: &str) -> bool {
    super::kit::reap(&*kit.store).await;
    let found = kit.store.module(digest(wasm)).await.expect("module");
    if let Some(found) = &found {
        assert_eq!(found, wasm.as_bytes());
    }
    found.is_some()
}

async fn assert_nothing_to_roll_back_to(app: &Tenant) {
    let before = app.active().await;
    let refused = app.try_roll_back().await;
    assert!(
        matches!(refused, Err(StoreError::NothingToRollBackTo)),
        "{refused:?}"
    );
    assert_eq!(app.active().await, before);
}

async fn assert_deleted(app: &Tenant, version: u32) {
    let deleted = app.try_delete_plugin(version).await.expect("deletion");
    assert!(deleted);
    assert_eq!(find(app, version).await, None);
}

pub async fn plugin_versions_are_numbered_from_one(kit: Kit) {
    let (one, two) = (kit.app().await, kit.app().await);
    assert_eq!(numbers(&one).await, [0; 0]);
    for number in 1..=5 {
        let wasm = format!("module {}", number / 2);
        assert_eq!(one.add(&wasm, number % 2 == 0).await, number);
    }
    // Each app has its own numbering.
    assert_eq!(two.add("module 0", false).await, 1);
    assert_eq!(numbers(&one).await, [5, 4, 3, 2, 1]);
    assert_eq!(numbers(&two).await, [1]);
}

pub async fn plugin_version_numbers_are_never_reused(kit: Kit) {
    let app = kit.app().await;
    for number in 1..=6 {
        assert_eq!(app.add("module", false).await, number);
        if number != 2 {
            assert_deleted(&app, number).await;
        }
    }
    assert_deleted(&app, 2).await;
    assert_eq!(app.add("module", true).await, 7);
    assert_eq!(numbers(&app).await, [7]);
}

pub async fn plugin_version_is_read_back_unchanged(kit: Kit) {
    let app = kit.app().await;
    let mut bytes = kit.rng().bytes(2_000_000);
    bytes.extend(0..=255);
    let exports = Exports {
        functions: vec!["add".into(), "ä'\"\\".into(), String::new(), "add-2".into()],
        http: Some("handle".to_owned()),
        ..Exports::default()
    };
    let large = NewPlugin {
        wasm: bytes.clone().into(),
        exports: exports.clone(),
        ..new_plugin(app.id, "large", true)
    };
    let audit = Audit {
        at: Timestamp(12_345),
        actor: "é's token".to_owned(),
        ..app.audit_row("plugin.add")
    };
    let added = app.store.add_plugin(large, audit).await;
    assert_eq!(added.expect("a version"), PluginVersion(1));
    assert_eq!(app.add("small", false).await, 2);
    let expected = PluginRecord {
        version: PluginVersion(1),
        digest: digest("large"),
        size: bytes.len() as u64,
        exports,
        replaced: None,
        created_at: Timestamp(12_345),
        created_by: "é's token".to_owned(),
    };
    assert_eq!(find(&app, 1).await.as_ref(), Some(&expected));
    let small = find(&app, 2).await.expect("the version");
    assert_eq!((small.digest, small.size), (digest("small"), 5));
    assert_eq!((small.created_at, small.exports.http), (NOW, None));
    let listed = app.store.plugins(app.id, None, 9).await.unwrap();
    assert_eq!(listed[1], expected);
    let module = app.store.module(digest("large")).await.unwrap();
    assert!(module.expect("the module") == bytes);
    assert!(has_module(&kit, "small").await);
    assert!(!has_module(&kit, "another").await);
}

pub async fn app_row_includes_its_active_version(kit: Kit) {
    let (app, other) = (kit.app().await, kit.app().await);
    other.add("other", true).await;
    let assert_active = async |number: u32, wasm| {
        let active = Some(ActivePlugin {
            version: PluginVersion(number),
            digest: digest(wasm),
        });
        assert_eq!(app.app_row().await.active, active);
        let rows = kit.store.apps(None, 9).await.unwrap();
        let row = rows.iter().find(|row| row.id == app.id).expect("the app");
        assert_eq!(row.active, active);
    };
    assert_eq!(app.active().await, None);
    app.add("one", false).await;
    assert_eq!(app.active().await, None);
    app.add("two", true).await;
    assert_active(2, "two").await;
    app.add("three", false).await;
    assert_active(2, "two").await;
    app.activate(3).await;
    assert_active(3, "three").await;
    app.activate(1).await;
    assert_active(1, "one").await;
    assert_eq!(app.try_roll_back().await.unwrap(), 3);
    assert_active(3, "three").await;
    assert_deleted(&app, 1).await;
    app.set_quota(Some(1), None).await;
    assert_active(3, "three").await;
    // The digest depends on the module, not on the version.
    app.add("three", true).await;
    assert_active(4, "three").await;
    let theirs = other.app_row().await.active.expect("their version");
    assert_eq!((theirs.version.0, theirs.digest), (1, digest("other")));
}

pub async fn rollback_goes_back_one_version_at_a_time(kit: Kit) {
    let app = kit.app().await;
    assert_nothing_to_roll_back_to(&app).await;
    app.add("one", false).await;
    assert_nothing_to_roll_back_to(&app).await;
    app.activate(1).await;
    assert_nothing_to_roll_back_to(&app).await;
    app.add("two", true).await;
    app.add("three", false).await;
    app.add("four", true).await;
    let chain = [(1, None), (2, Some(1)), (3, None), (4, Some(2))];
    for expected in [2, 1] {
        for (version, before) in chain {
            assert_eq!(replaced(&app, version).await, before);
        }
        assert_eq!(app.try_roll_back().await.unwrap(), expected);
        assert_eq!(app.active().await, Some(expected));
    }
    assert_nothing_to_roll_back_to(&app).await;
    // A rollback forgets nothing: activate the skipped version, then roll back again.
    app.activate(4).await;
    assert_eq!(replaced(&app, 4).await, Some(1));
    app.activate(3).await;
    assert_eq!(replaced(&app, 3).await, Some(4));
    for expected in [4, 1] {
        assert_eq!(app.try_roll_back().await.unwrap(), expected);
    }
    assert_nothing_to_roll_back_to(&app).await;
    assert_eq!(numbers(&app).await, [4, 3, 2, 1]);
}

pub async fn reactivating_the_active_version_keeps_its_rollback_target(kit: Kit) {
    let app = kit.app().await;
    app.add("one", true).await;
    app.activate(1).await;
    assert_eq!(replaced(&app, 1).await, None);
    app.add("two", true).await;
    for _ in 0..2 {
        app.activate(2).await;
        assert_eq!(app.active().await, Some(2));
        assert_eq!(replaced(&app, 2).await, Some(1));
    }
    assert_eq!(app.try_roll_back().await.unwrap(), 1);
    app.activate(1).await;
    assert_nothing_to_roll_back_to(&app).await;
}

pub async fn rollback_never_targets_a_deleted_version(kit: Kit) {
    let app = kit.app().await;
    for wasm in ["one", "two", "three"] {
        app.add(wasm, true).await;
    }
    assert_deleted(&app, 2).await;
    // Not to the one before either: that was not requested.
    assert_nothing_to_roll_back_to(&app).await;
    assert_eq!(app.active().await, Some(3));
    app.activate(1).await;
    assert_eq!(app.try_roll_back().await.unwrap(), 3);
}

pub async fn active_version_cannot_be_deleted(kit: Kit) {
    let app = kit.app().await;
    app.add("one", true).await;
    app.add("two", true).await;
    let refused = app.try_delete_plugin(2).await;
    assert!(
        matches!(refused, Err(StoreError::PluginActive(PluginVersion(2)))),
        "{refused:?}"
    );
    assert_eq!(app.active().await, Some(2));
    assert!(has_module(&kit, "two").await);
    // It can be deleted once it is no longer active.
    assert_eq!(app.try_roll_back().await.unwrap(), 1);
    assert_deleted(&app, 2).await;
    let refused = app.try_delete_plugin(1).await;
    assert!(matches!(refused, Err(StoreError::PluginActive(_))));
    assert_eq!(numbers(&app).await, [1]);
}

pub async fn operations_on_an_unknown_version_fail(kit: Kit) {
    let (app, other) = (kit.app().await, kit.app().await);
    app.add("one", true).await;
    app.add("two", false).await;
    assert_deleted(&app, 2).await;
    for number in 1..=3 {
        other.add("other", false).await;
        assert_eq!(numbers(&other).await.len(), number);
    }
    // Zero, deleted, another app's, and the maximum.
    for number in [0, 2, 3, u32::MAX] {
        let refused = app.try_activate(number).await;
        assert!(
            matches!(refused, Err(StoreError::PluginNotFound(PluginVersion(n))) if n == number),
            "{refused:?}"
        );
        let deleted = app.try_delete_plugin(number).await.expect("deletion");
        assert!(!deleted);
        assert_eq!(find(&app, number).await, None);
    }
    assert_eq!(app.active().await, Some(1));
    assert_eq!(numbers(&other).await, [3, 2, 1]);
    assert_eq!(other.active().await, None);
}

pub async fn plugin_operations_on_an_unknown_app_fail(kit: Kit) {
    let gone = kit.app().await;
    gone.add("one", true).await;
    gone.add("two", true).await;
    assert!(kit.delete_app(gone.id).await.unwrap());
    let never = Tenant {
        id: AppId::generate(),
        ..gone.clone()
    };
    for app in [gone, never] {
        for activate in [false, true] {
            assert_app_not_found(app.try_add("one", activate).await);
        }
        assert_app_not_found(app.try_activate(1).await);
        assert_app_not_found(app.try_roll_back().await);
        // A deletion may report an unknown app or an unknown version.
        let deleted = app.try_delete_plugin(1).await;
        assert!(matches!(deleted, Err(StoreError::AppNotFound) | Ok(false)));
        assert_eq!(numbers(&app).await, [0; 0]);
        assert_eq!(find(&app, 1).await, None);
        assert!(!has_module(&kit, "one").await && !has_module(&kit, "two").await);
    }
}

pub async fn module_is_kept_while_a_version_uses_it(kit: Kit) {
    let (one, two) = (kit.app().await, kit.app().await);
    // Twice in one app and once in another.
    one.add("shared", false).await;
    one.add("shared", false).await;
    one.add("own", false).await;
    two.add("shared", true).await;
    assert_deleted(&one, 1).await;
    assert!(has_module(&kit, "shared").await);
    assert_deleted(&one, 2).await;
    assert!(has_module(&kit, "shared").await);
    assert_eq!(find(&two, 1).await.unwrap().digest, digest("shared"));
    two.add("other", true).await;
    assert_deleted(&two, 1).await;
    assert!(!has_module(&kit, "shared").await);
    assert!(has_module(&kit, "own").await && has_module(&kit, "other").await);
    // It can be added again.
    one.add("shared", true).await;
    assert!(has_module(&kit, "shared").await);
}

pub async fn shared_module_survives_app_deletion(kit: Kit) {
    let [one, two, three] = [kit.app().await, kit.app().await, kit.app().await];
    for app in [&one, &two, &three] {
        app.add("shared", true).await;
        app.add("shared", false).await;
    }
    for app in [&one, &two] {
        app.add(&app.name.to_string(), true).await;
    }
    // With an audit row and without.
    assert!(one.delete_app().await.unwrap());
    assert!(kit.delete_app(two.id).await.unwrap());
    for app in [&one, &two] {
        assert!(!has_module(&kit, app.name.as_str()).await);
        assert_eq!(numbers(app).await, [0; 0]);
    }
    assert!(has_module(&kit, "shared").await);
    let active = three.app_row().await.active.expect("its version");
    assert_eq!(active.digest, digest("shared"));
    assert!(kit.delete_app(three.id).await.unwrap());
    assert!(!has_module(&kit, "shared").await);
}

pub async fn plugin_versions_are_paged_newest_first(kit: Kit) {
    let (app, other) = (kit.app().await, kit.app().await);
    let mut rng = kit.rng();
    let mut expected = Vec::new();
    for number in 1..=20 {
        other.add("other", false).await;
        assert_eq!(app.add(&format!("m{number}"), false).await, number);
        expected.insert(0, number);
    }
    for _ in 0..6 {
        let gone = expected.swap_remove(rng.below(expected.len()));
        assert_deleted(&app, gone).await;
    }
    expected.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(numbers(&app).await, expected);
    // The start need not be an existing version.
    for before in [0, 1, 2, 7, 8, 9, 20, 21, u32::MAX] {
        let start = Some(PluginVersion(before));
        let page = app.store.plugins(app.id, start, 5).await.unwrap();
        let found: Vec<_> = page.iter().map(|plugin| plugin.version.0).collect();
        let rest = expected.iter().filter(|number| **number < before);
        assert_eq!(found, rest.copied().take(5).collect::<Vec<_>>());
        for plugin in page {
            let wasm = format!("m{}", plugin.version);
            assert_eq!(plugin.digest, digest(&wasm));
            assert_eq!(plugin.exports.functions, [wasm]);
        }
    }
    assert!(app.store.plugins(app.id, None, 0).await.unwrap().is_empty());
}

pub async fn plugin_versions_and_bytes_per_app_are_limited(kit: Kit) {
    let app = kit.app().await;
    for _ in 0..VERSIONS_MAX {
        app.add("one", false).await;
    }
    let refused = app.try_add("one", true).await;
    assert!(
        matches!(refused, Err(StoreError::Quota { resource: Resource::Versions, limit }) if limit == VERSIONS_MAX),
        "{refused:?}"
    );
    assert_deleted(&app, 7).await;
    app.add("one", false).await;
    assert!(app.try_add("one", false).await.is_err());

    // Each version counts, even though the module is stored once.
    let other = kit.app().await;
    let wasm = Bytes::from(vec![0; 16 * 1024 * 1024]);
    let large = NewPlugin {
        wasm: wasm.clone(),
        ..new_plugin(other.id, "large", false)
    };
    let add = async |plugin| {
        let row = other.audit_row("plugin.add");
        other.store.add_plugin(plugin, row).await
    };
    for _ in 0..VERSION_BYTES_MAX / wasm.len() as u64 {
        add(large.clone()).await.expect("a version");
    }
    let refused = add(large).await;
    assert!(
        matches!(refused, Err(StoreError::Quota { resource: Resource::ModuleBytes, limit }) if limit == VERSION_BYTES_MAX),
        "{refused:?}"
    );
    assert!(other.try_add("small", false).await.is_err());
}
