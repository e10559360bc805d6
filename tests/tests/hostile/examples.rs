//! The example plugins, compiled to wasm.

use kvasm::model::AppName;
use kvasm::{Call, CallError, Host, Plugin};
use kvasm_tests::guests::{TestHost, wasm};
use serde_json::{Value, json};

async fn call(host: &Host, plugin: &Plugin, function: &str, input: Value) -> Value {
    let call = Call::function(function).input(input.to_string());
    let output = host.call(plugin, call).await.unwrap().output;
    serde_json::from_slice(&output).unwrap()
}

#[tokio::test]
async fn counter() {
    let bench = TestHost::new().await;
    let plugin = bench.load(wasm("counter")).await;
    let add = json!({"name": "visits", "by": 2});
    for expected in [2, 4, 6] {
        let answer = call(&bench.host, &plugin, "add", add.clone()).await;
        assert_eq!(answer["value"], expected);
    }
    let answer = call(&bench.host, &plugin, "read", json!({"name": "visits"})).await;
    assert_eq!(answer["value"], 6);
    // Undecodable input is the caller's fault, reported with the function's message.
    let bad = Call::function("add").input("{");
    let failure = bench.host.call(&plugin, bad).await.unwrap_err();
    assert!(
        matches!(failure.error, CallError::Failed { .. }),
        "{failure}"
    );
}

#[tokio::test]
async fn hello_c() {
    let bench = TestHost::new().await;
    let plugin = bench.load(wasm("hello-c")).await;
    let functions: Vec<_> = plugin.functions().map(str::to_owned).collect();
    let function = functions.first().unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 {
        let call = Call::function(function.as_str()).input("Ada");
        let output = bench.host.call(&plugin, call).await.unwrap().output;
        answers.push(String::from_utf8(output).unwrap());
    }
    assert!(
        answers[0].contains("Ada") && answers[0].contains('1'),
        "{answers:?}"
    );
    assert!(answers[1].contains('2'), "{answers:?}");
}

#[tokio::test]
async fn guestbook_example_paginates_and_isolates_apps() {
    let bench = TestHost::new().await;
    let other = bench
        .host
        .create_app(AppName::parse("other").unwrap())
        .await
        .unwrap();
    let mine = bench.load(wasm("guestbook")).await;
    let theirs = bench.host.load(&other, wasm("guestbook")).await.unwrap();
    for n in 0..5 {
        let entry = json!({"name": "ada", "message": format!("hello {n}")});
        call(&bench.host, &mine, "sign", entry).await;
    }
    call(
        &bench.host,
        &theirs,
        "sign",
        json!({"name": "eve", "message": "theirs"}),
    )
    .await;
    let page = call(&bench.host, &mine, "page", json!({"limit": 3})).await;
    assert_eq!(page["signatures"].as_array().unwrap().len(), 3, "{page}");
    let rest = json!({"limit": 3, "cursor": page["cursor"]});
    let rest = call(&bench.host, &mine, "page", rest).await;
    assert_eq!(rest["signatures"].as_array().unwrap().len(), 2, "{rest}");
    assert!(rest["cursor"].is_null(), "{rest}");
    assert!(!format!("{page}{rest}").contains("theirs"));
    // A cursor of another app is rejected.
    let foreign =
        Call::function("page").input(json!({"limit": 3, "cursor": page["cursor"]}).to_string());
    let failure = bench.host.call(&theirs, foreign).await.unwrap_err();
    assert!(failure.to_string().contains("cursor"), "{failure}");
}
