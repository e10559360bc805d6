//! Requests to a plugin's HTTP handler whose response is data.

use super::calls::{data, echo, frame};
use super::idempotency::gated;
use kvasm::model::{Limits, Scope};
use kvasm::server::AdminAddress;
use kvasm_tests::guests::{manifest, module, module_with, wasm};
use kvasm_tests::server::{ApiResponse, Server, eventually};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

const PATH: &str = "/v1/apps/shop/request";

#[tokio::test]
async fn response_of_the_handler_is_data() {
    let server = Server::start().await;
    let head = r#"{"status":418,"headers":[["content-type","text/html"],["set-cookie","a=1; Path=/"],
        ["clear-site-data","\"*\""],["access-control-allow-origin","*"],["x-own","<b>"]]}"#;
    server.deployed("shop", echo(head)).await;
    server.deployed("neighbour", echo(head)).await;
    let token = server.root.secret();
    let asked = json!({
        "method": "PATCH", "path": "/a%20b?x=%3Cb%3E",
        "headers": [["X-Mine", "1"], ["Authorization", format!("Bearer {token}")], ["X-Request-Id", "2"]],
        "text": "é",
    });
    let answer = server.root.json("POST", PATH, asked).await.expect(200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("set-cookie"), "");
    assert_eq!(answer.header("access-control-allow-origin"), "");
    let got = answer.json();
    assert_eq!(got["status"], 418);
    let headers = got["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["x-own", "<b>"])), "{headers:?}");
    assert!(
        headers.contains(&json!(["set-cookie", "a=1; Path=/a/shop/"])),
        "{headers:?}"
    );
    assert!(!got.to_string().contains("clear-site-data"), "{got}");
    let (inner, body) = echoed(&got);
    assert_eq!(body, "é".as_bytes());
    assert_eq!(
        (
            &inner["method"],
            &inner["path"],
            &inner["query"],
            &inner["mount"]
        ),
        (
            &json!("PATCH"),
            &json!("/a%20b"),
            &json!("x=%3Cb%3E"),
            &json!("/a/shop")
        )
    );
    // The plugin gets the headers of the request within, without tokens of the host.
    assert_eq!(inner["headers"], json!([["x-mine", "1"]]));
    assert!(!got.to_string().contains(token), "{got}");
}

/// The head and the body that the handler has echoed. Their frame has control characters.
fn echoed(answer: &Value) -> (Value, Vec<u8>) {
    use base64::Engine as _;
    let Value::String(bytes) = &answer["bytes"] else {
        panic!("{answer}")
    };
    let frame = base64::engine::general_purpose::STANDARD
        .decode(bytes)
        .unwrap();
    let len = u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize;
    let head = serde_json::from_slice(&frame[4..4 + len]).unwrap();
    (head, frame[4 + len..].to_vec())
}

/// The handler receives what a client of its page could send, and nothing that belongs to the host.
#[tokio::test]
async fn handler_receives_no_headers_of_the_host_or_the_connection() {
    let server = Server::start().await;
    server.deployed("shop", echo("{\"status\":200}")).await;
    let bearer = format!("Bearer {}", server.root.secret());
    let asked = json!({"method": "POST", "path": "/", "bytes": "AP8K", "headers": [
        ["Authorization", bearer], ["Proxy-Authorization", bearer], ["Transfer-Encoding", "chunked"],
        ["Content-Length", "9999999"], ["Connection", "upgrade"], ["Upgrade", "websocket"], ["TE", "trailers"],
        ["Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"], ["Kvasm-Cost", "?1"],
        ["Cookie", "a=1"], ["Host", "other.example.com"], ["X-Forwarded-For", "10.0.0.1"],
        ["Forwarded", "for=10.0.0.1;host=other.example.com"], ["Authorization", "Basic YTpi"],
        ["X-Long", "x".repeat(20_000)],
    ]});
    let got = server.root.json("POST", PATH, asked).await.expect(200);
    assert_eq!(got.header("kvasm-cost"), "");
    let (head, body) = echoed(&got.json());
    let mut names: Vec<_> = head["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair[0].as_str().unwrap())
        .collect();
    names.sort_unstable();
    let expected = [
        "authorization",
        "cookie",
        "forwarded",
        "host",
        "x-forwarded-for",
        "x-long",
    ];
    assert_eq!(names, expected);
    assert!(head.to_string().contains("Basic YTpi"));
    assert!(!head.to_string().contains(server.root.secret()));
    // What the host vouches for is not taken from headers.
    assert_eq!(
        (&head["authority"], &head["client"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(body, b"\0\xff\n");
}

/// A body of control characters, each of which takes six bytes in JSON.
#[tokio::test]
async fn answer_is_not_much_larger_than_the_output_of_the_handler() {
    const WRITES: usize = 100;
    const ZEROS: usize = 32 * 1024;
    let server = Server::start().await;
    let frame = frame("{\"status\":200}");
    let body = format!(
        "(local $n i32)
         (drop (call $output_write (i32.const 0) (i32.const {})))
         (loop $again
            (drop (call $output_write (i32.const 4096) (i32.const {ZEROS})))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const {WRITES}))))
         (i32.const 0)",
        frame.len()
    );
    let http = manifest(&[r#"{"kind":"http","name":"run"}"#]);
    let guest = module_with(&data(&frame), &http, &body);
    server.deployed("shop", guest).await;
    let get = json!({"method": "GET", "path": "/"});
    let answer = server.root.json("POST", PATH, get).await.expect(200);
    let output = WRITES * ZEROS;
    assert!(answer.json()["bytes"].as_str().unwrap().len() >= output * 4 / 3);
    assert!(answer.body.len() < output * 3 / 2, "{}", answer.body.len());
}

/// An app without calls, and its neighbour.
#[tokio::test]
async fn handler_is_subject_to_the_limits_of_the_app() {
    let server = Server::start().await;
    server.deployed("shop", wasm("web")).await;
    server.deployed("neighbour", wasm("web")).await;
    let write = json!({"method": "PUT", "path": "/notes/a", "text": "n"});
    let none = json!({"calls_per_second": 0});
    let limits = "/v1/apps/shop/limits";
    server.root.json("PATCH", limits, none).await.expect(200);
    let refused = server.root.json("POST", PATH, write.clone()).await;
    refused.expect_problem(429, "rate-limited");
    let full = json!({"calls_per_second": null, "entries": 0});
    server.root.json("PATCH", limits, full).await.expect(200);
    let refused = server.root.json("POST", PATH, write.clone()).await;
    assert!(
        refused.status >= 400 || refused.json()["status"].as_u64() >= Some(400),
        "{}",
        refused.text()
    );
    let found = "/v1/apps/shop/kv/entry?collection=notes&key=a";
    server.root.get(found).await.expect(404);
    let other = "/v1/apps/neighbour/request";
    let made = server.root.json("POST", other, write).await.expect(200);
    assert!(
        made.json()["status"].as_u64() < Some(300),
        "{}",
        made.text()
    );
}

#[tokio::test]
async fn invalid_requests_to_the_handler_are_refused() {
    let server = Server::start().await;
    server.deployed("shop", echo("{\"status\":200}")).await;
    for bad in [
        json!({"method": "TRACE", "path": "/"}),
        json!({"method": "get", "path": "/"}),
        json!({"method": "GET", "path": "x"}),
        json!({"method": "GET", "path": ""}),
        json!({"method": "GET", "path": "/a b"}),
        json!({"method": "GET", "path": "/\u{202e}\n"}),
        json!({"method": "GET", "path": "/x#y"}),
        json!({"method": "GET", "path": "/x?y#z"}),
        json!({"method": "GET", "path": "/é"}),
        json!({"method": "GET", "path": "/x?é"}),
        json!({"method": "GET", "path": "/%zz"}),
        json!({"method": "GET", "path": "/x?a=%4"}),
        json!({"method": "GET", "path": "/%", "text": "%25"}),
        json!({"method": "GET", "path": format!("/{}", "x".repeat(8 * 1024))}),
        json!({"method": "GET", "path": "/", "headers": [["a b", "1"]]}),
        json!({"method": "GET", "path": "/", "headers": [["a", "1\r\nb: 2"]]}),
        json!({"method": "GET", "path": "/", "headers": [["a"]]}),
        json!({"method": "GET", "path": "/", "headers": [["", "1"]]}),
        json!({"method": "GET", "path": "/", "headers": [["a\u{202e}", "1"]]}),
        json!({"method": "GET", "path": "/", "headers": [["a", "\0"]]}),
        json!({"method": "GET", "path": "/", "headers": vec![["a", "1"]; 101]}),
        json!({"method": "GET", "path": "/", "text": "a", "bytes": "YQ=="}),
        json!({"method": "GET", "path": "/", "bytes": "%"}),
        json!({"method": "GET", "path": "/", "host": "x"}),
    ] {
        let answer = server.root.json("POST", PATH, bad.clone()).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    let long = json!({"method": "GET", "path": "/", "text": "x".repeat(70_000)});
    server.root.json("POST", PATH, long).await.expect(413);
    let text = json!({"method": "GET", "path": "/"});
    let by_form = server
        .root
        .bytes("POST", PATH, "text/plain", text.to_string());
    by_form.await.expect(415);
}

/// The app's log says why a handler's output is not a response, as a line of the host.
async fn assert_reason_is_logged(server: &Server, answer: &ApiResponse, why: &str) {
    let request = answer.header("x-request-id");
    let path = format!("/v1/apps/shop/logs?level=error&request={request}");
    let text = server.root.get(&path).await.expect(200).text();
    let lines: Vec<Value> = text
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert_eq!(lines[0]["source"], "host");
    let message = lines[0]["message"].as_str().unwrap();
    assert!(message.contains(why), "{message}");
}

#[tokio::test]
async fn unusable_response_is_explained_in_the_log() {
    let server = Server::start().await;
    let header = r#"["a","1"]"#;
    let headers = vec![header; 101].join(",");
    let head = format!(r#"{{"status":200,"headers":[{headers}]}}"#);
    server.deployed("shop", echo(&head)).await;
    let answer = server.anonymous().get("/a/shop/").await;
    answer.expect_problem(502, "plugin-answer");
    assert_reason_is_logged(&server, &answer, "has 101, of 202 bytes").await;
}

#[tokio::test]
async fn failures_of_the_handler_are_problems() {
    let server = Server::start().await;
    let get = json!({"method": "GET", "path": "/"});
    let ask = async || server.root.json("POST", PATH, get.clone()).await;
    server.app("shop", false).await;
    assert!(ask().await.status >= 400, "without a plugin");
    server
        .root
        .upload("shop", module("", "(i32.const 0)"))
        .await
        .expect(201);
    ask().await.expect_problem(404, "no-http-handler");
    server
        .root
        .upload("shop", echo("no head"))
        .await
        .expect(201);
    let answer: ApiResponse = ask().await;
    assert_eq!(answer.problem(), "plugin-answer", "{}", answer.text());
    assert_reason_is_logged(&server, &answer, "the head is invalid").await;
    // It costs what a request costs, and is counted.
    server.root.upload("shop", wasm("web")).await.expect(201);
    let asked = json!({"method": "PUT", "path": "/notes/a", "text": "n"});
    let request = server.root.request("POST", PATH).header("kvasm-cost", "?1");
    let request = request.header("content-type", "application/json");
    let answer = kvasm_tests::server::answer(request.body(asked.to_string())).await;
    assert!(answer.expect(200).header("kvasm-cost").contains("runs=1"));
    let note = json!({"method": "GET", "path": "/notes/a"});
    let note = server
        .root
        .json("POST", PATH, note)
        .await
        .expect(200)
        .json();
    assert_eq!(note["text"], "n");
    // The response to HEAD has no body.
    let head = json!({"method": "HEAD", "path": "/notes/a"});
    let head = server.root.json("POST", PATH, head).await.expect(200);
    assert_eq!(
        (&head.json()["status"], &head.json()["text"]),
        (&json!(200), &json!(""))
    );
}

/// What the plugin may do is what the token may, as for a call.
#[tokio::test]
async fn handler_has_the_scopes_of_the_token() {
    let server = Server::start().await;
    let app = server.deployed("shop", wasm("web")).await;
    let other = server.app("other", true).await;
    let write = json!({"method": "PUT", "path": "/notes/a", "text": "n"});
    let reader = server.client(Some(&app), &[Scope::AppRead]).await;
    let answer = reader.json("POST", PATH, write.clone()).await;
    let denied = answer.status == 200 && answer.json()["status"].as_u64() < Some(400);
    assert!(!denied, "{}", answer.text());
    let found = "/v1/apps/shop/kv/entry?collection=notes&key=a";
    server.root.get(found).await.expect(404);
    let scopes = [Scope::AppRead, Scope::ScriptRead, Scope::ScriptWrite];
    let writer = server.client(Some(&app), &scopes).await;
    let made = writer.json("POST", PATH, write.clone()).await.expect(200);
    assert!(
        made.json()["status"].as_u64() < Some(300),
        "{}",
        made.text()
    );
    server.root.get(found).await.expect(200);
    let foreign = server.client(Some(&other), &Scope::ALL).await;
    foreign.json("POST", PATH, write).await.expect(403);
}

/// The route is where the API is, and so not at a public address beside it.
#[tokio::test]
async fn handler_requests_are_only_where_the_api_is() {
    let admin = AdminAddress {
        api: true,
        ..AdminAddress::default()
    };
    let server = Server::admin(admin).await;
    server.deployed("shop", echo("{\"status\":200}")).await;
    let get = json!({"method": "GET", "path": "/x"});
    let answer = server.root.json("POST", PATH, get).await.expect(200);
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    // The pages themselves are not there.
    server.root.get("/a/shop/x").await.expect(404);
}

/// Waits until the server holds nothing of requests, and no call runs or waits.
async fn becomes_idle(server: &Server) {
    let idle = [
        "kvasm_instances 0",
        "kvasm_admission_queue 0",
        "kvasm_http_bytes_in_flight 0",
    ];
    eventually("nothing is left behind", async || {
        let metrics = server.host.metrics().encode();
        idle.iter().all(|gauge| metrics.contains(gauge))
    })
    .await;
}

/// Sends a request whose handler ends only at a limit. Meanwhile a neighbour's is answered.
async fn ends_late_beside_a_neighbour(server: &Server, runs: impl AsyncFnMut() -> bool) {
    server.deployed("neighbour", wasm("web")).await;
    let get = json!({"method": "GET", "path": "/notes/a"});
    let running = {
        let (client, get) = (server.root.clone(), get.clone());
        tokio::spawn(async move { client.json("POST", PATH, get).await })
    };
    eventually("it runs", runs).await;
    let other = "/v1/apps/neighbour/request";
    server.root.json("POST", other, get).await.expect(200);
    let ended = running.await.unwrap();
    ended.expect_problem(504, "plugin-timeout");
    becomes_idle(server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_that_computes_for_ever_ends_at_its_limit() {
    let server = Server::with(|builder| {
        // On a busy machine a second of CPU time takes long.
        builder.limits(Limits {
            wall_time: Duration::from_secs(60),
            ..Limits::default()
        })
    })
    .await;
    let http = manifest(&[r#"{"kind":"http","name":"run"}"#]);
    let endless = module_with("", &http, "(loop $l (br $l)) (i32.const 0)");
    server.deployed("shop", endless).await;
    ends_late_beside_a_neighbour(&server, async || {
        server.host.metrics().encode().contains("kvasm_instances 1")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_that_waits_for_ever_ends_at_its_deadline() {
    let (server, _gate, runs) = gated(Duration::from_secs(3)).await;
    let is_waiting = async || runs.load(Ordering::SeqCst) == 1;
    ends_late_beside_a_neighbour(&server, is_waiting).await;
}

/// Of clients that leave, the one whose handler runs has its effect, and the one that waits has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_leave_nothing_behind() {
    let (server, gate, runs) = gated(Duration::from_secs(600)).await;
    let one = json!({"calls_at_once": 1});
    let limits = "/v1/apps/shop/limits";
    server.root.json("PATCH", limits, one).await.expect(200);
    let ask = || {
        let body = json!({"method": "POST", "path": "/"}).to_string();
        let request = server.root.request("POST", PATH).body(body);
        tokio::spawn(request.header("content-type", "application/json").send())
    };
    let running = ask();
    eventually("one runs", async || runs.load(Ordering::SeqCst) == 1).await;
    let queued = ask();
    eventually("one waits", async || {
        let metrics = server.host.metrics().encode();
        metrics.contains("kvasm_admission_queue 1")
    })
    .await;
    for client in [running, queued] {
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
    }
    eventually("none waits", async || {
        let metrics = server.host.metrics().encode();
        metrics.contains("kvasm_admission_queue 0")
    })
    .await;
    gate.add_permits(1);
    becomes_idle(&server).await;
    // The slot is free again.
    gate.add_permits(1);
    let next = ask().await.unwrap().unwrap();
    assert_eq!(next.status(), 200);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    let sum = server.root.get("/v1/apps/shop/kv/entry?collection=c&key=n");
    assert_eq!(sum.await.expect(200).text(), "2");
    becomes_idle(&server).await;
}
