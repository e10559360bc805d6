//! Searches of the audit log.

use kvasm::model::Scope;
use kvasm_tests::server::{ApiClient, Server};
use serde_json::{Value, json};

async fn rows(api: &ApiClient, path: &str) -> Vec<(String, String, String)> {
    let page = api.get(path).await.expect(200).json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = page["audit"].as_array().unwrap().iter();
    rows.map(|row| (text(&row["actor"]), text(&row["action"]), text(&row["app"])))
        .collect()
}

/// Two apps that two operators have changed, one of which is deleted.
async fn server() -> Server {
    let server = Server::start().await;
    server.app("shop", false).await;
    server.app("gone", false).await;
    let token = json!({"name": "second", "scopes": ["app:admin"]});
    let made = server.root.json("POST", "/v1/tokens", token).await;
    let secret = made.expect(201).json()["secret"]
        .as_str()
        .unwrap()
        .to_owned();
    let other = server.root.with_token(Some(secret));
    let public = json!({"public": true});
    other
        .json("PATCH", "/v1/apps/shop", public)
        .await
        .expect(200);
    other.send("DELETE", "/v1/apps/gone").await.expect(204);
    let entry = "/v1/apps/shop/kv/entry?collection=c&key=k";
    server.root.json("PUT", entry, json!(1)).await.expect(200);
    server.root.send("DELETE", entry).await.expect(204);
    server
}

#[tokio::test]
async fn audit_log_is_searched_by_actor_action_app_and_time() {
    let server = server().await;
    let api = &server.root;
    let all = rows(api, "/v1/audit").await;
    let by_other = rows(api, "/v1/audit?actor=second").await;
    let actors: Vec<_> = all.iter().map(|row| row.0.as_str()).collect();
    assert!(actors.contains(&"bootstrap"), "{all:?}");
    let expected: Vec<_> = all
        .iter()
        .filter(|row| row.0 == "second")
        .cloned()
        .collect();
    assert_eq!((by_other.len(), &by_other), (2, &expected));
    let actions = |rows: &[(String, String, String)]| -> Vec<String> {
        rows.iter().map(|row| row.1.clone()).collect()
    };
    let kv = rows(api, "/v1/audit?action=kv").await;
    assert_eq!(actions(&kv), ["kv.delete", "kv.set"]);
    let set = rows(api, "/v1/apps/shop/audit?action=kv.set").await;
    assert_eq!(actions(&set), ["kv.set"]);
    // A part of a word is no kind.
    assert!(rows(api, "/v1/audit?action=k").await.is_empty());
    // Deleted apps are found by name.
    let gone = rows(api, "/v1/audit?app=gone").await;
    assert_eq!(actions(&gone), ["app.delete", "app.create"]);
    assert!(
        rows(api, "/v1/audit?app=shop&actor=nobody")
            .await
            .is_empty()
    );

    let page = api.get("/v1/audit").await.expect(200).json();
    let at = |row: usize| page["audit"][row]["at"].as_i64().unwrap();
    let (newest, oldest) = (at(0), at(all.len() - 1));
    let count = async |query: String| rows(api, &format!("/v1/audit?{query}")).await.len();
    assert_eq!(
        count(format!("since={oldest}&until={}", newest + 1)).await,
        all.len()
    );
    assert_eq!(count(format!("until={oldest}")).await, 0);
    assert_eq!(count(format!("since={}", newest + 1)).await, 0);
    assert_eq!(
        count("since=-9223372036854775808&until=9223372036854775807".into()).await,
        all.len()
    );
    assert_eq!(count("until=-1".into()).await, 0);

    for bad in [
        "action=%3Cb%3E",
        "since=5&until=5",
        "action=",
        "action=a..b",
        "actor=",
        "actor=%07",
        "app=A",
        "since=x",
    ] {
        let answer = api.get(&format!("/v1/audit?{bad}")).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    // The app is that of the path.
    api.get("/v1/apps/shop/audit?app=gone").await.expect(400);
    // A neighbour's administrator sees nothing of others.
    let app = server.app("neighbour", false).await;
    let neighbour = server.client(Some(&app), &[Scope::AppAdmin]).await;
    neighbour.get("/v1/audit?app=shop").await.expect(403);
    neighbour.get("/v1/audit?actor=%07").await.expect(403);
    neighbour
        .get("/v1/apps/shop/audit?actor=second")
        .await
        .expect(403);
    let own = rows(&neighbour, "/v1/apps/neighbour/audit?action=app").await;
    assert_eq!(own.len(), 1);
}

/// A search of many rows takes several requests, and finds what one that reads all finds.
#[tokio::test]
async fn search_of_the_audit_log_is_bounded_and_complete() {
    const ROWS: usize = 12_000;
    let server = server().await;
    let api = &server.root;
    let entry = |number: usize| json!({"set": {"collection": "c", "key": "k", "json": number}});
    for number in 0..ROWS {
        let batch = json!({"operations": [entry(number)]});
        api.json("POST", "/v1/apps/shop/kv/commit", batch)
            .await
            .expect(200);
    }
    let mut path = "/v1/audit?actor=second&limit=1".to_owned();
    let (mut found, mut pages) = (0, 0);
    loop {
        let page = api.get(&path).await.expect(200).json();
        found += page["audit"].as_array().unwrap().len();
        pages += 1;
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/v1/audit?actor=second&limit=1&before={next}");
    }
    // 5,000 rows for each request, one for each row that is found, and the last.
    assert_eq!(found, 2);
    assert!((3..=6).contains(&pages), "{pages}");
}
