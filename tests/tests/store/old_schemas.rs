//! Databases created by earlier versions.

use kvasm::model::{AppId, CursorKey, DeadLetterFilter};
use kvasm::store::{
    IncrementalVacuum, Migrate, PostgresOptions, PostgresStore, Schema, SchemaState, SqliteOptions,
    SqliteStore, Store, StoreError,
};
use kvasm_store_testing::conformance::Kit;
use kvasm_store_testing::conformance::kit::{
    NOW, Tenant, app, audit_row, bytes, delete, unique_name,
};
use kvasm_tests::postgres::{fresh_database, shared};
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const SQLITE: [&str; 3] = [
    include_str!("../../../migrations/sqlite/0001_initial.sql"),
    include_str!("../../../migrations/sqlite/0002_server.sql"),
    include_str!("../../../migrations/sqlite/0003_events.sql"),
];
const POSTGRES: [&str; 3] = [
    include_str!("../../../migrations/postgres/0001_initial.sql"),
    include_str!("../../../migrations/postgres/0002_server.sql"),
    include_str!("../../../migrations/postgres/0003_events.sql"),
];

/// Two entries, a delivery of a change and one of a schedule, and a dead letter, in schema 3.
/// `app` and `other` are SQL literals of identities; so are the cursor key and the value.
fn content(app: &str, name: &str, other: &str, [cursor_key, value]: [&str; 2]) -> String {
    format!(
        "INSERT INTO apps (id, name, cursor_key, created_at)
         VALUES ({app}, '{name}', {cursor_key}, 1);
         INSERT INTO triggers (app_id, name, origin, function, collection, on_set,
                               attempts_max, age_max_ms, created_at)
         VALUES ({app}, 't', 'operator', 'f', 'c', {value}, 10, 86400000, 1);
         INSERT INTO kv_entries (app_id, collection, key, {bytes}, size, version, created_at,
                                 updated_at)
         VALUES ({app}, 'c', 'a', {seven}, 9, 1, 1, 1), ({app}, 'c', 'bb', {seven}, 10, 2, 1, 1);
         INSERT INTO deliveries (app_id, trigger_name, chain, seq, due_at, queued_at, function,
                                 event_id, depth, at, kind, collection, key, version, size, {bytes})
         VALUES ({app}, 't', 5, 1, 1, 1, 'f', {other}, 1, 1, 'set', 'c', 'a', 1, 9, {seven}),
                ({app}, 's', 6, 2, 1, 1, 'f', {other}, 1, 1, 'schedule', NULL, NULL, NULL, 0, NULL);
         INSERT INTO dead_letters (app_id, id, trigger_name, {chain} function, reason, error,
                                   attempts, replays, dead_at, event_id, depth, at, kind,
                                   collection, key, version, size, {bytes})
         VALUES ({app}, {other}, 't', {five} 'f', 'attempts', 'enough', 3, 0, 1, {other}, 1, 1,
                 'set', 'c', 'bb', 2, 10, {seven});",
        bytes = if value == "1" { "value" } else { "bytes" },
        seven = if value == "1" {
            "x'01020304050607'"
        } else {
            r"'\x01020304050607'"
        },
        chain = if value == "1" { "" } else { "chain," },
        five = if value == "1" { "" } else { "5," },
    )
}

/// The usage of the rows of [`content`]: `kvasm usage` counts 192 bytes for each entry and 768
/// for each delivery and dead letter, in addition to their own.
const ENTRIES: u64 = 9 + 10 + 2 * 192;
const DELIVERY: u64 = 9 + 768;
const LETTER: u64 = 10 + 768 + 6;

async fn assert_migrated(tenant: &Tenant) {
    let used = tenant.quota_usage().await;
    assert_eq!(used.entries, 2);
    assert_eq!(used.bytes, ENTRIES + DELIVERY + LETTER);
    assert_eq!(used.deliveries, 1);
    let seven = bytes([1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(tenant.value("c", "a").await, Some(seven));
    let outstanding = tenant.outstanding().await;
    assert_eq!(outstanding.len(), 2);
    assert!(outstanding.iter().all(|old| old.event.trace.is_none()));
    assert_eq!(tenant.dead_letters().await.len(), 1);
    // Each row subtracts what it was counted as.
    let discarded = tenant.store.discard(
        tenant.id,
        DeadLetterFilter::default(),
        10,
        audit_row("discard"),
    );
    assert_eq!(discarded.await.unwrap(), 1);
    assert_eq!(tenant.quota_usage().await.bytes, ENTRIES + DELIVERY);
    let [(_, receipt)] = tenant.claim("t", 10).await.try_into().unwrap();
    tenant.acknowledge(&receipt, vec![]).await.unwrap();
    let used = tenant.quota_usage().await;
    assert_eq!((used.bytes, used.deliveries), (ENTRIES, 0));
    let both = vec![delete("c", "a"), delete("c", "bb")];
    tenant.commit(vec![], both).await;
    let used = tenant.quota_usage().await;
    assert_eq!((used.entries, used.bytes, used.deliveries), (0, 0, 0));
}

fn tenant(store: Arc<dyn Store>, id: AppId, name: &str) -> Tenant {
    Tenant {
        store,
        id,
        name: app(name).name,
        now: NOW,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Creates a file of schema 3 without incremental vacuum. sqlx's own table is copied from a new
/// file.
async fn old_file(path: &Path) -> Connection {
    let new = path.with_extension("new");
    drop(SqliteStore::open(SqliteOptions::new(&new)).await.unwrap());
    let old = Connection::open(path).unwrap();
    for migration in SQLITE {
        old.execute_batch(migration).unwrap();
    }
    let attach = "ATTACH ?1 AS new";
    old.execute(attach, [new.to_str().unwrap()]).unwrap();
    let table = "SELECT sql FROM new.sqlite_master WHERE name = '_sqlx_migrations'";
    let table: String = old.query_row(table, [], |row| row.get(0)).unwrap();
    old.execute_batch(&table).unwrap();
    old.execute_batch(
        "INSERT INTO main._sqlx_migrations SELECT * FROM new._sqlx_migrations WHERE version <= 3;
         DETACH new",
    )
    .unwrap();
    old
}

#[tokio::test]
async fn sqlite_schema_3_migrates_with_data_and_usage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvasm.db");
    let (id, name) = (AppId::generate(), unique_name());
    let old = old_file(&path).await;
    let literal = |id: AppId| format!("x'{}'", hex(id.uuid().as_bytes()));
    let key = format!("x'{}'", hex(&[7; CursorKey::BYTES]));
    let other = literal(AppId::generate());
    let content = content(&literal(id), &name, &other, [&key, "1"]);
    old.execute_batch(&content).unwrap();
    old.execute_batch("UPDATE apps SET triggers = 2").unwrap();
    // The usage as schema 3 counted it.
    let usage = "INSERT INTO app_usage (app_id, entries, bytes) VALUES (?1, 2, 28)";
    old.execute(usage, [id.uuid().as_bytes()]).unwrap();
    drop(old);
    let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
    assert_migrated(&tenant(Arc::new(store), id, &name)).await;
}

/// Creates a database of schema 3 with this content. sqlx's own table is copied from a new one.
async fn old_database(content: String) -> PostgresOptions {
    let databases = || (fresh_database(), fresh_database());
    let (old, new) = tokio::task::spawn_blocking(databases).await.unwrap();
    let patience = Duration::from_secs(60);
    let options = |url: &str| PostgresOptions {
        acquire_timeout: patience,
        statement_timeout: patience,
        max_connections: 4,
        ..PostgresOptions::new(url)
    };
    PostgresStore::migrate(&options(&new)).await.unwrap();
    let table = "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY,
             description text NOT NULL, installed_on timestamptz NOT NULL DEFAULT now(),
             success boolean NOT NULL, checksum bytea NOT NULL, execution_time bigint NOT NULL);";
    let sql = POSTGRES.concat() + &content + table;
    let done = "SELECT format('INSERT INTO _sqlx_migrations VALUES (%L, %L, %L, %L, %L, %L);',
                              version, description, installed_on, success, checksum,
                              execution_time)
                FROM _sqlx_migrations WHERE version <= 3";
    let url = old.clone();
    let prepare = move || {
        let name = |url: &str| url.rsplit('/').next().unwrap().to_owned();
        let done = shared().psql(&name(&new), done).unwrap();
        shared().psql(&name(&url), &(sql + &done)).unwrap();
    };
    tokio::task::spawn_blocking(prepare).await.unwrap();
    options(&old)
}

#[tokio::test]
async fn postgres_schema_3_migrates_with_data_and_usage() {
    let (id, name) = (AppId::generate(), unique_name());
    let literal = |id: AppId| format!("'{}'", id.uuid());
    let key = format!(r"'\x{}'", hex(&[7; CursorKey::BYTES]));
    let other = literal(AppId::generate());
    let mut sql = content(&literal(id), &name, &other, [&key, "true"]);
    sql += &format!(
        "INSERT INTO app_usage (app_id, slot, entries, bytes)
         SELECT '{}'::uuid, s, CASE s WHEN 0 THEN 2 ELSE 0 END, CASE s WHEN 0 THEN 28 ELSE 0 END
         FROM generate_series(0, 7) AS s;",
        id.uuid()
    );
    let options = old_database(sql).await;
    let store = PostgresStore::connect(options).await.unwrap();
    assert_migrated(&tenant(Arc::new(store), id, &name)).await;
}

/// Asserts that it was rejected with instructions.
#[track_caller]
fn is_refused<T>(opened: Result<T, StoreError>) {
    let Err(StoreError::Failed(cause)) = opened else {
        panic!("an older schema was not refused");
    };
    let text = cause.to_string();
    assert!(
        text.contains("has schema 3") && text.contains("`kvasm migrate`"),
        "{text}"
    );
}

fn is_older(schema: Schema) {
    assert_eq!(schema.found, Some(3));
    assert_eq!(schema.state(), SchemaState::Older);
}

#[tokio::test]
async fn old_file_open_in_another_process_is_not_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvasm.db");
    let mut options = SqliteOptions::new(&path);
    options.busy_timeout = Duration::from_millis(10);
    options.migrate = Migrate::Alone;
    let schema = || SqliteStore::schema(&options);
    assert_eq!(schema().await.unwrap().state(), SchemaState::Empty);
    assert!(!path.exists(), "a read-only check creates no file");

    // As an older server has it open, currently idle.
    let old = old_file(&path).await;
    old.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
        .unwrap();
    old.query_row("SELECT count(*) FROM apps", [], |_| Ok(()))
        .unwrap();
    is_older(schema().await.unwrap());
    is_refused(SqliteStore::open(options.clone()).await);
    is_older(schema().await.unwrap());
    drop(old);
    drop(SqliteStore::open(options.clone()).await.unwrap());
    assert_eq!(schema().await.unwrap().state(), SchemaState::Current);
    // Several processes may open an up-to-date file.
    let first = SqliteStore::open(options.clone()).await.unwrap();
    drop((SqliteStore::open(options.clone()).await.unwrap(), first));

    let newer = Connection::open(&path).unwrap();
    newer
        .execute_batch("UPDATE _sqlx_migrations SET version = 900 WHERE version = 1")
        .unwrap();
    assert_eq!(schema().await.unwrap().state(), SchemaState::Newer);
    let error = SqliteStore::open(options.clone()).await.err().unwrap();
    assert!(format!("{error:?}").contains("900"), "{error:?}");
}

#[tokio::test]
async fn old_database_is_refused_until_migrated() {
    let always = old_database(String::new()).await;
    let alone = PostgresOptions {
        migrate: Migrate::Alone,
        ..always.clone()
    };
    let schema = || PostgresStore::schema(&alone);
    is_older(schema().await.unwrap());
    is_refused(PostgresStore::connect(alone.clone()).await);
    is_older(schema().await.unwrap());
    PostgresStore::migrate(&always).await.unwrap();
    assert_eq!(schema().await.unwrap().state(), SchemaState::Current);
    drop(PostgresStore::connect(alone.clone()).await.unwrap());
    // An empty database is initialised.
    let url = tokio::task::spawn_blocking(fresh_database).await.unwrap();
    let empty = PostgresOptions { url, ..alone };
    let schema = || PostgresStore::schema(&empty);
    assert_eq!(schema().await.unwrap().state(), SchemaState::Empty);
    drop(PostgresStore::connect(empty.clone()).await.unwrap());
    assert_eq!(schema().await.unwrap().state(), SchemaState::Current);
}

/// A version that a client remembers from before the restore is never that of another value.
async fn versions_go_on(store: Arc<dyn Store>, last: i64, version: u64) {
    let kit = Kit::new(store, 0);
    let app = kit.app().await;
    let next = app.set("c", "k", bytes("1")).await;
    assert!(next.0 > version && next.0 > last as u64, "{next:?} {last}");
    assert!(next.0 < 1 << 53, "clients in JavaScript can hold it");
}

#[tokio::test]
async fn versions_are_not_reused_after_a_restore() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    let store = SqliteStore::open(options.clone()).await.unwrap();
    let kit = Kit::new(Arc::new(store), 0);
    let version = kit.app().await.set("c", "k", bytes("1")).await;
    drop(kit);
    let last = SqliteStore::skip_versions(options.clone()).await.unwrap();
    let store = SqliteStore::open(options).await.unwrap();
    versions_go_on(Arc::new(store), last, version.0).await;

    let url = tokio::task::spawn_blocking(fresh_database).await.unwrap();
    let options = PostgresOptions::new(url);
    let store = PostgresStore::connect(options.clone()).await.unwrap();
    let kit = Kit::new(Arc::new(store), 0);
    let version = kit.app().await.set("c", "k", bytes("1")).await;
    let last = PostgresStore::skip_versions(&options).await.unwrap();
    drop(kit);
    let store = PostgresStore::connect(options).await.unwrap();
    versions_go_on(Arc::new(store), last, version.0).await;
}

fn auto_vacuum(path: &Path) -> i64 {
    let file = Connection::open(path).unwrap();
    file.query_row("PRAGMA auto_vacuum", [], |row| row.get(0))
        .unwrap()
}

#[tokio::test]
async fn incremental_vacuum_rewrites_an_old_file_once_when_not_in_use() {
    const ON: i64 = 2;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvasm.db");
    drop(old_file(&path).await);
    let mut options = SqliteOptions::new(&path);
    options.busy_timeout = Duration::from_millis(10);
    let turn_on = || SqliteStore::turn_on_incremental_vacuum(options.clone());
    let store = SqliteStore::open(options.clone()).await.unwrap();
    let kit = Kit::new(Arc::new(store), 0);
    let app = kit.app().await;
    for at in 0..1_000 {
        app.set("c", &format!("k{at}"), bytes([7; 10_000])).await;
    }
    assert_eq!(turn_on().await.unwrap(), IncrementalVacuum::InUse);
    // The failed attempt did no harm.
    app.set("c", "k", bytes("1")).await;
    let id = app.id;
    drop((app, kit));
    assert_eq!(auto_vacuum(&path), 0, "a start does not rewrite the file");
    assert_eq!(turn_on().await.unwrap(), IncrementalVacuum::TurnedOn);
    assert_eq!(turn_on().await.unwrap(), IncrementalVacuum::WasOn);
    assert_eq!(auto_vacuum(&path), ON);

    let store = SqliteStore::open(options.clone()).await.unwrap();
    let app = tenant(Arc::new(store), id, "app");
    assert_eq!(app.value("c", "k").await, Some(bytes("1")));
    for from in (0..1_000).step_by(500) {
        let ops = (from..from + 500).map(|at| delete("c", &format!("k{at}")));
        app.commit(vec![], ops.collect()).await;
    }
    while app.store.reclaim_space().await.unwrap() {}
    drop(app);
    let left = path.metadata().unwrap().len();
    assert!(left < 6 * 1024 * 1024, "{left} bytes remain");
}
