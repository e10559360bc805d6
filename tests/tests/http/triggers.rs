//! Triggers created by operators, and triggers declared by plugins.

use crate::events::tenant;
use kvasm::model::Scope;
use kvasm_tests::server::{ApiResponse, Server};
use serde_json::{Value, json};

const TRIGGERS: &str = "/v1/apps/shop/triggers";

/// Creates a trigger of `shop`.
pub async fn put(server: &Server, name: &str, trigger: Value) -> ApiResponse {
    let path = format!("{TRIGGERS}/{name}");
    server.root.json("PUT", &path, trigger).await
}

/// A server with the app `shop`, whose trigger `index` watches `orders`.
async fn shop() -> Server {
    let server = Server::start().await;
    server.app("shop", false).await;
    let watch = json!({ "collection": "orders" });
    put(&server, "index", watch).await.expect(200);
    server
}

#[tokio::test]
async fn operator_can_create_change_and_delete_triggers() {
    let server = shop().await;
    let api = &server.root;
    let list = async || api.get(TRIGGERS).await.expect(200).json()["triggers"].clone();
    let made = list().await[0].clone();
    let expected = json!({
        "name": "index", "origin": "operator", "function": "index",
        "collection": "orders", "prefix": "", "on": ["set", "delete"], "schedule": null,
        "attempts_max": 12, "age_max_ms": 86_400_000, "paused": null, "failures": 0, "probe_at": null,
        "next_at": null, "created_at": made["created_at"],
    });
    assert_eq!(made, expected);
    let narrow = json!({
        "function": "other", "collection": "orders", "prefix": "eu/", "on": ["delete"],
        "attempts_max": 3, "age_max_ms": 60_000,
    });
    let answer = put(&server, "index", narrow).await.expect(200).json();
    assert_eq!(answer, list().await[0]);
    assert_eq!(
        (&answer["on"], &answer["prefix"]),
        (&json!(["delete"]), &json!("eu/"))
    );
    let nightly = json!({ "schedule": "0 3 * * *" });
    let nightly = put(&server, "nightly", nightly).await.expect(200).json();
    assert_eq!(nightly["schedule"], "0 3 * * *");
    assert_eq!(nightly["collection"], Value::Null);

    let post = async |verb: &str| api.send("POST", &format!("{TRIGGERS}/index/{verb}")).await;
    post("pause").await.expect(204);
    assert_eq!(list().await[0]["paused"], "operator");
    post("resume").await.expect(204);
    assert_eq!(list().await[0]["paused"], Value::Null);
    post("pause").await.expect(204);
    // A PUT replaces the trigger completely.
    put(&server, "index", json!({ "collection": "c" }))
        .await
        .expect(200);
    assert_eq!(list().await[0]["paused"], Value::Null);

    let index = format!("{TRIGGERS}/index");
    api.send("DELETE", &index).await.expect(204);
    api.send("DELETE", &index)
        .await
        .expect_problem(404, "trigger-not-found");
    post("pause").await.expect_problem(404, "trigger-not-found");
    post("resume")
        .await
        .expect_problem(404, "trigger-not-found");
    assert_eq!(list().await.as_array().unwrap().len(), 1);

    let audit = api.get("/v1/apps/shop/audit").await.expect(200).json();
    let rows = audit["audit"].as_array().unwrap().iter();
    let actions: Vec<_> = rows.map(|row| row["action"].as_str().unwrap()).collect();
    let expected = [
        "trigger.delete",
        "trigger.set",
        "trigger.pause",
        "trigger.resume",
        "trigger.pause",
        "trigger.set",
        "trigger.set",
        "trigger.set",
        "app.create",
    ];
    assert_eq!(actions, expected);
    assert_eq!(
        audit["audit"][0]["detail"],
        json!({ "trigger": "index", "deliveries": "refuse" })
    );
}

#[tokio::test]
async fn invalid_trigger_is_rejected() {
    let server = shop().await;
    for (bad, words) in [
        (json!({}), "either `collection`"),
        (
            json!({ "collection": "c", "schedule": "* * * * *" }),
            "either `collection`",
        ),
        (json!({ "schedule": "* * * *" }), "five fields"),
        (
            json!({ "schedule": "* * * * *", "on": ["set"] }),
            "cannot be combined with `schedule`",
        ),
        (
            json!({ "schedule": "* * * * *", "prefix": "x" }),
            "cannot be combined with `schedule`",
        ),
        (json!({ "collection": "" }), "collection is empty"),
        (
            json!({ "collection": "c", "on": [] }),
            "set, delete or both",
        ),
        (
            json!({ "collection": "c", "on": ["read"] }),
            "set, delete or both",
        ),
        (json!({ "collection": "c", "prefix": "a\u{0}" }), "NUL"),
        (
            json!({ "collection": "c", "prefix": "k".repeat(1025) }),
            "1025 bytes",
        ),
        (
            json!({ "collection": "c", "function": "a b" }),
            "function name contains",
        ),
        (
            json!({ "collection": "c", "attempts_max": 0 }),
            "from 1 to 100",
        ),
        (
            json!({ "collection": "c", "age_max_ms": 999 }),
            "from 1000 to 2592000000",
        ),
    ] {
        let answer = put(&server, "bad", bad).await;
        answer.expect_problem(400, "invalid-argument");
        assert!(answer.text().contains(words), "{}", answer.text());
    }
    for bad in [
        json!({ "collection": "c", "paused": true }),
        json!({ "collection": 1 }),
        json!({ "collection": "c", "attempts_max": -1 }),
        json!([]),
    ] {
        put(&server, "bad", bad)
            .await
            .expect_problem(400, "malformed-json");
    }
    let good = json!({ "collection": "c" });
    for name in ["a%20b", "%C3%A9", &"x".repeat(65)] {
        let answer = put(&server, name, good.clone()).await;
        answer.expect_problem(400, "invalid-argument");
    }
    let nowhere = server
        .root
        .json("PUT", "/v1/apps/nope/triggers/t", good)
        .await;
    nowhere.expect_problem(404, "app-not-found");
}

#[tokio::test]
async fn plugin_lists_its_declared_triggers() {
    use kvasm::model::{Changes, Collection, DeclaredTrigger, Digest, Exports, NewPlugin};
    use kvasm::model::{Schedule, TriggerName, Watch};
    let server = Server::start().await;
    let app = server.app("shop", false).await;
    let tenant = tenant(&server, &app);
    let watch = Watch::Changes(Changes {
        collection: Collection::parse("orders").unwrap(),
        prefix: "eu/".to_owned(),
        set: true,
        delete: false,
    });
    let schedule = Watch::Schedule(Schedule::parse("0 3 * * *").unwrap());
    let declared = [("index", watch), ("nightly", schedule)]
        .map(|(name, watch)| DeclaredTrigger::new(TriggerName::parse(name).unwrap(), watch));
    let plugin = NewPlugin {
        app: app.id,
        digest: Digest([1; 32]),
        wasm: b"not looked at".as_slice().into(),
        exports: Exports {
            functions: vec!["run".to_owned()],
            http: None,
            triggers: declared.to_vec(),
            ..Exports::default()
        },
        activate: true,
    };
    let row = tenant.audit_row("test");
    tenant.store.add_plugin(plugin, row).await.unwrap();
    let api = &server.root;
    let expected = json!([
        { "name": "index", "collection": "orders", "prefix": "eu/", "on": ["set"], "schedule": null },
        { "name": "nightly", "collection": null, "prefix": null, "on": null, "schedule": "0 3 * * *" },
    ]);
    let plugins = api.get("/v1/apps/shop/plugins").await.expect(200).json();
    assert_eq!(plugins["plugins"][0]["triggers"], expected);
    let one = api.get("/v1/apps/shop/plugins/1").await.expect(200).json();
    assert_eq!(one["triggers"], expected);
    let functions = api.get("/v1/apps/shop/functions").await.expect(200).json();
    assert_eq!(functions["triggers"], expected);
    let triggers = api.get(TRIGGERS).await.expect(200).json();
    assert_eq!(triggers["triggers"][0]["origin"], "plugin");
    // A trigger that an operator puts in its place belongs to the operator.
    put(&server, "index", json!({ "collection": "other" }))
        .await
        .expect(200);
    let triggers = api.get(TRIGGERS).await.expect(200).json();
    assert_eq!(triggers["triggers"][0]["origin"], "operator");
}

/// Deleting a trigger that has deliveries requires a choice of what becomes of them.
#[tokio::test]
async fn deleting_a_trigger_with_deliveries_requires_a_choice() {
    let server = Server::start().await;
    server.app("shop", false).await;
    let api = &server.root;
    let entry = "/v1/apps/shop/kv/entry?collection=c&key=k";
    let outstanding = async || {
        let page = api.get("/v1/apps/shop/deliveries").await.expect(200).json();
        page["deliveries"].as_array().unwrap().len()
    };
    let path = format!("{TRIGGERS}/index");
    for (fate, left) in [("keep", 1), ("discard", 0)] {
        put(&server, "index", json!({ "collection": "c" }))
            .await
            .expect(200);
        api.json("PUT", entry, json!(1)).await.expect(200);
        let refused = api.send("DELETE", &path).await;
        refused.expect_problem(409, "trigger-has-deliveries");
        let unknown = api.send("DELETE", &format!("{path}?deliveries=drop")).await;
        unknown.expect_problem(400, "invalid-argument");
        api.get(TRIGGERS).await.expect(200);
        let chosen = format!("{path}?deliveries={fate}");
        api.send("DELETE", &chosen).await.expect(204);
        assert_eq!(outstanding().await, left, "{fate}");
        api.send("DELETE", &path)
            .await
            .expect_problem(404, "trigger-not-found");
    }
    // Discarding deliveries requires access to the app's entries.
    let admin = server.client(None, &[Scope::AppAdmin]).await;
    let discard = format!("{path}?deliveries=discard");
    admin
        .send("DELETE", &discard)
        .await
        .expect_problem(403, "forbidden");
}

/// The app's own document shows that deliveries are waiting.
#[tokio::test]
async fn app_lists_its_paused_triggers() {
    let server = Server::start().await;
    server.app("shop", false).await;
    put(&server, "index", json!({ "collection": "c" }))
        .await
        .expect(200);
    let api = &server.root;
    let paused = async || {
        let app = api.get("/v1/apps/shop").await.expect(200).json();
        app["paused_triggers"].clone()
    };
    assert_eq!(paused().await, json!([]));
    let pause = format!("{TRIGGERS}/index/pause");
    api.send("POST", &pause).await.expect(204);
    let by_operator = json!([{ "name": "index", "paused": "operator", "probe_at": null }]);
    assert_eq!(paused().await, by_operator);
}
