//! The overview of all hosts and apps.

use kvasm::Host;
use kvasm::dispatch::{DispatchOptions, Dispatcher};
use kvasm::model::{App, AppLimits, Quota, Scope, Timestamp};
use kvasm::store::{MemoryStore, SqliteOptions, SqliteStore, Store};
use kvasm_store_testing::conformance::kit;
use kvasm_tests::guests::wasm;
use kvasm_tests::server::{Server, eventually};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The input of a call.
const ADD: &str = r#"{"name": "n", "by": 1}"#;

/// Starts a dispatcher that samples often.
fn dispatch(host: &Host, name: &str) -> (CancellationToken, JoinHandle<()>) {
    let options = DispatchOptions {
        host_name: Some(name.to_owned()),
        sample: Duration::from_millis(50),
        ..DispatchOptions::default()
    };
    dispatch_with(host, options)
}

/// Starts a dispatcher.
pub fn dispatch_with(host: &Host, options: DispatchOptions) -> (CancellationToken, JoinHandle<()>) {
    let stop = CancellationToken::new();
    let dispatcher = Dispatcher::new(host.clone(), options);
    let task = tokio::spawn(dispatcher.run(stop.clone().cancelled_owned()));
    (stop, task)
}

async fn overview(server: &Server) -> Value {
    server.root.get("/v1/overview").await.expect(200).json()
}

fn sum(overview: &Value, member: &str) -> u64 {
    let parts = overview["series"].as_array().unwrap().iter();
    parts.map(|part| part[member].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_of_two_hosts_adds_up_to_their_calls_and_survives_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvasm.db");
    let open = async || {
        let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
        Arc::new(store) as Arc<dyn Store>
    };
    let store = open().await;
    let one = Server::over(Arc::clone(&store), None).await;
    let secret = one.root.secret().to_owned();
    let two = Server::over(Arc::clone(&store), Some(secret.clone())).await;
    one.deployed("shop", wasm("counter")).await;
    for (server, calls) in [(&one, 7), (&two, 5)] {
        for _ in 0..calls {
            server.root.call("shop", "add", ADD).await.expect(200);
        }
        server.root.call("shop", "absent", "").await.expect(404);
    }
    one.host.history().beat("one", false).await.unwrap();
    two.host.history().beat("two\u{202e}", true).await.unwrap();
    let found = overview(&one).await;
    assert_eq!((sum(&found, "calls"), sum(&found, "failed")), (12, 0));
    assert_eq!(found["total"]["calls"], 12);
    let p50 = found["total"]["p50_us"].as_u64().unwrap();
    assert!(p50 > 0 && p50 <= found["total"]["p99_us"].as_u64().unwrap());
    let hosts = &found["hosts"];
    assert_eq!((&hosts["alive"], &hosts["stopped"]), (&json!(1), &json!(1)));
    assert_eq!(hosts["list"][1]["name"], "two\u{202e}");
    assert_eq!(found["series"].as_array().unwrap().len(), 60);
    // No dispatcher has sampled the store yet.
    assert_eq!(found["attention"], Value::Null);
    assert_eq!(found["series"][59]["apps"], Value::Null);
    let day = one.root.get("/v1/overview?window=1d").await.expect(200);
    let day = day.json();
    assert_eq!(day["series"].as_array().unwrap().len(), 96);
    assert_eq!(sum(&day, "calls"), 12);
    for server in [one, two] {
        server.stop().await;
    }
    drop(store);
    let later = Server::over(open().await, Some(secret)).await;
    later.root.call("shop", "add", ADD).await.expect(200);
    later.host.history().beat("three", false).await.unwrap();
    let found = overview(&later).await;
    assert_eq!(found["total"]["calls"], 13);
    assert_eq!(found["hosts"]["list"].as_array().unwrap().len(), 3);
    later.stop().await;
}

#[tokio::test]
async fn overview_is_for_tokens_of_all_apps() {
    let server = Server::start().await;
    let own = server.app("own", false).await;
    server.app("other-app", false).await;
    let reader = server.client(None, &[Scope::AppRead]).await;
    reader.get("/v1/overview").await.expect(200);
    for window in ["", "1w", "1h%20", "3600"] {
        let path = format!("/v1/overview?window={window}");
        reader
            .get(&path)
            .await
            .expect_problem(400, "invalid-argument");
    }
    let bound = server.client(Some(&own), &Scope::ALL).await;
    let refused = bound.get("/v1/overview").await;
    refused.expect_problem(403, "forbidden");
    assert!(!refused.text().contains("other"), "{}", refused.text());
    server.anonymous().get("/v1/overview").await.expect(401);
}

#[tokio::test]
async fn list_of_apps_has_their_usage_if_asked_for() {
    let server = Server::start().await;
    let own = server.app("own", false).await;
    server.app("zoo", false).await;
    let path = "/v1/apps/own/kv/entry?collection=c&key=k";
    server.root.json("PUT", path, json!("v")).await.expect(200);
    let page = server.root.get("/v1/apps?usage=true&limit=100").await;
    let apps = page.expect(200).json()["apps"].clone();
    assert_eq!(apps[0]["usage"]["entries"], 1);
    assert_eq!(apps[1]["usage"]["entries"], 0);
    let single = server.root.get("/v1/apps/own/usage").await.expect(200);
    assert_eq!(apps[0]["usage"], single.json());
    let plain = server.root.get("/v1/apps").await.expect(200).json();
    assert!(plain["apps"][0].get("usage").is_none());
    // The limit is clamped to that of a page with usage.
    let long = server.root.get("/v1/apps?usage=true&limit=101").await;
    assert_eq!(long.expect(200).json()["apps"].as_array().unwrap().len(), 2);
    let bound = server.client(Some(&own), &[Scope::AppRead]).await;
    let page = bound.get("/v1/apps?usage=true").await.expect(200).json();
    assert_eq!(page["apps"].as_array().unwrap().len(), 1);
    assert_eq!(page["apps"][0]["usage"]["entries"], 1);
}

/// An app, a few of which are full.
fn app(number: usize) -> App {
    let mut app = kit::app(&format!("app-{number:05}"));
    app.limits = AppLimits {
        quota: Quota {
            entries: Some(u64::from(!number.is_multiple_of(100)) * 1_000_000 + 1),
            ..Quota::default()
        },
        ..AppLimits::default()
    };
    app
}

/// The answer has the worst apps only, and does not look at each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overview_of_ten_thousand_apps_is_small_and_quick() {
    const APPS: usize = 10_000;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    for number in 0..APPS {
        let app = app(number);
        let (id, name) = (app.id, app.name.clone());
        store
            .create_app(app, kit::audit_row("app.create"))
            .await
            .unwrap();
        let tenant = kit::Tenant {
            store: Arc::clone(&store),
            id,
            name,
            now: Timestamp::now(),
        };
        if number % 100 == 0 {
            tenant.set("c", "k", kit::json("1")).await;
        }
    }
    let server = Server::over(store, None).await;
    let (stop, task) = dispatch(&server.host, "big");
    eventually("all apps were sampled", async || {
        let found = overview(&server).await;
        found["attention"] != Value::Null && found["hosts"]["alive"] == 1
    })
    .await;
    let start = Instant::now();
    let answer = server.root.get("/v1/overview?window=1d").await.expect(200);
    let took = start.elapsed();
    let (found, bytes) = (answer.json(), answer.text().len());
    println!("overview of {APPS} apps: {took:?}, {bytes} bytes");
    let quotas = &found["attention"]["quotas"];
    assert_eq!(quotas["total"], APPS / 100);
    assert_eq!(quotas["worst"].as_array().unwrap().len(), 20);
    let first = json!({"app": "app-00000", "name": "entries", "amount": 100});
    assert_eq!(quotas["worst"][0], first);
    assert!(bytes < 64 * 1024, "{bytes} bytes");
    // 300 ms on a machine that is not busy.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let start = Instant::now();
    let page = server.root.get("/v1/apps?usage=true&limit=25").await;
    println!("a page of apps with their usage: {:?}", start.elapsed());
    page.expect(200);
    stop.cancel();
    task.await.unwrap();
    // It said goodbye.
    let found = overview(&server).await;
    assert_eq!(found["hosts"]["list"][0]["state"], "stopped");
}
