//! The example plugins, compiled to wasm.

use kvasm::model::{AppName, Collection};
use kvasm::service::{Caller, List};
use kvasm::{Call, CallError, Host, Plugin};
use kvasm_tests::guests::{TestHost, frozen, of_each_release, wasm};
use serde_json::{Value, json};

async fn call(host: &Host, plugin: &Plugin, function: &str, input: Value) -> Value {
    let call = Call::function(function).input(input.to_string());
    let output = host.call(plugin, call).await.unwrap().output;
    serde_json::from_slice(&output).unwrap()
}

#[tokio::test]
async fn counter() {
    for wasm in of_each_release("counter") {
        counts(wasm).await;
    }
}

async fn counts(wasm: Vec<u8>) {
    let bench = TestHost::new().await;
    let plugin = bench.load(wasm).await;
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
async fn frozen_hello_c() {
    for wasm in frozen("hello-c") {
        greets(wasm).await;
    }
}

async fn greets(wasm: Vec<u8>) {
    let bench = TestHost::new().await;
    let plugin = bench.load(wasm).await;
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
    for wasm in of_each_release("guestbook") {
        paginates_and_isolates_apps(wasm).await;
    }
}

async fn paginates_and_isolates_apps(wasm: Vec<u8>) {
    let bench = TestHost::new().await;
    let other = bench
        .host
        .create_app(AppName::parse("other").unwrap())
        .await
        .unwrap();
    let mine = bench.load(wasm.clone()).await;
    let theirs = bench.host.load(&other, wasm).await.unwrap();
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

/// Calls a function from 16 callers at once, 30 times each, with the number of the call as "{n}" in
/// the input.
async fn call_concurrently(host: &Host, plugin: &Plugin, function: &'static str, input: &str) {
    const CALLERS: usize = 16;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (host, plugin, input) = (host.clone(), plugin.clone(), input.to_owned());
            tokio::spawn(async move {
                for call in (caller..CALLS).step_by(CALLERS) {
                    let input = input.replace("{n}", &call.to_string());
                    let call = Call::function(function).input(input);
                    host.call(&plugin, call).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

const CALLS: usize = 480;

/// No example loses an update.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn examples_count_every_concurrent_call() {
    let bench = TestHost::new().await;
    let host = &bench.host;
    let counter = bench.load(wasm("counter")).await;
    call_concurrently(host, &counter, "add", r#"{"name":"a","by":1}"#).await;
    let read = call(host, &counter, "read", json!({"name": "a"})).await;
    assert_eq!(read["value"], CALLS);

    let guestbook = bench.load(wasm("guestbook")).await;
    let signature = r#"{"name":"ada","message":"{n}"}"#;
    call_concurrently(host, &guestbook, "sign", signature).await;
    let page = call(host, &guestbook, "page", json!({"limit": 1000})).await;
    assert_eq!(page["signatures"].as_array().unwrap().len(), CALLS);

    let leaderboard = bench.load(wasm("leaderboard")).await;
    for score in [r#"["chess","ada",{n}]"#, r#"["chess","p{n}",{n}]"#] {
        call_concurrently(host, &leaderboard, "submit", score).await;
    }
    let top = call(host, &leaderboard, "top", json!(["chess", 2])).await;
    assert_eq!(top, json!([["ada", CALLS - 1], ["p479", CALLS - 1]]));
    // Only the best score of each player is in the index.
    let rank = call(host, &leaderboard, "rank", json!(["chess", "p0"])).await;
    assert_eq!(rank, CALLS + 1);

    let orders = bench.load(wasm("orders")).await;
    let order = r#"{"id":"{n}","customer":"ada","cents":1}"#;
    call_concurrently(host, &orders, "place", order).await;
    let list = List::all(Collection::parse("orders").unwrap());
    let caller = Caller::new(&bench.app, None);
    let list = host.kv().list(&caller, list).await.unwrap();
    assert_eq!(list.entries.len(), CALLS);
}
