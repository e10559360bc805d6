//! Calls with an `Idempotency-Key`.

use kvasm::HostBuilder;
use kvasm::model::{App, Limits, Scope, Timestamp};
use kvasm_tests::guests;
use kvasm_tests::server::{ApiClient, ApiResponse, Server, answer, eventually};
use kvasm_tests::till::{FUNCTIONS, gated_till, sum, till};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

const HANDLER: &str = "/a/shop/pay?q=1";

fn call(function: &str) -> String {
    format!("/v1/apps/shop/call/{function}")
}

async fn keyed(
    client: &ApiClient,
    (method, path): (&str, &str),
    key: &str,
    body: &'static str,
) -> ApiResponse {
    let request = client.request(method, path).header("idempotency-key", key);
    answer(request.body(body)).await
}

async fn post(client: &ApiClient, path: &str, key: &str, body: &'static str) -> ApiResponse {
    keyed(client, ("POST", path), key, body).await
}

#[track_caller]
fn assert_ran(answer: &ApiResponse, nth: u64) {
    assert_eq!(
        answer.header("idempotency-replayed"),
        "",
        "{}",
        answer.request
    );
    assert_eq!(sum(&answer.body), nth, "{}", answer.request);
}

#[track_caller]
fn assert_replays(answer: &ApiResponse, first: &ApiResponse) {
    assert_eq!(
        answer.header("idempotency-replayed"),
        "true",
        "{}",
        answer.text()
    );
    assert_eq!(answer.status, first.status);
    assert_eq!(answer.body, first.body);
    for name in ["x-till", "content-type", "x-content-type-options"] {
        assert_eq!(answer.header(name), first.header(name), "{name}");
    }
    assert_ne!(answer.header("x-request-id"), first.header("x-request-id"));
}

/// Removes all answers, as if they had expired.
async fn forget(server: &Server, app: &App) -> u64 {
    let end = Timestamp(i64::MAX);
    server.host.store().sweep(app.id, end, 100).await.unwrap()
}

/// The number of effects of an app's calls.
async fn effects(server: &Server, app: &str) -> u64 {
    let path = format!("/v1/apps/{app}/kv/entry?collection=c&key=n");
    let entry = server.root.get(&path).await;
    match entry.status {
        404 => 0,
        _ => entry.expect(200).json().as_u64().unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeat_gets_the_kept_answer_without_a_run() {
    let server = Server::start().await;
    let shop = server.deployed("shop", till(201)).await;
    let paths = [call("run"), call("plain"), HANDLER.to_owned()];
    for (path, n) in paths.iter().zip([0, 4, 8]) {
        let first = post(&server.root, path, "key-1", "a body").await;
        assert_ran(&first, n + 1);
        for key in ["key-1", "\"key-1\""] {
            assert_replays(&post(&server.root, path, key, "a body").await, &first);
        }
        assert_eq!(effects(&server, "shop").await, n + 1);
        // Other keys, and calls without one, run.
        assert_ran(&post(&server.root, path, "key-2", "a body").await, n + 2);
        let plain = server.root.send("POST", path).await;
        assert_ran(&plain, n + 3);
        assert_ran(&server.root.send("POST", path).await, n + 4);
        // The next path starts over.
        forget(&server, &shop).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_answer_costs_no_run() {
    let server = Server::start().await;
    server.deployed("shop", till(200)).await;
    let ask = || {
        let request = server.root.request("POST", &call("run"));
        answer(
            request
                .header("kvasm-cost", "?1")
                .header("idempotency-key", "k"),
        )
    };
    assert!(
        ask()
            .await
            .expect(200)
            .header("kvasm-cost")
            .starts_with("runs=1,")
    );
    assert!(
        ask()
            .await
            .expect(200)
            .header("kvasm-cost")
            .starts_with("runs=0,")
    );
}

/// Methods that should have no effect: the key belongs to the plugin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_applies_to_unsafe_methods_of_a_handler_only() {
    let server = Server::start().await;
    server.deployed("shop", till(200)).await;
    for (n, method) in ["GET", "GET", "OPTIONS", "OPTIONS"].into_iter().enumerate() {
        let answer = keyed(&server.root, (method, HANDLER), "not a key\t!", "").await;
        assert_ran(&answer, n as u64 + 1);
    }
    for (n, method) in ["POST", "PUT", "PATCH", "DELETE"].into_iter().enumerate() {
        let first = keyed(&server.root, (method, HANDLER), method, "").await;
        assert_ran(&first, n as u64 + 5);
        let repeat = keyed(&server.root, (method, HANDLER), method, "").await;
        assert_replays(&repeat, &first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_keys_are_rejected() {
    let server = Server::start().await;
    server.deployed("shop", till(200)).await;
    let long = "k".repeat(256);
    for (n, path) in [call("run"), HANDLER.to_owned()].into_iter().enumerate() {
        for key in ["", "\"\"", "\"open", "a b", "\"a\" b", "k\u{e9}", &long] {
            let refused = post(&server.root, &path, key, "").await.expect(400);
            assert_eq!(refused.problem(), "invalid-argument", "{key:?}");
            assert!(
                refused.text().contains("idempotency key"),
                "{}",
                refused.text()
            );
        }
        let request = server.root.request("POST", &path);
        let twice = request
            .header("idempotency-key", "a")
            .header("idempotency-key", "a");
        assert_eq!(
            answer(twice).await.expect(400).problem(),
            "invalid-argument"
        );
        // As long as it may be.
        post(&server.root, &path, &format!("{n}{}", &long[2..]), "")
            .await
            .expect(200);
    }
    assert_eq!(effects(&server, "shop").await, 2);
    // Access comes first.
    server.app("private", false).await;
    let path = "/v1/apps/private/call/run";
    let refused = post(&server.anonymous(), path, "\"open", "").await;
    assert_eq!(refused.expect(401).problem(), "token-required");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_with_another_request_is_refused() {
    let server = Server::start().await;
    server.deployed("shop", till(200)).await;
    let root = &server.root;
    post(root, &call("run"), "k", "one").await.expect(200);
    for (path, body) in [
        (call("run"), "two"),
        (call("run"), ""),
        (call("plain"), "one"),
        (HANDLER.to_owned(), "one"),
    ] {
        let refused = post(root, &path, "k", body).await.expect(422);
        assert_eq!(refused.problem(), "idempotency-key-reused");
        assert_eq!(refused.header("idempotency-replayed"), "");
    }
    keyed(root, ("PUT", HANDLER), "h", "one").await.expect(200);
    for (method, path, body) in [
        ("PUT", HANDLER, "two"),
        ("POST", HANDLER, "one"),
        ("PUT", "/a/shop/pay?q=2", "one"),
        ("PUT", "/a/shop/pay", "one"),
        ("PUT", "/a/shop/pa?q=1", "one"),
    ] {
        let refused = keyed(root, (method, path), "h", body).await.expect(422);
        assert_eq!(refused.problem(), "idempotency-key-reused");
    }
    assert_eq!(effects(&server, "shop").await, 2);
    // Other headers do not make it another request.
    let request = root.request("PUT", HANDLER).header("x-other", "1");
    let repeat = answer(request.header("idempotency-key", "h").body("one")).await;
    assert_eq!(repeat.header("idempotency-replayed"), "true");
}

/// A guessed key reveals nothing: not even that it was used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_and_apps_do_not_share_answers() {
    let server = Server::start().await;
    let shop = server.deployed("shop", till(200)).await;
    server.deployed("other", till(200)).await;
    let scopes = [Scope::ScriptRead, Scope::ScriptWrite];
    let callers = [
        server.client(Some(&shop), &scopes).await,
        server.client(Some(&shop), &scopes).await,
        server.root.clone(),
        server.anonymous(),
    ];
    for (path, before) in [(call("run"), 0), (HANDLER.to_owned(), 4)] {
        for (n, caller) in callers.iter().enumerate() {
            // Each with a body of its own: a shared key would be 422.
            let bodies = ["a", "b", "c", "d"];
            let first = post(caller, &path, "guess", bodies[n]).await.expect(200);
            assert_ran(&first, before + n as u64 + 1);
        }
        for (n, caller) in callers.iter().enumerate() {
            let repeat = post(caller, &path, "guess", ["a", "b", "c", "d"][n]).await;
            assert_eq!(sum(&repeat.body), before + n as u64 + 1);
            assert_eq!(repeat.header("idempotency-replayed"), "true");
        }
        assert_eq!(forget(&server, &shop).await, 4);
    }
    let path = call("run").replace("shop", "other");
    assert_ran(
        &post(&server.root, &path, "guess", "z").await.expect(200),
        1,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_is_checked_before_the_answer_is_looked_up() {
    let server = Server::start().await;
    let shop = server.deployed("shop", till(200)).await;
    let client = server.client(Some(&shop), &[Scope::ScriptWrite]).await;
    let first = post(&client, &call("run"), "k", "").await.expect(200);
    assert_replays(&post(&client, &call("run"), "k", "").await, &first);
    revoke_all(&server, &shop).await;
    let refused = post(&client, &call("run"), "k", "").await.expect(401);
    assert_eq!(refused.problem(), "token-invalid");
    // No longer public.
    let public = post(&server.anonymous(), &call("run"), "p", "").await;
    assert_ran(&public.expect(200), 2);
    let actor = server.host.operator("test");
    server
        .host
        .admin()
        .set_public(&actor, &shop, false)
        .await
        .unwrap();
    let refused = post(&server.anonymous(), &call("run"), "p", "").await;
    assert_eq!(refused.expect(401).problem(), "token-required");
}

async fn revoke_all(server: &Server, app: &App) {
    let store = server.host.store();
    let actor = server.host.operator("test");
    for token in store.tokens(Some(app.id), None, 100).await.unwrap() {
        let revoked = server
            .host
            .admin()
            .revoke_token(&actor, Some(app), token.id);
        revoked.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_outlives_its_plugin_version_and_not_its_app() {
    let server = Server::start().await;
    let shop = server.deployed("shop", till(200)).await;
    let first = post(&server.root, &call("plain"), "k", "")
        .await
        .expect(200);
    // A version that has the function, and one that does not.
    let without = guests::module("", "(i32.const 0)");
    for wasm in [till(202), without] {
        server.root.upload("shop", wasm).await.expect(201);
        assert_replays(&post(&server.root, &call("plain"), "k", "").await, &first);
    }
    let absent = post(&server.root, &call("plain"), "new", "").await;
    assert_eq!(absent.expect(404).problem(), "function-not-found");
    let other = post(&server.root, &call("plain"), "k", "other").await;
    assert_eq!(other.expect(422).problem(), "idempotency-key-reused");
    // Deleted, and created again under the same name.
    let actor = server.host.operator("test");
    server.host.delete_app(&actor, &shop).await.unwrap();
    let gone = post(&server.root, &call("plain"), "k", "").await;
    assert_eq!(gone.expect(404).problem(), "app-not-found");
    server.deployed("shop", till(200)).await;
    assert_ran(&post(&server.root, &call("plain"), "k", "").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_took_effect_is_kept() {
    let server = Server::start().await;
    server.deployed("shop", till(200)).await;
    for function in FUNCTIONS {
        for (input, status) in [("refused", 422), ("failed", 500), ("trapped", 500)] {
            for _ in 0..2 {
                let answer = post(&server.root, &call(function), input, input).await;
                assert_eq!(answer.header("idempotency-replayed"), "");
                assert_ne!(answer.expect(status).problem(), "idempotency-key-reused");
            }
        }
    }
    // Those of the function that is not a transaction stay.
    assert_eq!(effects(&server, "shop").await, 6);
    for (status, is_kept) in [(404, true), (429, false), (500, false), (503, false)] {
        let app = format!("app-{status}");
        server.deployed(&app, till(status)).await;
        let path = format!("/a/{app}/");
        let first = post(&server.root, &path, "k", "").await.expect(status);
        let second = post(&server.root, &path, "k", "").await.expect(status);
        match is_kept {
            true => assert_replays(&second, &first),
            false => assert_ran(&second, 2),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_that_is_too_large_to_keep_is_not_run_again() {
    let server = Server::start().await;
    server.deployed("shop", till(200)).await;
    for (n, function) in FUNCTIONS.into_iter().enumerate() {
        let first = post(&server.root, &call(function), function, "Large").await;
        assert_ran(&first.expect(200), n as u64 + 1);
        let repeat = post(&server.root, &call(function), function, "Large").await;
        assert_eq!(repeat.expect(410).problem(), "idempotent-answer-too-large");
        let other = post(&server.root, &call(function), function, "Less").await;
        assert_eq!(other.expect(422).problem(), "idempotency-key-reused");
    }
    assert_eq!(effects(&server, "shop").await, 2);
}

/// A server whose calls wait for a permit each, and the number of those that have begun.
pub async fn gated(wall_time: Duration) -> (Server, Arc<Semaphore>, Arc<AtomicU64>) {
    let (gate, runs) = (Arc::new(Semaphore::new(0)), Arc::<AtomicU64>::default());
    let (in_guest, counted) = (Arc::clone(&gate), Arc::clone(&runs));
    let set_up = move |builder: HostBuilder| {
        let limits = Limits {
            wall_time,
            ..Limits::default()
        };
        guests::meanwhile(builder.limits(limits), move |_| {
            let (gate, runs) = (Arc::clone(&in_guest), Arc::clone(&counted));
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
            }
        })
    };
    let server = Server::with(set_up).await;
    server.deployed("shop", gated_till()).await;
    (server, gate, runs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeat_during_the_run_waits_for_its_answer() {
    let (server, gate, runs) = gated(Duration::from_secs(120)).await;
    for path in [call("run"), call("plain"), HANDLER.to_owned()] {
        let before = runs.load(Ordering::SeqCst);
        let calls: Vec<_> = (0..5)
            .map(|_| {
                let (client, path) = (server.root.clone(), path.clone());
                tokio::spawn(async move { post(&client, &path, &path, "").await })
            })
            .collect();
        eventually("one runs", async || runs.load(Ordering::SeqCst) > before).await;
        // A repeat does not hold up other keys.
        let other = {
            let (client, path) = (server.anonymous(), path.clone());
            tokio::spawn(async move { post(&client, &path, &path, "").await })
        };
        eventually("another key runs", async || {
            runs.load(Ordering::SeqCst) == before + 2
        })
        .await;
        // One after the other: transactions that meet would run again, and wait once more.
        let done = effects(&server, "shop").await;
        for n in 1..=2 {
            gate.add_permits(1);
            eventually("one has its effect", async || {
                effects(&server, "shop").await == done + n
            })
            .await;
        }
        let mut replayed = 0;
        let mut sums = std::collections::BTreeSet::new();
        for call in calls {
            let answer = call.await.unwrap().expect(200);
            sums.insert(sum(&answer.body));
            replayed += u32::from(answer.header("idempotency-replayed") == "true");
        }
        assert_eq!((sums.len(), replayed), (1, 4), "{path}");
        other.await.unwrap().expect(200);
        assert_eq!(runs.load(Ordering::SeqCst), before + 2, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeat_whose_client_leaves_gives_up_its_turn() {
    let (server, gate, runs) = gated(Duration::from_secs(600)).await;
    let client = server.root.clone();
    let first = tokio::spawn(async move { post(&client, &call("run"), "k", "").await });
    eventually("it runs", async || runs.load(Ordering::SeqCst) == 1).await;
    let request = server.root.request("POST", &call("run"));
    let request = request.header("idempotency-key", "k");
    let impatient = request.timeout(Duration::from_millis(50)).send().await;
    assert!(impatient.unwrap_err().is_timeout());
    gate.add_permits(1);
    assert_ran(&first.await.unwrap().expect(200), 1);
    let repeat = post(&server.root, &call("run"), "k", "").await;
    assert_eq!(repeat.header("idempotency-replayed"), "true");
}

/// The next one in line runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeat_runs_if_the_first_call_fails() {
    let (server, gate, runs) = gated(Duration::from_secs(120)).await;
    for function in FUNCTIONS {
        let before = runs.load(Ordering::SeqCst);
        let calls: Vec<_> = (0..3)
            .map(|_| {
                let client = server.root.clone();
                tokio::spawn(async move { post(&client, &call(function), "k", "trap").await })
            })
            .collect();
        for n in 1..=3 {
            eventually("the next one runs", async || {
                runs.load(Ordering::SeqCst) == before + n
            })
            .await;
            gate.add_permits(1);
        }
        for call in calls {
            assert_eq!(call.await.unwrap().expect(500).problem(), "plugin-trapped");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_answers_and_keys_are_shown_nowhere() {
    let server = Server::start().await;
    server.deployed("shop", till(200)).await;
    for function in FUNCTIONS {
        for _ in 0..2 {
            post(
                &server.root,
                &call(function),
                &format!("Key-{function}"),
                "Secret-1",
            )
            .await
            .expect(200);
        }
    }
    let shown = [
        "/v1/apps/shop/logs",
        "/v1/apps/shop",
        "/v1/apps/shop/audit",
        "/v1/apps/shop/kv/export",
        "/v1/audit",
        "/metrics",
    ];
    for path in shown {
        let text = server.root.get(path).await.expect(200).text();
        for secret in ["Secret-1", "Key-", "5365637265742d31"] {
            assert!(!text.contains(secret), "{path}: {text}");
        }
    }
    assert_eq!(server.root.keys("shop", "c").await, ["n"]);
}
