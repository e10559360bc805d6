//! What the views of the console ask for, on a store with 10,000 apps, a million entries, 100,000 dead
//! letters and a full log.

use crate::full_log;
use crate::overview::dispatch_with;
use kvasm::dispatch::DispatchOptions;
use kvasm::store::{PostgresStore, SqliteOptions, SqliteStore, Store};
use kvasm_tests::guests::wasm;
use kvasm_tests::postgres::{fresh_database, shared, store_options};
use kvasm_tests::server::{ApiClient, ApiResponse, Server, eventually};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

const APPS: u64 = 10_000;
const LETTERS: u32 = 100_000;
/// The limit on a quiet machine is 300 ms. The machine of a test is busy.
const PATIENCE: Duration = Duration::from_secs(6);
/// The pages of a search of the log that finds nothing: each reads 8 MiB.
const SEARCH_PAGES_MAX: usize = 3;
/// The largest answer to a view.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// What the views of the console ask for.
fn views(cursor: &str, before: &str) -> Vec<String> {
    let list = "/v1/apps/shop/kv/list?collection=c050&limit=50";
    let letters = "/v1/apps/shop/dead-letters?limit=25";
    let of_apps = [
        "apps?limit=25&usage=true",
        "apps?after=app-04999&limit=25&usage=true",
    ];
    let of_all = [
        "overview?window=1h",
        "overview?window=1d",
        "tokens?limit=25",
        "audit?limit=50",
        "audit?actor=nobody&limit=50",
        "audit?action=token&until=50&limit=50",
    ];
    let of_app = [
        "usage",
        "functions",
        "plugins?limit=25",
        "kv/collections?limit=50",
        "kv/collections?after=c049&limit=50",
        "kv/entry?collection=c050&key=k0500000",
        "triggers",
        "timers?limit=25",
        "deliveries?limit=25",
        "deliveries?limit=25&trigger=absent",
        "dead-letters?limit=1",
        "calls?limit=50",
        "limits",
        "config",
        "grants",
        "tokens?limit=25",
        "audit?limit=50",
        "audit?actor=nobody&limit=50",
        "audit?action=token&until=50&limit=50",
    ];
    let of_app = of_app.iter().map(|view| format!("/v1/apps/shop/{view}"));
    let others = of_apps
        .iter()
        .chain(&of_all)
        .map(|view| format!("/v1/{view}"));
    let pages = [
        list.to_owned(),
        format!("{list}&cursor={cursor}"),
        format!("{list}&prefix=k0509"),
        format!("{list}&prefix=absent"),
        letters.to_owned(),
        format!("{letters}&before={before}"),
        format!("{letters}&trigger=t3"),
        format!("{letters}&trigger=absent"),
        format!("{letters}&reason=age"),
    ];
    others.chain(of_app).chain(pages).collect()
}

/// Waits until a dispatcher has sampled all apps for the overview.
async fn sample(server: &Server) {
    let options = DispatchOptions {
        sample: Duration::from_millis(50),
        dead_letters_per_app: LETTERS,
        dead_letter_retention: Duration::from_secs(100 * 365 * 24 * 60 * 60),
        ..DispatchOptions::default()
    };
    let (stop, task) = dispatch_with(&server.host, options);
    eventually("all apps were sampled", async || {
        let overview = server.root.get("/v1/overview").await.expect(200).json();
        overview["attention"] != Value::Null
    })
    .await;
    stop.cancel();
    task.await.unwrap();
}

/// Asks for a view. Prints and returns its time if it is too long, or its answer too large.
async fn measure(api: &ApiClient, view: &str) -> Option<String> {
    measure_page(api, view).await.0
}

/// Like [`measure`]. Also returns the answer.
async fn measure_page(api: &ApiClient, view: &str) -> (Option<String>, ApiResponse) {
    let start = Instant::now();
    let answer = api.get(view).await.expect(200);
    let (took, bytes) = (start.elapsed(), answer.body.len());
    let found = format!("{:>6} ms {bytes:>7} bytes {view}", took.as_millis());
    println!("{found}");
    let is_bad = took > PATIENCE || bytes > ANSWER_BYTES_MAX;
    (is_bad.then_some(found), answer)
}

/// Asks for lines of a log, and for older ones as long as it finds none.
async fn measure_search(api: &ApiClient, view: &str, exists: bool) -> Vec<String> {
    let (mut bad, mut page) = (Vec::new(), view.to_owned());
    for _ in 0..SEARCH_PAGES_MAX {
        let (problem, answer) = measure_page(api, &page).await;
        bad.extend(problem);
        let older = answer.header("kvasm-next");
        if !answer.body.is_empty() || older.is_empty() {
            assert_eq!(!answer.body.is_empty(), exists, "{view}");
            return bad;
        }
        page = format!("{view}&before={older}");
    }
    bad.push(format!("more than {SEARCH_PAGES_MAX} pages of {view}"));
    bad
}

/// Counts what a replay or discard of dead letters selects.
async fn measure_selection(api: &ApiClient, verb: &str, selection: Value) -> Option<String> {
    let path = format!("/v1/apps/shop/dead-letters/{verb}");
    let start = Instant::now();
    let counted = api.json("POST", &path, selection).await.expect(200).json();
    let took = start.elapsed();
    let found = format!("{:>6} ms {path} {counted}", took.as_millis());
    println!("{found}");
    (took > PATIENCE).then_some(found)
}

/// An export begins at once, whatever follows.
async fn measure_export(api: &ApiClient) -> Option<String> {
    let start = Instant::now();
    let export = api.request("GET", "/v1/apps/shop/kv/export");
    let first = export.send().await.unwrap().chunk().await.unwrap().unwrap();
    let took = start.elapsed();
    let (took_ms, bytes) = (took.as_millis(), first.len());
    let found = format!("{took_ms:>6} ms to the first {bytes} bytes of an export");
    println!("{found}");
    (took > PATIENCE).then_some(found)
}

async fn views_answer_quickly(store: Arc<dyn Store>, fill: impl FnOnce(&str) + Send + 'static) {
    let server = Server::over(store, None).await;
    let api = &server.root;
    let shop = server.deployed("shop", wasm("counter")).await;
    let start = Instant::now();
    let id = shop.id.to_string().replace('-', "");
    tokio::task::spawn_blocking(move || fill(&id))
        .await
        .unwrap();
    let old = full_log::fill(server.host.store(), api.secret(), &shop).await;
    println!("filled in {:?}", start.elapsed());
    sample(&server).await;
    let overview = api.get("/v1/overview").await.expect(200).json();
    assert_eq!(overview["attention"]["dead_letters"]["total"], 1);
    assert_eq!(overview["series"][59]["apps"], APPS + 1);

    let next = async |path: &str, member: &str| {
        let page = api.get(path).await.expect(200).json();
        page[member].as_str().unwrap().to_owned()
    };
    let cursor = next("/v1/apps/shop/kv/list?collection=c050&limit=50", "cursor").await;
    let before = next("/v1/apps/shop/dead-letters?limit=25", "next").await;
    let mut bad = Vec::new();
    for view in views(&cursor, &before) {
        bad.extend(measure(api, &view).await);
    }
    for (view, exists) in full_log::views(old) {
        bad.extend(measure_search(api, &view, exists).await);
    }
    for (verb, selection) in [
        ("replay", json!({"all": true, "dry_run": true})),
        ("discard", json!({"trigger": "t3", "dry_run": true})),
        ("discard", json!({"trigger": "absent", "dry_run": true})),
    ] {
        bad.extend(measure_selection(api, verb, selection).await);
    }
    bad.extend(measure_export(api).await);
    assert!(bad.is_empty(), "{bad:#?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_answer_quickly_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kvasm.db");
    let store = SqliteStore::open(SqliteOptions::new(&file)).await.unwrap();
    let fill = move |shop: &str| {
        let connection = Connection::open(&file).unwrap();
        connection.busy_timeout(Duration::from_secs(60)).unwrap();
        let sql = include_str!("../../fixtures/scale/sqlite.sql").replace("SHOP", shop);
        connection.execute_batch(&sql).unwrap();
    };
    views_answer_quickly(Arc::new(store), fill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_answer_quickly_on_postgres() {
    let url = tokio::task::spawn_blocking(fresh_database).await.unwrap();
    let store = PostgresStore::connect(store_options(&url)).await.unwrap();
    let fill = move |shop: &str| {
        let database = url.rsplit('/').next().unwrap();
        let sql = include_str!("../../fixtures/scale/postgres.sql").replace("SHOP", shop);
        shared().psql(database, &sql).unwrap();
        shared().psql(database, "ANALYZE").unwrap();
    };
    views_answer_quickly(Arc::new(store), fill).await;
}
