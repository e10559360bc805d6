//! A test of SQLite alone: a database that rejects rows.

use kvasm::model::{DeadLetterFilter, DeadReason, Verdict};
use kvasm::store::{SqliteOptions, SqliteStore};
use kvasm_store_testing::conformance::Kit;
use kvasm_store_testing::conformance::kit::{Tenant, bytes, set};
use rusqlite::Connection;
use std::sync::Arc;

/// The usage as migration 5 computes it.
const RECOUNT: &str = "SELECT
    (SELECT count(*) FROM kv_entries AS e WHERE e.app_id = u.app_id) - u.entries,
    (SELECT coalesce(sum(size + 192), 0) FROM kv_entries AS e WHERE e.app_id = u.app_id)
      + (SELECT coalesce(sum(size), 0) FROM deliveries AS d WHERE d.app_id = u.app_id)
      + (SELECT coalesce(sum(max(size, 768) + octet_length(error)
                             + coalesce(octet_length(trace), 0)), 0)
         FROM dead_letters AS l WHERE l.app_id = u.app_id) - u.bytes,
    (SELECT count(*) FROM deliveries AS d
     WHERE d.app_id = u.app_id AND d.kind <> 'schedule') - u.queued
    FROM app_usage AS u";

/// Asserts that each app's usage equals a recount.
fn recount(file: &Connection) {
    let mut statement = file.prepare(RECOUNT).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let rows: Vec<(i64, i64, i64)> = rows.unwrap().map(Result::unwrap).collect();
    assert!(!rows.is_empty());
    assert!(rows.iter().all(|row| *row == (0, 0, 0)), "{rows:?}");
}

/// An app with entries, outstanding deliveries and dead letters.
async fn full(kit: &Kit) -> Tenant {
    let app = kit.app().await;
    app.watch("t", "c").await;
    for key in ["a", "b", "d", "e"] {
        app.set("c", key, bytes("1")).await;
    }
    for (_, receipt) in app.claim("t", 2).await {
        let give_up = Verdict::DeadLetter(DeadReason::Attempts);
        assert!(app.fail(&receipt, give_up, false).await);
    }
    assert_eq!(app.dead_letters().await.len(), 2);
    app
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_audit_row_keeps_usage_consistent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvasm.db");
    let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
    let kit = Kit::new(Arc::new(store), 0);
    let app = full(&kit).await;
    let file = Connection::open(&path).unwrap();
    recount(&file);
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON audit WHEN NEW.action = 'refused'
                  BEGIN SELECT RAISE(ABORT, 'refused'); END";
    file.execute_batch(refuse).unwrap();
    let before = app.quota_usage().await;
    let (all, row) = (DeadLetterFilter::default, || app.audit_row("refused"));
    let store = &app.store;
    for round in 0..20 {
        // The rejected writes share commits with writes that succeed.
        let key = format!("k{round}");
        let mut audited = app.batch(vec![], vec![set("c", &key, bytes("refused"))]);
        audited.audit = Some(Box::new(row()));
        let (discarded, replayed, written, deleted, _) = tokio::join!(
            store.discard(app.id, all(), 10, row()),
            store.replay(app.id, all(), 10, row()),
            store.commit(audited),
            store.delete_app(app.id, row()),
            app.set("d", &key, bytes("1")),
        );
        assert!(discarded.is_err() && replayed.is_err());
        assert!(written.is_err() && deleted.is_err());
        recount(&file);
    }
    let after = app.quota_usage().await;
    assert_eq!(after.entries, before.entries + 20);
    assert_eq!(after.deliveries, before.deliveries);
    assert_eq!(app.dead_letters().await.len(), 2);
    // Writes work again.
    let row = app.audit_row("test");
    assert_eq!(store.discard(app.id, all(), 10, row).await.unwrap(), 2);
    recount(&file);
}
