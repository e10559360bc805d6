//! Watchers of changes: each change once and in order on every host, and none lost silently.

use kvasm::model::{AppName, Collection, Key, Scope, Timestamp, Value as EntryValue};
use kvasm::service::{Caller, WatchLimits};
use kvasm::store::{MemoryStore, PostgresStore, SqliteOptions, SqliteStore, Store};
use kvasm_store_testing::faulty::{FaultyStore, Operation, unavailable};
use kvasm_tests::postgres::{fresh_database, store_options};
use kvasm_tests::server::{ApiClient, Server, eventually};
use serde_json::{Value, json};
use std::sync::Arc;

pub const WATCH: &str = "/v1/apps/shop/kv/watch";

/// An event of a stream.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    name: String,
    id: u64,
    data: Value,
}

/// A stream of events.
struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    /// Starts to watch, and returns once changes are no longer missed.
    async fn open(api: &ApiClient, query: &str, last: Option<u64>) -> Events {
        let mut request = api.request("GET", &format!("{WATCH}?{query}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut events = Events {
            response,
            text: String::new(),
        };
        assert_eq!(events.next().await.unwrap().name, "ready");
        events
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(event) = parse(&event) {
                    return Some(event);
                }
            }
            let part = self.response.chunk().await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&part).unwrap());
        }
    }

    async fn expect(&mut self, name: &str) -> Event {
        let event = self.next().await.expect("an event");
        assert_eq!(event.name, name, "{event:?}");
        event
    }

    /// The keys of the next changes.
    async fn keys(&mut self, count: usize) -> Vec<String> {
        let mut keys = Vec::new();
        for _ in 0..count {
            let event = self.expect("").await;
            keys.push(event.data["subject"].as_str().unwrap().to_owned());
        }
        keys
    }
}

/// Returns `None` for a comment.
fn parse(text: &str) -> Option<Event> {
    let (mut name, mut id, mut data) = (String::new(), 0, None);
    for line in text.lines() {
        match line.split_once(':').unwrap() {
            ("id", value) => id = value.trim().parse().unwrap(),
            ("event", value) => value.trim().clone_into(&mut name),
            ("data", value) => data = Some(serde_json::from_str(value).unwrap()),
            ("", _) => {}
            other => panic!("unknown field {other:?}"),
        }
    }
    data.map(|data| Event { name, id, data })
}

pub fn json_value(value: &Value) -> EntryValue {
    EntryValue::json(value.to_string(), 1_000).unwrap()
}

async fn put(api: &ApiClient, collection: &str, key: &str, value: Value) {
    let path = format!("/v1/apps/shop/kv/entry?collection={collection}&key={key}");
    api.json("PUT", &path, value).await.expect(200);
}

async fn delete(api: &ApiClient, collection: &str, key: &str) {
    let path = format!("/v1/apps/shop/kv/entry?collection={collection}&key={key}");
    api.send("DELETE", &path).await.expect(204);
}

pub async fn postgres() -> Arc<dyn Store> {
    let url = tokio::task::spawn_blocking(fresh_database).await.unwrap();
    open_postgres(&url).await
}

async fn open_postgres(url: &str) -> Arc<dyn Store> {
    let store = PostgresStore::connect(store_options(url)).await;
    Arc::new(store.unwrap())
}

async fn changes_reach_watchers(store: Arc<dyn Store>) {
    let server = Server::over(store, None).await;
    let app = server.app("shop", false).await;
    server.app("other", false).await;
    let api = server
        .client(Some(&app), &[Scope::ScriptRead, Scope::ScriptWrite])
        .await;
    let mut all = Events::open(&api, "", None).await;
    let mut some = Events::open(&api, "collection=orders&prefix=eu/", None).await;
    put(&api, "orders", "eu/1", json!({ "cents": 5 })).await;
    put(&api, "orders", "us/1", json!(null)).await;
    put(&api, "stock", "eu/1", json!("<script>\n\u{202e}")).await;
    delete(&api, "orders", "eu/1").await;
    let set = all.expect("").await;
    let version = set.data["entryversion"].as_str().unwrap().to_owned();
    assert!(set.data["time"].as_str().unwrap().starts_with("20"));
    let mut expected = json!({
        "specversion": "1.0",
        "id": set.id.to_string(),
        "source": "/apps/shop",
        "type": "kvasm.entry.set",
        "subject": "eu/1",
        "datacontenttype": "application/json",
        "collection": "orders",
        "entryversion": version,
        "data": { "cents": 5 },
    });
    expected["time"] = set.data["time"].clone();
    assert_eq!(set.data, expected);
    assert_eq!(all.keys(2).await, ["us/1", "eu/1"]);
    let deleted = all.expect("").await;
    assert_eq!(deleted.data["type"], "kvasm.entry.delete");
    assert_eq!(deleted.data["entryversion"], version);
    assert_eq!(some.expect("").await, set);
    assert_eq!(some.expect("").await, deleted);
    // Resumes after any event, in either way.
    let mut again = Events::open(&api, "", Some(set.id)).await;
    assert_eq!(again.keys(3).await, ["us/1", "eu/1", "eu/1"]);
    let mut again = Events::open(&api, &format!("after={}", deleted.id), None).await;
    put(&api, "orders", "eu/2", json!(1)).await;
    for events in [&mut again, &mut all, &mut some] {
        assert_eq!(events.keys(1).await, ["eu/2"]);
    }
    for bad in ["after=x", "collection=", "prefix=%00", "limit=1"] {
        let refused = api.get(&format!("{WATCH}?{bad}")).await;
        refused.expect_problem(400, "invalid-argument");
    }
    // Not without the scope, or for another app.
    let writer = server.client(Some(&app), &[Scope::ScriptWrite]).await;
    writer.get(WATCH).await.expect_problem(403, "forbidden");
    let other = api.get("/v1/apps/other/kv/watch").await;
    assert!([403, 404].contains(&other.status), "{}", other.status);
    server
        .anonymous()
        .get(WATCH)
        .await
        .expect_problem(401, "token-required");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_reach_watchers_in_memory() {
    changes_reach_watchers(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_reach_watchers_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    changes_reach_watchers(Arc::new(SqliteStore::open(options).await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_reach_watchers_on_postgres() {
    changes_reach_watchers(postgres().await).await;
}

/// Two hosts write at the same time. Watchers of both get every change once, those of a key in order,
/// also one that changes the host after each few events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_on_postgres_send_all_changes_once() {
    const WRITES: usize = 150;
    let url = tokio::task::spawn_blocking(fresh_database).await.unwrap();
    let one = Server::over(open_postgres(&url).await, None).await;
    let secret = one.root.secret().to_owned();
    let two = Server::over(open_postgres(&url).await, Some(secret)).await;
    let app = one.app("shop", false).await;
    let mut on_one = Events::open(&one.root, "", None).await;
    let mut on_two = Events::open(&two.root, "", None).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4_usize {
        let host = [&one, &two][writer % 2].host.clone();
        let app = app.clone();
        writers.spawn(async move {
            let caller = Caller::administrator(&app, &host.operator("test"));
            for n in 0..WRITES {
                let at = |key: String| (Collection::parse("c").unwrap(), Key::parse(key).unwrap());
                let at = at(format!("k{}", (n + writer) % 5));
                let value = json_value(&json!([writer, n]));
                host.kv().set(&caller, at, value, None, None).await.unwrap();
            }
        });
    }
    let count = 4 * WRITES;
    let read = async |events: &mut Events| {
        let mut found = Vec::new();
        while found.len() < count {
            found.push(events.expect("").await);
        }
        found
    };
    let (a, b) = tokio::join!(read(&mut on_one), read(&mut on_two));
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert_eq!(a, b, "the same events in the same order");
    let mut versions = std::collections::BTreeMap::new();
    for event in &a {
        let key = event.data["subject"].as_str().unwrap().to_owned();
        let version: u64 = event.data["entryversion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let before = versions.insert(key, version);
        assert!(before.is_none_or(|before| before < version), "{event:?}");
    }
    // Through the same events again, on the other host after every 40.
    let mut last = a[0].id;
    for (turn, part) in a[1..].chunks(40).enumerate() {
        let server = [&two, &one][turn % 2];
        let mut events = Events::open(&server.root, "", Some(last)).await;
        for expected in part {
            assert_eq!(&events.expect("").await, expected);
        }
        last = part.last().unwrap().id;
    }
}

/// A gap is reported: after the removal of changes, for an unknown position, and to a watcher that waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_changes_are_a_gap() {
    let mut limits = WatchLimits::default();
    limits.history.bytes = 2_000;
    let server = Server::with(|builder| builder.watch(limits)).await;
    server.app("shop", false).await;
    let api = &server.root;
    let mut events = Events::open(api, "", None).await;
    put(api, "c", "first", json!(0)).await;
    let first = events.expect("").await.id;
    for n in 0..20 {
        put(api, "c", &n.to_string(), json!("x".repeat(300))).await;
    }
    let newest = events.keys(20).await.len();
    assert_eq!(newest, 20);
    server.host.change_feeds().prune_all().await.unwrap();
    // The feed of this host still has them in memory, another host has not.
    let mut other = Server::over(
        Arc::clone(server.host.store()),
        Some(api.secret().to_owned()),
    )
    .await;
    for unknown in [first, u64::MAX >> 2] {
        let mut late = Events::open(&other.root, "", Some(unknown)).await;
        let gap = late.expect("gap").await;
        assert_eq!(gap.data["after"], unknown.to_string());
        put(&other.root, "c", "after", json!(1)).await;
        assert_eq!(late.keys(1).await, ["after"]);
        // Its id is one to resume from.
        let mut resumed = Events::open(&other.root, "", Some(gap.id)).await;
        assert_eq!(resumed.keys(1).await, ["after"]);
    }
    other.begin_stop();
    other = Server::over(
        Arc::clone(server.host.store()),
        Some(api.secret().to_owned()),
    )
    .await;
    let metrics = server.host.metrics().encode() + &other.host.metrics().encode();
    assert!(metrics.contains("kvasm_watch_gaps_total"));
}

/// The history outlives the host, and a watcher resumes on the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watcher_resumes_after_a_restart_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kvasm.db");
    let server = Server::sqlite(&file, None, |builder| builder).await;
    server.app("shop", false).await;
    let secret = server.root.secret().to_owned();
    let mut events = Events::open(&server.root, "", None).await;
    put(&server.root, "c", "a", json!(1)).await;
    let last = events.expect("").await.id;
    server.begin_stop();
    let end = events.expect("end").await;
    assert_eq!(end.data["reason"], "draining");
    assert!(events.next().await.is_none());
    put_on(&server, "b").await;
    drop(events);
    server.stop().await;
    let server = Server::sqlite(&file, Some(secret), |builder| builder).await;
    // Before any watcher is back.
    put(&server.root, "c", "c", json!(1)).await;
    let mut events = Events::open(&server.root, "", Some(last)).await;
    assert_eq!(events.keys(2).await, ["b", "c"]);
}

async fn put_on(server: &Server, key: &str) {
    let name = AppName::parse("shop").unwrap();
    let app = server.host.app(&name).await.unwrap().unwrap();
    let caller = Caller::administrator(&app, &server.host.operator("test"));
    let at = (Collection::parse("c").unwrap(), Key::parse(key).unwrap());
    let value = json_value(&json!(1));
    server
        .host
        .kv()
        .set(&caller, at, value, None, None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_ends_with_its_token_or_its_app() {
    let server = Server::start().await;
    let app = server.app("shop", false).await;
    let soon = Timestamp::now().plus_ms(3_000);
    let expiring = server
        .token(Some(&app), &[Scope::ScriptRead], Some(soon))
        .await;
    let revoked = server.token(Some(&app), &[Scope::ScriptRead], None).await;
    let open = async |secret: &String| {
        let api = server.root.with_token(Some(secret.clone()));
        Events::open(&api, "", None).await
    };
    let (mut of_expiring, mut of_revoked) = (open(&expiring).await, open(&revoked).await);
    let mut of_root = Events::open(&server.root, "", None).await;
    let id = revoked.split('_').nth(1).unwrap();
    let path = format!("/v1/tokens/{id}");
    server.root.send("DELETE", &path).await.expect(204);
    for events in [&mut of_expiring, &mut of_revoked] {
        assert_eq!(events.expect("end").await.data["reason"], "token");
        assert!(events.next().await.is_none());
    }
    // A new app of the same name is another one.
    server
        .root
        .send("DELETE", "/v1/apps/shop")
        .await
        .expect(204);
    server.app("shop", false).await;
    put(&server.root, "c", "k", json!("of the new app")).await;
    let end = of_root.expect("end").await;
    assert_eq!(end.data["reason"], "app-deleted");
    assert!(of_root.next().await.is_none());
    let metrics = server.host.metrics().encode();
    assert!(
        metrics.contains("kvasm_watch_ends_total{name=\"token\"} 2"),
        "{metrics}"
    );
    assert!(metrics.contains("kvasm_watchers 0"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn number_of_watchers_is_limited() {
    let limits = WatchLimits {
        watchers: 3,
        watchers_of_app: 2,
        ..WatchLimits::default()
    };
    let server = Server::with(|builder| builder.watch(limits)).await;
    server.app("shop", false).await;
    server.app("other", false).await;
    let _one = Events::open(&server.root, "", None).await;
    let two = Events::open(&server.root, "", None).await;
    let refused = server.root.get(WATCH).await;
    refused.expect_problem(429, "rate-limited");
    // The other app still has room, until the host has none.
    let other = "/v1/apps/other/kv/watch";
    let third = server.root.request("GET", other).send().await.unwrap();
    assert_eq!(third.status(), 200);
    server
        .root
        .get(other)
        .await
        .expect_problem(429, "rate-limited");
    drop(two);
    eventually("a place is free", async || {
        let response = server.root.request("GET", WATCH).send().await.unwrap();
        response.status() == 200
    })
    .await;
}

/// While the store fails, watchers wait, and get everything afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_the_store_lose_no_change() {
    let (faulty, faults) = FaultyStore::over(Arc::new(MemoryStore::new()));
    let server = Server::over(faulty, None).await;
    server.app("shop", false).await;
    let mut events = Events::open(&server.root, "", None).await;
    faults.on(Operation::ChangesHead).fail(unavailable);
    put(&server.root, "c", "a", json!(1)).await;
    let met = |faults: &kvasm_store_testing::faulty::Faults, of| faults.met(of) > 0;
    faults
        .until("the head fails", |f| met(f, Operation::ChangesHead))
        .await;
    faults.clear();
    faults.on(Operation::Changes).fail(unavailable);
    faults
        .until("the page fails", |f| met(f, Operation::Changes))
        .await;
    put(&server.root, "c", "b", json!(1)).await;
    faults.clear();
    assert_eq!(events.keys(2).await, ["a", "b"]);
    faults.on(Operation::KeepChanges).fail(unavailable);
    server.app("other", false).await;
    let refused = server.root.get("/v1/apps/other/kv/watch").await;
    refused.expect_problem(503, "store-unavailable");
}
