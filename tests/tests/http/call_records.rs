//! Records of calls: the same on all hosts, each call once, and no app harms another.

use crate::stored_logs::{RETENTION, stored_bytes};
use kvasm::model::{App, AppName, Scope, Timestamp};
use kvasm::service::CallRecord;
use kvasm::store::{MemoryStore, PostgresStore, SegmentKind, Store};
use kvasm_store_testing::faulty::{FaultyStore, Operation, unavailable};
use kvasm_tests::guests::{manifest, module, module_with};
use kvasm_tests::postgres::{fresh_database, store_options};
use kvasm_tests::server::{ApiResponse, Server, answer, eventually};
use kvasm_tests::till::till;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

fn attach(server: &Server) {
    server.host.log_keeper().attach();
    server.host.call_keeper().attach();
}

async fn flush(server: &Server) {
    let flushed = server.host.flush_logs(&RETENTION, &RETENTION).await;
    flushed.unwrap();
}

async fn page(server: &Server, app: &str, query: &str) -> ApiResponse {
    let path = format!("/v1/apps/{app}/calls?{query}");
    server.root.get(&path).await.expect(200)
}

/// All calls that match, read by pages, oldest first; and how many were left out.
async fn all(server: &Server, app: &str, query: &str) -> (Vec<Value>, u64) {
    let (mut calls, mut cursor, mut left_out) = (Vec::new(), String::new(), 0);
    loop {
        let page = page(server, app, &format!("{query}{cursor}")).await;
        calls.splice(0..0, page.lines());
        left_out += page.header("kvasm-left-out").parse::<u64>().unwrap_or(0);
        match page.header("kvasm-next") {
            "" => return (calls, left_out),
            next => cursor = format!("&before={next}"),
        }
    }
}

fn functions(calls: &[Value]) -> Vec<&str> {
    let name = |call| Value::as_str(call).unwrap();
    calls.iter().map(|call| name(&call["function"])).collect()
}

fn record(function: impl Into<Arc<str>>, outcome: &'static str) -> CallRecord {
    CallRecord {
        seq: 0,
        at: Timestamp::now(),
        request_id: Uuid::now_v7(),
        trace_id: None,
        function: function.into(),
        version: None,
        cause: "call".into(),
        delivery: None,
        outcome: outcome.into(),
        blame: None,
        error: None,
        duration: Duration::from_micros(10),
        waited: Duration::ZERO,
        cost: None,
        replayed: false,
    }
}

/// Records a call that was not made.
fn push(server: &Server, app: &App, function: impl Into<Arc<str>>) {
    server.host.calls().push(app.id, record(function, "ok"));
}

fn call(function: &str) -> String {
    format!("/v1/apps/shop/call/{function}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_is_recorded_with_how_it_ended() {
    let server = Server::start().await;
    attach(&server);
    server.deployed("shop", till(201)).await;
    let send = async |path: &str, body: &'static str, key: Option<&str>| {
        let mut request = server.root.request("POST", path).body(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        answer(request).await
    };
    let first = send(&call("run"), "", None).await.expect(200);
    send(&call("plain"), "t", None).await;
    send(&call("plain"), "f", None).await;
    send(&call("run"), "r", None).await;
    send(&call("run"), "", Some("k")).await.expect(200);
    send(&call("run"), "", Some("k")).await.expect(200);
    send("/a/shop/x", "", None).await.expect(201);
    // Refused before they run, which is counted and not recorded.
    send(&call("unknown"), "", None).await.expect(404);
    send(&call("unknown"), "", Some("k2")).await.expect(404);
    server
        .anonymous()
        .get("/v1/apps/shop/calls")
        .await
        .expect(401);
    let (calls, left_out) = all(&server, "shop", "").await;
    assert_eq!(left_out, 0);
    assert_eq!(
        functions(&calls),
        ["run", "plain", "plain", "run", "run", "run", "handle"]
    );
    let outcome = |call: &Value| {
        let blame = call["blame"].as_str().unwrap_or("-");
        format!("{} {blame}", call["outcome"].as_str().unwrap())
    };
    let outcomes: Vec<_> = calls.iter().map(outcome).collect();
    assert_eq!(
        outcomes,
        [
            "ok -",
            "trap plugin",
            "failed plugin",
            "failed caller",
            "ok -",
            "ok -",
            "ok -"
        ]
    );
    assert_eq!(calls[0]["request_id"], first.header("x-request-id"));
    assert!(calls[0]["trace_id"].is_string());
    for (at, call) in calls.iter().enumerate() {
        assert_eq!(call["version"], 1);
        assert_eq!(call["cause"], if at == 6 { "http" } else { "call" });
        assert!(call["duration_us"].as_u64() >= call["waited_us"].as_u64());
        // A kept answer costs nothing.
        assert_eq!(call["replayed"] == json!(true), at == 5, "{call}");
        assert_eq!(call["cost"].is_null(), at == 5, "{call}");
        assert_eq!(call["error"].is_null(), call["outcome"] == "ok", "{call}");
        assert!(call["delivery"].is_null());
    }
    assert_eq!(calls[0]["cost"]["entries_written"], 1);
    let error = calls[1]["error"].as_str().unwrap();
    assert!(
        error.contains("unreachable") && !error.contains('\n'),
        "{error}"
    );
    // The same once they are stored, and by each filter.
    flush(&server).await;
    assert_eq!(all(&server, "shop", "").await.0, calls);
    assert_eq!(all(&server, "shop", "limit=2").await.0, calls);
    let found = async |query: &str| all(&server, "shop", query).await.0.len();
    assert_eq!(found("failed=true").await, 3);
    assert_eq!(found("failed=true&function=run").await, 1);
    assert_eq!(found("outcome=trap").await, 1);
    assert_eq!(found("slower_us=0").await, 7);
    assert_eq!(found("slower_us=100000000000").await, 0);
    assert_eq!(found("trigger=t").await, 0);
    assert_eq!(
        found(&format!("request={}", first.header("x-request-id"))).await,
        1
    );
    let at = |call: &Value| call["at"].as_i64().unwrap();
    let (start, end) = (at(&calls[0]), at(&calls[6]));
    assert_eq!(found(&format!("since={start}&until={}", end + 1)).await, 7);
    assert_eq!(found(&format!("until={start}")).await, 0);
    assert_eq!(found(&format!("since={}", end + 1)).await, 0);
    for bad in [
        "before=x",
        "outcome=good",
        "request=x",
        "slower_us=-1",
        "failed=maybe",
        "nonsense=1",
        "limit=-1",
        "since=5&until=1",
        "since=5&until=5",
    ] {
        let refused = server.root.get(&format!("/v1/apps/shop/calls?{bad}")).await;
        refused.expect_problem(400, "invalid-argument");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_whose_caller_leaves_is_recorded_as_cancelled() {
    let server = Server::start().await;
    attach(&server);
    server
        .deployed("shop", module("", "(loop (br 0)) unreachable"))
        .await;
    let name = AppName::parse("shop").unwrap();
    let app = server.host.app(&name).await.unwrap().unwrap();
    let host = server.host.clone();
    let run = tokio::spawn(async move { host.invoke(&app, kvasm::Call::function("run")).await });
    // It runs once the metrics say so.
    eventually("it runs", async || {
        let metrics = server.host.metrics().encode();
        metrics.contains("kvasm_instances 1")
    })
    .await;
    run.abort();
    let _ = run.await;
    let (calls, _) = all(&server, "shop", "").await;
    assert_eq!(calls.len(), 1);
    let call = &calls[0];
    assert_eq!(
        (&call["outcome"], &call["blame"]),
        (&json!("cancelled"), &json!("caller"))
    );
}

/// Nothing of a hostile name or error can end a line or a header, or is lost.
#[tokio::test]
async fn hostile_names_and_errors_are_only_text() {
    let server = Server::start().await;
    attach(&server);
    const NAME: &str = "</script><b>{}'";
    let escaped: String = NAME.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let line = json!({ "kind": "function", "name": NAME }).to_string();
    let message = "x\\0a{\\22seq\\22:1}\\0d\\1b[2J";
    let fields = format!(
        "{} (func (export \"{escaped}\") (result i32)
            (drop (call $output_write (i32.const 0) (i32.const 16))) (i32.const 1))",
        manifest(&[&line])
    );
    server
        .deployed("shop", module_with(message, &fields, "(i32.const 0)"))
        .await;
    let path: String = NAME.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let failed = server
        .root
        .bytes("POST", &call(&path), "text/plain", "")
        .await;
    assert_eq!(failed.status, 500, "{}", failed.text());
    flush(&server).await;
    let (calls, _) = all(&server, "shop", "failed=true").await;
    assert_eq!(functions(&calls), [NAME]);
    assert!(calls[0]["error"].as_str().unwrap().contains("{\"seq\":1}"));
    let (calls, _) = all(&server, "shop", &format!("function={path}")).await;
    assert_eq!(calls.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_on_postgres_show_the_same_calls() {
    let url = tokio::task::spawn_blocking(fresh_database).await.unwrap();
    let open = async || {
        let options = store_options(url.clone());
        Arc::new(PostgresStore::connect(options).await.unwrap()) as Arc<dyn Store>
    };
    let one = Server::over(open().await, None).await;
    let two = Server::over(open().await, Some(one.root.secret().to_owned())).await;
    let app = one.app("shop", true).await;
    for server in [&one, &two] {
        attach(server);
    }
    for n in 0..400 {
        let server = [&one, &two][n % 2];
        push(server, &app, n.to_string());
        if n % 60 == 0 {
            flush(server).await;
        }
    }
    // A host shows its own records before it has written them.
    let own = page(&one, "shop", "limit=1000").await.lines();
    assert!(functions(&own).contains(&"398"));
    flush(&one).await;
    flush(&two).await;
    let expected: Vec<_> = (0..400).map(|n| n.to_string()).collect();
    for server in [&one, &two] {
        for limit in [1_000, 7] {
            let (calls, left_out) = all(server, "shop", &format!("limit={limit}")).await;
            assert_eq!((functions(&calls).len(), left_out), (400, 0));
            let found: HashSet<_> = functions(&calls).into_iter().collect();
            assert!(expected.iter().all(|name| found.contains(name.as_str())));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn app_that_floods_with_calls_is_sampled_and_leaves_its_neighbour_alone() {
    const COUNT: u32 = 300_000;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let server = Server::over(Arc::clone(&store), None).await;
    let loud = server.app("loud", true).await;
    let quiet = server.app("quiet", true).await;
    attach(&server);
    let keeper = server.host.call_keeper();
    let start = Instant::now();
    let mut failures = 0;
    for n in 0..COUNT {
        push(&server, &loud, "f");
        if n % 1_000 == 0 {
            push(&server, &quiet, (n / 1_000).to_string());
            // Few enough to be kept even in a flood.
            server.host.calls().push(loud.id, record("bad", "trap"));
            failures += 1;
        }
        if n % 10_000 == 0 {
            keeper.round(&RETENTION).await.unwrap();
        }
    }
    let seconds = start.elapsed().as_secs() + 1;
    flush(&server).await;
    let (calls, left_out) = all(&server, "quiet", "limit=1000").await;
    let expected: Vec<_> = (0..300).map(|n| n.to_string()).collect();
    assert_eq!(
        (functions(&calls), left_out),
        (expected.iter().map(String::as_str).collect(), 0)
    );
    // Those that are not pruned yet: the newest, and the note about them.
    let (kept, left_out) = all(&server, "loud", "limit=10000").await;
    let most = 10_000 + 1_000 * seconds + u64::from(COUNT) / 100 + 1_000;
    assert!((kept.len() as u64) < most, "{} of {most}", kept.len());
    assert!(left_out > 0);
    let is_failure = |call: &&Value| call["outcome"] == "trap";
    let newest = kept.iter().filter(is_failure).count();
    assert!(newest > 0 && newest <= failures);
    // The answer to a filter tells it too.
    let filtered = all(&server, "loud", "failed=true").await;
    assert_eq!((filtered.0.len(), filtered.1), (newest, left_out));
    let bytes = stored_bytes(&store, &loud, SegmentKind::Calls).await;
    assert!(bytes <= 1024 * 1024 * 17 / 16 + 128 * 1024, "{bytes}");
    let log = server.root.get("/v1/apps/loud/logs").await.expect(200);
    assert!(
        log.text().contains("calls were not recorded"),
        "{}",
        log.text()
    );
    let metrics = server.host.metrics().encode();
    let lost = "kvasm_call_records_lost_total{name=\"flood\"}";
    assert!(metrics.contains(lost), "{metrics}");
    assert!(metrics.contains("kvasm_upkeep_total{name=\"call_segments\"}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_that_takes_no_records_delays_no_call() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (faulty, faults) = FaultyStore::over(Arc::clone(&store));
    let server = Server::over(faulty, None).await;
    server.deployed("shop", module("", "(i32.const 0)")).await;
    attach(&server);
    let keeper = server.host.call_keeper();
    let ok = async || server.anonymous().call("shop", "run", "").await.expect(200);
    let count = async || all(&server, "shop", "limit=100").await.0.len();
    faults.on(Operation::AppendLog).fail(unavailable);
    for _ in 0..20 {
        ok().await;
    }
    // The records are visible meanwhile, and are not lost if the store recovers soon.
    for _ in 0..3 {
        assert!(keeper.flush(&RETENTION).await.is_err());
    }
    assert_eq!(count().await, 20);
    faults.clear();
    flush(&server).await;
    assert_eq!(count().await, 20);
    // An append whose answer is lost is repeated, and stored once.
    faults.on(Operation::AppendLog).times(1).lose_the_answer();
    ok().await;
    assert!(keeper.flush(&RETENTION).await.is_err());
    flush(&server).await;
    assert_eq!(count().await, 21);
    // After a few attempts records are dropped, and the answer and the log say so.
    faults.on(Operation::AppendLog).fail(unavailable);
    ok().await;
    for _ in 0..8 {
        assert!(keeper.flush(&RETENTION).await.is_err());
    }
    faults.clear();
    flush(&server).await;
    let (calls, left_out) = all(&server, "shop", "limit=100").await;
    assert_eq!((calls.len(), left_out), (21, 1));
    let log = server.root.get("/v1/apps/shop/logs").await.expect(200);
    let text = "1 records of calls were dropped";
    assert!(log.text().contains(text), "{}", log.text());
    // A hanging append does not delay calls either.
    faults.on(Operation::AppendLog).hang();
    ok().await;
    let hanging = keeper.flush(&RETENTION);
    let met = faults.met(Operation::AppendLog);
    let call = async {
        faults
            .until("the append hangs", |f| f.met(Operation::AppendLog) > met)
            .await;
        ok().await;
        faults.clear();
    };
    let (flushed, ()) = tokio::join!(hanging, call);
    flushed.unwrap();
    // A list that cannot be read is a failure of the store.
    faults.on(Operation::LogSegments).fail(unavailable);
    let refused = server.root.get("/v1/apps/shop/calls").await;
    assert_eq!(refused.status, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_a_deleted_app_are_removed() {
    const CALLS: SegmentKind = SegmentKind::Calls;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let server = Server::over(Arc::clone(&store), None).await;
    attach(&server);
    let app = server.app("shop", true).await;
    push(&server, &app, "stored");
    flush(&server).await;
    push(&server, &app, "waiting");
    server
        .root
        .send("DELETE", "/v1/apps/shop")
        .await
        .expect(204);
    assert_eq!(store.apps_with_log(CALLS, None, 9).await.unwrap(), []);
    // A handler that ends later.
    push(&server, &app, "late");
    flush(&server).await;
    let again = server.app("shop", true).await;
    push(&server, &again, "new");
    flush(&server).await;
    assert_eq!(functions(&all(&server, "shop", "").await.0), ["new"]);
    server.host.call_keeper().remove_deleted().await.unwrap();
    assert_eq!(
        store.apps_with_log(CALLS, None, 9).await.unwrap(),
        [again.id]
    );
}

#[tokio::test]
async fn calls_are_shown_to_those_who_may_read_the_log_of_the_app() {
    let server = Server::start().await;
    attach(&server);
    let (shop, other) = (
        server.app("shop", true).await,
        server.app("other", true).await,
    );
    push(&server, &shop, "f");
    let path = "/v1/apps/shop/calls";
    let reader = server.client(Some(&shop), &[Scope::LogRead]).await;
    assert_eq!(reader.get(path).await.expect(200).lines().len(), 1);
    for (app, scope) in [(&shop, Scope::AppRead), (&other, Scope::AppAdmin)] {
        let refused = server.client(Some(app), &[scope]).await.get(path).await;
        refused.expect_problem(403, "forbidden");
    }
    let own = server.client(Some(&other), &[Scope::LogRead]).await;
    let none = own.get("/v1/apps/other/calls").await.expect(200);
    assert_eq!(none.text(), "");
}

/// Prints what recording costs. In turns, so that a busy machine affects both alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recording_hardly_delays_calls() {
    const ROUNDS: usize = 12;
    const CALLS: usize = 200;
    let servers = [Server::start().await, Server::start().await];
    servers[1].host.call_keeper().attach();
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (server, took) in servers.iter().zip(&mut took) {
            if took.is_empty() {
                server.deployed("shop", module("", "(i32.const 0)")).await;
            }
            let name = AppName::parse("shop").unwrap();
            let app = server.host.app(&name).await.unwrap().unwrap();
            let start = Instant::now();
            for _ in 0..CALLS {
                let call = kvasm::Call::function("run");
                server.host.invoke(&app, call).await.unwrap();
            }
            took.push(start.elapsed());
        }
    }
    let recorded = all(&servers[1], "shop", "limit=10000").await.0.len();
    assert_eq!(recorded, ROUNDS * CALLS);
    // The fastest round is the one that was disturbed least.
    let [without, with] = took.map(|took| took.into_iter().min().unwrap());
    let ratio = with.as_secs_f64() / without.as_secs_f64();
    let call = without / CALLS as u32;
    eprintln!("a call takes {call:?}, and {ratio:.3} times as long when it is recorded");
    assert!(ratio < 1.5, "{ratio}");
}
