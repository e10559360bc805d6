//! `kvasm run`.

use super::User;
use kvasm_tests::guests::{module, wasm};
use kvasm_tests::program::process::Home;
use serde_json::json;

impl User {
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn run_executes_a_plugin_and_persists_its_data() {
    let user = User::with_app();
    let counter = user.file("counter.wasm", &wasm("counter"));
    let add = [
        "run",
        &counter,
        "--app",
        "demo",
        "add",
        "--input",
        "{\"name\":\"n\",\"by\":2}",
    ];
    assert_eq!(user.ok(&add), "{\"value\":2}");
    assert_eq!(user.ok(&add), "{\"value\":4}");
    let input = user.file("input.json", b"{\"name\":\"n\",\"by\":1}");
    let at = format!("@{input}");
    let answer = user.run(&[
        "run", &counter, "--app", "demo", "add", "--input", &at, "--json",
    ]);
    assert_eq!(answer.json()["output"], json!({"value": 5}));
    let stdin = [
        "run",
        &counter,
        "--app",
        "demo",
        "read",
        "--input",
        "-",
        "--no-cache",
    ];
    assert_eq!(
        user.run_with(&stdin, b"{\"name\":\"n\"}").stdout,
        "{\"value\":5}"
    );
}

#[test]
fn run_on_a_server_is_refused() {
    let user = User::new();
    let counter = user.file("counter.wasm", &wasm("counter"));
    let run = ["run", &counter, "add", "--server", "http://127.0.0.1:9"];
    user.fails(&run, 2, "runs a plugin in its own process, not on a server");
}

/// An app that is not there is made in memory, unless a store is named.
#[test]
fn missing_app_is_made_for_the_call_only() {
    let user = User::new();
    let counter = user.file("counter.wasm", &wasm("counter"));
    let input = "{\"name\":\"n\",\"by\":2}";
    let add = |more: &[&str]| {
        let answer = user.run(&[&["run", &counter, "add", "--input", input], more].concat());
        assert_eq!(answer.code, 0, "{more:?}: {}", answer.stderr);
        (answer.stdout, answer.stderr)
    };
    for more in [&[][..], &["--app", "nope"], &["--store", "memory"]] {
        for _ in 0..2 {
            let (stdout, stderr) = add(more);
            assert_eq!(stdout, "{\"value\":2}");
            assert!(stderr.contains("exists for this call only"), "{stderr}");
        }
    }
    // Nothing is left of it.
    assert!(!user.home.path().join(".local").exists());
    let answer = user.json(&["run", &counter, "add", "--input", input]);
    assert_eq!(answer["kept"], false);

    let store = format!("sqlite:{}", user.home.path().join("my store.db").display());
    let config = format!("store = \"{store}\"\n");
    let config = user.file("kvasm.toml", config.as_bytes());
    let advice = format!("`kvasm --store '{store}' app create nope`");
    for named in [["--store", &store], ["--config", &config]] {
        let run = [&["run", &counter, "--app", "nope", "add"], &named[..]].concat();
        user.fails(&run, 2, &advice);
        user.fails(
            &[&["run", &counter, "add"], &named[..]].concat(),
            2,
            "--app is missing",
        );
    }
    // The advice leads to where the call goes.
    user.ok(&["--store", &store, "app", "create", "nope"]);
    let named = ["--app", "nope", "--config", &config];
    let (stdout, stderr) = add(&named);
    assert_eq!(stdout, "{\"value\":2}");
    assert!(!stderr.contains("this call only"), "{stderr}");
    assert_eq!(add(&named).0, "{\"value\":4}");
}

/// Who tries out a plugin permits what it declares.
#[test]
fn app_of_one_call_grants_what_the_plugin_needs() {
    let user = User::with_app();
    let needs = user.file("needs.wasm", &wasm("needs"));
    let read = ["run", &needs, "read", "--app"];
    user.fails(&[&read[..], &["demo"]].concat(), 3, "stripe-key");
    let output = user.ok(&[&read[..], &["other"]].concat());
    assert!(output.contains("Some(3) None 0"), "{output}");
}

#[test]
fn exit_codes_classify_failures() {
    let user = User::with_app();
    let counter = user.file("counter.wasm", &wasm("counter"));
    user.fails(&["run", &counter, "--app", "demo", "nope"], 2, "it has add");
    user.fails(
        &["run", "/nonexistent.wasm", "--app", "demo", "add"],
        2,
        "/nonexistent.wasm",
    );
    user.fails(
        &["run", &counter, "--app", "demo", "add", "--as", "root"],
        2,
        "script:read",
    );
    user.fails(
        &["run", &counter, "--app", "demo", "add", "--input", "{"],
        3,
        "not the JSON",
    );
    let as_reader = [
        "run",
        &counter,
        "--app",
        "demo",
        "add",
        "--as",
        "script:read",
        "--input",
        "{\"name\":\"n\",\"by\":1}",
    ];
    user.fails(&as_reader, 3, "script:write");
    let text = user.file("text.wasm", b"(module)");
    user.fails(
        &["run", &text, "--app", "demo", "run"],
        3,
        "not a wasm module",
    );
    let trap = user.file("trap.wasm", &module("", "unreachable"));
    user.fails(&["run", &trap, "--app", "demo", "run"], 3, "trapped");
    let json = user.run(&["run", &trap, "--app", "demo", "run", "--json"]);
    let error: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!(error["error"]["blame"], "plugin");
}

/// Neither an error message from the plugin nor its log lines can control the terminal.
#[test]
fn plugin_output_is_escaped() {
    let user = User::with_app();
    let body = "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 4)))
        (drop (call $output_write (i32.const 0) (i32.const 4))) (i32.const 1)";
    let evil = user.file("evil.wasm", &module("\\1b[2J", body));
    let answer = user.run(&["run", &evil, "--app", "demo", "run"]);
    assert_eq!(answer.code, 3);
    assert!(!answer.stderr.contains('\u{1b}'), "{:?}", answer.stderr);
    assert!(
        answer.stderr.contains("info  \\u{1b}[2J"),
        "{:?}",
        answer.stderr
    );
}

/// A caller who may read the log sees the trap, and the suggested command shows the log of the call.
#[test]
fn failed_call_suggests_the_command_that_shows_its_log() {
    let user = User::with_app();
    let traps = user.file("traps.wasm", &module("", "unreachable"));
    let home = Home::new();
    let server = home.start(&[]);
    let url = server.url();
    let to = ["--server", &url, "--token", &server.token];
    let user_run = |arguments: &[&str]| user.run(&[arguments, &to].concat());
    assert_eq!(user_run(&["app", "create", "shop"]).code, 0);
    assert_eq!(user_run(&["plugin", "deploy", "shop", &traps]).code, 0);
    let failed = user_run(&["call", "shop", "run"]);
    assert_eq!(failed.code, 3);
    assert!(failed.stderr.contains("unreachable"), "{}", failed.stderr);
    let advice = failed
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("log: kvasm "));
    let advice: Vec<_> = advice.unwrap().split(' ').collect();
    let log = user.ok(&[&advice[..], &to[2..]].concat());
    assert!(log.contains("unreachable"), "{log}");
    // Without the scope there is only the id.
    let token = user_run(&[
        "token",
        "create",
        "--app",
        "shop",
        "--scope",
        "script:read",
        "ci",
    ]);
    let token = token
        .stdout
        .split_whitespace()
        .find(|word| word.starts_with("kvasm_"));
    let failed = user.run(&[
        "call",
        "shop",
        "run",
        "--server",
        &url,
        "--token",
        token.unwrap(),
    ]);
    assert_eq!(failed.code, 3);
    assert!(!failed.stderr.contains("unreachable"), "{}", failed.stderr);
    assert!(
        failed.stderr.contains("log: kvasm --server"),
        "{}",
        failed.stderr
    );
    server.stop();
}
