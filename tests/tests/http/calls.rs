//! Data exchanged between clients and plugins.

use kvasm::model::Scope;
use kvasm::server::{PageOptions, Sandbox, ServerOptions};
use kvasm_tests::guests::{manifest, module, module_with, wasm};
use kvasm_tests::server::{ApiClient, ApiResponse, Server, answer};
use serde_json::{Value, json};

/// Text as module data in the wasm text format.
pub fn data(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
}

/// The frame of a response without a body.
pub fn frame(head: &str) -> Vec<u8> {
    let len = u32::try_from(head.len()).unwrap().to_le_bytes();
    [len.as_slice(), head.as_bytes()].concat()
}

/// A module whose handler answers with this head, and with the request as the body.
pub fn echo(head: &str) -> Vec<u8> {
    let frame = frame(head);
    let body = format!(
        "(drop (call $output_write (i32.const 0) (i32.const {})))
         (drop (call $output_write (i32.const 4096) (i32.wrap_i64
            (call $input_read (i32.const 0) (i32.const 4096) (i32.const 32768)))))
         (i32.const 0)",
        frame.len()
    );
    let http = manifest(&[r#"{"kind":"http","name":"run"}"#]);
    module_with(&data(&frame), &http, &body)
}

/// The head of the echoed request.
pub fn echoed(answer: &ApiResponse) -> Value {
    let len = u32::from_le_bytes(answer.body[..4].try_into().unwrap()) as usize;
    serde_json::from_slice(&answer.body[4..4 + len]).unwrap()
}

fn header<'h>(head: &'h Value, name: &str) -> Option<&'h str> {
    let headers = head["headers"].as_array().unwrap();
    let found = headers.iter().find(|pair| pair[0] == name)?;
    found[1].as_str()
}

/// A plugin that sets an entry, as a function and as a handler.
fn setter() -> Vec<u8> {
    let frame = frame("{\"status\":200}");
    let set = "(i64.lt_s (call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)
        (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0)) (i64.const 0))";
    let handle = format!(
        "(func (export \"handle\") (result i32)
            (drop (call $output_write (i32.const 1) (i32.const {}))) {set})",
        frame.len()
    );
    let names = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"http","name":"handle"}"#,
    ]);
    let bytes = [b"k", frame.as_slice()].concat();
    module_with(&data(&bytes), &format!("{names} {handle}"), set)
}

#[tokio::test]
async fn plugin_writes_require_a_token_with_write_scope() {
    let server = Server::start().await;
    let app = server.deployed("shop", setter()).await;
    let entry = "/v1/apps/shop/kv/entry?collection=k&key=k";
    for scope in Scope::ALL {
        let api = server.client(Some(&app), &[scope]).await;
        for path in ["/v1/apps/shop/call/run", "/a/shop/"] {
            let answer = api.send("POST", path).await;
            let (called, found) = match scope {
                Scope::ScriptWrite => (200, 200),
                _ => (500, 404),
            };
            assert_eq!(answer.status, called, "{path} {scope}: {}", answer.text());
            let entry = server.root.get(entry).await.status;
            assert_eq!(entry, found, "{path} {scope}");
            server
                .root
                .send("DELETE", "/v1/apps/shop/kv/entry?collection=k&key=k")
                .await;
        }
    }
    // Without a token, the plugin decides on access.
    server
        .anonymous()
        .send("POST", "/a/shop/")
        .await
        .expect(200);
    server.root.get(entry).await.expect(200);
}

#[tokio::test]
async fn function_output_is_not_served_as_html() {
    let server = Server::start().await;
    server.deployed("shop", module("", "(i32.const 0)")).await;
    let called = server.anonymous().call("shop", "run", "").await.expect(200);
    assert_eq!(called.header("x-content-type-options"), "nosniff");
    assert_eq!(called.header("content-type"), "application/octet-stream");
}

#[tokio::test]
async fn plugin_headers_are_filtered_both_ways() {
    let server = Server::start().await;
    let head = r#"{"status":200,"headers":[["x-request-id","mine"],["set-cookie","a=1; Path=/"],
        ["service-worker-allowed","/"],["clear-site-data","\"*\""],["x-own","1"],
        ["www-authenticate","Basic realm=\"quiet\""]]}"#;
    server.deployed("shop", echo(head)).await;
    let given = "0190b2a4-7a5d-7cc1-8000-0123456789ab";
    let request = server.anonymous().request("GET", "/a/shop/x?y=1&y=%ff");
    let request = request.header("x-request-id", given);
    let request = request.header("kvasm-cost", "?1");
    let answer = answer(request.header("x-mine", "1")).await.expect(200);
    let seen = echoed(&answer);
    assert_eq!(header(&seen, "x-request-id"), None);
    assert_eq!(header(&seen, "kvasm-cost"), None);
    assert_eq!(header(&seen, "x-mine"), Some("1"));
    // The path and query are passed on unchanged.
    assert_eq!(
        (&seen["path"], &seen["query"]),
        (&"/x".into(), &"y=1&y=%ff".into())
    );
    assert_eq!(answer.header("x-request-id"), given);
    assert_eq!(answer.headers.get_all("x-request-id").iter().count(), 1);
    assert_eq!(answer.header("x-own"), "1");
    assert_eq!(answer.header("set-cookie"), "a=1; Path=/a/shop/");
    for name in [
        "service-worker-allowed",
        "clear-site-data",
        "www-authenticate",
    ] {
        assert_eq!(answer.header(name), "", "{name}");
    }
}

/// A browser applies all policies of a response, so a plugin can only restrict itself further.
#[tokio::test]
async fn plugin_pages_are_sandboxed_unless_the_operator_lifts_it() {
    let hostile = r#"{"status":200,"headers":[["content-type","text/html"],
        ["content-security-policy","sandbox allow-scripts allow-same-origin"]]}"#;
    for (sandbox, own) in [
        (Sandbox::Strict, Some("sandbox")),
        (
            Sandbox::Scripts,
            Some("sandbox allow-scripts allow-forms allow-modals allow-popups allow-downloads"),
        ),
        (Sandbox::Off, None),
    ] {
        let server = Server::with_options(ServerOptions {
            pages: PageOptions {
                sandbox,
                ..PageOptions::default()
            },
            ..ServerOptions::default()
        })
        .await;
        server.deployed("shop", echo(hostile)).await;
        for path in ["/a/shop", "/a/shop/", "/a/shop/x"] {
            let request = server.anonymous().request("GET", path);
            let answer = answer(request).await.expect(200);
            let policies = answer.headers.get_all("content-security-policy");
            let policies: Vec<_> = policies.iter().map(|p| p.to_str().unwrap()).collect();
            let given = "sandbox allow-scripts allow-same-origin";
            let all: Vec<_> = [given].into_iter().chain(own).collect();
            assert_eq!(policies, all, "{path}");
        }
    }
}

#[tokio::test]
async fn host_tokens_are_not_forwarded_to_plugins() {
    let server = Server::start().await;
    server.deployed("shop", echo("{\"status\":200}")).await;
    let send = async |authorization: &str| {
        let request = server.anonymous().request("GET", "/a/shop/");
        answer(request.header("authorization", authorization)).await
    };
    for own in [
        "Basic YTpi",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
        "Digest a=\"b\"",
        "key",
    ] {
        let seen = echoed(&send(own).await.expect(200));
        assert_eq!(header(&seen, "authorization"), Some(own));
    }
    let token = server.root.secret();
    let seen = echoed(&send(&format!("Bearer {token}")).await.expect(200));
    assert_eq!(header(&seen, "authorization"), None);
    for bad in ["Bearer kvasm_x", "Bearer", &format!("Basic {token}"), token] {
        send(bad).await.expect_problem(401, "token-invalid");
    }
    // Two `Authorization` headers, one of them with a host token, are rejected.
    let both = server.root.request("GET", "/a/shop/");
    let both = answer(both.header("authorization", "Basic YTpi")).await;
    both.expect_problem(401, "token-invalid");
    // A plugin's credential is not a host token.
    server.app("closed", false).await;
    let request = server.anonymous().request("GET", "/a/closed/");
    let closed = answer(request.header("authorization", "Basic YTpi")).await;
    closed.expect_problem(401, "token-required");
    let api = server.anonymous().request("GET", "/v1/apps");
    let api = answer(api.header("authorization", "Basic YTpi")).await;
    api.expect_problem(401, "token-invalid");
}

#[tokio::test]
async fn failure_reason_is_shown_only_to_those_who_may_read_the_log() {
    let server = Server::start().await;
    let names = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"http","name":"handle"}"#,
    ]);
    for code in [1, 2, 3, 7] {
        let app = format!("shop{code}");
        let fail =
            format!("(drop (call $output_write (i32.const 0) (i32.const 6))) (i32.const {code})");
        let handle = format!("{names} (func (export \"handle\") (result i32) {fail})");
        let app_of = server
            .deployed(&app, module_with("secret", &handle, &fail))
            .await;
        let failed = server.anonymous().get(&format!("/a/{app}/")).await;
        failed.expect_problem(500, "plugin-failed");
        assert!(!failed.text().contains("secret"), "{}", failed.text());
        let logs = server.root.get(&format!("/v1/apps/{app}/logs")).await;
        assert!(logs.expect(200).text().contains("secret"));
        let called = server.anonymous().call(&app, "run", "").await;
        match code {
            // A refusal tells the caller what is wrong with the input.
            3 => {
                called.expect_problem(422, "input-refused");
                assert_eq!(called.json()["detail"], "secret");
            }
            _ => {
                called.expect_problem(500, "plugin-failed");
                assert!(!called.text().contains("secret"), "{}", called.text());
            }
        }
        // A caller who may read the log sees the message in the problem too.
        let seen = server.root.call(&app, "run", "").await;
        assert_eq!(seen.json()["detail"], "secret");
        let seen = server.root.get(&format!("/a/{app}/")).await;
        seen.expect_problem(500, "plugin-failed");
        assert_eq!(seen.json()["detail"], "secret");
        drop(app_of);
    }
}

#[tokio::test]
async fn plugin_service_worker_is_scoped_to_its_app() {
    let server = Server::start().await;
    server.deployed("shop", echo("{\"status\":200}")).await;
    let ask = |path: &str| {
        let request = server.anonymous().request("GET", path);
        answer(request.header("service-worker", "script"))
    };
    ask("/a/shop").await.expect_problem(403, "forbidden");
    ask("/a/shop/worker.js").await.expect(200);
    server.anonymous().get("/a/shop").await.expect(200);
}

/// The entry's name is the plugin's: those who read its log see it, and its clients do not.
#[tokio::test]
async fn commit_that_an_addition_fails_names_the_entry_to_readers_of_the_log() {
    let server = Server::start().await;
    let add = "(drop (call $kv_add (i32.const 0) (i32.const 6) (i32.const 6) (i32.const 4) (i64.const 1)))
               (i32.const 0)";
    let run = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let app = server
        .deployed("shop", module_with("hiddennote", &run, add))
        .await;
    let set =
        json!({"operations": [{"set": {"collection": "hidden", "key": "note", "json": "text"}}]});
    let written = server.root.json("POST", "/v1/apps/shop/kv/commit", set);
    written.await.expect(200);
    let said = async |client: &ApiClient| {
        let failed = client.call("shop", "run", "").await;
        failed.problem();
        failed.json()["detail"].as_str().unwrap().to_owned()
    };
    let public = said(&server.anonymous()).await;
    assert!(public.contains("not a JSON integer"), "{public}");
    assert!(
        !public.contains("note") && !public.contains("hidden"),
        "{public}"
    );
    let scopes = [Scope::LogRead, Scope::ScriptRead, Scope::ScriptWrite];
    let reader = server.client(Some(&app), &scopes).await;
    let shown = said(&reader).await;
    assert!(shown.contains(r#"the entry "note" of "hidden""#), "{shown}");
    let log = server.root.get("/v1/apps/shop/logs").await.expect(200);
    assert!(log.text().contains("hidden"), "{}", log.text());
}

#[tokio::test]
async fn stored_module_with_wrong_digest_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kvasm.db");
    let first = Server::sqlite(&file, None, |builder| builder).await;
    let secret = first.root.secret().to_owned();
    first.deployed("shop", module("", "(i32.const 0)")).await;
    first.anonymous().call("shop", "run", "").await.expect(200);
    assert!(first.stop().await);
    let other = rusqlite::Connection::open(&file).unwrap();
    let changed = other.execute("UPDATE modules SET wasm = ?1", [wasm("counter")]);
    assert_eq!(changed.unwrap(), 1);
    drop(other);
    let server = Server::sqlite(&file, Some(secret), |builder| builder).await;
    let called = server.anonymous().call("shop", "run", "").await;
    called.expect_problem(500, "internal");
}

/// Escapes sent by a client never change the text on the way to a plugin.
#[tokio::test]
async fn sdk_plugin_rejects_invalid_utf8_escapes() {
    let server = Server::start().await;
    server.deployed("shop", wasm("sdk")).await;
    let api = server.anonymous();
    let good = api.get("/a/shop/%C3%A9/b?x=%C3%A9+1").await.expect(200);
    assert_eq!(good.json(), serde_json::json!([["é", "b"], "é 1"]));
    for (target, says) in [
        ("/a/shop/%ff", "a part of the path is \"%ff\""),
        ("/a/shop/a?x=%C3", "the parameter \"x\" is \"%C3\""),
    ] {
        let refused = api.get(target).await.expect(400);
        assert!(refused.text().starts_with(says), "{}", refused.text());
        assert!(refused.text().contains("UTF-8"), "{}", refused.text());
    }
    server.deployed("links", wasm("shortener")).await;
    let refused = api.get("/a/links/?cursor=%ff").await.expect(400);
    assert!(refused.text().contains("cursor"), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shortener_counts_every_concurrent_visit() {
    const CALLERS: usize = 16;
    const VISITS: usize = 10;
    let server = Server::start().await;
    server.deployed("links", wasm("shortener")).await;
    let put = server.root.request("PUT", "/a/links/home");
    let put = answer(put.body("https://example.com/")).await;
    put.expect(201);
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let client = server.anonymous();
            tokio::spawn(async move {
                for _ in 0..VISITS {
                    client.get("/a/links/home").await.expect(302);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let stats = server.root.call("links", "stats", "").await.expect(200);
    assert_eq!(stats.json()["visits"], CALLERS * VISITS);
}

/// Callers that repeat what `If-Match` refused add up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_lose_no_concurrent_change() {
    const CALLERS: u32 = 16;
    const CHANGES: u32 = 6;
    const FLAG: &str = "/a/shop/flags/cart";
    let server = Server::start().await;
    server.deployed("shop", wasm("flags")).await;
    let anonymous = server.anonymous().request("PUT", FLAG);
    let refused = answer(anonymous.body(r#"{"percent":0}"#)).await.expect(401);
    assert_eq!(refused.header("content-type"), "application/problem+json");
    let put = server.root.request("PUT", FLAG);
    let put = put.header("if-none-match", "*").body(r#"{"percent":0}"#);
    answer(put).await.expect(201);
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let client = server.root.clone();
            tokio::spawn(async move {
                for _ in 0..CHANGES {
                    while !raise_percent(&client, FLAG).await {}
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let flag = server.anonymous().get(FLAG).await.expect(200).json();
    assert_eq!(flag["percent"], CALLERS * CHANGES);
}

/// Adds 1 to the share of a flag. Returns whether it was unchanged.
async fn raise_percent(client: &ApiClient, flag: &str) -> bool {
    let seen = client.get(flag).await.expect(200);
    let percent = seen.json()["percent"].as_u64().unwrap() + 1;
    let put = client
        .request("PUT", flag)
        .header("if-match", seen.header("etag"));
    let put = answer(put.json(&serde_json::json!({ "percent": percent }))).await;
    assert!(matches!(put.status, 204 | 412), "{}", put.text());
    put.status == 204
}
