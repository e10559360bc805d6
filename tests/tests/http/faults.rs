//! Routes on a store that fails: each answers with a problem, and leaves an audit row with each
//! change and no other.

use crate::calls::{self, frame};
use crate::events::tenant;
use crate::openapi::{Access, Operation as Route, document, operations};
use kvasm::model::{
    App, Collection, DeadLetterFilter, DeadReason, DeliveryFilter, Key, NewTimer, Scope, TimerName,
    TimerOp, TimerTime, Timestamp, TriggerName, Verdict,
};
use kvasm::store::{MemoryStore, Store, StoreError};
use kvasm_store_testing::faulty::{Faults, FaultyStore, Operation, failed, full, unavailable};
use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::server::{ApiResponse, Server, answer};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use std::sync::Arc;

/// A server over a store that fails on command.
struct Fixture {
    server: Server,
    faults: Faults,
    /// The store, bypassing the faults.
    store: Arc<dyn Store>,
    /// Modules of two versions.
    modules: [Vec<u8>; 2],
}

/// An app that has one of everything.
struct Shop {
    app: App,
    letter: String,
    token: String,
    instance_token: String,
}

/// A plugin with a function and a handler that do nothing. Plugins of different versions differ.
fn plugin(version: &str) -> Vec<u8> {
    let frame = frame("{\"status\":200}");
    let handle = format!(
        "(func (export \"handle\") (result i32)
            (drop (call $output_write (i32.const 0) (i32.const {}))) (i32.const 0))",
        frame.len()
    );
    let names = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"http","name":"handle"}"#,
    ]);
    let data = [frame.as_slice(), version.as_bytes()].concat();
    module_with(
        &calls::data(&data),
        &format!("{names} {handle}"),
        "(i32.const 0)",
    )
}

fn id_of(token: &str) -> String {
    token.split('_').nth(1).unwrap().to_owned()
}

impl Fixture {
    async fn new() -> Fixture {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let (faulty, faults) = FaultyStore::over(Arc::clone(&store));
        Fixture {
            server: Server::over(faulty, None).await,
            faults,
            store,
            modules: ["1", "2"].map(plugin),
        }
    }

    /// Creates an app with two versions, an entry, two triggers, of which one is paused, a delivery
    /// of each, of which one is dead, a configuration value, a secret, and tokens.
    async fn shop(&self, name: &str) -> Shop {
        let (server, api) = (&self.server, &self.server.root);
        let app = server.app(name, false).await;
        for wasm in &self.modules {
            api.upload(name, wasm.clone()).await.expect(201);
        }
        let path = |rest: &str| format!("/v1/apps/{name}/{rest}");
        for trigger in ["n", "dying"] {
            let new = json!({ "collection": "x" });
            let path = path(&format!("triggers/{trigger}"));
            api.json("PUT", &path, new).await.expect(200);
        }
        for kind in ["config", "secrets"] {
            let path = path(&format!("{kind}/n"));
            let set = api.bytes("PUT", &path, "text/plain", "old").await;
            set.expect(204);
        }
        let granted = json!({ "grants": [{ "kind": "secret", "name": "n" }] });
        api.json("POST", &path("grants"), granted).await.expect(200);
        let entry = path("kv/entry?collection=x&key=x");
        api.json("PUT", &entry, json!(1)).await.expect(200);
        let tenant = tenant(server, &app);
        let mut timer = tenant.batch(vec![], vec![]);
        timer.batch.timers = vec![TimerOp::Set(NewTimer {
            name: TimerName::parse("t").unwrap(),
            time: TimerTime::After(1 << 40),
            payload: kvasm::model::Value::Bytes(Vec::new()),
        })];
        self.store.commit(timer).await.unwrap();
        let claimed = tenant.claim("dying", 1).await;
        let give_up = Verdict::DeadLetter(DeadReason::Age);
        assert!(tenant.fail(&claimed[0].1, give_up, false).await);
        let none = DeadLetterFilter::default();
        let letters = self.store.dead_letters(app.id, &none, None, 1);
        let letter = letters.await.unwrap()[0].id.to_string();
        api.send("POST", &path("triggers/n/pause"))
            .await
            .expect(204);
        let scopes = [Scope::AppRead];
        Shop {
            letter,
            token: id_of(&server.token(Some(&app), &scopes, None).await),
            instance_token: id_of(&server.token(None, &scopes, None).await),
            app: self.store.app_by_id(app.id).await.unwrap().unwrap(),
        }
    }

    /// A request that succeeds, and changes something unless it is a read.
    fn request(&self, route: &Route, shop: &Shop) -> RequestBuilder {
        let name = shop.app.name.as_str();
        let token = match route.path.contains("{app}") {
            true => &shop.token,
            false => &shop.instance_token,
        };
        let mut target = route.target(&[
            ("app", name),
            ("version", "1"),
            ("token", token),
            ("function", "run"),
            ("name", "n"),
            ("id", &shop.letter),
        ]);
        if route.names("/v1/apps/{app}/triggers/{name}", "DELETE") {
            target.push_str("?deliveries=discard");
        }
        let request = self.server.root.request(&route.method, &target);
        match body(route, name) {
            Body::None => request,
            Body::Json(json) => request.json(&json),
            Body::Text(text) => request.header("content-type", "text/plain").body(text),
            Body::Module => {
                let request = request.header("content-type", "application/wasm");
                request.body(self.modules[0].clone())
            }
            Body::Lines(lines) => {
                let request = request.header("content-type", "application/jsonl");
                request.body(lines)
            }
        }
    }

    /// Everything in the store that the requests for an app can change, except the audit log.
    async fn state(&self, shop: &Shop) -> String {
        let (store, id) = (&self.store, shop.app.id);
        let app = store.app_by_id(id).await.unwrap();
        let deliveries = DeliveryFilter::default();
        let letters = DeadLetterFilter::default();
        let collection = Collection::parse("x").unwrap();
        let keys = ["x", "y"].map(|key| (collection.clone(), Key::parse(key).unwrap()));
        let entries = store.get_many(id, &keys, Timestamp::now(), 1_000).await;
        let settings = store.settings(id).await.unwrap();
        format!(
            "{app:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {}",
            store.plugins(id, None, 10).await.unwrap(),
            store.triggers(id).await.unwrap(),
            store.outstanding(id, &deliveries, None, 10).await.unwrap(),
            store.dead_letters(id, &letters, None, 10).await.unwrap(),
            store.tokens(Some(id), None, 10).await.unwrap(),
            store.tokens(None, None, 1_000).await.unwrap(),
            entries.unwrap(),
            (settings.rows, settings.grants),
            store.apps(None, 1_000).await.unwrap().len(),
        )
    }

    /// The newest audit row.
    async fn newest_audit(&self) -> String {
        let rows = self.store.audit(None, None, 1).await.unwrap();
        rows[0].id.to_string()
    }
}

enum Body {
    None,
    Json(Value),
    Text(&'static str),
    Module,
    Lines(&'static str),
}

/// The body of a request that succeeds for an app. A route that needs one and has none here fails
/// the test.
fn body(route: &Route, app: &str) -> Body {
    let path = route.path.strip_prefix("/v1/").unwrap_or(&route.path);
    let path = path.strip_prefix("apps/{app}/").unwrap_or(path);
    Body::Json(match (route.method.as_str(), path) {
        ("POST", "apps") => json!({ "name": format!("{app}-new") }),
        ("PATCH", "apps/{app}") => json!({ "public": true }),
        ("PUT", "limits") => json!({
            "entries": 7, "bytes": null, "calls_per_second": null, "calls_at_once": null
        }),
        ("PATCH", "limits") => json!({ "entries": 8 }),
        ("POST", "plugins") => return Body::Module,
        ("PUT", "kv/entry") => json!(2),
        ("POST", "kv/commit") => json!({
            "operations": [{ "set": { "collection": "x", "key": "y", "json": 1 } }]
        }),
        ("POST", "kv/get-many") => json!({ "keys": [{ "collection": "x", "key": "x" }] }),
        ("POST", "request") => json!({ "method": "GET", "path": "/" }),
        ("POST", "kv/import") => {
            return Body::Lines("{\"collection\":\"x\",\"key\":\"y\",\"json\":1}\n");
        }
        ("PUT", "config/{name}" | "secrets/{name}") => return Body::Text("newer"),
        ("PUT", "triggers/{name}") => json!({ "collection": "z" }),
        ("POST", "deliveries/discard" | "dead-letters/replay" | "dead-letters/discard") => {
            json!({ "all": true })
        }
        ("POST", "timers/cancel" | "timers/run") => json!({ "timer": "t" }),
        ("POST", "grants") => json!({ "grants": [{ "kind": "timers" }] }),
        ("POST", "grants/revoke") => json!({ "grants": [{ "kind": "secret", "name": "n" }] }),
        ("POST", "tokens") => json!({ "name": "ci", "scopes": ["app:read"] }),
        _ => return Body::None,
    })
}

/// Its name, the error of the store, or none if its answer is lost, and the problem that the client
/// must get.
type FaultCase = (
    &'static str,
    Option<fn() -> StoreError>,
    (u16, &'static str),
);

/// The ways in which a call of the store fails.
const FAULTS: [FaultCase; 4] = [
    ("unavailable", Some(unavailable), (503, "store-unavailable")),
    ("failed", Some(failed), (500, "internal")),
    ("full", Some(full), (507, "store-full")),
    ("lost", None, (503, "store-unavailable")),
];

/// Makes the requests of a route succeed, and then lets each call that it makes fail in each way.
/// Returns what is wrong.
async fn wrong_with(route: &Route) -> Vec<String> {
    let fixture = Fixture::new().await;
    let mut wrong = Vec::new();
    let shop = fixture.shop("shop").await;
    let (before, audit) = (fixture.state(&shop).await, fixture.newest_audit().await);
    fixture.faults.reset_counts();
    let done = answer(fixture.request(route, &shop)).await;
    let calls = fixture.faults.called();
    let place = format!("{} {}", route.method, route.path);
    assert!(done.status < 300, "{place}: {}", done.text());
    let is_change = fixture.state(&shop).await != before;
    let reads = ["/get-many", "/call/{function}", "/request"];
    let is_read = route.method == "GET" || reads.iter().any(|end| route.path.ends_with(end));
    assert_eq!(is_change, !is_read, "{place}");
    assert_eq!(fixture.newest_audit().await != audit, is_change, "{place}");

    let mut lost_changes = 0;
    for (n, operation) in calls.into_iter().enumerate() {
        for (fault, error, problem) in FAULTS {
            let place = format!("{place}: {fault} {operation:?}");
            let shop = fixture.shop(&format!("shop-{n}-{fault}")).await;
            let before = (fixture.state(&shop).await, fixture.newest_audit().await);
            let met = fixture.faults.met(operation);
            let rule = fixture.faults.on(operation);
            match error {
                Some(error) => rule.fail(error),
                None => rule.lose_the_answer(),
            }
            let answer = answer(fixture.request(route, &shop)).await;
            fixture.faults.clear();
            assert!(fixture.faults.met(operation) > met, "{place} was not met");
            let after = (fixture.state(&shop).await, fixture.newest_audit().await);
            let is_change = after.0 != before.0;
            if is_change != (after.1 != before.1) {
                wrong.push(format!(
                    "{place}: a change without an audit row, or none with"
                ));
            }
            if is_optional(route, operation) {
                if answer.status >= 300 {
                    wrong.push(format!("{place}: {} {}", answer.status, answer.text()));
                }
                continue;
            }
            if is_change && fault != "lost" && !is_second_change(route, operation) {
                wrong.push(format!("{place}: a failed request changed something"));
            }
            lost_changes += usize::from(is_change);
            wrong.extend(wrong_answer(&answer, problem).map(|why| format!("{place}: {why}")));
        }
    }
    // The change itself was among the calls that lost their answer.
    assert_eq!(lost_changes > 0, !is_read, "{place}");
    fixture.server.stop().await;
    wrong
}

/// Whether a request succeeds without this call: it only drops a compiled module from memory, or
/// removes a log, once the change is made, or the answer is documented to lack the call's result.
fn is_optional(route: &Route, operation: Operation) -> bool {
    let names = |path, method| route.names(path, method);
    match operation {
        Operation::Plugins | Operation::PruneLog => names("/v1/apps/{app}", "DELETE"),
        Operation::Module => {
            names("/v1/apps/{app}", "DELETE") || names("/v1/apps/{app}/plugins/{version}", "DELETE")
        }
        Operation::Triggers => names("/v1/apps/{app}", "GET"),
        _ => false,
    }
}

/// Whether a request makes this call after another change. See
/// `trigger_deletion_that_failed_to_discard_can_be_repeated`.
fn is_second_change(route: &Route, operation: Operation) -> bool {
    operation == Operation::DiscardDeliveries
        && route.names("/v1/apps/{app}/triggers/{name}", "DELETE")
}

fn wrong_answer(answer: &ApiResponse, problem: (u16, &str)) -> Option<String> {
    let text = answer.text();
    if answer.status < 400 {
        return Some(format!("{} {text}", answer.status));
    }
    let found = (answer.status, answer.problem());
    if found != (problem.0, problem.1.to_owned()) {
        return Some(format!("{found:?} {text}"));
    }
    text.contains("the test")
        .then(|| format!("shows the cause: {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_failures_are_problems_and_changes_keep_their_audit_rows() {
    let server = Server::start().await;
    let routes = operations(&document(&server.root).await);
    let mut wrong = Vec::new();
    let mut count = 0;
    for route in &routes {
        let needs_token = matches!(route.access, Access::Scope(_) | Access::Token);
        if needs_token || route.path.ends_with("/call/{function}") {
            wrong.extend(wrong_with(route).await);
            count += 1;
        }
    }
    assert!(count > 40, "{count} routes");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trigger_deletion_that_failed_to_discard_can_be_repeated() {
    let fixture = Fixture::new().await;
    let shop = fixture.shop("shop").await;
    let path = "/v1/apps/shop/triggers/n?deliveries=discard";
    let delete = async || fixture.server.root.send("DELETE", path).await;
    let left = async || {
        let trigger = TriggerName::parse("n").unwrap();
        let left = fixture
            .store
            .deliveries(shop.app.id, Some(&trigger), 10)
            .await;
        left.unwrap().len()
    };
    fixture
        .faults
        .on(Operation::DiscardDeliveries)
        .times(1)
        .fail(unavailable);
    delete().await.expect_problem(503, "store-unavailable");
    assert_eq!(left().await, 1);
    delete().await.expect(204);
    assert_eq!(left().await, 0);
    delete().await.expect_problem(404, "trigger-not-found");
}

/// Requests share a check of the registry's generation; the client of the first one leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_complete_once_a_hanging_store_answers() {
    let fixture = Fixture::new().await;
    fixture.shop("shop").await;
    let faults = &fixture.faults;
    let get = || {
        let api = fixture.server.root.clone();
        tokio::spawn(async move { api.get("/v1/apps/shop").await })
    };
    get().await.unwrap().expect(200);
    let met = faults.met(Operation::Generation);
    faults.on(Operation::Generation).hang();
    let first = get();
    let hangs = |faults: &Faults| faults.met(Operation::Generation) > met;
    faults.until("the first request hangs", hangs).await;
    let others: Vec<_> = (0..10).map(|_| get()).collect();
    first.abort();
    fixture.server.anonymous().get("/healthz").await.expect(200);
    assert!(others.iter().all(|other| !other.is_finished()));
    faults.clear();
    for other in others {
        other.await.unwrap().expect(200);
    }
    fixture.server.stop().await;
}
