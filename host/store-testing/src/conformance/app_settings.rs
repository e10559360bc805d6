//! Configuration values and sealed secrets of apps.

use super::Kit;
use super::kit::{Tenant, assert_app_not_found, audit_row};
use bytes::Bytes;
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, ConfigValue, Generation, KeyId, Resealed, Resource, SETTING_BYTES_MAX,
    SETTINGS_BYTES_MAX, SETTINGS_MAX, SealedSecret, SettingKind, SettingName, SettingValue,
    Settings,
};
use std::sync::Arc;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// The name of a setting.
pub fn setting_name(name: &str) -> SettingName {
    SettingName::parse(name).expect("a name")
}

/// A configuration value.
pub fn config(value: &str) -> SettingValue {
    SettingValue::Config(ConfigValue::parse(value.as_bytes()).expect("a value"))
}

/// The identity of a key.
pub fn key_id(number: u8) -> KeyId {
    KeyId([number; KeyId::BYTES])
}

fn sealed_bytes(key: u8, bytes: impl Into<Bytes>) -> SealedSecret {
    SealedSecret {
        key: key_id(key),
        bytes: bytes.into(),
    }
}

/// A secret as a key might have sealed it.
pub fn sealed(key: u8, bytes: &str) -> SettingValue {
    SettingValue::Secret(sealed_bytes(key, bytes.to_owned()))
}

/// A secret that is sealed again.
pub fn resealed(name: &str, before: &str, after: SettingValue) -> Resealed {
    let SettingValue::Secret(after) = after else {
        panic!("not a secret");
    };
    Resealed {
        name: setting_name(name),
        before: before.to_owned().into(),
        after,
    }
}

/// Sets a setting of an app.
pub(super) async fn set_setting(
    app: &Tenant,
    name: &str,
    value: SettingValue,
) -> Result<(), StoreError> {
    let (store, row) = (&app.store, app.audit_row("test"));
    store
        .set_setting(app.id, setting_name(name), value, row)
        .await
}

async fn unset(app: &Tenant, kind: SettingKind, name: &str) -> bool {
    let (store, row) = (&app.store, app.audit_row("test"));
    let unset = store.unset_setting(app.id, kind, setting_name(name), row);
    unset.await.expect("unset")
}

async fn read(app: &Tenant) -> Settings {
    app.store.settings(app.id).await.expect("the settings")
}

/// The names and values of an app's settings, in order.
async fn values(app: &Tenant) -> Vec<(String, SettingValue)> {
    let rows = read(app).await.rows.into_iter();
    rows.map(|row| (row.name.to_string(), row.value)).collect()
}

fn pair(name: &str, value: SettingValue) -> (String, SettingValue) {
    (name.to_owned(), value)
}

fn assert_other_key(result: Result<impl std::fmt::Debug, StoreError>, keys: (u8, u8)) {
    let keys = (key_id(keys.0), key_id(keys.1));
    match result {
        Err(StoreError::OtherSecretsKey { given, current }) => assert_eq!((given, current), keys),
        other => panic!("expected another key, not {other:?}"),
    }
}

pub async fn settings_are_set_replaced_and_unset(kit: Kit) {
    let app = kit.app().await;
    assert_eq!(read(&app).await, Settings::default());
    for (name, value) in [
        ("b", config("")),
        ("a", config("ä\n\"'")),
        // Bytewise order: capitals first.
        ("Z", config("z")),
        ("b", sealed(1, "\0\u{1}")),
    ] {
        set_setting(&app, name, value).await.expect("set");
    }
    let mut expected = vec![
        pair("Z", config("z")),
        pair("a", config("ä\n\"'")),
        pair("b", config("")),
        pair("b", sealed(1, "\0\u{1}")),
    ];
    assert_eq!(values(&app).await, expected);
    let later = app.later(7);
    set_setting(&later, "b", config("new")).await.expect("set");
    expected[2] = pair("b", config("new"));
    assert_eq!(values(&app).await, expected);
    let found = read(&app).await;
    let updated = |kind| found.find(kind, "b").expect("set").updated_at;
    assert_eq!(updated(SettingKind::Config), later.now);
    assert_eq!(updated(SettingKind::Secret), app.now);
    assert_eq!(found.find(SettingKind::Secret, "a"), None);
    assert!(unset(&app, SettingKind::Config, "b").await);
    assert!(!unset(&app, SettingKind::Config, "b").await);
    assert!(!unset(&app, SettingKind::Secret, "a").await);
    expected.remove(2);
    assert_eq!(values(&app).await, expected);
}

pub async fn app_row_names_the_last_change_of_its_settings(kit: Kit) {
    let app = kit.app().await;
    let last = async || {
        let version = app.app_row().await.settings;
        assert_eq!(read(&app).await.version, version);
        let by_id = kit.store.app_by_id(app.id).await.expect("read");
        assert_eq!(by_id.expect("the app").settings, version);
        version
    };
    assert_eq!(last().await, None);
    let store = &kit.store;
    let mut row = app.audit_row("test");
    let set = store.set_setting(app.id, setting_name("n"), config("a"), row.clone());
    set.await.expect("set");
    assert_eq!(last().await, Some(Generation(row.id)));
    // Other operations and failed ones leave it.
    let other = store.set_public(app.id, true, app.audit_row("test")).await;
    let unset =
        |name, row| store.unset_setting(app.id, SettingKind::Config, setting_name(name), row);
    assert!(!unset("m", app.audit_row("test")).await.expect("unset"));
    let none = resealed("n", "a", sealed(1, "b"));
    let none = store.reseal_secrets(app.id, vec![none], app.audit_row("test"));
    assert_eq!(none.await.expect("nothing"), 0);
    assert_eq!(other.expect("set").settings, Some(Generation(row.id)));
    assert_eq!(last().await, Some(Generation(row.id)));
    row = app.audit_row("test");
    assert!(unset("n", row.clone()).await.expect("unset"));
    assert_eq!(last().await, Some(Generation(row.id)));
}

pub async fn settings_are_bounded_in_number_and_bytes(kit: Kit) {
    let full = kit.app().await;
    for number in 0..SETTINGS_MAX {
        let value = match number % 2 {
            0 => config("v"),
            _ => sealed(1, "s"),
        };
        let set = set_setting(&full, &format!("n{number}"), value).await;
        set.expect("room");
    }
    let refused = set_setting(&full, "more", config("v")).await;
    assert_quota(refused, Resource::Settings, SETTINGS_MAX);
    let replaced = set_setting(&full, "n0", config("w")).await;
    replaced.expect("it replaces one");
    assert_eq!(values(&full).await.len() as u64, SETTINGS_MAX);

    let large = kit.app().await;
    let value = "v".repeat(SETTING_BYTES_MAX - 2);
    let fitting = SETTINGS_BYTES_MAX / SETTING_BYTES_MAX as u64;
    for number in 0..fitting {
        let name = format!("{number:02}");
        let set = set_setting(&large, &name, config(&value)).await;
        set.expect("exactly as much as fits");
    }
    let refused = set_setting(&large, "n", config("")).await;
    assert_quota(refused, Resource::SettingBytes, SETTINGS_BYTES_MAX);
    let refused = set_setting(&large, "00", config(&format!("{value}v"))).await;
    assert_quota(refused, Resource::SettingBytes, SETTINGS_BYTES_MAX);
    // The bytes of UTF-8 count, not the characters.
    set_setting(&large, "00", config("")).await.expect("set");
    let wide = "ä".repeat(SETTING_BYTES_MAX / 2);
    let refused = set_setting(&large, "00", config(&wide)).await;
    assert_quota(refused, Resource::SettingBytes, SETTINGS_BYTES_MAX);
    assert_eq!(values(&large).await[0], pair("00", config("")));
}

fn assert_quota(result: Result<(), StoreError>, expected: Resource, max: u64) {
    match result {
        Err(StoreError::Quota { resource, limit }) => {
            assert_eq!((resource, limit), (expected, max));
        }
        other => panic!("expected a quota error, not {other:?}"),
    }
}

pub async fn largest_settings_round_trip(kit: Kit) {
    let app = kit.app().await;
    let name = "n".repeat(SettingName::BYTES_MAX);
    let value = config(&"v".repeat(SETTING_BYTES_MAX));
    let bytes: Vec<u8> = (0..SETTING_BYTES_MAX + 41).map(|n| n as u8).collect();
    let secret = SettingValue::Secret(sealed_bytes(1, bytes));
    for value in [&value, &secret] {
        set_setting(&app, &name, value.clone()).await.expect("set");
    }
    assert_eq!(
        values(&app).await,
        [pair(&name, value), pair(&name, secret)]
    );
}

pub async fn secret_of_another_key_is_refused(kit: Kit) {
    let (app, other) = (kit.app().await, kit.app().await);
    let current = async || kit.store.secrets_key().await.expect("read");
    assert_eq!(current().await, None);
    set_setting(&app, "c", config("v")).await.expect("set");
    assert_eq!(current().await, None);
    set_setting(&app, "s", sealed(1, "a")).await.expect("first");
    assert_eq!(current().await, Some(key_id(1)));
    for app in [&app, &other] {
        assert_other_key(set_setting(app, "s", sealed(2, "b")).await, (2, 1));
    }
    assert_eq!(read(&other).await, Settings::default());
    let change = |key| kit.store.set_secrets_key(key_id(key), audit_row("test"));
    assert!(change(2).await.expect("changed"));
    assert!(!change(2).await.expect("the same"));
    assert_eq!(current().await, Some(key_id(2)));
    assert_other_key(set_setting(&app, "s", sealed(1, "b")).await, (1, 2));
    set_setting(&other, "s", sealed(2, "b")).await.expect("set");
    // What the old key has sealed stays.
    let expected = [pair("c", config("v")), pair("s", sealed(1, "a"))];
    assert_eq!(values(&app).await, expected);
}

/// Writers under the old key race with the change of the key: whatever one of them has added is
/// seen by a read that begins after the change.
pub async fn no_secret_is_added_under_the_old_key_after_a_key_change(kit: Kit) {
    const WRITERS: usize = 6;
    let app = kit.app().await;
    set_setting(&app, "first", sealed(1, "a"))
        .await
        .expect("set");
    let start = Arc::new(Barrier::new(WRITERS + 1));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (app, start) = (app.clone(), Arc::clone(&start));
        writers.spawn(async move {
            start.wait().await;
            let mut added = 0;
            for number in 0.. {
                let name = format!("{writer}.{}", number % 8);
                match set_setting(&app, &name, sealed(1, "a")).await {
                    Ok(()) => added += 1,
                    Err(StoreError::OtherSecretsKey { .. }) => return added,
                    Err(error) => panic!("{error:?}"),
                }
            }
            added
        });
    }
    start.wait().await;
    let row = audit_row("test");
    assert!(
        kit.store
            .set_secrets_key(key_id(2), row)
            .await
            .expect("set")
    );
    let seen = read(&app).await;
    writers.join_all().await;
    assert_eq!(read(&app).await, seen);
}

pub async fn reseal_replaces_only_unchanged_secrets(kit: Kit) {
    let app = kit.app().await;
    for (name, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        set_setting(&app, name, sealed(1, value))
            .await
            .expect("set");
    }
    let reseal = async |secrets| {
        let row = app.later(9).audit_row("test");
        kit.store.reseal_secrets(app.id, secrets, row).await
    };
    let refused = reseal(vec![resealed("a", "1", sealed(2, "4"))]).await;
    assert_other_key(refused, (2, 1));
    let row = audit_row("test");
    assert!(
        kit.store
            .set_secrets_key(key_id(2), row)
            .await
            .expect("set")
    );
    // One was replaced meanwhile, and one does not exist.
    set_setting(&app, "b", sealed(2, "5")).await.expect("set");
    let done = reseal(vec![
        resealed("a", "1", sealed(2, "6")),
        resealed("b", "2", sealed(2, "7")),
        resealed("d", "8", sealed(2, "9")),
    ]);
    assert_eq!(done.await.expect("resealed"), 1);
    let expected = [
        pair("a", sealed(2, "6")),
        pair("b", sealed(2, "5")),
        pair("c", sealed(1, "3")),
    ];
    assert_eq!(values(&app).await, expected);
    assert_eq!(read(&app).await.rows[0].updated_at, app.now);
}

pub async fn settings_of_apps_are_separate_and_end_with_the_app(kit: Kit) {
    let (gone, kept) = (kit.app().await, kit.app().await);
    for app in [&gone, &kept] {
        set_setting(app, "n", config("v")).await.expect("set");
        set_setting(app, "n", sealed(1, "s")).await.expect("set");
    }
    assert!(unset(&kept, SettingKind::Config, "n").await);
    let both = [pair("n", config("v")), pair("n", sealed(1, "s"))];
    assert_eq!(values(&gone).await, both);
    assert!(gone.delete_app().await.expect("deleted"));
    assert_eq!(read(&gone).await, Settings::default());
    assert_app_not_found(set_setting(&gone, "n", config("v")).await);
    assert_eq!(values(&kept).await, [pair("n", sealed(1, "s"))]);
}

pub async fn settings_of_an_unknown_app_cannot_be_changed(kit: Kit) {
    let never = Tenant {
        id: AppId::generate(),
        ..kit.app().await
    };
    assert_eq!(read(&never).await, Settings::default());
    assert_app_not_found(set_setting(&never, "n", config("v")).await);
    assert_app_not_found(set_setting(&never, "n", sealed(1, "s")).await);
    // The refused secret has not made its key the current one.
    assert_eq!(kit.store.secrets_key().await.expect("read"), None);
    let name = setting_name("n");
    let row = audit_row("test");
    let unset = kit
        .store
        .unset_setting(never.id, SettingKind::Config, name, row);
    assert_app_not_found(unset.await);
}
