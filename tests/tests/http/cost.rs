//! The headers with the cost of a call.

use kvasm::model::Scope;
use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::server::{ApiClient, ApiResponse, Server, answer};
use std::collections::BTreeMap;

const CALL: &str = "/v1/apps/shop/call/run";
const HANDLER: &str = "/a/shop/";
/// Writes two entries and reads three.
const WORK: &str = "
    (drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
        (i32.const 3) (i32.const 3) (i32.const 0) (i32.const 0)))
    (drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 1)
        (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 0)))
    (drop (call $kv_has (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)))
    (drop (call $kv_has (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 1)))
    (drop (call $kv_has (i32.const 0) (i32.const 1) (i32.const 3) (i32.const 1)))";

/// A plugin whose function `run` and whose handler do the work, and end so. The handler's answer
/// has headers like those of the host.
fn worker(end: &str) -> Vec<u8> {
    const HEAD: &str = r#"{"status":200,"headers":[["kvasm-cost","runs=99"],
        ["server-timing","cpu;dur=99"],["x-own","1"]]}"#;
    let len = u32::try_from(HEAD.len()).unwrap();
    let frame = [len.to_le_bytes().as_slice(), HEAD.as_bytes()].concat();
    let text = [b"ckl123", frame.as_slice()].concat();
    let data: String = text.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let names = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"http","name":"handle"}"#,
    ]);
    let handle = format!(
        "(func (export \"handle\") (result i32)
            (drop (call $output_write (i32.const 6) (i32.const {}))) {WORK} {end})",
        frame.len()
    );
    module_with(
        &data,
        &format!("{names} {handle}"),
        &format!("{WORK} {end}"),
    )
}

async fn asked(client: &ApiClient, path: &str) -> ApiResponse {
    answer(client.request("POST", path).header("kvasm-cost", "?1")).await
}

/// The members of `Kvasm-Cost`, and the CPU time in milliseconds.
#[track_caller]
fn cost(answer: &ApiResponse) -> (BTreeMap<String, u64>, f64) {
    let one = |name: &str| {
        let values: Vec<_> = answer.headers.get_all(name).iter().collect();
        assert_eq!(values.len(), 1, "{}: {name}", answer.request);
        values[0].to_str().unwrap()
    };
    let members = one("kvasm-cost").split(", ").map(|member| {
        let (name, value) = member.split_once('=').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    let cpu = one("server-timing").strip_prefix("cpu;dur=").unwrap();
    (members.collect(), cpu.parse().unwrap())
}

#[track_caller]
fn assert_no_cost(answer: &ApiResponse) {
    for name in ["kvasm-cost", "server-timing"] {
        assert_eq!(answer.header(name), "", "{}", answer.request);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_and_problems_have_the_cost_of_the_call() {
    let server = Server::start().await;
    for (app, end) in [("shop", "(i32.const 0)"), ("trap", "unreachable")] {
        server.deployed(app, worker(end)).await;
        let (function, handler) = (format!("/v1/apps/{app}/call/run"), format!("/a/{app}/"));
        for (path, calls) in [(function, 5), (handler, 6)] {
            let answer = asked(&server.root, &path).await;
            assert_eq!(
                answer.status,
                if app == "shop" { 200 } else { 500 },
                "{path}"
            );
            let (members, cpu_ms) = cost(&answer);
            let expected = [
                ("bytes_read", 0),
                ("bytes_written", 4),
                ("entries_read", 3),
                ("entries_written", 2),
                ("fetches", 0),
                ("host_calls", calls),
                ("memory_bytes", 65_536),
                ("runs", 1),
            ];
            let expected = expected.map(|(name, value)| (name.to_owned(), value));
            assert_eq!(members, BTreeMap::from(expected), "{path}");
            assert!(cpu_ms > 0.0 && cpu_ms < 60_000.0, "{path}: {cpu_ms}");
        }
    }
    // Nothing ran.
    assert_no_cost(
        &asked(&server.root, "/v1/apps/shop/call/absent")
            .await
            .expect(404),
    );
}

/// Also if the plugin sets the headers itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cost_is_shown_only_if_asked_for_with_a_token_that_may_read_the_log() {
    let server = Server::start().await;
    let app = server.deployed("shop", worker("(i32.const 0)")).await;
    for path in [CALL, HANDLER] {
        assert_no_cost(&asked(&server.anonymous(), path).await.expect(200));
        assert_no_cost(&server.root.send("POST", path).await.expect(200));
        for scope in Scope::ALL {
            // Without script:read and script:write the host functions fail, and count.
            let answer = asked(&server.client(Some(&app), &[scope]).await, path).await;
            match scope {
                Scope::LogRead => assert_eq!(cost(&answer.expect(200)).0["runs"], 1),
                _ => assert_no_cost(&answer.expect(200)),
            }
        }
    }
    let answer = asked(&server.root, HANDLER).await.expect(200);
    assert_eq!(cost(&answer).0["runs"], 1, "not the plugin's figures");
    assert_eq!(answer.header("x-own"), "1");
    let other = server.app("other", true).await;
    let foreign = asked(&server.client(Some(&other), &[Scope::LogRead]).await, CALL).await;
    assert_no_cost(&foreign.expect(403));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_line_of_a_call_in_the_log_has_its_cost() {
    let server = Server::start().await;
    server.deployed("shop", worker("unreachable")).await;
    asked(&server.anonymous(), CALL).await.expect(500);
    let lines = server
        .root
        .get("/v1/apps/shop/logs")
        .await
        .expect(200)
        .lines();
    assert_eq!(lines.len(), 1);
    let cost = &lines[0]["cost"];
    assert_eq!(
        (&cost["entries_read"], &cost["entries_written"]),
        (&3.into(), &2.into())
    );
    assert!(cost["cpu_us"].as_u64().unwrap() > 0, "{cost}");
}
