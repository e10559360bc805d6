//! Settings: whether an app is public, and its limits. Each operation changes only what it
//! names.

use super::Kit;
use super::kit::{Tenant, app, assert_app_not_found, audit_row, bytes, set};
use kvasm_core::store::StoreError;
use kvasm_core::{App, AppId, AppLimits, LimitsPatch, Quota};
use std::sync::Arc;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// Limits with pairwise different values.
fn all_set() -> AppLimits {
    AppLimits {
        quota: Quota {
            entries: Some(1_000),
            bytes: Some(5_000_000_000),
        },
        calls_per_second: Some(100),
        calls_at_once: Some(7),
    }
}

/// The row of an app, which is the same by name, by identity and in the list.
async fn row(kit: &Kit, app: &App) -> App {
    let found = kit.store.app(&app.name).await.unwrap().expect("the app");
    let by_id = kit.store.app_by_id(app.id).await.unwrap().expect("the app");
    let listed = kit.store.apps(None, 100).await.unwrap();
    let listed: Vec<_> = listed.iter().filter(|row| row.id == app.id).collect();
    assert_eq!(listed.len(), 1);
    for other in [&by_id, listed[0]] {
        assert_same(other, &found);
    }
    found
}

fn assert_same(one: &App, other: &App) {
    assert_eq!((one.id, &one.name), (other.id, &other.name));
    assert_eq!(one.created_at, other.created_at);
    assert!(one.cursor_key == other.cursor_key);
    assert_eq!(one.active, other.active);
    assert_eq!((one.public, one.limits), (other.public, other.limits));
}

async fn set_limits(
    kit: &Kit,
    app: AppId,
    patch: impl Into<LimitsPatch>,
    expected: Option<AppLimits>,
) -> Result<App, StoreError> {
    let row = audit_row("test");
    kit.store.set_limits(app, patch.into(), expected, row).await
}

async fn set_public(kit: &Kit, app: AppId, public: bool) -> Result<App, StoreError> {
    kit.store.set_public(app, public, audit_row("test")).await
}

pub async fn app_is_created_with_the_given_settings(kit: Kit) {
    for (name, public, limits) in [
        ("plain", false, AppLimits::default()),
        ("open", true, AppLimits::default()),
        ("all", true, all_set()),
    ] {
        let made = App {
            public,
            limits,
            ..app(name)
        };
        kit.create(&made).await.unwrap();
        assert_same(&row(&kit, &made).await, &made);
    }
}

pub async fn creating_an_app_with_a_taken_name_fails(kit: Kit) {
    let first = app("shop");
    kit.create(&first).await.unwrap();
    let second = App {
        public: true,
        limits: all_set(),
        ..app("shop")
    };
    let refused = kit.create(&second).await;
    assert!(matches!(refused, Err(StoreError::AppExists)), "{refused:?}");
    assert_same(&row(&kit, &first).await, &first);
}

pub async fn settings_update_changes_only_the_named_fields(kit: Kit) {
    let (mut expected, other) = (app("shop"), app("other"));
    for app in [&expected, &other] {
        kit.create(app).await.unwrap();
    }
    let tenant = Tenant {
        id: expected.id,
        name: expected.name.clone(),
        ..kit.app().await
    };
    tenant.add("plugin", true).await;
    expected.active = row(&kit, &expected).await.active;
    let all = all_set();
    // All at once, each alone, and each removed alone.
    let none = LimitsPatch::default();
    let mut steps = vec![LimitsPatch::from(all), none, AppLimits::default().into()];
    for all in [LimitsPatch::from(all), AppLimits::default().into()] {
        steps.extend([
            LimitsPatch {
                entries: all.entries,
                ..none
            },
            LimitsPatch {
                bytes: all.bytes,
                ..none
            },
            LimitsPatch {
                calls_per_second: all.calls_per_second,
                ..none
            },
            LimitsPatch {
                calls_at_once: all.calls_at_once,
                ..none
            },
        ]);
    }
    for (number, patch) in steps.into_iter().enumerate() {
        expected.public = number % 2 == 0;
        let changed = set_public(&kit, expected.id, expected.public).await;
        assert_same(&changed.unwrap(), &expected);
        let before = expected.limits;
        expected.limits = patch.apply(before);
        let expect = (number % 3 > 0).then_some(before);
        let changed = set_limits(&kit, expected.id, patch, expect).await;
        assert_same(&changed.unwrap(), &expected);
        assert_same(&row(&kit, &expected).await, &expected);
        assert_same(&row(&kit, &other).await, &other);
    }
}

pub async fn conditional_limit_update_requires_the_expected_limits(kit: Kit) {
    let made = App {
        limits: all_set(),
        ..app("shop")
    };
    kit.create(&made).await.unwrap();
    let mut others = vec![AppLimits::default()];
    let quota = |entries, bytes| Quota { entries, bytes };
    let all = all_set();
    for quota in [
        quota(Some(1_001), all.quota.bytes),
        quota(all.quota.entries, None),
    ] {
        others.push(AppLimits { quota, ..all });
    }
    others.push(AppLimits {
        calls_per_second: Some(0),
        ..all
    });
    others.push(AppLimits {
        calls_at_once: None,
        ..all
    });
    for expected in others {
        let refused = set_limits(&kit, made.id, AppLimits::default(), Some(expected)).await;
        assert!(
            matches!(refused, Err(StoreError::LimitsChanged)),
            "{refused:?}"
        );
        assert_same(&row(&kit, &made).await, &made);
    }
    // Whether an app is public is not one of its limits.
    set_public(&kit, made.id, true).await.unwrap();
    let changed = set_limits(&kit, made.id, AppLimits::default(), Some(all)).await;
    assert_eq!(changed.unwrap().limits, AppLimits::default());
}

/// Four callers each change one setting: no change is undone.
pub async fn concurrent_changes_of_different_settings_all_persist(kit: Kit) {
    const ROUNDS: u32 = 30;
    let made = app("shop");
    kit.create(&made).await.unwrap();
    let start = Arc::new(Barrier::new(4));
    let mut callers = JoinSet::new();
    for caller in 0..4 {
        let (kit, start, id) = (kit.clone(), Arc::clone(&start), made.id);
        callers.spawn(async move {
            start.wait().await;
            for round in 1..=ROUNDS {
                let none = LimitsPatch::default();
                let wide = Some(Some(u64::from(round)));
                let patch = match caller {
                    0 => {
                        let public = round % 2 == 0;
                        let changed = set_public(&kit, id, public).await.unwrap();
                        assert_eq!(changed.public, public);
                        continue;
                    }
                    1 => LimitsPatch {
                        entries: wide,
                        ..none
                    },
                    2 => LimitsPatch {
                        bytes: wide,
                        calls_per_second: Some(Some(round)),
                        ..none
                    },
                    _ => LimitsPatch {
                        calls_at_once: Some(Some(round)),
                        ..none
                    },
                };
                let changed = set_limits(&kit, id, patch, None).await.unwrap();
                // Its own change, and those that the others have made so far.
                assert_eq!(patch.apply(changed.limits), changed.limits);
            }
        });
    }
    callers.join_all().await;
    let found = row(&kit, &made).await;
    let expected = AppLimits {
        quota: Quota {
            entries: Some(ROUNDS.into()),
            bytes: Some(ROUNDS.into()),
        },
        calls_per_second: Some(ROUNDS),
        calls_at_once: Some(ROUNDS),
    };
    assert_eq!((found.public, found.limits), (true, expected));
}

/// All callers increment a limit that they have read: no increment is lost.
pub async fn one_concurrent_conditional_limit_update_wins(kit: Kit) {
    let made = App {
        limits: AppLimits {
            calls_at_once: Some(1),
            ..AppLimits::default()
        },
        ..app("shop")
    };
    kit.create(&made).await.unwrap();
    let mut callers = JoinSet::new();
    for _ in 0..6 {
        let (kit, id) = (kit.clone(), made.id);
        callers.spawn(async move {
            let mut done = 0;
            while done < 5 {
                let read = kit.store.app_by_id(id).await.unwrap().expect("the app");
                let next = read.limits.calls_at_once.expect("a limit") + 1;
                let patch = LimitsPatch {
                    calls_at_once: Some(Some(next)),
                    ..LimitsPatch::default()
                };
                match set_limits(&kit, id, patch, Some(read.limits)).await {
                    Ok(changed) => {
                        assert_eq!(changed.limits.calls_at_once, Some(next));
                        done += 1;
                    }
                    Err(StoreError::LimitsChanged) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
    }
    callers.join_all().await;
    let found = row(&kit, &made).await.limits;
    assert_eq!(found.calls_at_once, Some(31));
}

pub async fn zero_is_a_valid_limit(kit: Kit) {
    let made = app("shop");
    kit.create(&made).await.unwrap();
    let limits = AppLimits {
        quota: Quota {
            entries: Some(0),
            bytes: Some(0),
        },
        calls_per_second: Some(0),
        calls_at_once: Some(0),
    };
    set_limits(&kit, made.id, limits, None).await.unwrap();
    assert_eq!(row(&kit, &made).await.limits, limits);
}

pub async fn settings_update_of_an_unknown_app_fails(kit: Kit) {
    let gone = kit.app().await;
    assert!(kit.delete_app(gone.id).await.unwrap());
    for app in [gone.id, AppId::generate()] {
        for expected in [None, Some(AppLimits::default())] {
            assert_app_not_found(set_limits(&kit, app, all_set(), expected).await);
        }
        assert_app_not_found(set_public(&kit, app, true).await);
    }
    assert!(kit.store.apps(None, 10).await.unwrap().is_empty());
}

pub async fn largest_limits_behave_as_unlimited(kit: Kit) {
    const SIGNED_MAX: u64 = i64::MAX as u64;
    let mut row = app("largest");
    row.limits.calls_per_second = Some(u32::MAX);
    row.limits.calls_at_once = Some(u32::MAX);
    let create = [u64::MAX, SIGNED_MAX + 1, SIGNED_MAX, SIGNED_MAX - 1];
    for (at, limit) in create.into_iter().enumerate() {
        row.limits.quota = Quota {
            entries: Some(limit),
            bytes: Some(limit),
        };
        if at == 0 {
            kit.create(&row).await.unwrap();
        } else {
            set_limits(&kit, row.id, row.limits, None).await.unwrap();
        }
        let app = Tenant {
            id: row.id,
            name: row.name.clone(),
            ..kit.app().await
        };
        let found = app.app_row().await.limits;
        // A signed column holds no more than this.
        let least = limit.min(SIGNED_MAX);
        assert!(found.quota.entries.is_none_or(|found| found >= least));
        assert!(found.quota.bytes.is_none_or(|found| found >= least));
        assert_eq!(found.calls_per_second, Some(u32::MAX));
        assert_eq!(found.calls_at_once, Some(u32::MAX));
        // The limits that were read match as the expected ones.
        let same = set_limits(&kit, row.id, LimitsPatch::default(), Some(found)).await;
        assert_eq!(same.unwrap().limits, found);
        for k in ["a", "b"] {
            app.set("c", &format!("{k}{at}"), bytes([0; 100])).await;
        }
        let ops = vec![set("c", "a0", bytes("")), set("c", "b0", bytes([0; 500]))];
        app.commit(vec![], ops).await;
    }
}

pub async fn app_is_deleted_once(kit: Kit) {
    let (gone, kept) = (kit.app().await, kit.app().await);
    for app in [&gone, &kept] {
        app.set("c", "k", bytes("x")).await;
    }
    assert!(gone.delete_app().await.unwrap());
    assert!(kit.store.app(&gone.name).await.unwrap().is_none());
    assert_eq!(gone.get("c", "k").await, None);
    for app in [gone.id, AppId::generate()] {
        assert!(!kit.delete_app(app).await.unwrap());
    }
    assert_eq!(kept.app_row().await.id, kept.id);
    assert_eq!(kept.value("c", "k").await, Some(bytes("x")));
    // The name can be reused.
    kit.create(&app(gone.name.as_str())).await.unwrap();
}
