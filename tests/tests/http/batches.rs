//! Batches, reads of several entries, and increments.

use kvasm_tests::server::{ApiClient, ApiResponse, Server};
use serde_json::{Value, json};

const COMMIT: &str = "/v1/apps/shop/kv/commit";
const GET_MANY: &str = "/v1/apps/shop/kv/get-many";

async fn commit(api: &ApiClient, body: Value) -> ApiResponse {
    api.json("POST", COMMIT, body).await
}

fn set(key: &str, value: Value) -> Value {
    json!({ "set": { "collection": "c", "key": key, "json": value } })
}

#[tokio::test]
async fn batch_is_atomic() {
    let server = Server::start().await;
    server.app("shop", false).await;
    let api = &server.root;
    let batch = json!({
        "checks": [{ "collection": "c", "key": "a", "version": 0 }],
        "operations": [
            set("a", json!({ "n": 1 })),
            { "set": { "collection": "c", "key": "raw", "bytes": "AP8=", "ttl_ms": 3600000 } },
            { "delete": { "collection": "c", "key": "absent" } },
            { "increment": { "collection": "n", "key": "visits", "by": 41 } },
            { "increment": { "collection": "n", "key": "visits", "by": 1 } },
        ],
    });
    let done = commit(api, batch.clone()).await.expect(200).json();
    let results = done["results"].as_array().unwrap();
    assert!(results[0]["version"].as_u64().is_some_and(|v| v > 0));
    assert_eq!(results[2], json!({ "existed": false }));
    assert_eq!(results[4]["value"], 42);
    let raw = "/v1/apps/shop/kv/entry?collection=c&key=raw";
    let raw = api.get(raw).await.expect(200);
    assert_eq!(raw.body, [0, 255]);
    assert!(!raw.header("kvasm-expires-at").is_empty());

    // The second time the check fails, and the answer names the mismatch.
    let refused = commit(api, batch).await;
    refused.expect_problem(412, "precondition-failed");
    let failed = refused.json()["failed"].clone();
    assert_eq!(failed, json!([{ "collection": "c", "key": "a" }]));
    let visits = "/v1/apps/shop/kv/entry?collection=n&key=visits";
    assert_eq!(api.get(visits).await.expect(200).json(), 42);

    let version = &results[0]["version"];
    let guarded = json!({
        "checks": [{ "collection": "c", "key": "a", "version": version }],
        "operations": [{ "delete": { "collection": "c", "key": "a" } }],
    });
    let done = commit(api, guarded).await.expect(200).json();
    assert_eq!(done, json!({ "results": [{ "existed": true }] }));
    // A failed increment leaves none of the batch.
    let sum = json!({ "operations": [
        set("new", json!(1)),
        { "increment": { "collection": "c", "key": "raw", "by": 1 } },
    ] });
    commit(api, sum).await.expect_problem(409, "no-integer");
    assert!(!api.keys("shop", "c").await.contains(&"new".to_owned()));
    // Problems of other routes have no `failed`.
    let other = api.get("/v1/apps/nope").await.json();
    assert!(other.get("failed").is_none());
}

/// A batch of one operation is recorded as that operation, a larger one by its count, and one
/// of checks alone not at all.
#[tokio::test]
async fn batch_adds_one_audit_row_with_its_operation_count() {
    let server = Server::start().await;
    server.app("shop", false).await;
    let api = &server.root;
    let checks = json!([{ "collection": "c", "key": "k", "version": 0 }]);
    commit(api, json!({ "checks": checks })).await.expect(200);
    commit(api, json!({ "operations": [set("k", json!(1))] }))
        .await
        .expect(200);
    let several = json!({ "operations": [
        set("k", json!(2)),
        { "increment": { "collection": "c", "key": "n", "by": 1 } },
        { "delete": { "collection": "c", "key": "k" } },
    ] });
    commit(api, several).await.expect(200);
    // A failed batch adds none.
    let failing = json!({ "checks": [{ "collection": "c", "key": "n", "version": 0 }],
        "operations": [set("k", json!(1)), set("l", json!(1))] });
    commit(api, failing)
        .await
        .expect_problem(412, "precondition-failed");
    let audit = api.get("/v1/apps/shop/audit").await.expect(200).json();
    let rows = audit["audit"].as_array().unwrap().iter().rev();
    let of_entries: Vec<_> = rows
        .filter(|row| row["action"].as_str().unwrap().starts_with("kv."))
        .map(|row| (row["action"].as_str().unwrap(), &row["detail"]))
        .collect();
    let one = json!({ "collection": "c", "key": "k" });
    let three = json!({ "entries": 3 });
    assert_eq!(of_entries, [("kv.set", &one), ("kv.commit", &three)]);
}

#[tokio::test]
async fn json_values_are_stored_verbatim() {
    let server = Server::start().await;
    server.app("shop", false).await;
    let api = &server.root;
    for value in [
        "null",
        "12345678901234567890123456789",
        "1.50",
        "{ \"a\" : 1,\"a2\":\"\\u00e9\" }",
    ] {
        let body = format!(
            "{{\"operations\":[{{\"set\":{{\"collection\":\"c\",\"key\":\"k\",\"json\":{value}}}}}]}}"
        );
        let done = api.bytes("POST", COMMIT, "application/json", body).await;
        done.expect(200);
        let read = api.get("/v1/apps/shop/kv/entry?collection=c&key=k").await;
        assert_eq!(read.expect(200).text(), value);
    }
}

#[tokio::test]
async fn invalid_batches_are_rejected() {
    let server = Server::start().await;
    server.app("shop", false).await;
    let api = &server.root;
    let at = |key: &str| json!({ "collection": "c", "key": key });
    for (bad, words) in [
        (
            json!({ "operations": [{ "delete": at("") }] }),
            "operations[0]: the key is empty",
        ),
        (
            json!({ "operations": [{ "delete": at("a") }, { "set": at("b") }] }),
            "operations[1]: expected either",
        ),
        (
            json!({ "operations": [{ "set": { "collection": "c", "key": "k", "json": 1, "bytes": "" } }] }),
            "either \"json\" or \"bytes\"",
        ),
        (
            json!({ "operations": [{ "set": { "collection": "c", "key": "k", "bytes": "?" } }] }),
            "base64",
        ),
        (
            json!({ "operations": [{ "set": { "collection": "c", "key": "k", "json": 1, "ttl_ms": 0 } }] }),
            "time to live",
        ),
        (
            json!({ "operations": [set("k", json!("x".repeat(1024 * 1024)))] }),
            "the limit is 1048576 bytes",
        ),
        (
            json!({ "checks": [{ "collection": "", "key": "k", "version": 1 }] }),
            "checks[0]: the collection is empty",
        ),
        (json!({}), "neither checks nor operations"),
    ] {
        let answer = commit(api, bad).await;
        answer.expect_problem(400, "invalid-argument");
        assert!(
            answer.text().replace("\\\"", "\"").contains(words),
            "{}",
            answer.text()
        );
    }
    for bad in [
        json!({ "operations": [{ "rename": at("k") }] }),
        json!({ "operations": [{ "delete": at("k"), "set": at("k") }] }),
        json!({ "operations": [{ "delete": { "collection": "c", "key": "k", "ttl_ms": 1 } }] }),
        json!({ "operations": [{ "increment": { "collection": "c", "key": "k", "by": 1.5 } }] }),
        json!({ "operations": [{ "increment": at("k") }] }),
        json!({ "checks": [at("k")] }),
        json!({ "checks": [{ "collection": "c", "key": "k", "version": -1 }] }),
        json!({ "operation": [] }),
        json!([]),
    ] {
        commit(api, bad).await.expect_problem(400, "malformed-json");
    }
    let text = api.bytes("POST", COMMIT, "text/plain", "{}").await;
    text.expect_problem(415, "unsupported-media-type");
    let large = json!({ "operations": [set("k", json!("x".repeat(4 * 1024 * 1024)))] });
    commit(api, large)
        .await
        .expect_problem(413, "body-too-large");
    let parts =
        |count: usize| -> Value { (0..count).map(|n| set(&n.to_string(), json!(n))).collect() };
    let checks = json!([{ "collection": "c", "key": "0", "version": 0 }]);
    let many = json!({ "checks": checks, "operations": parts(1_000) });
    let refused = commit(api, many).await;
    refused.expect_problem(400, "invalid-argument");
    assert!(refused.text().contains("1001 parts; the limit is 1000"));
    assert!(api.keys("shop", "c").await.is_empty());
    let most = json!({ "checks": checks, "operations": parts(999) });
    let most = commit(api, most).await.expect(200).json();
    assert_eq!(most["results"].as_array().unwrap().len(), 999);
}

#[tokio::test]
async fn get_many_reads_entries_of_one_app() {
    let server = Server::start().await;
    server.app("shop", false).await;
    server.app("other", false).await;
    let api = &server.root;
    let batch = json!({ "operations": [
        set("null", Value::Null),
        { "set": { "collection": "d", "key": "raw", "bytes": "AP8=" } },
    ] });
    commit(api, batch).await.expect(200);
    let at = |collection: &str, key: &str| json!({ "collection": collection, "key": key });
    let keys =
        json!({ "keys": [at("d", "raw"), at("d", "null"), at("c", "null"), at("d", "raw")] });
    let found = api.json("POST", GET_MANY, keys.clone()).await.expect(200);
    assert!(found.text().contains("\"json\":null"), "{}", found.text());
    let entries = &found.json()["entries"];
    assert_eq!(entries[0]["bytes"], "AP8=");
    assert_eq!(entries[0]["collection"], "d");
    assert_eq!(entries[1], Value::Null);
    assert_eq!(entries[2]["key"], "null");
    assert_eq!(entries[3], entries[0]);
    // Another app has none of these entries.
    let other = api.json("POST", "/v1/apps/other/kv/get-many", keys).await;
    assert_eq!(
        other.expect(200).json(),
        json!({ "entries": [null, null, null, null] })
    );

    let ask = async |keys: Value| api.json("POST", GET_MANY, json!({ "keys": keys })).await;
    assert_eq!(
        ask(json!([])).await.expect(200).json(),
        json!({ "entries": [] })
    );
    ask(vec![at("c", "k"); 1_000].into()).await.expect(200);
    let many = ask(vec![at("c", "k"); 1_001].into()).await;
    many.expect_problem(400, "invalid-argument");
    let bad = ask(json!([at("c", "k"), at("c", "")])).await;
    bad.expect_problem(400, "invalid-argument");
    assert!(bad.text().contains("keys[1]"), "{}", bad.text());
    let unknown = json!([{ "collection": "c", "key": "k", "version": 1 }]);
    ask(unknown).await.expect_problem(400, "malformed-json");
    for n in 0..5 {
        let value = json!("x".repeat(1_000_000));
        let batch = json!({ "operations": [set(&n.to_string(), value)] });
        commit(api, batch).await.expect(200);
    }
    let large: Vec<_> = (0..5).map(|n| at("c", &n.to_string())).collect();
    let large = ask(large.into()).await;
    large.expect_problem(400, "invalid-argument");
    assert!(
        large.text().contains("exceeds the limit of"),
        "{}",
        large.text()
    );
}

#[tokio::test]
async fn increment_adds_positive_and_negative_deltas() {
    let server = Server::start().await;
    server.app("shop", false).await;
    let api = &server.root;
    let path = |rest: &str| format!("/v1/apps/shop/kv/increment?collection=c&key={rest}");
    let add = async |rest: &str| api.send("POST", &path(rest)).await;
    assert_eq!(add("n").await.expect(200).json()["value"], 1);
    let down = add("n&by=-5").await.expect(200).json();
    assert_eq!(down["value"], -4);
    assert!(down["version"].as_u64().is_some_and(|v| v > 0));
    add("n&by=-9223372036854775807")
        .await
        .expect_problem(409, "no-integer");
    add("n&by=1.5")
        .await
        .expect_problem(400, "invalid-argument");
    add("n&by=9223372036854775808")
        .await
        .expect_problem(400, "invalid-argument");
    add("n&to=1").await.expect_problem(400, "invalid-argument");
    add("").await.expect_problem(400, "invalid-argument");
    api.json(
        "PUT",
        "/v1/apps/shop/kv/entry?collection=c&key=t",
        json!("text"),
    )
    .await
    .expect(200);
    add("t").await.expect_problem(409, "no-integer");
    let nowhere = "/v1/apps/nope/kv/increment?collection=c&key=n";
    api.send("POST", nowhere)
        .await
        .expect_problem(404, "app-not-found");
    let audit = api.get("/v1/apps/shop/audit").await.expect(200).json();
    let rows = audit["audit"].as_array().unwrap();
    let added: Vec<_> = rows
        .iter()
        .filter(|row| row["action"] == "kv.increment")
        .collect();
    assert_eq!(added.len(), 2);
    assert_eq!(added[0]["detail"], json!({ "collection": "c", "key": "n" }));
}
