//! Grants of an app, and versions of its plugin that need them.

use kvasm::model::{App, Scope};
use kvasm_tests::guests::{manifest, module_with, wasm};
use kvasm_tests::server::{ApiClient, ApiResponse, Server, answer};
use serde_json::{Value, json};

const NEEDS: &str = r#"{"kind":"function","name":"run"}
    {"kind":"http_origin","origin":"https://api.example.com"}
    {"kind":"secret","name":"key","required":true,"description":"of the API"}
    {"kind":"config","name":"mode","type":"string","required":true}
    {"kind":"config","name":"retries","type":"integer","default":3}
    {"kind":"timers"}"#;

fn plugin(lines: &str) -> Vec<u8> {
    module_with("ok", &manifest(&[lines]), "(i32.const 0)")
}

async fn shop() -> (Server, App) {
    let server = Server::start().await;
    let app = server.app("shop", false).await;
    (server, app)
}

async fn upload(api: &ApiClient, wasm: Vec<u8>, activate: bool) -> ApiResponse {
    let path = format!("/v1/apps/shop/plugins?activate={activate}");
    api.bytes("POST", &path, "application/wasm", wasm).await
}

async fn grant(api: &ApiClient, grants: Value) -> ApiResponse {
    let body = json!({ "grants": grants });
    api.json("POST", "/v1/apps/shop/grants", body).await
}

async fn revoke(api: &ApiClient, grants: Value) -> ApiResponse {
    let body = json!({ "grants": grants });
    api.json("POST", "/v1/apps/shop/grants/revoke", body).await
}

async fn try_put(api: &ApiClient, path: &str, text: &str) -> ApiResponse {
    let request = api.request("PUT", &format!("/v1/apps/shop/{path}"));
    let request = request.header("content-type", "text/plain");
    answer(request.body(text.to_owned())).await
}

async fn put(api: &ApiClient, path: &str, text: &str) {
    try_put(api, path, text).await.expect(204);
}

fn all() -> Value {
    json!([
        { "kind": "http_origin", "origin": "https://api.example.com" },
        { "kind": "secret", "name": "key" },
        { "kind": "timers" },
    ])
}

#[tokio::test]
async fn version_is_refused_with_what_it_lacks_until_it_has_that() {
    let (server, _) = shop().await;
    let api = &server.root;
    let refused = upload(api, plugin(NEEDS), true).await;
    refused.expect_problem(409, "needs-unmet");
    let grants = all();
    let grants = grants.as_array().unwrap().iter();
    let mut expected: Vec<_> = grants
        .map(|grant| json!({ "missing": "grant", "grant": grant }))
        .collect();
    expected.push(json!({ "missing": "config", "name": "mode", "type": "string" }));
    expected.push(json!({ "missing": "secret", "name": "key" }));
    assert_eq!(refused.json()["unmet"], json!(expected));
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("the grant http https://api.example.com"),
        "{detail}"
    );
    // Nothing was stored.
    let page = api.get("/v1/apps/shop/plugins").await.expect(200).json();
    assert_eq!(page["plugins"], json!([]));

    let uploaded = upload(api, plugin(NEEDS), false).await.expect(201).json();
    assert_eq!(
        uploaded["changes"],
        json!({ "added": all(), "removed": [] })
    );
    assert_eq!(uploaded["needs"]["secrets"][0]["description"], "of the API");
    assert_eq!(uploaded["needs"]["config"][1]["default"], "3");
    let activate = async || api.send("POST", "/v1/apps/shop/plugins/1/activate").await;
    activate().await.expect_problem(409, "needs-unmet");
    assert_eq!(
        grant(api, all()).await.expect(200).json(),
        json!({ "changed": 3 })
    );
    put(api, "config/mode", "x").await;
    let lacks = activate().await;
    lacks.expect_problem(409, "needs-unmet");
    assert_eq!(
        lacks.json()["unmet"],
        json!([{ "missing": "secret", "name": "key" }])
    );
    put(api, "secrets/key", "s").await;
    put(api, "config/retries", "often").await;
    let lacks = activate().await;
    let wrong = json!([{ "missing": "config_type", "name": "retries", "type": "integer" }]);
    assert_eq!(lacks.json()["unmet"], wrong);
    put(api, "config/retries", "5").await;
    activate().await.expect(200);

    // The next version needs less; a rollback to this one needs all of it again.
    let less = upload(api, plugin(r#"{"kind":"function","name":"run"}"#), true).await;
    let changes = json!({ "added": [], "removed": all() });
    assert_eq!(less.expect(201).json()["changes"], changes);
    revoke(api, json!([{ "kind": "timers" }])).await.expect(200);
    let rollback = api.send("POST", "/v1/apps/shop/rollback").await;
    rollback.expect_problem(409, "needs-unmet");
    let unmet = json!([{ "missing": "grant", "grant": { "kind": "timers" } }]);
    assert_eq!(rollback.json()["unmet"], unmet);
    api.call("shop", "run", "").await.expect(200);
}

#[tokio::test]
async fn config_value_is_of_the_type_that_the_active_version_declares() {
    let (server, _) = shop().await;
    let api = &server.root;
    let run = r#"{"kind":"function","name":"run"}"#;
    let typed = |kind: &str| {
        let need = format!(r#"{{"kind":"config","name":"retries","type":"{kind}"}}"#);
        plugin(&format!("{run} {need}"))
    };
    // Nothing is active yet, and a version that is not active does not count.
    put(api, "config/retries", "often").await;
    upload(api, typed("integer"), false).await.expect(201);
    put(api, "config/retries", "true").await;
    for (kind, good, bad) in [
        ("boolean", "true", "yes"),
        ("json", "[3]", "{"),
        ("string", "often", ""),
    ] {
        upload(api, typed(kind), true).await.expect(201);
        put(api, "config/retries", good).await;
        put(api, "config/undeclared", "often").await;
        if bad.is_empty() {
            continue;
        }
        let refused = try_put(api, "config/retries", bad).await;
        refused.expect_problem(400, "invalid-argument");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        let declared = format!("value retries with the type {kind}; set ");
        assert!(detail.contains(&declared), "{detail}");
    }
    // The version stays one that can be activated.
    put(api, "config/retries", "5").await;
    upload(api, typed("integer"), true).await.expect(201);
    let refused = try_put(api, "config/retries", "abc").await;
    refused.expect_problem(400, "invalid-argument");
    let again = "/v1/apps/shop/plugins/5/activate";
    api.send("POST", again).await.expect(200);
}

#[tokio::test]
async fn token_that_only_deploys_cannot_widen_grants() {
    let (server, app) = shop().await;
    let deployer = server.client(Some(&app), &[Scope::PluginDeploy]).await;
    upload(&deployer, plugin(NEEDS), true)
        .await
        .expect_problem(409, "needs-unmet");
    // It sees what changes.
    let uploaded = upload(&deployer, plugin(NEEDS), false).await.expect(201);
    assert_eq!(uploaded.json()["changes"]["added"], all());
    grant(&deployer, all())
        .await
        .expect_problem(403, "forbidden");
    revoke(&deployer, all())
        .await
        .expect_problem(403, "forbidden");
    let activate = "/v1/apps/shop/plugins/1/activate";
    deployer
        .send("POST", activate)
        .await
        .expect_problem(409, "needs-unmet");
    // An administrator of another app cannot either.
    let other = server.app("other", false).await;
    let admin = server.client(Some(&other), &Scope::ALL).await;
    assert_eq!(grant(&admin, all()).await.status, 403);
    let admin = server.client(Some(&app), &[Scope::AppAdmin]).await;
    grant(&admin, all()).await.expect(200);
    put(&admin, "config/mode", "x").await;
    put(&admin, "secrets/key", "s").await;
    deployer.send("POST", activate).await.expect(200);
}

#[tokio::test]
async fn grants_are_listed_revoked_and_audited() {
    let (server, app) = shop().await;
    let api = &server.root;
    grant(api, all()).await.expect(200);
    let again = grant(api, json!([{ "kind": "timers" }])).await;
    assert_eq!(again.expect(200).json(), json!({ "changed": 0 }));
    let reader = server.client(Some(&app), &[Scope::AppRead]).await;
    let list = async || {
        let page = reader.get("/v1/apps/shop/grants").await.expect(200).json();
        let rows = page["grants"].as_array().unwrap().clone();
        assert!(rows.iter().all(|row| row["granted_at"].as_i64() > Some(0)));
        rows.iter()
            .map(|row| row["grant"].clone())
            .collect::<Value>()
    };
    assert_eq!(list().await, all());
    let two = json!([{ "kind": "timers" }, { "kind": "secret", "name": "key" }]);
    let revoked = revoke(api, two.clone()).await.expect(200);
    assert_eq!(revoked.json(), json!({ "changed": 2 }));
    assert_eq!(list().await, json!([all()[0]]));
    revoke(api, two)
        .await
        .expect_problem(404, "grant-not-found");
    let audit = api.get("/v1/apps/shop/audit").await.expect(200).json();
    let rows: Vec<_> = audit["audit"]
        .as_array()
        .unwrap_or_else(|| panic!("{audit}"))
        .iter()
        .filter(|row| row["action"].as_str().unwrap().starts_with("grant."))
        .map(|row| (row["action"].clone(), row["detail"].clone()))
        .collect();
    let granted = ["http https://api.example.com", "secret key", "timers"];
    assert_eq!(
        rows,
        [
            (
                json!("grant.revoke"),
                json!({ "grants": ["timers", "secret key"] })
            ),
            (json!("grant.add"), json!({ "grants": granted })),
        ]
    );
}

#[tokio::test]
async fn malformed_grants_are_rejected() {
    let (server, _) = shop().await;
    let api = &server.root;
    for (bad, kind) in [
        (json!([]), "invalid-argument"),
        (
            json!([{ "kind": "http_origin", "origin": "https://*" }]),
            "invalid-argument",
        ),
        (
            json!([{ "kind": "http_origin", "origin": "https://a.example.com/" }]),
            "invalid-argument",
        ),
        (
            json!([{ "kind": "secret", "name": "a b" }]),
            "invalid-argument",
        ),
        (json!([{ "kind": "timers", "most": 3 }]), "malformed-json"),
        (json!([{ "kind": "secret" }]), "malformed-json"),
        (json!([{ "kind": "config", "name": "a" }]), "malformed-json"),
        (json!({}), "malformed-json"),
    ] {
        grant(api, bad.clone()).await.expect_problem(400, kind);
        revoke(api, bad).await.expect_problem(400, kind);
    }
    let many = |count: usize| {
        let names = (0..count).map(|n| json!({ "kind": "secret", "name": format!("n{n}") }));
        names.collect::<Value>()
    };
    grant(api, many(257))
        .await
        .expect_problem(400, "invalid-argument");
    grant(api, many(256)).await.expect(200);
    let more = json!([{ "kind": "timers" }]);
    grant(api, more).await.expect_problem(507, "quota-exceeded");
}

#[tokio::test]
async fn module_with_invalid_needs_is_refused_with_the_reason() {
    let (server, _) = shop().await;
    let run = r#"{"kind":"function","name":"run"}"#;
    let secrets = |count: usize| {
        let lines = (0..count).map(|n| format!(r#"{{"kind":"secret","name":"n{n}"}}"#));
        format!("{run} {}", lines.collect::<String>())
    };
    for (lines, why) in [
        (
            format!(r#"{run} {{"kind":"http_origin","origin":"https://*.com"}}"#),
            "two labels",
        ),
        (
            format!(
                r#"{run} {{"kind":"secret","name":"a"}} {{"kind":"secret","name":"a","required":true}}"#
            ),
            "twice, differently",
        ),
        (
            format!(r#"{run} {{"kind":"config","name":"a","type":"integer","default":"x"}}"#),
            "not of type integer",
        ),
        (secrets(129), "129 needs; the limit is 128"),
        (secrets(10_000), "the limit is 262144"),
        (r#"{"kind":"timers"}"#.repeat(20_000), "the limit is 262144"),
    ] {
        let refused = upload(&server.root, plugin(&lines), false).await;
        refused.expect_problem(422, "module-refused");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(why), "{detail}");
    }
    let same = format!("{run} {}", r#"{"kind":"timers"}"#.repeat(10_000));
    upload(&server.root, plugin(&same), false).await.expect(201);
}

#[tokio::test]
async fn plugin_of_the_sdk_declares_and_reads_what_it_needs() {
    let (server, _) = shop().await;
    let api = &server.root;
    let uploaded = upload(api, wasm("needs"), false).await.expect(201).json();
    assert_eq!(
        uploaded["needs"],
        json!({
            "http": ["https://*.example.org:8443", "https://api.example.com"],
            "config": [
                { "name": "currency", "type": "string", "required": true, "default": null,
                  "description": "Currency of new orders" },
                { "name": "retries", "type": "integer", "required": false, "default": "3",
                  "description": "How often to try" },
            ],
            "secrets": [
                { "name": "signing_key", "required": false, "description": null },
                { "name": "stripe-key", "required": true,
                  "description": "Key of the payment API" },
            ],
            "timers": true,
        })
    );
    let added = uploaded["changes"]["added"].clone();
    grant(api, added).await.expect(200);
    put(api, "config/currency", "EUR").await;
    put(api, "secrets/stripe-key", "hunter2").await;
    put(api, "secrets/other", "hunter3").await;
    grant(api, json!([{ "kind": "secret", "name": "other" }]))
        .await
        .expect(200);
    let activate = "/v1/apps/shop/plugins/1/activate";
    api.send("POST", activate).await.expect(200);
    let read = async || api.call("shop", "read", "").await;
    assert_eq!(read().await.expect(200).text(), r#"Some(3) Some("EUR") 7"#);
    put(api, "config/retries", "5").await;
    assert_eq!(read().await.expect(200).text(), r#"Some(5) Some("EUR") 7"#);
    let undeclared = api.call("shop", "undeclared", "").await;
    undeclared.expect_problem(500, "plugin-failed");
    let detail = undeclared.json()["detail"].as_str().unwrap().to_owned();
    let why = "the plugin does not declare that it needs the secret \"other\"";
    assert!(detail.contains(why), "{detail}");
    let key = json!([{ "kind": "secret", "name": "stripe-key" }]);
    revoke(api, key).await.expect(200);
    let revoked = read().await;
    revoked.expect_problem(500, "plugin-failed");
    let detail = revoked.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("the app does not grant the secret"),
        "{detail}"
    );
}
