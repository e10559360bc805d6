//! Timers: listing, cancelling and running. No dispatcher runs here.

use kvasm::model::Scope;
use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::server::Server;
use serde_json::{Value, json};

const TIMERS: &str = "/v1/apps/shop/timers";

/// A plugin whose function `run` sets a timer in an hour, named and with a payload as the input.
fn plugin() -> Vec<u8> {
    let section = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"on_timer","name":"on_timer"}"#,
    ]);
    let handler = "(func (export \"on_timer\") (result i32) (i32.const 0))";
    let run = "(local $len i32)
        (local.set $len
            (i32.wrap_i64 (call $input_read (i32.const 0) (i32.const 0) (i32.const 300))))
        (drop (call $timer_set (i32.const 0) (local.get $len) (i32.const 1) (i64.const 3600000)
            (i32.const 0) (local.get $len))) (i32.const 0)";
    module_with("", &format!("{section} {handler}"), run)
}

async fn shop(timers: &[&str]) -> Server {
    let server = Server::start().await;
    server.app("shop", true).await;
    let grant = json!({ "grants": [{ "kind": "timers" }] });
    let granted = server
        .root
        .json("POST", "/v1/apps/shop/grants", grant)
        .await;
    granted.expect(200);
    server.root.upload("shop", plugin()).await.expect(201);
    for timer in timers {
        server.root.call("shop", "run", *timer).await.expect(200);
    }
    server
}

async fn page(server: &Server, query: &str) -> Value {
    let path = format!("{TIMERS}{query}");
    server.root.get(&path).await.expect(200).json()
}

async fn change(server: &Server, action: &str, timer: &str) -> bool {
    let path = format!("{TIMERS}/{action}");
    let body = json!({ "timer": timer });
    let done = server.root.json("POST", &path, body).await.expect(200);
    done.json()["done"].as_bool().unwrap()
}

#[tokio::test]
async fn timers_are_listed_by_name_in_pages() {
    let server = shop(&["b/..", "a", "c"]).await;
    let first = page(&server, "?limit=2").await;
    let timer = &first["timers"][0];
    assert_eq!(
        (&timer["timer"], &timer["payload"]),
        (&json!("a"), &json!("YQ=="))
    );
    assert_eq!(
        (&timer["state"], &timer["attempts"]),
        (&json!("pending"), &json!(0))
    );
    assert_eq!(timer["at"], timer["due_at"]);
    assert_eq!(
        (&first["more"], &first["next"]),
        (&json!(true), &json!("b/.."))
    );
    let second = page(&server, "?after=b%2F..").await;
    assert_eq!(
        (&second["timers"][0]["timer"], &second["more"]),
        (&json!("c"), &json!(false))
    );
    assert_eq!(second["timers"].as_array().unwrap().len(), 1);
    for query in ["?limit=0", "?limit=101", "?after=", "?timer=a"] {
        let bad = server.root.get(&format!("{TIMERS}{query}")).await;
        bad.expect_problem(400, "invalid-argument");
    }
    // They are deliveries too.
    let deliveries = server
        .root
        .get("/v1/apps/shop/deliveries?trigger=on_timer")
        .await;
    let deliveries = deliveries.expect(200).json();
    let event = &deliveries["deliveries"][0]["event"];
    assert_eq!(event["kind"], "timer");
    assert!(["a", "b/..", "c"].contains(&event["timer"].as_str().unwrap()));
}

#[tokio::test]
async fn timer_is_cancelled_or_made_due_once_and_audited() {
    let server = shop(&["a", "b/.."]).await;
    assert!(change(&server, "cancel", "b/..").await);
    assert!(!change(&server, "cancel", "b/..").await);
    assert!(change(&server, "run", "a").await);
    assert!(!change(&server, "run", "b/..").await);
    let left = page(&server, "").await;
    let timer = &left["timers"][0];
    assert_eq!(left["timers"].as_array().unwrap().len(), 1);
    assert!(timer["due_at"].as_i64() < timer["at"].as_i64(), "{timer}");
    let audit = server
        .root
        .get("/v1/apps/shop/audit")
        .await
        .expect(200)
        .json();
    let rows = audit["audit"].as_array().unwrap().iter();
    let of_timers = rows.filter(|row| row["action"].as_str().unwrap().starts_with("timer."));
    let of_timers: Vec<_> = of_timers
        .map(|row| (&row["action"], &row["detail"]["timer"]))
        .collect();
    assert_eq!(
        of_timers,
        [
            (&json!("timer.run"), &json!("a")),
            (&json!("timer.cancel"), &json!("b/.."))
        ]
    );
    for body in [
        json!({}),
        json!({ "timer": "" }),
        json!({ "timer": "t".repeat(257) }),
    ] {
        let bad = server
            .root
            .json("POST", &format!("{TIMERS}/run"), body)
            .await;
        assert_eq!(bad.status, 400, "{}", bad.text());
    }
}

#[tokio::test]
async fn timers_require_the_scopes_of_deliveries() {
    let server = shop(&["a"]).await;
    for (method, path, needed) in [
        ("GET", TIMERS.to_owned(), Scope::ScriptRead),
        ("POST", format!("{TIMERS}/cancel"), Scope::ScriptWrite),
        ("POST", format!("{TIMERS}/run"), Scope::ScriptWrite),
    ] {
        for scope in Scope::ALL {
            let client = server.client(None, &[scope]).await;
            let answer = match method {
                "GET" => client.get(&path).await,
                _ => client.json("POST", &path, json!({ "timer": "x" })).await,
            };
            let expected = if scope == needed { 200 } else { 403 };
            assert_eq!(answer.status, expected, "{method} {path} {scope}");
        }
    }
}
