//! The audit log: each change that takes effect leaves its row, and nothing else
//! leaves one.

use super::Kit;
use super::kit::{
    Tenant, absent, app, assert_app_not_found, audit_row, bytes, delete, digest, new_plugin, set,
    token, token_id,
};
use kvasm::model::{
    AppId, AppSettings, Applied, Audit, Change, Changed, Op, PluginVersion, Timestamp, Token,
    TokenId, WriteBatch,
};
use kvasm::store::StoreError;
use serde_json::json;
use std::cmp::Reverse;
use std::slice;
use tokio::task::JoinSet;

/// All rows of an app, or all, newest first, in pages of a few.
async fn log(kit: &Kit, app: Option<AppId>) -> Vec<Audit> {
    let mut all: Vec<Audit> = Vec::new();
    loop {
        let before = all.last().map(|row| row.id);
        let page = kit.store.audit(app, before, 4).await.expect("audit");
        assert!(page.len() <= 4);
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// One change of each kind, all of which take effect in this order.
fn changes(tenant: &Tenant) -> Vec<Change> {
    let id = tenant.id;
    let (made, other) = (app("made"), token("bound", Some(id)));
    let (made_id, version) = (made.id, PluginVersion);
    vec![
        Change::CreateApp(made),
        Change::UpdateApp {
            app: id,
            settings: AppSettings {
                public: true,
                ..AppSettings::default()
            },
        },
        // With what it has already: it takes effect.
        Change::UpdateApp {
            app: made_id,
            settings: AppSettings::default(),
        },
        Change::AddPlugin(new_plugin(id, "one", true)),
        Change::AddPlugin(new_plugin(id, "two", false)),
        Change::ActivatePlugin {
            app: id,
            version: version(2),
        },
        Change::ActivatePlugin {
            app: id,
            version: version(2),
        },
        Change::RollBackPlugin(id),
        Change::DeletePlugin {
            app: id,
            version: version(2),
        },
        Change::CreateToken(token("free", None)),
        Change::CreateToken(other.clone()),
        Change::RevokeToken {
            app: Some(id),
            token: other.id,
        },
        Change::DeleteApp(made_id),
    ]
}

/// A row with something in every field, about an app or not.
fn full_row(app: Option<&Tenant>, number: usize) -> Audit {
    Audit {
        at: Timestamp(1000 + number as i64),
        token: number.is_multiple_of(2).then(|| token("used", None).id),
        actor: format!("ä'\"\\ {number}"),
        action: format!("test.{number}").into(),
        app: app.map(|app| (app.id, app.name.clone())),
        detail: json!({
            "number": number,
            "nested": [null, true, -1.5, {"é\"\n": ""}],
            "large": u64::MAX,
        }),
        ..audit_row("replaced")
    }
}

pub async fn each_change_leaves_its_row(kit: Kit) {
    let app = kit.app().await;
    let mut expected: Vec<Audit> = Vec::new();
    for (number, change) in changes(&app).into_iter().enumerate() {
        let about = (number % 3 > 0).then_some(&app);
        let row = full_row(about, number);
        let shown = format!("{change:?}");
        let changed = kit.store.change(change, row.clone()).await.expect("done");
        assert_ne!(changed, Changed::Nothing, "{shown}");
        expected.insert(0, row);
        let newest = kit.store.audit(None, None, 1).await.unwrap();
        assert_eq!(newest, expected[..1], "{shown}");
    }
    assert_eq!(log(&kit, None).await, expected);
    expected.retain(|row| row.app.is_some());
    assert_eq!(log(&kit, Some(app.id)).await, expected);
}

pub async fn rows_name_what_need_not_be_there(kit: Kit) {
    // Neither the token nor the app is, or was.
    let never = Tenant {
        id: AppId::generate(),
        ..kit.app().await
    };
    let mut row = full_row(Some(&never), 0);
    row.token = Some(TokenId::BOOTSTRAP);
    row.detail = json!({});
    let change = Change::CreateToken(token("free", None));
    kit.store.change(change, row.clone()).await.expect("done");
    assert_eq!(log(&kit, None).await, [row.clone()]);
    assert_eq!(log(&kit, Some(never.id)).await, [row]);
}

pub async fn what_changes_nothing_leaves_no_row(kit: Kit) {
    let app = kit.app().await;
    let taken = token("taken", None);
    for change in [
        Change::CreateToken(taken.clone()),
        Change::AddPlugin(new_plugin(app.id, "one", true)),
        Change::RevokeToken {
            app: None,
            token: taken.id,
        },
    ] {
        app.change(change).await;
    }
    let before = log(&kit, None).await;
    assert_eq!(before.len(), 3);
    for change in [
        Change::DeleteApp(AppId::generate()),
        Change::DeletePlugin {
            app: app.id,
            version: PluginVersion(2),
        },
        Change::CreateToken(taken.clone()),
        Change::RevokeToken {
            app: None,
            token: taken.id,
        },
        Change::RevokeToken {
            app: Some(app.id),
            token: TokenId::BOOTSTRAP,
        },
    ] {
        assert_eq!(app.change(change.clone()).await, Changed::Nothing);
        assert_eq!(log(&kit, None).await, before, "{change:?}");
    }
}

pub async fn what_fails_leaves_no_row(kit: Kit) {
    let tenant = kit.app().await;
    let (id, never) = (tenant.id, AppId::generate());
    tenant.add("one", true).await;
    let before = log(&kit, None).await;
    let (settings, version) = (AppSettings::default(), PluginVersion(1));
    for change in [
        Change::CreateApp(app(tenant.name.as_str())),
        Change::UpdateApp {
            app: never,
            settings,
        },
        Change::AddPlugin(new_plugin(never, "two", true)),
        Change::AddPlugin(new_plugin(never, "two", false)),
        Change::ActivatePlugin {
            app: never,
            version,
        },
        Change::ActivatePlugin {
            app: id,
            version: PluginVersion(2),
        },
        Change::RollBackPlugin(id),
        Change::RollBackPlugin(never),
        Change::DeletePlugin { app: id, version },
        Change::CreateToken(token("ci", Some(never))),
    ] {
        let failed = tenant.try_change(change.clone()).await;
        assert!(failed.is_err(), "{change:?}: {failed:?}");
        assert_eq!(log(&kit, None).await, before, "{change:?}");
    }
    // Nothing else of what failed is there either.
    assert_eq!(kit.store.module(digest("two")).await.unwrap(), None);
    assert!(kit.store.tokens(None, None, 9).await.unwrap().is_empty());
    assert_eq!(kit.store.plugins(id, None, 9).await.unwrap().len(), 1);
}

pub async fn what_is_done_without_a_row_leaves_none(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "k", bytes("x")).await;
    app.commit(vec![], vec![delete("c", "k"), set("c", "l", bytes("x"))])
        .await;
    assert!(kit.store.delete_app(app.id).await.unwrap());
    assert!(log(&kit, None).await.is_empty());
}

pub async fn rows_outlive_their_app(kit: Kit) {
    let (gone, kept) = (kit.app().await, kit.app().await);
    for app in [&gone, &kept] {
        app.add("one", true).await;
        let token = token("ci", Some(app.id));
        app.change(Change::CreateToken(token)).await;
    }
    let before = log(&kit, None).await;
    let own = log(&kit, Some(gone.id)).await;
    assert_eq!((before.len(), own.len()), (4, 2));
    let deleted = gone.audit_row("app.delete");
    let change = Change::DeleteApp(gone.id);
    kit.store.change(change, deleted.clone()).await.unwrap();
    let with_deletion = |rows: &[Audit]| [slice::from_ref(&deleted), rows].concat();
    assert_eq!(log(&kit, None).await, with_deletion(&before));
    assert_eq!(log(&kit, Some(gone.id)).await, with_deletion(&own));
    // Another app of the name is another app.
    let again = app(gone.name.as_str());
    kit.store.create_app(&again).await.unwrap();
    assert!(log(&kit, Some(again.id)).await.is_empty());
    assert!(kit.store.delete_app(kept.id).await.unwrap());
    assert_eq!(log(&kit, Some(kept.id)).await.len(), 2);
}

pub async fn rows_are_listed_newest_first_in_pages(kit: Kit) {
    let (one, two) = (kit.app().await, kit.app().await);
    let mut rng = kit.rng();
    let about = [None, Some(&one), Some(&two)];
    let mut rows: Vec<_> = (0..23).map(|at| full_row(about[at % 3], at)).collect();
    // Whatever order they are written in: the identity tells which is newer.
    let mut left = rows.clone();
    while !left.is_empty() {
        let row = left.swap_remove(rng.below(left.len()));
        let change = Change::CreateToken(token("ci", None));
        kit.store.change(change, row).await.expect("done");
    }
    rows.reverse();
    assert_eq!(log(&kit, None).await, rows);
    for app in [one.id, two.id] {
        let of_app = |row: &&Audit| row.app.as_ref().is_some_and(|(id, _)| *id == app);
        let own: Vec<_> = rows.iter().filter(of_app).cloned().collect();
        assert!(own.len() >= 7);
        assert_eq!(log(&kit, Some(app)).await, own);
        // The start may be a row of another app.
        let page = kit.store.audit(Some(app), Some(rows[9].id), 100).await;
        let rest: Vec<_> = own.into_iter().filter(|row| row.id < rows[9].id).collect();
        assert_eq!(page.unwrap(), rest);
    }
    let page = kit.store.audit(None, Some(rows[4].id), 3).await.unwrap();
    assert_eq!(page, rows[5..8]);
    assert!(kit.store.audit(None, None, 0).await.unwrap().is_empty());
    assert!(log(&kit, Some(AppId::generate())).await.is_empty());
}

/// Writes of every shape, to an app that has the entry `c/old` and no other.
fn writes() -> Vec<Vec<Op>> {
    vec![
        vec![set("c", "old", bytes("new"))],
        vec![set("c", "k", bytes("x"))],
        vec![delete("c", "old")],
        vec![delete("c", "nothing")],
        vec![set("c", "k", bytes("x")), set("c", "l", bytes("x"))],
        vec![delete("c", "old"), delete("c", "nothing")],
        vec![set("c", "k", bytes("x")), delete("c", "old")],
        vec![set("c", "k", bytes("x")), delete("c", "k")],
        vec![],
    ]
}

async fn commit(app: &Tenant, batch: WriteBatch, row: &Audit) -> Result<Vec<Applied>, StoreError> {
    let audit = Some(Box::new(row.clone()));
    let committed = app.store.commit(WriteBatch { audit, ..batch }).await;
    committed.map(|committed| committed.applied)
}

pub async fn a_batch_leaves_its_row(kit: Kit) {
    let mut expected = Vec::new();
    for (number, ops) in writes().into_iter().enumerate() {
        for checks in [vec![], vec![absent("c", "none")]] {
            let app = kit.app().await;
            app.set("c", "old", bytes("x")).await;
            let row = full_row(Some(&app), number);
            let count = ops.len();
            let applied = commit(&app, app.batch(checks, ops.clone()), &row).await;
            assert_eq!(applied.expect("done").len(), count);
            for op in &ops {
                if let Op::Set { key, value, .. } = op {
                    let deleted = ops.len() == 2 && ops[1] == delete("c", key.as_str());
                    let found = app.value("c", key.as_str()).await;
                    assert_eq!(found.as_ref(), (!deleted).then_some(value));
                }
            }
            let rows = log(&kit, Some(app.id)).await;
            assert_eq!(rows, slice::from_ref(&row), "{ops:?}");
            expected.insert(0, row);
        }
    }
    assert_eq!(log(&kit, None).await, expected);
}

pub async fn a_batch_that_fails_leaves_no_row(kit: Kit) {
    let app = kit.app().await;
    let version = app.set("c", "old", bytes("x")).await;
    let before = app.usage().await;
    // Not even what is written first may stay.
    for ops in writes() {
        let batch = app.batch(vec![absent("c", "old")], ops);
        let failed = commit(&app, batch, &app.audit_row("conflict")).await;
        assert!(matches!(failed, Err(StoreError::Conflict { .. })));
    }
    for (entries, bytes_max) in [(Some(1), None), (None, Some(app.used().await.bytes))] {
        app.limit(entries, bytes_max).await;
        for ops in [
            vec![set("c", "k", bytes("x"))],
            vec![set("c", "k", bytes("x")), set("c", "l", bytes("x"))],
            vec![
                delete("c", "old"),
                set("c", "k", bytes("x")),
                set("c", "l", bytes("x")),
            ],
        ] {
            for checks in [vec![], vec![absent("c", "k")]] {
                let batch = app.batch(checks, ops.clone());
                let failed = commit(&app, batch, &app.audit_row("quota")).await;
                assert!(matches!(failed, Err(StoreError::Quota { .. })), "{ops:?}");
            }
        }
    }
    let never = Tenant {
        id: AppId::generate(),
        ..app.clone()
    };
    for ops in writes() {
        let batch = never.batch(vec![], ops);
        let row = never.audit_row("never");
        assert_app_not_found(commit(&never, batch, &row).await);
    }
    assert!(log(&kit, Some(never.id)).await.is_empty());
    // The two changes of the quota alone are there.
    let rows = log(&kit, None).await;
    assert!(rows.len() == 2 && rows.iter().all(|row| row.action == "test"));
    assert_eq!(app.get("c", "old").await.unwrap().version, version);
    assert_eq!((app.usage().await, app.keys("c").await.len()), (before, 1));
}

/// Tries what one alone can do in a round; whether it was done.
async fn compete(tenant: &Tenant, kind: u32, round: u32, row: &Audit) -> bool {
    let change = match kind {
        0 => Change::CreateApp(app(&format!("race-{round}"))),
        1 => Change::CreateToken(Token {
            id: token_id(round.into()),
            ..token("ci", None)
        }),
        _ => {
            let k = format!("k{round}");
            let ops = vec![set("c", &k, bytes("x"))];
            let batch = tenant.batch(vec![absent("c", &k)], ops);
            return match commit(tenant, batch, row).await {
                Ok(_) => true,
                Err(StoreError::Conflict { .. }) => false,
                Err(error) => panic!("{error:?}"),
            };
        }
    };
    match tenant.store.change(change, row.clone()).await {
        Ok(Changed::Done) => true,
        Ok(Changed::Nothing) | Err(StoreError::AppExists) => false,
        other => panic!("{other:?}"),
    }
}

pub async fn concurrent_changes_leave_a_row_each(kit: Kit) {
    let app = kit.app().await;
    let mut callers = JoinSet::new();
    for caller in 0..12 {
        let app = app.clone();
        callers.spawn(async move {
            let mut rows = Vec::new();
            for round in 0..10 {
                let row = app.audit_row("race");
                if compete(&app, (caller + round) % 3, round, &row).await {
                    rows.push(row);
                }
            }
            rows
        });
    }
    let mut expected = callers.join_all().await.concat();
    assert_eq!(expected.len(), 30, "one of each kind in each round");
    expected.sort_by_key(|row| Reverse(row.id));
    assert_eq!(log(&kit, Some(app.id)).await, expected);
}
