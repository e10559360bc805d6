//! Versions: upload, activation and rollback, also during calls.

use kvasm::model::AppName;
use kvasm::service::ServiceError;
use kvasm::{Call, InvokeError};
use kvasm_tests::guests::{module, module_with, wasm};
use kvasm_tests::server::{ApiClient, Server, eventually};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

/// A plugin that computes for a moment and answers with one letter.
fn letter(letter: char) -> Vec<u8> {
    let body = "(local $left i32) (local.set $left (i32.const 200000))
        (loop $again (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (drop (call $output_write (i32.const 0) (i32.const 1))) (i32.const 0)";
    module_with(&letter.to_string(), "", body)
}

async fn versions(api: &ApiClient, app: &str) -> Vec<Value> {
    let page = api.get(&format!("/v1/apps/{app}/plugins")).await;
    let page = page.expect(200).json();
    page["plugins"].as_array().unwrap().clone()
}

#[tokio::test]
async fn versions_can_be_activated_and_rolled_back() {
    let server = Server::start().await;
    let api = &server.root;
    server.app("shop", true).await;
    api.call("shop", "run", "")
        .await
        .expect_problem(404, "no-active-plugin");
    let first = api.upload("shop", letter('1')).await.expect(201).json();
    assert_eq!(
        (&first["version"], &first["active"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(first["functions"], json!(["run"]));
    let path = "/v1/apps/shop/plugins?activate=false";
    let second = api
        .bytes("POST", path, "application/wasm", letter('2'))
        .await;
    assert_eq!(second.expect(201).json()["active"], json!(false));
    assert_eq!(api.call("shop", "run", "").await.expect(200).text(), "1");

    api.send("POST", "/v1/apps/shop/plugins/2/activate")
        .await
        .expect(200);
    assert_eq!(api.call("shop", "run", "").await.expect(200).text(), "2");
    let listed = versions(api, "shop").await;
    assert_eq!(listed[0]["version"], json!(2));
    assert_eq!(listed[0]["replaced"], json!(1));
    api.send("DELETE", "/v1/apps/shop/plugins/2")
        .await
        .expect_problem(409, "plugin-active");

    let back = api
        .send("POST", "/v1/apps/shop/rollback")
        .await
        .expect(200)
        .json();
    assert_eq!(back["version"], json!(1));
    assert_eq!(api.call("shop", "run", "").await.expect(200).text(), "1");
    api.send("POST", "/v1/apps/shop/rollback")
        .await
        .expect_problem(409, "nothing-to-roll-back-to");
    api.send("DELETE", "/v1/apps/shop/plugins/2")
        .await
        .expect(204);
    api.send("DELETE", "/v1/apps/shop/plugins/2")
        .await
        .expect_problem(404, "plugin-not-found");
    let third = api.upload("shop", letter('3')).await.expect(201).json();
    assert_eq!(third["version"], json!(3));
    let functions = api.get("/v1/apps/shop/functions").await.expect(200).json();
    assert_eq!(functions["version"], json!(3));
}

#[tokio::test]
async fn rejected_upload_stores_nothing() {
    let server = Server::start().await;
    let api = &server.root;
    server.app("shop", true).await;
    let unknown =
        wat::parse_str("(module (import \"x\" \"y\" (func)) (memory (export \"memory\") 1))");
    for bad in [b"no wasm".to_vec(), Vec::new(), unknown.unwrap()] {
        api.upload("shop", bad)
            .await
            .expect_problem(422, "module-refused");
    }
    let large = vec![0; 16 * 1024 * 1024 + 1];
    api.upload("shop", large)
        .await
        .expect_problem(413, "body-too-large");
    let wrong = api.bytes("POST", "/v1/apps/shop/plugins", "text/plain", letter('1'));
    wrong.await.expect_problem(415, "unsupported-media-type");
    assert!(versions(api, "shop").await.is_empty());
    let audit = api.get("/v1/apps/shop/audit").await.expect(200).json();
    assert_eq!(audit["audit"].as_array().unwrap().len(), 1, "{audit}");
}

#[tokio::test]
async fn oversized_content_length_is_rejected_before_the_body() {
    let server = Server::start().await;
    server.app("shop", true).await;
    let secret = server.root.secret();
    let head = format!(
        "POST /v1/apps/shop/plugins HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {secret}\r\n\
         Content-Type: application/wasm\r\nContent-Length: 1073741824\r\n\r\n"
    );
    server
        .raw(head.as_bytes())
        .await
        .expect_problem(413, "body-too-large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_uploads_get_distinct_versions() {
    let server = Server::start().await;
    server.app("shop", true).await;
    let mut uploads = JoinSet::new();
    for n in 0..8 {
        let api = server.root.clone();
        // Half of the uploads are the same module.
        let module = letter(if n % 2 == 0 { 'x' } else { (b'0' + n) as char });
        uploads.spawn(async move { api.upload("shop", module).await.expect(201).json() });
    }
    let mut numbers: Vec<_> = uploads
        .join_all()
        .await
        .into_iter()
        .map(|d| d["version"].as_u64())
        .collect();
    numbers.sort();
    assert_eq!(numbers, (1..=8).map(Some).collect::<Vec<_>>());
    assert_eq!(versions(&server.root, "shop").await.len(), 8);
    server.root.call("shop", "run", "").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn activation_is_atomic_for_concurrent_callers() {
    let server = Server::start().await;
    server.deployed("shop", letter('1')).await;
    let activated = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..64 {
        let (api, activated) = (server.anonymous(), Arc::clone(&activated));
        callers.spawn(async move {
            let mut seen = 0;
            loop {
                let is_after = activated.load(Ordering::SeqCst);
                let answer = api.call("shop", "run", "").await.expect(200).text();
                assert!(answer == "2" || (answer == "1" && !is_after), "{answer}");
                seen += 1;
                if is_after && seen > 1 {
                    return;
                }
            }
        });
    }
    server.root.upload("shop", letter('2')).await.expect(201);
    activated.store(true, Ordering::SeqCst);
    callers.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn app_can_be_deleted_during_calls() {
    let server = Server::start().await;
    let get = "(drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)
        (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0))) (i32.const 0)";
    server.deployed("shop", module_with("k", "", get)).await;
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let api = server.anonymous();
        callers.spawn(async move {
            loop {
                let answer = api.call("shop", "run", "").await;
                match answer.status {
                    200 => {}
                    404 => return answer.expect_problem(404, "app-not-found"),
                    // Without a token, a missing app looks like a private one.
                    401 => return answer.expect_problem(401, "token-required"),
                    _ => panic!("{}", answer.text()),
                }
            }
        });
    }
    let called = async || server.host.metrics().encode().contains("outcome=\"ok\"");
    eventually("calls", called).await;
    server
        .root
        .send("DELETE", "/v1/apps/shop")
        .await
        .expect(204);
    callers.join_all().await;
    server
        .root
        .get("/v1/apps/shop")
        .await
        .expect_problem(404, "app-not-found");
}

/// The deletion happens between admission and execution, as on a busy machine.
#[tokio::test]
async fn deletion_after_admission_is_not_a_host_error() {
    let server = Server::start().await;
    let (host, actor) = (&server.host, server.host.operator("test"));
    let answers = |text: &str| {
        let body = format!(
            "(call $output_write (i32.const 0) (i32.const {}))",
            text.len()
        );
        module(text, &format!("(drop {body}) (i32.const 0)"))
    };
    server.deployed("shop", answers("one")).await;
    let name = AppName::parse("shop").unwrap();
    let app = async || host.app(&name).await.unwrap().unwrap();
    let enter = async || {
        host.admit(app().await, Call::function("run"))
            .await
            .unwrap()
    };

    let entered = enter().await;
    let first = app().await.active.unwrap().version;
    host.deploy(&actor, &app().await, answers("another"), true)
        .await
        .unwrap();
    host.delete_plugin(&actor, &app().await, first)
        .await
        .unwrap();
    assert_eq!(
        entered.call(Vec::new()).await.unwrap().output[..],
        *b"another"
    );

    let entered = enter().await;
    host.delete_app(&actor, &app().await).await.unwrap();
    let failure = entered.call(Vec::new()).await.err().unwrap();
    assert!(
        matches!(failure, InvokeError::Service(ServiceError::AppNotFound)),
        "{failure:?}"
    );
}

#[tokio::test]
async fn new_host_runs_stored_plugins_with_any_cache() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kvasm.db");
    let cache = |name: &str| folder.path().join(name);
    let first = Server::sqlite(&file, None, |b| b.cache_dir(cache("a"))).await;
    let secret = first.root.secret().to_owned();
    first.deployed("shop", wasm("shortener")).await;
    assert!(first.stop().await);
    // Truncated or modified compiled files are not trusted.
    let compiled: Vec<_> = std::fs::read_dir(cache("a"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    let compiled = compiled
        .iter()
        .find(|path| path.file_name().unwrap().len() > 20)
        .unwrap();
    let mut bytes = std::fs::read(compiled).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    for (cache_name, damage) in [
        ("a", None),
        ("b", None),
        ("a", Some(bytes.clone())),
        ("a", Some(bytes[..9].to_vec())),
    ] {
        if let Some(damage) = damage {
            std::fs::write(compiled, damage).unwrap();
        }
        let server = Server::sqlite(&file, Some(secret.clone()), |b| {
            b.cache_dir(cache(cache_name))
        })
        .await;
        server.anonymous().get("/a/shop/").await.expect(200);
        assert!(server.stop().await);
    }
}
