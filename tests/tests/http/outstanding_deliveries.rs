//! Outstanding deliveries: paging and discarding. No dispatcher runs here.

use crate::triggers::put;
use kvasm::model::Scope;
use kvasm_tests::server::Server;
use serde_json::{Value, json};

const DELIVERIES: &str = "/v1/apps/shop/deliveries";

/// A server with the app `shop`, two triggers on `orders`, and this many orders.
async fn shop(orders: usize) -> Server {
    let server = Server::start().await;
    server.app("shop", false).await;
    for name in ["index", "mail"] {
        put(&server, name, json!({ "collection": "orders" }))
            .await
            .expect(200);
    }
    for n in 0..orders {
        let path = format!("/v1/apps/shop/kv/entry?collection=orders&key={n}");
        server.root.json("PUT", &path, json!(n)).await.expect(200);
    }
    server
}

async fn page(server: &Server, query: &str) -> Value {
    let path = format!("{DELIVERIES}{query}");
    server.root.get(&path).await.expect(200).json()
}

async fn discard(server: &Server, request: Value) -> u64 {
    let path = format!("{DELIVERIES}/discard");
    let done = server.root.json("POST", &path, request).await.expect(200);
    done.json()["deliveries"].as_u64().unwrap()
}

#[tokio::test]
async fn outstanding_deliveries_are_paginated() {
    let server = shop(60).await;
    let (mut found, mut query) = (Vec::new(), String::new());
    let mut sizes = Vec::new();
    for _ in 0..10 {
        let page = page(&server, &query).await;
        let rows = page["deliveries"].as_array().unwrap();
        sizes.push(rows.len());
        let id = |row: &Value| format!("{} {}", row["trigger"], row["event"]["id"]);
        found.extend(rows.iter().map(id));
        assert_eq!(page["more"], !page["next"].is_null());
        match page["next"].as_str() {
            Some(next) => query = format!("?after={next}"),
            None => break,
        }
    }
    assert_eq!(sizes, [100, 20]);
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 120);
    let bad = server
        .root
        .get(&format!("{DELIVERIES}?after=nowhere"))
        .await;
    bad.expect_problem(400, "invalid-argument");
}

#[tokio::test]
async fn selected_deliveries_are_discarded() {
    let server = shop(4).await;
    let all = page(&server, "?trigger=index").await;
    let event = all["deliveries"][0]["event"]["id"].as_str().unwrap();
    let of_event = json!({ "events": [event], "dry_run": true });
    assert_eq!(discard(&server, of_event).await, 2);
    let one = json!({ "events": [event], "trigger": "index" });
    assert_eq!(discard(&server, one.clone()).await, 1);
    assert_eq!(discard(&server, one).await, 0);
    assert_eq!(discard(&server, json!({ "from": 1, "until": 2 })).await, 0);
    assert_eq!(
        discard(&server, json!({ "trigger": "mail", "limit": 3 })).await,
        3
    );
    assert_eq!(discard(&server, json!({ "all": true })).await, 4);
    let left = page(&server, "").await;
    assert_eq!(left["deliveries"], json!([]));
    let path = format!("{DELIVERIES}/discard");
    for bad in [
        json!({}),
        json!({ "events": [] }),
        json!({ "events": ["x"] }),
        json!({ "all": true, "trigger": "index" }),
        json!({ "from": 2, "until": 1 }),
        json!({ "all": true, "limit": 1001 }),
    ] {
        let refused = server.root.json("POST", &path, bad).await;
        refused.expect_problem(400, "invalid-argument");
    }
    let reader = server.client(None, &[Scope::ScriptRead]).await;
    let refused = reader.json("POST", &path, json!({ "all": true })).await;
    refused.expect_problem(403, "forbidden");
    let audit = server
        .root
        .get("/v1/apps/shop/audit")
        .await
        .expect(200)
        .json();
    let rows = audit["audit"].as_array().unwrap().iter();
    let discards = rows.filter(|row| row["action"] == "delivery.discard");
    // A discard without a match and a dry run add no audit row.
    assert_eq!(discards.count(), 3);
}
