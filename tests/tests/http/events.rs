//! Deliveries and dead letters. No dispatcher runs here: the tests claim deliveries and fail
//! them themselves.

use crate::triggers::put;
use kvasm::model::{App, DeadReason, Op, Scope, Timestamp, Verdict};
use kvasm_store_testing::conformance::kit::Tenant;
use kvasm_tests::server::Server;

use serde_json::{Value, json};
use std::sync::Arc;

const LETTERS: &str = "/v1/apps/shop/dead-letters";

/// Direct access to the app's store, bypassing the server.
pub fn tenant(server: &Server, app: &App) -> Tenant {
    Tenant {
        store: Arc::clone(server.host.store()),
        id: app.id,
        name: app.name.clone(),
        now: Timestamp::now(),
    }
}

/// A server with the app `shop`, whose trigger `index` watches `orders`.
async fn shop() -> (Server, App) {
    let server = Server::start().await;
    let app = server.app("shop", false).await;
    put(&server, "index", json!({ "collection": "orders" }))
        .await
        .expect(200);
    (server, app)
}

async fn order(server: &Server, key: &str) {
    let path = format!("/v1/apps/shop/kv/entry?collection=orders&key={key}");
    let written = server.root.json("PUT", &path, json!({ "key": key })).await;
    written.expect(200);
}

/// Moves these orders to the dead letters. Returns their ids, newest first.
async fn dead(server: &Server, app: &App, keys: &[&str], reason: DeadReason) -> Vec<String> {
    for key in keys {
        order(server, key).await;
        let tenant = tenant(server, app);
        let claimed = tenant.claim("index", 10).await;
        assert_eq!(claimed.len(), 1);
        for (_, receipt) in &claimed {
            assert!(
                tenant
                    .fail(receipt, Verdict::DeadLetter(reason), false)
                    .await
            );
        }
    }
    let page = server.root.get(LETTERS).await.expect(200).json();
    ids(&page)
}

fn ids(page: &Value) -> Vec<String> {
    let letters = page["dead_letters"].as_array().unwrap().iter();
    letters
        .map(|letter| letter["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn outstanding_deliveries_are_listed_with_values() {
    let (server, app) = shop().await;
    let api = &server.root;
    put(
        &server,
        "second",
        json!({ "collection": "orders", "on": ["delete"] }),
    )
    .await
    .expect(200);
    order(&server, "1").await;
    order(&server, "1").await;
    let entry = "/v1/apps/shop/kv/entry?collection=orders&key=1";
    api.send("DELETE", entry).await.expect(204);
    let list = async |rest: &str| {
        let path = format!("/v1/apps/shop/deliveries{rest}");
        api.get(&path).await
    };
    let page = list("").await.expect(200).json();
    let deliveries = page["deliveries"].as_array().unwrap();
    assert_eq!((deliveries.len(), &page["more"]), (4, &json!(false)));
    let states: Vec<_> = deliveries
        .iter()
        .map(|d| d["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["pending", "waiting", "waiting", "pending"]);
    let first = &deliveries[0];
    assert_eq!(
        (&first["trigger"], &first["attempts"]),
        (&json!("index"), &json!(0))
    );
    let event = &first["event"];
    assert_eq!(
        (&event["kind"], &event["json"]),
        (&json!("set"), &json!({ "key": "1" }))
    );
    assert_eq!(
        (&event["collection"], &event["key"]),
        (&json!("orders"), &json!("1"))
    );
    assert_eq!(deliveries[2]["event"]["kind"], "delete");
    assert!(deliveries[2]["event"].get("json").is_none());
    // One event, delivered to each of its triggers.
    assert_eq!(deliveries[2]["event"]["id"], deliveries[3]["event"]["id"]);

    let tenant = tenant(&server, &app);
    let claimed = tenant.claim("index", 1).await;
    let one = list("?trigger=index&limit=1").await.expect(200).json();
    assert_eq!(
        (&one["deliveries"][0]["state"], &one["more"]),
        (&json!("leased"), &json!(true))
    );
    let later = Timestamp::now().plus_ms(60_000);
    tenant
        .fail(&claimed[0].1, Verdict::RetryAt(later), false)
        .await;
    let retried = list("?trigger=index&limit=1").await.expect(200).json();
    let retried = &retried["deliveries"][0];
    assert_eq!(
        (
            &retried["state"],
            &retried["attempts"],
            &retried["due_at"],
            &retried["error"]
        ),
        (
            &json!("pending"),
            &json!(1),
            &json!(later.0),
            &json!("it failed")
        )
    );
    for bad in ["?limit=0", "?limit=101", "?trigger=a%20b", "?state=dead"] {
        list(bad).await.expect_problem(400, "invalid-argument");
    }
    let other = server.app("other", false).await;
    let others = api
        .get("/v1/apps/other/deliveries")
        .await
        .expect(200)
        .json();
    assert_eq!(others["deliveries"], json!([]));
    let foreign = server.client(Some(&other), &Scope::ALL).await;
    let foreign = foreign.get("/v1/apps/shop/deliveries").await;
    foreign.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn dead_letters_are_filtered_and_shown() {
    let (server, app) = shop().await;
    let api = &server.root;
    let before = Timestamp::now().0;
    dead(&server, &app, &["1", "2"], DeadReason::Attempts).await;
    let all = dead(&server, &app, &["3"], DeadReason::Depth).await;
    assert_eq!(all.len(), 3);
    let list = async |rest: &str| api.get(&format!("{LETTERS}{rest}")).await;
    let found = async |rest: &str| list(rest).await.expect(200).json();
    let first = found("?limit=2").await;
    assert_eq!(
        (ids(&first), &first["next"]),
        (all[..2].to_vec(), &json!(all[1]))
    );
    let rest = found(&format!("?limit=2&before={}", all[1])).await;
    assert_eq!(
        (ids(&rest), &rest["next"]),
        (all[2..].to_vec(), &Value::Null)
    );
    // A full last page has no next page.
    assert_eq!(found("?limit=3").await["next"], Value::Null);
    assert_eq!(ids(&found("?reason=depth&trigger=index").await), all[..1]);
    assert!(ids(&found("?trigger=other").await).is_empty());
    assert!(ids(&found(&format!("?until={before}")).await).is_empty());
    assert_eq!(ids(&found(&format!("?from={before}")).await), all);

    let letter = found(&format!("/{}", all[0])).await;
    assert_eq!(letter, found("?limit=1").await["dead_letters"][0]);
    assert_eq!(letter["reason"], "depth");
    assert_eq!(
        (&letter["error"], &letter["trace"]),
        (&json!("it failed"), &json!("at here"))
    );
    assert_eq!(
        (&letter["attempts"], &letter["plugin_version"]),
        (&json!(1), &json!(7))
    );
    assert_eq!(letter["event"]["json"], json!({ "key": "3" }));

    let unknown = list("/00000000-0000-0000-0000-000000000099").await;
    unknown.expect_problem(404, "dead-letter-not-found");
    for bad in [
        "/x",
        "?before=x",
        "?reason=boredom",
        "?limit=1001",
        "?from=2&until=2",
        "?id=1",
    ] {
        list(bad).await.expect_problem(400, "invalid-argument");
    }
    // A dead letter of one app is not visible to another.
    server.app("other", false).await;
    let foreign = format!("/v1/apps/other/dead-letters/{}", all[0]);
    api.get(&foreign)
        .await
        .expect_problem(404, "dead-letter-not-found");
}

#[tokio::test]
async fn selected_dead_letters_are_replayed_and_discarded() {
    let (server, app) = shop().await;
    let api = &server.root;
    dead(&server, &app, &["1", "2"], DeadReason::Attempts).await;
    let all = dead(&server, &app, &["3", "4"], DeadReason::Age).await;
    let post = async |verb: &str, body: Value| {
        let path = format!("{LETTERS}/{verb}");
        api.json("POST", &path, body).await
    };
    let left = async || ids(&api.get(LETTERS).await.expect(200).json());
    let dry = post("replay", json!({ "reason": "age", "dry_run": true })).await;
    assert_eq!(
        dry.expect(200).json(),
        json!({ "letters": 2, "dry_run": true })
    );
    assert_eq!(left().await, all);

    let event = api
        .get(&format!("{LETTERS}/{}", all[0]))
        .await
        .expect(200)
        .json();
    let replayed = post("replay", json!({ "ids": [all[0]] })).await;
    assert_eq!(
        replayed.expect(200).json(),
        json!({ "letters": 1, "dry_run": false })
    );
    let deliveries = api.get("/v1/apps/shop/deliveries").await.expect(200).json();
    let again = &deliveries["deliveries"][0];
    assert_eq!(again["event"], event["event"]);
    assert_eq!(
        (&again["replays"], &again["attempts"]),
        (&json!(1), &json!(0))
    );
    // The dead letter is now gone.
    let twice = post("replay", json!({ "ids": [all[0]] })).await;
    assert_eq!(twice.expect(200).json()["letters"], 0);

    // The oldest are replayed first.
    let oldest = post("discard", json!({ "all": true, "limit": 1 })).await;
    assert_eq!(oldest.expect(200).json()["letters"], 1);
    assert_eq!(left().await, all[1..3]);
    let ids = json!({ "ids": [all[1]], "trigger": "other" });
    assert_eq!(post("discard", ids).await.expect(200).json()["letters"], 0);
    post("discard", json!({ "trigger": "index" }))
        .await
        .expect(200);
    assert!(left().await.is_empty());

    let audit = api.get("/v1/apps/shop/audit").await.expect(200).json();
    let rows = audit["audit"].as_array().unwrap().iter();
    let rows = rows.filter(|row| row["action"].as_str().unwrap().starts_with("deadletter."));
    let rows: Vec<_> = rows.map(|row| (&row["action"], &row["detail"])).collect();
    assert_eq!(
        rows,
        [
            (
                &json!("deadletter.discard"),
                &json!({ "trigger": "index", "limit": 1000 })
            ),
            (
                &json!("deadletter.discard"),
                &json!({ "all": true, "limit": 1 })
            ),
            (
                &json!("deadletter.replay"),
                &json!({ "ids": [all[0]], "limit": 1000 })
            ),
        ]
    );
}

#[tokio::test]
async fn malformed_selection_discards_nothing() {
    let (server, app) = shop().await;
    let api = &server.root;
    let all = dead(&server, &app, &["1"], DeadReason::Attempts).await;
    for verb in ["replay", "discard"] {
        let path = format!("{LETTERS}/{verb}");
        for bad in [
            json!({}),
            json!({ "all": false }),
            json!({ "limit": 5 }),
            json!({ "dry_run": true }),
            json!({ "trigger": null }),
            json!({ "ids": [] }),
            json!({ "ids": [], "trigger": "index" }),
            json!({ "ids": [], "all": true }),
            json!({ "all": true, "trigger": "index" }),
            json!({ "ids": ["x"] }),
            json!({ "ids": vec![&all[0]; 1_001] }),
            json!({ "reason": "any" }),
            json!({ "from": 5, "until": 5 }),
            json!({ "all": true, "limit": 0 }),
            json!({ "all": true, "limit": 1001 }),
        ] {
            let answer = api.json("POST", &path, bad).await;
            answer.expect_problem(400, "invalid-argument");
        }
        for bad in [
            json!({ "al": true }),
            json!({ "trigers": "index" }),
            json!({ "all": true, "dry-run": true }),
            json!({ "all": "yes" }),
            // A sequence would set `all` by position.
            json!([true]),
        ] {
            let answer = api.json("POST", &path, bad).await;
            answer.expect_problem(400, "malformed-json");
        }
    }
    assert_eq!(ids(&api.get(LETTERS).await.expect(200).json()), all);
    // A token that can read entries cannot replay dead letters.
    let reader = server.client(Some(&app), &[Scope::ScriptRead]).await;
    let path = format!("{LETTERS}/replay");
    let refused = reader.json("POST", &path, json!({ "all": true })).await;
    refused.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn dead_letter_pages_are_limited_by_size() {
    let (server, app) = shop().await;
    let tenant = tenant(&server, &app);
    let value = vec![b'x'; 1_000_000];
    for n in 0..20 {
        let op = Op::Set {
            collection: kvasm::model::Collection::parse("orders").unwrap(),
            key: kvasm::model::Key::parse(format!("{n:02}")).unwrap(),
            value: kvasm::model::Value::bytes(value.clone(), value.len()).unwrap(),
            expires_at: None,
        };
        let batch = tenant.batch(vec![], vec![op]);
        tenant.store.commit(batch).await.unwrap();
    }
    let deliveries = server.root.get("/v1/apps/shop/deliveries").await;
    let deliveries = deliveries.expect(200).json();
    assert_eq!(deliveries["deliveries"].as_array().unwrap().len(), 5);
    assert_eq!(deliveries["more"], true);
    for (_, receipt) in tenant.claim("index", 20).await {
        let verdict = Verdict::DeadLetter(DeadReason::Attempts);
        assert!(tenant.fail(&receipt, verdict, false).await);
    }
    let mut found = Vec::new();
    let mut path = format!("{LETTERS}?limit=1000");
    loop {
        let page = server.root.get(&path).await.expect(200).json();
        found.extend(ids(&page));
        match page["next"].as_str() {
            Some(next) => path = format!("{LETTERS}?limit=1000&before={next}"),
            None => break,
        }
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 20);
}
