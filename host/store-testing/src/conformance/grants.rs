//! Grants of apps, and the activation of versions that need them.

use super::Kit;
use super::app_settings::{config, sealed, set_setting, setting_name};
use super::kit::{Tenant, assert_app_not_found, new_plugin};
use kvasm_core::store::StoreError;
use kvasm_core::{
    ConfigNeed, ConfigType, GRANTS_MAX, Generation, Grant, Needs, OriginPattern, PluginVersion,
    Resource, SecretNeed, SettingKind, Settings, Unmet,
};
use std::sync::Arc;
use tokio::sync::Barrier;

/// Grants permissions of an app. Returns the number added.
pub(super) async fn grant(app: &Tenant, grants: Vec<Grant>) -> Result<u64, StoreError> {
    let row = app.audit_row("test");
    app.store.add_grants(app.id, grants, row).await
}

async fn revoke(app: &Tenant, grants: Vec<Grant>) -> Result<u64, StoreError> {
    let row = app.audit_row("test");
    app.store.remove_grants(app.id, grants, row).await
}

fn pattern(origin: &str) -> OriginPattern {
    OriginPattern::parse(origin).expect("an origin")
}

fn http(origin: &str) -> Grant {
    Grant::HttpOrigin {
        origin: pattern(origin),
    }
}

fn secret(name: &str) -> Grant {
    Grant::Secret {
        name: setting_name(name),
    }
}

async fn read(app: &Tenant) -> Settings {
    app.store.settings(app.id).await.expect("the settings")
}

async fn grants(app: &Tenant) -> Vec<Grant> {
    let rows = read(app).await.grants.into_iter();
    rows.map(|row| row.grant).collect()
}

async fn add(app: &Tenant, wasm: &str, needs: Needs, activate: bool) -> Result<u32, StoreError> {
    let mut plugin = new_plugin(app.id, wasm, activate);
    plugin.exports.needs = needs;
    let added = app.store.add_plugin(plugin, app.audit_row("test")).await;
    added.map(|version| version.0)
}

fn assert_unmet(result: Result<impl std::fmt::Debug, StoreError>, expected: &[Unmet]) {
    match result {
        Err(StoreError::NeedsUnmet(unmet)) => assert_eq!(unmet, expected),
        other => panic!("expected unmet needs, not {other:?}"),
    }
}

fn ungranted(grant: Grant) -> Unmet {
    Unmet::Grant { grant }
}

/// Needs of each kind.
fn all_needs() -> Needs {
    Needs {
        http: vec![pattern("https://api.example.com")],
        config: vec![
            ConfigNeed {
                name: setting_name("mode"),
                kind: ConfigType::String,
                required: true,
                default: None,
                description: None,
            },
            ConfigNeed {
                name: setting_name("retries"),
                kind: ConfigType::Integer,
                required: false,
                default: None,
                description: None,
            },
        ],
        secrets: vec![SecretNeed {
            name: setting_name("key"),
            required: true,
            description: Some("of the API".to_owned()),
        }],
        timers: true,
    }
}

fn only_timers() -> Needs {
    Needs {
        timers: true,
        ..Needs::default()
    }
}

pub async fn grants_are_added_listed_and_removed(kit: Kit) {
    let app = kit.app().await;
    let all = [
        http("https://*.example.com"),
        http("https://api.example.com:8443"),
        secret("Z"),
        secret("a"),
        Grant::Timers,
    ];
    let mut shuffled = all.to_vec();
    shuffled.reverse();
    shuffled.push(Grant::Timers);
    assert_eq!(grant(&app, shuffled).await.expect("granted"), 5);
    assert_eq!(grants(&app).await, all);
    let later = app.later(5);
    let again = grant(&later, vec![secret("a"), secret("b")]).await;
    assert_eq!(again.expect("one is new"), 1);
    let rows = read(&app).await.grants;
    let times: Vec<_> = rows.iter().map(|row| row.granted_at).collect();
    let now = app.now;
    assert_eq!(times, [now, now, now, now, later.now, now]);
    // Settings are beside them.
    set_setting(&app, "n", config("v")).await.expect("set");
    set_setting(&app, "n", sealed(1, "s")).await.expect("set");
    let both = read(&app).await;
    assert_eq!(both.grants, rows);
    assert!(both.find(SettingKind::Secret, "n").is_some());
    let removed = revoke(&app, vec![secret("a"), secret("x"), Grant::Timers]).await;
    assert_eq!(removed.expect("revoked"), 2);
    assert_eq!(
        grants(&app).await,
        [all[0].clone(), all[1].clone(), secret("Z"), secret("b")]
    );
    assert_eq!(revoke(&app, vec![Grant::Timers]).await.expect("none"), 0);
}

pub async fn grants_are_bounded_in_number(kit: Kit) {
    let app = kit.app().await;
    let many = |count: u64| (0..count).map(|n| secret(&format!("n{n}"))).collect();
    let refused = |result: Result<u64, StoreError>| match result {
        Err(StoreError::Quota { resource, limit }) => {
            assert_eq!((resource, limit), (Resource::Grants, GRANTS_MAX));
        }
        other => panic!("expected a quota error, not {other:?}"),
    };
    refused(grant(&app, many(GRANTS_MAX + 1)).await);
    assert_eq!(grants(&app).await, []);
    let fits = grant(&app, many(GRANTS_MAX)).await;
    assert_eq!(fits.expect("exactly as many as fit"), GRANTS_MAX);
    refused(grant(&app, vec![Grant::Timers]).await);
    assert_eq!(grant(&app, many(3)).await.expect("it has them"), 0);
    assert_eq!(grants(&app).await.len() as u64, GRANTS_MAX);
}

pub async fn change_of_grants_is_a_change_of_settings(kit: Kit) {
    let app = kit.app().await;
    let assert_last = async |version: Option<Generation>| {
        assert_eq!(app.app_row().await.settings, version);
        assert_eq!(read(&app).await.version, version);
    };
    let row = app.audit_row("test");
    let expected = Some(Generation(row.id));
    let added = kit.store.add_grants(app.id, vec![Grant::Timers], row).await;
    assert_eq!(added.expect("granted"), 1);
    assert_last(expected).await;
    grant(&app, vec![Grant::Timers]).await.expect("it has it");
    revoke(&app, vec![secret("a")]).await.expect("none");
    assert_last(expected).await;
    let row = app.audit_row("test");
    let expected = Some(Generation(row.id));
    let removed = kit.store.remove_grants(app.id, vec![Grant::Timers], row);
    assert_eq!(removed.await.expect("revoked"), 1);
    assert_last(expected).await;
}

pub async fn grants_of_apps_are_separate_and_end_with_the_app(kit: Kit) {
    let (gone, kept) = (kit.app().await, kit.app().await);
    grant(&gone, vec![secret("a"), Grant::Timers])
        .await
        .expect("granted");
    grant(&kept, vec![secret("a")]).await.expect("granted");
    let removed = revoke(&kept, vec![Grant::Timers]).await;
    assert_eq!(removed.expect("not its own"), 0);
    assert_eq!(grants(&gone).await, [secret("a"), Grant::Timers]);
    assert!(gone.delete_app().await.expect("deleted"));
    assert_eq!(read(&gone).await, Settings::default());
    assert_app_not_found(grant(&gone, vec![Grant::Timers]).await);
    assert_app_not_found(revoke(&gone, vec![Grant::Timers]).await);
    assert_eq!(grants(&kept).await, [secret("a")]);
}

pub async fn version_is_activated_only_with_all_of_its_needs(kit: Kit) {
    let app = kit.app().await;
    app.add("one", true).await;
    let two = add(&app, "two", all_needs(), false).await.expect("added");
    let found = kit.store.plugin(app.id, PluginVersion(two)).await;
    let found = found.expect("read").expect("the version");
    assert_eq!(found.exports.needs, all_needs());
    let expected = [
        ungranted(http("https://api.example.com")),
        ungranted(secret("key")),
        ungranted(Grant::Timers),
        Unmet::Config {
            name: setting_name("mode"),
            expected: ConfigType::String,
        },
        Unmet::Secret {
            name: setting_name("key"),
        },
    ];
    assert_unmet(app.try_activate(two).await, &expected);
    assert_eq!(app.active().await, Some(1));
    grant(&app, all_needs().grants()).await.expect("granted");
    assert_unmet(app.try_activate(two).await, &expected[3..]);
    set_setting(&app, "mode", config("")).await.expect("set");
    set_setting(&app, "key", sealed(1, "s")).await.expect("set");
    set_setting(&app, "retries", config("often"))
        .await
        .expect("set");
    let wrong = Unmet::ConfigType {
        name: setting_name("retries"),
        expected: ConfigType::Integer,
    };
    assert_unmet(app.try_activate(two).await, &[wrong]);
    set_setting(&app, "retries", config("3"))
        .await
        .expect("set");
    app.activate(two).await;
    // A revocation leaves it active, but neither a rollback nor an activation leads back to it.
    app.add("three", true).await;
    revoke(&app, vec![Grant::Timers]).await.expect("revoked");
    assert_unmet(app.try_roll_back().await, &[ungranted(Grant::Timers)]);
    assert_unmet(app.try_activate(two).await, &[ungranted(Grant::Timers)]);
    assert_eq!(app.active().await, Some(3));
    grant(&app, vec![Grant::Timers]).await.expect("granted");
    assert_eq!(app.try_roll_back().await.expect("back"), two);
    revoke(&app, vec![Grant::Timers]).await.expect("revoked");
    assert_eq!(app.active().await, Some(two));
}

pub async fn refused_deploy_adds_no_version(kit: Kit) {
    let app = kit.app().await;
    let refused = add(&app, "one", only_timers(), true).await;
    assert_unmet(refused, &[ungranted(Grant::Timers)]);
    let versions = kit.store.plugins(app.id, None, 9).await.expect("read");
    assert_eq!(versions, []);
    grant(&app, vec![Grant::Timers]).await.expect("granted");
    assert_eq!(
        add(&app, "one", only_timers(), true).await.expect("added"),
        1
    );
    assert_eq!(app.active().await, Some(1));
}

pub async fn grant_of_another_app_meets_no_need(kit: Kit) {
    let (app, other) = (kit.app().await, kit.app().await);
    grant(&other, all_needs().grants()).await.expect("granted");
    set_setting(&other, "mode", config("m")).await.expect("set");
    set_setting(&other, "key", sealed(1, "s"))
        .await
        .expect("set");
    match add(&app, "one", all_needs(), true).await {
        Err(StoreError::NeedsUnmet(unmet)) => assert_eq!(unmet.len(), 5),
        other => panic!("expected unmet needs, not {other:?}"),
    }
    add(&other, "one", all_needs(), true).await.expect("added");
}

pub async fn wildcard_grant_meets_the_needs_that_it_covers(kit: Kit) {
    let app = kit.app().await;
    grant(&app, vec![http("https://*.example.com")])
        .await
        .expect("granted");
    let needs = |origins: &[&str]| Needs {
        http: origins.iter().map(|origin| pattern(origin)).collect(),
        ..Needs::default()
    };
    let covered = needs(&["https://*.example.com", "https://a.example.com"]);
    add(&app, "one", covered, true).await.expect("covered");
    for other in [
        "https://example.com",
        "http://a.example.com",
        "https://a.example.com:8443",
        "https://a.example.com.evil.net",
        "https://notexample.com",
        "https://*.evil.net",
    ] {
        let refused = add(&app, "two", needs(&[other]), true).await;
        assert_unmet(refused, &[ungranted(http(other))]);
    }
    revoke(&app, vec![http("https://*.example.com")])
        .await
        .expect("revoked");
    grant(&app, vec![http("https://a.example.com")])
        .await
        .expect("granted");
    let wider = add(&app, "three", needs(&["https://*.example.com"]), true).await;
    assert_unmet(wider, &[ungranted(http("https://*.example.com"))]);
}

/// The generation is that of the operation which took effect last: if the activation succeeds, it
/// came before the loss of what it needs.
pub async fn activation_raced_with_a_revocation_comes_first_or_is_refused(kit: Kit) {
    let (mut activated, mut refused) = (0, 0);
    for round in 0..40 {
        let app = kit.app().await;
        app.add("one", true).await;
        let two = add(&app, "two", all_needs(), false).await.expect("added");
        grant(&app, all_needs().grants()).await.expect("granted");
        set_setting(&app, "mode", config("m")).await.expect("set");
        set_setting(&app, "key", sealed(1, "s")).await.expect("set");
        let start = Arc::new(Barrier::new(2));
        let (there, begin) = (app.clone(), Arc::clone(&start));
        let activation = tokio::spawn(async move {
            begin.wait().await;
            there.try_activate(two).await
        });
        start.wait().await;
        let row = app.audit_row("test");
        let last = Generation(row.id);
        let (store, name) = (&kit.store, setting_name("mode"));
        match round % 3 {
            0 => {
                let revoked = store.remove_grants(app.id, vec![secret("key")], row).await;
                assert_eq!(revoked.expect("revoked"), 1);
            }
            1 => {
                let unset = store.unset_setting(app.id, SettingKind::Config, name, row);
                assert!(unset.await.expect("unset"));
            }
            _ => {
                let key = setting_name("key");
                let unset = store.unset_setting(app.id, SettingKind::Secret, key, row);
                assert!(unset.await.expect("unset"));
            }
        }
        match activation.await.expect("no panic") {
            Ok(()) => activated += 1,
            Err(StoreError::NeedsUnmet(unmet)) => {
                assert_eq!(unmet.len(), 1, "round {round}: {unmet:?}");
                assert_eq!(app.active().await, Some(1), "round {round}");
                refused += 1;
            }
            Err(error) => panic!("round {round}: {error:?}"),
        }
        let generation = kit.store.generation().await.expect("read");
        assert_eq!(generation, last, "round {round}");
    }
    assert_eq!(activated + refused, 40);
}
