//! The hello-* examples, one in each language, do the same on a real host over SQLite: entries,
//! lists, a transaction, a batch, an HTTP handler and a handler of changes.

use super::event_host::EventHost;
use kvasm::store::{SqliteOptions, SqliteStore};
use kvasm::{CallError, Host, InvokeError};
use kvasm_tests::guests::wasm;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const EXAMPLES: [&str; 4] = ["hello-c", "hello-go", "hello-assemblyscript", "hello-zig"];

const PAGE: &str = include_str!("../../../docs/languages.md");

/// The sizes of the examples' modules in docs/languages.md.
#[test]
fn documented_sizes_are_those_of_the_modules() {
    for example in EXAMPLES {
        let row = PAGE
            .lines()
            .find(|row| row.contains(&format!("[{example}]")));
        let size = row.unwrap().split('|').nth(4).unwrap().trim();
        let (number, unit) = size.split_once(' ').unwrap();
        let unit = match unit {
            "KB" => 1e3,
            "MB" => 1e6,
            other => panic!("{other}"),
        };
        let documented: f64 = number.parse::<f64>().unwrap() * unit;
        let real = wasm(example).len() as f64;
        let ratio = documented / real;
        assert!(
            (0.9..1.1).contains(&ratio),
            "{example}: {size}, but {real} bytes"
        );
    }
}

/// One test, because each host compiles the modules again, and that of Go takes seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn examples_do_the_same_in_each_language() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    let store = Arc::new(SqliteStore::open(options).await.unwrap());
    // A busy machine takes long.
    let builder = Host::builder().compile_time(Duration::from_secs(600));
    let mut stage = EventHost::with_builder(builder, store, Box::new(folder)).await;
    stage.start();
    for example in EXAMPLES {
        let app = async |subject: &str| {
            println!("{example}: {subject}");
            let app = stage.neighbour(&format!("{example}-{subject}")).await;
            app.deploy(wasm(example)).await;
            app
        };
        notes_are_kept_and_listed(&app("notes").await).await;
        rename_is_a_transaction(&app("rename").await).await;
        concurrent_visits_are_counted(&app("visits").await).await;
        requests_are_answered(&app("http").await).await;
        changes_are_handled(&app("changes").await).await;
    }
}

async fn text(stage: &EventHost, function: &str, input: &str) -> String {
    String::from_utf8(stage.call(function, input.to_owned()).await).unwrap()
}

/// Calls a function that rejects its input, and returns the reason.
async fn refusal(stage: &EventHost, function: &str, input: &str) -> String {
    let failure = stage
        .try_call(function, input.to_owned())
        .await
        .unwrap_err();
    match failure {
        InvokeError::Call(failure) => match failure.error {
            CallError::Failed { code: 3, message } => message,
            other => panic!("{function} {input:?}: {other}"),
        },
        other => panic!("{function} {input:?}: {other}"),
    }
}

/// Sends a request with a header whose value has to be escaped.
async fn send(stage: &EventHost, method: &str, path: &str, body: &str) -> (Value, String) {
    let headers = [("x-quoted", "a\"b\\c\u{e9}")];
    stage.http(method, path, &headers, body).await
}

async fn notes_are_kept_and_listed(stage: &EventHost) {
    for (name, note) in [
        ("b", "zwei"),
        ("a", "Grüße, 世界 🦀"),
        ("ä/1", ""),
        ("c", "x=y"),
    ] {
        assert_eq!(text(stage, "set", &format!("{name}={note}")).await, "");
        assert_eq!(text(stage, "get", name).await, note, "{name}");
    }
    assert_eq!(text(stage, "list", "").await, "a\nb\nc\nä/1\n");
    assert_eq!(text(stage, "list", "ä").await, "ä/1\n");
    assert_eq!(text(stage, "list", "zz").await, "");
    assert!(refusal(stage, "get", "nope").await.contains("no such note"));
    assert!(refusal(stage, "set", "no sign").await.contains("name=text"));
    // What the host refuses is its reason, not a trap.
    let failure = stage
        .try_call("set", "=text")
        .await
        .unwrap_err()
        .to_string();
    assert!(failure.contains("key"), "{failure}");
    // Several pages, and a value far larger than any first buffer.
    for n in 0..250 {
        stage.set("notes", &format!("n{n:03}"), "1").await;
    }
    assert_eq!(text(stage, "list", "n").await.lines().count(), 250);
    let large = "ö".repeat(300_000);
    text(stage, "set", &format!("large={large}")).await;
    assert_eq!(text(stage, "get", "large").await, large);
    assert_eq!(text(stage, "clear", "").await, "255");
    assert_eq!(text(stage, "list", "").await, "");
    assert_eq!(text(stage, "clear", "").await, "0");
}

async fn rename_is_a_transaction(stage: &EventHost) {
    text(stage, "set", "a=1").await;
    text(stage, "set", "b=2").await;
    let taken = refusal(stage, "rename_note", "a=b").await;
    assert!(taken.contains("note of the new name"), "{taken}");
    // The delete before the refusal had no effect.
    assert_eq!(text(stage, "get", "a").await, "1");
    text(stage, "rename_note", "a=c").await;
    assert_eq!(text(stage, "list", "").await, "b\nc\n");
    assert_eq!(text(stage, "get", "c").await, "1");
    // Of many at the same time, one takes the note.
    let calls: Vec<_> = (0..8).map(|n| format!("c=n{n}")).collect();
    let calls = calls
        .iter()
        .map(|input| stage.try_call("rename_note", input.clone()));
    let done = futures_util::future::join_all(calls).await;
    assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1);
    assert_eq!(text(stage, "list", "n").await.lines().count(), 1);
}

async fn concurrent_visits_are_counted(stage: &EventHost) {
    assert_eq!(text(stage, "hello", "Ada").await, "Hello, Ada! Visit 1.\n");
    let calls = (0..40).map(|_| stage.call("hello", "Ada"));
    futures_util::future::join_all(calls).await;
    assert_eq!(text(stage, "hello", "Ada").await, "Hello, Ada! Visit 42.\n");
    assert_eq!(stage.get("visits", "Ada").await.as_deref(), Some("42"));
    for name in ["", &"x".repeat(65)] {
        assert!(
            refusal(stage, "hello", name)
                .await
                .contains("1 to 64 bytes")
        );
    }
}

async fn requests_are_answered(stage: &EventHost) {
    let (head, body) = send(stage, "PUT", "/shop", "milk").await;
    assert_eq!((&head["status"], body.as_str()), (&json!(204), ""));
    let (head, body) = send(stage, "GET", "/shop", "").await;
    assert_eq!((&head["status"], body.as_str()), (&json!(200), "milk"));
    let kind = json!([["content-type", "text/plain; charset=utf-8"]]);
    assert_eq!(head["headers"], kind);
    let (_, body) = send(stage, "GET", "/", "").await;
    assert_eq!(body, "shop\n");
    // Escapes in the head, and a body of any bytes.
    let odd = "/q\"u\\o\u{1}\u{e9}\u{1f980}";
    send(stage, "PUT", odd, "\0").await;
    assert_eq!(send(stage, "GET", odd, "").await.1, "\0");
    assert_eq!(stage.get("notes", &odd[1..]).await.as_deref(), Some("\0"));
    assert_eq!(send(stage, "GET", "/nope", "").await.0["status"], 404);
    let (head, _) = send(stage, "DELETE", "/shop", "").await;
    assert_eq!(
        head,
        json!({"status": 405, "headers": [["allow", "GET, PUT"]]})
    );
    assert_eq!(send(stage, "PUT", "/", "x").await.0["status"], 405);
}

async fn changes_are_handled(stage: &EventHost) {
    let triggers = stage.triggers().await;
    assert_eq!(triggers.len(), 1);
    assert_eq!(triggers[0].name.as_str(), "count");
    for n in 0..5 {
        text(stage, "set", &format!("n{n}=x")).await;
    }
    text(stage, "rename_note", "n0=m").await;
    text(stage, "clear", "").await;
    stage.wait_until_idle().await;
    assert!(stage.dead_letters().await.is_empty());
    assert_eq!(stage.get("stats", "set").await.as_deref(), Some("6"));
    assert_eq!(stage.get("stats", "delete").await.as_deref(), Some("6"));
}
