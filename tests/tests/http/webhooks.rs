//! Triggers that send events to a URL, as operators see them.

use crate::triggers::put;
use kvasm_tests::server::{ApiResponse, Server};
use serde_json::{Value, json};

const KEY: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const URL: &str = "https://example.com/hook?from=kvasm";

async fn set_secret(server: &Server, value: &'static str) {
    let path = "/v1/apps/shop/secrets/key";
    let set = server.root.bytes("PUT", path, "text/plain", value).await;
    set.expect(204);
}

/// A server with the app `shop` and its secret `key`.
async fn shop() -> Server {
    let server = Server::start().await;
    server.app("shop", false).await;
    set_secret(&server, KEY).await;
    server
}

async fn hook(server: &Server) -> ApiResponse {
    let hook = json!({ "collection": "orders", "url": URL, "secret": "key" });
    put(server, "hook", hook).await
}

#[tokio::test]
async fn webhook_is_shown_with_its_url_and_the_name_of_its_secret() {
    let server = shop().await;
    let made = hook(&server).await.expect(200).json();
    let shown = |name: &str| made[name].clone();
    assert_eq!(
        [shown("function"), shown("url"), shown("secret")],
        [Value::Null, json!(URL), json!("key")]
    );
    let list = server.root.get("/v1/apps/shop/triggers").await.expect(200);
    assert_eq!(list.json()["triggers"], json!([made]));
    let audit = server.root.get("/v1/apps/shop/audit").await.expect(200);
    assert_eq!(
        audit.json()["audit"][0]["detail"]["target"],
        json!({ "webhook": { "url": URL, "secret": "key" } })
    );
    // What it sends has no function either.
    let entry = "/v1/apps/shop/kv/entry?collection=orders&key=k";
    server.root.json("PUT", entry, json!(1)).await.expect(200);
    let deliveries = server.root.get("/v1/apps/shop/deliveries").await;
    let deliveries = deliveries.expect(200).json();
    assert_eq!(deliveries["deliveries"][0]["function"], Value::Null);
    assert_eq!(deliveries["deliveries"][0]["trigger"], "hook");
    // A PUT replaces it completely.
    let plain = put(&server, "hook", json!({ "collection": "orders" })).await;
    let plain = plain.expect(200).json();
    assert_eq!(plain["function"], "hook");
    assert!(plain.get("url").is_none(), "{plain}");
}

#[tokio::test]
async fn invalid_webhook_is_rejected() {
    let server = shop().await;
    let with = |url: &str, rest: Value| {
        let mut hook = json!({ "collection": "orders", "url": url });
        hook.as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        hook
    };
    let key = json!({ "secret": "key" });
    for (bad, words) in [
        (with(URL, json!({})), "both `url` and `secret`"),
        (
            json!({ "collection": "c", "secret": "key" }),
            "both `url` and",
        ),
        (
            with(URL, json!({ "secret": "key", "function": "f" })),
            "not both",
        ),
        (with("example.com/hook", key.clone()), "begin with http://"),
        (
            with("ftp://example.com/", key.clone()),
            "begin with http://",
        ),
        (
            with("https://user:pw@example.com/", key.clone()),
            "password",
        ),
        (with("https://exa mple.com/", key.clone()), "white space"),
        (
            with("https://example.com/\r\nx: y", key.clone()),
            "white space or a control",
        ),
        (
            with(&format!("https://e.com/{}", "x".repeat(9_000)), key),
            "8192",
        ),
        (with(URL, json!({ "secret": "a b" })), "contains ' '"),
        (with(URL, json!({ "secret": "other" })), "it is not set"),
    ] {
        let answer = put(&server, "hook", bad).await;
        answer.expect_problem(400, "invalid-argument");
        assert!(answer.text().contains(words), "{}", answer.text());
    }
    let list = server.root.get("/v1/apps/shop/triggers").await.expect(200);
    assert_eq!(list.json()["triggers"], json!([]));
}

/// The answer says what is wrong with the secret, and nothing of the secret.
#[tokio::test]
async fn webhook_needs_a_signing_key() {
    let server = shop().await;
    for (bad, words) in [
        ("hunter2", "line 1 does not begin with whsec_"),
        ("whsec_hunter2!", "line 1 is not base64"),
        ("whsec_aHVudGVyMg==", "7 bytes, but needs 24 to 64"),
    ] {
        set_secret(&server, bad).await;
        let answer = hook(&server).await;
        answer.expect_problem(400, "invalid-argument");
        let text = answer.text();
        assert!(text.contains(words), "{text}");
        for part in ["hunter2", "aHVudGVy"] {
            assert!(!text.contains(part), "{text}");
        }
    }
    set_secret(&server, KEY).await;
    hook(&server).await.expect(200);
}
