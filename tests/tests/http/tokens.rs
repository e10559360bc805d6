//! Token lifetimes, and tokens that cannot be revoked.

use kvasm::model::{Scope, Timestamp};
use kvasm_tests::server::Server;
use serde_json::{Value, json};

fn soon() -> Timestamp {
    Timestamp::now().plus_ms(3_600_000)
}

/// A token for an app's administrator expires with its creator's token. A later time is
/// rejected unless an operator requests it.
#[tokio::test(flavor = "multi_thread")]
async fn token_does_not_outlive_its_creators_token() {
    let server = Server::start().await;
    let app = server.app("shop", false).await;
    let makers = soon();
    let scopes = [Scope::AppAdmin, Scope::AppRead];
    let secret = server.token(Some(&app), &scopes, Some(makers)).await;
    let admin = server.root.with_token(Some(secret));
    let scopes = [Scope::AppAdmin, Scope::AppRead, Scope::InstanceAdmin];
    let secret = server.token(None, &scopes, Some(makers)).await;
    let operator = server.root.with_token(Some(secret));
    let new = |expires_at: Option<Value>| {
        let mut new = json!({ "name": "ci", "scopes": ["app:read"] });
        if let Some(at) = expires_at {
            new["expires_at"] = at;
        }
        new
    };
    let later = json!(makers.0 + 1);
    let path = "/v1/apps/shop/tokens";
    for api in [&admin, &operator] {
        let made = api.json("POST", path, new(None)).await.expect(201);
        assert_eq!(made.json()["token"]["expires_at"], makers.0);
        let at = new(Some(json!(makers.0 - 1)));
        let made = api.json("POST", path, at).await.expect(201);
        assert_eq!(made.json()["token"]["expires_at"], makers.0 - 1);
    }
    for at in [&later, &Value::Null] {
        let refused = admin.json("POST", path, new(Some(at.clone()))).await;
        refused.expect_problem(403, "lifetime-exceeded");
        assert!(refused.text().contains(&makers.0.to_string()));
        let made = operator.json("POST", path, new(Some(at.clone()))).await;
        assert_eq!(made.expect(201).json()["token"]["expires_at"], *at);
    }
    // A token without an expiry creates tokens without an expiry.
    let made = server.root.json("POST", path, new(None)).await.expect(201);
    assert_eq!(made.json()["token"]["expires_at"], Value::Null);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_expiry_is_limited_to_representable_dates() {
    let server = Server::start().await;
    let end = Timestamp::END.0;
    let make = |at: Value| {
        let new = json!({ "name": "ci", "scopes": ["app:read"], "expires_at": at });
        server.root.json("POST", "/v1/tokens", new)
    };
    for at in [end, i64::MAX] {
        let refused = make(json!(at)).await;
        refused.expect_problem(400, "invalid-argument");
        assert!(refused.text().contains("the year 9999"));
    }
    for at in [0, -1, i64::MIN] {
        let refused = make(json!(at)).await;
        refused.expect_problem(400, "invalid-argument");
        assert!(refused.text().contains("in the past"));
    }
    make(json!(end - 1)).await.expect(201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_operator_token_cannot_be_revoked() {
    let server = Server::start().await;
    let listed = server.root.get("/v1/tokens").await.expect(200).json();
    let first = listed["tokens"][0]["id"].as_str().unwrap().to_owned();
    assert_ne!(first.trim_matches('0'), "", "{first}");
    let revoke = |id: &str| format!("/v1/tokens/{id}");
    let refused = server.root.send("DELETE", &revoke(&first)).await;
    refused.expect_problem(409, "last-admin-token");
    assert!(refused.text().contains("kvasm token create"));
    // The host's operator cannot revoke it, either.
    let actor = server.host.operator("test");
    let id = kvasm::model::TokenId::BOOTSTRAP;
    assert_eq!(id.to_string(), first);
    assert!(
        server
            .host
            .admin()
            .revoke_token(&actor, None, id)
            .await
            .is_err()
    );

    let second = server.client(None, &[Scope::InstanceAdmin]).await;
    second.send("DELETE", &revoke(&first)).await.expect(204);
    server
        .root
        .get("/v1/tokens")
        .await
        .expect_problem(401, "token-invalid");
    // A store that has lost its first token does not create it again.
    assert!(server.host.admin().bootstrap().await.unwrap().is_none());
    server.stop().await;
}

/// Every valid token may ask what it is, and learns nothing else.
#[tokio::test]
async fn token_describes_itself() {
    let server = Server::start().await;
    let app = server.app("shop", true).await;
    let scopes = [Scope::AppRead, Scope::LogRead];
    let client = server.client(Some(&app), &scopes).await;
    let own = client.get("/v1/token").await.expect(200).json();
    assert_eq!(own["scopes"], json!(["app:read", "log:read"]));
    assert_eq!(own["app"], json!(app.id.to_string()));
    let id = client.secret().split('_').nth(1).unwrap();
    assert_eq!(own["id"], json!(id));
    assert!(!own.to_string().contains(client.secret()), "{own}");
    let root = server.root.get("/v1/token").await.expect(200).json();
    assert_eq!(root["app"], Value::Null);
}
